"""A second factor that is asked by way of a plain ssh: at its terminal, by SSH_ASKPASS, or not at all."""

from __future__ import annotations

import shlex
from pathlib import Path

import pexpect
import pytest

from tests.conftest import MakeOathNode
from tests.login.test_askpass import Askpass
from tests.sharing.conftest import Plain, share
from tests.support.pam_nodes import OathNode
from tests.support.programs import Done

pytestmark = pytest.mark.client

ASKED = "One-time password"


@pytest.fixture
def otp(make_oath_node: MakeOathNode) -> Plain:
    """A shared name that asks for a code after the key."""
    return share(make_oath_node(key=True))


def code(plain: Plain, *, ahead: int = 0) -> str:
    """A code that the node takes."""
    node = plain.node
    assert isinstance(node, OathNode)
    return node.code(ahead=ahead)


def terminal(plain: Plain, line: str) -> pexpect.spawn[str]:
    """A line of sh at a terminal; `ssh` is ssh with the node's ssh_config."""
    ssh = shlex.join(["ssh", "-F", str(plain.config)])
    return pexpect.spawn(
        "/bin/sh", ["-c", line.replace("ssh ", f"{ssh} ")], timeout=30, encoding="utf-8", echo=False
    )


def finish(child: pexpect.spawn[str]) -> tuple[int, str]:
    """The status, and what was shown at last."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus if child.exitstatus is not None else -1, child.before or ""


def failed(plain: Plain) -> int:
    """How many wrong or empty answers the node has seen."""
    return plain.node.log.read_text().count("Failed keyboard-interactive")


def test_typed_at_the_terminal(otp: Plain) -> None:
    """ssh's own terminal is asked, though stdin is a pipe; then the command runs, the next one at once."""
    child = terminal(otp, "echo words | ssh otp cat")
    child.expect(f"{otp.node.user}@.*{ASKED}")
    typed = code(otp)
    child.sendline(typed)
    status, shown = finish(child)
    assert (status, shown.split()[-1]) == (0, "words")
    assert typed not in shown
    status, shown = finish(terminal(otp, "ssh otp 'echo again; exit 7'"))
    assert (status, shown.split()) == (7, ["again"])
    assert (otp.logins(), otp.node.connections(), failed(otp)) == (1, 1, 0)


def test_given_up_at_the_terminal(otp: Plain) -> None:
    """Ctrl-C at the question ends ssh and the script around it; nothing was sent, and nobody dials."""
    child = terminal(otp, "ssh otp true; echo status $?")
    child.expect(ASKED)
    child.sendintr()
    status, shown = finish(child)
    assert (status == 0, "status 0" in shown) == (False, False)
    assert (otp.logins(), otp.node.connections(), failed(otp)) == (0, 1, 0)


def test_by_askpass(otp: Plain, isolated: Path) -> None:
    """Without a terminal SSH_ASKPASS asks, once; what is cancelled there sends nothing."""
    askpass = Askpass(isolated)
    assert otp.ssh("otp", "true", **askpass.answers("exit 1")).returncode == 255
    assert (otp.logins(), failed(otp)) == (0, 0)
    done = otp.ssh("otp", "echo words", **askpass.answers(f"echo {code(otp)}"))
    assert (done.stdout, done.stderr, done.returncode) == (b"words\n", b"", 0)
    assert otp.ssh("otp", "echo words").stdout == b"words\n"
    assert [prompt.partition(ASKED)[1] for prompt in askpass.asked] == [ASKED] * 2
    assert otp.logins() == 1


def test_nobody_is_asked(otp: Plain, isolated: Path) -> None:
    """Unattended, and with BatchMode: one line says why, ssh does not dial, and later calls do not try."""
    askpass = Askpass(isolated)
    told = askpass.answers(f"echo {code(otp)}")

    def refused(done: Done) -> bytes:
        assert (done.stdout, done.returncode) == (b"", 255)
        # the second line is ssh's own
        return done.stderr.splitlines()[0]

    assert b"otp: a person must log in: " in refused(otp.ssh("otp", "true"))
    # our own login, which nobody could go on with
    assert otp.node.connections() == 1
    for _ in range(3):
        assert b"no unattended login for " in refused(otp.ssh("-oBatchMode=yes", "otp", "true", **told))
    assert (otp.node.connections(), failed(otp), askpass.asked) == (1, 0, [])
    child = terminal(otp, "ssh -oBatchMode=yes otp true")
    assert finish(child)[0] == 255
    assert otp.node.connections() == 1
