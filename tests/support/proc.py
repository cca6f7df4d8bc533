"""What proc(5) says of the processes that tests look at."""

from __future__ import annotations

import contextlib
from pathlib import Path


def fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, …; none if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def state(pid: int) -> str:
    """A process's state letter; "" if it is gone."""
    return (fields(pid) or [""])[0]


def name(pid: int) -> str:
    """The name of its program; "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def children(pid: int) -> list[int]:
    """The processes that a process has started, zombies too."""
    found: list[int] = []
    # it may end meanwhile
    with contextlib.suppress(OSError):
        for task in list(Path(f"/proc/{pid}/task").iterdir()):
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def of_group(group: int) -> list[int]:
    """The processes of a process group."""
    found = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if fields(pid)[2:3] == [str(group)]]
