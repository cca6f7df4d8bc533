"""The links before the login: programs, files, network, host keys.

Each link is a function that returns one `Finding` for `ossh doctor`. Nothing here logs in, and servers are
only asked what anybody may ask: their greeting and their host keys. Questions to local programs fork
(`tools`): so these links are checked before anything that starts a thread.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from opensshtransport.doctor.finding import NOT_USED, Finding, State, broken, fine, skipped, warning
from opensshtransport.errors import AddressRefused, OpenSshTransportError, Remedy, SettingsError
from opensshtransport.local import tools
from opensshtransport.local.settings import Settings, config_file, load, runtime_directory
from opensshtransport.openssh import bypass, greeting, ssh_config
from opensshtransport.openssh import programs as openssh_programs
from opensshtransport.openssh.destination import (
    Destination,
    Resolved,
    ask_resolved,
    jump_options,
    parse_resolved,
    resolve,
    resolve_command,
)
from opensshtransport.openssh.greeting import Greeting
from opensshtransport.openssh.programs import locate
from opensshtransport.sharing.share import complaint

_PROBE_TIMEOUT = 10.0


def programs(settings: Settings) -> Finding:
    """OpenSSH, and its version."""
    ssh = locate(settings.ssh)
    major, minor = openssh_programs.version(ssh)
    needed = [settings.scp, settings.sftp, "ssh-keygen", "ssh-add", "ssh-agent", "ssh-keyscan"]
    missing = [program for program in needed if shutil.which(program) is None]
    seen = f"OpenSSH {major}.{minor} at {ssh}"
    if missing:
        return warning(f"{seen}, but no {', '.join(missing)}", "install the whole OpenSSH client")
    return fine(seen)


def runtime() -> Finding:
    """The directory of sockets and locks."""
    directory = runtime_directory()
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named and Path(named) != directory.parent:
        return warning(
            f"{directory}, as XDG_RUNTIME_DIR cannot hold sockets: {named}",
            "point XDG_RUNTIME_DIR to a short directory of your own on a local disk",
        )
    return fine(f"{directory}, sockets of {len(os.fsencode(directory)) + 17} bytes")


# Used if another link reports a mistake in config.toml.
_OF_SCRIPT = re.compile(r"\.authentication_script\b")


def settings_file(host: str) -> tuple[Finding, Finding, Settings]:
    """config.toml: findings about it and about the authentication script, and the settings to go on with."""
    file = config_file()
    try:
        settings = load(host)
    except SettingsError as error:
        told = broken(error.message, error.remedy)
        if _OF_SCRIPT.search(error.message):
            return skipped(f"{file} names a script that cannot be used"), told, Settings()
        return told, skipped(f"{file} cannot be read"), Settings()
    found = fine(str(file) if file.exists() else "no config.toml, and none is needed")
    return found, script(settings), settings


def script(settings: Settings) -> Finding:
    """The authentication script, which exists and is executable (see `load`), and its interpreter."""
    path = settings.authentication_script
    if path is None:
        return fine(NOT_USED)
    with path.open("rb") as file:
        first = file.readline(256).decode(errors="replace")
    interpreter = first[2:].split()[:1] if first.startswith("#!") else []
    if interpreter and shutil.which(interpreter[0]) is None:
        return broken(
            f"{path} needs {interpreter[0]}, which does not exist", f"correct the first line of {path}"
        )
    return fine(str(path))


def configuration(
    host: str, file: Path | None, settings: Settings, destinations: list[Destination]
) -> Finding:
    """ssh_config: its permissions and its syntax; what it makes of the name is added to `destinations`."""
    told = _permissions(file)
    try:
        destinations.append(resolve(host, file, settings=settings))
    except OpenSshTransportError as error:
        # ssh refuses the user's own files if others can write to them (readconf.c), but not one given by -F
        if told and "Bad owner or permissions" in error.message:
            return broken(*told)
        return broken(error.message, error.remedy)
    of_sharing = told or complaint(host, destinations[0].ssh_config)
    if of_sharing:
        return warning(*of_sharing)
    path = file or ssh_config.person_file()
    return fine(str(path) if path.exists() else f"no {path}, and none is needed")


def _permissions(file: Path | None) -> tuple[str, str] | None:
    """What is wrong with the permissions of ssh's files, and how to fix it; None if nothing is."""
    top = ssh_config.home() / ".ssh"
    if file is None and top.is_dir() and (told := _writable(top)):
        return told, f"run: chmod 700 {shlex.quote(str(top))}"
    for path in ssh_config.files(file):
        if path.is_file() and (told := _writable(path)):
            return told, f"run: chmod 600 {shlex.quote(str(path))}"
    return None


def _writable(path: Path) -> str:
    about = path.stat()
    if about.st_uid not in {0, os.getuid()}:
        return f"{path} belongs to user {about.st_uid}"
    # some systems give each user a private group
    by_group = about.st_mode & stat.S_IWGRP and about.st_gid != os.getgid()
    return f"{path} can be written by others" if by_group or about.st_mode & stat.S_IWOTH else ""


# Options of ssh_config that disturb us: the harmful values, their effect, and how to fix it.
_TROUBLE: tuple[tuple[str, str, State, str, str], ...] = (
    (
        "sessiontype",
        r"none|subsystem",
        "broken",
        "no command can run",
        "remove SessionType from ssh_config",
    ),
    ("stdinnull", r"yes|true", "broken", "commands read no input", "remove StdinNull from ssh_config"),
    (
        "forkafterauthentication",
        r"yes|true",
        "broken",
        "commands end before they have run",
        "remove ForkAfterAuthentication from ssh_config",
    ),
    (
        "remotecommand",
        r"(?!none$).+",
        "warning",
        "ossh ignores it, but plain ssh, rsync and git fail with it",
        "give it an alias of its own in ssh_config",
    ),
    (
        "requesttty",
        r"force|yes|true",
        "warning",
        "ossh ignores it, but for other programs it changes what they send",
        "use -t where you want a terminal",
    ),
    *(
        (
            forward,
            r".+",
            "warning",
            "ossh ignores it",
            "write forwards = true in config.toml if the master should make it",
        )
        for forward in ("localforward", "remoteforward", "dynamicforward")
    ),
    (
        "stricthostkeychecking",
        r"no|false|off",
        "warning",
        "anybody can impersonate the server",
        "remove StrictHostKeyChecking from ssh_config",
    ),
)


def resolution(destination: Destination) -> Finding:
    """Where the name leads, through which hosts, and which options would disturb us."""
    found: list[tuple[State, str, str]] = []
    # -T, with which we ask, hides what ssh_config says about RequestTTY
    argv = resolve_command(destination.ssh, destination.host, destination.ssh_config)
    words = [word for word in argv if word != "-T"]
    said = tools.ask(*words, timeout=30, env=bypass.unshared()).stdout
    options = parse_resolved(said).options
    for option, pattern, state, why, advice in _TROUBLE:
        value = options.get(option, ("",))[0]
        if option.endswith("forward") and destination.settings.forwards:
            continue
        if re.fullmatch(pattern, value, re.IGNORECASE):
            found.append((state, f"{option} {value}: {why}", advice))
    if any(state == "broken" for state, _, _ in found):
        found = [each for each in found if each[0] == "broken"]
    if found:
        return Finding(found[0][0], "; ".join(seen for _, seen, _ in found), Remedy.of(found[0][2]))
    resolved = destination.resolved
    interval, count = (int(resolved.get(f"serveralive{name}", "0")) for name in ("interval", "countmax"))
    if destination.settings.server_alive_interval is None and 0 < interval * count < 60:
        return warning(
            f"serveraliveinterval {interval} x {count}: this ends a login that waits for a push",
            "keep ServerAliveInterval times ServerAliveCountMax at 60 or more",
        )
    way = [f"{user}@{name}:{port}" for user, name, port, _ in destination.route]
    seen = destination.address + (f" through {', '.join(way[:-1])}" if way[:-1] else "")
    if destination.route[0][3]:
        seen += " through a ProxyCommand"
    own = resolved.get("controlpath")
    return fine(seen + (f"; a master of your own at {own} is used" if own else ""))


def hops(destination: Destination) -> list[tuple[str, Resolved]]:
    """Each hop, the target last: its name, and what that resolves to."""
    asked = [(destination.host, destination.resolved)]
    left = list(destination.resolved.jumps)
    while left:
        options, name = jump_options(left.pop())
        resolved = ask_resolved(destination.ssh, name, destination.ssh_config, options)
        asked.insert(0, (name, resolved))
        # `-J a,b` reaches b through a, whatever ssh_config says of b
        left = left or list(resolved.jumps)
    return asked


def name_resolution(destination: Destination) -> Finding:
    """The first hop's name."""
    _, name, port, command = destination.route[0]
    if command:
        return skipped("a ProxyCommand finds the host")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as reason:
        text = getattr(reason, "strerror", None) or str(reason)
        return broken(
            f"{name} is not known to the name service ({text})", "correct HostName; or is a VPN needed?"
        )
    return fine(f"{name} is {', '.join(dict.fromkeys(str(entry[4][0]) for entry in found))}")


def connection(destination: Destination) -> Finding:
    """TCP to the first hop, and its greeting."""
    _, name, port, command = destination.route[0]
    if command:
        return skipped("a ProxyCommand makes the connection")
    try:
        begin = time.monotonic()
        said = greeting.ask(name, port, _PROBE_TIMEOUT)
        took = time.monotonic() - begin
    except (OSError, UnicodeError) as reason:
        text = getattr(reason, "strerror", None) or str(reason)
        return broken(
            f"{name} port {port} cannot be reached ({text})", "check Port, the network, and the VPN"
        )
    meaning = greeting.read(said)
    if meaning in _REFUSED:
        seen, advice = _REFUSED[meaning]
        return broken(seen.format(f"{name} port {port}"), advice)
    # a server may send other lines before
    version = next(line for line in said.decode(errors="replace").splitlines() if line.startswith("SSH-"))
    return fine(f"{name} port {port} answers in {took * 1000:.0f} ms: {version}")


_REFUSED: Mapping[Greeting, tuple[str, Remedy | str]] = {
    Greeting.SILENCE: (
        "{} ends the connection at once",
        "wait: too many may be logging in, or ask your centre",
    ),
    Greeting.TOO_MANY: ("{} accepts no login now, because too many are logging in", "try again in a minute"),
    Greeting.ADDRESS_REFUSED: (
        "{} refuses this address for a while, probably after failed logins (Not allowed at this time)",
        AddressRefused.advice_by_default,
    ),
    Greeting.ANOTHER_SERVER: ("no ssh server answers at {}", "correct HostName and Port"),
}


def host_keys(destination: Destination) -> Finding:
    """Whether each hop's host key is known, and whether the first hop still shows the known one."""
    seen = []
    for number, (name, resolved) in enumerate(hops(destination)):
        if resolved.get("knownhostscommand"):
            seen.append(f"{name} by KnownHostsCommand")
            continue
        known = _known_keys(resolved)
        if not known:
            return warning(
                f"the host key of {name} is not known",
                Remedy("compare its fingerprint with your centre's pages: ", "ossh login"),
            )
        # hosts behind a jump host cannot be asked without a login, which checks their keys anyway
        shown = _shown_keys(resolved) if number == 0 and not resolved.get("proxycommand") else {}
        for kind, key in shown.items():
            if any(marker == "@revoked" and key == other for marker, _, other in known):
                return broken(f"the host key of {name} is revoked", "ask your centre")
            others = [other for marker, of_kind, other in known if of_kind == kind and not marker]
            if others and key not in others:
                return broken(
                    f"the host key of {name} ({kind}) is not the one that is known",
                    f"ask your centre, before you run: {_to_forget(resolved)}",
                )
        seen.append(f"{name} known {'and unchanged' if shown else '(compared by each login)'}")
    return fine(", ".join(seen))


def _known_as(resolved: Resolved) -> str:
    """The name under which a host key is kept (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    if alias := resolved.get("hostkeyalias"):
        return alias
    return resolved.hostname if resolved.port == 22 else f"[{resolved.hostname}]:{resolved.port}"


def _known_lines(resolved: Resolved) -> Iterator[tuple[Path, str]]:
    """The lines about a hop in the files of known hosts, the user's own files first."""
    for option in ("userknownhostsfile", "globalknownhostsfile"):
        for name in resolved.get(option).split():
            path = Path(os.path.expanduser(name))  # noqa: PTH111 - as ssh writes it
            if path.is_file():
                said = tools.ask("ssh-keygen", "-F", _known_as(resolved), "-f", str(path)).stdout
                yield from ((path, line) for line in said.splitlines() if not line.startswith("#"))


def _known_keys(resolved: Resolved) -> list[tuple[str, str, str]]:
    """The known keys of a hop: marker, kind and key."""
    found = []
    for _, line in _known_lines(resolved):
        words = line.split()
        marker = words.pop(0) if line.startswith("@") else ""
        if len(words) >= 3:
            found.append((marker, words[1], words[2]))
    return found


def _to_forget(resolved: Resolved) -> str:
    """The command that removes the known keys of a hop from all files that have them."""
    files = dict.fromkeys(path for path, _ in _known_lines(resolved))
    return " && ".join(
        shlex.join(["ssh-keygen", "-R", _known_as(resolved), "-f", str(path)]) for path in files
    )


def host_key_is_known(resolved: Resolved) -> bool:
    """Whether ssh would ask a person about a hop's host key."""
    return bool(resolved.get("knownhostscommand") or _known_keys(resolved))


def _shown_keys(resolved: Resolved) -> dict[str, str]:
    """The host keys that a server shows to anybody, by type; none if it does not answer."""
    if shutil.which("ssh-keyscan") is None:
        return {}
    seconds = f"{_PROBE_TIMEOUT / 2:.0f}"
    argv = ["-T", seconds, "-p", str(resolved.port), "--", resolved.hostname]
    said = tools.ask("ssh-keyscan", *argv, timeout=2 * _PROBE_TIMEOUT).stdout
    rows = (line.split() for line in said.splitlines() if not line.startswith("#"))
    return {words[1]: words[2] for words in rows if len(words) == 3}


# In the order in which a connection depends on them.
LINKS: tuple[tuple[str, Callable[[Destination], Finding]], ...] = (
    ("resolution", resolution),
    ("name", name_resolution),
    ("connection", connection),
    ("host keys", host_keys),
)
