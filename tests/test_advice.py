"""Every advice of the package, and that it helps to do what it says."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport.cli import output
from opensshtransport.errors import OpenSshTransportError, Remedy
from opensshtransport.local.settings import load
from opensshtransport.prompts.answers import parse_answer
from opensshtransport.prompts.rules import parse_rule
from opensshtransport.sandbox import Sandbox
from opensshtransport.setup.plan import parse_hop
from tests.conftest import Keep, MakeConversationNode, MakeUser, require
from tests.login.test_agent import _end_agents, key_of
from tests.login.test_mistyping import answer
from tests.login.test_second_factor import PASSWORD, finish, settings
from tests.setup.test_setup import PasswordNode, known, place
from tests.support.advice import all_advice
from tests.support.nodes import missing_programs
from tests.support.pam_nodes import asks, missing_for_pam, stored
from tests.support.programs import OSSH, ossh, write_settings

__all__ = ["_end_agents"]

# "done" tells a command, or what else to do on this machine, and the test that does it; "given" is what is to
# be given or written instead; "elsewhere" takes a centre, another person, a network or an installation.
TABLE = json.loads(Path(__file__).with_name("advice.json").read_text())


def test_every_advice_is_known() -> None:
    """Each advice in the sources is listed, each that is listed is in the sources, and its test is there."""
    listed = [*TABLE["done"], *TABLE["given"], *TABLE["elsewhere"]]
    assert len(listed) == len({*listed})
    found = {text.strip() for text in all_advice()}
    assert found - {*listed} == set(), "add it to the table, with a test that does what it says"
    assert {*listed} - found == set(), "nothing advises that any more"
    tests = "\n".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name in TABLE["done"].values() if f"def {name}(" not in tests] == []


# -- what is to be written -----------------------------------------------------------------------------


def setting(line: str) -> Callable[[], object]:
    """Load settings with this line."""

    def read() -> object:
        write_settings(f'[host."h"]\n{line}\n')
        return load("h")

    return read


def said(call: Callable[[], object]) -> str:
    """The advice of the error that a call ends with."""
    with pytest.raises(OpenSshTransportError) as caught:
        call()
    return caught.value.advice


@pytest.mark.parametrize(
    ("wrong", "advice", "right"),
    [
        ("login_timeout = 'soon'", 'write it as "90s", "12h" or "1h30m"', "login_timeout = '1h30m'"),
        ("check_timeout = '0s'", "write a time above 0", "check_timeout = 1"),
        ("max_sessions = '2'", "write it without quotes", "max_sessions = 2"),
        ("forwards = 'yes'", "write it without quotes", "forwards = true"),
        ("second_factor = 'x'", 'write "push" or "code"', "second_factor = 'push'"),
        ("second_factor = 'code'", 'add a code, or write "push"', "second_factor = 'push'"),
        ("prompts = 1", 'write [[host."PATTERN".prompts]]', "[[host.h.prompts]]\nexpect='a'\nanswer='ask'"),
        ("authentication_script = 'bin'", "begin it with / or ~", "authentication_script = '/bin/true'"),
        ("authentication_script = '/none'", "correct the path", "authentication_script = '/bin/true'"),
        ("authentication_script = '/bin'", "name the program in it", "authentication_script = '/bin/true'"),
    ],
)
def test_settings_as_advised(wrong: str, advice: str, right: str) -> None:
    """A setting that is wrong says how to write it; written so, it is taken."""
    assert said(setting(wrong)) == advice
    assert setting(right)() is not None


COMMAND = {"command": ["true"]}


@pytest.mark.parametrize(
    ("wrong", "advice", "right"),
    [
        ({"text": 1}, "write a text in quotes", {"text": "1"}),
        (
            {"command": "pass hpc"},
            'write the program and its arguments: ["pass", "hpc"]',
            {"command": ["pass", "hpc"]},
        ),
        ({"ask": True, "echo": 1}, "write true or false", {"ask": True, "echo": True}),
        ({"ask": False}, "write ask = true, or another answer", {"ask": True}),
        (
            {"totp": COMMAND, "digits": 9},
            "write a whole number from 6 to 8",
            {"totp": COMMAND, "digits": 8},
        ),
        (
            {"totp": COMMAND, "digest": "md5"},
            "write sha1, sha256 or sha512",
            {"totp": COMMAND, "digest": "sha256"},
        ),
        ({"totp": {"text": "A"}}, "store the seed, name keyring or command", {"totp": COMMAND}),
        ({"join": [COMMAND]}, "write [{ … }, { … }]", {"join": [COMMAND, COMMAND]}),
        ({"keyring": "hpc"}, "add username", {"keyring": "hpc", "username": "me"}),
    ],
)
def test_answers_as_advised(wrong: object, advice: str, right: object) -> None:
    """Likewise an answer."""
    assert said(lambda: parse_answer(wrong, "here")) == advice
    assert parse_answer(right, "here") is not None


@pytest.mark.parametrize(
    ("wrong", "advice", "right"),
    [
        ("a", "write expect = … and answer = …", {"expect": "a", "answer": "ask"}),
        ({"expect": "(", "answer": "ask"}, "see Python's re", {"expect": r"\(", "answer": "ask"}),
        ({"expect": ".*", "answer": "ask"}, "name words of the prompt", {"expect": "OTP", "answer": "ask"}),
    ],
)
def test_rules_as_advised(wrong: object, advice: str, right: object) -> None:
    """Likewise a rule."""
    assert said(lambda: parse_rule(wrong, "here")) == advice
    assert parse_rule(right, "here") is not None


def test_hop_as_advised() -> None:
    """Likewise a jump host."""
    assert said(lambda: parse_hop("a b")) == "write [NAME=][USER@]HOST[:PORT]"
    assert parse_hop("name=user@host:22").port == 22


# -- what is to be done --------------------------------------------------------------------------------


def shell(command: str, home: Path) -> pexpect.spawn[str]:
    """A command in a fresh shell, without an agent, at a terminal; `ossh` is on its PATH."""
    env = {**os.environ, "PATH": f"{OSSH.parent}:{os.environ['PATH']}", "HOME": str(home), "NO_COLOR": "1"}
    return pexpect.spawn("sh", ["-c", command], env=env, encoding="utf-8", timeout=30, dimensions=(50, 200))


def advised(text: str) -> str:
    """The first command that a line advises."""
    found = re.search(r"run: (.*?)(?:, or: .*)?$", text.strip())
    assert found, text
    return found[1]


@pytest.fixture
def passphrase_node() -> Iterator[Sandbox]:
    """A node whose key is encrypted."""
    with Sandbox(second_factor="passphrase") as made:
        yield made


def finding(config: Path, host: str, link: str) -> str:
    """What `ossh doctor` advises about a link."""
    rows = json.loads(ossh("doctor", "-F", config, "--json", host).stdout)
    return str(next(row["advice"] for row in rows if row["link"] == link))


@pytest.mark.parametrize("by", ["login", "doctor"])
def test_key_is_added_in_a_fresh_shell(passphrase_node: Sandbox, isolated: Path, by: str) -> None:
    """The advice about an encrypted key, pasted into a shell without an agent, lets others log in."""
    config, host = passphrase_node.ssh_config, passphrase_node.host
    error = ossh("login", "-F", config, host).stderr.decode()
    child = shell(advised(error if by == "login" else finding(config, host, "keys")), isolated)
    child.expect("Enter passphrase for .*: ")
    child.sendline(passphrase_node.passphrase)
    child.expect("Identity added")
    child.expect(pexpect.EOF)
    child.close()
    (failures,) = (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*")
    failures.unlink()
    done = ossh("run", "-F", config, host, "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr


def test_key_for_another_agent(passphrase_node: Sandbox, isolated: Path) -> None:
    """Where ssh_config names an agent, the key goes to that; where it names none, only a login helps."""
    config, key = isolated / "ssh_config", key_of(passphrase_node)
    plain = passphrase_node.ssh_config.read_text()
    config.write_text(f"IdentityAgent {isolated}/its-agent\n{plain}")
    error = ossh("login", "-F", config, "sandbox").stderr.decode()
    assert advised(error) == f"SSH_AUTH_SOCK={isolated}/its-agent ssh-add {key}"
    config.write_text(f"IdentityAgent none\n{plain}")
    error = ossh("login", "--unattended", "-F", config, "sandbox").stderr.decode()
    assert "ssh-add" not in error


def test_unattended_then_by_a_person(passphrase_node: Sandbox, isolated: Path) -> None:
    """What a command without a person advises as the second way, a person does."""
    config, host = passphrase_node.ssh_config, passphrase_node.host
    error = ossh("run", "-F", config, host, "true").stderr.decode()
    _, _, command = error.strip().rpartition(", or: ")
    assert command == f"ossh login -F {config} {host}"
    child = shell(command, isolated)
    answer(child, ": ", passphrase_node.passphrase)
    assert finish(child)[0] == 0


def test_stored_secret_is_corrected(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A stored secret that is refused, empty or of two lines: corrected as advised, the login works."""
    node = make_conversation_node(asks(("Password: ", PASSWORD)))
    for wrong, advice in (
        ("wrong", "correct what is stored, then run: ossh login"),
        ("", "store the secret there"),
        (f"{PASSWORD}\nmore", "store the secret alone"),
    ):
        settings(f"password = {stored(isolated, 'password', wrong)}")
        assert f"; {advice}" in ossh("login", "-F", node.ssh_config, node.host).stderr.decode()
        for file in (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*"):
            file.unlink()
    settings(f"password = {stored(isolated, 'password', PASSWORD)}")
    child = shell(f"ossh login -F {node.ssh_config} {node.host}", isolated)
    assert finish(child)[0] == 0


def test_doctor_is_told_to_log_in(own_node: Sandbox, isolated: Path) -> None:
    """`ossh doctor` names the call of its own that logs in, with the ssh_config that was given."""
    command = advised(finding(own_node.ssh_config, own_node.host, "master"))
    assert command == f"ossh doctor --login -F {own_node.ssh_config} sandbox"
    child = shell(command, isolated)
    child.expect("fine    master ")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("file", ["key", "settings", "script"])
def test_chmod(own_node: Sandbox, isolated: Path, file: str) -> None:
    """Modes that are refused are corrected by the command that is named, also where a name has blanks."""
    script = isolated / "my script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700 if file != "script" else 0o600)
    write_settings(f'[host."*"]\nauthentication_script = "{script}"\n')
    written = Path(os.environ["XDG_CONFIG_HOME"]) / "opensshtransport" / "config.toml"
    if file == "settings":
        written.chmod(0o666)
    if file == "key":
        key_of(own_node).chmod(0o644)
        command = advised(finding(own_node.ssh_config, own_node.host, "keys"))
    else:
        command = advised(ossh("login", "-F", own_node.ssh_config, own_node.host).stderr.decode())
    assert command.startswith("chmod ")
    assert finish(shell(command, isolated))[0] == 0
    done = ossh("login", "-F", own_node.ssh_config, own_node.host)
    assert done.returncode == 0, done.stderr
    assert not stat.S_IMODE(written.stat().st_mode) & 0o022


def test_old_host_key_is_forgotten(own_node: Sandbox, isolated: Path) -> None:
    """The command that forgets an old host key names the file that contains it."""
    (own_node.directory / "known_hosts").write_text(
        f"{own_node.host} {(own_node.directory / 'id_ed25519.pub').read_text()}"
    )
    _, _, command = finding(own_node.ssh_config, own_node.host, "host keys").partition("before you run: ")
    assert finish(shell(command, isolated))[0] == 0
    assert own_node.host not in (own_node.directory / "known_hosts").read_text()


def test_setup_is_run_again(isolated: Path, make_user: MakeUser, keep: Keep) -> None:
    """A wrong password in `ossh setup` advises `ossh setup`, which goes on where it was."""
    require(missing_for_pam("pam_unix") or missing_programs("ssh-copy-id"))
    config, home = isolated / "ssh_config", isolated / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    config.write_text(f"Host *\n    UserKnownHostsFile {isolated}/known_hosts\n")
    node = keep(PasswordNode("centre", make_user(password=PASSWORD), "", "127.0.0.1"))
    known(node, config)
    options = [*place(node), "--auth", "key", "--key", str(isolated / "key"), "--no-passphrase", "--yes"]
    child = shell(shlex.join(["ossh", "setup", "-F", str(config), *options, "centre"]), home)
    for number in range(3):
        answer(child, "'s password: ", f"wrong-{number}")
    status, shown = finish(child)
    assert status == 255
    assert "127.0.0.1 refused the password" in shown
    command = advised(shown.strip().splitlines()[-1])
    assert command == f"ossh setup -F {config} centre"
    child = shell(command, home)
    for _ in range(5):
        answer(child, "]: ", "")
    answer(child, "'s password: ", PASSWORD)
    answer(child, "(ossh share)? [y/N]: ", "n")
    child.expect("fine    master ")
    child.expect(pexpect.EOF)


LOG_IN = Remedy("run: ", "ossh login")


@pytest.mark.parametrize(
    ("remedy", "host", "command", "config", "called"),
    [
        (LOG_IN, "daint", "run", None, "run: ossh login daint"),
        (LOG_IN, "daint", "run", "/a b", "run: ossh login -F '/a b' daint"),
        (LOG_IN, "daint", "login", None, "run it at a terminal"),
        (
            Remedy("run: ", "ossh doctor --login"),
            "daint",
            "doctor",
            "/c",
            "run: ossh doctor --login -F /c daint",
        ),
        (Remedy("run: ", "ossh-run", "squeue"), "daint", "doctor", "/c", "run: ossh-run -F /c daint squeue"),
        (LOG_IN, "jump1", "setup", None, "run: ossh setup daint"),
        (
            Remedy("correct it, then run: ", "ossh login"),
            "daint",
            "setup",
            "/c",
            "correct it, then run: ossh setup -F /c daint",
        ),
        (Remedy("try again"), None, "setup", None, "run: ossh setup daint"),
        (Remedy("try again"), None, "login", None, "try again"),
        (Remedy("ask your centre"), None, "setup", "/c", "ask your centre"),
    ],
)
def test_as_called(remedy: Remedy, host: str | None, command: str, config: str | None, called: str) -> None:
    """The command of an advice is as it is to be called, and `ossh setup` is what goes on."""
    arguments = argparse.Namespace(command=command, host="daint", ssh_config=config)
    assert output.advised(remedy, host, arguments) == called
