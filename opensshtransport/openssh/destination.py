"""A destination as ssh sees it.

What `ssh -G` says about a host, and about each jump host on the way to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opensshtransport.errors import ConfigurationError, SettingsError, ToolMissing
from opensshtransport.local.settings import Settings, load
from opensshtransport.openssh import bypass
from opensshtransport.openssh.notation import parse_address, parse_jump
from opensshtransport.openssh.programs import RESOLVE_TIMEOUT, locate

MOST_JUMPS = 16


def check_destination(host: str) -> str:
    """Refuse what ssh would take for an option, or what cannot be a destination.

    Raises:
        SettingsError: it is empty, begins with `-`, or contains a control character such as a newline or NUL,
            or a character that means something to a shell: before 9.6, ssh would put it into ProxyCommand as
            it is (release notes of OpenSSH 9.6, CVE-2023-51385). A user's name may contain `$` and a
            backslash.
        TypeError: it is not a str.
    """
    if not isinstance(host, str):
        raise TypeError(f"a destination is a str, not {type(host).__name__}")
    if not host:
        raise SettingsError("the destination is empty", advice="name a host of your ssh_config")
    if host.startswith("-"):
        raise SettingsError(
            f"{host!r} is not a destination: it begins with '-'", advice="put options before it"
        )
    if re.search(r"[\x00-\x1f\x7f]", host):
        raise SettingsError(
            f"{host!r} is not a destination: it contains a control character", advice="correct the name"
        )
    address = parse_address(host)
    user, name = address.user or "", address.host
    if re.search(r"[\x00-\x1f\x7f]", f"{user}{name}"):
        raise SettingsError(f"{host!r} contains a hidden control character", advice="correct the name")
    if found := re.search(r"[`'\";&<>|(){}]", user) or re.search(r"[`'\";&<>|(){}$\\\s]", name):
        raise SettingsError(
            f"{host!r} is not a destination: it contains {found.group()!r}", advice="correct the name"
        )
    return host


@dataclass(frozen=True, slots=True)
class Resolved:
    """What `ssh -G` says of a destination: ssh_config as ssh itself understands it.

    Attributes:
        options: every option in lower case, with its values in order.
    """

    options: Mapping[str, tuple[str, ...]]

    def get(self, option: str, default: str = "") -> str:
        """The first value of an option; `default` if ssh says nothing or `none`."""
        value = self.options.get(option.lower(), (default,))[0]
        return default if value == "none" else value

    def flag(self, option: str) -> bool:
        """Whether a yes/no option is on."""
        return self.get(option).lower() in {"yes", "true"}

    def certificates(self) -> list[Path]:
        """The certificates that ssh would offer: CertificateFile, and KEY-cert.pub of each IdentityFile."""
        named = [*self.options.get("certificatefile", ())]
        named += [f"{key}-cert.pub" for key in self.options.get("identityfile", ())]
        paths = [Path(os.path.expanduser(name)) for name in named if name != "none"]  # noqa: PTH111 - as ssh writes it
        return [path for path in paths if path.is_file()]

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
    """Read the output of `ssh -G`: one option and its value per line."""
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


def ask_resolved(
    ssh: str,
    host: str,
    ssh_config: Path | None = None,
    extra: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
) -> Resolved:
    """Ask ssh what a destination resolves to, bypassing what `ossh share` has written unless `env` is given.

    Raises:
        ConfigurationError: ssh refuses its configuration or the name.
        ToolMissing: ssh cannot be run.
    """
    argv = resolve_command(ssh, check_destination(host), ssh_config, extra)
    try:
        done = subprocess.run(
            argv,
            env=bypass.unshared() if env is None else env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=RESOLVE_TIMEOUT,
            check=False,
        )
    except OSError as reason:
        raise ToolMissing(f"{ssh} cannot be run: {reason}", host=host) from reason
    except subprocess.TimeoutExpired as reason:
        raise ConfigurationError(
            f"ssh -G did not finish within {RESOLVE_TIMEOUT:.0f} s",
            host=host,
            argv=argv,
            advice="look for a slow `Match exec` in ssh_config",
        ) from reason
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if lines and lines[0].startswith("usage:"):
            lines = ["it does not accept this name"]
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
        overrides: settings that take precedence over config.toml, as they were given.
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
        """16 hexadecimal digits, the same for all names that lead to the same place in the same way."""
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
        overrides: settings that take precedence over config.toml, with values of the same types.

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
    """Resolve the jump hosts too: their names may be aliases, and an edited alias is another route.

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
    """The options that name another configuration file than the user's own."""
    return [] if ssh_config is None else ["-F", str(ssh_config)]


def as_option(name: str, value: object) -> str:
    """An option of ssh_config as one word of a command line."""
    return f"-o{name}={value}"
