"""Short questions to local programs: ssh's control commands, ssh-keygen, ssh-add, klist.

They go through the package `sh`, which forks inside the calling process: so only single-threaded programs
(the login process, the command line) may import this module, never the library.
Each question has a deadline, as a frozen master or agent answers never.
"""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from pathlib import Path

import sh

from opensshtransport.errors import ToolMissing

__all__ = [
    "Reply",
    "ask",
    "certificate_end",
    "control",
    "master_pid",
    "ticket_end",
]

_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a program said. `returncode` is None where it did not end within the deadline."""

    returncode: int | None
    stdout: str
    stderr: str


def ask(program: str, *arguments: str, timeout: float = _DEADLINE) -> Reply:
    """Run a local program that reads nothing and ends soon.

    Args:
        program: a name on PATH or a path.
        arguments: what follows it.
        timeout: seconds until it is killed.

    Raises:
        ToolMissing: there is no such program.
    """
    try:
        command = sh.Command(program)
    except sh.CommandNotFound as reason:
        raise ToolMissing(f"the program {program!r} was not found", advice="install it") from reason
    try:
        done = command(
            *arguments,
            _return_cmd=True,
            _ok_code=list(range(256)),
            _timeout=timeout,
            _in=None,
            _tty_out=False,
            # dates and messages are read by programs
            _env={**os.environ, "LC_ALL": "C"},
        )
    except sh.TimeoutException:
        return Reply(None, "", "")
    except sh.SignalException as reason:
        return Reply(128 - reason.exit_code, "", "")
    return Reply(done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def control(ssh: str, socket: Path, command: str, timeout: float = _DEADLINE) -> Reply:
    """Ask a master something locally: `check`, `exit` or `stop` (ssh(1), -O).

    `check` does not prove that the network is there; it also resets the ControlPersist timer.
    """
    # with -F none a control command needs no configuration, and any host name serves
    return ask(ssh, "-F", "none", "-O", command, "-S", str(socket), "--", "master", timeout=timeout)


def master_pid(ssh: str, socket: Path) -> int | None:
    """The process id of the master that listens at a socket, or None where none answers."""
    match = re.search(r"\(pid=(\d+)\)", control(ssh, socket, "check").stderr)
    return int(match[1]) if match else None


def certificate_end(certificate: Path) -> datetime.datetime | None:
    """When an OpenSSH certificate ends (ssh-keygen(1), -L); None for one without end.

    Raises:
        ToolMissing: ssh-keygen is not there.
        ValueError: it is no certificate.
    """
    reply = ask("ssh-keygen", "-L", "-f", str(certificate))
    match = re.search(
        r"^\s*Valid: (?:from \S+ to (\S+)|forever|before (\S+)|after \S+)", reply.stdout, re.MULTILINE
    )
    if reply.returncode != 0 or match is None:
        raise ValueError(f"{certificate} is not a certificate: {reply.stderr.strip()}")
    end = match[1] or match[2]
    return datetime.datetime.fromisoformat(end).astimezone() if end else None


def ticket_end() -> datetime.datetime | None:
    """When the Kerberos ticket-granting ticket ends (klist(1)), or None where there is none."""
    try:
        listing = ask("klist")
    except ToolMissing:
        return None
    match = re.search(r"^\S+\s+\S+\s+(\d\S*\s+\d\S*)\s+krbtgt/", listing.stdout, re.MULTILINE)
    if match is None:
        return None
    # the year has two digits in older releases
    form = "%m/%d/%y %H:%M:%S" if re.match(r"\d+/\d+/\d\d\s", match[1]) else "%m/%d/%Y %H:%M:%S"
    return datetime.datetime.strptime(" ".join(match[1].split()), form).astimezone()
