"""Parts of large files: which are missing, how many go side by side, and what is a hole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.sessions.requests import Reply
from opensshtransport.transfer.archive import umask
from opensshtransport.transfer.blocks import (
    MIB,
    Missing,
    Part,
    block_sums,
    blocks_with_data,
    mibs_of_block,
    missing_parts,
    streams_for,
)
from opensshtransport.transfer.crew import reply_errno
from opensshtransport.transfer.drafts import claimed


@pytest.mark.parametrize(
    ("round_trip", "size", "streams"),
    [
        (0.0002, 10 << 30, 1),
        (0.005, 10 << 30, 2),
        (0.05, 10 << 30, 8),
        (0.05, 9 * MIB, 3),
        (1.0, 10 << 30, 8),
        (0.05, 1, 1),
        (0.05, 0, 1),
    ],
)
def test_streams(round_trip: float, size: int, streams: int) -> None:
    """One stream on loopback, eight over a long way, and none that would carry next to nothing."""
    assert streams_for(round_trip, size) == streams


_sizes = st.integers(0, 80 * MIB)


@given(_sizes, st.lists(st.sampled_from("ab"), max_size=90), st.sets(st.integers(0, 90)))
def test_parts_are_what_is_missing(size: int, there: list[str], filled: set[int]) -> None:
    """Each byte is in one part, or its block is known to have arrived, or it is in a hole."""
    blocks = -(-size // MIB)
    there = there[:blocks]
    ours = ["a"] * len(there)
    parts = missing_parts(size, there, ours, filled)
    covered = set()
    for part in parts:
        assert part.size > 0
        assert part.offset % MIB == 0
        for block in range(part.offset // MIB, -(-(part.offset + part.size) // MIB)):
            assert block not in covered
            covered.add(block)
    for block in range(blocks):
        wanted = there[block] != "a" if block < len(there) else block in filled
        assert (block in covered) == wanted
    assert all(part.offset + part.size <= size for part in parts)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60 * MIB)), max_size=5), st.integers(1, 8))
def test_streams_take_all_of_it(pieces: list[tuple[int, int]], streams: int) -> None:
    """What streams take, one after the other, is all that is missing, in its order, and no byte twice."""
    parts, end = [], 0
    for gap, size in pieces:
        begin = -(-end // MIB) * MIB + gap * MIB
        parts.append(Part(begin, size))
        end = begin + size
    missing = Missing(parts, streams)
    taken: list[Part] = []
    while (part := missing.take()) is not None:
        assert part.size > 0
        assert part.offset % MIB == 0
        if taken and taken[-1].offset + taken[-1].size == part.offset:
            part = Part(taken[-1].offset, taken.pop().size + part.size)
        taken.append(part)
    assert missing.left == 0
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].offset + joined[-1].size == part.offset:
            part = Part(joined[-1].offset, joined.pop().size + part.size)
        joined.append(part)
    assert taken == joined


def test_parts_become_smaller() -> None:
    """One stream takes all at once; of several each takes half of its share of what is left."""
    assert Missing([Part(0, 200 * MIB)], 1).take() == Part(0, 200 * MIB)
    missing = Missing([Part(0, 200 * MIB)], 8)
    sizes = [part.size // MIB for part in iter(missing.take, None)]
    assert sizes[:2] == [12, 11]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2:] == [2, 1]


@pytest.mark.parametrize(
    ("size", "mibs"), [(0, 1), (255 * MIB, 1), (1 << 30, 4), (10 << 30, 16), (1 << 50, 16)]
)
def test_blocks(size: int, mibs: int) -> None:
    """About 256 blocks, and none so large that much is sent again."""
    assert mibs_of_block(size) == mibs


def test_sums_of_blocks(tmp_path: Path) -> None:
    """Each block has its own sum; a block that is not whole has another one than it will have."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * MIB + b"b" * 10)
    with path.open("rb") as file:
        assert block_sums(file.fileno(), 2 * MIB, 2) == [
            hashlib.sha256(b"a" * MIB).hexdigest(),
            hashlib.sha256(b"b" * 10).hexdigest(),
        ]


def test_holes_are_found(tmp_path: Path) -> None:
    """Blocks that are holes as a whole are not among those with data."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"x")
        file.truncate(9 * MIB)
    with path.open("rb") as file:
        assert blocks_with_data(file.fileno(), 9 * MIB) == {5}
    path.write_bytes(b"x" * 3 * MIB)
    with path.open("rb") as file:
        assert blocks_with_data(file.fileno(), 3 * MIB) == {0, 1, 2}
        assert blocks_with_data(file.fileno(), 0) == set()


def test_the_errno_of_several_lines() -> None:
    """The last line that shows an errno counts."""
    said = "dd: error writing 'x': No space left on device\n1+0 records in\nnothing"
    assert os.strerror(reply_errno(Reply(b"", said, 1))) == "No space left on device"


def test_claims(isolated: Path) -> None:
    """The same words give the same draft again, but to one at a time; other words another one."""
    with claimed("a", "b") as first:
        with claimed("a", "b") as second:
            assert second != first
        with claimed("a", "c") as third:
            assert third not in {first, second}
    with claimed("a", "b") as again:
        assert again == first
    assert list(isolated.rglob("moving/*")) == []
    assert umask() == os.umask(umask())


def test_claims_of_the_killed_are_swept(isolated: Path) -> None:
    """What a killed transfer has left goes with the next one, but not what is new, or held by another."""
    with claimed("held"):
        (held,) = isolated.rglob("moving/*")
        directory = held.parent
        for name in ("old", "new"):
            (directory / name).touch()
        for name in ("old", held.name):
            os.utime(directory / name, (1, 1))
        with claimed("another") as another:
            assert {path.name for path in directory.iterdir()} == {"new", held.name, another}
