"""How ssh writes hosts and scp writes files: `user@host`, `ssh://user@host:port`, `[v6]:path`. Pure.

The traps: a user's name may contain `@`, colons and backslashes, and IPv6 addresses contain colons too; a
local file may have a colon. And scp and sftp often read a host of ssh's differently.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from opensshtransport.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Address:
    """Where to log in; ssh_config decides what is not given."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """As a destination for ssh; a port can only be given in a URI."""
        if self.port is not None:
            user = "" if self.user is None else f"{quote(os.fsencode(self.user), safe='')}@"
            return f"ssh://{user}{self.operand}:{self.port}"
        return self.host if self.user is None else f"{self.user}@{self.host}"

    @property
    def operand(self) -> str:
        """The host alone, in a form that scp and sftp accept before a colon."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class Place:
    """A path on a host or, if that is None, a local one."""

    host: str | None
    path: str


def parse_address(text: str) -> Address:
    """Read a destination as ssh does: `[user@]host` or `ssh://[user@]host[:port]` (ssh(1)).

    Raises:
        SettingsError: it begins as a URI and is none.
    """
    if text.startswith("ssh://"):
        address, path = _parse_uri(text)
        if path:
            raise _no_uri(text, "leave out the path")
        return address
    user, at, host = text.rpartition("@")
    return Address(host, user if at else None)


def parse_jump(text: str) -> Address:
    """Read a jump host: `[user@]host[:port]`, `[address]:port`, or a URI (ssh_config(5), ProxyJump).

    Raises:
        SettingsError: it begins as a URI and is none.
    """
    if text.startswith("ssh://"):
        return parse_address(text)
    user, at, host = text.rpartition("@")
    match = re.fullmatch(r"(?:\[([^]]+)\]|([^:]+))(?::(\d+))?", host)
    if match is None:
        return parse_address(text)
    return Address(match[1] or match[2], user if at else None, int(match[3]) if match[3] else None)


def parse_place(text: str) -> Place:
    """Read a file as scp(1) does: `[user@]host:[path]`, `scp://[user@]host[:port][/path]`, or a local path.

    A path on a host is relative to the home directory there; one that is empty is that directory.

    Raises:
        SettingsError: it is empty, or begins as a URI and is none.
    """
    host, path = split_place(text)
    return Place(host, path if host is None else path or ".")


def split_place(text: str) -> tuple[str | None, str]:
    """The host, as ssh takes it, and the path as written, even if it is empty.

    Raises:
        SettingsError: as `parse_place`.
    """
    if not text:
        raise SettingsError("an empty name", advice="give a path, or HOST:PATH")
    if text.startswith(("scp://", "ssh://")):
        address, path = _parse_uri(text)
        return str(address), path
    colon = _colon(text)
    if colon is None:
        return None, text
    user, _, host = text[:colon].rpartition("@")
    if not (host := _without_brackets(host)):
        return None, text
    return str(Address(host, user or None)), text[colon + 1 :]


def _colon(text: str) -> int | None:
    """Where a host ends; None for a local name (misc.c, colon)."""
    bracket = text.startswith("[")
    for place, letter in enumerate(text):
        following = text[place + 1 : place + 2]
        bracket = bracket or (letter == "@" and following == "[")
        if letter == "]" and following == ":" and bracket:
            return place + 1
        if letter == "/" or (letter == ":" and place == 0):
            return None
        if letter == ":" and not bracket:
            return place
    return None


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


# misc.c, parse_uri: the user ends at the first `@`; parameters after a `;` are skipped.
_URI = re.compile(
    r"\w+://(?:(?P<user>[^@;]+)(?:;[^@]*)?@)?(?P<host>\[[^][/@]+\]|[^][:/@]+)(?::(?P<port>\d*))?(?:/(?P<path>.*))?",
    re.DOTALL,
)


def _parse_uri(text: str) -> tuple[Address, str]:
    match = _URI.fullmatch(text)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 1 << 16):
        raise _no_uri(text, "write SCHEME://USER@HOST:PORT")
    user = None if match["user"] is None else _decoded(match["user"])
    port = int(match["port"]) if match["port"] else None
    return Address(_without_brackets(match["host"]), user, port), _decoded(match["path"] or "")


def _decoded(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def _no_uri(text: str, advice: str) -> SettingsError:
    return SettingsError(f"{text!r} is not a URI of a host", advice=advice)
