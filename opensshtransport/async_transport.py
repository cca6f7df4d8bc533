"""`RemoteProcess` with the same names to await: a thread waits, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from opensshtransport.commands.command import CompletedCommand
from opensshtransport.commands.process import Input, RemoteProcess
from opensshtransport.errors import SettingsError
from opensshtransport.remote.paths import PathLike
from opensshtransport.sessions.requests import Abandon
from opensshtransport.transport import Command, Transport

__all__ = ["AsyncRemoteProcess", "AsyncTransport"]


# More than there can be sessions on any common server.
_THREADS = 64

_P = ParamSpec("_P")


def _awaited(
    method: Callable[Concatenate[Transport, _P], _T],
) -> Callable[Concatenate[AsyncTransport, _P], Coroutine[Any, Any, _T]]:
    """A method of `Transport` to await: it runs in a thread."""

    @wraps(method)
    async def call(self: AsyncTransport, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._call(lambda: method(self._open(), *args, **kwargs))

    return call


class AsyncTransport:
    """`Transport` with the same names to await. Never blocks the event loop.

    A cancelled `run` ends its remote process group, a cancelled operation on files its remote processes.
    """

    def __init__(self, host: str, **options: Any) -> None:
        self.host = host
        self._options = options
        self._transport: Transport | None = None
        self._guard = threading.Lock()
        # threads of its own: the loop's default ones are for others, and are few
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="opensshtransport")

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open(self) -> Transport:
        with self._guard:
            if self._transport is None:
                self._transport = Transport(self.host, **self._options)
            return self._transport

    async def _call(self, work: Callable[[], _T]) -> _T:
        abandon = Abandon()

        def call() -> _T:
            with abandon:
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except asyncio.CancelledError:
            abandon()
            raise

    async def close(self) -> None:
        """Give back what is open but unused. The master lives on."""
        transport = self._transport
        if transport is not None:
            await self._call(transport.close)
        self._pool.shutdown(wait=False)

    async def run(self, command: Command, **options: Any) -> CompletedCommand:
        """As `Transport.run`."""
        running: list[RemoteProcess] = []
        cancelled = threading.Event()

        def began(process: RemoteProcess) -> None:
            running.append(process)
            if cancelled.is_set():
                process.end()

        def work() -> CompletedCommand:
            if cancelled.is_set():
                raise SettingsError("cancelled before it began")
            return self._open().run(command, began=began, **options)

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled.set()
            for process in running[-1:]:
                threading.Thread(target=process.end, daemon=True).start()
            # its outcome is nobody's any more
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def start(self, command: Command, **options: Any) -> AsyncRemoteProcess:
        """As `Transport.start`."""
        starting = self._pool.submit(lambda: self._open().start(command, **options))
        try:
            return await AsyncRemoteProcess.of(await asyncio.shield(asyncio.wrap_future(starting)))
        except asyncio.CancelledError:
            # in its thread, as the loop may have ended by then
            starting.add_done_callback(_end_unwanted)
            raise

    async def run_many(
        self, commands: Iterable[Command], *, limit: int | None = None, **options: Any
    ) -> list[CompletedCommand]:
        """As `Transport.run_many`."""
        gate = asyncio.Semaphore(limit or _THREADS)
        begun: set[int] = set()

        async def one(number: int, command: Command) -> CompletedCommand:
            async with gate:
                begun.add(number)
                return await self.run(command, **options)

        tasks = [asyncio.ensure_future(one(*item)) for item in enumerate(commands)]
        try:
            return [await task for task in tasks]
        except BaseException as reason:
            for number, task in enumerate(tasks):
                if number not in begun or isinstance(reason, asyncio.CancelledError):
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def walk(self, top: PathLike, **options: Any) -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """As `Transport.walk`, for `async for`."""
        steps = await self._call(lambda: self._open().walk(top, **options))
        while (step := await self._call(lambda: next(steps, None))) is not None:
            yield step

    stat = _awaited(Transport.stat)
    put = _awaited(Transport.put)
    get = _awaited(Transport.get)
    lstat = _awaited(Transport.lstat)
    exists = _awaited(Transport.exists)
    lexists = _awaited(Transport.lexists)
    is_file = _awaited(Transport.is_file)
    is_dir = _awaited(Transport.is_dir)
    is_symlink = _awaited(Transport.is_symlink)
    readlink = _awaited(Transport.readlink)
    realpath = _awaited(Transport.realpath)
    normalize = _awaited(Transport.normalize)
    home = _awaited(Transport.home)
    whoami = _awaited(Transport.whoami)
    disk_usage = _awaited(Transport.disk_usage)
    tree_size = _awaited(Transport.tree_size)
    checksum = _awaited(Transport.checksum)
    stat_many = _awaited(Transport.stat_many)
    exists_many = _awaited(Transport.exists_many)
    remove_many = _awaited(Transport.remove_many)
    listdir = _awaited(Transport.listdir)
    scandir = _awaited(Transport.scandir)
    scantree = _awaited(Transport.scantree)
    glob = _awaited(Transport.glob)
    rglob = _awaited(Transport.rglob)
    mkdir = _awaited(Transport.mkdir)
    makedirs = _awaited(Transport.makedirs)
    rmdir = _awaited(Transport.rmdir)
    rmtree = _awaited(Transport.rmtree)
    remove = _awaited(Transport.remove)
    unlink = _awaited(Transport.unlink)
    rename = _awaited(Transport.rename)
    replace = _awaited(Transport.replace)
    symlink = _awaited(Transport.symlink)
    chmod = _awaited(Transport.chmod)
    chown = _awaited(Transport.chown)
    touch = _awaited(Transport.touch)
    truncate = _awaited(Transport.truncate)
    copy = _awaited(Transport.copy)
    read_bytes = _awaited(Transport.read_bytes)
    read_text = _awaited(Transport.read_text)
    write_bytes = _awaited(Transport.write_bytes)
    write_text = _awaited(Transport.write_text)
    append = _awaited(Transport.append)
    head = _awaited(Transport.head)
    tail = _awaited(Transport.tail)


def _end_unwanted(started: Future[RemoteProcess]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().end()


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
