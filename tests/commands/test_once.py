"""`once`: a command under a key runs one time only, whatever becomes of the connection and of whom asks."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opensshtransport import CompletedCommand, Transport
from opensshtransport.errors import CommandTimeout, ConnectionFailed, ConnectionLost, OnceError, SettingsError
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeShellNode
from tests.support.nodes import config_through
from tests.support.programs import until, write_settings
from tests.support.relay import Relay
from tests.support.users import SHELLS, ShellName

FAST = '[host."*"]\nserver_alive_interval = 1\nserver_alive_count_max = 2\ncheck_timeout = 2\n'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where the remote side keeps its records in this test."""
    return tmp_path / "far state"


def records(state: Path) -> Path:
    """The directory of the records."""
    return state / "opensshtransport" / "once"


def home(state: Path) -> dict[str, str]:
    """The environment that keeps the remote side's records out of the real home."""
    return {"XDG_STATE_HOME": str(state)}


def counting(count: Path, then: str = "") -> str:
    """A command that leaves a line for each run of it."""
    return f"echo run >> '{count}'; {then}"


def runs(count: Path) -> int:
    """How many runs there have been."""
    return len(count.read_text().splitlines()) if count.exists() else 0


def said(done: CompletedCommand) -> tuple[int, bytes | str | None, bytes | str | None]:
    """What counts of a result."""
    return done.returncode, done.stdout, done.stderr


def asker(node: Sandbox, command: str, key: str, env: Mapping[str, str]) -> list[str]:
    """The command line of a Python program that asks for a command under a key."""
    program = f"""
        import sys
        from opensshtransport import Transport
        with Transport({node.host!r}, ssh_config={str(node.ssh_config)!r}) as there:
            done = there.run({command!r}, once={key!r}, env={dict(env)!r})
        sys.stdout.buffer.write(done.stdout)
        sys.stderr.buffer.write(done.stderr)
        sys.exit(done.returncode)
    """
    return [sys.executable, "-c", textwrap.dedent(program)]


def test_the_first_result_is_given_again(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """Asked again, here and by another process, the first run's output and status come; it ran one time."""
    command = counting(tmp_path / "count", "date +%N; echo err >&2; exit 7")
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    first = there.run(command, once="job-1", env=home(state))
    assert (first.returncode, first.stderr) == (7, b"err\n")
    assert said(there.run(command, once="job-1", env=home(state))) == said(first)
    other = subprocess.run(
        asker(node, command, "job-1", home(state)), capture_output=True, check=False, timeout=60
    )
    assert (other.returncode, other.stdout, other.stderr) == said(first)
    assert runs(tmp_path / "count") == 1
    assert there.run(command, once="job-2", env=home(state)).stdout != first.stdout
    assert runs(tmp_path / "count") == 2


def test_bytes_input_and_signals(node: Sandbox, keep: Keep, state: Path) -> None:
    """Input reaches the first run; binary output and a signal's status are kept as they are."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    blob = os.urandom(300_000)
    for _ in range(2):
        assert said(there.run("cat", once="bytes", input=blob, env=home(state))) == (0, blob, b"")
        done = there.run("echo x; kill -9 $$", once="signal", env=home(state))
        assert (done.returncode, done.signal, done.stdout) == (137, signal.SIGKILL, b"x\n")


def test_commands_of_any_length(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """A command of megabytes runs under a key too."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    command = f": {'x' * 2_000_000}\n{counting(tmp_path / 'count', 'echo end; exit 3')}"
    for _ in range(2):
        assert said(there.run(command, once="long", env=home(state))) == (3, b"end\n", b"")
    assert runs(tmp_path / "count") == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell(make_shell_node: MakeShellNode, keep: Keep, shell: ShellName) -> None:
    """On each login shell a key runs once, with its records below the user's home."""
    node, user = make_shell_node(shell)
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    for _ in range(2):
        assert said(there.run(counting(user.home / "count", "exit 7"), once="a")) == (7, b"", b"")
    assert runs(user.home / "count") == 1
    assert (records(user.home / ".local/state") / "a").exists()


def test_eight_processes_at_once(node: Sandbox, tmp_path: Path, state: Path) -> None:
    """Eight processes ask at once: one run, and all get its result."""
    command = counting(tmp_path / "count", "sleep 1; date +%N; exit 5")
    argv = asker(node, command, "shared", home(state))
    with ThreadPoolExecutor(8) as pool:
        done = list(
            pool.map(lambda _: subprocess.run(argv, capture_output=True, check=False, timeout=100), range(8))
        )
    assert [one.returncode for one in done] == [5] * 8, [one.stderr for one in done]
    assert len({one.stdout for one in done}) == 1
    assert done[0].stdout
    assert runs(tmp_path / "count") == 1


def test_another_command_is_refused(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """The same key with another command, directory or variable is an error, and runs nothing."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    there.run("echo x", once="key", env=home(state))
    touch = f"touch '{tmp_path}/ran'"
    calls: list[Callable[[], object]] = [
        lambda: there.run(touch, once="key", env=home(state)),
        lambda: there.run("echo x", once="key", env=home(state), cwd=tmp_path),
        lambda: there.run("echo x", once="key", env={**home(state), "A": "b"}),
        lambda: there.run(["echo", "x"], once="key", env=home(state)),
    ]
    for call in calls:
        with pytest.raises(OnceError, match="another command"):
            call()
    assert not (tmp_path / "ran").exists()
    assert there.run("echo x", once="key", env=home(state)).stdout == b"x\n"


@pytest.mark.parametrize(
    "key", ["", "a/b", "..", ".hidden", "-n", "a b", "a\nb", "a\n", "$HOME", "*", "ü", "x" * 201, "a\0"]
)
def test_wrong_keys(own_node: Sandbox, keep: Keep, key: str) -> None:
    """A key that could be no plain file's name is refused before any connection."""
    there = keep(Transport(own_node.host, ssh_config=own_node.ssh_config))
    with pytest.raises(SettingsError, match="is not a valid key"):
        there.run("true", once=key)
    assert own_node.connections() == 0


@pytest.mark.parametrize("key", ["a", "0", "_x", "a.b_c-d+e=f@g:h", "x" * 200])
def test_good_keys(node: Sandbox, keep: Keep, state: Path, key: str) -> None:
    """Keys of letters, digits and _.+=@:- are taken, up to 200 of them."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    for _ in range(2):
        assert there.run("echo x", once=key, env=home(state)).stdout == b"x\n"


def test_keys_that_begin_alike(node: Sandbox, keep: Keep, state: Path) -> None:
    """A key whose name looks like another's record is a key of its own."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    for key in ("a", "a.out", "a.err", "a.status", "a.out.out"):
        assert there.run(f"echo {key}", once=key, env=home(state)).stdout == f"{key}\n".encode()
    for key in ("a", "a.out", "a.err", "a.status", "a.out.out"):
        assert there.run(f"echo {key}", once=key, env=home(state)).stdout == f"{key}\n".encode()


def test_records_are_private(node: Sandbox, keep: Keep, state: Path) -> None:
    """Nobody else can read what is kept, whatever the command's umask; the command's own umask stays."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    plain = there.run("umask").stdout
    assert there.run("umask", once="key", env=home(state)).stdout == plain
    there.run("echo x", once="key2", env=home(state))
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in records(state).iterdir()}
    assert stat.S_IMODE(records(state).stat().st_mode) == 0o700
    assert {"key", "key,out", "key,err", "key,status"} <= found.keys()
    assert set(found.values()) == {0o600}
    assert not [name for name in found if name.startswith(".")]


def test_old_records_are_swept(node: Sandbox, keep: Keep, state: Path) -> None:
    """Records older than 30 days go when a key is used, younger ones stay; what is swept may run again."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    there.run("echo x", once="old", env=home(state))
    there.run("echo x", once="young", env=home(state))
    for path in records(state).iterdir():
        days = 32 if path.name.startswith("old") else 29
        then = time.time() - days * 86_400
        os.utime(path, (then, then))
    there.run("echo x", once="new", env=home(state))
    until(lambda: not list(records(state).glob("old*")), "the old records to go")
    assert len(list(records(state).glob("young*"))) == 4
    assert there.run("echo other", once="old", env=home(state)).stdout == b"other\n"


def test_a_cut_connection(own_node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """The connection breaks while the command runs: asked again, its result comes, and it ran one time."""
    write_settings(FAST)
    relay = keep(Relay(own_node.port))
    there = keep(Transport(own_node.host, ssh_config=config_through(own_node, relay)))
    count = tmp_path / "count"
    command = counting(count, "sleep 2; echo out; echo err >&2; exit 6")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(there.run, command, once="cut", env=home(state))
        until(lambda: runs(count) == 1, "the first run to begin")
        # the word that it had begun is on its way; an answer that was sent later has it behind it
        there.run("true")
        relay.cut()
        with pytest.raises(ConnectionLost) as caught:
            first.result(30)
    assert caught.value.started is True
    assert said(there.run(command, once="cut", env=home(state), timeout=60)) == (6, b"out\n", b"err\n")
    assert runs(count) == 1


def test_the_asker_dies(own_node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """A calling program that is killed leaves the run to end; another gets its result."""
    count = tmp_path / "count"
    command = counting(count, "sleep 2; echo out")
    with subprocess.Popen(asker(own_node, command, "k", home(state)), stdout=subprocess.DEVNULL) as child:
        until(lambda: runs(count) == 1, "the first run to begin")
        child.kill()
    there = keep(Transport(own_node.host, ssh_config=own_node.ssh_config))
    assert said(there.run(command, once="k", env=home(state), timeout=60)) == (0, b"out\n", b"")
    assert runs(count) == 1


def claimed(record: Path) -> int:
    """The process id that is noted in a claim."""
    return int(record.read_text().splitlines()[3])


def test_a_run_that_was_cut_down(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """If a run's processes were killed, waiting and later calls report that, and it is not run again."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    count = tmp_path / "count"
    command = counting(count, "sleep 300")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(there.run, command, once="dead", env=home(state))
        until(lambda: runs(count) == 1, "the first run to begin")
        waiting = pool.submit(there.run, command, once="dead", env=home(state), timeout=60)
        os.killpg(claimed(records(state) / "dead"), signal.SIGKILL)
        with pytest.raises(ConnectionFailed) as caught:
            first.result(30)
        assert caught.value.started is True
        with pytest.raises(OnceError, match="cut down"):
            waiting.result(30)
    with pytest.raises(OnceError, match="cut down"):
        there.run(command, once="dead", env=home(state))
    assert runs(count) == 1


@pytest.mark.parametrize("what", ["boot", "pid reused", "pid gone"])
def test_a_reboot(node: Sandbox, keep: Keep, tmp_path: Path, state: Path, what: str) -> None:
    """A claim from before a reboot, or whose process is gone or another one, is reported as cut down."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    command = counting(tmp_path / "count")
    there.run(command, once="key", env=home(state))
    record = records(state) / "key"
    (record.with_name("key,status")).unlink()
    lines = record.read_text().splitlines()
    if what == "boot":
        lines[2:] = ["another-boot", str(os.getpid()), started(os.getpid())]
    elif what == "pid reused":
        lines[3:] = [str(os.getpid()), "1"]
    record.write_text("\n".join(lines) + "\n")
    with pytest.raises(OnceError, match="cut down") as caught:
        there.run(command, once="key", env=home(state), timeout=30)
    assert caught.value.host == node.host
    assert runs(tmp_path / "count") == 1


def started(pid: int) -> str:
    """When a process was started, as proc(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_run_that_lives_is_waited_for(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """Who waits for a run, here or on another node, ends by its own timeout and leaves the run alone."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    command = counting(tmp_path / "count", "sleep 4; echo out")
    there.run("true")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(there.run, command, once="key", env=home(state))
        until(lambda: runs(tmp_path / "count") == 1, "the first run to begin")
        with pytest.raises(CommandTimeout):
            there.run(command, once="key", env=home(state), timeout=1)
        assert first.result(30).stdout == b"out\n"
    record = records(state) / "key"
    record.with_name("key,status").unlink()
    lines = record.read_text().splitlines()
    record.write_text("\n".join([lines[0], "another-node", *lines[2:]]) + "\n")
    with pytest.raises(CommandTimeout):
        there.run(command, once="key", env=home(state), timeout=1)
    assert runs(tmp_path / "count") == 1


def test_timeout_ends_the_first_run(node: Sandbox, keep: Keep, tmp_path: Path, state: Path) -> None:
    """A timeout ends the run itself, and later calls report that end."""
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    command = counting(tmp_path / "count", "echo up; sleep 300")
    there.run("true")
    with pytest.raises(CommandTimeout):
        there.run(command, once="key", env=home(state), timeout=2)
    assert runs(tmp_path / "count") == 1
    assert said(there.run(command, once="key", env=home(state), timeout=60)) == (143, b"up\n", b"")
    assert runs(tmp_path / "count") == 1


def test_a_full_or_forbidden_place(make_shell_node: MakeShellNode, keep: Keep) -> None:
    """Where no record can be kept, nothing is run."""
    node, user = make_shell_node("bash")
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    with pytest.raises(OSError, match="Permission denied"):
        there.run(f"touch {user.home}/ran", once="key", env={"XDG_STATE_HOME": "/proc/nowhere"})
    assert not (user.home / "ran").exists()
