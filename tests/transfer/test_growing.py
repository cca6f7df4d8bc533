"""Files that are written to while they are moved: of a log its beginning arrives, a mixture never."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensshtransport.transfer.options import Way
from tests.transfer.test_transfer import (
    DIRECTIONS,
    MIB,
    Direction,
    Sides,
    _Changing,
    drafts,
    far,
    make,
    sides,
)

__all__ = ["far", "sides"]

# Bytes of a log when it is looked at: within one request, by parts, and by parts in a tree.
SMALL, LARGE, HUGE = 1000, 12 * MIB, 65 * MIB


@contextlib.contextmanager
def growing(*logs: Path) -> Iterator[None]:
    """Some lines are added to these all the time, as a job does; at least one while it lasts."""
    over, added = threading.Event(), threading.Event()

    def add() -> None:
        number = 0
        while not over.is_set():
            for log in logs:
                with log.open("ab", buffering=0) as file:
                    file.write(b"step %d\n" % number)
            number += 1
            added.set()
            time.sleep(0.0005)

    writer = threading.Thread(target=add)
    writer.start()
    try:
        assert added.wait(10)
        yield
    finally:
        over.set()
        writer.join()


def is_beginning(arrived: Path, source: Path, least: int) -> bool:
    """Whether a file holds what another one held at some time."""
    content = arrived.read_bytes()
    return len(content) >= least and source.read_bytes().startswith(content)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("size", "way", "verify"),
    [
        (SMALL, None, False),
        (SMALL, "stream", False),
        (SMALL, None, True),
        (LARGE, None, False),
        (LARGE, None, True),
        (LARGE, "inline", False),
        (LARGE, "sftp", False),
        (LARGE, "scp", False),
    ],
)
def test_a_log_that_grows(
    size: int, way: Way | None, verify: bool, direction: Direction, sides: Sides
) -> None:
    """It arrives as it was when it was looked at, five times of five, also over earlier content."""
    source, target = sides.ends(direction)
    log = source / "log"
    log.write_bytes(random.Random(1).randbytes(size))
    sides.give(source)
    with growing(log):
        for _ in range(5 if size == SMALL else 2):
            least = log.stat().st_size
            sides.move(direction, log, target, way=way, verify=verify)
            assert is_beginning(target / "log", log, least)
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("names", "size", "verify", "way"),
    [
        (("log", "other"), SMALL, False, None),
        (("log", "other"), SMALL, False, "tar"),
        (("log", "other"), SMALL, True, None),
        (("log", "sub/log", "sub/other"), LARGE, False, None),
        (("log", "sub/log"), LARGE, True, None),
        (("log",), HUGE, False, None),
    ],
    ids=["flat", "flat-tar", "flat-verify", "deep", "deep-verify", "by-parts"],
)
def test_a_tree_with_logs_that_grow(
    names: tuple[str, ...], size: int, verify: bool, way: Way | None, direction: Direction, sides: Sides
) -> None:
    """All of it arrives, also where nothing but files is in it, and where all is there already."""
    source, target = sides.ends(direction)
    make(source, {f"tree/{name}": random.Random(2).randbytes(size) for name in names})
    sides.give(source)
    logs = [source / "tree" / name for name in names if name.endswith("log")]
    with growing(*logs):
        for _ in range(2 if size == SMALL else 1):
            least = {log: log.stat().st_size for log in logs}
            sides.move(direction, f"{source}/tree/.", target / "new", way=way, verify=verify)
            for name in names:
                path = source / "tree" / name
                assert is_beginning(target / "new" / name, path, least.get(path, size))
    assert drafts(sides.here, sides.there) == []


def overwritten(path: Path) -> None:
    """The same size, other bytes."""
    with path.open("r+b") as file:
        file.write(random.Random(5).randbytes(path.stat().st_size))


def rewritten(path: Path) -> None:
    """Cut, and longer than before, as a log is by copytruncate."""
    path.write_bytes(random.Random(6).randbytes(path.stat().st_size + 1000))


def replaced(path: Path) -> None:
    """Another file of this name, size and time."""
    new, seen = path.with_name("new"), path.stat()
    new.write_bytes(random.Random(7).randbytes(seen.st_size))
    os.chown(new, seen.st_uid, seen.st_gid)
    os.utime(new, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    new.replace(path)


def cut(path: Path) -> None:
    """Shorter."""
    os.truncate(path, 6 * MIB)


CHANGES: list[Callable[[Path], None]] = [overwritten, rewritten, replaced, cut]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree", "flat"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_mixture_arrives(
    change: Callable[[Path], None], kind: str, direction: Direction, sides: Sides
) -> None:
    """What is another file meanwhile, or was cut, is an error; an old version that is whole may come."""
    source, target = sides.ends(direction)
    below = {"file": "file", "tree": "tree/sub/file", "flat": "tree/file"}[kind]
    path = source / below
    make(source, {below: random.Random(3).randbytes(LARGE)})
    if kind != "file":
        make(source, {"tree/other": b"other"})
    before = path.read_bytes()
    sides.give(source)
    top = below.partition("/")[0]
    raised = None
    try:
        sides.move(
            direction, source / top, target / "new", progress=_Changing(lambda: change(path)), limit_rate=15e6
        )
    except OSError as reason:
        raised = reason
    arrived = target / "new" / below.partition("/")[2] if kind != "file" else target / "new"
    if change is replaced and (direction == "put") == (kind == "file"):
        # it was opened once, and read to its end
        assert raised is None
        assert arrived.read_bytes() == before
    else:
        assert raised is not None
        assert raised.errno == errno.EBUSY, raised
        assert not arrived.exists()
    if kind != "file":
        assert (target / "new/other").read_bytes() == b"other"
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_only_touched_arrives(direction: Direction, sides: Sides) -> None:
    """Neither a new time nor a new name of a file is a change of its content."""
    source, target = sides.ends(direction)
    path = source / "file"
    path.write_bytes(random.Random(3).randbytes(LARGE))
    sides.give(source)

    def act() -> None:
        os.utime(path, (1, 1))
        (source / "more").hardlink_to(path)

    sides.move(direction, path, target, progress=_Changing(act), limit_rate=15e6)
    assert (target / "file").read_bytes() == path.read_bytes()


def test_what_has_no_size_is_read_to_its_end(sides: Sides) -> None:
    """Files of /proc say that they are empty, and are not."""
    _, target = sides.ends("get")
    sides.move("get", "/proc/version", target)
    assert (target / "version").read_text() == Path("/proc/version").read_text()
