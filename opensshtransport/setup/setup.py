"""`ossh setup HOST`: does what a centre's how-to page asks people to do by hand; safe to run again.

In this order: the key, the `Host` blocks of ssh_config, the agent, and then for each hop, from the first jump
host on, its host key and the public key; finally secrets and config.toml. Each step first checks whether its
work is done.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path

from opensshtransport.errors import LoginNeeded, SettingsError
from opensshtransport.local import edits
from opensshtransport.local.settings import config_file, load
from opensshtransport.login.person import Person
from opensshtransport.login.secrets import dump_no_core
from opensshtransport.openssh import ssh_config
from opensshtransport.openssh.destination import Resolved, check_destination
from opensshtransport.setup import stored
from opensshtransport.setup.blocks import Blocks
from opensshtransport.setup.config_toml import toml, with_settings
from opensshtransport.setup.keys import Keys
from opensshtransport.setup.plan import (
    METHODS,
    Hop,
    Plan,
    SetupRequest,
    expanded,
    method_of,
    parse_hop,
    parse_jumps,
    parse_method,
    parse_user,
    with_port,
)


def setup(request: SetupRequest, person: Person | None, say: Callable[[str], None]) -> None:
    """Make `ssh HOST` possible.

    Args:
        request: what the options say.
        person: who may be asked.
        say: shows a line.

    Raises:
        SettingsError: something is wrong in the request, or cannot be written.
        ConfigurationError: ssh_config does not have the intended effect.
        LoginNeeded: only a person can go on.
        ConnectionFailed: another of its kinds, if a hop cannot be reached.
    """
    check_destination(request.host)
    # what is typed passes through this process
    dump_no_core()
    work = _Setup(request, person, say)
    plan = work.plan()
    work.look_ahead(plan)
    work.make_key(plan)
    work.write_blocks(plan)
    work.write_settings(plan)
    if not request.dry_run:
        work.add_to_agent(plan)
    work.reach_hops(plan)


def write_block(
    request: SetupRequest, name: str, options: Mapping[str, str | None], say: Callable[[str], None]
) -> None:
    """Write only the `Host` block of a name; otherwise as `setup`."""
    Blocks(request, None, say).write_block(name, options)


class _Setup(Blocks, Keys):
    """All steps."""

    def _refuse_guesses(self, now: Resolved) -> None:
        """Refuse to use ssh's own defaults for missing options if nobody can be asked."""
        request = self.request
        if self.interactive or request.yes or request.host in ssh_config.names(request.ssh_config):
            return
        lacking_ones = [
            option
            for option, given, guessed in (
                ("--hostname", request.hostname, now.hostname == request.host.lower()),
                ("--user", request.user, now.user == pwd.getpwuid(os.getuid()).pw_name),
            )
            if given is None and guessed
        ]
        if lacking_ones:
            raise SettingsError(
                f"there is nobody to ask for {' and '.join(lacking_ones)}",
                topic="setup",
                advice="run it at a terminal, or give each as an option, or --yes for ssh's defaults",
            )

    def plan(self) -> Plan:
        """Ask what is not given; defaults are what ssh_config says now."""
        request = self.request
        now = self.resolved(request.host)
        self._refuse_guesses(now)
        address = with_port(now.hostname, now.port)
        target = self.ask("Host name of the login node", request.hostname, address, parse_hop)
        user = self.ask("User name on it", request.user, now.user, parse_user)
        jumps = self.ask(
            "Jump hosts in order, each [NAME=][USER@]HOST[:PORT]",
            None if request.jumps is None else " ".join(request.jumps),
            " ".join(now.jumps),
            lambda words: parse_jumps(words, request.host),
        )
        method = self.ask(f"Log in by ({', '.join(METHODS)})", request.method, method_of(now), parse_method)
        by_key = method in {"key", "certificate"}
        key = None
        if by_key:
            default = str(request.key or _key_of(now) or f"~/.ssh/id_{request.kind}")
            given = str(request.key) if request.key else None
            key = self.ask("Private key", given, default, expanded)
        script = None
        if method == "certificate":
            script = self.ask(
                "Program that gets the certificate",
                str(request.script) if request.script else None,
                str(_script_of(request.host) or ""),
                lambda word: expanded(word) if word else None,
            )
        hops = [
            Hop(hop.name, hop.hostname, hop.user or target.user or user, hop.port) for hop in jumps.values()
        ]
        last = Hop(request.host, target.hostname, target.user or user, target.port)
        names = ssh_config.names(request.ssh_config)
        return Plan(
            hops=(*hops, last),
            known=frozenset(hop.name for word, hop in jumps.items() if word in names),
            method=method,
            key=key,
            certificate=None if request.certificate is None else expanded(str(request.certificate)),
            script=script,
        )

    def look_ahead(self, plan: Plan) -> None:
        """Before anything is written, refuse what would need a person later, if nobody is there.

        Raises:
            LoginNeeded, HostKeyUnknown, SettingsError: a secret, a fingerprint or a yes is needed.
        """
        request = self.request
        if request.dry_run:
            return
        if self.person is None:
            if (
                plan.method == "key"
                and plan.key
                and not plan.key.exists()
                and request.passphrase is not False
            ):
                raise LoginNeeded(
                    "a person must type the new key's passphrase",
                    host=request.host,
                    advice="run it at a terminal, or with --no-passphrase",
                )
            for kind in request.store:
                if not stored.is_there(_username(kind, plan.hops[-1])):
                    raise LoginNeeded(
                        f"a person must type the {stored.WHAT[kind]}",
                        host=request.host,
                        advice="run it at a terminal",
                    )
            for hop in plan.hops if plan.method == "key" else ():
                now = self.resolved(hop.name).options
                there = {"hostname": (hop.hostname,), "port": (str(hop.port),)}
                self.host_key_is_known(
                    hop.name, Resolved(now if hop.name in plan.known else {**now, **there})
                )
        if not self.interactive and not request.yes:
            for name, options in self.blocks(plan):
                self.refuse_another_block(name, options)

    def write_settings(self, plan: Plan) -> None:
        """Store secrets in the keyring, and write what ssh_config does not know to config.toml."""
        request, target = self.request, plan.hops[-1]
        wanted: dict[str, str] = {}
        if plan.script is not None:
            wanted["authentication_script"] = toml(str(plan.script))
            # perhaps in the table of a pattern
            if _script_of(request.host) == plan.script:
                self.say(f"{request.host}: config.toml already says so")
                wanted.clear()
        kinds = list(request.store)
        may_store = plan.method == "password" and not kinds and not request.dry_run and stored.has_keyring()
        question = "Keep the password in the keyring, for unattended logins?"
        if may_store and load(request.host).password is None and self.confirm(question, default=False):
            kinds.append("password")
        for kind in kinds:
            username = _username(kind, target)
            self._store(kind, username)
            wanted[kind] = stored.ANSWERS[kind].format(service=toml(stored.SERVICE), username=toml(username))
        if not wanted:
            return
        file = config_file()
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = with_settings(before, request.host, wanted)
        if after == before:
            self.say(f"{request.host}: config.toml already says so")
            return
        self.show(before, after, file)
        if request.dry_run:
            return
        with edits.replaced(file, after, self.kept):
            load(request.host)
        self.say(f"{request.host}: written to {file}")

    def _store(self, kind: str, username: str) -> None:
        if self.request.dry_run:
            self.say(f"would ask for the {stored.WHAT[kind]}, and keep it in the keyring as {username!r}")
        elif stored.is_there(username):
            self.say(f"{username}: already in the keyring")
        else:
            stored.ask_for(kind, self.request.host, username)


def _username(kind: str, target: Hop) -> str:
    return f"{kind} of {target.user}@{target.hostname}"


def _script_of(host: str) -> Path | None:
    return load(host).authentication_script


def _key_of(now: Resolved) -> Path | None:
    """The key that ssh_config names; of ssh's defaults, one that exists."""
    paths = [expanded(name) for name in now.options.get("identityfile", ())]
    named = [
        path for path in paths if not path.name.startswith("id_") or path.parent != ssh_config.home() / ".ssh"
    ]
    return next((path for path in (*named, *(path for path in paths if path.exists()))), None)
