"""The hosts on the way to a destination: what ssh calls each when it asks, and which rules answer it.

The idea: ssh shows `user@host` of who asks, where `host` is HostKeyAlias or HostName, not the alias that
the person knows. So the way is resolved as ssh resolves it, and each rule gets the name that ssh will show.

The trap: two hosts may show the same name, for example behind one address and several ports. Then nothing
distinguishes them, and `screen` lets no rule answer.
"""

from __future__ import annotations

import dataclasses
import getopt
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import OpenSshTransportError
from opensshtransport.local.settings import load
from opensshtransport.openssh import programs
from opensshtransport.openssh.destination import MOST_JUMPS, Destination, Resolved, ask_resolved, jump_options
from opensshtransport.prompts.recognition import Way
from opensshtransport.prompts.rules import Rule

# ssh's own programs, in all releases (ssh.c).
_OPTIONS = "1246AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w:"


@dataclass(frozen=True, slots=True)
class Answering:
    """Which hosts may ask on the way to a destination, and the rules, each with its host as ssh shows it."""

    way: Way
    rules: tuple[Rule, ...]


def answering(destination: Destination, *, rules: bool = True) -> Answering:
    """Find out which hosts may ask, and which rules answer.

    `prompts` of the destination hold for every hop, or for the one that `hop` names. `password`, `code` and
    `pin` belong to the host whose table they are in: the destination's to it, a jump host's to that.

    Args:
        destination: where to.
        rules: whether rules may answer at all.
    """
    hops = _hops(destination, destination.host, destination.resolved, MOST_JUMPS)
    askers = tuple(hop.asker for hop in hops if hop.alias)
    way = Way(askers, named=_names_askers(destination), hidden=len(askers) < len(hops))
    if not rules:
        return Answering(way, ())
    own = (
        rule if rule.hop is None else dataclasses.replace(rule, hop=_shown(rule.hop, destination, hops))
        for rule in destination.settings.prompts
    )
    known = (
        dataclasses.replace(rule, hop=_exactly(hop.asker))
        for hop in dict.fromkeys(hops)
        if hop.alias
        for rule in (destination.settings if hop is hops[-1] else load(hop.alias)).known_rules
    )
    return Answering(way, (*own, *known))


def can_ask_by_program(destination: Destination) -> bool:
    """Whether ssh asks through SSH_ASKPASS when told to (SSH_ASKPASS_REQUIRE, since 8.4)."""
    return programs.version(destination.ssh) >= (8, 4)


def _names_askers(destination: Destination) -> bool:
    """Whether ssh's prompts show who asks: servers' words are marked, or no server can ask in its own."""
    if programs.version(destination.ssh) >= (8, 5):
        return True
    resolved = destination.resolved
    methods = resolved.get("preferredauthentications", "keyboard-interactive")
    # before 8.7 either of them switches the method on
    flags = ("kbdinteractiveauthentication", "challengeresponseauthentication")
    can_ask = any(map(resolved.flag, flags)) and "keyboard-interactive" in methods
    return not can_ask and len(destination.route) == 1 and not destination.route[-1][3]


@dataclass(frozen=True, slots=True)
class _Hop:
    """A host on the way.

    Attributes:
        alias: its name in ssh_config, or "" where a ProxyCommand hides it.
        asker: `user@host` as ssh shows it.
        place: the real host and its port.
    """

    alias: str
    asker: str = ""
    place: tuple[str, int] = ("", 0)


def _hops(destination: Destination, host: str, resolved: Resolved, left: int) -> tuple[_Hop, ...]:
    """The hops to a host, itself the last; as `Destination.route`, and through an ssh in ProxyCommand."""
    before: tuple[_Hop, ...] = ()
    for number, jump in enumerate(resolved.jumps if left > 0 else ()):
        options, alias = jump_options(jump)
        found = ask_resolved(destination.ssh, alias, destination.ssh_config, options)
        # only the first one is reached the way ssh_config says (ssh_config(5), ProxyJump)
        way = _hops(destination, alias, found, left - 1)
        before += way if number == 0 else way[-1:]
    if command := "" if resolved.jumps or left <= 0 else resolved.get("proxycommand"):
        before = _by_command(destination, command, host, resolved, left)
    asker = f"{resolved.user}@{resolved.shown}"
    return (*before, _Hop(host, asker, (resolved.hostname, resolved.port)))


def _by_command(
    destination: Destination, command: str, host: str, resolved: Resolved, left: int
) -> tuple[_Hop, ...]:
    """The hops to the host of a ProxyCommand such as `ssh -W %h:%p front`."""
    tokens = {"h": resolved.hostname, "p": str(resolved.port), "r": resolved.user, "n": host, "%": "%"}
    try:
        words = shlex.split(re.sub(r"%([hprn%])", lambda token: tokens[token[1]], command))
        words = words[words[:1] == ["exec"] :]
        if Path(words[0]).name != "ssh":
            return (_Hop(""),)
        given, (alias, *_) = getopt.getopt(words[1:], _OPTIONS)
        files = [Path(value) for option, value in given if option == "-F"]
        options = [
            word for option, value in given if option in {"-l", "-p", "-o", "-J"} for word in (option, value)
        ]
        inner = dataclasses.replace(destination, ssh_config=files[-1] if files else None)
        found = ask_resolved(destination.ssh, alias, inner.ssh_config, options)
        return _hops(inner, alias.rpartition("@")[2], found, left - 1)
    except (OpenSshTransportError, getopt.GetoptError, ValueError, IndexError):
        return (_Hop(""),)


def _exactly(asker: str) -> str:
    """A pattern of `fnmatch` for this asker alone."""
    return re.sub(r"[*?[]", r"[\g<0>]", asker)


def _shown(hop: str, destination: Destination, hops: Sequence[_Hop]) -> str:
    """`hop` of a rule as ssh's prompts show it; patterns, and what ssh cannot resolve, stay as they are.

    A name that is not on the way may still be in a ProxyCommand, so ssh is asked about it.
    """
    if re.search(r"[*?[]", hop):
        return hop
    user, at, alias = hop.rpartition("@")
    names = [one for one in hops if one.alias == alias] or [
        one for one in hops if _host(one) == alias.lower()
    ]
    if not names:
        try:
            found = ask_resolved(destination.ssh, alias, destination.ssh_config)
        except OpenSshTransportError:
            return hop
        alike = [one for one in hops if _host(one) == found.shown.lower()]
        names = [one for one in alike if one.place == (found.hostname, found.port)]
        if alike and not names:
            # another place that would be shown with a name of the way: no asker has this name
            return f"{_exactly(found.shown)}:{found.port}"
        if not names:
            return f"{user}{at}{_exactly(found.shown)}"
    asker = names[-1].asker
    return _exactly(f"{user}@{_host(names[-1])}" if at else asker)


def _host(hop: _Hop) -> str:
    return hop.asker.rpartition("@")[2].lower()
