"""A throw-away login node on loopback: a real sshd with keys and an ssh_config of its own.

For demos, tests and authors of plugins. It touches nobody's `~/.ssh`, needs no network and leaves nothing
behind; as root it can also ask for a one-time code, through PAM, as a centre does::

    with Sandbox(second_factor="code") as node:
        subprocess.run(["ssh", "-F", node.ssh_config, node.host, "hostname"])  # asks for node.code()
"""

from __future__ import annotations

import atexit
import base64
import hmac
import os
import pwd
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from opensshtransport.errors import OpenSshTransportError, SettingsError, ToolMissing
from opensshtransport.local import processes

__all__ = ["Sandbox"]


SecondFactor = Literal["none", "code", "passphrase"]

# Below 32768, where Linux begins to take the ports of outgoing connections: so only another server can have
# taken the port when a stopped sandbox comes back to it.
_PORTS = range(20_000, 32_768)

_PAM_SERVICES = Path("/etc/pam.d")

_PAM_MODULES = ("/lib/*/security", "/usr/lib/*/security", "/lib*/security", "/usr/lib*/security")

_START_WITHIN = 10.0  # seconds; 0.05 on an idle machine

_POLL = 0.005  # seconds


class SandboxError(OpenSshTransportError):
    """The sandbox's server did not start, or is stopped."""


def find_sshd() -> Path:
    """Find sshd: first where distributions put it, since plain users seldom have that on their PATH.

    The path is absolute, as sshd(8) demands: it executes itself again for each connection.

    Raises:
        ToolMissing: there is none.
    """
    found = shutil.which("/usr/sbin/sshd") or shutil.which("sshd")
    if found is None:
        raise ToolMissing("sshd is not installed", advice="install the Debian package openssh-server")
    return Path(found).absolute()


def totp(secret: str, *, ahead: int = 0, at: float | None = None) -> str:
    """Compute a six-digit one-time code by time (RFC 6238 with SHA-1 and steps of 30 seconds).

    Args:
        secret: the shared secret in base32.
        ahead: how many steps after the current one.
        at: seconds since the epoch; None is now.
    """
    step = int((time.time() if at is None else at) // 30) + ahead
    digest = hmac.digest(base64.b32decode(secret), step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0xF
    return f"{(int.from_bytes(digest[offset : offset + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SettingsError("sshd lets in nobody without an account, and you have none here") from None


@dataclass(eq=False)
class Sandbox:
    """A login node on loopback that runs as long as its `with` block.

    A plain user's sessions get a terminal only where the system gives terminals to the group tty, as usual.

    Args:
        host: the alias in `ssh_config`.
        user: who logs in; by default the current user. Another one needs root.
        second_factor: "code" asks for a one-time code after the key (needs root and libpam-oath);
            "passphrase" encrypts the key; "none" asks for nothing.
        server_options: sshd_config(5) keywords; each replaces the one that is written here.
        client_options: ssh_config(5) keywords for the alias, likewise.

    Attributes:
        directory: contains everything of this sandbox; nobody else can enter it.
        port: TCP port on 127.0.0.1; `restart` keeps it.
        passphrase: of the user's key, or empty.
        totp_secret: in base32, or empty.

    Raises:
        SettingsError: the arguments do not fit together, or need root.
        ToolMissing: (on entry) sshd, ssh-keygen or pam_oath is not installed.
        SandboxError: (on entry) the server did not start.
    """

    host: str = "sandbox"
    user: str = field(default_factory=_me)
    second_factor: SecondFactor = "none"
    server_options: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    client_options: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    directory: Path = field(init=False)
    port: int = field(init=False, default=0)
    passphrase: str = field(init=False, default="", repr=False)
    totp_secret: str = field(init=False, default="", repr=False)

    _owner: int = field(init=False, default=0, repr=False)
    _server: subprocess.Popen[bytes] | None = field(init=False, default=None, repr=False)
    _sshd: Path = field(init=False, repr=False)
    _pam_service: Path | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.host, re.ASCII):
            raise SettingsError(
                f"not a name for a host: {self.host!r}", advice="use letters, digits, '.', '_', '-'"
            )
        if self.second_factor not in get_args(SecondFactor):
            advice = f"choose one of {', '.join(get_args(SecondFactor))}"
            raise SettingsError(f"no such second factor: {self.second_factor!r}", advice=advice)
        if os.geteuid() != 0 and (self.user != _me() or self.second_factor == "code"):
            message = "only root's sshd can ask PAM for a code, or let in another user"
            raise SettingsError(
                message, topic="sandbox", advice="run it as root, or use the second factor 'passphrase'"
            )

    def __enter__(self) -> Sandbox:
        self._sshd = find_sshd()
        # Not below TMPDIR: control sockets go here too, and of the 86 bytes they may have, macOS's has 49.
        self.directory = Path(tempfile.mkdtemp(prefix="ossh-", dir="/tmp"))
        self._owner = os.getpid()
        atexit.register(self.close)
        try:
            self._make_keys()
            self._configure_server()
            self._start()
            self._configure_client()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and remove everything that was made. May be called again."""
        if os.getpid() != self._owner:  # a fork inherits the atexit entry, but not the server
            return
        self.stop()
        if self._pam_service:
            self._pam_service.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)
        self._owner = 0

    def stop(self) -> None:
        """End the server, its logins and their commands; the files stay, for `restart`.

        All get SIGTERM, then 2 seconds, then SIGKILL. A command that has daemonized keeps running.
        """
        if self._server is None:
            return
        processes.end_family(self._server.pid)
        self._server.wait()
        self._server = None

    def restart(self) -> None:
        """Stop the server if it runs, and start it again with the same port, keys and log."""
        self.stop()
        self._start()

    @property
    def ssh_config(self) -> Path:
        """The file for `ssh -F`: it knows the alias, its key and its host key."""
        return self.directory / "ssh_config"

    @property
    def log(self) -> Path:
        """What the server logs, at LogLevel VERBOSE."""
        return self.directory / "log"

    @property
    def answer_command(self) -> Path:
        """A program that prints the current code, or the passphrase. It exists only if one is asked for."""
        return self.directory / "answer"

    @property
    def server_pid(self) -> int:
        """The process id of the sshd that listens.

        Raises:
            SandboxError: the server is stopped.
        """
        if self._server is None:
            raise SandboxError("the server is stopped", host=self.host)
        return self._server.pid

    def code(self, *, ahead: int = 0) -> str:
        """Return the current one-time code.

        The server accepts a code once. It also accepts the codes of the next two steps, so with `ahead=1` a
        test need not wait up to 30 seconds before its second login.
        """
        return totp(self.totp_secret, ahead=ahead)

    def authentications(self) -> int:
        """Count the logins that were completed; the first of two factors is not logged as `Accepted`."""
        return self._count(r"Accepted \S+ for ")

    def connections(self) -> int:
        """Count the TCP connections that were made, whether or not they logged in."""
        return self._count(r"Connection from \S+ port \d+ on ")

    def _count(self, message: str) -> int:
        return len(re.findall(f"^{message}", self.log.read_text(errors="replace"), re.MULTILINE))

    def _make_keys(self) -> None:
        if self.second_factor == "passphrase":
            self.passphrase = secrets.token_hex(4)
            _write(self.answer_command, f"#!/bin/sh\necho {self.passphrase}\n", mode=0o700)
        keygen = shutil.which("ssh-keygen")
        if keygen is None:
            raise ToolMissing(
                "ssh-keygen is not installed", advice="install the Debian package openssh-client"
            )
        # It takes a passphrase only from its arguments or a terminal; this one opens nothing else.
        for name, passphrase in (("host_key", ""), ("id_ed25519", self.passphrase)):
            file = str(self.directory / name)
            argv = [keygen, "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", file]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(self.directory / "id_ed25519.pub", self.directory / "authorized_keys")

    def _configure_server(self) -> None:
        asks = self.second_factor == "code"
        version = _version(self._sshd)
        options = {
            "HostKey": f"{self.directory}/host_key",
            "AllowUsers": self.user,
            "AuthenticationMethods": "publickey,keyboard-interactive" if asks else "publickey",
            "KbdInteractiveAuthentication": "yes" if asks else "no",
            "PasswordAuthentication": "no",  # otherwise it is offered too, and asks for the real password
            "PermitRootLogin": "yes",  # any other value forbids root the question for a code
            "StrictModes": "no",  # everybody may write to /tmp, above the private directory
            "Subsystem": "sftp internal-sftp",  # the program's place differs between distributions
            "PidFile": "none",  # the default is the system's own
            "LogLevel": "VERBOSE",  # names each connection and login
            "MaxStartups": "100",  # by default, some of more than 10 simultaneous logins are dropped
            "UsePAM": "no",  # a plain user's sshd cannot ask PAM
            "AuthorizedKeysFile": f"{self.directory}/authorized_keys",
        }
        if self.user == _me() and version >= (7, 8):
            # a first-level bash below sshd reads ~/.bashrc: the user's own may print something, and take
            # seconds
            options["SetEnv"] = "SHLVL=1"
        if self.user != _me():  # sshd reads the file as that user, who cannot enter the directory
            options["AuthorizedKeysFile"] = "none"
            options["AuthorizedKeysCommand"] = f"/bin/cat {self.directory}/authorized_keys"
            options["AuthorizedKeysCommandUser"] = "root"
        if version >= (8, 5):  # it takes 0.1 s of processor time, and nothing here is secret for years
            options["KexAlgorithms"] = "-sntrup761*"
        if version >= (9, 8):  # refuses a client for a while after failures, and all clients are 127.0.0.1
            options["PerSourcePenalties"] = "no"
        # Without PAM, sshd refuses a user whose password is locked, whatever the key (sshd(8)).
        if asks or _is_locked(self.user):
            service = self._add_pam_service(asks)
            options["UsePAM"] = "yes"
            if version >= (9, 8):
                options["PAMServiceName"] = service
            else:  # the service is named as the program was called
                self._sshd = self.directory / service
                self._sshd.symlink_to(find_sshd())
        _write(self.directory / "sshd_config", _options(options, self.server_options))

    def _add_pam_service(self, asks: bool) -> str:
        rules = "account required pam_permit.so\nsession required pam_permit.so\n"
        if asks:
            if not any(next(Path("/").glob(f"{place[1:]}/pam_oath.so"), None) for place in _PAM_MODULES):
                raise ToolMissing(
                    "pam_oath is not installed", advice="install the Debian package libpam-oath"
                )
            key = secrets.token_bytes(20)
            self.totp_secret = base64.b32encode(key).decode()
            users, secret = self.directory / "oath", self.directory / "totp_secret"
            _write(users, f"HOTP/T30/6 {self.user} - {key.hex()}\n")
            _write(secret, self.totp_secret)
            rules = f"auth required pam_oath.so usersfile={users} window=2 digits=6\n{rules}"
            program = f"from {__name__} import totp; print(totp(open({str(secret)!r}).read()))"
            package = Path(__file__).parent.parent
            argv = ["env", f"PYTHONPATH={package}", sys.executable, "-c", program]
            _write(self.answer_command, f"#!/bin/sh\nexec {shlex.join(argv)}\n", mode=0o700)
        self._pam_service = _PAM_SERVICES / f"sshd-{self.directory.name}"
        _write(self._pam_service, rules)
        return self._pam_service.name

    def _start(self) -> None:
        deadline = time.monotonic() + _START_WITHIN
        while True:
            port = self.port or secrets.choice(_PORTS)
            argv = [str(self._sshd), "-D", "-f", f"{self.directory}/sshd_config", "-E", str(self.log)]
            argv += ["-o", f"ListenAddress=127.0.0.1:{port}"]
            with self.log.open("ab") as log:
                begin = log.tell()
                # In a session of its own: Ctrl-C at the terminal is for us, and we then end it properly.
                self._server = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while not re.search(r"^Server listening on ", words := self._words_since(begin), re.MULTILINE):
                if self._server.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(_POLL)
            else:
                self.port = port
                return
            self.stop()
            words = self._words_since(begin)
            missing = re.search(r"Missing privilege separation directory: (\S+)", words)
            if missing:  # the system makes it when its own sshd starts, and every sshd of root uses it
                Path(missing[1]).mkdir(mode=0o755, exist_ok=True)
            elif "Address already in use" not in words or time.monotonic() > deadline:
                advice = f"correct server_options if it names one; its log said: {words.strip()[-500:]}"
                raise SandboxError("sshd did not start", host=self.host, advice=advice, argv=argv)

    def _words_since(self, begin: int) -> str:
        return self.log.read_bytes()[begin:].decode(errors="replace").replace("\r", "")

    def _configure_client(self) -> None:
        options = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "HostKeyAlias": self.host,  # prompts then name the alias: `(root@sandbox) `
            "IdentityFile": f"{self.directory}/id_ed25519",
            "IdentitiesOnly": "yes",  # no other key of the user's agent is offered to the server
            "UserKnownHostsFile": f"{self.directory}/known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        _write(self.ssh_config, f"Host {self.host}\n{_options(options, self.client_options)}")
        public = (self.directory / "host_key.pub").read_text()
        _write(self.directory / "known_hosts", f"{self.host},[127.0.0.1]:{self.port} {public}")


def _is_locked(user: str) -> bool:
    """Tell whether root's sshd will find the user's password locked; others cannot read it, sshd neither."""
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)


def _version(sshd: Path) -> tuple[int, int]:
    """Ask sshd for its version; those without `-V` (before 9.2) name it in their usage."""
    said = subprocess.run([sshd, "-V"], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr + said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _options(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Lines of an ssh configuration file, where keywords are the same in any case."""
    replaced = {keyword.lower() for keyword in theirs}
    kept = {keyword: value for keyword, value in ours.items() if keyword.lower() not in replaced}
    return "".join(f"{keyword} {value}\n" for keyword, value in {**theirs, **kept}.items())


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    path.touch(mode, exist_ok=False)
    path.write_text(text)
