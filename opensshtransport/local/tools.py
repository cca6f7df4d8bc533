"""Short questions to local programs: ssh's control commands, ssh-keygen, ssh-add, klist.

They go through the package `sh`, which forks inside the calling process: so only single-threaded programs
(the login process, the command line) may import this module, never the library. Each question has a deadline,
because a frozen master or agent never answers.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import SettingsError, ToolMissing

_DEADLINE = 5.0


# `sh` logs pieces of what programs print, and some print secrets.
logging.getLogger("sh").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program printed. `returncode` is None if it did not end within the deadline."""

    returncode: int | None
    stdout: str
    stderr: str


def ask(
    program: str, *arguments: str, timeout: float = _DEADLINE, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a local program that reads nothing and ends soon.

    Args:
        program: a name on PATH or a path.
        arguments: what follows it.
        timeout: seconds until it is killed.
        env: further variables for it.

    Raises:
        ToolMissing: there is no such program.
    """
    # it loads asyncio, a third of the start-up time of our commands; most of them ask nothing
    import sh

    # `sh` finds nothing without PATH, as under cron; this then searches the system's default path
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(f"the program {program!r} was not found", advice="install it")
    command = sh.Command(found)
    late = threading.Event()
    try:
        running = command(
            *arguments,
            _return_cmd=True,
            _ok_code=list(range(256)),
            # in the background, because the package's own deadline makes each question take a tenth of a
            # second
            _bg=True,
            _bg_exc=False,
            _in=None,
            _tty_out=False,
            # dates and messages are parsed by us
            _env={**os.environ, "LC_ALL": "C", **(env or {})},
        )
    except sh.ForkException:
        raise ToolMissing(f"the program {program!r} cannot be run", advice="check its first line") from None

    def end() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            running.kill()

    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        done = running.wait()
    except sh.SignalException as reason:
        if late.is_set():
            return Finished(None, "", "")
        return Finished(128 - reason.exit_code, "", "")
    finally:
        timer.cancel()
        # so that no thread runs when we fork next
        timer.join()
    return Finished(
        done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def control(ssh: str, socket: Path, command: str, timeout: float = _DEADLINE) -> Finished:
    """Ask a master locally: `check`, `exit` or `stop` (ssh(1), -O).

    `check` does not prove that the network works; it also resets the ControlPersist timer.
    """
    # with -F none a control command needs no configuration, and any host name serves
    path = str(socket).replace("%", "%%")
    return ask(ssh, "-F", "none", "-O", command, "-S", path, "--", "master", timeout=timeout)


def master_pid(ssh: str, socket: Path) -> int | None:
    """The process id of the master that listens at a socket, or None if none answers."""
    match = re.search(r"\(pid=(\d+)\)", control(ssh, socket, "check").stderr)
    return int(match[1]) if match else None


def certificate_end(certificate: Path) -> datetime.datetime | None:
    """When an OpenSSH certificate expires (ssh-keygen(1), -L); None if it never does.

    Raises:
        ToolMissing: ssh-keygen is not there.
        ValueError: it is not a certificate.
    """
    reply = ask("ssh-keygen", "-L", "-f", str(certificate))
    match = re.search(
        r"^\s*Valid: (?:from \S+ to (\S+)|forever|before (\S+)|after \S+)", reply.stdout, re.MULTILINE
    )
    if reply.returncode != 0 or match is None:
        raise ValueError(f"{certificate} is not a certificate: {reply.stderr.strip()}")
    end = match[1] or match[2]
    return datetime.datetime.fromisoformat(end).astimezone() if end else None


def ticket_end() -> datetime.datetime | None:
    """When the Kerberos ticket-granting ticket expires (klist(1)), or None if there is none."""
    if not _have("klist"):
        return None
    listing = ask("klist").stdout
    if _HEIMDAL_ENDED in listing:
        # only its long form says when
        listing = ask("klist", "-v").stdout
    return ticket_end_in(listing)


_HEIMDAL_ENDED = ">>>Expired<<<"

# What klist writes in the C locale, and how its dates are written; the year has two digits in older releases.
_TICKET_ENDS = (
    (r"^\d\S*\s+\d\S*\s+(\d+/\d+/\d\d\s+\d\S*)\s+krbtgt/", "%m/%d/%y %H:%M:%S"),
    (r"^\d\S*\s+\d\S*\s+(\d+/\d+/\d{4}\s+\d\S*)\s+krbtgt/", "%m/%d/%Y %H:%M:%S"),
    # Heimdal, and so macOS
    (r"^[A-Z]\w\w\s+\d.*?\d{4}\s+([A-Z]\w\w\s+\d+ [\d:]+ \d{4})\s+krbtgt/", "%b %d %H:%M:%S %Y"),
    (r"^Server: krbtgt/(?:.*\n)+?End time:\s+([A-Z]\w\w\s+\d+ [\d:]+ \d{4})", "%b %d %H:%M:%S %Y"),
)


def ticket_end_in(listing: str) -> datetime.datetime | None:
    """The expiry of the ticket-granting ticket in a listing of MIT's or Heimdal's klist; None without one."""
    for pattern, form in _TICKET_ENDS:
        if match := re.search(pattern, listing, re.MULTILINE):
            return datetime.datetime.strptime(" ".join(match[1].split()), form).astimezone()
    return None


def principal_in(listing: str) -> str | None:
    """The first principal in what MIT's `klist -k` or Heimdal's `ktutil list` prints about a keytab."""
    match = re.search(r"^\s*\d+\s+(?:[a-z]\S*\s+)?(\S+@\S+)\s*$", listing, re.MULTILINE)
    return match[1] if match else None


def _have(program: str) -> bool:
    return shutil.which(program) is not None


def ticket_lives() -> bool:
    """Whether there is a Kerberos ticket that has not expired (klist(1), -s)."""
    return _have("klist") and ask("klist", "-s").returncode == 0


def renew_ticket() -> bool:
    """Renew the Kerberos ticket (kinit(1), -R); returns whether that worked."""
    return _have("kinit") and ask("kinit", "-R", timeout=30).returncode == 0


def get_ticket(keytab: Path) -> None:
    """Get a Kerberos ticket for the first principal of a keytab (kinit(1), -k -t).

    Raises:
        ToolMissing: kinit or klist is not there.
        SettingsError: none can be got with the keytab.
    """
    listing = ask("klist", "-k", str(keytab))
    if listing.stderr.startswith("Usage: "):
        # Heimdal's has no such option
        listing = ask("ktutil", "-k", str(keytab), "list")
    principal = principal_in(listing.stdout)
    if principal is None:
        raise SettingsError(
            f"{keytab} is not a keytab: {listing.stderr.strip()}",
            topic="logging-in",
            advice="ask for a new one",
        )
    reply = ask("kinit", "-k", "-t", str(keytab), principal, timeout=30)
    if reply.returncode != 0:
        raise SettingsError(
            f"kinit got no ticket for {principal} with {keytab}: {reply.stderr.strip()}",
            topic="logging-in",
            advice="ask your centre for a new keytab",
        )


def encrypted_keys(identity_files: Iterable[str], env: Mapping[str, str]) -> list[str]:
    """The private keys that have a passphrase and are held by no agent.

    Args:
        identity_files: as `ssh -G` lists them.
        env: says which agent ssh asks, if not our own environment; an empty SSH_AUTH_SOCK means none.
    """
    held = ask("ssh-add", "-l", env=env).stdout
    found = []
    for name in identity_files:
        key = Path(os.path.expanduser(name))  # noqa: PTH111 - as ssh writes it
        if not key.is_file():
            continue
        # an empty passphrase opens a key that has none (ssh-keygen(1), -P)
        if "incorrect passphrase" not in ask("ssh-keygen", "-y", "-P", "", "-f", str(key)).stderr:
            continue
        # none where the key is of an older form and its public half is missing
        fingerprint = ask("ssh-keygen", "-l", "-f", str(key)).stdout.split()
        if len(fingerprint) < 2 or fingerprint[1] not in held:
            found.append(str(key))
    return found


def agent_lives(socket: Path) -> bool:
    """Whether an agent answers at a socket: a crashed one has left it, and a frozen one never answers."""
    if not socket.is_socket():
        return False
    # 1 means that it holds no keys, 2 that none answers (ssh-add(1), EXIT STATUS)
    return ask("ssh-add", "-l", env={"SSH_AUTH_SOCK": str(socket)}).returncode in {0, 1}


def shared_agent(directory: Path) -> Path | None:
    """The socket of the agent that `ossh agent` has started, or None if it is not running."""
    socket = directory / "agent"
    return socket if agent_lives(socket) else None


def start_agent(directory: Path) -> Path:
    """Start the shared agent at a fixed path in the runtime directory (ssh-agent(1), -a).

    Raises:
        ToolMissing: ssh-agent is not there, or does not start.
    """
    socket = directory / "agent"
    socket.unlink(missing_ok=True)
    reply = ask("ssh-agent", "-a", str(socket))
    if reply.returncode != 0:
        raise ToolMissing(
            f"ssh-agent did not start: {reply.stderr.strip()}", advice="run it yourself to see why"
        )
    return socket
