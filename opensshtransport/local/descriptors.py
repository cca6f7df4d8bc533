"""Our own stdin, stdout and stderr, as passed to a program that works through the master.

ssh passes its descriptors to the master, which serves everybody. The traps: a terminal that takes no output
blocks the master; the master goes on reading a terminal that another job has by now; and it sets O_NONBLOCK
on pipes (open(2)), which then affects every program that shares them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO

# Seconds between checks whether the terminal is ours.
_LOOK = 0.5

_PIECE = 1 << 16


def plug() -> None:
    """Open those of 0, 1 and 2 that are closed to nothing, as ssh does: the next file could get their number.

    If 2 was closed, bash leaves the script open on it, for reading.
    """
    for number, (name, mode, unfit) in enumerate(
        (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDONLY))
    ):
        with contextlib.suppress(OSError):
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != unfit:
                continue
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, number)
        if null != number:
            os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - stays open as long as we run


@contextmanager
def opened_anew() -> Iterator[list[int | None]]:
    """Open our terminals, and the pipes that we write to, once more, without blocking.

    Returns the descriptors for 0, 1 and 2; None for those that can be used as they are, or that the system
    does not let us open.
    """
    anew: list[int | None] = []
    try:
        for number in range(3):
            anew.append(None)
            with contextlib.suppress(OSError):
                anew[number] = _anew(number)
        yield anew
    finally:
        for opened in anew:
            if opened is not None:
                os.close(opened)


def _anew(number: int) -> int | None:
    if os.isatty(number):
        return os.open(os.ttyname(number), os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
    # on other systems than Linux this would duplicate the descriptor, not open it anew
    if number and sys.platform == "linux" and stat.S_ISFIFO(os.fstat(number).st_mode):
        return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
    return None


def in_background(terminal: int = 0) -> bool:
    """Whether another job has the terminal. A terminal that does not control us has no jobs of ours."""
    try:
        return os.tcgetpgrp(terminal) not in {0, os.getpgrp()}
    except OSError:
        return False


def wait_for_terminal() -> None:
    """Stop this job until it has the terminal, as ssh -t does, but before the master reads there."""
    while in_background():
        os.killpg(os.getpgrp(), signal.SIGTTOU)
        if in_background():
            # the signal is ignored, or nobody could continue us
            time.sleep(1)


class Typed:
    """Passes what is typed at our terminal into a pipe.

    The trap: in the background a read would stop the whole job; here it fails, and is tried again.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._rest = b""
        self._not_before = 0.0
        os.set_blocking(pipe.fileno(), False)
        try:
            self._terminal = _anew(0) or os.dup(0)
        except OSError:
            self._terminal = os.dup(0)
        self._before = signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    def __enter__(self) -> Typed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTTIN, self._before)
        os.close(self._terminal)

    def wait(self, sources: list[int], seconds: float | None) -> list[int]:
        """Pass on what is typed until one of these can be read, or the time is over; returns those that can.

        It may return early with none.
        """
        reading, writing = list(sources), []
        left = self._not_before - time.monotonic()
        if self._rest:
            writing.append(self._pipe.fileno())
        elif not self._pipe.closed and left <= 0:
            reading.append(self._terminal)
        elif not self._pipe.closed:
            seconds = left if seconds is None else min(left, seconds)
        ready, writable, _ = select.select(reading, writing, [], seconds)
        if writable or self._terminal in ready:
            self._move()
        return [source for source in sources if source in ready]

    def _move(self) -> None:
        try:
            self._rest = self._rest or os.read(self._terminal, _PIECE)
        except OSError:
            # another job has the terminal, or what was there
            self._not_before = time.monotonic() + _LOOK
            return
        ended = not self._rest
        try:
            self._rest = self._rest[os.write(self._pipe.fileno(), self._rest) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._rest, ended = b"", True
        if ended:
            self._pipe.close()
