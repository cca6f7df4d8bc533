"""Keys: the pair is created, added to the agent, and copied to each hop.

The traps: only a person may confirm a host key. Every program that may ask something runs in a
`Conversation`, so what is typed goes to it and nowhere else.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from opensshtransport.doctor import before_login, credentials
from opensshtransport.errors import (
    ConnectionFailed,
    HostKeyUnknown,
    OpenSshTransportError,
    SettingsError,
    ToolMissing,
)
from opensshtransport.local import tools
from opensshtransport.local.locks import locked
from opensshtransport.local.settings import runtime_directory
from opensshtransport.login.budget import MOST_FAILURES, Budget
from opensshtransport.login.conversation import Conversation, Said
from opensshtransport.master.master import Master
from opensshtransport.openssh import bypass
from opensshtransport.openssh.destination import Resolved, config_options, resolve
from opensshtransport.openssh.diagnosis import NOTHING_TAKEN, connection_error
from opensshtransport.openssh.hops import answering
from opensshtransport.setup.plan import Plan
from opensshtransport.setup.step import Step

# Seconds; long enough to find a phone.
_PATIENCE = 900.0


class Keys(Step):
    """Creates a key, and copies it to each hop."""

    def make_key(self, plan: Plan) -> None:
        """Create the key pair if there is none; a certificate's key comes from the centre."""
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
            wanted = self.confirm(f"{key} will be made. Protect it with a passphrase?", default=True)
        if not wanted:
            self.say("warning: anyone who can read a key file without a passphrase can log in as you")
            argv += ["-N", ""]
        self._make_directory(key.parent)
        if self._converse(argv, f"making {key}").returncode:
            raise SettingsError(f"{key} was not made", advice=f"run: {shlex.join(argv[:7])}")

    def _make_directory(self, directory: Path) -> None:
        if not directory.exists():
            directory.mkdir(parents=True, mode=0o700)

    def _converse(self, argv: Sequence[str], what: str, env: Mapping[str, str] | None = None) -> Said:
        """Run a program that asks only the person."""
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

    def add_to_agent(self, plan: Plan) -> None:
        """Add a key with a passphrase to the agent; to the shared one if there is no other."""
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
        """Let the person confirm each hop's host key, and copy the public key to each hop."""
        if plan.method != "key":
            # the login asks whatever is needed
            return
        assert plan.key is not None  # noqa: S101 - the method says so
        copy = ["ssh-copy-id", "-i", f"{plan.key}.pub", *config_options(self.request.ssh_config)]
        if self.request.dry_run:
            for hop in plan.hops if self.request.copy else ():
                self.say(f"would run: {shlex.join([*copy, hop.name])}")
            return
        destination = resolve(self.request.host, self.request.ssh_config)
        if Master(destination).check() is not None:
            self.say(f"{self.request.host}: a master is running, so keys are in place")
            return
        # bypass what `ossh share` has written: this is about each hop's own connection
        env = {**credentials.agent_environment(destination), bypass.SHARE: "no"}
        for hop in plan.hops:
            self._confirm_host_key(hop.name, env)
            if self.request.copy:
                self._copy_key(copy, hop.name, env)

    def host_key_is_known(self, name: str, resolved: Resolved) -> bool:
        """Whether a hop's host key is known.

        Raises:
            HostKeyUnknown: it is not, and nobody can be asked.
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
        if self.host_key_is_known(name, self.resolved(name)) or self.person is None:
            return
        self.person.tell(
            f"compare the fingerprint of {name} with your centre's pages; "
            "this only fetches the host key; the 'Permission denied' that follows is expected"
        )
        argv = [
            self.ssh,
            *config_options(self.request.ssh_config),
            # whatever ssh_config says, the key is shown
            "-oStrictHostKeyChecking=ask",
            # as in ssh-copy-id: no method at all, so that the connection ends before anything is tried
            "-oPreferredAuthentications=,",
            "-oControlMaster=no",
            "-oControlPath=none",
            "-oClearAllForwardings=yes",
        ]
        said = self._converse([*argv, "-T", "--", name, "true"], f"asking for the host key of {name}", env)
        if not before_login.host_key_is_known(self.resolved(name)):
            raise connection_error(said.text, host=name, argv=argv)

    def _copy_key(self, copy: Sequence[str], name: str, env: Mapping[str, str]) -> None:
        """Copy the public key with one login, under the same budget as any other."""
        # for a rule, a second prompt means that the answer was wrong: answering it would count as a failure
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
    """Say what was refused, if that is known."""
    if refused := conversation.refusals.told:
        error.message = error.message.replace(NOTHING_TAKEN, refused)
    return error


def _found(argv: Sequence[str]) -> list[str]:
    program = shutil.which(argv[0])
    if program is None:
        raise ToolMissing(f"the program {argv[0]!r} was not found", advice="install the OpenSSH client")
    return [program, *argv[1:]]
