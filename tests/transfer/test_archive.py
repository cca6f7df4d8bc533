"""Tar streams: what comes out is what went in, and nothing ever leaves its directory."""

from __future__ import annotations

import errno
import io
import itertools
import os
import socket
import stat as modes
import subprocess
import tarfile
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensshtransport.errors import ConnectionLost
from opensshtransport.remote.entries import Stat
from opensshtransport.transfer import archive, drafts, packing, tar_streams, unpacking
from opensshtransport.transfer.items import Exclude, Item, from_records, list_tree

Members = list[tuple[tarfile.TarInfo, bytes]]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> Members:
    """One member of a crafted archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), 0o644
    return [(info, content)]


def crafted(*members: Members) -> io.BytesIO:
    """An archive as a hostile remote side may send it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", errors="surrogateescape") as made:
        for info, content in itertools.chain(*members):
            made.addfile(info, io.BytesIO(content))
    raw.seek(0)
    return raw


def unpacked(
    raw: archive.Reader, top: Path, *, preserve: bool = False, listed: dict[str, Item] | None = None
) -> dict[str, OSError]:
    """Unpack all of it; gives what was refused."""
    refused: dict[str, OSError] = {}
    later = unpacking.unpack(raw, top, preserve=preserve, listed=listed, failed=refused.__setitem__)
    for settle in reversed(later):
        settle()
    return refused


@pytest.fixture
def walled(tmp_path: Path) -> tuple[Path, Path]:
    """The directory to unpack into, and one next to it that nothing may reach."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    top.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    return top, outside


HOSTILE: dict[str, Callable[[Path], list[Members]]] = {
    "absolute": lambda outside: [member(f"{outside}/planted", content=b"x")],
    "climbs": lambda _: [member("../outside/planted", content=b"x")],
    "climbs within": lambda _: [member("a/../../outside/planted", content=b"x")],
    "through a link": lambda outside: [
        member("l", tarfile.SYMTYPE, str(outside)),
        member("l/planted", content=b"x"),
    ],
    "through a link that climbs": lambda _: [
        member("l", tarfile.SYMTYPE, "../outside"),
        member("l/planted", content=b"x"),
    ],
    "over a link": lambda outside: [
        member("l", tarfile.SYMTYPE, str(outside / "secret")),
        member("l", content=b"x"),
    ],
    "a directory over a link": lambda outside: [
        member("l", tarfile.SYMTYPE, str(outside)),
        member("l", tarfile.DIRTYPE),
        member("l/planted", content=b"x"),
    ],
    "a link over a directory": lambda outside: [
        member("l", tarfile.DIRTYPE),
        member("l/x", content=b"x"),
        member("l", tarfile.SYMTYPE, str(outside)),
        member("l/planted", content=b"x"),
    ],
    "a hard link leads out": lambda outside: [
        member("h", tarfile.LNKTYPE, str(outside / "secret")),
        member("h", content=b"x"),
    ],
    "a hard link climbs": lambda _: [member("h", tarfile.LNKTYPE, "../outside/secret")],
    "a hard link through a link": lambda outside: [
        member("l", tarfile.SYMTYPE, str(outside)),
        member("h", tarfile.LNKTYPE, "l/secret"),
    ],
    "a hard link of a link": lambda outside: [
        member("l", tarfile.SYMTYPE, str(outside / "secret")),
        member("h", tarfile.LNKTYPE, "l"),
        member("h", content=b"x"),
    ],
    "a device": lambda _: [member("d", tarfile.CHRTYPE)],
    "a fifo": lambda _: [member("f", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_stay_in(name: str, preserve: bool, walled: tuple[Path, Path]) -> None:
    """Whatever an archive tries, nothing outside its directory is created, changed, or linked to."""
    top, outside = walled
    unpacked(crafted(*HOSTILE[name](outside)), top, preserve=preserve)
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert (outside / "secret").stat().st_nlink == 1
    assert sorted(path.name for path in top.parent.iterdir()) == ["outside", "top"]
    for path in top.rglob("*"):
        kind = path.lstat().st_mode
        assert modes.S_ISREG(kind) or modes.S_ISDIR(kind) or modes.S_ISLNK(kind)
        assert not modes.S_ISREG(kind) or path.read_bytes() == b"x"


_parts = st.sampled_from(["a", "b", "..", ".", "", "l", "outside", "\n", "\udcff"])
_names = st.lists(_parts, min_size=1, max_size=4).map("/".join).filter(bool)
_kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_names, _kinds, st.one_of(_names, st.just("/OUTSIDE"))), max_size=6), st.booleans())
def test_no_archive_leads_out(members: list[tuple[str, bytes, str]], preserve: bool) -> None:
    """Whatever names, links and kinds an archive has, in any order, what is outside stays unchanged."""
    with tempfile.TemporaryDirectory() as place:
        top, outside = Path(place, "top"), Path(place, "outside")
        top.mkdir()
        outside.mkdir()
        (outside / "a").write_bytes(b"secret")
        made = [
            member(
                name, kind, link.replace("/OUTSIDE", str(outside)), b"x" if kind == tarfile.REGTYPE else b""
            )
            for name, kind, link in members
        ]
        unpacked(crafted(*made), top, preserve=preserve)
        assert sorted(path.name for path in Path(place).iterdir()) == ["outside", "top"]
        assert [path.name for path in outside.iterdir()] == ["a"]
        assert (outside / "a").read_bytes() == b"secret"
        assert (outside / "a").stat().st_nlink == 1


def test_no_link_is_there_while_others_unpack(walled: tuple[Path, Path]) -> None:
    """Of several streams one cannot plant a link that another one writes through: links come at the end."""
    top, outside = walled
    raw = crafted(member("l", tarfile.SYMTYPE, str(outside)))
    later = unpacking.unpack(raw, top, failed=lambda *_: None)
    assert list(top.iterdir()) == []
    assert unpacked(crafted(member("l/planted", content=b"x")), top) == {}
    for settle in later:
        settle()
    assert (top / "l" / "planted").read_bytes() == b"x"
    assert not (outside / "planted").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..", ".", "a//b", ""])
def test_hostile_listings_are_refused(name: str) -> None:
    """A listing whose names lead out is refused before anything is looked for by them."""
    stat = Stat(0o100644, 1, 0, 0, 1, 1, 1, 0, 0, 0)
    with pytest.raises(PermissionError):
        from_records([(name, stat)], top="/there")


def test_an_item_is_small() -> None:
    """A listing of any length takes no more than some 200 bytes in addition to each name."""
    names = [f"directory-{number // 1000}/file-{number}.dat" for number in range(20_000)]
    tracemalloc.start()
    try:
        stats = ((name, Stat(0o100644, 1000 + at, 0, 0, 1, at, 1, 0, at, 0)) for at, name in enumerate(names))
        items = from_records(stats, top="/somewhere/over/there/with/a/long/name")
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(items) == 20_000
    assert items[0].path == "/somewhere/over/there/with/a/long/name/directory-0/file-0.dat"
    # the names themselves were there before
    assert grown < 20_000 * 220


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with everything that a tree can hold."""
    top = tmp_path / "tree"
    (top / "d" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "d" / "file").write_bytes(b"content")
    (top / ".hidden").write_bytes(b"")
    (top / os.fsdecode(b"\xff\n'\"")).write_bytes(b"raw")
    (top / ("é" * 127)).write_bytes(b"long")
    os.link(top / "d" / "file", top / "twin")
    (top / "link").symlink_to("d/file")
    (top / "dangling").symlink_to("x" * 200)
    with (top / "sparse").open("wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"island")
    (top / "d" / "file").chmod(0o400)
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(1, 1_234_567_890_123_456_000 + number), follow_symlinks=False)
    os.utime(top / "empty", ns=(1, -1_500_000_001))
    (top / "d").chmod(0o555)
    return top


def listing(top: Path, *, times: bool) -> dict[str, tuple[object, ...]]:
    """What is below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        seen = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (
            modes.S_IFMT(seen.st_mode) if path.is_symlink() else oct(seen.st_mode),
            content,
            seen.st_mtime_ns if times else 0,
        )
    return found


def failing(item: Item, reason: OSError) -> None:
    """Nothing is to fail."""
    raise AssertionError(item.name) from reason


def packed(top: Path, *, preserve: bool = False) -> io.BytesIO:
    """The archive of a tree."""
    raw = io.BytesIO()
    items = list(list_tree(str(top), failed=lambda reason: failing(items[0], reason)))
    packing.pack(items, raw, preserve=preserve, failed=failing)
    raw.seek(0)
    return raw


@pytest.mark.parametrize("preserve", [False, True])
def test_a_tree_survives(preserve: bool, tree: Path, tmp_path: Path) -> None:
    """Names of any bytes, modes, links and holes survive; preserved, times and hard links too."""
    top = tmp_path / "top"
    top.mkdir()
    assert unpacked(packed(tree, preserve=preserve), top, preserve=preserve) == {}
    assert listing(top, times=preserve) == listing(tree, times=preserve)
    assert ((top / "twin").stat().st_nlink == 2) == preserve
    assert (top / "sparse").stat().st_blocks * 512 < 2 << 20


def test_tar_reads_ours(tree: Path, tmp_path: Path) -> None:
    """GNU tar unpacks our stream as we do, so the host gets the same."""
    top = tmp_path / "top"
    top.mkdir()
    items = tar_streams.opened(list_tree(str(tree), failed=lambda _: None))
    last = [item for item in list_tree(str(tree), failed=lambda _: None) if item.kind == "directory"]
    for some in (items, reversed(last)):
        raw = io.BytesIO()
        packing.pack(some, raw, preserve=True, failed=failing)
        argv = ["tar", "-x", "-p", "-o", "-f", "-", "-C", str(top)]
        subprocess.run(argv, input=raw.getvalue(), check=True, env={"LC_ALL": "C"})
    assert listing(top, times=True) == listing(tree, times=True)


def test_hard_links_without_preserve_are_files_of_their_own(tmp_path: Path) -> None:
    """What the remote side's tar sends as a hard link becomes a copy, as `cp -r` has it."""
    raw = crafted(member("a", content=b"x"), member("b", tarfile.LNKTYPE, "./a"))
    assert unpacked(raw, tmp_path) == {}
    assert (tmp_path / "b").read_bytes() == b"x"
    assert (tmp_path / "b").stat().st_nlink == 1


def test_times_that_are_known_better(tmp_path: Path) -> None:
    """GNU tar's own format has whole seconds; the listing's time counts."""
    item = Item("a", "file", 0, 0o600, 1_000_000_001, "top")
    unpacked(crafted(member("a")), tmp_path, preserve=True, listed={"a": item})
    assert (tmp_path / "a").stat().st_mtime_ns == 1_000_000_001


def of_holes(size: int) -> io.BytesIO:
    """An archive with one file, `a`, of nothing but a hole, as GNU tar writes it."""
    header = tarfile.TarInfo("a")
    header.type = tarfile.GNUTYPE_SPARSE
    raw = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    # the map has one piece, of no bytes at the end (GNU tar's manual, "Old GNU Format")
    for at, number in ((386, size), (398, 0), (483, size)):
        raw[at : at + 12] = bytes([0x80]) + number.to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw[:512]):06o}\0 ".encode()
    return io.BytesIO(bytes(raw) + bytes(1024))


def test_holes_are_bounded_by_what_was_listed(tmp_path: Path) -> None:
    """A header that claims 1 PiB of holes is not followed, where the listing has told of less."""
    item = Item("a", "file", 1 << 20, 0o600, 0, "top")
    unpacked(of_holes(1 << 20), tmp_path, listed={"a": item})
    assert (tmp_path / "a").stat().st_size == 1 << 20
    begin = time.monotonic()
    assert unpacked(of_holes(1 << 50), tmp_path, listed={"a": item}) == {}
    assert time.monotonic() - begin < 5
    assert (tmp_path / "a").stat().st_size == 1 << 20


def test_nothing_but_what_was_listed(tmp_path: Path) -> None:
    """Of a larger file its beginning; no other kind, no other name, nothing twice, no link to a larger."""
    names = ("larger", "directory", "file", "link", "twice", "big", "twin")
    sizes = {"big": 9, "twin": 1}
    listed = {
        name: Item(name, "directory" if name == "file" else "file", sizes.get(name, 2), 0o600, 0, "top")
        for name in names
    }
    raw = crafted(
        member("larger", content=b"three"),
        member("directory", tarfile.DIRTYPE),
        member("file"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("other"),
        member("twice", content=b"1"),
        member("twice", content=b"2"),
        member("big", content=b"123456789"),
        member("twin", tarfile.LNKTYPE, "big"),
    )
    assert unpacked(raw, tmp_path, listed=listed) == {}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "larger": b"th",
        "twice": b"1",
        "big": b"123456789",
    }


@pytest.mark.parametrize("nanoseconds", [0, 1, -1, 1_500_000_000, -1_500_000_000, 10**18 + 1])
def test_seconds_are_exact(nanoseconds: int, tmp_path: Path) -> None:
    """A time is written as touch(1) and tar(1) read it, before the epoch too."""
    path = tmp_path / "file"
    raw = io.BytesIO()
    path.touch()
    os.utime(path, ns=(0, nanoseconds))
    packing.pack(list_tree(str(path), prefix="a", failed=lambda _: None), raw, preserve=True, failed=failing)
    raw.seek(0)
    (tmp_path / "top").mkdir()
    unpacked(raw, tmp_path / "top", preserve=True)
    assert (tmp_path / "top" / "a").stat().st_mtime_ns == nanoseconds


def test_nobody_is_given_others_rights(tmp_path: Path) -> None:
    """A set-user-ID bit is not moved: whose file it will be is another matter."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "su").touch()
    (tmp_path / "tree" / "su").chmod(0o6755)
    (tmp_path / "top").mkdir()
    unpacked(packed(tmp_path / "tree", preserve=True), tmp_path / "top", preserve=True)
    assert modes.S_IMODE((tmp_path / "top" / "su").stat().st_mode) == 0o755
    info = member("su")
    info[0][0].mode = 0o6755
    unpacked(crafted(info), tmp_path / "top", preserve=True)
    assert modes.S_IMODE((tmp_path / "top" / "su").stat().st_mode) == 0o755


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    """Fifos, sockets, and files that vanish or are cut are told; the archive has the others as they are."""
    top = tmp_path / "tree"
    top.mkdir()
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "socket"))
    for name in ("fine", "gone", "grown", "shrunk", "touched", "fifo now"):
        (top / name).write_bytes(b"x" * 100)
    (top / "large shrunk").write_bytes(b"x" * (3 << 20))
    items = list(list_tree(str(top), failed=lambda _: None))
    (top / "gone").unlink()
    (top / "grown").write_bytes(b"x" * 200)
    (top / "shrunk").write_bytes(b"")
    os.utime(top / "touched", ns=(1, 1))
    (top / "fifo now").unlink()
    os.mkfifo(top / "fifo now")
    os.truncate(top / "large shrunk", 2 << 20)
    told: dict[str, int | None] = {}
    raw = io.BytesIO()
    packing.pack(items, raw, failed=lambda item, reason: told.__setitem__(item.name, reason.errno))
    busy, invalid = errno.EBUSY, errno.EINVAL
    assert told == {
        **dict.fromkeys(("fifo", "socket"), invalid),
        **dict.fromkeys(("shrunk", "fifo now", "large shrunk"), busy),
        "gone": errno.ENOENT,
    }
    raw.seek(0)
    with tarfile.open(fileobj=raw) as made:
        assert made.getnames() == [".", "fine", "grown", "touched"]
        assert made.getmember("grown").size == 200


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    """A tree that links lead back into is listed once, and the circle told."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "up").symlink_to("..")
    told: list[OSError] = []
    items = list(list_tree(str(tmp_path), dereference=True, failed=told.append))
    assert [item.name for item in items] == ["", "d", "d/up"]
    assert [reason.errno for reason in told] == [errno.ELOOP]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.o"], ["", "b", "b/x.c", "x.c"]),
        (["b"], ["", "a.o", "x.c"]),
        (["b/*.o"], ["", "a.o", "b", "b/x.c", "x.c"]),
        (["b/"], ["", "a.o", "x.c"]),
        (lambda name: name.endswith(".c"), ["", "a.o", "b", "b/y.o"]),
    ],
)
def test_excluded(patterns: Exclude, left: list[str], tmp_path: Path) -> None:
    """Patterns of names apply at any depth, those with a slash from the top; a function gets the path."""
    (tmp_path / "b").mkdir()
    for name in ("a.o", "x.c", "b/x.c", "b/y.o"):
        (tmp_path / name).touch()
    items = list_tree(str(tmp_path), exclude=patterns, failed=lambda _: None)
    assert sorted(item.name for item in items) == left


@pytest.mark.parametrize("size", [0, 100, 600, 2000, 5000])
def test_a_cut_archive_is_an_error_of_its_own(size: int, tmp_path: Path) -> None:
    """An archive that ends early, wherever, gives BrokenStream or is short: never half a file."""
    raw = crafted(member("a", content=b"x" * 1000), member("b", content=b"y" * 1000)).getvalue()
    refused: dict[str, OSError] = {}
    try:
        unpacking.unpack(io.BytesIO(raw[:size]), tmp_path, failed=refused.__setitem__)
    except archive.BrokenStream as reason:
        short = reason.errno == errno.EIO
    else:
        short = False
    assert short or size >= 2000
    assert refused == {}


def test_a_lost_connection_is_no_failure_of_a_file(tmp_path: Path) -> None:
    """What the reader raises of the connection ends it all, and is not reported of the file on its way."""
    raw = crafted(member("a", content=b"x" * (1 << 20)))

    class Cut:
        def read(self, size: int = -1, /) -> bytes:
            piece = raw.read(min(size, 1000))
            if raw.tell() > 4000:
                raise ConnectionLost("gone", host="h")
            return piece

    refused: dict[str, OSError] = {}
    with pytest.raises(ConnectionLost):
        unpacking.unpack(Cut(), tmp_path, failed=refused.__setitem__)
    assert refused == {}


def test_umask_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask belongs to all threads: it is read without being changed, however many ask."""
    before = os.umask(0o027)
    try:

        def changed(_: int) -> int:
            raise AssertionError("umask(2) changes it")

        monkeypatch.setattr(os, "umask", changed)
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(archive.umask())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [0o027] * 8
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_drafts_are_swept_after_a_week(tmp_path: Path) -> None:
    """Only our drafts go, when neither their content nor anything of them was changed for a week."""
    old = tmp_path / ".ossh-0123456789abcdef"
    for name in (old.name, ".ossh-notes", ".ossh-0123456789abcdeg", "file"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    # nobody can set the time of the last change of the inode, so this one is in use
    drafts.sweep(tmp_path)
    assert old.exists()


def test_a_week_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A week later our drafts are gone, files and trees, with directories that cannot be written to."""
    (tmp_path / ".ossh-0123456789abcdef" / "t").mkdir(parents=True)
    (tmp_path / ".ossh-0123456789ab").touch()
    (tmp_path / ".ossh-notes").touch()
    monkeypatch.setattr(drafts, "_STALE", -1.0)
    drafts.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".ossh-notes"]
