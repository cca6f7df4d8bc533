"""Ssh's own words for each failure, from servers that are really started.

Each function below brings about one failure and returns what ssh said. The tests do this with the installed
ssh, and also read what other versions said. `python -m tests.support.capture_stderr` adds what the installed
one says to `tests/support/stderr/CASE.txt`. There, versions that say the same share a text, below a line with
their names; directories are called `/home/me`, ports are 40000, process ids 4000, and keys have one
fingerprint.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import (
    AuthenticationRefused,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    HostKeyChanged,
    HostKeyUnknown,
    MasterGone,
    SessionRefused,
    ToolMissing,
    TooManyFailures,
    Unreachable,
)
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from tests.support.relay import Relay
from tests.support.users import User, missing_for_users, temporary_user, wait_until

STDERR = Path(__file__).parent / "stderr"
# What the programs of each version say and do where nothing fails, or not by ssh itself; recorded by hand.
CLIENTS = Path(__file__).parent / "clients"
_HEADING = "### "
HOME = "/home/me"
HOST = "sandbox"


class ImpossibleHereError(Exception):
    """This machine cannot bring about that failure; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a failure takes place.

    Attributes:
        node: a node that works, and stays as it is.
        directory: an empty directory, removed afterwards.
        stack: ends what the case starts.
    """

    node: Sandbox
    directory: Path
    stack: ExitStack

    def own_node(self, **server_options: str) -> Sandbox:
        """Start a node of this case alone."""
        return self.stack.enter_context(Sandbox(HOST, self.node.user, server_options=server_options))

    def config(self, node: Sandbox | None = None, /, *, more: str = "", **options: str) -> Path:
        """Write an ssh_config for a node in which some options of the alias are other ones."""
        changed = {name.lower() for name in options}
        lines = (node or self.node).ssh_config.read_text().splitlines()
        kept = [line for line in lines if line.split()[0].lower() not in changed]
        kept += [f"{name} {value}" for name, value in options.items()]
        return self.file("\n".join(kept) + f"\n{more}")

    def file(self, text: str) -> Path:
        """Write a file with an unused name."""
        path = self._unused("file")
        path.write_text(text)
        return path

    def _unused(self, name: str) -> Path:
        return self.directory / f"{name}{len(list(self.directory.iterdir()))}"

    def key(self) -> Path:
        """Make a key that no server knows."""
        path = self._unused("key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def master(self, config: Path) -> Path:
        """Log in and leave a master behind; returns its socket."""
        socket_path = self.directory / "master"
        destination = resolve(self.node.host, config)
        argv = command_lines.master_command(
            destination, socket=socket_path, log=self.directory / "log", batch=True
        )
        subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, timeout=20)
        self.stack.callback(_end_master, socket_path)
        return socket_path


def said(
    config: Path | str,
    *options: str,
    host: str = HOST,
    command: Sequence[str] = ("true",),
    within: Sequence[str] = (),
) -> str:
    """Run ssh, which must fail, and return its stderr as it is."""
    argv = [*within, "ssh", "-F", str(config), "-oBatchMode=yes", *options, "--", host, *command]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    text = done.stderr.decode(errors="surrogateescape")
    assert done.returncode == 255, f"{argv} ended with {done.returncode} and said {text!r}"
    return text


def _end_master(path: Path) -> None:
    argv = ["ssh", "-F", "none", "-S", str(path), "-O", "exit", "--", "master"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)


@dataclass(frozen=True, slots=True)
class Case:
    """A failure, and the error that ssh's words about it mean; two where versions take it differently."""

    errors: tuple[type[ConnectionFailed], ...]
    capture: Callable[[Scene], str]


CASES: dict[str, Case] = {}


def _case(
    *errors: type[ConnectionFailed],
) -> Callable[[Callable[[Scene], str]], Callable[[Scene], str]]:
    def add(capture: Callable[[Scene], str]) -> Callable[[Scene], str]:
        CASES[capture.__name__.replace("_", "-")] = Case(errors, capture)
        return capture

    return add


# -- unreachable ---------------------------------------------------------------------------------------


@contextmanager
def _bound(backlog: int | None = None) -> Iterator[int]:
    """A port that nobody else gets; it refuses, or with a backlog listens and never accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if backlog is not None:
            listener.listen(backlog)
        yield listener.getsockname()[1]


@_case(Unreachable)
def refused(scene: Scene) -> str:
    """Nobody listens on the port."""
    port = scene.stack.enter_context(_bound())
    return said(scene.config(Port=str(port)))


@_case(Unreachable)
def timed_out(scene: Scene) -> str:
    """The kernel drops the first packet: the queue of connections that nobody accepts is full."""
    port = scene.stack.enter_context(_bound(backlog=0))
    scene.stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    return said(scene.config(Port=str(port)), "-oConnectTimeout=1")


@_case(Unreachable)
def banner_timed_out(scene: Scene) -> str:
    """The connection is taken, but nothing comes back."""
    relay = scene.stack.enter_context(Relay(scene.node.port))
    relay.silence()
    return said(scene.config(Port=str(relay.port)), "-oConnectTimeout=1")


@_case(Unreachable)
def name_unknown(scene: Scene) -> str:
    """The name has no address; the top-level domain `invalid` never has one (RFC 2606)."""
    return said(scene.config(HostName="host.invalid"))


@_case(Unreachable)
def canonical_name_unknown(scene: Scene) -> str:
    """The name is in none of the domains that the configuration wants to look in."""
    more = "CanonicalizeHostname yes\nCanonicalDomains invalid\nCanonicalizeFallbackLocal no\n"
    return said(scene.file(more), host="host")


def _own_network(script: str) -> list[str]:
    """What starts a program in a network of its own, which a script has set up before."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or not shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        raise ImpossibleHereError("not installed: unshare, ip")
    within = [*unshare, "sh", "-c", f'PATH=$PATH:/usr/sbin:/sbin; {script} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        raise ImpossibleHereError("no network namespace can be made here (root can)")
    return within


@_case(Unreachable)
def no_route(scene: Scene) -> str:
    """A router on the way says that the host is not there."""
    within = _own_network("ip link set lo up && ip route add unreachable 10.0.0.1/32")
    return said(scene.config(HostName="10.0.0.1"), within=within)


@_case(Unreachable)
def network_unreachable(scene: Scene) -> str:
    """This machine has no network."""
    return said(scene.config(HostName="10.0.0.1"), within=_own_network("true"))


@_case(Unreachable)
def closed_before_banner(scene: Scene) -> str:
    """The server hangs up before it has said a word, as with MaxStartups."""
    relay = scene.stack.enter_context(Relay(scene.node.port))
    relay.cut_after(1, "cut", "up")
    return said(scene.config(Port=str(relay.port)))


@_case(Unreachable)
def reset_in_key_exchange(scene: Scene) -> str:
    """The connection is reset while keys are exchanged."""
    relay = scene.stack.enter_context(Relay(scene.node.port))
    relay.cut_after(500, "reset", "up")
    return said(scene.config(Port=str(relay.port)))


@_case(Unreachable)
def no_common_cipher(scene: Scene) -> str:
    """Client and server have no cipher in common."""
    node = scene.own_node(Ciphers="aes256-ctr")
    return said(scene.config(node), "-oCiphers=aes128-ctr")


@_case(Unreachable)
def not_responding(scene: Scene) -> str:
    """The network goes away after the login, and ssh notices by ServerAliveInterval."""
    relay = scene.stack.enter_context(Relay(scene.node.port))
    argv: list[str | Path] = ["ssh", "-F", scene.config(Port=str(relay.port)), "-oServerAliveInterval=1"]
    argv += ["-oServerAliveCountMax=1", HOST, "echo ready; exec cat"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout
        assert client.stderr
        assert client.stdout.readline() == b"ready\n"
        relay.silence()
        return client.stderr.read().decode(errors="surrogateescape")


@_case(Unreachable)
def proxy_command_fails(scene: Scene) -> str:
    """The ProxyCommand ends without a word."""
    return said(scene.config(ProxyCommand="false"))


# -- the host key --------------------------------------------------------------------------------------


@_case(HostKeyUnknown)
def host_key_unknown(scene: Scene) -> str:
    """No known_hosts file has the key, and ssh may not ask."""
    return said(scene.config(UserKnownHostsFile="/dev/null"))


@_case(HostKeyUnknown)
def host_key_unknown_and_nobody_to_ask(scene: Scene) -> str:
    """No known_hosts file has the key; ssh would ask, but BatchMode forbids it."""
    return said(scene.config(UserKnownHostsFile="/dev/null", StrictHostKeyChecking="ask"))


@_case(HostKeyChanged)
def host_key_changed(scene: Scene) -> str:
    """Another key is known for the host."""
    other = scene.key().with_suffix(".pub").read_text()
    return said(scene.config(UserKnownHostsFile=str(scene.file(f"{HOST} {other}"))))


@_case(HostKeyChanged)
def host_key_revoked(scene: Scene) -> str:
    """The key is marked @revoked in known_hosts."""
    known = (scene.node.directory / "known_hosts").read_text()
    return said(scene.config(UserKnownHostsFile=str(scene.file(f"@revoked {known}"))))


@_case(HostKeyChanged)
def host_key_revoked_by_file(scene: Scene) -> str:
    """The key is in RevokedHostKeys."""
    return said(scene.config(RevokedHostKeys=f"{scene.node.directory}/host_key.pub"))


# -- authentication ------------------------------------------------------------------------------------


@_case(AuthenticationRefused)
def publickey_refused(scene: Scene) -> str:
    """The server knows none of the keys."""
    return said(scene.config(IdentityFile=str(scene.key())))


@_case(AuthenticationRefused)
def second_factor_wanted(scene: Scene) -> str:
    """The key is taken, and BatchMode forbids the question for a code that comes then."""
    if os.geteuid() != 0:
        raise ImpossibleHereError("only root's sshd can ask PAM for a code")
    try:
        node = scene.stack.enter_context(Sandbox(HOST, scene.node.user, second_factor="code"))
    except ToolMissing as reason:
        raise ImpossibleHereError(str(reason)) from reason
    return said(node.ssh_config)


@_case(TooManyFailures)
def too_many_failures(scene: Scene) -> str:
    """More keys are offered than the server's MaxAuthTries allows."""
    node = scene.own_node(MaxAuthTries="2")
    keys = "".join(f"IdentityFile {scene.key()}\n" for _ in range(3))
    return said(scene.config(node, IdentityFile=str(scene.key()), more=keys))


@_case(AuthenticationRefused)
def refused_after_a_banner(scene: Scene) -> str:
    """The server greets with words of its own before it refuses the key."""
    greeting = "Welcome.\nToo many authentication failures lock your account for an hour.\n"
    node = scene.own_node(Banner=str(scene.file(greeting)))
    return said(scene.config(node, IdentityFile=str(scene.key())))


# -- the master ----------------------------------------------------------------------------------------


@_case(MasterGone)
def no_socket(scene: Scene) -> str:
    """There is no control socket, and its master is asked."""
    return said(scene.config(), "-S", f"{scene.directory}/none", "-O", "check", command=())


@contextmanager
def _stale(directory: Path) -> Iterator[Path]:
    """A socket that nobody listens at any more."""
    path = directory / "stale"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    yield path


@_case(MasterGone)
def stale_socket(scene: Scene) -> str:
    """Nobody listens at the control socket, and its master is asked."""
    path = scene.stack.enter_context(_stale(scene.directory))
    return said(scene.config(), "-S", str(path), "-O", "check", command=())


def _guarded(path: Path, *, mark: bool = True) -> list[str]:
    """The options of a guarded session; where it writes a log, its guard leaves no mark."""
    return ["-S", str(path), *command_lines.guard(mark=mark)]


@_case(MasterGone)
def guarded_without_socket(scene: Scene) -> str:
    """There is no control socket for a guarded session."""
    return said(scene.config(), *_guarded(scene.directory / "none"))


@_case(MasterGone)
def guarded_log_without_socket(scene: Scene) -> str:
    """There is no control socket for a guarded session, which writes a log."""
    return said(scene.config(), *_guarded(scene.directory / "none", mark=False), "-oLogLevel=DEBUG2")


@_case(MasterGone)
def guarded_with_stale_socket(scene: Scene) -> str:
    """Nobody listens at the control socket of a guarded session."""
    path = scene.stack.enter_context(_stale(scene.directory))
    return said(scene.config(), *_guarded(path))


@_case(SessionRefused)
def session_refused(scene: Scene) -> str:
    """The server's MaxSessions is used up."""
    node = scene.own_node(MaxSessions="1")
    config = scene.config(node)
    guard = _guarded(scene.master(config))
    argv = ["ssh", "-F", str(config), *guard, HOST, "echo ready; exec cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout
        assert first.stdout.readline() == b"ready\n"
        return said(config, *guard)


@_case(ConnectionLost)
def lost_while_starting(scene: Scene) -> str:
    """The master dies after it was asked for a session, and before the server has answered."""
    relay = scene.stack.enter_context(Relay(scene.node.port))
    config = scene.config(Port=str(relay.port))
    path = scene.master(config)
    relay.silence()
    log = scene.directory / "client"
    argv = ["ssh", "-F", str(config), *_guarded(path, mark=False), "-E", str(log), "-oLogLevel=DEBUG3"]
    with subprocess.Popen([*argv, HOST, "true"], stdin=subprocess.DEVNULL) as client:
        asked = "mux_client_request_session: session request sent"
        wait_until(lambda: log.exists() and asked in log.read_text(), what="the request for a session")
        _kill_master(path)
        assert client.wait(20) == 255
    return log.read_text(errors="surrogateescape")


def _kill_master(path: Path) -> None:
    argv = ["ssh", "-F", "none", "-S", str(path), "-O", "check", "--", "master"]
    told = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr
    found = re.search(r"pid=(\d+)", told)
    assert found, told
    os.kill(int(found[1]), signal.SIGKILL)


# -- the configuration ---------------------------------------------------------------------------------


@_case(ConfigurationError)
def bad_option(scene: Scene) -> str:
    """A keyword is unknown."""
    return said(scene.config(Colour="blue"))


@_case(ConfigurationError)
def bad_value(scene: Scene) -> str:
    """A value is not one that the keyword may have."""
    return said(scene.config(Port="twenty"))


@_case(ConfigurationError)
def bad_match(scene: Scene) -> str:
    """A Match line asks for something unknown."""
    return said(scene.config(more="Match weather fine\n"))


@_case(ConfigurationError)
def bad_token(scene: Scene) -> str:
    """A value has a token that ssh does not know."""
    return said(scene.config(ControlPath="/tmp/%z"))


@_case(ConfigurationError)
def bad_command_line(scene: Scene) -> str:
    """An option of the command line has a value that it may not have."""
    return said(scene.config(), "-oConnectTimeout=soon")


@_case(ConfigurationError, Unreachable)
def bad_name(scene: Scene) -> str:
    """The destination has a character that no host name has; before 9.6 ssh asked the name service for it."""
    return said(scene.config(), host="a;b")


@_case(ConfigurationError)
def no_such_file(scene: Scene) -> str:
    """The configuration file is not there."""
    return said(scene.directory / "missing")


@_case(ConfigurationError)
def bad_permissions(scene: Scene) -> str:
    """Others may write to the person's own configuration; ssh looks at nobody else's."""
    if missing_for_users():
        raise ImpossibleHereError(missing_for_users())
    user = scene.stack.enter_context(_passable_user())
    config = user.home / ".ssh" / "config"
    config.parent.mkdir(exist_ok=True)
    config.write_text("Host x\n")
    config.chmod(0o666)
    for path in (config.parent, config):
        os.chown(path, user.uid, user.uid)
    argv = ["ssh", "-oBatchMode=yes", "x", "true"]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=user.uid,
        group=user.uid,
        extra_groups=[],
    )
    assert done.returncode == 255
    return done.stderr.replace(str(user.home), HOME)


# -- jump hosts ----------------------------------------------------------------------------------------


def _through(scene: Scene, **jump_options: str) -> Path:
    """A configuration that reaches the node through itself, by an alias with other options."""
    jump = scene.config(None, **jump_options).read_text().replace(f"Host {HOST}", "Host jump")
    target = scene.config(ProxyJump="jump").read_text()
    return scene.file(target + jump)


@_case(Unreachable)
def jump_refused(scene: Scene) -> str:
    """Nobody listens on the jump host's port."""
    port = scene.stack.enter_context(_bound())
    return said(_through(scene, Port=str(port)))


@_case(Unreachable)
def jump_name_unknown(scene: Scene) -> str:
    """The jump host's name has no address."""
    return said(_through(scene, HostName="host.invalid"))


@_case(HostKeyUnknown)
def jump_host_key_unknown(scene: Scene) -> str:
    """The jump host's key is not known."""
    return said(_through(scene, UserKnownHostsFile="/dev/null"))


@_case(AuthenticationRefused)
def jump_publickey_refused(scene: Scene) -> str:
    """The jump host knows none of the keys."""
    return said(_through(scene, IdentityFile=str(scene.key())))


@_case(Unreachable)
def target_refused_behind_jump(scene: Scene) -> str:
    """The jump host is fine, but nobody listens on the target's port."""
    port = scene.stack.enter_context(_bound())
    jump = scene.config().read_text().replace(f"Host {HOST}", "Host jump")
    target = scene.config(ProxyJump="jump", Port=str(port)).read_text()
    return said(scene.file(target + jump))


# -- all of them ---------------------------------------------------------------------------------------


@contextmanager
def quiet_node() -> Iterator[Sandbox]:
    """A node whose user's start-up files say nothing, where such a user can be made."""
    with ExitStack() as stack:
        user = pwd.getpwuid(os.geteuid()).pw_name
        if not missing_for_users():
            user = stack.enter_context(_passable_user()).name
        yield stack.enter_context(Sandbox(HOST, user))


@contextmanager
def _passable_user() -> Iterator[User]:
    homes = Path(tempfile.mkdtemp(prefix="oh", dir="/tmp"))
    homes.chmod(0o711)
    try:
        with temporary_user(homes, "dash") as user:
            yield user
    finally:
        shutil.rmtree(homes)


def capture(name: str, node: Sandbox) -> str:
    """Bring about a failure at a quiet node, and return what ssh said.

    Raises:
        ImpossibleHereError: not on this machine.
    """
    # Directly below /tmp: a control socket lies in it.
    directory = Path(tempfile.mkdtemp(prefix="ox", dir="/tmp"))
    try:
        with ExitStack() as stack:
            text = CASES[name].capture(Scene(node, directory, stack))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = text.replace(f"{node.user}@", "me@")
    return text.replace(str(node.directory), HOME).replace(str(directory), HOME)


def installed_version() -> str:
    """The installed ssh's version, such as `9.2p1`."""
    text = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.match(r"OpenSSH_(\w+(?:\.\w+)*)", text)
    assert found, text
    return found[1]


def kept(name: str, directory: Path = STDERR) -> dict[str, str]:
    """What each version said in a case, as it is kept."""
    path = directory / f"{name}.txt"
    raw = path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""
    said = {}
    for part in re.split(f"^{_HEADING}", raw, flags=re.MULTILINE)[1:]:
        versions, _, text = part.partition("\n")
        said.update(dict.fromkeys(versions.split(), text))
    return said


def keep(name: str, version: str, text: str, directory: Path = STDERR) -> None:
    """Keep what a version said in a case; line ends stay as they are."""
    text = re.sub(
        r"\bport (?!65535\b)\d+|(?<=\]:)\d{5}\b", lambda found: re.sub(r"\d+", "40000", found[0]), text
    )
    text = re.sub(r"SHA256:[\w+/]{43}", f"SHA256:{'k' * 43}", re.sub(r"\bpid = \d+", "pid = 4000", text))
    said = {**kept(name, directory), version: text}
    versions: dict[str, list[str]] = {}
    for each in sorted(said, key=lambda each: [int(number) for number in re.findall(r"\d+", each)]):
        versions.setdefault(said[each], []).append(each)
    whole = "".join(f"{_HEADING}{' '.join(sharing)}\n{text}" for text, sharing in versions.items())
    (directory / f"{name}.txt").write_bytes(whole.encode(errors="surrogateescape"))


def main() -> None:
    """Add what the installed ssh says to what is kept."""
    STDERR.mkdir(exist_ok=True)
    with quiet_node() as node:
        for name in CASES:
            try:
                keep(name, installed_version(), capture(name, node))
            except ImpossibleHereError as reason:  # noqa: PERF203 - the others are captured all the same
                sys.stdout.write(f"{name}: left out, {reason}\n")


if __name__ == "__main__":
    main()
