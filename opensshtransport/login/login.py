"""The work of the login process: make `ssh HOST` possible, log in once, publish the way to the master.

Everything happens under the destination's lock, and in this order: is there a live master after all? may
another login be tried (budget)? must a key, certificate or ticket be obtained first? Then ssh, once.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import re
import resource
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from opensshtransport.errors import (
    AddressRefused,
    AuthenticationRefused,
    ConnectionFailed,
    HostKeyUnknown,
    LoginNeeded,
    MasterGone,
    OpenSshTransportError,
    Remedy,
)
from opensshtransport.local import activity, tools
from opensshtransport.login.audit import audit
from opensshtransport.login.budget import MOST_FAILURES, Budget
from opensshtransport.login.conversation import Conversation, Said
from opensshtransport.login.person import Person
from opensshtransport.login.secrets import dump_no_core
from opensshtransport.login.window import Dialogue, Window
from opensshtransport.master import aliases, forwards
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master, sweep
from opensshtransport.openssh import bypass, command_lines, greeting, programs
from opensshtransport.openssh.destination import Destination, Resolved, config_options
from opensshtransport.openssh.diagnosis import NOTHING_TAKEN, connection_error, tells_cause
from opensshtransport.openssh.hops import answering, can_ask_by_program
from opensshtransport.openssh.notation import parse_address
from opensshtransport.prompts.recognition import Way
from opensshtransport.prompts.refusals import Refusals
from opensshtransport.prompts.rules import Rule

_log = logging.getLogger(__name__)

_MOST_FILES = 65536


def open_master(destination: Destination, person: Person | Window | None, *, login: bool = True) -> Facts:
    """Make sure that a master is running, and publish the way to it.

    Args:
        destination: where to.
        person: who may be asked.
        login: whether a login may be made; otherwise only a running master is used.

    Raises:
        MasterGone: there is none, and no login may be made.
        LoginNeeded: only a person can go on.
        ConnectionFailed: another of its kinds, according to ssh's own words.
        SettingsError, ToolMissing: a script, a secret or a program is not as the settings say.
    """
    programs.version(destination.ssh)
    dump_no_core()
    master = Master(destination)
    sweep(master.directory)
    with master.lock(2 * destination.settings.login_timeout + destination.settings.script_timeout):
        # somebody else may have opened it while we waited for the lock
        socket, opened = master.check(), False
        if socket is None and not login:
            raise MasterGone("no master is running", host=destination.host)
        if socket is None:
            _log.info("%s: no master answers; ending what is left of one", destination.host)
            # ended, frozen, cut off from the network, or a stale socket
            master.end()
            socket, opened = master.own_socket, True
            _log_in_within_budget(master, person)
        facts = master.facts()
        pid = tools.master_pid(destination.ssh, socket)
        if pid is None and facts is not None and facts.socket == str(socket) and activity.look(facts.pid):
            # too busy to say so
            pid = facts.pid
        if pid is None:
            raise MasterGone("the master ended at once", host=destination.host, stderr=_text(master.log))
        if facts is None or facts.pid != pid or facts.socket != str(socket):
            facts = master.describe(socket, ours=socket == master.own_socket, pid=pid)
            master.write_facts(facts)
        aliases.publish(master, facts)
        if opened:
            for refused in forwards.restore(destination.ssh, socket, destination.identity):
                _log.warning("%s: a forward could not be restored: %s", destination.host, refused)
        _log.info("%s: the master is process %s at %s", destination.host, pid, socket)
        return facts


def _log_in_within_budget(master: Master, person: Person | Window | None) -> None:
    destination = master.destination
    _log.info("%s: logging in %s", destination.host, "with a person" if person else "unattended")
    budget = Budget(destination)
    begin = time.monotonic()
    before = conversation = None
    try:
        if person is None:
            budget.check()
            before = budget.begin()
        else:
            before = budget.read()
        # what was refused once is not sent again automatically; the person types
        answer = not before.failures or person is None
        env = _make_ready(master, person, destination.settings.rules if answer else ())
        found = answering(destination, rules=answer)
        kind = functools.partial(Dialogue, window=person) if isinstance(person, Window) else Conversation
        conversation = kind(
            host=destination.host,
            person=_at_terminal(person),
            rules=found.rules,
            way=found.way,
            deadline=time.monotonic() + destination.settings.login_timeout,
            hops=len(destination.route),
            log=master.log,
            most_refused=max(1, MOST_FAILURES - before.failures),
        )
        _log_in(master, conversation, env)
    except (OpenSshTransportError, OSError, KeyboardInterrupt) as reason:
        error = _as_ours(reason)
        # errors from lower layers know no destination
        error.host = error.host or destination.host
        if person is not None and error.remedy == LoginNeeded.advice_by_default:
            error.remedy = Remedy("try again")
        audit(destination, f"failed: {type(error).__name__}: {error.message}", time.monotonic() - begin)
        # only its kind: a server's words must not be passed on
        _log.info("%s: the login failed: %s", destination.host, type(error).__name__)
        if before is not None:
            refusals = Refusals() if conversation is None else conversation.refusals
            cancelled = isinstance(conversation, Dialogue) and conversation.cancelled
            budget.note(error, before, sent=refusals.sent, local=refusals.local or cancelled)
        if isinstance(reason, KeyboardInterrupt):
            raise
        if isinstance(error, LoginNeeded | AuthenticationRefused | HostKeyUnknown) and person is None:
            _call_for_a_person(destination, budget, error)
        raise error from reason.__cause__
    _log.info("%s: logged in", destination.host)
    audit(destination, "logged in", time.monotonic() - begin)
    budget.clear()


def _at_terminal(person: Person | Window | None) -> Person | None:
    return None if isinstance(person, Window) else person


def _asked(conversation: Conversation) -> Person | Window | None:
    """The person who is asked in a conversation."""
    return conversation.window if isinstance(conversation, Dialogue) else conversation.person


def _as_ours(reason: BaseException) -> OpenSshTransportError:
    if isinstance(reason, OpenSshTransportError):
        return reason
    return ConnectionFailed(
        "the login was interrupted" if isinstance(reason, KeyboardInterrupt) else str(reason)
    )


def _call_for_a_person(destination: Destination, budget: Budget, error: OpenSshTransportError) -> None:
    """Run the hook of the settings, once until a login succeeds again."""
    hook = destination.settings.login_hook
    if hook and budget.note_told():
        told = {"OSSH_HOST": destination.host, "OSSH_REASON": error.message}
        # in the background: we hold the lock, and others wait for the same result
        tools.ask("/bin/sh", "-c", '(eval "$0") </dev/null >/dev/null 2>&1 &', hook, env=told)


def _make_ready(master: Master, person: Person | Window | None, rules: tuple[Rule, ...]) -> dict[str, str]:
    """Get the keys, certificates and tickets that are needed first; returns the environment for ssh."""
    # a script that runs ssh to this very host must not wait for the login that waits for it
    host = parse_address(master.destination.host).host
    env = {**agent_environment(master.directory), **bypass.login_of(host)}
    _run_script(master.destination, person, rules, env)
    _get_ticket(master.destination)
    return env


def _log_in(master: Master, conversation: Conversation, env: Mapping[str, str]) -> None:
    destination, person = master.destination, _asked(conversation)
    unattended = person is None and not conversation.rules
    argv = command_lines.master_command(
        destination,
        socket=master.own_socket,
        log=master.log,
        batch=unattended,
        again=person is not None,
    )
    master.log.unlink(missing_ok=True)
    _raise_descriptors()
    # without a terminal, nothing that a server shows can be taken for a question of ssh's
    window = isinstance(person, Window)
    if window or (person is None and not unattended and can_ask_by_program(destination)):
        said = conversation.run_by_askpass(
            argv, env, master.own_socket.with_name(f"{destination.identity}.ask")
        )
    else:
        said = conversation.run(argv, env)
    if said.returncode == 0:
        return
    words = f"{said.text}\n{_text(master.log)}"
    error = connection_error(words, host=destination.host, argv=argv)
    if isinstance(error, AuthenticationRefused):
        raise _explained(error, destination, conversation, env) from None
    if not tells_cause(words):
        refusals = conversation.refusals
        if refusals.told and (refusals.known or refusals.local):
            # by a jump host, whose ssh's words are lost
            error = AuthenticationRefused(f"{NOTHING_TAKEN}: {error.message}", host=destination.host)
            raise _explained(error, destination, conversation, env)
        error = _found_out(error, destination)
    raise error


def _raise_descriptors() -> None:
    """Let the master open as many files as possible: a session takes three, and a shell's limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _found_out(error: ConnectionFailed, destination: Destination) -> ConnectionFailed:
    """An error for a connection that ended without a cause from ssh, with what can be found out about it.

    The words of a jump host's ssh, or of a ProxyCommand, go to /dev/null if the connection is to persist
    (sshconnect.c, ssh_proxy_connect); those of a server that greets nobody are shown only with -v.
    """
    _, name, port, command = destination.route[0]
    if not command and _refuses_us(name, port, destination.settings.check_timeout):
        return AddressRefused(
            f"{name} port {port} refuses this address for a while, probably after failed logins",
            host=error.host,
            argv=error.argv,
            returncode=error.returncode,
            stderr=error.stderr,
        )
    if command or destination.route[1:]:
        plain = ["ssh", *config_options(destination.ssh_config), "-S", "none", destination.host]
        error.remedy = Remedy(
            f"ssh hides what the jump host said; to see it, run: {shlex.join([*plain, 'true'])}"
        )
    return error


def _refuses_us(name: str, port: int, timeout: float) -> bool:
    try:
        return greeting.read(greeting.ask(name, port, timeout)) is greeting.Greeting.ADDRESS_REFUSED
    except (OSError, UnicodeError):
        return False


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def agent_environment(directory: Path) -> dict[str, str]:
    """The environment in which ssh finds the shared agent, if the caller has no running agent."""
    own = os.environ.get("SSH_AUTH_SOCK")
    if own and tools.agent_lives(Path(own)):
        return {}
    socket = tools.shared_agent(directory)
    return {"SSH_AUTH_SOCK": str(socket)} if socket else {}


def agent_of(destination: Destination, env: Mapping[str, str]) -> dict[str, str]:
    """The environment in which ssh-add asks the same agent as ssh (ssh_config(5), IdentityAgent)."""
    (named,) = destination.resolved.options.get("identityagent", ("",))
    variables = {**os.environ, **env}
    if named in {"", "SSH_AUTH_SOCK"}:
        return dict(env)
    if named == "none":
        return {"SSH_AUTH_SOCK": ""}
    if named.startswith("$") and not named.startswith("${"):
        return {"SSH_AUTH_SOCK": variables.get(named[1:], "")}
    place = re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), named)
    return {"SSH_AUTH_SOCK": os.path.expanduser(place)}  # noqa: PTH111 - as ssh writes it


def _certificate_lives(destination: Destination, seconds: float) -> bool:
    """Whether a certificate is valid longer than some seconds."""
    needed = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=seconds)
    for path in destination.resolved.certificates():
        with contextlib.suppress(ValueError):
            end = tools.certificate_end(path)
            if end is None or end > needed:
                return True
    return False


def _run_script(
    destination: Destination, person: Person | Window | None, rules: tuple[Rule, ...], env: Mapping[str, str]
) -> None:
    """Run the authentication script of the settings, unless the certificate is valid long enough.

    Raises:
        LoginNeeded: it failed or did not finish in time; ssh is not tried then.
    """
    settings = destination.settings
    script = settings.authentication_script
    if script is None or _certificate_lives(destination, settings.min_validity):
        return
    conversation = Conversation(
        host=destination.host,
        person=_at_terminal(person),
        rules=rules,
        way=Way(strict=False),
        what=f"the authentication script {script}",
        whole_lines=True,
        deadline=time.monotonic() + settings.script_timeout,
    )
    # by sh: pexpect splits a command without arguments at blanks, and a script need not name an interpreter
    said: Said = conversation.run(["/bin/sh", "-c", 'exec "$0"', str(script)], env)
    if said.returncode != 0:
        lines = [line for line in said.text.splitlines() if line.strip()]
        raise LoginNeeded(
            f"the authentication script {script} failed with status {said.returncode}"
            + (f" ({lines[-1].strip()})" if lines else ""),
            host=destination.host,
            argv=[str(script)],
            returncode=said.returncode,
            stderr=said.text,
        )


def _get_ticket(destination: Destination) -> None:
    """Renew the Kerberos ticket, or get one with the keytab, if GSSAPI is used."""
    settings = destination.settings
    if not destination.resolved.flag("gssapiauthentication"):
        return
    if settings.keytab is not None and not tools.ticket_lives():
        tools.get_ticket(settings.keytab)
        return
    end = tools.ticket_end()
    soon = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=settings.min_validity)
    if end is not None and end < soon:
        # one that cannot be renewed stays as it is, and may still be valid
        tools.renew_ticket()


def _explained(
    error: AuthenticationRefused, destination: Destination, conversation: Conversation, env: Mapping[str, str]
) -> ConnectionFailed:
    """A refusal explained: what was refused, the cause as far as it shows on this side, and how to fix it."""
    host, person, resolved = destination.host, _asked(conversation), destination.resolved
    # what the server would still accept; "publickey" is missing if a key was accepted or is not wanted
    methods = re.search(r"Permission denied \(([^)]*)\)", error.message)
    by_key = offers_keys(resolved) and (methods is None or "publickey" in methods[1].split(","))
    refused = conversation.refusals.told
    if conversation.refusals.local and not by_key:
        refused = ""
    why, advice = "", error.remedy
    # if ssh's own words led to other advice than to log in, keep that
    usual = advice == error.advice_by_default
    ended = [
        (path, end)
        for path in destination.resolved.certificates()
        if (end := _end_of(path)) is not None and end < datetime.datetime.now().astimezone()
    ]
    if by_key and ended and not _certificate_lives(destination, 0):
        path, end = ended[0]
        why = f"the certificate {path} expired at {end:%Y-%m-%d %H:%M:%S}"
        advice = Remedy("get a new certificate")
    elif conversation.typed or conversation.refusals.told:
        # what was refused is what was sent
        if usual:
            stored = Remedy("correct what is stored, then run: ", "ossh login")
            advice = Remedy("try again") if conversation.typed else stored
    elif resolved.flag("gssapiauthentication") and "gssapi" in error.message and not tools.ticket_lives():
        why, advice = "there is no Kerberos ticket, or it has expired", Remedy("run: kinit")
    elif person is None and by_key and (encrypted := _encrypted(destination, env)):
        why = f"the key {encrypted[0]} is encrypted and no agent holds it"
        add = how_to_add(destination, encrypted[0], env)
        advice = Remedy(f"run: {add}, or: " if add else "run: ", "ossh login")
    elif person is not None and usual:
        advice = Remedy("run: ", "ossh doctor")
    kind = LoginNeeded if person is None and not destination.settings.rules else type(error)
    message = error.message
    if refused:
        general, told, rest = message.partition(NOTHING_TAKEN)
        message = f"{refused}{rest}" if told else f"{refused}, and {general}"
    message = f"{why}: {message}" if why else message
    if kind is LoginNeeded:
        message = f"a person must log in: {message}"
    return kind(
        message, host=host, advice=advice, argv=error.argv, returncode=error.returncode, stderr=error.stderr
    )


def offers_keys(resolved: Resolved) -> bool:
    """Whether ssh offers keys at all, according to ssh_config."""
    preferred = resolved.get("preferredauthentications")
    wanted = not preferred or "publickey" in preferred.split(",")
    return wanted and resolved.get("pubkeyauthentication") not in {"no", "false"}


def _encrypted(destination: Destination, env: Mapping[str, str]) -> list[str]:
    keys = destination.resolved.options.get("identityfile", ())
    return tools.encrypted_keys(keys, agent_of(destination, env))


def how_to_add(destination: Destination, key: str, env: Mapping[str, str]) -> str:
    """The command, for any shell, that adds a key to the agent that a login asks; "" for no agent."""
    add = f"ssh-add {shlex.quote(key)}"
    asked = agent_of(destination, env)
    if asked == dict(env):
        return f'eval "$(ossh agent)" && {add}'
    socket = asked["SSH_AUTH_SOCK"]
    return f"SSH_AUTH_SOCK={shlex.quote(socket)} {add}" if socket else ""


def _end_of(certificate: Path) -> datetime.datetime | None:
    try:
        return tools.certificate_end(certificate)
    except ValueError:
        return None
