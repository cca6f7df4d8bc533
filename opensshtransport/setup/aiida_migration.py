"""`ossh aiida migrate COMPUTER`: move a computer from `core.ssh_async` or `core.ssh` to `openssh`.

Options that both transports have stay as they are. What `core.ssh` keeps in AiiDA's database and ours reads
from ssh_config (user, port, key, jump hosts) is written to ssh_config if `ssh -G` does not say it yet.

The trap: a running daemon still uses the old configuration, so it has to be restarted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensshtransport.errors import SettingsError, ToolMissing
from opensshtransport.openssh import destination, ssh_config
from opensshtransport.setup import plan, setup

_FROM = {"core.ssh", "core.ssh_async"}

_KEPT = ("host", "max_io_allowed", "authentication_script", "use_login_shell", "safe_interval")

# How AiiDA's transports write an option that is not set.
_UNSET = (None, "", "None")

# The names of these options in ssh_config. paramiko's other options are left to ssh.
_IN_SSH_CONFIG = {
    "username": "User",
    "port": "Port",
    "key_filename": "IdentityFile",
    "proxy_jump": "ProxyJump",
    "proxy_command": "ProxyCommand",
    "gss_auth": "GSSAPIAuthentication",
    "gss_deleg_creds": "GSSAPIDelegateCredentials",
}

_NOTES = {
    "data_node_host": "files go through the login host, not through {value}",
    "gss_host": "give the name {value} as HostName in ssh_config, where Kerberos needs it",
}


@dataclass(frozen=True, slots=True)
class Migration:
    """A computer's new configuration.

    Attributes:
        parameters: those of `openssh`.
        options: of ssh_config, which must be in effect for the host.
        notes: about what is left out.
    """

    parameters: dict[str, Any]
    options: dict[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def planned(hostname: str, before: Mapping[str, Any], config: Path | None = None) -> Migration:
    """The new form of a configuration of `core.ssh_async` or `core.ssh`."""
    values = {name: value for name, value in before.items() if value not in _UNSET}
    if "script_before" in values:
        values.setdefault("authentication_script", values["script_before"])
    parameters = {name: values[name] for name in _KEPT if name in values}
    parameters["host"] = values.get("host", hostname)
    if parameters.get("max_io_allowed", 1) < 1:
        parameters["max_io_allowed"] = 1
    if config is not None:
        parameters["ssh_config"] = str(config)
    options: dict[str, str | None] = {
        keyword: _written(values[name])
        for name, keyword in _IN_SSH_CONFIG.items()
        if values.get(name) and name not in {"proxy_jump", "proxy_command"}
    }
    # the other way, if any, must be removed
    if "proxy_jump" in values:
        hops = (_hop(hop.strip(), values) for hop in str(values["proxy_jump"]).split(","))
        options |= {"ProxyJump": ",".join(hops), "ProxyCommand": None}
    elif "proxy_command" in values:
        options |= {"ProxyCommand": str(values["proxy_command"]), "ProxyJump": None}
    notes = [text.format(value=values[name]) for name, text in _NOTES.items() if name in values]
    if values.get("key_policy") in {"AutoAddPolicy", "WarningPolicy"}:
        notes.append("host keys are always checked: log in once at a terminal, and compare the fingerprint")
    return Migration(parameters, options, tuple(notes))


def _hop(hop: str, values: Mapping[str, Any]) -> str:
    """A jump host of `core.ssh`: by default its user and port are the target's, unlike with ssh."""
    user, at, place = hop.rpartition("@")
    user = user if at else str(values.get("username", ""))
    has_port = re.search(r":\d+$", place) and (place.count(":") == 1 or "]" in place)
    port = "" if has_port or values.get("port", 22) == 22 else f":{values['port']}"
    return f"{user}@{place}{port}" if user else f"{place}{port}"


def _written(value: object) -> str:
    if value is True:
        return "yes"
    return ssh_config.quoted(str(value))


def migrate(
    label: str, *, profile: str | None, config: Path | None, dry_run: bool, say: Callable[[str], None]
) -> None:
    """Change a computer of the profile, for all its users.

    Args:
        label: of the computer.
        profile: AiiDA's; the default one if None.
        config: another file than the user's ssh_config.
        dry_run: only show.
        say: called with each line about what is done.

    Raises:
        ToolMissing: AiiDA is not installed in our environment.
        SettingsError: there is no such computer, or it cannot be migrated.
        ConfigurationError: ssh_config does not have the intended effect.
    """
    with _loaded(profile):
        computer, users = _computer(label)
        kind = computer.transport_type
        if kind not in _FROM:
            known = " or ".join(sorted(_FROM))
            raise SettingsError(
                f"the computer {label} has the transport {kind}",
                topic="aiida",
                advice=f"only {known} can be migrated",
            )
        plans = [(user, planned(computer.hostname, user.get_auth_params(), config)) for user in users]
        for user, plan_ in plans:
            _tell(label, kind, user, plan_, say)
            _write_options(plan_, config, dry_run, say)
        if dry_run:
            say("nothing was changed")
            return
        with computer.backend.transaction():
            for user, plan_ in plans:
                user.set_auth_params(plan_.parameters)
                user.store()
            computer.transport_type = "openssh"
            computer.store()
        say(f"{label}: now uses openssh")
        if _daemon_runs():
            say("the daemon still uses the old configuration; run: verdi daemon restart")
        host = plans[0][1].parameters["host"] if plans else computer.hostname
        say(f"next: ossh login {host} && verdi computer test {label}")


def _tell(label: str, kind: str, user: Any, plan_: Migration, say: Callable[[str], None]) -> None:
    before = user.get_auth_params()
    say(f"{label}: {kind} -> openssh, for {user.user.email}")
    for name, value in plan_.parameters.items():
        changed = "" if name in before and before[name] == value else "  (new)"
        say(f"  {name} = {value}{changed}")
    if left := sorted(before.keys() - plan_.parameters.keys()):
        say(f"  no longer in AiiDA: {', '.join(left)}")
    for note in plan_.notes:
        say(f"  note: {note}")


def _write_options(plan_: Migration, config: Path | None, dry_run: bool, say: Callable[[str], None]) -> None:
    host = plan_.parameters["host"]
    if not plan_.options:
        return
    missing = plan.lacking(destination.resolve(host, config).resolved, plan_.options)
    if not missing:
        say(f"  ssh_config already says all that is needed for {host}")
        return
    wanted = {keyword: value for keyword, value in plan_.options.items() if keyword in missing}
    # a jump host and a command exclude each other
    if wanted.keys() & {"ProxyJump", "ProxyCommand"}:
        wanted |= {name: plan_.options[name] for name in ("ProxyJump", "ProxyCommand")}
    setup.write_block(plan.SetupRequest(host=host, ssh_config=config, dry_run=dry_run), host, wanted, say)


@contextlib.contextmanager
def _loaded(profile: str | None) -> Iterator[None]:
    try:
        from aiida import load_profile
        from aiida.common.exceptions import AiidaException
    except ImportError as reason:
        raise ToolMissing(
            "AiiDA is not installed in the environment of this program",
            topic="aiida",
            advice="run the ossh of AiiDA's environment",
        ) from reason
    try:
        load_profile(profile)
        yield
    except AiidaException as reason:
        raise SettingsError(f"AiiDA: {reason}", advice="see verdi status and verdi computer list") from reason


def _computer(label: str) -> tuple[Any, list[Any]]:
    from aiida import orm

    computer = orm.load_computer(label)
    return computer, orm.AuthInfo.collection.find(filters={"dbcomputer_id": computer.pk})


def _daemon_runs() -> bool:
    from aiida.engine.daemon.client import get_daemon_client

    return bool(get_daemon_client().is_daemon_running)
