"""A node whose master has sessions open ahead for `ossh-run`, and the processes that belong to them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from opensshtransport.master import shell_spares
from opensshtransport.master.aliases import file_of
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from tests.support.programs import OSSH_RUN, Done, ossh, runtime, until

__all__ = ["Warm", "always_pays", "directories", "keepers", "naming"]


def always_pays(config: Path, host: str, **changed: str) -> Path:
    """Have sessions opened ahead also where they are opened in no time; gives where they are.

    Args:
        config: the configuration file of ssh.
        host: the destination, whose master is running.
        changed: what else `spare.sh` is to be told.
    """
    file = file_of(runtime(), host, config)
    assert file is not None
    text = file.read_text()
    for name, value in {"worth": "0", **changed}.items():
        text, count = re.subn(rf"^ossh_{name}=.*$", f"ossh_{name}={value}", text, flags=re.MULTILINE)
        assert count == 1
    file.write_text(text)
    return shell_spares.directory(Master(resolve(host, config)).own_socket)


def directories(spares: Path) -> list[Path]:
    """What stands for sessions: those that are opened, those that wait, and those in use."""
    return sorted(spares.glob("*.*"))


class Warm:
    """A node whose master has spares; its words for `ossh-run`.

    Attributes:
        node: the node.
        words: options and host.
        master: its master.
        spares: where the spares are.
    """

    def __init__(self, node: Sandbox, shell: str | None = None, **changed: str) -> None:
        """Log in, and wait until there is a spare.

        Args:
            node: the node.
            shell: the sh that reads `ossh-run`; by default what its first line says.
            changed: as for `always_pays`.
        """
        self.node = node
        self.argv: list[str | Path] = [*([*shell.split()] if shell else []), OSSH_RUN]
        self.words: list[str | Path] = ["-F", node.ssh_config, node.host]
        assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
        self.master = Master(resolve(node.host, node.ssh_config))
        self.spares = always_pays(node.ssh_config, node.host, **changed)
        for _ in range(2):
            self.run("true")
        self.wait()

    def ready(self) -> list[Path]:
        """The spares that can be taken."""
        ready = [one for one in directories(self.spares) if not one.name.startswith(("draft.", "taken."))]
        return ready if (self.spares / "wide").exists() else []

    def wait(self) -> None:
        """Wait until there is one."""
        until(lambda: bool(self.ready()), "a spare")

    def run(self, command: str, *, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> Done:
        """Run a command."""
        return subprocess.run(
            [*self.argv, *self.words, command],
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=60,
            check=False,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    def taken(self, command: str, *, stdin: bytes | None = None) -> Done:
        """Run a command in a spare: else one more is wanted then."""
        self.wait()
        clock = Path("/proc/uptime").read_text().split()[0].replace(".", "")
        (self.spares / "called").write_text(f"{clock} 1 1\n")
        done = self.run(command, stdin=stdin)
        assert (self.spares / "called").read_text().split()[1] == "1", "it took another way"
        return done

    def check_nothing_left(self) -> None:
        """No process, FIFO or log: as soon as the master has ended."""
        ossh("logout", "-F", self.node.ssh_config, self.node.host)
        until(lambda: not directories(self.spares), "the directories to go")
        until(lambda: not naming(self.spares.parent), "the processes to end")
        until(lambda: not list(self.spares.parent.glob("run.*")), "the logs to go")


def naming(text: str | Path) -> list[int]:
    """The processes whose command line has a text, of ssh and of the remote side the name of their spare."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(text) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def keepers() -> list[int]:
    """The keepers of spares, in the runtime directory of the present test."""
    return sorted({*naming(runtime())} & {*naming("spare.sh")})
