"""Large files: several sessions side by side, each moving a part of the file.

One channel of ssh carries at most its window, 2 MiB, in one round trip, so over a long way one stream is slow
however wide the way is. Parts begin at multiples of a MiB; what of a draft is there already is known by the
checksums of its blocks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opensshtransport.errors import ConnectionFailed, MasterGone, SessionRefused, errno_of
from opensshtransport.session import Session, open_session
from opensshtransport.shell import Reply, Shells

__all__ = ["BLOCK", "Part", "block_sums", "missing_parts", "move", "reply_errno", "streams_for"]

MIB = 1 << 20
# What is compared where a draft is there, in bytes; `sums` of `transfer.sh` has the same.
BLOCK = 8 * MIB
_PIECE = 1 << 18
# Bytes of a channel's window (OpenSSH's channels.h, CHAN_SES_WINDOW_DEFAULT).
_WINDOW = 2 * MIB
# Bytes a second that ssh encrypts on one core: more streams than fill it do no good.
_ENCRYPTS = 600e6
_MOST = 8
_LEAST_PART = 4 * MIB


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file: from an offset, so many."""

    offset: int
    size: int


def streams_for(round_trip: float, size: int) -> int:
    """How many streams are worth their opening.

    Args:
        round_trip: seconds.
        size: bytes to be moved.
    """
    worth = -(-round_trip * _ENCRYPTS // _WINDOW)
    return max(1, min(_MOST, int(worth), -(-size // _LEAST_PART)))


def missing_parts(size: int, there: Sequence[str], ours: Sequence[str], streams: int) -> list[Part]:
    """What is still to be moved, in about as many parts as there are streams.

    Args:
        size: of the file.
        there: checksums of the draft's blocks.
        ours: checksums of the source's blocks, as far as there are any of the draft.
        streams: how many go side by side.
    """
    missing: list[list[int]] = []
    for block in range(-(-size // BLOCK)):
        if block < len(there) and block < len(ours) and there[block] == ours[block]:
            continue
        begin, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        if missing and missing[-1][1] == begin:
            missing[-1][1] = end
        else:
            missing.append([begin, end])
    total = sum(end - begin for begin, end in missing)
    share = max(_LEAST_PART, -(-total // max(1, streams)))
    share = -(-share // MIB) * MIB
    return [
        Part(begin, min(share, end - begin)) for first, end in missing for begin in range(first, end, share)
    ]


def block_sums(descriptor: int, count: int) -> list[str]:
    """The checksums of the first blocks of a local file."""
    sums = []
    for block in range(count):
        digest = hashlib.sha256()
        offset, end = block * BLOCK, (block + 1) * BLOCK
        while offset < end and (piece := os.pread(descriptor, min(_PIECE, end - offset), offset)):
            digest.update(piece)
            offset += len(piece)
        sums.append(digest.hexdigest())
    return sums


def reply_errno(reply: Reply) -> int:
    """The errno of a failed script of several lines."""
    lines = reversed(reply.errors.splitlines())
    return next(filter(None, map(errno_of, lines)), errno.EIO)


class _Crew:
    """The threads that move parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.left = list(reversed(parts))
        self.failures: list[BaseException] = []
        self.stop = threading.Event()
        self.guard = threading.Lock()
        self.working = 0

    def take(self) -> Part | None:
        with self.guard:
            return self.left.pop() if self.left and not self.stop.is_set() else None

    def give_back(self, part: Part) -> bool:
        """Whether somebody else is there to move it."""
        with self.guard:
            self.left.append(part)
            return self.working > 1

    def fail(self, reason: BaseException) -> None:
        with self.guard:
            self.failures.append(reason)
        self.stop.set()


def move(
    shells: Shells,
    parts: Sequence[Part],
    streams: int,
    script: Callable[[Part], str],
    carry: Callable[[Session, Part, threading.Event], None],
    failed: Callable[[Reply], OSError],
) -> None:
    """Move parts by several sessions, as many as are free.

    Args:
        shells: whose destination.
        parts: what is to be moved.
        streams: how many sessions at most.
        script: what the far side does for a part.
        carry: what we do for it; ends early where the event is set.
        failed: makes the error of what the far side said.

    Raises:
        OSError: the far side's, or ours.
        ConnectionFailed: one of its kinds.
    """
    crew = _Crew(parts)

    def work(first: bool) -> None:
        with crew.guard:
            crew.working += 1
        try:
            while (part := crew.take()) is not None:
                try:
                    session = open_session(shells, script(part), wait=first)
                except SessionRefused:
                    # the budget has learned from it
                    session = None
                if session is None:
                    if crew.give_back(part) and not first:
                        return
                    first = True
                    continue
                _carry(session, part, crew, carry, failed)
        except BaseException as reason:  # told to the caller below
            crew.fail(reason)
        finally:
            with crew.guard:
                crew.working -= 1

    threads = [
        threading.Thread(target=work, args=(number == 0,), daemon=True)
        for number in range(min(streams, len(parts)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        crew.stop.set()
        raise
    if crew.failures:
        # what the far side says of a file tells more than that a connection was lost
        told = [reason for reason in crew.failures if not isinstance(reason, ConnectionFailed)]
        raise (told or crew.failures)[0]
    if crew.left:
        raise MasterGone("the transfer was stopped", host=shells.host)


def _carry(
    session: Session,
    part: Part,
    crew: _Crew,
    carry: Callable[[Session, Part, threading.Event], None],
    failed: Callable[[Reply], OSError],
) -> None:
    try:
        with contextlib.suppress(BrokenPipeError):
            carry(session, part, crew.stop)
        if crew.stop.is_set():
            return
        reply = session.finish()
        if reply.status:
            raise failed(reply)
    finally:
        session.close()
