"""The budget of sessions of one master, over all processes, and waiting for one that the server refuses.

The trap: the server may give fewer than the budget, and other programs take some of them. Nothing on this
side tells when a session of theirs ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opensshtransport.errors import SessionRefused
from opensshtransport.local.locks import replace_file
from opensshtransport.local.trust import open_ours, read_ours
from opensshtransport.master import shell_spares
from opensshtransport.master.master import Master

# Seconds in which another program may give back a session.
PATIENCE = 120.0

_POLL = 0.02

# The byte that is locked while this process waits for a slot.
_WAITERS = 1000

# A limit that a server's refusal taught grows by one in so many seconds: other programs' sessions end, and
# another refusal costs little.
_LEARNED_FOR = 30.0

# Seconds that the remote side may need to end a session whose ssh was killed.
_LINGERS = 1.0

# Seconds until a server that has refused a session is asked again, the first time and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Slots:
    """The sessions of one master, over all processes: one locked byte of a file for each.

    POSIX locks (fcntl(2)) go with the process that holds them, also by SIGKILL, and not to a forked child;
    within the process a set tells who has what.
    """

    def __init__(self, master: Master) -> None:
        base = master.directory / master.destination.identity
        self._path = base.with_name(f"{base.name}.slots")
        self._limit_file = base.with_name(f"{base.name}.limit")
        self._spares = shell_spares.directory(base)
        self._most = master.destination.settings.max_sessions

    @property
    def limit(self) -> int:
        """How many sessions there may be: the setting, or what a refusal by the server has taught."""
        with contextlib.suppress(OSError, ValueError):
            # where the clock was set back, it counts as long ago what seems to come
            grown = int(abs(time.time() - self._limit_file.stat().st_mtime) / _LEARNED_FOR)
            return max(1, min(self._most, int(read_ours(self._limit_file)) + grown))
        return self._most

    def learn(self, limit: int) -> None:
        """Note that the server refused a session beside so many others."""
        replace_file(self._limit_file, str(max(1, limit)))

    def take(self) -> int | None:
        """Take a free slot, or None where all are taken; a spare of `ossh-run` makes room for it."""
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
                # within this process a given-back slot wakes us; of others nothing tells
                with table.changed:
                    table.changed.wait(left)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the time after the server has refused a session: anyone who keeps an idle one gives it back."""
        shell_spares.make_way(self._spares)
        with _table(self._path).waiting():
            yield

    def give(self, number: int, *, lingers: bool = False) -> None:
        """Give a slot back.

        Args:
            number: what was taken.
            lingers: whether the remote side may not have ended the session yet.
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
        """How many slots are taken, by whomever, and how many spares of `ossh-run` there are."""
        table = _table(self._path)
        with table.guard:
            taken = sum(1 for number in range(self._most) if number in table.held or table.taken(number))
        return taken + shell_spares.count(self._spares)

    def lingering(self) -> int:
        """How many sessions of slots that were given back may still be there on the remote side."""
        table = _table(self._path)
        now = time.monotonic()
        with table.guard:
            return sum(1 for number, end in table.lingering.items() if end > now and number not in table.held)

    def wanted(self) -> bool:
        """Whether somebody, here or elsewhere, waits for a slot."""
        table = _table(self._path)
        with table.guard:
            return table.waiters > 0 or table.taken(_WAITERS)


class Patience:
    """For how long a session that the server has refused is asked for again."""

    def __init__(self, slots: Slots, until: float | None = None) -> None:
        """Nothing is waited for yet.

        Args:
            slots: the budget.
            until: when it ends, on the monotonic clock; by default after `PATIENCE`.
        """
        self._slots, self._pause = slots, _FIRST_PAUSE
        self._until = time.monotonic() + PATIENCE if until is None else until

    def wait(self, reason: SessionRefused, pause: Callable[[float], object] = time.sleep) -> None:
        """Wait a while, each time longer; anyone who keeps an idle session gives it back meanwhile.

        Args:
            reason: the refusal.
            pause: waits so many seconds.

        Raises:
            SessionRefused: this reason, where the time is over.
        """
        if time.monotonic() + self._pause > self._until:
            raise reason
        with self._slots.waiting():
            pause(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class _Table:
    """What this process holds of one file of slots."""

    def __init__(self, path: Path) -> None:
        # it may have been removed with all that was in it
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
        """Let others see that somebody waits."""
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
    # closing any descriptor of the file would release all locks (fcntl(2)), so there is one for good
    with _tables_guard:
        if path not in _tables:
            _tables[path] = _Table(path)
        return _tables[path]


def _after_fork() -> None:
    """In a forked child: what is taken is the parent's, and must not be held."""
    for table in _tables.values():
        os.close(table.file)
    _tables.clear()


os.register_at_fork(after_in_child=_after_fork)
