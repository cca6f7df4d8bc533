"""The settings of a destination, and the directories in which everything is kept.

Settings say how to log in and how long a login lasts. Host names, users, ports, jumps and keys are never
repeated here: they are in ssh_config. As in ssh_config(5), the first table that matches and has a value
decides, so particular hosts come before general ones.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from opensshtransport.errors import SettingsError
from opensshtransport.local.trust import OPEN, Kind, distrust, doubt_above
from opensshtransport.prompts.answers import Answer, parse_answer, text_value
from opensshtransport.prompts.profiles import profile_rules
from opensshtransport.prompts.rules import Rule, parse_rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

APPLICATION = "opensshtransport"

# sun_path holds 108 bytes on Linux and 104 on macOS; ssh binds PATH plus 17 bytes and renames it.
LONGEST_SOCKET_PATH = 86

# A path to connect to may be longer, such as the links of `aliases`, with the 40 digits that ssh makes from
# `%C`.
_LONGEST_LINK_PATH = 103 if sys.platform == "darwin" else 107

_LINK_NAME = len("/names/0123456789ab.d/") + 40

# Anybody may write to /tmp; so the directory's owner and mode are checked.
_FALLBACK = Path("/tmp")  # noqa: S108 - for that reason

# ssh keeps times in an int.
_LONGEST_TIME = 2**31 - 1

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "afs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one destination. Times are in seconds.

    Attributes:
        ssh, scp, sftp: the OpenSSH programs, a name on PATH or a path.
        persist: how long an idle master stays (ControlPersist); 0 means no limit.
        server_alive_interval, server_alive_count_max: as in ssh_config(5); None keeps what ssh_config says,
            or a minute in all if it says nothing.
        connect_timeout: for TCP and the banner (ConnectTimeout), if ssh_config says nothing.
        check_timeout: how long a live master may take to answer over the network.
        login_timeout: how long a login may take, the person's answers included.
        max_sessions: sessions open at once, across all processes.
        forwards: whether the master makes the forwardings of ssh_config.
        authentication_script: an executable that is run before a login, or None.
        script_timeout: how long it may take, the person's answers included.
        min_validity: the script is not run while the certificate is valid longer than this.
        keytab: a Kerberos keytab to get a ticket from, or None.
        login_hook: a shell command, run once when only a person can go on, or "".
        prompts: rules that answer prompts, in order.
        password, code, pin: what the rules for known centres need; None if not set.
        second_factor: "push" or "code", if a centre offers both; "" for a code if there is one.
    """

    ssh: str = "ssh"
    scp: str = "scp"
    sftp: str = "sftp"
    persist: int = 12 * 3600
    server_alive_interval: int | None = None
    server_alive_count_max: int | None = None
    connect_timeout: int = 30
    check_timeout: float = 10.0
    login_timeout: int = 300
    max_sessions: int = 8
    forwards: bool = False
    authentication_script: Path | None = None
    script_timeout: int = 300
    min_validity: int = 3600
    keytab: Path | None = None
    login_hook: str = ""
    prompts: tuple[Rule, ...] = ()
    password: Answer | None = None
    code: Answer | None = None
    pin: Answer | None = None
    second_factor: str = ""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that answer prompts: the user's own, then those for known centres."""
        return (*self.prompts, *self.known_rules)

    @property
    def known_rules(self) -> tuple[Rule, ...]:
        """The rules for the prompts of known centres; their secrets belong to this host alone."""
        known = {"password": self.password, "code": self.code, "pin": self.pin}
        secrets = {name: answer for name, answer in known.items() if answer is not None}
        return profile_rules(secrets, second_factor=self.second_factor or None)


def parse_duration(value: object, where: str) -> int:
    """Read a time in seconds: a whole number, or OpenSSH's notation such as `90s` or `1h30m`.

    Source: sshd_config(5), TIME FORMATS.

    Raises:
        SettingsError: it is neither.
    """
    seconds = -1
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and re.fullmatch(r"(?:\d{1,10}[smhdwSMHDW])*\d{1,10}[smhdwSMHDW]?", value):
        parts = re.findall(r"(\d+)([smhdw]?)", value.lower())
        seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if 0 <= seconds <= _LONGEST_TIME:
        return seconds
    raise SettingsError(f"{where} = {value!r} is not a time", advice='write it as "90s", "12h" or "1h30m"')


def _seconds(value: object, where: str) -> float:
    if isinstance(value, float) and 0 < value <= _LONGEST_TIME:
        return value
    if seconds := parse_duration(value, where):
        return float(seconds)
    raise SettingsError(f"{where} = {value!r} is no time to wait", advice="write a time above 0")


def _count(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise SettingsError(f"{where} = {value!r} is not a number above 0", advice="write it without quotes")


def _flag(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise SettingsError(f"{where} = {value!r} is neither true nor false", advice="write it without quotes")


def _program(value: object, where: str) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return os.path.expanduser(value)  # noqa: PTH111 - a bare name must stay one
    raise SettingsError(f"{where} = {value!r} is not a program", advice="give its name or its absolute path")


def _script(value: object, where: str) -> Path:
    path = _file(value, where)
    if path.is_dir():
        raise SettingsError(f"{where}: {path} is a directory", advice="name the program in it")
    if not os.access(path, os.X_OK):
        raise SettingsError(
            f"{where}: {path} is not executable", advice=f"run: chmod u+x {shlex.quote(str(path))}"
        )
    return path


def _file(value: object, where: str) -> Path:
    path = Path(_program(value, where))
    if not path.is_absolute():
        raise SettingsError(f"{where} = {value!r} is not an absolute path", advice="begin it with / or ~")
    if not path.exists():
        raise SettingsError(f"{where}: there is no {path}", advice="correct the path")
    return path


def _factor(value: object, where: str) -> str:
    # not a set: a list or a table has no hash
    if value in ("push", "code"):
        return str(value)
    raise SettingsError(f"{where} = {value!r} is unknown", advice='write "push" or "code"')


def _rules(value: object, where: str) -> tuple[Rule, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{where} is not a list of tables", advice='write [[host."PATTERN".prompts]]')
    return tuple(parse_rule(item, f"{where}[{number}]") for number, item in enumerate(value))


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "ssh": _program,
    "scp": _program,
    "sftp": _program,
    "persist": parse_duration,
    "server_alive_interval": parse_duration,
    "server_alive_count_max": _count,
    "connect_timeout": parse_duration,
    "check_timeout": _seconds,
    "login_timeout": parse_duration,
    "max_sessions": _count,
    "forwards": _flag,
    "authentication_script": _script,
    "script_timeout": parse_duration,
    "min_validity": parse_duration,
    "keytab": _file,
    "login_hook": text_value,
    "prompts": _rules,
    "password": parse_answer,
    "code": parse_answer,
    "pin": parse_answer,
    "second_factor": _factor,
}


def matches(host: str, patterns: str) -> bool:
    """Whether a host matches a pattern list. Source: ssh_config(5), PATTERNS.

    Patterns are separated by blanks or commas; one that begins with `!` and matches makes the whole list
    fail.
    """
    found = False
    for pattern in re.split(r"[\s,]+", patterns.strip()):
        if fnmatch.fnmatchcase(host, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def config_file() -> Path:
    """The settings' file: `config.toml` in the user's configuration directory (platformdirs)."""
    return Path(platformdirs.user_config_dir(APPLICATION)) / "config.toml"


def shared_file(ssh_config: Path | None) -> Path:
    """The file that an ssh_config file includes for shared names; None is the user's own ssh_config."""
    name = "ssh_config" if ssh_config is None else "ssh_config" + str(ssh_config).replace("/", ",")
    return config_file().with_name(name)


def load(host: str, file: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the settings of a destination.

    Every table of the file is checked, even those of other hosts, so that a mistake shows at once.

    Args:
        host: the destination as the caller names it.
        file: another file than the user's own.
        overrides: settings that take precedence over the file, with values of the same types.

    Raises:
        SettingsError: the file cannot be read, or a key or value in it is wrong.
    """
    values: dict[str, Any] = {key: _read(key, value, key) for key, value in (overrides or {}).items()}
    if file is None:
        file = config_file()
        _check_owner(file)
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        tree = {}
    except (OSError, ValueError) as reason:
        raise SettingsError(
            f"{file} cannot be read: {reason}", topic="settings", advice="correct that file"
        ) from reason
    unknown = tree.keys() - {"host"}
    if unknown:
        raise SettingsError(
            f"{file}: unknown key {min(unknown)!r}",
            topic="settings",
            advice='put settings into tables [host."PATTERN"]',
        )
    tables = tree.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SettingsError(
            f"{file}: host is not a table",
            topic="settings",
            advice='put settings into tables [host."PATTERN"]',
        )
    for patterns, table in tables.items():
        checked = {key: _read(key, value, f'{file}: host."{patterns}".{key}') for key, value in table.items()}
        if matches(host, patterns):
            values = {**checked, **values}
    settings = Settings(**values)
    # a wrong combination shows now, not during a login
    _ = settings.rules
    return settings


def _check_owner(file: Path) -> None:
    """Refuse a file that somebody else may have written, as ssh does for its own (ssh_config(5), FILES).

    Raises:
        SettingsError: others own it, or may write to it.
    """
    try:
        about = file.stat()
    except OSError:
        return
    if about.st_uid not in {os.getuid(), 0}:
        raise SettingsError(
            f"{file} belongs to user {about.st_uid}",
            topic="security",
            advice="it can make programs run: remove it",
        )
    if about.st_mode & 0o022:
        raise SettingsError(
            f"others may write to {file}",
            topic="security",
            advice=f"run: chmod go-w {shlex.quote(str(file))}",
        )


def _read(key: str, value: object, where: str) -> object:
    try:
        if key not in _READERS:
            known = ", ".join(sorted(_READERS))
            raise SettingsError(f"{where} is not a setting", advice=f"known settings: {known}")
        return _READERS[key](value, where)
    except SettingsError as error:
        error.topic = "settings"
        raise


def state_directory() -> Path:
    """The directory of what survives a reboot (audit log, failure counts): 0700, created if missing."""
    return private_directory(Path(platformdirs.user_state_dir(APPLICATION)))


def runtime_directory() -> Path:
    """The private directory of sockets and locks: 0700, ours, created if missing.

    The user's runtime directory according to platformdirs; if that is missing, on a network file system or
    too long for its contents, `/run/user/UID`, then `/tmp/opensshtransport-UID`. `ossh-run` looks in the same
    three places.

    Raises:
        SettingsError: something else, or somebody else's directory, is in its place.
    """
    named = os.environ.get("XDG_RUNTIME_DIR")
    candidates = [
        *([Path(named) / APPLICATION] if named and Path(named).is_absolute() else []),
        # platformdirs warns, and chooses another place, if these are not as they should be; so only on macOS
        Path(platformdirs.user_runtime_dir(APPLICATION))
        if sys.platform == "darwin"
        else Path(f"/run/user/{os.getuid()}") / APPLICATION,
    ]
    for candidate in candidates:
        parent = candidate.parent
        if (
            len(os.fsencode(candidate)) + _LINK_NAME <= _LONGEST_LINK_PATH
            and parent.is_dir()
            # after `su` the variable may name another user's
            and parent.stat().st_uid == os.getuid()
            and os.access(parent, os.W_OK | os.X_OK)
            and _file_system(parent) not in NETWORK_FILE_SYSTEMS
            and not doubt_above(parent, os.getuid())
        ):
            return private_directory(candidate)
    return private_directory(_FALLBACK / f"{APPLICATION}-{os.getuid()}")


def private_directory(path: Path) -> Path:
    """Make a directory that only we can enter, or check that it is one.

    Raises:
        SettingsError: it is a link or not a directory, or it or something in it belongs to another user.
    """
    with contextlib.suppress(FileExistsError):
        _make_parents(path.parent)
        path.mkdir(mode=0o700)
    about = path.lstat()
    problem = distrust(about, Kind.DIRECTORY, os.getuid())
    if problem in {"", OPEN}:
        if stat.S_IMODE(about.st_mode) != 0o700:
            path.chmod(0o700)
        # others could have left a socket, or a file that we would read as our own
        inside = path.iterdir() if about.st_mode & 0o022 else ()
        strangers = {one.lstat().st_uid for one in inside} - {os.getuid()}
        if not strangers:
            return path
        # so that the next process checks again
        path.chmod(stat.S_IMODE(about.st_mode))
        problem = f"was writable by others, and contains something of user {min(strangers)}"
    raise SettingsError(
        f"{path} {problem}",
        topic="security",
        advice="somebody may be trying to read your sessions: remove it",
    )


def _make_parents(path: Path) -> None:
    """Create the directories above one, for ourselves alone (XDG Base Directory Specification)."""
    if not path.is_dir():
        _make_parents(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on, or "" if the system does not say (no /proc)."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    real = str(path.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, found
    return kind
