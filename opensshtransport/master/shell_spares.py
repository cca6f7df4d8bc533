"""The sessions that `ossh-run` has open ahead, as Python sees them: counted, and given back.

`spare.sh` tells what a spare is. The trap: a keeper may have been killed, and leaves a directory that nobody
reads any more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds after which nobody can be using a directory any more.
_KEPT_FOR = 180.0


def directory(socket: Path) -> Path:
    """Where the spares of a master are."""
    return socket.with_name(f"{socket.name}.spares")


def count(spares: Path) -> int:
    """How many there are, those that are being opened among them."""
    return sum(1 for _ in _idle(spares))


def give_back(spares: Path, most: int | None = None) -> None:
    """Have some given back: those that nobody has taken.

    Args:
        spares: their directory.
        most: how many; None for all.
    """
    for number, spare in enumerate(_idle(spares)):
        if number == most:
            return
        with contextlib.suppress(OSError):
            os.close(os.open(spare / "taken", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _tell(spare)


def _tell(spare: Path) -> None:
    # ENXIO: the keeper has died
    keep = os.open(spare / "keep", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(keep, b"back\n")
    finally:
        os.close(keep)


def _idle(spares: Path) -> Iterator[Path]:
    try:
        found = sorted(spares.iterdir())
    except OSError:
        return
    for spare in found:
        if (spare / "in").is_fifo() and not (spare / "taken").exists():
            yield spare


def sweep(spares: Path) -> None:
    """Remove what killed keepers have left."""
    for spare in spares.glob("*.*"):
        with contextlib.suppress(OSError):
            if abs(time.time() - spare.lstat().st_mtime) > _KEPT_FOR:
                if spare.is_dir() and not spare.is_symlink():
                    shutil.rmtree(spare)
                else:
                    spare.unlink()
