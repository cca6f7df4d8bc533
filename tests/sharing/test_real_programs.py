"""Real programs with nothing set in them: they ride the shared master, log in by it alone, and never dial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.sharing.callers import CALLERS, HEAVY_CALLERS, Caller, World, missing_for_world, world
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH


@pytest.fixture(scope="module")
def daint(passable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that the tests of one process share."""
    require(missing_for_world())
    with world(tmp_path_factory.mktemp("world"), passable) as made:
        yield made


@pytest.mark.parametrize("caller", [*CALLERS, *HEAVY_CALLERS], ids=lambda caller: caller.name)
def test_program(daint: World, caller: Caller) -> None:
    """It logs in once where no master is running, and not at all where one is."""
    require(missing_programs(*caller.needs))
    if not daint.has(caller):
        pytest.skip(f"not here: {caller.there} (scripts/test --extra programs installs Emacs and rclone)")
    if daint.master() is None:
        assert daint.sh("ssh daint true").returncode == 0
    daint.prepare(caller)
    logins = daint.logins()
    daint.kill_master()
    for number in range(2):
        done = caller.call(daint, number)
        assert (caller.says in done.stdout, done.returncode) == (True, 0), done
        assert daint.logins() == logins + 1


def test_ossh_ssh(daint: World) -> None:
    """Where the name is not shared, programs that are told to use `ossh-ssh` need one login between them."""
    # TRAMP would need a method of its own
    callers = [caller for caller in (*CALLERS, *HEAVY_CALLERS) if caller.name != "tramp"]
    there = [caller for caller in callers if daint.has(caller)]
    for caller in there:
        require(missing_programs(*caller.needs))
        daint.prepare(caller)
    logins = daint.logins()
    daint.kill_master()
    try:
        assert daint.run(OSSH, "unshare", "--yes", "daint").returncode == 0
        for caller in there:
            done = caller.call_by(OSSH.with_name("ossh-ssh"), daint)
            assert (caller.says in done.stdout, done.returncode) == (True, 0), done
            assert daint.logins() == logins + 1, caller.name
    finally:
        assert daint.run(OSSH, "share", "--yes", "daint").returncode == 0


def test_plain_command_lines(tmp_path: Path, passable: Path) -> None:
    """`ssh NAME COMMAND` is told from a user that has the name in theirs, and from options after the name."""
    require(missing_for_world())
    with world(tmp_path, passable) as there:
        for command in ("echo -l x", "echo -l daint@daint"):
            assert there.run("ssh", "daint", command).stdout == f"{command[5:]}\n"
        assert there.run("ssh", "daint", "-l", there.user.name, "echo", "words").stdout == "words\n"
        assert there.logins() == 1
        for words in ("daint@daint", "daintx@daint", "daint -lx", "daint -l x", "daint -p1"):
            done = there.run("ssh", *words.split(), "-oBatchMode=yes", "true")
            # ssh's own words of its own connection
            assert done.returncode == 255, done
            assert "Permission denied" in done.stderr or "Connection refused" in done.stderr
        assert there.node.authentications() == 1
