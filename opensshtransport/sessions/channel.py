"""One mux session that runs the bootstrap.

A channel is good for one command. Its two output streams carry lines that begin with a random mark; `Stream`
tells them from the command's bytes. So the start of a command, its status and its end are known exactly,
apart from anything that start-up files print, and from how the connection ends. The mark of the first line
is in the command line, where others may see it; that line tells another one, made there.

The traps: ssh passes its stdin, stdout and stderr on to the master, so they stay open in there after our ssh
has been killed; nobody may wait for their end then. And a forked child has our pipes too: while it holds
one, the remote side does not see our death.
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

# Start-up files that read a line or two of stdin get these.
_FOR_START_UP_FILES = b"\n" * 4

# Without this word no request that came with the bootstrap begins where stdin has ended by then: a start-up
# file may have hung on stdin, and gone on when that was closed.
_GO = b"G\n"

_GO_ON = b"A\n"

# Seconds after which it is looked again whether the master is stopped.
_LOOK = 0.5

# Seconds in which ssh ends by itself.
_LAST_WORDS = 0.5

# Seconds in which it ends when the session has broken.
_TOLD_WITHIN = 2.0

_open_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: what is open is the parent's, and must not be held."""
    for channel in list(_open_channels):
        channel.abandon()
    _open_channels.clear()


def _at_exit() -> None:
    """When the program ends, in whatever way but by a signal: no ssh and no file of ours is left."""
    for channel in list(_open_channels):
        channel.close(at_once=True)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def reads_stdin(host: str, so: str) -> ConnectionFailed:
    """The error of a start-up file that takes what is sent to the bootstrap, or waits for more.

    Args:
        host: the destination as the caller named it.
        so: what follows of it.
    """
    return ConnectionFailed(
        f"a start-up file of the login shell reads stdin, {so}",
        host=host,
        advice="let it read only if `test -t 0` succeeds",
    )


class Client(subprocess.Popen[bytes]):
    """A program that works through the master, and is ended where the master stays stopped.

    ssh itself waits for a stopped master forever. Who looks by `poll` finds it ended after `check_timeout`.

    Attributes:
        gave_up: whether it was ended so; a master that goes on may still do what it was asked for.
    """

    def __init__(self, argv: Sequence[str], master: Master, facts: Facts, **options: Any) -> None:
        self.gave_up = False
        self._facts, self._patience = facts, master.destination.settings.check_timeout
        self._looked, self._stopped_since = time.monotonic(), 0.0
        # a group of its own, to be ended; and a Ctrl-C at the terminal is ours to handle
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
    """What tells a master's socket from that of a later one at the same place; None where there is none."""
    try:
        seen = Path(facts.socket).stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns


class Channel:
    """One session. Anyone who has it reads its streams; `close` gives the slot back."""

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
            request: runs as soon as the remote side is there; "" to wait for one. One that is too long for
                that waits too: see `requested`.
            stdin: whether the host reads from us, and notices our end. Else the request runs to its end
                whatever becomes of us.
            go: whether the request may begin at once; else by `go`.
        """
        self.slots = slots
        self.slot = slot
        self._master, self._facts = master, facts
        self.host = master.destination.host
        mark = secrets.token_hex(16)
        self.tag = secrets.token_hex(8)
        # by this the process group can be found there (`ending`), and by nothing in the command's own words
        self.sign = f"ossh_tag={self.tag}"
        self.out, self.err = Stream(mark), Stream(mark)
        self.log = RunLog(master.directory)
        self._listener = _listener(facts)
        self.opened = time.monotonic()
        self._beside = slots.in_use() - 1 + slots.lingering()
        # one that begins at once costs a round trip less: ssh sends stdin when the start was answered
        begins = ("idle" if go else "told") if stdin else "anyhow"
        coded = self._coded(mark, request, begins)
        self.requested = bool(request) and len(coded) <= _LONGEST_ARGUMENT
        self.begins_at_once = self.requested and (go or not stdin)
        if not self.requested:
            coded = self._coded(mark, "", "")
        self.argv = command_lines.guarded_ssh(
            master.destination,
            command_lines.literal(Path(facts.socket)),
            # a shell that begins with the right descriptors, which is all that it ever knows
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
        """Close the remote side's stdin; what runs there, or begins, goes on without us."""
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
        # first what is searched for: ps may show the beginning only; but our own ssh is not to be found
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
        # nobody may close a pipe that another thread writes to: its number may be somebody else's by then
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
        """Let the request begin, now that the remote side is there: this one, or that which it came with.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        if self.requested:
            self.go()
        else:
            self.request(request)

    def go(self) -> None:
        """Say once more that the request may begin, as the first word may have been swallowed.

        Raises:
            BrokenPipeError: ssh has gone.
        """
        if self.heard:
            self.send(_GO)

    def refused(self) -> None:
        """Note that the server refused this session, as others were there."""
        # of those that were there some may have gone by now, and others of us that were refused too
        self.slots.learn(max(self._beside, self.slots.in_use() - 1))

    def words(self) -> str:
        """What ssh itself said."""
        # the log goes when the channel is closed
        return self.log.read()

    def last_words(self) -> str:
        """What ssh itself said, when the session has broken, of which ssh is told within a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ssh.wait(_TOLD_WITHIN)
        return self.words()

    def carried(self) -> bool:
        """Whether its master is still running, by a round trip: then nothing of what came by it is lost."""
        lives = self._master.check(Path(self._facts.socket)) is not None
        # there may be a new one by now, whose socket is another file
        return lives and _listener(self._facts) == self._listener is not None

    def close(self, *, at_once: bool = False) -> None:
        """End the session, if it has not ended, and give the slot back."""
        # who comes second waits: the program may end when this returns
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
            # the pipe is full; it breaks when the master lets go of it
            self.ssh.kill()
            self._writing.acquire()
        try:
            if at_once:
                # before the remote side sees the end of its stdin, there is nobody any more to print to
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
        """Close in a thread of its own, which waits for ssh's end and first for those who read."""

        def close() -> None:
            for thread in after:
                thread.join()
            self.close(at_once=at_once)

        # the program's end waits for it, but not for readers, who may wait for somebody to read
        threading.Thread(target=close, daemon=bool(after)).start()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's pipes and process, without a trace on the remote side."""
        self._closed = True
        self.log.abandon()
        for pipe in (self.ssh.stdin, self.ssh.stdout, self.ssh.stderr):
            if pipe is not None:
                pipe.close()
        # not our child: nobody here may wait for it
        self.ssh.returncode = 0
