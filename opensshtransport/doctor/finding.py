"""A finding of `ossh doctor`: what was seen, whether that is fine, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["fine", "warning", "broken", "skipped"]

# What needs not be there, and is not.
NOT_USED = "not used"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at one link.

    Attributes:
        state: "skipped" where something that it needs is not there.
        seen: what was seen, one line; never a secret.
        advice: the one thing to do, or "".
        link: its name.
    """

    state: State
    seen: str
    advice: str = ""
    link: str = ""


def fine(seen: str) -> Finding:
    """All is well here."""
    return Finding("fine", seen)


def warning(seen: str, advice: str) -> Finding:
    """It works, but not for everything, or not for long."""
    return Finding("warning", seen, advice)


def broken(seen: str, advice: str) -> Finding:
    """Nothing will work before this does."""
    return Finding("broken", seen, advice)


def skipped(seen: str, advice: str = "") -> Finding:
    """It cannot be told now."""
    return Finding("skipped", seen, advice)
