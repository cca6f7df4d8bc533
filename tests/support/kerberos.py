"""A node that lets in by Kerberos ticket, with a key distribution centre of its own on loopback."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from pathlib import Path

from opensshtransport.sandbox import find_sshd
from tests.support.nodes import Node, missing_programs
from tests.support.users import wait_until

REALM = "TEST.INVALID"

_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    # Else the names of the machine's own network decide what "localhost" is called.
    rdns = false
    dns_canonicalize_hostname = false
    # A ticket that has expired is refused at once, and not five minutes later.
    clockskew = 1
[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    localhost = {realm}
[logging]
    kdc = FILE:{directory}/kdc.log
"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = 127.0.0.1:{port}
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    {realm} = {{
        database_name = {directory}/principal
        key_stash_file = {directory}/stash
        acl_file = {directory}/acl
        max_life = 1d
        max_renewable_life = 7d
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
    }}
"""


def missing_for_kerberos() -> str:
    """Why there can be no Kerberos realm here; empty if there can."""
    return missing_programs("sshd", "krb5kdc", "kdb5_util", "kadmin.local", "kinit", "kdestroy", "klist")


class KerberosNode(Node):
    """Lets in by `gssapi-with-mic` alone; it runs its own KDC, and knows no ticket at first.

    Attributes:
        client_environment: what ssh, kinit and klist need to find the realm and the ticket.
    """

    def __init__(self, host: str = "kerberos") -> None:
        super().__init__(
            host,
            server_options={
                "AuthenticationMethods": "gssapi-with-mic",
                "GSSAPIAuthentication": "yes",
                # Else only a key for the machine's own host name is used, and not that for localhost.
                "GSSAPIStrictAcceptorCheck": "no",
            },
            client_options={
                "HostName": "localhost",
                "AddressFamily": "inet",
                "GSSAPIAuthentication": "yes",
                "PreferredAuthentications": "gssapi-with-mic",
            },
        )
        self._kdc: subprocess.Popen[bytes] | None = None
        self.client_environment: dict[str, str] = {}

    def _configure_server(self) -> None:
        top = self.directory / "kerberos"
        top.mkdir(mode=0o700)
        self.client_environment = {
            "KRB5_CONFIG": str(top / "krb5.conf"),
            "KRB5CCNAME": f"FILE:{top}/ccache",
        }
        self._kdc_environment = {**self.client_environment, "KRB5_KDC_PROFILE": str(top / "kdc.conf")}
        self._write_configuration(top)
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", secrets.token_hex(8))
        for principal, keytab in (("host/localhost", "host.keytab"), (self.user, "user.keytab")):
            self._run("kadmin.local", "-q", f"addprinc -randkey {principal}")
            self._run("kadmin.local", "-q", f"ktadd -k {top}/{keytab} {principal}")
        self._start_kdc(top)
        self._environment |= {
            "KRB5_CONFIG": str(top / "krb5.conf"),
            "KRB5_KTNAME": str(top / "host.keytab"),
        }
        super()._configure_server()

    def _write_configuration(self, top: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._kdc_port: int = free.getsockname()[1]
        for name, text in (("krb5.conf", _KRB5_CONF), ("kdc.conf", _KDC_CONF)):
            (top / name).write_text(text.format(realm=REALM, port=self._kdc_port, directory=top))

    def _start_kdc(self, top: Path) -> None:
        self._kdc = subprocess.Popen(
            [_program("krb5kdc"), "-n", "-P", top / "kdc.pid"],
            env={**os.environ, **self._kdc_environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers() -> bool:
            assert self._kdc is not None
            if self._kdc.poll() is not None:
                raise RuntimeError(f"krb5kdc ended: {(top / 'kdc.log').read_text()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._kdc_port)) == 0

        wait_until(answers, what="the KDC to listen")

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            [_program(argv[0]), *argv[1:]],
            env={**os.environ, **self._kdc_environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {done.stderr.strip()}")
        return done.stdout

    def close(self) -> None:
        """Stop the KDC too."""
        super().close()
        if self._kdc is not None:
            self._kdc.terminate()
            self._kdc.wait()
            self._kdc = None

    def get_ticket(self, lifetime: str = "10m", *, renewable: str = "") -> None:
        """Get a ticket-granting ticket for the user, with lifetimes as kinit(1) writes them."""
        keytab = str(self.directory / "kerberos" / "user.keytab")
        self._run(
            "kinit", "-l", lifetime, *(["-r", renewable] if renewable else []), "-kt", keytab, self.user
        )

    def destroy_ticket(self) -> None:
        """Forget all tickets."""
        self._run("kdestroy", "-A")


def _program(name: str) -> str:
    # The KDC's programs lie where a plain user's PATH seldom looks.
    for place in ("/usr/sbin", "/sbin", "/usr/bin", str(find_sshd().parent)):
        if (path := Path(place) / name).exists():
            return str(path)
    return name
