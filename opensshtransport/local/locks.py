"""Locks between processes, and files and links that are replaced as a whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

from opensshtransport.local.trust import open_ours


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that others may read at any time: they see the new one complete, or the old one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(file, "w", encoding="utf-8", errors="surrogateescape") as stream:  # noqa: PTH123 - a descriptor
            stream.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_link(path: Path, target: Path) -> None:
    """Make a link, in place of whatever has its name; others may use it at any time."""
    draft = path.with_name(f".{secrets.token_hex(4)}")
    draft.symlink_to(target)
    draft.replace(path)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, which a crash releases; yields its descriptor.

    Raises:
        BlockingIOError: another process holds it, and the caller does not wait.
        SettingsError: the file is not ours alone.
    """
    held = False
    while not held:
        # it may have been removed with everything in it
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = open_ours(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # otherwise the file was removed while we waited, and others hold another one of that name
            held = _is_named(file, path)
            if held:
                yield file
        finally:
            os.close(file)


def _is_named(file: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    """Interrupt a system call of the main thread after some seconds, with TimeoutError."""

    def ring(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
