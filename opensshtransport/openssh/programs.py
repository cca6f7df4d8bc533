"""The OpenSSH programs of this machine: where they are, and which version."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from opensshtransport.errors import ToolMissing

# ProxyJump came with 7.3 (release notes of OpenSSH 7.3).
OLDEST_VERSION = (7, 3)

RESOLVE_TIMEOUT = 30.0


def release(program: str) -> str:
    """An ssh's release as it says it, such as `OpenSSH_9.2p1 Debian-2`, or that there is no ssh."""
    try:
        done = subprocess.run(
            [program, "-V"], capture_output=True, text=True, timeout=RESOLVE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"no {program} on PATH"
    return (done.stderr + done.stdout).strip()


def locate(program: str) -> str:
    """The absolute path of an OpenSSH program.

    Raises:
        ToolMissing: it is not on PATH, or not executable.
    """
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(
            f"the program {program!r} was not found",
            topic="settings",
            advice="install the OpenSSH client, or name the program in config.toml",
        )
    return str(Path(found).absolute())


def parse_version(text: str) -> tuple[int, int]:
    """Read (major, minor) from what `ssh -V` prints, such as `OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19`."""
    match = re.search(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", text)
    if match is None:
        raise ToolMissing(
            f"ssh is not OpenSSH: it says {text.strip()!r}",
            topic="settings",
            advice="name OpenSSH's ssh instead",
        )
    return int(match[1]), int(match[2])


@functools.cache
def version(ssh: str) -> tuple[int, int]:
    """The version of an ssh program.

    Raises:
        ToolMissing: it cannot be run, is not OpenSSH, or is older than `OLDEST_VERSION`.
    """
    try:
        # only `-V` says it; ssh then prints to stderr and ends.
        done = subprocess.run(
            [ssh, "-V"], capture_output=True, text=True, timeout=RESOLVE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise ToolMissing(
            f"{ssh} cannot be run: {reason}", topic="settings", advice="name another ssh in config.toml"
        ) from reason
    found = parse_version(done.stderr + done.stdout)
    if found < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ToolMissing(
            f"{ssh} is OpenSSH {found[0]}.{found[1]}",
            topic="guarantees",
            advice=f"OpenSSH {oldest} or later is needed",
        )
    return found
