"""Requests to a remote shell and their replies, deadlines, and how a caller gives up waiting."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from opensshtransport.errors import CommandTimeout, MasterGone

# A request up to this size is read by the shell itself, byte by byte; a larger one by a program.
_SHORT_REQUEST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a shell is asked.

    Attributes:
        script: sh, run in a subshell; the functions of `files.sh` are there.
        payload: what it reads on stdin.
        reads: whether it changes nothing, so that it may be repeated after a lost connection.
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
    """By when a whole operation must be done, and the timeout as the caller gave it, for the error.

    Attributes:
        timeout: seconds from the beginning; None for no limit.
        at: the moment, of time.monotonic.
    """

    timeout: float | None
    at: float

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """That many seconds from now."""
        return cls(timeout, time.monotonic() + (timeout or 0.0))

    @property
    def left(self) -> float | None:
        """Seconds left; None for no limit."""
        return None if self.timeout is None else max(0.0, self.at - time.monotonic())

    def error(self, what: str, host: str) -> CommandTimeout:
        """What is raised when it has passed."""
        within = "" if self.timeout is None else f" within {round(self.timeout, 1):g} s"
        return CommandTimeout(f"{what}{within}", host=host)


FOREVER = Deadline(None, 0.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a request: its output, its stderr, its status."""

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
    """This shell takes no more requests, or gives back one that only reads; another shell takes it."""


class GivenUp(Exception):
    """Nobody waits for the reply any more; nobody sees this exception either."""


class Abandon:
    """Call it from another thread to give up what is asked within this context. It never blocks."""

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
                self._pending.failure = GivenUp()
                self._pending.done.set()

    def watch(self, pending: Pending | None) -> None:
        """Note what is going to be waited for.

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
            raise GivenUp


# What the current thread asks, if it is within an `Abandon`.
_calls = threading.local()


def watch(pending: Pending | None) -> None:
    """Note what the current thread waits for if it is within an `Abandon`, which can end the wait."""
    abandon: Abandon | None = getattr(_calls, "abandon", None)
    if abandon is not None:
        abandon.watch(pending)


def abandoned() -> Callable[[], None]:
    """A check for threads that work for the current one: it raises if their work was given up."""
    abandon: Abandon | None = getattr(_calls, "abandon", None)
    return abandon.check if abandon is not None else lambda: None
