"""Programs that run ssh, each with a small piece of work, in a home directory where `daint` is shared.

The home directory is one that ssh takes for the person's own, so each program is called as people call it,
with nothing set in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from opensshtransport.sandbox import Sandbox, SecondFactor
from tests.support.homes import Home, empty_home, missing_for_homes
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, until
from tests.support.users import User, missing_for_users, temporary_user

__all__ = ["CALLERS", "HEAVY_CALLERS", "Caller", "World", "missing_for_world", "world"]

WORDS = "words of daint\n"

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class World:
    """A login node that is shared as `daint`, and a home directory whose ssh_config knows it.

    Attributes:
        node: the server.
        user: who logs in there; `words`, `tree` and repositories are in their home directory.
        home: of the person here; `words` and `tree` are there too.
        prepared: the programs that have made what they need.
    """

    node: Sandbox
    user: User
    home: Home
    prepared: set[str] = field(default_factory=set)

    def run(self, *argv: str | Path) -> Done:
        """Run a program."""
        return self.home.run(*argv)

    def sh(self, line: str) -> Done:
        """Run a line of sh in the home directory."""
        return self.home.run("sh", "-c", f'cd "$HOME" && {line}')

    def master(self) -> int | None:
        """The process id of the running master."""
        said = self.home.run("ssh", "-O", "check", "daint").stderr
        return int(said.partition("pid=")[2].partition(")")[0]) if "pid=" in said else None

    def kill_master(self) -> None:
        """Kill the running master, as nobody should; its socket stays behind."""
        pid = self.master()
        assert pid, "a master is running"
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the master to be gone")

    def has(self, caller: Caller) -> bool:
        """Whether a program can be tried here."""
        return self.sh(caller.there or "true").returncode == 0

    def prepare(self, caller: Caller) -> None:
        """Make what a program needs, once."""
        if caller.name not in self.prepared:
            done = self.sh(caller.before or "true")
            assert done.returncode == 0, done
            self.prepared.add(caller.name)

    def logins(self) -> int:
        """How many logins there were so far; there must be no connection besides."""
        assert self.node.connections() == self.node.authentications()
        return self.node.authentications()


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that runs ssh.

    Attributes:
        name: of the program.
        needs: the programs that must be installed.
        line: its work, for sh; `{n}` is another number each time.
        says: what it must say on stdout.
        before: what must be done once before, for sh.
        variables: for its environment.
        there: for sh, whether it can be tried here, if `needs` does not tell.
        slow: whether a call takes more than half a second.
        named: the work by the program `$S` instead of ssh; "" where `line` does it with the variables.
    """

    name: str
    needs: tuple[str, ...]
    line: str
    says: str = WORDS
    before: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    there: str = ""
    named: str = ""
    slow: bool = False

    def call(self, world: World, number: int) -> Done:
        """Do the work once."""
        return world.sh(self.line.replace("{n}", str(number)))

    def call_by(self, ssh: Path, world: World) -> Done:
        """Do the work once, by a program that is named instead of ssh."""
        names = ("S", "GIT_SSH_COMMAND", "RSYNC_RSH", "BORG_RSH", "ANSIBLE_SSH_EXECUTABLE", "PARALLEL_SSH")
        variables = "".join(f"export {name}={ssh}; " for name in names)
        # its sftp would run a plain ssh
        variables += "export ANSIBLE_PIPELINING=True; "
        return world.sh(variables + (self.named or self.line).replace("{n}", "-named"))


CALLERS = (
    Caller("ssh", ("ssh",), "ssh daint cat words", named="$S daint cat words"),
    Caller(
        "scp",
        ("scp",),
        "scp -q daint:words by-scp{n} && cat by-scp{n}",
        named="scp -q -S $S daint:words by-scp{n} && cat by-scp{n}",
    ),
    Caller(
        "sftp",
        ("sftp",),
        "echo get words by-sftp{n} | sftp -q -b - daint >/dev/null && cat by-sftp{n}",
        named="echo get words by-sftp{n} | sftp -q -S $S -b - daint >/dev/null && cat by-sftp{n}",
    ),
    Caller("rsync", ("rsync",), "rsync -a daint:tree/ by-rsync{n} && cat by-rsync{n}/words"),
    Caller(
        "git",
        ("git",),
        "git clone -q daint:code.git by-git{n} && cat by-git{n}/words",
        before="git init -q -b main code && cd code && cp ../words . && git add words && git commit -q -m one"
        " && ssh daint git init -q --bare -b main code.git && git push -q daint:code.git main",
    ),
    Caller(
        "sshfs",
        ("sshfs", "fusermount3"),
        "mkdir by-sshfs{n} && sshfs daint: by-sshfs{n} && cat by-sshfs{n}/words"
        " && fusermount3 -u by-sshfs{n}",
        there="[ -e /dev/fuse ]",
        named="mkdir by-sshfs{n} && sshfs -o ssh_command=$S daint: by-sshfs{n} && cat by-sshfs{n}/words"
        " && fusermount3 -u by-sshfs{n}",
    ),
    Caller(
        "restic",
        ("restic",),
        "restic -q -r sftp:daint:restic --no-cache --no-lock dump latest words",
        before="restic -q -r sftp:daint:restic init"
        " && restic -q -r sftp:daint:restic --no-cache backup words",
        variables=(("RESTIC_PASSWORD", "password"),),
        named='restic -q -r sftp:daint:restic -o sftp.command="$S daint -s sftp" --no-cache --no-lock'
        " dump latest words",
        slow=True,
    ),
    Caller(
        "borg",
        ("borg",),
        "borg --lock-wait 60 extract --stdout daint:borg::one words",
        slow=True,
        before="borg init -e none daint:borg && borg create daint:borg::one words",
    ),
    Caller(
        "lftp",
        ("lftp",),
        "lftp -c 'open sftp://daint; cat words'",
        named='lftp -c "set sftp:connect-program $S -a -x; open sftp://daint; cat words"',
    ),
    Caller("parallel", ("parallel",), "parallel --will-cite -S 2/daint cat words {} ::: words words"),
    Caller(
        "ansible",
        ("ansible",),
        "ansible -o -i daint, all -m ping",
        says='"ping": "pong"',
        slow=True,
    ),
)

_TRAMP = """(with-temp-buffer
    (insert-file-contents "/ssh:daint:words")
    (write-region nil nil "/ssh:daint:by-tramp{n}")
    (princ (let ((default-directory "/ssh:daint:")) (shell-command-to-string "cat by-tramp{n}"))))"""

# Those are not installed in CI. rclone has a client of its own unless it is told not to, since 1.63.
HEAVY_CALLERS = (
    Caller("tramp", (), f"TMPDIR=$PWD emacs --batch -Q -l tramp --eval '{_TRAMP}'", there="command -v emacs"),
    Caller(
        "rclone",
        (),
        'rclone --sftp-ssh "ssh daint" cat :sftp:words',
        named='rclone --sftp-ssh "$S daint" cat :sftp:words',
        there="rclone help flags | grep -- --sftp-ssh",
    ),
)


@contextlib.contextmanager
def world(place: Path, passable: Path, factor: SecondFactor = "none") -> Iterator[World]:
    """Make a world.

    Args:
        place: an empty directory.
        passable: one that other users can pass through.
        factor: what the server asks for after the key, as for `Sandbox`.
    """
    with temporary_user(passable) as user, Sandbox("daint", user.name, factor) as node:
        home = empty_home(place)
        variables = dict(pair for caller in CALLERS for pair in caller.variables)
        names = ("AUTHOR", "COMMITTER")
        git = {f"GIT_{name}_{what}": "me@here" for name in names for what in ("NAME", "EMAIL")}
        found = importlib.util.find_spec("rclone_api")
        places = [f"{package}/bin" for package in (found and found.submodule_search_locations) or ()]
        search = {"PATH": ":".join([*places, home.environment["PATH"]])}
        home = dataclasses.replace(home, environment={**home.environment, **variables, **git, **search})
        (home.path / ".ssh").mkdir(mode=0o700)
        (home.path / ".ssh/config").write_text(node.ssh_config.read_text())
        for top in (home.path, user.home):
            (top / "tree").mkdir()
            for name in ("words", "tree/words"):
                (top / name).write_text(WORDS)
        for path in (user.home / "words", *(user.home / "tree").rglob("*"), user.home / "tree"):
            shutil.chown(path, user.name)
        made = World(node, user, home)
        done = made.run(OSSH, "share", "--yes", "daint")
        assert done.returncode == 0, done.stderr
        try:
            yield made
        finally:
            made.run(OSSH, "logout", "daint")


def missing_for_world() -> str:
    """Why no world can be made here; empty if one can."""
    return missing_for_users() or missing_for_homes() or missing_programs("sshd", "ssh-keygen")
