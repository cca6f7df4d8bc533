"""`ossh login` without a terminal: the program of SSH_ASKPASS asks, where ssh itself would use it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from opensshtransport.login.window import Window, shown, window
from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeConversationNode, MakeOathNode
from tests.support.pam_nodes import asks
from tests.support.programs import ossh, ossh_run

pytestmark = pytest.mark.client


class Askpass:
    """A program that notes what it was asked, and answers as its script says."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "askpass"
        self._asked = directory / "asked"

    def answers(self, script: str) -> dict[str, str]:
        """Let it answer by these lines of sh; gives the variables of a desktop."""
        self.program.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$1\" >>{self._asked}\n{script}\n")
        self.program.chmod(0o700)
        return {"SSH_ASKPASS": str(self.program), "DISPLAY": ":7"}

    @property
    def asked(self) -> list[str]:
        """What it was asked so far."""
        return self._asked.read_text().split("\0")[:-1] if self._asked.exists() else []


@pytest.fixture
def askpass(isolated: Path) -> Askpass:
    """A program for SSH_ASKPASS."""
    return Askpass(isolated)


def failures() -> int:
    """How many failed logins are noted."""
    found = Path(os.environ["XDG_STATE_HOME"]).rglob("failures/*.json")
    return sum(json.loads(file.read_text())["failures"] for file in found)


def test_second_factor(make_oath_node: MakeOathNode, askpass: Askpass) -> None:
    """A real second factor through a window: the prompt names the host that asks, and the login works."""
    node = make_oath_node(key=True)
    done = ossh("login", "-F", node.ssh_config, node.host, env=askpass.answers(f"echo {node.code()}"))
    assert done.returncode == 0, done.stderr
    (prompt,) = askpass.asked
    assert prompt.startswith(f"({node.user}@{node.host}) One-time password")


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo 123456; exit 1", "kill -s KILL $$"])
def test_cancelled(make_oath_node: MakeOathNode, askpass: Askpass, script: str) -> None:
    """What is cancelled, or answered by nothing, sends nothing and costs nothing, here or there."""
    node = make_oath_node(key=True)
    done = ossh("login", "-F", node.ssh_config, node.host, env=askpass.answers(script))
    assert (done.returncode, b"was not answered" in done.stderr) == (255, True)
    assert len(askpass.asked) == 1
    assert failures() == 0
    # sshd counts what was answered
    assert "Failed keyboard-interactive" not in node.log.read_text()


def test_wrong_answers_are_few(make_conversation_node: MakeConversationNode, askpass: Askpass) -> None:
    """A wrong answer is reported with the next question; after three of them the login ends."""
    node = make_conversation_node(asks(("Code: ", "123456")))
    done = ossh("login", "-F", node.ssh_config, node.host, env=askpass.answers("echo wrong"))
    assert done.returncode == 255
    assert 1 <= len(node.answers()) <= 3
    assert all("refused" in prompt for prompt in askpass.asked[1:])
    assert failures() >= 1


def test_host_key(own_node: Sandbox, askpass: Askpass) -> None:
    """The fingerprint is shown; nonsense is asked for three times at most; yes is yes."""
    (own_node.directory / "known_hosts").write_text("")
    config = own_node.ssh_config
    config.write_text(config.read_text().replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask"))
    done = ossh("login", "-F", config, own_node.host, env=askpass.answers("echo nonsense"))
    assert (done.returncode, b"neither yes nor no" in done.stderr) == (255, True)
    assert len(askpass.asked) == 3
    assert "SHA256:" in askpass.asked[0]
    assert ossh("login", "-F", config, own_node.host, env=askpass.answers("echo no")).returncode == 255
    assert ossh("login", "-F", config, own_node.host, env=askpass.answers("echo yes")).returncode == 0
    assert len(askpass.asked) == 5


def test_nobody_is_asked(make_oath_node: MakeOathNode, askpass: Askpass) -> None:
    """Not where ssh would not: without a display, with `never`, or unattended."""
    node = make_oath_node(key=True)
    told = askpass.answers("echo 123456")
    for words, environment in (
        ([], {"DISPLAY": ""}),
        ([], {"SSH_ASKPASS_REQUIRE": "never"}),
        (["--unattended"], {}),
    ):
        done = ossh("login", *words, "-F", node.ssh_config, node.host, env={**told, **environment})
        assert done.returncode == 255
    assert askpass.asked == []


def test_other_commands(make_oath_node: MakeOathNode, askpass: Askpass) -> None:
    """`ossh doctor --login` and `ossh-run` ask by the window too."""
    node = make_oath_node(key=True)
    told = askpass.answers(f"echo {node.code()}")
    done = ossh("doctor", "--login", "-F", node.ssh_config, node.host, env=told)
    assert b"live since" in done.stdout, done
    assert ossh("logout", "-F", node.ssh_config, node.host).returncode == 0
    # a code is taken once
    told = askpass.answers(f"echo {node.code(ahead=1)}")
    assert ossh_run("-F", node.ssh_config, node.host, "echo words", env=told).stdout == b"words\n"
    assert len(askpass.asked) == 2


_HERE = Window("/bin/ask")


@pytest.mark.parametrize(
    ("environment", "terminal", "found"),
    [
        ({}, False, None),
        ({"DISPLAY": ":0"}, False, _HERE),
        ({"WAYLAND_DISPLAY": "w"}, False, _HERE),
        ({"DISPLAY": ":0"}, True, None),
        ({"DISPLAY": ":0", "SSH_ASKPASS_REQUIRE": "prefer"}, True, _HERE),
        ({"SSH_ASKPASS_REQUIRE": "prefer"}, False, None),
        ({"SSH_ASKPASS_REQUIRE": "FORCE"}, True, _HERE),
        ({"DISPLAY": ":0", "SSH_ASKPASS_REQUIRE": "never"}, False, None),
    ],
)
def test_where_ssh_would(environment: dict[str, str], terminal: bool, found: Window | None) -> None:
    """The table of readpass.c."""
    given = {"SSH_ASKPASS": "/bin/ask", **environment}
    assert window(given, terminal=terminal, require=True) == found
    assert window(environment, terminal=terminal, require=True) is None


def test_what_is_shown() -> None:
    """Nothing that a server sends hides who asks, not even a carriage return."""
    assert shown("(a@front) \r(a@target) Password: ", "h", named=True) == "(a@front) ?(a@target) Password: "
    assert shown("Code:\n\x1b[2J", "h", named=False) == "(h) Code:\n?[2J"
