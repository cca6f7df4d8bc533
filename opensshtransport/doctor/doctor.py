"""`ossh doctor HOST`: the chain from this machine to the scheduler, link by link.

Each link is reported as fine, warning or broken, with what was seen and how to fix it. A link that needs a
broken one is skipped, and says so. Without `login` nothing is ever logged in.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from opensshtransport.doctor import after_login, before_login, credentials
from opensshtransport.doctor.after_login import FarSide
from opensshtransport.doctor.finding import NOT_USED, Finding, broken, fine, skipped
from opensshtransport.errors import OpenSshTransportError, Remedy
from opensshtransport.login import login
from opensshtransport.login.person import Person
from opensshtransport.login.window import Window
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import Destination

_COLOURS = {"fine": "32", "warning": "33", "broken": "31", "skipped": "2"}

_STATE = max(map(len, _COLOURS))

# Which links need which others.
_NEEDS = {
    "ssh_config": ("openssh",),
    "connection": ("name",),
    "host keys": ("connection",),
    "keys": ("runtime directory",),
    "master": ("runtime directory", "settings", "script"),
}


def examine(
    host: str, ssh_config: Path | None = None, *, log_in: bool = False, person: Person | Window | None = None
) -> Iterator[Finding]:
    """Check the chain; each link gives one finding.

    Args:
        host: the destination.
        ssh_config: the configuration file instead of ssh's own, or None.
        log_in: whether a login may be made.
        person: who may be asked during it.
    """
    found: dict[str, Finding] = {}

    def told(link: str, ask: Callable[[], Finding]) -> Finding:
        lacking = [need for need in _NEEDS.get(link, ()) if found[need].state in {"broken", "skipped"}]
        finding = skipped(f"needs the link {lacking[0]}") if lacking else _or_broken(ask)
        found[link] = dataclasses.replace(finding, link=link)
        return found[link]

    in_file, of_script, settings = before_login.settings_file(host)
    yield told("openssh", lambda: before_login.programs(settings))
    yield told("runtime directory", before_login.runtime)
    yield told("settings", lambda: in_file)
    destinations: list[Destination] = []
    yield told("ssh_config", lambda: before_login.configuration(host, ssh_config, settings, destinations))
    destination = destinations[0] if destinations else None
    for name, local in (*before_login.LINKS, *credentials.LINKS):
        yield told(name, lambda ask=local: _with(destination, ask))  # type: ignore[misc]
        if name == "ticket":
            yield told("script", lambda: of_script)
    facts: list[Facts] = []
    yield told(
        "master", lambda: _with(destination, lambda to: _master(to, facts, log_in=log_in, person=person))
    )
    far = FarSide(Master(destination), facts[0]) if destination and facts else None
    for name, remote in after_login.LINKS:
        yield told(name, lambda ask=remote: ask(far) if far else skipped("needs a running master"))  # type: ignore[misc]


def _or_broken(ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except OpenSshTransportError as error:
        return broken(error.message, error.remedy)
    except OSError as error:
        return broken(str(error), "correct what it names")


def _with(destination: Destination | None, ask: Callable[[Destination], Finding]) -> Finding:
    return skipped("needs the link ssh_config") if destination is None else ask(destination)


def _master(
    destination: Destination, facts: list[Facts], *, log_in: bool, person: Person | Window | None
) -> Finding:
    """The master, checked by a round trip; what is known of it is added to `facts`."""
    master = Master(destination)
    listening, live = master.listening(), master.check()
    if live is None and not log_in:
        if listening is None:
            return skipped(
                "none is running; the links below need one", Remedy("run: ", "ossh doctor --login")
            )
        return broken(
            f"the one at {listening} does not answer: the network or the server is gone",
            Remedy("run: ", "ossh login"),
        )
    facts.append(login.open_master(destination, person, login=log_in))
    found = facts[0]
    since = datetime.datetime.fromtimestamp(found.since).astimezone()
    whose = "" if found.ours else ", your own"
    return fine(f"live since {since:%Y-%m-%d %H:%M:%S}, process {found.pid}{whose}")


def status(findings: Iterable[Finding]) -> int:
    """The exit status: 0 if all is fine, 1 with warnings, 2 if something is broken."""
    states = {finding.state for finding in findings}
    return 2 if "broken" in states else 1 if "warning" in states else 0


def as_object(finding: Finding) -> dict[str, str]:
    """A finding for programs."""
    keys = ("link", "state", "seen", "advice")
    return {key: str(getattr(finding, key)) for key in keys}


def text(finding: Finding, *, colour: bool = False, width: int | None = None) -> str:
    """A finding as a line, and below it how to fix it.

    Args:
        finding: what was found.
        colour: whether the state is coloured.
        width: of the terminal; fine findings are cut to it, so that one screen is enough if all is well.
    """
    line = f" {finding.link:<17} {finding.seen}"
    if width is not None and finding.state == "fine" and len(line) > width - _STATE:
        line = f"{line[: width - _STATE - 1]}…"
    state = f"{finding.state:<{_STATE}}"
    if colour:
        state = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
    advice = f"\n{'':<{_STATE + 19}}-> {finding.advice}" if finding.advice else ""
    return f"{state}{line}{advice}"


def lines(findings: Iterable[Finding], *, colour: bool = False, width: int | None = None) -> Iterator[str]:
    """Findings as text, each as soon as it is known; equal findings in a row share a line."""
    held: list[Finding] = []
    for finding in findings:
        if held and (finding.state, finding.seen) != (held[0].state, held[0].seen):
            yield _together(held, colour=colour)
            held = []
        if finding.seen == NOT_USED or (finding.state == "skipped" and not finding.advice):
            held.append(finding)
        else:
            yield text(finding, colour=colour, width=width)
    if held:
        yield _together(held, colour=colour)


def _together(held: list[Finding], *, colour: bool) -> str:
    if len(held) == 1:
        return text(held[0], colour=colour)
    names = ", ".join(finding.link for finding in held)
    return text(dataclasses.replace(held[0], link=f"{names}:"), colour=colour)


def summary(findings: Iterable[Finding]) -> str:
    """The last line."""
    counts = {state: sum(each.state == state for each in findings) for state in _COLOURS}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
