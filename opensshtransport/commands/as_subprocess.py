"""`Commands`: what `Transport.run` and `Transport.start` do, with the options of `subprocess`.

The trap: `Transport` declares by overloads which option returns what; names and defaults are only here.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, Any, BinaryIO, Literal, TypedDict

from opensshtransport.commands import streams
from opensshtransport.commands.command import CommandRequest, CompletedCommand
from opensshtransport.commands.execution import Execution
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.commands.streams import Input, Output, Sink, TextMode
from opensshtransport.errors import CommandTimeout
from opensshtransport.sessions.connection import Connection

Command = str | Sequence[str]

Began = Callable[[RemoteProcess[Any]], object] | None


class StartOptions(TypedDict, total=False):
    """The options of `Transport.start`, except for those that make its streams text."""

    stdin: IO[Any] | int | None
    stdout: Output
    stderr: Output
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    login_shell: bool
    timeout: float | None


class RunOptions(StartOptions, total=False):
    """The options of `Transport.run`, except for those that make its output text."""

    input: Input | None
    capture_output: bool
    check: bool
    once: str | None
    max_output: int | None


class Bytes(TypedDict, total=False):
    """Output is bytes, which is the default."""

    text: Literal[False] | None
    encoding: None
    errors: None
    universal_newlines: Literal[False] | None


class Either(TypedDict, total=False):
    """Whether output is text is known only at run time."""

    text: bool | None
    encoding: str | None
    errors: str | None
    universal_newlines: bool | None


class RunBytes(RunOptions, Bytes, total=False):
    """`RunOptions`, for bytes."""


class RunAny(RunOptions, Either, total=False):
    """`RunOptions`, for either."""


class StartBytes(StartOptions, Bytes, total=False):
    """`StartOptions`, for bytes."""


class StartAny(StartOptions, Either, total=False):
    """`StartOptions`, for either."""


class Commands:
    """Runs and starts commands on one connection, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._execution = Execution(connection)
        self._host = connection.host

    def run(
        self,
        command: Command,
        *,
        input: Input | None = None,  # noqa: A002 - subprocess.run's name
        stdin: IO[Any] | int | None = None,
        stdout: Output = None,
        stderr: Output = None,
        capture_output: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        shell: object = None,
        login_shell: bool = False,
        once: str | None = None,
        max_output: int | None = None,
        began: Began = None,
    ) -> CompletedCommand[Any]:
        """See `Transport.run`; `began` is called with the process as soon as there is one, to end it."""
        streams.check_shell(shell)
        streams.check_outputs(stdout, stderr, capture_output=capture_output)
        mode = streams.text_mode(
            text=text, encoding=encoding, errors=errors, universal_newlines=universal_newlines
        )
        source = streams.given_input(input, stdin)
        request = CommandRequest(
            command=command,
            cwd=cwd,
            env=env,
            login_shell=login_shell,
            once=once,
            frames=source is not None,
            merged=_merged(stderr),
        )
        request.script("")  # a wrong command is refused before anything is touched
        out, kept_out = _kept(stdout, mode, max_output)
        err, kept_err = _kept(None if request.merged else stderr, mode, max_output)
        kept_err = None if request.merged else kept_err

        def completed(returncode: int) -> CompletedCommand[Any]:
            return CompletedCommand(
                request.argv,
                returncode,
                _signal(returncode),
                _read(kept_out, mode),
                _read(kept_err, mode),
                self._host,
            )

        try:
            process = self._execution.run(
                request,
                out,
                err,
                lambda running: _feed(running, source, mode),
                timeout=timeout,
                began=began,
            )
        except CommandTimeout as error:
            done = error.completed = completed(124)
            error.output, error.stderr = done.stdout, done.stderr
            raise
        done = completed(process.returncode if process.returncode is not None else 255)
        if check:
            done.check_returncode()
        return done

    def start(
        self,
        command: Command,
        *,
        stdin: IO[Any] | int | None = PIPE,
        stdout: Output = PIPE,
        stderr: Output = PIPE,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        shell: object = None,
        login_shell: bool = False,
    ) -> RemoteProcess[Any]:
        """See `Transport.start`."""
        streams.check_shell(shell)
        streams.check_outputs(stdout, stderr)
        mode = streams.text_mode(
            text=text, encoding=encoding, errors=errors, universal_newlines=universal_newlines
        )
        # True and False are the older way of asking for it, before it took what Popen takes
        asked = stdin is True or stdin == PIPE
        source = None if asked or stdin is False else streams.given_input(None, stdin)
        request = CommandRequest(
            command=command,
            cwd=cwd,
            env=env,
            login_shell=login_shell,
            frames=asked or source is not None,
            merged=_merged(stderr),
        )
        request.script("")  # a wrong command is refused before anything is touched
        with contextlib.ExitStack() as unless_started:
            ends = [
                _pipe(unless_started, target, mode)
                for target in (stdout, DEVNULL if request.merged else stderr)
            ]
            deadline = None if timeout is None else time.monotonic() + timeout
            process = self._execution.start(request, ends[0][0], ends[1][0], deadline=deadline)
            unless_started.pop_all()
        process.has_pipes([reader for _, reader, _ in ends], stdin=asked, text=mode)
        process.when_read([writer for _, _, writer in ends])
        if source is not None:
            threading.Thread(
                target=process.feed, args=(lambda running: _feed(running, source, mode),), daemon=True
            ).start()
        return process


def _merged(stderr: Output) -> bool:
    return isinstance(stderr, int) and stderr == STDOUT


def _kept(target: Output, mode: TextMode | None, limit: int | None) -> tuple[Sink, io.BytesIO | None]:
    """The sink of a stream, and where it is kept; None if it goes elsewhere."""
    sink = streams.sink_of(target, mode)
    if sink is not None:
        return sink, None
    buffer = io.BytesIO()
    return (buffer.write if limit is None else streams.limited(buffer, limit)), buffer


def _read(kept: io.BytesIO | None, mode: TextMode | None) -> Any:
    if kept is None:
        return None
    return kept.getvalue() if mode is None else mode.decoded(kept.getvalue())


def _pipe(
    unless_started: contextlib.ExitStack, target: Output, mode: TextMode | None
) -> tuple[Sink, IO[Any] | None, BinaryIO | None]:
    """The sink of a process's stream, and the ends of a pipe: the caller's, and ours, to be closed."""
    sink = streams.sink_of(target, mode)
    if sink is not None:
        return sink, None, None
    reading, writing = os.pipe()
    writer = unless_started.enter_context(os.fdopen(writing, "wb", buffering=0))
    reader: IO[Any] = unless_started.enter_context(os.fdopen(reading, "rb"))
    if mode is not None:
        reader = io.TextIOWrapper(reader, mode.encoding, mode.errors)
    return streams.to_descriptor(writing), reader, writer


def _feed(process: RemoteProcess[Any], source: Any, mode: TextMode | None) -> None:
    for piece in streams.pieces(source, mode):
        process.send_input(piece)
    process.end_input()


def _signal(returncode: int) -> signal.Signals | None:
    with contextlib.suppress(ValueError):
        return signal.Signals(returncode - 128) if returncode > 128 else None
    return None
