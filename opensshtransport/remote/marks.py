"""The marks that separate start-up noise from a command's own output, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from opensshtransport.errors import ConnectionFailed

_LONGEST_NOISE = 1 << 16

# The most bytes of a line of the bootstrap's own.
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the bootstrap's own: `ready`, `started`, `end STATUS`, `refused WHY`.

    If the command gets input in frames, `here` arrives every few seconds, and `heard` answers the frame `P`.
    """

    kind: str
    value: str = ""


class Stream:
    """Splits a stream into the command's bytes and the bootstrap's lines. No I/O.

    Args:
        mark: begins the first line, `ready MARK`, which announces the mark of all later ones.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self._buffer = b""
        self._ready = False
        self._opening = b""
        self._before = b""

    def opens_with(self, line: str) -> None:
        """Also drop what comes before this line: the command's own shell reads start-up files too."""
        self._opening = line.encode() + b"\n"

    def feed(self, piece: bytes) -> Iterator[bytes | Event]:
        """Take what has arrived; yields bytes of the command and events, in order.

        Raises:
            ConnectionFailed: a line of the bootstrap's own has no end, or makes no sense.
        """
        self._buffer += piece
        while True:
            begin = self._buffer.find(self._mark)
            if begin < 0:
                break
            end = self._buffer.find(b"\n", begin)
            if end < 0:
                if len(self._buffer) - begin > _LONGEST_LINE:
                    raise ConnectionFailed("the server sends an endless line")
                break
            before, line = self._buffer[:begin], self._buffer[begin + len(self._mark) : end]
            self._buffer = self._buffer[end + 1 :]
            if before and self._ready and (before := self._opened(before)):
                yield before
            kind, _, value = line.decode(errors="replace").strip().partition(" ")
            if kind == "ready":
                self._ready = True
                if re.fullmatch(r"[0-9a-f]{32}", value):
                    self._mark, value = value.encode(), ""
            if kind == "end" and value and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
                raise ConnectionFailed("the server sent something that is not a status")
            if kind == "end" and self._before:
                # the shell did not get as far as its first line: a mistake in the command, which it reports
                yield self._before
                self._before = b""
            yield Event(kind, value)
        held = len(self._buffer) - (begin if begin >= 0 else self._possible_mark())
        out, self._buffer = self._buffer[: len(self._buffer) - held], self._buffer[len(self._buffer) - held :]
        if out and self._ready and (out := self._opened(out)):
            yield out

    def _opened(self, piece: bytes) -> bytes:
        """The part of a piece that comes after the opening line."""
        if not self._opening:
            return piece
        self._before += piece
        begin = self._before.find(self._opening)
        if begin < 0:
            # endless noise must not fill the memory
            self._before = self._before[-_LONGEST_NOISE:]
            return b""
        rest = self._before[begin + len(self._opening) :]
        self._opening = self._before = b""
        return rest

    def _possible_mark(self) -> int:
        """The position where an incomplete mark may begin."""
        size = len(self._buffer)
        for length in range(min(len(self._mark) - 1, size), 0, -1):
            if self._buffer.endswith(self._mark[:length]):
                return size - length
        return size

    @property
    def holds(self) -> bool:
        """Whether something is held back that may be the beginning of a mark."""
        return bool(self._buffer)

    def rest(self) -> bytes:
        """What was held back, once the stream has ended."""
        rest, self._buffer = self._buffer, b""
        return self._opened(rest) if self._ready else b""
