"""`Shells`: the remote shells of one destination, and which of them is asked.

The trap: a connection may be lost between a request and its reply. What only reads is asked again, of a new
shell; what changes something never is, unless it is known that nothing was sent.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

from opensshtransport.errors import ConnectionFailed, ConnectionLost, MasterGone, SessionRefused
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import PATIENCE, Patience, Slots
from opensshtransport.remote.scripts import serving
from opensshtransport.sessions.channel import Channel
from opensshtransport.sessions.requests import Deadline, Ended, Pending, Reply, Request, watch
from opensshtransport.sessions.shell import RemoteShell
from opensshtransport.sessions.spares import Spares

_MOST_LOGINS = 2


def _patience(deadline: Deadline) -> float:
    """The moment until which a session is waited for."""
    return deadline.at if deadline.timeout is not None else time.monotonic() + PATIENCE


class Shells:
    """The remote shells of one destination: one, and more while slow requests are on their way."""

    def __init__(
        self,
        master: Master,
        facts: Callable[[], Facts],
        revive: Callable[[], object],
        spares: Spares,
    ) -> None:
        """Nothing is opened yet.

        Args:
            master: whose sessions.
            facts: gives what is known of the live master, logging in where it must.
            revive: makes sure that a master lives after one was found dead.
            spares: sessions of this process that are open already.
        """
        self.host = master.destination.host
        self._master, self._get_facts, self._revive = master, facts, revive
        self.spares = spares
        self._slots = Slots(master)
        self._shells: list[RemoteShell] = []
        self._guard = threading.Lock()
        self._opening = threading.Lock()
        self._owner = os.getpid()
        self._round_trip = math.inf

    @property
    def round_trip(self) -> float | None:
        """The shortest time in seconds from a request to its reply; None as long as none is known."""
        return None if math.isinf(self._round_trip) else self._round_trip

    def ask(self, request: Request, *, timeout: float | None = None) -> Reply:
        """Ask, and wait for the reply.

        Raises:
            CommandTimeout: it did not come in time; the request is ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        return self.ask_all([request], timeout=timeout)[0]

    def ask_all(self, requests: list[Request], *, timeout: float | None = None) -> list[Reply]:
        """Ask several things, one behind the other, in one round trip together.

        Raises:
            As `ask`. Those behind a lost one that may have started are not asked again.
        """
        if not requests:
            return []
        deadline = Deadline.after(timeout)
        patience = Patience(self._slots, _patience(deadline))
        replies: list[Reply] = []
        logins = 0
        while True:
            sent: list[Pending] = []
            try:
                watch(None)
                shell = self._choose(requests, deadline)
                sent = self._send(shell, requests[len(replies) :], deadline)
                for one in sent:
                    # one by one: those that came before a failure count
                    replies.append(shell.reply(one, deadline))  # noqa: PERF401
                self._round_trip = min(self._round_trip, shell.round_trip)
                if len(replies) == len(requests):
                    return replies
            except Ended:
                continue
            except SessionRefused as reason:
                patience.wait(reason)
            except (MasterGone, ConnectionLost) as reason:
                # all that was sent may have been done, and not only the first without a reply
                again = isinstance(reason, MasterGone) or all(one.request.reads for one in sent)
                logins += 1
                if not again or logins > _MOST_LOGINS:
                    raise
                self._revive()

    def _send(self, shell: RemoteShell, requests: list[Request], deadline: Deadline) -> list[Pending]:
        """Send as many as the shell takes, at least one."""
        pending: list[Pending] = []
        for request in requests:
            try:
                pending.append(shell.ask(request, deadline))
            except ConnectionFailed:  # noqa: PERF203 - what was sent before must be known
                # those that are on their way must not be asked again
                if not pending:
                    raise
                break
        return pending

    def _free(self, request: Request) -> tuple[RemoteShell | None, bool]:
        """The least busy shell, and whether a request should take it."""
        with self._guard:
            self._shells = [shell for shell in self._shells if shell.open]
            best = min(self._shells, key=lambda shell: (shell.slow, shell.waiting), default=None)
            return best, best is not None and not (best.slow or (request.slow and best.waiting))

    def _choose(self, requests: list[Request], deadline: Deadline) -> RemoteShell:
        """A shell that is free, or a new one where all are at something slow, or the least busy one."""
        self._forked()
        best, fits = self._free(requests[0])
        if best is not None and fits:
            return best
        # one at a time: of many threads one opens it, or logs in
        left = deadline.left
        if not self._opening.acquire(timeout=-1 if left is None else left):
            raise deadline.error("no session", self.host)
        try:
            best, fits = self._free(requests[0])
            if best is not None and fits:
                return best
            facts = self._facts_of_a_shell()
            channel = self.spares.lend()
            if channel is None:
                slot: int | None = None
                if best is None:
                    slot = self._slots.wait(_patience(deadline))
                elif self._slots.in_use() < self._slots.limit - 1:
                    # the last one is for somebody who has a command to run
                    slot = self._slots.take()
                if slot is None and best is not None:
                    return best
                channel = self._new(facts, serving(), slot or 0)
            shell = RemoteShell(self._master, facts, channel)
            with self._guard:
                self._shells.append(shell)
            return shell
        finally:
            self._opening.release()

    @property
    def slots(self) -> Slots:
        """The budget of sessions."""
        return self._slots

    @property
    def master(self) -> Master:
        """Whose sessions these are."""
        return self._master

    def facts(self) -> Facts:
        """What is known of the live master; where none lives, a login is made."""
        return self._get_facts()

    def revive(self) -> None:
        """Make sure that a master lives, after one was found dead."""
        self._revive()

    def channel(self, script: str, *, wait: bool = True, last: bool = False) -> Channel | None:
        """A session of its own for a script; None where none is free and none is waited for.

        It may be one that was open already; so `Channel.begin` is told the script once more.

        Args:
            script: what is to run there.
            wait: for a free session.
            last: take the last one too; it must be given back when somebody waits for one.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        facts = self._facts_of_a_shell()
        if (wait or not self._slots.wanted()) and (spare := self.spares.lend()) is not None:
            return spare
        slot: int | None = None
        if wait:
            slot = self._slots.wait(time.monotonic() + PATIENCE)
        elif last or self._slots.in_use() < self._slots.limit - 1:
            # else the last one is for somebody who has a command to run
            slot = None if self._slots.wanted() else self._slots.take()
        return None if slot is None else self._new(facts, script, slot, go=False)

    def _facts_of_a_shell(self) -> Facts:
        facts = self._get_facts()
        if not facts.shell:
            raise ConnectionFailed(
                "the far side runs no command of ours",
                host=self.host,
                advice="a restricted account? use ossh cp",
            )
        return facts

    def _new(self, facts: Facts, script: str, slot: int, *, go: bool = True) -> Channel:
        """A new session, with a slot that was taken."""
        try:
            return Channel(self._master, facts, self._slots, slot, script, go=go)
        except BaseException:
            self._slots.give(slot)
            raise

    def _forked(self) -> None:
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._guard, self._opening = threading.Lock(), threading.Lock()
            for shell in self._shells:
                shell.abandon()
            self._shells = []

    def close(self) -> None:
        """End those that nobody waits for now, and the others when their requests have their replies."""
        self._forked()
        with self._guard:
            shells, self._shells = self._shells, []
        for shell in shells:
            shell.retire()
