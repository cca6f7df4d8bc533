"""ssh's log of one session: the only evidence of what happened to a command.

The trap: the file's name may disappear at any time, through a cleaner of temporary files or with the whole
directory. So it is opened before ssh starts, and read through that descriptor, whatever happens to the name.
The name is needed only until ssh has opened it too. So any process may remove older files without knowing
whose they are: process numbers of another container mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path

# Seconds within which ssh opens its log.
_NAMED_FOR = 300.0

# What `ossh-run` writes first. A full disk refuses it before anything has started; otherwise there is a whole
# block of space for what follows.
_HEAD = b"ossh-run\n"

_PIECE = 1 << 16


class RunLog:
    """The log of one session, for one call of ssh.

    Attributes:
        path: for ssh.
    """

    def __init__(self, directory: Path) -> None:
        """Create the file: in this directory or, if that is full, in the one for temporary files.

        Raises:
            OSError: there is no space anywhere.
        """
        self._guard = threading.Lock()
        try:
            self.path, self._file = _create(directory)
        except OSError:
            self.path, self._file = _create(Path(tempfile.gettempdir()))

    def read(self) -> str:
        """What ssh has written so far; "" once the log is closed."""
        parts: list[bytes] = []
        offset = len(_HEAD)
        # a descriptor that another thread closes may belong to another file at once
        with self._guard:
            while self._file >= 0 and (piece := os.pread(self._file, _PIECE, offset)):
                parts.append(piece)
                offset += len(piece)
        return b"".join(parts).decode(errors="replace")

    def close(self) -> None:
        """Remove it."""
        # it may have disappeared with its directory
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: close what belongs to the parent."""
        with self._guard:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1


def _create(directory: Path) -> tuple[Path, int]:
    path = directory / f"run.{secrets.token_hex(12)}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, _HEAD)
    except OSError:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return path, file


def sweep_logs(directory: Path, older: float = _NAMED_FOR) -> None:
    """Remove what killed commands have left: logs older than any that ssh may still have to open."""
    for path in directory.glob("run.*"):
        # another process may sweep too
        with contextlib.suppress(OSError):
            # if the clock was set back, a time in the future counts as old
            if abs(time.time() - path.stat().st_mtime) >= older:
                path.unlink()
