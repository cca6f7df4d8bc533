"""What dead processes of ours leave behind: slots, locks, logs, and a login with an unknown outcome."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from opensshtransport.master.master import sweep
from tests.conftest import Keep, require
from tests.faults.world import World, within
from tests.support.nodes import missing_programs

HOLDER = """
    import os, sys, time
    from opensshtransport.openssh.destination import resolve
    from opensshtransport.master.slots import Slots
    from opensshtransport.master.master import Master
    master = Master(resolve(sys.argv[1], sys.argv[2]))
    slots = Slots(master)
    taken = [slots.take() for _ in range(int(sys.argv[3]))]
    with master.lock(10):
        log = master.directory / f"run.{os.getpid()}.0"
        log.touch()
        # one that is old is swept
        os.utime(log, (0, 0))
        print("holds", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def world(isolated: Path, keep: Keep, seed: int) -> World:
    """A node behind a relay."""
    require(missing_programs("sshd", "ssh-keygen"))
    return keep(World(isolated, random.Random(f"{seed} remains")))


def holder(world: World, slots: int) -> subprocess.Popen[bytes]:
    """A process that holds slots, the lock of logins, and a log."""
    argv = [sys.executable, "-c", textwrap.dedent(HOLDER), world.node.host, str(world.config), str(slots)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"holds\n"
    return process


def test_slots_and_locks_of_the_dead(world: World, seed: int, rounds: int) -> None:
    """Slots, lock and logs of a killed process are free at once, and not after a while."""
    for _ in range(max(2, rounds // 100)):
        process = holder(world, 8)
        with process, world.transport() as there:
            try:
                waiting = within(lambda there=there: there.run("true", timeout=1))  # type: ignore[misc]  # a bound name
                assert waiting.error is not None, "a command had a session although all were taken"
                if world.chance.random() < 0.5:
                    world.master.end()
                process.send_signal(world.chance.choice((signal.SIGKILL, signal.SIGTERM)))
                process.wait(10)
                begin = time.monotonic()
                outcome = within(lambda there=there: there.run("echo out").stdout)  # type: ignore[misc]  # a bound name
                assert outcome.value == b"out\n", f"--seed {seed}: {outcome}"
                assert time.monotonic() - begin < 10
            finally:
                process.kill()
        # logs are swept by the next login
        world.master.end()
        with world.transport() as there:
            there.run("true")
        world.check_nothing_left()


def test_children_hold_nothing(world: World) -> None:
    """What a process has started, and outlives it, holds neither its slots nor its lock."""
    process = holder(world, 2)
    with process:
        world.wait_until(lambda: not world._lock_is_free(), "the lock to be held")
        process.kill()
    world.wait_until(world._lock_is_free, "the lock to be free", seconds=2)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with world.transport() as there:
            there.run("true")
        world.wait_until(world._lock_is_free, "the lock to be free", seconds=2)
    finally:
        child.kill()
        child.wait()
    sweep(world.master.directory)
    world.check_nothing_left()


def test_files_that_are_no_more_true(world: World) -> None:
    """Facts about a master that is gone, half of them, none, a missing socket: a login corrects it."""
    facts = world.master.facts_file
    for spoil in ("dead", "half", "empty", "foreign"):
        if spoil == "dead":
            world.deed("master killed")()
        elif spoil == "half":
            facts.write_text(facts.read_text()[:40])
        elif spoil == "empty":
            facts.write_text("")
        else:
            facts.write_text(facts.read_text().replace(str(os.getpid()), "1") + " ")
            world.master.own_socket.unlink()
        with world.transport() as there:
            outcome = within(lambda there=there: there.run("echo out").stdout)  # type: ignore[misc]  # a bound name
        assert outcome.value == b"out\n", f"{spoil}: {outcome}"
    # of the one whose socket was removed nobody knows any more
    for pid in world.masters():
        if str(world.master.own_socket) and pid != getattr(world.master.facts(), "pid", 0):
            os.kill(pid, signal.SIGTERM)
    world.check_nothing_left()
