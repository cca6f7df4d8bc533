"""Large files in parts: how many streams, which parts, and which blocks the other side already has."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass

MIB = 1 << 20

_PIECE = 1 << 18

# Bytes of a channel's window (OpenSSH's channels.h, CHAN_SES_WINDOW_DEFAULT).
_WINDOW = 2 * MIB

# Bytes a second that ssh encrypts on one core: more streams than that takes are useless.
_ENCRYPTS = 600e6

_MOST = 8

_LEAST_SHARE, _MOST_PART = 4 * MIB, 32 * MIB

# The blocks that are compared with a draft: about 256 per file, of at most this many MiB.
_BLOCKS, _LARGEST_BLOCK = 256, 16


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file: its offset and its size in bytes."""

    offset: int
    size: int


def streams_for(round_trip: float, size: int) -> int:
    """How many streams are worth opening.

    Args:
        round_trip: seconds.
        size: bytes to be moved.
    """
    worth = -(-round_trip * _ENCRYPTS // _WINDOW)
    return max(1, min(_MOST, int(worth), -(-size // _LEAST_SHARE)))


def mibs_of_block(size: int) -> int:
    """How many MiB of a file are compared at once, if a part of it has arrived."""
    return max(1, min(_LARGEST_BLOCK, size // (_BLOCKS * MIB)))


def blocks_with_data(descriptor: int, size: int) -> set[int]:
    """Which blocks of a local file are not entirely holes."""
    block = mibs_of_block(size) * MIB
    found: set[int] = set()
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as reason:
            if reason.errno == errno.ENXIO:
                break
            # a file system that does not support this
            return set(range(-(-size // block)))
        offset = os.lseek(descriptor, begin, os.SEEK_HOLE)
        found.update(range(begin // block, -(-offset // block)))
    return found


def missing_parts(
    size: int,
    there: Sequence[str],
    ours: Sequence[str],
    filled: Container[int] | None = None,
) -> list[Part]:
    """What is still to be moved, in parts as long as possible.

    Args:
        size: of the file.
        there: checksums of the draft's blocks.
        ours: checksums of the source's blocks, as many as there are of the draft.
        filled: blocks of the source that are not holes; None for all.
    """
    block = mibs_of_block(size) * MIB
    missing: list[list[int]] = []
    for number in range(-(-size // block)):
        if number < len(there):
            if number < len(ours) and there[number] == ours[number]:
                continue
        elif filled is not None and number not in filled:
            continue
        begin, end = number * block, min(size, (number + 1) * block)
        if missing and missing[-1][1] == begin:
            missing[-1][1] = end
        else:
            missing.append([begin, end])
    return [Part(begin, end - begin) for begin, end in missing]


class Missing:
    """What is still to be moved of a file. Any thread may take parts."""

    def __init__(self, parts: Sequence[Part], streams: int) -> None:
        """Nothing is taken yet.

        Args:
            parts: what is to be moved, in order.
            streams: how many work in parallel.
        """
        self._parts = deque(parts)
        self._streams = streams
        self._guard = threading.Lock()
        self.left = sum(part.size for part in parts)

    def take(self) -> Part | None:
        """The next part, or None if none is left."""
        with self._guard:
            if not self._parts:
                return None
            first = self._parts.popleft()
            size = first.size
            if self._streams > 1:
                # half of each stream's share: so all of them finish at about the same time
                share = max(_WINDOW, self.left // (2 * self._streams)) // MIB * MIB
                # anyone who waits for a session gets it after a part
                share = min(share, _MOST_PART)
                size = min(size, share)
            if size < first.size:
                self._parts.appendleft(Part(first.offset + size, first.size - size))
            self.left -= size
            return Part(first.offset, size)


def block_sums(descriptor: int, size: int, count: int) -> list[str]:
    """The checksums of the first blocks of a local file, up to a size."""
    block = mibs_of_block(size) * MIB
    sums = []
    for number in range(count):
        digest = hashlib.sha256()
        offset, end = number * block, (number + 1) * block
        while offset < end and (piece := os.pread(descriptor, min(_PIECE, end - offset), offset)):
            digest.update(piece)
            offset += len(piece)
        sums.append(digest.hexdigest())
    return sums


def holes(seen: os.stat_result) -> int:
    """Bytes of a file that are on no disk; less than 0 if its blocks hold more than the file (stat(2))."""
    return seen.st_size - seen.st_blocks * 512
