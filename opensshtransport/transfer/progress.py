"""`Progress`: what is reported about a running transfer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer has got.

    Attributes:
        bytes: moved so far, including those that need not be moved again.
        total_bytes: of all files.
        files: that are complete.
        total_files: of all kinds.
        name: what is being moved.
        found: those of `bytes` that were there already and need not be moved.
    """

    bytes: int
    total_bytes: int
    files: int
    total_files: int
    name: str
    found: int = 0
