"""A running command's streams at our end: its stdin, and all of its output collected."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, Generic

from opensshtransport.commands.command import T
from opensshtransport.commands.streams import TextMode, pieces

_CHUNK = 1 << 16


class InputPipe(Generic[T]):
    """The remote command's stdin. Nothing is buffered, so there is nothing to flush."""

    def __init__(
        self, send: Callable[[bytes], object], end: Callable[[], object], text: TextMode | None
    ) -> None:
        """What it writes to.

        Args:
            send: sends bytes.
            end: sends the end of the input.
            text: how text becomes bytes; bytes are always accepted.
        """
        self._send, self._end = send, end
        self._text = text or TextMode()
        self.closed = False

    def write(self, what: T | bytes) -> int:
        """Send text or bytes; returns when it is on its way.

        Raises:
            BrokenPipeError: the command or the connection has ended.
            ValueError: it has been closed.
        """
        if self.closed:
            raise ValueError("write to closed file")
        given: Any = what
        self._send(self._text.encoded(given) if isinstance(given, str) else given)
        return len(given)

    def writelines(self, lines: Iterable[T]) -> None:
        """Send several things."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Does nothing: nothing is buffered."""

    def writable(self) -> bool:
        """Whether it may be written to."""
        return not self.closed

    def close(self) -> None:
        """Send the end of the input."""
        if not self.closed:
            self.closed = True
            self._end()

    def __enter__(self) -> InputPipe[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Communication:
    """Moves all input and all output of a command at the same time, even while nobody waits for it."""

    def __init__(self, stdin: InputPipe[Any] | None, given: Any, outputs: Sequence[IO[Any] | None]) -> None:
        """Begin at once.

        Args:
            stdin: of the command; it is closed at the end.
            given: what to send, as for `run`.
            outputs: stdout and stderr; None for one that goes elsewhere.
        """
        self._failure: Exception | None = None
        self._came: list[list[Any] | None] = [None if pipe is None else [] for pipe in outputs]
        self._threads = [
            threading.Thread(target=self._gather, args=(pipe, came), daemon=True)
            for pipe, came in zip(outputs, self._came, strict=True)
            if pipe is not None and came is not None
        ]
        if stdin is not None:
            self._threads.append(threading.Thread(target=self._send, args=(stdin, given), daemon=True))
        for thread in self._threads:
            thread.start()

    def _gather(self, pipe: IO[Any], came: list[Any]) -> None:
        # text line by line, and bytes as they come
        read = getattr(pipe, "read1", None)
        try:
            while piece := pipe.readline() if read is None else read(_CHUNK):
                came.append(piece)
        except (OSError, ValueError) as reason:
            # somebody else has closed it, or it cannot be decoded
            self._failure = self._failure or reason

    def _send(self, stdin: InputPipe[Any], given: Any) -> None:
        try:
            for piece in pieces(given, None) if given is not None else ():
                stdin.write(piece)
            stdin.close()
        except BrokenPipeError:
            # a command that has ended reads nothing more
            pass
        except (OSError, ValueError) as reason:
            self._failure = self._failure or reason

    def done(self, timeout: float | None) -> bool:
        """Wait up to this many seconds; returns whether everything has been moved.

        Raises:
            OSError, ValueError: the output or the input cannot be read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        return not any(thread.is_alive() for thread in self._threads)

    def output(self, empty: Any) -> tuple[Any, Any]:
        """What has arrived on stdout and stderr so far; None if that goes elsewhere."""
        out, err = (None if came is None else empty.join(came) for came in self._came)
        return out, err
