"""A login node whose name is shared, and plain programs that use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.nodes import missing_programs
from tests.support.programs import Done, ossh, run


@dataclass(frozen=True, slots=True)
class Plain:
    """Programs that know nothing of us, and the node that they use."""

    node: Sandbox

    @property
    def config(self) -> Path:
        """The ssh_config that has the Include."""
        return self.node.ssh_config

    def ssh(self, *words: str | Path, **options: str) -> Done:
        """Run a plain `ssh`, without a terminal; `options` are variables."""
        return run(["ssh", "-F", self.config, *words], None, 60, options)

    def run(self, *words: str | Path, **options: str) -> Done:
        """Run a program that runs the ssh of `GIT_SSH_COMMAND` or `RSYNC_RSH`."""
        shell = f"ssh -F {self.config}"
        return run([*words], None, 60, {"GIT_SSH_COMMAND": shell, "RSYNC_RSH": shell, **options})

    def master(self) -> int:
        """The process id of the running master."""
        found = re.search(rb"pid=(\d+)", self.ssh("-O", "check", "daint").stderr)
        assert found, "there is one"
        return int(found[1])

    def logins(self) -> int:
        """How many logins there were so far."""
        return self.node.authentications()


def share(node: Sandbox) -> Plain:
    """Share a node's name."""
    done = ossh("share", "--yes", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stderr
    return Plain(node)


@pytest.fixture
def daint() -> Iterator[Plain]:
    """A node of this test alone, shared by the name `daint`."""
    require(missing_programs("sshd", "ssh-keygen"))
    with Sandbox("daint") as node:
        yield share(node)
