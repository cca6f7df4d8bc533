"""`Session`: a script on the remote side whose stdin and stdout carry raw bytes, as fast as ssh moves them.

The trap: our ssh may be killed while the master keeps the pipes open, so neither reading nor writing may wait
forever; and a remote side that has failed reads no more, so its reason is read when writing fails.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shlex
import time
from collections.abc import Callable
from typing import IO

from opensshtransport.errors import ConnectionFailed, ConnectionLost, MasterGone, SessionRefused
from opensshtransport.openssh.diagnosis import log_error
from opensshtransport.remote.scripts import far_half
from opensshtransport.sessions.channel import Channel, reads_stdin
from opensshtransport.sessions.connection import Connection
from opensshtransport.sessions.reader import Reader
from opensshtransport.sessions.requests import Reply

_PIECE = 1 << 18

_PIPE = 1 << 20

# The most bytes of errors, and of output that nobody has read, that are kept.
_MOST_KEPT = 1 << 26

# This many of the last bytes contain what the remote side says when it fails.
_LAST_WORDS = 1 << 22

# Seconds between checks whether ssh is still running.
_LOOK = 0.25

# The capacity of a pipe before it is enlarged, if it can be (pipe(7)).
_SMALL_PIPE = 1 << 16

# Bytes a second, faster than any ssh reads. A full pipe is left alone for as long as such an ssh would need
# to empty it, and then filled with much at once: otherwise each page that ssh reads costs a switch between
# the two processes.
_FASTEST = 2e9

# Seconds after which a slow start-up file is assumed to wait for input.
_READY_WITHIN = 60.0

# fcntl(2), F_SETPIPE_SZ; Linux only
_SET_PIPE_SIZE = 1031

# splice(2), which passes pages on instead of copying them to us and back; Linux only
_SPLICE: Callable[[int, int, int, int | None, int | None], int] | None = getattr(os, "splice", None)


def open_session(
    connection: Connection, script: str, *, wait: bool = True, last: bool = False
) -> Session | None:
    """Start a script in a session of its own.

    Args:
        connection: to the destination.
        script: sh, with the functions of our `.sh` files.
        wait: whether to wait for a free session; otherwise returns None if there is none.
        last: take the last one too; it must be given back when another process waits for one.

    Raises:
        ConnectionFailed: one of its kinds; nothing had started.
    """
    request = f"ossh_script={shlex.quote(script)}\n{far_half()}\nonce_ <&4 4<&-"
    channel = connection.beside(request, wait=wait, last=last)
    return None if channel is None else Session(channel, request)


class Session:
    """One script; `finish` returns its outcome, `close` ends it."""

    def __init__(self, channel: Channel, request: str) -> None:
        """Wait until the start-up files are over, and let the request begin.

        Raises:
            ConnectionFailed: one of its kinds; nothing had started.
        """
        self._channel, self._request = channel, request
        self._parts: list[bytes] = []
        self._errors: list[bytes] | None = None
        self._kept = 0
        self._status: int | None = None
        self._ready = self._started = self._ended = False
        ssh = channel.ssh
        if ssh.stdout is None or ssh.stdin is None or ssh.stderr is None:
            raise AssertionError("a channel has pipes")
        self._out, self._in = ssh.stdout, ssh.stdin
        self._reader = Reader(ssh.poll, ssh.stdout, ssh.stderr)
        _enlarged(self._out)
        self._gather = _enlarged(self._in) / _FASTEST
        try:
            try:
                self._begin()
            except BrokenPipeError:
                # ssh ended before the request was told to begin
                raise self._why() from None
            os.set_blocking(self._in.fileno(), False)
        except BaseException:
            channel.close(at_once=True)
            raise

    def _begin(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        # input may follow the word to begin at once
        while not self._ready:
            piece = self._arrived(deadline)
            if not piece:
                raise self._why()
            self._take(piece)

    def _next(self) -> None:
        """Read what arrives next.

        Raises:
            ConnectionLost: nothing more arrives.
        """
        piece = self._arrived()
        if not piece:
            raise self._lost()
        self._take(piece)

    def _why(self) -> ConnectionFailed:
        """The reason why nothing has started."""
        words = self._channel.last_words()
        error = log_error(words, self._channel.host)
        if isinstance(error, SessionRefused):
            self._channel.refused()
            return error
        return MasterGone("the connection was lost", host=self._channel.host, stderr=words)

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            "the connection was lost",
            host=self._channel.host,
            started=True,
            stderr=self._channel.last_words(),
        )

    def _arrived(self, deadline: float | None = None) -> bytes:
        """The next bytes as they come; b"" if no more will.

        Raises:
            ConnectionFailed: the deadline for the start is over.
        """
        return os.read(self._out.fileno(), _PIECE) if self._arrives(deadline) else b""

    def _arrives(self, deadline: float | None = None) -> bool:
        """Wait until something arrives; False if ssh has ended and nothing will.

        Raises:
            ConnectionFailed: the deadline for the start is over.
        """
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise reads_stdin(self._channel.host, "or does not end")
            ready = self._reader.ready()
            if ready is None:
                return False
            if self._out.fileno() in ready:
                return True
            # what start-up files print on stderr must not fill its pipe
            for err in ready:
                if not os.read(err, _PIECE):
                    self._reader.drop(err)

    def _take(self, piece: bytes) -> None:
        for part in self._channel.out.feed(piece):
            if isinstance(part, bytes):
                (self._parts if self._errors is None else self._errors).append(part)
                if self._errors is not None:
                    self._bounded(part)
            elif part.kind == "ready":
                # from here on, start-up files read nothing of what is sent
                self._ready = True
                self._channel.begin(self._request)
            elif part.kind == "refused":
                raise reads_stdin(self._channel.host, "so nothing can be sent")
            elif part.kind == "started":
                self._started = True
            elif part.kind == "errors":
                self._errors = []
            elif part.kind == "end":
                self._status = int(part.value)
                self._ended = True

    def _bounded(self, piece: bytes) -> None:
        """Count what is kept.

        Raises:
            ConnectionFailed: it is too much.
        """
        self._kept += len(piece)
        if self._kept > _MOST_KEPT:
            raise ConnectionFailed("the server says more than can be kept", host=self._channel.host)

    def read(self, size: int = _PIECE) -> bytes:
        """Up to this many bytes of the script's output; b"" at its end.

        Raises:
            ConnectionLost: it broke before.
        """
        while not self._parts and self._errors is None and not self._ended:
            self._next()
        if not self._parts:
            return b""
        first = self._parts[0]
        if len(first) <= size:
            return self._parts.pop(0)
        self._parts[0] = first[size:]
        return first[:size]

    def receive(
        self,
        descriptor: int,
        offset: int,
        size: int,
        took: Callable[[int], object],
        *,
        skips: Callable[[bytes], bool] | None = None,
    ) -> bool:
        """Write this many bytes of the output into a regular file, without looking for final words.

        Args:
            descriptor: the file's, which can be read too.
            offset: where they begin.
            size: how many.
            took: called with the number of bytes that have arrived.
            skips: tells which pieces are not to be written. None writes all of them, in a faster way.

        Returns:
            Whether there were that many. If not, the end of what was written is the remote side's words, not
            output.

        Raises:
            ConnectionLost: it broke before.
        """
        end = offset + size
        while offset < end and (not self._started or self._parts or self._channel.out.holds):
            piece = self.read(min(_PIECE, end - offset))
            if not piece:
                return False
            offset += _write_at(descriptor, offset, piece, skips)
            took(len(piece))
        begin = offset
        while offset < end:
            moved = self._into(descriptor, offset, end - offset, skips)
            if not moved:
                kept = min(offset - begin, _LAST_WORDS)
                self._take(os.pread(descriptor, kept, offset - kept))
                self._parts.clear()
                if not self._ended:
                    raise self._lost()
                return False
            offset += moved
            took(moved)
        return True

    def _into(self, descriptor: int, offset: int, most: int, skips: Callable[[bytes], bool] | None) -> int:
        """Write what arrives next into a file; returns 0 if nothing will."""
        if not self._arrives():
            return 0
        if _SPLICE is not None and skips is None:
            try:
                # splice would go on as long as the pipe is refilled
                return _SPLICE(self._out.fileno(), descriptor, min(_PIPE, most), None, offset)
            except OSError as reason:
                # some file systems do not know it
                if reason.errno != errno.EINVAL:
                    raise
        return _write_at(descriptor, offset, os.read(self._out.fileno(), min(_PIECE, most)), skips)

    def write(self, raw: bytes | memoryview) -> int:
        """Send all of it.

        Raises:
            BrokenPipeError: the script reads no more; `finish` says why.
            ConnectionLost: it broke.
        """
        view = memoryview(raw)
        while view:
            self._room()
            view = view[os.write(self._in.fileno(), view) :]
        return len(raw)

    def send(self, descriptor: int, offset: int, size: int) -> int:
        """Send bytes of a regular file.

        Args:
            descriptor: the file's.
            offset: where they begin.
            size: at most this many.

        Returns:
            How many were sent; 0 at the end of the file.

        Raises:
            As `write`.
        """
        if _SPLICE is not None:
            self._room()
            try:
                return _SPLICE(descriptor, self._in.fileno(), size, offset, None)
            except OSError as reason:
                # some file systems do not know it
                if reason.errno not in {errno.EINVAL, errno.EAGAIN}:
                    raise
        return self.write(os.pread(descriptor, size, offset))

    def _room(self) -> None:
        """Wait until something can be sent."""
        poll = select.poll()
        poll.register(self._in.fileno(), select.POLLOUT)
        if poll.poll(0):
            return
        while not poll.poll(_LOOK * 1000):
            if self._channel.ssh.poll() is not None:
                raise BrokenPipeError
        time.sleep(self._gather)

    def end_input(self) -> None:
        """Send the end of the input."""
        self._in.close()

    def finish(self) -> Reply:
        """Send the end of the input, and wait for the script's.

        Raises:
            ConnectionLost: the connection broke before.
        """
        try:
            self.end_input()
            rest = []
            while piece := self.read():
                rest.append(piece)
                self._bounded(piece)
            while not self._ended:
                self._next()
            text = b"".join(self._errors or []).decode("utf-8", "surrogateescape")
            return Reply(b"".join(rest), text, self._status or 0)
        finally:
            self._channel.close(at_once=not self._ended)

    def halt(self) -> None:
        """End it from another thread: reading and writing then fail."""
        self._channel.ssh.kill()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._channel.close(at_once=not self._ended)


def _enlarged(pipe: IO[bytes]) -> int:
    """Enlarge a pipe if possible; returns its capacity in bytes."""
    try:
        return fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE)
    except OSError:
        return _SMALL_PIPE


def _write_at(descriptor: int, offset: int, piece: bytes, skips: Callable[[bytes], bool] | None) -> int:
    """Write a piece, or leave it out; returns its length."""
    view = memoryview(b"" if skips is not None and skips(piece) else piece)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return len(piece)
