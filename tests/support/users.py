"""Temporary real users, each with a login shell and start-up files of its own (root only)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ShellName = Literal["bash", "dash", "zsh", "tcsh", "fish", "busybox"]
SHELLS: tuple[ShellName, ...] = ("bash", "dash", "zsh", "tcsh", "fish", "busybox")

# What each shell reads before a command that sshd gives it. dash and busybox read nothing, so sshd's own
# ~/.ssh/rc is in: sh runs it before the command, whatever the login shell.
_STARTUP_FILES: dict[ShellName, str] = {
    "bash": ".bashrc",
    "dash": ".ssh/rc",
    "zsh": ".zshenv",
    "tcsh": ".tcshrc",
    "fish": ".config/fish/config.fish",
    "busybox": ".ssh/rc",
}


@dataclass(frozen=True, slots=True)
class Startup:
    """What a start-up file does before every command.

    Args:
        stdout: a text to print.
        stderr: a text to print there.
        sleep: seconds to wait.
        reads: how much of the command's own stdin it swallows. (dash and busybox have no such file.)
        lines: further lines in the shell's own language.
    """

    stdout: str = ""
    stderr: str = ""
    sleep: float = 0.0
    reads: Literal["nothing", "line", "everything"] = "nothing"
    lines: str = ""

    def script(self) -> str:
        """Write it for sh; every shell can start one, so none needs a version of its own."""
        steps = []
        if self.sleep:
            steps.append(f"sleep {self.sleep}")
        if self.stdout:
            steps.append(f"printf %s {shlex.quote(self.stdout)}")
        if self.stderr:
            steps.append(f"printf %s {shlex.quote(self.stderr)} >&2")
        steps += {"nothing": [], "line": ["read -r line"], "everything": ["cat >/dev/null"]}[self.reads]
        return "".join(f"{step}\n" for step in steps)


QUIET = Startup()
NOISY = Startup(stdout="Welcome to the cluster!\nno newline at the end", stderr="module: command not found\n")


@dataclass(frozen=True, slots=True)
class User:
    """A temporary user; ``home`` belongs to it and can be read by root alone besides."""

    name: str
    uid: int
    home: Path
    shell: ShellName

    def set_startup(self, startup: Startup) -> None:
        """Change what happens before the next command."""
        if startup.reads != "nothing" and _STARTUP_FILES[self.shell] == ".ssh/rc":
            raise ValueError(f"{self.shell} has no start-up file that could read the command's stdin")
        script = self.home / "startup.sh"
        script.write_text(startup.script())
        reading = self.home / _STARTUP_FILES[self.shell]
        reading.parent.mkdir(parents=True, exist_ok=True)
        call = f"/bin/sh {script}\n" if startup.script() else ""
        reading.write_text(call + startup.lines)
        for path in (script, reading, *reading.parents):
            if path.is_relative_to(self.home):
                os.chown(path, self.uid, self.uid)

    def processes(self) -> list[int]:
        """List the ids of everything that runs as this user."""
        return [pid for pid in _owned(self.uid) if not _is_zombie(pid)]


def missing_for_users() -> str:
    """Why no temporary user can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "temporary users need root"
    return "" if shutil.which("useradd") else "useradd is not installed (Debian package passwd)"


def find_shell(shell: ShellName, directory: Path) -> Path:
    """Find a login shell's program.

    busybox acts by the name it is called by, so it gets a link named ``ash`` in ``directory``.

    Raises:
        LookupError: it is not installed.
    """
    found = shutil.which(shell, path="/bin:/usr/bin:/usr/local/bin")
    if found is None:
        raise LookupError(f"{shell} is not installed")
    if shell != "busybox":
        return Path(found)
    link = directory / "ash"
    if not link.exists():
        link.symlink_to(found)
    return link


@contextmanager
def temporary_user(
    directory: Path, shell: ShellName = "bash", *, startup: Startup = QUIET, password: str | None = None
) -> Iterator[User]:
    """Make a user with its home below ``directory``, and remove it with all its processes.

    ``directory`` must be passable for others. Without a password none works, but the account is not locked.
    """
    program = find_shell(shell, directory)
    name = f"o{secrets.token_hex(4)}"
    home = directory / name
    home.mkdir(mode=0o700)
    # "*" and not the usual "!": sshd without PAM takes that for a locked account.
    _account("useradd", "--no-create-home", "--home-dir", home, "--shell", program, "--password", "*", name)
    user = User(name, pwd.getpwnam(name).pw_uid, home, shell)
    try:
        if password is not None:
            _account("chpasswd", text=f"{name}:{password}\n")
        os.chown(home, user.uid, user.uid)
        user.set_startup(startup)
        yield user
    finally:
        _end_processes(user)
        _account("userdel", "--force", name)
        shutil.rmtree(home, ignore_errors=True)


def _account(*argv: str | Path, text: str = "") -> None:
    # The tools wait for no one who holds /etc/passwd, so parallel test processes queue here.
    lock = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    finally:
        os.close(lock)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stderr.strip()}")


def _owned(uid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == uid:
                yield int(entry.name)


def _is_zombie(pid: int) -> bool:
    # In a container, process 1 may take seconds to fetch an orphan.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _end_processes(user: User) -> None:
    def ended() -> bool:
        for pid in user.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not user.processes()

    wait_until(ended, what=f"the processes of {user.name} to end")


def wait_until(condition: Callable[[], object], *, seconds: float = 10, what: str = "a condition") -> None:
    """Poll until the condition holds.

    Raises:
        TimeoutError: it does not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.005)
