"""`Job`: one transfer, which put and get pass on in all that they do."""

from __future__ import annotations

from dataclasses import dataclass

from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.options import How


@dataclass(frozen=True, slots=True)
class Job:
    """One transfer.

    Attributes:
        how: its options.
        meter: counts what is moved. Any thread may use it.
        failures: what could not be moved; everything else goes on.
    """

    how: How
    meter: Meter
    failures: list[OSError]
