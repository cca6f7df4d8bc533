"""One mux session that runs the bootstrap.

A channel serves one command. Its two output streams carry lines that begin with a random mark; `Stream` tells
them from the command's bytes. So the start of a command, its status and its end are known exactly, whatever
start-up files print and however the connection ends. The mark of the first line is in the command line, where
others may see it; that line announces another mark, which is made on the remote side.

The traps: ssh passes its stdin, stdout and stderr on to the master, so they stay open in the master after our
ssh has been killed, and waiting for their end would hang. And a forked child has our pipes too: as long as it
holds one, the remote side does not notice our death.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opensshtransport.errors import ConnectionFailed
from opensshtransport.master.control_socket import responds
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.run_log import RunLog
from opensshtransport.remote.marks import Stream
from opensshtransport.remote.scripts import bootstrap_text, quoted_lines
from opensshtransport.remote.wrapper import spelled

# What fits into one argument; Linux takes 131,071 bytes (execve(2), MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 120_000

# These lines are for start-up files that read a line or two of stdin.
_FOR_START_UP_FILES = b"\n" * 4

# Without this word, a request that came with the bootstrap does not begin if stdin has ended by then: a
# start-up file may have waited for stdin, and continued when that was closed.
_GO = b"G\n"

_GO_ON = b"A\n"

# Seconds between checks whether the master is stopped.
_LOOK = 0.5

# Seconds that ssh may take to end by itself.
_LAST_WORDS = 0.5

# Seconds that it may take to end after the session has broken.
_TOLD_WITHIN = 2.0

_open_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: what is open belongs to the parent, and must not be held open."""
    for channel in list(_open_channels):
        channel.abandon()
    _open_channels.clear()


def _at_exit() -> None:
    """When the program ends other than by a signal: leave no ssh and no file of ours behind."""
    for channel in list(_open_channels):
        channel.close(at_once=True)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def reads_stdin(host: str, so: str) -> ConnectionFailed:
    """The error for a start-up file that reads what is sent to the bootstrap, or waits for more.

    Args:
        host: the destination as the caller named it.
        so: what follows from that.
    """
    return ConnectionFailed(
        f"a start-up file of the login shell reads stdin, {so}",
        host=host,
        advice="let it read only if `test -t 0` succeeds",
    )


class Client(subprocess.Popen[bytes]):
    """A program that works through the master, and is ended if the master stays stopped.

    ssh itself waits for a stopped master forever. `poll` ends it after `check_timeout`.

    Attributes:
        gave_up: whether it was ended that way; a master that is continued may still do what it was asked.
    """

    def __init__(self, argv: Sequence[str], master: Master, facts: Facts, **options: Any) -> None:
        self.gave_up = False
        self._facts, self._patience = facts, master.destination.settings.check_timeout
        self._looked, self._stopped_since = time.monotonic(), 0.0
        # a group of its own, which can be ended; and we handle Ctrl-C at the terminal
        super().__init__(argv, start_new_session=True, **options)

    def poll(self) -> int | None:
        """As subprocess.Popen.poll."""
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            if responds(self._facts):
                self._stopped_since = 0.0
            else:
                self._stopped_since = self._stopped_since or now
            if self._stopped_since and now - self._stopped_since > self._patience and super().poll() is None:
                self.gave_up = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self.wait()
        return super().poll()


def _listener(facts: Facts) -> tuple[int, int, int] | None:
    """What distinguishes a master's socket from a later one at the same path; None if there is none."""
    try:
        seen = Path(facts.socket).stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns


class Channel:
    """One session. Its user reads its streams; `close` gives the slot back."""

    def __init__(
        self,
        master: Master,
        facts: Facts,
        slots: Slots,
        slot: int,
        request: str = "",
        *,
        stdin: bool = True,
        go: bool = True,
    ) -> None:
        """Start ssh.

        Args:
            master: whose session.
            facts: what is known of the live master.
            slots: the budget.
            slot: what was taken of it.
            request: runs as soon as the remote side is ready; "" to wait for one. A request that is too long
                for this waits too: see `requested`.
            stdin: whether the host reads from us, and notices when we end. Otherwise the request runs to its
                end whatever happens to us.
            go: whether the request may begin at once; otherwise `go` starts it.
        """
        self.slots = slots
        self.slot = slot
        self._master, self._facts = master, facts
        self.host = master.destination.host
        mark = secrets.token_hex(16)
        self.tag = secrets.token_hex(8)
        # this is how the process group is found on the host (`remote_kill`); no word of the command's own
        # will do
        self.sign = f"ossh_tag={self.tag}"
        self.out, self.err = Stream(mark), Stream(mark)
        self.log = RunLog(master.directory)
        self._listener = _listener(facts)
        self.opened = time.monotonic()
        self._beside = slots.in_use() - 1 + slots.lingering()
        # one that begins at once takes a round trip less: ssh sends stdin only after the start was answered
        begins = ("idle" if go else "told") if stdin else "anyhow"
        coded = self._coded(mark, request, begins)
        self.requested = bool(request) and len(coded) <= _LONGEST_ARGUMENT
        self.begins_at_once = self.requested and (go or not stdin)
        if not self.requested:
            coded = self._coded(mark, "", "")
        self.argv = command_lines.guarded_ssh(
            master.destination,
            command_lines.literal(Path(facts.socket)),
            # a shell that starts with the right descriptors, as it will never get others
            command=f'exec /bin/sh -c \'exec /bin/sh -c "$(printf %b "$0")" {self.tag}'
            f" 4<&0 5>&2 2>/dev/null' '{coded}'",
            log=self.log.path,
        )
        try:
            self.ssh = Client(
                self.argv,
                master,
                facts,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except BaseException:
            self.log.close()
            raise
        self._writing = threading.Lock()
        self._closed = False
        self._guard = threading.Lock()
        _open_channels.add(self)
        if stdin:
            with contextlib.suppress(BrokenPipeError):
                self.send(_FOR_START_UP_FILES + (_GO if self.requested and go else b""))

    def let_go(self) -> None:
        """Close the remote side's stdin; what is running there, or begins, goes on without us."""
        with contextlib.suppress(BrokenPipeError):
            self.send(_GO_ON)
        with self._writing:
            if self.ssh.stdin is not None:
                self.ssh.stdin.close()

    @property
    def heard(self) -> bool:
        """Whether the remote side can be sent something."""
        return self.ssh.stdin is not None and not self.ssh.stdin.closed

    def _coded(self, mark: str, request: str, begins: str) -> str:
        """The bootstrap and what it is given, for any login shell."""
        # what is searched for comes first, since ps may show only the beginning; our own ssh must not be
        # found
        sign = f"\\0{ord(self.sign[0]):03o}{self.sign[1:]}"
        given = f"ossh_mark={mark}\nossh_begins={begins}\nossh_request={shlex.quote(request)}"
        return sign + spelled(f"\n{given}\n") + bootstrap_text()

    def send(self, raw: bytes) -> None:
        """Write to the remote side, all of it.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        pipe = self.ssh.stdin
        view = memoryview(raw)
        # a pipe that another thread writes to must not be closed: its number may belong to another file by
        # then
        with self._writing:
            if pipe is None or pipe.closed:
                raise BrokenPipeError
            while view:
                view = view[os.write(pipe.fileno(), view) :]

    def request(self, request: str) -> None:
        """Give the waiting bootstrap its request.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        self.requested = True
        self.send(quoted_lines(request))

    def begin(self, request: str) -> None:
        """Let the request begin, now that the remote side is ready: this one, or the one it was opened with.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        if self.requested:
            self.go()
        else:
            self.request(request)

    def go(self) -> None:
        """Say once more that the request may begin, because the first word may have been swallowed.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        if self.heard:
            self.send(_GO)

    def refused(self) -> None:
        """Note that the server refused this session while others were open."""
        # some of those may have ended since, and others of ours may have been refused too
        self.slots.learn(max(self._beside, self.slots.in_use() - 1))

    def words(self) -> str:
        """What ssh itself said."""
        # the log goes when the channel is closed
        return self.log.read()

    def last_words(self) -> str:
        """What ssh itself said, once it has noticed that the session is broken, which takes a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ssh.wait(_TOLD_WITHIN)
        return self.words()

    def carried(self) -> bool:
        """Whether its master is still running, by a round trip: then nothing that came through it is lost."""
        lives = self._master.check(Path(self._facts.socket)) is not None
        # by now there may be a new one, with another socket
        return lives and _listener(self._facts) == self._listener is not None

    def close(self, *, at_once: bool = False) -> None:
        """End the session if it has not ended, and give the slot back."""
        # a second caller waits: the program may end when this returns
        with self._guard:
            if not self._closed:
                self._closed = True
                self._close(at_once)

    def _close(self, at_once: bool) -> None:
        for pipe in (self.ssh.stdout, self.ssh.stderr):
            if pipe is not None:
                pipe.close()
        patience = 0.0 if at_once else _LAST_WORDS
        if not self._writing.acquire(timeout=patience):
            # the pipe is full; it breaks when the master closes it
            self.ssh.kill()
            self._writing.acquire()
        try:
            if at_once:
                # by the time the remote side sees the end of its stdin, nobody reads what it prints
                self.ssh.kill()
            if self.ssh.stdin is not None:
                self.ssh.stdin.close()
        finally:
            self._writing.release()
        try:
            self.ssh.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.ssh.kill()
            self.ssh.wait()
        self.log.close()
        self.slots.give(self.slot, lingers=self.ssh.returncode < 0)
        _open_channels.discard(self)

    def close_later(self, *, after: Sequence[threading.Thread] = (), at_once: bool = False) -> None:
        """Close in a thread of its own, which waits for the readers and then for ssh's end."""

        def close() -> None:
            for thread in after:
                thread.join()
            self.close(at_once=at_once)

        # the program's end waits for this thread, but not for readers, which may wait for their own reader
        threading.Thread(target=close, daemon=bool(after)).start()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's pipes and process, without a trace on the remote side."""
        self._closed = True
        self.log.abandon()
        for pipe in (self.ssh.stdin, self.ssh.stdout, self.ssh.stderr):
            if pipe is not None:
                pipe.close()
        # not our child: we cannot wait for it
        self.ssh.returncode = 0
