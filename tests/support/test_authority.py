"""The node with a certificate authority: it accepts only valid certificates."""

from __future__ import annotations

import pexpect

from tests.support.authority import AuthorityNode
from tests.support.nodes import log_in
from tests.support.users import wait_until


def get_certificate(node: AuthorityNode, password: str, code: str) -> str:
    """Run the script at a terminal; returns what it said after the last question."""
    child: pexpect.spawn[str] = pexpect.spawn(node.script, encoding="utf-8", timeout=10)
    answers = (("Username: ", node.name), ("Password: ", password), (r"Enter OTP \(6-digit code\): ", code))
    for prompt, answer in answers:
        child.expect(prompt)
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    return f"{child.exitstatus} {(child.before or '').strip()}"


def test_certificate(authority_node: AuthorityNode) -> None:
    """Without a certificate the key alone is refused; the script's answers get one, and it lets in."""
    refused = log_in(authority_node)
    assert "Permission denied (publickey)." in refused.shown
    said = get_certificate(authority_node, authority_node.password, authority_node.new_code())
    assert said == "0 A certificate for 3600 seconds is in place."
    assert log_in(authority_node).worked
    assert authority_node.runs() == 1


def test_wrong_answers(authority_node: AuthorityNode) -> None:
    """A wrong password or a spent code gets no certificate."""
    code = authority_node.new_code()
    assert get_certificate(authority_node, "wrong", code) == "1 Error: wrong credentials"
    assert get_certificate(authority_node, authority_node.password, "12345x") == "1 Error: wrong credentials"
    assert get_certificate(authority_node, authority_node.password, code).startswith("0 ")
    assert get_certificate(authority_node, authority_node.password, code) == "1 Error: wrong credentials"
    assert authority_node.runs() == 4


def test_certificate_expires(authority_node: AuthorityNode) -> None:
    """After its seconds a certificate lets nobody in, and the error names only the key."""
    authority_node.set_validity(3)
    get_certificate(authority_node, authority_node.password, authority_node.new_code())
    assert log_in(authority_node).worked
    wait_until(lambda: not log_in(authority_node).worked, what="the certificate to expire")
    assert "Permission denied (publickey)." in log_in(authority_node).shown
