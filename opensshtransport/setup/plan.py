"""What `ossh setup` is asked to do, and how that is written in ssh_config and config.toml.

Pure values and texts: nothing here asks, writes or runs anything. `setup` does that.

The trap: ssh takes the first value that it finds for an option. So only `ssh -G` shows whether a block has
the intended effect (`lacking`), not the block itself.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import SettingsError
from opensshtransport.openssh import destination
from opensshtransport.openssh.destination import Resolved
from opensshtransport.openssh.ssh_config import home

# The ways to log in, and their options in ssh_config.
METHODS: Mapping[str, Mapping[str, str]] = {
    "key": {"IdentitiesOnly": "yes", "AddKeysToAgent": "yes"},
    "certificate": {"IdentitiesOnly": "yes"},
    "kerberos": {
        "GSSAPIAuthentication": "yes",
        "PreferredAuthentications": "gssapi-with-mic,publickey,keyboard-interactive,password",
    },
    "password": {"PreferredAuthentications": "keyboard-interactive,password"},
}


@dataclass(frozen=True, slots=True)
class Hop:
    """A jump host, or the target: its name in ssh_config, and where that leads."""

    name: str
    hostname: str
    user: str = ""
    port: int = 22


_HOP = re.compile(
    r"(?:(?P<name>[^=@\s]+)=)?(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^]\s]+\]|[^:@\[\]\s]+)(?::(?P<port>\d{1,5}))?"
)


def parse_hop(text: str) -> Hop:
    """Read `[NAME=][USER@]HOST[:PORT]`; the name is HOST if none is given.

    Raises:
        SettingsError: it is something else.
    """
    match = _HOP.fullmatch(text)
    if match is None:
        raise SettingsError(f"{text!r} is not a host", advice="write [NAME=][USER@]HOST[:PORT]")
    host = destination.check_destination(match["host"].strip("[]"))
    name = destination.check_destination(match["name"] or host)
    return Hop(name, host, match["user"] or "", int(match["port"] or 22))


def parse_jumps(text: str, target: str) -> Mapping[str, Hop]:
    """Read the hops before a target, separated by blanks or commas; none of `none`, or of nothing.

    Returns:
        Each hop by the word it was read from, in order.

    Raises:
        SettingsError: one of them cannot be read, or a name is there twice.
    """
    words = [word for word in text.replace(",", " ").split() if word != "none"]
    hops = {word: parse_hop(word) for word in words}
    if len({target, *(hop.name for hop in hops.values())}) <= len(words):
        raise SettingsError("two hops have the same name", advice="write NAME=HOST for one of them")
    return hops


def parse_user(text: str) -> str:
    """Read a user name.

    Raises:
        SettingsError: it is something else.
    """
    if not re.fullmatch(r"[^\s\"-][^\s\"]*", text):
        raise SettingsError(f"{text!r} is not a user name", advice="write it without blanks")
    return text


def parse_method(text: str) -> str:
    """Read one of `METHODS`.

    Raises:
        SettingsError: it is something else.
    """
    if text not in METHODS:
        raise SettingsError(f"{text!r} is not a way to log in", advice=f"write one of {', '.join(METHODS)}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupRequest:
    """What the options say; None means to ask, or to keep what ssh_config says.

    Attributes:
        host: the name to set up.
        ssh_config: another file than ssh's own, or None.
        hostname, user, jumps, method, key: as in ssh_config; jumps as `[NAME=][USER@]HOST[:PORT]`.
        kind, bits: of a new key (ssh-keygen(1), -t and -b).
        passphrase: whether a new key gets one.
        certificate, script: of the method "certificate".
        copy: whether the public key is copied to each hop.
        store: secrets to be put into the keyring: "password", "code" or "pin".
        yes: ask nothing that has a default, and replace blocks.
        dry_run: only show.
    """

    host: str
    ssh_config: Path | None = None
    hostname: str | None = None
    user: str | None = None
    jumps: Sequence[str] | None = None
    method: str | None = None
    key: Path | None = None
    kind: str = "ed25519"
    bits: int | None = None
    passphrase: bool | None = None
    certificate: Path | None = None
    script: Path | None = None
    copy: bool = True
    store: Sequence[str] = ()
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan: each hop, the target last, and how to log in."""

    hops: tuple[Hop, ...]
    # those that ssh_config had before under a given name; their blocks are left alone
    known: frozenset[str]
    method: str
    key: Path | None
    certificate: Path | None
    script: Path | None


def with_port(host: str, port: int) -> str:
    """A host and a port, as `parse_hop` reads them."""
    name = f"[{host}]" if ":" in host else host
    return name if port == 22 else f"{name}:{port}"


def expanded(path: str) -> Path:
    """A path as ssh reads it: `~` is the home directory of the password database."""
    return home() / path[2:] if path.startswith("~/") else Path(path).absolute()


def shortened(path: Path) -> str:
    """A path as people write it in ssh_config."""
    with contextlib.suppress(ValueError):
        return f"~/{path.relative_to(home())}"
    return str(path)


def method_of(now: Resolved) -> str:
    """How ssh_config logs us in already, as far as our own blocks show."""
    preferred = now.get("preferredauthentications")
    for method, options in METHODS.items():
        if preferred and options.get("PreferredAuthentications") == preferred:
            return method
    return "certificate" if now.get("certificatefile") else "key"


def way(jumps: Sequence[str], version: tuple[int, int], config: Path | None = None) -> dict[str, str | None]:
    """How ssh_config says that a host is behind others, from the first to the last.

    ProxyJump came with OpenSSH 7.3; before, the last one's own block leads to it.
    """
    if not jumps:
        return {}
    if version >= (7, 3):
        return {"ProxyJump": ",".join(jumps), "ProxyCommand": None}
    file = f"-F {shlex.quote(str(config))} " if config else ""
    return {"ProxyCommand": f"ssh {file}-W %h:%p {jumps[-1]}", "ProxyJump": None}


def method_options(method: str, platform: str) -> dict[str, str]:
    """The options of ssh_config that choose a way to log in, on a platform as in sys.platform."""
    options = dict(METHODS[method])
    if method == "key" and platform == "darwin":
        # Apple's own option; other programs that read the file would reject it
        options = {**options, "IgnoreUnknown": "UseKeychain", "UseKeychain": "yes"}
    return options


_SAID = {"true": "yes", "false": "no"}

# Options that ssh -G never shows, or not in each version that has them (7.4).
_NOT_SHOWN = {"IgnoreUnknown", "UseKeychain"}

_NOT_ALWAYS_SHOWN = {"AddKeysToAgent"}


def lacking(resolved: Resolved, options: Mapping[str, str | None]) -> dict[str, str]:
    """The options that do not have the wanted values, with their actual values."""
    found: dict[str, str] = {}
    for keyword, wanted in options.items():
        values = resolved.options.get(keyword.lower(), ())
        if keyword in _NOT_SHOWN or (keyword in _NOT_ALWAYS_SHOWN and not values):
            continue
        plain = (wanted or "").strip('"')
        if keyword in {"IdentityFile", "CertificateFile"}:
            if expanded(plain) not in [expanded(value) for value in values]:
                found[keyword] = ", ".join(values)
            continue
        value = resolved.get(keyword)
        value = _SAID.get(value, value)
        same = value.lower() == plain.lower() if keyword == "HostName" else value == plain
        if not same:
            found[keyword] = value
    return found
