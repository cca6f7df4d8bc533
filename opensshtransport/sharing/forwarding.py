"""Forwards that users request: `ossh forward`, and `Transport.forward`.

The trap: `ssh -N` over a master opens a shell and takes a session; `-O forward` takes none.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import SettingsError
from opensshtransport.master import forwards
from opensshtransport.master.facts import Facts
from opensshtransport.master.forwards import Entry, Forward
from opensshtransport.openssh.destination import Destination


@dataclass(frozen=True, slots=True)
class Listening:
    """A local port that is forwarded to the host.

    Attributes:
        local_port: on 127.0.0.1.
        target: where it leads, in the login node's terms.
    """

    local_port: int
    target: str


_SHORT = re.compile(r"(?:(?P<host>\[[^]]+\]|[^:/\s]+):)?(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested forward: in ssh's terms, or a target that gets the first free local port.

    Attributes:
        forward: as ssh has it, or None.
        target: where the host connects to, as in a spec of -L.
        first: the local port to try first; 0 for any.
    """

    forward: Forward | None = None
    target: str = ""
    first: int = 0


def short(word: str) -> Wanted:
    """Read the short form: `8888`, or `jobnode:8888`.

    Raises:
        SettingsError: it is none.
    """
    match = _SHORT.fullmatch(word)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise SettingsError(
            f"{word!r} is not a port to forward",
            topic="tunnels",
            advice="write 8888, jobnode:8888, or -L as for ssh",
        )
    port = int(match["port"])
    return Wanted(target=f"{match['host'] or 'localhost'}:{port}", first=port)


def target_of(target: int | str) -> str:
    """The target of a library call: a port of the login node, `HOST:PORT`, or a socket on the host.

    Raises:
        SettingsError: it is none of these.
    """
    word = str(target)
    return word if word.startswith("/") and ":" not in word else short(word).target


@contextlib.contextmanager
def listening(
    destination: Destination, facts: Facts, target: int | str, local_port: int
) -> Iterator[Listening]:
    """A local port for a while.

    Raises:
        SettingsError: the target is none, or the port is taken.
        ConnectionFailed: the master refuses it.
    """
    leads_to = target_of(target)
    exactly = Forward("-L", f"{local_port}:{leads_to}") if local_port else None
    with forwarded(destination, facts, Wanted(exactly, leads_to)) as (_, port):
        yield Listening(port, leads_to)


def start(
    destination: Destination, facts: Facts, wanted: Wanted, *, keep: bool = False
) -> tuple[Forward, int]:
    """Forward, and register it; it belongs to this process unless it is to be kept.

    Returns:
        The forward, and the port that listens: locally, or for -R on the host; 0 for a socket.

    Raises:
        SettingsError: the local port is taken.
        ConnectionFailed: the master refuses it.
    """
    socket, ssh = Path(facts.socket), destination.ssh
    forwards.sweep(ssh)
    pid = 0 if keep else os.getpid()
    if keep and (kept := _kept(destination, wanted)):
        # it may have been refused after the last login
        chosen = forwards.request(ssh, socket, kept)
        return kept, chosen or kept.port or 0
    if wanted.forward is None:
        forward, port = forwards.local_port(ssh, socket, wanted.first, wanted.target)
        forwards.note(socket, [forward], pid=pid, identity=destination.identity)
        return forward, port
    forward = forwards.local(wanted.forward)
    _check_free(forward, socket)
    entry = forwards.note(socket, [forward], pid=pid, identity=destination.identity)
    try:
        chosen = forwards.request(ssh, socket, forward)
    except BaseException:
        entry.unlink(missing_ok=True)
        raise
    return forward, chosen or forward.port or 0


def _kept(destination: Destination, wanted: Wanted) -> Forward | None:
    """The forward that does what is wanted, where one is kept already."""
    exactly = forwards.local(wanted.forward) if wanted.forward else None
    for entry in forwards.entries():
        if (entry.pid, entry.identity) != (0, destination.identity):
            continue
        for forward in entry.forwards:
            # a target alone takes any local port
            if forward == (exactly or Forward("-L", f"127.0.0.1:{forward.port}:{wanted.target}")):
                return forward
    return None


def _check_free(forward: Forward, socket: Path) -> None:
    """Refuse a port that another program uses; the same forward of this master is allowed."""
    same = any(forward in entry.forwards for entry in forwards.entries() if entry.socket == socket)
    if forward.option == "-R" or not forward.port or same:
        return
    address = forward.listener[0].replace("*", "0.0.0.0")  # noqa: S104 - only looked at
    numeric = re.fullmatch(r"[\d.]+|[\da-fA-F:]*:[\da-fA-F:]*", address)
    if numeric and not forwards.is_free(forward.port, address):
        raise SettingsError(
            f"another program listens at {address}:{forward.port}",
            topic="tunnels",
            advice="choose another local port",
        )


def stop(destination: Destination, forward: Forward) -> None:
    """End a forward of this process."""
    for entry in forwards.entries():
        if entry.pid == os.getpid() and forward in entry.forwards and entry.identity == destination.identity:
            forwards.drop(destination.ssh, entry, forward)
            return


@contextlib.contextmanager
def forwarded(destination: Destination, facts: Facts, wanted: Wanted) -> Iterator[tuple[Forward, int]]:
    """A forward for a while."""
    forward, port = start(destination, facts, wanted)
    try:
        yield forward, port
    finally:
        stop(destination, forward)


def of_destination(destination: Destination, socket: Path | None) -> list[Entry]:
    """The entries for a destination's master, including those that wait for the next one."""
    return [
        entry
        for entry in forwards.entries()
        if entry.wanted and (entry.identity == destination.identity or entry.socket == socket)
    ]


def cancel(destination: Destination, socket: Path | None, word: str | None) -> list[Forward]:
    """End forwards by a port or a spec, no matter which program asked for them; None for all.

    Raises:
        SettingsError: there is no such forward.
    """
    found = of_destination(destination, socket)
    known = list(dict.fromkeys(forward for entry in found for forward in entry.forwards))
    ended: Sequence[Forward] = known if word is None else forwards.matching(known, word)
    if not ended and word is not None:
        raise SettingsError(
            f"there is no forward {word}",
            topic="tunnels",
            advice=f"known forwards: {', '.join(map(str, known)) or 'none'}",
        )
    for forward in ended:
        for entry in of_destination(destination, socket):
            if forward in entry.forwards:
                forwards.drop(destination.ssh, entry, forward)
    return list(ended)
