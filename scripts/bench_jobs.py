"""Whole calculations through AiiDA's engine: ours compared with `core.ssh_async`, in seconds and logins.

A daemon of two workers runs them all at once: calculations with many files, jobs of aiida-shell, and jobs
that a monitor ends. `scripts/bench --aiida` runs it, in an environment of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench_server import server

# isort: split
from opensshtransport.sandbox import Sandbox
from tests.support.aiida_profile import Profile, computer  # of the tests, which bench_server has made known

_OURS, _THEIRS = "ours", "ssh_async, asyncssh"
# CalcJob's exit code for what a monitor has ended
_STOPPED = 150


def jobs(label: str, count: int, files: int) -> list[dict[str, Any]]:
    """Of ten, five have many files, four are shell jobs, and one is ended by a monitor."""
    kinds = {0: "watched", **dict.fromkeys((1, 3, 5, 7), "shell")}
    return [
        {"computer": label, "kind": kinds.get(number % 10, "files"), "seed": number, "count": files}
        for number in range(count)
    ]


def add_computers(profile: Profile, node: Sandbox, workdir: Path) -> dict[str, str]:
    """One for each transport; gives their labels."""
    ssh = Path(profile.environment["HOME"]) / ".ssh"
    ssh.mkdir(mode=0o700)
    # core.ssh_async knows no other file
    shutil.copy(node.ssh_config, ssh / "config")
    of = functools.partial(computer, scheduler="core.direct", workdir=workdir, hostname=node.host)
    ours, theirs = of("ours"), of("theirs", transport="core.ssh_async")
    ours[1] += ["--ssh-config", str(node.ssh_config), "--safe-interval", "0"]
    theirs[1] += ["--backend", "asyncssh", "--safe-interval", "0"]
    profile.verdis(*ours, *theirs)
    return {_OURS: "ours", _THEIRS: "theirs"}


def measure(count: int, files: int, seconds: float) -> dict[str, dict[str, float]]:
    """Seconds, logins and failures by transport."""
    table: dict[str, dict[str, float]] = {"seconds": {}, "logins": {}, "failed": {}}
    with server() as (node, stage), Profile() as profile:
        labels = add_computers(profile, node, stage.far / "jobs")
        profile.start_daemon(2)
        for name, label in labels.items():
            sys.stderr.write(f"{count} calculations, {name}\n")
            before = node.authentications()
            given = jobs(label, count, files)
            script = profile.start_script("submit", jobs=given, seconds=seconds)
            told = profile.finish(script, seconds=seconds + 600)
            # until the last one has ended; what they have retrieved is read after that
            begun, ended = zip(*(one["seconds"] for one in told), strict=True)
            table["seconds"][name] = round(max(ended) - min(begun), 1)
            table["logins"][name] = node.authentications() - before
            wanted = {"watched": _STOPPED}
            pairs = zip(told, given, strict=True)
            table["failed"][name] = sum(
                one["exit_status"] != wanted.get(job["kind"], 0) or bool(one.get("files"))
                for one, job in pairs
            )
    return table


def main() -> None:
    """Measure and print, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="calculations")
    parser.add_argument("--files", type=int, default=200, help="files of each that has many")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each transport")
    arguments = parser.parse_args()
    table = measure(arguments.count, arguments.files, arguments.timeout)
    sys.stdout.write(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
