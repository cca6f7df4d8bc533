"""Logging in by a Kerberos ticket: with one, without one, and what gets one."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.support.authority import AuthorityNode
from tests.support.kerberos import KerberosNode
from tests.support.programs import OSSH, ossh, ossh_run, status, until, write_settings


def report(config: Path, host: str) -> dict[str, Any]:
    """Log in where nobody is; the error as a value."""
    done = ossh("login", "--report", "-F", config, host)
    assert done.returncode == 255, done.stdout
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def log_in(config: Path, host: str, **variables: str) -> None:
    """Log in where nobody is; that works."""
    done = ossh("login", "-F", config, host, env=variables)
    assert done.returncode == 0, done.stderr.decode()


def ends() -> list[datetime.datetime]:
    """When the ticket-granting tickets end, as klist shows it."""
    env = {**os.environ, "LC_ALL": "C"}
    shown = subprocess.run(["klist"], capture_output=True, text=True, check=False, env=env).stdout
    rows = [line.split() for line in shown.splitlines() if " krbtgt/" in line]
    # releases differ in the digits of the year
    forms = {8: "%m/%d/%y %H:%M:%S", 10: "%m/%d/%Y %H:%M:%S"}
    return [
        datetime.datetime.strptime(f"{date} {clock}", forms[len(date)]).astimezone()
        for _, _, date, clock, *_ in rows
    ]


def lives() -> bool:
    """Whether klist finds a valid ticket."""
    return subprocess.run(["klist", "-s"], check=False).returncode == 0


def keytab_of(node: KerberosNode) -> Path:
    """The user's keytab."""
    return node.directory / "kerberos" / "user.keytab"


def next_second() -> None:
    """Wait until what is stamped in seconds differs."""
    begin = int(time.time())
    until(lambda: int(time.time()) > begin + 1, "the clock to go on")


def test_login_by_ticket(kerberos_node: KerberosNode) -> None:
    """A ticket alone suffices, and the master goes on without it."""
    kerberos_node.get_ticket()
    config, host = kerberos_node.ssh_config, kerberos_node.host
    done = ossh_run("-F", config, host, "echo x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    kerberos_node.destroy_ticket()
    assert ossh_run("-F", config, host, "echo y").stdout == b"y\n"
    assert kerberos_node.authentications() == 1


def test_no_ticket(kerberos_node: KerberosNode) -> None:
    """Without a ticket and a person the error says that, and names kinit; after it a person gets in."""
    config, host = kerberos_node.ssh_config, kerberos_node.host
    error = report(config, host)
    assert error["error"] == "LoginNeeded"
    assert "there is no Kerberos ticket, or it has expired" in error["message"]
    assert "Permission denied (gssapi-with-mic)" in error["message"]
    assert error["advice"]["words"] == "run: kinit"
    assert kerberos_node.authentications() == 0
    kerberos_node.get_ticket()
    child = pexpect.spawn(str(OSSH), ["login", "-F", str(config), host], timeout=30, encoding="utf-8")
    child.expect("logged in as")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_no_ticket_at_the_terminal(kerberos_node: KerberosNode) -> None:
    """A person reads the same at the terminal."""
    argv = ["login", "-F", str(kerberos_node.ssh_config), kerberos_node.host]
    child = pexpect.spawn(str(OSSH), argv, timeout=30, encoding="utf-8", dimensions=(24, 500))
    child.expect("there is no Kerberos ticket, or it has expired")
    child.expect("; run: kinit\r\n")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 255


def test_ticket_has_ended(kerberos_node: KerberosNode) -> None:
    """An expired ticket is reported as such."""
    kerberos_node.get_ticket("2s")
    until(lambda: not lives(), "the ticket to end")
    # the clocks may differ by a second (clockskew)
    next_second()
    error = report(kerberos_node.ssh_config, kerberos_node.host)
    assert error["error"] == "LoginNeeded"
    assert "there is no Kerberos ticket, or it has expired" in error["message"]
    assert error["advice"]["words"] == "run: kinit"


def test_refused_with_a_ticket(kerberos_node: KerberosNode, isolated: Path) -> None:
    """With a valid ticket, a refusal is not attributed to the ticket."""
    kerberos_node.get_ticket()
    config = isolated / "ssh_config"
    text = kerberos_node.ssh_config.read_text()
    config.write_text(text.replace(f"User {kerberos_node.user}\n", "User nobody\n"))
    assert "User nobody" in config.read_text()
    error = report(config, kerberos_node.host)
    assert "Permission denied (gssapi-with-mic)" in error["message"]
    assert "ticket, or it has expired" not in error["message"]
    assert error["advice"]["words"] != "run: kinit"


def test_renewed_before_the_login(kerberos_node: KerberosNode) -> None:
    """A renewable ticket that ends within `min_validity` is renewed first."""
    kerberos_node.get_ticket("30m", renewable="2h")
    (before,) = ends()
    next_second()
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    (after,) = ends()
    assert after > before
    assert kerberos_node.authentications() == 1


@pytest.mark.parametrize(("lifetime", "more"), [("2h", ""), ("30m", 'min_validity = "20m"')])
def test_not_renewed_without_need(kerberos_node: KerberosNode, lifetime: str, more: str) -> None:
    """One that is valid longer than `min_validity` stays as it is."""
    write_settings(f"[host.kerberos]\n{more}\n")
    kerberos_node.get_ticket(lifetime, renewable="1d")
    before = ends()
    next_second()
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    assert ends() == before


def test_not_renewable(kerberos_node: KerberosNode) -> None:
    """One that ends soon and cannot be renewed is still good for a login."""
    kerberos_node.get_ticket("10m")
    before = ends()
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    assert ends() == before


def test_nothing_is_renewed_for_a_live_master(kerberos_node: KerberosNode) -> None:
    """Where a master is running, no ticket is touched."""
    kerberos_node.get_ticket("2h")
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    kerberos_node.get_ticket("30m", renewable="2h")
    before = ends()
    next_second()
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    assert ends() == before


def test_keytab(kerberos_node: KerberosNode) -> None:
    """Without a ticket the keytab of the settings gets one; with a valid one it is not used."""
    write_settings(f'[host.kerberos]\nkeytab = "{keytab_of(kerberos_node)}"\nmin_validity = 60\n')
    config, host = kerberos_node.ssh_config, kerberos_node.host
    log_in(config, host)
    (first,) = ends()
    assert ossh("logout", "-F", config, host).returncode == 0
    next_second()
    log_in(config, host)
    assert ends() == [first]
    assert kerberos_node.authentications() == 2


def test_keytab_after_the_end(kerberos_node: KerberosNode) -> None:
    """An expired ticket is replaced by the keytab."""
    write_settings(f'[host.kerberos]\nkeytab = "{keytab_of(kerberos_node)}"\n')
    kerberos_node.get_ticket("2s")
    until(lambda: not lives(), "the ticket to end")
    log_in(kerberos_node.ssh_config, kerberos_node.host)
    assert lives()


def test_bad_keytab(kerberos_node: KerberosNode, isolated: Path) -> None:
    """A file that is no keytab is the error, and no login is tried; neither with one that is missing."""
    (isolated / "keytab").write_text("no keytab")
    write_settings(f'[host.kerberos]\nkeytab = "{isolated}/keytab"\n')
    error = report(kerberos_node.ssh_config, kerberos_node.host)
    assert error["error"] == "SettingsError"
    assert f"{isolated}/keytab is not a keytab" in error["message"]
    write_settings(f'[host.kerberos]\nkeytab = "{isolated}/none"\n')
    done = ossh("login", "-F", kerberos_node.ssh_config, kerberos_node.host)
    assert f'host."kerberos".keytab: there is no {isolated}/none' in done.stderr.decode()
    assert kerberos_node.connections() == 0


def test_status_tells_the_ticket(kerberos_node: KerberosNode) -> None:
    """`ossh status --json` has the end of the ticket, with its zone; none without a ticket."""
    config, host = kerberos_node.ssh_config, kerberos_node.host
    (row,) = status(config, host)
    assert (row["state"], row["ticket_expires"], row["certificate_expires"]) == ("none", None, None)
    kerberos_node.get_ticket("2h")
    log_in(config, host)
    (row,) = status(config, host)
    told = datetime.datetime.fromisoformat(row["ticket_expires"])
    assert told.tzinfo is not None
    assert [told] == ends()
    assert row["certificate_expires"] is None
    table = ossh("status", "-F", config).stdout.decode()
    assert re.search(r"  TICKET\n.*  in (?:1\d\d min|2 h)\n", table)


def test_status_tells_the_certificate(authority_node: AuthorityNode) -> None:
    """`ossh status --json` has the end of the certificate, and no ticket where none is asked for."""
    node = authority_node
    (row,) = status(node.ssh_config, node.host)
    assert (row["ticket_expires"], row["certificate_expires"]) == (None, None)
    words = ["-I", "x", "-n", node.user, "-V", "+2h"]
    key = node.directory / "id_ed25519.pub"
    subprocess.run(["ssh-keygen", "-q", "-s", node.directory / "ca", *words, key], check=True)
    wanted = datetime.datetime.now().astimezone() + datetime.timedelta(hours=2)
    log_in(node.ssh_config, node.host)
    (row,) = status(node.ssh_config, node.host)
    told = datetime.datetime.fromisoformat(row["certificate_expires"])
    assert abs(told - wanted) < datetime.timedelta(seconds=30)
    assert row["ticket_expires"] is None


def test_status_of_several_certificates(authority_node: AuthorityNode, isolated: Path) -> None:
    """Of an expired and a valid certificate, the valid one's expiry is shown, because that one lets in."""
    node = authority_node
    key = node.directory / "id_ed25519.pub"
    sign = ["ssh-keygen", "-q", "-s", str(node.directory / "ca"), "-I", "x", "-n", node.user]
    subprocess.run([*sign, "-V", "+2h", key], check=True)
    shutil.copy(node.directory / "id_ed25519-cert.pub", isolated / "living-cert.pub")
    subprocess.run([*sign, "-V", "-2h:-1h", key], check=True)
    config = isolated / "ssh_config"
    config.write_text(f"{node.ssh_config.read_text()}CertificateFile {isolated}/living-cert.pub\n")
    log_in(config, node.host)
    (row,) = status(config, node.host)
    assert datetime.datetime.fromisoformat(row["certificate_expires"]) > datetime.datetime.now().astimezone()


@pytest.fixture
def asks_for_tickets() -> Iterator[Sandbox]:
    """A node that lets in by key, whose ssh_config asks for GSSAPI too."""
    with Sandbox(client_options={"GSSAPIAuthentication": "yes"}) as made:
        yield made


def programs_without(directory: Path, *unwanted: str) -> str:
    """A PATH that has everything but some programs."""
    directory.mkdir()
    for place in ("/bin", "/usr/bin"):
        for program in Path(place).iterdir():
            link = directory / program.name
            if program.name not in unwanted and not link.exists():
                link.symlink_to(program)
    return str(directory)


@pytest.mark.parametrize("trouble", ["no ticket", "no programs", "broken krb5.conf", "strange cache"])
def test_login_by_key_needs_no_ticket(asks_for_tickets: Sandbox, isolated: Path, trouble: str) -> None:
    """With GSSAPIAuthentication in ssh_config, a login by key works whatever is wrong with Kerberos."""
    (isolated / "krb5.conf").write_text("[libdefaults\n = }\n")
    variables = {
        "no ticket": {},
        "no programs": {"PATH": programs_without(isolated / "bin", "klist", "kinit")},
        "broken krb5.conf": {"KRB5_CONFIG": str(isolated / "krb5.conf")},
        "strange cache": {"KRB5CCNAME": "KCM:"},
    }[trouble]
    if trouble == "no programs":
        assert shutil.which("klist", path=variables["PATH"]) is None
        assert shutil.which("ssh", path=variables["PATH"])
    config, host = asks_for_tickets.ssh_config, asks_for_tickets.host
    done = ossh("login", "-F", config, host, env=variables)
    assert done.returncode == 0
    assert done.stderr.startswith(b"sandbox: logged in as ")
    assert done.stderr.count(b"\n") == 1
    done = ossh("status", "-F", config, "--json", host, env=variables)
    (row,) = json.loads(done.stdout)
    assert (row["state"], row["ticket_expires"]) == ("live", None)
    assert asks_for_tickets.authentications() == 1


def test_refused_key_is_not_put_down_to_the_ticket(asks_for_tickets: Sandbox) -> None:
    """Where the server asks for a key alone, the error of a refused one says nothing of tickets."""
    (asks_for_tickets.directory / "authorized_keys").write_text("")
    error = report(asks_for_tickets.ssh_config, asks_for_tickets.host)
    assert "Permission denied (publickey)" in error["message"]
    assert "icket" not in error["message"].replace("keys, tickets or answers", "")
    assert "kinit" not in error["advice"]["words"]
