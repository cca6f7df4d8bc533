"""`RemoteShell`: requests and replies over one channel that stays open.

The far side serves requests in their order, so they can be sent one behind the other without waiting: each
costs one round trip, many at once cost one together. A request is sh; what it prints, its errors and its
status come back apart from each other, parted by the channel's mark, which only the two ends know.

The trap: a shell that was interrupted may still be at work on what nobody waits for. It gets no further
requests; it is ended, or where others wait behind, it is given up as soon as they have their replies.
"""

from __future__ import annotations

import importlib.resources
import io
import math
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from opensshtransport.channel import Channel, Event, reads_stdin
from opensshtransport.ending import end_group
from opensshtransport.errors import (
    CommandTimeout,
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    SessionRefused,
    log_error,
)
from opensshtransport.master import Facts, Master

__all__ = [
    "FOREVER",
    "Abandon",
    "Deadline",
    "Ended",
    "Pending",
    "RemoteShell",
    "Reply",
    "Request",
    "far_half",
    "serving",
    "watch",
]

_PIECE = 1 << 18
# Up to this a request is read by the shell itself, byte by byte; above, by a program.
_SHORT_REQUEST = 4096
# Seconds after which the reader looks whether ssh still lives, and whether somebody waits for the session.
_LOOK = 0.1
# Seconds after which an idle shell is given back.
_IDLE = 60.0
# Seconds that a start-up file may take before it is taken for one that waits for input.
_READY_WITHIN = 60.0
# Bytes of one reply, which is kept in memory.
_LONGEST_REPLY = 1 << 30
# A request that takes longer than these seconds gets a shell of its own for what comes after it.
_SLOW = 0.3
# Seconds in which the reader ends a shell that is closed.
_CLOSED_WITHIN = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a shell is asked.

    Attributes:
        script: sh, run in a subshell; the functions of `files.sh` are there.
        payload: what it reads on stdin.
        reads: whether it changes nothing, so that it may be asked again after a lost connection.
        slow: whether it may take long, so that others should not wait behind it.
    """

    script: str
    payload: bytes = b""
    reads: bool = True
    slow: bool = False

    @property
    def head(self) -> bytes:
        """What is sent before the payload."""
        script = self.script.encode("utf-8", "surrogateescape")
        if len(script) > _SHORT_REQUEST:
            return b"BYTES %d %d\n%b" % (len(script), len(self.payload), script)
        return b"LINES %d %d\n%b\n" % (script.count(b"\n") + 1, len(self.payload), script)


@dataclass(frozen=True, slots=True)
class Deadline:
    """By when an operation must be done, all of it; and how it was said, for the error.

    Attributes:
        timeout: seconds from the beginning; None for ever.
        at: the moment, of time.monotonic.
    """

    timeout: float | None
    at: float

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """So many seconds from now."""
        return cls(timeout, time.monotonic() + (timeout or 0.0))

    @property
    def left(self) -> float | None:
        """Seconds until then; None for ever."""
        return None if self.timeout is None else max(0.0, self.at - time.monotonic())

    def error(self, what: str, host: str) -> CommandTimeout:
        """What is raised when it has passed."""
        within = "" if self.timeout is None else f" within {round(self.timeout, 1):g} s"
        return CommandTimeout(f"{what}{within}", host=host)


FOREVER = Deadline(None, 0.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request: its output, what it said on stderr, its status."""

    out: bytes
    errors: str
    status: int


@dataclass(eq=False, slots=True)
class Pending:
    """A request on its way. `done` is set last."""

    request: Request
    begun: float = 0.0
    alone: bool = False
    abandoned: bool = False
    out: io.BytesIO = field(default_factory=io.BytesIO)
    errors: list[bytes] | None = None
    size: int = 0
    reply: Reply | None = None
    failure: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Ended(MasterGone):
    """This shell takes no request any more, or gives back one that only reads; another shell takes it."""


class _GivenUp(Exception):
    """Nobody waits for the reply any more; seen by nobody either."""


class Abandon:
    """Lets another thread give up what is asked within this context, by calling it. It never blocks."""

    def __init__(self) -> None:
        self._given_up = False
        self._pending: Pending | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> Abandon:
        _calls.abandon = self
        return self

    def __exit__(self, *_: object) -> None:
        del _calls.abandon

    def __call__(self) -> None:
        """Give it up."""
        with self._guard:
            self._given_up = True
            if self._pending is not None and self._pending.reply is None:
                self._pending.failure = _GivenUp()
                self._pending.done.set()

    def watch(self, pending: Pending | None) -> None:
        """Note what is waited for now, before it is waited for.

        Raises:
            _GivenUp: it is too late.
        """
        with self._guard:
            self._pending = pending
        self.check()

    def check(self) -> None:
        """Go on only if it has not been given up.

        Raises:
            _GivenUp: it has.
        """
        if self._given_up:
            raise _GivenUp


# What the present thread asks, if it is within an `Abandon`.
_calls = threading.local()


def watch(pending: Pending | None) -> None:
    """Note what the present thread waits for, where it is within an `Abandon`; ends its wait if given up."""
    abandon: Abandon | None = getattr(_calls, "abandon", None)
    if abandon is not None:
        abandon.watch(pending)


def abandoned() -> Callable[[], None]:
    """What threads call that work for the present one: it raises where their work was given up."""
    abandon: Abandon | None = getattr(_calls, "abandon", None)
    return abandon.check if abandon is not None else lambda: None


@cache
def far_half() -> str:
    """The far side's half, without its comments."""
    home = importlib.resources.files("opensshtransport")
    text = "".join(home.joinpath(name).read_text() for name in ("shell.sh", "files.sh", "transfer.sh"))
    return re.sub(r"^\s*#.*\n|^\s+", "", text, flags=re.MULTILINE)


def serving() -> str:
    """The request for a shell that stays open."""
    return f"{far_half()}\nserve <&4 4<&-"


class RemoteShell:
    """One channel, and the requests that are on their way through it. Any thread may ask."""

    def __init__(self, master: Master, facts: Facts, channel: Channel, *, idle: float = _IDLE) -> None:
        """Start it in a channel that has this request with it, or none; `close` closes that."""
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
        # only the reader closes what it reads from: another thread's file may have the number by then
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
        """Whether what is on its way takes long, so that it is better not to wait behind it."""
        with self._guard:
            first = self._queue[0] if self._queue else None
            late = first is not None and bool(first.begun) and time.monotonic() - first.begun > _SLOW
            return late or any(pending.request.slow for pending in self._queue)

    def ask(self, request: Request, deadline: Deadline = FOREVER) -> Pending:
        """Send a request; its reply comes by `reply`.

        Args:
            request: what to ask.
            deadline: by when the shell must be there and the request sent.

        Raises:
            CommandTimeout: it is not sent in time; where half of it was, the shell is ended.
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
                # the reader tells what became of it
                pass
            except BaseException:
                # what follows half a request would be taken for the rest of it
                self.close(at_once=True)
                raise
        finally:
            self._sending.release()
        return pending

    def _push(self, raw: bytes, deadline: Deadline) -> None:
        """Send, without being stuck where the far side takes nothing."""
        pipe = self._channel.ssh.stdin
        view = memoryview(raw)
        poll = select.poll()
        try:
            if pipe is not None:
                poll.register(pipe.fileno(), select.POLLOUT)
        except ValueError:
            raise BrokenPipeError from None
        while view:
            # so much can be written then without blocking (pipe(7))
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
            pending: what `ask` gave.
            deadline: by when it must be there.

        Raises:
            CommandTimeout: it did not come in time; the request is ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        try:
            watch(pending)
            if not pending.done.wait(deadline.left):
                raise deadline.error("no reply", self._channel.host)
            if isinstance(pending.failure, _GivenUp):
                raise pending.failure
        except BaseException:
            self._abandon(pending)
            raise
        if pending.reply is None:
            raise pending.failure or Ended("the remote shell has ended", host=self._channel.host)
        return pending.reply

    def _abandon(self, pending: Pending) -> None:
        """Nobody waits for a reply any more."""
        with self._guard:
            pending.abandoned = True
            if pending not in self._queue:
                return
            self._retired = True
            for other in self._queue:
                # who only reads need not wait behind it
                if other.request.reads and not other.abandoned:
                    other.abandoned = True
                    other.failure = Ended("asked elsewhere", host=self._channel.host)
                    other.done.set()
            alone = all(other.abandoned for other in self._queue)
        if alone:
            self.close(at_once=True)
            # what it is at goes on over there until it is ended
            threading.Thread(
                target=end_group, args=(self._master, self._facts, self._channel.tag), daemon=True
            ).start()

    def retire(self) -> None:
        """End it when the requests that are on their way have their replies."""
        with self._guard:
            self._retired = True
            idle = not self._queue
        if idle:
            self.close()

    def close(self, *, at_once: bool = False) -> None:
        """End it; requests that are on their way get no reply."""
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
        poll = select.poll()
        try:
            number = ssh.stdout.fileno()
            for descriptor in (woken, number, ssh.stderr.fileno()):
                poll.register(descriptor, select.POLLIN)
            while not self._closed:
                ready = poll.poll(_LOOK * 1000)
                # it may print all the time
                if not self._opened.is_set() and time.monotonic() - began > _READY_WITHIN:
                    raise reads_stdin(self._channel.host, "or does not end")
                if not ready:
                    if ssh.poll() is not None:
                        break
                    if self._give_back():
                        break
                    continue
                for descriptor, _ in ready:
                    if descriptor == woken:
                        # the loop ends by it
                        continue
                    piece = os.read(descriptor, _PIECE)
                    if not piece and descriptor == number:
                        return
                    if not piece:
                        poll.unregister(descriptor)
                    if descriptor == number:
                        self._take(piece)
        except (OSError, ValueError) as reason:
            # a broken pipe is what `_end` tells
            failure = reason if isinstance(reason, ConnectionFailed) else None
        finally:
            self._end(failure)

    def _give_back(self) -> bool:
        """Whether the session is not needed here, and now closed to requests."""
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
                # it gives what it has without making another copy of it
                pending.out.write(part)
            else:
                pending.errors.append(part)
            pending.size += len(part)
            if pending.size > _LONGEST_REPLY:
                pending.failure = ConnectionFailed(
                    f"the reply is longer than {_LONGEST_REPLY} bytes",
                    host=self._channel.host,
                    advice="get a large file by `get`",
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
        """Tell all who wait."""
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
                # one that was asked elsewhere has its outcome
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
