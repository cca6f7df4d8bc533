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
    """Show the options with their defaults where people look for them: in `help` and in IPython's completion.

    Args:
        options: a function with these options as keyword-only parameters; those that a caller cannot give are
            left out.
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

    Opening one costs no round trip if a master is running. If none is, the first operation logs in, or
    `login` does so at a moment that the caller chooses. It can be pickled and sent to other processes, and
    used after a fork: all of them share the one master.

    Args:
        host: any name of ssh_config.
        ssh_config: a file to use instead of ~/.ssh/config, as for `ssh -F`.
        login: whether a login may be made if no master is running.
        person: whether somebody at the terminal may be asked during a login.
        timeout: seconds that one operation on files may take; None means no limit.
        settings: take precedence over those of config.toml, and have the same types.

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
        # as they were given, except for the file's name: another process may have another working directory
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
        """Close the sessions that are open but unused. The master keeps running."""
        self.connection.close()
        self._shells.close()

    def login(self) -> Transport:
        """Log in now if no master is running, instead of at the first operation. Returns this object.

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

        A remote command cannot inherit our own streams, as a subprocess does. By default output is kept and
        input is empty.

        Args:
            command: a sequence, which is quoted; or a string, which is passed to the remote shell as it is.
            input: what it reads: bytes, text, or a file.
            stdin: the same as a file or a descriptor; DEVNULL, PIPE and None are an empty input.
            stdout: a file, a descriptor, or a function that is called with each piece of bytes. None or PIPE
                keeps the output; DEVNULL drops it.
            stderr: the same; STDOUT sends it to where stdout goes, in the order in which it was printed.
            capture_output: both are kept, which is the default anyway.
            cwd: the directory to run it in, relative to the home directory.
            env: further variables.
            timeout: seconds after which the remote process group is ended.
            check: raise an error if it returns non-zero.
            text: return the output as text, with line endings converted to newlines.
            encoding: the same, in this encoding; the default is UTF-8.
            errors: the same; how undecodable bytes are handled. The default is that of os.fsdecode.
            universal_newlines: the same as `text`.
            login_shell: run it in a login shell, which reads its profile.
            once: a key; the command never runs twice under it, and later calls return the first result.
            max_output: bytes of kept output after which the command is ended.
            options: all of these, except for the command, by name.

        Raises:
            CommandFailed: `check` is given and the return code is not 0. It is a
                subprocess.CalledProcessError.
            CommandTimeout: the timeout has passed; `output` and `stderr` contain what was printed. It is a
                subprocess.TimeoutExpired.
            ConnectionLost: the connection broke; see `started`.
            ConnectionFailed: another of its kinds; nothing has started.
            OnceError: the key belongs to another command, or its command was killed.
            SettingsError: an option is wrong; nothing was touched. `shell=` is one of these: there is always
                a shell.
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
        """Start a command and return when it has started. The options are those of subprocess.Popen.

        Args:
            command: as for `run`.
            stdin: PIPE, to write to `RemoteProcess.stdin`; a file or a descriptor, which a thread reads; None
                or DEVNULL for empty input.
            stdout: PIPE, to read from `RemoteProcess.stdout`; otherwise as for `run`.
            stderr: the same.
            cwd: as for `run`.
            env: as for `run`.
            timeout: seconds within which it must start.
            text: its pipes carry text.
            encoding: as for `run`.
            errors: as for `run`.
            universal_newlines: as for `run`.
            login_shell: as for `run`.
            options: all of these, but for the command, by name.

        Raises:
            CommandTimeout: it did not start in time, and never will.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
            SettingsError, OSError: as for `run`.
        """
        return self.commands.start(command, **options)

    @_shows(How)
    def put(self, source: Sources, destination: PathLike, **options: Unpack[TransferOptions]) -> Transferred:
        """Copy files and trees to the host, as `cp -r` does. A new file appears when it is complete.

        An existing file keeps its inode, owner, mode and hard links, as with `cp`. It is overwritten when all
        of the new content has arrived in a draft next to it. That has a price: the content is written twice
        and takes twice its space; a reader sees a mixture of both meanwhile; and if the machine or the
        connection fails then, the file is half written, but the draft `.ossh-…` is complete, and the same
        call finishes the work. If the file cannot be written completely, as on a full disk, the draft is
        renamed to it. To replace atomically what others read, put to a new name and call `replace`.

        Of a file that grows meanwhile, such as a log, you get the content that it had when it was first
        looked at. A file that is truncated, replaced or rewritten meanwhile is an error (EBUSY): a mixture of
        two versions never arrives.

        Args:
            source: a local path, with `~` and patterns as in a shell, or several of them.
            destination: a path on the host: a new name, or a directory that exists.
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
        """Copy files and trees from the host, as `cp -r` does. A new file appears when it is complete.

        Existing files, and files that change meanwhile, are handled as by `put`.

        Args:
            source: a path on the host, with `~` and patterns as in a shell, or several of them.
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
        """As os.listdir, but sorted; by sftp if the account gives no shell."""
        return self._transfer.listdir(path) if self._transfer.restricted else super().listdir(path)

    @_shows(Commands.run)
    def run_many(
        self, commands: Iterable[Command], *, limit: int | None = None, **options: Unpack[RunAny]
    ) -> list[CompletedCommand[Any]]:
        """Run many commands in parallel, within the budget of sessions; returns their results in order.

        Args:
            commands: each as for `run`.
            limit: how many at once; by default as many as there may be sessions.
            options: as for `run`, the same for all.

        Raises:
            Exception: the first failure, in the order of the commands. Commands that had not started are not
                run.
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
        """Forward a local port to the host through the master, for the length of a block. Takes no session.

        Connections that are open when the block ends continue.

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
    """How a transport is shown: as it was made, but without the values of settings, which are long."""

    def shown(value: object) -> object:
        return sorted(value) if isinstance(value, Mapping) else value

    words = [repr(host), *(f"{name}={shown(value)!r}" for name, value in options.items())]
    return f"{type(transport).__name__}({', '.join(words)})"
