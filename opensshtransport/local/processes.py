"""A process and everything that it has started, including processes with sessions of their own.

The trap: a process that leaves its process group, as sshd's children do, is known only by its parents, and
only while they are alive. So a family is stopped first, then examined, then ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

END_WITHIN = 2.0  # seconds to end after SIGTERM, before SIGKILL

_POLL = 0.005  # seconds


def end_family(root: int) -> None:
    """End a process and its descendants: SIGTERM, then 2 seconds, then SIGKILL.

    A daemonized process, whose parent is gone, keeps running.
    """
    family = _freeze(root)
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(family, number)
        _signal(family, signal.SIGCONT)
        deadline = time.monotonic() + END_WITHIN
        while (family := _alive(family)) and time.monotonic() < deadline:
            time.sleep(_POLL)


def began(pid: int) -> str | None:
    """When a process began; None if there is none, "" if the system does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
        return None if words[0] in "ZX" else words[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return None if Path("/proc/self/stat").exists() else ""


def _processes() -> dict[int, tuple[int, str]]:
    """Every process: its parent, and when it began, as a number alone may mean another process."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            ["ps", "-axo", "pid=,ppid=,lstart="], capture_output=True, text=True, check=True
        )
        rows = (line.split(None, 2) for line in listed.stdout.splitlines())
        return {int(pid): (int(parent), began) for pid, parent, began in rows}
    found = {}
    for entry in os.scandir("/proc"):
        # It may end between the listing and the reading.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit():
                # proc(5): the name, in parentheses, may hold anything; then state, parent, ..., starttime.
                fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def _freeze(root: int) -> dict[int, str]:
    """Stop a process and its descendants until no new one turns up; returns when each began."""
    family: dict[int, str] = {}
    while True:
        new = {
            pid: began
            for pid, (parent, began) in _processes().items()
            if pid not in family and (pid == root or parent in family)
        }
        if not new:
            return family
        _signal(new, signal.SIGSTOP)
        family |= new


def _alive(family: Mapping[int, str]) -> dict[int, str]:
    now = _processes()
    return {pid: began for pid, began in family.items() if pid in now and now[pid][1] == began}


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
