"""A tree of files becomes a tar stream.

The trap: a file may change while it is read. If it was written to, what was sent must be its beginning.
"""

from __future__ import annotations

import errno
import io
import os
import stat as modes
import tarfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO

from opensshtransport.transfer.archive import CHANGED, PIECE, Writer, as_file, forget, nothing, seconds
from opensshtransport.transfer.items import Item, Since, since

# Files up to this size are read before anything of them is sent, so that they cannot spoil a stream.
_HELD = 1 << 20


class _Exactly(io.RawIOBase):
    """A file that returns as many bytes as were announced, so that a shrinking file spoils no archive."""

    def __init__(self, file: IO[bytes], size: int, progress: Callable[[int], object]) -> None:
        self._file, self._left, self._progress = file, size, progress
        self.short = False

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(wanted)
        if len(piece) < wanted:
            self.short = True
            piece += bytes(wanted - len(piece))
        self._left -= wanted
        self._progress(wanted)
        return piece


def pack(
    items: Iterable[Item],
    writer: Writer,
    *,
    prefix: str = "",
    further: Callable[[], Mapping[str, bytes]] = dict,
    preserve: bool = False,
    failed: Callable[[Item, OSError], object],
    written: Callable[[Item, int], object] | None = None,
    progress: Callable[[Item, int], object] = nothing,
) -> None:
    """Write a tar stream of local files.

    Args:
        items: what goes in.
        writer: where the stream goes.
        prefix: a directory that is put before all names.
        further: returns, when all else is packed, files that go next to it.
        preserve: keep exact times, and hard links within the tree.
        failed: called for what cannot be read, or changed meanwhile: if any of it arrives, it must not be
            used.
        written: called for a file that was written to meanwhile, with the number of bytes sent: if they are
            its beginning they can be used. None: such files count as failed.
        progress: called with the number of bytes of an item that were sent.
    """
    seen: dict[tuple[int, int], str] = {}
    with tarfile.open(
        fileobj=as_file(writer),
        mode="w|",
        bufsize=PIECE,
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        for item in items:
            forget(archive)
            name = f"{prefix}{item.name}" if item.name else prefix.rstrip("/") or "."
            member = tarfile.TarInfo(name)
            # no owner: the file will belong to the one who unpacks it
            member.mode = item.mode if item.kind == "directory" else item.mode & 0o777
            member.mtime = item.mtime_ns // 10**9
            if preserve:
                # exact, as a float would be rounded; a whole number needs no further header
                member.pax_headers = {"mtime": seconds(item.mtime_ns)}
            try:
                if item.kind == "directory":
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                elif item.kind == "symlink":
                    # a Path would shorten it
                    member.type, member.linkname = tarfile.SYMTYPE, os.readlink(item.path)
                    archive.addfile(member)
                elif item.kind == "file" and preserve and item.twin is not None and item.twin in seen:
                    member.type, member.linkname = tarfile.LNKTYPE, seen[item.twin]
                    archive.addfile(member)
                    progress(item, item.size)
                elif item.kind == "file":
                    _pack_file(archive, member, item, failed=failed, written=written, progress=progress)
                    if item.twin is not None:
                        seen[item.twin] = name
                else:
                    failed(item, OSError(errno.EINVAL, "neither file, directory nor link", item.path))
            except BrokenPipeError:
                raise
            except OSError as reason:
                failed(item, reason)
        for name, content in further().items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))


def _pack_file(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    item: Item,
    *,
    failed: Callable[[Item, OSError], object],
    written: Callable[[Item, int], object] | None,
    progress: Callable[[Item, int], object],
) -> None:
    # do not wait for a fifo that has taken the file's place
    descriptor = os.open(item.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        seen = os.fstat(descriptor)
        # it may have grown since it was listed
        size = member.size = seen.st_size
        if size < item.size or not modes.S_ISREG(seen.st_mode):
            raise OSError(errno.EBUSY, CHANGED, item.path)
        if size <= _HELD:
            archive.addfile(member, io.BytesIO(read_beginning(descriptor, seen, item.path)))
            progress(item, size)
            return
        exactly = _Exactly(file, size, lambda moved: progress(item, moved))
        archive.addfile(member, exactly)
        became = since(seen, os.fstat(descriptor))
    if became is Since.PERHAPS and not exactly.short and written is not None:
        written(item, size)
    elif became is not Since.NOTHING or exactly.short:
        failed(item, OSError(errno.EBUSY, CHANGED, item.path))


def read_beginning(descriptor: int, seen: os.stat_result, path: str) -> bytes:
    """What a local file held when it was looked at.

    Raises:
        OSError: EBUSY, as what was read is not its beginning.
    """
    content = os.pread(descriptor, seen.st_size + 1, 0)
    became = since(seen, os.fstat(descriptor))
    if became is Since.PERHAPS:
        content = content[: seen.st_size]
    if (
        became is Since.OTHER
        or len(content) != seen.st_size
        or (became is Since.PERHAPS and os.pread(descriptor, seen.st_size, 0) != content)
    ):
        raise OSError(errno.EBUSY, CHANGED, path)
    return content
