"""The nodes that ask: plain ssh gets in with the right answers, and not with wrong or spent ones."""

from __future__ import annotations

import time

import pytest

from tests.conftest import MakeConversationNode, MakeOathNode
from tests.support.nodes import log_in
from tests.support.pam_nodes import ConversationNode, LockingNode, asks, duo

CODE = r"\(o\w+@otp\) One-time password \(OATH\) for `o\w+': "
MENU = (
    r"\(o\w+@asks\) Duo two-factor login for o\w+\r\n\r\nEnter a passcode [^)]+Passcode or option \(1-1\): "
)


class TestOneTimeCodes:
    """Nodes with libpam-oath."""

    def test_password_then_code(self, make_oath_node: MakeOathNode) -> None:
        """Both are asked for, one after the other; a wrong password shows only after the code."""
        node = make_oath_node(password="right")
        assert log_in(node, ("Password: ", "right"), (CODE, node.code())).worked
        wrong = log_in(node, ("Password: ", "wrong"), (CODE, node.code(ahead=1)))
        assert wrong.returncode == 255
        assert "Permission denied (keyboard-interactive)." in wrong.shown
        assert not log_in(node, ("Password: ", "right"), (CODE, "000000")).worked
        assert node.authentications() == 1

    def test_key_then_code(self, make_oath_node: MakeOathNode) -> None:
        """After the key only the code is asked for."""
        node = make_oath_node(key=True)
        assert log_in(node, (CODE, node.code())).worked
        assert not log_in(node, (CODE, "000000")).worked
        no_key = log_in(node, options=["-o", "PubkeyAuthentication=no"])
        assert "Permission denied (publickey)." in no_key.shown

    def test_code_alone_and_only_once(self, make_oath_node: MakeOathNode) -> None:
        """A code works once; the same again is refused, a later one works."""
        node = make_oath_node()
        code = node.code()
        assert log_in(node, (CODE, code)).worked
        assert not log_in(node, (CODE, code)).worked
        assert log_in(node, (CODE, node.code(ahead=1))).worked
        assert node.authentications() == 2


class TestConversations:
    """Nodes with the module that plays a script."""

    def test_duo_push(self, duo_node: ConversationNode) -> None:
        """Option 1 pushes; the answer comes when the person has agreed, with its text only then."""
        duo_node.set_script(duo(seconds=1.5))
        begin = time.monotonic()
        login = log_in(duo_node, (MENU, "1"))
        assert time.monotonic() - begin >= 1.5
        assert login.worked
        assert "Pushed a login request to your device...\r\nSuccess. Logging you in..." in login.shown
        assert (duo_node.answers(), duo_node.outcomes()) == (["1"], ["allow"])

    def test_duo_push_denied(self, duo_node: ConversationNode) -> None:
        """A push that is denied ends the login; Duo may ask again within the same login."""
        duo_node.set_script(duo(push=False))
        assert "Login request denied." in log_in(duo_node, (MENU, "1")).shown
        duo_node.set_script(duo(push=False, attempts=3))
        second = r"Login request denied\.\s+Duo two-factor login(?s:.*)\(1-1\): "
        assert not log_in(duo_node, (MENU, "1"), (second, "1"), (second, "1")).worked
        assert (duo_node.answers(), duo_node.outcomes()) == (["1"] * 4, ["deny"] * 2)
        assert duo_node.authentications() == 0

    def test_duo_passcode(self, duo_node: ConversationNode) -> None:
        """Anything but an option is a passcode."""
        assert log_in(duo_node, (MENU, "123456")).worked
        assert not log_in(duo_node, (MENU, "654321")).worked
        assert duo_node.answers() == ["123456", "654321"]

    @pytest.mark.parametrize(
        "prompt", ["TACC Token Code:", "Password + OTP: ", "PASSCODE", "Enter PIN,push or code (\\\\d): "]
    )
    def test_any_prompt(self, make_conversation_node: MakeConversationNode, prompt: str) -> None:
        """A prompt arrives byte for byte, even without a space or a colon at the end."""
        node = make_conversation_node(asks((prompt, "s3 cret")))
        shown = prompt.replace("\\\\", "\\")
        login = log_in(node, (r"\) \S.*", "s3 cret"))
        assert login.worked
        assert f"@asks) {shown}\r\n" in login.shown
        assert node.answers() == ["s3 cret"]

    def test_several_prompts(self, make_conversation_node: MakeConversationNode) -> None:
        """A menu, a password and a code in turn, with a notice before the first."""
        script = "info Maintenance on Monday\necho_on 1: push, 2: code - \nexpect 2\n"
        node = make_conversation_node(script + asks(("Password: ", "p"), ("OTP: ", "7")))
        turns = [("Maintenance on Monday\r\n1: push, 2: code - ", "2"), ("Password: ", "p")]
        assert log_in(node, *turns, ("OTP: ", "7")).worked
        assert not log_in(node, *turns, ("OTP: ", "8")).worked
        assert node.answers() == ["2", "p", "7", "2", "p", "8"]


class TestLocking:
    """The node that locks an account."""

    def test_three_failures_lock(self, locking_node: LockingNode) -> None:
        """After three failures the right password is refused too, with a notice inside the prompt."""
        assert log_in(locking_node, ("Password: ", "right")).worked
        for count in (1, 2, 3):
            assert not log_in(locking_node, ("Password: ", "wrong")).worked
            assert locking_node.failures() == count
        notice = r"\(o\w+@locks\) The account is locked due to 3 failed logins\.\r\n.*\r\nPassword: "
        assert not log_in(locking_node, (notice, "right")).worked
        assert locking_node.authentications() == 1

    def test_success_forgets_failures(self, locking_node: LockingNode) -> None:
        """A login that works sets the count back."""
        assert not log_in(locking_node, ("Password: ", "wrong")).worked
        assert log_in(locking_node, ("Password: ", "right")).worked
        assert locking_node.failures() == 0
