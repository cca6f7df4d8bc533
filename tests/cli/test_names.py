"""Names that ssh takes, as HOST of every command, as a jump host and in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.openssh import destination
from opensshtransport.sandbox import Sandbox
from tests.support.programs import ossh, ossh_run, status

NAMES: dict[str, Callable[[Sandbox], str]] = {
    "digits": lambda _: "192.168.1.10",
    "ssh URI": lambda node: f"ssh://{node.user}@login.example.org:{node.port}",
    "IPv6": lambda node: f"{node.user}@::1",
}


@pytest.fixture
def config(own_node: Sandbox) -> Path:
    """A configuration by which every name leads to the node."""
    path = own_node.ssh_config
    kept = re.sub(r"(?m)^ *(Host|HostName) .*\n", "", path.read_text())
    path.write_text(f"Host behind\n    ProxyJump 192.168.1.10\nHost *\n    HostName 127.0.0.1\n{kept}")
    return path


@pytest.mark.parametrize("kind", NAMES)
def test_every_command(kind: str, own_node: Sandbox, config: Path, tmp_path: Path) -> None:
    """A name works from the login to the logout, in the shell and in Python, by each way to move files."""
    name = NAMES[kind](own_node)
    assert ossh_run("-F", config, name, "echo one").stdout == b"one\n"
    assert ossh_run("-F", config, name, "echo two").stdout == b"two\n"
    assert [row["state"] for row in (*status(config), *status(config, name))] == ["live", "live"]
    assert b"master" in ossh("doctor", "-F", config, name).stdout
    assert ossh("ssh-command", "-F", config, name).returncode == 0
    (tmp_path / "file").write_text("content")
    with Transport(name, ssh_config=config) as there:
        for way in (None, "sftp", "scp"):
            there.put(tmp_path / "file", tmp_path / f"put {way}", way=way)
            assert (tmp_path / f"put {way}").read_text() == "content"
    assert ossh("logout", "-F", config, name).stderr.decode() == f"{name}: logged out\n"
    assert own_node.authentications() == 1


def test_jump_host(own_node: Sandbox, config: Path) -> None:
    """A jump host's name may begin with a digit."""
    assert ossh_run("-F", config, "behind", "echo there").stdout == b"there\n"
    assert own_node.authentications() == 2


@pytest.mark.parametrize("user", ["a@b", r"DOM\alice", "a:b", "1", r"\1", r"\g0"])
def test_users(user: str, isolated: Path) -> None:
    """Whatever a user is called, ssh is asked for that one; and %n of a ProxyCommand is the host alone."""
    config = isolated / "ssh_config"
    config.write_text("Host *\n    ProxyCommand nc %n 100%%n\n")
    where = destination.resolve(f"{user}@192.168.1.10", config)
    assert where.route == ((user, "192.168.1.10", 22, "nc 192.168.1.10 100%%n"),)


def test_what_ssh_does_not_take(isolated: Path) -> None:
    """A URI that ssh refuses is refused in one line."""
    for name in ("ssh://h:0", "ssh://h/path", "ssh://"):
        done = ossh("login", name)
        assert done.returncode == 255
        assert done.stderr.decode().count("\n") == 1
        assert "not a URI" in done.stderr.decode()
