"""The sessions that `ossh-run` has open ahead, as Python sees them: counted, and given back.

`spare.sh` tells what a spare is. The trap: its keeper may have been killed, and leaves a directory without a
session. No process number tells that, as others may have this directory too; but then nobody reads its `in`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

# Hundredths of a second that a session must take to begin for one to be opened ahead. Below, another ssh that
# starts beside the commands costs them more than they save.
WORTH = 4

# Seconds for which `ossh-run` opens none after somebody had to wait for a session.
_BUSY_FOR = 10

# Seconds for which an idle one waits, and what the remote side waits in addition.
KEPT_FOR, LONGER = 50, 10

# Seconds after which a directory is not needed: nobody waits so long, and a command has opened all.
_NEEDED_FOR = 180.0

_DRAFT, _TAKEN = "draft.", "taken."


def directory(socket: Path) -> Path:
    """Where the spares of a master are."""
    return socket.with_name(f"{socket.name}.spares")


def count(spares: Path) -> int:
    """How many sessions they are: those that are being opened and those that a command runs in among them."""
    return sum(1 for spare in _all(spares) if _write(spare, b""))


def give_back(spares: Path, most: int | None = None) -> None:
    """Have some given back: those that nobody has taken.

    Args:
        spares: their directory.
        most: how many; None for all.
    """
    idle = (spare for spare in _all(spares) if not spare.name.startswith(_TAKEN) and (spare / "in").is_fifo())
    for number, spare in enumerate(idle):
        if number == most:
            return
        # who renames it has it
        taken = spares / f"{_TAKEN}{spare.name.removeprefix(_DRAFT)}"
        with contextlib.suppress(OSError):
            spare.rename(taken)
            # an empty request: the remote side ends
            _write(taken, b"\n")
            shutil.rmtree(taken, ignore_errors=True)


def make_way(spares: Path) -> None:
    """Have all given back, and none opened for a moment."""
    if not spares.is_dir():
        return
    with contextlib.suppress(OSError, ValueError):
        until = int((_clock() + _BUSY_FOR) * 100)
        narrow = spares / "narrow"
        known = int(narrow.read_text()) if narrow.exists() else 0
        narrow.write_text(f"{max(until, known)}\n")
    give_back(spares)


def sweep(spares: Path, older: float = _NEEDED_FOR) -> None:
    """Remove what killed keepers have left: directories that are so many seconds old."""
    for spare in _all(spares):
        with contextlib.suppress(OSError):
            # where the clock was set back, it counts as old what seems to come
            if abs(time.time() - spare.lstat().st_mtime) >= older:
                shutil.rmtree(spare, ignore_errors=True)


def _clock() -> float:
    """The clock of `spare.sh`."""
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return float(int(time.time()))


def _all(spares: Path) -> Iterator[Path]:
    try:
        found = sorted(spares.iterdir())
    except OSError:
        return
    yield from (spare for spare in found if "." in spare.name and spare.is_dir())


def _write(spare: Path, text: bytes) -> bool:
    """Write to the session of a spare; whether it has one."""
    try:
        # ENXIO: nobody reads there
        file = os.open(spare / "in", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(file, text)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
