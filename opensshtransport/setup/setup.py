"""`ossh setup HOST`: what a centre's how-to page makes people do by hand, safe to run again.

In this order: the key, the `Host` blocks of ssh_config, the agent, and then for each hop, from the first jump
host on, its host key and the public key there; at last secrets and config.toml. Each step looks first whether
its work is done.

The traps: only a person may confirm a host key. Every program that may ask something runs in a
`Conversation`, so what is typed goes to it and nowhere else. And a file of the person's is changed only as
shown: the old one is kept, and comes back where `ssh -G` or `load` does not find in the new one what was
wanted.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from opensshtransport.doctor import before_login, credentials
from opensshtransport.errors import (
    ConfigurationError,
    ConnectionFailed,
    HostKeyUnknown,
    LoginNeeded,
    OpenSshTransportError,
    SettingsError,
    ToolMissing,
)
from opensshtransport.local import edits, tools
from opensshtransport.local.locks import locked
from opensshtransport.local.settings import config_file, load, runtime_directory
from opensshtransport.login.budget import MOST_FAILURES, Budget
from opensshtransport.login.conversation import Conversation, Said
from opensshtransport.login.person import Person
from opensshtransport.login.secrets import dump_no_core
from opensshtransport.master.master import Master
from opensshtransport.openssh import bypass, programs, ssh_config
from opensshtransport.openssh.destination import (
    Resolved,
    ask_resolved,
    check_destination,
    config_options,
    resolve,
)
from opensshtransport.openssh.diagnosis import NOTHING_TAKEN, connection_error
from opensshtransport.openssh.hops import answering
from opensshtransport.setup import stored
from opensshtransport.setup.config_toml import toml, with_settings
from opensshtransport.setup.plan import (
    METHODS,
    Hop,
    Plan,
    Request,
    expanded,
    lacking,
    method_of,
    method_options,
    parse_hop,
    shortened,
    way,
    with_port,
)

# Long enough to find a phone.
_PATIENCE = 900.0


def setup(request: Request, person: Person | None, say: Callable[[str], None]) -> None:
    """Make `ssh HOST` possible.

    Args:
        request: what the options say.
        person: who may be asked.
        say: shows a line.

    Raises:
        SettingsError: something is wrong in the request, or cannot be written.
        ConfigurationError: ssh_config does not come out as wanted.
        LoginNeeded: only a person can go on.
        ConnectionFailed: another of its kinds, where a hop cannot be reached.
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
    request: Request, name: str, options: Mapping[str, str | None], say: Callable[[str], None]
) -> None:
    """Write the `Host` block of a name alone; all else as for `setup`."""
    _Setup(request, None, say)._write_block(name, options)


class _Setup:
    def __init__(self, request: Request, person: Person | None, say: Callable[[str], None]) -> None:
        self.request = request
        self.person = person
        self.say = say
        self.interactive = person is not None and not request.yes and sys.stdin.isatty()
        self.kept: set[Path] = set()
        self.file = request.ssh_config or ssh_config.person_file()
        self.ssh = programs.locate(load(request.host).ssh)

    # -- questions -------------------------------------------------------------------------------------

    def _ask(self, question: str, given: str | None, default: str) -> str:
        if given is not None or not self.interactive:
            return default if given is None else given
        return self._line(f"{question} [{default or 'none'}]: ").strip() or default

    def _confirm(self, question: str, *, default: bool) -> bool:
        if not self.interactive:
            return default
        answer = self._line(f"{question} [{'Y/n' if default else 'y/N'}]: ").strip().lower()
        return answer.startswith("y") if answer else default

    def _line(self, prompt: str) -> str:
        try:
            return input(prompt)
        except EOFError:
            raise SettingsError("the question was not answered", advice="give it as an option") from None

    def _resolved(self, name: str) -> Resolved:
        # none: no file at all (ssh(1), -F)
        file = self.request.ssh_config
        return ask_resolved(self.ssh, name, Path("none") if file and not file.is_file() else file)

    def _refuse_guesses(self, now: Resolved) -> None:
        """Refuse to take ssh's own defaults for what nobody has said, where nobody can be asked."""
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
                f"nobody is there to be asked, and {' and '.join(lacking_ones)} not given",
                advice="run it at a terminal, or give each as an option, or --yes for ssh's defaults",
            )

    def plan(self) -> Plan:
        """Ask what is not given; defaults are what ssh_config says now."""
        request = self.request
        now = self._resolved(request.host)
        self._refuse_guesses(now)
        target = parse_hop(
            self._ask("Host name of the login node", request.hostname, with_port(now.hostname, now.port))
        )
        user = self._ask("User name there", request.user, now.user)
        if not re.fullmatch(r"[^\s\"-][^\s\"]*", user):
            raise SettingsError(f"{user!r} is no user name", advice="write it without blanks")
        given = None if request.jumps is None else " ".join(request.jumps)
        words = self._ask(
            "Jump hosts in order, each [NAME=][USER@]HOST[:PORT]", given, " ".join(now.jumps)
        ).replace(",", " ")
        known = frozenset(ssh_config.names(request.ssh_config))
        jumps = [parse_hop(word) for word in words.split() if word != "none"]
        method = self._ask(f"Log in by ({', '.join(METHODS)})", request.method, method_of(now))
        if method not in METHODS:
            raise SettingsError(
                f"{method!r} is no way to log in", advice=f"write one of {', '.join(METHODS)}"
            )
        by_key = method in {"key", "certificate"}
        key = None
        if by_key:
            kind = f"~/.ssh/id_{request.kind}"
            default = str(request.key or _key_of(now) or kind)
            key = expanded(self._ask("Private key", str(request.key) if request.key else None, default))
        script = None
        if method == "certificate":
            known_one = _script_of(request.host)
            given = str(request.script) if request.script else None
            word = self._ask("Program that gets the certificate", given, str(known_one or ""))
            script = expanded(word) if word else None
        hops = [Hop(hop.name, hop.hostname, hop.user or target.user or user, hop.port) for hop in jumps]
        last = Hop(request.host, target.hostname, target.user or user, target.port)
        if len({hop.name for hop in (*hops, last)}) <= len(hops):
            raise SettingsError("two hops have the same name", advice="write NAME=HOST for one of them")
        return Plan(
            hops=(*hops, last),
            known=frozenset(
                hop.name for hop, word in zip(hops, words.split(), strict=False) if word in known
            ),
            method=method,
            key=key,
            certificate=None if request.certificate is None else expanded(str(request.certificate)),
            script=script,
        )

    def look_ahead(self, plan: Plan) -> None:
        """Refuse, before anything is written, what only a person could answer later, where nobody is there.

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
                now = self._resolved(hop.name).options
                there = {"hostname": (hop.hostname,), "port": (str(hop.port),)}
                self._host_key_is_known(
                    hop.name, Resolved(now if hop.name in plan.known else {**now, **there})
                )
        if not self.interactive and not request.yes:
            for name, options in self._blocks(plan):
                self._refuse_another_block(name, options)

    # -- the key ---------------------------------------------------------------------------------------

    def make_key(self, plan: Plan) -> None:
        """Make the key pair where there is none; a certificate's comes from the centre."""
        request, key = self.request, plan.key
        if key is None or plan.method != "key" or key.exists():
            return
        argv = ["ssh-keygen", "-t", request.kind, *(["-b", str(request.bits)] if request.bits else [])]
        argv += ["-f", str(key), "-C", f"{getpass.getuser()}@{os.uname().nodename}"]
        if self.request.dry_run:
            self.say(f"would run: {shlex.join(argv)}")
            return
        wanted = request.passphrase
        if wanted is None:
            wanted = self._confirm(f"{key} will be made. Protect it by a passphrase?", default=True)
        if not wanted:
            self.say("warning: whoever can read the file of a key without a passphrase can log in as you")
            argv += ["-N", ""]
        self._make_directory(key.parent)
        if self._converse(argv, f"making {key}").returncode:
            raise SettingsError(f"{key} was not made", advice=f"run: {shlex.join(argv[:7])}")

    def _make_directory(self, directory: Path) -> None:
        if not directory.exists():
            directory.mkdir(parents=True, mode=0o700)

    def _converse(self, argv: Sequence[str], what: str, env: Mapping[str, str] | None = None) -> Said:
        """Run a program that asks the person, and nobody else."""
        return self._conversation(what).run(_found(argv), env)

    def _conversation(self, what: str) -> Conversation:
        return Conversation(
            host=self.request.host,
            person=self.person,
            rules=(),
            what=what,
            deadline=time.monotonic() + _PATIENCE,
            hops=8,
        )

    # -- ssh_config ------------------------------------------------------------------------------------

    def write_blocks(self, plan: Plan) -> None:
        """Write each hop's block, where `ssh -G` does not say already what is wanted."""
        for name, options in self._blocks(plan):
            if lacking(self._resolved(name), options):
                self._write_block(name, options)
            else:
                self.say(f"{name}: ssh_config says so already")

    def _blocks(self, plan: Plan) -> Iterator[tuple[str, dict[str, str | None]]]:
        """The name and the options of each hop that is not the person's own."""
        version = programs.version(self.ssh)
        for number, hop in enumerate(plan.hops):
            if hop.name not in plan.known:
                jumps = [before.name for before in plan.hops[:number]]
                yield hop.name, self._options(plan, hop, jumps, version)

    def _options(
        self, plan: Plan, hop: Hop, jumps: Sequence[str], version: tuple[int, int]
    ) -> dict[str, str | None]:
        now = self._resolved(hop.name)
        options: dict[str, str | None] = {"HostName": hop.hostname, "User": hop.user}
        if hop.port != now.port:
            options["Port"] = str(hop.port)
        options |= way(jumps, version, self.request.ssh_config)
        if not jumps and now.jumps:
            options["ProxyJump"] = None
        if plan.key is not None:
            options["IdentityFile"] = ssh_config.quoted(shortened(plan.key))
        if plan.certificate is not None:
            options["CertificateFile"] = ssh_config.quoted(shortened(plan.certificate))
        return {**options, **method_options(plan.method, sys.platform)}

    def _block_file(self, name: str) -> Path:
        """The file in which a name's block stands, or is to stand."""
        ours = [path for path in ssh_config.files(self.request.ssh_config) if path.is_file()]
        own = [path for path in ours if path != ssh_config.SYSTEM_FILE and os.access(path, os.W_OK)]
        return next((path for path in own if ssh_config.has_block(path, name)), self.file)

    def _refuse_another_block(self, name: str, options: Mapping[str, str | None]) -> None:
        file = self._block_file(name)
        if ssh_config.has_block(file, name) and lacking(self._resolved(name), options):
            before = file.read_text(encoding="utf-8", errors="surrogateescape")
            self._show(before, ssh_config.with_block(before, name, options), file)
            raise _another_block(name, file)

    def _write_block(self, name: str, options: Mapping[str, str | None]) -> None:
        file = self._block_file(name)
        before = edits.text_of(file)
        after = ssh_config.with_block(before, name, options)
        there = ssh_config.has_block(file, name)
        self._show(before, after, file)
        if self.request.dry_run:
            return
        if (
            there
            and not self.request.yes
            and not self._confirm(f"Change the block of {name}?", default=False)
        ):
            raise _another_block(name, file)
        with edits.replaced(file, after, self.kept):
            if missing := lacking(self._resolved(name), options):
                keyword, found = next(iter(missing.items()))
                raise ConfigurationError(
                    f"{file} would not do: something in it gives {keyword} {found or 'no value'} for {name}",
                    host=name,
                    advice="remove that, as the first value counts; the file is as it was",
                )
        self.say(f"{name}: written to {file}")

    def _show(self, before: str, after: str, file: Path) -> None:
        for line in edits.difference(before, after, file):
            self.say(line)

    # -- secrets and settings --------------------------------------------------------------------------

    def write_settings(self, plan: Plan) -> None:
        """Store secrets in the keyring, and write what ssh_config does not know to config.toml."""
        request, target = self.request, plan.hops[-1]
        wanted: dict[str, str] = {}
        if plan.script is not None:
            wanted["authentication_script"] = toml(str(plan.script))
            # perhaps by the table of a pattern
            if _script_of(request.host) == plan.script:
                self.say(f"{request.host}: config.toml says so already")
                wanted.clear()
        kinds = list(request.store)
        may_store = plan.method == "password" and not kinds and not request.dry_run and stored.has_keyring()
        question = "Keep the password in the keyring, to log in without you?"
        if may_store and load(request.host).password is None and self._confirm(question, default=False):
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
            self.say(f"{request.host}: config.toml says so already")
            return
        self._show(before, after, file)
        if request.dry_run:
            return
        with edits.replaced(file, after, self.kept):
            load(request.host)
        self.say(f"{request.host}: written to {file}")

    def _store(self, kind: str, username: str) -> None:
        if self.request.dry_run:
            self.say(f"would ask for the {stored.WHAT[kind]}, and keep it in the keyring as {username!r}")
        elif stored.is_there(username):
            self.say(f"{username}: in the keyring already")
        else:
            stored.ask_for(kind, self.request.host, username)

    # -- agent, host keys, public keys -----------------------------------------------------------------

    def add_to_agent(self, plan: Plan) -> None:
        """Add a key with a passphrase to the agent; the shared one, where there is no other."""
        if plan.key is None or not plan.key.exists() or self.person is None:
            return
        destination = resolve(self.request.host, self.request.ssh_config)
        if not tools.encrypted_keys([str(plan.key)], {"SSH_AUTH_SOCK": ""}):
            return
        listing = tools.ask("ssh-add", "-l", env=credentials.agent_environment(destination))
        if listing.returncode not in {0, 1}:
            directory = runtime_directory()
            with locked(directory / "agent.lock"):
                if tools.shared_agent(directory) is None:
                    tools.start_agent(directory)
        env = credentials.agent_environment(destination)
        if tools.encrypted_keys([str(plan.key)], env):
            keychain = ["--apple-use-keychain"] if sys.platform == "darwin" else []
            self._converse(["ssh-add", *keychain, str(plan.key)], "adding the key to the agent", env)

    def reach_hops(self, plan: Plan) -> None:
        """Have each hop's host key confirmed, and the public key copied there."""
        if plan.method != "key":
            # the login asks what is to be asked
            return
        assert plan.key is not None  # noqa: S101 - the method says so
        copy = ["ssh-copy-id", "-i", f"{plan.key}.pub", *config_options(self.request.ssh_config)]
        if self.request.dry_run:
            for hop in plan.hops if self.request.copy else ():
                self.say(f"would run: {shlex.join([*copy, hop.name])}")
            return
        destination = resolve(self.request.host, self.request.ssh_config)
        if Master(destination).check() is not None:
            self.say(f"{self.request.host}: a master lives, so keys are in their places")
            return
        # past what `ossh share` has put there: this is about each hop's own connection
        env = {**credentials.agent_environment(destination), bypass.SHARE: "no"}
        for hop in plan.hops:
            self._confirm_host_key(hop.name, env)
            if self.request.copy:
                self._copy_key(copy, hop.name, env)

    def _host_key_is_known(self, name: str, resolved: Resolved) -> bool:
        """Whether a hop's host key is known.

        Raises:
            HostKeyUnknown: it is not, and nobody is there.
        """
        known = before_login.host_key_is_known(resolved)
        if not known and self.person is None:
            raise HostKeyUnknown(
                f"the host key of {name} is not known yet",
                host=self.request.host,
                advice="run it at a terminal, where a person can compare the fingerprint",
            )
        return known

    def _confirm_host_key(self, name: str, env: Mapping[str, str]) -> None:
        if self._host_key_is_known(name, self._resolved(name)) or self.person is None:
            return
        self.person.tell(
            f"compare the fingerprint of {name} with your centre's pages; "
            "this is no login yet, so it ends with 'Permission denied'"
        )
        argv = [
            self.ssh,
            *config_options(self.request.ssh_config),
            # whatever ssh_config says: it is shown
            "-oStrictHostKeyChecking=ask",
            # as in ssh-copy-id: no method at all, so that the connection ends before anything is tried
            "-oPreferredAuthentications=,",
            "-oControlMaster=no",
            "-oControlPath=none",
            "-oClearAllForwardings=yes",
        ]
        said = self._converse([*argv, "-T", "--", name, "true"], f"asking for the host key of {name}", env)
        if not before_login.host_key_is_known(self._resolved(name)):
            raise connection_error(said.text, host=name, argv=argv)

    def _copy_key(self, copy: Sequence[str], name: str, env: Mapping[str, str]) -> None:
        """Copy the public key by one login, under the same budget as any other."""
        # for a rule a second prompt means that the answer was wrong: to answer it costs a counted failure
        once = [] if self.person else ["-o", "NumberOfPasswordPrompts=1"]
        argv = [*copy, *once, "-o", "ControlPath=none", name]
        destination = resolve(name, self.request.ssh_config)
        budget = Budget(destination)
        conversation = self._conversation(f"copying the public key to {name}")
        with Master(destination).lock(destination.settings.login_timeout):
            before = budget.read()
            if self.person is None:
                budget.check()
                before = budget.begin()
            conversation.most_refused = max(1, MOST_FAILURES - before.failures)
            found = answering(destination, rules=self.person is None or not before.failures)
            conversation.rules, conversation.way = found.rules, found.way
            try:
                said = conversation.run(_found(argv), env)
                if said.returncode != 0:
                    raise _with_refusal(connection_error(said.text, host=name, argv=argv), conversation)
            except OpenSshTransportError as error:
                refusals = conversation.refusals
                if self.person is None or refusals.sent:
                    budget.note(error, before, sent=refusals.sent, local=refusals.local)
                raise
            if self.person is None or before.failures:
                budget.clear()


def _with_refusal(error: ConnectionFailed, conversation: Conversation) -> ConnectionFailed:
    """Say what was refused, where that is known."""
    if refused := conversation.refusals.told:
        error.message = error.message.replace(NOTHING_TAKEN, refused)
    return error


def _found(argv: Sequence[str]) -> list[str]:
    program = shutil.which(argv[0])
    if program is None:
        raise ToolMissing(f"the program {argv[0]!r} was not found", advice="install the OpenSSH client")
    return [program, *argv[1:]]


def _another_block(name: str, file: Path) -> SettingsError:
    return SettingsError(
        f"{file} has another block for {name}",
        advice="give --yes to have it changed, or choose another name",
    )


def _username(kind: str, target: Hop) -> str:
    return f"{kind} of {target.user}@{target.hostname}"


def _script_of(host: str) -> Path | None:
    return load(host).authentication_script


def _key_of(now: Resolved) -> Path | None:
    """The key that ssh_config names; of ssh's defaults, one that is there."""
    paths = [expanded(name) for name in now.options.get("identityfile", ())]
    named = [
        path for path in paths if not path.name.startswith("id_") or path.parent != ssh_config.home() / ".ssh"
    ]
    return next((path for path in (*named, *(path for path in paths if path.exists()))), None)
