"""`ossh-run`: what a shell script sees."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

import opensshtransport
from opensshtransport.cli.options import seconds
from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeShellNode
from tests.support import proc
from tests.support.nodes import config_through
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, runtime, status, until, write_settings
from tests.support.relay import Relay
from tests.support.users import NOISY, User

MEBIBYTE = 1 << 20


def lonely(directory: Path) -> Path:
    """`ossh-run` with no `ossh` next to it: it works only if it needs no Python."""
    copy = directory / "ossh-run"
    shutil.copy(OSSH_RUN, copy)
    return copy


def test_the_installed_script_is_the_one_in_the_tree() -> None:
    """These tests test the tree: the installed script is not an older copy."""
    source = Path(__file__).parents[2] / "scripts" / "ossh-run"
    assert OSSH_RUN.read_bytes() == source.read_bytes(), "install the package again"


@pytest.mark.client
def test_first_run_logs_in_and_further_ones_share_it(own_node: Sandbox) -> None:
    """The first command logs in by key, the others use its master: one login in the server's log."""
    for number in range(3):
        done = ossh_run("-F", own_node.ssh_config, own_node.host, f"echo {number}")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"%d\n" % number, b"")
    assert own_node.authentications() == 1


def test_no_python_with_a_live_master(own_node: Sandbox, isolated: Path) -> None:
    """With a live master the script does all the work, and does not even look for `ossh`."""
    alone = lonely(isolated)
    config = own_node.ssh_config
    cold = subprocess.run([alone, "-F", config, own_node.host, "echo x"], capture_output=True, check=False)
    assert cold.returncode == 255
    assert b"is missing" in cold.stderr
    ossh("login", "-F", config, own_node.host)
    warm = subprocess.run([alone, "-F", config, own_node.host, "echo x"], capture_output=True, check=False)
    assert (warm.returncode, warm.stdout, warm.stderr) == (0, b"x\n", b"")


def test_the_longest_runtime_directory(
    own_node: Sandbox, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the longest runtime directory that is taken the script and `ossh ssh-command` reach the master."""
    config, host = own_node.ssh_config, own_node.host
    long = isolated / ("x" * (27 - len(str(isolated))))
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    ossh("login", "-F", config, host)
    assert len(str(runtime())) == 45
    assert runtime().is_dir()
    bare: list[str | Path] = [lonely(isolated), "-F", config, host, "echo x"]
    done = subprocess.run(bare, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    argv = shlex.split(ossh("ssh-command", "-F", config, host).stdout.decode())
    assert subprocess.run([*argv, "echo y"], capture_output=True, check=False).stdout == b"y\n"
    ossh("logout", "-F", config, host)


def test_eight_at_once_make_one_login(own_node: Sandbox) -> None:
    """Eight processes without a master: one of them logs in, all get their right answer."""
    config = own_node.ssh_config
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda number: ossh_run("-F", config, own_node.host, f"echo {number}"), range(8))
        )
    assert [done.stdout for done in answers] == [b"%d\n" % number for number in range(8)]
    assert [done.returncode for done in answers] == [0] * 8
    assert own_node.authentications() == 1


@pytest.mark.parametrize("way", ["script", "python"])
@pytest.mark.parametrize(
    ("command", "returncode"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 124", 124),
        ("exit 255", 255),
        ("no-such-command-here", 127),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
        ("sh -c 'kill -9 $$'", 137),
        ("kill 0", 143),
    ],
)
def test_the_status_is_the_commands_own(node: Sandbox, way: str, command: str, returncode: int) -> None:
    """Exit status N is N, a signal N is 128+N, and none of them brings a word of our own on stderr."""
    words = ["-F", str(node.ssh_config), *(["--timeout", "50"] if way == "python" else [])]
    done = ossh_run(*words, node.host, command)
    assert done.returncode == returncode
    assert b"ossh-run" not in done.stderr
    assert done.stdout == b""


@pytest.mark.client
def test_outcomes_are_told_apart(own_node: Sandbox) -> None:
    """A command's 255, a signal, a missing command, a refused connection and a dead master all differ."""
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    outcomes = {
        (done.returncode, done.stderr.startswith(b"ossh-run: "))
        for done in (
            ossh_run("-F", config, host, command) for command in ("exit 255", "kill -9 $$", "nonesuch")
        )
    }
    assert outcomes == {(255, False), (137, False), (127, False)}
    own_node.stop()
    ossh("logout", "-F", config, host)
    dead = ossh_run("-F", config, "--no-login", host, "echo x")
    refused = ossh_run("-F", config, host, "echo x")
    assert dead.returncode == refused.returncode == 255
    assert dead.stdout == refused.stdout == b""
    advice = f"run: ossh login -F {config} sandbox"
    what = "no master is running (ossh help one-master)"
    assert dead.stderr.decode() == f"ossh-run: sandbox: {what}; {advice}\n"
    assert refused.stderr.startswith(
        b"ossh-run: sandbox: the server refused the connection (ssh said: connect to"
    )
    assert refused.stderr.count(b"\n") == 1


@pytest.mark.parametrize("flag", [[], ["--timeout", "100"]], ids=["script", "python"])
def test_64_mebibytes_both_ways(node: Sandbox, tmp_path: Path, flag: list[str]) -> None:
    """A random stream of 64 MiB comes back byte for byte, through pipes."""
    blob = tmp_path / "blob"
    blob.write_bytes(secrets.token_bytes(64 * MEBIBYTE))
    done = ossh_run("-F", node.ssh_config, *flag, node.host, "cat; echo end >&2", stdin=blob.read_bytes())
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(blob.read_bytes()).digest()
    assert done.stderr == b"end\n"


def test_every_login_shell(shell_user_node: tuple[Sandbox, User]) -> None:
    """On each login shell: bytes, quoting, status and signals are the command's own."""
    node, _ = shell_user_node
    config, host = node.ssh_config, node.host
    before = node.authentications()
    blob = secrets.token_bytes(MEBIBYTE)
    assert ossh_run("-F", config, host, "cat", stdin=blob).stdout == blob
    assert ossh_run("-F", config, host, "echo 'a  b' \"c'd\"; exit 7").returncode == 7
    assert ossh_run("-F", config, host, "echo 'a  b' \"c'd\"").stdout == b"a  b c'd\n"
    assert ossh_run("-F", config, host, r"printf '%s\n' a\\b").stdout == b"a\\b\n"
    assert ossh_run("-F", config, host, "sh -c 'kill -9 $$'").returncode == 137
    assert node.authentications() == before + 1


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish", "busybox"])
def test_noise_is_dropped(make_shell_node: MakeShellNode, shell: str) -> None:
    """What start-up files print on stdout is not taken for the command's output."""
    node, _ = make_shell_node(shell, NOISY)  # type: ignore[arg-type]  # the parameter's type is lost by pytest
    blob = secrets.token_bytes(2 * MEBIBYTE)
    for _ in range(2):
        done = ossh_run("-F", node.ssh_config, node.host, "cat", stdin=blob)
        assert done.returncode == 0
        assert done.stdout == blob


def test_noise_that_comes_later_is_dropped_too(make_shell_node: MakeShellNode) -> None:
    """A start-up file that begins to print while the master is running does not spoil the output."""
    node, user = make_shell_node("bash")
    assert ossh_run("-F", node.ssh_config, node.host, "echo x").stdout == b"x\n"
    user.set_startup(NOISY)
    assert ossh_run("-F", node.ssh_config, node.host, "echo x").stdout == b"x\n"


def test_in_a_while_read_loop(node: Sandbox) -> None:
    """With -n the loop keeps its input; without it the first command reads the rest, as with ssh."""
    ossh("login", "-F", node.ssh_config, node.host)
    script = "while read -r line; do {} echo got $line; done"
    call = f"{OSSH_RUN} %s -F {node.ssh_config} {node.host}"
    done = subprocess.run(
        ["sh", "-c", script.format(call % "-n")], input=b"a\nb\nc\n", capture_output=True, check=False
    )
    assert done.stdout == b"got a\ngot b\ngot c\n"
    done = subprocess.run(
        ["sh", "-c", script.format(call % "") + "; cat"], input=b"a\nb\nc\n", capture_output=True, check=False
    )
    assert done.stdout.startswith(b"got a\n")


def test_under_set_e_and_in_a_pipe(node: Sandbox) -> None:
    """`set -e` stops at a command's failure, and a reader that leaves early ends the command."""
    call = f"{OSSH_RUN} -F {node.ssh_config} {node.host}"
    done = subprocess.run(
        ["sh", "-ec", f"{call} true; echo one; {call} false; echo two"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"one\n")
    begin = time.monotonic()
    done = subprocess.run(
        ["sh", "-c", f"{call} yes | head -n 1"], capture_output=True, check=False, timeout=30
    )
    assert done.stdout == b"y\n"
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("program", [[OSSH_RUN], [OSSH, "run"]], ids=["ossh-run", "ossh run"])
@pytest.mark.parametrize("command", ["echo x", "seq 100000"])
def test_output_that_is_lost(node: Sandbox, program: list[Path | str], command: str) -> None:
    """Output that cannot be written is told in one line, with 255: the command's own status would hide it."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*program, "-F", node.ssh_config, node.host, command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 255
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ossh-run: {node.host}: ")
    assert "could not be written" in line or "stdout: No space left on device" in line


def test_output_whose_copier_is_killed(node: Sandbox) -> None:
    """Output is lost where the `cat` that copies it is killed: 255 and one line, not the command's status."""
    ossh("login", "-F", node.ssh_config, node.host)
    argv: list[str | Path] = [OSSH_RUN, "-F", node.ssh_config, node.host, "echo up; read -r x; echo end"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        (copier,) = (pid for pid in proc.children(process.pid) if proc.name(pid) == "cat")
        os.kill(copier, signal.SIGKILL)
        process.stdin.write(b"x\n")
        process.stdin.close()
        process.stdin = None
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 255
    why = "the output was lost, as the program that copies it was killed; the command has run"
    assert errors.decode() == f"ossh-run: {node.host}: {why}\n"


def test_a_terminal_is_given(node: Sandbox) -> None:
    """With -t the command has a terminal of the caller's size, its keys and its status."""
    ossh("login", "-F", node.ssh_config, node.host)
    child = pexpect.spawn(
        str(OSSH_RUN),
        ["-t", "-F", str(node.ssh_config), node.host, "tty; stty size; read -r x; echo got $x; exit 5"],
        dimensions=(33, 77),
        timeout=20,
    )
    child.expect_exact("/dev/pts/")
    child.expect_exact("33 77")
    child.sendline("hello")
    child.expect_exact("got hello")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it(node: Sandbox, number: signal.Signals) -> None:
    """A signal to `ossh-run` alone ends it by that signal, its ssh and the remote processes."""
    ossh("login", "-F", node.ssh_config, node.host)
    tag = f"sleep 1{secrets.randbelow(10**8):08d}"
    with subprocess.Popen(
        [OSSH_RUN, "-F", node.ssh_config, node.host, f"echo up; {tag}"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(number)
        assert child.wait(20) == -number
    until(lambda: not processes(tag), "ssh and the remote processes to end")


def processes(text: str) -> list[str]:
    """The command lines of all processes that have a text in theirs."""
    done = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if text in line]


@pytest.mark.parametrize(
    "command",
    [
        "echo up; {tag}",
        "trap '' TERM; echo up; {tag}; {tag}",
        "echo up; sh -c 'trap \"\" TERM; {tag}; :' & wait",
    ],
    ids=["plain", "ignores TERM", "a child ignores TERM"],
)
def test_timeout_ends_the_remote_group(node: Sandbox, command: str) -> None:
    """--timeout ends all remote processes of the command, keeps what was printed, and gives 124."""
    tag = f"sleep 1{secrets.randbelow(10**8):08d}"
    ossh("login", "-F", node.ssh_config, node.host)
    done = ossh_run("-F", node.ssh_config, "--timeout", "6", node.host, command.format(tag=tag))
    assert (done.returncode, done.stdout) == (124, b"up\n")
    assert done.stderr == (
        b"ossh-run: sandbox: the command ran longer than 6 s and was ended (ossh help ossh-run);"
        b" give it more time with --timeout\n"
    )
    until(lambda: not processes(tag), "the remote processes to end")


def test_interrupt_at_the_terminal(node: Sandbox) -> None:
    """Ctrl-C ends the command on the remote side too, and nothing is said."""
    ossh("login", "-F", node.ssh_config, node.host)
    tag = f"sleep 1{secrets.randbelow(10**8):08d}"
    child = pexpect.spawn(
        str(OSSH_RUN), ["-F", str(node.ssh_config), node.host, f"echo up; {tag}"], timeout=20
    )
    child.expect_exact("up")
    child.sendintr()
    child.expect(pexpect.EOF)
    assert (child.before or b"").split() in ([], [b"^C"])
    child.close()
    assert child.signalstatus == signal.SIGINT
    until(lambda: not processes(tag), "the remote processes to end")


def test_once(make_shell_node: MakeShellNode) -> None:
    """Under a key a command runs once; asked again it gives the first result, and another one is refused."""
    node, user = make_shell_node("bash")
    words: list[str | Path] = ["-F", node.ssh_config, "--once", "job-1", node.host]
    command = "echo run >> runs; echo out; echo err >&2; exit 3"
    for _ in range(2):
        done = ossh_run(*words, command)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert (user.home / "runs").read_text() == "run\n"
    done = ossh_run(*words, "echo something else")
    assert done.returncode == 255
    assert b"the key 'job-1' belongs to another command" in done.stderr


@pytest.mark.client
def test_master_killed(own_node: Sandbox) -> None:
    """After SIGKILL the socket is stale: --no-login fails and dials nobody, then one new login is made."""
    config, host = own_node.ssh_config, own_node.host
    ossh_run("-F", config, host, "true")
    os.kill(int(status(config, host)[0]["pid"]), signal.SIGKILL)
    before = own_node.connections()
    done = ossh_run("-F", config, "--no-login", host, "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    assert own_node.connections() == before
    done = ossh_run("-F", config, host, "echo x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert own_node.authentications() == 2


def test_master_frozen(own_node: Sandbox) -> None:
    """A master that is stopped is found out by a deadline, ended and replaced."""
    write_settings('[host."*"]\ncheck_timeout = 1\n')
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    pid = int(status(config, host)[0]["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        done = ossh("login", "-F", config, host)
        assert done.returncode == 0, done.stderr
        assert int(status(config, host)[0]["pid"]) != pid
        assert ossh_run("-F", config, host, "echo x").stdout == b"x\n"
        until(
            lambda: proc.state(pid) in {"", "Z"},
            "the frozen master to end",
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_network_silenced(own_node: Sandbox) -> None:
    """On a silenced network a command fails in time without a login; then the master is replaced."""
    write_settings('[host."*"]\nserver_alive_interval = 1\nserver_alive_count_max = 2\ncheck_timeout = 2\n')
    with Relay(own_node.port) as relay:
        config, host = config_through(own_node, relay), own_node.host
        assert ossh_run("-F", config, host, "echo x").stdout == b"x\n"
        relay.silence()
        begin = time.monotonic()
        done = ossh_run("-F", config, "--no-login", host, "echo x")
        assert time.monotonic() - begin < 15
        assert (done.returncode, done.stdout) == (255, b"")
        assert done.stderr.startswith(b"ossh-run: sandbox: ")
        relay.cut()
        relay.resume()
        assert own_node.authentications() == 1
        done = ossh_run("-F", config, host, "echo y")
        assert (done.returncode, done.stdout) == (0, b"y\n")
        assert own_node.authentications() == 2


@pytest.mark.client
def test_connection_cut_while_running(own_node: Sandbox) -> None:
    """A connection that breaks under a running command: 255, one line that says so, and no second run."""
    with Relay(own_node.port) as relay:
        config, host = config_through(own_node, relay), own_node.host
        ossh("login", "-F", config, host)
        runs = own_node.directory / "runs"
        with subprocess.Popen(
            [OSSH_RUN, "-F", config, host, f"echo run >> {runs}; echo up; sleep 60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline() == b"up\n"
            relay.cut()
            error = child.stderr.read()
            assert child.wait(20) == 255
        what = (
            b"ossh-run: sandbox: the connection was lost while the command was running (ossh help guarantees)"
        )
        assert what + b"; check whether" in error
        assert runs.read_text() == "run\n"
        assert own_node.authentications() == 1


@pytest.mark.client
def test_refused_sessions_wait_their_turn(isolated: Path) -> None:
    """With MaxSessions 1 four commands at once all run, one after another, over one login."""
    with Sandbox(server_options={"MaxSessions": "1"}) as node:
        ossh("login", "-F", node.ssh_config, node.host)
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(
                    lambda number: ossh_run("-F", node.ssh_config, node.host, f"sleep 0.3; echo {number}"),
                    range(4),
                )
            )
        assert [done.stdout for done in answers] == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert [done.stderr for done in answers] == [b""] * 4
        assert node.authentications() == 1


@pytest.mark.client
def test_an_edited_config_leads_to_the_new_place(own_node: Sandbox, isolated: Path) -> None:
    """Once a name points to another node, no command goes to the old one, though its master is running."""
    with Sandbox(host="other") as other:
        config = isolated / "ssh_config"
        mine, theirs = own_node.ssh_config.read_text(), other.ssh_config.read_text()
        config.write_text(mine)
        ask: list[str | Path] = ["-F", config, own_node.host, "echo $SSH_CONNECTION"]
        assert ossh_run(*ask).stdout.split()[-1] == str(own_node.port).encode()
        times = config.stat()
        config.write_text(theirs.replace("Host other", f"Host {own_node.host}"))
        assert ossh_run(*ask).stdout.split()[-1] == str(other.port).encode()
        config.write_text(mine)
        os.utime(config, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert ossh_run(*ask).stdout.split()[-1] == str(own_node.port).encode()
        assert (own_node.authentications(), other.authentications()) == (1, 1)


def test_names_of_one_place_share_a_master(own_node: Sandbox, isolated: Path) -> None:
    """Aliases with the same user, host and port share one login; `user@alias` too."""
    config = isolated / "ssh_config"
    config.write_text(own_node.ssh_config.read_text().replace("Host sandbox", "Host sandbox second third"))
    for name in ("sandbox", "second", "third", f"{own_node.user}@second"):
        assert ossh_run("-F", config, name, "echo x").stdout == b"x\n"
        assert ossh_run("-F", config, name, "echo x").stdout == b"x\n"
    assert own_node.authentications() == 1


@pytest.mark.client
def test_ones_own_master_is_used_and_left_alone(own_node: Sandbox, isolated: Path) -> None:
    """A live master at the ControlPath of ssh_config is used, and `ossh logout` does not end it."""
    config = isolated / "ssh_config"
    config.write_text(f"ControlPath {isolated}/%C\n{own_node.ssh_config.read_text()}")
    subprocess.run(
        ["ssh", "-F", config, "-o", "ControlMaster=yes", "-o", "BatchMode=yes", "-f", "-N", own_node.host],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=30,
    )
    assert ossh_run("-F", config, own_node.host, "echo x").stdout == b"x\n"
    assert ossh_run("-F", config, "--no-login", own_node.host, "echo x").stdout == b"x\n"
    done = ossh("logout", "-F", config, own_node.host)
    assert done.returncode == 1
    assert b"is your own" in done.stderr
    assert ossh_run("-F", config, "--no-login", own_node.host, "echo x").stdout == b"x\n"
    assert own_node.authentications() == 1


def test_nothing_is_left_in_the_runtime_directory(own_node: Sandbox) -> None:
    """After commands of all outcomes and a logout neither logs, sockets nor facts are left."""
    config, host = own_node.ssh_config, own_node.host
    for command in ("true", "exit 255", "kill -9 $$"):
        ossh_run("-F", config, host, command)
    ossh_run("-F", config, "--timeout", "1", host, "sleep 20")
    until(lambda: not list(runtime().glob("run.*")), "logs of single runs to go")
    ossh("logout", "-F", config, host)
    kinds = {path.suffix for path in runtime().iterdir() if path.is_file()}
    # empty files that are locked, and the master's own log
    assert kinds <= {".lock", ".slots", ".log"}
    assert not [path for path in runtime().rglob("*") if path.is_socket()]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--once", "key", "sandbox"],
        ["-F"],
        ["-x", "sandbox", "true"],
        ["--timeout", "0", "sandbox", "true"],
        ["-oFoo", "true"],
    ],
)
def test_wrong_use(arguments: list[str]) -> None:
    """Wrong options, a missing host, no command to run once: 255 and a line that says what is wrong."""
    done = ossh_run(*arguments)
    assert done.returncode == 255
    assert done.stderr.splitlines()[-1].startswith(b"ossh-run: ")


PROGRAMS = pytest.mark.parametrize("program", [[OSSH_RUN], [OSSH, "run"]], ids=["ossh-run", "ossh run"])


@PROGRAMS
def test_a_login_shell(node: Sandbox, program: list[Path | str]) -> None:
    """Without a command a terminal gets a login shell on a terminal there, whose status is ours."""
    words = [*map(str, program), "-F", str(node.ssh_config), node.host]
    child = pexpect.spawn(words[0], words[1:], timeout=20)
    child.expect(r"[#$%>] ")
    child.sendline("case $0 in -*) echo is''-login;; esac; tty; exit 3")
    child.expect_exact("is-login")
    child.expect("/dev/pts/[0-9]+")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3


def test_a_shell_without_a_terminal(node: Sandbox) -> None:
    """Without a command and a terminal the login shell reads our stdin, as with ssh; none with -n."""
    done = ossh_run("-F", node.ssh_config, node.host, stdin=b"tty; echo $((40 + 2)); exit 3\n")
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (3, [b"not a tty", b"42"])
    assert ossh_run("-n", "-F", node.ssh_config, node.host, stdin=b"exit 3\n").returncode == 0


def test_version() -> None:
    """The versions, ours and that of OpenSSH, are reported without a host."""
    told = ossh_run("--version").stdout.decode()
    assert told.startswith(f"ossh-run {opensshtransport.__version__}, OpenSSH_")


@pytest.mark.parametrize("options", ["-n", "-t", "-tt", "-t -t", "-q", "-tn", "-ntq", "--no-login", "-tt -q"])
def test_options_mean_the_same(node: Sandbox, options: str) -> None:
    """The script and Python do the same by each option."""
    words: list[str | Path] = [
        *options.split(),
        "-F",
        node.ssh_config,
        node.host,
        "tty; head -c 3 | wc -c; exit 5",
    ]
    ossh_run("-F", node.ssh_config, node.host, "true")
    results = [run(*words, stdin=b"1234\n") for run in (ossh_run, functools.partial(ossh, "run"))]
    told = [re.sub(rb"pts/\d+", b"pts/N", done.stdout) for done in results]
    assert told[0] == told[1]
    assert [done.returncode for done in results] == [5, 5]


@PROGRAMS
def test_no_such_option(program: list[Path | str]) -> None:
    """An unknown option is reported, with the known ones."""
    done = subprocess.run([*program, "--x", "daint", "true"], capture_output=True, check=False)
    assert done.returncode == 255
    assert done.stderr.decode() == (
        "ossh-run: there is no option --x, only -h|--help -F -n -t --timeout --once --no-login -q -v"
        " --version, see ossh-run --help\n"
    )


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("0.5", 0.5), ("90s", 90), ("5m", 300), ("1h30m", 5400)]
)
def test_times(text: str, value: float) -> None:
    """A time is written as in config.toml, or in seconds with a fraction."""
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "nan", "inf", "1e9", "m", "5x", "5 m", "5m-1"])
def test_no_times(text: str) -> None:
    """What is no time above 0 is refused."""
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)


def test_arguments_are_joined_as_ssh_does(node: Sandbox) -> None:
    """Several words are joined by blanks, so the remote shell splits them again."""
    done = ossh_run("-F", node.ssh_config, node.host, "printf", "'%s\\n'", "a  b", "c")
    assert done.stdout == b"a\nb\nc\n"
    done = ossh_run("-F", node.ssh_config, node.host, "--", "true")
    plain = subprocess.run(
        ["ssh", "-F", node.ssh_config, node.host, "--", "true"], capture_output=True, check=False
    )
    assert done.returncode == plain.returncode


def test_a_long_command(node: Sandbox) -> None:
    """A command of 60 kB with quotes runs; one that no argument can hold is refused with advice."""
    text = "x'y " * 15000
    done = ossh_run("-F", node.ssh_config, node.host, f'echo "{text}" | wc -c')
    assert done.stdout.split() == [b"60001"]
    done = ossh_run("-F", node.ssh_config, node.host, "echo", *(["x" * 100_000] * 2))
    assert done.returncode == 255
    assert b"is longer than 131071 bytes (ossh help ossh-run); send it as a script on stdin" in done.stderr


def test_python_is_the_tests_own() -> None:
    """The `ossh` next to the script belongs to the Python under test."""
    assert OSSH.read_text().startswith(f"#!{Path(sys.executable).parent}/python")
