"""The hook without /proc, as on macOS: it reads the command line of ssh from `ps`, a blank between words.

The real `ps` of Linux needs /proc. So it is run in another root, which has one.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import require
from tests.sharing.conftest import Plain
from tests.support.homes import missing_for_homes
from tests.support.nodes import missing_programs
from tests.support.programs import Done, run, until

pytestmark = pytest.mark.client

_HIDE = """
mount --rbind / "$1/root" && mount -t tmpfs none /proc && PATH=$1:$PATH && shift && exec "$@"
"""


class Without:
    """Plain programs without /proc."""

    def __init__(self, plain: Plain, place: Path) -> None:
        self.plain, self.place = plain, place

    def ssh(self, *words: str | Path, **options: str) -> Done:
        """Run a plain `ssh`."""
        hide: list[str | Path] = ["unshare", "--mount", "sh", "-c", _HIDE, "sh", self.place]
        return run([*hide, "ssh", "-F", self.plain.config, *words], None, 60, options)


@pytest.fixture
def hidden(daint: Plain, tmp_path: Path) -> Without:
    """Programs that see no /proc."""
    require(missing_for_homes() or missing_programs("ps", "chroot"))
    (tmp_path / "root").mkdir()
    ps = tmp_path / "ps"
    ps.write_text(f'#!/bin/sh\nexec chroot {tmp_path}/root {shutil.which("ps")} "$@"\n')
    ps.chmod(0o755)
    return Without(daint, tmp_path)


def test_hook(hidden: Without) -> None:
    """It rides a running master, tells another account, and refuses what it cannot be sure of."""
    plain = hidden.plain
    # the login is in Python, and the package sh needs /proc on Linux
    assert plain.ssh("daint", "true").returncode == 0
    kept = plain.master()
    assert hidden.ssh("daint", "[ -e /proc/self/stat ] && echo far").stdout == b"far\n"
    assert hidden.ssh("-T", "-o", "LogLevel=ERROR", "daint", "echo  words; exit 7").returncode == 7
    assert hidden.ssh("-l", plain.node.user, "daint", "echo words").stdout == b"words\n"
    assert b"Permission denied" in hidden.ssh("-oBatchMode=yes", "stranger@daint", "true").stderr
    assert b"Master running" in hidden.ssh("-O", "check", "daint").stderr
    # its words are not told apart: safe, as the socket's name is made from user, host and port
    spaced = ["-oBatchMode=yes", "-o", "SetEnv A=b", "daint"]
    assert hidden.ssh(*spaced, "echo words").stdout == b"words\n"
    assert hidden.ssh(*spaced[:-1], "-l", "stranger", "daint", "true").returncode == 255
    assert (plain.master(), plain.logins()) == (kept, 1)
    os.kill(kept, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{kept}").exists(), "the master to be gone")
    refused = hidden.ssh(*spaced, "true")
    assert (refused.returncode, b"is not understood" in refused.stderr) == (255, True)
    assert plain.node.connections() == 2  # the login, and the stranger
