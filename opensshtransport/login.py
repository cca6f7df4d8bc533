"""Logging in: one run of ssh at a pseudo-terminal, and who may answer what it asks.

The trap: the master that ssh leaves behind belongs to the session of the pseudo-terminal, so when that is
closed it gets SIGHUP and dies in about half the runs, unless it was started with the signal ignored.
And ssh must never be answered with an empty line: that is a failed attempt which counts. To give up, end ssh.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect

from opensshtransport import aliases, openssh, tools
from opensshtransport.errors import (
    AuthenticationRefused,
    HostKeyUnknown,
    LoginNeeded,
    MasterGone,
    OpenSshTransportError,
    ToolMissing,
    connection_error,
)
from opensshtransport.master import Facts, Master, audit
from opensshtransport.openssh import Destination

__all__ = ["Person", "log_in", "open_master", "person_at_terminal"]

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at the controlling terminal, who sees what ssh says and types the answers."""

    terminal: int

    def show(self, text: bytes) -> None:
        """Write to the terminal."""
        while text:
            text = text[os.write(self.terminal, text) :]

    def read(self) -> bytes:
        """What was typed, b"" at the end of file."""
        return os.read(self.terminal, 1024)

    @contextlib.contextmanager
    def typing_through(self) -> Iterator[None]:
        """Pass each key on as it is; ssh's own pseudo-terminal does the echo, or does not for secrets."""
        before = termios.tcgetattr(self.terminal)
        try:
            tty.setraw(self.terminal, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def person_at_terminal() -> Iterator[Person | None]:
    """The person at the controlling terminal, None where there is none or we are in its background.

    A background process that touched the terminal would be stopped (SIGTTIN, SIGTTOU).
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield None
        return
    try:
        yield Person(terminal) if os.tcgetpgrp(terminal) == os.getpgrp() else None
    finally:
        os.close(terminal)


def open_master(destination: Destination, person: Person | None, *, login: bool = True) -> Facts:
    """See to it that a master lives, and publish the way to it. The login process's whole work.

    Args:
        destination: where to.
        person: who may be asked.
        login: whether a login may be made; else only a master that lives already is taken up.

    Raises:
        MasterGone: there is none, and none may be opened.
        LoginNeeded: only a person can go on.
        ConnectionFailed: one of its kinds, as ssh's own words tell.
    """
    openssh.version(destination.ssh)
    master = Master(destination)
    timeout = destination.settings.login_timeout
    with master.lock(2 * timeout):
        # somebody else may have opened it while we waited for the lock
        socket = master.check()
        if socket is None and not login:
            raise MasterGone("there is no live master", host=destination.host)
        if socket is None:
            # gone, frozen, cut off from the network, or a stale socket
            master.end()
            socket = master.own_socket
            argv = openssh.master_command(destination, socket=socket, log=master.log, batch=person is None)
            begin = time.monotonic()
            try:
                log_in(argv, host=destination.host, log=master.log, person=person, timeout=timeout)
            except OpenSshTransportError as error:
                audit(
                    destination, f"failed: {type(error).__name__}: {error.message}", time.monotonic() - begin
                )
                raise
            audit(destination, "logged in", time.monotonic() - begin)
        facts = master.facts()
        pid = tools.master_pid(destination.ssh, socket)
        if pid is None:
            raise MasterGone("the master ended at once", host=destination.host, stderr=_text(master.log))
        if facts is None or facts.pid != pid or facts.socket != str(socket):
            facts = master.describe(socket, ours=socket == master.own_socket, pid=pid)
            master.write_facts(facts)
        aliases.publish(master, facts)
        return facts


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def log_in(argv: Sequence[str], *, host: str, log: Path, person: Person | None, timeout: float) -> None:
    """Run ssh until it has logged in and went into the background.

    Args:
        argv: the master's command line, with BatchMode where `person` is None.
        host: the destination as the caller named it, for messages.
        log: the file that ssh was told to log to (-E).
        person: who answers the prompts.
        timeout: seconds for the whole login.

    Raises:
        LoginNeeded: only a person could go on, or the one there gave no answer in time.
        ConnectionFailed: one of its kinds, as ssh's own words tell.
        ToolMissing: ssh cannot be run.
    """
    log.unlink(missing_ok=True)
    try:
        child: pexpect.spawn[str] = pexpect.spawn(
            argv[0], list(argv[1:]), timeout=None, ignore_sighup=True, dimensions=_size(person)
        )
    except pexpect.ExceptionPexpect as reason:
        raise ToolMissing(f"{argv[0]} cannot be run: {reason}", host=host) from reason
    try:
        said = _converse(child, person, time.monotonic() + timeout)
        # its terminal is closed, so it has ended, or gone into the background by ending
        child.wait()
    except TimeoutError as reason:
        raise LoginNeeded(f"the login did not end within {timeout:.0f} s", host=host, argv=argv) from reason
    finally:
        # ends ssh where we leave early: SIGTERM at a prompt costs no counted failure
        child.close(force=True)
    if child.exitstatus == 0:
        return
    words = said.decode(errors="replace") + _text(log)
    error = connection_error(words, host=host, argv=argv, returncode=child.exitstatus)
    if person is None and isinstance(error, AuthenticationRefused | HostKeyUnknown):
        raise LoginNeeded(
            f"a person must log in: {error.message}", host=host, argv=argv, returncode=255, stderr=words
        ) from error
    raise error


def _converse(child: pexpect.spawn[str], person: Person | None, deadline: float) -> bytes:
    """Carry what is said between ssh and the person, until ssh has gone; return what ssh said.

    Raises:
        TimeoutError: the deadline has passed.
    """
    said = b""
    with person.typing_through() if person else contextlib.nullcontext():
        readers = [child.child_fd, *([person.terminal] if person else [])]
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready, _, _ = select.select(readers, [], [], left)
            if child.child_fd in ready:
                try:
                    piece = os.read(child.child_fd, _CHUNK)
                except OSError:
                    # Linux says EIO when the last process has closed the pseudo-terminal
                    return said
                if not piece:
                    return said
                said += piece
                if person:
                    person.show(piece)
            if person and person.terminal in ready:
                typed = person.read()
                if not typed:
                    readers.remove(person.terminal)
                os.write(child.child_fd, typed)


def _size(person: Person | None) -> tuple[int, int]:
    """Rows and columns of the person's terminal."""
    if person is None:
        return 24, 80
    packed = fcntl.ioctl(person.terminal, termios.TIOCGWINSZ, b"\0" * 8)
    rows, columns, _, _ = struct.unpack("HHHH", packed)
    return rows or 24, columns or 80
