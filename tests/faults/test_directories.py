"""Runtime directories that are emptied, removed, full or shared with another container while a command runs.

The command runs once or not at all, and what is told is what happened: its own status, or that it is not known.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import require
from nodes import missing_programs
from programs import OSSH_RUN, ossh, ossh_run

from faults.world import Outcome, World, within
from opensshtransport.errors import ConnectionFailed
from opensshtransport.runlog import sweep_logs

BATCHES = 4
# Of a hundred rounds, those that are played here.
SHARE = 8
FAULTS = ("emptied", "removed", "full", "full for a moment", "swept", "other namespace")
WAYS = ("ossh-run", "ossh-run --no-login", "ossh-run --timeout", "ossh-run -t", "Transport")
SIZE = 1 << 20
STATUS = 3

# Sweeps, as `ossh status` does, from where none of our process numbers mean anything.
SWEEPER = """
import pathlib, sys
from opensshtransport import master
print("ready", flush=True)
while True:
    master.sweep(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def small(isolated: Path) -> Iterator[Path]:
    """A runtime directory on a file system of 1 MiB."""
    require("" if os.geteuid() == 0 else "mounting needs root")
    require(missing_programs("mount", "unshare", "sshd", "ssh-keygen"))
    place = Path(os.environ["XDG_RUNTIME_DIR"])
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "faults", str(place)]
    mounted = subprocess.run(argv, check=False, capture_output=True)
    if mounted.returncode:
        # a container may forbid it to its root
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def sweeper(directory: Path) -> Iterator[None]:
    """Another container that shares the directory, and sweeps it all the time."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", SWEEPER]
    with subprocess.Popen([*argv, str(directory)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


class Round:
    """One command, and what becomes of the runtime directory meanwhile."""

    def __init__(self, world: World, small: Path, fault: str, way: str) -> None:
        self.world, self.small, self.fault, self.way = world, small, fault, way
        self.directory = world.master.directory
        self.ballast = small / "ballast"
        self.lasts = world.chance.choice((0, 0.05, 0.15))
        self.after = world.chance.random() * 0.2 * (3 if "timeout" in way else 1)
        self.ran = world.isolated / "ran"
        self.ran.unlink(missing_ok=True)
        self.command = f"echo x >> {self.ran}; sleep {self.lasts}; exit {STATUS}"

    def __str__(self) -> str:
        return f"{self.way}, {self.fault} after {self.after:.4f} s, lasts {self.lasts}"

    @property
    def runs(self) -> int:
        """How often the command has run."""
        return len(self.ran.read_text().split()) if self.ran.exists() else 0

    def strike(self) -> None:
        """Do what the fault is."""
        if self.fault == "emptied":
            # as a cleaner does, one after the other; some may go, or come, meanwhile
            for path in sorted(self.directory.rglob("*"), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        elif self.fault == "removed":
            shutil.rmtree(self.directory, ignore_errors=True)
        elif self.fault.startswith("full"):
            with contextlib.suppress(OSError), self.ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            if self.fault == "full for a moment":
                time.sleep(self.world.chance.random() * 0.01)
                self.ballast.unlink()
        elif self.fault == "swept":
            # what is named so for long, as of a command that runs for hours
            sweep_logs(self.directory, older=0)

    def play(self) -> str:
        """Play it; tells what came of it in a word."""
        other = sweeper(self.directory) if self.fault == "other namespace" else contextlib.nullcontext()
        with other:
            outcome = self.by_transport() if self.way == "Transport" else self.by_script()
        # what is cut off may still be on its way to its first word
        time.sleep(0.02)
        error, runs = outcome.error, self.runs
        label = f"{self}: {outcome}, {runs} runs"
        if error is None:
            assert (outcome.value, runs) == (STATUS, 1), label
        else:
            assert isinstance(error, ConnectionFailed), label
            assert runs <= (0 if error.started is False else 1), label
        self.heal()
        return "ran" if error is None else "none" if error.started is False else "unknown"

    def by_transport(self) -> Outcome:
        """What comes of it in Python."""
        with self.world.transport() as there:
            if self.world.chance.random() < 0.7:
                there.run("true")
            timer = threading.Timer(self.after, self.strike)
            timer.start()
            outcome = within(lambda: there.run(self.command).returncode)
            timer.join()
            self.ballast.unlink(missing_ok=True)
        return outcome

    def by_script(self) -> Outcome:
        """What comes of `ossh-run`: its status, or its one line as an error."""
        flags = {"ossh-run --no-login": ["--no-login"], "ossh-run --timeout": ["--timeout", "50"]}
        flags["ossh-run -t"] = ["-t"]
        words = [*flags.get(self.way, []), "-F", str(self.world.config), self.world.node.host, self.command]
        with subprocess.Popen(
            [OSSH_RUN, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            time.sleep(self.after)
            self.strike()
            said = process.communicate(timeout=60)[1].decode()
        if process.returncode != 255:
            return Outcome(process.returncode)
        lines = [line for line in said.splitlines() if line.startswith("ossh-run: ")]
        assert len(lines) == 1, f"{self}: {said}"
        assert "Traceback" not in said, f"{self}: {said}"
        error = ConnectionFailed(said)
        # what the README says of these
        doubt = ("not known whether", "lost while", "without a status", "being sent", "install")
        error.started = None if any(words in said for words in doubt) else False
        return Outcome(error=error)

    def heal(self) -> None:
        """Make room, and end masters that nobody finds any more."""
        self.ballast.unlink(missing_ok=True)
        if self.fault in {"emptied", "removed"}:
            for pid in self.world.masters():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            self.world.wait_until(lambda: not self.world.masters(), "masters without a socket to end")


def deal(chance: random.Random) -> Iterator[tuple[str, str]]:
    """Faults and ways in any order: each pair before any comes again."""
    while True:
        dealt = [(fault, way) for fault in FAULTS for way in WAYS]
        chance.shuffle(dealt)
        yield from dealt


@pytest.mark.timeout(0)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_rounds(isolated: Path, small: Path, seed: int, rounds: int, batch: int) -> None:
    """A command runs once at most, whatever becomes of the directory, and what is told is true."""
    chance = random.Random(f"{seed} directories {batch}")
    tally: Counter[str] = Counter()
    with World(isolated, chance) as world:
        for number, (fault, way) in zip(range(rounds * SHARE // 100 // BATCHES), deal(chance), strict=False):
            # a live master, and the way to it for the script
            warm = ossh_run("-F", world.config, world.node.host, "true")
            assert warm.returncode == 0, warm.stderr
            this = Round(world, small, fault, way)
            try:
                tally[f"{fault}: {this.play()}"] += 1
            except BaseException:
                print(f"--seed {seed} --rounds {rounds} -k 'test_directories and {batch}', round {number}: {this}")  # noqa: T201, E501
                raise
        ossh("logout", "-F", world.config, world.node.host)
    print(f"--seed {seed}", dict(sorted(tally.items())))  # noqa: T201
