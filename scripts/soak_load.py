"""What `scripts/soak` does: processes and threads share one master, while the network and the master fail.

Each worker has files of its own, and knows what they must contain; each command leaves a line each time that
it runs. The server is an sshd on loopback behind the tests' relay. Violations are reported, and make the exit
status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from opensshtransport import Transport  # noqa: E402
from opensshtransport.errors import ConnectionFailed  # noqa: E402
from tests.faults.world import World  # noqa: E402 - found by the line above

SETTINGS = """
[host."*"]
server_alive_interval = 2
server_alive_count_max = 2
check_timeout = 4
connect_timeout = 5
login_timeout = 30
"""
FAULTS = (
    "cut",
    "cut",
    "reset",
    "reset",
    "silence",
    "master killed",
    "master stopped",
    "sshd killed",
    "shell killed",
)
# Seconds between two faults, and between two samples of the memory.
PAUSE, SAMPLE = 6.0, 5.0
# How many seconds one operation may take, whatever breaks; and after how many we report what it waits for.
LONGEST, SLOW = 120.0, 20.0
# How much memory may grow after the first samples, in MiB, and how many Python objects.
GROWTH, MORE_OBJECTS = 10.0, 5000
MIB = 1 << 20
PIECE = 1 << 18


# -- one worker ----------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A thread's work: operations in any order, each checked."""

    there: Transport
    top: Path
    chance: random.Random
    tally: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    number: int = 0
    # an example of what was told, by operation and kind of error
    told: dict[str, str] = field(default_factory=dict)
    # seconds, by operation
    spent: dict[str, list[float]] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    # when the operation that is under way began, and its name
    since: float = 0.0
    current: str = ""
    thread: int = 0

    def work(self, end: float) -> None:
        """Go on until the end."""
        self.thread = threading.get_ident()
        for side in ("far", "near"):
            (self.top / side / "kept").mkdir(parents=True)
        operations: dict[str, Callable[[], None]] = {
            "run": self.run,
            "run with input": self.run_input,
            "once": self.once,
            "write and read": self.write,
            "append": self.append,
            "make and remove": self.tree,
            "list": self.look,
            "put": self.put,
            "get": self.get,
            "put a tree": self.put_tree,
            "get a tree": self.get_tree,
            "sftp": self.sftp,
        }
        while time.monotonic() < end:
            name = self.chance.choice(list(operations))
            self.number += 1
            self.since, self.current = time.monotonic(), name
            outcome = "ok"
            try:
                operations[name]()
            except ConnectionFailed as reason:
                outcome = type(reason).__name__
                self.told[f"{name}: {outcome}"] = " ".join(str(reason).split())
            except AssertionError as reason:
                outcome = "WRONG"
                self.broken.append(f"{name} in {self.top}: {reason}")
            except Exception as reason:  # no other kind is right
                outcome = type(reason).__name__
                self.broken.append(f"{name} in {self.top}: {outcome}: {reason}")
            self.tally[f"{name}: {outcome}"] += 1
            took = time.monotonic() - self.since
            self.since = 0.0
            self.spent.setdefault(name, []).append(took)
            self.slowest = max(self.slowest, (took, f"{name}: {outcome}"))

    def check(self, holds: bool, what: object = "") -> None:
        """Record a violation.

        Raises:
            AssertionError: the condition is violated.
        """
        if not holds:
            raise AssertionError(what)

    def runs(self, name: str) -> int:
        """How often a command has run."""
        file = self.top / "far" / name
        return len(file.read_text().split()) if file.exists() else 0

    def attempt(self, name: str, work: Callable[[], object], expected: object) -> None:
        """A command, and whether its report agrees with how often it ran."""
        try:
            done = work()
        except ConnectionFailed as reason:
            self.check(self.runs(name) <= 1, f"{self.runs(name)} runs")
            if reason.started is False:
                self.check(self.runs(name) == 0, f"said not to have started: {reason!r}")
            raise
        self.check(done == expected, f"{done!r:.200}, not {expected!r:.200}")
        self.check(self.runs(name) == 1, f"{self.runs(name)} runs")

    def run(self) -> None:
        """A command that leaves a line."""
        name = f"ran{self.number}"
        line = f"echo x >> {self.top}/far/{name}; echo {self.number}; exit 3"

        def work() -> object:
            done = self.there.run(line)
            return done.returncode, done.stdout

        self.attempt(name, work, (3, f"{self.number}\n".encode()))

    def run_input(self) -> None:
        """A command that reads."""
        name, raw = f"ran{self.number}", self.chance.randbytes(self.chance.randrange(200_000) + 1)
        line = f"echo x >> {self.top}/far/{name}; sha256sum"

        def work() -> object:
            return self.there.run(line, input=raw).stdout

        self.attempt(name, work, hashlib.sha256(raw).hexdigest().encode() + b"  -\n")

    def once(self) -> None:
        """A command under a key, repeated until there is an answer: it ran once."""
        name = f"ran{self.number}"
        line = f"echo x >> {self.top}/far/{name}; echo {self.number}; exit 3"
        env = {"XDG_STATE_HOME": str(self.top / "state")}
        for _ in range(20):
            with contextlib.suppress(ConnectionFailed):
                try:
                    done = self.there.run(line, once=f"{self.top.name}-{self.number}", env=env)
                except OSError as reason:
                    if not isinstance(reason, ConnectionFailed):
                        raise
                    raise
                except Exception as reason:
                    # a shell that was killed is told
                    self.check("cut down" in str(reason), repr(reason))
                    self.check(self.runs(name) <= 1, f"{self.runs(name)} runs")
                    return
                self.check((done.returncode, done.stdout) == (3, f"{self.number}\n".encode()), done)
                self.check(self.runs(name) == 1, f"{self.runs(name)} runs")
                return
        raise AssertionError("no answer in 20 tries")

    def write(self) -> None:
        """A file is as before or as written."""
        path, raw = (
            self.top / "far" / "kept" / "written",
            self.chance.randbytes(self.chance.randrange(100_000)),
        )
        before = path.read_bytes() if path.exists() else None
        try:
            self.there.write_bytes(path, raw)
        except ConnectionFailed as reason:
            now = path.read_bytes() if path.exists() else None
            self.check(now in (before, raw) or reason.started is None, "half written")
            # what is under way may still come, so this file is left alone
            path.rename(path.with_name(f"left{self.number}")) if path.exists() else None
            raise
        self.check(self.there.read_bytes(path) == raw, "not what was written")

    def append(self) -> None:
        """What is appended is there once."""
        path = self.top / "far" / f"log{self.number}"
        path.write_bytes(b"a\n")
        try:
            self.there.append(path, b"b\n")
        except ConnectionFailed as reason:
            self.check(path.read_bytes() in (b"a\n", b"a\nb\n"), path.read_bytes())
            self.check(reason.started is not False or path.read_bytes() == b"a\n", "it has begun")
            raise
        self.check(path.read_bytes() == b"a\nb\n", path.read_bytes())

    def tree(self) -> None:
        """Directories come and go."""
        top = self.top / "far" / f"tree{self.number}"
        self.there.makedirs(top / "a" / "b")
        self.there.write_bytes(top / "a" / "f", b"1")
        self.there.copy(top / "a", top / "c")
        self.check((top / "c" / "f").read_bytes() == b"1", "not copied")
        self.there.rmtree(top)
        self.check(not top.exists(), "not removed")

    def look(self) -> None:
        """Listings are complete."""
        kept = self.top / "far" / "kept"
        # nobody but this thread changes what is there
        self.there.listdir(kept)
        self.check(self.there.is_dir(kept), "no directory")
        self.check(len(self.there.stat_many([kept] * 50)) == 50, "not all")

    def source(self, side: str, size: int) -> Path:
        """A file to be moved."""
        path = self.top / side / f"source{self.number}"
        # piece by piece: the memory that is watched is to be the package's
        with path.open("wb") as file:
            for begin in range(0, size, PIECE):
                file.write(self.chance.randbytes(min(PIECE, size - begin)))
        return path

    def moved(self, work: Callable[[], object], source: Path, target: Path) -> None:
        """What arrives is complete; if no arrival was reported, it is complete or missing."""
        try:
            work()
        except ConnectionFailed:
            time.sleep(0)
            if target.exists():
                self.check(_sum(target) == _sum(source), "half written")
            raise
        self.check(_sum(target) == _sum(source), f"not what was moved: {_odd(source, target)}")
        if source.is_file():
            source.unlink()
            target.unlink()
        else:
            shutil.rmtree(source)
            shutil.rmtree(target)

    def size(self) -> int:
        """Mostly small, at times some MiB."""
        return self.chance.choice((10, 1000, 50_000, 300_000, 3 * MIB, 9 * MIB))

    def put(self) -> None:
        """A file goes there."""
        source, target = self.source("near", self.size()), self.top / "far" / f"put{self.number}"
        self.moved(lambda: self.there.put(source, target), source, target)

    def get(self) -> None:
        """A file comes here."""
        source, target = self.source("far", self.size()), self.top / "near" / f"got{self.number}"
        self.moved(lambda: self.there.get(source, target), source, target)

    def files(self, side: str) -> Path:
        """A tree to be moved."""
        top = self.top / side / f"source{self.number}"
        (top / "below").mkdir(parents=True)
        size = self.chance.choice((100, 10_000, 100_000))
        for number in range(20):
            place = top / "below" if number % 2 else top
            (place / f"f{number}").write_bytes(self.chance.randbytes(size))
        return top

    def put_tree(self) -> None:
        """A tree goes there."""
        source, target = self.files("near"), self.top / "far" / f"put{self.number}"
        self.moved(lambda: self.there.put(source, target), source, target)

    def get_tree(self) -> None:
        """A tree comes here."""
        source, target = self.files("far"), self.top / "near" / f"got{self.number}"
        self.moved(lambda: self.there.get(source, target), source, target)

    def sftp(self) -> None:
        """A file goes by sftp."""
        source, target = self.source("near", 20_000), self.top / "far" / f"put{self.number}"
        self.moved(lambda: self.there.put(source, target, way="sftp"), source, target)


def _odd(source: Path, target: Path) -> list[str]:
    here, there = ({str(path.relative_to(top)) for path in top.rglob("*")} for top in (source, target))
    return sorted(here ^ there)[:8] or [
        name for name in sorted(here) if _sum(source / name) != _sum(target / name)
    ]


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    for one in sorted([path, *path.rglob("*")]) if path.is_dir() else [path]:
        digest.update(os.fsencode(one.relative_to(path)))
        if one.is_file():
            with one.open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
    return digest.hexdigest()


# -- one process ---------------------------------------------------------------------------------------------


def process(arguments: argparse.Namespace) -> None:
    """Let threads work; the result is in a file next to their directory."""
    top = Path(arguments.top)
    end = time.monotonic() + arguments.seconds
    there = Transport(arguments.host, ssh_config=arguments.config, person=False)
    workers = [
        Worker(there, top / f"w{number}", random.Random(f"{arguments.seed} {number}"))  # noqa: S311 - it keeps no secret
        for number in range(arguments.threads)
    ]
    before = threading.active_count()
    threads = [threading.Thread(target=worker.work, args=(end,), daemon=True) for worker in workers]
    samples: list[dict[str, float]] = []
    waits: Counter[str] = Counter()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end + LONGEST:
        samples.append({**sample(), "operations": sum(worker.tally.total() for worker in workers)})
        for worker in workers:
            if worker.since and time.monotonic() > worker.since + SLOW:
                waits[where(worker)] += 1
        time.sleep(SAMPLE)
    for thread in threads:
        thread.join(max(0.0, end + LONGEST - time.monotonic()))
    broken = [line for worker in workers for line in worker.broken]
    broken += [f"{worker.top}: no outcome within {LONGEST:.0f} s" for worker in workers if worker.since]
    there.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (threading.active_count() > before or _children()):
        time.sleep(0.05)
    tally: Counter[str] = Counter()
    told: dict[str, str] = {}
    spent: dict[str, list[float]] = {}
    for worker in workers:
        tally += worker.tally
        told |= worker.told
        for name, seconds in worker.spent.items():
            spent.setdefault(name, []).extend(seconds)
    left = {
        "threads": threading.active_count() - before,
        "children": len(_children()),
        # standard streams, the table of slots, the directory that is read just now, and what Python keeps
        "descriptors": len(list(Path("/proc/self/fd").iterdir())) - 5,
    }
    report = {
        "tally": tally,
        "told": told,
        "spent": spent,
        "slowest": max(worker.slowest for worker in workers),
        "broken": broken,
        "left": left,
        "samples": samples,
        "waits": waits,
    }
    top.with_suffix(".json").write_text(json.dumps(report))


def where(worker: Worker) -> str:
    """What a thread is doing now, from the package's innermost frames."""
    frame = sys._current_frames().get(worker.thread)
    places = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent.name == "opensshtransport":
            places.append(f"{file.stem}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return f"{worker.current}: {' < '.join(places[:5])}"


def sample() -> dict[str, float]:
    """What this process holds now."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        # what has been freed, and glibc keeps for later, is not held
        ctypes.CDLL(None).malloc_trim(0)
    return {
        "MiB": round(memory(os.getpid()), 1),
        "objects": len(gc.get_objects()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):
            found += (task / "children").read_text().split()
    return found


# -- all together --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def directories() -> Iterator[Path]:
    """Directories of our own, with a short path for sockets."""
    top = Path(tempfile.mkdtemp(prefix="os", dir="/tmp"))
    try:
        for name in ("RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME", "CACHE_HOME", "DATA_HOME"):
            (top / name).mkdir(mode=0o700)
            os.environ[f"XDG_{name}"] = str(top / name)
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


def memory(pid: int) -> float:
    """What a process holds in memory, in MiB; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


def soak(arguments: argparse.Namespace, top: Path) -> bool:
    """Load, faults, samples; returns whether everything held."""
    chance = random.Random(arguments.seed)  # noqa: S311 - it keeps no secret
    seconds = arguments.minutes * 60
    broken: list[str] = []
    struck: Counter[str] = Counter()
    of_master: list[float] = []
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(World(top, chance, settings=SETTINGS))
        work = top / "work"
        share = max(1, arguments.threads // arguments.processes)
        argv = [sys.executable, str(Path(__file__).resolve()), "--process", "--host", world.node.host]
        argv += ["--config", str(world.config), "--seconds", str(seconds), "--threads", str(share)]
        # one arena: those of many threads grow for long though nothing is held (mallopt(3), M_ARENA_MAX)
        env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        started = []
        for number in range(arguments.processes):
            (work / f"p{number}").mkdir(parents=True)
            own = ["--top", str(work / f"p{number}"), "--seed", f"{arguments.seed}{number}"]
            started.append(subprocess.Popen([*argv, *own], env=env))
            # whatever happens here, none of them goes on
            stack.callback(started[-1].kill)
        begin = time.monotonic()
        strike, look, loud = begin + PAUSE, begin, 0.0
        while (
            any(one.poll() is None for one in started) and time.monotonic() < begin + seconds + LONGEST + 60
        ):
            now = time.monotonic()
            if loud and now > loud:
                world.heal()
                world.go_on()
                loud = 0.0
            elif now > strike and not loud and now < begin + seconds - PAUSE:
                fault = chance.choice(FAULTS)
                struck[fault] += 1
                world.relay.strike_after(chance.randrange(300_000), world.deed(fault))
                strike = now + PAUSE * chance.uniform(0.5, 1.5)
                loud = now + (8 if fault == "silence" else 15 if fault == "master stopped" else 1)
            elif not loud and now > begin + seconds - PAUSE:
                world.heal()
            if now > look:
                look = now + SAMPLE
                facts = world.master.facts()
                of_master.append(memory(facts.pid) if facts is not None else 0.0)
            time.sleep(0.05)
        world.heal()
        reports: list[dict[str, Any]] = []
        for number, one in enumerate(started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if one.wait(60) == 0:
                    reports.append(json.loads((work / f"p{number}.json").read_text()))
                    continue
            one.kill()
            one.wait()
            broken.append(f"process {number} ended with status {one.returncode}, or not at all")
        try:
            world.check_nothing_left()
        except AssertionError as reason:
            broken.append(f"left: {reason}")
        broken += show(reports, struck, of_master, world, work)
        world.master.end()
    for line in broken:
        sys.stdout.write(f"BROKEN: {line}\n")
    sys.stdout.write(f"{'broken' if broken else 'all held'}; --seed {arguments.seed}\n")
    return not broken


def show(
    reports: list[dict[str, Any]],
    struck: Counter[str],
    of_master: list[float],
    world: World,
    work: Path,
) -> list[str]:
    """Print the figures; returns the violations."""
    broken = [line for report in reports for line in report["broken"]]
    tally: Counter[str] = Counter()
    told: dict[str, str] = {}
    for report in reports:
        tally.update(report["tally"])
        told |= report["told"]
    faults = ", ".join(f"{fault} {count}" for fault, count in sorted(struck.items()))
    sys.stdout.write(
        f"{tally.total()} operations, {world.node.authentications()} logins;"
        f" {struck.total()} faults: {faults}\n"
    )
    show_logins()
    sys.stdout.write(f"{'seconds':16} {'median':>7} {'most':>7}  outcomes\n")
    for name in sorted({key.partition(": ")[0] for key in tally}):
        spent = [took for report in reports for took in report["spent"].get(name, ())]
        parts = {
            key.partition(": ")[2]: count for key, count in tally.items() if key.partition(": ")[0] == name
        }
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(parts.items(), key=lambda one: -one[1]))
        sys.stdout.write(f"{name:16} {statistics.median(spent):7.2f} {max(spent):7.1f}  {kinds}\n")
    waits: Counter[str] = Counter()
    for report in reports:
        waits.update(report["waits"])
    sys.stdout.write(
        f"\nwhat was waited for, {SLOW:.0f} s after an operation began; once in {SAMPLE:.0f} s\n"
    )
    for place, count in waits.most_common(20):
        sys.stdout.write(f"{count:4} {place}\n")
    sys.stdout.write("\nwhat was told, an example of each kind\n")
    for kind, text in sorted(told.items()):
        sys.stdout.write(f"{kind}: {text}\n")
    return broken + show_left(reports, world, work) + show_memory(reports, of_master)


def show_logins() -> None:
    """Print what the audit log says of the logins: how long they took, and how they ended."""
    log = Path(os.environ["XDG_STATE_HOME"], "opensshtransport", "audit.log")
    found = re.findall(r" pid=\d+ ([\d.]+)s (.*)$", log.read_text(encoding="utf-8"), re.MULTILINE)
    for how, count in Counter(how for _, how in found).most_common():
        spent = [float(took) for took, one in found if one == how]
        sys.stdout.write(
            f"  {how}: {count}, in {statistics.median(spent):.1f} s, at most {max(spent):.1f} s\n"
        )
    sys.stdout.write("\n")


def show_left(reports: list[dict[str, Any]], world: World, work: Path) -> list[str]:
    """Print what is left behind; returns what should not be."""
    left: Counter[str] = Counter()
    for report in reports:
        left.update(report["left"])
    left["logs"] = sum(1 for _ in world.master.directory.glob("run.*"))
    # those of sftp have names of their own each time, and what is broken off has been given up here
    drafts = sum(1 for path in work.rglob(".ossh-*") if "/.ossh-" not in str(path.parent))
    parts = ", ".join(f"{what} {count}" for what, count in left.items())
    sys.stdout.write(f"\nleft: {parts}; drafts of transfers that were given up {drafts}\n")
    return [f"{count} {what} left" for what, count in left.items() if count > 0]


def show_memory(reports: list[dict[str, Any]], of_master: list[float]) -> list[str]:
    """Print how it went over time; returns what has grown."""
    broken = []
    sys.stdout.write("\nover time, in eighths\n")
    for number, report in enumerate(reports):
        for what in ("operations", "MiB", "objects", "descriptors", "threads"):
            values = [one[what] for one in report["samples"]]
            _show_course(f"process {number}, {what}", values)
            # what it needs at most for its threads' files, it has needed by then
            part = max(1, len(values) * 2 // 5)
            early, late = max(values[:part]), max(values[-part:])
            if late > early + {"MiB": GROWTH, "objects": MORE_OBJECTS}.get(what, 1e9):
                broken.append(f"{what} of process {number} grew from {early:.0f} to {late:.0f}")
    _show_course("master, MiB", [value for value in of_master if value])
    return broken


def _show_course(name: str, values: list[float]) -> None:
    if values:
        steps = (values[min(len(values) - 1, len(values) * part // 8)] for part in range(9))
        course = "".join(f"{step:8.0f}" for step in steps)
        sys.stdout.write(f"{name:24}{course}   most {max(values):.0f}\n")


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--threads", type=int, default=16, help="in all processes together (default: 16)")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    for name in ("--host", "--config", "--top"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        process(arguments)
        return 0
    # by Ctrl-C too everything is cleared away
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with directories() as top:
        return 0 if soak(arguments, top) else 1


if __name__ == "__main__":
    sys.exit(main())
