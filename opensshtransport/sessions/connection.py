"""`Connection`: the master of one destination, and this process's sessions on it.

The trap: that a master is running now says little about the next moment. What fails because of that is tried
again by `attempt` if nothing had started.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from opensshtransport.errors import ConnectionFailed
from opensshtransport.master.control_socket import listens, responds
from opensshtransport.master.ensure import ensure
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.sessions.attempts import PATIENCE, Patience, attempt
from opensshtransport.sessions.channel import Channel
from opensshtransport.sessions.spares import Spares

_T = TypeVar("_T")

# How to fix it if a file operation is wanted and the account gives no shell.
NO_SHELL = "a restricted account? use ossh cp"

_log = logging.getLogger(__name__)


class Connection:
    """The way to one destination, for any number of threads.

    Attributes:
        host: as the caller named it.
        master: the master.
        slots: the budget of sessions.
        spares: sessions that were opened in advance.
    """

    def __init__(self, master: Master, *, login: bool = True, person: bool = True) -> None:
        """Nothing is opened yet.

        Args:
            master: of the destination.
            login: whether a login may be made where no master is running.
            person: whether somebody at the terminal may be asked for it.
        """
        self.host = master.destination.host
        self.master = master
        self.slots = Slots(master)
        self.spares = Spares(master, self.slots)
        self._login, self._person = login, person
        self._asking = threading.Lock()
        self._owner = os.getpid()

    def facts(self, *, advice: str = "") -> Facts:
        """What is known of the running master; if none is running, log in.

        Args:
            advice: how to fix it if the account gives no shell; "" if no shell is needed.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        facts = self._listening()
        if facts is None:
            if self._owner != os.getpid():
                # a thread of the parent may have held the lock
                self._owner, self._asking = os.getpid(), threading.Lock()
            # only one of many threads asks, or logs in
            with self._asking:
                facts = self._listening()
                if facts is None:
                    facts = self.revive()
        if advice and not facts.shell:
            raise ConnectionFailed("the server runs none of our commands", host=facts.host, advice=advice)
        return facts

    def _listening(self) -> Facts | None:
        """What is known of a master that seems to be running, checked locally."""
        facts = self.master.facts()
        if facts is None or not listens(Path(facts.socket)) or not responds(facts):
            return None
        return facts

    def revive(self) -> Facts:
        """Make sure that a master is running, after one was found dead.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        return ensure(self.master.destination, login=self._login, person=self._person)

    def attempt(
        self,
        work: Callable[[], _T],
        until: float | None = None,
        *,
        reads: Callable[[], bool] = lambda: False,
    ) -> _T:
        """Do work that needs a session, and do it again as long as nothing of it has started.

        Args:
            work: what is done; it cleans up after itself if it fails.
            until: when to stop asking for a refused session, on the monotonic clock; by default after
                `PATIENCE`.
            reads: whether everything that a lost connection left unanswered only reads, so that it may be
                repeated.

        Raises:
            SessionRefused: the server gave no session in that time.
            ConnectionFailed: another of its kinds.
        """
        host, patience = self.master.destination.host, Patience(self.slots, until)
        return attempt(work, patience, self.revive, host=host, reads=reads)

    def open(self, facts: Facts, script: str, slot: int, *, stdin: bool = True, go: bool = True) -> Channel:
        """A new session for a script, with a slot that was taken; if it fails, the slot is given back."""
        _log.debug("%s: opening a session", self.master.destination.host)
        try:
            return Channel(self.master, facts, self.slots, slot, script, stdin=stdin, go=go)
        except BaseException:
            self.slots.give(slot)
            raise

    def beside(self, script: str, *, wait: bool = True, last: bool = False) -> Channel | None:
        """A session of its own for a script; None if none is free and the caller does not wait.

        It may be one that was opened in advance, so `Channel.begin` gets the script once more.

        Args:
            script: what is to run there.
            wait: whether to wait for a free session.
            last: take the last one too; it must be given back when another process waits for one.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        facts = self.facts(advice=NO_SHELL)
        if (wait or not self.slots.wanted()) and (spare := self.spares.lend()) is not None:
            return spare
        slot: int | None = None
        if wait:
            slot = self.slots.wait(time.monotonic() + PATIENCE)
        elif last or self.slots.in_use() < self.slots.limit - 1:
            # otherwise the last one is kept for a command
            slot = None if self.slots.wanted() else self.slots.take()
        return None if slot is None else self.open(facts, script, slot, go=False)

    def close(self) -> None:
        """Close what is open but unused."""
        self.spares.close()
