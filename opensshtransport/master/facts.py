"""What is known of a master: the file next to its socket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.local.trust import read_ours

# Shells that read no start-up file again below a shell of their own; zsh does.
_SHELLS_OF_POSIX = {"sh", "bash", "dash", "ksh", "mksh", "ash", "busybox"}


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
        ours: whether we opened it; otherwise it is the user's own, and never ended by us.
        login_node: the remote host's own name.
        shell: the remote login shell's path, or "" if commands cannot be run freely.
        methods: how the server let us in, as far as ssh says ("publickey keyboard-interactive").
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


def text_of(path: Path | None) -> str | None:
    """A path as text, or None."""
    return None if path is None else str(path)


def read_facts(file: Path) -> Facts | None:
    """Read what is known of a master; None if the file is missing or makes no sense.

    Raises:
        SettingsError: it is not ours alone.
    """
    try:
        return Facts(**json.loads(read_ours(file)))
    except (OSError, ValueError, TypeError):
        return None
