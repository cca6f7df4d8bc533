"""What the transport calls of one ArithmeticAdd job cost: ours, `core.ssh` and `core.ssh_async`.

The calls are those of AiiDA 2.9's engine, in their order: upload, submit, poll, retrieve, over a transport
that is open. `core.ssh_async` knows only `~/.ssh/config`: so it gets a home of its own, and an `ssh` on PATH
that reads the right file; and as users of its openssh backend do, that file enables multiplexing.

`scripts/bench` runs it, in an environment of its own, since AiiDA holds some of the peers to older releases.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_server import server, way

from opensshtransport.sandbox import Sandbox

_PHASES = ("upload", "submit", "poll", "retrieve")
_SUBMIT = "(bash _aiidasubmit.sh > /dev/null 2>&1 & echo $!) &"
_FILES = ("aiida.in", "_aiidasubmit.sh")
_RETRIEVED = ("aiida.out", "_scheduler-stdout.txt", "_scheduler-stderr.txt")


@contextlib.contextmanager
def surroundings(top: Path, config: Path, *, programs: bool) -> Iterator[None]:
    """A home whose `~/.ssh/config` is the given one, and programs that read it too."""
    before = {name: os.environ.get(name) for name in ("HOME", "PATH")}
    (top / "home/.ssh").mkdir(parents=True, exist_ok=True)
    (top / "bin").mkdir(exist_ok=True)
    shutil.copy(config, top / "home/.ssh/config")
    lines = [
        *config.read_text().splitlines(),
        "ControlMaster auto",
        f"ControlPath {top}/%n",
        "ControlPersist 9",
    ]
    (top / "multiplexing").write_text("\n".join(lines) + "\n")
    for name in ("ssh", "scp"):
        program = top / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {top}/multiplexing "$@"\n')
        program.chmod(0o755)
    os.environ["HOME"] = str(top / "home")
    if programs:
        os.environ["PATH"] = f"{top}/bin:{before['PATH']}"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def job(transport: Any, base: str, near: Path) -> dict[str, float]:
    """Seconds of each phase of one job."""
    name = str(uuid.uuid4())
    times = {}

    def lap(phase: str, begin: float) -> float:
        now = time.perf_counter()
        times[phase] = now - begin
        return now

    begin = time.perf_counter()
    await transport.whoami_async()
    await transport.path_exists_async(base)
    above = f"{base}/{name[:2]}/{name[2:4]}"
    workdir = f"{above}/{name[4:]}"
    await transport.makedirs_async(above, ignore_existing=True)
    await transport.mkdir_async(workdir)
    for file in (".aiida", *_FILES):
        await transport.put_async(str(near / file), f"{workdir}/{file}")
    begin = lap("upload", begin)
    await transport.exec_command_wait_async(_SUBMIT, workdir=workdir)
    begin = lap("submit", begin)
    await transport.exec_command_wait_async("ps -xo pid,stat,user,time | tail -n +2")
    begin = lap("poll", begin)
    for file in _RETRIEVED:
        await transport.get_async(f"{workdir}/{file}", str(near / f"got.{file}"), ignore_nonexisting=True)
    lap("retrieve", begin)
    return times


@contextlib.contextmanager
def _configuration() -> Iterator[None]:
    """AiiDA creates its configuration when it is loaded; this must not be the user's."""
    with tempfile.TemporaryDirectory(prefix="ob", dir="/tmp") as place:
        os.environ["AIIDA_PATH"] = place
        yield


def _prepare(near: Path) -> None:
    (near / ".aiida").mkdir()
    for name in (".aiida/calcinfo.json", ".aiida/job_tmpl.json", "aiida.in"):
        (near / name).write_text("echo $((1 + 2))\n" * 20)
    script = "exec > _scheduler-stdout.txt\nexec 2> _scheduler-stderr.txt\nbash < aiida.in > aiida.out\n"
    (near / "_aiidasubmit.sh").write_text(script)


def transports(host: str, config: Path) -> dict[str, Any]:
    """Those that are compared."""
    from aiida.plugins import TransportFactory

    from opensshtransport.aiida.transport import OpenSshTransport
    from opensshtransport.openssh import destination

    theirs = TransportFactory("core.ssh_async")
    resolved = destination.resolve(host, config).resolved
    by_paramiko = TransportFactory("core.ssh")(
        machine=resolved.hostname,
        username=resolved.user,
        port=resolved.port,
        key_filename=resolved.get("identityfile"),
        key_policy="AutoAddPolicy",
        look_for_keys=False,
        allow_agent=False,
    )
    return {
        "ours": OpenSshTransport(machine=host, ssh_config=str(config)),
        "ssh_async, asyncssh": theirs(machine=host, backend="asyncssh"),
        "ssh_async, openssh": theirs(machine=host, backend="openssh"),
        "core.ssh": by_paramiko,
    }


def measure(
    node: Sandbox, config: Path, near: Path, base: str, repetitions: int
) -> dict[str, dict[str, float]]:
    """Medians in seconds by phase and transport, and how many logins each took."""
    table: dict[str, dict[str, float]] = {phase: {} for phase in (*_PHASES, "one job", "logins")}

    async def several(name: str, transport: Any) -> None:
        before = node.authentications()
        await transport.open_async()
        try:
            await job(transport, base, near)
            runs = [await job(transport, base, near) for _ in range(repetitions)]
        finally:
            await transport.close_async()
        for phase in _PHASES:
            table[phase][name] = statistics.median(run[phase] for run in runs)
        table["one job"][name] = statistics.median(sum(run.values()) for run in runs)
        table["logins"][name] = node.authentications() - before

    for name, transport in transports(node.host, config).items():
        with surroundings(near / config.name, config, programs=name != "ours"):
            asyncio.run(several(name, transport))
    return table


def main() -> None:
    """Measure and print, as JSON: seconds by round trip, phase and transport."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rtt", type=float, nargs="*", default=[0, 50], help="round trips in ms")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results = {}
    with server() as (node, stage), _configuration():
        _prepare(stage.near)
        base = str(stage.far / "work")
        Path(base).mkdir()
        os.chown(base, stage.owner, -1)
        for milliseconds in arguments.rtt:
            with way(node, milliseconds) as config:
                table = measure(node, config, stage.near, base, arguments.repetitions)
                results[f"{milliseconds:g}"] = table
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
