"""The walls around each test hold."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import require, walls
from tests.support.users import wait_until


def start_master(node: Sandbox, path: Path) -> int:
    """Start a master as a product would, and return its process id."""
    argv: list[str | Path] = [
        "ssh",
        "-F",
        node.ssh_config,
        "-o",
        "ControlMaster=auto",
        "-N",
        "-f",
        "-S",
        path,
    ]
    argv += ["-E", path.with_suffix(".log"), "-o", "ControlPersist=600", node.host]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=20)
    check: list[str | Path] = ["ssh", "-F", "none", "-S", path, "-O", "check", "x"]
    told = subprocess.run(check, capture_output=True, text=True, check=True, timeout=10).stderr
    return int(told.partition("pid=")[2].partition(")")[0])


def running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_directories_are_private(isolated: Path) -> None:
    """Each XDG directory lies in the test's own, and a control socket's path has room in it."""
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert len(str(runtime)) < 20
    for name in ("CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME"):
        assert Path(os.environ[f"XDG_{name}"]).parent == isolated == runtime.parent
    assert "SSH_AUTH_SOCK" not in os.environ


def test_no_master_stays(node: Sandbox) -> None:
    """A master that a test leaves is ended, also one that is frozen, or has lost its socket."""
    if not Path("/proc/self/status").exists():
        pytest.skip("a process without a socket is found only through /proc")
    with pytest.MonkeyPatch.context() as monkeypatch, walls(monkeypatch) as top:
        pids = [start_master(node, top / "r" / name) for name in ("left", "frozen", "lost")]
        os.kill(pids[1], signal.SIGSTOP)
        (top / "r" / "lost").unlink()
        assert all(map(running, pids))
    wait_until(lambda: not any(map(running, pids)), what="the masters to end")
    assert not top.exists()


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing skips a test, but a missing package fails it in CI (on Linux)."""
    monkeypatch.delenv("CI", raising=False)
    require("")
    with pytest.raises(pytest.skip.Exception, match="not installed: krb5kdc"):
        require("not installed: krb5kdc")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match="need root"):
        require("temporary users need root")
    outcome = pytest.fail.Exception if sys.platform == "linux" else pytest.skip.Exception
    with pytest.raises(outcome, match="not installed: krb5kdc"):
        require("not installed: krb5kdc")
