"""`ossh-ssh`: a complete ssh that rides the shared master, for programs that let one name theirs."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from opensshtransport.master import forwards
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.sharing.conftest import Plain
from tests.sharing.test_forward import free_port, greets
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, Done, run, until

pytestmark = pytest.mark.client

OSSH_SSH = OSSH.with_name("ossh-ssh")


def ossh_ssh(*words: str | Path, stdin: bytes | None = None, **options: str) -> Done:
    """Run `ossh-ssh`, without a terminal."""
    return run([OSSH_SSH, *words], stdin, 60, options)


def test_commands(own_node: Sandbox) -> None:
    """A name that is not shared is logged in to once; output, input, status and options are ssh's own."""
    config = own_node.ssh_config
    done = ossh_ssh("-F", config, "-T", own_node.host, "cat; echo wrong >&2; exit 7", stdin=b"words")
    assert (done.stdout, done.stderr, done.returncode) == (b"words", b"wrong\n", 7)
    assert ossh_ssh("-F", config, "-oLogLevel=QUIET", own_node.host, "-T", "echo", "a  b").stdout == b"a b\n"
    assert ossh_ssh("-F", config, "-W", f"127.0.0.1:{own_node.port}", own_node.host).stdout[:4] == b"SSH-"
    assert b"Master running" in ossh_ssh("-F", config, "-O", "check", own_node.host).stderr
    assert own_node.authentications() == 1


def test_other_accounts_and_ways(own_node: Sandbox) -> None:
    """Another user, another port and another way are connections of their own, as ssh has them."""
    config, host = own_node.ssh_config, own_node.host
    assert b"Permission denied" in ossh_ssh("-F", config, "-l", "stranger", host, "true").stderr
    assert b"Connection refused" in ossh_ssh("-F", config, "-p", "1", host, "true").stderr
    assert ossh_ssh("-F", config, "-oProxyCommand=false", host, "true").returncode == 255
    assert own_node.authentications() == 0
    for words in ("-V", "-Qkex", f"-F {config} -G {host}"):
        assert ossh_ssh(*words.split()).returncode == 0
    assert own_node.authentications() == 0


def test_refused(own_node: Sandbox) -> None:
    """What would connect on its own next to the master is refused, with the reason."""
    for words in (["-M"], ["-oControlMaster=ask"], ["-S", "none"]):
        done = ossh_ssh("-F", own_node.ssh_config, *words, own_node.host, "true")
        assert done.returncode == 255
        assert done.stderr.startswith(b"ossh-ssh: ")
    own_node.stop()
    done = ossh_ssh("-F", own_node.ssh_config, own_node.host, "true")
    assert (done.returncode, b"refused the connection" in done.stderr) == (255, True)


def test_programs(own_node: Sandbox, tmp_path: Path) -> None:
    """git, rsync and scp take it for their ssh; also by a link that is called ssh."""
    require(missing_programs("git", "rsync", "scp"))
    config, host, far = own_node.ssh_config, own_node.host, own_node.directory
    subprocess.run(["git", "init", "-q", "--bare", far / "code.git"], check=True)
    (tmp_path / "file").write_text("words\n")
    line = shlex.join([str(OSSH_SSH), "-F", str(config)])
    calls: tuple[list[str | Path], ...] = (
        ["git", "ls-remote", f"{host}:{far}/code.git"],
        ["rsync", tmp_path / "file", f"{host}:{far}/by-rsync"],
        ["scp", "-q", "-S", OSSH_SSH, "-F", config, tmp_path / "file", f"{host}:{far}/by-scp"],
    )
    for call in calls:
        done = run(call, None, 60, {"GIT_SSH_COMMAND": line, "RSYNC_RSH": line})
        assert (done.stderr, done.returncode) == (b"", 0)
    (tmp_path / "ssh").symlink_to(OSSH_SSH)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run(["ssh", "-F", config, host, "echo words"], None, 60, environment).stdout == b"words\n"
    assert run(["ssh", "-V"], None, 60, environment).stderr.startswith(b"OpenSSH")
    assert own_node.authentications() == 1


def test_forwards_end(daint: Plain) -> None:
    """Its forwards end with it; also where the name is shared."""
    port = free_port()
    argv: list[str | Path] = [OSSH_SSH, "-F", daint.config, "-L", f"{port}:localhost:{daint.node.port}"]
    with subprocess.Popen(
        [*argv, "daint", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        assert greets(port)
        client.kill()
    until(lambda: not list(forwards.directory().iterdir()), "the forward to be cancelled")
    assert not greets(port)
    assert daint.logins() == 1
