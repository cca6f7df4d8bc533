"""Running commands through channels, warm ones and spares.

A command gets a channel that was opened in advance, so that it takes one round trip; spares are opened in the
background. Nothing runs twice: only what is known not to have started is tried again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from opensshtransport.commands.command import CommandRequest
from opensshtransport.commands.process import RemoteProcess, Swallowed
from opensshtransport.commands.streams import Sink
from opensshtransport.errors import CommandTimeout, ConnectionFailed, MasterGone, SessionRefused
from opensshtransport.master.facts import Facts
from opensshtransport.sessions.channel import Channel, reads_stdin
from opensshtransport.sessions.connection import Connection

# For how long to remember that a start-up file has read the bootstrap's stdin.
_SWALLOWED_FOR = 600.0


class Execution:
    """Runs commands on one connection, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._host = connection.host
        self._swallows_until = 0.0

    def start(
        self, request: CommandRequest, out: Sink, err: Sink, *, deadline: float | None = None
    ) -> RemoteProcess[Any]:
        """Start a command; it has started when this returns.

        Raises:
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
            OSError: the directory does not exist.
        """
        return self._attempt(
            request, out, err, lambda process: process.begin(deadline), deadline, streams=True
        )

    def run(
        self,
        request: CommandRequest,
        out: Sink,
        err: Sink,
        feed: Callable[[RemoteProcess[Any]], None],
        *,
        timeout: float | None = None,
        began: Callable[[RemoteProcess[Any]], object] | None = None,
    ) -> RemoteProcess[Any]:
        """Run a command to its end.

        Args:
            request: what to run.
            out: the sink of its output.
            err: the sink of its error output.
            feed: sends its input; called in a thread of its own if `request.frames`.
            timeout: seconds until the remote process group is ended.
            began: called with the process as soon as there is one.

        Raises:
            CommandTimeout: it was ended.
            ConnectionFailed: one of its kinds, with `started` as far as it is known.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def to_the_end(process: RemoteProcess[Any]) -> None:
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
                what = f"the command ran longer than {timeout:g} s and was ended"
                error = CommandTimeout(what, host=self._host, argv=process.argv)
                error.cmd, error.timeout = process.args, timeout
                raise error from reason
            except BaseException:
                process.end()
                raise

        return self._attempt(request, out, err, to_the_end, deadline)

    def _attempt(
        self,
        request: CommandRequest,
        out: Sink,
        err: Sink,
        go_on: Callable[[RemoteProcess[Any]], None],
        deadline: float | None,
        *,
        streams: bool = False,
    ) -> RemoteProcess[Any]:
        spares, refusals = self._connection.spares, itertools.count()

        def once() -> RemoteProcess[Any] | None:
            """Run it; returns None if a start-up file has read what was meant for the command."""
            facts = self._connection.facts(advice="a restricted account? use ossh-run")
            channel = self._take(facts, request, deadline)
            process: RemoteProcess[Any] = RemoteProcess(
                self._connection.master, channel, request, facts.shell, out=out, err=err, streams=streams
            )
            with contextlib.ExitStack() as failed:
                failed.callback(process.close)
                try:
                    spares.attend()
                    go_on(process)
                except Swallowed as reason:
                    spares.drop()
                    if request.frames:
                        raise reads_stdin(self._host, "so no command can be sent input") from reason
                    if channel.requested:
                        self._swallows_until = time.monotonic() + _SWALLOWED_FOR
                    return None
                except SessionRefused:
                    # the first time it may be a session that is about to end
                    if next(refusals):
                        channel.refused()
                    raise
                except MasterGone:
                    spares.drop()
                    raise
                failed.pop_all()
            return process

        process = None
        while process is None:
            process = self._connection.attempt(once, deadline)
        if time.monotonic() > self._swallows_until:
            spares.refill()
        return process

    def _take(self, facts: Facts, request: CommandRequest, deadline: float | None) -> Channel:
        """A spare channel, or a new one that is opened with the request."""
        stdin = time.monotonic() > self._swallows_until
        if not stdin and request.frames:
            raise reads_stdin(self._host, "so no command can be sent input")
        spare = self._connection.spares.take() if stdin else None
        if spare is not None:
            return spare
        slot = self._connection.slots.wait(deadline)
        # input waits for the end of the start-up files, so the command does too. A command under a key
        # outlives us, so one that was given up before it began must never begin
        go = not request.frames and request.once is None
        channel = self._connection.open(facts, request.script(facts.shell), slot, stdin=stdin, go=go)
        if not stdin and not channel.requested:
            channel.close_later()
            raise reads_stdin(self._host, "so no long command can be sent")
        return channel
