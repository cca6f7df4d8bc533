"""Runtime directories that are emptied, removed, full or shared with another container while commands run.

A command runs once or not at all, and what is told is what happened: its own status, or that it is not known.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from opensshtransport.errors import ConnectionFailed
from opensshtransport.openssh.run_log import sweep_logs
from tests.conftest import require
from tests.faults.world import Outcome, World, within
from tests.support.nodes import missing_programs
from tests.support.programs import ossh, ossh_run

BATCHES = 2
# For a hundred rounds, the commands that are run here.
SHARE = 15
FAULTS = ("emptied", "removed", "full", "full for a moment", "swept", "other namespace")
WAYS = ("ossh-run", "ossh-run --no-login", "ossh-run --timeout", "ossh-run -t", "Transport")
SIZE = 1 << 20
# Commands that are under way when it strikes.
AT_ONCE = 6
STATUS = 3

# Sweeps, as `ossh status` does, from where none of our process numbers mean anything.
SWEEPER = """
import pathlib, sys
from opensshtransport.master.master import sweep
print("ready", flush=True)
while True:
    sweep(pathlib.Path(sys.argv[1]))
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


@dataclass
class Command:
    """One command on its way."""

    world: World
    way: str
    ran: Path

    def __post_init__(self) -> None:
        chance = self.world.chance
        self.waits, self.lasts = chance.random() * 0.1, chance.choice((0, 0.05, 0.15))
        self.text = f"echo x >> {self.ran}; sleep {self.lasts}; exit {STATUS}"
        self.outcome = Outcome()

    def run(self) -> None:
        """Run it; `outcome` is its status, or an error."""
        time.sleep(self.waits)
        self.outcome = within(self._by_transport if self.way == "Transport" else self._by_script)

    def _by_transport(self) -> object:
        with self.world.transport() as there:
            return there.run(self.text).returncode

    def _by_script(self) -> object:
        flags = {"ossh-run --no-login": ["--no-login"], "ossh-run --timeout": ["--timeout", "50"]}
        flags["ossh-run -t"] = ["-t"]
        done = ossh_run(*flags.get(self.way, []), "-F", self.world.config, self.world.node.host, self.text)
        if done.returncode != 255:
            return done.returncode
        said = done.stderr.decode()
        lines = [line for line in said.splitlines() if line.startswith("ossh-run: ")]
        assert len(lines) == 1, said
        assert "Traceback" not in said, said
        error = ConnectionFailed(said)
        # what the README says of these
        doubt = ("not known whether", "lost while", "without a status", "being sent")
        error.started = None if any(words in said for words in doubt) else False
        raise error

    def judge(self) -> str:
        """Compare what was reported with what has happened; returns the outcome in a word."""
        runs = len(self.ran.read_text().split()) if self.ran.exists() else 0
        error = self.outcome.error
        label = f"{self.way}, begun after {self.waits:.3f} s, lasts {self.lasts}: {self.outcome}, {runs} runs"
        if error is None:
            assert (self.outcome.value, runs) == (STATUS, 1), label
            return "ran"
        assert isinstance(error, ConnectionFailed), label
        assert runs <= (0 if error.started is False else 1), label
        return "not started" if error.started is False else "unknown"


class Round:
    """Some commands at once, and what becomes of the runtime directory meanwhile."""

    def __init__(self, world: World, small: Path, fault: str, top: Path) -> None:
        self.world, self.fault = world, fault
        self.directory = world.master.directory
        self.ballast = small / "ballast"
        self.after = world.chance.random() * 0.3
        top.mkdir()
        ways = world.chance.choices(WAYS, k=AT_ONCE)
        self.commands = [Command(world, way, top / str(number)) for number, way in enumerate(ways)]

    def __str__(self) -> str:
        return f"{self.fault} after {self.after:.4f} s"

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
            # as if they had been named so for long, like that of a command that runs for hours
            sweep_logs(self.directory, older=0)

    def play(self) -> Counter[str]:
        """Play it; returns the outcome of each in a word."""
        other = sweeper(self.directory) if self.fault == "other namespace" else contextlib.nullcontext()
        with other, ThreadPoolExecutor(AT_ONCE) as pool:
            done = [pool.submit(command.run) for command in self.commands]
            time.sleep(self.after)
            self.strike()
            for one in done:
                one.result()
        self.heal()
        return Counter(f"{self.fault}: {command.judge()}" for command in self.commands)

    def heal(self) -> None:
        """Make room, and end masters that nobody finds any more."""
        self.ballast.unlink(missing_ok=True)
        if self.fault in {"emptied", "removed"}:
            for pid in self.world.masters():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            self.world.wait_until(lambda: not self.world.masters(), "masters without a socket to end")


@pytest.mark.timeout(0)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_rounds(isolated: Path, tmp_path: Path, small: Path, seed: int, rounds: int, batch: int) -> None:
    """A command runs at most once, whatever happens to the directory, and what is reported is true."""
    chance = random.Random(f"{seed} directories {batch}")
    tally: Counter[str] = Counter()
    faults: list[str] = []
    with World(isolated, chance) as world:
        for number in range(max(1, rounds * SHARE // 100 // BATCHES // AT_ONCE)):
            faults = faults or chance.sample(FAULTS, len(FAULTS))
            # a live master, and the way to it for the script
            warm = ossh_run("-F", world.config, world.node.host, "true")
            assert warm.returncode == 0, warm.stderr
            this = Round(world, small, faults.pop(), tmp_path / str(number))
            try:
                tally += this.play()
            except BaseException:
                # pytest shows it where the test fails
                print(f"--seed {seed} --rounds {rounds} -k 'directories and {batch}', {number}: {this}")  # noqa: T201
                raise
        ossh("logout", "-F", world.config, world.node.host)
    print(f"--seed {seed}", dict(sorted(tally.items())))  # noqa: T201
