"""Real programs by a shared name while their master is killed: as many logins as kills, and nobody dials."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require
from tests.sharing.callers import CALLERS, Caller, World, missing_for_world, world
from tests.support.nodes import missing_programs
from tests.support.programs import until

# How many calls without --rounds, how many for each kill, and how many at once.
CALLS, FOR_EACH_KILL, AT_ONCE = 60, 20, 4


@dataclass(frozen=True, slots=True)
class Call:
    """What came of a call."""

    name: str
    begin: float
    end: float
    fine: bool
    told: str


def call(there: World, caller: Caller, number: int) -> Call:
    """Let a program do its work."""
    begin = time.monotonic()
    done = caller.call(there, number)
    fine = done.returncode == 0 and caller.says in done.stdout
    return Call(caller.name, begin, time.monotonic(), fine, f"{done.returncode}: {done.stdout}{done.stderr}")


def deal(callers: list[Caller], calls: int, seed: int) -> list[Caller]:
    """So many calls in any order, of each program as many, but of slow ones half."""
    chance = random.Random(seed)
    each = [*callers, *(caller for caller in callers if not caller.slow)]
    dealt: list[Caller] = []
    while len(dealt) < calls:
        dealt += chance.sample(each, len(each))
    return dealt[:calls]


@pytest.mark.timeout(0)
def test_killed_masters(tmp_path: Path, passable: Path, seed: int, request: pytest.FixtureRequest) -> None:
    """Of the calls that fail, each was under way when a master was killed; all others log in by one of us."""
    require(missing_for_world())
    require(missing_programs(*(program for caller in CALLERS for program in caller.needs)))
    calls = int(request.config.getoption("--rounds", None) or CALLS)
    kills: list[float] = []
    ended: list[Call] = []
    with world(tmp_path, passable) as there, ThreadPoolExecutor(AT_ONCE) as pool:
        callers = [caller for caller in CALLERS if there.has(caller)]
        for caller in callers:
            there.prepare(caller)
        dealt = enumerate(deal(callers, calls, seed))
        running = [pool.submit(call, there, caller, number) for number, caller in dealt]
        try:
            for done in as_completed(running):
                ended.append(done.result())
                if len(ended) % FOR_EACH_KILL == FOR_EACH_KILL // 2:
                    until(lambda: there.master() is not None, "a master")
                    there.kill_master()
                    kills.append(time.monotonic())
        finally:
            pool.shutdown(cancel_futures=True)
        failed = [one for one in ended if not one.fine]
        print(f"--seed {seed}: {len(kills)} kills", dict(Counter(one.name for one in ended)))  # noqa: T201
        print("failed while it happened:", dict(Counter(one.name for one in failed)))  # noqa: T201
        for one in failed:
            # a kill is noted a little later than it happens
            assert any(one.begin < moment and one.end > moment - 2 for moment in kills), one.told
        assert there.logins() == len(kills) + 1
