"""Clocks that jump: what was noted at one time is read at another, by changing what was noted."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from opensshtransport.errors import AuthenticationRefused, CoolingDown, LoginNeeded
from opensshtransport.login.budget import Budget, pause_after
from opensshtransport.login.secrets import resolve_answer
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.destination import Destination, resolve
from opensshtransport.prompts.answers import Command, Totp
from opensshtransport.sandbox import Sandbox, totp
from tests.conftest import Keep, require
from tests.faults.operations import OPERATIONS, build, drafts, snapshot
from tests.faults.world import World, within
from tests.support.nodes import missing_programs

YEAR = 365 * 86400.0


def jumps(chance: random.Random, count: int) -> list[float]:
    """Seconds by which a clock was set, forward and back: a few, and years."""
    return [chance.choice((-1, 1)) * 10 ** chance.uniform(0, 8.5) for _ in range(count)]


@pytest.fixture
def destination(node: Sandbox) -> Destination:
    """Any destination."""
    return resolve(node.host, node.ssh_config)


def test_pauses(destination: Destination, seed: int, rounds: int) -> None:
    """After failed logins no clock makes the pause longer than it was meant, and none ends the count."""
    chance = random.Random(f"{seed} pauses")
    budget = Budget(destination)
    for jump in jumps(chance, rounds):
        budget.clear()
        failures = chance.randrange(1, 5)
        for _ in range(failures):
            budget.note(AuthenticationRefused("refused"), budget.begin())
            budget._count(budget.read(), "refused") if budget.read().failures < failures else None
            if budget.read().failures >= failures:
                break
        noted = json.loads(budget.file.read_text())
        # the clock has been set by so much since then
        budget.file.write_text(json.dumps({**noted, "until": noted["until"] - jump}))
        label = f"--seed {seed}: {noted}, {jump:.0f} s"
        pause = pause_after(noted["failures"])
        try:
            budget.check()
        except CoolingDown:
            left = json.loads(budget.file.read_text())["until"] - time.time()
            assert noted["failures"] >= 3 or left <= pause, label
            assert noted["failures"] >= 3 or jump < pause, label
        else:
            assert noted["failures"] < 3, label
            assert jump > pause - 5, label
        assert json.loads(budget.file.read_text())["failures"] == noted["failures"], label


def test_learned_limits(destination: Destination, seed: int, rounds: int) -> None:
    """What a refusal has taught of the server's limit is forgotten in time, wherever the clock goes."""
    slots = Slots(Master(destination))
    most = destination.settings.max_sessions
    for jump in jumps(random.Random(f"{seed} limits"), rounds):
        slots.learn(2)
        (file,) = slots._limit_file.parent.glob("*.limit")
        then = time.time() - jump
        os.utime(file, (then, then))
        label = f"--seed {seed}: {jump:.0f} s"
        assert 1 <= slots.limit <= most, label
        assert slots.limit >= 2, label
        assert abs(jump) < 200 or slots.limit == most, label


def test_codes(seed: int, rounds: int, tmp_path: Path) -> None:
    """A code that was handed out is not handed out again, and no clock makes a login wait for long."""
    pytest.importorskip("pyotp")
    secret = "JBSWY3DPEHPK3PXP"
    (tmp_path / "seed").write_text(secret)
    answer = Totp(Command(("cat", str(tmp_path / "seed"))))
    chance = random.Random(f"{seed} codes")

    def code() -> str:
        return resolve_answer(
            answer,
            ask=lambda _: pytest.fail("nobody is here"),
            tell=lambda _: None,
            deadline=time.monotonic(),
        ).reveal()

    first = code()
    assert first in {totp(secret), totp(secret, ahead=-1)}
    with pytest.raises(LoginNeeded):
        code()
    (file,) = Path(os.environ["XDG_STATE_HOME"], "opensshtransport", "codes").glob("*")
    for _ in range(max(10, rounds // 10)):
        window = int(time.time()) // 30
        ahead = chance.choice((0, 1, -1, chance.randrange(2, 100_000), -chance.randrange(2, 100_000)))
        file.write_text(f"{window + ahead:020d}")
        label = f"--seed {seed}: {ahead}"
        begin = time.monotonic()
        try:
            given = code()
        except LoginNeeded:
            assert 0 <= ahead <= 1, label
        else:
            # the next window may have begun meanwhile
            assert not 0 <= ahead <= 1 or int(time.time()) // 30 > window, label
            assert given in {totp(secret), totp(secret, ahead=-1)}, label
            *_, noted = map(int, file.read_text().split())
            assert window <= noted <= window + 1, label
            try:
                again = code()
            except LoginNeeded:
                pass
            else:
                # the next window may have begun meanwhile
                assert int(time.time()) // 30 > noted, label
                assert again == totp(secret, at=noted * 30 + 30), label
        assert time.monotonic() - begin < 20, label


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["put stream", "get stream", "put tar", "get tar"])
def test_drafts(isolated: Path, tmp_path: Path, keep: Keep, seed: int, name: str) -> None:
    """A draft from the future, or of long ago, is gone on with or made anew; the result is right."""
    require(missing_programs("sshd", "ssh-keygen"))
    chance = random.Random(f"{seed} drafts {name}")
    world = keep(World(isolated, chance))
    operation = OPERATIONS[name]
    for number, age in enumerate((-YEAR, YEAR)):
        top, twin = tmp_path / f"r{number}", tmp_path / f"t{number}"
        for place in (top, twin):
            build(place, number, operation.big)
        expected = operation.model(twin)
        there = world.transport()
        world.relay.strike_after(chance.randrange(operation.span), world.relay._silence)
        # so that what is broken off is not gone on with at once
        world.relay.delay = 0
        within(lambda there=there, top=top: operation.act(there, top))  # type: ignore[misc]  # bound names
        world.heal()
        for draft in drafts(top):
            then = time.time() - age
            os.utime(top / draft, (then, then))
        (top / "far" / "new").unlink() if (top / "far" / "new").is_file() else None
        outcome = within(lambda there=there, top=top: operation.act(there, top))  # type: ignore[misc]  # bound names
        label = f"--seed {seed}: {name}, {age:.0f} s"
        if name.endswith("stream"):
            assert outcome.value == expected, f"{label}: {outcome}"
            assert snapshot(top) == snapshot(twin), label
        else:
            assert outcome.error is None, f"{label}: {outcome}"
        assert drafts(top) == [], label
        there.close()
        world.check_nothing_left()
