"""`Transport`: the object that users hold. It delegates; the work is done below."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, overload

from opensshtransport.commands.as_subprocess import (
    Command,
    Commands,
    RunAny,
    RunBytes,
    RunOptions,
    StartAny,
    StartBytes,
    StartOptions,
)
from opensshtransport.commands.command import CompletedCommand
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.files.changes import Files
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.remote.paths import PathLike
from opensshtransport.sessions.connection import Connection
from opensshtransport.sessions.shell_pool import Shells
from opensshtransport.sharing.forwarding import Listening, listening
from opensshtransport.transfer.meter import Transferred
from opensshtransport.transfer.options import How, Sources, TransferOptions
from opensshtransport.transfer.transfer import Transfer

if sys.version_info >= (3, 12):
    from typing import Unpack
else:
    from typing_extensions import Unpack

__all__ = ["Transport"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _shows(options: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Show the options with their defaults where a person looks: `help`, and completion in IPython.

    Args:
        options: has them as keyword-only parameters; those that a caller cannot give are left out.
    """
    known = inspect.signature(options).parameters.values()
    shown = [one for one in known if one.kind is one.KEYWORD_ONLY and one.name not in {"began", "shell"}]

    def give(method: _Method) -> _Method:
        own = inspect.signature(method)
        kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        taken = {one.name for one in kept}
        kept += [one for one in shown if one.name not in taken]
        method.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]  # inspect reads it
        return method

    return give


class Transport(Files):
    """One destination, to run commands on and to work with its files, from any number of threads.

    Opening one costs no round trip where a master is running; where none is, the first operation logs in, or
    `login` at a moment of the caller's choice. It may be pickled and sent to other processes, and used after
    a fork: all of them share the one master.

    Args:
        host: any name of ssh_config.
        ssh_config: another configuration file for all that ssh reads.
        login: whether a login may be made where no master is running.
        person: whether somebody at the terminal may be asked for it.
        timeout: seconds that one operation on files may take; None forever.
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
        destination = resolve(host, ssh_config, overrides=settings)
        # as they were given, but for a file's name: another process may be in another directory
        given: dict[str, Any] = {
            "ssh_config": None if destination.ssh_config is None else str(destination.ssh_config),
            "login": login,
            "person": person,
            "timeout": timeout,
            "settings": None if settings is None else dict(settings),
        }
        usual = inspect.signature(Transport).parameters
        self._options = {name: value for name, value in given.items() if value != usual[name].default}
        self.connection = Connection(Master(destination), login=login, person=person)
        self.commands = Commands(self.connection)
        super().__init__(Shells(self.connection), timeout=timeout)
        self._transfer = Transfer(self._shells, self)

    def __reduce__(self) -> tuple[Callable[[], Transport], tuple[()]]:
        """Pickled as its host and its options."""
        return functools.partial(type(self), self.host, **self._options), ()

    def __repr__(self) -> str:
        return described(self, self.host, self._options)

    @property
    def master(self) -> Master:
        """The shared master, running or not."""
        return self.connection.master

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is open but unused. The master keeps running."""
        self.connection.close()
        self._shells.close()

    def login(self) -> Transport:
        """Log in now, where no master is running, and not at the first operation. Gives itself.

        Raises:
            LoginNeeded: only a person can go on.
            ConnectionFailed: another of its kinds; with `login=False`, MasterGone.
        """
        self.connection.facts()
        return self

    @overload
    def run(
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
    def run(
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
    def run(
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
    def run(
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
    def run(self, command: Command, **options: Unpack[RunBytes]) -> CompletedCommand[bytes]: ...

    @overload
    def run(self, command: Command, **options: Unpack[RunAny]) -> CompletedCommand[Any]: ...

    @_shows(Commands.run)
    def run(self, command: Command, **options: Any) -> CompletedCommand[Any]:
        """Run a command by the remote login shell and wait for it. The options are those of subprocess.run.

        What subprocess does with our own streams cannot be done here: where nothing is said, output is kept,
        and input is empty.

        Args:
            command: a sequence, which is quoted; or a string, which the remote shell gets as it is.
            input: what it reads: bytes, text, or a file.
            stdin: the same as a file or a descriptor; DEVNULL, PIPE and None are an empty input.
            stdout: a file, a descriptor, or a function of each piece of bytes, instead of keeping the output
                (None, PIPE); DEVNULL drops it.
            stderr: the same; STDOUT sends it to where stdout goes, in the order in which it was printed.
            capture_output: both are kept, as they are anyway.
            cwd: the directory to run it in, relative to the home directory.
            env: further variables.
            timeout: seconds after which the remote process group is ended.
            check: raise where it returns non-zero.
            text: give the output as text, with each end of a line as a newline.
            encoding: the same, in this encoding; UTF-8 where it is not given.
            errors: the same; what is done with undecodable bytes: as os.fsdecode has them by default.
            universal_newlines: the same as `text`.
            login_shell: as at a login: the shell reads its profile.
            once: a key; the command never runs twice under it, and its first result is given.
            max_output: bytes of kept output after which the command is ended.
            options: all of these, but for the command, by name.

        Raises:
            CommandFailed: `check` and a return code that is not 0. It is a subprocess.CalledProcessError.
            CommandTimeout: the timeout has passed; `output` and `stderr` have what was printed. It is a
                subprocess.TimeoutExpired.
            ConnectionLost: the connection broke; see `started`.
            ConnectionFailed: another of its kinds; nothing has started.
            OnceError: the key's command is another one, or was cut down.
            SettingsError: an option is wrong; nothing was touched. `shell=` is, as there is always one.
            FileNotFoundError, NotADirectoryError, PermissionError: `cwd`.
        """
        return self.commands.run(command, **options)

    @overload
    def start(
        self,
        command: Command,
        *,
        text: Literal[True],
        encoding: str | None = ...,
        errors: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[StartOptions],
    ) -> RemoteProcess[str]: ...

    @overload
    def start(
        self,
        command: Command,
        *,
        universal_newlines: Literal[True],
        text: bool | None = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        **options: Unpack[StartOptions],
    ) -> RemoteProcess[str]: ...

    @overload
    def start(
        self,
        command: Command,
        *,
        encoding: str,
        text: bool | None = ...,
        errors: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[StartOptions],
    ) -> RemoteProcess[str]: ...

    @overload
    def start(
        self,
        command: Command,
        *,
        errors: str,
        text: bool | None = ...,
        encoding: str | None = ...,
        universal_newlines: bool | None = ...,
        **options: Unpack[StartOptions],
    ) -> RemoteProcess[str]: ...

    @overload
    def start(self, command: Command, **options: Unpack[StartBytes]) -> RemoteProcess[bytes]: ...

    @overload
    def start(self, command: Command, **options: Unpack[StartAny]) -> RemoteProcess[Any]: ...

    @_shows(Commands.start)
    def start(self, command: Command, **options: Any) -> RemoteProcess[Any]:
        """Start a command and go on; it has started then. The options are those of subprocess.Popen.

        Args:
            command: as for `run`.
            stdin: PIPE, to write to `RemoteProcess.stdin`; a file or a descriptor, which is read in a thread;
                None or DEVNULL: it reads nothing.
            stdout: PIPE, to read from `RemoteProcess.stdout`; else as for `run`.
            stderr: the same.
            cwd: as for `run`.
            env: as for `run`.
            timeout: seconds until it must have started.
            text: its pipes are of text.
            encoding: as for `run`.
            errors: as for `run`.
            universal_newlines: as for `run`.
            login_shell: as for `run`.
            options: all of these, but for the command, by name.

        Raises:
            CommandTimeout: it had not started by then, and will not.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
            SettingsError, OSError: as for `run`.
        """
        return self.commands.start(command, **options)

    @_shows(How)
    def put(self, source: Sources, destination: PathLike, **options: Unpack[TransferOptions]) -> Transferred:
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
        return self._transfer.put(source, destination, How(**options))

    @_shows(How)
    def get(
        self, source: Sources, destination: PathLike = ".", **options: Unpack[TransferOptions]
    ) -> Transferred:
        """Move files and trees here, as `cp -r` does. A new file appears under its name when it is complete.

        A file that is there already stays the same file, and one that changes meanwhile is an error or goes
        as it was when it was looked at; both as for `put`.

        Args:
            source: a path there, with `~` and patterns as in a shell, or several.
            destination: a local path: a new name, or a directory that exists.
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
        return self._transfer.get(source, destination, How(**options))

    def listdir(self, path: PathLike = ".") -> list[str]:
        """As os.listdir, sorted; by sftp where the account gives no shell."""
        return self._transfer.listdir(path) if self._transfer.restricted else super().listdir(path)

    @_shows(Commands.run)
    def run_many(
        self, commands: Iterable[Command], *, limit: int | None = None, **options: Unpack[RunAny]
    ) -> list[CompletedCommand[Any]]:
        """Run many commands side by side, within the budget of sessions; results in their order.

        Args:
            commands: each as for `run`.
            limit: how many at once; as many as there may be sessions by default.
            options: as for `run`, the same for all.

        Raises:
            Exception: the first failure, in the order of the commands; those not begun are not run.
        """
        with ThreadPoolExecutor(limit or self.connection.slots.limit) as pool:
            futures = [pool.submit(self.commands.run, command, **options) for command in commands]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    @contextlib.contextmanager
    def forward(self, target: int | str, *, local_port: int = 0) -> Iterator[Listening]:
        """Have a local port lead to the remote side, through the master, for a while. Costs no session.

        Connections that are open when the block ends go on.

        Args:
            target: a port of the login node, `HOST:PORT` as the login node names it, or the absolute path
                of a socket there.
            local_port: on 127.0.0.1; 0 for any that is free.

        Raises:
            SettingsError: the target is none of these, or the local port is taken.
            ConnectionFailed: the master refuses it, or one of its kinds.
        """
        facts = self.connection.facts()
        with listening(self.master.destination, facts, target, local_port) as found:
            yield found


def described(transport: object, host: str, options: Mapping[str, object]) -> str:
    """How a transport is shown: as it was made, but for the values of settings, which are long."""

    def shown(value: object) -> object:
        return sorted(value) if isinstance(value, Mapping) else value

    words = [repr(host), *(f"{name}={shown(value)!r}" for name, value in options.items())]
    return f"{type(transport).__name__}({', '.join(words)})"
