"""Running `ossh` and `ossh-run` as installed, the way shells and scripts do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["OSSH", "OSSH_RUN", "Done", "ossh", "ossh_run", "run", "runtime", "status", "write_settings"]

OSSH = Path(sys.executable).with_name("ossh")
OSSH_RUN = Path(sys.executable).with_name("ossh-run")

Done = subprocess.CompletedProcess[bytes]


def ossh(
    *arguments: str | Path,
    stdin: bytes | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run `ossh`; without `stdin` it reads nothing and has no terminal."""
    return run([OSSH, *arguments], stdin, timeout, env)


def ossh_run(
    *arguments: str | Path,
    stdin: bytes | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run `ossh-run`; without `stdin` it reads nothing and has no terminal."""
    return run([OSSH_RUN, *arguments], stdin, timeout, env)


def run(
    argv: list[str | Path], stdin: bytes | None, timeout: float, env: Mapping[str, str] | None = None
) -> Done:
    """Run any program; without `stdin` it reads nothing and has no terminal."""
    # a session of its own: nobody's terminal is there to be asked
    return subprocess.run(
        argv,
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )


def status(config: Path, *hosts: str) -> list[dict[str, Any]]:
    """What `ossh status --json` says."""
    done = ossh("status", "-F", config, "--json", *hosts)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def runtime() -> Path:
    """The runtime directory of the present test."""
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "opensshtransport"


def write_settings(text: str) -> None:
    """Write the present test's config.toml."""
    directory = Path(os.environ["XDG_CONFIG_HOME"]) / "opensshtransport"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(text)


def until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.02)
