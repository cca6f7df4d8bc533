"""What packing and unpacking a tar stream have in common: names, modes, times, and the use of `tarfile`.

The trap: `tarfile` keeps every member that it has seen.
"""

from __future__ import annotations

import contextlib
import os
import stat as modes
import tarfile
import threading
from pathlib import Path
from typing import IO, Protocol

CHANGED = "the file changed while it was read"

PIECE = 1 << 18

_ZEROS = bytes(PIECE)


class BrokenStream(OSError):
    """A stream is not an archive, or ends early; its sender may say why."""


_asking_umask = threading.Lock()


def umask() -> int:
    """The umask. Asking for it by the system call would change it, for all threads."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Linux 4.7 and later (proc_pid_status(5))
        return int(Path("/proc/self/status").read_text().partition("Umask:")[2].split()[0], 8)
    with _asking_umask:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def chmod_directory(path: Path, mode: int) -> None:
    """Set a directory's mode; an inherited set-group-ID bit stays, as with chmod(1) and cp(1)."""
    path.chmod(mode | path.stat().st_mode & modes.S_ISGID)


def is_zeros(piece: bytes) -> bool:
    """Whether a piece, of 256 KiB at most, is all zeros: by one comparison, not byte by byte."""
    return piece == _ZEROS[: len(piece)]


def nothing(*_: object) -> None:
    """Do nothing: nobody wants to be told."""


def seconds(nanoseconds: int) -> str:
    """A time as a decimal number of seconds, exact, as pax(1) and touch(1) read it."""
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return f"{sign}{whole}.{rest:09}"


class Writer(Protocol):
    """What an archive is written to."""

    def write(self, raw: bytes, /) -> int:
        """Write all of it."""


class Reader(Protocol):
    """What an archive is read from."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to this many bytes, none at the end."""


def forget(archive: tarfile.TarFile) -> None:
    """Forget the members that were seen: there may be any number of them."""
    archive.members = []  # type: ignore[attr-defined]  # documented for no release, and in all of them


def as_file(stream: Writer | Reader) -> IO[bytes]:
    """A stream for tarfile."""
    # tarfile's streams need only `write`, or `read`
    return stream  # type: ignore[return-value]
