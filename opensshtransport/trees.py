"""Trees of files: tar streams, several side by side over a long way; at the end they become the tree.

Both directions unpack into a draft directory beside the destination, or inside of it, so that a file appears
under its name by one rename(2), and a broken transfer finds there what it need not move again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import shutil
import stat as modes
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from opensshtransport import archive
from opensshtransport.archive import Item
from opensshtransport.meter import Meter
from opensshtransport.session import Session
from opensshtransport.shell import Reply, Shells
from opensshtransport.stripes import Part, move

__all__ = ["arrange", "dealt", "file_sum", "pack_small", "receive_tree", "send_tree"]

# Where a tree is cut into several streams, the least that one of them carries, in bytes.
LEAST_SHARE = 4 << 20
_PIECE = 1 << 18


def file_sum(path: str | Path) -> str:
    """The sha256 of a local file's content."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - paths come as text from a listing
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def dealt(items: Sequence[Item], streams: int) -> list[list[Item]]:
    """Items in about equal shares; directories, and hard links, are all in the first one's care."""
    if streams <= 1:
        return [list(items)]
    shares: list[list[Item]] = [[] for _ in range(streams)]
    sizes = [0] * streams
    for item in items:
        together = item.kind == "directory" or item.twin is not None
        number = 0 if together else sizes.index(min(sizes))
        shares[number].append(item)
        # a small file costs its header, and the far side's work for it
        sizes[number] += item.size + 4096
    return [share for share in shares if share]


def pack_small(
    items: Iterable[Item], *, preserve: bool, failed: Callable[[Item, OSError], object], meter: Meter
) -> bytes:
    """A whole tar stream, for a tree that is small."""
    buffer = io.BytesIO()
    archive.pack(items, buffer, preserve=preserve, failed=failed, progress=_counted(meter))
    return buffer.getvalue()


def _counted(meter: Meter) -> Callable[[Item, int], object]:
    return lambda item, size: meter.moved(size, item.name)


def send_tree(
    shells: Shells,
    items: Sequence[Item],
    streams: int,
    script: str,
    *,
    preserve: bool,
    failed: Callable[[Item, OSError], object],
    refused: Callable[[Reply], OSError],
    meter: Meter,
) -> None:
    """Stream items to a script that unpacks them.

    Raises:
        OSError: what the script said.
        ConnectionFailed: one of its kinds.
    """
    # a directory without write permission must get its content first, from all streams
    open_items = [
        dataclasses.replace(item, mode=item.mode | 0o700) if item.kind == "directory" else item
        for item in items
    ]
    shares = dealt(open_items, streams)

    def carry(session: Session, part: Part, stop: threading.Event) -> None:
        def counted(item: Item, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            meter.moved(size, item.name)

        archive.pack(shares[part.offset], session, preserve=preserve, failed=failed, progress=counted)

    parts = [Part(number, 0) for number in range(len(shares))]
    move(shells, parts, streams, lambda _: script, carry, refused)


def receive_tree(
    shells: Shells,
    shares: Sequence[Sequence[Item]],
    draft: Path,
    script: str,
    *,
    preserve: bool,
    listed: bool,
    failed: Callable[[str, OSError], object],
    refused: Callable[[Reply], OSError],
    meter: Meter,
) -> None:
    """Unpack what a script packs.

    Args:
        shells: whose destination.
        shares: what is wanted, for each stream.
        draft: where to.
        script: packs what is named on its stdin, or all where `listed` is False.
        preserve: keep modes and times.
        listed: whether the far side's tar takes a list of names.
        failed: is told of each member that could not be unpacked.
        refused: makes the error of what the script said.
        meter: counts.
    """

    def carry(session: Session, part: Part, stop: threading.Event) -> None:
        wanted = {item.name for item in shares[part.offset]}
        if listed:
            for item in shares[part.offset]:
                session.write(os.fsencode(f"./{item.name}") + b"\0")
        session.end_input()

        def counted(name: str, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            meter.moved(size, name)

        directories = archive.unpack(
            session,
            draft,
            preserve=preserve,
            wanted=wanted.__contains__,
            failed=failed,
            progress=counted,
        )
        later.extend(directories)

    later: list[Callable[[], None]] = []
    parts = [Part(number, 0) for number in range(len(shares))]
    move(shells, parts, len(shares), lambda _: script, carry, refused)
    for settle in reversed(later):
        settle()


def arrange(
    draft: Path,
    final: Path,
    *,
    new: bool,
    exist_ok: bool,
    preserve: bool,
    failed: Callable[[OSError], object],
) -> None:
    """What was unpacked appears under its names; each that cannot is told, and the others do.

    Args:
        draft: what was unpacked.
        final: the tree.
        new: it is not there yet.
        exist_ok: whether files that are there are replaced.
        preserve: directories that are there get the modes and times of the source.
        failed: is told of each that cannot.
    """
    if new and not os.path.lexists(final):
        draft.rename(final)
        return
    above = [(draft, final)]
    dated: list[tuple[Path, os.stat_result]] = []
    while above:
        source, target = above.pop()
        for entry in list(os.scandir(source)):
            place = target / entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    seen = entry.stat()
                    if not place.is_dir():
                        place.mkdir(mode=0o700)
                        place.chmod(modes.S_IMODE(seen.st_mode) | 0o700)
                    if preserve:
                        dated.append((place, seen))
                    Path(entry.path).chmod(0o700)
                    above.append((Path(entry.path), place))
                elif not exist_ok and os.path.lexists(place):
                    failed(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)))
                else:
                    os.replace(entry.path, place)  # noqa: PTH105 - both are there as text
            except OSError as reason:
                reason.filename, reason.filename2 = str(place), None
                failed(reason)
    for place, seen in reversed(dated):
        with contextlib.suppress(OSError):
            place.chmod(modes.S_IMODE(seen.st_mode))
            os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    shutil.rmtree(draft, ignore_errors=True)
