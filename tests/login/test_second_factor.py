"""Second factors: rules, profiles, pushes, codes and the person, against servers that ask through PAM."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox, totp
from tests.conftest import Keep, MakeChain, MakeConversationNode, MakeOathNode, MakeUser
from tests.support.jumps import Chain, Hop, Style
from tests.support.pam_nodes import ConversationNode, LockingNode, asks, duo, questions, rule, stored
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, runtime, until, write_settings

PASSWORD = "correct-horse-7319"
PIN = "80213"
SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
OATH = "One-time password"


def totp_of(directory: Path, seed: str, name: str = "seed") -> str:
    """The answer that computes codes by a stored seed."""
    return f"{{ totp = {stored(directory, name, seed)} }}"


def all_secrets(directory: Path, only: Sequence[str] = ("password", "code", "pin")) -> str:
    """The settings' lines with the secrets that site profiles need."""
    answers = {
        "password": stored(directory, "password", PASSWORD),
        "code": totp_of(directory, SEED),
        "pin": stored(directory, "pin", PIN),
    }
    return "".join(f"{name} = {answers[name]}\n" for name in only)


def settings(*parts: str, host: str = "asks") -> None:
    """Write the settings of one host: lines first, then rules."""
    write_settings("\n".join([f'[host."{host}"]', *parts]))


def terminal(arguments: Sequence[str | Path]) -> pexpect.spawn[str]:
    """`ossh` at a pseudo-terminal."""
    return pexpect.spawn(
        str(OSSH), [str(argument) for argument in arguments], timeout=30, encoding="utf-8", echo=False
    )


def login(node: Sandbox) -> pexpect.spawn[str]:
    """`ossh login` at a pseudo-terminal."""
    return terminal(["login", "-F", node.ssh_config, node.host])


def finish(child: pexpect.spawn[str]) -> tuple[int, str]:
    """Wait for the end; the status, and what was shown since the last prompt."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus if child.exitstatus is not None else -1, child.before or ""


def clients(config: Path) -> list[str]:
    """The command lines of the ssh programs that read a configuration file."""
    done = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [
        line for line in done.stdout.splitlines() if str(config) in line and line.split()[0][-3:] == "ssh"
    ]


def nothing_left(config: Path) -> None:
    """No ssh stays, and no lock: the next login gets to its own end at once."""
    until(lambda: not clients(config), "ssh to end")
    for lock in runtime().glob("*.lock"):
        subprocess.run(["flock", "--nonblock", lock, "true"], check=True)


def in_order(text: str, *words: str) -> bool:
    """Whether the words come one after the other."""
    return re.search(".*".join(map(re.escape, words)), text, re.DOTALL) is not None


# -- one-time codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "password"), [(False, PASSWORD), (True, None), (False, None)], ids=["password", "key", "alone"]
)
@pytest.mark.client
def test_code(make_oath_node: MakeOathNode, isolated: Path, *, key: bool, password: str | None) -> None:
    """A code after a password, after a key and alone: `ossh-run` logs in by itself, once."""
    node = make_oath_node(key=key, password=password)
    lines = [f"code = {totp_of(isolated, node.totp_secret)}"]
    if password:
        lines.append(f"password = {stored(isolated, 'password', password)}")
    settings(*lines, host="otp")
    for _ in range(2):
        done = ossh_run("-F", node.ssh_config, node.host, "echo x")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert node.authentications() == node.connections() == 1


def test_wrong_code_is_sent_once(make_oath_node: MakeOathNode, isolated: Path) -> None:
    """A seed that is not the server's: one attempt, and the error is about the answer."""
    node = make_oath_node(key=True)
    settings(f"code = {totp_of(isolated, SEED)}", host="otp")
    done = ossh_run("-F", node.ssh_config, node.host, "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"the server refused the code (" in done.stderr
    assert b"Permission denied (keyboard-interactive)" in done.stderr
    advice = f"; correct what is stored, then run: ossh login -F {node.ssh_config} otp\n"
    assert done.stderr.decode().endswith(advice)
    assert node.log.read_text().count("Failed keyboard-interactive") == 1


def test_one_code_serves_eight_starters(make_oath_node: MakeOathNode, isolated: Path) -> None:
    """Eight programs at once, no master: one logs in by password and code, all use what it opened."""
    node = make_oath_node(password=PASSWORD)
    settings(
        f"password = {stored(isolated, 'password', PASSWORD)}",
        f"code = {totp_of(isolated, node.totp_secret)}",
        host="otp",
    )
    argv: list[str | Path] = [OSSH_RUN, "-F", node.ssh_config, node.host, "echo x"]
    starters = [
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(8)
    ]
    for starter in starters:
        assert starter.communicate(timeout=60) == (b"x\n", b"")
        assert starter.returncode == 0
    assert node.authentications() == node.connections() == 1


# -- the known centres ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What a centre asks, and what is to be sent; `secrets` and `factor` are the settings."""

    name: str
    prompts: tuple[str, ...]
    sent: tuple[str, ...]
    secrets: tuple[str, ...] = ("password", "code", "pin")
    factor: str = ""


NCHC = "Login method (1: Mobile APP OTP, 2: Mobile APP PUSH, 3: Email OTP): "
SITES = (
    Site("Google", ("Password: ", "Verification code: "), ("{password}", "{code}")),
    Site("Google-joined", ("Password & verification code: ",), ("{password}{code}",)),
    Site("OATH", ("One-time password (OATH) for `%u': ",), ("{code}",)),
    Site("TACC", ("Password: ", "TACC Token Code:"), ("{password}", "{code}")),
    Site("NERSC", ("Password + OTP: ",), ("{password}{code}",)),
    Site("NREL", ("Password+OTPToken: ",), ("{password}{code}",)),
    Site("SDSC", ("TOTP code for %u: ",), ("{code}",)),
    Site("Cambridge", ("Password: ", "TOTP Verification Code: "), ("{password}", "{code}")),
    Site("Jülich", ("JSC TOTP Verification code: ",), ("{code}",)),
    Site("OLCF", ("Enter PASSCODE: ",), ("{pin}{code}",)),
    Site("NCHC", (NCHC, "Password: ", "OTP: "), ("1", "{password}", "{code}")),
    Site("NCHC-push", (NCHC, "Password: "), ("2", "{password}"), ("password",), "push"),
    Site("SSSD", ("First Factor: ", "Second Factor (optional): "), ("{password}", "{code}")),
    Site("Purdue", ("Password: ",), ("{pin},push",), ("pin",), "push"),
)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_site(make_conversation_node: MakeConversationNode, isolated: Path, site: Site) -> None:
    """Each centre's prompts get exactly their answers, each once, and nobody is asked."""
    node = make_conversation_node(questions(*site.prompts, notice="Welcome to the centre: see 1-3 below"))
    factor = f'second_factor = "{site.factor}"\n' if site.factor else ""
    settings(all_secrets(isolated, site.secrets), factor)
    begin = time.time()
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stderr
    codes = {totp(SEED, at=moment) for moment in (begin, time.time())}
    possible = [[text.format(password=PASSWORD, code=code, pin=PIN) for text in site.sent] for code in codes]
    assert node.answers() in possible
    assert node.outcomes() == ["allow"]


@pytest.mark.parametrize("missing", ["password", "code"])
def test_profile_without_its_secret(
    make_conversation_node: MakeConversationNode, isolated: Path, missing: str
) -> None:
    """Where one of the two secrets is not set, a prompt for both gets neither alone."""
    node = make_conversation_node(questions("Password + OTP: "))
    settings(all_secrets(isolated, [name for name in ("password", "code") if name != missing]))
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 255
    assert b"no rule answers the prompt 'Password + OTP:'" in done.stderr
    until(node.idle, "the server to see the end")
    assert node.answers() == []


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["quick", "slow"])
def test_duo_push(duo_node: ConversationNode, seconds: float) -> None:
    """The push is chosen, and waited for."""
    duo_node.set_script(duo(seconds=seconds))
    settings('second_factor = "push"')
    begin = time.monotonic()
    done = ossh_run("-F", duo_node.ssh_config, duo_node.host, "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr
    assert time.monotonic() - begin >= seconds
    assert (duo_node.answers(), duo_node.outcomes()) == (["1"], ["allow"])


def test_duo_push_denied(duo_node: ConversationNode) -> None:
    """A push that is denied is not asked for again, though the menu comes again."""
    duo_node.set_script(duo(push=False, attempts=3))
    settings('second_factor = "push"')
    done = ossh_run("-F", duo_node.ssh_config, duo_node.host, "echo x")
    assert done.returncode == 255
    assert b"the server refused the request on your phone (Login request denied.)" in done.stderr
    until(duo_node.idle, "the server to see the end")
    assert duo_node.answers() == ["1"]


def test_duo_push_never_answered(duo_node: ConversationNode) -> None:
    """A push that nobody approves ends by the deadline of the settings, with one request."""
    duo_node.set_script(duo(seconds=120))
    settings('second_factor = "push"', "login_timeout = 3")
    begin = time.monotonic()
    done = ossh("login", "-F", duo_node.ssh_config, duo_node.host)
    assert time.monotonic() - begin < 20
    assert done.returncode == 255
    assert b"the login did not finish in time" in done.stderr
    nothing_left(duo_node.ssh_config)
    assert duo_node.answers() == ["1"]


def test_duo_push_tells_the_person(duo_node: ConversationNode) -> None:
    """At a terminal the person is told to look at the phone, and sees what Duo says."""
    duo_node.set_script(duo(seconds=1))
    settings('second_factor = "push"')
    status, shown = finish(login(duo_node))
    assert status == 0
    assert in_order(
        shown, "Duo Push to XXX-XXX-1234", "approve the request on your phone", "Success. Logging"
    )
    assert duo_node.answers() == ["1"]


def test_duo_passcode(duo_node: ConversationNode, isolated: Path) -> None:
    """With a code set, the menu gets the code and no number of a push."""
    settings(f"code = {stored(isolated, 'code', '123456')}")
    assert ossh("login", "-F", duo_node.ssh_config, duo_node.host).returncode == 0
    assert (duo_node.answers(), duo_node.outcomes()) == (["123456"], ["allow"])


# -- rules ---------------------------------------------------------------------------------------------


def test_settings_come_before_profiles(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A rule of the settings wins over a profile; the first of two rules wins; the rest is the profiles'."""
    node = make_conversation_node(questions("Password: ", "Verification code: "))
    settings(
        all_secrets(isolated),
        rule("(?i)verification", stored(isolated, "first", "first-4711")),
        rule("(?i)code", stored(isolated, "second", "second-4712")),
    )
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    assert node.answers() == [PASSWORD, "first-4711"]


def test_careless_rules_in_the_wrong_order(make_oath_node: MakeOathNode, isolated: Path) -> None:
    """`(?i)password` comes first and finds the prompt for the one-time password too: that gets the code."""
    node = make_oath_node(password=PASSWORD)
    settings(
        rule("(?i)password", stored(isolated, "password", PASSWORD), host="otp"),
        rule("(?i)one-time|otp|verification code", totp_of(isolated, node.totp_secret), host="otp"),
        host="otp",
    )
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stderr
    assert node.authentications() == node.connections() == 1


@pytest.mark.parametrize("prompt", ["One-time password (OATH) for `%u': ", "Password + OTP: "])
def test_password_never_goes_where_a_code_is_wanted(
    make_conversation_node: MakeConversationNode, isolated: Path, prompt: str
) -> None:
    """A rule that finds merely the word `password` sends nothing there, and the error says why."""
    node = make_conversation_node(questions(prompt))
    settings(rule("(?i)password", stored(isolated, "password", PASSWORD)))
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 255
    assert b" ('(?i)password' does not cover 'O" in done.stderr
    until(node.idle, "the server to see the end")
    assert node.answers() == []


def test_joined_answers(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A join sends its parts with the separator between them."""
    node = make_conversation_node(asks(("PIN and method: ", f"{PIN},push")))
    answer = f'{{ join = [{stored(isolated, "pin", PIN)}, {{ text = "push" }}], separator = "," }}'
    settings(rule("PIN and method", answer))
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    assert node.answers() == [f"{PIN},push"]


@pytest.mark.parametrize(
    ("prompt", "quoted"),
    [
        ("Favourite colour: ", "Favourite colour:"),
        ("No colon and no blank", "No colon and no blank"),
        (r"Two lines\nand a question? ", "and a question?"),
        (r"An answer? [y/n]\t", "An answer? [y/n]"),
        (r"A whole line:\n", "A whole line:"),
        (r"A whole line\n\n", "A whole line"),
    ],
)
def test_unexpected_prompt(
    make_conversation_node: MakeConversationNode, isolated: Path, prompt: str, quoted: str
) -> None:
    """Nobody there, and no rule for a prompt: it is quoted, soon, and the server gets no answer."""
    node = make_conversation_node(questions(prompt))
    settings(all_secrets(isolated))
    begin = time.monotonic()
    done = ossh_run("-F", node.ssh_config, node.host, "echo x")
    assert time.monotonic() - begin < 15
    assert (done.returncode, done.stdout) == (255, b"")
    advice = f"run: ossh login -F {node.ssh_config} asks\n"
    why = " (it contains a control character)" if prompt.endswith(r"\t") else ""
    expected = f"asks: no rule answers the prompt '{quoted}'{why} (ossh help prompts); {advice}"
    assert expected in done.stderr.decode()
    until(node.idle, "the server to see the end")
    assert node.answers() == []
    nothing_left(node.ssh_config)


@pytest.mark.parametrize("echo", ["echo_on", "echo_off"])
def test_prompt_that_ends_its_line(
    make_conversation_node: MakeConversationNode, isolated: Path, echo: str
) -> None:
    """A prompt with the end of its line is answered by its rule, whether the answer is shown or not."""
    node = make_conversation_node(rf"{echo} Enter the code\n" + "\nexpect 4711\nallow\n")
    settings(rule("^Enter the code$", stored(isolated, "code", "4711")))
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stderr
    assert node.answers() == ["4711"]


def test_no_rules_and_nobody_there(make_conversation_node: MakeConversationNode) -> None:
    """Without any rule the question is not even let come: a person must log in."""
    node = make_conversation_node(questions("Password: "))
    done = ossh_run("-F", node.ssh_config, node.host, "echo x")
    assert done.returncode == 255
    assert b"a person must log in" in done.stderr
    until(node.idle, "the server to see the end")
    assert node.answers() == []


def test_unexpected_second_prompt(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """The password is known, but what comes then is not: nothing more than the password is sent."""
    node = make_conversation_node(questions("Password: ", "Colour: "))
    settings(all_secrets(isolated))
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert b"no rule answers the prompt 'Colour:'" in done.stderr
    until(node.idle, "the server to see the end")
    assert node.answers() == [PASSWORD]


def test_repeated_prompt_is_a_refusal(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A server that asks again within the conversation gets no second answer, not even an empty one."""
    node = make_conversation_node("attempts 3\n" + asks(("Password: ", "another")))
    settings(all_secrets(isolated))
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 255
    assert (
        b": the server refused the password (ossh help logging-in); correct the stored secret" in done.stderr
    )
    until(node.idle, "the server to see the end")
    assert node.answers() == [PASSWORD]


def test_host_keys_are_never_accepted_by_a_rule(
    make_conversation_node: MakeConversationNode, isolated: Path
) -> None:
    """Rules that would match the question about the host key stay silent, with and without a person."""
    node = make_conversation_node(questions("Password: "))
    config, known = isolated / "ssh_config", isolated / "known"
    known.touch()
    text = node.ssh_config.read_text()
    text = re.sub(r"UserKnownHostsFile .*", f"UserKnownHostsFile {known}", text)
    config.write_text(text.replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask"))
    settings(rule("(?i)continue connecting|yes/no|fingerprint|Please type", '{ text = "yes" }'))
    done = ossh("login", "-F", config, node.host)
    assert done.returncode == 255
    assert b"the host key is not known yet" in done.stderr
    child = terminal(["login", "-F", config, node.host])
    child.expect(r"yes/no/\[fingerprint\]\)\? ")
    child.sendline("no")
    status, shown = finish(child)
    assert status == 255
    assert "Host key verification failed" in shown
    assert known.read_text() == ""
    assert node.answers() == []


# -- jump hosts ----------------------------------------------------------------------------------------

ONE_JUMP: tuple[tuple[Hop, ...], ...] = (("code", "key"), ("key", "code"), ("code", "code"))
TWO_JUMPS: tuple[tuple[Hop, ...], ...] = (("code", "code", "code"),)


def rules_by_hop(chain: Chain, directory: Path) -> None:
    """One rule for each node that asks, told apart by `hop` alone; the last first, to make it count."""
    rules = [
        rule(OATH, totp_of(directory, node.totp_secret, node.host), host="target", hop=node.host)
        for node in reversed(chain.nodes)
        if node.totp_secret
    ]
    write_settings("\n".join(rules))


@pytest.mark.parametrize("style", ["ProxyJump", "ProxyCommand"])
@pytest.mark.parametrize("hops", [*ONE_JUMP, *TWO_JUMPS], ids="-".join)
def test_codes_on_the_way(make_chain: MakeChain, isolated: Path, hops: tuple[Hop, ...], style: Style) -> None:
    """Each node that asks gets its own code, by the alias of the node: one login at each."""
    chain = make_chain(*hops)
    rules_by_hop(chain, isolated)
    config = chain.config(style)
    done = ossh_run("-F", config, "target", "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr
    assert ossh_run("-F", config, "target", "echo y").stdout == b"y\n"
    assert [node.authentications() for node in chain.nodes] == [1] * len(hops)
    assert [node.connections() for node in chain.nodes] == [1] * len(hops)


@pytest.mark.parametrize("style", ["ProxyJump", "ProxyCommand"])
def test_hop_is_the_alias_though_ssh_shows_the_address(
    make_chain: MakeChain, isolated: Path, style: Style
) -> None:
    """Without HostKeyAlias ssh's prompts name addresses; `hop` in the rules is the alias all the same."""
    chain = make_chain("code", "code", "code")
    if not chain.isolated:
        pytest.skip("the nodes have addresses of their own only in network namespaces (root)")
    config = by_address(chain, style, isolated)
    rules_by_hop(chain, isolated)
    done = ossh("login", "-F", config, "target")
    assert done.returncode == 0, done.stderr
    assert [node.authentications() for node in chain.nodes] == [1, 1, 1]


def by_address(chain: Chain, style: Style, directory: Path) -> Path:
    """The chain's `ssh_config` without HostKeyAlias, so that host keys are known by address."""
    before = chain.config(style)
    config, known = directory / "ssh_config", directory / "known"
    text = before.read_text().replace(str(before), str(config))
    text = re.sub(r"(?m)^HostKeyAlias .*\n", "", text)
    config.write_text(re.sub(r"(?m)^UserKnownHostsFile .*$", f"UserKnownHostsFile {known}", text))
    keys = []
    for node in chain.nodes:
        address = re.search(r"(?m)^HostName (.*)$", node.ssh_config.read_text())
        assert address is not None
        keys.append(f"{address[1]} {(node.directory / 'host_key.pub').read_text()}")
    known.write_text("".join(keys))
    return config


def test_passphrase_of_one_key_on_the_way(make_chain: MakeChain, isolated: Path) -> None:
    """Each ssh on the way asks for the passphrase of the same key; its rule answers each of them."""
    chain = make_chain("key", "key")
    key = isolated / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSWORD, "-f", key], check=True)
    public = key.with_suffix(".pub").read_text()
    for node in chain.nodes:
        (node.directory / "authorized_keys").write_text(public)
    config = chain.config()
    config.write_text(re.sub(r"(?m)^IdentityFile .*$", f"IdentityFile {key}", config.read_text()))
    settings(
        rule("^Enter passphrase", stored(isolated, "passphrase", PASSWORD), host="target"), host="target"
    )
    done = ossh("login", "-F", config, "target")
    assert done.returncode == 0, done.stderr
    assert [node.authentications() for node in chain.nodes] == [1, 1]


def test_wrong_code_at_the_jump_host(make_chain: MakeChain, isolated: Path) -> None:
    """A refused code at the jump host: its ssh asks again, but gets no second answer, nor an empty one."""
    chain = make_chain("code", "key")
    settings(f"code = {totp_of(isolated, SEED)}", host="jump1")
    config = chain.config()
    done = ossh("login", "-F", config, "target")
    assert done.returncode == 255
    assert b" refused the code (ossh help logging-in); correct the stored secret" in done.stderr
    until(lambda: not clients(config), "ssh to end")
    jump = chain.nodes[0].log
    until(lambda: "Connection closed by" in jump.read_text(), "the jump host to see the end")
    assert jump.read_text().count("Failed keyboard-interactive") == 1
    assert chain.target.connections() == 0


# -- a person at the terminal --------------------------------------------------------------------------


@pytest.mark.client
def test_person_types_everything(make_conversation_node: MakeConversationNode) -> None:
    """No rules: text, prompts and keys pass through; hidden answers are not shown, others are."""
    script = "info Sign in at https://sso.example/device with A1-B2\necho_on Your name: \nexpect me\n"
    node = make_conversation_node(script + asks(("Password: ", PASSWORD), ("Code: ", "314159")))
    child = login(node)
    child.expect(r"https://sso\.example/device with A1-B2\r\n")
    child.expect(r"\(o\w+@asks\) Your name: |Your name: ")
    child.sendline("me")
    child.expect("me\r\n")
    child.expect("Password: ")
    child.sendline(PASSWORD)
    child.expect("Code: ")
    assert PASSWORD not in (child.before or "")
    child.sendline("314159")
    status, shown = finish(child)
    assert status == 0
    assert "314159" not in shown
    assert "asks: logged in as" in shown
    assert node.answers() == ["me", PASSWORD, "314159"]


def test_banner(isolated: Path) -> None:
    """The server's banner with a link and a picture of characters is shown to the person as it is."""
    banner = isolated / "banner"
    picture = "█▀▀▀█ ▄▀█\n█▄▄▄█ ▀▄▀\n"
    banner.write_text(f"Confirm at https://sso.example/x?code=A1B2\n{picture}")
    with Sandbox(second_factor="passphrase", server_options={"Banner": str(banner)}) as node:
        child = login(node)
        child.expect("Enter passphrase")
        before = child.before or ""
        child.expect(": ")
        child.sendline(node.passphrase)
        assert finish(child)[0] == 0
    assert in_order(before, "https://sso.example/x?code=A1B2", *picture.splitlines())


def test_banner_that_looks_like_a_question(
    make_user: MakeUser, keep: Keep, pam_conversation: Path, isolated: Path
) -> None:
    """No secret is typed at what a banner says, where it would be seen, while the server takes its time."""
    banner = isolated / "banner"
    banner.write_text("Password:\n")
    script = f"wait 5\n{asks(('Password: ', PASSWORD))}"
    node = ConversationNode("asks", make_user().name, script, module=pam_conversation)
    node.server_options = {**node.server_options, "Banner": str(banner)}
    keep(node)
    settings(all_secrets(isolated, ["password"]))
    child = login(node)
    status, shown = finish(child)
    assert (status, node.answers()) == (0, [PASSWORD])
    assert shown.startswith("Password:")
    assert PASSWORD not in shown


def test_password_by_rule_and_code_by_hand(
    make_conversation_node: MakeConversationNode, isolated: Path
) -> None:
    """What the rules know is sent, what they do not know is asked of the person."""
    node = make_conversation_node(asks(("Password: ", PASSWORD), ("Verification code: ", "271828")))
    settings(all_secrets(isolated, ["password"]))
    child = login(node)
    child.expect("Verification code: ")
    assert PASSWORD not in (child.before or "")
    child.sendline("271828")
    status, shown = finish(child)
    assert (status, "271828" in shown) == (0, False)
    assert node.answers() == [PASSWORD, "271828"]


def test_asked_part_of_a_join(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A PIN that the person types, with a mistake taken back, is followed by the computed code."""
    node = make_conversation_node(questions("PASSCODE: "))
    settings(rule("PASSCODE", f"{{ join = [{{ ask = true }}, {totp_of(isolated, SEED)}] }}"))
    begin = time.time()
    child = login(node)
    child.expect(r"PASSCODE: \(the part that you type\): ")
    child.send("802x\x7f13\r")
    status, shown = finish(child)
    assert status == 0
    assert PIN not in shown
    assert node.answers() in [[PIN + totp(SEED, at=moment)] for moment in (begin, time.time())]


def test_asked_part_is_refused(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """Ctrl-C instead of the person's part: nothing is sent."""
    node = make_conversation_node(questions("PASSCODE: "))
    settings(rule("PASSCODE", f"{{ join = [{{ ask = true }}, {totp_of(isolated, SEED)}] }}"))
    child = login(node)
    child.expect(r"\(the part that you type\): ")
    child.send("80\x03")
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT
    until(node.idle, "the server to see the end")
    assert node.answers() == []
    nothing_left(node.ssh_config)


def test_ask_rule(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A rule whose answer is the person: asked at a terminal, an error without one."""
    node = make_conversation_node(questions("Password: ", "Code: "))
    settings(all_secrets(isolated, ["password"]), rule("Code", "{ ask = true }"))
    child = login(node)
    child.expect("Code: ")
    child.sendline("1618")
    assert finish(child)[0] == 0
    assert node.answers() == [PASSWORD, "1618"]
    ossh("logout", "-F", node.ssh_config, node.host)
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 255
    assert b"only a person can answer the prompt 'Code:'" in done.stderr
    until(node.idle, "the server to see the end")
    assert node.answers()[2:] == [PASSWORD]


def test_ossh_run_asks_the_person(make_conversation_node: MakeConversationNode) -> None:
    """`ossh-run` at a terminal lets the person log in, then runs the command."""
    node = make_conversation_node(asks(("Password: ", PASSWORD)))
    child: pexpect.spawn[str] = pexpect.spawn(
        str(OSSH_RUN),
        ["-F", str(node.ssh_config), node.host, "echo done-$((6*7))"],
        timeout=30,
        encoding="utf-8",
    )
    child.expect("Password: ")
    child.sendline(PASSWORD)
    status, shown = finish(child)
    assert (status, "done-42" in shown) == (0, True)
    assert node.answers() == [PASSWORD]


# -- giving up -----------------------------------------------------------------------------------------


def interrupted(child: pexpect.spawn[str]) -> None:
    """Ctrl-C; again if need be, as ssh overlooks one that comes just before it begins to read."""
    for _ in range(20):
        child.sendintr()
        if child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=1) == 0:
            break
    child.close()
    assert child.signalstatus == signal.SIGINT


def killed(child: pexpect.spawn[str]) -> None:
    """The login process is killed."""
    child.kill(9)
    child.wait()


def terminated(child: pexpect.spawn[str]) -> None:
    """The login process is told to end."""
    child.kill(15)
    child.wait()


def hung_up(child: pexpect.spawn[str]) -> None:
    """The terminal goes away."""
    child.close(force=False)


@pytest.mark.parametrize(
    "leave", [interrupted, killed, terminated, hung_up], ids=lambda leave: leave.__name__
)
def test_leaving_at_the_code_prompt(
    make_conversation_node: MakeConversationNode,
    isolated: Path,
    leave: Callable[[pexpect.spawn[str]], None],
) -> None:
    """However a login ends at a prompt, no ssh and no lock stay, and the server gets no empty answer."""
    node = make_conversation_node(questions("Password: ", "Verification code: "))
    settings(all_secrets(isolated, ["password"]))
    child = login(node)
    child.expect("Verification code: ")
    assert clients(node.ssh_config)
    leave(child)
    nothing_left(node.ssh_config)
    until(node.idle, "the server to see the end")
    assert node.answers() == [PASSWORD]


def test_terminal_is_as_it_was(make_conversation_node: MakeConversationNode) -> None:
    """A login that is told to end at a prompt leaves the terminal in the mode that it found."""
    node = make_conversation_node(questions("Password: "))
    command = f"{OSSH} login -F {node.ssh_config} {node.host}; echo ended; stty -a"
    child: pexpect.spawn[str] = pexpect.spawn("sh", ["-c", command], timeout=30, encoding="utf-8")
    child.expect("Password: ")
    assert not termios.tcgetattr(child.child_fd)[3] & termios.ICANON
    subprocess.run(["pkill", "-TERM", "-P", str(child.pid)], check=True)
    child.expect("ended")
    assert " icanon" in finish(child)[1]
    nothing_left(node.ssh_config)
    until(node.idle, "the server to see the end")
    assert node.answers() == []


def test_terminal_goes_without_a_signal(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """Where hang-ups are ignored, as by nohup, a login still ends with its terminal."""
    node = make_conversation_node(questions("Password: ", "Verification code: "))
    settings(all_secrets(isolated, ["password"]))
    leader, follower = pty.openpty()
    # -c: the terminal becomes the controlling one
    command = f"trap '' HUP; exec {OSSH} login -F {node.ssh_config} {node.host}"
    process = subprocess.Popen(
        ["setsid", "-c", "sh", "-c", command], stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    while b"Verification code: " not in shown:
        shown += os.read(leader, 1000)
    os.close(leader)
    assert process.wait(30) != 0
    nothing_left(node.ssh_config)
    until(node.idle, "the server to see the end")
    assert node.answers() == [PASSWORD]


def test_killed_at_a_jump_hosts_prompt(make_chain: MakeChain) -> None:
    """The ssh that a ProxyJump has started gets no chance of an empty answer either."""
    chain = make_chain("code", "key")
    config = chain.config()
    child = terminal(["login", "-F", config, "target"])
    child.expect(OATH)
    child.kill(9)
    child.wait()
    until(lambda: not clients(config), "both ssh to end")
    jump = chain.nodes[0].log
    until(lambda: "Connection closed by" in jump.read_text(), "the jump host to see the end")
    assert "Failed keyboard-interactive" not in jump.read_text()


def test_killed_without_a_person(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A login process that is killed while a push is awaited leaves nothing behind; the next one works."""
    node = make_conversation_node(duo(seconds=60))
    settings('second_factor = "push"')
    process = subprocess.Popen(
        [OSSH, "login", "-F", node.ssh_config, node.host], stdin=subprocess.DEVNULL, start_new_session=True
    )
    until(lambda: node.answers() == ["1"], "the push to be asked for")
    process.kill()
    process.wait()
    nothing_left(node.ssh_config)
    forget_failures()
    node.set_script(duo())
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    assert node.answers() == ["1", "1"]


# -- accounts that get locked --------------------------------------------------------------------------


def test_account_is_not_locked_by_a_wrong_stored_password(locking_node: LockingNode, isolated: Path) -> None:
    """Eight commands in a row and eight at once with a wrong password: one failure for each pause."""
    settings(f"password = {stored(isolated, 'password', 'wrong')}", host="locks")
    arguments: list[str | Path] = ["-F", locking_node.ssh_config, locking_node.host, "echo x"]
    begin = time.monotonic()
    for _ in range(8):
        done = ossh_run(*arguments)
        assert (done.returncode, done.stdout) == (255, b"")
    crowd = [
        subprocess.Popen(
            [OSSH_RUN, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(8)
    ]
    assert [process.wait(60) for process in crowd] == [255] * 8
    allowed = 1 if time.monotonic() - begin < 30 else 2
    assert 1 <= locking_node.failures() == locking_node.connections() <= allowed
    child = login(locking_node)
    child.expect("Password: ")
    child.sendline("right")
    assert finish(child)[0] == 0
    assert locking_node.failures() == 0


def test_account_is_not_locked_by_prompts_without_rules(locking_node: LockingNode, isolated: Path) -> None:
    """Four attempts that cannot answer, each after the pause of the one before: no failure at the server."""
    settings(rule("nothing like that", "{ text = 'x' }", host="locks"))
    for _ in range(4):
        forget_failures()
        done = ossh_run("-F", locking_node.ssh_config, locking_node.host, "echo x")
        assert b"no rule answers the prompt 'Password:'" in done.stderr
    until(lambda: not clients(locking_node.ssh_config), "ssh to end")
    assert locking_node.connections() == 4
    assert locking_node.failures() == 0


def forget_failures() -> None:
    """Take away what was counted, as when the pause is over."""
    for file in (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*"):
        file.unlink()
