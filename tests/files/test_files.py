"""File operations: the contract over each kind of remote side, and what has no counterpart here."""

from __future__ import annotations

import asyncio
import errno
import glob as globbing
import itertools
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from opensshtransport import AsyncTransport, Transport
from opensshtransport.errors import ConnectionFailed
from opensshtransport.files.changes import Files
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, require
from tests.support.contracts import Awaited, Both, FilesContract, acting_as, at
from tests.support.nodes import config_through, missing_programs
from tests.support.programs import until
from tests.support.relay import Relay
from tests.support.users import ShellName, User, missing_for_users, temporary_user

System = Literal["gnu", "busybox", "mixed"]
# The busybox tools that are mixed with GNU's find, xargs, mv and cp.
_MIXED = ("stat", "readlink", "touch", "head", "tail", "mkdir", "sha256sum", "dd", "rm", "ln")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class FarSide:
    """A node, its user, and transports to it."""

    node: Sandbox
    user: User
    sync: Transport
    awaited: Awaited


@pytest.fixture(scope="session")
def far_side(passable: Path) -> Iterator[Callable[[System, ShellName], FarSide]]:
    """Make each kind of remote side once; they are logged in before a test's own directories are set up."""
    require(missing_for_users() or missing_programs("sshd", "busybox", "tcsh"))
    made: dict[tuple[System, ShellName], FarSide] = {}
    with ExitStack() as stack:

        def make(system: System, shell: ShellName) -> FarSide:
            if (system, shell) not in made:
                options = {}
                if system != "gnu":
                    options["SetEnv"] = f"PATH={_applets(passable / system, system)}:/usr/bin:/bin"
                user = stack.enter_context(temporary_user(passable, shell))
                node = stack.enter_context(Sandbox(f"{system}-{shell}", user.name, server_options=options))
                sync = stack.enter_context(Transport(node.host, ssh_config=node.ssh_config))
                assert sync.home() == str(user.home)
                loop = asyncio.new_event_loop()
                stack.callback(loop.close)
                awaited = Awaited(AsyncTransport(node.host, ssh_config=node.ssh_config), loop)
                stack.callback(awaited.close)
                assert awaited.home() == str(user.home)
                made[system, shell] = FarSide(node, user, sync, awaited)
            return made[system, shell]

        yield make


def _applets(directory: Path, system: System) -> Path:
    if not directory.exists():
        directory.mkdir()
        busybox = shutil.which("busybox") or ""
        if system == "busybox":
            subprocess.run([busybox, "--install", "-s", directory], check=True)
        else:
            for name in _MIXED:
                (directory / name).symlink_to(busybox)
    return directory


_KINDS: list[tuple[str, System, ShellName]] = [
    *itertools.product(("sync", "async"), ("gnu", "busybox"), ("bash", "tcsh")),  # type: ignore[list-item]
    ("sync", "mixed", "bash"),
]


@pytest.fixture(scope="session", params=_KINDS, ids="-".join)
def kind(
    request: pytest.FixtureRequest, far_side: Callable[[System, ShellName], FarSide]
) -> tuple[str, FarSide]:
    """How the remote side is asked, and which one."""
    way, system, shell = request.param
    return way, far_side(system, shell)


@pytest.fixture
def both(kind: tuple[str, FarSide]) -> Iterator[Both]:
    """The remote side and here, each with a directory of its own."""
    way, there = kind
    place = there.user.home / f"scenario{next(_numbers)}"
    with acting_as(there.user.uid):
        for top in (place / "far", place / "own"):
            top.mkdir(parents=True)
    far = there.sync if way == "sync" else there.awaited
    yield Both(far, there.node.host, there.user.uid, there.user.home, (place / "far", place / "own"))
    shutil.rmtree(place)


class TestContract(FilesContract):
    """Each scenario over each kind of remote side."""


# -- file systems that refuse --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mounts(passable: Path) -> Iterator[dict[str, Path]]:
    """File systems: a small one (`full`), one that is read-only (`readonly`); each anybody's."""
    places = {name: passable / name for name in ("full", "readonly")}
    with ExitStack() as stack:
        for name, place in places.items():
            place.mkdir()
            size = "64k" if name == "full" else "1m"
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", place],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
            stack.callback(lambda place=place: subprocess.run(["umount", "-l", place], check=True))  # type: ignore[misc]
        (places["readonly"] / "f").write_text("here\n")
        (places["readonly"] / "f").chmod(0o666)
        (places["readonly"] / "d").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", places["readonly"]], check=True)
        yield places


@pytest.fixture(scope="session", params=["gnu", "busybox"])
def far(request: pytest.FixtureRequest, far_side: Callable[[System, ShellName], FarSide]) -> FarSide:
    """The remote side by each system."""
    return far_side(request.param, "bash")


def errno_by(call: Callable[..., object], *args: object, **named: object) -> str:
    """The name of the errno that a call ends with."""
    with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
        call(*args, **named)
    assert not isinstance(caught.value, ConnectionFailed)
    return errno.errorcode[caught.value.errno or 0]


def test_full_file_system(far: FarSide, mounts: dict[str, Path]) -> None:
    """ENOSPC; what was there stays, and no draft is left."""
    there, place = far.sync, mounts["full"]
    there.write_bytes(place / "f", b"old")
    assert errno_by(there.write_bytes, place / "f", bytes(1 << 20)) == "ENOSPC"
    assert errno_by(there.write_bytes, place / "f", bytes(5 << 20)) == "ENOSPC"
    assert errno_by(there.append, place / "f", bytes(1 << 20)) == "ENOSPC"
    there.write_bytes("big", bytes(1 << 18))
    assert errno_by(there.copy, "big", place / "g") == "ENOSPC"
    assert there.read_bytes(place / "f") == b"old"
    assert there.listdir(place) == ["f"]
    there.remove(place / "f")
    there.remove("big")


def test_quota(far: FarSide, limited: Path) -> None:
    """EDQUOT; what was there stays, and no draft is left."""
    there = far.sync
    there.write_bytes(limited / "f", b"old")
    # what can be compressed, or is all zeros, would count less
    content = os.urandom(4 << 20)
    there.write_bytes("big", content)
    for call, *args in (
        (there.write_bytes, limited / "f", content),
        (there.append, limited / "f", content),
        (there.copy, "big", limited / "g"),
    ):
        assert errno_by(call, *args) == "EDQUOT"
    assert there.read_bytes(limited / "f") == b"old"
    assert there.listdir(limited) == ["f"]
    there.remove(limited / "f")
    there.remove("big")


def test_read_only_file_system(far: FarSide, mounts: dict[str, Path]) -> None:
    """EROFS for all that changes; reading goes on."""
    there, place = far.sync, mounts["readonly"]
    assert there.read_text(place / "f") == "here\n"
    for call, *args in (
        (there.write_bytes, place / "f", b""),
        (there.write_bytes, place / "new", b""),
        (there.append, place / "f", b""),
        (there.truncate, place / "f", 0),
        (there.remove, place / "f"),
        (there.rmdir, place / "d"),
        (there.rmtree, place / "d"),
        (there.mkdir, place / "new"),
        (there.touch, place / "new"),
        (there.symlink, "x", place / "new"),
        (there.rename, place / "f", place / "g"),
        (there.copy, place / "f", place / "g"),
        (there.remove_many, [place / "f"]),
    ):
        assert errno_by(call, *args) == "EROFS", call


def test_rename_between_file_systems(far: FarSide, mounts: dict[str, Path]) -> None:
    """EXDEV, as rename(2) has it, and not mv(1)'s copy."""
    far.sync.write_bytes("f", b"1")
    assert errno_by(far.sync.rename, "f", mounts["full"] / "f") == "EXDEV"
    far.sync.copy("f", mounts["full"] / "f")
    far.sync.remove(mounts["full"] / "f")
    far.sync.remove("f")


def test_errors_name_the_file(far: FarSide) -> None:
    """`HOST:path` is the file name, of a rename both; the errno decides the class."""
    with pytest.raises(FileNotFoundError) as caught:
        far.sync.rename("no such", "~/x")
    assert (caught.value.filename, caught.value.filename2) == (
        f"{far.node.host}:no such",
        f"{far.node.host}:~/x",
    )
    assert errno_by(far.sync.stat, "x" * 256) == "ENAMETOOLONG"
    assert errno_by(far.sync.stat, "x/" * 2100) == "ENAMETOOLONG"


# -- what has no counterpart here ----------------------------------------------------------------------


def test_home_directories(far: FarSide) -> None:
    """`~` and `~user` are expanded at the beginning of a path; relative paths begin at the home directory."""
    there, home = far.sync, str(far.user.home)
    assert there.home() == there.normalize() == there.realpath("~") == home
    assert there.whoami() == far.user.name
    there.write_bytes("~/f", b"1")
    assert there.read_bytes("f") == there.read_bytes(f"~{far.user.name}/f") == there.read_bytes(f"{home}/f")
    assert there.realpath("~root") == "/root"
    assert there.stat_many(["~/f", "~", f"~{far.user.name}/f", "f"])[0] == there.stat("f")
    assert there.exists_many(["~/f", "~root", "./~"]) == [True, True, False]
    there.mkdir("./~")
    there.write_bytes("./~/~", b"2")
    assert there.read_bytes("./~/~") == b"2"
    assert there.glob("~/~") == [f"{home}/~"]
    there.rmtree("./~")
    assert there.exists("~")
    assert not there.exists("~no-such-user-here")
    there.remove("f")


def test_copies_are_atomic(far: FarSide) -> None:
    """A file is replaced by one rename: a process that has the old one open goes on reading it."""
    far.sync.write_bytes("f", b"old")
    with (far.user.home / "f").open("rb") as file:
        far.sync.write_bytes("f", b"new")
        far.sync.write_bytes("g", b"copied")
        far.sync.copy("g", "f")
        assert file.read() == b"old"
    assert far.sync.read_bytes("f") == b"copied"
    far.sync.remove_many(["f", "g"])


def test_drafts_are_private(own_node: Sandbox, keep: Keep, tmp_path: Path) -> None:
    """While a private file is written, replaced or added to, its draft is private too."""
    content = b"secret" * 1_000_000
    relay = keep(Relay(own_node.port))
    there = keep(Transport(own_node.host, ssh_config=config_through(own_node, relay)))
    assert there.exists("~")
    path = tmp_path / "private"
    ways: tuple[Callable[[], object], ...] = (
        lambda: there.write_bytes(path, content, mode=0o600),
        lambda: there.write_bytes(path, content),
        lambda: there.append(path, content),
    )
    for number, way in enumerate(ways, 1):
        # all stands still in the midst of it
        relay.cut_after(3_000_000, "silence", "up")
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(way)
            until(lambda n=number: relay.faults == n, "the middle")  # type: ignore[misc]
            until(lambda: any(tmp_path.glob(".ossh-*")), "the draft")
            (draft,) = tmp_path.glob(".ossh-*")
            assert stat.S_IMODE(draft.stat().st_mode) == 0o600
            relay.resume()
            written.result(60)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not list(tmp_path.glob(".ossh-*"))
    assert path.read_bytes() == content * 2


def test_one_of_many_makes_a_file(far: FarSide) -> None:
    """Of several who write or touch with `exist_ok=False` at once, one succeeds."""
    there = far.sync
    with ThreadPoolExecutor(8) as pool:
        for make in (
            lambda number: there.write_bytes("lock", b"%d" % number, exist_ok=False),
            lambda _: there.touch("lock", exist_ok=False),
            lambda _: there.mkdir("lock"),
            lambda number: there.symlink(str(number), "lock"),
        ):
            futures = [pool.submit(make, number) for number in range(8)]
            errors = [future.exception() for future in futures]
            assert errors.count(None) == 1
            assert {type(error) for error in errors} == {type(None), FileExistsError}
            if there.is_dir("lock"):
                there.rmdir("lock")
            else:
                there.unlink("lock")
    assert not [name for name in there.listdir() if name.startswith(".ossh-")]


def test_ten_thousand_entries(far: FarSide) -> None:
    """Large directories are listed, looked at, matched and removed."""
    there, top = far.sync, far.user.home / "large"
    top.mkdir()
    for number in range(10_000):
        (top / f"file{number:05}").touch()
    shutil.chown(top, far.user.uid, far.user.uid)
    names = [f"file{number:05}" for number in range(10_000)]
    assert there.listdir("large") == names
    assert [entry.name for entry in there.scandir("large")] == names
    assert there.glob("large/*9") == [f"large/{name}" for name in names if name.endswith("9")]
    assert all(there.exists_many([f"large/{name}" for name in names]))
    there.rmtree("large")
    assert not top.exists()


# -- by chance -----------------------------------------------------------------------------------------

# Any bytes but NUL and a slash, with more of those that mean something to a shell.
_SPECIAL = [
    b" ",
    b"\n",
    b"'",
    b'"',
    b"\\",
    b"*",
    b"?",
    b"[",
    b"]",
    b"-",
    b"~",
    b"$",
    b"`",
    b"\x81",
    b"\x88",
    b"\xff",
]
raw_names = st.lists(
    st.sampled_from(_SPECIAL) | st.binary(min_size=1, max_size=3), min_size=1, max_size=6
).map(lambda parts: os.fsdecode(b"".join(parts).replace(b"\0", b"0").replace(b"/", b"_")))
file_names = raw_names.filter(lambda name: name not in {".", ".."})
slow_examples = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)


@settings(slow_examples, max_examples=25)
@given(names=st.lists(file_names, max_size=30, unique=True))
def test_names_there_and_back(far: FarSide, names: list[str]) -> None:
    """Whatever names there are, quoting brings them there and the listing brings them back."""
    there = far.sync
    there.mkdir("chance")
    for name in names:
        (far.user.home / "chance" / name).touch()
    assert there.listdir("chance") == sorted(names)
    assert [entry.name for entry in there.scandir("chance")] == sorted(names)
    paths = [f"chance/{name}" for name in names]
    assert None not in there.stat_many(paths)
    assert all(there.exists(path) for path in paths)
    assert there.glob("chance/*") == sorted(paths)
    assert all(there.glob(f"chance/{globbing.escape(name)}") == [f"chance/{name}"] for name in names)
    there.remove_many(paths)
    there.rmdir("chance")


@pytest.fixture
def grove(far: FarSide) -> Iterator[Path]:
    """A tree to match patterns in."""
    top = far.user.home / f"grove{next(_numbers)}"
    for path in ("a/b/c", "a/.b/c", "ab/b", ".a/c", "b/[a]", "b/a*", "b/ä", "b/a\nb", "c/a/a/a"):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).touch()
    (top / "l").symlink_to("a")
    (top / "a/up").symlink_to("..")
    (top / "gone").symlink_to("nowhere")
    yield top
    shutil.rmtree(top)


_PART = st.sampled_from(
    ["*", "?", "**", "a", "b", "[ab]", "[!a]", "a*", ".*", "*b*", "??", "l", "gone", "[", "[[]a]"]
)


@settings(slow_examples, max_examples=60)
@given(parts=st.lists(_PART, min_size=1, max_size=4), slash=st.booleans())
def test_glob_by_chance(far: FarSide, grove: Path, parts: list[str], slash: bool) -> None:
    """Any pattern finds what pathlib finds."""
    if sys.version_info < (3, 13):
        # what has changed: a `**` at the end, names without a pattern of links that lead nowhere
        assume(parts[-1] != "**" and "gone" not in parts)
    pattern = "/".join(parts) + "/" * slash
    here = sorted({str(path) for path in grove.glob(pattern)})
    assert far.sync.glob(pattern, root=grove) == here


_CHANGES = st.sampled_from(
    [
        *("write_bytes", "append", "mkdir", "makedirs", "remove", "rmdir", "rmtree", "rename", "replace"),
        *("symlink", "touch", "truncate", "chmod", "unlink"),
    ]
)
_QUESTIONS = ("lstat", "exists", "is_dir", "listdir", "scandir", "readlink", "read_bytes", "realpath", "walk")


@pytest.mark.timeout(600)
@settings(slow_examples, max_examples=20)
@given(
    names=st.lists(file_names, min_size=3, max_size=3, unique=True),
    steps=st.lists(
        st.tuples(
            _CHANGES,
            st.lists(st.integers(0, 2), min_size=1, max_size=3),
            st.lists(st.integers(0, 2), min_size=1, max_size=2),
            st.binary(max_size=20),
        ),
        min_size=5,
        max_size=25,
    ),
)
def test_sequences_by_chance(
    far: FarSide, names: list[str], steps: list[tuple[str, list[int], list[int], bytes]]
) -> None:
    """Whatever is done in a row, with whatever names: each answer and the trees at the end are the same."""
    place = far.user.home / f"sequence{next(_numbers)}"
    with acting_as(far.user.uid):
        for top in (place / "far", place / "own"):
            top.mkdir(parents=True)
    both = Both(far.sync, far.node.host, far.user.uid, far.user.home, (place / "far", place / "own"))
    for change, first, second, content in steps:
        path, other = (at("/".join(names[number] for number in numbers)) for numbers in (first, second))
        if change in {"rename", "replace"}:
            if not f"{path}/".startswith(f"{other}/"):
                both(change, path, other)
        elif change == "symlink":
            both(change, str(other), path)
        elif change in {"write_bytes", "append"}:
            both(change, path, content)
        elif change == "truncate":
            both(change, path, len(content))
        elif change == "chmod":
            both(change, path, 0o700 + len(content))
        else:
            both(change, path)
        both(_QUESTIONS[len(content) % len(_QUESTIONS)], other)
    both.same_trees()
    shutil.rmtree(place)


def test_links_that_lead_nowhere_yet(far: FarSide) -> None:
    """Writing through a link makes the file that it names, as seen from the link; links in a circle end."""
    place = far.user.home / "nowhere"
    with acting_as(far.user.uid):
        for top in (place / "far", place / "own"):
            top.mkdir(parents=True)
    both = Both(far.sync, far.node.host, far.user.uid, far.user.home, (place / "far", place / "own"))
    for link, to in (
        (" ", "  "),
        ("one", "two"),
        ("circle", "circle/on"),
        ("this", "that"),
        ("that", "this"),
    ):
        both("symlink", to, at(link))
        both("realpath", at(link))
        both("write_bytes", at(link), b"content")
        both("realpath", at(link))
    both.same_trees()


def test_listdir_while_names_come_and_go(far: FarSide) -> None:
    """A name that goes while a directory is read is no error of the directory."""
    place = far.user.home / "busy"
    with acting_as(far.user.uid):
        place.mkdir()
        (place / "stays").touch()
        names = [place / f"goes{number}" for number in range(200)]
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            for name in names:
                name.touch()
            for name in names:
                name.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert "stays" in far.sync.listdir(place)
    finally:
        done.set()
        thread.join()
    shutil.rmtree(place)


def test_scantree(far: FarSide) -> None:
    """All of a tree by the path below it, with what links lead to."""
    there = far.sync
    there.mkdir("t/a/b", parents=True)
    there.write_bytes("t/a/b/f", b"123")
    there.symlink("a", "t/l")
    found = there.scantree("t")
    assert list(found) == ["a", "a/b", "a/b/f", "l"]
    assert (found["a/b/f"].stat.size, found["l"].is_dir(), found["l"].is_symlink()) == (3, True, True)
    there.rmtree("t")


def _deep(top: Path) -> None:
    """A file whose path is longer than PATH_MAX."""
    place = os.open(top, os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=place)
        above, place = place, os.open("d" * 200, os.O_RDONLY, dir_fd=place)
        os.close(above)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)


def test_what_cannot_be_listed_is_told(far: FarSide, tmp_path: Path) -> None:
    """What cannot be read, or is beyond PATH_MAX: `tree_size` raises, `walk`, `scantree` and `get` tell."""
    there = far.sync
    there.mkdir("told/closed/below", parents=True)
    there.mkdir("told/open")
    there.write_bytes("told/open/file", b"123")
    assert there.tree_size("told") == 3
    there.chmod("told/closed", 0)
    with pytest.raises(PermissionError, match="told/closed"):
        there.tree_size("told")
    told: list[OSError] = []
    assert list(there.scantree("told", onerror=told.append)) == ["closed", "open", "open/file"]
    assert [(one.errno, str(one.filename).partition(":")[2]) for one in told] == [
        (errno.EACCES, "told/closed")
    ]
    there.chmod("told/closed", 0o700)
    with acting_as(far.user.uid):
        _deep(far.user.home / "told")
    with pytest.raises(OSError, match="too long"):
        there.tree_size("told")
    told.clear()
    walked = {here: files for here, _, files in there.walk("told", onerror=told.append)}
    assert walked["told/open"] == ["file"]
    assert errno.ENAMETOOLONG in {one.errno for one in told}
    told.clear()
    there.scantree("told", onerror=told.append)
    assert {one.errno for one in told} == {errno.ENAMETOOLONG}
    with pytest.raises(OSError, match="too long"):
        there.get("told", tmp_path)
    assert (tmp_path / "told/open/file").read_bytes() == b"123"
    shutil.rmtree(far.user.home / "told")
    shutil.rmtree(tmp_path / "told")


def test_async_has_every_name() -> None:
    """What `Transport` can do with files, `AsyncTransport` can."""
    names = {name for name in vars(Files) if not name.startswith("_")}
    assert names <= set(dir(AsyncTransport))
