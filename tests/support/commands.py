"""Commands of a transport, as tests see them: their results, and what runs on the remote side."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

from opensshtransport import CompletedCommand, Transport
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep
from tests.support.users import User

MEBIBYTE = 1 << 20
# How many KiB of memory a program has had at most, for it to evaluate. By proc_pid_status(5), as getrusage(2)
# counts in what the process was before it became this program.
PEAK = 'int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])'


def to(node: Sandbox, keep: Keep) -> Transport:
    """A transport that is closed when the test ends."""
    return keep(Transport(node.host, ssh_config=node.ssh_config))


def sleepers(user: User) -> list[int]:
    """The user's processes but those of sshd: commands, and what keeps watch over them."""
    found = []
    for pid in user.processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if words and not words.startswith(b"sshd"):
                found.append(pid)
    return found


def said(done: CompletedCommand) -> tuple[int, bytes | str | None, bytes | str | None]:
    """What counts of a result."""
    return done.returncode, done.stdout, done.stderr


def python(program: str, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Run a Python program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done
