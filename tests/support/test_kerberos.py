"""The Kerberos node: it accepts only valid tickets."""

from __future__ import annotations

import subprocess

from tests.support.kerberos import REALM, KerberosNode
from tests.support.nodes import log_in
from tests.support.users import wait_until

REFUSED = "Permission denied (gssapi-with-mic)."


def test_ticket_is_needed(kerberos_node: KerberosNode) -> None:
    """Without a ticket ssh is refused, with one it gets in, and without it again refused."""
    assert REFUSED in log_in(kerberos_node).shown
    kerberos_node.get_ticket()
    assert log_in(kerberos_node).worked
    kerberos_node.destroy_ticket()
    assert REFUSED in log_in(kerberos_node).shown
    assert kerberos_node.authentications() == 1


def test_ticket_expires(kerberos_node: KerberosNode) -> None:
    """After its lifetime, and the clock skew that is allowed, a ticket lets nobody in."""
    kerberos_node.get_ticket("3s")
    assert log_in(kerberos_node).worked
    wait_until(lambda: REFUSED in log_in(kerberos_node).shown, what="the ticket to expire")
    assert subprocess.run(["klist", "-s"], check=False).returncode == 1


def test_ticket_is_renewed(kerberos_node: KerberosNode) -> None:
    """A renewable ticket says until when, and can be renewed."""
    kerberos_node.get_ticket("1h", renewable="2h")
    shown = subprocess.run(["klist"], capture_output=True, text=True, check=True).stdout
    assert f"krbtgt/{REALM}@{REALM}" in shown
    assert "renew until" in shown
    subprocess.run(["kinit", "-R"], check=True)
    assert log_in(kerberos_node).worked
