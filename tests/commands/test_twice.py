"""Nothing runs twice: the evidence of how a command went may be lost, and then it is not known.

Random moments are played in `tests/faults/test_directories.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opensshtransport.errors import AuthenticationRefused, CoolingDown, SettingsError
from opensshtransport.local import settings
from opensshtransport.local.locks import locked
from opensshtransport.login.budget import MOST_FAILURES, Budget
from opensshtransport.openssh.destination import resolve
from opensshtransport.openssh.run_log import RunLog, sweep_logs
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, require
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, runtime, until


def emptied() -> None:
    """What a cleaner of temporary files does."""
    for path in sorted(runtime().rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def removed() -> None:
    """What systemd does at the last logout."""
    shutil.rmtree(runtime())


def swept() -> None:
    """The logs are removed by name."""
    sweep_logs(runtime(), older=0)


@pytest.mark.parametrize("fault", [emptied, removed, swept])
@pytest.mark.parametrize("flags", [[], ["--no-login"], ["-n"], ["-t"], ["--timeout", "50"]], ids=" ".join)
def test_the_directory_goes(
    own_node: Sandbox, isolated: Path, flags: list[str], fault: Callable[[], None]
) -> None:
    """If the directory disappears while a command runs, its own status is reported, and it has run once."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    ran, go = isolated / "ran", isolated / "go"
    command = f"echo x >> {ran}; while [ ! -e {go} ]; do sleep 0.02; done; exit 3"
    argv: list[str | Path] = [OSSH_RUN, *flags, "-F", own_node.ssh_config, own_node.host, command]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as run:
        until(ran.exists, "the command to begin")
        fault()
        go.touch()
        said = run.communicate(timeout=30)[1]
    assert (run.returncode, ran.read_text()) == (3, "x\n"), said


def test_lost_evidence_is_none(own_node: Sandbox, isolated: Path) -> None:
    """A log that cannot be read is not one of a command that was never tried."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    ran = isolated / "ran"
    for flags in ([], ["--no-login"]):
        done = subprocess.run(
            [OSSH, "run", *flags, "-F", own_node.ssh_config, own_node.host, f"echo x >> {ran}"],
            env={**os.environ, "OSSH_RUN_LOG": "99"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 255
        assert (
            b"ossh-run: sandbox: it is not known whether the command has run (ossh help guarantees); check"
            in done.stderr
        )
        assert done.stderr.count(b"\n") == 1
    assert not ran.exists()


def test_containers_with_the_same_numbers(own_node: Sandbox, isolated: Path) -> None:
    """Two containers that share the directory have processes of the same number, and end only their own."""
    require("" if os.geteuid() == 0 else "namespaces need root")
    require(missing_programs("unshare"))
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    contained = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", 'echo $$ >"$0"; exec "$@"']
    with contextlib.ExitStack() as stack:
        runs = []
        for number in range(2):
            up, go = isolated / f"up{number}", isolated / f"go{number}"
            command = f"echo >{up}; while [ ! -e {go} ]; do sleep 0.02; done; exit 3"
            argv: list[str | Path] = [*contained, isolated / f"pid{number}", OSSH_RUN, "-n", "-F"]
            argv += [config, host, command]
            runs.append(stack.enter_context(subprocess.Popen(argv)))
            until(up.exists, "the command to begin")
        assert (isolated / "pid0").read_text() == (isolated / "pid1").read_text()
        # the only child of unshare, which is 1 in there, where signals without a trap are ignored
        (first,) = Path(f"/proc/{runs[0].pid}/task/{runs[0].pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        # its end is searched for on the remote side, and both commands are there
        time.sleep(1)
        assert runs[1].poll() is None
        (isolated / "go1").touch()
        assert runs[1].wait(20) == 3
        os.kill(int(first), signal.SIGKILL)


class TestSweeping:
    """What is removed as nobody's."""

    def test_by_age(self, tmp_path: Path) -> None:
        """A young log stays, an old one is removed, and a process that has it open can still read it."""
        log = RunLog(tmp_path)
        with log.path.open("a") as file:
            file.write("first\n")
            sweep_logs(tmp_path)
            assert log.path.exists()
            long_ago = time.time() - 3600
            os.utime(log.path, (long_ago, long_ago))
            sweep_logs(tmp_path)
            assert not log.path.exists()
            file.write("second\n")
            file.flush()
            assert log.read() == "first\nsecond\n"
        log.close()
        assert log.read() == ""

    def test_without_a_directory(self, tmp_path: Path) -> None:
        """If the directory is gone, the log is among the temporary files."""
        log = RunLog(tmp_path / "gone")
        assert log.path.exists()
        assert log.path.stat().st_mode & 0o777 == 0o600
        log.close()
        assert not log.path.exists()


def test_locks_that_are_removed(tmp_path: Path) -> None:
    """Who waited for a lock whose file was removed meanwhile waits for that of the same name then."""
    path, order = tmp_path / "lock", []

    def second() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        until(lambda: len(_descriptors(path)) == 2, "the other one to open the file")
        path.unlink()
        with locked(path):
            order.append("third")
    waiting.join()
    assert order == ["third", "second"]


def _descriptors(path: Path) -> list[Path]:
    found = list(Path("/proc/self/fd").iterdir())
    return [one for one in found if one.exists() and one.samefile(path)]


@pytest.mark.parametrize("way", ["run", "status"])
def test_closed_descriptors(node: Sandbox, way: str) -> None:
    """With stdin and stdout closed nothing is written elsewhere; the status is the command's, as with ssh."""
    words = [str(node.ssh_config), node.host, "echo out; exit 3"] if way == "run" else []
    script = '"$0" run --timeout 50 -F "$@" <&- >&-' if way == "run" else '"$0" status <&- >&-'
    done = subprocess.run(["sh", "-c", script, OSSH, *words], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (3 if way == "run" else 0, b"")
    assert b"Traceback" not in done.stderr


def test_once_without_a_place(keep: Keep) -> None:
    """Where the remote side cannot keep the record of a key: 255, one line, and no traceback."""
    node = keep(Sandbox(server_options={"SetEnv": "XDG_STATE_HOME=/proc/nothing"}))
    done = ossh_run("-F", node.ssh_config, "--once", "key", node.host, "true")
    assert done.returncode == 255
    assert done.stderr.startswith(b"ossh-run: sandbox: ")
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def read_only(isolated: Path) -> Iterator[Path]:
    """A state directory on a file system that is read-only."""
    require("" if os.geteuid() == 0 else "mounting needs root")
    place = Path(os.environ["XDG_STATE_HOME"])
    place.mkdir(exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "twice", str(place)]
    if subprocess.run(argv, check=False, capture_output=True).returncode:
        pytest.skip("a container may forbid to mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_state_that_cannot_be_kept(own_node: Sandbox, read_only: Path) -> None:
    """A read-only state directory keeps nobody out."""
    for _ in range(2):
        done = ossh("login", "-F", own_node.ssh_config, own_node.host)
        assert (done.returncode, done.stderr.count(b"\n")) == (0, 1), done.stderr
        ossh("logout", "-F", own_node.ssh_config, own_node.host)
    assert not list(read_only.iterdir())


def test_failures_are_counted_all_the_same(own_node: Sandbox, read_only: Path) -> None:
    """Failed logins are counted in the runtime directory then, until the state directory takes the count."""
    destination = resolve(own_node.host, own_node.ssh_config)
    for _ in range(MOST_FAILURES):
        before = Budget(destination).begin()
        Budget(destination).note(AuthenticationRefused("wrong"), before)
    with pytest.raises(CoolingDown, match="3 logins in a row"):
        Budget(destination).check()
    Budget(destination).clear()
    Budget(destination).check()
    before = Budget(destination).begin()
    subprocess.run(["mount", "-o", "remount,rw", read_only], check=True)
    Budget(destination).note(AuthenticationRefused("wrong"), before)
    assert not list(runtime().glob("*.failures"))
    assert Budget(destination).read().failures == 1
    Budget(destination).clear()
    assert Budget(destination).read().failures == 0


def test_uncounted_logins_are_not_tried(
    own_node: Sandbox, read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no directory takes the count, only a person logs in."""
    destination = resolve(own_node.host, own_node.ssh_config)
    budget = Budget(destination)
    monkeypatch.setattr(budget, "_files", [read_only / "x", read_only / "y"])
    with pytest.raises(CoolingDown, match="cannot be counted"):
        budget.begin()
    budget.note(AuthenticationRefused("wrong"), budget.read())
    budget.clear()


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@hypothesis_settings(deadline=None)
@given(key=st.sampled_from(sorted(settings._READERS)), value=_VALUES)
def test_any_value_of_any_setting(key: str, value: object) -> None:
    """Whatever is in config.toml is taken, or told as a mistake."""
    with contextlib.suppress(SettingsError):
        settings._read(key, value, "here")


@hypothesis_settings(deadline=None)
@given(
    key=st.sampled_from(["password", "code", "pin", "prompts"]),
    name=st.sampled_from(["totp", "keyring", "command", "file", "expect", "answer", "hop", "once", "digits"]),
    value=_VALUES,
)
def test_any_value_of_any_answer(key: str, name: str, value: object) -> None:
    """The same one level below."""
    table = {"answer": {name: value}, "expect": "x", name: value} if key == "prompts" else {name: value}
    with contextlib.suppress(SettingsError):
        settings._read(key, [table] if key == "prompts" else table, "here")
