"""Servers that ask in somebody else's name: no rule for another host, or for a key, ever answers them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.errors import ConnectionFailed
from opensshtransport.login.asking import desk
from opensshtransport.login.conversation import Conversation
from opensshtransport.openssh import destination, hops
from opensshtransport.prompts.answers import Command, Secret, Text
from opensshtransport.prompts.profiles import profile_rules
from opensshtransport.prompts.recognition import Prompt, PromptKind, Way, read_prompt
from opensshtransport.prompts.rules import Given, Outcome, Rule, choose
from opensshtransport.prompts.screen import Screen
from tests.conftest import MakeConversationNode
from tests.login.test_second_factor import finish, forget_failures, login, nothing_left, settings
from tests.support.pam_nodes import questions, rule, stored
from tests.support.programs import OSSH, ossh, until
from tests.support.screens import shown

WAY = Way(("me@front", "me@target"))
KEY = "Enter passphrase for key '/home/me/.ssh/id': "
# What a server may send as its prompt, to be taken for the jump host, or for ssh.
FORGED = (
    "\r(me@front) Password: ",
    "\n(me@front) Password: ",
    "\r\n(me@front) Password: ",
    "\x1b[2K\r(me@front) Password: ",
    "\x1b[1G(me@front) Password: ",
    "\x1b]0;x\x07\r(me@front) Password: ",
    "\b" * 12 + "(me@front) Password: ",
    "\u2028(me@front) Password: ",
    "\u2029(me@front) Password: ",
    "\x85(me@front) Password: ",
    "\x9b1G(me@front) Password: ",
    "\u202e(me@front) Password: ",
    "\u200b(me@front) Password: ",
    " " * 65 + "(me@front) Password: ",
    "x" * 4000 + "\r(me@front) Password: ",
    "x" * 9000 + "(me@front) Password: ",
    "(me@front) Password: ",
    "me@front's password: ",
    "Hello me@front's password: ",
    "\rme@front's password: ",
    "\nme@front's password: ",
    KEY,
    f"\r{KEY}",
    f"\n{KEY}",
    f"\n\n\n{KEY}\n",
    f"Hello. {KEY}",
    "Enter PIN for ED25519-SK key /home/me/.ssh/sk: ",
    "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
    "Passphrase: ",
    "\rPassword: ",
    "\tPassword: ",
    "Pass\0word: ",
)
# Rules for the jump host, and for a key: none is for the target.
FOR_OTHERS = (
    Rule(re.compile("."), Command(("front",)), hop="me@front", echo=True),
    Rule(re.compile("."), Command(("front",)), hop="front"),
    Rule(re.compile("(?i)passphrase|PIN"), Command(("key",))),
    Rule(re.compile("me@front's password"), Command(("front",))),
    Rule(re.compile("yes/no"), Text("yes")),
)
SCRAPS = st.lists(st.one_of(st.sampled_from([*FORGED, "\r", "\n", "\r\n", "\b", "\t"]), st.text(max_size=4)))


def is_answered(prompt: Prompt | None) -> bool:
    """Whether one of the others' rules answers."""
    return prompt is not None and choose(FOR_OTHERS, prompt, ()).outcome is Outcome.ANSWER


class TestWhole:
    """Prompts that ssh hands over."""

    @pytest.mark.parametrize("words", FORGED)
    def test_forged(self, words: str) -> None:
        """ssh's own prefix says who asks; what follows it changes nothing."""
        assert not is_answered(read_prompt(f"(me@target) {words}", WAY))

    @given(SCRAPS.map("".join))
    def test_anything(self, words: str) -> None:
        """No words of a server get the answer of another host, or a key's passphrase."""
        assert not is_answered(read_prompt(f"(me@target) {words}", WAY))

    @pytest.mark.parametrize(
        "text",
        ["(me@front) Password: ", "me@front's password: ", KEY, "(me@front) Hello\n\n1. push\n\nPassword: "],
    )
    def test_honest(self, text: str) -> None:
        """What ssh and the jump host itself ask is answered."""
        assert is_answered(read_prompt(text, WAY))

    @pytest.mark.parametrize("text", ["Password: ", "(me@front) Password: ", "me@front's password: ", KEY])
    def test_before_8_5(self, text: str) -> None:
        """An ssh that does not say who asks: with several hosts no rule answers, nor with a key's words."""
        everything = (Rule(re.compile("."), Command(("x",))),)
        for way in (Way(WAY.askers, named=False), Way(("me@target",), named=False, hidden=True)):
            assert choose(everything, read_prompt(text, way), ()).outcome is Outcome.UNEXPECTED
        alone = read_prompt(text, Way(("me@target",), named=False))
        assert (choose(everything, alone, ()).outcome is Outcome.ANSWER) is (text == "Password: ")
        assert not is_answered(alone)

    @pytest.mark.parametrize("text", ["(me@front) Password: ", "me@Front's password: "])
    def test_alike(self, text: str) -> None:
        """Where two hosts are called the same, none of them is answered; a key is none of them."""
        way = Way(("me@front", "me@front"))
        prompt = read_prompt(text, way)
        assert choose((Rule(re.compile("."), Command(("x",))),), prompt, ()).overlooked == prompt.doubt
        assert "HostKeyAlias" in prompt.doubt
        assert is_answered(read_prompt(KEY, way))

    def test_other_words_for_a_code(self) -> None:
        """A server that asks for the code in the words of ten systems gets one code."""
        code = Command(("seed",))
        rules, outcomes = profile_rules({"code": code}), []
        given_before: tuple[Given, ...] = ()
        for words in ("TACC Token Code:", "Verification code:", "TOTP code for me:", "OTP:"):
            decision = choose(rules, read_prompt(f"(me@target) {words}", WAY), given_before)
            outcomes.append(decision.outcome)
            given_before += (decision.given,) if decision.given else ()
        assert outcomes == [Outcome.ANSWER, *[Outcome.REJECTED] * 3]


class TestTerminal:
    """Prompts that are read from a terminal."""

    @pytest.mark.parametrize("words", FORGED)
    def test_forged(self, words: str) -> None:
        """Neither a carriage return nor anything else hides who asks."""
        assert not is_answered(shown(f"\r(me@target) {words}", WAY))

    @pytest.mark.parametrize("text", ["\r(me@target) Password: ", "\rme@target's password: ", f"\r{KEY}"])
    @pytest.mark.parametrize("banner", FORGED)
    def test_banner(self, banner: str, text: str) -> None:
        """A banner before a prompt gives it no other asker."""
        prompt = shown(banner.replace("\n", "\r\n") + text, WAY)
        assert not is_answered(prompt) or (prompt.kind is PromptKind.PASSPHRASE and text.endswith(KEY))

    @pytest.mark.parametrize("banner", FORGED)
    def test_banner_alone(self, banner: str) -> None:
        """While the terminal echoes, no secret is sent, unless the rule allows it for that host."""
        screen = Screen(WAY)
        screen.feed(banner)
        prompt = screen.prompt()
        rules = [one for one in FOR_OTHERS if not one.echo and not isinstance(one.answer, Text)]
        assert prompt is None or choose(rules, prompt, ()).outcome is not Outcome.ANSWER

    @given(SCRAPS.map("".join), SCRAPS.map("".join))
    def test_anything(self, banner: str, words: str) -> None:
        """Whatever a server shows and asks, it gets nothing of another host's."""
        # since 7.5 ssh spells out what is no character of the locale
        text = "".join(c for c in banner if c.isprintable() or c in "\r\n\t") + f"\r(me@target) {words}"
        assert not is_answered(shown_or_none(text))

    def test_rule_with_echo(self) -> None:
        """`echo = true` lets a rule answer where the answer is shown; a choice in a menu needs none."""
        prompt = shown("(me@front) Code: ", WAY, unseen=False)
        secret = Rule(re.compile("Code"), Command(("x",)))
        decision = choose((secret,), prompt, ())
        assert (decision.outcome, "echo = true" in decision.overlooked) == (Outcome.SHOWN, True)
        for one in (Rule(re.compile("Code"), Text("1")), Rule(re.compile("C"), Command(("x",)), echo=True)):
            assert choose((one,), prompt, ()).outcome is Outcome.ANSWER


def shown_or_none(text: str) -> Prompt | None:
    """What is asked at a terminal that shows nothing typed."""
    screen = Screen(WAY)
    screen.feed(text)
    return screen.prompt(unseen=True)


# -- the names of hosts --------------------------------------------------------------------------------


def answering(config: Path, text: str, settings_of: str) -> hops.Answering:
    """What answers on the way to `target`, by an `ssh_config`."""
    config.write_text(text)
    settings(settings_of, host="target")
    return hops.answering(destination.resolve("target", config))


ONE_ADDRESS = """
Host front
    HostName 127.0.0.1
    Port 2201
    User me
Host target
    HostName 127.0.0.1
    Port 2202
    User me
"""


@pytest.mark.parametrize("way", ["ProxyJump front", "ProxyCommand ssh -F {} -W %h:%p front"])
def test_one_address(isolated: Path, way: str) -> None:
    """A jump host and a target at one address: ssh calls them the same, so neither is answered."""
    config = isolated / "ssh_config"
    found = answering(config, f"{ONE_ADDRESS}    {way.format(config)}\n", 'password = { command = ["x"] }')
    assert found.way.askers == ("me@127.0.0.1", "me@127.0.0.1")
    prompt = read_prompt("(me@127.0.0.1) Password: ", found.way)
    assert choose(found.rules, prompt, ()).outcome is Outcome.UNEXPECTED


@pytest.mark.parametrize("way", ["ProxyJump front", "ProxyCommand ssh -F {} -W %h:%p front"])
def test_secrets_of_tables(isolated: Path, way: str) -> None:
    """`password` of a table answers the host of the table: the target, or the jump host that has one."""
    config = isolated / "ssh_config"
    text = f"{ONE_ADDRESS}    {way.format(config)}\n    HostKeyAlias target\n"
    lines = 'password = { command = ["target"] }\n[host."front"]\npassword = { command = ["front"] }'
    found = answering(config, text, lines)
    for asker, answer in (("me@target", "target"), ("me@127.0.0.1", "front"), ("you@target", "")):
        decision = choose(found.rules, read_prompt(f"({asker}) Password: ", found.way), ())
        assert (decision.rule.answer if decision.rule else None) == (Command((answer,)) if answer else None)


def test_hop_elsewhere_at_the_same_address(isolated: Path) -> None:
    """A rule for a host that is not on the way does not answer another one at its address."""
    lines = "[[host.target.prompts]]\nexpect = 'P'\nhop = 'front'\nanswer = { command = ['front'] }"
    found = answering(isolated / "ssh_config", ONE_ADDRESS, lines)
    prompt = read_prompt("(me@127.0.0.1) Password: ", found.way)
    assert choose(found.rules, prompt, ()).outcome is Outcome.UNEXPECTED


# -- real servers --------------------------------------------------------------------------------------

SENDABLE = (
    "\r(me@front) Password: ",
    "\x1b]0;x\x07\r(me@front) Password: ",
    "\n(me@front) Password: ",
    "\u2028(me@front) Password: ",
    "me@front's password: ",
    f"\r{KEY}",
    "Passphrase: ",
    "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
)


def test_forged_prompts_of_a_server(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A real server asks by forged prompts: it gets no answer, not even an empty one."""
    node = make_conversation_node("")
    front = stored(isolated, "front", "secret-of-front")
    config = isolated / "ssh_config"
    config.write_text(f"{node.ssh_config.read_text()}\nHost front\n    HostName front\n    User me\n")
    settings(
        *(rule(".", front, hop=hop) for hop in ("front", "me@front")),
        rule("(?i)passphrase|PIN|front.s password", front),
    )
    for words in SENDABLE:
        forget_failures()
        node.set_script(questions(words.replace("\n", r"\n")))
        done = ossh("login", "-F", config, node.host)
        assert done.returncode == 255, (words, done.stderr)
        assert b"no rule answers the prompt" in done.stderr, (words, done.stderr)
    until(node.idle, "the server to see the end")
    assert node.answers() == []


@pytest.mark.parametrize("words", [FORGED[0], f"\r{KEY}"])
def test_forged_prompt_at_a_terminal(
    make_conversation_node: MakeConversationNode, isolated: Path, words: str
) -> None:
    """A person at the terminal is asked, where a rule for another host or for a key would seem to match."""
    node = make_conversation_node(questions(words))
    secret = stored(isolated, "front", "secret-of-front")
    settings(rule(".", secret, hop="me@front"), rule("passphrase", secret))
    child = login(node)
    child.expect_exact(words[1:])
    with pytest.raises(pexpect.TIMEOUT):
        child.expect("never", timeout=1)
    child.sendline("typed")
    assert finish(child)[0] == 0
    assert node.answers() == ["typed"]


def test_echoing_prompt_at_a_terminal(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """Where the terminal echoes, the person is asked; a rule with `echo = true` answers."""
    node = make_conversation_node("echo_on Code: \nallow\n")
    settings(rule("Code", stored(isolated, "code", "4711")))
    child = login(node)
    child.expect("Code: ")
    with pytest.raises(pexpect.TIMEOUT):
        child.expect("4711", timeout=1)
    child.sendline("typed")
    assert finish(child)[0] == 0
    ossh("logout", "-F", node.ssh_config, node.host)
    settings(rule("Code", stored(isolated, "code", "4711")) + "echo = true\n")
    assert finish(login(node))[0] == 0
    assert node.answers() == ["typed", "4711"]


def test_killed_while_a_secret_is_got(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A login killed while ssh waits for its answer: ssh ends, and the server gets no empty answer."""
    node = make_conversation_node(questions("Password: "))
    begun = isolated / "begun"
    settings(rule("Password", f'{{ command = ["sh", "-c", "touch {begun}; exec sleep 60"] }}'))
    process = subprocess.Popen(
        [OSSH, "login", "-F", node.ssh_config, node.host], stdin=subprocess.DEVNULL, start_new_session=True
    )
    until(begun.exists, "the secret to be asked for")
    process.kill()
    process.wait()
    nothing_left(node.ssh_config)
    until(node.idle, "the server to see the end")
    assert node.answers() == []
    assert "Failed" not in node.log.read_text()


# -- bounds --------------------------------------------------------------------------------------------

FLOOD = "while :; do printf '%s\\n' aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"


@pytest.mark.parametrize("where", ["terminal", "stderr", "log"])
def test_flood(isolated: Path, where: str) -> None:
    """What is shown before the login, and what ssh writes down of it, ends with an error after 1 MiB."""
    log = isolated / "log"
    conversation = Conversation(
        host="h", person=None, rules=(), deadline=time.monotonic() + 50, log=log, way=WAY
    )
    to = {"terminal": "&1", "stderr": "&2", "log": log}[where]
    argv = ["sh", "-c", f"exec >{to}; {FLOOD}"]
    with pytest.raises(ConnectionFailed, match="more than 1 MiB before the login succeeded"):
        conversation.run_by_askpass(argv, {}, isolated / "ask") if where == "stderr" else conversation.run(
            argv
        )
    assert not log.exists() or log.stat().st_size < 16 << 20
    assert len(conversation._messages) <= 1000


@pytest.mark.parametrize("begin", ["\x1b]", "\x1b[", "\x1bP", "x", "\r", "(me@h) "])
def test_endless_line(begin: str) -> None:
    """A line or an escape without an end takes linear time, and no memory."""
    screen = Screen(WAY)
    screen.feed(begin)
    for _ in range(1000):
        screen.feed("1" * 1000)
    assert len(repr([getattr(screen, name) for name in Screen.__slots__])) < 10000


# -- the desk ------------------------------------------------------------------------------------------


def test_desk(isolated: Path) -> None:
    """The program hands over the prompt as it is and prints the answer; the secret is in no file."""
    place = isolated / "ask"
    with desk(place) as opened:
        assert opened is not None
        assert place.stat().st_mode & 0o077 == 0
        program = opened.environment["SSH_ASKPASS"]
        asked = subprocess.Popen([program, "(me@h) a\n\r b: "], stdout=subprocess.PIPE)
        question = opened.question()
        assert question is not None
        assert (question.text, question.hint) == ("(me@h) a\n\r b: ", "")
        question.answer(Secret("geheim, ü"))
        assert asked.communicate(timeout=20)[0].decode() == "geheim, ü\n"
        assert b"geheim" not in b"".join(file.read_bytes() for file in place.iterdir() if file.is_file())
    assert not place.exists()


@pytest.mark.parametrize("hint", ["confirm", "none"])
def test_desk_closes(isolated: Path, hint: str) -> None:
    """When nobody answers, what has asked is ended before the program is; not for a notice or a leave."""
    with desk(isolated / "ask") as opened:
        assert opened is not None
        script = '"$SSH_ASKPASS" "Password: "; echo "went on"'
        for given_hint in (hint, ""):
            env = {**os.environ, **opened.environment, "SSH_ASKPASS_PROMPT": given_hint}
            child = subprocess.Popen(["sh", "-c", script], env=env, stdout=subprocess.PIPE)
            question = opened.question()
            assert question is not None
            question.connection.shutdown(socket.SHUT_RDWR)
            said = child.communicate(timeout=20)[0]
            assert (said, child.returncode) == ((b"went on\n", 0) if given_hint else (b"", -15))


def test_whoever_adopts_the_program_is_left_alone(isolated: Path) -> None:
    """Where ssh has died before, the process that its orphans go to is not ended in its place."""
    with desk(isolated / "ask") as opened:
        assert opened is not None
        # a parent of another group is not what has asked
        argv = ["sh", "-c", 'setsid "$SSH_ASKPASS" x; echo lives']
        env = {**os.environ, **opened.environment}
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
        question = opened.question()
        assert question is not None
        question.refuse()
        assert child.communicate(timeout=20)[0] == b"lives\n"


def test_no_place_for_a_desk(isolated: Path) -> None:
    """If the program cannot be put there, there is no desk, and the login uses the terminal."""
    (isolated / "file").touch()
    with desk(isolated / "file" / "ask") as opened:
        assert opened is None
