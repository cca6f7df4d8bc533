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
from opensshtransport.channel import Channel, Event, Slots, Stream
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
# How long a start-up file may take before it is taken for one that waits for input, and for how long that is
# believed.
_READY_WITHIN = 10.0
_READY_FOR_INPUT_WITHIN = 60.0
_SWALLOWED_FOR = 600.0
# Seconds for a few bytes to go where input may be in the way.
_WORD_WITHIN = 2.0
_MOST_LOGINS = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_PATIENCE = 120.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Shells that read start-up files whenever they start; those of the others were read when the channel opened.
_REREADING = {"zsh", "csh", "tcsh", "fish"}
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
        quoted = shlex.quote(text)
        if opening := self.opening(shell, "$0"):
            quoted = f"\"/bin/sh -c 'echo {opening}; echo {opening} >&2'$ossh_nl\"{quoted}"
        if len(os.fsencode(text)) > _LONGEST_ARGUMENT:
            lines.append(f"spill {quoted}")
            words[-1:], quoted = [], '"$ossh_file"'
        run = f"run {mode}"
        if self.once is not None:
            run = f"once {self.once} {self._digest} {mode}"
        return "\n".join([*lines, f"{run} {' '.join(words)} {quoted}"])

    def opening(self, shell: str, tag: str) -> str:
        """The line before which start-up files still print, or "" where there are none to be read again.

        Args:
            shell: the login shell.
            tag: the channel's; what is kept under a key outlives the channel, and has the key's digest.
        """
        if PurePosixPath(shell).name not in _REREADING and not self.login_shell:
            return ""
        return f"{tag if self.once is None else self._digest} begins"

    @property
    def _digest(self) -> str:
        """What tells one command under a key from another.

        Raises:
            SettingsError: the key is none.
        """
        if self.once is None or not _KEY.fullmatch(self.once):
            raise SettingsError(
                f"{self.once!r} is no key", advice="use up to 200 letters, digits and _.+=@:-"
            )
        env = [f"{name}={value}" for name, value in sorted((self.env or {}).items())]
        kind = "text" if isinstance(self.command, str) else "words"
        claim = [kind, str(len(self.argv)), *self.argv, os.fspath(self.cwd or ""), *env]
        return hashlib.sha256("\0".join(claim).encode("utf-8", "surrogateescape")).hexdigest()


def _directory(path: str) -> str:
    if not path or "\0" in path:
        raise SettingsError(f"cwd = {path!r} is not a directory's name", advice="correct it")
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:])
    # `cd -` would be the last directory
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


class _Swallowed(Exception):
    """A start-up file read what was meant for the bootstrap, or waits for more; nothing has started."""


@dataclass(slots=True)
class _State:
    """What is known of a running command; guarded by the process's condition."""

    asked: bool = False
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
        self,
        execution: Execution,
        channel: Channel,
        request: Request,
        shell: str,
        out: Sink,
        err: Sink,
        *,
        streams: bool = False,
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
        self._script = None if channel.requested else request.script(shell)
        self._sent = channel.requested
        # a spare may have been ready for long
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
            while not self._stopping.is_set():
                if not _readable(pipe, _LOOK):
                    if self._channel.ssh.poll() is None or _readable(pipe, 0):
                        if name == "out" and not self._state.asked:
                            self._look_why()
                        continue
                    # ssh has gone, and the master keeps the pipe open
                    break
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
        """Take note of a line of the bootstrap's; whether the command's part of the stream has ended."""
        if event.kind == "ready" and name == "out":
            self._ask()
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

    def _look_why(self) -> None:
        """Where start-up files take long: one of them may wait for the end of its input.

        Raises:
            _Swallowed: it seems so, and nothing has begun.
        """
        waited = time.monotonic() - self._began
        if self._request.frames:
            if waited > _READY_FOR_INPUT_WITHIN:
                raise _Swallowed
        elif waited > _READY_WITHIN and not self._sent:
            raise _Swallowed
        elif waited > _READY_WITHIN and self._channel.heard:
            # now it ends; the bootstrap tells whether anything was left for it
            self._channel.let_go()

    def _ask(self) -> None:
        """Send the request: now start-up files read no more of what is sent."""
        with self._sending, contextlib.suppress(BrokenPipeError):
            with self._changed:
                if self._stopping.is_set():
                    return
                self._state.asked = True
                self._changed.notify_all()
            if self._script is None:
                self._channel.go()
            else:
                self._sent = True
                self._channel.request(self._script)

    def _wait_for(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        with self._changed:
            while not condition() and len(self._state.closed) < 2 and self._failure is None:
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
            raise self._failure or self._lost()

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
                self.close()
                raise self._failure
            if self._state.status is None:
                error = self._lost()
                self.close()
                raise error
            self.returncode = self._state.status
            self._say(b"Q\n", _WORD_WITHIN)
            self._stopping.set()
            self._execution.finish(self._channel, after=self._threads)
        return self.returncode

    def poll(self) -> int | None:
        """The return code, or None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole remote process group."""
        if self.returncode is None:
            self._say(b"S %b\n" % number.name.removeprefix("SIG").encode(), _WORD_WITHIN)

    def terminate(self) -> None:
        """Ask the remote process group to end (TERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the remote process group (KILL)."""
        self.send_signal(signal.SIGKILL)
        threading.Thread(target=self._see_it_killed, daemon=True).start()

    def _see_it_killed(self) -> None:
        deadline = time.monotonic() + _WORD_WITHIN
        if not self._wait_for(lambda: len(self._state.ended) == 2, deadline) and not self._stopping.is_set():
            self._end_from_outside()

    def end(self, grace: float = GRACE) -> None:
        """End the remote process group: TERM, after the grace KILL, and if all fails by another session."""
        with self._changed:
            if not self._state.asked:
                # nobody listens yet, and from now on nothing begins
                self._stopping.set()
        if not self._stopping.is_set():
            # what outlives the command itself is ended there, also when we are gone
            heard = self._channel.heard and self._say(b"K %d\n" % grace, _WORD_WITHIN)
            deadline = time.monotonic() + grace + _WORD_WITHIN
            if not heard or not self._wait_for(lambda: len(self._state.ended) == 2, deadline):
                self._end_from_outside()
        self.close()

    def _end_from_outside(self) -> None:
        """End the group by another session: the far side is stuck with input that nobody reads."""
        facts = self._execution.master.facts()
        if facts is not None:
            end_group(self._execution.master, facts, self._channel.tag)

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
        self._execution.finish(self._channel, at_once=not self._state.asked)

    def __enter__(self) -> RemoteProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None and self.poll() is None:
            self.end()
        self.close()

    def send_input(self, raw: bytes) -> None:
        """Send input in frames, of which each is small enough to let a signal through.

        Raises:
            BrokenPipeError: the command has ended, or the connection.
        """
        self._wait_for(lambda: self._state.asked, None)
        for begin in range(0, len(raw), _PIECE):
            piece = raw[begin : begin + _PIECE]
            if len(self._state.ended) == 2 or not self._say(b"%d\n%b" % (len(piece), piece)):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def end_input(self) -> None:
        """Tell the end of the input."""
        self._wait_for(lambda: self._state.asked, None)
        self._say(b"E\n")

    def feed(self, source: Callable[[RemoteProcess], None]) -> None:
        """Send all input; an error of its source ends the command."""
        # what is read from a source cannot be read again, so it waits until there is somebody to take it
        self._wait_for(lambda: self._state.asked, None)
        if not self._state.asked:
            return
        try:
            source(self)
        except BrokenPipeError:
            # a command that has ended reads no more; how it ended is told elsewhere
            return
        except Exception as reason:  # the caller's own source may raise anything
            with self._changed:
                self._failure = self._failure or reason
                self._changed.notify_all()

    def _say(self, raw: bytes, patience: float = -1) -> bool:
        """Send something; whether that went well."""
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
        """What it means that the command did not start, or that no status came."""
        host, refused = self._channel.host, self._state.refused
        if refused == "swallowed":
            return _Swallowed()
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
        self._finishing: list[threading.Thread] = []
        self._closed = False
        self._owner = os.getpid()
        self._used = time.monotonic()
        self._tidier: threading.Thread | None = None
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
        patience = time.monotonic() + _PATIENCE if deadline is None else deadline
        pause, logins = _FIRST_PAUSE, 0
        while True:
            facts = self._facts()
            channel = self._take(facts, request, deadline)
            process = RemoteProcess(self, channel, request, facts.shell, out, err, streams=streams)
            try:
                go_on(process)
            except _Swallowed as reason:
                process.close()
                self._drop_spares()
                if request.frames:
                    raise self._no_input() from reason
                if channel.requested:
                    self._swallows_until = time.monotonic() + _SWALLOWED_FOR
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

    def _no_input(self) -> ConnectionFailed:
        return ConnectionFailed(
            "a start-up file of the login shell reads stdin, so no command can be sent input",
            host=self.master.destination.host,
            advice="let it read only where `test -t 0` holds",
        )

    def _facts(self) -> Facts:
        facts = self.master.facts()
        if facts is None or not masters.listens(Path(facts.socket)):
            # of many threads one asks, or logs in
            with self._asking:
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

    def _take(self, facts: Facts, request: Request, deadline: float | None) -> Channel:
        """A spare channel, or a new one that has the request with it."""
        self._forked()
        stdin = time.monotonic() > self._swallows_until
        if not stdin and request.frames:
            raise self._no_input()
        with self._guard:
            self._used = time.monotonic()
            while self._spares and stdin:
                channel = self._spares.pop(0)
                if channel.ssh.poll() is None:
                    return channel
                self.finish(channel)
            # none was ready although there were some: more are needed
            self._wanted = min(self._wanted + 1, max(1, self._slots.limit // 2))
        patience = time.monotonic() + _PATIENCE if deadline is None else deadline
        slot = self._slots.wait(None if deadline is None else patience)
        script = request.script(facts.shell)
        if not stdin:
            script = f"ossh_stays=yes\n{script}"
        try:
            # input waits for the end of the start-up files, so the command does too; and one under a key
            # outlives us, so what was given up before it began must never begin
            go = not request.frames and request.once is None
            channel = Channel(self.master, facts, self._slots, slot, script, stdin=stdin, go=go)
        except BaseException:
            self._slots.give(slot)
            raise
        if not stdin and not channel.requested:
            self.finish(channel)
            raise ConnectionFailed(
                "a start-up file of the login shell reads stdin, so no long command can be sent",
                host=self.master.destination.host,
                advice="let it read only where `test -t 0` holds",
            )
        return channel

    def finish(
        self, channel: Channel, *, after: Sequence[threading.Thread] = (), at_once: bool = False
    ) -> None:
        """Give a channel back; the waiting for ssh's end, and for those who read it, is done elsewhere."""

        def close() -> None:
            for thread in after:
                thread.join()
            channel.close(at_once=at_once)

        threading.Thread(target=close, daemon=True).start()

    def _refill(self) -> None:
        """Open spares in the background, as many as use has shown to be needed."""
        with self._guard:
            missing = self._wanted - len(self._spares) - self._opening
            swallows = time.monotonic() < self._swallows_until
            if self._closed or swallows or missing <= 0 or self._slots.limit < 3:
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
            # the parent's channels are not ours, and its threads may have held the locks
            self._owner = os.getpid()
            self._guard, self._asking = threading.Lock(), threading.Lock()
            self._spares, self._opening, self._tidier, self._finishing = [], 0, None, []

    def close(self) -> None:
        """Close what is open but unused."""
        with self._guard:
            self._closed = True
            dropped, self._spares = self._spares, []
            finishing = self._finishing[:]
        for channel in dropped:
            channel.close()
        for thread in finishing:
            thread.join()


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
