"""A command that runs on the remote side through a channel: its streams, signals, end and exact status.

The trap: input and signals use the same stream, so behind input that the command does not read, neither a
signal nor the end arrives. Then a separate session brings the signal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, Generic

from opensshtransport.commands.command import CommandRequest, T, refusal
from opensshtransport.commands.communication import Communication, InputPipe
from opensshtransport.commands.streams import Sink, TextMode
from opensshtransport.errors import (
    CommandTimeout,
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    SessionRefused,
    SettingsError,
)
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh.diagnosis import log_error, logged_status
from opensshtransport.remote.marks import Event, Stream
from opensshtransport.sessions import remote_kill
from opensshtransport.sessions.channel import Channel
from opensshtransport.sessions.reader import Reader
from opensshtransport.sessions.remote_kill import NO_STATUS, end_group, signal_group

_PIECE = 1 << 18

# Seconds after which a slow start-up file is assumed to wait for input.
_READY_WITHIN = 10.0

_READY_FOR_INPUT_WITHIN = 60.0

# Seconds that a few bytes may take if input may be in the way.
_WORD_WITHIN = 2.0


class Swallowed(Exception):
    """A start-up file read what was meant for the bootstrap, or waits for more; nothing has started."""


@dataclass(slots=True)
class _State:
    """What is known of a running command; guarded by the process's condition."""

    asked: bool = False
    started: bool = False
    status: int | None = None
    refused: str | None = None
    heard: int = 0
    ended: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)


class RemoteProcess(Generic[T]):
    """A command that runs on the remote side. Names follow subprocess.Popen.

    Attributes:
        args, argv: the command as it was given, and as a tuple.
        host: where it runs.
        stdin: to write to, or None.
        stdout, stderr: to read from, or None if they go elsewhere.
        returncode: None while it runs; see `CompletedCommand`.
    """

    def __init__(
        self,
        master: Master,
        channel: Channel,
        request: CommandRequest,
        shell: str,
        *,
        out: Sink,
        err: Sink,
        streams: bool = False,
    ) -> None:
        self.argv = request.argv
        self.args = request.command
        self.host = channel.host
        self.returncode: int | None = None
        self.stdin: InputPipe[T] | None = None
        self.stdout: IO[T] | None = None
        self.stderr: IO[T] | None = None
        self._text: TextMode | None = None
        self._communication: Communication | None = None
        self._master = master
        self._request = request
        self._channel = channel
        self._state = _State()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._told: BaseException | None = None
        self._script = None if channel.requested else request.script(shell)
        # a request that needs no word of ours may begin as soon as the master has it
        self._sent = channel.begins_at_once
        self._fed = False
        # a spare may have been ready for a long time
        self._began = time.monotonic()
        self._streams = streams
        if opening := request.opening(shell, channel.tag):
            for stream in (channel.out, channel.err):
                stream.opens_with(opening)
        self._threads = [
            threading.Thread(target=self._read, args=(name, stream, pipe, sink), daemon=True)
            for name, stream, pipe, sink in (
                ("out", channel.out, channel.ssh.stdout, out),
                ("err", channel.err, channel.ssh.stderr, err),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str, stream: Stream, pipe: BinaryIO, sink: Sink) -> None:
        try:
            reader = Reader(self._channel.ssh.poll, pipe)
            while not self._stopping.is_set():
                ready = reader.ready()
                if name == "out" and not self._state.asked and self._channel.ssh.poll() is None:
                    # start-up files may print endlessly
                    self._look_why()
                if ready is None:
                    break
                if not ready:
                    continue
                piece = os.read(pipe.fileno(), _PIECE)
                if not piece:
                    break
                for part in stream.feed(piece):
                    if isinstance(part, bytes):
                        sink(part)
                    elif self._note(name, part) and not self._streams:
                        return
            if rest := stream.rest():
                sink(rest)
        except Exception as reason:  # the caller's own sink may raise anything
            self._failure = self._failure or reason
        finally:
            with self._changed:
                self._state.closed.add(name)
                self._changed.notify_all()

    def _note(self, name: str, event: Event) -> bool:
        """Take note of a line of the bootstrap's; returns whether the command's output has ended."""
        if event.kind == "ready" and name == "out":
            self._ask()
        with self._changed:
            if event.kind == "started":
                self._state.started = True
            elif event.kind == "refused":
                self._state.refused = event.value
            elif event.kind == "heard":
                self._state.heard += 1
            elif event.kind == "end" and event.value:
                self._state.status = int(event.value)
            if event.kind in {"end", "refused"}:
                self._state.ended.add(name)
            self._changed.notify_all()
        return event.kind in {"end", "refused"}

    def _look_why(self) -> None:
        """Start-up files take long: one of them may wait for the end of its input.

        Raises:
            Swallowed: it seems so, and nothing has begun.
        """
        waited = time.monotonic() - self._began
        if self._request.frames:
            if waited > _READY_FOR_INPUT_WITHIN:
                raise Swallowed
        elif waited > _READY_WITHIN and not self._channel.requested:
            raise Swallowed
        elif waited > _READY_WITHIN and self._channel.heard:
            # now its input ends; the bootstrap reports whether anything was left for it
            self._channel.let_go()

    def _ask(self) -> None:
        """Send the request: from now on, start-up files read nothing of what is sent."""
        with self._sending, contextlib.suppress(BrokenPipeError):
            with self._changed:
                if self._stopping.is_set():
                    return
                self._state.asked = True
                self._changed.notify_all()
            self._sent = True
            if self._script is None:
                self._channel.go()
            else:
                self._channel.request(self._script)

    def _wait_for(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        with self._changed:
            while not condition() and len(self._state.closed) < 2 and self._failure is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def has_pipes(self, pipes: Sequence[IO[Any] | None], *, stdin: bool, text: TextMode | None) -> None:
        """Set what the caller reads and writes."""
        self.stdout, self.stderr = pipes
        self.stdin = InputPipe(self.send_input, self.end_input, text) if stdin else None
        self._text = text

    def when_read(self, writers: Sequence[BinaryIO | None]) -> None:
        """Close our ends of the pipes when the command's output has ended."""

        def close(thread: threading.Thread, writer: BinaryIO) -> None:
            thread.join()
            writer.close()

        for thread, writer in zip(self._threads, writers, strict=True):
            if writer is not None:
                threading.Thread(target=close, args=(thread, writer), daemon=True).start()

    def begin(self, deadline: float | None) -> None:
        """Wait until the command has started.

        Raises:
            CommandTimeout: it had not by the deadline; the session is closed.
            ConnectionFailed, OSError, OnceError: the reason why it has not.
        """
        if not self._wait_for(lambda: self._state.started or self._state.refused is not None, deadline):
            self.close()
            raise CommandTimeout("the command did not start in time", host=self._channel.host)
        if not self._state.started:
            raise self._failure or self._lost()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command, but not of what it left in the background.

        Args:
            timeout: seconds; None forever. The command goes on after it.

        Raises:
            CommandTimeout: it still runs.
            ConnectionLost: the connection broke.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._wait_for(lambda: len(self._state.ended) == 2, deadline):
            raise self._still_runs(timeout)
        if self.returncode is None:
            failure = self._failure if len(self._state.ended) < 2 else None
            status = None if failure is not None else self._state.status
            if self._told is not None or status is None:
                self._told = self._told or failure or self._lost()
                self.close()
                raise self._told
            self.returncode = status
            self._say(b"Q\n", _WORD_WITHIN)
            self._stopping.set()
            self._channel.close_later(after=self._threads)
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[T, T]:  # noqa: A002 - as Popen's
        """Send the input and its end, read all output, and wait. Ctrl-C ends the command.

        Args:
            input: bytes, text or a file, as for `run`.
            timeout: seconds; None for no limit. The command goes on after it and nothing is lost: call again.

        Returns:
            What arrived on stdout and stderr; None if that goes elsewhere.

        Raises:
            CommandTimeout: it is still running; `output` and `stderr` contain what has arrived.
            ConnectionLost: the connection broke.
        """
        begin = time.monotonic()
        if self._communication is None:
            if input is not None and self.stdin is None:
                raise SettingsError("the command reads nothing from us", advice="start it with stdin=PIPE")
            self._communication = Communication(self.stdin, input, (self.stdout, self.stderr))
        elif input is not None:
            raise SettingsError("input has been sent already", advice="ask again without input")
        empty = "" if self._text else b""
        try:
            if not self._communication.done(timeout):
                raise self._still_runs(timeout)
            self.wait(None if timeout is None else max(0.0, timeout - (time.monotonic() - begin)))
        except CommandTimeout as error:
            error.timeout = timeout
            error.output, error.stderr = self._communication.output(empty)
            raise
        except KeyboardInterrupt:
            self.end()
            raise
        return self._communication.output(empty)

    def _still_runs(self, timeout: float | None) -> CommandTimeout:
        error = CommandTimeout("the command is still running", host=self.host, argv=self.argv)
        error.cmd, error.timeout = self.args, timeout
        return error

    def poll(self) -> int | None:
        """The return code, or None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole remote process group.

        If the command has left input unread, a separate session brings the signal, which takes seconds. If
        the server grants none, the signal arrives after the input.
        """
        name = number.name.removeprefix("SIG")
        if self.returncode is None and (
            self._hears() or not self._from_outside(lambda facts: self._signal(facts, name))
        ):
            self._say(b"S %b\n" % name.encode(), _WORD_WITHIN)

    def _signal(self, facts: Facts, name: str) -> bool:
        return signal_group(self._master, facts, self._channel.sign, name)

    def _hears(self) -> bool:
        """Whether what is sent now will be read at once, because no input is in the way."""
        if not self._fed:
            return True
        before = self._state.heard
        if not self._say(b"P\n", _WORD_WITHIN):
            return False
        heard = self._wait_for(
            lambda: self._state.heard > before or len(self._state.ended) == 2,
            time.monotonic() + _WORD_WITHIN,
        )
        return heard and len(self._state.closed) < 2

    def terminate(self) -> None:
        """Ask the remote process group to end (TERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the remote process group (KILL)."""
        self.send_signal(signal.SIGKILL)

    def end(self, grace: float | None = None) -> None:
        """End the remote process group: TERM, KILL after the grace, and if that fails over another session.

        Args:
            grace: seconds; 5 by default.
        """
        grace = remote_kill.GRACE if grace is None else grace
        with self._changed:
            if not self._state.asked:
                # nobody reads signals yet, and from now on nothing begins
                self._stopping.set()
        if not self._stopping.is_set():
            # what outlives the command itself is ended on the host, even after we are gone
            heard = self._channel.heard and self._hears() and self._say(b"K %d\n" % grace, _WORD_WITHIN)
            if not heard or not self._wait_for(
                lambda: len(self._state.ended) == 2, time.monotonic() + grace + _WORD_WITHIN
            ):
                self._from_outside(lambda facts: self._end(facts, grace))
                # the status is on its way
                self._wait_for(lambda: len(self._state.ended) == 2, time.monotonic() + _WORD_WITHIN)
        self.close()

    def _end(self, facts: Facts, grace: float) -> bool:
        return end_group(self._master, facts, self._channel.sign, spared=True, grace=grace)

    def _from_outside(self, act: Callable[[Facts], bool]) -> bool:
        """Use another session: the remote side is stuck with input that nobody reads."""
        facts = self._master.facts()
        return facts is not None and act(facts)

    def close(self) -> None:
        """Close the session. A command that is still running is ended by that."""
        self._stopping.set()
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        for thread in self._threads:
            # a pipe that another thread reads must not be closed: its number may belong to another file by
            # then
            if thread is not threading.current_thread():
                thread.join()
        self._channel.close_later(at_once=not self._state.asked)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: host: {self.host!r} returncode: {self.returncode} args: {self.args!r}>"
        )

    def __enter__(self) -> RemoteProcess[T]:
        return self

    def __exit__(self, *_: object) -> None:
        # what `wait` has reported is not reported again
        if self.returncode is None and self._told is None and self.poll() is None:
            self.end()
        self.close()

    def send_input(self, raw: bytes) -> None:
        """Send input in frames, each small enough to let a signal through.

        Raises:
            BrokenPipeError: the command has ended, or the connection.
        """
        self._wait_for(lambda: self._state.asked, None)
        for begin in range(0, len(raw), _PIECE):
            piece = raw[begin : begin + _PIECE]
            self._fed = True
            if len(self._state.ended) == 2 or not self._say(b"%d\n%b" % (len(piece), piece)):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def end_input(self) -> None:
        """Tell the end of the input."""
        self._wait_for(lambda: self._state.asked, None)
        self._say(b"E\n")

    def feed(self, source: Callable[[RemoteProcess[Any]], None]) -> None:
        """Send all input; an error of its source ends the command."""
        # what is read from a source cannot be read again, so wait until there is somebody to receive it
        self._wait_for(lambda: self._state.asked, None)
        if not self._state.asked:
            return
        try:
            source(self)
        except BrokenPipeError:
            # a command that has ended reads nothing more; how it ended is reported elsewhere
            return
        except Exception as reason:  # the caller's own source may raise anything
            with self._changed:
                self._failure = self._failure or reason
                self._changed.notify_all()

    def _say(self, raw: bytes, patience: float = -1) -> bool:
        """Send something; returns whether that succeeded."""
        if not self._sending.acquire(timeout=patience):
            return False
        try:
            self._channel.send(raw)
        except BrokenPipeError:
            return False
        finally:
            self._sending.release()
        return True

    def _lost(self) -> BaseException:
        """The error for a command that did not start, or whose status did not arrive."""
        host, refused = self._channel.host, self._state.refused
        if refused == "swallowed":
            return Swallowed()
        if refused is not None:
            return refusal(refused, host, self._request)
        words = self._channel.last_words()
        error = log_error(words, host)
        if self._state.started:
            # ssh does not say how its session ended, but a master that is running has lost no connection
            alone = not self._channel.ssh.gave_up and self._channel.carried()
            what = NO_STATUS if alone else "the connection was lost while the command was running"
            return ConnectionLost(what, host=host, started=True, stderr=words)
        if isinstance(error, SessionRefused | MasterGone):
            return error
        status = logged_status(words)
        # a dying master sometimes reports the status, but not what was printed before
        if status is not None and (not self._sent or self._channel.carried()):
            return ConnectionFailed(
                f"the server runs none of our commands (status {status})",
                host=host,
                advice="a restricted account? use ossh-run",
                stderr=words,
            )
        if not self._sent:
            return MasterGone("the connection was lost before the command was sent", host=host, stderr=words)
        return ConnectionLost(
            "the connection was lost; it is not known whether the command had started",
            host=host,
            started=None,
            stderr=words,
        )
