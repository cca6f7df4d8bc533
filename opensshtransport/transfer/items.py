"""`Item`: one member of a tree; and the listings, local and remote, by which trees are moved.

The trap: a tree may have any number of members, and all are known before the first is moved; so an item holds
as little as possible. And no name in a remote listing may lead out of the tree.
"""

from __future__ import annotations

import enum
import errno
import fnmatch
import os
import stat as modes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opensshtransport.remote.entries import Stat

Exclude = Sequence[str] | Callable[[str], bool]

Kind = Literal["file", "directory", "symlink", "other"]


class Since(enum.Enum):
    """What has happened to a file since it was looked at.

    `NOTHING`: it is the same. `PERHAPS`: it has grown, as a log does, or was written to, so that only its
    content shows whether what was read is still its beginning. `OTHER`: it was truncated, or is another file.
    """

    NOTHING = enum.auto()
    PERHAPS = enum.auto()
    OTHER = enum.auto()


def since(before: Stat | os.stat_result, after: Stat | os.stat_result) -> Since:
    """What has happened to a file between two looks."""
    (file, size, *times), (file_now, size_now, *times_now) = _look(before), _look(after)
    if file != file_now or size_now < size:
        return Since.OTHER
    return Since.NOTHING if (size, times) == (size_now, times_now) else Since.PERHAPS


def _look(seen: Stat | os.stat_result) -> tuple[tuple[int, int], int, int, int]:
    # utime(2) cannot set the ctime
    if isinstance(seen, Stat):
        return (seen.dev, seen.ino), seen.size, seen.mtime_ns, seen.ctime_ns
    return (seen.st_dev, seen.st_ino), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Item:
    """One member of a tree.

    Attributes:
        name: its path below the top, as text of `os.fsdecode`; "" for the top.
        kind: `file`, `directory`, `symlink`, or `other`, which is never transferred.
        size: bytes; 0 for anything but a file.
        mode: permission bits.
        mtime_ns: nanoseconds since the epoch.
        top: where the tree is, on this side or on the other.
        skip: how many characters at the beginning of the name belong to the top.
        twin: the same value for hard links of one file, or None.
    """

    name: str
    kind: Kind
    size: int
    mode: int
    mtime_ns: int
    top: str
    skip: int = 0
    twin: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        """Where it is. Not stored: there may be any number of items."""
        below = self.name[self.skip :].lstrip("/")
        return f"{self.top.rstrip('/')}/{below}" if below else self.top


def _kind(mode: int) -> Kind:
    if modes.S_ISREG(mode):
        return "file"
    if modes.S_ISDIR(mode):
        return "directory"
    return "symlink" if modes.S_ISLNK(mode) else "other"


# There are few different modes, and each number above 256 would be an object of its own.
_modes: dict[int, int] = {}


def _item(
    name: str, top: str, skip: int, *, mode: int, size: int, mtime_ns: int, nlink: int, file: tuple[int, int]
) -> Item:
    kind = _kind(mode)
    twin = file if kind == "file" and nlink > 1 else None
    bits = modes.S_IMODE(mode)
    bits = _modes.setdefault(bits, bits)
    return Item(name, kind, size if kind == "file" else 0, bits, mtime_ns, top, skip, twin)


def excluded(name: str, patterns: Exclude) -> bool:
    """Whether a path below the top, or a directory above it, is left out.

    Args:
        name: the path below the top.
        patterns: of names (`*.o`), or of paths if they have a slash (`build/*.o`), as in fnmatch; or a
            function that takes the path.
    """
    if callable(patterns):
        return patterns(name)
    pieces = name.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(pieces[: depth + 1]), pattern.strip("/"))
        if "/" in pattern.strip("/")
        else fnmatch.fnmatchcase(piece, pattern.strip("/"))
        for pattern in patterns
        for depth, piece in enumerate(pieces)
    )


def list_tree(
    top: str,
    *,
    prefix: str = "",
    dereference: bool = False,
    exclude: Exclude = (),
    failed: Callable[[OSError], object],
) -> Iterator[Item]:
    """List a local file or tree, the top first, directories before what is in them.

    Args:
        top: where it is; a link there is followed.
        prefix: the name of the top.
        dereference: list what links lead to.
        exclude: patterns of what is left out, see `excluded`.
        failed: is told what cannot be read.
    """
    found = Path(top).stat()
    yield _item(
        prefix,
        top,
        len(prefix),
        mode=found.st_mode,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        nlink=found.st_nlink,
        file=(found.st_dev, found.st_ino),
    )
    if not modes.S_ISDIR(found.st_mode):
        return
    above: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(top, "", ((found.st_dev, found.st_ino),))]
    while above:
        directory, below, parents = above.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as reason:
            failed(reason)
            continue
        deeper = []
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if excluded(name, exclude):
                continue
            try:
                seen = entry.stat(follow_symlinks=dereference)
            except OSError as reason:
                failed(reason)
                continue
            file = (seen.st_dev, seen.st_ino)
            full = f"{prefix}/{name}" if prefix else name
            yield _item(
                full,
                top,
                len(prefix),
                mode=seen.st_mode,
                size=seen.st_size,
                mtime_ns=seen.st_mtime_ns,
                nlink=seen.st_nlink,
                file=file,
            )
            if modes.S_ISDIR(seen.st_mode):
                if file in parents:
                    failed(OSError(errno.ELOOP, os.strerror(errno.ELOOP), entry.path))
                else:
                    deeper.append((entry.path, name, (*parents, file)))
        above.extend(reversed(deeper))


def from_records(found: Iterable[tuple[str, Stat]], *, top: str, exclude: Exclude = ()) -> list[Item]:
    """The items of a remote listing, directories before what is in them.

    Args:
        found: names below the top, and their attributes.
        top: where it is.
        exclude: patterns of what is left out, see `excluded`.

    Raises:
        OSError: a name leads elsewhere.
    """
    items = []
    for name, stat in found:
        if not name or {"", ".", ".."} & set(name.split("/")):
            raise OSError(errno.EPERM, "the listing leads out of its directory", name)
        if not excluded(name, exclude):
            file = (stat.dev, stat.ino)
            items.append(
                _item(
                    name,
                    top,
                    0,
                    mode=stat.mode,
                    size=stat.size,
                    mtime_ns=stat.mtime_ns,
                    nlink=stat.nlink,
                    file=file,
                )
            )
    # as by the names on the way: no name has a zero
    items.sort(key=lambda item: item.name.replace("/", "\0"))
    return items
