"""put and get: numbered scenarios compared with `cp -r`, options, names, and real faults.

The host is another user, so that permissions count there; here everything is compared with what a local
`cp` makes of the same names.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import opensshtransport
from opensshtransport import Transport
from opensshtransport.errors import ConnectionFailed, SettingsError
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions import stream as session
from opensshtransport.transfer.meter import Transferred
from opensshtransport.transfer.options import Way
from opensshtransport.transfer.outcome import TransferFailed
from opensshtransport.transfer.progress import Progress
from tests.conftest import Keep, require
from tests.support.commands import PEAK
from tests.support.nodes import config_through, missing_programs
from tests.support.relay import Relay
from tests.support.users import User, missing_for_users, temporary_user, wait_until

Direction = Literal["put", "get"]
DIRECTIONS: tuple[Direction, ...] = ("put", "get")
MIB = 1 << 20
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Far:
    """The remote side: its node, its user, and a transport to it."""

    node: Sandbox
    user: User
    transport: Transport


@pytest.fixture(scope="session")
def far(passable: Path) -> Iterator[Far]:
    """A remote side, logged in before the test's own directories are set up."""
    require(missing_for_users() or missing_programs("sshd"))
    with temporary_user(passable) as user, Sandbox("far", user.name) as node:
        with Transport("far", ssh_config=node.ssh_config) as transport:
            assert transport.home() == str(user.home)
            yield Far(node, user, transport)


@dataclass(frozen=True, slots=True)
class Sides:
    """Directories of one test: of sources and destinations, here and there."""

    far: Far
    here: Path
    there: Path

    def give(self, path: Path) -> None:
        """All of it belongs to whom it should."""
        if path.is_relative_to(self.there):
            for one in (path, *path.rglob("*")):
                os.chown(one, self.far.user.uid, self.far.user.uid, follow_symlinks=False)

    def ends(self, direction: Direction) -> tuple[Path, Path]:
        """Where sources are, and where they go."""
        ends = (self.here / "source", self.there / "target")
        if direction == "get":
            ends = (self.there / "source", self.here / "target")
        for end in ends:
            end.mkdir(exist_ok=True)
            self.give(end)
        return ends

    def move(self, direction: Direction, *args: Any, **named: Any) -> Transferred:
        """put or get."""
        return getattr(self.far.transport, direction)(*args, **named)  # type: ignore[no-any-return]


@pytest.fixture
def sides(far: Far, isolated: Path) -> Iterator[Sides]:
    """Directories of this test."""
    there = far.user.home / f"test{next(_numbers)}"
    here = isolated / "here"
    for place in (here, there):
        place.mkdir()
    os.chown(there, far.user.uid, far.user.uid)
    yield Sides(far, here, there)
    shutil.rmtree(there, ignore_errors=True)


def listing(top: Path, *, times: bool = False) -> dict[str, tuple[object, ...]]:
    """What is below a directory: kind and mode, content or target, and the time."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        seen = path.lstat()
        what: object = None
        if path.is_symlink():
            what = str(path.readlink())
        elif path.is_file():
            what = path.read_bytes()
        found[str(path.relative_to(top))] = (
            "link" if path.is_symlink() else oct(seen.st_mode),
            what,
            seen.st_mtime_ns if times else None,
        )
    return found


def drafts(*tops: Path) -> list[Path]:
    """What transfers have left behind."""
    return [path for top in tops for path in top.rglob(".ossh-*")]


def make(top: Path, files: dict[str, bytes | str | None]) -> None:
    """Make files, directories (None) and links (text)."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


# -- scenarios -----------------------------------------------------------------------------------------

SOURCE: dict[str, bytes | str | None] = {
    "file": b"content",
    "program": b"#!/bin/sh\n",
    "dir/a": b"a",
    "dir/sub/b": b"b",
    "dir/.hidden": b"",
    "dir/empty": None,
    "one.in": b"1",
    "two.in": b"2",
    ".three.in": b"3",
    "[x]": b"no pattern",
}
LINKS: dict[str, bytes | str | None] = {
    "dir/link": "a",
    "dir/dangling": "nowhere",
    "link": "file",
    "dirlink": "dir",
}
OLD: dict[str, bytes | str | None] = {"there": None, "old": b"old"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is named, and what is there before."""

    number: int
    sources: tuple[str, ...]
    destination: str
    there: dict[str, bytes | str | None]
    ways: tuple[Way | None, ...] = (None,)


_FILE: tuple[Way | None, ...] = (None, "inline", "stream", "sftp", "scp")
_TREE: tuple[Way | None, ...] = (None, "tar", "sftp", "scp")
# What the README has, with the trees that come of it.
SCENARIOS = [
    Scenario(1, ("file",), "new", OLD, _FILE),
    Scenario(2, ("file",), "there", OLD, _FILE),
    Scenario(3, ("file",), "there/", OLD),
    Scenario(4, ("file",), "old", OLD, _FILE),
    Scenario(5, ("file",), "new/", OLD, (None, "sftp")),
    Scenario(6, ("file",), "there", {"there/file/x": b"x"}, (None, "sftp")),
    Scenario(7, ("file", "one.in"), "there", OLD, (None, "sftp")),
    Scenario(8, ("file", "one.in"), "new", OLD, (None, "sftp")),
    Scenario(9, ("*.in",), "there", OLD, (None, "sftp")),
    Scenario(10, ("dir",), "new", OLD, _TREE),
    Scenario(11, ("dir/",), "new/", OLD),
    Scenario(12, ("dir",), "there", OLD, _TREE),
    Scenario(13, ("dir/",), "there/", OLD),
    Scenario(14, ("dir",), "there", {"there/dir/a": b"old", "there/dir/kept": b"kept"}, _TREE),
    Scenario(15, ("dir/.",), "there", {"there/a": b"old", "there/kept": b"kept"}, (None, "tar", "sftp")),
    Scenario(16, ("dir/.",), "new", OLD, (None, "tar", "sftp")),
    Scenario(17, ("dir",), "old", OLD, (None, "tar", "sftp")),
    Scenario(18, ("dir",), "there", {"there/dir": b"a file"}),
    Scenario(19, ("dir", "file"), "there", OLD, (None, "tar", "sftp", "scp")),
    Scenario(20, ("link",), "new", OLD),
    Scenario(21, ("dirlink",), "new", OLD),
    Scenario(22, ("dir",), "there", {"there/dir": "../elsewhere", "elsewhere/kept": b""}, (None, "tar")),
    Scenario(23, ("missing",), "new", OLD, (None, "sftp")),
    Scenario(24, ("file", "missing", "dir"), "there", OLD),
    Scenario(25, ("file",), "none/new", OLD),
    Scenario(26, ("dir",), "none/new", OLD),
    Scenario(27, ("program",), "there", OLD, _FILE),
    Scenario(28, ("file",), "there/link", {"there/link": "../old", "old": b"old"}),
    Scenario(29, ("[x]",), "there", OLD),
    Scenario(30, ("none*",), "there", OLD, (None, "sftp")),
]


def _cp(sources: Sequence[str], top: Path, destination: str, place: Path) -> bool:
    """What cp does with it; returns whether it succeeds."""
    names: list[str] = []
    for source in sources:
        whole = f"{top}/{source}"
        names += (sorted(glob.glob(whole)) or [whole]) if not os.path.lexists(whole) else [whole]  # noqa: PTH207 - as a shell does
    argv = ["cp", "-rH", "--", *names, f"{place}/{destination}"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


_CASES = [(scenario, way) for scenario in SCENARIOS for way in scenario.ways]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("scenario", "way"), _CASES, ids=[f"{scenario.number}-{way or 'chosen'}" for scenario, way in _CASES]
)
def test_scenarios(scenario: Scenario, way: Way | None, direction: Direction, sides: Sides) -> None:
    """Each scenario makes the tree that `cp -rH` makes, or fails where that fails, by each of its ways."""
    source, target = sides.ends(direction)
    example = sides.here / "example"
    # sftp gets no links, and scp follows them
    plain = way in {"sftp", "scp"}
    make(source, SOURCE if plain else {**SOURCE, **LINKS})
    (source / "program").chmod(0o755)
    for top in (target, example):
        make(top, scenario.there)
    sides.give(source)
    sides.give(target)
    works = _cp(scenario.sources, source, scenario.destination, example)
    names = [f"{source}/{name}" for name in scenario.sources]
    failed = False
    try:
        sides.move(
            direction, names if len(names) > 1 else names[0], f"{target}/{scenario.destination}", way=way
        )
    except OSError as reason:
        failed = not isinstance(reason, ConnectionFailed) and reason.errno is not None
    assert failed != works
    assert listing(target) == listing(example)
    assert drafts(sides.here, sides.there) == []


def test_the_scenarios_have_trees_in_the_readme() -> None:
    """The manual numbers the same scenarios."""
    text = (Path(__file__).parents[2] / "opensshtransport/manual/transfers.md").read_text(encoding="utf-8")
    section = text.partition("## What goes where")[2].partition("\n## ")[0]
    for scenario in SCENARIOS:
        assert f"\n| {scenario.number} |" in section, scenario.number


# -- options -------------------------------------------------------------------------------------------

_WAYS: tuple[Way | None, ...] = (None, "tar")


def _rich(top: Path) -> None:
    """A tree with all that a tree can hold, but what only root can make."""
    make(top, {**SOURCE, **LINKS})
    for name in (
        b"\xff\xfe",
        b"new\nline",
        b"-rf",
        b"'\"$(x)`",
        b" ",
        b"x" * 255,
        b"\\",
        b"*",
        "ü🐢".encode(),
    ):
        (top / "dir" / os.fsdecode(name)).write_bytes(name)
    os.link(top / "file", top / "twin")
    (top / "program").chmod(0o755)
    (top / "closed").mkdir()
    (top / "closed" / "x").write_bytes(b"x")
    (top / "nothing").write_bytes(b"")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(1, 1_234_567_890_123_456_000 + number), follow_symlinks=False)
    (top / "closed").chmod(0o555)
    (top / "one.in").chmod(0o400)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("there", [False, True], ids=["new", "merged"])
@pytest.mark.parametrize("preserve", [False, True], ids=["plain", "preserved"])
def test_rich_trees(preserve: bool, there: bool, way: Way | None, direction: Direction, sides: Sides) -> None:
    """Any name, read-only directories, links: as `cp` has it; preserved, with modes, times and hard links."""
    source, target = sides.ends(direction)
    _rich(source / "tree")
    os.utime(source / "tree", ns=(1, 1_000_000_001))
    example = sides.here / "example"
    example.mkdir()
    for top in (target, example):
        if there:
            (top / "tree" / "dir").mkdir(parents=True)
            (top / "tree" / "dir" / "kept").write_bytes(b"")
            os.utime(top / "tree" / "dir" / "kept", ns=(1, 1))
    sides.give(source)
    sides.give(target)
    option = "-rpP" if preserve else "-rP"
    subprocess.run(["cp", option, f"{source}/tree", f"{example}/"], check=True)
    done = sides.move(direction, source / "tree", target, preserve=preserve, way=way)
    assert done.files == sum(
        1 for path in (source / "tree").rglob("*") if path.is_symlink() or path.is_file()
    )
    assert listing(target, times=preserve) == listing(example, times=preserve)
    assert ((target / "tree" / "twin").stat().st_nlink == 2) == preserve
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_dereference(direction: Direction, sides: Sides) -> None:
    """Links in a tree become what they lead to; a dangling one is reported, and the others arrive."""
    source, target = sides.ends(direction)
    make(source, {"tree/a": b"a", "tree/l": "a", "tree/d": "../dir", "dir/x": b"x", "tree/lost": "nowhere"})
    sides.give(source)
    with pytest.raises(FileNotFoundError, match="lost"):
        sides.move(direction, source / "tree", target / "new", dereference=True)
    assert sorted(listing(target / "new")) == ["a", "d", "d/x", "l"]
    assert not (target / "new" / "l").is_symlink()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("way", _WAYS)
def test_overwrite_false_touches_nothing(way: Way | None, direction: Direction, sides: Sides) -> None:
    """Existing files keep content, inode and time; missing ones arrive; each is reported."""
    source, target = sides.ends(direction)
    make(source, {"tree/a": b"new", "tree/b": b"new", "tree/d/c": b"new", "tree/d/e": b"new"})
    make(target, {"tree/a": b"old", "tree/d/c": b"old"})
    sides.give(source)
    sides.give(target)
    before = [(target / "tree" / name).stat() for name in ("a", "d/c")]
    with pytest.raises(TransferFailed) as failed:
        sides.move(direction, source / "tree", target, overwrite=False, way=way)
    assert [type(one) for one in failed.value.failures] == [FileExistsError] * 2
    assert [(target / "tree" / name).stat() for name in ("a", "d/c")] == before
    assert (target / "tree" / "b").read_bytes() == (target / "tree" / "d" / "e").read_bytes() == b"new"
    for size in (1, 300 << 10):
        (source / "one").write_bytes(bytes(size))
        sides.give(source)
        (target / "one").write_bytes(b"old")
        with pytest.raises(FileExistsError):
            sides.move(direction, source / "one", target, overwrite=False)
        assert (target / "one").read_bytes() == b"old"
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_exclude(direction: Direction, sides: Sides) -> None:
    """What is excluded is not moved, in trees of both sizes."""
    source, target = sides.ends(direction)
    make(
        source,
        {
            "tree/a.o": b"",
            "tree/b/c.o": b"",
            "tree/b/d": b"d",
            "tree/x/y": b"y",
            "tree/large.o": bytes(2 * MIB),
        },
    )
    sides.give(source)
    for number, way in enumerate(_WAYS):
        done = sides.move(direction, source / "tree", target / str(number), exclude=["*.o", "x/"], way=way)
        assert sorted(listing(target / str(number))) == ["b", "b/d"]
        assert (done.files, done.bytes) == (1, 1)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_progress_and_rate(size: int, direction: Direction, sides: Sides) -> None:
    """Progress grows to the totals, from one thread at a time; a limited rate takes its time."""
    source, target = sides.ends(direction)
    make(source, {"tree/a": bytes(size), "tree/b": bytes(size), "tree/l": "a"})
    sides.give(source)
    told: list[Progress] = []
    done = sides.move(direction, source / "tree", target / "new", progress=told.append, limit_rate=size * 8)
    assert done.seconds >= 0.1
    assert (done.files, done.bytes) == (3, 2 * size)
    assert [one.bytes for one in told] == sorted(one.bytes for one in told)
    last = told[-1]
    assert (last.bytes, last.total_bytes, last.files, last.total_files) == (2 * size, 2 * size, 3, 3)

    def ends(_: Progress) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        sides.move(direction, source / "tree", target / "other", progress=ends)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_verify(direction: Direction, sides: Sides) -> None:
    """With verify all arrives as without, small, large and in trees."""
    source, target = sides.ends(direction)
    make(
        source, {"small": b"s", "large": random.Random(1).randbytes(MIB), "tree/a\nb": b"a", "tree/s/c": b"c"}
    )
    with (source / "large").open("ab") as file:
        file.truncate(3 * MIB)
    sides.give(source)
    for name in ("small", "large", "tree"):
        sides.move(direction, source / name, target, verify=True)
    assert listing(target) == listing(source)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_recursive(direction: Direction, sides: Sides) -> None:
    """A directory is not moved where that was not meant; one that was meant is."""
    source, target = sides.ends(direction)
    make(source, {"tree/a": b"a"})
    sides.give(source)
    with pytest.raises(IsADirectoryError):
        sides.move(direction, source / "tree", target, recursive=False)
    assert listing(target) == {}
    sides.move(direction, source / "tree", target, recursive=True)
    assert (target / "tree" / "a").exists()


def test_wrong_arguments(sides: Sides) -> None:
    """No source, no destination and no rate are refused before anything is touched."""
    with pytest.raises(SettingsError):
        sides.far.transport.put([], "x")
    with pytest.raises(SettingsError):
        sides.far.transport.get([], "x")
    with pytest.raises(FileNotFoundError):
        sides.far.transport.put(__file__, "")
    with pytest.raises(FileNotFoundError):
        sides.far.transport.get("", sides.here)
    with pytest.raises(SettingsError):
        sides.far.transport.put(__file__, "x", limit_rate=0)


def test_tilde(sides: Sides) -> None:
    """`~` is the home of its own side."""
    (sides.here / "file").write_bytes(b"x")
    place = f"~/{sides.there.name}"
    sides.far.transport.put(sides.here / "file", f"{place}/put")
    sides.far.transport.get(f"{place}/put", sides.here / "got")
    assert (sides.here / "got").read_bytes() == b"x"
    sides.far.transport.get([f"{place}/p*"], sides.here)
    assert (sides.here / "put").exists()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("in_tree", [False, True])
def test_holes_stay_holes(in_tree: bool, direction: Direction, sides: Sides) -> None:
    """A sparse file has its size and few blocks, alone and within a tree."""
    source, target = sides.ends(direction)
    (source / "tree").mkdir()
    with (source / "tree" / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(30 * MIB)
        file.write(b"island")
        file.truncate(40 * MIB)
    sides.give(source)
    sides.move(direction, source / "tree" / ("" if in_tree else "sparse"), target / "new")
    arrived = target / "new" / "sparse" if in_tree else target / "new"
    assert arrived.stat().st_blocks * 512 < 4 * MIB
    assert arrived.read_bytes() == (source / "tree" / "sparse").read_bytes()


def test_without_splice(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is moved even if the system, or a file system, has no splice(2)."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    content = random.Random(8).randbytes(9 * MIB + 1)
    (sides.here / "file").write_bytes(content)
    for splice in (None, refuse):
        monkeypatch.setattr(session, "_SPLICE", splice)
        sides.far.transport.put(sides.here / "file", sides.there / "new")
        assert (sides.there / "new").read_bytes() == content


# -- what cannot be moved ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", _WAYS)
def test_the_others_arrive(way: Way | None, sides: Sides) -> None:
    """Within a tree, whatever cannot be read or is not a file is reported, and everything else arrives."""
    source, target = sides.ends("get")
    make(source, {"tree/a": b"a", "tree/closed": b"", "tree/shut/x": b"", "tree/d/b": b"b"})
    os.mkfifo(source / "tree" / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(source / "tree")
        listening.bind("socket")
        os.chdir("/")
    sides.give(source)
    (source / "tree" / "closed").chmod(0)
    (source / "tree" / "shut").chmod(0)
    with pytest.raises(TransferFailed) as failed:
        sides.move("get", source / "tree", target, way=way)
    told = {Path(str(one.filename)).name: one.errno for one in failed.value.failures}
    assert told == {
        "closed": errno.EACCES,
        "shut": errno.EACCES,
        "fifo": errno.EINVAL,
        "socket": errno.EINVAL,
    }
    assert failed.value.result is not None
    names = [name for name, (_, content, _) in listing(target / "tree").items() if content is not None]
    assert names == ["a", "d/b"]
    assert str(failed.value.failures[0].filename).startswith("far:")


def test_single_sources_that_are_no_files(sides: Sides) -> None:
    """A fifo is not waited for, in either direction, and no directory appears in its place."""
    for direction in DIRECTIONS:
        source, target = sides.ends(direction)
        os.mkfifo(source / "fifo")
        sides.give(source)
        with pytest.raises(OSError, match=r".") as failed:
            sides.move(direction, source / "fifo", target)
        assert failed.value.errno == errno.EINVAL
        assert listing(target) == {}


_FAILURES: list[tuple[str, str, int]] = [
    ("permission", "shut/new", errno.EACCES),
    ("name too long", "x" * 256, errno.ENAMETOOLONG),
    ("no directory", "old/new", errno.ENOTDIR),
    ("missing", "none/new", errno.ENOENT),
]


@pytest.mark.parametrize("kind", ["small", "large", "tree"])
@pytest.mark.parametrize(("name", "place", "number"), _FAILURES, ids=[name for name, _, _ in _FAILURES])
def test_errors_there(name: str, place: str, number: int, kind: str, sides: Sides) -> None:
    """The remote side's errno, and `HOST:path`, for each way."""
    source, target = sides.ends("put")
    make(source, {"small": b"x", "large": bytes(300 << 10), "tree/a": b"a"})
    make(target, {"old": b"", "shut": None})
    sides.give(target)
    (target / "shut").chmod(0o555)
    with pytest.raises(OSError, match=r".") as failed:
        sides.move("put", source / kind, target / place)
    assert errno.errorcode[failed.value.errno or 0] == errno.errorcode[number]
    assert str(failed.value.filename).startswith(f"far:{target}")
    assert drafts(sides.there) == []


@pytest.mark.parametrize("kind", ["small", "large", "tree"])
@pytest.mark.parametrize(
    ("name", "place", "number"), _FAILURES[1:], ids=[name for name, _, _ in _FAILURES[1:]]
)
def test_errors_here(name: str, place: str, number: int, kind: str, sides: Sides) -> None:
    """The same for what goes wrong here, with the local path and no draft's name."""
    source, target = sides.ends("get")
    make(source, {"small": b"x", "large": bytes(300 << 10), "tree/a": b"a"})
    make(target, {"old": b""})
    sides.give(source)
    with pytest.raises(OSError, match=r".") as failed:
        sides.move("get", source / kind, target / place)
    assert errno.errorcode[failed.value.errno or 0] == errno.errorcode[number]
    assert ".ossh-" not in str(failed.value.filename)
    assert drafts(sides.here) == []


@pytest.fixture
def small_disk(sides: Sides) -> Iterator[Callable[[Path], None]]:
    """Mount 8 MiB at a directory."""
    mounted: list[Path] = []

    def mount(place: Path) -> None:
        options = f"size=8m,mode=777,uid={place.stat().st_uid}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_full_disk(kind: str, direction: Direction, sides: Sides, small_disk: Callable[[Path], None]) -> None:
    """A disk that fills up: ENOSPC, nothing under a final name, and no draft is left to fill it."""
    source, target = sides.ends(direction)
    make(source, {f"tree/{number}": random.Random(number).randbytes(3 * MIB) for number in range(5)})
    (source / "file").write_bytes(random.Random(9).randbytes(12 * MIB))
    sides.give(source)
    small_disk(target)
    with pytest.raises(OSError, match=r".") as failed:
        sides.move(direction, source / kind, target / "new")
    assert failed.value.errno == errno.ENOSPC, failed.value
    assert list(target.iterdir()) == []
    # and the connection is as good as before
    (source / "fits").write_bytes(b"x")
    sides.give(source)
    sides.move(direction, source / "fits", target)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_quota(kind: str, direction: Direction, sides: Sides, limited: Path) -> None:
    """A quota that is exceeded: EDQUOT, what was there stays, and no draft is left."""
    source, _ = sides.ends(direction)
    make(source, {f"tree/{number}": random.Random(number).randbytes(MIB) for number in range(5)})
    (source / "file").write_bytes(random.Random(9).randbytes(5 * MIB))
    sides.give(source)
    (limited / "old").write_bytes(b"old")
    with pytest.raises(OSError, match=r".") as failed:
        sides.move(direction, source / kind, limited / "new")
    assert failed.value.errno == errno.EDQUOT, failed.value
    assert [path.name for path in limited.iterdir()] == ["old"]
    (limited / "old").unlink()


class _Changing:
    """A progress callback that changes the source as soon as a part is gone."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change: Callable[[], object] | None = change

    def __call__(self, progress: Progress) -> None:
        if self._change is not None and progress.bytes > MIB:
            self._change()
            self._change = None


_CHANGES: dict[str, tuple[Callable[[Path], object], set[int]]] = {
    "shrinks": (lambda path: os.truncate(path, 2 * MIB), {errno.EBUSY}),
    "vanishes": (lambda path: path.unlink(), {errno.ENOENT, errno.EBUSY}),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("change", _CHANGES)
def test_a_source_that_changes(change: str, direction: Direction, sides: Sides) -> None:
    """A file that is cut or goes while it is read is an error: nothing appears, nothing is left behind."""
    source, target = sides.ends(direction)
    path = source / "file"
    path.write_bytes(random.Random(3).randbytes(12 * MIB))
    sides.give(source)
    act, numbers = _CHANGES[change]
    if direction == "put" and change == "vanishes":
        # what was opened can be read to its end
        sides.move(direction, path, target, progress=_Changing(lambda: act(path)), limit_rate=40e6)
        assert (target / "file").stat().st_size == 12 * MIB
        return
    with pytest.raises(OSError, match=r".") as failed:
        sides.move(direction, path, target, progress=_Changing(lambda: act(path)), limit_rate=40e6)
    assert failed.value.errno in numbers, failed.value
    assert list(target.iterdir()) == []


# -- names and listings that lie -----------------------------------------------------------------------


def test_a_hostile_listing(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose listing names `..` gets nothing written, and nothing removed, outside of the tree."""
    source, target = sides.ends("get")
    make(source, {"tree/a": b"a"})
    make(sides.here, {"victim": b"kept"})
    sides.give(source)
    ask_all = sides.far.transport._shells.ask_all

    def lying(*args: Any, **named: Any) -> Any:
        replies = ask_all(*args, **named)
        old, new = b"/tree/a\n", b"/tree/../../victim\n"
        return [type(one)(one.out.replace(old, new), one.errors, one.status) for one in replies]

    monkeypatch.setattr(sides.far.transport._shells, "ask_all", lying)
    with pytest.raises(PermissionError):
        sides.move("get", source / "tree", target / "new")
    assert (sides.here / "victim").read_bytes() == b"kept"
    assert listing(target) == {}


# -- several at once -----------------------------------------------------------------------------------

_PROGRAM = """
import sys
from opensshtransport import Transport
direction, config, source, target, rate = sys.argv[1:]
with Transport("far", ssh_config=config) as far:
    getattr(far, direction)(source, target, limit_rate=float(rate) or None)
"""


def _process(
    sides: Sides, direction: Direction, source: Path, target: Path, rate: float = 0
) -> subprocess.Popen[bytes]:
    # it finds the session's master, and not one of this test's own directories
    master = sides.far.transport.master
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(master.directory.parent)}
    argv = [sys.executable, "-c", _PROGRAM, direction, str(sides.far.node.ssh_config)]
    argv += [str(source), str(target), str(rate)]
    return subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_two_processes_move_the_same(kind: str, direction: Direction, sides: Sides) -> None:
    """Both succeed, the file is whole at the end, and no draft is left: they never share one."""
    source, target = sides.ends(direction)
    make(source, {f"tree/{number}": random.Random(number).randbytes(MIB) for number in range(8)})
    (source / "file").write_bytes(random.Random(8).randbytes(24 * MIB))
    sides.give(source)
    processes = [_process(sides, direction, source / kind, target / "new", 60e6) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        # of trees, who comes later may find the directory there already, and goes into it as cp does
        assert process.returncode == 0, said.decode()
    if kind == "file":
        assert (target / "new").read_bytes() == (source / "file").read_bytes()
    else:
        for number in range(8):
            assert (target / "new" / str(number)).read_bytes() == (source / "tree" / str(number)).read_bytes()
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_many_threads_make_the_same_tree(direction: Direction, sides: Sides) -> None:
    """A second transfer finds a tree that did not exist when it looked, and merges with it."""
    source, target = sides.ends(direction)
    trees = [source / str(number) / "tree" for number in range(6)]
    for number, tree in enumerate(trees):
        make(tree, {"same/file": b"same", f"same/{number}": b"own", f"{number}/file": b"own"})
    sides.give(source)
    merged = {"same/file"}
    for number in range(6):
        merged |= {f"same/{number}", f"{number}/file"}
    for round_ in range(8):
        place = target / str(round_)
        place.mkdir()
        sides.give(target)
        move = functools.partial(sides.move, direction, destination=place)
        with ThreadPoolExecutor(len(trees)) as threads:
            list(threads.map(move, trees))
        files = [path for path in (place / "tree").rglob("*") if path.is_file()]
        assert {str(path.relative_to(place / "tree")) for path in files} == merged
        assert drafts(place) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_killed_and_started_again(
    kind: str, direction: Direction, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 in mid-transfer nothing has its name; started again, it goes on where it was."""
    source, target = sides.ends(direction)
    make(source, {f"tree/{number}": random.Random(number).randbytes(MIB) for number in range(40)})
    (source / "file").write_bytes(random.Random(8).randbytes(40 * MIB))
    sides.give(source)
    process = _process(sides, direction, source / kind, target / "new", 20e6)

    def half_way() -> bool:
        found = [path for top in drafts(target) for path in (top, *top.rglob("*")) if path.is_file()]
        return sum(path.stat().st_blocks for path in found) * 512 > 12 * MIB

    wait_until(half_way, seconds=30, what="half of it to be there")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (target / "new").exists()
    told: list[Progress] = []
    sides.move(direction, source / kind, target / "new", progress=told.append)
    assert told[0].bytes > 6 * MIB
    if kind == "file":
        assert (target / "new").read_bytes() == (source / "file").read_bytes()
    else:
        assert listing(target / "new") == listing(source / "tree")
    assert drafts(sides.here, sides.there) == []


def test_nothing_is_left_open(sides: Sides) -> None:
    """After transfers of each kind, failed ones among them, no descriptor and no thread is left over."""
    source, target = sides.ends("put")
    make(source, {"file": bytes(MIB), "tree/a": bytes(2 * MIB), "tree/b": b""})
    back = sides.here / "back"
    back.mkdir()

    def all_of_it() -> None:
        for number, name in enumerate(("file", "tree")):
            sides.move("put", source / name, target / str(number))
            sides.move("get", target / str(number), back)
            with contextlib.suppress(OSError):
                sides.move("put", source / name, target / "none" / "x")

    all_of_it()
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(3):
        all_of_it()

    def same() -> bool:
        return (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) <= before

    wait_until(same, what="descriptors and threads to go")


# -- the connection ------------------------------------------------------------------------------------


@pytest.fixture
def cut_node(own_node: Sandbox, keep: Keep) -> tuple[Relay, Transport]:
    """A relay to a node of this test alone, and a transport through it."""
    relay = keep(Relay(own_node.port))
    transport = keep(Transport(own_node.host, ssh_config=config_through(own_node, relay)))
    return relay, transport


class _Cutter:
    """Cuts the connection at seeded points, one after the other."""

    def __init__(self, relay: Relay, points: Sequence[int], direction: Literal["up", "down"]) -> None:
        self._relay, self._points, self._direction = relay, points, direction
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Cutter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._relay.disarm()

    def _run(self) -> None:
        for number, point in enumerate(self._points):
            self._relay.cut_after(point, direction=self._direction)
            while self._relay.faults <= number:
                if self._over.wait(0.005):
                    return


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["file", "tree"])
@pytest.mark.parametrize("seed", [1])
def test_cut_until_it_is_through(
    seed: int,
    kind: str,
    direction: Direction,
    cut_node: tuple[Relay, Transport],
    isolated: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 MiB over a connection that is cut again and again: all arrives, and no complete part goes twice."""
    # of several streams each has its own window on the way: how much is lost must be known here
    monkeypatch.setattr("opensshtransport.transfer.mover.streams_for", lambda *_: 1)
    relay, transport = cut_node
    source, target = isolated / "source", isolated / "target"
    target.mkdir()
    rng = random.Random(seed)
    make(source, {f"tree/{number}": rng.randbytes(MIB) for number in range(64)})
    (source / "file").write_bytes(rng.randbytes(64 * MIB))
    transport.home()
    points = [rng.randrange(16 * MIB, 28 * MIB) for _ in range(3)]
    way: Literal["up", "down"] = "up" if direction == "put" else "down"
    begin = relay.bytes_up if direction == "put" else relay.bytes_down
    with _Cutter(relay, points, way):
        for _ in range(20):
            try:
                getattr(transport, direction)(source / kind, target / "new")
                break
            except ConnectionFailed:
                assert not (target / "new").exists()
    assert relay.faults >= 2
    if kind == "file":
        sums = [hashlib.sha256(path.read_bytes()).digest() for path in (source / "file", target / "new")]
        assert sums[0] == sums[1]
    else:
        assert listing(source / "tree") == listing(target / "new")
    moved = (relay.bytes_up if direction == "put" else relay.bytes_down) - begin
    # what was on its way, and the block or file that was not complete
    assert moved < 64 * MIB + relay.faults * 10 * MIB
    assert drafts(isolated) == []


@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_holes_do_not_travel(
    direction: Direction, in_tree: bool, cut_node: tuple[Relay, Transport], isolated: Path
) -> None:
    """Of a file with holes only what is none goes over the wire."""
    relay, transport = cut_node
    source = isolated / "source"
    source.mkdir()
    content = random.Random(7).randbytes(MIB)
    with (source / "sparse").open("wb") as file:
        for place in (0, 33 * MIB + 5, 71 * MIB):
            file.seek(place)
            file.write(content)
        file.truncate(80 * MIB + 1)
    transport.home()
    begin = relay.bytes_forwarded
    getattr(transport, direction)(source if in_tree else source / "sparse", isolated / "new")
    assert relay.bytes_forwarded - begin < 6 * MIB
    arrived = isolated / "new" / "sparse" if in_tree else isolated / "new"
    assert arrived.read_bytes() == (source / "sparse").read_bytes()
    assert arrived.stat().st_blocks * 512 < 6 * MIB


def test_a_cut_of_sftp(cut_node: tuple[Relay, Transport], isolated: Path) -> None:
    """What a broken put by sftp has left is overwritten, and not added to, by the next one."""
    relay, transport = cut_node
    source, target = isolated / "source", isolated / "target"
    target.mkdir()
    source.write_bytes(random.Random(6).randbytes(24 * MIB))
    transport.home()
    for _ in range(2):
        relay.cut_after(8 * MIB, direction="up")
        with pytest.raises(ConnectionFailed):
            transport.put(source, target / "new", way="sftp")
        assert len(drafts(target)) == 1
        assert not (target / "new").exists()
    transport.put(source, target / "new", way="sftp")
    assert (target / "new").read_bytes() == source.read_bytes()
    assert drafts(isolated) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_master_is_killed(direction: Direction, own_node: Sandbox, keep: Keep, isolated: Path) -> None:
    """A master that is killed in mid-transfer is replaced, and the transfer goes on."""
    transport = keep(Transport(own_node.host, ssh_config=own_node.ssh_config))
    source, target = isolated / "source", isolated / "target"
    source.write_bytes(random.Random(5).randbytes(24 * MIB))
    transport.home()
    facts = transport.master.facts()
    assert facts is not None
    kill = _Changing(lambda: os.kill(facts.pid, signal.SIGKILL))
    getattr(transport, direction)(source, target, progress=kill, limit_rate=60e6)
    assert target.read_bytes() == source.read_bytes()
    assert own_node.authentications() == 2
    assert drafts(isolated) == []


@pytest.mark.parametrize("sessions", [1, 2])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_few_sessions(
    sessions: int, direction: Direction, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server opens one session or two, all goes through those, one after the other."""
    require(missing_programs("sshd"))
    source, target = isolated / "source", isolated / "target"
    make(source, {"tree/a": bytes(2 * MIB), "tree/b": b"b", "file": random.Random(1).randbytes(24 * MIB)})
    target.mkdir()
    # as over a long way
    monkeypatch.setattr("opensshtransport.transfer.mover.streams_for", lambda *_: 4)
    with Sandbox(server_options={"MaxSessions": str(sessions)}) as node:
        with Transport(node.host, ssh_config=node.ssh_config) as transport:
            for name in ("tree", "file"):
                getattr(transport, direction)(source / name, target)
    assert listing(target) == listing(source)


def test_a_command_beside_a_large_file(
    own_node: Sandbox, keep: Keep, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer takes all sessions of the budget, and gives one back as soon as somebody waits for it."""
    monkeypatch.setattr("opensshtransport.transfer.mover.streams_for", lambda *_: 8)
    transport = keep(Transport(own_node.host, ssh_config=own_node.ssh_config))
    source, target = isolated / "source", isolated / "target"
    source.write_bytes(random.Random(8).randbytes(64 * MIB))
    transport.run("true")
    slots = transport.connection.slots
    moving = threading.Thread(target=transport.put, args=(source, target), kwargs={"limit_rate": 16e6})
    moving.start()
    wait_until(lambda: slots.in_use() == slots.limit, what="all sessions to be in use")
    assert transport.run("echo beside", timeout=30).stdout == b"beside\n"
    assert moving.is_alive()
    moving.join()
    assert target.read_bytes() == source.read_bytes()


# -- our own permissions -------------------------------------------------------------------------------

_AS_USER = """
import os, pathlib, sys, tempfile
from opensshtransport import Transport
from opensshtransport.sandbox import Sandbox
top = pathlib.Path(sys.argv[1])
# a long one would not be taken for the sockets
for number, name in enumerate(("RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME")):
    place = top / str(number)
    place.mkdir(mode=0o700)
    os.environ[f"XDG_{name}"] = str(place)
tree = top / "tree"
(tree / "shut" / "deep").mkdir(parents=True)
(tree / "shut" / "deep" / "file").write_bytes(b"x")
(tree / "none").mkdir()
(tree / "secret").write_bytes(b"")
(tree / "plain").write_bytes(b"plain")
(tree / "secret").chmod(0)
(tree / "shut" / "deep").chmod(0o555)
(tree / "shut").chmod(0o500)
tree.chmod(0o555)
with Sandbox() as node, Transport(node.host, ssh_config=node.ssh_config) as here:
    assert here.master.directory.is_relative_to(top), here.master.directory
    for way in (None, "tar"):
        for preserve in (False, True):
            for direction in ("put", "get"):
                for merged in (False, True):
                    target = top / f"{way}{preserve}{direction}{merged}"
                    if merged:
                        (target / "tree").mkdir(parents=True)
                    try:
                        getattr(here, direction)(tree, target, way=way, preserve=preserve)
                        raise AssertionError("the secret was read")
                    except PermissionError as reason:
                        assert reason.filename.endswith("secret"), reason
                    arrived = target / "tree" if merged else target
                    modes = {
                        str(path.relative_to(arrived)): oct(path.stat().st_mode)[-3:]
                        for path in (arrived, *arrived.rglob("*"))
                    }
                    if merged and not preserve:
                        assert modes.pop(".") == "755", (target, modes)
                        modes["."] = "555"
                    assert modes == {
                        ".": "555", "shut": "500", "shut/deep": "555", "shut/deep/file": "644",
                        "none": "755", "plain": "644",
                    }, (target, modes)
    print(*[path for path in top.rglob(".ossh-*")])
    here.master.end()
"""


def test_read_only_trees_of_a_plain_user(passable: Path) -> None:
    """As a plain user, read-only directories arrive with their content, and secret files are reported."""
    require(missing_for_users())
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    # the tests' own interpreter may lie where nobody else can go
    if subprocess.run(["/usr/bin/python3", "-c", version], capture_output=True, check=False).returncode:
        pytest.skip("the system's Python is another version")
    paths = [
        str(Path(opensshtransport.__file__).parents[1]),
        *(path for path in sys.path if "site-packages" in path),
    ]
    with temporary_user(passable) as user:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", _AS_USER, str(user.home)],
            user=user.uid,
            group=user.uid,
            extra_groups=[],
            env={"PATH": "/usr/bin:/bin", "HOME": str(user.home), "PYTHONPATH": os.pathsep.join(paths)},
            cwd="/",
            umask=0o022,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


# -- memory --------------------------------------------------------------------------------------------

_MEASURED = f"""
import sys
from opensshtransport import Transport
direction, config, source, target = sys.argv[1:]
with Transport("far", ssh_config=config) as far:
    far.home()
    before = {PEAK}
    getattr(far, direction)(source, target)
print({PEAK} - before)
"""


def _grown(sides: Sides, direction: Direction, source: Path, target: Path) -> int:
    """How many bytes a process grows by a transfer."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(sides.far.transport.master.directory.parent)}
    argv = [
        sys.executable,
        "-c",
        _MEASURED,
        direction,
        str(sides.far.node.ssh_config),
        str(source),
        str(target),
    ]
    return int(subprocess.check_output(argv, env=environment, timeout=90)) << 10


def test_memory_is_flat(sides: Sides) -> None:
    """A file of 1 GiB and one of 16 MiB take the same memory, in both directions."""
    for direction in DIRECTIONS:
        source, target = sides.ends(direction)
        grown = []
        for size in (16 * MIB, 1 << 30):
            with (source / "file").open("wb") as file:
                file.truncate(size)
                # some of it is no hole
                file.write(bytes(range(256)) * 32768)
            sides.give(source)
            grown.append(_grown(sides, direction, source / "file", target))
        assert grown[1] < grown[0] + 8 * MIB
        assert grown[1] < 32 * MIB
