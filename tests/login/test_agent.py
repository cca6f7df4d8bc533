"""The agent that all shells, jobs and daemons share."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.support import proc
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, runtime, until, write_settings


def agents() -> list[int]:
    """The process ids of the shared agents of the present test."""
    argv = ["pgrep", "-f", f"^[^ ]*ssh-agent -a {runtime()}/"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split() if proc.state(int(pid)) not in "ZX"]


@pytest.fixture(autouse=True)
def _end_agents(isolated: Path) -> Iterator[None]:
    """End the agents that a test has started."""
    yield
    for pid in agents():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not agents(), "the agents to end")


@pytest.fixture
def passphrase_node() -> Iterator[Sandbox]:
    """A node whose key is encrypted."""
    with Sandbox(second_factor="passphrase") as made:
        yield made


def key_of(node: Sandbox) -> Path:
    """The key that lets in to a node."""
    return node.directory / "id_ed25519"


def in_a_shell(script: str, shell: str = "sh") -> str:
    """What a script prints, in a shell of its own that has evaluated `ossh agent`."""
    done = subprocess.run(
        [shell, "-ec", f'eval "$({shlex.quote(str(OSSH))} agent)"\n{script}'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_key(node: Sandbox) -> None:
    """Add a node's encrypted key to the shared agent; a program supplies the passphrase."""
    told = f"SSH_ASKPASS={shlex.quote(str(node.answer_command))} SSH_ASKPASS_REQUIRE=force"
    in_a_shell(f"{told} ssh-add -q {shlex.quote(str(key_of(node)))}")


def cron() -> dict[str, str]:
    """The bare environment of a cron job."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("XDG_") or name == "HOME"}
    return {**kept, "PATH": "/usr/bin:/bin"}


def from_cron(*argv: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program as cron does."""
    return subprocess.run(
        argv,
        cwd="/",
        env=cron(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )


def test_two_shells_have_the_same(isolated: Path) -> None:
    """Two shells, one after the other, talk to one agent, which outlives them."""
    first = in_a_shell('ssh-add -l || test $? = 1; echo "$SSH_AUTH_SOCK"').splitlines()
    assert first == ["The agent has no identities.", str(runtime() / "agent")]
    (pid,) = agents()
    second = in_a_shell('ssh-add -l || test $? = 1; echo "$SSH_AUTH_SOCK"').splitlines()
    assert second == first
    assert agents() == [pid]


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_what_it_prints(isolated: Path, shell: str) -> None:
    """One line, for every shell of the POSIX family; also where the runtime directory has a blank."""
    if not Path(f"/bin/{shell}").exists():
        pytest.skip(f"{shell} is not installed")
    place = isolated / "a 'place'"
    place.mkdir(mode=0o700)
    done = ossh("agent", env={"XDG_RUNTIME_DIR": str(place)})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    script = f'{done.stdout.decode()}printf %s "$SSH_AUTH_SOCK"; test -S "$SSH_AUTH_SOCK"'
    shown = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    agent = place / "opensshtransport" / "agent"
    assert shown.stdout == str(agent)
    # it is nobody else's
    assert agent.stat().st_mode & 0o077 == 0
    assert agent.parent.stat().st_mode & 0o777 == 0o700
    subprocess.run(["pkill", "-f", f"^[^ ]*ssh-agent -a {place}/"], check=True)


def test_keys_are_shared(passphrase_node: Sandbox) -> None:
    """A key that one shell adds is there in the next."""
    add_key(passphrase_node)
    listed = in_a_shell("ssh-add -L").split()
    assert listed[:2] == key_of(passphrase_node).with_suffix(".pub").read_text().split()[:2]


def test_a_cron_job_logs_in(passphrase_node: Sandbox) -> None:
    """A login without SSH_AUTH_SOCK finds the agent by itself; so a job needs no person."""
    node = passphrase_node
    add_key(node)
    assert "SSH_AUTH_SOCK" not in cron()
    done = from_cron(OSSH_RUN, "-F", node.ssh_config, node.host, "echo x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert node.authentications() == 1


def test_without_the_agent_a_cron_job_does_not(passphrase_node: Sandbox) -> None:
    """An agent without the key is no help: the error names the key and `ssh-add`."""
    node = passphrase_node
    in_a_shell("true")
    done = from_cron(OSSH_RUN, "-F", node.ssh_config, node.host, "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    words = done.stderr.decode()
    assert f"the key {key_of(node)} is encrypted and no agent holds it" in words
    assert f'run: eval "$(ossh agent)" && ssh-add {key_of(node)}, or: ossh login' in words
    assert node.authentications() == 0


def test_a_persons_own_agent_comes_first(passphrase_node: Sandbox, isolated: Path) -> None:
    """Where SSH_AUTH_SOCK names an agent, that one is used, and not the shared one."""
    node = passphrase_node
    add_key(node)
    own = isolated / "own"
    with subprocess.Popen(["ssh-agent", "-D", "-a", own], stdout=subprocess.DEVNULL) as agent:
        try:
            until(own.is_socket, "the agent to listen")
            done = ossh("login", "-F", node.ssh_config, node.host, env={"SSH_AUTH_SOCK": str(own)})
        finally:
            agent.terminate()
    assert done.returncode == 255
    assert b"no agent holds it" in done.stderr
    assert node.authentications() == 0


@pytest.mark.parametrize("left", ["nothing", "file", "socket"])
def test_a_stale_variable_hides_nothing(passphrase_node: Sandbox, isolated: Path, left: str) -> None:
    """Where SSH_AUTH_SOCK names an agent that has ended, the shared one is used."""
    node, gone = passphrase_node, isolated / "gone"
    add_key(node)
    if left == "file":
        gone.touch()
    if left == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(gone))
    done = ossh_run("-F", node.ssh_config, node.host, "echo x", env={"SSH_AUTH_SOCK": str(gone)})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert node.authentications() == 1


@pytest.mark.parametrize("written", ["{agent}", "$OTHER_AGENT", "${{OTHER_AGENT}}"])
def test_identity_agent_holds_the_key(passphrase_node: Sandbox, isolated: Path, written: str) -> None:
    """A key that the agent of IdentityAgent holds, and the server refuses, is not called held by none."""
    node = passphrase_node
    add_key(node)
    config = with_option(node, isolated, f"IdentityAgent {written.format(agent=runtime() / 'agent')}")
    env = {"OTHER_AGENT": str(runtime() / "agent"), "SSH_AUTH_SOCK": str(isolated / "none")}
    done = ossh("login", "-F", config, node.host, env=env)
    assert done.returncode == 0, done.stderr
    ossh("logout", "-F", config, node.host, env=env)
    (node.directory / "authorized_keys").write_text("")
    done = ossh("login", "-F", config, node.host, env=env)
    assert b"Permission denied (publickey)" in done.stderr
    assert b"no agent holds it" not in done.stderr


def test_no_identity_agent(passphrase_node: Sandbox, isolated: Path) -> None:
    """With `IdentityAgent none` no agent's key counts, as ssh asks none."""
    node = passphrase_node
    add_key(node)
    config = with_option(node, isolated, "IdentityAgent none")
    done = ossh("login", "-F", config, node.host, env={"SSH_AUTH_SOCK": str(runtime() / "agent")})
    assert done.returncode == 255
    assert f"the key {key_of(node)} is encrypted and no agent holds it".encode() in done.stderr


def test_keys_are_added_to_the_agent(passphrase_node: Sandbox, isolated: Path) -> None:
    """AddKeysToAgent of ssh_config works in a login by a person: the next one asks nothing."""
    node = passphrase_node
    config = with_option(node, isolated, "AddKeysToAgent yes")
    in_a_shell("true")
    child = pexpect.spawn(str(OSSH), ["login", "-F", str(config), node.host], timeout=30)
    child.expect("Enter passphrase for .*: ")
    child.sendline(node.passphrase)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    ossh("logout", "-F", config, node.host)
    done = from_cron(OSSH_RUN, "-F", config, node.host, "echo x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")


def with_option(node: Sandbox, directory: Path, line: str) -> Path:
    """A node's `ssh_config` with one line more."""
    config = directory / "ssh_config"
    config.write_text(f"{node.ssh_config.read_text()}{line}\n")
    return config


def test_nobody_and_no_agent(passphrase_node: Sandbox) -> None:
    """An encrypted key, no agent and no person: told as that, in its parts too."""
    node = passphrase_node
    done = ossh("login", "--report", "-F", node.ssh_config, node.host)
    assert done.returncode == 255
    error = json.loads(done.stdout)
    assert error["error"] == "LoginNeeded"
    assert error["message"].startswith(
        f"a person must log in: the key {key_of(node)} is encrypted and no agent holds it: the server"
    )
    advice = f'run: eval "$(ossh agent)" && ssh-add {key_of(node)}, or: '
    assert error["advice"] == {"words": advice, "command": "ossh login", "operands": ""}
    assert not agents()


def test_the_advice_helps(passphrase_node: Sandbox) -> None:
    """A person does what the error says, and the login works."""
    node = passphrase_node
    assert ossh_run("-F", node.ssh_config, node.host, "true").returncode == 255
    child = pexpect.spawn("sh", ["-c", f'eval "$({OSSH} agent)"; ssh-add {key_of(node)}'], timeout=20)
    child.expect("Enter passphrase for .*: ")
    child.sendline(node.passphrase)
    child.expect("Identity added")
    child.expect(pexpect.EOF)
    child.close()
    child = pexpect.spawn(str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=30)
    # nothing is asked any more
    child.expect("logged in as")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_dead_agent_is_replaced(passphrase_node: Sandbox) -> None:
    """After a crash its socket is left: a login takes no notice of it, and `ossh agent` replaces it."""
    in_a_shell("true")
    (pid,) = agents()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not agents(), "the agent to end")
    assert (runtime() / "agent").is_socket()
    done = ossh("login", "-F", passphrase_node.ssh_config, passphrase_node.host)
    assert b"no agent holds it" in done.stderr
    assert in_a_shell("ssh-add -l || test $? = 1") == "The agent has no identities.\n"
    assert len(agents()) == 1


def test_ended_agent_is_replaced(isolated: Path) -> None:
    """One that was ended in order has taken its socket along; the next one has the same place."""
    before = in_a_shell('echo "$SSH_AUTH_SOCK"')
    (pid,) = agents()
    os.kill(pid, signal.SIGTERM)
    until(lambda: not agents(), "the agent to end")
    assert in_a_shell('ssh-add -l || test $? = 1; echo "$SSH_AUTH_SOCK"').endswith(before)
    assert len(agents()) == 1


def test_frozen_agent_is_replaced(own_node: Sandbox) -> None:
    """One that does not answer holds nobody up: a login goes on in time, and the next agent is a new one."""
    in_a_shell("true")
    (pid,) = agents()
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    done = ossh("login", "-F", own_node.ssh_config, own_node.host)
    assert done.returncode == 0, done.stderr
    assert in_a_shell("ssh-add -l || test $? = 1") == "The agent has no identities.\n"
    assert time.monotonic() - begin < 40
    assert len(agents()) == 2


def test_something_else_stands_there(isolated: Path) -> None:
    """A file in the socket's place is replaced too."""
    runtime().mkdir(mode=0o700)
    (runtime() / "agent").write_text("no socket")
    assert in_a_shell("ssh-add -l || test $? = 1") == "The agent has no identities.\n"


def test_six_at_once_start_one(isolated: Path) -> None:
    """Six shells at once have one agent between them, and no other was started."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ossh("agent"), range(6)))
    assert [done.returncode for done in answers] == [0] * 6
    assert {done.stdout for done in answers} == {f"export SSH_AUTH_SOCK={runtime()}/agent\n".encode()}
    assert len(agents()) == 1
    assert in_a_shell("ssh-add -l || test $? = 1") == "The agent has no identities.\n"


def test_it_outlives_its_terminal(isolated: Path) -> None:
    """The agent does not end with the terminal of the shell that started it."""
    child = pexpect.spawn("sh", ["-c", f'eval "$({OSSH} agent)"; echo up; read x'], timeout=30)
    child.expect("up")
    (pid,) = agents()
    child.close(force=True)
    assert in_a_shell("ssh-add -l || test $? = 1") == "The agent has no identities.\n"
    assert agents() == [pid]


def test_it_holds_nobodys_output(isolated: Path) -> None:
    """A pipe that `ossh agent` wrote to ends with it, although the agent keeps running."""
    done = subprocess.run(
        ["sh", "-c", f"{OSSH} agent 2>&1 | cat"], capture_output=True, check=True, timeout=30
    )
    assert done.stdout.startswith(b"export SSH_AUTH_SOCK=")
    (pid,) = agents()
    places = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 - not always a path
    assert not [place for place in places if place.startswith("pipe:") or place.endswith("agent.lock")]


def test_without_ssh_agent(own_node: Sandbox, isolated: Path) -> None:
    """Where ssh-agent is missing, `ossh agent` says so, and prints nothing that a shell would evaluate."""
    (isolated / "bin").mkdir()
    (isolated / "bin" / "ssh-add").symlink_to("/usr/bin/ssh-add")
    done = ossh("agent", env={"PATH": str(isolated / "bin")})
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"the program 'ssh-agent' was not found" in done.stderr


def test_rules_may_know_the_passphrase(passphrase_node: Sandbox) -> None:
    """Without an agent a rule of the settings can answer for the key's passphrase."""
    write_settings(
        f'[[host.sandbox.prompts]]\nexpect = "^Enter passphrase for key"\n'
        f'answer = {{ command = ["{passphrase_node.answer_command}"] }}\n'
    )
    done = from_cron(OSSH_RUN, "-F", passphrase_node.ssh_config, passphrase_node.host, "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr
