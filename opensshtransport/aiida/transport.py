"""The AiiDA transport `openssh`: AiiDA does everything with a computer through the one shared login.

It derives from AiiDA's `Transport` itself: the blocking methods of its `AsyncTransport` ask the runner for
its event loop, and so wait for a broker. Here the blocking methods do the work, and the async ones run them
in threads.

The trap: AiiDA submits a job again after any error, even if the job is in the queue and only the answer was
lost. So submissions use `once`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from aiida.common.exceptions import InvalidOperation
from aiida.transports.transport import TransportInternalError

from opensshtransport.aiida.archives import ArchiveTransport
from opensshtransport.aiida.connections import Connection, connections
from opensshtransport.aiida.faults import (
    AnyPath,
    awaited,
    checked,
    connected,
    connection_fault,
    within_portal,
)
from opensshtransport.aiida.options import (
    IGNORED,
    OPTIONS,
    SETTINGS,
    at_least_one,
    chosen,
    plain,
    plain_settings,
)
from opensshtransport.aiida.submissions import DIRECT, submission_key
from opensshtransport.aiida.transfers import TransferTransport
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.errors import CommandTimeout, ConnectionFailed, OnceError, OpenSshTransportError
from opensshtransport.master import aliases, control_socket, ensure
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import Destination, resolve
from opensshtransport.remote.wrapper import for_any_shell
from opensshtransport.transport import Transport

Answer = tuple[int, bytes, bytes]

# Shells in which a script in single quotes may not reach the command unchanged.
_OTHER_QUOTING = {"csh", "tcsh", "fish"}

_MARK = "ossh-submission"

# More submissions of one calculation than AiiDA and its user would ever try.
_MOST_SUBMISSIONS = 100

# How many characters of a command's output an error shows.
_SHOWN = 200


class OpenSshTransport(TransferTransport, ArchiveTransport):
    """The system's own OpenSSH with one login, shared with all daemon workers, programs and shells.

    Args:
        machine: the computer's hostname.
        host: a name of ssh_config; the hostname by default.
        max_io_allowed: how many async operations run at once; at least 1.
        ssh_config: another file than ~/.ssh/config, or "None".
        authentication_script, min_validity, persist, login_hook: as in config.toml, and take precedence over
            it; "None" if not set. Times may be numbers of seconds.
        safe_interval: seconds to wait before a login; no wait while a master is running.
        use_login_shell: whether commands run in a login shell.
    """

    _valid_auth_options = OPTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host: str = kwargs.get("host") or kwargs["machine"]
        self._settings: dict[str, object] = plain_settings({name: kwargs.get(name) for name in SETTINGS})
        self._ssh_config: str | None = plain(kwargs.get("ssh_config"))
        self._max_io_allowed = at_least_one(kwargs.get("max_io_allowed", 8))
        self._connection: Connection | None = None
        self._line: Transport | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._cwd = ""

    def __str__(self) -> str:
        return f"{'OPEN' if self._is_open else 'CLOSED'} [openssh {self.host}]"

    @property
    def max_io_allowed(self) -> int:
        """How many async operations run at once."""
        return self._max_io_allowed

    @classmethod
    def get_valid_auth_params(cls) -> list[str]:
        """The options in effect; those of other transports are accepted, but not kept."""
        return [name for name in cls.auth_options if name not in IGNORED]

    @classmethod
    def _get_host_suggestion_string(cls, computer: Any) -> str:
        return str(computer.hostname)

    @classmethod
    def _get_safe_interval_suggestion_string(cls, computer: Any) -> object:
        return chosen(computer, "safe_interval", cls._DEFAULT_SAFE_OPEN_INTERVAL)

    @classmethod
    def _get_use_login_shell_suggestion_string(cls, computer: Any) -> object:
        return chosen(computer, "use_login_shell", True)

    # -- opening -------------------------------------------------------------------------------------------

    @property
    def _key(self) -> tuple[object, ...]:
        # a value may be a list
        return (self.host, self._ssh_config, repr(sorted(self._settings.items())))

    def _resolve(self) -> Destination:
        return resolve(self.host, self._ssh_config, overrides=self._settings)

    def _facts(self, master: Master) -> Facts:
        """What is known of the live master; if none is running, make an unattended login."""
        facts = master.facts()
        if facts is not None and control_socket.listens(Path(facts.socket)):
            return facts
        return ensure.ensure(master.destination, person=False)

    def get_safe_open_interval(self) -> float:
        """Seconds to wait before opening: 0 while a master is running, because opening needs no login then.

        AiiDA asks within its event loop, so no program is started: a master that was opened by another name
        is not found before the first opening.
        """
        try:
            lives = self._known_to_live()
        except (OpenSshTransportError, OSError):
            lives = False
        return 0.0 if lives else float(self._safe_open_interval)

    def _known_to_live(self) -> bool:
        if known := connections.last(self._key):
            return known.master.listening() is not None
        return any(
            control_socket.listens(Path(facts.socket))
            for facts in control_socket.known()
            if (facts.host, facts.ssh_config) == (self.host, self._ssh_config)
        )

    @checked
    def open(self) -> OpenSshTransport:
        """Open it: without any network traffic if a master is running, else with an unattended login.

        Raises:
            InvalidOperation: it is open.
            ConnectionFault: no master is running, and only a person can log in; or another one.
        """
        if self._is_open:
            raise InvalidOperation("Cannot open the transport twice")
        master = Master(self._resolve())
        try:
            self._facts(master)
        except ConnectionFailed as reason:
            # `verdi computer test` shows no exception, but this
            fault = connection_fault(reason)
            self.logger.error("%s", fault)
            raise fault from reason
        self._connection = connections.get(
            self._key,
            master,
            lambda: Transport(self.host, ssh_config=self._ssh_config, person=False, settings=self._settings),
        )
        self._line = self._connection.transport
        self._cwd = ""
        self._is_open = True
        connected(self.host)
        return self

    def close(self) -> None:
        """Close it. The master keeps running.

        Raises:
            InvalidOperation: it is closed.
        """
        if not self._is_open:
            raise InvalidOperation("Cannot close the transport: it is already closed")
        self._is_open = False
        self._connection = self._line = None
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def open_async(self) -> OpenSshTransport:
        """As `open`; a login may take minutes."""
        return await self._in_thread(self.open)

    async def close_async(self) -> None:
        """As `close`."""
        self.close()

    async def __aenter__(self) -> OpenSshTransport:
        """Open it, unless it is open."""
        async with self._open_lock:
            if self._track_enter():
                await self.open_async()
        return self

    # -- commands ------------------------------------------------------------------------------------------

    def _bash(self, command: str) -> tuple[str | Sequence[str], bool]:
        """How to pass a command to bash unchanged, and whether bash is the login shell."""
        if self._connection is None:
            raise TransportInternalError("Error, a method was called without opening the transport first")
        shell = PurePosixPath(self._facts(self._connection.master).shell).name
        if shell == "bash":
            return command, self._use_login_shell
        argv = ["bash", *(["-l"] if self._use_login_shell else []), "-c", command]
        if shell not in _OTHER_QUOTING:
            return argv, False
        return for_any_shell(f"exec {shlex.join(argv)}"), False

    @contextlib.contextmanager
    def _exec_command_internal(
        self, command: str, workdir: AnyPath | None = None, **_: object
    ) -> Iterator[RemoteProcess[bytes]]:
        """Start a command with bash; returns the process, with `stdin`, `stdout`, `stderr` and `wait`."""
        text, login_shell = self._bash(command)
        where = self._path(workdir) if workdir else self._cwd or None
        with self._ssh.start(text, cwd=where, login_shell=login_shell) as process:
            yield process

    def exec_command_wait_bytes(
        self,
        command: str,
        stdin: object = None,
        workdir: AnyPath | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> Answer:
        """Run a command with bash, which gets its text unchanged.

        A command that submits a job from a calculation's working directory takes effect only once,
        see `submission_key`.

        Args:
            command: any text.
            stdin: text, bytes, or a file of either; None is an empty input.
            workdir: where it is run.
            timeout: seconds after which it is ended; `completed` of the error contains what it had printed.

        Raises:
            ValueError: stdin is something else.
            OSError: of its kinds, the directory.
            CommandTimeout: it was ended. It is a TimeoutError.
            ConnectionFault: the connection failed.
        """
        if portal := within_portal():
            answer: Answer = portal.await_(
                self.exec_command_wait_bytes_async(command, stdin, workdir, timeout)
            )
            return answer
        return _EXECUTE(self, command, stdin, workdir, timeout, None)

    def _execute(
        self,
        command: str,
        stdin: object,
        workdir: AnyPath | None,
        timeout: float | None,
        began: Callable[[RemoteProcess[bytes]], object] | None,
    ) -> Answer:
        where = self._path(workdir) if workdir else self._cwd or None
        input_ = _readable(stdin)
        key = submission_key(command, where)
        if DIRECT.fullmatch(command):
            # for the number, not for the job
            command = f"{command}\nwait"
        if key is not None and not input_:
            return self._submit(command, key, where, timeout)
        # as bash does
        text, login_shell = self._bash(command if command.strip() else ":")
        done = self._ssh.commands.run(
            text, input=input_, cwd=where, timeout=timeout, login_shell=login_shell, began=began
        )
        return done.returncode, _raw(done.stdout), _raw(done.stderr)

    def _submit(self, command: str, key: str, where: str | None, timeout: float | None) -> Answer:
        """Run a command that takes effect only once. If it failed, it had no effect, and may run again.

        Each run prints the word that it reads, which shows whether a failure belongs to an earlier run.
        """
        first = f'IFS= read -r ossh_word; echo "{_MARK} $ossh_word"; unset ossh_word; exec </dev/null'
        script = f"{first}\n{command}"
        text, login_shell = self._bash(script)
        word = secrets.token_hex(8)
        for number in range(_MOST_SUBMISSIONS):
            once = f"{key}-{number}"
            try:
                done = self._ssh.run(
                    text,
                    input=f"{word}\n",
                    cwd=where,
                    timeout=timeout,
                    login_shell=login_shell,
                    once=once,
                )
            except OnceError as reason:
                advice = (
                    "check whether the job is in the queue; to submit it again, remove on that computer "
                    f"~/.local/state/opensshtransport/once/{once}* and run: verdi process play"
                )
                raise OnceError(reason.message, host=self.host, advice=advice) from reason
            before, mark, after = _raw(done.stdout).partition(f"{_MARK} ".encode())
            whose, _, out = after.partition(b"\n")
            if done.returncode == 0 or (mark and whose.decode(errors="replace") == word):
                return done.returncode, before + out, _raw(done.stderr)
        raise OnceError(
            f"{_MOST_SUBMISSIONS} submissions have failed", host=self.host, advice="check the scheduler"
        )

    def exec_command_wait(
        self,
        command: str,
        stdin: object = None,
        encoding: str = "utf-8",
        workdir: AnyPath | None = None,
        timeout: float | None = None,
        **kwargs: object,
    ) -> tuple[int, str, str]:
        """As `exec_command_wait_bytes`, with the output as text; undecodable bytes become U+FFFD.

        Raises:
            CommandTimeout: it was ended; `stdout` and `stderr` contain what it had printed.
        """
        with _as_text(encoding):
            status, out, err = self.exec_command_wait_bytes(command, stdin, workdir, timeout, **kwargs)
        return status, out.decode(encoding, "replace"), err.decode(encoding, "replace")

    async def exec_command_wait_bytes_async(
        self,
        command: str,
        stdin: object = None,
        workdir: AnyPath | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> Answer:
        """As `exec_command_wait_bytes`; if it is cancelled, the remote command is ended."""
        running: list[RemoteProcess[bytes]] = []
        cancelled = threading.Event()

        def began(process: RemoteProcess[bytes]) -> None:
            running.append(process)
            if cancelled.is_set():
                process.end()

        work = functools.partial(_EXECUTE, self, command, stdin, workdir, timeout, began)
        try:
            return await self._in_thread(work)
        except asyncio.CancelledError:
            cancelled.set()
            for process in running[-1:]:
                threading.Thread(target=process.end, daemon=True).start()
            raise

    async def exec_command_wait_async(
        self,
        command: str,
        stdin: object = None,
        encoding: str = "utf-8",
        workdir: AnyPath | None = None,
        timeout: float | None = None,
        **kwargs: object,
    ) -> tuple[int, str, str]:
        """As `exec_command_wait`; where it is cancelled, the remote command is ended."""
        with _as_text(encoding):
            answer = await self.exec_command_wait_bytes_async(command, stdin, workdir, timeout, **kwargs)
        return answer[0], answer[1].decode(encoding, "replace"), answer[2].decode(encoding, "replace")

    @checked
    def whoami(self) -> str:
        """The remote user's name."""
        return self._ssh.whoami()

    def gotocomputer_command(self, remotedir: AnyPath | None = None) -> str:
        """A shell command line that opens a bash in a directory there, after a login where one is needed."""
        destination = self._resolve()
        master = Master(destination)
        facts = master.facts()
        socket = Path(facts.socket) if facts else master.listening() or master.own_socket
        bash = f"exec {self._bash_command_str.strip()}"
        if remotedir is not None:
            there = shlex.quote(str(remotedir))
            gone = f"echo 'The directory '{there}' seems to have been deleted, I logout...'"
            bash = f"if [ -d {there} ]; then cd {there} && {bash}; else {gone}; fi"
        control_path = aliases.control_path(master, socket)
        argv = command_lines.guarded_ssh(destination, control_path, command=for_any_shell(bash), tty=1)
        login = [sys.executable, "-m", "opensshtransport", "login", "-q"]
        login += ["-F", self._ssh_config] if self._ssh_config else []
        return f"{shlex.join([*login, '--', self.host])} && {shlex.join(argv)}"

    whoami_async = awaited(whoami)


_EXECUTE = checked(OpenSshTransport._execute)


@contextlib.contextmanager
def _as_text(encoding: str) -> Iterator[None]:
    """A timeout's error tells what had been printed, as text and in its words, which AiiDA reports."""
    try:
        yield
    except CommandTimeout as reason:
        done = reason.completed
        reason.stdout, reason.stderr = (
            _raw(getattr(done, name, None)).decode(encoding, "replace") for name in ("stdout", "stderr")
        )
        if printed := f"{reason.stdout}{reason.stderr}":
            reason.message = f"{reason.message}; it had printed {printed[-_SHOWN:]!r}"
        raise


def _raw(output: bytes | str | None) -> bytes:
    return output if isinstance(output, bytes) else b""


def _readable(stdin: object) -> bytes | IO[bytes] | None:
    """What a command is to read.

    Raises:
        ValueError: it is neither text nor bytes nor a file of either.
    """
    if isinstance(stdin, str):
        return stdin.encode()
    if isinstance(stdin, io.TextIOBase):
        return stdin.read().encode()
    if stdin is None or isinstance(stdin, bytes):
        return stdin
    if hasattr(stdin, "read"):
        return cast(IO[bytes], stdin)
    raise ValueError("You can only pass strings, bytes, BytesIO or StringIO objects")
