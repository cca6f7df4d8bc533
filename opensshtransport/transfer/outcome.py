"""How a transfer ended: what was moved, or the error that lists the files that were not."""

from __future__ import annotations

from collections.abc import Sequence

from opensshtransport.transfer.meter import Meter, Transferred


class TransferFailed(OSError):
    """Several files could not be moved; all others are in their places.

    Attributes:
        failures: what happened, one error for each.
        result: what was moved, as put and get return it.
    """

    failures: tuple[OSError, ...] = ()
    result: Transferred | None = None


def outcome(failures: Sequence[OSError], meter: Meter) -> Transferred:
    """What put and get return, or raise.

    Raises:
        OSError: the only failure.
        TransferFailed: several.
    """
    result = meter.end()
    if not failures:
        return result
    if len(failures) == 1:
        raise failures[0]
    first = failures[0]
    error = TransferFailed(
        first.errno, f"{len(failures)} files were not moved, the first: {first.strerror}", first.filename
    )
    error.failures, error.result = tuple(failures), result
    raise error
