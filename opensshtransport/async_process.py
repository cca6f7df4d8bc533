"""`RemoteProcess` with the same names to await: a thread waits, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from opensshtransport.process import Input, RemoteProcess

__all__ = ["AsyncRemoteProcess"]

_T = TypeVar("_T")


class AsyncRemoteProcess:
    """`RemoteProcess` with the same names to await. Never blocks the event loop.

    Attributes:
        argv: the command as it was given.
        stdin: to await `write` and `close` of, or None.
        stdout, stderr: asyncio.StreamReader.
    """

    def __init__(self, process: RemoteProcess) -> None:
        self.argv = process.argv
        self.stdin = None if process.stdin is None else _AsyncInput(process.stdin)
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._process = process
        self._pipes: list[asyncio.BaseTransport] = []
        self._waiting: asyncio.Future[int] | None = None

    @classmethod
    async def of(cls, process: RemoteProcess) -> AsyncRemoteProcess:
        """Take over a process that has just been started, with its pipes."""
        made = cls(process)
        loop = asyncio.get_running_loop()
        pipes = (process.stdout, process.stderr)
        process.stdout = process.stderr = None
        try:
            for reader, pipe in zip((made.stdout, made.stderr), pipes, strict=True):
                protocol = asyncio.StreamReaderProtocol(reader)
                connected, _ = await loop.connect_read_pipe(lambda it=protocol: it, pipe)  # type: ignore[misc]  # a bound name
                made._pipes.append(connected)
        except BaseException:
            made._let_go()
            for pipe in pipes[len(made._pipes) :]:
                if pipe is not None:
                    pipe.close()
            raise
        return made

    @property
    def returncode(self) -> int | None:
        """None while it runs, or until somebody has waited for it."""
        return self._process.returncode

    async def wait(self, timeout: float | None = None) -> int:
        """As `RemoteProcess.wait`."""
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(_in_thread(self._process.wait))
            # where nobody asks any more
            self._waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([self._waiting], timeout=timeout)
        if not self._waiting.done():
            raise TimeoutError(errno.ETIMEDOUT, "the command still runs")
        return self._waiting.result()

    async def poll(self) -> int | None:
        """The return code, or None while it runs."""
        return await _in_thread(self._process.poll)

    async def send_signal(self, number: signal.Signals) -> None:
        """As `RemoteProcess.send_signal`."""
        await _in_thread(lambda: self._process.send_signal(number))

    async def terminate(self) -> None:
        """Ask the remote process group to end (TERM)."""
        await _in_thread(self._process.terminate)

    async def kill(self) -> None:
        """End the remote process group (KILL)."""
        await _in_thread(self._process.kill)

    async def end(self, grace: float | None = None) -> None:
        """As `RemoteProcess.end`."""
        self._let_go()
        await _in_thread(lambda: self._process.end(grace))

    async def close(self) -> None:
        """Give the session back. A command that still runs is ended by that."""
        self._let_go()
        await _in_thread(self._process.close)

    def _let_go(self) -> None:
        for pipe in self._pipes:
            pipe.close()

    async def __aenter__(self) -> AsyncRemoteProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._let_go()
        await _in_thread(lambda: self._process.__exit__(None, None, None))


class _AsyncInput:
    """The remote command's stdin, to await."""

    def __init__(self, stdin: Input) -> None:
        self._stdin = stdin

    async def write(self, raw: bytes) -> int:
        """Send bytes; returns when they are on their way."""
        return await _in_thread(lambda: self._stdin.write(raw))

    async def close(self) -> None:
        """Tell the end of the input."""
        await _in_thread(self._stdin.close)


def _in_thread(work: Callable[[], _T]) -> Awaitable[_T]:
    """Do something in a thread of its own: it may take as long as the command, and a pool would run dry."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, reason: BaseException | None) -> None:
        if done.done():
            return
        if reason is not None:
            done.set_exception(reason)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is one where nothing was raised

    def act() -> None:
        result: _T | None = None
        reason: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:
            reason = caught
        # the loop may have been closed meanwhile
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, reason)

    threading.Thread(target=act, daemon=True).start()
    return done
