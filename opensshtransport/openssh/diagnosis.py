"""What ssh's own words mean.

The error for a text on stderr, and the status in the log of a multiplexed client.

The words differ between versions. A text that is not in the table becomes a general error that quotes it; the
error is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from opensshtransport.errors import (
    AuthenticationRefused,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    HostKeyChanged,
    HostKeyError,
    HostKeyUnknown,
    MasterGone,
    SessionRefused,
    TooManyFailures,
    Unreachable,
)

# For when nothing is known about what was offered.
NOTHING_TAKEN = "the server accepted none of the keys, tickets or answers"

# What the guard of a command line writes to stderr if no master is running.
NO_MASTER = "opensshtransport: no live master"


class _Meaning(NamedTuple):
    """One row of the table: a pattern for a line of ssh's own, the error it means, and what to say."""

    pattern: re.Pattern[str]
    error: type[ConnectionFailed]
    message: str


def _row(pattern: str, error: type[ConnectionFailed], message: str) -> _Meaning:
    return _Meaning(re.compile(pattern, re.MULTILINE), error, message)


# ssh ends its own lines with \r\n at a terminal, and newer versions put the function's name in front.
_EOL = r"\.?\r?$"

_WHO = r"(?:[^\s@:]+@)?\S+?"

# The first row that matches anywhere in the text decides; so causes come before their consequences: a refused
# session, say, is followed by the guard's "Connection closed".
_MEANINGS: tuple[_Meaning, ...] = (
    _row(
        r"^(?:mux_client_request_session: )?session request failed: ",
        SessionRefused,
        "the server opens no further session on this connection",
    ),
    _row(
        # as far as we know, anything else it says came after the master was asked
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
        # sshconnect.c (check_host_key); a certificate may be genuine, but not for this name or time
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
        NOTHING_TAKEN,
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
        "there is no route to the server",
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
        # the last one is all that 7.4 says if a ProxyCommand has ended
        rf"|^ssh_dispatch_run_fatal: |^Received disconnect from .* port \d+:\d+: |^write: Broken pipe{_EOL}",
        Unreachable,
        "the server, or a jump host before it, ended the connection",
    ),
)

# What ssh says if it knows only that the other side is gone. From 9.5 on it may say less than before: it
# shows the words of `kex_exchange_identification` only with -v.
_ENDED = re.compile(
    r"^(?:(?:kex|ssh)_exchange_identification: |banner exchange: |write: Broken pipe)"
    r"|^Connection (?:closed|reset) by .* port \d+",
    re.MULTILINE,
)


def tells_cause(stderr: str) -> bool:
    """Whether ssh's own words name a cause, and not only that the connection has ended."""
    rest = "\n".join(line for line in stderr.splitlines() if not _ENDED.match(line))
    return _meaning(rest, None) is not None


def classify(stderr: str, returncode: int | None) -> type[ConnectionFailed] | None:
    """Find out which error ssh's own words mean.

    Args:
        stderr: text that ssh alone wrote (its `-E` log, or stderr of a call without a remote command).
        returncode: ssh's exit status; None if it is not known. Any status but 255 is the remote
            command's own (ssh(1), EXIT STATUS), so nothing has failed.

    Returns:
        The class of the error, or None if the words are not conclusive.
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
        otherwise: the class to use if the words are not conclusive.
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
    said = line.removeprefix("ssh: ")
    return meaning.error(
        f"{meaning.message} (ssh said: {said})", host=host, argv=argv, returncode=returncode, stderr=stderr
    )


# What ssh says if it has asked no master to run the command: there is none, or none that answers. Other words
# prove nothing, because lines may be missing: the disk was full for a moment, or ssh was killed before.
_NOT_ASKED = re.compile(
    r'^debug1: Control socket ".*" does not exist\r?\n|^Control socket connect\(.*\): .*\n'
    r"|^(?:debug\d: )?mux_client_hello_exchange: (?:write packet|read packet failed|expected HELLO).*\n"
    r"|^mux_client_request_session: master alive request failed\r?\n",
    re.MULTILINE,
)


def logged_status(log: str) -> int | None:
    """The command's own exit status as ssh logged it in a complete line, or None if there is none."""
    found = re.findall(r"^debug2: Received exit status from master (\d+)\r?\n", log, re.MULTILINE | re.ASCII)
    return int(found[-1]) if found else None


# Proof that the master has opened the session. 7.8 to 8.2 do not log that, but like all others they log how a
# session ends (mux.c, mux_client_request_session).
_SESSION_OPENED = re.compile(
    r"^debug1: mux_client_request_session: master session id: "
    r"|^debug2: (?:Control master terminated unexpectedly|Exiting on signal: )",
    re.MULTILINE,
)


def log_error(log: str, host: str) -> ConnectionFailed:
    """The error if ssh was started for a command, and ended without the command's status.

    Args:
        log: what ssh wrote at DEBUG2; "" if that is lost.
        host: the destination as the caller named it.

    Returns:
        SessionRefused, MasterGone or ConfigurationError if ssh says that nothing had started; otherwise
        ConnectionLost, whose `started` is True if the session was opened, and None without evidence.
    """
    if _SESSION_OPENED.search(log):
        return ConnectionLost(
            "the connection was lost while the command was running", host=host, started=True, stderr=log
        )
    error = connection_error(log, host=host)
    if isinstance(error, SessionRefused | ConfigurationError):
        return error
    if _NOT_ASKED.search(log):
        return MasterGone("no live master answers", host=host, stderr=log)
    return ConnectionLost("it is not known whether the command has run", host=host, stderr=log)
