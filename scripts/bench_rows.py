"""What `scripts/bench` measures: each row in turn for all contenders within one run; medians.

The server is an sshd on loopback for a temporary user with an empty start-up file (as root; else for the
present user), and between it and us stands the tests' delaying relay, as a process of its own. Each contender
has one connection, which is open before anything is measured.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from bench_peers import AsyncSsh, Fabric, OpenSsh, Ours, Paramiko, Pipes, Rsync, Stage, Work  # noqa: E402
from nodes import config_through  # noqa: E402 - found by the line above
from programs import OSSH, OSSH_RUN  # noqa: E402
from relay import Relay  # noqa: E402
from users import missing_for_users, temporary_user  # noqa: E402

from opensshtransport.sandbox import Sandbox  # noqa: E402
from opensshtransport.transport import Transport  # noqa: E402


class Contender(Protocol):
    """Who is measured."""

    name: str

    def rows(self) -> dict[str, Work]:
        """What it does for each row."""

    def close(self) -> None:
        """Let go."""


@dataclass(frozen=True, slots=True)
class Row:
    """One operation: what must have happened before each time, how often it is done, and its target.

    Attributes:
        name: as the contenders call it.
        before: restores what the last time has changed.
        target: of ours, in round trips at 50 ms; 0 for none.
        cost: how heavy it is: 1 is a small operation; heavy rows are repeated less often.
        most: round trips in ms above which it is left out, for those that would take minutes.
    """

    name: str
    before: Callable[[Stage], object] = lambda _: None
    target: float = 0.0
    cost: int = 1
    most: Mapping[str, float] | float = 1e9


def _new(stage: Stage) -> None:
    stage.clear("new")
    stage.clear_here("new")


def _with_file(side: str, size: int) -> Callable[[Stage], object]:
    """Nothing new is there, and the file that is to be moved is."""

    def before(stage: Stage) -> None:
        _new(stage)
        stage.file(side, str(size), size << 20)

    return before


def _with_many(stage: Stage) -> None:
    _new(stage)
    stage.many(10_000)


# Those take half a minute or more where the way is longer, and would tell nothing new.
_SLOW_ONES = {"OpenSSH": 60.0, "asyncssh": 60.0, "paramiko": 60.0}
# Seconds after which something is not repeated, and what `--quick` leaves out where there is a round trip.
_LONG = 3.0
_LONG_ONES = {
    ("put 200 of 1 KB", "OpenSSH"),
    ("put 200 of 1 KB", "asyncssh"),
    ("put 200 of 1 KB", "paramiko"),
    ("get 200 of 1 KB", "OpenSSH"),
    ("get 200 of 1 KB", "asyncssh"),
    ("get 200 of 1 KB", "paramiko"),
    ("rmtree of 200", "paramiko"),
    ("copy on the server", "asyncssh"),
    ("scandir of 10,000", "asyncssh"),
    ("scandir of 10,000", "paramiko"),
}

ROWS = (
    Row("run", target=1.15),
    Row("stat", target=1.15),
    Row("mkdir", _new, target=1.15),
    Row("listdir of 200", target=1.15),
    Row("glob of 200", target=1.15),
    Row("rmtree of 200", lambda stage: stage.doomed(), target=1.15, cost=2),
    Row("copy on the server", _new, target=1.15, cost=2),
    Row("stat of 1,000", target=1.5, cost=2),
    Row("scandir of 10,000", lambda stage: stage.wide(10_000), cost=5),
    Row("put 1 KB", _new, target=1.2),
    Row("get 1 KB", _new, target=1.2),
    Row("put 200 of 1 KB", _new, target=5, cost=5, most=_SLOW_ONES),
    Row("get 200 of 1 KB", _new, target=5, cost=5, most=_SLOW_ONES),
    Row("put 10,000 of 1 KB", _with_many, cost=50, most={"OpenSSH": 1.0, "asyncssh": 1.0}),
    Row("put 200 MB", _with_file("near", 200), cost=20),
    Row("get 200 MB", _with_file("far", 200), cost=20),
    Row("put 512 MB", _with_file("near", 512), cost=50, most=1.0),
    Row("get 512 MB", _with_file("far", 512), cost=50, most=1.0),
)


@contextlib.contextmanager
def server() -> Iterator[tuple[Sandbox, Stage]]:
    """A node, for a user with an empty start-up file where one can be made, and what is worked on."""
    top = Path(tempfile.mkdtemp(prefix="ob", dir="/tmp"))
    top.chmod(0o711)
    try:
        for name in ("RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME"):
            (top / name).mkdir(mode=0o700)
            os.environ[f"XDG_{name}"] = str(top / name)
        near = top / "near"
        near.mkdir()
        with contextlib.ExitStack() as stack:
            if missing_for_users():
                node = stack.enter_context(Sandbox())
                far, owner = top / "far", os.getuid()
                far.mkdir()
            else:
                user = stack.enter_context(temporary_user(top))
                node = stack.enter_context(Sandbox("bench", user.name))
                far, owner = user.home / "far", user.uid
                far.mkdir()
                os.chown(far, owner, -1)
            yield node, Stage(near, far, owner)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def timed(work: Work) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(
    contenders: Sequence[Contender],
    rows: Sequence[Row],
    stage: Stage,
    milliseconds: float,
    repetitions: int,
    *,
    quick: bool = False,
) -> dict[str, dict[str, float]]:
    """The median in seconds of each row for each contender, all in turn."""
    works = {contender.name: contender.rows() for contender in contenders}
    medians: dict[str, dict[str, float]] = {}
    for row in rows:
        taking_part = []
        for name, work in works.items():
            most = row.most if isinstance(row.most, float | int) else row.most.get(name, 1e9)
            left_out = quick and milliseconds and (row.name, name) in _LONG_ONES
            if row.name in work and milliseconds <= most and not left_out:
                taking_part.append(name)
        times: dict[str, list[float]] = {name: [] for name in taking_part}
        for _ in range(max(1, repetitions // row.cost)):
            for name in taking_part:
                if times[name] and times[name][0] > _LONG:
                    continue
                row.before(stage)
                # ours opens sessions ahead, as a program that does one thing after another has it
                time.sleep(0.02 + 3 * milliseconds / 1000)
                times[name].append(timed(works[name][row.name]))
        medians[row.name] = {name: statistics.median(values) for name, values in times.items()}
    return medians


def programs(
    node: Sandbox, config: Path, socket: str, milliseconds: float, repetitions: int
) -> dict[str, dict[str, float]]:
    """What starting our own programs and objects costs, beside `ssh -S`."""
    host = node.host
    plain = ["ssh", "-F", str(config), "-S", socket, host, "true"]
    wrapped = [str(OSSH_RUN), "-F", str(config), host, "true"]

    def local(argv: list[str]) -> Work:
        return lambda: subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    cold: list[float] = []
    opened: list[float] = []
    by_ssh: list[float] = []
    by_run: list[float] = []
    for _ in range(repetitions):
        by_ssh.append(timed(local(plain)))
        by_run.append(timed(local(wrapped)))
        begin = time.perf_counter()
        with Transport(host, ssh_config=config) as transport:
            opened.append(time.perf_counter() - begin)
            cold.append(timed(lambda: transport.run("true")))
        time.sleep(milliseconds / 1000)
    return {
        "command line": {"ours": statistics.median(by_run), "OpenSSH": statistics.median(by_ssh)},
        "run, cold": {"ours": statistics.median(cold)},
        "open a Transport": {"ours": statistics.median(opened)},
    }


_TARGETS = {row.name: row.target for row in ROWS} | {"run, cold": 2.3}


def show(medians: Mapping[str, Mapping[str, float]], milliseconds: float) -> None:
    """Print one round-trip time's table: milliseconds, and for ours round trips and the target."""
    names = list(dict.fromkeys(name for row in medians.values() for name in row))
    sys.stdout.write(f"\nround trip {milliseconds:g} ms; medians in ms\n")
    head = "".join(f"{name:>16}" for name in names)
    sys.stdout.write(f"{'':20}{head}{'ours in RTT':>14}{'target':>8}\n")
    for row, values in medians.items():
        cells = "".join(f"{values[name] * 1000:16.1f}" if name in values else f"{'-':>16}" for name in names)
        trips = f"{values['ours'] / (milliseconds / 1000):14.2f}" if milliseconds else " " * 14
        target = _TARGETS.get(row, 0.0)
        sys.stdout.write(f"{row:20}{cells}{trips}{f'{target:8.2f}' if target and milliseconds else ''}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rtt", type=float, nargs="*", help="round trips in ms; 0 20 50 150 by default")
    parser.add_argument("--repetitions", type=int, default=11, help="of small operations")
    parser.add_argument("--rows", nargs="*", default=[], help="those whose names have one of these words")
    parser.add_argument("--only", nargs="*", default=[], help="contenders, by their names")
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing heavy; 0 and 50 ms")
    parser.add_argument("--json", action="store_true", help="medians in seconds, by round trip, row and name")
    parser.add_argument("--plot", metavar="DIRECTORY", help="draw the results there, by matplotlib")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.rows or any(word in row.name for word in arguments.rows)]
    round_trips, repetitions = arguments.rtt or [0, 20, 50, 150], arguments.repetitions
    if arguments.quick:
        round_trips, repetitions = arguments.rtt or [0, 50], 5
        rows = [row for row in rows if row.cost < 20 or row.name.endswith("200 MB")]
    results: dict[str, dict[str, dict[str, float]]] = {}
    with server() as (node, stage):
        for milliseconds in round_trips:
            with Relay(node.port, delay=milliseconds / 2000) as relay:
                config = config_through(node, relay)
                subprocess.run([OSSH, "login", "-q", "-F", config, node.host], check=True)
                socket = next(Path(os.environ["XDG_RUNTIME_DIR"], "opensshtransport").glob("*.json"))
                master = str(socket.with_suffix(""))
                table = programs(node, config, master, milliseconds, repetitions)
                with contextlib.ExitStack() as stack:
                    contenders = contending(node.host, config, stage, master, arguments.only, stack)
                    table |= measure(
                        contenders, rows, stage, milliseconds, repetitions, quick=arguments.quick
                    )
                subprocess.run(
                    [OSSH, "logout", "-F", config, node.host], check=True, stderr=subprocess.DEVNULL
                )
            results[f"{milliseconds:g}"] = table
            if not arguments.json:
                show(table, milliseconds)
    if arguments.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    if arguments.plot:
        from bench_plot import draw

        draw(results, Path(arguments.plot))


def contending(
    host: str,
    config: Path,
    stage: Stage,
    socket: str,
    only: Sequence[str],
    stack: contextlib.ExitStack,
) -> list[Contender]:
    """All who take part, connected."""
    makers: dict[str, Callable[[], Contender]] = {
        "ours": lambda: Ours(host, config, stage),
        "OpenSSH": lambda: OpenSsh(host, config, stage, socket),
        "cat, tar | ssh": lambda: Pipes(host, config, stage, socket),
        "rsync": lambda: Rsync(host, config, stage, socket),
        "asyncssh": lambda: AsyncSsh(host, config, stage),
        "paramiko": lambda: Paramiko(host, config, stage),
        "Fabric": lambda: Fabric(host, config, stage),
    }
    made = []
    for name, make in makers.items():
        if not only or name in only or name == "ours":
            contender = make()
            stack.callback(contender.close)
            made.append(contender)
    return made


if __name__ == "__main__":
    main()
