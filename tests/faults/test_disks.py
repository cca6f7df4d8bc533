"""Disks that are full, on either side: the right error, nothing half written, and drafts go."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.errors import ConnectionFailed, OnceError
from opensshtransport.transfer.options import Way
from tests.conftest import Keep, require
from tests.faults.operations import drafts, snapshot
from tests.faults.world import World, within
from tests.support.nodes import missing_programs

SIZE = 4 << 20
MIB = 1 << 20


@pytest.fixture
def disk(isolated: Path) -> Iterator[Path]:
    """A file system of 4 MiB, with a path short enough for sockets."""
    require("" if os.geteuid() == 0 else "mounting needs root")
    require(missing_programs("mount", "sshd", "ssh-keygen"))
    place = isolated / "d"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "faults", place], check=False, capture_output=True
    )
    if mounted.returncode:
        # a container may forbid it to its root
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Leave so many bytes on a disk."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError):
        with ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    if leave:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))


def room(disk: Path) -> int:
    """The bytes that are left."""
    return shutil.disk_usage(disk).free


Act = Callable[[Transport, Path, Path], object]


def _put(name: str, way: Way | None = None) -> Act:
    return lambda there, near, far: there.put(near / name, far / "new", way=way)


def _get(name: str, way: Way | None = None) -> Act:
    return lambda there, near, far: there.get(far / name, near / "new", way=way)


def _far(act: Callable[[Transport, Path], object]) -> Act:
    return lambda there, _, far: act(there, far)


FAR: dict[str, Act] = {
    "write_bytes": _far(lambda there, far: there.write_bytes(far / "new", bytes(MIB))),
    "write_bytes over": _far(lambda there, far: there.write_bytes(far / "other", bytes(MIB))),
    "append": _far(lambda there, far: there.append(far / "other", bytes(MIB))),
    "copy": lambda there, near, far: there.copy(near / "big", far / "new"),
    "copy a tree": lambda there, near, far: there.copy(near / "many", far / "new"),
    "put inline": _put("big", "inline"),
    "put a small tree": _put("some"),
    "put tar": _put("many", "tar"),
    "put stream": _put("big", "stream"),
    "put sftp": _put("big", "sftp"),
}
NEAR: dict[str, Act] = {
    "get inline": _get("big", "inline"),
    "get a small tree": _get("some"),
    "get tar": _get("many", "tar"),
    "get stream": _get("big", "stream"),
    "get sftp": _get("big", "sftp"),
}

# Where something is left, it is one draft, which goes when the same is asked for again.
RESUMED = {"put sftp", "put tar", "put stream", "get a small tree", "get tar", "get stream"}


def content(place: Path) -> None:
    """What is to be moved: 2 MiB in one file, and in many."""
    (place / "big").write_bytes(os.urandom(2 * MIB))
    (place / "many").mkdir()
    for number in range(8):
        (place / "many" / f"m{number}").write_bytes(os.urandom(MIB // 4))
    (place / "some").mkdir()
    for number in range(8):
        (place / "some" / f"s{number}").write_bytes(os.urandom(MIB // 10))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("side", ["far", "near"])
def test_disk_full(
    isolated: Path, tmp_path: Path, disk: Path, keep: Keep, seed: int, rounds: int, side: str
) -> None:
    """Operations that find no room raise ENOSPC; what was there stays as it was; with room they work."""
    chance = random.Random(f"{seed} {side}")
    world = keep(World(isolated, chance))
    full = disk / side
    other = tmp_path / ("near" if side == "far" else "far")
    places = {side: full, other.name: other}
    for place in places.values():
        place.mkdir()
    content(other)
    (full / "other").write_bytes(b"other\n")
    # what the snapshot looks at besides
    (disk / other.name).mkdir()
    table = FAR if side == "far" else NEAR
    there = keep(world.transport())
    for _ in range(max(1, rounds // 500)):
        for name, act in table.items():
            fill(disk, chance.choice((0, 4096, 300_000, 700_000)))
            before, left = snapshot(disk), room(disk)
            outcome = within(lambda act=act: act(there, places["near"], places["far"]))  # type: ignore[misc]  # a bound name
            label = f"--seed {seed}, {name}, {left} bytes left: {outcome}"
            assert isinstance(outcome.error, OSError), label
            assert not isinstance(outcome.error, ConnectionFailed), label
            # sftp's protocol has no word for it
            unnamed = {errno.EIO} if name == "put sftp" else set()
            assert outcome.error.errno in {errno.ENOSPC, *unnamed}, label
            assert snapshot(disk) == before, label
            # what is moved in parts may be gone on with
            assert len(drafts(disk)) <= (name in RESUMED), f"{label}: {drafts(disk)}"
            assert room(disk) == left or name in RESUMED, label
            # with room it works
            (disk / "ballast").unlink()
            again = within(lambda act=act: act(there, places["near"], places["far"]))  # type: ignore[misc]  # a bound name
            assert again.error is None, f"{label}; with room: {again}"
            assert drafts(disk) == [], f"{label}; with room: {drafts(disk)}"
            for path in (full / "new", full / "other"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            (full / "other").write_bytes(b"other\n")
    there.close()
    world.check_nothing_left()


def test_once_without_room(isolated: Path, tmp_path: Path, disk: Path, keep: Keep, seed: int) -> None:
    """If there is no space for a key's record, the command runs at most once, and the report says so."""
    world = keep(World(isolated, random.Random(f"{seed} once")))
    there = keep(world.transport())
    env = {"XDG_STATE_HOME": str(disk / "state")}
    for number, leave in enumerate((0, 4096, 8192, 40_000)):
        ran = tmp_path / f"ran{number}"
        fill(disk, leave)
        command = f"echo x >> {ran}; head -c 30000 /dev/zero; exit 3"
        first = within(lambda command=command, number=number: there.run(command, once=f"k{number}", env=env))  # type: ignore[misc]  # bound names
        runs = len(ran.read_text().split()) if ran.exists() else 0
        label = f"{leave} bytes left: {first}, {runs} runs"
        if isinstance(first.error, OSError) and not isinstance(first.error, ConnectionFailed):
            assert (first.error.errno, runs) == (errno.ENOSPC, 0), label
        assert runs <= 1, label
        (disk / "ballast").unlink()
        again = within(lambda command=command, number=number: there.run(command, once=f"k{number}", env=env))  # type: ignore[misc]  # bound names
        runs = len(ran.read_text().split()) if ran.exists() else 0
        assert again.error is None or isinstance(again.error, OnceError), f"{label}; again: {again}"
        assert runs == 1 or isinstance(again.error, OnceError), f"{label}; again: {again}, {runs} runs"


def test_no_room_for_ours(isolated: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our directories on a full disk, commands over a live master run; a login works or says why not."""
    for name in ("RUNTIME_DIR", "STATE_HOME"):
        place = disk / name[:3]
        place.mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{name}", str(place))
    with World(disk, random.Random(0)) as world:
        assert world.master.directory.is_relative_to(disk)
        try:
            fill(disk)
            with world.transport() as there:
                outcome = within(lambda: there.run("echo out").stdout)
                assert outcome.value == b"out\n", outcome
                assert there.exists("/")
            world.master.end()
            with world.transport() as there:
                outcome = within(lambda: there.run("echo out").stdout)
            assert outcome.value == b"out\n" or isinstance(outcome.error, OSError), outcome
            (disk / "ballast").unlink()
            world.forget_failures()
            with world.transport() as there:
                outcome = within(lambda: there.run("echo out").stdout)
            assert outcome.value == b"out\n", outcome
            world.check_nothing_left()
        finally:
            world.master.end()
