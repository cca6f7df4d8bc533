"""Channels that are opened in advance, mainly for commands.

One thread opens as many as recent use has needed, and closes those that nobody uses or that another process
waits for. The trap: a spare is a convenience. It never takes the last session, and if none can be opened,
nobody is told: anyone who needs a session will meet the reason.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator

from opensshtransport.errors import SessionRefused
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.diagnosis import log_error
from opensshtransport.sessions.channel import Channel

# Seconds without a command after which they are closed.
_IDLE = 20.0

# Seconds between checks whether another process waits for a session.
_LOOK = 0.1

# With fewer sessions than this, no spares are opened.
_LEAST = 3


class Spares:
    """The spare channels of one destination; any thread may take one."""

    def __init__(self, master: Master, slots: Slots) -> None:
        """Nothing is opened yet."""
        self._master, self._slots = master, slots
        self._closed: bool = False
        self._wanted = 1
        self._used = time.monotonic()
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """In a forked child: the parent's spares are not ours, and its threads may have held the lock."""
        self._changed = threading.Condition()
        self._ready: list[Channel] = []
        self._short = False
        self._rooms: int = 0
        self._asked = False
        self._keeper: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._ready)

    def take(self) -> Channel | None:
        """One for a command, or None, which means that more are needed."""
        with self._changed:
            channel = self._next()
            if channel is None:
                self._wanted = min(self._wanted + 1, max(1, self._slots.limit // 2))
        return channel

    def lend(self) -> Channel | None:
        """One for something else, or None. The next call will find one."""
        with self._changed:
            channel = self._next()
            again, self._asked = self._asked, True
        if again:
            self.refill()
        return channel

    def _next(self) -> Channel | None:
        self._used = time.monotonic()
        while self._ready:
            channel = self._ready.pop(0)
            if channel.ssh.poll() is None:
                return channel
            _bury(channel)
        return None

    def attend(self) -> None:
        """Start the thread. That takes a moment, which is available while a command is on its way."""
        with self._changed:
            if self._keeper is None and not self._closed:
                self._used = time.monotonic()
                self._keeper = threading.Thread(target=self._keep, daemon=True)
                self._keeper.start()

    def refill(self) -> None:
        """Let the thread open what is missing; returns before that begins."""
        with self._changed:
            if not self._rooms and len(self._ready) < self._wanted and self._slots.limit >= _LEAST:
                self._short = True
                self._changed.notify()
        self.attend()

    def _keep(self) -> None:
        while True:
            with self._changed:
                if not self._short and not self._closed:
                    self._changed.wait(_LOOK)
                short, self._short = self._short, False
                idle = self._closed or (not short and time.monotonic() - self._used > _IDLE)
                if idle:
                    self._wanted = 1
                    self._keeper = None
                ended = [channel for channel in self._ready if channel.ssh.poll() is not None]
                self._ready = [channel for channel in self._ready if channel not in ended]
                surplus = self._ready if idle or self._slots.wanted() else []
                dropped = surplus[:]
                surplus.clear()
            for channel in ended:
                _bury(channel)
            for channel in dropped:
                channel.close_later()
            if idle:
                return
            if short:
                with contextlib.suppress(OSError):
                    while self._open():
                        pass

    def _open(self) -> bool:
        """Open one that is missing; returns whether that succeeded."""
        with self._changed:
            if not self._fits():
                return False
        facts = self._master.facts()
        # the last slot is kept for a command
        if facts is None or self._slots.wanted() or self._slots.in_use() >= self._slots.limit - 1:
            return False
        slot = self._slots.take()
        if slot is None:
            return False
        try:
            channel = Channel(self._master, facts, self._slots, slot)
        except BaseException:
            self._slots.give(slot)
            raise
        with self._changed:
            # they may be unwanted by now
            fits = self._fits()
            if fits:
                self._ready.append(channel)
        if not fits:
            channel.close_later()
        return fits

    def _fits(self) -> bool:
        return not self._closed and not self._rooms and len(self._ready) < self._wanted

    def drop(self) -> None:
        """Close all of them."""
        with self._changed:
            dropped, self._ready = self._ready, []
        for channel in dropped:
            channel.close_later()

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Open none within this block, so that their sessions are free for something that needs many."""
        with self._changed:
            self._rooms += 1
        try:
            yield
        finally:
            with self._changed:
                self._rooms -= 1
            self.refill()

    def close(self) -> None:
        """Close them, and open no more."""
        with self._changed:
            self._closed = True
            dropped, self._ready = self._ready, []
            self._changed.notify()
        for channel in dropped:
            channel.close()


def _bury(channel: Channel) -> None:
    """Close one that has ended by itself; if the server refused it, that teaches the limit."""
    if isinstance(log_error(channel.words(), channel.host), SessionRefused):
        channel.refused()
    channel.close_later()


_all: weakref.WeakSet[Spares] = weakref.WeakSet()


def _after_fork() -> None:
    for spares in list(_all):
        spares.forget()


os.register_at_fork(after_in_child=_after_fork)
