"""Whether a process is at work, as /proc shows it: a master that does not answer in time may only be busy.

A copy that fills a slow link delays each answer by what waits in the queues before it, and an overloaded
machine delays everything. A working process moves bytes, or waits for a processor; one that hangs does
neither.

The trap: when the network is gone, what is sent still fits into buffers for a moment. So some time passes
between the two looks, and a few bytes, such as those of the question itself, prove nothing. Without /proc
(macOS) nothing is visible, and no process counts as busy.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

# More than a question, its answer and a sign of life have together.
_SIGN_OF_WORK = 4096

# The share of time spent waiting for a processor from which on the machine counts as overloaded.
_MOSTLY = 0.25


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done until now.

    Attributes:
        state: its letter in proc_pid_stat(5).
        moved: bytes that it has read and written, sockets and pipes among them (proc_pid_io(5)).
        queued: bytes in its TCP connections that were not acknowledged.
        waited: seconds in which it could have run, but no processor was free.
    """

    state: str
    moved: int = 0
    queued: int = 0
    waited: float = 0.0

    @property
    def can_run(self) -> bool:
        """Whether it is neither stopped nor dead."""
        return self.state not in {"T", "t", "Z", "X"}


def look(pid: int) -> Activity | None:
    """What a process has done until now; None if there is none, or the system does not say."""
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
    moved, waited = 0, 0.0
    with contextlib.suppress(OSError, ValueError):
        lines = (process / "io").read_text().splitlines()
        moved = sum(int(line.split()[1]) for line in lines if line.startswith(("rchar:", "wchar:")))
    with contextlib.suppress(OSError, ValueError, IndexError):
        # the second field of Documentation/scheduler/sched-stats, in nanoseconds
        waited = int((process / "schedstat").read_text().split()[1]) / 1e9
    return Activity(state, moved, _queued(process), waited)


def _queued(process: Path) -> int:
    """What waits in the send queues of a process's TCP connections (proc_pid_net(5), tcp)."""
    queued = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = {str(file.readlink()) for file in (process / "fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in (process / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if f"socket:[{words[9]}]" in own:
                    queued += int(words[4].partition(":")[0], 16)
    return queued


def at_work(before: Activity | None, after: Activity | None, seconds: float) -> bool:
    """Whether a process was at work between two looks.

    Args:
        before: the first look.
        after: the second one.
        seconds: the time between them.
    """
    if before is None or after is None:
        return False
    # running or about to, or waiting for a disk; stopped ones and those that sleep are not
    return after.can_run and (
        after.state in {"R", "D"}
        or after.moved - before.moved >= _SIGN_OF_WORK
        or before.queued - after.queued >= _SIGN_OF_WORK
        or after.waited - before.waited >= _MOSTLY * seconds
    )
