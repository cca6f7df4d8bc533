"""The errors of this package; which of them ssh's own words mean is in `openssh.diagnosis`.

The tree::

    OpenSshTransportError
    ├── SettingsError                 (ValueError)  config.toml, an option or an argument is wrong
    ├── ToolMissing                                 ssh, or another local program, is not there or too old
    ├── CommandFailed      (CalledProcessError)     a remote command returned non-zero and `check` was asked
    ├── CommandTimeout                (TimeoutError, TimeoutExpired)
    ├── OnceError                                   the `once` key is another command's, or was cut down
    └── ConnectionFailed              (OSError)
        ├── ConfigurationError                      ssh refuses ssh_config or the destination
        ├── Unreachable                             refused, timed out, name unknown, no route
        │   └── AddressRefused                      the server takes no login from this address for a while
        ├── HostKeyError
        │   ├── HostKeyUnknown
        │   └── HostKeyChanged
        ├── AuthenticationRefused
        │   └── TooManyFailures
        ├── LoginNeeded                             only a person can go on
        │   ├── UnexpectedPrompt                    something was asked that no rule answers
        │   └── CoolingDown                         logins have failed; none is tried for now
        ├── SessionRefused                          the server gives no further session; nothing had started
        ├── MasterGone                              no live master; nothing had started
        └── ConnectionLost                          broke while a command ran; see `started`

The trap: ssh's stderr is mixed with the remote command's. So `classify` is only for text that ssh alone
wrote (its `-E` log, or the stderr of a call that runs no remote command), and its patterns are anchored at
the beginning of a line. Likewise ssh's status 255 may be the command's own, or mean that a signal killed it,
that the master died or that no session could be opened; only ssh's log can tell: `logged_status`,
`log_error`.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AddressRefused",
    "AuthenticationRefused",
    "CommandFailed",
    "CommandTimeout",
    "ConfigurationError",
    "ConnectionFailed",
    "ConnectionLost",
    "CoolingDown",
    "HostKeyChanged",
    "HostKeyError",
    "HostKeyUnknown",
    "LoginNeeded",
    "MasterGone",
    "OnceError",
    "OpenSshTransportError",
    "Remedy",
    "SessionRefused",
    "SettingsError",
    "TooManyFailures",
    "ToolMissing",
    "UnexpectedPrompt",
    "Unreachable",
    "printable",
]


_TAIL_LINES = 12

# How many characters of a line of stderr are shown.
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Remedy:
    """How to fix it: some words, followed by the command of ours that does it, if there is one.

    The command is a field of its own, because only the code that prints the error knows how to call it.

    Attributes:
        words: a clause without a final stop; if a command follows, what comes before it.
        command: such as `ossh login`, which a host follows; "" for none.
        operands: what follows the host, if anything.
    """

    words: str
    command: str = ""
    operands: str = ""

    @classmethod
    def of(cls, advice: Remedy | str) -> Remedy:
        """A remedy as it is, or one made from words alone."""
        return cls(advice) if isinstance(advice, str) else advice

    def clause(self, host: str | None, ssh_config: str | None = None) -> str:
        """The clause, with the command as it is called for a host."""
        if not self.command:
            return self.words
        config = "" if ssh_config is None else f" -F {shlex.quote(ssh_config)}"
        called = f"{self.words}{self.command}{config} {shlex.quote(host) if host else 'HOST'}"
        return f"{called} {self.operands}" if self.operands else called


_LOG_IN = Remedy("run: ", "ossh login")


class OpenSshTransportError(Exception):
    """Root of all errors of this package.

    Attributes:
        host: the destination as the caller named it, or None.
        remedy: how to fix it.
        topic: the page of the manual about it, for `ossh help`; may be empty.
        argv: the local command line that failed, or ().
        returncode: its exit status, or None.
        stderr: the last lines of what ssh itself said.
    """

    advice_by_default = Remedy("")
    topic = ""

    def __init__(
        self,
        message: str,
        *,
        host: str | None = None,
        advice: Remedy | str | None = None,
        topic: str | None = None,
        argv: Sequence[str] = (),
        returncode: int | None = None,
        stderr: str = "",
    ) -> None:
        # not super(): in an error that is subprocess's too, that would expect other arguments
        Exception.__init__(self, message)
        self.message = message
        self.host = host
        self.remedy = Remedy.of(self.advice_by_default if advice is None else advice)
        if topic is not None:
            self.topic = topic
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = "\n".join(stderr.strip().splitlines()[-_TAIL_LINES:])

    @property
    def advice(self) -> str:
        """The remedy as a clause; may be empty."""
        return self.remedy.clause(self.host)

    def told(self, note: str = "") -> str:
        """`HOST: what happened; how to fix it`, on one line; a note follows what happened."""
        what = f"{self.host}: {self.message}{note}" if self.host else f"{self.message}{note}"
        return f"{what}; {self.advice}" if self.advice else what

    def __str__(self) -> str:
        """The sentence without a note."""
        return self.told()


class SettingsError(OpenSshTransportError, ValueError):
    """A setting, an option or an argument is wrong; nothing has been touched."""


class ToolMissing(OpenSshTransportError):
    """A local program is missing or too old."""


class CommandFailed(OpenSshTransportError, subprocess.CalledProcessError):
    """A remote command returned non-zero and the caller asked for `check`; shown with the end of its stderr.

    Attributes:
        completed: the command's `CompletedCommand`, or None.
        cmd, output, stdout: as subprocess.CalledProcessError has them.
        stderr: the last lines of what it said, as text; `completed` has all.
    """

    completed: Any = None
    cmd: Any = ()
    output: Any = None
    returncode: int
    stderr: str

    def told(self, note: str = "") -> str:
        """What failed, and below it what the command said."""
        return "\n    ".join([super().told(note), *map(_shown, printable(self.stderr).splitlines())])


class CommandTimeout(OpenSshTransportError, TimeoutError, subprocess.TimeoutExpired):
    """A remote command ran longer than its timeout. `run` has ended it; `wait` and `communicate` have not.

    Attributes:
        completed: the command's `CompletedCommand` with what it had printed, or None.
        cmd, timeout, output, stdout, stderr: as subprocess.TimeoutExpired has them.
    """

    topic = "ossh-run"
    completed: Any = None
    cmd: Any = ()
    timeout: Any = None
    output: Any = None
    stdout: Any
    stderr: Any


class OnceError(OpenSshTransportError):
    """A command that is to run only once cannot be run, or its result is not available."""

    topic = "ossh-run"


class ConnectionFailed(OpenSshTransportError, OSError):
    """The connection could not be made, or did not hold.

    Attributes:
        started: whether the remote command had started: False, True, or None where it cannot be known.
    """

    topic = "errors"
    started: bool | None = False


class ConfigurationError(ConnectionFailed):
    """ssh refuses its configuration, or the destination cannot be resolved by it."""

    advice_by_default = Remedy("correct the line that is named (see man ssh_config)")


class Unreachable(ConnectionFailed):
    """The server, or a jump host before it, could not be reached."""

    topic = "doctor"
    advice_by_default = Remedy("check the network (VPN?) and HostName, Port and ProxyJump in ssh_config")


class AddressRefused(Unreachable):
    """The server accepts no login from this address for a while, usually because logins have failed.

    sshd does so from 9.8 on (sshd_config(5), PerSourcePenalties). A refused connection does not prolong it.
    """

    topic = "locked-out"
    advice_by_default = Remedy(
        "wait (with sshd's defaults, 10 minutes at most); each further failed login makes it longer"
    )


class HostKeyError(ConnectionFailed):
    """The server's host key was not accepted."""

    advice_by_default = Remedy("ask your centre about its host key")


class HostKeyUnknown(HostKeyError):
    """The host key is in no known_hosts file; only a person may accept it."""

    advice_by_default = Remedy("compare the fingerprint with your centre's pages and run: ", "ossh login")


class HostKeyChanged(HostKeyError):
    """The host key differs from the known one."""

    advice_by_default = Remedy(
        "ask your centre whether the host key was changed before you remove the old one"
    )


class AuthenticationRefused(ConnectionFailed):
    """The server took none of the keys, tickets or answers that were offered."""

    topic = "logging-in"
    advice_by_default = _LOG_IN


class TooManyFailures(AuthenticationRefused):
    """The server ended the attempt because too many keys or answers failed."""

    topic = "locked-out"
    advice_by_default = Remedy("set IdentityFile and IdentitiesOnly in ssh_config, then run: ", "ossh login")


class LoginNeeded(ConnectionFailed):
    """There is no live master, and only a person can open one."""

    topic = "logging-in"
    advice_by_default = _LOG_IN


class UnexpectedPrompt(LoginNeeded):
    """A prompt appeared that no rule answers, and nobody is at a terminal; nothing was sent."""

    topic = "prompts"


class CoolingDown(LoginNeeded):
    """Logins have failed before, so no unattended login is tried for now."""

    topic = "locked-out"


class SessionRefused(ConnectionFailed):
    """The server opens no further session on this connection (MaxSessions); nothing had started."""

    advice_by_default = Remedy("wait until other commands have ended")


class MasterGone(ConnectionFailed):
    """No live master answers; nothing had started."""

    topic = "one-master"
    advice_by_default = _LOG_IN


class ConnectionLost(ConnectionFailed):
    """The connection broke while a command was running or about to run."""

    topic = "guarantees"
    advice_by_default = Remedy("check whether it took effect before you run it again")

    def __init__(self, message: str, *, started: bool | None = None, **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]  # passed through to the base as given
        self.started = started


def printable(text: str) -> str:
    """Text from elsewhere, made safe for a terminal: control characters are spelled out."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text.replace("\r\n", "\n")
    )


def _shown(line: str) -> str:
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
