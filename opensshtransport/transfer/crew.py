"""Large files: several sessions in parallel, each moving parts of the file.

A channel of ssh carries at most its window, 2 MiB, in one round trip, so over a long distance one stream is
slow, whatever the bandwidth. Parts begin at multiples of a MiB; checksums of blocks show what a draft already
has. Each session moves one part after another, large ones first, so that no session has to wait for the last
part, however many there are and however fast each is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from opensshtransport.errors import ConnectionFailed, SessionRefused
from opensshtransport.remote.strerror import errno_of
from opensshtransport.sessions.connection import Connection
from opensshtransport.sessions.requests import Reply
from opensshtransport.sessions.stream import Session, open_session
from opensshtransport.transfer.archive import BrokenStream
from opensshtransport.transfer.blocks import MIB, Missing, Part

_LOOK_AGAIN = 0.02

_ENDED_WITHIN = 5.0

# Seconds between two sessions that give way.
_ROOM_EVERY = 1.0

_T = TypeVar("_T")


def reply_errno(reply: Reply) -> int:
    """The errno of a failed script of several lines."""
    lines = reversed(reply.errors.splitlines())
    return next(filter(None, map(errno_of, lines)), errno.EIO)


class _Crew(Generic[_T]):
    """The threads that do the work, and their sessions."""

    def __init__(self, work: Iterable[_T], more: Callable[[], bool], threads: int) -> None:
        self._work = iter(work)
        self._given_back: list[_T] = []
        self._more = more
        self.failures: list[BaseException] = []
        self.stop = threading.Event()
        self.guard = threading.Lock()
        self.working = threads
        self.sessions: set[Session] = set()

    def take(self) -> _T | None:
        with self.guard:
            if self.stop.is_set() or not self._more():
                return None
            return self._given_back.pop() if self._given_back else next(self._work, None)

    def give_back(self, piece: _T) -> bool:
        """Whether another session can do it."""
        with self.guard:
            self._given_back.append(piece)
            return self.working > 1

    def fail(self, reason: BaseException) -> None:
        with self.guard:
            # errors after a stop are its consequence
            if not self.stop.is_set() or not self.failures:
                self.failures.append(reason)
        self.halt()

    def halt(self) -> None:
        """End all sessions, whatever they wait for."""
        self.stop.set()
        with self.guard:
            for session in self.sessions:
                session.halt()


def move(
    connection: Connection,
    work: Iterable[_T],
    *,
    streams: int,
    script: str,
    carry: Callable[[Session, _T, threading.Event], None],
    failed: Callable[[Reply], OSError | None],
    more: Callable[[], bool] = lambda: True,
    last: bool = False,
) -> None:
    """Do pieces of work over several sessions, as many as are free.

    Args:
        connection: to the destination.
        work: the pieces, taken one after another.
        streams: how many sessions at most.
        script: what the remote side does for each.
        carry: what we do for it; ends early if the event is set.
        failed: makes an error from what the remote side said; None if that is harmless.
        more: whether there is work left for another session.
        last: whether the last session may be taken too, because `carry` gives it back.

    Raises:
        OSError: the remote side's, or ours.
        ConnectionFailed: one of its kinds.
    """
    crew = _Crew(work, more, streams)

    def opened(wait: bool) -> Session | None:
        return None if crew.stop.is_set() else open_session(connection, script, wait=wait, last=last)

    def go(first: bool) -> None:
        while (piece := crew.take()) is not None:
            try:
                session = connection.attempt(lambda: opened(True)) if first else opened(False)
            except SessionRefused:
                # the budget has learned from it
                if first:
                    raise
                session = None
            if session is not None:
                _carry(session, piece, crew, carry, failed)
            elif crew.give_back(piece):
                # the existing ones go on, and one may become free
                crew.stop.wait(_LOOK_AGAIN)
            else:
                first = True

    def thread(first: bool) -> None:
        try:
            go(first)
        except BaseException as reason:  # reported to the caller below
            crew.fail(reason)
        finally:
            with crew.guard:
                crew.working -= 1

    threads = [threading.Thread(target=thread, args=(number == 0,), daemon=True) for number in range(streams)]
    for one in threads:
        one.start()
    try:
        for one in threads:
            one.join()
    except BaseException:
        crew.halt()
        for one in threads:
            one.join(_ENDED_WITHIN)
        raise
    if crew.failures:
        # what the remote side says about a file is more useful than that a connection was lost
        told = [reason for reason in crew.failures if not isinstance(reason, ConnectionFailed)]
        raise (told or crew.failures)[0]


class _Room:
    """Lets one session end at a time, so that the next one ends only if that was not enough."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last = 0.0

    def now(self) -> bool:
        """Whether this one should end."""
        with self._guard:
            now = time.monotonic()
            if now - self._last < _ROOM_EVERY:
                return False
            self._last = now
            return True


def move_file(
    connection: Connection,
    missing: Missing,
    *,
    streams: int,
    script: str,
    carry: Callable[[Session, Part, threading.Event], None],
    failed: Callable[[Reply], OSError],
    ahead: int = 0,
) -> None:
    """Move what is missing of a file.

    Args:
        connection: to the destination.
        missing: of the file.
        streams: how many sessions at most.
        script: `receive` or `send` of `transfer.sh`, which gets one part after another.
        carry: moves one part; ends early if the event is set.
        failed: makes an error from what the remote side said.
        ahead: how many parts the remote side is told of before they are moved.

    Raises:
        As `move`.
    """
    room = _Room()

    def work(session: Session, number: int, stop: threading.Event) -> None:
        told: deque[Part] = deque()
        leaves = False
        while not stop.is_set():
            # one goes on, and the others give way to anyone who waits, one after another
            leaves = leaves or (number > 0 and connection.slots.wanted() and room.now())
            while not leaves and len(told) <= ahead and (part := missing.take()) is not None:
                session.write(b"%d %d %d\n" % (part.offset // MIB, *divmod(part.size, MIB)))
                told.append(part)
            if ahead and not missing.left:
                # the remote side ends when it has sent what was requested, not a round trip later
                session.end_input()
            if not told:
                return
            carry(session, told.popleft(), stop)

    with connection.spares.room() if streams > 1 else contextlib.nullcontext():
        move(
            connection,
            # a session that has given way is opened again when there is one
            itertools.count(),
            streams=streams,
            script=script,
            carry=work,
            failed=failed,
            more=lambda: missing.left > 0,
            last=True,
        )


def _carry(
    session: Session,
    piece: _T,
    crew: _Crew[_T],
    carry: Callable[[Session, _T, threading.Event], None],
    failed: Callable[[Reply], OSError | None],
) -> None:
    with crew.guard:
        crew.sessions.add(session)
    try:
        broken: OSError | None = None
        try:
            carry(session, piece, crew.stop)
        except BrokenPipeError:
            # the remote side says why
            pass
        except BrokenStream as reason:
            broken = reason
        if crew.stop.is_set():
            return
        reply = session.finish()
        error = failed(reply) if reply.status else None
        if error is not None or broken is not None:
            raise error or broken or AssertionError
    finally:
        with crew.guard:
            crew.sessions.discard(session)
        session.close()
