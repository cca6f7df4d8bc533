"""An existing destination stays the same file, for its other names and for those who have it open."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport.transfer import in_place as appearing
from opensshtransport.transfer.in_place import appear
from opensshtransport.transfer.options import Way
from tests.transfer.test_transfer import (
    DIRECTIONS,
    MIB,
    Direction,
    Sides,
    drafts,
    far,
    listing,
    make,
    sides,
    small_disk,
)

__all__ = ["far", "sides", "small_disk"]

# Bytes: for one request, for parts, and so many that only the end would not fit next to it.
SIZES = {"inline": 1000, "stream": 3 * MIB + 17}
OLD = {"empty": 0, "shorter": 500, "longer": 5 * MIB}


def content(size: int, seed: int = 1) -> bytes:
    """So many bytes that are no zeros."""
    return random.Random(seed).randbytes(size)


def seen(path: Path) -> tuple[int, int, int]:
    """Inode, mode and number of names."""
    found = path.stat()
    return found.st_ino, found.st_mode & 0o7777, found.st_nlink


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_stays_the_same(size: str, old: str, direction: Direction, sides: Sides) -> None:
    """Who has it open, and its other names, get the new content; inode, mode and names are as before."""
    source, target = sides.ends(direction)
    (source / "file").write_bytes(content(SIZES[size]))
    (target / "file").write_bytes(content(OLD[old], 2))
    (target / "file").chmod(0o640)
    (target / "other").hardlink_to(target / "file")
    sides.give(source)
    sides.give(target)
    before = seen(target / "file")
    with (target / "file").open("rb") as reader:
        sides.move(direction, source / "file", target / "file")
        assert reader.read() == content(SIZES[size])
    assert seen(target / "file") == before
    assert (target / "other").read_bytes() == content(SIZES[size])
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("way", [None, "tar", "sftp"])
def test_files_of_a_tree_stay_the_same(way: Way | None, direction: Direction, sides: Sides) -> None:
    """Also in a tree; a link is replaced, and a file that cannot be written."""
    if (way, direction) == ("sftp", "put"):
        pytest.skip("sftp has no way to copy there")
    source, target = sides.ends(direction)
    names = ("a", "sub/b", "sub/with blank", "sub/deep/-c", "link", "closed")
    make(source, {f"tree/{name}": content(2000 + len(name)) for name in names})
    make(target, {f"tree/{name}": b"old" for name in names if name != "link"})
    make(target, {"tree/kept": b"kept", "tree/link": "kept"})
    (target / "tree/closed").chmod(0o444)
    sides.give(source)
    sides.give(target)
    before = {name: seen(target / "tree" / name) for name in names}
    sides.move(direction, source / "tree", target, way=way)
    for name in names:
        assert (target / "tree" / name).read_bytes() == content(2000 + len(name))
        if name not in {"link", "closed"}:
            assert seen(target / "tree" / name) == before[name]
    assert (target / "tree/kept").read_bytes() == b"kept"
    assert not (target / "tree/link").is_symlink()
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["inline", "stream", "tree"])
def test_preserve_sets_mode_and_time(kind: str, direction: Direction, sides: Sides) -> None:
    """With preserve a file that is there gets both, and is the same file; hard links are kept."""
    source, target = sides.ends(direction)
    name = "tree" if kind == "tree" else "file"
    below = f"{name}/file" if kind == "tree" else name
    for top, seed in ((source, 1), (target, 2)):
        make(top, {below: content(SIZES.get(kind, 1000), seed)})
    if kind == "tree":
        (source / "tree/twin").hardlink_to(source / "tree/file")
        make(target, {"tree/twin": b"old", "tree/more": b"old"})
        make(source, {"tree/more": b"new"})
    (source / below).chmod(0o751)
    os.utime(source / below, ns=(10**18 + 1, 10**18 + 123456789))
    sides.give(source)
    sides.give(target)
    before = seen(target / below)
    sides.move(direction, source / name, target if kind == "tree" else target / name, preserve=True)
    after = (target / below).stat()
    assert (after.st_mtime_ns, after.st_mode & 0o7777) == (10**18 + 123456789, 0o751)
    assert (target / below).read_bytes() == (source / below).read_bytes()
    if kind == "tree":
        assert (target / "tree/twin").stat().st_ino == after.st_ino
        assert (target / "tree/more").read_bytes() == b"new"
    else:
        assert after.st_ino == before[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_disk_that_holds_it_once(
    direction: Direction, sides: Sides, small_disk: Callable[[Path], None]
) -> None:
    """Where there is no room to write it over, the draft takes the name; other names keep what they had."""
    source, target = sides.ends(direction)
    (source / "file").write_bytes(content(5 * MIB))
    sides.give(source)
    small_disk(target)
    (target / "file").write_bytes(b"old")
    (target / "file").chmod(0o640)
    (target / "other").hardlink_to(target / "file")
    sides.give(target)
    sides.move(direction, source / "file", target / "file")
    assert (target / "file").read_bytes() == content(5 * MIB)
    assert (target / "file").stat().st_mode & 0o7777 == 0o640
    assert (target / "other").read_bytes() == b"old"
    assert drafts(target) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_cannot_be_written(direction: Direction, sides: Sides) -> None:
    """A program that runs is refused before anything has moved, as by cp."""
    source, target = sides.ends(direction)
    (source / "file").write_bytes(content(1000))
    program = target / "file"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    sides.give(source)
    sides.give(target)
    with subprocess.Popen([program, "60"]) as running:
        try:
            with pytest.raises(OSError, match=r".") as failed:
                sides.move(direction, source / "file", program)
        finally:
            running.kill()
    assert failed.value.errno == errno.ETXTBSY
    assert drafts(sides.here, sides.there) == []


def test_holes_are_kept(tmp_path: Path) -> None:
    """A draft with holes leaves them in a file that had none."""
    draft, final = tmp_path / "draft", tmp_path / "final"
    with draft.open("wb") as file:
        file.write(b"begin")
        file.truncate(16 * MIB)
        file.seek(8 * MIB)
        file.write(b"middle")
    expected = draft.read_bytes()
    final.write_bytes(content(4 * MIB))
    inode = final.stat().st_ino
    appear(draft, final, exist_ok=True)
    assert final.read_bytes() == expected
    assert final.stat().st_ino == inode
    assert final.stat().st_blocks * 512 < 2 * MIB
    assert not draft.exists()


def test_a_lock_of_somebody_else_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that keeps its file locked does not stop a transfer."""
    import fcntl

    monkeypatch.setattr(appearing, "_LOCKED_FOR", 0.1)
    draft, final = tmp_path / "draft", tmp_path / "final"
    draft.write_bytes(b"new")
    final.write_bytes(b"old")
    with final.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        appear(draft, final, exist_ok=True)
        assert held.read() == b"new"


@pytest.mark.parametrize("preserve", [False, True])
def test_copy_onto_a_file(preserve: bool, sides: Sides) -> None:
    """copy on the server keeps the file too; with preserve it gets mode and time."""
    _, place = sides.ends("put")
    make(place, {"a": content(100_000), "b": content(50, 2)})
    (place / "a").chmod(0o700)
    os.utime(place / "a", ns=(10**18, 10**18))
    (place / "other").hardlink_to(place / "b")
    sides.give(place)
    before = seen(place / "b")
    sides.far.transport.copy(place / "a", place / "b", preserve=preserve)
    assert (place / "other").read_bytes() == content(100_000)
    after = seen(place / "b")
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] == (0o700 if preserve else before[1])
    assert ((place / "b").stat().st_mtime_ns == 10**18) is preserve
    assert drafts(place) == []


def cp(*words: str) -> bool:
    """Whether cp succeeds."""
    return subprocess.run(["cp", *words], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "source", ["dir/.", "dir/..", "dir/sub/..", "link/.", "link", "filelink", "dangling"]
)
@pytest.mark.parametrize("destination", ["new", "there", "old", "nodir/new"])
@pytest.mark.parametrize("follow_source", [False, True])
def test_copy_as_cp_does(source: str, destination: str, follow_source: bool, sides: Sides) -> None:
    """What is in a directory, and links that are named, are copied as by `cp -rP` and `cp -rH`."""
    _, place = sides.ends("put")
    for top in ("ours", "theirs"):
        make(
            place / top,
            {
                "from/dir/a": b"a",
                "from/dir/sub/b": b"b",
                "from/dir/sub/inner": "../a",
                "from/link": "dir",
                "from/filelink": "dir/a",
                "from/dangling": "nowhere",
                "to/there/a": b"old",
                "to/old": b"old",
            },
        )
    sides.give(place)
    option = "-rH" if follow_source else "-rP"
    works = cp(option, f"{place}/theirs/from/{source}", f"{place}/theirs/to/{destination}")
    failed = False
    try:
        sides.far.transport.copy(
            f"{place}/ours/from/{source}",
            f"{place}/ours/to/{destination}",
            follow_source=follow_source,
        )
    except OSError:
        failed = True
    assert failed != works
    assert listing(place / "ours") == listing(place / "theirs")
