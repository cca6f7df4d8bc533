"""Where `scripts/bench` measures: a server, the way to it, and the files to work on.

The server is an sshd on loopback for a temporary user with an empty start-up file (as root; otherwise for the
current user). Between it and us is the tests' delaying relay, as a separate process: in ours it would take
time from what is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS.parent))

from opensshtransport.sandbox import Sandbox  # noqa: E402
from tests.support.nodes import config_through  # noqa: E402 - found by the line above
from tests.support.users import missing_for_users, temporary_user  # noqa: E402

__all__ = ["MIB", "Stage", "server", "way"]

MIB = 1 << 20
_MEMORY = "/dev/shm"  # noqa: S108 - the directory made there has a name that nobody can guess


class Stage:
    """The files to work on: `near` on our side, `far` on the server, which is this machine."""

    def __init__(self, near: Path, far: Path, owner: int) -> None:
        self.near, self.far, self.owner = near, far, owner
        self._fill(far, "tree", 200)
        self._fill(near, "tree", 200)
        self._fill(far, "copied", 20)
        self._fill(far, "paths", 1000, size=0)
        self.paths = [str(far / "paths" / f"{number:05}") for number in range(1000)]
        self._random("near", "small", 1024)
        self._random("far", "small", 1024)

    def _fill(self, top: Path, name: str, count: int, size: int = 1024) -> None:
        (top / name).mkdir()
        for number in range(count):
            (top / name / f"{number:05}").write_bytes(os.urandom(size))
        self._own(top / name)

    def _own(self, path: Path) -> None:
        for one in (path, *path.rglob("*")):
            os.chown(one, self.owner, -1)

    def _random(self, side: str, name: str, size: int) -> Path:
        path = (self.near if side == "near" else self.far) / name
        if not path.exists():
            with path.open("wb") as file:
                for _ in range(size >> 20):
                    file.write(os.urandom(MIB))
                file.write(os.urandom(size & (MIB - 1)))
            os.chown(path, self.owner, -1)
        return path

    def large(self, side: str, mebibytes: int) -> Path:
        """A file of random bytes, made when it is first asked for."""
        return self._random(side, f"large{mebibytes}", mebibytes * MIB)

    def many(self, side: str, count: int, size: int = 1024) -> Path:
        """A directory of this many files."""
        top = self.near if side == "near" else self.far
        path = top / f"many{count}"
        if not path.exists():
            self._fill(top, path.name, count, size)
        return path

    def wide(self, count: int) -> Path:
        """A remote directory of this many empty files."""
        path = self.far / f"wide{count}"
        if not path.exists():
            self._fill(self.far, path.name, count, size=0)
        return path

    def clear(self) -> None:
        """`new` is there on neither side."""
        for path in (self.far / "new", self.near / "new"):
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def doomed(self) -> None:
        """`doomed` is a remote tree of 200 files, to be removed."""
        path = self.far / "doomed"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.far / "tree", path)
        self._own(path)


@contextlib.contextmanager
def server() -> Iterator[tuple[Sandbox, Stage]]:
    """A node, for a user with an empty start-up file if one can be made, and the files to work on."""
    # in memory: on a disk, creating 200 files can take longer than moving them over any network
    top = Path(tempfile.mkdtemp(prefix="ob", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    top.chmod(0o711)
    try:
        for name in ("RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME"):
            # short, as the path of a socket must be
            place = top / name[:3]
            place.mkdir(mode=0o700)
            os.environ[f"XDG_{name}"] = str(place)
        near = top / "near"
        near.mkdir()
        with contextlib.ExitStack() as stack:
            if missing_for_users():
                node = stack.enter_context(Sandbox())
                far, owner = top / "far", os.getuid()
                far.mkdir()
            else:
                user = stack.enter_context(temporary_user(top))
                node = stack.enter_context(Sandbox("bench", user.name))
                far, owner = user.home / "far", user.uid
                far.mkdir()
                os.chown(far, owner, -1)
            yield node, Stage(near, far, owner)
    finally:
        shutil.rmtree(top, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Relay:
    port: int


@contextlib.contextmanager
def way(node: Sandbox, milliseconds: float) -> Iterator[Path]:
    """The ssh_config of a way to the node with this round trip."""
    argv = [sys.executable, str(TESTS / "support" / "relay.py"), "--target", str(node.port)]
    argv += ["--delay", str(milliseconds / 2000)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as relay:
        try:
            first = relay.stdout.readline() if relay.stdout else ""
            yield config_through(node, _Relay(int(first)))
        finally:
            relay.terminate()
