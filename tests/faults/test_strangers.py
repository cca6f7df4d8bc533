"""Another user in the same directories: at random moments links take the names of what is about to appear."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.sandbox import Sandbox
from opensshtransport.transfer.options import Way
from tests.conftest import require
from tests.faults.world import within
from tests.support.nodes import missing_programs
from tests.support.users import User, missing_for_users, temporary_user

# Takes the names, and those of drafts, as often as it can, by links to what is not its own; says so once.
STRANGER = """
    import os, random, sys
    top, victim, seed, user = sys.argv[1:]
    chance = random.Random(seed)
    # our Python may be where others cannot start it
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
    print("there", flush=True)
    while True:
        names = [name for name in os.listdir(top) if name.startswith(".ossh-") and not name.endswith(".away")]
        for name in ["file", "tree", *names]:
            place = os.path.join(top, name)
            try:
                if chance.random() < 0.5:
                    os.rename(place, f"{place}.away")
                os.symlink(victim if name != "file" else f"{victim}/secret", place)
            except OSError:
                pass
            if chance.random() < 0.2:
                try:
                    os.unlink(place)
                except OSError:
                    pass
"""


@pytest.fixture(scope="module")
def account(passable: Path) -> Iterator[tuple[User, User, Transport]]:
    """A user who moves files on the host, a stranger on both sides, and a transport."""
    require(missing_for_users() or missing_programs("sshd"))
    with temporary_user(passable) as user, temporary_user(passable) as other:
        with Sandbox("shared", user.name) as node, Transport("shared", ssh_config=node.ssh_config) as there:
            there.run("true")
            yield user, other, there


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("direction", ["put", "get"])
def test_strangers_gain_nothing(
    direction: str,
    sticky: bool,
    account: tuple[User, User, Transport],
    passable: Path,
    seed: int,
    rounds: int,
) -> None:
    """Whatever arrives or not: nothing of ours is changed, or can be read, through a stranger's link."""
    user, other, transport = account
    chance = random.Random(f"{seed} strangers {direction} {sticky}")
    owner = user.uid if direction == "put" else 0
    source, victim = user.home / f"source{direction}{sticky}", user.home / f"home{direction}{sticky}"
    top = passable / f"shared{secrets.token_hex(4)}"
    (source / "tree/deep").mkdir(parents=True)
    (source / "file").write_bytes(chance.randbytes(1 << 19))
    for number in range(20):
        (source / f"tree/deep/{number}").write_bytes(chance.randbytes(2000))
    (victim / "t/deep").mkdir(parents=True)
    (victim / "secret").write_bytes(b"kept")
    (victim / "t/deep/1").write_bytes(b"kept")
    top.mkdir()
    for path in (source, *source.rglob("*")):
        os.chown(path, user.uid, -1)
    for path in (victim, *victim.rglob("*")):
        os.chown(path, owner, -1)
        path.chmod(0o700 if path.is_dir() else 0o600)
    os.chown(top, owner, -1)
    top.chmod(0o1777 if sticky else 0o777)
    argv = [sys.executable, "-c", textwrap.dedent(STRANGER), str(top), str(victim), str(seed), str(other.uid)]
    before = {
        path: (path.lstat().st_mode, path.is_file() and path.read_bytes()) for path in victim.rglob("*")
    }
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"there\n"
            for number in range(max(6, rounds // 50)):
                name = chance.choice(["file", "tree"])
                way: Way | None = None if name == "file" else chance.choice(["tar", "inline"])
                move = transport.put if direction == "put" else transport.get
                outcome = within(lambda: move(source / name, top / name, way=way))  # noqa: B023 - it is run at once
                label = f"--seed {seed}, round {number}, {name} {way}: {outcome}"
                assert outcome.error is None or isinstance(outcome.error, OSError), label
                after = {
                    path: (path.lstat().st_mode, path.is_file() and path.read_bytes())
                    for path in victim.rglob("*")
                }
                assert after == before, label
                for path in list(top.iterdir()):
                    # the stranger may be faster
                    with contextlib.suppress(FileNotFoundError):
                        seen = path.lstat()
                        # what is ours cannot be written to by others
                        assert seen.st_uid != owner or path.is_symlink() or not seen.st_mode & 0o022, label
                    subprocess.run(["rm", "-rf", "--", path], check=False, stderr=subprocess.DEVNULL)
        finally:
            stranger.kill()
