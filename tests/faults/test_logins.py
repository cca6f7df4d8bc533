"""Logins while something breaks: none is left half made, and none counts as refused that was not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport.errors import ConnectionFailed, CoolingDown, LoginNeeded, Unreachable
from tests.conftest import Keep, require
from tests.faults.world import SETTINGS, Outcome, World, within
from tests.support.nodes import missing_programs

BATCHES = 5
FAULTS = (
    "cut",
    "reset",
    "sshd killed",
    "ssh killed",
    "login killed",
    "cut",
    "reset",
    "silence",
    "ssh stopped",
)
# After these nobody knows what was sent, so they count, as the budget has it.
COUNTED = {"login killed", "ssh stopped"}
# A login's bytes, and those of the first questions to the remote side.
LOGIN, QUESTIONS = 7_000, 6_000


def deed(world: World, fault: str) -> Callable[[], object]:
    """What a fault does when it strikes."""

    def signal_those(word: str, number: signal.Signals) -> None:
        for pid in world.named_after():
            words = world.words(pid)
            if word in words:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    deeds: dict[str, Callable[[], object]] = {
        "ssh killed": lambda: signal_those("ssh -F", signal.SIGKILL),
        "ssh stopped": lambda: signal_those("ssh -F", signal.SIGSTOP),
        "login killed": lambda: signal_those("opensshtransport login", signal.SIGKILL),
    }
    return deeds.get(fault) or world.deed(fault)


def play(world: World, fault: str, file: Path, label: str) -> str:
    """One command that needs a login, which is struck."""
    world.master.end()
    file.unlink(missing_ok=True)
    struck = world.relay.faults
    world.relay.strike_after(world.chance.randrange(LOGIN + QUESTIONS), deed(world, fault))
    there = world.transport()
    try:
        outcome = within(lambda: there.run(f"echo x >> {file}; echo out").stdout)
        world.relay.disarm()
        struck = world.relay.faults - struck
        world.heal()
        judge(world, fault, outcome, file, label, struck=bool(struck))
    finally:
        world.heal()
        world.go_on()
        there.close()
    world.wait_until(
        lambda: set(world.named_after()) <= set(world.masters()),
        f"processes of {label} to end",
        found=lambda: [world.words(pid) for pid in world.named_after()],
        seconds=40,
    )
    world.check_nothing_left()
    with world.transport() as fresh:
        again = within(lambda: fresh.run("echo works").stdout)
    assert again.value == b"works\n", f"{label}, then: {again}"
    world.check_nothing_left()
    if not struck:
        return "missed"
    return "value" if outcome.error is None else type(outcome.error).__name__


def judge(world: World, fault: str, outcome: Outcome, file: Path, label: str, *, struck: bool) -> None:
    """Compare what was reported with what has run, and what was counted."""
    runs = len(file.read_text().split()) if file.exists() else 0
    if outcome.error is None:
        assert (outcome.value, runs) == (b"out\n", 1), f"{label}: {outcome}, {runs} runs"
    else:
        assert struck, f"{label}: nothing has struck, but: {outcome}"
        assert isinstance(outcome.error, ConnectionFailed), f"{label}: {outcome}"
        assert runs == 0 or outcome.error.started is not False, f"{label}: {outcome}, {runs} runs"
        assert runs <= 1, f"{label}: {runs} runs"
    if fault not in COUNTED:
        world.check_counted()
    elif isinstance(outcome.error, LoginNeeded):
        with world.transport() as there:
            again = within(lambda: there.run("true"))
        # the ssh of a login that was killed may have gone on, and made a master
        assert isinstance(again.error, CoolingDown) or again.error is None, f"{label}: {again}"
    world.forget_failures()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_logins(isolated: Path, tmp_path: Path, seed: int, rounds: int, batch: int) -> None:
    """Logins cut, silenced, killed or stopped at random bytes: the right error, or the command ran once."""
    require(missing_programs("sshd", "ssh-keygen"))
    chance = random.Random(f"{seed} login {batch}")
    tally: Counter[str] = Counter()
    share = max(2, rounds // 10 // BATCHES)
    with World(
        isolated, chance, settings=SETTINGS.replace("login_timeout = 20", "login_timeout = 5")
    ) as world:
        for number in range(share):
            fault = FAULTS[(number * BATCHES + batch) % len(FAULTS)]
            label = f"--seed {seed} --rounds {rounds} -k 'test_logins[{batch}]', round {number}, {fault}"
            tally[play(world, fault, tmp_path / "ran", label)] += 1
    print(f"--seed {seed}", dict(tally))  # noqa: T201 - pytest shows it where the test fails


@pytest.mark.timeout(0)
def test_max_startups(isolated: Path, tmp_path: Path, keep: Keep, seed: int, rounds: int) -> None:
    """A server that drops logins since others came: told as unreachable, not counted, over when they are."""
    require(missing_programs("sshd", "ssh-keygen"))
    chance = random.Random(f"{seed} startups")
    world = keep(World(isolated, chance, {"MaxStartups": "2:100:2"}))
    for number in range(max(2, rounds // 50)):
        world.master.end()
        world.check_nothing_left()
        others = chance.randrange(4)
        with contextlib.ExitStack() as stack:
            for _ in range(others):
                other = stack.enter_context(
                    socket.create_connection(("127.0.0.1", world.node.port), timeout=10)
                )
                with contextlib.suppress(ConnectionResetError):
                    other.recv(100)
            with world.transport() as there:
                outcome = within(lambda: there.run("echo out").stdout)
            label = f"--seed {seed}, round {number}, {others} others: {outcome}"
            if others < 2:
                assert outcome.value == b"out\n", label
            else:
                assert isinstance(outcome.error, Unreachable), label
                assert outcome.nothing_happened, label
            world.check_counted()
        world.wait_until(lambda: works(world), "the others to have gone")
        world.check_nothing_left()


def works(world: World) -> bool:
    """Whether a command comes through."""
    with world.transport() as there:
        try:
            return there.run("true").returncode == 0
        except Unreachable:
            return False
