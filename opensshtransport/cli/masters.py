"""Every master, and its state.

A master is found by what was recorded when it was opened, not by what its name means in ssh_config now: an
edit must not hide a running master. All are checked in parallel, so one that does not answer does not delay
the others.

The trap: questions to local programs fork (`tools`), so they wait until all threads have ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import OpenSshTransportError, SettingsError
from opensshtransport.local import tools
from opensshtransport.local.settings import Settings, load, runtime_directory
from opensshtransport.master import control_socket, master
from opensshtransport.master.control_socket import State
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import programs
from opensshtransport.openssh.destination import Destination, check_destination, resolve

# How many hosts are checked at once.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is shown about one master.

    Attributes:
        host: the name by which it was opened, or asked for.
        state: "live", "busy", "unreachable", "none", or "error" if the name leads nowhere.
        address: user@host:port.
        pid, login_node, since, sessions: None if there is no master.
        certificate_expires, ticket_expires: None if the host uses none.
    """

    host: str
    state: str
    address: str | None = None
    pid: int | None = None
    login_node: str | None = None
    since: datetime.datetime | None = None
    sessions: int | None = None
    certificate_expires: datetime.datetime | None = None
    ticket_expires: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        rows: of each master, or of each host that was named.
        problems: what is wrong with names and ssh_config, one line each.
        settings: what is wrong with config.toml, each once; the defaults were used then.
    """

    rows: list[Row]
    problems: list[str]
    settings: list[str]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What to check: a destination that a name leads to now, or a master as it was recorded."""

    host: str
    destination: Destination | None
    facts: Facts | None = None


def collect(hosts: Sequence[str], ssh_config: str | None) -> Report:
    """Check all masters, or those of some hosts.

    Raises:
        ToolMissing: there is no ssh.
        SettingsError: the runtime directory is not safe to use.
    """
    directory = runtime_directory()
    master.sweep(directory)
    found = control_socket.known(directory)
    report = Report([], [], [])

    def resolved(name: tuple[str, str | None]) -> Destination | None:
        try:
            return resolve_anyhow(*name, report.settings)
        except OpenSshTransportError as error:
            report.problems.append(str(error))
            return None

    names = [(host, ssh_config) for host in hosts] or [(facts.host, facts.ssh_config) for facts in found]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        destinations = list(pool.map(resolved, names))
        if hosts:
            pairs = zip(hosts, destinations, strict=True)
            subjects = [each for pair in pairs for each in _named(*pair, of_name(found, pair[0], ssh_config))]
        else:
            report.problems.clear()
            pairs_of_facts = zip(found, destinations, strict=True)
            subjects = [_Subject(facts.host, destination, facts) for facts, destination in pairs_of_facts]
        looks = list(pool.map(_look, subjects))
    report.rows.extend(_row(subject, *seen) for subject, seen in zip(subjects, looks, strict=True))
    return report


def resolve_anyhow(host: str, ssh_config: str | None, problems: list[str]) -> Destination:
    """Find out where a name leads. What is wrong with config.toml is added to `problems`, once.

    Raises:
        SettingsError: the name is wrong.
        ConfigurationError: ssh refuses ssh_config.
        ToolMissing: ssh is missing.
    """
    check_destination(host)
    try:
        settings = load(host)
    except SettingsError as error:
        settings = Settings()
        if str(error) not in problems:
            problems.append(str(error))
    return resolve(host, ssh_config, settings=settings)


def of_name(found: Sequence[Facts], host: str, ssh_config: str | None) -> list[Facts]:
    """The masters that were opened with a name, including those that it does not lead to any more."""
    file = None if ssh_config is None else str(Path(ssh_config).expanduser().absolute())
    return [facts for facts in found if (facts.host, facts.ssh_config) == (host, file)]


def _named(host: str, destination: Destination | None, noted: Sequence[Facts]) -> list[_Subject]:
    now = [] if destination is None and noted else [_Subject(host, destination)]
    reached = set() if destination is None else set(map(str, Master(destination).candidates))
    return now + [_Subject(host, destination, facts) for facts in noted if facts.socket not in reached]


def _look(subject: _Subject) -> tuple[State, Path | None, Facts | None]:
    destination, facts = subject.destination, subject.facts
    if facts is not None:
        timeout = (destination.settings if destination else Settings()).check_timeout
        socket = Path(facts.socket)
        ssh = destination.ssh if destination else programs.locate("ssh")
        return control_socket.state_at(socket, ssh, timeout, facts.pid), socket, facts
    if destination is None:
        return State.NONE, None, None
    shared = Master(destination)
    return (*shared.look(), shared.facts())


def _row(subject: _Subject, state: State, socket: Path | None, facts: Facts | None) -> Row:
    destination = subject.destination
    if destination is None and facts is None:
        return Row(host=subject.host, state="error")
    there = facts if state is not State.NONE else None
    methods = there.methods if there else ""
    told = Row(
        host=subject.host,
        state=state.value,
        address=(there.address if there else destination.address if destination else "") or None,
        pid=there.pid or None if there else None,
        login_node=there.login_node or None if there else None,
        since=datetime.datetime.fromtimestamp(there.since).astimezone() if there else None,
        sessions=_sessions(socket) if socket is not None and state.alive else None,
    )
    if destination is None:
        return told
    by_key = not methods or "publickey" in methods
    by_ticket = destination.resolved.flag("gssapiauthentication") and (not methods or "gssapi" in methods)
    return dataclasses.replace(
        told,
        certificate_expires=_certificate_end(destination) if by_key else None,
        ticket_expires=tools.ticket_end() if by_ticket else None,
    )


def _certificate_end(destination: Destination) -> datetime.datetime | None:
    ends = []
    for path in destination.resolved.certificates():
        with contextlib.suppress(ValueError):
            ends.append(tools.certificate_end(path))
    # any valid one is enough; None is one that never expires
    known_ends = [] if None in ends else [end for end in ends if end is not None]
    return max(known_ends, default=None)


def _sessions(socket: Path) -> int | None:
    """How many clients the master serves now; None if the system does not say (no /proc)."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    # the sixth column is the state, 03 for connected (net/unix/af_unix.c: SS_CONNECTED); the last is the name
    # that ssh bound before it gave the socket its own: 17 bytes longer
    bound = re.compile(rf"(?:\S+ ){{5}}03 +\d+ {re.escape(str(socket))}(?:\.\w{{16}})?")
    return sum(1 for line in lines if bound.fullmatch(line))
