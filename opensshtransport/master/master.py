"""The one master of a destination: found, opened under a lock, checked by a round trip, ended.

The files in the runtime directory, for a destination whose identity is ID:

    ID        the socket            ID.lock   held while somebody logs in; a crash releases it
    ID.log    ssh's own words       ID.json   what is known of the master: `Facts`

The traps: `ssh -O check` says "running" while the network is gone, and hangs on a frozen master, so only a
round trip with a deadline counts. But a master that is late because it is busy is alive, and must not be
ended. And a master that the user opened with a ControlPath of their own is used, but never ended by us.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opensshtransport.errors import LoginNeeded, MasterGone, SessionRefused
from opensshtransport.local.locks import alarm_after, locked, replace_file
from opensshtransport.local.settings import runtime_directory
from opensshtransport.master import shell_spares
from opensshtransport.master.control_socket import LOCAL_DEADLINE, State, end_at, listens, state_at
from opensshtransport.master.facts import Facts, read_facts, text_of
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import Destination
from opensshtransport.openssh.diagnosis import log_error, logged_status
from opensshtransport.openssh.run_log import RunLog, sweep_logs

# Seconds between requests for a session that was refused, and for how long.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

_PATIENCE = 60.0

# The most bytes of what the remote side says about itself.
_LONGEST_ANSWER = 1 << 16


class Master:
    """The master of one destination, running or not. Holds nothing open."""

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
        """Where a live master may listen: the user's own ControlPath first, then ours."""
        theirs = self.destination.resolved.get("controlpath")
        return (Path(theirs), self.own_socket) if theirs else (self.own_socket,)

    def facts(self) -> Facts | None:
        """What is known of the master, or None if none was opened."""
        return read_facts(self.facts_file)

    def listening(self) -> Path | None:
        """The socket at which a master listens, by a local check that takes microseconds."""
        facts = self.facts()
        known_one = [Path(facts.socket)] if facts else []
        return next((path for path in (*known_one, *self.candidates) if listens(path)), None)

    def check(self, socket: Path | None = None) -> Path | None:
        """Prove by a round trip, with a deadline, that a master is running.

        Args:
            socket: the one to ask; all candidates by default.

        Returns:
            The live master's socket, or None. A master to which the server grants no further session is
            alive, and so is one that is late because it is busy.
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
                with alarm_after(timeout):
                    file = held.enter_context(locked(self.lock_file))
            except TimeoutError as reason:
                raise LoginNeeded(
                    f"another process has been logging in for {timeout:.0f} s",
                    host=self.destination.host,
                    advice=f"end it, or see {self.log}",
                ) from reason
            # so that a master whose login was killed too early can be named
            told = json.dumps([self.destination.host, text_of(self.destination.ssh_config)])
            os.ftruncate(file, 0)
            os.pwrite(file, told.encode(), 0)
            yield

    def end(self) -> bool:
        """End the master that we opened, even a frozen one, and remove what belongs to it.

        Returns:
            Whether there was one. Running sessions end with it.
        """
        spares = shell_spares.directory(self.own_socket)
        shell_spares.give_back(spares)
        ended = end_at(self.own_socket, self.destination.ssh)
        # its sessions have ended with it
        shell_spares.sweep(spares, older=0)
        return ended

    def write_facts(self, facts: Facts) -> None:
        """Keep what is known of the master, complete or not at all."""
        replace_file(self.facts_file, json.dumps(dataclasses.asdict(facts)))

    def describe(self, socket: Path, *, ours: bool, pid: int) -> Facts:
        """Find out about the host over one session: its name and its login shell.

        We conclude that it runs none of our commands only while the master is running: if the command that it
        ran instead has ended, or if two sessions had no result. A session that broke proves nothing.

        Raises:
            SessionRefused: the server grants no session for a minute.
            MasterGone: the master has died, or does not answer any more.
        """
        destination = self.destination
        facts = Facts(
            host=destination.host,
            ssh_config=text_of(destination.ssh_config),
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
                # nothing on this side shows when a session of another program ends
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
        """The host's name and login shell, if it runs commands, and what ssh logged about the session."""
        destination = self.destination
        mark = secrets.token_hex(8)
        # every login shell understands this; a forced command or a restricted shell prints no mark
        command = f"exec /bin/sh -c 'echo; echo {mark}; uname -n; echo \"$SHELL\"'"
        log = RunLog(self.directory)
        argv = command_lines.guarded_ssh(
            destination, command_lines.literal(socket), command=command, no_stdin=True, log=log.path
        )
        try:
            answer = _printed_behind(f"\n{mark}\n", argv, max(60.0, destination.settings.check_timeout))
            return answer.splitlines(), log.read()
        finally:
            log.close()


def _methods(log: Path) -> str:
    """How the server let us in, according to ssh's log of the login."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return " ".join(re.findall(r'^Authenticated (?:to .* )?using "([\w-]+)"', text, re.MULTILINE))


def _printed_behind(mark: str, argv: Sequence[str], timeout: float) -> str:
    """What a program prints after a mark and before its end; "" if that does not come in time.

    However much it prints, only a little is kept.
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
                    # ssh logs the status after the last byte
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        program.wait(LOCAL_DEADLINE)
                    return said[len(begin) :].decode(errors="replace") if said.startswith(begin) else ""
                said += piece
                found = said.find(begin)
                said = said[found:] if found >= 0 else said[-len(begin) :]
                if len(said) > _LONGEST_ANSWER:
                    break
        finally:
            program.kill()
    return ""


def sweep(directory: Path | None = None) -> None:
    """Remove what dead masters and killed commands have left behind, for all destinations.

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
    for spares in directory.glob("*.spares"):
        shell_spares.sweep(spares)
    sweep_logs(directory)
