"""What `scripts/bench` measures: each row in turn within one run, medians, in milliseconds and round trips.

The server is an sshd on loopback for a temporary user with an empty start-up file (as root; else for the
present user), and between it and us stands the tests' delaying relay, as a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from nodes import config_through  # noqa: E402 - found by the line above
from programs import OSSH, OSSH_RUN  # noqa: E402
from relay import Relay  # noqa: E402
from users import missing_for_users, temporary_user  # noqa: E402

from opensshtransport.sandbox import Sandbox  # noqa: E402
from opensshtransport.transport import Transport  # noqa: E402


@dataclass(frozen=True, slots=True)
class Row:
    """One operation: how it is done, what must have happened before, and its target."""

    name: str
    work: Callable[[], object]
    before: Callable[[], object] = lambda: None
    target: str = ""


@contextlib.contextmanager
def server() -> Iterator[Sandbox]:
    """A node, for a user with an empty start-up file where one can be made."""
    top = Path(tempfile.mkdtemp(prefix="ob", dir="/tmp"))
    top.chmod(0o711)
    try:
        for name in ("RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME"):
            (top / name).mkdir(mode=0o700)
            os.environ[f"XDG_{name}"] = str(top / name)
        if missing_for_users():
            with Sandbox() as node:
                yield node
        else:
            with temporary_user(top) as user, Sandbox("bench", user.name) as node:
                yield node
    finally:
        shutil.rmtree(top, ignore_errors=True)


def rows(config: Path, host: str, transport: Transport, socket: str, rtt: float) -> list[Row]:
    """What is measured on one connection."""
    plain = ["ssh", "-F", str(config), "-S", socket, host, "true"]
    wrapped = [str(OSSH_RUN), "-F", str(config), host, "true"]

    def local(argv: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    def warm() -> None:
        # as a program that runs commands one after another has it; spares need two round trips to open
        transport.run("true")
        time.sleep(0.05 + 4 * rtt)

    def cold() -> None:
        transport._execution._drop_spares()
        time.sleep(0.05)

    return [
        Row("ssh -S true", local(plain)),
        Row("ossh-run true", local(wrapped), target="1.5 x ssh -S on loopback"),
        Row("Transport.run, warm", lambda: transport.run("true"), warm, "1.15 RTT"),
        Row("Transport.run, cold", lambda: transport.run("true"), cold, "2.3 RTT"),
        Row("open a Transport", lambda: Transport(host, ssh_config=config).close(), target="0 RTT"),
    ]


def measure(table: list[Row], repetitions: int) -> dict[str, float]:
    """The median of each row in seconds, all rows in turn."""
    times: dict[str, list[float]] = {row.name: [] for row in table}
    for _ in range(repetitions):
        for row in table:
            row.before()
            begin = time.perf_counter()
            row.work()
            times[row.name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rtt", type=float, nargs="*", default=[0, 20, 50, 150], help="round trips in ms")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="0 and 50 ms, 7 repetitions")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    round_trips, repetitions = ([0, 50], 7) if arguments.quick else (arguments.rtt, arguments.repetitions)
    results: dict[str, dict[str, float]] = {}
    with server() as node:
        for milliseconds in round_trips:
            rtt = milliseconds / 1000
            with Relay(node.port, delay=rtt / 2) as relay:
                config = config_through(node, relay)
                subprocess.run([OSSH, "login", "-q", "-F", config, node.host], check=True)
                socket = next(Path(os.environ["XDG_RUNTIME_DIR"], "opensshtransport").glob("*.json"))
                with Transport(node.host, ssh_config=config) as transport:
                    table = rows(config, node.host, transport, str(socket.with_suffix("")), rtt)
                    results[f"{milliseconds:g}"] = measure(table, repetitions)
                subprocess.run(
                    [OSSH, "logout", "-F", config, node.host], check=True, stderr=subprocess.DEVNULL
                )
            if not arguments.json:
                show(table, results[f"{milliseconds:g}"], milliseconds)
    if arguments.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")


def show(table: list[Row], medians: dict[str, float], milliseconds: float) -> None:
    """Print one round-trip time's rows."""
    first = next(iter(medians.values()))
    sys.stdout.write(f"\nround trip {milliseconds:g} ms\n")
    for row in table:
        seconds = medians[row.name]
        trips = f"{seconds / (milliseconds / 1000):6.2f} RTT" if milliseconds else " " * 10
        sys.stdout.write(
            f"  {row.name:22} {seconds * 1000:8.2f} ms {trips} {seconds / first:6.2f} x  {row.target}\n"
        )


if __name__ == "__main__":
    main()
