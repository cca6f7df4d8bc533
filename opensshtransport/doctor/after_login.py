"""The links after the login: what `ossh doctor` finds on the host, over a live master.

Sessions that show what other programs would see (noise, sftp, the number of sessions) are plain guarded ssh
processes. Everything else is one POSIX sh script, in one round trip, which answers each question with a line
`NAME=VALUE`.

The trap: a queue command of a busy scheduler, or a file system that hangs, may take forever; so each of the
script's slow questions has its own deadline if the host has timeout(1), and all of them together have one of
ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from opensshtransport.doctor.finding import Finding, broken, fine, skipped, warning
from opensshtransport.errors import CommandTimeout, Remedy
from opensshtransport.local.settings import NETWORK_FILE_SYSTEMS
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh import command_lines, versions
from opensshtransport.openssh.diagnosis import NO_MASTER
from opensshtransport.openssh.programs import locate
from opensshtransport.transport import Transport

_DEADLINE = 60.0

_PROBE_BYTES = 4 << 20

_PROBE_SECONDS = 2.0

_SLOW_RTT = 0.3

_SLOW_RATE = 200_000.0

_SLOW_START = 2.0

_FULL = 95

_PATIENCE, _PAUSE = 2.0, 0.2

# Without these, our own commands and transfers cannot work on the host.
_NEEDED = ("sh", "ps", "cat", "dd", "mkdir", "mv", "rm", "tar")

_WELCOME = ("scp", "rsync", "sha256sum", "timeout")

# Each scheduler's queue command, and how to ask it about our own jobs only.
_SCHEDULERS = {
    "squeue": ("Slurm", 'squeue -h -u "$me"'),
    "qstat": ("PBS or Grid Engine", 'qstat -u "$me"'),
    "bjobs": ("LSF", "bjobs"),
    "condor_q": ("HTCondor", "condor_q -totals"),
    "oarstat": ("OAR", 'oarstat -u "$me"'),
    "flux": ("Flux", "flux jobs"),
}

# What some of them say, with a status other than 0, although all is well.
_EMPTY_QUEUE = re.compile(r"No (?:unfinished )?jobs? found", re.IGNORECASE)

_SCRIPT = f"""\
me=$(id -un)
say() {{ printf '%s=%s\\n' "$1" "$(printf %s "$2" | tr '\\n' ' ')"; }}
limit=$(command -v timeout) && limit="$limit 10"
say node "$(uname -n)"
missing=
for tool in {" ".join(_NEEDED)}; do command -v $tool >/dev/null 2>&1 || missing="$missing $tool"; done
say missing "$missing"
there=
for tool in {" ".join(_WELCOME)}; do ! command -v $tool >/dev/null 2>&1 || there="$there $tool"; done
say there "$there"
say dd "$(dd --version 2>&1 | head -n 1)"
say home "$HOME"
kind=$($limit stat -f -c %T "$HOME" 2>/dev/null) || kind=
say file_system "$kind"
say space "$($limit df -Pk "$HOME" 2>/dev/null | awk 'NR==2{{print $4, $5}}')"
[ -w "$HOME" ] && say writable yes
say quota "$($limit quota -w 2>/dev/null | awk '/[0-9][*]/ {{print $1}}')"
for queue in {" ".join(_SCHEDULERS)}; do
    command -v $queue >/dev/null 2>&1 || continue
    case $queue in
{"".join(f"    {name}) set -- {line} ;;{chr(10)}" for name, (_, line) in _SCHEDULERS.items())}    esac
    said=$({{ $limit "$@" >/dev/null; }} 2>&1)
    say status $?
    say said "$said"
    say queue $queue
    break
done
"""


@dataclass(frozen=True, slots=True)
class FarSide:
    """A live master, and the answers so far.

    Attributes:
        master: of the destination.
        facts: what is known of it.
        answers: of the script; empty until it has run.
    """

    master: Master
    facts: Facts
    answers: dict[str, str] = field(default_factory=dict)

    def transport(self) -> Transport:
        """A transport for some questions; while it is open, it has sessions."""
        destination = self.master.destination
        return Transport(destination.host, ssh_config=destination.ssh_config, login=False, person=False)

    def ask(self) -> Mapping[str, str]:
        """The script's answers; it runs once."""
        if not self.answers:
            with self.transport() as transport:
                done = transport.run(_READER, input=_SCRIPT, timeout=_DEADLINE, encoding="utf-8")
            self.answers.update(parse_answers(str(done.stdout)))
        return self.answers

    def ssh(self, command: str) -> list[str]:
        """The command line of a plain session."""
        return command_lines.guarded_ssh(self.master.destination, self._socket, command=command)

    def sftp(self) -> list[str]:
        """The command line of sftp that reads its commands from stdin."""
        return command_lines.guarded_sftp(self.master.destination, self._socket, ["-b", "-"])

    @property
    def _socket(self) -> str:
        return command_lines.literal(Path(self.facts.socket))


# Through stdin, because not every login shell lets newlines through; and its children must not read on there.
_READER = ["/bin/sh", "-c", 'script=$(cat); exec </dev/null; eval "$script"']


def parse_answers(text: str) -> dict[str, str]:
    """The answers of the script, by name."""
    return dict(re.findall(r"^(\w+)=(.*?) *$", text, re.MULTILINE))


def round_trip(far: FarSide) -> Finding:
    """The time of a round trip, and the throughput in bytes a second."""
    with far.transport() as transport:
        # the first one opens a session, which runs the start-up files
        begin = time.monotonic()
        transport.exists(".")
        opening = time.monotonic() - begin
        times = []
        for _ in range(3):
            begin = time.monotonic()
            transport.exists(".")
            times.append(time.monotonic() - begin)
        rtt, rate = min(times), _rate(transport, _PROBE_SECONDS + 2 * opening)
    seen = f"{rtt * 1000:.1f} ms, {rate / 1e6:.1f} MB/s in one stream"
    if rtt > _SLOW_RTT:
        return warning(f"{seen}: a long round trip", "combine requests (run_many, whole trees)")
    if rate < _SLOW_RATE:
        return warning(f"{seen}: a slow link", "move large files from elsewhere, or at night")
    return fine(seen)


def _rate(transport: Transport, timeout: float) -> float:
    came: list[tuple[float, int]] = []
    with contextlib.suppress(CommandTimeout):
        transport.run(
            f"head -c {_PROBE_BYTES} /dev/urandom",
            stdout=lambda piece: came.append((time.monotonic(), len(piece))),
            timeout=timeout,
        )
    if len(came) < 2:
        return 0.0
    # the first piece starts the clock, so that the command's own start does not count
    took = max(1e-6, came[-1][0] - came[0][0])
    return sum(size for _, size in came[1:]) / took


def _run(argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program of OpenSSH to its end.

    Raises:
        TimeoutError: it does not end.
    """
    try:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as reason:
        raise TimeoutError(f"{Path(argv[0]).name} does not answer within {_DEADLINE:.0f} s") from reason


def login_shell(far: FarSide) -> Finding:
    """The login shell, what its start-up files print, and how long they take."""
    mark = secrets.token_hex(8)
    begin = time.monotonic()
    done = _run(far.ssh(f"echo {mark}"))
    took = time.monotonic() - begin
    noise, found, _ = done.stdout.rpartition(mark)
    if not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return broken(
            f"`echo` prints nothing{f' ({said[-1].strip()})' if said else ''}",
            "use an account whose login shell runs commands",
        )
    if not far.facts.shell:
        return warning(
            "commands run, but not as they are given (a forced command or a restricted shell)",
            "use an account whose login shell runs commands",
        )
    name = far.facts.shell
    if noise.strip():
        return warning(
            f"{name} prints {_short(noise)!r} before each command; ossh drops it, scp and rsync do not",
            "print only if there is a terminal: [ -t 1 ]",
        )
    if took > _SLOW_START:
        return warning(
            f"{name} takes {took:.1f} s to start", "load modules where they are needed, not in start-up files"
        )
    return fine(f"{name}, silent, starts in {took * 1000:.0f} ms")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."


def sftp(far: FarSide) -> Finding:
    """The subsystem sftp, by the program sftp."""
    done = _run(far.sftp(), "pwd\n")
    if done.returncode == 0:
        return fine("answers")
    said = done.stderr.strip()
    if "Received message too long" in said:
        return warning("start-up files print into it", "print only if there is a terminal: [ -t 1 ]")
    lines = [line for line in said.splitlines() if line.strip()]
    if NO_MASTER in said:
        return skipped("the server opens no session for it now")
    scp = " ".join(["scp", *versions.old_protocol(locate(far.master.destination.settings.scp))])
    if versions.has_no_sftp(said):
        return warning("the server has none, or it ends at once", f"use ossh cp, or {scp}")
    return warning(f"fails ({lines[0] if lines else 'without a message'})", f"use ossh cp, or {scp}")


def programs(far: FarSide) -> Finding:
    """What our own commands need on the host."""
    answers = far.ask()
    if not answers:
        return broken("sh does not run scripts there", "use an account whose login shell runs commands")
    if answers["missing"]:
        return broken(f"missing: {answers['missing'].strip()}", "set PATH in your start-up files on the host")
    kind = (
        "busybox"
        if "busybox" in answers["dd"].lower()
        else "coreutils"
        if "coreutils" in answers["dd"]
        else "others"
    )
    without = [tool for tool in _WELCOME if tool not in answers["there"].split()]
    seen = f"{kind}, tar, {', '.join(answers['there'].split()) or 'nothing more'}"
    return fine(seen + (f"; no {', '.join(without)}" if without else ""))


def sessions(far: FarSide) -> Finding:
    """How many sessions the server grants at once, up to our budget."""
    settings = far.master.destination.settings
    slots = Slots(far.master)
    taken: list[int] = []
    most = settings.max_sessions
    # sessions that have just ended may still count at the server
    patience = time.monotonic() + _PATIENCE
    with ExitStack() as opened:
        refused = ""
        while slots.in_use() < most:
            slot = slots.take()
            if slot is None:
                break
            taken.append(slot)
            opened.callback(slots.give, slot)
            while (refused := opened.enter_context(_session(far))) and time.monotonic() < patience:
                time.sleep(_PAUSE)
            if refused:
                break
        count = slots.in_use() - bool(refused)
        busy = count - len(taken) + bool(refused)
    if refused and "refused by peer" in refused:
        return warning(
            f"the server grants {count}, max_sessions is {most}",
            f"set max_sessions = {max(1, count)} in config.toml",
        )
    if refused:
        return warning(f"number {count + 1} does not open ({refused.splitlines()[0]})", "try again")
    return fine(f"{count} at once{f', {busy} of them in use' if busy else ''}; max_sessions is {most}")


@contextlib.contextmanager
def _session(far: FarSide) -> Iterator[str]:
    """Open a session until the end of the block; yields why it did not open, or ""."""
    mark = secrets.token_hex(8)
    # a file: a pipe that the master still holds would block us
    with tempfile.TemporaryFile() as said:
        argv = far.ssh(f"echo {mark}; cat")
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as ssh:
            try:
                opened = ssh.stdout is not None and _comes(ssh.stdout.fileno(), mark.encode())
                if not opened:
                    ssh.kill()
                    ssh.wait()
                    said.seek(0)
                    yield said.read().decode(errors="replace").strip() or "no answer"
                else:
                    yield ""
            finally:
                if ssh.stdin:
                    ssh.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ssh.wait(_PROBE_SECONDS)
                ssh.kill()


def _comes(descriptor: int, mark: bytes) -> bool:
    deadline, text = time.monotonic() + _DEADLINE, b""
    while (left := deadline - time.monotonic()) > 0 and select.select([descriptor], [], [], left)[0]:
        piece = os.read(descriptor, 65536)
        text += piece
        if mark in text:
            return True
        if not piece:
            break
    return False


def home(far: FarSide) -> Finding:
    """The home directory: its file system, the space that is left, and the quota."""
    answers = far.ask()
    place, kind = answers.get("home", ""), answers.get("file_system", "")
    if "writable" not in answers:
        return broken(f"{place or 'the home directory'} is not writable", "ask your centre")
    kilobytes, _, used = answers.get("space", "").partition(" ")
    shared = "shared by the nodes" if kind.lower() in NETWORK_FILE_SYSTEMS else "as seen from this node"
    seen = f"{place} on {kind or 'an unknown file system'} ({shared})"
    if answers.get("quota"):
        return warning(f"{seen}: over the quota of {answers['quota']}", "remove what you do not need on it")
    if kilobytes.isdigit() and used.rstrip("%").isdigit():
        seen += f", {_size(1024 * int(kilobytes))} free"
        if int(used.rstrip("%")) >= _FULL:
            return warning(f"{seen}: {used} is used", "remove what you do not need on it")
    return fine(seen)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.0f} PB"


def scheduler(far: FarSide) -> Finding:
    """Which scheduler exists, and whether its queue command works."""
    answers = far.ask()
    queue = answers.get("queue", "")
    if not queue:
        return fine("none is there")
    name, _ = _SCHEDULERS[queue]
    said = answers.get("said", "")
    if (answers.get("status") == "0" and not said) or _EMPTY_QUEUE.search(said):
        return fine(f"{name}: {queue} works")
    reason = _short(said) if said else f"status {answers.get('status')}"
    return broken(f"{name}: {queue} fails ({reason})", Remedy("run: ", "ossh-run", queue))


def login_node(far: FarSide) -> Finding:
    """The machine that we are on, and whether the name leads to others too."""
    node = far.ask().get("node") or far.facts.login_node
    if not node:
        return skipped("its name is not known")
    destination = far.master.destination
    if len(destination.route) > 1 or destination.route[0][3]:
        return fine(node)
    try:
        found = socket.getaddrinfo(destination.resolved.hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return fine(node)
    families = [family for family, *_ in dict.fromkeys((entry[0], entry[4][0]) for entry in found)]
    count = max(map(families.count, families))
    if count > 1:
        return warning(
            f"{node}, one of {count} behind {destination.resolved.hostname}; a new login may lead to another",
            "name one of them in HostName, if you need what runs on it (screen, background processes)",
        )
    return fine(node)


LINKS: tuple[tuple[str, Callable[[FarSide], Finding]], ...] = (
    ("round trip", round_trip),
    ("login shell", login_shell),
    ("sftp", sftp),
    ("programs there", programs),
    ("sessions", sessions),
    ("home", home),
    ("scheduler", scheduler),
    ("login node", login_node),
)
