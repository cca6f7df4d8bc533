"""Trees of files: tar streams, several in parallel over a long distance, that become the tree at the end.

Both directions unpack into a draft directory next to the destination or inside it, so that a file appears
under its name by one rename(2), and a resumed transfer finds what it need not move again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from opensshtransport.sessions.connection import Connection
from opensshtransport.sessions.requests import Reply
from opensshtransport.sessions.stream import Session
from opensshtransport.transfer import archive, packing, unpacking
from opensshtransport.transfer.crew import move
from opensshtransport.transfer.items import Item
from opensshtransport.transfer.job import Job

_PIECE = 1 << 18


def dealt(items: Sequence[Item], streams: int) -> list[list[Item]]:
    """Items in about equal shares; all directories and hard links are in the first one."""
    if streams <= 1:
        return [list(items)]
    shares: list[list[Item]] = [[] for _ in range(streams)]
    sizes = [0] * streams
    for item in items:
        together = item.kind == "directory" or item.twin is not None
        number = 0 if together else sizes.index(min(sizes))
        shares[number].append(item)
        # a small file costs its header, and the host's work for it
        sizes[number] += item.size + 4096
    return [share for share in shares if share]


Failed = Callable[[str, OSError], object]

# The part of a draft that becomes the tree; next to it is what `commit` of `transfer.sh` must know.
_TOP = "t/"


def opened(items: Iterable[Item]) -> list[Item]:
    """With writable directories, because one that is read-only must get its content first."""
    return [
        dataclasses.replace(item, mode=item.mode | 0o700) if item.kind == "directory" else item
        for item in items
    ]


def modes_of(items: Sequence[Item], *, preserve: bool) -> bytes:
    """What `commit` of `transfer.sh` does to directories: mode, time and name of each, the deepest first."""
    words = [
        (
            f"{item.mode if preserve else item.mode & 0o777:o}",
            archive.seconds(item.mtime_ns) if preserve else "",
            f"./{item.name}",
        )
        for item in reversed(items)
        if item.kind == "directory"
    ]
    return b"".join(os.fsencode(word) + b"\0" for three in words for word in three)


def pack_small(
    items: Iterable[Item],
    *,
    job: Job,
    failed: Callable[[Item, OSError], object],
    spoilt: Sequence[str],
    modes: bytes,
) -> bytes:
    """A whole tar stream, for a tree that is small, or for the end of one.

    Args:
        items: what is in it.
        job: of the transfer.
        failed: called for what cannot be packed.
        spoilt: grows by names that must not appear, while it is packed.
        modes: see `modes_of`.
    """
    buffer = io.BytesIO()

    def counted(item: Item, size: int) -> None:
        job.meter.moved(size, item.name)

    def words() -> dict[str, bytes]:
        return {"spoilt": b"".join(os.fsencode(f"./{name}") + b"\0" for name in spoilt), "modes": modes}

    packing.pack(
        items,
        buffer,
        prefix=_TOP,
        further=words,
        preserve=job.how.preserve,
        failed=failed,
        progress=counted,
    )
    return buffer.getvalue()


def send_tree(
    connection: Connection,
    items: Sequence[Item],
    streams: int,
    script: str,
    *,
    job: Job,
    failed: Callable[[Item, OSError], object],
    written: Callable[[Item, int], object],
    refused: Callable[[Reply], OSError],
) -> None:
    """Stream items to a script that unpacks them.

    Raises:
        OSError: what the script said.
        ConnectionFailed: one of its kinds.
    """
    shares = dealt(opened(items), streams)

    def carry(session: Session, share: list[Item], stop: threading.Event) -> None:
        def counted(item: Item, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            job.meter.moved(size, item.name)

        packing.pack(
            share,
            session,
            prefix=_TOP,
            preserve=job.how.preserve,
            failed=failed,
            written=written,
            progress=counted,
        )

    move(connection, shares, streams=len(shares), script=script, carry=carry, failed=refused)


def receive_tree(
    connection: Connection,
    shares: Sequence[Sequence[Item]],
    draft: Path,
    script: str,
    *,
    job: Job,
    listed: bool,
    failed: Callable[[str, OSError], object],
    refused: Callable[[Reply], OSError],
) -> bool:
    """Unpack what a script packs; returns whether the script reported nothing.

    Args:
        connection: to the destination.
        shares: what is wanted, for each stream.
        draft: where to.
        script: packs what is named on its stdin, or all if `listed` is False.
        job: of the transfer.
        listed: whether the remote side's tar takes a list of names.
        failed: called for each member that could not be unpacked.
        refused: makes an error from what the script said.
    """
    later: list[Callable[[], None]] = []
    said: list[Reply] = []
    mine = threading.local()

    def carry(session: Session, share: Sequence[Item], stop: threading.Event) -> None:
        mine.whole = False
        wanted = {item.name: item for item in share}

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError):
                if listed:
                    for item in share:
                        session.write(os.fsencode(f"./{item.name}") + b"\0")
                session.end_input()

        # while we read: the host packs while it reads names, so neither waits for the other
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()

        def counted(name: str, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            job.meter.moved(size, name)

        try:
            later.extend(
                unpacking.unpack(
                    session,
                    draft,
                    preserve=job.how.preserve,
                    listed=wanted,
                    failed=failed,
                    progress=counted,
                )
            )
            mine.whole = True
        except BaseException:
            session.halt()
            raise
        finally:
            asking.join()

    def told(reply: Reply) -> OSError | None:
        said.append(reply)
        # tar says what it could not read, or what has changed, and packs the rest; the caller checks for that
        return None if mine.whole or not reply.errors else refused(reply)

    move(connection, shares, streams=len(shares), script=script, carry=carry, failed=told)
    for settle in reversed(later):
        settle()
    return not said


def no_link(final: Path) -> None:
    """Make sure that a directory, whose path had no links when it was looked at, has not become one.

    Raises:
        NotADirectoryError: somebody has put one there.
    """
    if final.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final))
