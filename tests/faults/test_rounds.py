"""Operations while something breaks: the right error or the right result, and nothing left behind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensshtransport import errors
from opensshtransport.errors import CommandTimeout, ConnectionFailed, MasterGone, OnceError
from opensshtransport.files.changes import Files
from tests.conftest import require
from tests.faults.conftest import BATCHES
from tests.faults.operations import OPERATIONS, Operation, Snapshot, build, drafts, mixed, snapshot, torn
from tests.faults.world import Outcome, World, victim, within
from tests.support.nodes import missing_programs

# What each of the operations is tried with, and what takes seconds and so only some of them.
QUICK = ("cut", "reset", "master killed", "sshd killed", "shell killed", "client killed")
SLOW = {"silence": 0.3, "master stopped": 0.1, "we are killed": 0.4}
# Of a hundred rounds, those that are played here; the others are logins, disks and remains.
SHARE = 80


def deal(seed: int, rounds: int) -> Iterator[tuple[Operation, str]]:
    """Operations with faults in any order: each pair before any comes again."""
    chance = random.Random(seed)
    dealt: list[tuple[Operation, str]] = []
    for _ in range(rounds):
        if not dealt:
            dealt = [(one, fault) for one in OPERATIONS.values() for fault in QUICK]
            dealt += [
                (one, fault)
                for one in OPERATIONS.values()
                for fault, share in SLOW.items()
                if chance.random() < share
            ]
            chance.shuffle(dealt)
        yield dealt.pop()


class Round:
    """One operation, and what breaks meanwhile."""

    def __init__(self, world: World, operation: Operation, fault: str, top: Path, number: int) -> None:
        self.world, self.operation, self.fault = world, operation, fault
        self.chance = world.chance
        content = self.chance.randrange(1 << 30)
        self.top, self.twin = top / f"r{number}", top / f"t{number}"
        for place in (self.top, self.twin):
            build(place, content, operation.big)
        self.before = snapshot(self.top)
        self.expected = operation.model(self.twin)
        self.after = snapshot(self.twin)
        self.warm = self.chance.random() < 0.7
        self.byte = self.chance.randrange(operation.span + (0 if self.warm else 6_000))

    def __str__(self) -> str:
        return (
            f"{self.operation.name}, {self.fault} after {self.byte} bytes, {'warm' if self.warm else 'cold'}"
        )

    def play(self) -> str:
        """Play it; returns the outcome in a word."""
        if self.fault == "we are killed":
            return self.die()
        world = self.world
        world.relay.delay = self.chance.choice((0, 0, 0.003))
        struck = world.relay.faults
        there = world.transport()
        try:
            if self.warm:
                there.run("true")
                there.exists("/")
            world.relay.strike_after(self.byte, world.deed(self.fault))
            outcome = within(lambda: self.operation.act(there, self.top))
            world.relay.disarm()
            struck = world.relay.faults - struck
            world.heal()
            now = self.settled()
            self.judge(outcome, now, struck=bool(struck))
            if outcome.error is not None and self.operation.again:
                self.ask_again()
        finally:
            world.heal()
            there.close()
        self.look_round(moved=outcome.error is None)
        if not struck:
            return "missed"
        return "value" if outcome.error is None else type(outcome.error).__name__

    def settled(self) -> Snapshot:
        """What is there when the remote side has come to rest."""
        # what is cut off may go on for a while, to an end of its own
        self.world.wait_until(
            lambda: self.possible(snapshot(self.top)),
            "a possible state",
            found=lambda: self.difference(snapshot(self.top)),
        )
        return snapshot(self.top)

    def possible(self, now: Snapshot) -> bool:
        """Whether this is before, after or (where each path counts by itself, or is no draft) between."""
        if now in (self.before, self.after):
            return True
        path = self.operation.torn
        if path and torn(self.top, path, now, self.before, self.twin):
            return True
        return not self.operation.whole and mixed(now, self.before, self.after)

    def difference(self, now: Snapshot) -> str:
        """What is neither as before nor as after."""
        odd = {
            path: (now.get(path), self.before.get(path), self.after.get(path))
            for path in {*now, *self.before, *self.after}
            if now.get(path) != self.before.get(path)
        }
        return f"now, before, after: {odd}"

    def judge(self, outcome: Outcome, now: Snapshot, *, struck: bool) -> None:
        """Compare what was reported with what exists."""
        error = outcome.error
        if error is None:
            assert outcome.value == self.expected, (
                f"{self}: {outcome.value!r:.500}, not {self.expected!r:.500}"
            )
            assert now == self.after, f"{self}: {outcome}; {self.difference(now)}"
            return
        if isinstance(error, CommandTimeout) and self.operation.name == "run long":
            return
        assert struck, f"{self}: nothing has struck, but: {outcome}"
        if self.fault == "shell killed" and isinstance(error, OnceError) and self.operation.once:
            return
        if type(error) is OSError and self.fault == "shell killed":
            # any program may have been killed, including one whose status was reported
            return
        assert isinstance(error, ConnectionFailed), f"{self}: {outcome}"
        assert not isinstance(error, errors.CoolingDown), f"{self}: {outcome}"
        if outcome.nothing_happened:
            assert now == self.before, f"{self}: {outcome}; {self.difference(now)}"
        else:
            assert not isinstance(error, MasterGone), f"{self}: {outcome}"

    def ask_again(self) -> None:
        """What may be repeated succeeds now."""
        with self.world.transport() as fresh:
            outcome = within(lambda: self.operation.act(fresh, self.top))
        if self.operation.once and isinstance(outcome.error, OnceError):
            # its shell was killed, and a second call is told so
            assert self.fault == "shell killed", f"{self}, asked again: {outcome}"
            return
        assert outcome.error is None, f"{self}, asked again: {outcome}"
        assert outcome.value == self.expected, f"{self}, asked again: {outcome}"
        now = self.settled()
        assert now == self.after, f"{self}, asked again: {self.difference(now)}"
        if not self.operation.sweeps:
            return
        self.world.wait_until(
            lambda: not drafts(self.top), f"drafts of {self} to go", found=lambda: drafts(self.top)
        )

    def look_round(self, *, moved: bool) -> None:
        """Everything works again, and nothing is left."""
        world = self.world
        with world.transport() as fresh:
            outcome = within(lambda: fresh.run("echo works").stdout)
        assert outcome.value == b"works\n", f"{self}, then: {outcome}"
        world.check_nothing_left()
        world.check_counted()
        # once more: what was still under way has ended
        assert self.possible(snapshot(self.top)), f"{self}, later: {self.difference(snapshot(self.top))}"
        if moved or not self.operation.moves:
            left = drafts(self.top)
            assert not left, f"{self}: drafts {left}"

    def die(self) -> str:
        """Play it in another process, which is killed."""
        world = self.world
        world.relay.delay = 0
        struck = world.relay.faults
        with victim(world, self.operation.name, self.top) as process:
            if process.stdin is None or process.stdout is None:
                raise AssertionError("a process has pipes")
            assert process.stdout.readline() == b"ready\n"
            world.relay.strike_after(self.byte, process.kill)
            process.stdin.write(b"\n")
            process.stdin.flush()
            said = process.stdout.readline()
            world.relay.disarm()
            process.kill()
        struck = world.relay.faults - struck
        assert said or struck, f"{self}: it ended by itself"
        now = self.settled()
        if said == b"done\n":
            assert now == self.after, f"{self}: {self.difference(now)}"
        if self.operation.again:
            self.ask_again()
        # logs of killed commands are swept before the next login
        world.sweep()
        self.look_round(moved=False)
        return "killed" if struck else "missed"


@pytest.mark.timeout(0)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_rounds(isolated: Path, tmp_path: Path, seed: int, rounds: int, batch: int) -> None:
    """Each operation with each fault at random bytes: what is told is what is there, and nothing is left."""
    require(missing_programs("sshd", "ssh-keygen"))
    share = list(deal(seed, rounds * SHARE // 100))[batch::BATCHES]
    tally: Counter[str] = Counter()
    chance = random.Random(f"{seed} {batch}")
    with World(isolated, chance) as world:
        for number, (operation, fault) in enumerate(share):
            this = Round(world, operation, fault, tmp_path, number)
            try:
                tally[this.play()] += 1
            except BaseException:
                # pytest shows it where the test fails
                print(f"--seed {seed} --rounds {rounds} -k 'test_rounds[{batch}]', round {number}: {this}")  # noqa: T201
                raise
    print(f"--seed {seed}", dict(tally))  # noqa: T201


def test_all_file_operations_have_their_turn() -> None:
    """A file operation that is new is missed here until it has a model."""
    known = {name.split()[0] for name in OPERATIONS}
    public = {name for name in vars(Files) if not name.startswith("_")}
    assert public <= known
