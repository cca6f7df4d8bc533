"""The budget of sessions of one master, across all processes, and waiting for one that the server refuses.

The trap: the server may grant fewer than the budget, and other programs take some of them. Nothing on this
side shows when one of theirs ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from opensshtransport.errors import SessionRefused
from opensshtransport.local.locks import replace_file
from opensshtransport.local.trust import open_ours, read_ours
from opensshtransport.master import shell_spares
from opensshtransport.master.master import Master

_POLL = 0.02

# The byte that is locked while this process waits for a slot.
_WAITERS = 1000

# A limit learned from a server's refusal grows by one every so many seconds: other programs' sessions end,
# and another refusal costs little.
_LEARNED_FOR = 30.0

# Seconds that the remote side may need to end a session whose ssh was killed.
_LINGERS = 1.0


class Slots:
    """The sessions of one master, across all processes: one locked byte of a file for each.

    POSIX locks (fcntl(2)) are released when the process that holds them ends, even by SIGKILL, and a forked
    child does not inherit them. Within the process, a set records which slots are taken.
    """

    def __init__(self, master: Master) -> None:
        base = master.directory / master.destination.identity
        self._path = base.with_name(f"{base.name}.slots")
        self._limit_file = base.with_name(f"{base.name}.limit")
        self._spares = shell_spares.directory(base)
        self._most = master.destination.settings.max_sessions

    @property
    def limit(self) -> int:
        """How many sessions there may be: the setting, or the limit learned from a refusal by the server."""
        with contextlib.suppress(OSError, ValueError):
            # if the clock was set back, a time in the future counts as long ago
            grown = int(abs(time.time() - self._limit_file.stat().st_mtime) / _LEARNED_FOR)
            return max(1, min(self._most, int(read_ours(self._limit_file)) + grown))
        return self._most

    def learn(self, limit: int) -> None:
        """Note that the server refused a session next to this many others."""
        replace_file(self._limit_file, str(max(1, limit)))

    def take(self) -> int | None:
        """Take a free slot, or None if all are taken; a spare of `ossh-run` makes room for it."""
        number = self._take()
        if number is not None and self.in_use() > self.limit:
            shell_spares.give_back(self._spares, 1)
        return number

    def _take(self) -> int | None:
        table = _table(self._path)
        with table.guard:
            for number in range(self.limit):
                if number in table.held:
                    continue
                with contextlib.suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(table.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                    table.held.add(number)
                    return number
        return None

    def wait(self, deadline: float | None) -> int:
        """Take a slot, waiting for one.

        Raises:
            SessionRefused: the deadline, on the monotonic clock, has passed.
        """
        table = _table(self._path)
        with table.waiting():
            while True:
                number = self.take()
                if number is not None:
                    return number
                left = _POLL if deadline is None else min(_POLL, deadline - time.monotonic())
                if left <= 0:
                    raise SessionRefused(f"all {self.limit} sessions are in use")
                # a slot given back within this process wakes us; nothing shows those of others
                with table.changed:
                    table.changed.wait(left)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the time after a refusal by the server: processes with idle sessions give them back."""
        shell_spares.make_way(self._spares)
        with _table(self._path).waiting():
            yield

    def give(self, number: int, *, lingers: bool = False) -> None:
        """Give a slot back.

        Args:
            number: what was taken.
            lingers: whether the remote side may still have the session.
        """
        table = _table(self._path)
        with table.guard:
            if number in table.held:
                table.held.discard(number)
                table.lingering[number] = time.monotonic() + (_LINGERS if lingers else 0.0)
                fcntl.lockf(table.file, fcntl.LOCK_UN, 1, number)
        with table.changed:
            table.changed.notify_all()

    def in_use(self) -> int:
        """How many slots are taken, by any process, and how many sessions are spares of `ossh-run`."""
        table = _table(self._path)
        with table.guard:
            taken = sum(1 for number in range(self._most) if number in table.held or table.taken(number))
        return taken + shell_spares.count(self._spares)

    def lingering(self) -> int:
        """How many sessions of slots that were given back may still be open on the remote side."""
        table = _table(self._path)
        now = time.monotonic()
        with table.guard:
            return sum(1 for number, end in table.lingering.items() if end > now and number not in table.held)

    def wanted(self) -> bool:
        """Whether any process waits for a slot."""
        table = _table(self._path)
        with table.guard:
            return table.waiters > 0 or table.taken(_WAITERS)


class _Table:
    """What this process holds of one file of slots."""

    def __init__(self, path: Path) -> None:
        # it may have been removed with everything in it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = open_ours(path, os.O_RDWR | os.O_CREAT)
        self.held: set[int] = set()
        self.lingering: dict[int, float] = {}
        self.waiters = 0
        self.guard = threading.Lock()
        self.changed = threading.Condition()

    def taken(self, number: int) -> bool:
        """Whether another process holds a byte."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return True
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, number)
        return False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Show other processes that somebody waits."""
        with self.guard:
            self.waiters += 1
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _WAITERS)
        try:
            yield
        finally:
            with self.guard:
                self.waiters -= 1
                if not self.waiters:
                    fcntl.lockf(self.file, fcntl.LOCK_UN, 1, _WAITERS)


_tables: dict[Path, _Table] = {}

_tables_guard = threading.Lock()


def _table(path: Path) -> _Table:
    # closing any descriptor of the file would release all locks (fcntl(2)), so one stays open
    with _tables_guard:
        if path not in _tables:
            _tables[path] = _Table(path)
        return _tables[path]


def _after_fork() -> None:
    """In a forked child: the slots belong to the parent, and must not be held."""
    for table in _tables.values():
        os.close(table.file)
    _tables.clear()


os.register_at_fork(after_in_child=_after_fork)
