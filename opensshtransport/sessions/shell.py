"""`RemoteShell`: requests and replies over one channel that stays open.

The remote side serves requests in order, so they can be pipelined: each takes one round trip, and many at
once take one together. A request is sh; what it prints, its errors and its status come back separately,
divided by the channel's mark, which only the two ends know.

The trap: a shell that was interrupted may still be at work on what nobody waits for. It gets no further
requests: it is ended at once or, if others wait behind, as soon as they have their replies.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections import deque

from opensshtransport.errors import ConnectionFailed, ConnectionLost, MasterGone, SessionRefused
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh.diagnosis import log_error
from opensshtransport.remote.marks import Event
from opensshtransport.remote.scripts import serving
from opensshtransport.sessions.channel import Channel, reads_stdin
from opensshtransport.sessions.reader import Reader
from opensshtransport.sessions.remote_kill import end_group
from opensshtransport.sessions.requests import (
    FOREVER,
    Deadline,
    Ended,
    GivenUp,
    Pending,
    Reply,
    Request,
    watch,
)

_PIECE = 1 << 18

# Seconds after which the reader checks whether ssh is still running, and whether the session is wanted.
_LOOK = 0.1

# Seconds after which an idle shell is given back.
_IDLE = 60.0

# Seconds after which a slow start-up file is assumed to wait for input.
_READY_WITHIN = 60.0

# The most bytes of one reply, which is kept in memory.
_LONGEST_REPLY = 1 << 30

# While a request takes longer than these seconds, later ones get another shell.
_SLOW = 0.3

# Seconds within which the reader ends a closed shell.
_CLOSED_WITHIN = 5.0


class RemoteShell:
    """One channel, and the requests on their way through it. Any thread may ask."""

    def __init__(self, master: Master, facts: Facts, channel: Channel, *, idle: float = _IDLE) -> None:
        """Start it in a channel that came with this request, or with none; `close` closes the channel."""
        self._master, self._facts = master, facts
        self._idle_for = idle
        self._channel = channel
        self._slots = channel.slots
        self._queue: deque[Pending] = deque()
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._closed = False
        self._at_once = False
        self._retired = False
        self._used = time.monotonic()
        # the shortest time in seconds from a request to its reply
        self.round_trip = math.inf
        # only the reader closes what it reads from: otherwise another thread's file could get the number
        self._wake: tuple[int, int] | None = os.pipe()
        self._reader = threading.Thread(target=self._read, args=self._wake[:1], daemon=True)
        self._reader.start()

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return not self._closed and not self._retired and self._channel.ssh.poll() is None

    @property
    def waiting(self) -> int:
        """How many requests are on their way."""
        return len(self._queue)

    @property
    def slow(self) -> bool:
        """Whether the current requests take long, so that new ones had better not wait behind them."""
        with self._guard:
            first = self._queue[0] if self._queue else None
            late = first is not None and bool(first.begun) and time.monotonic() - first.begun > _SLOW
            return late or any(pending.request.slow for pending in self._queue)

    def ask(self, request: Request, deadline: Deadline = FOREVER) -> Pending:
        """Send a request; its reply comes by `reply`.

        Args:
            request: what to ask.
            deadline: by when the shell must be ready and the request sent.

        Raises:
            CommandTimeout: it was not sent in time; if half of it was, the shell is ended.
            ConnectionFailed: one of its kinds; nothing was sent.
        """
        if not self._opened.wait(deadline.left):
            raise deadline.error("no session", self._channel.host)
        pending = Pending(request)
        # the order of sending is the order of the queue
        left = deadline.left
        if not self._sending.acquire(timeout=-1 if left is None else left):
            raise deadline.error("another request was not sent", self._channel.host)
        try:
            with self._guard:
                if self._closed or self._retired:
                    raise self._failure or Ended("the remote shell has ended", host=self._channel.host)
                self._used = time.monotonic()
                pending.alone = not self._queue
                pending.begun = self._used if pending.alone else 0.0
                self._queue.append(pending)
            try:
                for raw in (request.head, request.payload):
                    self._push(raw, deadline)
            except BrokenPipeError:
                # the reader finds out what happened
                pass
            except BaseException:
                # anything sent after half a request would be taken for the rest of it
                self.close(at_once=True)
                raise
        finally:
            self._sending.release()
        return pending

    def _push(self, raw: bytes, deadline: Deadline) -> None:
        """Send, without getting stuck if the remote side reads nothing."""
        pipe = self._channel.ssh.stdin
        view = memoryview(raw)
        poll = select.poll()
        try:
            if pipe is not None:
                poll.register(pipe.fileno(), select.POLLOUT)
        except ValueError:
            raise BrokenPipeError from None
        while view:
            # this much can be written then without blocking (pipe(7))
            if self._closed or poll.poll(_LOOK * 1000):
                self._channel.send(bytes(view[: select.PIPE_BUF]))
                view = view[select.PIPE_BUF :]
            elif deadline.left == 0.0:
                raise deadline.error("the request was not sent", self._channel.host)
            else:
                watch(None)

    def reply(self, pending: Pending, deadline: Deadline = FOREVER) -> Reply:
        """Wait for a reply.

        Args:
            pending: what `ask` returned.
            deadline: by when it must have arrived.

        Raises:
            CommandTimeout: it did not come in time; the request is ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        try:
            watch(pending)
            if not pending.done.wait(deadline.left):
                raise deadline.error("no reply", self._channel.host)
            if isinstance(pending.failure, GivenUp):
                raise pending.failure
        except BaseException:
            self._abandon(pending)
            raise
        if pending.reply is None:
            raise pending.failure or Ended("the remote shell has ended", host=self._channel.host)
        return pending.reply

    def _abandon(self, pending: Pending) -> None:
        """A reply is not wanted any more."""
        with self._guard:
            pending.abandoned = True
            if pending not in self._queue:
                return
            self._retired = True
            for other in self._queue:
                # requests that only read need not wait behind it
                if other.request.reads and not other.abandoned:
                    other.abandoned = True
                    other.failure = Ended("asked elsewhere", host=self._channel.host)
                    other.done.set()
            alone = all(other.abandoned for other in self._queue)
        if alone:
            self.close(at_once=True)
            # what it is doing continues on the host until it is ended
            threading.Thread(
                target=end_group, args=(self._master, self._facts, self._channel.tag), daemon=True
            ).start()

    def retire(self) -> None:
        """End it when the current requests have their replies."""
        with self._guard:
            self._retired = True
            idle = not self._queue
        if idle:
            self.close()

    def close(self, *, at_once: bool = False) -> None:
        """End it; current requests get no reply."""
        with self._guard:
            self._closed = True
            self._at_once = self._at_once or at_once
            if self._wake is not None:
                os.write(self._wake[1], b".")
        if threading.current_thread() is not self._reader:
            self._reader.join(_CLOSED_WITHIN)

    def abandon(self) -> None:
        """In a forked child: it is the parent's."""
        self._closed = True
        wake, self._wake = self._wake, None
        for number in wake or ():
            os.close(number)

    def _read(self, woken: int) -> None:
        began = time.monotonic()
        failure: BaseException | None = None
        ssh = self._channel.ssh
        if ssh.stdout is None or ssh.stderr is None:
            raise AssertionError("a channel has pipes")
        try:
            number = ssh.stdout.fileno()
            reader = Reader(ssh.poll, woken, ssh.stdout, ssh.stderr)
            while not self._closed:
                ready = reader.ready(_LOOK)
                # start-up files may print endlessly
                if not self._opened.is_set() and time.monotonic() - began > _READY_WITHIN:
                    raise reads_stdin(self._channel.host, "or does not end")
                if ready is None or (not ready and self._give_back()):
                    break
                for descriptor in ready:
                    if descriptor == woken:
                        # this ends the loop
                        continue
                    piece = os.read(descriptor, _PIECE)
                    if not piece and descriptor == number:
                        return
                    if not piece:
                        reader.drop(descriptor)
                    if descriptor == number:
                        self._take(piece)
        except (OSError, ValueError) as reason:
            # `_end` reports the broken pipe
            failure = reason if isinstance(reason, ConnectionFailed) else None
        finally:
            self._end(failure)

    def _give_back(self) -> bool:
        """Whether the session is no longer needed here; if so, it takes no more requests."""
        with self._guard:
            idle = time.monotonic() - self._used if self._opened.is_set() and not self._queue else 0.0
            if idle > self._idle_for or (idle > 0 and self._slots.wanted()):
                self._closed = True
            return self._closed

    def _take(self, piece: bytes) -> None:
        for part in self._channel.out.feed(piece):
            if self._opened.is_set():
                self._note(part)
            elif isinstance(part, bytes):
                continue
            elif part.kind == "ready":
                self._channel.begin(serving())
            elif part.kind == "refused":
                raise reads_stdin(self._channel.host, "so nothing can be sent")
            elif part.kind == "started":
                self._used = time.monotonic()
                self._opened.set()

    def _note(self, part: bytes | Event) -> None:
        if not self._queue:
            return
        pending = self._queue[0]
        if isinstance(part, bytes):
            if pending.errors is None:
                # this returns the content without another copy
                pending.out.write(part)
            else:
                pending.errors.append(part)
            pending.size += len(part)
            if pending.size > _LONGEST_REPLY:
                pending.failure = ConnectionFailed(
                    f"the reply is longer than {_LONGEST_REPLY} bytes",
                    host=self._channel.host,
                    advice="get a large file with `get`",
                )
                raise pending.failure
        elif part.kind == "errors":
            pending.errors = []
        elif part.kind == "end":
            text = b"".join(pending.errors or []).decode("utf-8", "surrogateescape")
            pending.reply = Reply(pending.out.getvalue(), text, int(part.value))
            with self._guard:
                self._queue.popleft()
                self._used = time.monotonic()
                if pending.alone and not pending.request.payload:
                    self.round_trip = min(self.round_trip, self._used - pending.begun)
                if self._queue:
                    self._queue[0].begun = self._used
                elif self._retired:
                    self._closed = True
            pending.done.set()

    def _end(self, failure: BaseException | None) -> None:
        """Wake everybody who waits."""
        with self._guard:
            ours, self._closed = self._closed, True
            left = list(self._queue)
            self._queue.clear()
            wake, self._wake = self._wake, None
        for number in wake or ():
            os.close(number)
        if left or not self._opened.is_set():
            words = self._channel.words() if ours else self._channel.last_words()
            self._failure = failure or (None if ours else self._lost(words))
            if isinstance(self._failure, SessionRefused):
                self._channel.refused()
            for pending in left:
                # one that was moved to another shell has its outcome already
                pending.failure = pending.failure or ConnectionLost(
                    "the connection was lost; it is not known whether the operation took effect",
                    host=self._channel.host,
                    started=None,
                    stderr=words,
                )
                pending.done.set()
        self._opened.set()
        self._channel.close(at_once=self._at_once or bool(left))

    def _lost(self, words: str) -> BaseException:
        """Why no request could be sent."""
        error = log_error(words, self._channel.host)
        if isinstance(error, SessionRefused):
            return error
        return MasterGone("the connection was lost", host=self._channel.host, stderr=words)
