"""Every command line of the OpenSSH programs.

They are pure functions of values. All but the master's are *guarded*: with a live master the guard
changes nothing; without one ssh ends in some milliseconds and dials nobody. Unguarded, a missing or stale
socket, or a refused session, leads to a new login by ssh itself, with exit status 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opensshtransport.errors import SettingsError
from opensshtransport.local.settings import LONGEST_SOCKET_PATH
from opensshtransport.openssh.destination import Destination, Resolved, as_option, config_options
from opensshtransport.openssh.diagnosis import NO_MASTER
from opensshtransport.openssh.notation import parse_address
from opensshtransport.openssh.programs import locate


def master_command(
    destination: Destination, *, socket: Path, log: Path, batch: bool, again: bool = False
) -> list[str]:
    """The command line that logs in and leaves a master behind.

    Args:
        destination: where to.
        socket: where the master listens.
        log: the file for ssh's own words.
        batch: whether nobody can answer a prompt.
        again: whether a person may answer again after a refusal.

    Raises:
        SettingsError: the socket's path is too long. ssh would say so only after the login was spent.
    """
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise SettingsError(
            f"the socket's path {socket} is longer than {LONGEST_SOCKET_PATH} bytes",
            topic="files",
            advice="set XDG_RUNTIME_DIR to a shorter directory",
        )
    settings, resolved = destination.settings, destination.resolved
    argv = [
        destination.ssh,
        *config_options(destination.ssh_config),
        # no command, and into the background once logged in and listening
        "-N",
        "-f",
        # its stderr outlives the login; and the log contains the true cause of failures
        "-E",
        str(log),
        # auto, not yes: `yes` on a live or stale socket leaves an orphaned login and exits with 0
        "-oControlMaster=auto",
        "-S",
        literal(socket),
        as_option("ControlPersist", settings.persist or "yes"),
        # a second prompt of the same kind means "rejected": to answer it costs a counted failure
        *([] if again else ["-oNumberOfPasswordPrompts=1"]),
        # LogLevel QUIET in ssh_config would hide why a login failed; VERBOSE also says how one was let in
        "-oLogLevel=VERBOSE",
        as_option("BatchMode", "yes" if batch else "no"),
    ]
    # they belong to the sessions that want them: two masters cannot share a port, and a port in use must not
    # waste the login
    argv += ["-oExitOnForwardFailure=no"]
    argv += [] if settings.forwards else [NO_FORWARDS, "-oTunnel=no"]
    if settings.server_alive_interval is not None or not int(resolved.get("serveraliveinterval", "0")):
        # without it a master hangs forever when the network goes away; the product of the two also ends a
        # login that waits for a push, so it is at least a minute
        argv.append(as_option("ServerAliveInterval", _or(settings.server_alive_interval, 20)))
        argv.append(as_option("ServerAliveCountMax", _or(settings.server_alive_count_max, 3)))
    elif settings.server_alive_count_max is not None:
        argv.append(as_option("ServerAliveCountMax", settings.server_alive_count_max))
    if not resolved.get("connecttimeout"):
        # the system's own timeout for TCP is minutes
        argv.append(as_option("ConnectTimeout", settings.connect_timeout))
    argv += _without_remote_command(resolved)
    return [*argv, "--", destination.host]


def check_command(ssh: str, socket: Path) -> list[str]:
    """The command line that asks a master for a round trip to the server.

    It reads no ssh_config: with a socket any host name serves, and a LogLevel there would hide the answer.
    """
    # The server answers a connection to this address of its own at once, with "refused" or "prohibited": the
    # cheapest round trip there is. It needs no session and no login shell.
    return [ssh, "-F", "none", "-S", literal(socket), *guard(), "-T", "-W", "127.0.0.1:1", "--", "master"]


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _without_remote_command(resolved: Resolved) -> list[str]:
    # ssh refuses a command in addition to a RemoteCommand; versions before 7.6 do not know the option
    return ["-oRemoteCommand=none"] if resolved.get("remotecommand") else []


def literal(path: Path) -> str:
    """A path as a ControlPath in which ssh replaces nothing (ssh_config(5), TOKENS)."""
    return str(path).replace("%", "%%")


def guard(*, mark: bool = False) -> list[str]:
    """The options that keep ssh, scp and sftp from ever logging in.

    Args:
        mark: say on stderr that there is no master; otherwise only ssh's own words do.
    """
    return [
        # never become a master
        "-oControlMaster=no",
        # without a live master ssh would dial: this "connection" ends at once
        # ssh runs it by the local login shell, which may be tcsh
        f'-oProxyCommand=sh -c "echo {NO_MASTER} >&2"' if mark else "-oProxyCommand=false",
        # otherwise ssh would connect through ssh_config's ProxyJump instead
        "-oProxyJump=none",
        # no prompt, whatever happens
        "-oBatchMode=yes",
    ]


# Each session would ask for the forwardings of ssh_config again; the caller's own go with them.
NO_FORWARDS = "-oClearAllForwardings=yes"


def guarded_options(destination: Destination, control_path: Path | str, *, mark: bool = False) -> list[str]:
    """ssh and its options up to, not including, the destination.

    Args:
        destination: where to.
        control_path: the master's socket or a link to it; `%C` is for ssh to fill in.
        mark: say on stderr that there is no master.
    """
    return [
        destination.ssh,
        *config_options(destination.ssh_config),
        # -S takes the path as it is; the option ControlPath would split it at blanks
        "-S",
        str(control_path),
        *guard(mark=mark),
        NO_FORWARDS,
        *_without_remote_command(destination.resolved),
    ]


def guarded_ssh(
    destination: Destination,
    control_path: Path | str,
    *,
    command: str | None = None,
    tty: int = 0,
    no_stdin: bool = False,
    log: Path | None = None,
    forward: str | None = None,
) -> list[str]:
    """The command line of one session over a live master.

    Args:
        destination: where to.
        control_path: the master's socket or a link to it.
        command: for the remote login shell; None for a shell, or with `forward`.
        tty: how many times `-t` was asked for; 0 means bytes, so no terminal.
        no_stdin: read nothing from stdin.
        log: the file for ssh's own words, which then also tells a real exit status 255 from a lost session.
        forward: `host:port` to be connected to stdin and stdout instead of a command (-W).
    """
    argv = guarded_options(destination, control_path, mark=log is None)
    # RequestTTY force in ssh_config would change the bytes
    argv += ["-t"] * tty or ["-T"]
    if no_stdin:
        argv.append("-n")
    if log is None:
        # LogLevel QUIET in ssh_config would hide why there is no session
        argv.append("-oLogLevel=INFO")
    else:
        # DEBUG2 writes "Received exit status from master" and costs nothing; DEBUG3 writes the command, from
        # 10.5 on, and a line of that could be taken for one of ssh's
        argv += ["-E", str(log), "-oLogLevel=DEBUG2"]
    if forward is not None:
        argv += ["-W", forward]
    argv += ["--", destination.host]
    return argv if command is None else [*argv, command]


def guarded_scp(destination: Destination, control_path: Path | str, arguments: Sequence[str]) -> list[str]:
    """The command line of scp over a live master; `arguments` are its operands and further options."""
    return [locate(destination.settings.scp), *_copy_options(destination, control_path), *arguments]


def guarded_sftp(
    destination: Destination, control_path: Path | str, arguments: Sequence[str] = ()
) -> list[str]:
    """The command line of sftp over a live master; `arguments` are its further options."""
    return [
        locate(destination.settings.sftp),
        *_copy_options(destination, control_path),
        *arguments,
        "--",
        copy_host(destination),
    ]


def copy_host(destination: Destination) -> str:
    """The host as scp and sftp take it. The master has the user and the port, which some names would hide."""
    return parse_address(destination.host).operand


def _copy_options(destination: Destination, control_path: Path | str) -> list[str]:
    quoted = str(control_path).replace("\\", "\\\\").replace('"', '\\"')
    return [
        # scp and sftp start this very ssh, not the first one on PATH
        "-S",
        destination.ssh,
        *config_options(destination.ssh_config),
        f'-oControlPath="{quoted}"',
        *guard(mark=True),
        # QUIET in ssh_config would hide why there is no session
        "-oLogLevel=INFO",
        # their session is a subsystem or a command of their own, without a terminal
        "-oRequestTTY=no",
        *_without_remote_command(destination.resolved),
    ]
