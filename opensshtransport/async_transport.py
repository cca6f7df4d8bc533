"""`AsyncTransport` and its processes: a thread waits for each call, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from opensshtransport.commands.as_subprocess import Command, RunAny, RunBytes, RunOptions, StartOptions
from opensshtransport.commands.command import CompletedCommand
from opensshtransport.commands.communication import InputPipe
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.commands.streams import pieces
from opensshtransport.errors import CommandTimeout, SettingsError
from opensshtransport.remote.paths import PathLike
from opensshtransport.sessions.requests import Abandon
from opensshtransport.sharing.forwarding import Listening
from opensshtransport.transport import Transport, described

if sys.version_info >= (3, 12):
    from typing import Unpack
else:
    from typing_extensions import Unpack

__all__ = ["AsyncRemoteProcess", "AsyncTransport"]


# How many operations run at once, each in a thread: more than there are sessions on any common server.
_AT_ONCE = 64

_P = ParamSpec("_P")

_T = TypeVar("_T")


async def _in_thread(work: Callable[[], _T], *, give_up: Callable[[], object] = lambda: None) -> _T:
    """Do something in a thread of its own: a pool could run out of threads, and has none after a fork.

    Args:
        work: may take as long as a command.
        give_up: called when nobody waits any more; it must not block. The result is then dropped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(tell: Callable[[], object]) -> None:
        if not done.done():
            tell()

    def act() -> None:
        try:
            tell = functools.partial(done.set_result, work())
        except BaseException as reason:
            # a future cannot hold StopIteration
            failure = RuntimeError(str(reason)) if isinstance(reason, StopIteration) else reason
            tell = functools.partial(done.set_exception, failure)
        # the loop may have been closed meanwhile
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, tell)

    threading.Thread(target=act, daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        give_up()
        raise


class _Wanted:
    """A process that somebody waits for. If nobody does any more, it is ended, even if it starts later."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._wanted = True
        self._process: RemoteProcess[Any] | None = None

    def began(self, process: RemoteProcess[Any]) -> None:
        """The process has started; called in the thread that runs it."""
        with self._guard:
            self._process, wanted = process, self._wanted
        if not wanted:
            process.end()

    def give_up(self) -> None:
        """End it, in a thread: it takes a moment. Python waits for that before it exits."""
        with self._guard:
            self._wanted, process = False, self._process
        if process is not None:
            threading.Thread(target=process.end).start()


def _awaited(
    method: Callable[Concatenate[Transport, _P], _T],
) -> Callable[Concatenate[AsyncTransport, _P], Coroutine[Any, Any, _T]]:
    """A method of `Transport` as a coroutine: it runs in a thread."""

    @wraps(method)
    async def call(self: AsyncTransport, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._call(lambda: method(self._open(), *args, **kwargs))

    return call


class AsyncTransport:
    """`Transport` with the same methods as coroutines. Never blocks the event loop.

    A cancelled `run` ends its remote process group, a cancelled operation on files its remote processes.
    """

    def __init__(self, host: str, **options: Any) -> None:
        self.host = host
        self._options = options
        self._transport: Transport | None = None
        self._guard = threading.Lock()
        self._gate: tuple[object, asyncio.Semaphore] = (None, asyncio.Semaphore())

    def __reduce__(self) -> tuple[Callable[[], AsyncTransport], tuple[()]]:
        """Pickled as its host and its options."""
        return functools.partial(type(self), self.host, **self._options), ()

    def __repr__(self) -> str:
        return described(self, self.host, self._options)

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open(self) -> Transport:
        with self._guard:
            if self._transport is None:
                self._transport = Transport(self.host, **self._options)
            return self._transport

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Limits how many run at once; a semaphore belongs to one loop."""
        loop = asyncio.get_running_loop()
        if self._gate[0] is not loop:
            self._gate = (loop, asyncio.Semaphore(_AT_ONCE))
        async with self._gate[1]:
            yield

    async def _call(self, work: Callable[[], _T]) -> _T:
        abandon = Abandon()

        def call() -> _T:
            with abandon:
                return work()

        async with self._turn():
            return await _in_thread(call, give_up=abandon)

    async def close(self) -> None:
        """Close the sessions that are open but unused. The master keeps running."""
        if self._transport is not None:
            await self._call(self._transport.close)

    async def login(self) -> AsyncTransport:
        """As `Transport.login`."""
        await self._call(lambda: self._open().login())
        return self

    @contextlib.asynccontextmanager
    async def forward(self, target: int | str, *, local_port: int = 0) -> AsyncIterator[Listening]:
        """As `Transport.forward`."""
        opened = contextlib.ExitStack()
        try:
            yield await self._call(
                lambda: opened.enter_context(self._open().forward(target, local_port=local_port))
            )
        finally:
            await _in_thread(opened.close)

    @overload
    async def run(
        self,
        command: Command,
        *,
        text: Literal[True],
        encoding: str | None = ...,
        errors: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[RunOptions],
    ) -> CompletedCommand[str]: ...

    @overload
    async def run(
        self,
        command: Command,
        *,
        universal_newlines: Literal[True],
        text: bool | None = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        **options: Unpack[RunOptions],
    ) -> CompletedCommand[str]: ...

    @overload
    async def run(
        self,
        command: Command,
        *,
        encoding: str,
        text: bool | None = ...,
        errors: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[RunOptions],
    ) -> CompletedCommand[str]: ...

    @overload
    async def run(
        self,
        command: Command,
        *,
        errors: str,
        text: bool | None = ...,
        encoding: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[RunOptions],
    ) -> CompletedCommand[str]: ...

    @overload
    async def run(self, command: Command, **options: Unpack[RunBytes]) -> CompletedCommand[bytes]: ...

    @overload
    async def run(self, command: Command, **options: Unpack[RunAny]) -> CompletedCommand[Any]: ...

    @wraps(Transport.run)
    async def run(self, command: Command, **options: Any) -> CompletedCommand[Any]:
        """As `Transport.run`."""
        wanted = _Wanted()
        async with self._turn():
            return await _in_thread(
                lambda: self._open().commands.run(command, **options, began=wanted.began),
                give_up=wanted.give_up,
            )

    async def start(self, command: Command, **options: Unpack[StartOptions]) -> AsyncRemoteProcess:
        """As `Transport.start`; its streams are of bytes, as asyncio's are."""
        wanted = _Wanted()

        def start() -> RemoteProcess[bytes]:
            process = self._open().start(command, **options)
            wanted.began(process)
            return process

        if not {"text", "encoding", "errors", "universal_newlines"}.isdisjoint(options):
            raise SettingsError("asyncio's streams are of bytes", advice="decode what comes")
        return await AsyncRemoteProcess.of(await _in_thread(start, give_up=wanted.give_up))

    async def run_many(
        self, commands: Iterable[Command], *, limit: int | None = None, **options: Unpack[RunAny]
    ) -> list[CompletedCommand[Any]]:
        """As `Transport.run_many`."""
        gate = asyncio.Semaphore(limit or _AT_ONCE)
        begun: set[int] = set()

        async def one(number: int, command: Command) -> CompletedCommand[Any]:
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


class AsyncRemoteProcess:
    """`RemoteProcess` with the same methods as coroutines. Never blocks the event loop.

    Attributes:
        args, argv: the command as it was given, and as a tuple.
        host: where it runs.
        stdin: its `write` and `close` are coroutines; or None.
        stdout, stderr: asyncio.StreamReader; already at their end if the output goes elsewhere.
    """

    def __init__(self, process: RemoteProcess[bytes]) -> None:
        self.args, self.argv, self.host = process.args, process.argv, process.host
        self.stdin = None if process.stdin is None else _AsyncInput(process.stdin)
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._process = process
        self._pipes: list[asyncio.BaseTransport] = []
        self._waiting: asyncio.Future[int] | None = None
        self._communicating: asyncio.Future[tuple[bytes, bytes]] | None = None

    @classmethod
    async def of(cls, process: RemoteProcess[bytes]) -> AsyncRemoteProcess:
        """Take over a process that has just been started, with its pipes."""
        made = cls(process)
        loop = asyncio.get_running_loop()
        pipes = (process.stdout, process.stderr)
        process.stdout = process.stderr = None
        left = list(pipes)
        try:
            for reader, pipe in zip((made.stdout, made.stderr), pipes, strict=True):
                if pipe is None:
                    reader.feed_eof()
                else:
                    protocol = asyncio.StreamReaderProtocol(reader)
                    connected, _ = await loop.connect_read_pipe(lambda it=protocol: it, pipe)  # type: ignore[misc]  # a bound name
                    made._pipes.append(connected)
                left.remove(pipe)
        except BaseException:
            for pipe in left:
                if pipe is not None:
                    pipe.close()
            made._let_go()
            # nobody else knows of it
            threading.Thread(target=process.end).start()
            raise
        return made

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: host: {self.host!r} returncode: {self.returncode} args: {self.args!r}>"
        )

    @property
    def returncode(self) -> int | None:
        """None while it runs, or until somebody has waited for it."""
        return self._process.returncode

    async def wait(self, timeout: float | None = None) -> int:
        """As `RemoteProcess.wait`."""
        if self._waiting is None:
            self._waiting = _kept(_in_thread(self._process.wait))
        return await self._within(self._waiting, timeout)

    async def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002 - as Popen's
        """As `RemoteProcess.communicate`; after a timeout nothing is lost, and it can be called again."""
        if self._communicating is None:
            if input is not None and self.stdin is None:
                raise SettingsError("the command reads nothing from us", advice="start it with stdin=PIPE")
            self._communicating = _kept(self._communicate(input))
        elif input is not None:
            raise SettingsError("input has been sent already", advice="ask again without input")
        return await self._within(self._communicating, timeout)

    async def _communicate(self, given: Any) -> tuple[bytes, bytes]:
        send = asyncio.ensure_future(self._send(given))
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await send
        await self.wait()
        return out, err

    async def _send(self, given: Any) -> None:
        if self.stdin is not None:
            # a command that has ended reads no more
            with contextlib.suppress(BrokenPipeError):
                for piece in pieces(given, None) if given is not None else ():
                    await self.stdin.write(piece)
                await self.stdin.close()

    async def _within(self, work: asyncio.Future[_T], timeout: float | None) -> _T:
        await asyncio.wait([work], timeout=timeout)
        if not work.done():
            error = CommandTimeout("the command is still running", host=self.host, argv=self.argv)
            error.cmd, error.timeout = self.args, timeout
            raise error
        return work.result()

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
        """Close the session. A command that is still running is ended by that."""
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
    """The remote command's stdin, with coroutines."""

    def __init__(self, stdin: InputPipe[bytes]) -> None:
        self._stdin = stdin

    async def write(self, raw: bytes) -> int:
        """Send bytes; returns when they are on their way."""
        return await _in_thread(lambda: self._stdin.write(raw))

    async def close(self) -> None:
        """Send the end of the input."""
        await _in_thread(self._stdin.close)


def _kept(work: Coroutine[Any, Any, _T]) -> asyncio.Future[_T]:
    """A task that goes on while nobody waits for it, and whose failure nobody need see."""
    going = asyncio.ensure_future(work)
    going.add_done_callback(lambda done: done.cancelled() or done.exception())
    return going
