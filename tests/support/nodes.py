"""Login nodes of every kind, each a real sshd: what `Sandbox` has not, for tests alone.

A node adds to a `Sandbox` what sshd takes from its surroundings: its name (which is that of its PAM service),
its environment and its network namespace. It is started by a script that sets them and then becomes sshd.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pexpect

from opensshtransport.sandbox import Sandbox, find_sshd
from tests.support.relay import Relay
from tests.support.users import QUIET, ShellName, Startup, User, temporary_user

# Where `scripts/openssh` puts other releases of OpenSSH.
_OTHERS = Path(__file__).parents[2] / ".openssh"

_PAM_SERVICES = Path("/etc/pam.d")
_SERVICE_END = "account required pam_permit.so\nsession required pam_permit.so\n"


def missing_programs(*programs: str) -> str:
    """Say which of the programs is not installed; empty if all are."""
    places = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=places) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Node(Sandbox):
    """A `Sandbox` with a PAM service, an environment or a network namespace of its own.

    Args:
        host: the alias in `ssh_config`.
        user: who logs in; None is the present user.
        pam: given the node's directory, returns the `auth` lines of its PAM service; None is no PAM.
        environment: further variables for sshd.
        namespace: the network namespace, created before, that sshd runs in.
        server_options: as for `Sandbox`.
        client_options: as for `Sandbox`.
    """

    def __init__(
        self,
        host: str,
        user: str | None = None,
        *,
        pam: Callable[[Path], str] | None = None,
        environment: Mapping[str, str] | None = None,
        namespace: str = "",
        server_options: Mapping[str, str] | None = None,
        client_options: Mapping[str, str] | None = None,
    ) -> None:
        options = dict(server_options or {})
        self._name = f"sshd-{secrets.token_hex(4)}"
        self._pam = pam
        self._environment = dict(environment or {})
        self._namespace = namespace
        if pam is not None:
            options = {"UsePAM": "yes", "KbdInteractiveAuthentication": "yes", **options}
        who = pwd.getpwuid(os.geteuid()).pw_name if user is None else user
        super().__init__(host, who, server_options=options, client_options=dict(client_options or {}))

    def _configure_server(self) -> None:
        if self._pam is not None:
            self._pam_service = _PAM_SERVICES / self._name
            self._pam_service.write_text(self._pam(self.directory) + _SERVICE_END)
            if _knows_service_name():
                self.server_options = {**self.server_options, "PAMServiceName": self._name}
        super()._configure_server()
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self._environment.items()]
        if self._namespace:
            # sshd executes this script again for each connection, which is inside already.
            enter = f'export OSSH_NODE_INSIDE=1; exec ip netns exec {self._namespace} "$0" "$@"'
            lines.append(f'[ -n "$OSSH_NODE_INSIDE" ] || {{ {enter}; }}')
        # The name in argv[0] is that of the PAM service, and what sshd executes for each connection.
        lines.append(f'exec -a "$0" {find_sshd()} "$@"')
        self._sshd = self.directory / self._name
        self._sshd.write_text("#!/bin/bash\n" + "\n".join(lines) + "\n")
        self._sshd.chmod(0o700)


def _knows_service_name() -> bool:
    # Asked of the binary itself: OpenSSH 9.8 moved what argv[0] says to a program of another name.
    return b"pamservicename" in find_sshd().read_bytes()


def penalising_sshd() -> Path | None:
    """An sshd of 9.8 or later, which penalises addresses: of another release, or the installed one."""
    others = sorted(_OTHERS.glob("*/bin/sshd"))
    installed = [find_sshd()] if not missing_programs("sshd") else []
    return next((path for path in (*installed, *others) if b"persourcepenalties" in path.read_bytes()), None)


class PenalisingNode(Sandbox):
    """A `Sandbox` whose sshd refuses an address for a while after a login has failed (9.8 and later).

    Args:
        penalties: as in sshd_config(5), PerSourcePenalties.
    """

    def __init__(self, penalties: str) -> None:
        super().__init__("penal", server_options={"PerSourcePenalties": penalties})

    def _configure_server(self) -> None:
        sshd = penalising_sshd()
        assert sshd, "there is one"
        self._sshd = sshd
        inner = sshd.parent.parent / "libexec"
        if inner.is_dir():
            # else it starts those of the installed release
            paths = {"SshdSessionPath": inner / "sshd-session", "SshdAuthPath": inner / "sshd-auth"}
            there = {option: str(path) for option, path in paths.items() if path.exists()}
            self.server_options = {**self.server_options, **there}
        super()._configure_server()


@contextmanager
def shell_node(
    directory: Path, shell: ShellName, *, startup: Startup = QUIET
) -> Iterator[tuple[Sandbox, User]]:
    """A node whose user has this login shell and start-up file; the alias is the shell's name."""
    with temporary_user(directory, shell, startup=startup) as user, Sandbox(shell, user.name) as node:
        yield node, user


def config_through(node: Sandbox, relay: Relay) -> Path:
    """Write an `ssh_config` that reaches the node through a relay; its host key stays known by the alias."""
    path = node.ssh_config.with_name(f"ssh_config.{relay.port}")
    lines = node.ssh_config.read_text().splitlines()
    kept = [line for line in lines if line.split()[:1] != ["Port"]]
    path.write_text("\n".join([*kept, f"Port {relay.port}"]) + "\n")
    return path


@dataclass(frozen=True, slots=True)
class Login:
    """How a login by plain ssh went: what the terminal showed, and ssh's exit status."""

    shown: str
    returncode: int

    @property
    def worked(self) -> bool:
        """Whether the remote command ran."""
        return self.returncode == 0 and "logged-in" in self.shown


def log_in(
    node: Sandbox,
    *turns: tuple[str, str],
    config: Path | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Login:
    """Log in by plain ssh at a terminal, and answer each prompt (a pattern) in its turn.

    Raises:
        AssertionError: a prompt did not come, or one came that has no turn.
    """
    argv = ["-F", str(config or node.ssh_config), "-o", "NumberOfPasswordPrompts=1", *options]
    spawned: pexpect.spawn[str] = pexpect.spawn(
        "ssh",
        [*argv, node.host, "echo logged-in"],
        env={**os.environ, **(environment or {})},
        encoding="utf-8",
        timeout=15,
        ignore_sighup=True,
    )
    shown = []
    for prompt, answer in turns:
        found = spawned.expect([prompt, pexpect.EOF, pexpect.TIMEOUT])
        shown.append(spawned.before or "")
        if found:
            spawned.close(force=True)
            raise AssertionError(f"no prompt like {prompt!r}, but {''.join(shown)!r}")
        shown.append(str(spawned.after))
        spawned.sendline(answer)
    found = spawned.expect([pexpect.EOF, pexpect.TIMEOUT])
    shown.append(spawned.before or "")
    spawned.close(force=True)
    if found:
        raise AssertionError(f"ssh still waits after {''.join(shown)!r}")
    return Login("".join(shown), -1 if spawned.exitstatus is None else spawned.exitstatus)
