"""`ossh-run` with sessions that are open already, while anything that belongs to them is killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from opensshtransport.sandbox import Sandbox
from tests.support.programs import ossh, until
from tests.support.spares import Warm, keepers, naming


def test_kill_anything_at_any_time(own_node: Sandbox, seed: int, rounds: int) -> None:
    """KILL for anything at random moments: nothing runs twice, status 0 is right, no session is left."""
    warm = Warm(own_node)
    chance = random.Random(f"{seed} spares")
    log = own_node.directory / "ran"
    seen: set[str] = set()
    for number in range(max(12, rounds // 10)):
        with contextlib.suppress(AssertionError):
            until(lambda: bool(warm.ready()), "a spare", timeout=0.5)
        command = f"echo {number} >>{log}; sleep 0.0{chance.randrange(9)}; echo {number}"
        argv = [*warm.argv, *warm.words, command]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            time.sleep(chance.random() * 0.1)
            marks = [one.name.removeprefix("draft.") for one in warm.spares.glob("*.*")]
            seen.update(marks)
            victims = [pid for mark in marks for pid in naming(mark)] + keepers() + [process.pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
            out, err = process.communicate(timeout=30)
        if process.returncode == 0:
            assert out == b"%d\n" % number, (number, err)
    ran = log.read_text().split()
    assert len(ran) == len(set(ran)), "a command ran twice"
    ossh("logout", "-F", own_node.ssh_config, own_node.host)
    # a keeper whose guard was killed, and a timer whose shell was, sleep out their minute, without a session
    until(lambda: not any(map(_holds_session, _named_by(seen))), "ssh and the far side to end")


def _named_by(marks: set[str]) -> list[int]:
    """The processes that name one of these spares."""
    return [pid for mark in marks for pid in naming(mark)]


def _holds_session(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/fd/1").readlink()) != os.devnull
    return False
