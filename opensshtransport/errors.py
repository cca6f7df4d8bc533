"""The errors of this package, and what ssh's own words mean.

The tree::

    OpenSshTransportError
    ├── SettingsError                 (ValueError)  config.toml, an option or an argument is wrong
    ├── ToolMissing                                 ssh, or another local program, is not there or too old
    ├── CommandFailed                               a remote command returned non-zero and `check` was asked
    ├── CommandTimeout                (TimeoutError)
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
that the master died or that no session was had; only ssh's log can tell: `logged_status`, `log_error`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import NamedTuple

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
    "SessionRefused",
    "SettingsError",
    "TooManyFailures",
    "ToolMissing",
    "UnexpectedPrompt",
    "Unreachable",
    "classify",
    "connection_error",
    "errno_of",
    "log_error",
    "logged_status",
    "printable",
    "tells_cause",
]

_TAIL_LINES = 12

# What the guard of a command line writes to stderr where no master lives.
NO_MASTER = "opensshtransport: no live master"


class OpenSshTransportError(Exception):
    """Root of all errors of this package.

    Attributes:
        host: the destination as the caller named it, or None.
        advice: the one thing to do next, as a clause without a final stop; may be empty.
        argv: the local command line that failed, or ().
        returncode: its exit status, or None.
        stderr: the last lines of what ssh itself said.
    """

    advice_by_default = ""

    def __init__(
        self,
        message: str,
        *,
        host: str | None = None,
        advice: str | None = None,
        argv: Sequence[str] = (),
        returncode: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.advice = self.advice_by_default.format(host=host or "HOST") if advice is None else advice
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = "\n".join(stderr.strip().splitlines()[-_TAIL_LINES:])

    def __str__(self) -> str:
        """`HOST: what happened, what to do`, on one line."""
        what = f"{self.host}: {self.message}" if self.host else self.message
        return f"{what}; {self.advice}" if self.advice else what


class SettingsError(OpenSshTransportError, ValueError):
    """A setting, an option or an argument is wrong; nothing has been touched."""


class ToolMissing(OpenSshTransportError):
    """A local program is missing or too old."""


class CommandFailed(OpenSshTransportError):
    """A remote command returned non-zero and the caller asked for `check`.

    Attributes:
        completed: the command's `CompletedCommand`, or None.
    """

    completed: object = None


class CommandTimeout(OpenSshTransportError, TimeoutError):
    """A remote command ran longer than its timeout and was ended.

    Attributes:
        completed: the command's `CompletedCommand` with what it had printed, or None.
        stdout: what it had printed, as text, where text was asked for.
    """

    completed: object = None
    stdout: str = ""


class OnceError(OpenSshTransportError):
    """A command that is to run only once cannot be run, or its result is not to be had."""


class ConnectionFailed(OpenSshTransportError, OSError):
    """The connection could not be made, or did not hold.

    Attributes:
        started: whether the remote command had started: False, True, or None where it cannot be known.
    """

    started: bool | None = False


class ConfigurationError(ConnectionFailed):
    """ssh refuses its configuration, or the destination cannot be resolved by it."""

    advice_by_default = "correct the line that is named (see man ssh_config)"


class Unreachable(ConnectionFailed):
    """The server, or a jump host before it, could not be reached."""

    advice_by_default = "check the network (VPN?) and HostName, Port and ProxyJump in ssh_config"


class AddressRefused(Unreachable):
    """The server takes no login from this address for a while, most often since logins have failed.

    sshd does so from 9.8 on (sshd_config(5), PerSourcePenalties); being refused makes it no longer.
    """

    advice_by_default = "wait, by sshd's defaults 10 minutes at most; each login that fails makes it longer"


class HostKeyError(ConnectionFailed):
    """The server's host key was not accepted."""

    advice_by_default = "ask your centre about its host key"


class HostKeyUnknown(HostKeyError):
    """The host key is in no known_hosts file; only a person may accept it."""

    advice_by_default = "compare the fingerprint with your centre's pages and run: ossh login {host}"


class HostKeyChanged(HostKeyError):
    """The host key differs from the known one."""

    advice_by_default = "ask your centre whether the host key was changed before you remove the old one"


class AuthenticationRefused(ConnectionFailed):
    """The server took none of the keys, tickets or answers that were offered."""

    advice_by_default = "run: ossh login {host}"


class TooManyFailures(AuthenticationRefused):
    """The server ended the attempt since too many keys or answers failed."""

    advice_by_default = "set IdentityFile and IdentitiesOnly in ssh_config, then run: ossh login {host}"


class LoginNeeded(ConnectionFailed):
    """There is no live master, and only a person can open one."""

    advice_by_default = "run: ossh login {host}"


class UnexpectedPrompt(LoginNeeded):
    """Something was asked that no rule answers, and nobody is at a terminal; nothing was sent."""


class CoolingDown(LoginNeeded):
    """Logins have failed before, so none is tried without a person, or not yet."""


class SessionRefused(ConnectionFailed):
    """The server opens no further session on this connection (MaxSessions); nothing had started."""

    advice_by_default = "wait until other commands have ended"


class MasterGone(ConnectionFailed):
    """No live master answers; nothing had started."""

    advice_by_default = "run: ossh login {host}"


class ConnectionLost(ConnectionFailed):
    """The connection broke while a command was running or about to run."""

    advice_by_default = "look whether the command took effect before running it again"

    def __init__(self, message: str, *, started: bool | None = None, **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]  # passed through to the base as given
        self.started = started


class _Meaning(NamedTuple):
    """One row of the table: a pattern on a line of ssh's own, the error it means, and what to say."""

    pattern: re.Pattern[str]
    error: type[ConnectionFailed]
    message: str


def _row(pattern: str, error: type[ConnectionFailed], message: str) -> _Meaning:
    return _Meaning(re.compile(pattern, re.MULTILINE), error, message)


# ssh ends its own lines by \r\n at a terminal, and newer versions put the function's name in front.
_EOL = r"\.?\r?$"
_WHO = r"(?:[^\s@:]+@)?\S+?"

# The first row that matches anywhere in the text decides; so causes stand before their consequences:
# a refused session, say, is followed by the guard's "Connection closed".
_MEANINGS: tuple[_Meaning, ...] = (
    _row(
        r"^(?:mux_client_request_session: )?session request failed: ",
        SessionRefused,
        "the server opens no further session on this connection",
    ),
    _row(
        # whatever else it says has come after the master was asked, as far as can be known
        r"^mux_client_request_session: (?!master alive request failed)"
        r"|^(?:read from master failed|write packet): ",
        ConnectionLost,
        "the connection broke while the command was being sent",
    ),
    _row(
        # the guard's own mark, or what it leaves in a log at DEBUG
        rf"^{NO_MASTER}\r?$|^debug1: Control socket .* does not exist"
        r"|^debug1: Executing proxy command: exec false"
        r"|^mux_client_(?:hello_exchange|request_alive): |^mux_client_request_session: master alive "
        r"|^muxclient: master (?:hello exchange|alive check) failed"
        r"|^Control socket connect\(.*\): |^Control socket .* does not exist"
        r"|^mux_client_.*: (?:master (?:alive|hello) |.*Broken pipe)",
        MasterGone,
        "no live master answers",
    ),
    _row(
        r"^@\s+WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!"
        r"|^Host key for \S+ has changed and you have requested strict checking"
        r"|^@\s+WARNING: POSSIBLE DNS SPOOFING DETECTED!"
        r"|^@\s+WARNING: REVOKED HOST KEY DETECTED!|^Host key \S+ \S+ revoked by file ",
        HostKeyChanged,
        "the host key is not the one that is known",
    ),
    _row(
        # sshconnect.c (check_host_key); a certificate may be good, and not for this name or time
        r"^Certificate (?:invalid: |lacks )|^host key \S+ not permitted by ",
        HostKeyError,
        "the host key was not accepted",
    ),
    _row(
        r"^No \S+ host key is known for .* and you have requested strict checking"
        r"|^Host key verification failed" + _EOL,
        HostKeyUnknown,
        "the host key is not known yet",
    ),
    _row(
        r"^(?:Received disconnect from .*: )?Too many authentication failures" + _EOL,
        TooManyFailures,
        "the server ended the login after too many failures",
    ),
    _row(
        rf"^(?:{_WHO}: )?Permission denied \([a-z0-9@.,-]*\){_EOL}",
        AuthenticationRefused,
        "the server accepted none of the keys, tickets or answers",
    ),
    _row(
        r"^ssh: Could not resolve host(?:name)? ",
        Unreachable,
        "the host name is not known to the name service",
    ),
    _row(
        r"^ssh: connect to host .* port \d+: Connection refused",
        Unreachable,
        "the server refused the connection",
    ),
    _row(
        r"^ssh: connect to host .* port \d+: (?:Connection|Operation) timed out"
        r"|^Connection timed out during banner exchange",
        Unreachable,
        "the server did not answer in time",
    ),
    _row(
        r"^ssh: connect to host .* port \d+: (?:No route to host|Network is unreachable|.*)",
        Unreachable,
        "there is no way to the server",
    ),
    _row(
        r"^(?:.*: line \d+: )?Bad configuration option|^.*: terminating, \d+ bad configuration options"
        r"|^command-line(?: line \d+)?: |^\S+ line \d+: |^Can't open user config file "
        r"|^Bad owner or permissions on |^unknown option -- |^hostname contains invalid characters"
        r"|^remote username contains invalid characters|^Bad \S+ specification"
        r"|^(?:\w+: )?unknown key %",
        ConfigurationError,
        "ssh refuses its configuration",
    ),
    _row(
        r"^kex_exchange_identification: |^ssh_exchange_identification: |^banner exchange: "
        r"|^Connection (?:closed|reset) by .* port \d+|^Connection to .* closed by remote host"
        r"|^(?:client_loop: )?send disconnect: |^Timeout, server .* not responding"
        r"|^Unable to negotiate with |^stdio forwarding failed|^channel \d+: open failed: "
        r"|^Connection closed by UNKNOWN port|^Read from remote host .*: |^packet_write_wait: "
        # the last one is all that 7.4 says where a ProxyCommand has ended
        rf"|^ssh_dispatch_run_fatal: |^Received disconnect from .* port \d+:\d+: |^write: Broken pipe{_EOL}",
        Unreachable,
        "the server, or a jump host before it, ended the connection",
    ),
)

# What ssh says where it knows no more than that the other side is gone. From 9.5 on it may say less than
# before: the words of `kex_exchange_identification` are for -v alone.
_ENDED = re.compile(
    r"^(?:(?:kex|ssh)_exchange_identification: |banner exchange: |write: Broken pipe)"
    r"|^Connection (?:closed|reset) by .* port \d+",
    re.MULTILINE,
)


def tells_cause(stderr: str) -> bool:
    """Whether ssh's own words name a cause, or no more than that the connection has ended."""
    rest = "\n".join(line for line in stderr.splitlines() if not _ENDED.match(line))
    return _meaning(rest, None) is not None


def classify(stderr: str, returncode: int | None) -> type[ConnectionFailed] | None:
    """Tell which error ssh's own words mean.

    Args:
        stderr: text that ssh alone wrote (its `-E` log, or stderr of a call without a remote command).
        returncode: ssh's exit status; None if it is not known. Any status but 255 is the remote
            command's own (ssh(1), EXIT STATUS), so nothing has failed.

    Returns:
        The class of the error, or None where the words tell nothing.
    """
    meaning = _meaning(stderr, returncode)
    return meaning.error if meaning else None


def _meaning(stderr: str, returncode: int | None) -> _Meaning | None:
    if returncode is not None and returncode != 255:
        return None
    return next((row for row in _MEANINGS if row.pattern.search(stderr)), None)


def connection_error(
    stderr: str,
    *,
    host: str,
    argv: Sequence[str] = (),
    returncode: int | None = 255,
    otherwise: type[ConnectionFailed] = ConnectionFailed,
) -> ConnectionFailed:
    """Build the error that ssh's own words mean, with ssh's decisive line in its message.

    Args:
        stderr: text that ssh alone wrote.
        host: the destination as the caller named it.
        argv: the command line that failed.
        returncode: ssh's exit status.
        otherwise: the class to use where the words tell nothing.
    """
    meaning = _meaning(stderr, returncode)
    if meaning is None:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        said = lines[-1] if lines else f"it gave no reason (status {returncode})"
        return otherwise(f"ssh failed: {said}", host=host, argv=argv, returncode=returncode, stderr=stderr)
    match = meaning.pattern.search(stderr)
    line = ""
    if match is not None:
        line = stderr[match.start() :].splitlines()[0].strip().strip("@").strip()
    return meaning.error(
        f"{meaning.message} ({line})", host=host, argv=argv, returncode=returncode, stderr=stderr
    )


# What ssh says where it has asked no master for the command: there is none, or not one that greets. Other
# words prove nothing, as lines may be missing: the disk was full for a moment, or ssh was killed before.
_NOT_ASKED = re.compile(
    r'^debug1: Control socket ".*" does not exist\r?\n|^Control socket connect\(.*\): .*\n'
    r"|^(?:debug\d: )?mux_client_hello_exchange: (?:write packet|read packet failed|expected HELLO).*\n"
    r"|^mux_client_request_session: master alive request failed\r?\n",
    re.MULTILINE,
)


def logged_status(log: str) -> int | None:
    """The command's own exit status as ssh noted it in a complete line, or None where none came."""
    found = re.findall(r"^debug2: Received exit status from master (\d+)\r?\n", log, re.MULTILINE | re.ASCII)
    return int(found[-1]) if found else None


# That the master has opened the session: 7.8 to 8.2 say so no more, but how a session ends they say as all do
# (mux.c, mux_client_request_session).
_SESSION_OPENED = re.compile(
    r"^debug1: mux_client_request_session: master session id: "
    r"|^debug2: (?:Control master terminated unexpectedly|Exiting on signal: )",
    re.MULTILINE,
)


def log_error(log: str, host: str) -> ConnectionFailed:
    """What it means that ssh was started for a command, and ended without the command's status.

    Args:
        log: what ssh wrote at DEBUG2; "" where that is lost.
        host: the destination as the caller named it.

    Returns:
        SessionRefused, MasterGone or ConfigurationError where ssh says that nothing had started; else
        ConnectionLost, whose `started` is True where the session was opened, and None without evidence.
    """
    if _SESSION_OPENED.search(log):
        return ConnectionLost(
            "the connection was lost while the command ran", host=host, started=True, stderr=log
        )
    error = connection_error(log, host=host)
    if isinstance(error, SessionRefused | ConfigurationError):
        return error
    if _NOT_ASKED.search(log):
        return MasterGone("no live master answers", host=host, stderr=log)
    return ConnectionLost("it is not known whether the command has run", host=host, stderr=log)


# How strerror(3) ends a line in the C locale: glibc's words, then those of musl, dash and busybox.
_STRERROR: tuple[tuple[str, int], ...] = (
    ("No such file or directory", errno.ENOENT),
    ("File exists", errno.EEXIST),
    ("Not a directory", errno.ENOTDIR),
    ("Is a directory", errno.EISDIR),
    ("Permission denied", errno.EACCES),
    ("Operation not permitted", errno.EPERM),
    ("Directory not empty", errno.ENOTEMPTY),
    ("No space left on device", errno.ENOSPC),
    ("Disk quota exceeded", errno.EDQUOT),
    ("Too many levels of symbolic links", errno.ELOOP),
    ("File name too long", errno.ENAMETOOLONG),
    ("Read-only file system", errno.EROFS),
    ("Invalid argument", errno.EINVAL),
    ("Invalid cross-device link", errno.EXDEV),
    ("Input/output error", errno.EIO),
    ("Text file busy", errno.ETXTBSY),
    ("Device or resource busy", errno.EBUSY),
    ("Too many links", errno.EMLINK),
    ("File too large", errno.EFBIG),
    ("Stale file handle", errno.ESTALE),
    ("Operation not supported", errno.EOPNOTSUPP),
    ("No such device or address", errno.ENXIO),
    ("Argument list too long", errno.E2BIG),
    ("Cannot allocate memory", errno.ENOMEM),
    ("Connection timed out", errno.ETIMEDOUT),
    ("Remote I/O error", errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO),
    ("Transport endpoint is not connected", errno.ENOTCONN),
    ("Quota exceeded", errno.EDQUOT),
    ("Symbolic link loop", errno.ELOOP),
    ("Filename too long", errno.ENAMETOOLONG),
    ("Cross-device link", errno.EXDEV),
    ("I/O error", errno.EIO),
    ("Not supported", errno.EOPNOTSUPP),
    ("Resource busy", errno.EBUSY),
    ("Out of memory", errno.ENOMEM),
    ("No such file", errno.ENOENT),
    ("Symbolic link not followed", errno.ENOTDIR),
    ("Directory nonexistent", errno.ENOENT),
    ("nonexistent directory", errno.ENOENT),
    ("invalid user", errno.EINVAL),
    ("unknown user", errno.EINVAL),
    ("command not found", errno.ENOSYS),
    (": not found", errno.ENOSYS),
)

_WITHIN = (
    (" to a subdirectory of itself, '", errno.EINVAL),
    (": cannot operate on dangling symlink '", errno.ENOENT),
)


def errno_of(said: str) -> int | None:
    """The errno that a failed operation ended with, or None where its words tell nothing."""
    lines = said.strip().splitlines()
    last = lines[-1] if lines else ""
    if own := re.fullmatch(r"ossh: (E[A-Z0-9]+)", last):
        return getattr(errno, own.group(1), None)
    lowered = last.lower()
    if found := next((number for words, number in _STRERROR if lowered.endswith(words.lower())), None):
        return found
    # GNU's own words, which end by a name in quotes
    return next((number for words, number in _WITHIN if words in last), None)


def printable(text: str) -> str:
    """Text from elsewhere, safe to be shown at a terminal: control characters are spelled out."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text.replace("\r\n", "\n")
    )
