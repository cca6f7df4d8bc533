"""An empty home directory that ssh takes for the person's own (root only).

ssh asks the system's accounts for the home directory, not HOME. So programs are run where `/etc/passwd` is
another one: in a mount namespace that the rest of the machine does not see.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.jumps import can_isolate
from tests.support.nodes import missing_programs


@dataclass(frozen=True, slots=True)
class Home:
    """A home directory, and how programs are run that have it.

    Attributes:
        path: the directory.
        prefix: what goes before a command line.
        environment: the variables for it.
    """

    path: Path
    prefix: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as that person, without a terminal."""
        return subprocess.run(
            [*self.prefix, *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            start_new_session=True,
        )

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Everything in it: times and contents."""
        found = [path for path in self.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def missing_for_homes() -> str:
    """Why there can be no such home directory here; empty if there can."""
    return missing_programs("unshare", "mount") or ("" if can_isolate() else "namespaces need root")


def empty_home(directory: Path) -> Home:
    """Make an empty home directory below a directory of the test."""
    home, etc, real = (directory / name for name in ("home", "etc", "etc.real"))
    for path in (home, etc, real):
        path.mkdir(mode=0o700)
    # not a mount on /etc/passwd alone: that goes when somebody adds a user, who replaces that file
    for path in Path("/etc").iterdir():
        (etc / path.name).symlink_to(real / path.name)
    (etc / "passwd").unlink()
    me = pwd.getpwuid(os.getuid())
    lines = [
        line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] != me.pw_name
    ]
    mine = f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::{home}:/bin/bash"
    (etc / "passwd").write_text("".join(f"{line}\n" for line in [mine, *lines]))
    mounts = f'mount --bind /etc {real} && mount --bind {etc} /etc && exec "$@"'
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("XDG_") or name == "XDG_RUNTIME_DIR"
    }
    environment = {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return Home(home, ("unshare", "--mount", "sh", "-c", mounts, "sh"), environment)
