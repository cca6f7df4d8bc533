"""A master by its socket: whether it listens, whether the server answers, and how it ends."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import re
import signal
import socket as sockets
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from opensshtransport.local import activity
from opensshtransport.local.settings import runtime_directory
from opensshtransport.master.facts import Facts, read_facts
from opensshtransport.openssh import command_lines

LOCAL_DEADLINE = 5.0


class State(enum.Enum):
    """The result of a check of a master."""

    NONE = "none"
    LIVE = "live"
    # late, but at work: a copy fills the link, or the machine is overloaded
    BUSY = "busy"
    UNREACHABLE = "unreachable"

    @property
    def alive(self) -> bool:
        """Whether commands may use it, and no login may replace it."""
        return self in {State.LIVE, State.BUSY}


def listens(path: Path) -> bool:
    """Whether a process listens at a socket, and the socket is ours or root's."""
    try:
        if path.stat().st_uid not in {os.getuid(), 0}:
            return False
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.settimeout(LOCAL_DEADLINE)
            probe.connect(str(path))
    except OSError as reason:
        # a full backlog: it listens, but is frozen
        return reason.errno in {errno.EAGAIN, errno.ETIMEDOUT}
    return True


def state_at(path: Path, ssh: str, timeout: float, pid: int = 0) -> State:
    """Ask the master at a socket for a round trip to the server.

    Args:
        path: the socket.
        ssh: the program.
        timeout: seconds to wait for the answer.
        pid: the master's process id, to find out whether it is at work; 0 if not known.
    """
    if not listens(path):
        return State.NONE
    # to a file: a master that hangs would keep our pipe open
    with tempfile.TemporaryFile() as said:
        question = subprocess.Popen(
            command_lines.check_command(ssh, path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        with question:
            looks = []
            for _ in range(2):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    question.wait(timeout / 2)
                    break
                looks.append([activity.look(number) for number in (pid, question.pid) if number])
            question.kill()
        said.seek(0)
        words = said.read().decode(errors="replace")
    # status 0: something listens all the same
    if question.returncode == 0 or "refused by peer" in words or "open failed" in words:
        return State.LIVE
    busy = len(looks) == 2 and any(
        activity.at_work(before, after, timeout / 2) for before, after in zip(*looks, strict=True)
    )
    return State.BUSY if busy else State.UNREACHABLE


def end_at(socket: Path, ssh: str) -> bool:
    """End our master at a socket, even a frozen one, and remove what belongs to it.

    Returns:
        Whether there was one. Running sessions end with it.
    """
    facts_file = socket.with_name(f"{socket.name}.json")
    facts = read_facts(facts_file)
    facts = facts if facts is not None and facts.ours else None
    was_there = listens(socket)
    if was_there:
        pid = facts.pid if facts is not None else pid_at(socket)
        argv = [ssh, "-F", "none", "-O", "exit", "-S", command_lines.literal(socket), "--", "master"]
        _local(argv, 0.5 if pid and _is_stopped(pid) else LOCAL_DEADLINE)
        if pid and listens(socket):
            _kill_master(pid, socket)
    # whatever is left of it, nobody can reach it any more
    socket.unlink(missing_ok=True)
    facts = read_facts(facts_file)
    if facts is not None and not listens(Path(facts.socket)):
        facts_file.unlink(missing_ok=True)
    return was_there


def pid_at(socket: Path) -> int:
    """The process id of a master of ours, found by its command line or by the title that ssh sets; or 0."""
    argv = ["ps", "-ww", "-A", "-o", "pid=", "-o", "command="]
    try:
        told = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LOCAL_DEADLINE, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    place = re.escape(os.fsencode(command_lines.literal(socket)))
    words = rb"\s*(\d+) .*(?:-oControlMaster=auto -S " + place + rb" |ssh: " + place + rb" \[mux\])"
    found = (re.match(words, line) for line in told.splitlines())
    return next((int(match[1]) for match in found if match), 0)


def responds(facts: Facts | None) -> bool:
    """Whether the master's process is running and not stopped, as far as /proc tells."""
    if facts is None:
        return True
    try:
        words = Path(f"/proc/{facts.pid}/cmdline").read_bytes()
    except OSError:
        return True
    # in another container the number belongs to another process
    return os.fsencode(facts.socket) not in words or not _is_stopped(facts.pid)


def _is_stopped(pid: int) -> bool:
    seen = activity.look(pid)
    return seen is not None and not seen.can_run


def _local(argv: Sequence[str], timeout: float, stderr: IO[bytes] | int = subprocess.DEVNULL) -> int | None:
    """Run a local program that reads and prints nothing we need; its status, None after the deadline."""
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=timeout,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def _kill_master(pid: int, socket: Path) -> None:
    """Kill a master that does not react, after checking that the process is this master and no other."""
    # -ww: COLUMNS must not cut the command line short
    argv = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    try:
        told = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOCAL_DEADLINE,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    # a client of it has the path in its command line too, and may have its number in another container
    if os.fsencode(socket) in told and (b" -N " in told or b"[mux]" in told):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def known(directory: Path | None = None) -> list[Facts]:
    """What is known of all masters, by name; includes masters of ours without a file."""
    directory = runtime_directory() if directory is None else directory
    read = (read_facts(file) for file in directory.glob("*.json"))
    found = [facts for facts in read if facts is not None]
    told = {facts.socket for facts in found}
    own = (path for path in directory.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name))
    found += [_unknown(path) for path in own if str(path) not in told and listens(path)]
    return sorted(found, key=lambda facts: (facts.host, facts.since))


def _unknown(socket: Path) -> Facts:
    """What the lock file says of a master that was just opened, or whose login was killed."""
    host, ssh_config = socket.name, None
    with contextlib.suppress(OSError, ValueError):
        host, ssh_config = json.loads(socket.with_name(f"{socket.name}.lock").read_text())
    return Facts(
        host=host,
        ssh_config=ssh_config,
        address="",
        socket=str(socket),
        pid=pid_at(socket),
        since=socket.stat().st_mtime,
        ours=True,
    )
