"""The nodes are what they claim to be: plain ssh gets in with the right answers, and not with wrong ones."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeShellNode, require
from tests.support.nodes import config_through, missing_programs, shell_node
from tests.support.relay import Relay
from tests.support.users import NOISY, SHELLS, ShellName, Startup, User, missing_for_users


def run(
    node: Sandbox, command: str, *, stdin: bytes = b"", config: Path | None = None
) -> tuple[int, bytes, bytes]:
    """Run a command by plain ssh where nothing may be asked."""
    argv: list[str | Path] = [
        "ssh",
        "-F",
        config or node.ssh_config,
        "-o",
        "BatchMode=yes",
        node.host,
        command,
    ]
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr


class TestShells:
    """Nodes by login shell and start-up file."""

    def test_login_shell(self, shell_user_node: tuple[Sandbox, User]) -> None:
        """A command runs in the login shell that was asked for, as the temporary user, in its home."""
        node, user = shell_user_node
        code, out, err = run(node, "id -un; pwd; sh -c 'ps -o comm= -p $PPID'; exit 3")
        name, home, shell = out.decode().splitlines()
        assert (code, err) == (3, b"")
        assert (name, Path(home)) == (user.name, user.home)
        # busybox acts under the name it was called by.
        assert shell == {"busybox": "ash"}.get(user.shell, user.shell)

    @pytest.mark.parametrize("shell", SHELLS)
    def test_noise(self, make_shell_node: MakeShellNode, shell: ShellName) -> None:
        """Noise of a start-up file comes before the command's own output, on both streams."""
        node, _ = make_shell_node(shell, NOISY)
        code, out, err = run(node, "echo done; sh -c 'echo also >&2'")
        assert code == 0
        assert out == NOISY.stdout.encode() + b"done\n"
        assert err == NOISY.stderr.encode() + b"also\n"

    def test_slow_and_reading(self, make_shell_node: MakeShellNode) -> None:
        """A start-up file can be slow, and can swallow a line of the command's stdin, or all of it."""
        node, user = make_shell_node("bash", Startup(sleep=0.3, reads="line"))
        assert run(node, "cat", stdin=b"one\ntwo\n") == (0, b"two\n", b"")
        user.set_startup(Startup(reads="everything"))
        assert run(node, "cat", stdin=b"one\ntwo\n") == (0, b"", b"")
        user.set_startup(Startup(lines="export SITE=here\n"))
        assert run(node, "echo $SITE") == (0, b"here\n", b"")


def test_user_leaves_nothing(passable: Path) -> None:
    """At the end of a temporary user its processes, its home and its account are gone."""
    require(missing_for_users() or missing_programs("sshd"))
    with shell_node(passable, "bash") as (node, user):
        code, out, _ = run(node, "setsid sleep 100 >/dev/null 2>&1 </dev/null & echo $!")
        assert code == 0
        assert int(out) in user.processes()
    assert not user.processes()
    assert not user.home.exists()
    with pytest.raises(KeyError):
        pwd.getpwnam(user.name)


def test_relay_in_between(node: Sandbox, relay: Relay) -> None:
    """The same node is reached through a relay, with its host key still known."""
    before = node.connections()
    assert run(node, "echo here", config=config_through(node, relay)) == (0, b"here\n", b"")
    assert relay.connections == 1
    assert node.connections() == before + 1
