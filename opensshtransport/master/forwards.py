"""The forwards of a master, and the register of which program asked for which.

The idea: a forward listens in the master, and outlives the client that asked for it; a master lists none that
is idle. So each is noted in the runtime directory with its owner: a process, or nobody if it is to be kept.
What belongs to no running owner is cancelled; what is kept is requested again after a new login.

The traps. `-O cancel` of a forward that does not exist says so, and ends with 0. Without an address, a local
port that is taken for IPv4 counts as success, because ::1 listens alone then. A socket's file stays behind.
And an owner may appear between a check and a cancel: so it is checked once more, and the forward requested
again.

An entry is a text of lines, as `ossh-hook` writes it too: the socket, the owner's process id (0 for none),
when that process began, the destination's identity ("" if not known), and one forward a line.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket as sockets
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import ConnectionFailed, SettingsError
from opensshtransport.local.locks import locked, replace_file
from opensshtransport.local.processes import began
from opensshtransport.local.settings import private_directory, runtime_directory
from opensshtransport.local.trust import read_ours
from opensshtransport.master.control_socket import LOCAL_DEADLINE, listens
from opensshtransport.openssh import command_lines

_TRIES = 100


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward, as ssh has it.

    Attributes:
        option: "-L", "-R" or "-D".
        spec: what follows it.
    """

    option: str
    spec: str

    def __str__(self) -> str:
        return f"{self.option}{self.spec}"

    @property
    def listener(self) -> list[str]:
        """Where it listens: an address and a port, a port alone, or a socket."""
        parts = _parts(self.spec)
        if parts[0].startswith("/") or self.option == "-D":
            return parts[:1] if parts[0].startswith("/") else parts
        # a target is a socket, or a host and its port; -R without one is a SOCKS proxy for the remote side
        target = 1 if parts[-1].startswith("/") else 2
        return parts[:-target] or parts

    @property
    def port(self) -> int | None:
        """The port that listens; None for a socket."""
        word = self.listener[-1]
        return int(word) if word.isdecimal() else None

    @property
    def local_socket(self) -> Path | None:
        """The local socket that listens."""
        first = self.listener[0]
        return Path(first) if self.option == "-L" and first.startswith("/") else None


def parse(text: str) -> Forward:
    """Read `-L SPEC`, joined.

    Raises:
        SettingsError: it is not a forward.
    """
    match = re.fullmatch(r"(-[LRD])\s*(\S.*)", text)
    if match is None:
        raise SettingsError(
            f"{text!r} is not a forward", topic="tunnels", advice="write -L, -R or -D as for ssh"
        )
    return Forward(match[1], match[2])


def _parts(spec: str) -> list[str]:
    """The parts between colons; an address of IPv6 is in brackets."""
    return [word.strip("[]") for word in re.findall(r"\[[^]]*\]|[^:]+|(?<=:)(?=:)|^(?=:)", spec)]


def local(forward: Forward) -> Forward:
    """A forward as we request it: a local port without an address, or at `localhost`, gets one.

    Otherwise the master counts it as success if only ::1 listens, because another program has 127.0.0.1.
    """
    if forward.option == "-R" or forward.port is None:
        return forward
    address, _, rest = forward.spec.partition(":")
    if len(forward.listener) == 1:
        return Forward(forward.option, f"127.0.0.1:{forward.spec}")
    return Forward(forward.option, f"127.0.0.1:{rest}") if address == "localhost" else forward


@dataclass(frozen=True, slots=True)
class Entry:
    """Who asked for forwards.

    Attributes:
        file: where it is noted.
        socket: the master's.
        pid: the owner's, or 0 if it is kept.
        began: when that process began, as the system counts; "" if it does not say.
        identity: the destination's, or "".
        forwards: what was asked for.
    """

    file: Path
    socket: Path
    pid: int
    began: str
    identity: str
    forwards: tuple[Forward, ...]

    @property
    def wanted(self) -> bool:
        """Whether its owner is running, or the entry is kept."""
        if self.pid == 0:
            return True
        found = began(self.pid)
        if found is None:
            return False
        return found == self.began or not (found and self.began)


def directory() -> Path:
    """Where the register is."""
    return private_directory(runtime_directory() / "forwards")


def entries() -> list[Entry]:
    """All entries of the register; what cannot be read is skipped."""
    found = []
    for file in sorted(directory().iterdir()):
        with contextlib.suppress(OSError, ValueError, SettingsError, IndexError):
            lines = read_ours(file).splitlines()
            forwards = tuple(parse(line) for line in lines[4:] if line)
            found.append(Entry(file, Path(lines[0]), int(lines[1]), lines[2], lines[3], forwards))
    return found


def note(socket: Path, forwards: Iterable[Forward], *, pid: int, identity: str = "") -> Path:
    """Note who wants forwards, before they are requested; `pid` 0 keeps them."""
    since = (began(pid) or "") if pid else ""
    file = directory() / f"{pid}.{secrets.token_hex(4)}"
    replace_file(file, "\n".join([str(socket), str(pid), since, identity, *map(str, forwards)]) + "\n")
    return file


def request(ssh: str, socket: Path, forward: Forward) -> int | None:
    """Tell a master to forward; returns the port that the remote side has chosen, if it has.

    Raises:
        ConnectionFailed: it refuses.
    """
    path = forward.local_socket
    if path is not None and not listens(path):
        with contextlib.suppress(OSError):
            # a file that an earlier forward left behind
            if stat.S_ISSOCK(path.lstat().st_mode) and path.lstat().st_uid == os.getuid():
                path.unlink()
    done = _ask(ssh, socket, "forward", forward)
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or ["no reason was given"]
        raise ConnectionFailed(
            f"{forward.option} {forward.spec} is refused ({why[-1]})",
            topic="tunnels",
            advice="choose another port, or see: ossh forward HOST --list",
        )
    return int(done.stdout) if done.stdout.strip().isdecimal() else None


def cancel(ssh: str, socket: Path, forward: Forward) -> bool:
    """End a forward; returns whether there was one. Open connections continue."""
    if not listens(socket):
        return False
    done = _ask(ssh, socket, "cancel", forward)
    path = forward.local_socket
    if path is not None and not listens(path):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
    return done.returncode == 0 and "not forwarded" not in done.stderr and "not found" not in done.stderr


def _ask(ssh: str, socket: Path, question: str, forward: Forward) -> subprocess.CompletedProcess[str]:
    argv = [ssh, "-F", "none", "-O", question, forward.option, forward.spec]
    argv += ["-S", command_lines.literal(socket), "--", "master"]
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LOCAL_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 255, "", "the master does not answer")


def sweep(ssh: str) -> None:
    """Cancel what belongs to no running owner."""
    with locked(directory().parent / "forwards.lock"):
        for entry in [one for one in entries() if not one.wanted or not _is_there(one)]:
            drop(ssh, entry)


def _is_there(entry: Entry) -> bool:
    # nothing is left of a master that has ended, but kept forwards wait for the next one
    return bool(entry.identity) or listens(entry.socket)


def drop(ssh: str, entry: Entry, only: Forward | None = None) -> list[Forward]:
    """Remove an entry, or one forward of it, from the register; what nobody else wants is cancelled.

    Returns:
        What was cancelled.
    """
    gone = [forward for forward in entry.forwards if only in {None, forward}]
    cancelled = []
    for forward in gone:
        if forward in _wanted(entry.socket, entry.file):
            continue
        if cancel(ssh, entry.socket, forward):
            cancelled.append(forward)
        if forward in _wanted(entry.socket, entry.file):
            # somebody has requested the same in between
            with contextlib.suppress(ConnectionFailed):
                request(ssh, entry.socket, forward)
    left = [forward for forward in entry.forwards if forward not in gone]
    if left:
        lines = [str(entry.socket), str(entry.pid), entry.began, entry.identity, *map(str, left)]
        replace_file(entry.file, "\n".join(lines) + "\n")
    else:
        # last, so that if we are killed before, the next process does it
        entry.file.unlink(missing_ok=True)
    return cancelled


def _wanted(socket: Path, but: Path) -> set[Forward]:
    """What the running owners of other entries want from a master."""
    others = [one for one in entries() if one.socket == socket and one.file != but and one.wanted]
    return {forward for one in others for forward in one.forwards}


def restore(ssh: str, socket: Path, identity: str) -> list[str]:
    """After a login, request the kept forwards; returns those that the master refuses."""
    refused = []
    for entry in [one for one in entries() if one.identity == identity and one.wanted]:
        lines = [str(socket), str(entry.pid), entry.began, identity, *map(str, entry.forwards)]
        replace_file(entry.file, "\n".join(lines) + "\n")
        refused += [why for forward in entry.forwards if (why := _refusal(ssh, socket, forward))]
    return refused


def _refusal(ssh: str, socket: Path, forward: Forward) -> str:
    try:
        request(ssh, socket, forward)
    except ConnectionFailed as error:
        return error.message
    return ""


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether nothing listens at a local port."""
    family = sockets.AF_INET6 if ":" in address else sockets.AF_INET
    with sockets.socket(family) as probe:
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_ports(first: int) -> Iterator[int]:
    """Free local ports: from a number on or, for 0, as the system chooses them."""
    for number in range(_TRIES):
        if first == 0:
            with sockets.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            yield port
        elif first + number < 1 << 16 and is_free(first + number):
            yield first + number


def local_port(ssh: str, socket: Path, first: int, target: str) -> tuple[Forward, int]:
    """A forward from the first local port that is free.

    Raises:
        ConnectionFailed: none is.
    """
    refused: ConnectionFailed | None = None
    for port in free_ports(first):
        forward = Forward("-L", f"127.0.0.1:{port}:{target}")
        try:
            request(ssh, socket, forward)
        except ConnectionFailed as error:
            # it was taken in between, or is refused for another reason
            refused = error
            if not is_free(port):
                continue
            break
        return forward, port
    raise refused or ConnectionFailed(
        f"no local port from {first} on is free", topic="tunnels", advice="name another one"
    )


def matching(forwards: Sequence[Forward], word: str) -> list[Forward]:
    """Which of some forwards a word means: a port, or a spec with or without its option."""
    names = ((one, {str(one), one.spec, f"{one.option} {one.spec}", str(one.port)}) for one in forwards)
    return [one for one, known in names if word in known or f"127.0.0.1:{word}" in known]
