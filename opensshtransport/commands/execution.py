"""Running commands through channels: warm ones, spares, and what may be tried again.

A command gets a channel that is open already, so that it costs one round trip; spares are opened in the
background. Nothing runs twice: only what is known not to have started is tried again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from opensshtransport.commands.command import Request
from opensshtransport.commands.process import RemoteProcess, Sink, Swallowed
from opensshtransport.errors import CommandTimeout, ConnectionFailed, MasterGone, SessionRefused
from opensshtransport.master import control_socket, ensure
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Patience, Slots
from opensshtransport.sessions.channel import Channel, reads_stdin
from opensshtransport.sessions.spares import Spares

# For how long a start-up file that has read the bootstrap's stdin is believed to do so.
_SWALLOWED_FOR = 600.0

_MOST_LOGINS = 2


class Execution:
    """Runs commands on one destination, from any number of threads."""

    def __init__(self, master: Master, *, login: bool = True, person: bool = True) -> None:
        self.master = master
        self._login, self._person = login, person
        self._slots = Slots(master)
        self.spares = Spares(master, self._slots)
        self._owner = os.getpid()
        self._swallows_until = 0.0
        self._asking = threading.Lock()

    @property
    def limit(self) -> int:
        """How many sessions there may be at once."""
        return self._slots.limit

    def start(
        self, request: Request, out: Sink, err: Sink, *, deadline: float | None = None
    ) -> RemoteProcess:
        """Start a command; it has started when this returns.

        Raises:
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
            OSError: the directory is not there.
        """
        return self._attempt(
            request, out, err, lambda process: process.begin(deadline), deadline, streams=True
        )

    def run(
        self,
        request: Request,
        out: Sink,
        err: Sink,
        feed: Callable[[RemoteProcess], None],
        *,
        timeout: float | None = None,
        began: Callable[[RemoteProcess], object] | None = None,
    ) -> RemoteProcess:
        """Run a command to its end.

        Args:
            request: what to run.
            out: takes its output.
            err: takes its error output.
            feed: gives its input; called in a thread of its own where `request.frames`.
            timeout: seconds until the remote process group is ended.
            began: called with the process as soon as there is one.

        Raises:
            CommandTimeout: it was ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def to_the_end(process: RemoteProcess) -> None:
            if began is not None:
                began(process)
            if request.frames:
                threading.Thread(target=process.feed, args=(feed,), daemon=True).start()
            try:
                process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except TimeoutError as reason:
                if isinstance(reason, ConnectionFailed):
                    raise
                process.end()
                raise CommandTimeout(
                    f"the command was ended after {timeout:g} s",
                    host=self.master.destination.host,
                    argv=process.argv,
                ) from reason
            except BaseException:
                process.end()
                raise

        return self._attempt(request, out, err, to_the_end, deadline)

    def _attempt(
        self,
        request: Request,
        out: Sink,
        err: Sink,
        go_on: Callable[[RemoteProcess], None],
        deadline: float | None,
        *,
        streams: bool = False,
    ) -> RemoteProcess:
        patience = Patience(self._slots, deadline)
        logins, refused = 0, False
        while True:
            facts = self.facts()
            channel = self._take(facts, request, deadline)
            process = RemoteProcess(self.master, channel, request, facts.shell, out, err, streams=streams)
            try:
                self.spares.attend()
                go_on(process)
            except Swallowed as reason:
                process.close()
                self.spares.drop()
                if request.frames:
                    raise reads_stdin(
                        self.master.destination.host, "so no command can be sent input"
                    ) from reason
                if channel.requested:
                    self._swallows_until = time.monotonic() + _SWALLOWED_FOR
            except SessionRefused as reason:
                # the first time it may be a session that is about to go
                if refused:
                    channel.refused()
                refused = True
                process.close()
                patience.wait(reason)
            except MasterGone:
                process.close()
                self.spares.drop()
                logins += 1
                if logins > _MOST_LOGINS:
                    raise
                self.revive()
            except BaseException:
                process.close()
                raise
            else:
                if time.monotonic() > self._swallows_until:
                    self.spares.refill()
                return process

    def facts(self) -> Facts:
        """What is known of the live master; where none lives, a login is made.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        facts = self._listening()
        if facts is None:
            # of many threads one asks, or logs in
            with self._asking:
                facts = self._listening()
                if facts is None:
                    facts = ensure.ensure(self.master.destination, login=self._login, person=self._person)
        if not facts.shell:
            raise ConnectionFailed(
                "the far side runs no command of ours",
                host=facts.host,
                advice="a restricted account? use ossh-run",
            )
        return facts

    def _listening(self) -> Facts | None:
        """What is known of a master that seems to live, by a local look."""
        facts = self.master.facts()
        if (
            facts is None
            or not control_socket.listens(Path(facts.socket))
            or not control_socket.responds(facts)
        ):
            return None
        return facts

    def revive(self) -> None:
        """Make sure that a master lives, after one was found dead.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        ensure.ensure(self.master.destination, login=self._login, person=self._person)

    def _take(self, facts: Facts, request: Request, deadline: float | None) -> Channel:
        """A spare channel, or a new one that has the request with it."""
        self._forked()
        stdin = time.monotonic() > self._swallows_until
        if not stdin and request.frames:
            raise reads_stdin(self.master.destination.host, "so no command can be sent input")
        spare = self.spares.take() if stdin else None
        if spare is not None:
            return spare
        slot = self._slots.wait(deadline)
        script = request.script(facts.shell)
        try:
            # input waits for the end of the start-up files, so the command does too; and one under a key
            # outlives us, so what was given up before it began must never begin
            go = not request.frames and request.once is None
            channel = Channel(self.master, facts, self._slots, slot, script, stdin=stdin, go=go)
        except BaseException:
            self._slots.give(slot)
            raise
        if not stdin and not channel.requested:
            channel.close_later()
            raise reads_stdin(self.master.destination.host, "so no long command can be sent")
        return channel

    def _forked(self) -> None:
        if self._owner != os.getpid():
            # the parent's channels are not ours, and its threads may have held the locks
            self._owner = os.getpid()
            self._asking = threading.Lock()

    def close(self) -> None:
        """Close what is open but unused."""
        self.spares.close()
