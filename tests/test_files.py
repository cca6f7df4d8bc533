"""File operations: the contract over each kind of far side, and what has no counterpart here."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from conftest import require
from contracts import Awaited, Both, FilesContract, acting_as
from nodes import missing_programs
from users import ShellName, User, missing_for_users, temporary_user

from opensshtransport import AsyncTransport, Transport
from opensshtransport.sandbox import Sandbox

System = Literal["gnu", "busybox", "mixed"]
# What of busybox stands beside GNU's find, xargs, mv and cp in the mix.
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
    """Make each kind of far side once; they are logged in to before a test's own walls stand."""
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
    """How the far side is asked, and which one."""
    way, system, shell = request.param
    return way, far_side(system, shell)


@pytest.fixture
def both(kind: tuple[str, FarSide]) -> Iterator[Both]:
    """The far side and here, each with a directory of its own."""
    way, there = kind
    place = there.user.home / f"scenario{next(_numbers)}"
    with acting_as(there.user.uid):
        for top in (place / "far", place / "own"):
            top.mkdir(parents=True)
    far = there.sync if way == "sync" else there.awaited
    yield Both(far, there.node.host, there.user.uid, there.user.home, (place / "far", place / "own"))
    shutil.rmtree(place)


class TestContract(FilesContract):
    """Each scenario over each kind of far side."""
