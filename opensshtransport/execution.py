"""Running commands through channels: exact status, streams, timeouts that end the far side, and `once`.

A command gets a channel that is open already, so that it costs one round trip; spares are opened in the
background. Nothing runs twice: only what is known not to have started is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import select
import shlex
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from opensshtransport import master as masters
from opensshtransport.channel import LONGEST_FIRST_REQUEST, Channel, Event, Slots, Stream
from opensshtransport.ending import GRACE, end_group, log_error, logged_status
from opensshtransport.errors import (
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    OnceError,
    SessionRefused,
    SettingsError,
)
from opensshtransport.master import Facts, Master

__all__ = ["CompletedCommand", "Execution", "RemoteProcess", "Request"]

_PIECE = 1 << 18
# One argument of a command line holds 131,071 bytes on Linux (execve(2), MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 120_000
# How often a reader looks whether ssh still lives.
_LOOK = 0.25
_IDLE = 20.0
_MOST_LOGINS = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_PATIENCE = 120.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@:-]{0,199}")

Sink = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """How a command ended. Source of the names: subprocess.CompletedProcess.

    Attributes:
        argv: the command as it was given: a sequence, or a string alone.
        returncode: 0 to 255, as the remote shell tells it: 128+N where signal N killed it.
        signal: that signal, or None.
        stdout, stderr: what it printed; text where an encoding was given; None where it went elsewhere.
    """

    argv: tuple[str, ...]
    returncode: int
    signal: signal.Signals | None
    stdout: bytes | str | None
    stderr: bytes | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command and how it is to be run, checked before anything is touched.

    Attributes:
        command: a sequence, which is quoted, or a string for the remote login shell.
        cwd: the directory to run it in; relative to the home directory.
        env: further variables.
        login_shell: as at a login: the shell reads its profile.
        once: the key under which it runs only once.
        frames: it reads input from us; else it reads nothing.
    """

    command: str | Sequence[str]
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    login_shell: bool = False
    once: str | None = None
    frames: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        """The command as it was given."""
        return (self.command,) if isinstance(self.command, str) else tuple(self.command)

    @property
    def text(self) -> str:
        """The command as the remote shell reads it.

        Raises:
            SettingsError: it holds a NUL, or is empty.
        """
        text = self.command if isinstance(self.command, str) else shlex.join(self.command)
        if "\0" in text:
            raise SettingsError("the command holds a NUL", advice="send such bytes on stdin")
        if not text.strip():
            raise SettingsError("the command is empty", advice="give a command")
        return text

    def script(self, shell: str) -> str:
        """The request as the bootstrap reads it.

        Raises:
            SettingsError: a part of it is wrong.
        """
        text = self.text
        lines = []
        if self.cwd is not None:
            lines.append(f"enter {_directory(os.fspath(self.cwd))}")
        for name, value in (self.env or {}).items():
            if not _NAME.fullmatch(name) or "\0" in value:
                raise SettingsError(
                    f"{name!r} cannot be set as a variable", advice="use letters, digits and _"
                )
            lines.append(f"export {name}={shlex.quote(value)}")
        mode = "frames" if self.frames else "none"
        words = ['"$SHELL"', "-c"]
        if self.login_shell and PurePosixPath(shell).name in {"csh", "tcsh"}:
            # csh takes -l alone only
            text = f"if ( -r ~/.login ) source ~/.login\n{text}"
        elif self.login_shell:
            words.insert(1, "-l")
        # SHELL may be missing, or start-up files may have taken it for their own
        lines.insert(0, f"SHELL={shlex.quote(shell)}")
        if self.once is not None:
            if not _KEY.fullmatch(self.once):
                raise SettingsError(
                    f"{self.once!r} is no key", advice="use up to 200 letters, digits and _.+=@:-"
                )
            claim = [
                *self.argv,
                os.fspath(self.cwd or ""),
                *sorted(f"{k}={v}" for k, v in (self.env or {}).items()),
            ]
            digest = hashlib.sha256("\0".join(claim).encode("utf-8", "surrogateescape")).hexdigest()
            run = f"once {self.once} {digest} {mode} {' '.join(words)} {shlex.quote(text)}"
        elif len(os.fsencode(text)) > _LONGEST_ARGUMENT:
            run = f"script {mode} {shlex.quote(text)}"
        else:
            run = f"run {mode} {' '.join(words)} {shlex.quote(text)}"
        return "\n".join([*lines, run])


def _directory(path: str) -> str:
    if not path or "\0" in path:
        raise SettingsError(f"cwd = {path!r} is not a directory's name", advice="correct it")
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:])
    # `cd -` would be the last directory
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


@dataclass(slots=True)
class _State:
    """What is known of a running command; guarded by the process's condition."""

    started: bool = False
    status: int | None = None
    refused: str | None = None
    ended: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)


class RemoteProcess:
    """A command that runs on the far side. Names follow subprocess.Popen.

    Attributes:
        argv: the command as it was given.
        stdin: to write to, or None.
        stdout, stderr: to read from, or None where they go elsewhere.
        returncode: None while it runs; see `CompletedCommand`.
    """

    def __init__(
        self, execution: Execution, channel: Channel, request: Request, out: Sink, err: Sink, *, fresh: bool
    ) -> None:
        self.argv = request.argv
        self.returncode: int | None = None
        self.stdin: _Input | None = _Input(self) if request.frames else None
        self.stdout: BinaryIO | None = None
        self.stderr: BinaryIO | None = None
        self._execution = execution
        self._request = request
        self._channel = channel
        self._state = _State()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._sent = fresh
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
            while not self._stopping.is_set():
                if not _readable(pipe, _LOOK):
                    if self._channel.ssh.poll() is None or _readable(pipe, 0):
                        continue
                    # ssh has gone, and the master keeps the pipe open
                    break
                piece = os.read(pipe.fileno(), _PIECE)
                if not piece:
                    break
                for part in stream.feed(piece):
                    if isinstance(part, bytes):
                        sink(part)
                    elif self._note(name, part):
                        return
        except (OSError, ValueError) as reason:
            # our own side's sink, or the pipe was closed under us
            self._failure = self._failure or reason
        finally:
            with self._changed:
                self._state.closed.add(name)
                self._changed.notify_all()

    def _note(self, name: str, event: Event) -> bool:
        """Take note of a line of the bootstrap's; whether the stream has ended by it."""
        with self._changed:
            if event.kind == "started":
                self._state.started = True
            elif event.kind == "refused":
                self._state.refused = event.value
            elif event.kind == "end" and event.value:
                self._state.status = int(event.value)
            if event.kind in {"end", "refused"}:
                self._state.ended.add(name)
            self._changed.notify_all()
        return event.kind in {"end", "refused"}

    def _wait_for(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        with self._changed:
            while not condition() and len(self._state.closed) < 2:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def when_read(self, writers: Sequence[BinaryIO]) -> None:
        """Close our ends of the pipes when the command's output has ended."""

        def close(thread: threading.Thread, writer: BinaryIO) -> None:
            thread.join()
            writer.close()

        for thread, writer in zip(self._threads, writers, strict=True):
            threading.Thread(target=close, args=(thread, writer), daemon=True).start()

    def begin(self, deadline: float | None) -> None:
        """Wait until the command has started.

        Raises:
            CommandTimeout: it has not by the deadline; the session is closed.
            ConnectionFailed, OSError, OnceError: it has not, and why.
        """
        if not self._wait_for(lambda: self._state.started or self._state.refused is not None, deadline):
            self.close()
            raise CommandTimeout("the command did not start in time", host=self._channel.host)
        if not self._state.started:
            raise self._lost()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command, not of what it left in the background.

        Args:
            timeout: seconds; None for ever. The command goes on after it.

        Raises:
            TimeoutError: it still runs.
            ConnectionLost: the connection broke.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._wait_for(lambda: len(self._state.ended) == 2, deadline):
            raise TimeoutError(errno.ETIMEDOUT, "the command still runs")
        if self.returncode is None:
            if self._failure is not None and len(self._state.ended) < 2:
                self.kill()
                self.close()
                raise self._failure
            if self._state.status is None:
                error = self._lost()
                self.close()
                raise error
            self.returncode = self._state.status
            self._say(b"Q\n")
            self._execution.finish(self._channel)
        return self.returncode

    def poll(self) -> int | None:
        """The return code, or None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole remote process group."""
        if self.returncode is None:
            self._say(b"S %b\n" % number.name.removeprefix("SIG").encode())

    def terminate(self) -> None:
        """Ask the remote process group to end (TERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the remote process group (KILL)."""
        self.send_signal(signal.SIGKILL)

    def end(self, grace: float = GRACE) -> None:
        """End the remote process group: TERM, after the grace KILL, and if all fails by another session."""
        for step, patience in ((self.terminate, grace), (self.kill, grace)):
            step()
            if self._wait_for(lambda: len(self._state.ended) == 2, time.monotonic() + patience):
                break
        else:
            # it may be that the far side is stuck with input that nobody reads
            facts = self._execution.master.facts()
            if facts is not None:
                end_group(self._execution.master, facts, self._channel.tag)
        self.close()

    def close(self) -> None:
        """Give the session back. A command that still runs is ended by that."""
        self._stopping.set()
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        for thread in self._threads:
            # nobody may close a pipe that another thread reads: its number may be somebody else's by then
            if thread is not threading.current_thread():
                thread.join()
        self._execution.finish(self._channel)

    def __enter__(self) -> RemoteProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None and self.poll() is None:
            self.end()
        self.close()

    def send_input(self, raw: bytes) -> None:
        """Send input in frames, of which each is small enough to let a signal through."""
        for begin in range(0, len(raw), _PIECE):
            piece = raw[begin : begin + _PIECE]
            self._say(b"%d\n%b" % (len(piece), piece))

    def end_input(self) -> None:
        """Tell the end of the input."""
        self._say(b"E\n")

    def _say(self, raw: bytes) -> None:
        # a command that has ended reads no more; how it ended is told elsewhere
        with self._sending, contextlib.suppress(BrokenPipeError, ValueError):
            self._channel.send(raw)

    def send_request(self, script: str) -> None:
        """Send the request to a channel that waits for one."""
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._sent = True
            self._channel.request(script)

    def _lost(self) -> BaseException:
        """What it means that the command did not start, or that no status came."""
        host, refused = self._channel.host, self._state.refused
        if refused is not None:
            return _refusal(refused, host, self._request)
        with contextlib.suppress(Exception):
            self._channel.ssh.wait(2)
        words = self._channel.words()
        error = log_error(words, host)
        if self._state.started:
            return ConnectionLost(
                "the connection was lost while the command ran", host=host, started=True, stderr=words
            )
        if isinstance(error, SessionRefused | MasterGone):
            return error
        status = logged_status(words)
        if status is not None:
            return ConnectionFailed(
                f"the far side runs no command of ours (status {status})",
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


def _refusal(why: str, host: str, request: Request) -> BaseException:
    if why.startswith("E"):
        number = getattr(errno, why)
        place = f"{host}:{os.fspath(request.cwd)}" if request.cwd is not None else host
        return OSError(number, os.strerror(number), place)
    if why == "other-command":
        return OnceError(
            f"the key {request.once!r} belongs to another command", host=host, advice="use another key"
        )
    return OnceError(
        f"the command under the key {request.once!r} was cut down (reboot, or killed)",
        host=host,
        advice="look whether it took effect, then use another key",
    )


def _readable(pipe: BinaryIO, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(timeout * 1000))


class _Input:
    """The remote command's stdin: `write` and `close`."""

    def __init__(self, process: RemoteProcess) -> None:
        self._process = process
        self.closed = False

    def write(self, raw: bytes) -> int:
        """Send bytes; returns when they are on their way."""
        if self.closed:
            raise ValueError("write to closed file")
        self._process.send_input(raw)
        return len(raw)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Tell the end of the input."""
        if not self.closed:
            self.closed = True
            self._process.end_input()


class Execution:
    """Runs commands on one destination, from any number of threads."""

    def __init__(self, master: Master, *, login: bool = True, person: bool = True) -> None:
        self.master = master
        self._login, self._person = login, person
        self._slots = Slots(master)
        self._guard = threading.Lock()
        self._spares: list[Channel] = []
        self._wanted = 1
        self._opening = 0
        self._closed = False
        self._owner = os.getpid()
        self._used = time.monotonic()
        self._tidier: threading.Thread | None = None

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
        return self._attempt(request, out, err, lambda process: process.begin(deadline), deadline)

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
                threading.Thread(target=feed, args=(process,), daemon=True).start()
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
    ) -> RemoteProcess:
        patience = time.monotonic() + _PATIENCE if deadline is None else deadline
        pause, logins = _FIRST_PAUSE, 0
        while True:
            facts = self._facts()
            script = request.script(facts.shell)
            channel, fresh = self._take(facts, script, deadline)
            process = RemoteProcess(self, channel, request, out, err, fresh=fresh)
            if not fresh:
                process.send_request(script)
            try:
                go_on(process)
            except SessionRefused:
                process.close()
                self._slots.learn(self._slots.in_use() - 1)
                if time.monotonic() + pause > patience:
                    raise
                # nothing on this side tells when a session of another program ends
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except MasterGone:
                process.close()
                self._drop_spares()
                logins += 1
                if logins > _MOST_LOGINS:
                    raise
                masters.ensure(self.master.destination, login=self._login, person=self._person)
            except BaseException:
                process.close()
                raise
            else:
                self._refill()
                return process

    def _facts(self) -> Facts:
        facts = self.master.facts()
        if facts is None or not masters.listens(Path(facts.socket)):
            facts = masters.ensure(self.master.destination, login=self._login, person=self._person)
        if not facts.shell:
            raise ConnectionFailed(
                "the far side runs no command of ours",
                host=facts.host,
                advice="a restricted account? use ossh-run",
            )
        return facts

    def _take(self, facts: Facts, script: str, deadline: float | None) -> tuple[Channel, bool]:
        """A spare channel, or a new one that has the request with it."""
        with self._guard:
            self._forked()
            self._used = time.monotonic()
            while self._spares:
                channel = self._spares.pop(0)
                if channel.ssh.poll() is None:
                    return channel, False
                channel.close()
            # none was ready although there were some: more are needed
            self._wanted = min(self._wanted + 1, max(1, self._slots.limit // 2))
        patience = time.monotonic() + _PATIENCE if deadline is None else deadline
        slot = self._slots.wait(None if deadline is None else patience)
        eager = len(script) <= LONGEST_FIRST_REQUEST
        try:
            channel = Channel(self.master, facts, self._slots, slot, script if eager else "")
        except BaseException:
            self._slots.give(slot)
            raise
        return channel, eager

    def finish(self, channel: Channel) -> None:
        """Give a channel back; the waiting for ssh's end is done elsewhere."""
        threading.Thread(target=channel.close, daemon=True).start()

    def _refill(self) -> None:
        """Open spares in the background, as many as use has shown to be needed."""
        with self._guard:
            missing = self._wanted - len(self._spares) - self._opening
            if self._closed or missing <= 0 or self._slots.limit < 3:
                return
            self._opening += missing
            if self._tidier is None:
                self._tidier = threading.Thread(target=self._tidy, daemon=True)
                self._tidier.start()
        for _ in range(missing):
            threading.Thread(target=self._open_spare, daemon=True).start()

    def _open_spare(self) -> None:
        channel = None
        try:
            facts = self.master.facts()
            # the last slot is for somebody who has a command to run
            if facts is None or self._slots.wanted() or self._slots.in_use() >= self._slots.limit - 1:
                return
            slot = self._slots.take()
            if slot is None:
                return
            try:
                channel = Channel(self.master, facts, self._slots, slot)
            except BaseException:
                self._slots.give(slot)
                raise
        except OSError:
            # a spare is a convenience: whoever needs a session will meet the reason
            return
        finally:
            with self._guard:
                self._opening -= 1
                if channel is not None and not self._closed:
                    self._spares.append(channel)
                    channel = None
            if channel is not None:
                channel.close()

    def _tidy(self) -> None:
        """Close spares that nobody uses, or that somebody else waits for."""
        while True:
            with self._guard:
                idle = time.monotonic() - self._used > _IDLE
                if idle:
                    self._wanted = 1
                    self._tidier = None
                surplus = self._spares if idle or self._slots.wanted() else []
                dropped = surplus[:]
                surplus.clear()
            for channel in dropped:
                channel.close()
            if idle:
                return
            time.sleep(0.1)

    def _drop_spares(self) -> None:
        with self._guard:
            dropped, self._spares = self._spares, []
        for channel in dropped:
            self.finish(channel)

    def _forked(self) -> None:
        if self._owner != os.getpid():
            # the parent's channels are not ours
            self._owner = os.getpid()
            self._spares, self._opening, self._tidier = [], 0, None

    def close(self) -> None:
        """Close what is open but unused."""
        with self._guard:
            self._closed = True
            dropped, self._spares = self._spares, []
        for channel in dropped:
            channel.close()


def check(completed: CompletedCommand, host: str) -> CompletedCommand:
    """Raise where a command failed.

    Raises:
        CommandFailed: its return code is not 0.
    """
    if completed.returncode == 0:
        return completed
    how = f"was killed by {completed.signal.name}" if completed.signal else f"returned {completed.returncode}"
    said = completed.stderr or b""
    text = said if isinstance(said, str) else said.decode(errors="replace")
    error = CommandFailed(
        f"{shlex.join(completed.argv) if len(completed.argv) > 1 else completed.argv[0]!r} {how}",
        host=host,
        argv=completed.argv,
        returncode=completed.returncode,
        stderr=text,
    )
    error.completed = completed
    raise error
