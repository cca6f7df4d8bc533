"""`Shells`: the remote shells of one destination, and which of them is asked.

The trap: a connection may be lost between a request and its reply. A request that only reads is sent again,
to a new shell; one that changes something never is, unless it is known that nothing was sent.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.scripts import serving
from opensshtransport.sessions.attempts import PATIENCE
from opensshtransport.sessions.connection import NO_SHELL, Connection
from opensshtransport.sessions.requests import Deadline, Ended, Pending, Reply, Request, watch
from opensshtransport.sessions.shell import RemoteShell


def _patience(deadline: Deadline) -> float:
    """Until when to wait for a session."""
    return deadline.at if deadline.timeout is not None else time.monotonic() + PATIENCE


class Shells:
    """The remote shells of one destination: one, and more while slow requests are on their way."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is opened yet."""
        self.connection = connection
        self.host = connection.host
        self._shells: list[RemoteShell] = []
        self._guard = threading.Lock()
        self._opening = threading.Lock()
        self._owner = os.getpid()
        self._round_trip = math.inf

    @property
    def round_trip(self) -> float | None:
        """The shortest time in seconds from a request to its reply; None if none is known yet."""
        return None if math.isinf(self._round_trip) else self._round_trip

    def ask(self, request: Request, *, timeout: float | None = None) -> Reply:
        """Ask, and wait for the reply.

        Raises:
            CommandTimeout: it did not come in time; the request is ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        return self.ask_all([request], timeout=timeout)[0]

    def ask_all(self, requests: list[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send several requests, pipelined, in one round trip together.

        Raises:
            As `ask`. Requests behind a lost one that may have started are not sent again.
        """
        if not requests:
            return []
        deadline = Deadline.after(timeout)
        replies: list[Reply] = []
        sent: list[Pending] = []

        def once() -> None:
            """Send what has no reply yet to one shell."""
            sent.clear()
            watch(None)
            with contextlib.suppress(Ended):
                shell = self._choose(requests, deadline)
                sent.extend(self._send(shell, requests[len(replies) :], deadline))
                for one in sent:
                    # one by one: replies that came before a failure count
                    replies.append(shell.reply(one, deadline))  # noqa: PERF401
                self._round_trip = min(self._round_trip, shell.round_trip)

        while len(replies) < len(requests):
            # everything that was sent may have been done, not only the first one without a reply
            self.connection.attempt(
                once, _patience(deadline), reads=lambda: all(one.request.reads for one in sent)
            )
        return replies

    def _send(self, shell: RemoteShell, requests: list[Request], deadline: Deadline) -> list[Pending]:
        """Send as many as the shell accepts, at least one."""
        pending: list[Pending] = []
        for request in requests:
            try:
                pending.append(shell.ask(request, deadline))
            except ConnectionFailed:  # noqa: PERF203 - it must be known what was sent before
                # those that were sent must not be sent again
                if not pending:
                    raise
                break
        return pending

    def _free(self, request: Request) -> tuple[RemoteShell | None, bool]:
        """The least busy shell, and whether a request should use it."""
        with self._guard:
            self._shells = [shell for shell in self._shells if shell.open]
            best = min(self._shells, key=lambda shell: (shell.slow, shell.waiting), default=None)
            return best, best is not None and not (best.slow or (request.slow and best.waiting))

    def _choose(self, requests: list[Request], deadline: Deadline) -> RemoteShell:
        """A free shell, or a new one if all are busy with something slow, or the least busy one."""
        self._forked()
        best, fits = self._free(requests[0])
        if best is not None and fits:
            return best
        # one at a time: only one of many threads opens it, or logs in
        left = deadline.left
        if not self._opening.acquire(timeout=-1 if left is None else left):
            raise deadline.error("no session", self.host)
        try:
            best, fits = self._free(requests[0])
            if best is not None and fits:
                return best
            slots = self.connection.slots
            facts = self.connection.facts(advice=NO_SHELL)
            channel = self.connection.spares.lend()
            if channel is None:
                slot: int | None = None
                if best is None:
                    slot = slots.wait(_patience(deadline))
                elif slots.in_use() < slots.limit - 1:
                    # the last one is kept for a command
                    slot = slots.take()
                if slot is None and best is not None:
                    return best
                channel = self.connection.open(facts, serving(), slot or 0)
            shell = RemoteShell(self.connection.master, facts, channel)
            with self._guard:
                self._shells.append(shell)
            return shell
        finally:
            self._opening.release()

    def _forked(self) -> None:
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._guard, self._opening = threading.Lock(), threading.Lock()
            for shell in self._shells:
                shell.abandon()
            self._shells = []

    def close(self) -> None:
        """End the idle ones now, and the others when their requests have their replies."""
        self._forked()
        with self._guard:
            shells, self._shells = self._shells, []
        for shell in shells:
            shell.retire()
