"""Running a command with our own stdin, stdout and stderr, for `ossh-run` if its script cannot.

The trap: what start-up files print on stdout comes before the command's own output, and must be dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import select
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import CommandTimeout, ConnectionLost, SettingsError
from opensshtransport.local.descriptors import Typed, opened_anew, wait_for_terminal
from opensshtransport.master import aliases, control_socket, ensure
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import Destination
from opensshtransport.openssh.diagnosis import log_error, logged_status
from opensshtransport.openssh.run_log import RunLog
from opensshtransport.remote.wrapper import wrapper
from opensshtransport.sessions.attempts import Patience, attempt
from opensshtransport.sessions.remote_kill import NO_STATUS, end_group

# One argument of a command line holds 131,071 bytes on Linux (execve(2), MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 131_071

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a command is run for `ossh-run`.

    Attributes:
        no_stdin: read nothing (-n).
        tty: how many times a terminal was asked for (-t).
        timeout: seconds after which the remote process group is ended; None for no limit.
        login: whether a login may be made where no master is running.
        person: whether somebody at the terminal may be asked for it.
        verbose: report each step.
    """

    no_stdin: bool = False
    tty: int = 0
    timeout: float | None = None
    login: bool = True
    person: bool = True
    verbose: bool = False


def pass_through(
    destination: Destination, command: str | None, options: Options, *, earlier_log: str | None = None
) -> int:
    """Run a command with our own stdin, stdout and stderr.

    Args:
        destination: where to.
        command: for the remote login shell; None for that shell itself, as ssh starts it: on a terminal if
            stdin is one, and without dropping any output.
        options: how.
        earlier_log: what ssh wrote when it was started for this command before; "" if that is lost, None if
            it was not started.

    Returns:
        The command's status; 128+N if signal N killed it.

    Raises:
        CommandTimeout: it ran longer than `options.timeout`; its process group was ended.
        ConnectionLost: it is known, or not known, that the command had started.
        ConnectionFailed: another of its kinds; the command has not started.
        SettingsError: the command is too long.
    """
    if command is None and not options.tty and not options.no_stdin and os.isatty(0):
        options = dataclasses.replace(options, tty=1)
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    shared, log = Master(destination), earlier_log

    def revive() -> Facts:
        if options.verbose:
            _tell(f"{destination.host}: looking for a running master, logging in if there is none")
        return ensure.ensure(destination, login=options.login, person=options.person)

    def once() -> int:
        nonlocal log
        if log is None:
            facts = shared.facts()
            if facts is None or not control_socket.listens(Path(facts.socket)):
                facts = revive()
            else:
                # ssh_config was edited, or this name is new: next time ossh-run finds its way without Python
                aliases.publish(shared, facts)
            status, log = _run(shared, facts, command, options, deadline)
            if status is not None:
                return status
        said, log = log, None
        error = log_error(said, destination.host)
        if isinstance(error, ConnectionLost) and error.started and shared.check() is not None:
            error = ConnectionLost(NO_STATUS, host=destination.host, started=True, stderr=said)
        raise error

    return attempt(once, Patience(Slots(shared), deadline), revive, host=destination.host)


def _tell(text: str) -> None:
    sys.stderr.write(f"ossh-run: {text}\n")


def _run(
    shared: Master, facts: Facts, command: str | None, options: Options, deadline: float | None
) -> tuple[int | None, str]:
    """Run a command once; its status, or None and ssh's log."""
    destination = shared.destination
    wrap = wrapper(
        secrets.token_hex(8) if facts.shell and command is not None else "", posix=facts.posix_shell
    )
    text = None if command is None else wrap.wrap(command, tty=options.tty > 0)
    if text and len(os.fsencode(text)) > _LONGEST_ARGUMENT:
        raise SettingsError(
            f"the command is longer than {_LONGEST_ARGUMENT} bytes",
            host=destination.host,
            topic="ossh-run",
            advice="send it as a script on stdin: ossh-run HOST sh < script",
        )
    log = RunLog(shared.directory)
    argv = command_lines.guarded_ssh(
        destination,
        command_lines.literal(Path(facts.socket)),
        command=text,
        tty=options.tty,
        no_stdin=options.no_stdin,
        log=log.path,
    )
    if options.verbose:
        _tell(shlex.join(argv))
    marked = bool(wrap.mark) and not options.tty
    session = _Session(mark=wrap.mark if marked else "")
    typed = os.isatty(0) and not options.no_stdin and not options.tty
    if options.tty and os.isatty(0):
        wait_for_terminal()
    try:
        with (
            opened_anew() as (stdin, stdout, stderr),
            subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if typed else stdin,
                stdout=stdout if options.tty else subprocess.PIPE,
                stderr=stderr,
            ) as ssh,
        ):
            try:
                if not options.tty:
                    session.copy(ssh, deadline)
                ssh.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except BaseException as reason:
                # end our ssh first: what it has asked for by now, the server starts before it starts the
                # search
                ssh.kill()
                ssh.wait()
                end_group(shared, facts, session.mark.decode())
                if isinstance(reason, BrokenPipeError | ConnectionResetError):
                    # the reader of our output has gone: end as the command itself would
                    return 128 + signal.SIGPIPE, ""
                if isinstance(reason, subprocess.TimeoutExpired | TimeoutError):
                    raise CommandTimeout(
                        f"the command ran longer than {options.timeout:g} s and was ended",
                        host=destination.host,
                        advice="give it more time with --timeout",
                    ) from reason
                raise
        said = log.read()
    finally:
        log.close()
    return logged_status(said), said


class _Session:
    """The output of one session: what comes before the mark is dropped, the rest is passed on."""

    def __init__(self, mark: str) -> None:
        self.mark = mark.encode()
        self._before = b"" if mark else None

    def copy(self, ssh: subprocess.Popen[bytes], deadline: float | None) -> None:
        """Pass the output on until its end.

        Raises:
            TimeoutError: the deadline has passed.
            BrokenPipeError, ConnectionResetError: nobody reads our output; the second if it is a socket.
        """
        source = ssh.stdout.fileno() if ssh.stdout else -1
        with Typed(ssh.stdin) if ssh.stdin else contextlib.nullcontext() as typed:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if typed is None:
                    ready = select.select([source], [], [], left)[0]
                else:
                    ready = typed.wait([source], left)
                if source in ready:
                    piece = os.read(source, _PIECE)
                    if not piece:
                        return
                    _write(self._after_mark(piece))
                elif deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError

    def _after_mark(self, piece: bytes) -> bytes:
        if self._before is None:
            return piece
        self._before += piece
        match = re.search(rb"(?:^|\n)%b \d+\n" % self.mark, self._before)
        if match is None:
            # endless start-up noise must not fill the memory
            self._before = self._before[-_PIECE:]
            return b""
        rest, self._before = self._before[match.end() :], None
        return rest


def _write(piece: bytes) -> None:
    """Write to our stdout, all of it.

    Raises:
        OSError: it cannot be written to; the file name of the error is `stdout`.
    """
    while piece:
        # another ssh may have set O_NONBLOCK on a pipe that it shares with us
        select.select([], [1], [])
        try:
            piece = piece[os.write(1, piece) :]
        except BlockingIOError:
            pass
        except OSError as reason:
            reason.filename = "stdout"
            raise
