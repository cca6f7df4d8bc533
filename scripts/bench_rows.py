"""What `scripts/bench` measures: each row for all contenders in turn, within one run; medians.

Each contender has one connection, which is open before anything is measured. Slow rows are repeated less
often, and left out if they would take minutes, which the tables show as `-`. A full run takes some 20
minutes, a quick one less than 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import pwd
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench_peers import AsyncSsh, Contender, Fabric, OpenSsh, Ours, Paramiko, Pipes, Rsync, Sftp, Stage, Work
from bench_server import server, way
from bench_tables import markdown, show

from opensshtransport.openssh import programs as openssh_programs
from opensshtransport.sandbox import Sandbox
from opensshtransport.transport import Transport
from tests.support.programs import OSSH, OSSH_RUN  # of the tests, which bench_server has made known

HERE = Path(__file__).resolve().parent
ROUND_TRIPS = (0.0, 20.0, 50.0, 150.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One operation.

    Attributes:
        name: as the contenders call it.
        before: restores what the previous repetition has changed.
        runs: which runs include it.
        longest: the round trip in ms up to which it is measured.
        slow: the same, for contenders that take much longer than the others; a quick run has them only on
            loopback.
        patience: this many times the patience of the run, if the times vary a lot.
    """

    name: str
    before: Callable[[Stage], object] = Stage.clear
    runs: frozenset[str] = frozenset({"full", "quick"})
    longest: float = 1e9
    slow: Mapping[str, float] = field(default_factory=dict)
    patience: float = 1.0


_FULL, _QUICK = frozenset({"full"}), frozenset({"quick"})
# One file after the other, several round trips each: 31 to 62 s at 50 ms. Of both directions one goes so far.
_ONE_BY_ONE = {"ssh, scp": 50.0, "sftp": 0.0, "asyncssh": 50.0, "paramiko": 0.0}
_BACK = {"ssh, scp": 20.0, "sftp": 0.0, "asyncssh": 20.0, "paramiko": 0.0}
_FAR_TREE = {"ssh, scp": 0.0, "sftp": 0.0, "asyncssh": 0.0, "paramiko": 0.0}
# One window after the other: 15 s each, for 512 MB at 50 ms, of which two tell what there is to be told.
_FAR_FILE = {"sftp": 0.0, "rsync": 0.0, "asyncssh": 0.0, "paramiko": 0.0}
# One window after the other: 17 to 32 s at 150 ms, where two of them tell what there is to be told.
_ONE_STREAM = {"sftp": 50.0, "rsync": 50.0, "asyncssh": 50.0, "paramiko": 50.0}


def _large(side: str, size: int) -> Callable[[Stage], object]:
    def before(stage: Stage) -> None:
        stage.clear()
        stage.large(side, size)

    return before


def _many(side: str) -> Callable[[Stage], object]:
    def before(stage: Stage) -> None:
        stage.clear()
        stage.many(side, 10_000)

    return before


ROWS = (
    Row("run"),
    Row("stat"),
    Row("mkdir"),
    Row("listdir of 200"),
    Row("glob of 200"),
    Row("rmtree of 200", lambda stage: stage.doomed(), slow={"paramiko": 20.0}),
    Row("copy of a file there"),
    Row("copy of 20 files there", slow={"asyncssh": 50.0}),
    Row("stat of 1,000"),
    Row("scandir of 10,000", lambda stage: stage.wide(10_000), slow={"asyncssh": 50.0, "paramiko": 50.0}),
    Row("put 1 KB"),
    Row("get 1 KB"),
    Row("put 200 of 1 KB", slow=_ONE_BY_ONE),
    Row("get 200 of 1 KB", slow=_BACK),
    Row("put 10,000 of 1 KB", _many("near"), _FULL, longest=50.0, slow=_FAR_TREE),
    Row("get 10,000 of 1 KB", _many("far"), _FULL, longest=50.0, slow=_FAR_TREE),
    Row("put 64 MB", _large("near", 64), _QUICK, slow=_ONE_STREAM),
    Row("get 64 MB", _large("far", 64), _QUICK, slow=_ONE_STREAM),
    Row("put 200 MB", _large("near", 200), _FULL, slow=_ONE_STREAM),
    Row("get 200 MB", _large("far", 200), _FULL, slow=_ONE_STREAM),
    Row("put 512 MB", _large("near", 512), _FULL, longest=50.0, slow=_FAR_FILE, patience=4.0),
    Row("get 512 MB", _large("far", 512), _FULL, longest=50.0, slow=_FAR_FILE, patience=4.0),
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is repeated.

    Attributes:
        kind: "full" or "quick".
        repetitions: at most this many.
        patience: not again when a contender has spent so many seconds on a row; ours has three times that,
            where others have one.
    """

    kind: str
    repetitions: int
    patience: float

    def enough(self, times: Sequence[float], name: str, patience: float = 1.0) -> bool:
        """Whether these are enough repetitions."""
        return sum(times) > self.patience * max(patience, 3.0 if name == "ours" else 1.0)


_BEGIN = time.monotonic()


def say(text: str) -> None:
    """Show what is being measured, and for how long."""
    line = f"{time.monotonic() - _BEGIN:5.0f} s  {text}" if text else ""
    sys.stderr.write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")
    sys.stderr.flush()


def timed(work: Work) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(
    contenders: Sequence[Contender], rows: Sequence[Row], stage: Stage, milliseconds: float, pace: Pace
) -> dict[str, dict[str, float]]:
    """The median in seconds of each row for each contender, all in turn."""
    works = {contender.name: contender.rows() for contender in contenders}
    medians: dict[str, dict[str, float]] = {}
    for row in rows:
        say(f"round trip {milliseconds:g} ms: {row.name}")
        times: dict[str, list[float]] = {}
        for name, work in works.items():
            slow = row.slow if pace.kind == "full" else dict.fromkeys(row.slow, 0.0)
            if row.name in work and milliseconds <= min(row.longest, slow.get(name, 1e9)):
                times[name] = []
        for _ in range(pace.repetitions):
            for name, spent in times.items():
                if pace.enough(spent, name, row.patience):
                    continue
                row.before(stage)
                if name == "ours":
                    # it opens sessions in advance, as in a program that does one thing after another
                    time.sleep(0.02 + 3 * milliseconds / 1000)
                spent.append(timed(works[name][row.name]))
        if times:
            medians[row.name] = {name: statistics.median(spent) for name, spent in times.items()}
    return medians


def programs(
    host: str, config: Path, socket: str, milliseconds: float, pace: Pace
) -> dict[str, dict[str, float]]:
    """What starting our own programs and objects costs, compared with `ssh -S`."""
    say(f"round trip {milliseconds:g} ms: programs")

    plain = _plain(host, config, socket)
    wrapped = [str(OSSH_RUN), "-F", str(config), host, "true"]
    times: dict[str, list[float]] = {"cold": [], "opened": [], "ssh": [], "run": []}
    # on loopback it is about single milliseconds
    for _ in range(pace.repetitions if milliseconds else 3 * pace.repetitions):
        times["ssh"].append(_local(plain))
        times["run"].append(_local(wrapped, OSSH_FRESH="1"))
        begin = time.perf_counter()
        with Transport(host, ssh_config=config) as transport:
            times["opened"].append(time.perf_counter() - begin)
            times["cold"].append(timed(lambda: transport.run("true")))
        if pace.enough(times["cold"], "ours"):
            break
        time.sleep(milliseconds / 1000)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    return {
        "ossh-run": {"ours": medians["run"], "ssh, scp": medians["ssh"]},
        "ossh-run in a loop": _loop(wrapped, plain, pace),
        "open a Transport": {"ours": medians["opened"]},
        "run, cold": {"ours": medians["cold"]},
    }


def _plain(host: str, config: Path, socket: str) -> list[str]:
    return ["ssh", "-F", str(config), "-S", socket, host, "true"]


def _local(argv: list[str], **environment: str) -> float:
    environ = {**os.environ, **environment}
    return timed(
        lambda: subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, env=environ
        )
    )


def _loop(ours: list[str], plain: list[str], pace: Pace) -> dict[str, float]:
    """What the later calls of a loop take that does nothing else, beside `ssh -S`."""
    # none is opened ahead before eight sessions have shown that it pays here
    first, later = 12, 4 * pace.repetitions
    spent = [_local(ours) for _ in range(first + later)][first:]
    return {
        "ours": statistics.median(spent),
        "ssh, scp": statistics.median(_local(plain) for _ in range(pace.repetitions)),
    }


def slow_starts(
    node: Sandbox, config: Path, socket: str, milliseconds: float, pace: Pace
) -> dict[str, dict[str, float]]:
    """What a loop of commands costs where the start-up files on the host take half a second."""
    startup = Path(pwd.getpwnam(node.user).pw_dir, ".bashrc")
    if node.user == pwd.getpwuid(os.geteuid()).pw_name or milliseconds not in (0.0, 50.0):
        # the person's own is left alone
        return {}
    say(f"round trip {milliseconds:g} ms: start-up files of 0.5 s")
    before = startup.read_text(encoding="utf-8")
    startup.write_text("sleep 0.5\n", encoding="utf-8")
    try:
        ours = [str(OSSH_RUN), "-F", str(config), node.host, "true"]
        times = _loop(ours, _plain(node.host, config, socket), pace)
    finally:
        startup.write_text(before, encoding="utf-8")
    return {"ossh-run, slow start-up": times}


def memory(host: str, config: Path, stage: Stage) -> dict[str, dict[str, float]]:
    """The most that a program with one `Transport` had in memory, in MiB."""
    table: dict[str, dict[str, float]] = {}

    def peak(name: str, *operands: str | Path) -> None:
        say(f"memory: {name}")
        argv = [sys.executable, HERE / "bench_memory.py", host, config, *operands]
        table[name] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)

    peak("run", "run")
    for name, source in (
        ("10 MB", lambda: stage.large("near", 10)),
        ("512 MB", lambda: stage.large("near", 512)),
        ("1,000 files", lambda: stage.many("near", 1_000)),
        ("10,000 files", lambda: stage.many("near", 10_000)),
        ("30,000 files", lambda: stage.many("near", 30_000, size=10)),
    ):
        stage.clear()
        peak(f"put {name}", "put", source(), stage.far / "new")
        peak(f"get {name}", "get", stage.far / "new", stage.near / "new")
    stage.clear()
    return table


def contending(
    host: str, config: Path, stage: Stage, socket: str, only: Sequence[str], stack: contextlib.ExitStack
) -> list[Contender]:
    """All contenders, connected."""
    makers: tuple[Callable[[], Contender], ...] = (
        lambda: Ours(host, config, stage),
        lambda: OpenSsh(host, config, stage, socket),
        lambda: Sftp(host, config, stage, socket),
        lambda: Pipes(host, config, stage, socket),
        lambda: Rsync(host, config, stage, socket),
        lambda: AsyncSsh(host, config, stage),
        lambda: Paramiko(host, config, stage),
        lambda: Fabric(host, config, stage),
    )
    kinds = (Ours, OpenSsh, Sftp, Pipes, Rsync, AsyncSsh, Paramiko, Fabric)
    made = []
    for kind, make in zip(kinds, makers, strict=True):
        if not only or kind.name in only or kind is Ours:
            contender = make()
            stack.callback(contender.close)
            made.append(contender)
    return made


def at(
    node: Sandbox,
    stage: Stage,
    milliseconds: float,
    rows: Sequence[Row],
    pace: Pace,
    arguments: argparse.Namespace,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """All rows at one round trip, and on loopback in a full run the memory."""
    with way(node, milliseconds) as config:
        subprocess.run([OSSH, "login", "-q", "-F", config, node.host], check=True)
        names = Path(os.environ["XDG_RUNTIME_DIR"], "opensshtransport").glob("*.json")
        socket = str(next(names).with_suffix(""))
        try:
            table = programs(node.host, config, socket, milliseconds, pace)
            table |= slow_starts(node, config, socket, milliseconds, pace)
            with contextlib.ExitStack() as stack:
                contenders = contending(node.host, config, stage, socket, arguments.only, stack)
                table |= measure(contenders, rows, stage, milliseconds, pace)
            peaks = memory(node.host, config, stage) if arguments.memory and not milliseconds else {}
        finally:
            subprocess.run([OSSH, "logout", "-F", config, node.host], check=True, stderr=subprocess.DEVNULL)
    return table, peaks


def versions() -> dict[str, str]:
    """What was measured, and where."""
    found = {"OpenSSH": ".".join(map(str, openssh_programs.version("ssh")))}
    for name in ("asyncssh", "paramiko", "fabric"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | {"Python": platform.python_version(), "processors": str(os.cpu_count())}


def aiida(round_trips: Sequence[float], python: Path) -> dict[str, Any]:
    """What the calls of one job cost, from an environment of its own: it wants older peers."""
    say("AiiDA")
    return _printed([python, HERE / "bench_aiida.py", "--rtt", *map(str, round_trips)])


def aiida_jobs(kind: str, python: Path) -> dict[str, Any]:
    """What whole calculations take, through AiiDA's engine."""
    say("AiiDA, whole calculations")
    size = ["--count", "20", "--files", "50"] if kind == "quick" else ["--count", "100", "--files", "200"]
    return {"calculations": int(size[1]), **_printed([python, HERE / "bench_jobs.py", *size])}


def _printed(argv: Sequence[str | Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    pace = Pace("quick", 5, 0.7) if arguments.quick else Pace("full", 9, 1.3)
    wanted = arguments.rtt or ([0.0, 50.0] if arguments.quick else list(ROUND_TRIPS))
    rows = [
        row
        for row in ROWS
        if (pace.kind in row.runs or arguments.rows)
        and (not arguments.rows or any(word in row.name for word in arguments.rows))
    ]
    if arguments.aiida:
        # first, since this takes minutes of processor time where it is made anew
        set_up = [HERE / "set-up", "--for", "bench", "--extra", "aiida-jobs"]
        done = subprocess.run(set_up, stdout=subprocess.PIPE, check=True, text=True)
        python = Path(done.stdout.strip(), "python")
    begin = time.monotonic()
    results: dict[str, Any] = {"kind": pace.kind, "versions": versions(), "rows": {}}
    with server() as (node, stage):
        for milliseconds in wanted:
            table, peaks = at(node, stage, milliseconds, rows, pace, arguments)
            results["rows"][f"{milliseconds:g}"] = table
            if peaks:
                results["memory"] = peaks
            keep(results, arguments.json, begin)
    if arguments.aiida:
        results["aiida"] = aiida([trip for trip in wanted if trip in (0, 50)] or wanted, python)
        keep(results, arguments.json, begin)
        results["aiida jobs"] = aiida_jobs(pace.kind, python)
    keep(results, arguments.json, begin)
    say("")
    return results


def keep(results: dict[str, Any], file: str | None, begin: float) -> None:
    """Write what has been measured so far, so that nothing is lost if the run is interrupted."""
    results["seconds"] = round(time.monotonic() - begin)
    if file not in (None, "-"):
        Path(file).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, or load earlier measurements, and print or draw them."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than 2 minutes: at 0 and 50 ms")
    parser.add_argument("--rtt", type=float, nargs="*", help="round trips in ms; 0 20 50 150 by default")
    parser.add_argument("--rows", nargs="*", default=[], help="those whose names have one of these words")
    parser.add_argument("--only", nargs="*", default=[], help="contenders beside ours, by their names")
    for name, what in (("--aiida", "AiiDA's transports"), ("--memory", "how much memory is used")):
        parser.add_argument(
            name, action=argparse.BooleanOptionalAction, help=f"{what}; by default in a full run of all rows"
        )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write what was measured; `-` is stdout"
    )
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="what `--json` wrote, nothing is measured"
    )
    parser.add_argument("--plot", metavar="DIRECTORY", help="draw it there: operations.svg, throughput.svg")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the README instead")
    arguments = parser.parse_args()
    everything = not (arguments.quick or arguments.rows or arguments.only or arguments.rtt)
    for name in ("aiida", "memory"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, everything)
    # the server, its user and the files are cleared away then too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.source:
        results = json.loads(Path(arguments.source).read_text(encoding="utf-8"))
    else:
        results = run(arguments)
    if arguments.json == "-":
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    elif arguments.markdown:
        sys.stdout.write(markdown(results))
    else:
        show(results)
    if arguments.plot:
        from bench_plot import draw

        draw(results, Path(arguments.plot))


if __name__ == "__main__":
    main()
