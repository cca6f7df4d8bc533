"""Short questions to local programs, each to the real one."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensshtransport.errors import SettingsError, ToolMissing
from opensshtransport.local import tools
from opensshtransport.sandbox import Sandbox
from tests.support.kerberos import KerberosNode
from tests.support.programs import ossh, runtime, status, until

PASSPHRASE = "correct horse"
Moment = datetime.datetime


def now() -> Moment:
    """This moment, with its zone."""
    return datetime.datetime.now().astimezone()


def seconds(number: float) -> datetime.timedelta:
    """A time that long."""
    return datetime.timedelta(seconds=number)


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o700)
    return path


def make_key(path: Path, *options: str, passphrase: str = "") -> Path:
    """Make a key, of the usual kind if the options name none."""
    words = options or ("-t", "ed25519")
    subprocess.run(["ssh-keygen", "-q", *words, "-N", passphrase, "-C", "x", "-f", path], check=True)
    return path


@contextlib.contextmanager
def agent(socket: Path) -> Iterator[Path]:
    """An agent of the test's own."""
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as process:
        try:
            until(socket.is_socket, "the agent to listen")
            yield socket
        finally:
            process.kill()


def add_key(socket: Path, key: Path) -> None:
    """Add a key to an agent; a program supplies its passphrase, because ssh-add reads none from a pipe."""
    told = executable(key.with_name("askpass"), f"#!/bin/sh\necho '{PASSPHRASE}'\n")
    env = {"SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS": str(told), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(
        ["ssh-add", "-q", key], env={**os.environ, **env}, check=True, stdin=subprocess.DEVNULL, timeout=20
    )


class TestAsk:
    """One question, with a deadline."""

    @pytest.mark.parametrize("number", [0, 1, 3, 124, 127, 128, 255])
    def test_status(self, number: int) -> None:
        """The exit status is the program's own, and what it said is kept apart."""
        reply = tools.ask("sh", "-c", f"echo out; echo err >&2; exit {number}")
        assert reply == tools.Finished(number, "out\n", "err\n")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
    def test_signal(self, number: signal.Signals) -> None:
        """A program that signal N ended has status 128+N."""
        assert tools.ask("sh", "-c", f"kill -{number.value} $$").returncode == 128 + number

    def test_deadline(self) -> None:
        """A program that does not end in time, and ignores what it can ignore, is ended."""
        tag = f"1{secrets.randbelow(10**8):08d}"
        begin = time.monotonic()
        reply = tools.ask("sh", "-c", f"trap '' HUP INT TERM; echo so far; exec sleep {tag}", timeout=0.5)
        assert 0.5 <= time.monotonic() - begin < 20
        assert reply.returncode is None
        assert not running(f"sleep {tag}")

    def test_nothing_to_read(self) -> None:
        """It reads nothing, and has no terminal to ask at."""
        assert tools.ask("cat", timeout=20).returncode == 0
        assert tools.ask("sh", "-c", "test -t 0 || test -t 1 || test -t 2").returncode == 1

    def test_arguments_as_they_are(self) -> None:
        """No shell changes an argument."""
        words = ["*", "~", "$HOME", "a  b", "", "-n", "'", "%s", "ü"]
        assert tools.ask("printf", "%s\\n", *words).stdout.splitlines() == words

    def test_words_are_english(self) -> None:
        """What programs read is asked for in the plain locale; further variables come on top."""
        reply = tools.ask("sh", "-c", 'echo "$LC_ALL $EXTRA $HOME"', env={"EXTRA": "x"})
        assert reply.stdout == f"C x {os.environ['HOME']}\n"

    def test_much_and_strange_output(self) -> None:
        """More than a pipe holds, and bytes that are no text."""
        assert len(tools.ask("head", "-c", "3000000", "/dev/zero").stdout) == 3_000_000
        assert tools.ask("printf", r"a\377b").stdout == "a�b"

    def test_what_goes_on_in_the_background(self) -> None:
        """A daemon that is left behind is not waited for."""
        tag = f"1{secrets.randbelow(10**8):08d}"
        begin = time.monotonic()
        try:
            reply = tools.ask("sh", "-c", f"sleep {tag} >/dev/null 2>&1 & echo up", timeout=30)
            assert reply == tools.Finished(0, "up\n", "")
            assert time.monotonic() - begin < 20
            assert running(f"sleep {tag}")
        finally:
            subprocess.run(["pkill", "-x", "-f", f"sleep {tag}"], check=False)

    @pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "/tmp", "/etc/passwd"])
    def test_missing(self, program: str) -> None:
        """A program that is not there, or not executable, is named."""
        with pytest.raises(ToolMissing, match=f"the program '{program}' was not found; install it"):
            tools.ask(program)

    @pytest.mark.parametrize("text", ["#!/no/such/interpreter\n", "echo x\n"], ids=["missing", "none"])
    def test_no_interpreter(self, tmp_path: Path, text: str) -> None:
        """A script without an interpreter cannot be run: the error names it."""
        program = executable(tmp_path / "program", text)
        with pytest.raises(ToolMissing, match=str(program)):
            tools.ask(str(program))


def running(command: str) -> bool:
    """Whether a process has this command line."""
    return subprocess.run(["pgrep", "-x", "-f", command], check=False, capture_output=True).returncode == 0


class TestCertificateEnd:
    """When a certificate ends."""

    def certificate(self, tmp_path: Path, validity: str) -> Path:
        """Make one; validity as in ssh-keygen(1), -V."""
        for name in ("authority", "key"):
            if not (tmp_path / name).exists():
                make_key(tmp_path / name)
        words = ["-I", "Valid: forever", "-n", "jane", "-V", validity]
        subprocess.run(
            ["ssh-keygen", "-q", "-s", tmp_path / "authority", *words, tmp_path / "key.pub"], check=True
        )
        return tmp_path / "key-cert.pub"

    @pytest.mark.parametrize("validity", [3, 90, 12 * 3600, 90 * 86400])
    def test_seconds(self, tmp_path: Path, validity: int) -> None:
        """From now for so many seconds."""
        before = now() + seconds(validity - 1)
        end = tools.certificate_end(self.certificate(tmp_path, f"+{validity}s"))
        assert end is not None
        assert before <= end <= now() + seconds(validity + 1)

    def test_past(self, tmp_path: Path) -> None:
        """One that has ended still says when."""
        before = now()
        end = tools.certificate_end(self.certificate(tmp_path, "-2h:-1h"))
        assert end is not None
        assert before - seconds(3601) <= end <= now() - seconds(3599)

    @pytest.mark.parametrize("validity", ["always:forever", "20200101:forever"])
    def test_without_end(self, tmp_path: Path, validity: str) -> None:
        """One that is good forever, or from some day on forever, has no end."""
        assert tools.certificate_end(self.certificate(tmp_path, validity)) is None

    @pytest.mark.parametrize("validity", ["always:20300102030405", "20200101:20300102030405"])
    def test_before(self, tmp_path: Path, validity: str) -> None:
        """One that is good until a day ends then, whether it began or has been good always."""
        wanted = datetime.datetime(2030, 1, 2, 3, 4, 5).astimezone()
        assert tools.certificate_end(self.certificate(tmp_path, validity)) == wanted

    @pytest.mark.parametrize("zone", ["UTC0", "IST-5:30", "NST3:30", "<-12>12"])
    def test_in_every_zone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
        """The moment is the same in every time zone."""
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            end = tools.certificate_end(self.certificate(tmp_path, "+1h"))
            assert end is not None
            assert abs(end.timestamp() - time.time() - 3600) < 30
        finally:
            monkeypatch.undo()
            time.tzset()

    @pytest.mark.parametrize("name", ["key.pub", "key", "empty", "none", "binary", "."])
    def test_not_a_certificate(self, tmp_path: Path, name: str) -> None:
        """Keys, empty files, nothing at all and directories are no certificates; the error names the file."""
        make_key(tmp_path / "key")
        (tmp_path / "empty").touch()
        (tmp_path / "binary").write_bytes(secrets.token_bytes(1000))
        with pytest.raises(ValueError, match="is not a certificate") as caught:
            tools.certificate_end(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


class TestMasterPid:
    """The master that listens at a socket."""

    @pytest.fixture
    def master(self, own_node: Sandbox) -> tuple[Path, int]:
        """A live master: its socket, and its process id as `ossh status` shows it."""
        assert ossh("login", "-F", own_node.ssh_config, own_node.host).returncode == 0
        (socket,) = [path for path in runtime().iterdir() if path.is_socket()]
        return socket, int(status(own_node.ssh_config, own_node.host)[0]["pid"])

    def test_live(self, master: tuple[Path, int]) -> None:
        """A live one reports its process id."""
        socket, pid = master
        assert tools.master_pid("ssh", socket) == pid
        assert b"ssh" in Path(f"/proc/{pid}/cmdline").read_bytes()

    def test_none(self, tmp_path: Path) -> None:
        """Where there is no socket, there is no master."""
        assert tools.master_pid("ssh", tmp_path / "none") is None

    def test_dead(self, master: tuple[Path, int]) -> None:
        """One that was killed has left its socket, which does not answer."""
        socket, pid = master
        os.kill(pid, signal.SIGKILL)
        until(lambda: tools.master_pid("ssh", socket) is None, "the master to be gone")
        assert socket.is_socket()

    def test_frozen(self, master: tuple[Path, int]) -> None:
        """One that is stopped does not answer within the deadline; afterwards it does again."""
        socket, pid = master
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            assert tools.master_pid("ssh", socket) is None
            assert time.monotonic() - begin < 20
        finally:
            os.kill(pid, signal.SIGCONT)
        assert tools.master_pid("ssh", socket) == pid

    def test_ended(self, master: tuple[Path, int]) -> None:
        """`exit` through the same door ends it."""
        socket, _ = master
        assert tools.control("ssh", socket, "exit").returncode == 0
        until(lambda: not socket.exists(), "the socket to go")
        assert tools.master_pid("ssh", socket) is None


# Each form of a key's file. The older ones do not tell their fingerprint without the passphrase.
FORMS = {
    "ed25519": ("-t", "ed25519"),
    "rsa": ("-t", "rsa", "-b", "2048"),
    "ecdsa": ("-t", "ecdsa"),
    "rsa-pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    "rsa-pkcs8": ("-t", "rsa", "-b", "2048", "-m", "PKCS8"),
}


class TestEncryptedKeys:
    """Which keys cannot be used without a person."""

    @pytest.mark.parametrize("form", FORMS)
    def test_without_agent(self, tmp_path: Path, form: str) -> None:
        """An encrypted key of any form is found, one that is not is not."""
        key = make_key(tmp_path / "encrypted", *FORMS[form], passphrase=PASSPHRASE)
        plain = make_key(tmp_path / "plain", *FORMS[form])
        assert tools.encrypted_keys([str(plain), str(key)], {}) == [str(key)]

    @pytest.mark.parametrize(
        "form",
        [
            *("ed25519", "rsa"),
            *(form for form in ("rsa-pem", "rsa-pkcs8")),
        ],
    )
    def test_without_public_half(self, tmp_path: Path, form: str) -> None:
        """The file with the public half may be missing."""
        key = make_key(tmp_path / "key", *FORMS[form], passphrase=PASSPHRASE)
        (tmp_path / "key.pub").unlink()
        assert tools.encrypted_keys([str(key)], {}) == [str(key)]

    def test_with_agent(self, tmp_path: Path) -> None:
        """What the agent holds needs nobody; an agent with other keys, or none, is no help."""
        keys = [make_key(tmp_path / name, passphrase=PASSPHRASE) for name in ("one", "two")]
        names = [str(key) for key in keys]
        with agent(tmp_path / "agent") as socket:
            env = {"SSH_AUTH_SOCK": str(socket)}
            assert tools.encrypted_keys(names, env) == names
            add_key(socket, keys[0])
            assert tools.encrypted_keys(names, env) == names[1:]
            assert tools.encrypted_keys(names, {}) == names
            add_key(socket, keys[1])
            assert tools.encrypted_keys(names, env) == []
        assert tools.encrypted_keys(names, env) == names

    def test_agent_of_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The caller's own agent is asked where none is named."""
        key = make_key(tmp_path / "key", passphrase=PASSPHRASE)
        with agent(tmp_path / "agent") as socket:
            add_key(socket, key)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            assert tools.encrypted_keys([str(key)], {}) == []

    def test_names_as_ssh_writes_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`~` is the home, links are followed, blanks belong to the name."""
        make_key(tmp_path / "a key", passphrase=PASSPHRASE)
        (tmp_path / "link").symlink_to("a key")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert tools.encrypted_keys(["~/a key", "~/link"], {}) == [
            str(tmp_path / "a key"),
            str(tmp_path / "link"),
        ]

    def test_no_keys(self, tmp_path: Path) -> None:
        """Files that are missing or hold no key, and directories, are passed over."""
        (tmp_path / "empty").touch(mode=0o600)
        (tmp_path / "text").write_text("no key")
        (tmp_path / "text").chmod(0o600)
        names = [str(tmp_path / name) for name in ("none", "empty", "text", ".")]
        assert tools.encrypted_keys([*names, "none"], {}) == []

    def test_open_to_others(self, tmp_path: Path) -> None:
        """A key that ssh ignores since others may read it is not encrypted for that."""
        key = make_key(tmp_path / "key")
        key.chmod(0o644)
        assert tools.encrypted_keys([str(key)], {}) == []

    def test_public_half(self, tmp_path: Path) -> None:
        """IdentityFile may name a public key, whose private half an agent has; it is not encrypted."""
        make_key(tmp_path / "key")
        assert tools.encrypted_keys([str(tmp_path / "key.pub")], {}) == []


END = "2026-11-26 01:52:31"
MIT = """Ticket cache: FILE:/tmp/krb5cc_0
Default principal: me@TEST.INVALID

Valid starting       Expires              Service principal
11/26/2026 01:42:31  11/26/2026 01:52:31  krbtgt/TEST.INVALID@TEST.INVALID
\trenew until 11/26/2026 02:42:31
11/26/2026 01:42:31  11/26/2026 01:47:31  host/localhost@TEST.INVALID
"""
HEIMDAL = """Credentials cache: FILE:/tmp/krb5cc_0
        Principal: me@TEST.INVALID

  Issued                Expires               Principal
Nov 26 01:42:31 2026  Nov 26 01:52:31 2026  krbtgt/TEST.INVALID@TEST.INVALID
Nov 26 01:42:31 2026  Nov 26 01:47:31 2026  host/localhost@TEST.INVALID
"""
HEIMDAL_LONG = """Credentials cache: FILE:/tmp/krb5cc_0
        Principal: me@TEST.INVALID
    Cache version: 4

Server: krbtgt/TEST.INVALID@TEST.INVALID
Client: me@TEST.INVALID
Ticket etype: aes256-cts-hmac-sha1-96, kvno 1
Ticket length: 430
Auth time:  Nov 26 01:42:31 2026
End time:   Nov 26 01:52:31 2026 (expired)
Renew till: Nov 26 02:42:31 2026
Ticket flags: enc-pa-rep, initial, renewable
Addresses: addressless

Server: host/localhost@TEST.INVALID
Client: me@TEST.INVALID
End time:   Nov 26 01:47:31 2026
"""


class TestTickets:
    """Kerberos tickets, as klist shows them."""

    @pytest.mark.usefixtures("kerberos_node")
    def test_none(self) -> None:
        """Without a ticket there is neither life nor end."""
        assert not tools.ticket_lives()
        assert tools.ticket_end() is None

    def test_end(self, kerberos_node: KerberosNode) -> None:
        """The end of the ticket-granting ticket, whatever other tickets there are."""
        before = now()
        kerberos_node.get_ticket("2h")
        assert tools.ticket_lives()
        end = tools.ticket_end()
        assert end is not None
        assert before + seconds(7199) <= end <= now() + seconds(7201)
        # the server's own ticket joins it
        assert ossh("login", "-F", kerberos_node.ssh_config, kerberos_node.host).returncode == 0
        assert "host/" in tools.ask("klist").stdout
        assert tools.ticket_end() == end

    def test_end_of_a_renewable_one(self, kerberos_node: KerberosNode) -> None:
        """The time until which it can be renewed is not its expiry."""
        before = now()
        kerberos_node.get_ticket("10m", renewable="2h")
        end = tools.ticket_end()
        assert end is not None
        assert before + seconds(599) <= end <= now() + seconds(601)

    @pytest.mark.parametrize("zone", ["UTC0", "IST-5:30", "NST3:30"])
    def test_in_every_zone(
        self, kerberos_node: KerberosNode, monkeypatch: pytest.MonkeyPatch, zone: str
    ) -> None:
        """The moment is the same in every time zone and language."""
        kerberos_node.get_ticket("2h")
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        monkeypatch.setenv("LC_TIME", "de_DE.UTF-8")
        time.tzset()
        try:
            end = tools.ticket_end()
            assert end is not None
            assert abs(end.timestamp() - time.time() - 7200) < 60
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_in_a_collection(self, kerberos_node: KerberosNode, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tickets in a directory of caches are found too."""
        place = kerberos_node.directory / "caches"
        place.mkdir(mode=0o700)
        kerberos_node.get_ticket("2h")
        monkeypatch.setenv("KRB5CCNAME", f"DIR:{place}")
        assert tools.ticket_end() is None
        tools.get_ticket(kerberos_node.directory / "kerberos" / "user.keytab")
        end = tools.ticket_end()
        assert end is not None
        assert end > now()

    def test_ended(self, kerberos_node: KerberosNode) -> None:
        """One that has ended is not running; an end that is still told is a past one."""
        kerberos_node.get_ticket("2s")
        until(lambda: not tools.ticket_lives(), "the ticket to end")
        end = tools.ticket_end()
        assert end is None or end <= now()

    def test_renew(self, kerberos_node: KerberosNode) -> None:
        """A renewable ticket is renewed; another one and none at all are not."""
        assert not tools.renew_ticket()
        kerberos_node.get_ticket("1h")
        assert not tools.renew_ticket()
        assert tools.ticket_lives()
        kerberos_node.get_ticket("1h", renewable="2h")
        first = tools.ticket_end()
        assert first is not None
        begin = time.time()
        until(lambda: time.time() > begin + 2, "the clock to go on")
        assert tools.renew_ticket()
        second = tools.ticket_end()
        assert second is not None
        assert second > first

    def test_keytab(self, kerberos_node: KerberosNode) -> None:
        """A keytab gets a ticket of its first principal."""
        tools.get_ticket(kerberos_node.directory / "kerberos" / "user.keytab")
        assert tools.ticket_lives()
        assert f"Default principal: {kerberos_node.user}@" in tools.ask("klist").stdout

    def test_no_keytab(self, kerberos_node: KerberosNode, tmp_path: Path) -> None:
        """A file that is no keytab, or one that the centre has made useless, is named."""
        (tmp_path / "text").write_text("no keytab")
        with pytest.raises(SettingsError, match=f"{tmp_path}/text is not a keytab"):
            tools.get_ticket(tmp_path / "text")
        with pytest.raises(SettingsError, match=f"{tmp_path}/none is not a keytab"):
            tools.get_ticket(tmp_path / "none")
        keytab = kerberos_node.directory / "kerberos" / "user.keytab"
        # a new key at the KDC makes those before it useless
        kerberos_node._run("kadmin.local", "-q", f"cpw -randkey {kerberos_node.user}")
        with pytest.raises(SettingsError, match=f"no ticket for {kerberos_node.user}@.* with {keytab}"):
            tools.get_ticket(keytab)
        assert not tools.ticket_lives()

    @pytest.mark.parametrize(
        ("listing", "end"),
        [
            (MIT, END),
            (MIT.replace("2026", "26"), END),
            (HEIMDAL, END),
            (HEIMDAL.replace("Nov 26 01:52:31 2026", "Dec  1 01:52:31 2026"), "2026-12-01 01:52:31"),
            (HEIMDAL_LONG, END),
            (HEIMDAL.replace("krbtgt/", "host/"), None),
            (HEIMDAL.replace("Nov 26 01:52:31 2026", ">>>Expired<<<"), None),
            ("klist: No ticket file: /tmp/krb5cc_0", None),
            ("", None),
        ],
    )
    def test_both_klists(self, listing: str, end: str | None) -> None:
        """What klist of MIT and of Heimdal 7.8 wrote; another ticket, for a server, does not count."""
        found = tools.ticket_end_in(listing)
        assert found == (None if end is None else datetime.datetime.fromisoformat(end).astimezone())

    @pytest.mark.parametrize(
        "listing",
        [
            "KVNO Principal\n---- ------\n   2 me@TEST.INVALID\n   2 you@TEST.INVALID\n",
            "Vno  Type              Principal        Aliases\n  2  aes256-cts-hmac-  me@TEST.INVALID  \n",
        ],
        ids=["MIT", "Heimdal"],
    )
    def test_both_lists_of_keytabs(self, listing: str) -> None:
        """The first principal of a keytab, as `klist -k` of MIT and `ktutil list` of Heimdal wrote it."""
        assert tools.principal_in(listing) == "me@TEST.INVALID"
        assert tools.principal_in("klist: Unsupported key table format version number") is None

    def test_without_the_programs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where Kerberos is not installed there are no tickets, and a keytab cannot be used."""
        monkeypatch.setenv("PATH", str(tmp_path))
        assert not tools.ticket_lives()
        assert tools.ticket_end() is None
        assert not tools.renew_ticket()
        with pytest.raises(ToolMissing, match="klist"):
            tools.get_ticket(tmp_path / "keytab")
