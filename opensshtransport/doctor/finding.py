"""A finding of `ossh doctor`: what was seen, whether that is fine, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opensshtransport.errors import Remedy

State = Literal["fine", "warning", "broken", "skipped"]

# Something optional that is missing.
NOT_USED = "not used"

_NOTHING = Remedy("")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one link.

    Attributes:
        state: "skipped" if something that it needs is missing.
        seen: what was seen, one line; never a secret.
        remedy: how to fix it, if anything.
        link: its name.
    """

    state: State
    seen: str
    remedy: Remedy = _NOTHING
    link: str = ""

    @property
    def advice(self) -> str:
        """The remedy as a clause, which names no host."""
        return self.remedy.clause(None)


def fine(seen: str) -> Finding:
    """All is well here."""
    return Finding("fine", seen)


def warning(seen: str, advice: Remedy | str) -> Finding:
    """It works, but not for everything, or not for long."""
    return Finding("warning", seen, Remedy.of(advice))


def broken(seen: str, advice: Remedy | str) -> Finding:
    """Nothing will work before this does."""
    return Finding("broken", seen, Remedy.of(advice))


def skipped(seen: str, advice: Remedy | str = "") -> Finding:
    """It cannot be checked now."""
    return Finding("skipped", seen, Remedy.of(advice))
