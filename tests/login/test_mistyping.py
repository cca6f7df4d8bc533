"""A person who mistypes is asked again, and is told what was refused; nobody is locked out by that."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeChain, MakeConversationNode, MakeOathNode
from tests.login.test_second_factor import PASSWORD, clients, finish, login, nothing_left, settings, terminal
from tests.support.pam_nodes import LockingNode, asks, stored
from tests.support.programs import ossh, until

CODE = "314159"


@pytest.fixture
def passphrase_node() -> Iterator[Sandbox]:
    """A node whose key is encrypted."""
    with Sandbox(second_factor="passphrase") as made:
        yield made


def answer(child: pexpect.spawn[str], prompt: str, text: str) -> None:
    """Wait for a prompt, and type."""
    child.expect_exact(prompt)
    child.sendline(text)


def counted() -> int:
    """How many failed logins are noted."""
    files = list((Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*"))
    return sum(int(json.loads(file.read_text())["failures"]) for file in files)


def count(failures: int) -> None:
    """Have as many failures noted, as those of other logins."""
    (file,) = (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*")
    file.write_text(json.dumps({**json.loads(file.read_text()), "failures": failures}))


@pytest.mark.client
def test_passphrase_is_asked_for_three_times(passphrase_node: Sandbox) -> None:
    """Twice wrong, then right: each time it is said, on this machine, and no login has failed."""
    key = passphrase_node.directory / "id_ed25519"
    child = login(passphrase_node)
    for wrong in ("mistyped", "mistyped again"):
        answer(child, f"Enter passphrase for key '{key}': ", wrong)
        child.expect_exact(f"[ossh: wrong passphrase for {key}]")
    answer(child, f"Enter passphrase for key '{key}': ", passphrase_node.passphrase)
    status, shown = finish(child)
    assert (status, counted()) == (0, 0), shown
    assert passphrase_node.connections() == 1


@pytest.mark.client
def test_passphrase_is_wrong_three_times(passphrase_node: Sandbox) -> None:
    """Three times wrong: the error names the key, nothing is counted, and the next login asks again."""
    key = passphrase_node.directory / "id_ed25519"
    child = login(passphrase_node)
    for wrong in ("one", "two", "three"):
        answer(child, f"Enter passphrase for key '{key}': ", wrong)
    status, shown = finish(child)
    assert (status, counted()) == (255, 0)
    assert f"ossh login: sandbox: wrong passphrase for {key} (ssh said: " in shown
    assert shown.rstrip().endswith("; try again")
    assert "accepted none" not in shown
    child = login(passphrase_node)
    answer(child, ": ", passphrase_node.passphrase)
    assert finish(child)[0] == 0


@pytest.mark.parametrize("key", [True, False], ids=["after-a-key", "alone"])
@pytest.mark.client
def test_code_is_asked_for_again(make_oath_node: MakeOathNode, *, key: bool) -> None:
    """A mistyped code is reported as such, and the right one works."""
    node = make_oath_node(key=key)
    child = login(node)
    answer(child, "One-time password", "000000")
    child.expect_exact("[ossh: the server refused the code]")
    answer(child, "One-time password", node.code())
    status, shown = finish(child)
    assert (status, counted()) == (0, 0), shown
    assert node.log.read_text().count("Failed keyboard-interactive") == 1
    assert node.connections() == 1


def test_password_or_code(make_conversation_node: MakeConversationNode) -> None:
    """Where a server asks for two things before it refuses, either may be what was wrong."""
    node = make_conversation_node(asks(("Password: ", PASSWORD), ("Verification code: ", CODE)))
    child = login(node)
    answer(child, "Password: ", PASSWORD)
    answer(child, "Verification code: ", "271828")
    child.expect_exact("[ossh: the server refused the password or the code]")
    answer(child, "Password: ", PASSWORD)
    answer(child, "Verification code: ", CODE)
    assert finish(child)[0] == 0
    assert node.outcomes() == ["deny", "allow"]


def test_within_one_conversation(make_conversation_node: MakeConversationNode) -> None:
    """A server that asks again by itself, as Duo does, is within the same budget."""
    node = make_conversation_node("attempts 9\n" + asks(("Verification code: ", CODE)))
    child = login(node)
    for wrong in ("1", "2", "3"):
        answer(child, "Verification code: ", wrong)
    status, shown = finish(child)
    assert (status, counted()) == (255, 3)
    assert shown.rstrip().endswith("asks: the server refused the code (ossh help logging-in); try again")
    until(node.idle, "the server to see the end")
    assert node.answers() == ["1", "2", "3"]
    nothing_left(node.ssh_config)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_failures_before_leave_fewer(make_conversation_node: MakeConversationNode, before: int) -> None:
    """Failures of other logins leave fewer attempts, and one always; each is counted."""
    node = make_conversation_node(asks(("Password: ", PASSWORD)))
    if before:
        child = login(node)
        answer(child, "Password: ", "wrong")
        child.expect_exact("Password: ")
        child.sendintr()
        child.expect(pexpect.EOF)
        assert counted() == 1
        count(before)
    tried = len(node.answers())
    child = login(node)
    for number in range(max(1, 3 - before)):
        answer(child, "Password: ", f"wrong-{number}")
    status, shown = finish(child)
    assert status == 255
    assert "the server refused the password" in shown
    until(node.idle, "the server to see the end")
    assert len(node.answers()) - tried == max(1, 3 - before)
    assert counted() == max(before + 1, 3)
    child = login(node)
    answer(child, "Password: ", PASSWORD)
    assert (finish(child)[0], counted()) == (0, 0)


def test_no_fourth_attempt(locking_node: LockingNode, keep: Keep) -> None:
    """ssh goes on to its second way to ask for a password; the budget does not."""
    both = {"AuthenticationMethods": "keyboard-interactive password", "PasswordAuthentication": "yes"}
    locking_node.stop()
    locking_node.server_options = {**locking_node.server_options, **both}
    keep(locking_node)
    child = login(locking_node)
    for number in range(3):
        answer(child, "Password: ", f"wrong-{number}")
        if number == 1:
            child.expect_exact("[ossh: the server refused the password; this is the last attempt]")
    status, shown = finish(child)
    assert (status, counted()) == (255, 3)
    assert shown.rstrip().endswith("locks: the server refused the password (ossh help logging-in); try again")
    until(lambda: not clients(locking_node.ssh_config), "ssh to end")
    assert locking_node.log.read_text().count("Failed ") == 3


def test_refused_rule(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A stored password that is refused is not sent again: the person at the terminal is asked."""
    node = make_conversation_node(asks(("Password: ", PASSWORD)))
    settings(f"password = {stored(isolated, 'password', 'old-horse')}")
    child = login(node)
    child.expect_exact("[ossh: the server refused the password]")
    answer(child, "Password: ", PASSWORD)
    assert finish(child)[0] == 0
    assert node.answers() == ["old-horse", PASSWORD]


def test_jump_host(make_chain: MakeChain) -> None:
    """The jump host asks again too, and the message says which host has refused."""
    chain = make_chain("code", "code")
    jump, target = chain.nodes
    config = chain.config()
    child = terminal(["login", "-F", config, "target"])
    child.expect("One-time password")
    child.sendline("000000")
    child.expect(r"\[ossh: \S+ refused the code\]")
    answer(child, "One-time password", jump.code())
    answer(child, "One-time password", target.code())
    assert finish(child)[0] == 0


def test_jump_host_refuses_to_the_end(make_chain: MakeChain) -> None:
    """The messages of the jump host's own ssh are lost; the error still says which host has refused."""
    chain = make_chain("code", "key")
    child = terminal(["login", "-F", chain.config(), "target"])
    for _ in range(3):
        answer(child, "One-time password", "000000")
    status, shown = finish(child)
    assert status == 255
    assert re.search(r"ossh login: target: \S+ refused the code", shown), shown
    assert counted() == 3


# -- without a person ----------------------------------------------------------------------------------


def encrypted_key_besides(node: Sandbox, directory: Path) -> Path:
    """An ssh_config that names a key with a passphrase, which no agent holds."""
    key = directory / "encrypted"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSWORD, "-f", key], check=True)
    config = directory / "with-key"
    text = re.sub(r"(?m)^\s*IdentityFile .*\n", "", node.ssh_config.read_text())
    config.write_text(f"IdentityFile {key}\n{text}")
    return config


def test_a_key_that_the_server_does_not_want(
    make_conversation_node: MakeConversationNode, isolated: Path
) -> None:
    """Where keys are no way in, an encrypted one is no cause, and to add it to an agent no advice."""
    node = make_conversation_node(asks(("Password: ", PASSWORD)))
    config = encrypted_key_besides(node, isolated)
    done = ossh("login", "-F", config, node.host)
    said = done.stderr.decode()
    assert done.returncode == 255
    assert "a person must log in: the server accepted none" in said
    assert "ssh-add" not in said
    assert "is encrypted" not in said
    assert said.endswith("; run it at a terminal\n")


@pytest.mark.parametrize("line", ["PreferredAuthentications keyboard-interactive", "PubkeyAuthentication no"])
def test_a_key_that_is_not_offered(own_node: Sandbox, isolated: Path, line: str) -> None:
    """Likewise where ssh_config offers no keys."""
    config = encrypted_key_besides(own_node, isolated)
    config.write_text(f"{line}\n{config.read_text()}")
    done = ossh("login", "-F", config, own_node.host)
    assert done.returncode == 255
    assert b"ssh-add" not in done.stderr


def test_wrong_passphrase_of_a_rule(passphrase_node: Sandbox, isolated: Path) -> None:
    """A wrong stored passphrase is reported as such."""
    key = passphrase_node.directory / "id_ed25519"
    answered = f'expect = "^Enter passphrase"\nanswer = {stored(isolated, "passphrase", "wrong")}'
    settings(f"[[host.sandbox.prompts]]\n{answered}", host="sandbox")
    done = ossh("login", "-F", passphrase_node.ssh_config, passphrase_node.host)
    assert f"wrong passphrase for {key} (ssh said: " in done.stderr.decode()
