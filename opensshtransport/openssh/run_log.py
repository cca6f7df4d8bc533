"""ssh's log of one session: all that tells what became of a command.

The trap: the file's name may go at any time, by a cleaner of temporary files or with the whole directory. So
it is opened before ssh starts, and read by that descriptor, whatever became of the name. The name is needed
only until ssh has opened it too. So anybody may remove what is older, and need not know whose it was: the
process numbers of another container mean nothing here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path

# Seconds in which ssh opens its log.
_NAMED_FOR = 300.0

# As `ossh-run` begins it. A full disk refuses this before anything has started; else there is the room of a
# whole block for what follows.
_HEAD = b"ossh-run\n"

_PIECE = 1 << 16


class RunLog:
    """The log of one session, good for one call of ssh.

    Attributes:
        path: for ssh.
    """

    def __init__(self, directory: Path) -> None:
        """Make the file: in this directory, or where there is no room in that for temporary files.

        Raises:
            OSError: there is none anywhere.
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
        # a descriptor that another thread closes may be somebody else's at once
        with self._guard:
            while self._file >= 0 and (piece := os.pread(self._file, _PIECE, offset)):
                parts.append(piece)
                offset += len(piece)
        return b"".join(parts).decode(errors="replace")

    def close(self) -> None:
        """Remove it."""
        # a directory that has gone has taken it along
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
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
    """Remove what killed commands have left: logs that are older than any that ssh has not opened yet."""
    for path in directory.glob("run.*"):
        # somebody else may sweep too
        with contextlib.suppress(OSError):
            # where the clock was set back, it counts as old what seems to come
            if abs(time.time() - path.stat().st_mtime) >= older:
                path.unlink()
