"""What a plain ssh to a shared name may do, if its hook cannot decide alone: another account, no master.

The trap: "not ours" lets ssh connect on its own. So it is the answer only if ssh was asked for another user
or port than the name has; anything that goes wrong is an error, and ends ssh.
"""

from __future__ import annotations

import contextlib
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import Remedy, SettingsError
from opensshtransport.local.locks import replace_link
from opensshtransport.login import login
from opensshtransport.login.person import Person
from opensshtransport.login.window import Window
from opensshtransport.master import aliases, forwards
from opensshtransport.master.control_socket import listens
from opensshtransport.master.forwards import Forward
from opensshtransport.master.master import Master
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import Destination, as_option, ask_resolved
from opensshtransport.sharing.share import find_hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What ssh's command line says.

    Attributes:
        host: the shared name.
        ssh_config: the file given by -F, or None.
        user, port: as given, or "".
        path: a ControlPath of the caller's own, or "".
        forwards: what ssh will ask the master for.
        owner: ssh's process id; 0 if it will be another one, because ssh goes into the background.
        alias: the file where the block looks for the way to a master; None without a block.
    """

    host: str
    ssh_config: str | None
    user: str = ""
    port: str = ""
    path: str = ""
    forwards: tuple[Forward, ...] = ()
    owner: int = 0
    alias: Path | None = None


def is_ours(call: Call, destination: Destination) -> bool:
    """Whether ssh would go to the account that the name means."""
    resolved = destination.resolved
    return (call.user or resolved.user) == resolved.user and (call.port or str(resolved.port)) == str(
        resolved.port
    )


def prepare(call: Call, destination: Destination, person: Person | Window | None) -> None:
    """Make sure that ssh finds a running master.

    Raises:
        OpenSshTransportError: of a login; or the caller's own ControlPath cannot lead there, or the block's.
    """
    master = Master(destination)
    if call.alias not in {None, aliases.file_of(master.directory, call.host, destination.ssh_config)}:
        # else a login would be spent on a master that ssh does not find
        raise SettingsError(
            f"the block that shares it names {call.alias}, where no master can be found now",
            host=call.host,
            topic="other-programs",
            advice=Remedy("run: ", "ossh share"),
        )
    facts = login.open_master(destination, person)
    socket = Path(facts.socket)
    # written with the alias, unless ssh_config was edited meanwhile
    aliases.control_path(master, socket)
    if call.path:
        _lead(call, destination, socket)
    if call.forwards:
        _note(call, socket)


def _note(call: Call, socket: Path) -> None:
    """Register the forwards, and start a process that watches them while ssh runs, as the hook does."""
    forwards.note(socket, call.forwards, pid=call.owner)
    if call.owner:
        subprocess.Popen(
            [find_hook(), "--watch", str(call.owner)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _lead(call: Call, destination: Destination, socket: Path) -> None:
    """Make a ControlPath of the caller's own a link to the master."""
    options = [as_option("ControlPath", call.path), *command_lines.guard()]
    resolved = ask_resolved(destination.ssh, call.host, destination.ssh_config, options)
    path = Path(resolved.get("controlpath"))
    if listens(path):
        # a master of the caller's, or already ours: ssh will not connect on its own
        return
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind not in {stat.S_IFLNK, stat.S_IFSOCK}:
            raise SettingsError(
                f"the ControlPath {path} is in the way",
                topic="other-programs",
                advice="let the program use another one",
            )
    # others that start at the same time may be using it
    replace_link(path, socket)
