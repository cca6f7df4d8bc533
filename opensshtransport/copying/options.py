"""The options of `ossh sync`, and who is told what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opensshtransport.errors import printable

# How many names a line shows about what was left out.
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """How `ossh sync` makes a directory like another."""

    delete: bool = False
    dry_run: bool = False
    checksum: bool = False
    quiet: bool = False
    rsync: bool = True
    exclude: tuple[str, ...] = ()
    progress: bool = False


def _ignore(_: bytes) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what a sync does.

    Attributes:
        line: takes a line of what changes; rsync's names have no encoding.
        note: takes words for people, such as what was left out.
        progress: takes rsync's own line about its progress.
    """

    line: Callable[[bytes], object]
    note: Callable[[str], object]
    progress: Callable[[bytes], object] = _ignore


def shown(name: str) -> str:
    """A name in one line; it may contain a newline."""
    return printable(name).replace("\n", "\\n")


def left_out(names: Sequence[str]) -> str:
    """The line about what was left out because it is neither a file nor a directory nor a link."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"left out, as fifos, sockets and devices are: {', '.join(map(shown, names[:_SHOWN]))}{more}"
