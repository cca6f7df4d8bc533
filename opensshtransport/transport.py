"""`Transport` and `AsyncTransport`: the objects that users hold. They delegate; the work is done below."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar

from opensshtransport.commands.command import CompletedCommand, Request, check
from opensshtransport.commands.execution import Execution
from opensshtransport.commands.process import RemoteProcess, Sink
from opensshtransport.errors import SettingsError
from opensshtransport.files.changes import Files
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.remote.paths import PathLike
from opensshtransport.sessions.connection import Connection
from opensshtransport.sessions.shell_pool import Shells
from opensshtransport.transfer.items import Exclude
from opensshtransport.transfer.meter import Transferred
from opensshtransport.transfer.options import How, Sources, Way
from opensshtransport.transfer.progress import Progress
from opensshtransport.transfer.transfer import Transfer

__all__ = ["Transport"]


Command = str | Sequence[str]

Output = Callable[[bytes], object] | IO[bytes] | None

_T = TypeVar("_T")

# A command's output that nobody limits must not fill the memory unseen.
_CHUNK = 1 << 18


class Transport(Files):
    """One destination, to run commands on and to work with its files, from any number of threads.

    Opening one costs no round trip where a master lives; where none does, the first operation logs in.

    Args:
        host: any name of ssh_config.
        ssh_config: another configuration file for all that ssh reads.
        login: whether a login may be made where no master lives.
        person: whether somebody at the terminal may be asked for it.
        timeout: seconds that one operation on files may take; None for ever.
        settings: those that count before config.toml's, with values as they stand there.

    Raises:
        SettingsError: the name or config.toml is wrong.
        ConfigurationError: ssh refuses ssh_config.
    """

    def __init__(
        self,
        host: str,
        *,
        ssh_config: str | os.PathLike[str] | None = None,
        login: bool = True,
        person: bool = True,
        timeout: float | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.host = host
        master = Master(resolve(host, ssh_config, overrides=settings))
        self.connection = Connection(master, login=login, person=person)
        self._execution = Execution(self.connection)
        super().__init__(Shells(self.connection), timeout=timeout)
        self._transfer = Transfer(self._shells, self)

    @property
    def master(self) -> Master:
        """The shared master, whether it lives or not."""
        return self.connection.master

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is open but unused. The master lives on."""
        self.connection.close()
        self._shells.close()

    def run(
        self,
        command: Command,
        *,
        input: bytes | str | IO[bytes] | None = None,  # noqa: A002 - subprocess.run's name
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        encoding: str | None = None,
        login_shell: bool = False,
        stdout: Output = None,
        stderr: Output = None,
        once: str | None = None,
        max_output: int | None = None,
        began: Callable[[RemoteProcess], object] | None = None,
    ) -> CompletedCommand:
        """Run a command by the remote login shell and wait for it. Names follow subprocess.run.

        Args:
            command: a sequence, which is quoted; or a string, which the remote shell gets as it is.
            input: what it reads; None is an empty input.
            cwd: the directory to run it in.
            env: further variables.
            timeout: seconds after which the remote process group is ended.
            check: raise where it returns non-zero.
            encoding: give the output as text, with undecodable bytes as os.fsdecode has them.
            login_shell: as at a login: the shell reads its profile.
            stdout: a callback or a binary file for the output, instead of keeping it.
            stderr: the same.
            once: a key; the command never runs twice under it, and its first result is given.
            max_output: bytes of kept output after which the command is ended.
            began: called with the process as soon as there is one, to be ended from elsewhere.

        Raises:
            CommandFailed: `check` and a return code that is not 0.
            CommandTimeout: the timeout has passed; `completed` has what was printed.
            ConnectionLost: the connection broke; see `started`.
            ConnectionFailed: another of its kinds; nothing has started.
            OnceError: the key's command is another one, or was cut down.
            FileNotFoundError, NotADirectoryError, PermissionError: `cwd`.
        """
        request = Request(
            command=command,
            cwd=cwd,
            env=env,
            login_shell=login_shell,
            once=once,
            frames=input is not None and input not in (b"", ""),
        )
        request.script("")  # a wrong command is refused before anything is touched
        kept: list[io.BytesIO | None] = []
        process: RemoteProcess | None = None

        def sink(target: Output) -> Sink:
            if target is not None:
                kept.append(None)
                return target if callable(target) else target.write
            buffer = io.BytesIO()
            kept.append(buffer)
            return buffer.write if max_output is None else _limited(buffer, max_output)

        out, err = sink(stdout), sink(stderr)

        def completed(returncode: int) -> CompletedCommand:
            texts = [None if buffer is None else _decoded(buffer.getvalue(), encoding) for buffer in kept]
            return CompletedCommand(request.argv, returncode, _signal(returncode), *texts)

        try:
            process = self._execution.run(
                request,
                out,
                err,
                lambda running: _feed(running, input, encoding),
                timeout=timeout,
                began=began,
            )
        except TimeoutError as error:
            if hasattr(error, "completed"):
                error.completed = completed(124)
            raise
        done = completed(process.returncode if process.returncode is not None else 255)
        return _check(done, self.host) if check else done

    def start(
        self,
        command: Command,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        login_shell: bool = False,
        stdin: bool = True,
        timeout: float | None = None,
    ) -> RemoteProcess:
        """Start a command and go on. Names follow subprocess.Popen.

        Args:
            command: as for `run`.
            cwd: as for `run`.
            env: as for `run`.
            login_shell: as for `run`.
            stdin: whether it reads input from us (`RemoteProcess.stdin`); else it reads nothing.
            timeout: seconds until it must have started.

        Raises:
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        request = Request(command=command, cwd=cwd, env=env, login_shell=login_shell, frames=stdin)
        request.script("")  # a wrong command is refused before anything is touched
        pipes = [os.pipe(), os.pipe()]
        writers = [os.fdopen(writer, "wb", buffering=0) for _, writer in pipes]
        try:
            deadline = None if timeout is None else _later(timeout)
            process = self._execution.start(request, _to(writers[0]), _to(writers[1]), deadline=deadline)
        except BaseException:
            for (reader, _), writer in zip(pipes, writers, strict=True):
                os.close(reader)
                writer.close()
            raise
        process.stdout, process.stderr = (os.fdopen(reader, "rb") for reader, _ in pipes)
        process.when_read(writers)
        return process

    def put(
        self,
        source: Sources,
        destination: PathLike,
        *,
        recursive: bool | None = None,
        dereference: bool = False,
        preserve: bool = False,
        overwrite: bool = True,
        resume: bool = True,
        verify: bool = False,
        progress: Callable[[Progress], object] | bool | None = None,
        exclude: Exclude = (),
        limit_rate: float | None = None,
        way: Way | None = None,
    ) -> Transferred:
        """Move files and trees there, as `cp -r` does. A new file appears under its name when it is complete.

        A file that is there already stays the same file, as for `cp`: inode, owner, mode and hard links. It
        is written when all of the new content has arrived beside it. That costs: the content is written
        twice, and needs its room twice; who reads meanwhile sees some of both; and where the machine or the
        connection dies meanwhile it is half written, and the draft `.ossh-…` beside it has all, with which
        the same call goes on. Where it cannot be written to the end, as on a full disk, the draft takes its
        name. To change what others read at once, put to a new name and `replace`.

        Of a file that grows meanwhile, as a log does, the beginning is moved that was there when it was
        looked at. One that is cut, replaced or rewritten meanwhile is an error (EBUSY): a mixture of two
        versions never arrives.

        Args:
            source: a local path, with `~` and patterns as in a shell, or several.
            destination: a path there: a new name, or a directory that exists.
            recursive: whether directories are moved; None: where the source is one.
            dereference: move what links in a tree lead to; a link named as source is always followed.
            preserve: keep modes, times, and hard links within a tree.
            overwrite: whether files that are there are replaced.
            resume: go on where an earlier transfer of the same was broken off.
            verify: compare sha256 sums before anything appears.
            progress: is told now and then; True for a bar by tqdm.
            exclude: patterns of names, or of paths below the top, that are left out; or a function of such a
                path that tells.
            limit_rate: bytes a second.
            way: how the bytes go; chosen by what is to be moved where it is None.

        Raises:
            OSError: its own subclasses, for a file here or (as `HOST:path`) there.
            TransferFailed: several files of a tree could not be moved; the others are in their places.
            ConnectionFailed: one of its kinds; asked again, the transfer goes on where it was.
        """
        how = How(
            recursive=recursive,
            dereference=dereference,
            preserve=preserve,
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            exclude=exclude,
            way=way,
        )
        return self._transfer.put(source, destination, how, progress=progress, limit_rate=limit_rate)

    def get(
        self,
        source: Sources,
        destination: PathLike = ".",
        *,
        recursive: bool | None = None,
        dereference: bool = False,
        preserve: bool = False,
        overwrite: bool = True,
        resume: bool = True,
        verify: bool = False,
        progress: Callable[[Progress], object] | bool | None = None,
        exclude: Exclude = (),
        limit_rate: float | None = None,
        way: Way | None = None,
    ) -> Transferred:
        """Move files and trees here; all as for `put`.

        Args:
            source: a path there, with `~` and patterns, or several.
            destination: a local path: a new name, or a directory that exists.
            recursive: as for `put`.
            dereference: as for `put`.
            preserve: as for `put`.
            overwrite: as for `put`.
            resume: as for `put`.
            verify: as for `put`.
            progress: as for `put`.
            exclude: as for `put`.
            limit_rate: as for `put`.
            way: as for `put`.

        Raises:
            OSError: as for `put`.
            ConnectionFailed: as for `put`.
        """
        how = How(
            recursive=recursive,
            dereference=dereference,
            preserve=preserve,
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            exclude=exclude,
            way=way,
        )
        return self._transfer.get(source, destination, how, progress=progress, limit_rate=limit_rate)

    def listdir(self, path: PathLike = ".") -> list[str]:
        """As os.listdir, sorted; by sftp where the account gives no shell."""
        return self._transfer.listdir(path) if self._transfer.restricted else super().listdir(path)

    def run_many(
        self, commands: Iterable[Command], *, limit: int | None = None, **options: Any
    ) -> list[CompletedCommand]:
        """Run many commands side by side, within the budget of sessions; results in their order.

        Args:
            commands: each as for `run`.
            limit: how many at once; as many as there may be sessions by default.
            options: as for `run`, the same for all.

        Raises:
            Exception: the first failure, in the order of the commands; those not begun are not run.
        """
        with ThreadPoolExecutor(limit or self.connection.slots.limit) as pool:
            futures = [pool.submit(self.run, command, **options) for command in commands]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise


_check = check


def _later(seconds: float) -> float:
    import time

    return time.monotonic() + seconds


def _signal(returncode: int) -> signal.Signals | None:
    with contextlib.suppress(ValueError):
        return signal.Signals(returncode - 128) if returncode > 128 else None
    return None


def _decoded(raw: bytes, encoding: str | None) -> bytes | str:
    return raw if encoding is None else raw.decode(encoding, "surrogateescape")


def _limited(buffer: io.BytesIO, limit: int) -> Sink:
    def write(raw: bytes) -> None:
        if buffer.tell() + len(raw) > limit:
            buffer.write(raw[: limit - buffer.tell()])
            raise SettingsError(
                f"the command printed more than {limit} bytes",
                advice="raise max_output, or give a file as stdout",
            )
        buffer.write(raw)

    return write


def _to(writer: IO[bytes]) -> Sink:
    def write(raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            view = view[os.write(writer.fileno(), view) :]

    return write


def _feed(process: RemoteProcess, source: bytes | str | IO[bytes] | None, encoding: str | None) -> None:
    if isinstance(source, str):
        source = source.encode(encoding or "utf-8", "surrogateescape")
    if isinstance(source, bytes):
        process.send_input(source)
    elif source is not None:
        while piece := source.read(_CHUNK):
            process.send_input(piece)
    process.end_input()
