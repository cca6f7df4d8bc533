"""Where rounds are played: a login node behind a relay that strikes at a byte, and the check for remains.

Everything on the remote side has a word in its environment, so that it can be found anywhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from opensshtransport import Transport
from opensshtransport.errors import ConnectionFailed
from opensshtransport.local import locks
from opensshtransport.master import master as master_master
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.run_log import sweep_logs
from opensshtransport.sandbox import Sandbox
from tests.support import proc
from tests.support.nodes import config_through
from tests.support.programs import write_settings
from tests.support.relay import Relay, _Armed

__all__ = ["SETTINGS", "Outcome", "StrikingRelay", "World", "within"]

SETTINGS = """
[host."*"]
server_alive_interval = 1
server_alive_count_max = 2
check_timeout = 2
connect_timeout = 3
login_timeout = 20
"""
# Seconds in which an operation must have an outcome, and in which everything must be cleared away.
_OUTCOME_WITHIN = 75.0
_CLEARED_WITHIN = 20.0


class StrikingRelay(Relay):
    """A relay that can also do anything else when some more bytes have passed."""

    _deed: Callable[[], object] | None = None

    def __enter__(self) -> StrikingRelay:
        return self

    def strike_after(self, n_bytes: int, deed: Callable[[], object]) -> None:
        """Do something, in the relay's own thread, when exactly so many more bytes have been forwarded."""

        def arm() -> None:
            self._deed = deed
            self._armed = _Armed(n_bytes, "cut", None)
            self._strike_if_spent()

        self._call(arm)

    def _strike_if_spent(self) -> None:
        if self._armed is None or self._armed.remaining > 0:
            return
        deed, self._deed = self._deed, None
        if deed is None:
            super()._strike_if_spent()
            return
        self._armed = None
        self.faults += 1
        deed()

    @property
    def descriptors(self) -> int:
        """How many descriptors its connections have now."""
        return 2 * len(self._links) + len(self._waiting)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an operation: a value, or an error."""

    value: object = None
    error: BaseException | None = None

    @property
    def lost(self) -> bool:
        """Whether the connection's failure was reported."""
        return isinstance(self.error, ConnectionFailed)

    @property
    def nothing_happened(self) -> bool:
        """Whether it was reported that nothing had started."""
        return isinstance(self.error, ConnectionFailed) and self.error.started is False

    def __str__(self) -> str:
        if self.error is None:
            return f"value {self.value!r:.300}"
        started = getattr(self.error, "started", "-")
        lines = "".join(traceback.format_exception(self.error)[-6:])
        return f"{type(self.error).__name__} (started={started}): {self.error}\n{lines}"


def within(work: Callable[[], object], seconds: float = _OUTCOME_WITHIN) -> Outcome:
    """Do something in a thread of its own, and give what came of it.

    Raises:
        AssertionError: nothing has, in time; with where it hangs.
    """
    outcome: list[Outcome] = []

    def act() -> None:
        try:
            outcome.append(Outcome(work()))
        except BaseException as reason:  # whatever it is, it is what came of it
            outcome.append(Outcome(error=reason))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        frame = sys._current_frames().get(thread.ident or 0)
        where = "".join(traceback.format_stack(frame)[-6:])
        raise AssertionError(f"no outcome within {seconds:.0f} s; it hangs here:\n{where}")
    thread.join()
    return outcome[0]


def _descendants(pid: int) -> list[int]:
    found = []
    above = [pid]
    while above:
        below = proc.children(above.pop())
        found += below
        above += below
    return found


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:300]
    return ""


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass
class World:
    """One node behind a relay, with a runtime directory of its own; `isolated` is the test's directory."""

    isolated: Path
    chance: random.Random
    server_options: dict[str, str] = field(default_factory=dict)
    settings: str = SETTINGS

    def __enter__(self) -> World:
        self._others = set(proc.children(os.getpid()))
        self.sign = f"OSSH_FAULTS={secrets.token_hex(8)}"
        write_settings(self.settings)
        self._stack = contextlib.ExitStack()
        options = {"SetEnv": f"SHLVL=1 {self.sign}", **self.server_options}
        self.node = self._stack.enter_context(Sandbox("faulty", server_options=options))
        self.relay = self._stack.enter_context(StrikingRelay(self.node.port))
        self.config = config_through(self.node, self.relay)
        with self.transport() as there:
            there.run("true")
            there.exists("/")
            self.master: Master = there.master
        self.wait_until(lambda: not self._started(), "the first channels to close")
        self._known = self._files()
        self._threads = set(threading.enumerate())
        self._descriptors = self._leaked_descriptors()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def transport(self) -> Transport:
        """A new transport to the node, through the relay."""
        return Transport(self.node.host, ssh_config=self.config, person=False)

    def wait_until(
        self,
        condition: Callable[[], object],
        what: str,
        seconds: float = _CLEARED_WITHIN,
        found: Callable[[], object] = lambda: "",
    ) -> None:
        """Wait for a condition, by a deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}: {found()}"
            time.sleep(0.01)

    # -- what strikes ----------------------------------------------------------------------------------------

    def deed(self, name: str) -> Callable[[], object]:
        """What a fault does when it strikes."""
        facts = self.master.facts()
        pid = facts.pid if facts is not None else 0
        # whatever exists at that moment is killed
        return {
            "cut": self.relay._cut,
            "reset": self.relay._reset,
            "silence": self.relay._silence,
            "master killed": lambda: self._signal_master(pid, signal.SIGKILL),
            "master stopped": lambda: self._signal_master(pid, signal.SIGSTOP),
            "sshd killed": self._kill_sshd,
            "shell killed": self._kill_shell,
            "client killed": self._kill_client,
        }[name]

    def _signal_master(self, pid: int, number: signal.Signals) -> None:
        found = self.masters() or [pid]
        for one in found:
            if one:
                _kill(one, number)

    def masters(self) -> list[int]:
        """The living masters of this directory: those that log in have a terminal yet."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            words = _words(pid)
            if " -N -f " in words and str(self.isolated) in words and proc.state(pid) not in {"Z", ""}:
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    # proc(5): state, parent, group, session, terminal
                    if fields[4] == "0":
                        found.append(pid)
        return found

    def _kill_sshd(self) -> None:
        for pid in proc.children(self.node.server_pid):
            for one in [*_descendants(pid), pid]:
                if proc.name(one).startswith("sshd"):
                    _kill(one)

    def _kill_shell(self) -> None:
        found = [pid for pid in _descendants(self.node.server_pid) if not proc.name(pid).startswith("sshd")]
        leaders = []
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == pid:
                    leaders.append(pid)
        if leaders:
            _kill(self.chance.choice(leaders))

    def _kill_client(self) -> None:
        found = [pid for pid in _descendants(os.getpid()) if proc.name(pid) in {"ssh", "sftp", "scp"}]
        if found:
            _kill(self.chance.choice(found))

    def named_after(self) -> list[int]:
        """The processes whose command line names this directory: ssh, logins and masters."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            if proc.state(pid) != "Z" and (
                str(self.isolated) in (words := _words(pid)) or self.names_us(words)
            ):
                found.append(pid)
        return found

    def names_us(self, words: str) -> bool:
        """Whether a command line is of a login by our configuration file."""
        return str(self.config) in words

    def words(self, pid: int) -> str:
        """A process's command line."""
        return _words(pid)

    # -- what must be so afterwards --------------------------------------------------------------------------

    def _started(self) -> list[int]:
        return [pid for pid in proc.children(os.getpid()) if pid not in {*self._others, self.node.server_pid}]

    def far_processes(self) -> list[int]:
        """All that runs on the remote side, wherever it is gone."""
        found = []
        sign = self.sign.encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if sign in (entry / "environ").read_bytes() and proc.state(int(entry.name)) != "Z":
                    found.append(int(entry.name))
        return found

    def _open_descriptors(self) -> list[str]:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(entry.readlink()))
        return found

    def _leaked_descriptors(self) -> int:
        return len(self._open_descriptors()) - self.relay.descriptors

    def _files(self) -> set[str]:
        directory = self.master.directory
        return {str(path.relative_to(directory)) for path in directory.rglob("*")}

    def _left_files(self) -> set[str]:
        base = self.master.own_socket.name
        usual = {
            base,
            f"{base}.json",
            f"{base}.log",
            f"{base}.lock",
            f"{base}.limit",
            f"{base}.slots",
            "moving",
        }
        return self._files() - self._known - usual

    def _lock_is_free(self) -> bool:
        try:
            with locks.locked(self.master.lock_file, wait=False):
                return True
        except BlockingIOError:
            return False

    def heal(self) -> None:
        """Let the network work again."""
        self.relay.disarm()
        self.relay.resume()

    def sweep(self) -> None:
        """Remove what killed processes have left in the runtime directory: names that nobody holds."""
        # an ssh that they have just started makes its log once more
        self.wait_until(
            lambda: not set(self.named_after()) - set(self.masters()),
            "what they had started to end",
            found=lambda: [(pid, _words(pid)) for pid in self.named_after()],
        )
        master_master.sweep(self.master.directory)
        sweep_logs(self.master.directory, older=0)
        for name in self.master.directory.glob("moving/*"):
            with locks.locked(name, wait=False):
                name.unlink()

    def go_on(self) -> None:
        """Let stopped processes go on."""
        for pid in self.named_after():
            if proc.state(pid) == "T":
                _kill(pid, signal.SIGCONT)

    def check_nothing_left(self) -> None:
        """Wait until nothing is left of what was closed, on either side.

        Raises:
            AssertionError: something is.
        """
        self.wait_until(
            lambda: not self._started(),
            "our children to end",
            found=lambda: [(pid, proc.state(pid), _words(pid)) for pid in self._started()],
        )
        self.wait_until(
            lambda: not self.far_processes(),
            "the far side's processes to end",
            found=lambda: [(pid, proc.state(pid), _words(pid)) for pid in self.far_processes()],
        )
        self.wait_until(
            lambda: not set(threading.enumerate()) - self._threads,
            "threads to end",
            found=lambda: set(threading.enumerate()) - self._threads,
        )
        self.wait_until(
            lambda: self._leaked_descriptors() <= self._descriptors,
            "descriptors to be closed",
            found=lambda: sorted(self._open_descriptors()),
        )
        slots = Slots(self.master)
        self.wait_until(lambda: slots.in_use() == 0, "the slots to be free", found=slots.in_use)
        self.wait_until(self._lock_is_free, "the lock to be free")
        self.wait_until(lambda: not self._left_files(), "files to go", found=self._left_files)
        self.wait_until(lambda: len(self.masters()) <= 1, "other masters to end", found=self.masters)

    def check_counted(self) -> None:
        """No login may count as failed: no fault here has to do with keys."""
        counted = Path(os.environ["XDG_STATE_HOME"], "opensshtransport", "failures")
        assert not list(counted.glob("*.json")), [file.read_text() for file in counted.glob("*.json")]

    def forget_failures(self) -> None:
        """What a person's login would do."""
        for file in Path(os.environ["XDG_STATE_HOME"], "opensshtransport", "failures").glob("*.json"):
            file.unlink()


@contextlib.contextmanager
def victim(world: World, operation: str, top: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of ours, which waits for a line before it does an operation, and is to be killed."""
    argv = [
        sys.executable,
        "-m",
        "tests.faults.victim",
        world.node.host,
        str(world.config),
        operation,
        str(top),
    ]
    # the directory of the tests, where this package and its neighbours are found
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        try:
            yield process
        finally:
            process.kill()
