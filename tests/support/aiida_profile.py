"""A profile of AiiDA in a directory of its own, with a real daemon, and the scripts that run in it.

The person's own `~/.aiida` is neither read nor written: AIIDA_PATH leads elsewhere, and HOME too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SCRIPTS = str(_HERE / "aiida_scripts.py")
# A verdi command starts in two seconds on an idle machine; and much may run at the same time.
_VERDI_WITHIN = 300.0


def missing_for_aiida() -> str:
    """Say why AiiDA cannot be tested here; empty if it can."""
    if importlib.util.find_spec("aiida") is None:
        return "AiiDA is not installed (run: scripts/test --extra aiida)"
    return ""


def too_old_for_profiles() -> str:
    """Say why there are no profiles here; empty if there are: those of older releases want services."""
    found = importlib.metadata.version("aiida-core")
    if tuple(int(part) for part in found.split(".")[:2]) >= (2, 9):
        return ""
    return f"AiiDA {found} has no broker of its own, as 2.9 has"


def computer(
    label: str,
    scheduler: str,
    workdir: str | Path,
    *options: str,
    transport: str = "openssh",
    hostname: str = "sandbox",
) -> list[list[str]]:
    """The commands of verdi that set up and configure a computer, as a person does."""
    setup = ["computer", "setup", "--non-interactive", "--label", label, "--hostname", hostname]
    setup += ["--transport", transport, "--scheduler", scheduler, "--work-dir", str(workdir)]
    setup += ["--mpirun-command", "", "--mpiprocs-per-machine", "1"]
    return [setup, ["computer", "configure", transport, label, "--non-interactive", *options]]


@dataclass(eq=False)
class Profile:
    """A profile of `verdi presto --use-zeromq`, which needs no services: SQLite, and ZeroMQ as the broker.

    Args:
        options: of `verdi config set`, by name.

    Attributes:
        directory: where everything of it lies.
        environment: what its programs find.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    directory: Path = field(init=False)
    environment: dict[str, str] = field(init=False)
    _daemon: bool = field(init=False, default=False)
    _started: list[subprocess.Popen[str]] = field(init=False, default_factory=list)

    def __enter__(self) -> Profile:
        self.directory = Path(tempfile.mkdtemp(prefix="oa", dir="/tmp"))
        home = self.directory / "home"
        home.mkdir()
        self.environment = {
            **os.environ,
            "AIIDA_PATH": str(self.directory),
            "HOME": str(home),
            # the daemon looks for `verdi` there
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{_HERE.parents[1]}:{os.environ.get('PYTHONPATH', '')}",
            "PYTHONWARNINGS": "ignore",
        }
        try:
            self.verdis(
                ["presto", "--use-zeromq", "--profile-name", "test", "--non-interactive"],
                *(["config", "set", name, str(value)] for name, value in self.options.items()),
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the daemon and what a failed test has left running, and remove all."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if self._daemon:
            self._start("daemon", "stop").communicate(timeout=_VERDI_WITHIN)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, *words: str, program: str = "verdi") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [Path(sys.executable).parent / program, *words],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def commands(self, *lines: Sequence[str]) -> list[tuple[int, str]]:
        """Run several programs' commands in one process, which saves seconds for each.

        Args:
            lines: `verdi` or `ossh` and its words.

        Returns:
            for each its exit status, and what it prints.
        """
        # no `verdi run`, as there may be no profile yet
        process = self._start(_SCRIPTS, "commands", json.dumps({"lines": lines}), program="python")
        said, _ = process.communicate(timeout=_VERDI_WITHIN)
        assert process.returncode == 0, said
        return [(status, text) for status, text in json.loads(said.splitlines()[-1])]

    def verdis(self, *lines: Sequence[str]) -> list[str]:
        """Run several verdi commands in one process; what each prints.

        Raises:
            AssertionError: one of them has failed.
        """
        done = self.commands(*(["verdi", *words] for words in lines))
        for words, (status, said) in zip(lines, done, strict=True):
            assert status == 0, f"verdi {' '.join(words)}: {status}\n{said}"
        return [said for _, said in done]

    def verdi(self, *words: str, status: int = 0) -> str:
        """Run a verdi command; what it prints.

        Raises:
            AssertionError: its exit status is another one.
        """
        process = self._start(*words)
        said, _ = process.communicate(timeout=_VERDI_WITHIN)
        assert process.returncode == status, f"verdi {' '.join(words)}: {process.returncode}\n{said}"
        return said

    def start_daemon(self, workers: int) -> None:
        """Start the daemon; what is submitted waits for its workers."""
        self._daemon = True
        self.verdi("daemon", "start", str(workers))

    def start_script(self, name: str, **values: object) -> subprocess.Popen[str]:
        """Start a script of `aiida_scripts` in the profile; it ends with a line of JSON."""
        script = self._start("run", _SCRIPTS, name, json.dumps(values))
        self._started.append(script)
        return script

    def finish(self, script: subprocess.Popen[str], *, seconds: float) -> Any:
        """Wait for a script's answer.

        Raises:
            AssertionError: it failed; with what it has printed.
        """
        said, _ = script.communicate(timeout=seconds)
        self._started.remove(script)
        assert script.returncode == 0, said
        return json.loads(said.splitlines()[-1])

    def script(self, name: str, *, seconds: float = _VERDI_WITHIN, **values: object) -> Any:
        """Run a script to its end."""
        return self.finish(self.start_script(name, **values), seconds=seconds)

    def daemon_log(self) -> str:
        """What the daemon's workers have logged."""
        logs = sorted(self.directory.rglob("*daemon*/log/*.log")) + sorted(self.directory.rglob("log/*.log"))
        return "\n".join(path.read_text(errors="replace") for path in dict.fromkeys(logs))
