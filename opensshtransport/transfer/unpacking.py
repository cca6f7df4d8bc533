"""Unpack a tar stream without ever leaving its directory.

The traps: a member's name may be absolute or climb by `..`; a link may be planted first and written through
later; devices and fifos do not belong in a transfer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from opensshtransport.errors import ConnectionFailed
from opensshtransport.transfer.archive import (
    PIECE,
    BrokenStream,
    Reader,
    as_file,
    chmod_directory,
    forget,
    is_zeros,
    nothing,
    seconds,
    umask,
)
from opensshtransport.transfer.items import Item

_NO_HOLE = 1 << 16

# The most bytes of one header, with all its extensions.
_LONGEST_HEADER = 1 << 21


@dataclass(slots=True)
class _Place:
    """Where an archive is unpacked, which of its directories are ours, and the links still to be made."""

    top: Path
    made: set[str]
    links: dict[str, str]

    def path(self, name: str) -> Path:
        """The path of a member, which leads only through directories that were unpacked here.

        Raises:
            OSError: the name leads elsewhere.
        """
        pieces = [piece for piece in name.split("/") if piece not in {"", "."}]
        if name.startswith("/") or ".." in pieces:
            raise OSError(errno.EPERM, "the archive leads out of its directory", name)
        parent = "/".join(pieces[:-1])
        if parent and parent not in self.made:
            self._make(pieces[:-1], name)
        return self.top.joinpath(*pieces)

    def _make(self, pieces: Sequence[str], name: str) -> None:
        for depth in range(1, len(pieces) + 1):
            below = "/".join(pieces[:depth])
            if below in self.made:
                continue
            path = self.top / below
            if path.is_symlink():
                raise OSError(errno.EPERM, "the archive writes through a link", name)
            path.mkdir(exist_ok=True)
            self.made.add(below)


def unpack(
    reader: Reader,
    top: Path,
    *,
    preserve: bool = False,
    listed: dict[str, Item] | None = None,
    failed: Callable[[str, OSError], object],
    progress: Callable[[str, int], object] = nothing,
) -> list[Callable[[], None]]:
    """Read a tar stream into an existing directory that only we can write to.

    Args:
        reader: where the stream comes from.
        top: the directory.
        preserve: keep modes and times; otherwise modes are subject to the umask.
        listed: what was listed, by its path below the top: nothing else is unpacked, nothing twice, and of a
            file that is larger by now only its beginning. Times are taken from the listing. It is emptied.
            None if there is no listing.
        failed: called for what was refused or cannot be written.
        progress: called with the number of bytes of a member that have arrived.

    Returns:
        What is left to do when all streams of a tree have been read: links, and modes and times of
        directories, the deepest last. It must be done from the end: so nothing is ever unpacked through a
        link, and a directory without write permission gets its content first.

    Raises:
        BrokenStream: it is not an archive, or was cut short.
        OSError: no space is left.
        ConnectionFailed: one of its kinds, from the reader.
    """
    place = _Place(top, {""}, {})
    mask = umask()
    # by name, as an endless archive may repeat them forever
    later: dict[str, Callable[[], None]] = {}
    told: set[str] = set()
    frugal = _Frugal(reader)
    try:
        with tarfile.open(
            fileobj=as_file(frugal), mode="r|", bufsize=PIECE, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for member in archive:
                forget(archive)
                if member.size < 0:
                    raise tarfile.ReadError("a negative size")
                # as far as the next header, whatever the member says about itself
                frugal.allow(archive.offset - archive.fileobj.tell())
                name = member.name.removeprefix("./").rstrip("/")
                item = None if listed is None else listed.pop(name, None)
                if name in {"", "."} or (item is None and listed is not None):
                    continue
                try:
                    if item is not None:
                        if member.isfile() and item.kind == "file":
                            # it may have grown since it was listed
                            member.size = min(member.size, item.size)
                        if not _fits(member, item, place):
                            # nor what an earlier try has left of it; that it is missing shows at the end
                            place.path(name).unlink(missing_ok=True)
                            continue
                        # exact, as a stream may have only whole seconds
                        member.pax_headers = {**member.pax_headers, "mtime": seconds(item.mtime_ns)}
                    path = _unpack_member(
                        archive, member, place, name=name, preserve=preserve, progress=progress
                    )
                    if member.issym() or name in place.links:
                        later[name] = partial(
                            _link,
                            path,
                            place.links[name],
                            member,
                            preserve=preserve,
                            name=name,
                            failed=failed,
                        )
                    elif member.isdir():
                        later[name] = partial(
                            _settle, path, member, preserve=preserve, mask=mask, name=name, failed=failed
                        )
                    elif not member.islnk():
                        _settle(path, member, preserve=preserve, mask=mask, name=name, failed=None)
                except (BrokenPipeError, BrokenStream, ConnectionFailed):
                    raise
                except OSError as reason:
                    if reason.errno in _NO_MORE:
                        raise
                    if name not in told:
                        told.add(name)
                        failed(name, reason)
    # of numbers, names and headers within headers that make no sense tarfile raises these
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as reason:
        raise BrokenStream(errno.EIO, f"the archive is broken: {reason}", str(top)) from reason
    return list(later.values())


def _fits(member: tarfile.TarInfo, item: Item, place: _Place) -> bool:
    """Whether it is no more than was listed: a header may claim holes of any size, and a link any file."""
    if member.issym() or member.isdir():
        return item.kind == ("symlink" if member.issym() else "directory")
    size = member.size
    if member.islnk():
        twin = place.path(member.linkname.removeprefix("./"))
        # hard links to links are links, which are made last
        size = twin.lstat().st_size if os.path.lexists(twin) else 0
    return (item.kind != "directory" and size <= item.size) or (item.kind == "symlink" and member.islnk())


class _Frugal:
    """Returns no more than was allowed: tarfile keeps headers in memory, and they may be of any length."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._left = reader, _LONGEST_HEADER

    def allow(self, size: int) -> None:
        """Allow this many bytes of a member, and then another header."""
        self._left = size + _LONGEST_HEADER

    def read(self, size: int = PIECE, /) -> bytes:
        if self._left <= 0:
            raise BrokenStream(errno.EIO, "the archive has a header without end")
        piece = self._reader.read(size)
        self._left -= len(piece)
        return piece


# What the next file would meet too.
_NO_MORE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def _link(
    path: Path,
    target: str,
    member: tarfile.TarInfo,
    *,
    preserve: bool,
    name: str,
    failed: Callable[[str, OSError], object],
) -> None:
    try:
        path.symlink_to(target)
        if preserve:
            os.utime(path, ns=(_time(member), _time(member)), follow_symlinks=False)
    except OSError as reason:
        failed(name, reason)
    except (ValueError, OverflowError) as reason:
        failed(name, OSError(errno.EINVAL, str(reason), name))


def _settle(
    path: Path,
    member: tarfile.TarInfo,
    *,
    preserve: bool,
    mask: int,
    name: str,
    failed: Callable[[str, OSError], object] | None,
) -> None:
    try:
        mode = member.mode & 0o777
        if member.isdir():
            chmod_directory(path, member.mode if preserve else mode & ~mask)
        else:
            path.chmod(mode if preserve else mode & ~mask)
        if preserve:
            os.utime(path, ns=(_time(member), _time(member)))
    except OSError as reason:
        if failed is None:
            raise
        failed(name, reason)
    except (ValueError, OverflowError) as reason:
        if failed is None:
            raise
        failed(name, OSError(errno.EINVAL, str(reason), name))


def _time(member: tarfile.TarInfo) -> int:
    if "mtime" not in member.pax_headers:
        return int(member.mtime) * 10**9
    # exact, as a float would be rounded
    whole, _, fraction = member.pax_headers["mtime"].partition(".")
    part = int(fraction.ljust(9, "0")[:9])
    return int(whole) * 10**9 + (-part if whole.startswith("-") else part)


def _unpack_member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    place: _Place,
    *,
    name: str,
    preserve: bool,
    progress: Callable[[str, int], object],
) -> Path:
    path = place.path(name)
    if member.isdir():
        if path.is_symlink():
            raise OSError(errno.EPERM, "the archive writes through a link", name)
        path.mkdir(exist_ok=True)
        chmod_directory(path, 0o700)
        place.made.add(path.relative_to(place.top).as_posix())
        return path
    place.links.pop(name, None)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if member.issym():
        place.links[name] = member.linkname
    elif member.islnk():
        twin = member.linkname.removeprefix("./")
        if twin in place.links:
            place.links[name] = place.links[twin]
        elif preserve:
            os.link(place.path(twin), path, follow_symlinks=False)
        else:
            shutil.copy(place.path(twin), path, follow_symlinks=False)
        if name not in place.links:
            progress(name, path.stat().st_size)
    elif member.isfile():
        source = archive.extractfile(member)
        if source is None:
            raise OSError(errno.EIO, "the archive has no content for a file", name)
        with path.open("xb", buffering=0) as file:
            copy_exactly(source, file, member.size, lambda size: progress(name, size))
    else:
        raise OSError(errno.EINVAL, "neither file, directory nor link", name)
    return path


def copy_exactly(source: IO[bytes], file: IO[bytes], size: int, progress: Callable[[int], object]) -> None:
    """Copy this many bytes to an empty file; runs of zeros become holes.

    Raises:
        BrokenStream: the source ended early.
    """
    left = size
    while left:
        piece = source.read(min(PIECE, left))
        if not piece:
            raise BrokenStream(errno.EIO, "the stream ended early")
        if len(piece) >= _NO_HOLE and is_zeros(piece):
            file.seek(len(piece), os.SEEK_CUR)
        else:
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
        left -= len(piece)
        progress(len(piece))
    file.truncate(size)
