"""put and get where the remote side has busybox's tools, or a login shell that is not Bourne's."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.sandbox import Sandbox
from opensshtransport.transfer.options import Way
from opensshtransport.transfer.progress import Progress
from tests.conftest import require
from tests.support.nodes import missing_programs
from tests.support.users import ShellName, missing_for_users, temporary_user
from tests.transfer.test_growing import growing, is_beginning
from tests.transfer.test_transfer import DIRECTIONS, MIB, Direction, Far, Sides, drafts, listing, make

_numbers = itertools.count()
_FAR: list[tuple[str, ShellName]] = [("busybox", "bash"), ("gnu", "tcsh"), ("busybox", "tcsh")]


@pytest.fixture(scope="session", params=_FAR, ids="-".join)
def tools(request: pytest.FixtureRequest, passable: Path) -> Iterator[Far]:
    """A remote side of each kind, logged in before the test's own directories are set up."""
    require(missing_for_users() or missing_programs("sshd", "busybox", "tcsh"))
    system, shell = request.param
    options = {}
    if system == "busybox":
        applets = passable / f"tools-{shell}"
        applets.mkdir()
        subprocess.run(["busybox", "--install", "-s", applets], check=True)
        options["SetEnv"] = f"PATH={applets}:/usr/bin:/bin"
    with ExitStack() as stack:
        user = stack.enter_context(temporary_user(passable, shell))
        node = stack.enter_context(Sandbox(f"{system}-{shell}", user.name, server_options=options))
        transport = stack.enter_context(Transport(node.host, ssh_config=node.ssh_config))
        assert transport.home() == str(user.home)
        yield Far(node, user, transport)


@pytest.fixture
def sides(tools: Far, isolated: Path) -> Iterator[Sides]:
    """Directories of this test."""
    there = tools.user.home / f"tools{next(_numbers)}"
    here = isolated / "here"
    for place in (here, there):
        place.mkdir()
    os.chown(there, tools.user.uid, tools.user.uid)
    yield Sides(tools, here, there)
    shutil.rmtree(there, ignore_errors=True)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("way", [None, "tar"])
def test_trees(way: Way | None, preserve: bool, direction: Direction, sides: Sides) -> None:
    """Names, links, modes and what is empty, into what is new and into what is there."""
    source, target = sides.ends(direction)
    files: dict[str, bytes | str | None] = {
        "tree/a b!'\n\\x": b"odd",
        "tree/sub/empty": b"",
        "tree/none": None,
    }
    make(source, {**files, "tree/big": random.Random(1).randbytes(3 * MIB + 5)})
    (source / "tree" / "link").symlink_to("sub/empty")
    (source / "tree" / "sub" / "empty").chmod(0o755)
    sides.give(source)
    sides.move(direction, source / "tree", target / "new", way=way, preserve=preserve)
    sides.move(direction, source / "tree", target, way=way, preserve=preserve, verify=True)
    # busybox's touch knows seconds only
    assert listing(target / "new") == listing(target / "tree") == listing(source / "tree")
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("streams", [1, 4])
def test_a_large_file(
    streams: int, direction: Direction, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, with a last one of less than a MiB; with a draft that is half right."""
    monkeypatch.setattr("opensshtransport.transfer.mover.streams_for", lambda *_: streams)
    source, target = sides.ends(direction)
    content = random.Random(2).randbytes(20 * MIB) + bytes(4 * MIB) + b"end"
    (source / "file").write_bytes(content)
    sides.give(source)

    class Enough(Exception):
        """Half of it is gone."""

    def until_half(progress: Progress) -> None:
        if progress.bytes > 12 * MIB:
            raise Enough

    with pytest.raises(Enough):
        sides.move(direction, source / "file", target, progress=until_half, limit_rate=60e6)
    told: list[Progress] = []
    sides.move(direction, source / "file", target, progress=told.append, verify=True)
    assert told[0].bytes > 2 * MIB
    assert (target / "file").read_bytes() == content
    assert drafts(sides.here, sides.there) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("preserve", [False, True])
def test_files_that_are_there_and_grow(preserve: bool, direction: Direction, sides: Sides) -> None:
    """Files that are there stay the same ones, and logs that grow arrive, alone and in a tree."""
    source, target = sides.ends(direction)
    names = {"small": 1000, "large": 3 * MIB, "tree/log": 1000, "tree/sub/large": 2 * MIB, "tree/sub/b": 10}
    for top, seed in ((source, 1), (target, 2)):
        make(top, {name: random.Random(seed).randbytes(size * seed) for name, size in names.items()})
    for name in names:
        (target / name).chmod(0o640)
    sides.give(source)
    sides.give(target)
    before = {name: (target / name).stat().st_ino for name in names}
    with growing(*(source / name for name in names)):
        for name in ("small", "large", "tree"):
            sides.move(direction, source / name, target, preserve=preserve)
    for name, size in names.items():
        assert is_beginning(target / name, source / name, size)
        assert (target / name).stat().st_ino == before[name]
        assert (target / name).stat().st_mode & 0o777 == (0o644 if preserve else 0o640)
    assert drafts(sides.here, sides.there) == []
