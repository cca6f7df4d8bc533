"""`Progress`: what is told of a transfer while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is.

    Attributes:
        bytes: moved so far, with those that need not be moved again.
        total_bytes: of all files.
        files: of which all is moved.
        total_files: of all kinds.
        name: what is being moved.
        found: of `bytes`, those that were there already and need not be moved.
    """

    bytes: int
    total_bytes: int
    files: int
    total_files: int
    name: str
    found: int = 0
