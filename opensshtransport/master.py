"""The one master of a destination: found, opened under a lock, proved alive by a round trip, ended.

What lies in the runtime directory, for a destination whose identity is ID:

    ID        the socket            ID.lock   held while somebody logs in; a crash releases it
    ID.log    ssh's own words       ID.json   what is known of the master: `Facts`

The traps: `ssh -O check` says "running" while the network is gone, and hangs on a frozen master, so only a
round trip with a deadline counts; but a master that is late since it is at work lives, and is not to be
ended. And a master that the person opened by a ControlPath of their own is used, but never ended by us.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import errno
import fcntl
import json
import os
import re
import secrets
import select
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from opensshtransport import activity, errors, openssh
from opensshtransport.errors import LoginNeeded, MasterGone, SessionRefused, log_error, logged_status
from opensshtransport.openssh import Destination
from opensshtransport.runlog import RunLog, sweep_logs
from opensshtransport.settings import runtime_directory, state_directory
from opensshtransport.trust import open_ours, read_ours

__all__ = [
    "Facts",
    "Master",
    "State",
    "end_at",
    "ensure",
    "known",
    "listens",
    "locked",
    "responds",
    "state_at",
    "sweep",
]

_LOCAL_DEADLINE = 5.0
# Seconds between tries to get a session that was refused, and for how long.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_PATIENCE = 60.0
# Bytes of what the far side says of itself.
_LONGEST_ANSWER = 1 << 16
# Those that read no start-up file again below a shell of their own; zsh does.
_SHELLS_OF_POSIX = {"sh", "bash", "dash", "ksh", "mksh", "ash", "busybox"}


class State(enum.Enum):
    """What a look at a master has found."""

    NONE = "none"
    LIVE = "live"
    # late, but at work: a copy fills the link, or the machine has too much to do
    BUSY = "busy"
    UNREACHABLE = "unreachable"

    @property
    def alive(self) -> bool:
        """Whether commands may go there, and nobody may end it to log in anew."""
        return self in {State.LIVE, State.BUSY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a live master.

    Attributes:
        host: the name by which it was opened.
        ssh_config: the configuration file by which it was opened, or None.
        address: user@host:port.
        socket: where it listens.
        pid: its process id.
        since: when it was opened, seconds since the epoch.
        ours: whether we opened it; else it is the person's own, and never ended by us.
        login_node: the remote host's own name.
        shell: the remote login shell's path, or "" where no command can be run freely.
        methods: how the server let us in, as far as ssh has told ("publickey keyboard-interactive").
    """

    host: str
    ssh_config: str | None
    address: str
    socket: str
    pid: int
    since: float
    ours: bool
    login_node: str = ""
    shell: str = ""
    methods: str = ""

    @property
    def posix_shell(self) -> bool:
        """Whether the login shell reads the quoting of POSIX's sh."""
        return Path(self.shell).name in _SHELLS_OF_POSIX


class Master:
    """The master of one destination, whether it lives or not. Holds nothing open."""

    def __init__(self, destination: Destination, directory: Path | None = None) -> None:
        self.destination = destination
        self.directory = runtime_directory() if directory is None else directory
        base = self.directory / destination.identity
        self.own_socket = base
        self.lock_file = base.with_name(f"{base.name}.lock")
        self.log = base.with_name(f"{base.name}.log")
        self.facts_file = base.with_name(f"{base.name}.json")

    @property
    def candidates(self) -> tuple[Path, ...]:
        """Where a live master may listen: the person's own ControlPath first, then ours."""
        theirs = self.destination.resolved.get("controlpath")
        return (Path(theirs), self.own_socket) if theirs else (self.own_socket,)

    def facts(self) -> Facts | None:
        """What is known of the master, or None where none was opened."""
        return read_facts(self.facts_file)

    def listening(self) -> Path | None:
        """The socket at which a master listens, by a local look that takes microseconds."""
        facts = self.facts()
        known_one = [Path(facts.socket)] if facts else []
        return next((path for path in (*known_one, *self.candidates) if listens(path)), None)

    def check(self, socket: Path | None = None) -> Path | None:
        """Prove by a round trip, with a deadline, that a master lives.

        Args:
            socket: the one to ask; all candidates by default.

        Returns:
            The live master's socket, or None. A live master that the server grants no further session
            is alive, and so is one that is late since it is at work.
        """
        state, found = self.look(socket)
        return found if state.alive else None

    def look(self, socket: Path | None = None) -> tuple[State, Path | None]:
        """The state of the master, and where it listens. See `check`."""
        facts = self.facts()
        seen: tuple[State, Path | None] = (State.NONE, None)
        for path in self.candidates if socket is None else (socket,):
            pid = facts.pid if facts is not None and facts.socket == str(path) else 0
            state = state_at(path, self.destination.ssh, self.destination.settings.check_timeout, pid)
            if state.alive:
                return state, path
            seen = (state, path) if state is not State.NONE else seen
        return seen

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Hold the destination's lock: only one process at a time logs in.

        Raises:
            LoginNeeded: somebody else has been logging in for longer than `timeout` seconds.
        """
        with contextlib.ExitStack() as held:
            try:
                with _alarm(timeout):
                    file = held.enter_context(locked(self.lock_file))
            except TimeoutError as reason:
                raise LoginNeeded(
                    f"another process has been logging in for {timeout:.0f} s",
                    host=self.destination.host,
                    advice=f"end it, or look at {self.log}",
                ) from reason
            # so that a master whose login was killed before it was known can be named
            told = json.dumps([self.destination.host, _text_of(self.destination.ssh_config)])
            os.ftruncate(file, 0)
            os.pwrite(file, told.encode(), 0)
            yield

    def end(self) -> bool:
        """End the master that we opened, also a frozen one, and remove what belongs to it.

        Returns:
            Whether there was one. Running sessions end with it.
        """
        return end_at(self.own_socket, self.destination.ssh)

    def write_facts(self, facts: Facts) -> None:
        """Keep what is known of the master, complete or not at all."""
        replace_file(self.facts_file, json.dumps(dataclasses.asdict(facts)))

    def describe(self, socket: Path, *, ours: bool, pid: int) -> Facts:
        """Find out by one session what the far side is: its name and its login shell.

        That it runs no command of ours is only believed of a master that lives still: where the command that
        it ran instead has ended, or where two sessions came to nothing; a session that broke tells nothing.

        Raises:
            SessionRefused: the server gives no session, for a minute.
            MasterGone: the master has died, or does not answer any more.
        """
        destination = self.destination
        facts = Facts(
            host=destination.host,
            ssh_config=_text_of(destination.ssh_config),
            address=destination.address,
            socket=str(socket),
            pid=pid,
            since=time.time(),
            ours=ours,
            methods=_methods(self.log) if ours else "",
        )
        pause, patience, broken = _FIRST_PAUSE, time.monotonic() + _PATIENCE, 0
        while broken < 2:
            lines, log = self._introduction(socket)
            if len(lines) == 2:
                return dataclasses.replace(facts, login_node=lines[0], shell=lines[1] or "/bin/sh")
            error = log_error(log, destination.host)
            if isinstance(error, SessionRefused):
                if time.monotonic() > patience:
                    raise error
                # nothing on this side tells when a session of another program ends
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if self.check(socket) is None:
                raise MasterGone("the master has died", host=destination.host, stderr=log)
            if logged_status(log) is not None:
                break
            broken += 1
        return facts

    def _introduction(self, socket: Path) -> tuple[list[str], str]:
        """The far side's name and login shell, where it runs commands; and what ssh noted of the session."""
        destination = self.destination
        mark = secrets.token_hex(8)
        # understood by every login shell; a forced command or a restricted shell gives no mark back
        command = f"exec /bin/sh -c 'echo; echo {mark}; uname -n; echo \"$SHELL\"'"
        log = RunLog(self.directory)
        argv = openssh.guarded_ssh(
            destination, openssh.literal(socket), command=command, no_stdin=True, log=log.path
        )
        try:
            answer = _printed_behind(f"\n{mark}\n", argv, max(60.0, destination.settings.check_timeout))
            return answer.splitlines(), log.read()
        finally:
            log.close()


def listens(path: Path) -> bool:
    """Whether a process listens at a socket, and the socket is ours or root's own."""
    try:
        if path.stat().st_uid not in {os.getuid(), 0}:
            return False
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.settimeout(_LOCAL_DEADLINE)
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
        timeout: seconds that the answer may take.
        pid: the master's process id, by which it is seen whether it is at work; 0 where it is not known.
    """
    if not listens(path):
        return State.NONE
    # into a file: a master that was asked keeps our pipe open for as long as it hangs
    with tempfile.TemporaryFile() as said:
        question = subprocess.Popen(
            openssh.check_command(ssh, path),
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
    # status 0: something listens even there
    if question.returncode == 0 or "refused by peer" in words or "open failed" in words:
        return State.LIVE
    busy = len(looks) == 2 and any(
        activity.at_work(before, after, timeout / 2) for before, after in zip(*looks, strict=True)
    )
    return State.BUSY if busy else State.UNREACHABLE


def end_at(socket: Path, ssh: str) -> bool:
    """End the master of ours at a socket, also a frozen one, and remove what belongs to it.

    Returns:
        Whether there was one. Running sessions end with it.
    """
    facts_file = socket.with_name(f"{socket.name}.json")
    facts = read_facts(facts_file)
    facts = facts if facts is not None and facts.ours else None
    was_there = listens(socket)
    if was_there:
        pid = facts.pid if facts is not None else _pid_at(socket)
        argv = [ssh, "-F", "none", "-O", "exit", "-S", openssh.literal(socket), "--", "master"]
        _local(argv, 0.5 if pid and _is_stopped(pid) else _LOCAL_DEADLINE)
        if pid and listens(socket):
            _kill_master(pid, socket)
    # whatever is left of it, nobody comes to it any more
    socket.unlink(missing_ok=True)
    facts = read_facts(facts_file)
    if facts is not None and not listens(Path(facts.socket)):
        facts_file.unlink(missing_ok=True)
    return was_there


def _pid_at(socket: Path) -> int:
    """The process of a master of ours, by its command line or the title that ssh gives itself; or 0."""
    argv = ["ps", "-ww", "-A", "-o", "pid=", "-o", "command="]
    try:
        told = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LOCAL_DEADLINE, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    place = re.escape(os.fsencode(openssh.literal(socket)))
    words = rb"\s*(\d+) .*(?:-oControlMaster=auto -S " + place + rb" |ssh: " + place + rb" \[mux\])"
    found = (re.match(words, line) for line in told.splitlines())
    return next((int(match[1]) for match in found if match), 0)


def _methods(log: Path) -> str:
    """How the server let us in, by what ssh has noted at the login."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return " ".join(re.findall(r'^Authenticated (?:to .* )?using "([\w-]+)"', text, re.MULTILINE))


def _text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)


def responds(facts: Facts | None) -> bool:
    """Whether the master's process runs, not stopped, as far as /proc tells."""
    if facts is None:
        return True
    try:
        words = Path(f"/proc/{facts.pid}/cmdline").read_bytes()
    except OSError:
        return True
    # in another container the number is somebody else's
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


def _printed_behind(mark: str, argv: Sequence[str], timeout: float) -> str:
    """What a program prints behind a mark and before its end; "" where that does not come in time.

    However much it prints, little of it is kept.
    """
    begin = mark.encode()
    said = b""
    deadline = time.monotonic() + timeout
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as program:
        if program.stdout is None:
            raise AssertionError("it has a pipe")
        poll = select.poll()
        poll.register(program.stdout.fileno(), select.POLLIN)
        try:
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000) and time.monotonic() < deadline:
                piece = os.read(program.stdout.fileno(), _LONGEST_ANSWER)
                if not piece:
                    # ssh notes the status after the last byte
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        program.wait(_LOCAL_DEADLINE)
                    return said[len(begin) :].decode(errors="replace") if said.startswith(begin) else ""
                said += piece
                found = said.find(begin)
                said = said[found:] if found >= 0 else said[-len(begin) :]
                if len(said) > _LONGEST_ANSWER:
                    break
        finally:
            program.kill()
    return ""


def _kill_master(pid: int, socket: Path) -> None:
    """Kill a master that does not react, after a look that the process is that master and no other."""
    # -ww: COLUMNS must not cut the command line short
    argv = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    try:
        told = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOCAL_DEADLINE,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    # a client of it has the path in its command line too, and may have the number that it has elsewhere
    if os.fsencode(socket) in told and (b" -N " in told or b"[mux]" in told):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def read_facts(file: Path) -> Facts | None:
    """Read what is known of a master; None where the file is missing or makes no sense.

    Raises:
        SettingsError: it is not ours alone.
    """
    try:
        return Facts(**json.loads(read_ours(file)))
    except (OSError, ValueError, TypeError):
        return None


def known(directory: Path | None = None) -> list[Facts]:
    """What is known of all masters, by name; a master of ours of which nothing is known is among them."""
    directory = runtime_directory() if directory is None else directory
    read = (read_facts(file) for file in directory.glob("*.json"))
    found = [facts for facts in read if facts is not None]
    told = {facts.socket for facts in found}
    own = (path for path in directory.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name))
    found += [_unknown(path) for path in own if str(path) not in told and listens(path)]
    return sorted(found, key=lambda facts: (facts.host, facts.since))


def _unknown(socket: Path) -> Facts:
    """Of a master that has just been opened, or whose login was killed, what its lock file tells."""
    host, ssh_config = socket.name, None
    with contextlib.suppress(OSError, ValueError):
        host, ssh_config = json.loads(socket.with_name(f"{socket.name}.lock").read_text())
    return Facts(
        host=host,
        ssh_config=ssh_config,
        address="",
        socket=str(socket),
        pid=_pid_at(socket),
        since=socket.stat().st_mtime,
        ours=True,
    )


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that others read at any time: complete under its name, or the old one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(file, "w", encoding="utf-8", errors="surrogateescape") as stream:  # noqa: PTH123 - a descriptor
            stream.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sweep(directory: Path | None = None) -> None:
    """Remove what dead masters and killed commands have left, of all destinations.

    A destination that somebody is logging in to is left alone.
    """
    directory = runtime_directory() if directory is None else directory
    for file in directory.glob("*.json"):
        facts = read_facts(file)
        if facts is not None and listens(Path(facts.socket)):
            continue
        with contextlib.suppress(BlockingIOError), locked(file.with_suffix(".lock"), wait=False):
            own = file.with_suffix("")
            if not listens(own):
                own.unlink(missing_ok=True)
                file.unlink(missing_ok=True)
    sweep_logs(directory)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, which a crash releases; gives its descriptor.

    Raises:
        BlockingIOError: somebody else holds it, and we were not to wait.
        SettingsError: the file is not ours alone.
    """
    held = False
    while not held:
        # it may have been removed with all that was in it
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = open_ours(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # else the file was removed while we waited, and others hold another one of that name
            held = _is_named(file, path)
            if held:
                yield file
        finally:
            os.close(file)


def _is_named(file: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt a system call of the main thread after some seconds by TimeoutError."""

    def ring(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def audit(destination: Destination, outcome: str, seconds: float) -> None:
    """Note a login and its outcome: one line in `audit.log` of the state directory, where that takes one."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # what a server said may stand in it, and the log be shown at a terminal
    told = errors.printable(re.sub(r"\s+", " ", outcome))
    line = f"{now} {destination.host} {destination.address} pid={os.getpid()} {seconds:.1f}s {told}\n"
    # a full or read-only disk is no reason to refuse a login
    with contextlib.suppress(OSError):
        file = open_ours(state_directory() / "audit.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode(errors="surrogateescape"))
        finally:
            os.close(file)


def ensure(destination: Destination, *, login: bool = True, person: bool = True) -> Facts:
    """See to it that a master lives, by a login process where none does. For libraries: spawns, never forks.

    Args:
        destination: where to.
        login: whether a login may be made; else only a master that lives already is taken up.
        person: whether somebody at the terminal may be asked.

    Raises:
        LoginNeeded: only a person can go on.
        ConnectionFailed: another of its kinds.
    """
    master = Master(destination)
    live = master.check()
    facts = master.facts()
    if live is not None and facts is not None and facts.socket == str(live):
        return facts
    argv = [sys.executable, "-m", "opensshtransport", "login", "--report"]
    argv += ["-F", str(destination.ssh_config)] if destination.ssh_config else []
    argv += ["--settings", json.dumps(destination.overrides)] if destination.overrides else []
    argv += [] if person else ["--unattended"]
    argv += [] if login else ["--no-login"]
    done = subprocess.run(
        [*argv, "--", destination.host],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        # `-m` puts the working directory first on the path of imports
        cwd="/",
        timeout=3 * destination.settings.login_timeout + 60,
        check=False,
    )
    lines = done.stdout.splitlines()
    report = json.loads(lines[-1]) if lines else {}
    if done.returncode == 0 and report:
        return Facts(**report)
    if report:
        raise revive(report)
    raise LoginNeeded(
        f"the login process ended with status {done.returncode}", host=destination.host, argv=argv
    )


def dismantle(error: errors.OpenSshTransportError) -> dict[str, object]:
    """An error as plain values, to be told to another process."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "host": error.host,
        "advice": error.advice,
        "argv": list(error.argv),
        "returncode": error.returncode,
        "stderr": error.stderr,
    }


def revive(values: dict[str, Any]) -> errors.OpenSshTransportError:
    """The error that `dismantle` took apart."""
    kind: type[errors.OpenSshTransportError] = getattr(errors, values.pop("error"))
    return kind(values.pop("message"), **values)
