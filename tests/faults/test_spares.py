"""`ossh-run` with sessions that are open ahead, while anything that belongs to them is killed or stopped."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport.master.master import sweep
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.programs import ossh, runtime, until
from tests.support.spares import Warm, directories, keepers, naming

# Seconds for which a process is stopped.
_STOPPED_FOR = 0.3


@pytest.mark.parametrize("name", ["KILL", "STOP"])
def test_anything_at_any_time(own_node: Sandbox, seed: int, rounds: int, name: str) -> None:
    """A signal to anything at random moments: nothing runs twice, status 0 is right, no session is left."""
    warm = Warm(own_node, kept_for="5")
    chance = random.Random(f"{seed} spares {name}")
    log = own_node.directory / "ran"
    seen: set[str] = set()
    for number in range(max(12, rounds // 10)):
        if chance.random() < 0.7:
            with contextlib.suppress(AssertionError):
                until(lambda: bool(warm.ready()), "a spare", timeout=0.5)
        command = f"echo {number} >>{log}; sleep 0.0{chance.randrange(9)}; cat; echo {number}"
        with subprocess.Popen(
            [*warm.argv, *warm.words, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            time.sleep(chance.random() * 0.06)
            seen.update(one.name.rpartition("draft.")[2] for one in directories(warm.spares))
            hit = chance.choice(_victims(warm, process.pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(hit, getattr(signal, f"SIG{name}"))
                if name == "STOP":
                    time.sleep(_STOPPED_FOR)
                    os.kill(hit, signal.SIGCONT)
            out, err = process.communicate(b"in\n", timeout=30)
        if process.returncode == 0:
            assert out == b"in\n%d\n" % number, (number, err)
        else:
            assert process.returncode < 0 or err.startswith(b"ossh-run: ") or name == "KILL", (number, err)
        if name == "STOP":
            assert process.returncode == 0, (number, err)
    ran = log.read_text().split()
    assert len(ran) == len(set(ran)), "a command ran twice"
    ossh("logout", "-F", own_node.ssh_config, own_node.host)
    check_nothing_left(warm, seen)


def _victims(warm: Warm, pid: int) -> list[int]:
    """All that has a part in it: what keeps the spares, on both sides, the command, and its children."""
    marks = [one.name.rpartition("n.")[2].rpartition("draft.")[2] for one in directories(warm.spares)]
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=False)
    found = [pid, *map(int, children.stdout.split()), *keepers()]
    for one in directories(warm.spares):
        with contextlib.suppress(OSError):
            found += map(int, (one / "held").read_text().split()[:1])
    return found + [pid for mark in marks for pid in naming(mark)]


def check_nothing_left(warm: Warm, marks: set[str]) -> None:
    """No directory, nothing that holds a session, and no process of ours."""
    # a timer whose shell was killed sleeps out its minute, without a session
    until(lambda: not any(_holds_session(pid) for mark in marks for pid in naming(mark)), "sessions to end")
    until(lambda: not naming(runtime()), "our processes to end")
    assert not directories(warm.spares)


def _holds_session(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/fd/1").readlink()) != os.devnull
    return False


def _three_commands(warm: Warm, fault: Callable[[], object]) -> None:
    """One before the fault, one during which it comes, one after it: each runs once, with its status."""
    log = warm.node.directory / "ran"
    marks = {one.name for one in warm.ready()}
    for number in range(3):
        with subprocess.Popen(
            [*warm.argv, *warm.words, f"echo {number} >>{log}; cat; exit 3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            until(lambda number=number: log.exists() and f"{number}\n" in log.read_text(), "it to run")  # type: ignore[misc]  # a bound name
            if number == 1:
                fault()
            out, err = process.communicate(b"in", timeout=30)
        assert (process.returncode, out) == (3, b"in"), err
    assert log.read_text() == "0\n1\n2\n"
    ossh("logout", "-F", warm.node.ssh_config, warm.node.host)
    until(lambda: not any(_holds_session(pid) for mark in marks for pid in naming(mark)), "sessions to end")
    until(lambda: not keepers(), "keepers to end")


def test_the_directory_goes(own_node: Sandbox) -> None:
    """The runtime directory is removed: what waits there goes with it, what runs goes on."""
    _three_commands(Warm(own_node, kept_for="3"), lambda: shutil.rmtree(runtime(), ignore_errors=True))


def test_no_room(own_node: Sandbox, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime directory takes nothing more: those that wait are used, and no more are opened."""
    require("" if os.geteuid() == 0 else "a file system of its own needs root")
    place = isolated / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "none", place], check=True)
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))

        def fill() -> None:
            with contextlib.suppress(OSError), (place / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        _three_commands(Warm(own_node, kept_for="3"), fill)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_what_killed_keepers_have_left(isolated: Path) -> None:
    """A sweep, as each login makes it, removes what nobody can be using any more, and nothing else."""
    spares = runtime() / "x.spares"
    for name, age in (("draft.m.1", 200), ("m.2", 200), ("taken.m.3", 200), ("m.4", 100), ("called", 200)):
        place = spares / name
        place.mkdir(mode=0o700, parents=True) if "." in name else place.touch()
        os.utime(place, (time.time() - age,) * 2)
    sweep(runtime())
    assert {one.name for one in spares.iterdir()} == {"m.4", "called"}
