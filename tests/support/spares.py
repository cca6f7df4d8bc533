"""A node whose master has sessions open ahead for `ossh-run`, and the processes that belong to them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from opensshtransport.master import shell_spares
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from tests.support.programs import OSSH_RUN, Done, ossh, runtime, until

__all__ = ["Warm", "keepers", "naming"]


class Warm:
    """A node whose master has spares; its words for `ossh-run`.

    Attributes:
        node: the node.
        words: options and host.
        spares: where the spares are.
    """

    def __init__(self, node: Sandbox, shell: str | None = None) -> None:
        self.node = node
        # as the first line of the script says, or read by another sh
        self.argv: list[str | Path] = [*([*shell.split()] if shell else []), OSSH_RUN]
        self.words: list[str | Path] = ["-F", node.ssh_config, node.host]
        assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
        self.master = Master(resolve(node.host, node.ssh_config))
        self.spares = shell_spares.directory(self.master.own_socket)
        for _ in range(2):
            self.run("true")
        self.wait()

    def ready(self) -> list[Path]:
        """The spares that can be taken."""
        return [
            one
            for one in self.spares.glob("*.*")
            if not one.name.startswith("draft") and (one / "in").is_fifo() and not (one / "taken").exists()
        ]

    def wait(self) -> None:
        """Wait until there is one."""
        until(lambda: bool(self.ready()), "a spare")

    def run(self, command: str, *, stdin: bytes | None = None, **env: str) -> Done:
        """Run a command."""
        argv = [*self.argv, *self.words, command]
        return subprocess.run(
            argv,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=60,
            check=False,
            start_new_session=True,
            env={**os.environ, **env},
        )

    def taken(self, command: str, *, stdin: bytes | None = None, **env: str) -> Done:
        """Run a command in a spare: else one more is wanted then."""
        self.wait()
        uptime = Path("/proc/uptime").read_text().split(".")[0]
        (self.spares / "called").write_text(f"{uptime} 1\n")
        done = self.run(command, stdin=stdin, **env)
        assert (self.spares / "called").read_text().split()[1] == "1", "it took another way"
        return done

    def check_nothing_left(self) -> None:
        """No process, FIFO or log: as soon as the master has ended."""
        ossh("logout", "-F", self.node.ssh_config, self.node.host)
        until(lambda: not list(self.spares.glob("*.*")), "the directories to go")
        until(lambda: not naming(self.spares.parent), "the processes to end")
        assert not list(self.spares.parent.glob("run.*"))


def naming(text: str | Path) -> list[int]:
    """The processes whose command line has a text, of ssh and of the remote side the name of their spare."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(text) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def keepers() -> list[int]:
    """The keepers of spares and their guards, in the runtime directory of the present test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if words.startswith(b"sh\0") and b"spare.sh" in words and os.fsencode(runtime()) in words:
                found.append(int(entry.name))
    return found
