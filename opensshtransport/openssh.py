"""The OpenSSH programs: where they are, what ssh_config resolves to, and every command line.

Command lines are pure functions of values. All but the master's are *guarded*: with a live master the guard
changes nothing; without one ssh ends in some milliseconds and dials nobody. Unguarded, a missing or stale
socket and also a refused session lead to a new login of ssh's own, with exit status 0.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opensshtransport.errors import NO_MASTER, ConfigurationError, SettingsError, ToolMissing
from opensshtransport.notation import parse_address, parse_jump
from opensshtransport.settings import LONGEST_SOCKET_PATH, Settings, load

__all__ = [
    "MOST_JUMPS",
    "OLDEST_VERSION",
    "Destination",
    "Resolved",
    "check_command",
    "check_destination",
    "config_options",
    "guard",
    "guarded_scp",
    "guarded_sftp",
    "guarded_ssh",
    "jump_options",
    "literal",
    "locate",
    "master_command",
    "parse_resolved",
    "resolve",
    "version",
]

# ProxyJump came with 7.3 (release notes of OpenSSH 7.3).
OLDEST_VERSION = (7, 3)
_RESOLVE_TIMEOUT = 30.0
MOST_JUMPS = 16


def check_destination(host: str) -> str:
    """Refuse what ssh would take for an option, or what no destination can be.

    Raises:
        SettingsError: it is empty, begins with `-`, or holds a control character such as a newline or NUL,
            or a letter that means something to a shell: before 9.6 ssh would put it into ProxyCommand as it
            is (release notes of OpenSSH 9.6, CVE-2023-51385). A user's name may hold `$` and a backslash.
    """
    if not host:
        raise SettingsError("the destination is empty", advice="name a host of your ssh_config")
    if host.startswith("-"):
        raise SettingsError(
            f"{host!r} is not a destination: it begins with '-'", advice="put options before it"
        )
    if re.search(r"[\x00-\x1f\x7f]", host):
        raise SettingsError(
            f"{host!r} is not a destination: it holds a control character", advice="correct the name"
        )
    address = parse_address(host)
    user, name = address.user or "", address.host
    if re.search(r"[\x00-\x1f\x7f]", f"{user}{name}"):
        raise SettingsError(f"{host!r} hides a control character", advice="correct the name")
    if found := re.search(r"[`'\";&<>|(){}]", user) or re.search(r"[`'\";&<>|(){}$\\\s]", name):
        raise SettingsError(
            f"{host!r} is not a destination: it holds {found.group()!r}", advice="correct the name"
        )
    return host


def locate(program: str) -> str:
    """The absolute path of an OpenSSH program.

    Raises:
        ToolMissing: it is not on PATH, or not executable.
    """
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(
            f"the program {program!r} was not found",
            advice="install the OpenSSH client, or name the program in config.toml",
        )
    return str(Path(found).absolute())


def parse_version(text: str) -> tuple[int, int]:
    """Read (major, minor) from what `ssh -V` prints, such as `OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19`."""
    match = re.search(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", text)
    if match is None:
        raise ToolMissing(
            f"ssh is not OpenSSH: it says {text.strip()!r}", advice="name OpenSSH's ssh instead"
        )
    return int(match[1]), int(match[2])


@functools.cache
def version(ssh: str) -> tuple[int, int]:
    """The version of an ssh program.

    Raises:
        ToolMissing: it cannot be run, is not OpenSSH, or is older than `OLDEST_VERSION`.
    """
    try:
        # `-V` is the only call that tells; it prints to stderr and ends.
        done = subprocess.run(
            [ssh, "-V"], capture_output=True, text=True, timeout=_RESOLVE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise ToolMissing(
            f"{ssh} cannot be run: {reason}", advice="name another ssh in config.toml"
        ) from reason
    found = parse_version(done.stderr + done.stdout)
    if found < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ToolMissing(
            f"{ssh} is OpenSSH {found[0]}.{found[1]}", advice=f"OpenSSH {oldest} or later is needed"
        )
    return found


@dataclass(frozen=True, slots=True)
class Resolved:
    """What `ssh -G` says of a destination: ssh_config as ssh itself understands it.

    Attributes:
        options: every option in lower case, with its values in order.
    """

    options: Mapping[str, tuple[str, ...]]

    def get(self, option: str, default: str = "") -> str:
        """The first value of an option, `default` where ssh says nothing or `none`."""
        value = self.options.get(option.lower(), (default,))[0]
        return default if value == "none" else value

    def flag(self, option: str) -> bool:
        """Whether a yes/no option is on."""
        return self.get(option).lower() in {"yes", "true"}

    @property
    def user(self) -> str:
        """The remote user."""
        return self.get("user")

    @property
    def hostname(self) -> str:
        """The real host name or address."""
        return self.get("hostname").lower()

    @property
    def shown(self) -> str:
        """The host as ssh shows it in its prompts (sshconnect2.c)."""
        return self.get("hostkeyalias") or self.hostname

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.get("port", "22"))

    @property
    def jumps(self) -> tuple[str, ...]:
        """The jump hosts, in the order in which they are passed."""
        listed = self.get("proxyjump")
        return tuple(listed.split(",")) if listed else ()


def parse_resolved(text: str) -> Resolved:
    """Read the output of `ssh -G`: one option and its value a line."""
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        option, _, value = line.partition(" ")
        if option:
            options.setdefault(option.lower(), []).append(value)
    return Resolved({option: tuple(values) for option, values in options.items()})


def resolve_command(ssh: str, host: str, ssh_config: Path | None, extra: Sequence[str] = ()) -> list[str]:
    """The command line that asks ssh what a destination resolves to."""
    # -T: without it -G warns on stderr that it will not allocate a terminal.
    return [ssh, *config_options(ssh_config), *extra, "-T", "-G", "--", host]


def ask_resolved(ssh: str, host: str, ssh_config: Path | None = None, extra: Sequence[str] = ()) -> Resolved:
    """Ask ssh what a destination resolves to.

    Raises:
        ConfigurationError: ssh refuses its configuration or the name.
        ToolMissing: ssh cannot be run.
    """
    argv = resolve_command(ssh, check_destination(host), ssh_config, extra)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_RESOLVE_TIMEOUT,
            check=False,
        )
    except OSError as reason:
        raise ToolMissing(f"{ssh} cannot be run: {reason}", host=host) from reason
    except subprocess.TimeoutExpired as reason:
        raise ConfigurationError(
            f"ssh -G did not end within {_RESOLVE_TIMEOUT:.0f} s",
            host=host,
            argv=argv,
            advice="look for a slow `Match exec` in ssh_config",
        ) from reason
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if lines and lines[0].startswith("usage:"):
            lines = ["it does not take this name"]
        raise ConfigurationError(
            f"ssh refuses its configuration ({lines[0] if lines else 'it gave no reason'})",
            host=host,
            argv=argv,
            returncode=done.returncode,
            stderr=done.stderr,
        )
    return parse_resolved(done.stdout)


@dataclass(frozen=True, slots=True)
class Destination:
    """One place to log in to, as a name of ssh_config resolves to it now.

    Attributes:
        host: the name as the caller gave it.
        ssh_config: the configuration file instead of ssh's own, or None.
        settings: what config.toml says of the name.
        ssh, scp, sftp: absolute paths of the programs.
        resolved: what `ssh -G` says of the name.
        route: user, host, port and proxy command of every hop, the target last.
        overrides: settings that count before those of config.toml, as they were given.
    """

    host: str
    ssh_config: Path | None
    settings: Settings
    ssh: str
    resolved: Resolved
    route: tuple[tuple[str, str, int, str], ...]
    overrides: Mapping[str, object] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """16 hexadecimal digits, the same for all names that lead to the same place by the same way."""
        return hashlib.sha256(json.dumps(self.route).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def address(self) -> str:
        """`user@host:port`, for people to read."""
        return f"{self.resolved.user}@{self.resolved.hostname}:{self.resolved.port}"


def resolve(
    host: str,
    ssh_config: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Destination:
    """Find out where a name leads, by `ssh -G` and config.toml.

    Args:
        host: the name.
        ssh_config: the configuration file instead of ssh's own, or None.
        settings: instead of what config.toml says.
        overrides: settings that count before those of config.toml, with values as they stand there.

    Raises:
        SettingsError: the name or config.toml is wrong.
        ConfigurationError: ssh refuses ssh_config.
        ToolMissing: ssh is missing.
    """
    check_destination(host)
    file = None if ssh_config is None else Path(os.path.expanduser(ssh_config)).absolute()  # noqa: PTH111 - `~` of any kind of path
    if file is not None and not file.is_file():
        raise ConfigurationError(f"there is no file {file}", host=host, advice="name an ssh_config file")
    settings = load(host, overrides=overrides) if settings is None else settings
    ssh = locate(settings.ssh)
    resolved = ask_resolved(ssh, host, file)
    route = _route(ssh, host, resolved, file, MOST_JUMPS)
    return Destination(host, file, settings, ssh, resolved, route, dict(overrides or {}))


def _route(
    ssh: str, host: str, resolved: Resolved, ssh_config: Path | None, left: int
) -> tuple[tuple[str, str, int, str], ...]:
    """Resolve the jump hosts too: their names may be aliases, and an edited alias is another way.

    `-J a,b` reaches `b` through `a` whatever ssh_config says of `b`, while the way to `a` is what
    ssh_config says of it (ssh_config(5), ProxyJump).
    """
    jumps = resolved.jumps
    hops: tuple[tuple[str, str, int, str], ...] = ()
    if jumps and left <= 0:
        raise ConfigurationError(
            "ProxyJump leads round in a circle", advice="correct ProxyJump in ssh_config"
        )
    for number, jump in enumerate(jumps):
        options, name = jump_options(jump)
        found = ask_resolved(ssh, name, ssh_config, options)
        hops += _route(ssh, name, found, ssh_config, left - 1) if number == 0 else (_hop(found, name),)
    return (*hops, _hop(resolved, host))


def _hop(resolved: Resolved, name: str) -> tuple[str, str, int, str]:
    # %n stands for the name as it was given (ssh_config(5), TOKENS): the host alone, without user and port
    command = resolved.get("proxycommand")
    host = parse_address(name).host
    return (
        resolved.user,
        resolved.hostname,
        resolved.port,
        re.sub(r"(?<!%)((?:%%)*)%n", lambda match: f"{match[1]}{host}", command),
    )


def jump_options(jump: str) -> tuple[list[str], str]:
    """A jump host of ProxyJump, `[user@]host[:port]` or a URI, as options and a destination of ssh."""
    address = parse_jump(jump)
    options = [*(["-l", address.user] if address.user else [])]
    options += ["-p", str(address.port)] if address.port else []
    return options, address.host


def config_options(ssh_config: Path | None) -> list[str]:
    """The options that name a configuration file other than the person's own."""
    return [] if ssh_config is None else ["-F", str(ssh_config)]


def _option(name: str, value: object) -> str:
    return f"-o{name}={value}"


def master_command(destination: Destination, *, socket: Path, log: Path, batch: bool) -> list[str]:
    """The command line that logs in and leaves a master behind.

    Args:
        destination: where to.
        socket: where the master listens.
        log: the file for ssh's own words.
        batch: nobody can answer a prompt.

    Raises:
        SettingsError: the socket's path is too long. ssh would say so only after the login was spent.
    """
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise SettingsError(
            f"the socket's path {socket} is longer than {LONGEST_SOCKET_PATH} bytes",
            advice="set XDG_RUNTIME_DIR to a shorter directory",
        )
    settings, resolved = destination.settings, destination.resolved
    argv = [
        destination.ssh,
        *config_options(destination.ssh_config),
        # no command, and into the background once logged in and listening
        "-N",
        "-f",
        # its stderr outlives the login; and the log holds the true cause of failures
        "-E",
        str(log),
        # auto, not yes: `yes` on a live or stale socket leaves an orphan login and says 0
        "-oControlMaster=auto",
        "-S",
        literal(socket),
        _option("ControlPersist", settings.persist or "yes"),
        # a second prompt of the same kind means "rejected": asking again costs a counted failure
        "-oNumberOfPasswordPrompts=1",
        # LogLevel QUIET in ssh_config would hide why a login failed; VERBOSE also tells how one was let in
        "-oLogLevel=VERBOSE",
        _option("BatchMode", "yes" if batch else "no"),
    ]
    # they belong to the sessions that want them: two masters cannot have one port, and one that is taken must
    # not spend the login
    argv += ["-oExitOnForwardFailure=no"]
    argv += [] if settings.forwards else ["-oClearAllForwardings=yes", "-oTunnel=no"]
    if settings.server_alive_interval is not None or not int(resolved.get("serveraliveinterval", "0")):
        # without it a master hangs for ever on a network that went away; the product also ends a login
        # that waits for a push, so it is a minute at least
        argv.append(_option("ServerAliveInterval", _or(settings.server_alive_interval, 20)))
        argv.append(_option("ServerAliveCountMax", _or(settings.server_alive_count_max, 3)))
    elif settings.server_alive_count_max is not None:
        argv.append(_option("ServerAliveCountMax", settings.server_alive_count_max))
    if not resolved.get("connecttimeout"):
        # the system's own timeout for TCP is minutes
        argv.append(_option("ConnectTimeout", settings.connect_timeout))
    argv += _without_remote_command(resolved)
    return [*argv, "--", destination.host]


def check_command(ssh: str, socket: Path) -> list[str]:
    """The command line that asks a master for a round trip to the server.

    It reads no ssh_config: with a socket any host name serves, and a LogLevel there would hide the answer.
    """
    # A connection to this address of the server's own answers at once, by "refused" or "prohibited": the
    # cheapest round trip there is. It needs no session and no login shell.
    return [ssh, "-F", "none", "-S", literal(socket), *guard(), "-T", "-W", "127.0.0.1:1", "--", "master"]


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _without_remote_command(resolved: Resolved) -> list[str]:
    # ssh refuses a command beside a RemoteCommand; versions before 7.6 do not know the option
    return ["-oRemoteCommand=none"] if resolved.get("remotecommand") else []


def literal(path: Path) -> str:
    """A path as a ControlPath in which ssh replaces nothing (ssh_config(5), TOKENS)."""
    return str(path).replace("%", "%%")


def guard(*, mark: bool = False) -> list[str]:
    """The options that keep ssh, scp and sftp from ever logging in.

    Args:
        mark: say on stderr that there is no master; else nothing but ssh's own words tells it.
    """
    return [
        # never become a master
        "-oControlMaster=no",
        # without a live master ssh would dial: this "connection" ends at once
        # ssh runs it by the local login shell, which may be tcsh
        f'-oProxyCommand=sh -c "echo {NO_MASTER} >&2"' if mark else "-oProxyCommand=false",
        # ssh_config's ProxyJump would be dialled in its place
        "-oProxyJump=none",
        # no prompt, whatever happens
        "-oBatchMode=yes",
    ]


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
        # -S takes the path as it stands; the option ControlPath would part it at blanks
        "-S",
        str(control_path),
        *guard(mark=mark),
        # each session would ask for the forwardings of ssh_config again
        "-oClearAllForwardings=yes",
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
