"""`opensshtransport.prompts`: what is read from the terminal, and which answer a prompt gets.

The texts are those that OpenSSH, PAM modules and the centres' login nodes print, with names replaced.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import logging
import pickle
import re
import traceback
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.answers import Answer, Ask, Command, Join, Keyring, Secret, Text, Totp, parse_answer
from opensshtransport.errors import SettingsError
from opensshtransport.prompts import (
    Given,
    Message,
    MessageKind,
    Outcome,
    Prompt,
    PromptKind,
    Rule,
    Screen,
    choose,
    message_kind,
    parse_rule,
    profile_rules,
)

WORDS = "correct-horse-7319"
PASSWORD = Keyring("hpc", "me")
CODE = Totp(Keyring("hpc_totp", "me"))
PIN = Command(("pass", "pin"))
ALL: Mapping[str, Answer] = {"password": PASSWORD, "code": CODE, "pin": PIN}

FAILLOCK = (
    "(me@login.hpc.example) The account is locked due to 3 failed logins.\r\n"
    "(10 minutes left to unlock)\r\n"
    "Password: "
)
DUO = (
    "(me@login.hpc.example) Duo two-factor login for me\r\n"
    "\r\n"
    "Enter a passcode or select one of the following options:\r\n"
    "\r\n"
    " 1. Duo Push to XXX-XXX-1078\r\n"
    " 2. Phone call to XXX-XXX-1078\r\n"
    " 3. SMS passcodes to XXX-XXX-1078 (next code starts with: 1)\r\n"
    "\r\n"
    "Passcode or option (1-3): "
)
NCHC = "(me@login.hpc.example) Login method (1: Mobile APP OTP, 2: Mobile APP PUSH, 3: Email OTP): "
HOST_KEY = (
    "The authenticity of host 'login.hpc.example (192.0.2.7)' can't be established.\r\n"
    "ED25519 key fingerprint is SHA256:uS2WyJ8n0pDSVAMwEMb9GpxSt0EIgzgxrQMAvMZHh0I.\r\n"
    "This key is not known by any other names.\r\n"
    "Are you sure you want to continue connecting (yes/no/[fingerprint])? "
)


def shown(text: str) -> Prompt:
    """The prompt that stands on a fresh screen after `text`."""
    screen = Screen()
    screen.feed(text)
    prompt = screen.prompt()
    assert prompt is not None
    return prompt


def rule(expect: str, answer: Answer = PASSWORD, *, hop: str | None = None) -> Rule:
    """A rule with the password as its answer."""
    return Rule(re.compile(expect), answer, hop=hop)


def chosen(rules: tuple[Rule, ...], text: str) -> Answer | None:
    """The answer that `text` gets on a fresh screen."""
    decision = choose(rules, shown(text), ())
    return decision.rule.answer if decision.rule else None


class TestSecret:
    """A secret can be revealed, and nothing else."""

    def test_reveal(self) -> None:
        """The text is there for the one that sends it."""
        assert Secret(WORDS).reveal() == WORDS

    def test_join(self) -> None:
        """A PIN and a code become one secret, with what the site wants between them."""
        assert Secret.join([Secret("1234"), Secret("push")], ",").reveal() == "1234,push"

    @given(st.text(min_size=4))
    def test_text_forms_say_nothing(self, text: str) -> None:
        """No text form holds the secret or depends on it, not even on its length."""
        secret = Secret(text)
        forms = {
            repr(secret),
            str(secret),
            format(secret, ">40"),
            f"{secret!r}",
            f"{secret:s}",
            "%s" % secret,  # noqa: UP031  # the form that logging uses
        }
        assert forms == {"Secret(…)"}
        assert repr([{"a": secret}]) == "[{'a': Secret(…)}]"

    def test_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """A log line with a secret in its arguments shows the placeholder."""
        logging.getLogger("test").warning("sent %s and %r", Secret(WORDS), {"x": Secret(WORDS)})
        assert caplog.messages == ["sent Secret(…) and {'x': Secret(…)}"]

    @pytest.mark.parametrize(
        "write",
        [
            pickle.dumps,
            copy.copy,
            copy.deepcopy,
            json.dumps,
            len,
            vars,
            list,
            lambda s: s + "x",
            "".join,
        ],
    )
    def test_cannot_be_written(self, write: Any) -> None:
        """Pickle, copy, json and joining to a text fail, and their errors do not hold the secret."""
        with pytest.raises(TypeError) as caught:
            write(Secret(WORDS))
        assert WORDS not in str(caught.value)

    def test_traceback_with_locals(self) -> None:
        """A traceback that shows local variables shows the placeholder."""

        def failing(secret: Secret) -> None:
            kept = [secret]
            raise RuntimeError(f"no use for {kept}")

        try:
            failing(Secret(WORDS))
        except RuntimeError as error:
            report = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "secret = Secret(…)" in report
        assert WORDS not in report

    def test_in_dataclass(self) -> None:
        """The repr of a value that holds a secret is clean, and `asdict` fails."""

        @dataclasses.dataclass
        class Holder:
            secret: Secret

        assert repr(Holder(Secret(WORDS))).endswith("Holder(secret=Secret(…))")
        with pytest.raises(TypeError):
            dataclasses.asdict(Holder(Secret(WORDS)))

    def test_equality_is_identity(self) -> None:
        """Comparing secrets tells nothing about their texts."""
        secret = Secret(WORDS)
        assert secret == secret
        assert secret != Secret(WORDS)


class TestParseAnswer:
    """Answers as they stand in the settings."""

    @pytest.mark.parametrize(
        ("value", "answer"),
        [
            ({"keyring": "hpc", "username": "me"}, Keyring("hpc", "me")),
            ({"command": ["~/bin/secret", "hpc"]}, Command(("~/bin/secret", "hpc"))),
            ({"totp": {"keyring": "s", "username": "me"}}, Totp(Keyring("s", "me"))),
            (
                {"totp": {"command": ["pass", "seed"]}, "digits": 8, "period": 60, "digest": "SHA256"},
                Totp(Command(("pass", "seed")), digits=8, period=60, digest="sha256"),
            ),
            ({"text": "1"}, Text("1")),
            (
                {"join": ["ask", {"text": "push"}], "separator": ","},
                Join((Ask(), Text("push")), separator=","),
            ),
            (
                {"join": [{"ask": True}, {"totp": {"command": ["x"]}}]},
                Join((Ask(), Totp(Command(("x",))))),
            ),
            ({"ask": True}, Ask()),
            ({"ask": True, "echo": True}, Ask(echo=True)),
            ("ask", Ask()),
        ],
    )
    def test_forms(self, value: object, answer: Answer) -> None:
        """Each form of the settings becomes its value, with the documented defaults."""
        assert parse_answer(value, "here") == answer

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            (WORDS, "here: an answer is a table, not str; no secret stands here"),
            (5, "here: an answer is a table, not int"),
            ({}, "here: it is not clear what the answer is (found: nothing)"),
            ({"password": WORDS}, "found: password"),
            ({"keyring": "hpc", "text": "1"}, "found: keyring, text"),
            ({"keyring": "hpc"}, "here: username is missing; add username"),
            ({"keyring": "hpc", "user": "me"}, "here: unknown key user; allowed here: keyring, username"),
            ({"keyring": "hpc", "username": ""}, "here.username: an empty string"),
            ({"command": "pass hpc"}, "here.command: a list of strings is needed"),
            ({"command": []}, "here.command: a list of strings is needed"),
            ({"command": [""]}, "here.command: a list of strings is needed"),
            ({"command": ["pass", 5]}, "here.command: a list of strings is needed"),
            ({"totp": WORDS}, "here.totp: an answer is a table, not str"),
            ({"totp": {"text": WORDS}}, "here.totp: this cannot hold the seed"),
            ({"totp": "ask"}, "here.totp: this cannot hold the seed"),
            ({"totp": {"join": ["ask", {"command": ["x"]}]}}, "here.totp: this cannot hold the seed"),
            ({"totp": {"totp": {"command": ["x"]}}}, "here.totp: this cannot hold the seed"),
            ({"totp": {"command": ["x"]}, "digits": 9}, "here.digits: not a possible number"),
            ({"totp": {"command": ["x"]}, "digits": True}, "write a whole number from 6 to 8"),
            ({"totp": {"command": ["x"]}, "period": "30"}, "here.period: not a possible number"),
            ({"totp": {"command": ["x"]}, "digest": "md5"}, "here.digest: unknown digest; write sha1"),
            ({"text": 1}, "here.text: a string is needed, not int"),
            ({"join": [{"text": "1"}]}, "here.join: a list of two or more answers is needed"),
            ({"join": ["ask", {"kering": "x"}]}, "here.join[1]: it is not clear what the answer is"),
            ({"join": ["ask", "ask"], "separator": 5}, "here.separator: a string is needed, not int"),
            ({"ask": False}, "here.ask: only true has a meaning"),
            ({"ask": "yes"}, "here.ask: true or false is needed, not str"),
            ({"ask": True, "echo": 1}, "here.echo: true or false is needed, not int"),
        ],
    )
    def test_errors(self, value: object, what: str) -> None:
        """An error names the place and what is wrong, and never repeats a value."""
        with pytest.raises(SettingsError) as caught:
            parse_answer(value, "here")
        assert what in str(caught.value)
        assert WORDS not in str(caught.value)


class TestParseRule:
    """Rules as they stand in the settings."""

    def test_rule(self) -> None:
        """`expect`, `answer` and `hop` are read, and the place is kept as the source."""
        read = parse_rule({"expect": "(?i)otp", "answer": {"text": "1"}, "hop": "jump*"}, "prompts[2]")
        assert read == Rule(re.compile("(?i)otp"), Text("1"), hop="jump*", source="prompts[2]")

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ("otp", "here: a rule is a table, not str"),
            ({"answer": "ask"}, "here: expect is missing"),
            ({}, "here: expect and answer is missing"),
            (
                {"expect": "x", "answer": "ask", "once": True},
                "unknown key once; allowed here: expect, answer, hop",
            ),
            ({"expect": "(", "answer": "ask"}, "here.expect: no regular expression"),
            ({"expect": ".*", "answer": "ask"}, "here.expect: it matches every prompt"),
            ({"expect": "", "answer": "ask"}, "here.expect: an empty string"),
            ({"expect": "x", "answer": {"keyring": "s"}}, "here.answer: username is missing"),
            ({"expect": "x", "answer": "ask", "hop": 3}, "here.hop: a string is needed, not int"),
        ],
    )
    def test_errors(self, value: object, what: str) -> None:
        """An error names the place and what is wrong."""
        with pytest.raises(SettingsError) as caught:
            parse_rule(value, "here")
        assert what in str(caught.value)


class TestProfiles:
    """The prompts of known systems get the secrets that they want."""

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("(me@h) Password: ", PASSWORD),
            ("(me@h) Password:", PASSWORD),
            ("me@h's password: ", PASSWORD),
            ("Password: ", PASSWORD),
            ("(me@h) Verification code: ", CODE),
            ("(me@h) Password & verification code: ", Join((PASSWORD, CODE))),
            ("(me@h) One-time password (OATH) for `me': ", CODE),
            (DUO, CODE),
            (
                "Duo two-factor login for me\r\n\r\n 1. Duo Push to XXX-1\r\n\r\nPasscode or option (1-1): ",
                CODE,
            ),
            ("(me@stampede3.tacc.utexas.edu) TACC Token Code:", CODE),
            ("(me@perlmutter.nersc.gov) Password + OTP: ", Join((PASSWORD, CODE))),
            ("(me@hpcsh.nrel.gov) Password+OTPToken: ", Join((PASSWORD, CODE))),
            ("(me@login.expanse.sdsc.edu) TOTP code for me: ", CODE),
            ("(me@login-icelake.hpc.cam.ac.uk) TOTP Verification Code: ", CODE),
            ("(me@judac.fz-juelich.de) JSC TOTP Verification code: ", CODE),
            ("(me@frontier.olcf.ornl.gov) Enter PASSCODE: ", Join((PIN, CODE))),
            ("(me@frontier.olcf.ornl.gov) PASSCODE: ", Join((PIN, CODE))),
            (NCHC, Text("1")),
            ("(me@nano4.nchc.org.tw) OTP: ", CODE),
            ("(me@ipa) First Factor: ", PASSWORD),
            ("(me@ipa) Second Factor (optional): ", CODE),
            ("(me@ipa) Second Factor: ", CODE),
        ],
    )
    def test_code(self, text: str, answer: Answer) -> None:
        """With all secrets at hand and codes as second factor, each system's prompt gets its own."""
        assert chosen(profile_rules(ALL, second_factor="code"), text) == answer

    @pytest.mark.parametrize(
        ("secrets", "text", "answer"),
        [
            (ALL, DUO, Text("1")),
            ({}, DUO, Text("1")),
            (ALL, NCHC, Text("2")),
            (ALL, "(me@h) Password: ", PASSWORD),
            (ALL, "(me@h) TACC Token Code:", CODE),
            ({"pin": PIN}, "(me@bell.rcac.purdue.edu) Password: ", Join((PIN, Text("push")), separator=",")),
            ({"pin": PIN}, "me@bell.rcac.purdue.edu's password: ", Join((PIN, Text("push")), separator=",")),
        ],
    )
    def test_push(self, secrets: Mapping[str, Answer], text: str, answer: Answer) -> None:
        """With push as second factor, menus get its number and Purdue's prompt the PIN with the word."""
        assert chosen(profile_rules(secrets, second_factor="push"), text) == answer

    def test_push_is_marked(self) -> None:
        """A rule that starts a push says so, since the wait after it is long; others do not."""
        rules = profile_rules(ALL, second_factor="push")
        pushing = {one.source for one in rules if one.push}
        assert pushing == {"profile Duo", "profile NCHC", "profile Purdue"}

    @pytest.mark.parametrize(
        ("secrets", "text"),
        [
            ({}, "(me@h) Password: "),
            ({"code": CODE}, "(me@h) Password: "),
            ({"password": PASSWORD}, "(me@h) Verification code: "),
            ({"password": PASSWORD}, DUO),
            ({"password": PASSWORD}, NCHC),
            ({"password": PASSWORD}, "(me@h) Password & verification code: "),
            ({"password": PASSWORD}, "(me@h) Password + OTP: "),
            ({"password": PASSWORD}, "(me@h) Password+OTPToken: "),
            ({"password": PASSWORD}, "(me@h) One-time password (OATH) for `me': "),
            ({"code": CODE}, "(me@h) Enter PASSCODE: "),
            ({"pin": PIN}, "(me@h) Password: "),
        ],
    )
    def test_missing_secret(self, secrets: Mapping[str, Answer], text: str) -> None:
        """A prompt whose secrets are not all there gets nothing, and never a part of them."""
        assert chosen(profile_rules(secrets), text) is None

    @pytest.mark.parametrize(
        "text",
        [
            "(me@h) New password: ",
            "(me@h) Current password: ",
            "(me@h) (current) UNIX password: ",
            "(me@h) Retype new password: ",
            "Enter me@h's old password: ",
            "Enter me@h's new password: ",
            "(me@h) Enter a new PIN having from 4 to 8 digits: ",
            "(me@h) Wait for the tokencode to change, then enter the new tokencode : ",
            "Enter passphrase for key '/home/me/.ssh/id_ed25519': ",
            "Enter PIN for ED25519-SK key /home/me/.ssh/id_ed25519_sk: ",
            "(me@h) Your response: ",
            "(me@h) Do you accept the terms of use (yes/no)? ",
        ],
    )
    def test_not_for_these(self, text: str) -> None:
        """Changes of passwords and PINs, keys' passphrases and questions are nothing for the profiles."""
        assert chosen(profile_rules(ALL, second_factor="push"), text) is None

    def test_settings_go_first(self) -> None:
        """A rule of the settings wins over a profile that matches too."""
        rules = (rule("(?i)verification code", Ask()), *profile_rules(ALL))
        assert chosen(rules, "(me@h) Verification code: ") == Ask()

    @pytest.mark.parametrize(
        ("secrets", "second_factor", "what"),
        [
            ({"otp": CODE}, None, "secrets: unknown key otp; allowed here: password, code, pin"),
            (ALL, "phone", "second_factor: unknown word"),
            ({"password": PASSWORD}, "code", "second_factor: there is no code to send"),
        ],
    )
    def test_errors(self, secrets: Mapping[str, Answer], second_factor: str | None, what: str) -> None:
        """Names that mean nothing are refused."""
        with pytest.raises(SettingsError) as caught:
            profile_rules(secrets, second_factor=second_factor)
        assert what in str(caught.value)


class TestPrompt:
    """What is read from an unfinished line."""

    @pytest.mark.parametrize(
        ("text", "prompt"),
        [
            (
                "(me@login.hpc.example) Password: ",
                Prompt("Password: ", PromptKind.KEYBOARD_INTERACTIVE, user="me", hop="login.hpc.example"),
            ),
            (
                "(me@uni.example@jump) Password: ",
                Prompt("Password: ", PromptKind.KEYBOARD_INTERACTIVE, user="me@uni.example", hop="jump"),
            ),
            (
                "me@jump's password: ",
                Prompt("me@jump's password: ", PromptKind.PASSWORD, user="me", hop="jump"),
            ),
            (
                "me@2001:db8::7's password: ",
                Prompt("me@2001:db8::7's password: ", PromptKind.PASSWORD, user="me", hop="2001:db8::7"),
            ),
            (
                "Enter passphrase for key '/home/me/.ssh/it's mine': ",
                Prompt(
                    "Enter passphrase for key '/home/me/.ssh/it's mine': ",
                    PromptKind.PASSPHRASE,
                    key="/home/me/.ssh/it's mine",
                ),
            ),
            (
                "Bad passphrase, try again for /home/me/.ssh/id: ",
                Prompt(
                    "Bad passphrase, try again for /home/me/.ssh/id: ",
                    PromptKind.PASSPHRASE,
                    key="/home/me/.ssh/id",
                ),
            ),
            (
                "Enter PIN for ED25519-SK key /home/me/.ssh/sk: ",
                Prompt(
                    "Enter PIN for ED25519-SK key /home/me/.ssh/sk: ",
                    PromptKind.PIN,
                    key="ED25519-SK key /home/me/.ssh/sk",
                ),
            ),
            ("Verification code: ", Prompt("Verification code: ", PromptKind.OTHER)),
        ],
    )
    def test_kinds(self, text: str, prompt: Prompt) -> None:
        """The asker and the kind are taken from ssh's own words; the prefix is split off."""
        assert shown(text) == prompt

    @pytest.mark.parametrize(
        "text",
        [
            HOST_KEY,
            "Are you sure you want to continue connecting (yes/no)? ",
            "Please type 'yes', 'no' or the fingerprint: ",
            "Please type 'yes' or 'no': ",
            "Accept updated hostkeys? (yes/no): ",
        ],
    )
    def test_host_key(self, text: str) -> None:
        """All wordings of the question for a host key are known, and no rule ever answers them."""
        greedy = (rule("(?i)yes"), rule("."))
        assert choose(greedy, shown(text), ()).outcome is Outcome.HOST_KEY

    @pytest.mark.parametrize(
        ("text", "last"),
        [(DUO, "Passcode or option (1-3): "), (FAILLOCK, "Password: ")],
    )
    def test_several_lines(self, text: str, last: str) -> None:
        """A prompt of several lines is matched on its last one and keeps the hop of its first."""
        assert shown(text) == Prompt(
            last, PromptKind.KEYBOARD_INTERACTIVE, user="me", hop="login.hpc.example"
        )

    def test_notice_is_message(self) -> None:
        """The lock notice inside a prompt is seen as a message that tells of a locked account."""
        assert Screen().feed(FAILLOCK) == [
            Message(
                "The account is locked due to 3 failed logins.", MessageKind.LOCKED, hop="login.hpc.example"
            ),
            Message("(10 minutes left to unlock)", MessageKind.LOCKED),
        ]

    def test_hop_ends_with_answer(self) -> None:
        """The hop of an answered prompt is not carried over to the next one."""
        screen = Screen()
        screen.feed(DUO)
        screen.answered(Secret("123456"))
        screen.feed("\r\nme@target's password: ")
        prompt = screen.prompt()
        assert prompt is not None
        assert prompt.asker == "me@target"

    @pytest.mark.parametrize(
        "text",
        [
            "(me@evil) Please log in again\r\n(me@jump) Password: ",
            "(me@jump) welcome\r\n(me@evil) Password: ",
            "(me@evil) Enter passphrase for key '/home/me/.ssh/id_ed25519': ",
            "(me@evil) Sorry\r\nEnter passphrase for key '/home/me/.ssh/id_ed25519': ",
            "(me@evil) Enter PIN for ED25519-SK key /home/me/.ssh/sk: ",
        ],
    )
    def test_pretended(self, text: str) -> None:
        """A server that writes another hop's or ssh's own prompt gets no answer, whatever the rules say."""
        prompt = shown(text)
        assert prompt.kind is PromptKind.UNCLEAR
        assert choose((rule("."), rule("Password", hop="jump")), prompt, ()).outcome is Outcome.UNEXPECTED

    def test_password_words_of_a_server(self) -> None:
        """A server that writes `me@jump's password: ` itself is asked as itself, not as the jump host."""
        assert shown("(me@evil) me@jump's password: ").hop == "evil"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "   ",
            "\x1b[2K\x1b[0m",
            "Last login: Mon\r\n",
            "Password: \r",
            "Permission denied, please try again.",
            "me@h: Permission denied (publickey).",
            "Confirm user presence for key ED25519-SK SHA256:abc",
            "\rConfirm user presence for key ED25519-SK SHA256:abc\r\n",
            "Pushed a login request to your device...",
            "Autopushing login request to phone...",
            "Success. Logging you in...",
            "Received disconnect from 192.0.2.7 port 22:2: Too many authentication failures",
            "(me@h) The account is locked due to 3 failed logins.",
            "Account locked due to 5 failed logins",
        ],
    )
    def test_no_prompt(self, text: str) -> None:
        """Blank lines, finished lines and lines that only tell something are never taken for prompts."""
        screen = Screen()
        screen.feed(text)
        assert screen.prompt() is None


class TestCertain:
    """Whether an unfinished line is a prompt for sure, or perhaps the beginning of a message."""

    @pytest.mark.parametrize(
        "text",
        [
            "Password: ",
            "Username:",
            "Continue? ",
            "Continue [y/n] ",
            "Continue (yes/no)",
            "Method [push, sms, phone]",
            "sftp> ",
            "(me@h) No colon and no blank",
            "(me@h) Working on it...",
            "me@h's password: ",
            "Enter passphrase for key '/keys/100%': ",
        ],
    )
    def test_certain(self, text: str) -> None:
        """By its end, or by who asks: after ssh's own words and its prefix nothing else can come."""
        assert shown(text).certain

    @pytest.mark.parametrize(
        "text",
        [
            "Contacting",
            "Enter the colour",
            "Press Enter to continue...",
            "[=====>",
            "downloaded (3/10)",
            "Stage [2]",
            "Password",
        ],
    )
    def test_uncertain(self, text: str) -> None:
        """Other lines may be prompts, and may go on."""
        assert not shown(text).certain

    @pytest.mark.parametrize(
        "text", ["Fetching keys...", "- Opening your browser ...", "Waiting…", "[####  ] 42%", "keys (42 %)"]
    )
    def test_working(self, text: str) -> None:
        """A program that says what it is at is not asking."""
        screen = Screen()
        screen.feed(text)
        assert screen.prompt() is None


class TestWholeLine:
    """Prompts that end with their line."""

    @pytest.mark.parametrize("text", ["(me@h) Code:\r\n", "(me@h) Read this:\r\n\r\nCode:\r\n\r\n"])
    def test_of_a_server(self, text: str) -> None:
        """What follows ssh's prefix is asked, by its last line."""
        prompt = shown(text)
        assert (prompt.text, prompt.kind, prompt.hop) == ("Code:", PromptKind.KEYBOARD_INTERACTIVE, "h")

    def test_unseen(self) -> None:
        """Without prefix it is a prompt only while the terminal hides what is typed."""
        screen = Screen()
        screen.feed("Hello\r\nEnter the code\r\n")
        assert screen.prompt() is None
        assert screen.prompt(unseen=True) == Prompt("Enter the code", PromptKind.OTHER)

    def test_answered(self) -> None:
        """What was answered is asked no more, and what stood there before is no prompt."""
        screen = Screen()
        screen.feed("(me@h) Code:\r\n")
        screen.answered(Secret("1234"))
        screen.feed("\r\n")
        assert screen.prompt(unseen=True) is None

    def test_nothing(self) -> None:
        """Where nothing has been said, nothing is asked in words."""
        assert Screen().prompt(unseen=True) is None


class TestMessages:
    """What is read from whole lines."""

    @pytest.mark.parametrize(
        ("line", "kind"),
        [
            ("Permission denied, please try again.", MessageKind.REJECTED),
            ("me@h: Permission denied (publickey,keyboard-interactive).", MessageKind.REJECTED),
            ("Login incorrect", MessageKind.REJECTED),
            ("Invalid passcode, please try again.", MessageKind.REJECTED),
            ("Incorrect passcode. Please try again.", MessageKind.REJECTED),
            ("Invalid verification code", MessageKind.REJECTED),
            ("Login request denied.", MessageKind.REJECTED),
            (
                "Received disconnect from 192.0.2.7 port 22:2: Too many authentication failures",
                MessageKind.TOO_MANY,
            ),
            ("Too many failed login attempts", MessageKind.TOO_MANY),
            ("The account is locked due to 3 failed logins.", MessageKind.LOCKED),
            ("(1 minute left to unlock)", MessageKind.LOCKED),
            ("Account locked due to 5 failed logins", MessageKind.LOCKED),
            ("Account temporary locked (59 seconds left)", MessageKind.LOCKED),
            ("Your account has been temporarily locked.", MessageKind.LOCKED),
            ("Your account has been disabled. Contact support.", MessageKind.LOCKED),
            ("You have been locked out.", MessageKind.LOCKED),
            ("pam_faillock: denied", MessageKind.LOCKED),
            ("Confirm user presence for key ECDSA-SK SHA256:abc", MessageKind.TOUCH),
            ("User presence confirmed", MessageKind.PROGRESS),
            ("Pushed a login request to your device...", MessageKind.PROGRESS),
            ("Autopushing login request to phone...", MessageKind.PROGRESS),
            ("Please open Duo Mobile and check for Duo Push requests manually.", MessageKind.PROGRESS),
            ("Calling your phone...", MessageKind.PROGRESS),
            ("Success. Logging you in...", MessageKind.PROGRESS),
            ("Authenticated with partial success.", MessageKind.PROGRESS),
            ("To sign in, open https://login.example/device and enter the code ABCD-EFGH", MessageKind.URL),
            ("If a browser does not open, visit https://login.example/x", MessageKind.URL),
            # Rules of use in a banner tell what would happen.
            ("If your account is locked, write to support.", MessageKind.OTHER),
            ("Your account may be locked after 3 failed logins.", MessageKind.OTHER),
            ("Accounts will be locked when too many login attempts fail.", MessageKind.OTHER),
            ("Invalid password attempts are logged.", MessageKind.OTHER),
            ("You would see that the account is locked.", MessageKind.OTHER),
            ("Welcome to the cluster", MessageKind.OTHER),
            ("Password: ", MessageKind.OTHER),
        ],
    )
    def test_kinds(self, line: str, kind: MessageKind) -> None:
        """Each line is told apart by its words, on the screen as in ssh's log."""
        assert message_kind(line) is kind
        assert Screen().feed(line + "\r\n") == [Message(line.rstrip(), kind)]

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            ("one\r\ntwo\nthree", ["one", "two"]),
            ("one\r\r\n", ["one"]),
            ("10%\r20%\rdone\r\n", ["done"]),
            ("tehx\b\b\bhe\r\n", ["the"]),
            ("\x1b[1;31mred\x1b[0m\r\n", ["red"]),
            ("\x1b]0;title\x07text\r\n", ["text"]),
            ("\x1b]0;title\x1b\\text\r\n", ["text"]),
            ("\x1bP1;2q picture \x1b\\text\r\n", ["text"]),
            ("\x1b(Btext\x1b7\x1b=\r\n", ["text"]),
            ("be\x07ll\x00\r\n", ["bell"]),
            ("a\tb\r\n", ["a\tb"]),
            ("Grüße, 計算 🔑\r\n", ["Grüße, 計算 🔑"]),
            ("\r\n  \r\n", []),
            # An escape that never ends does not swallow what comes after the line.
            ("\x1b]0;title\r\nnext\r\n", ["0;title", "next"]),
        ],
    )
    def test_terminal(self, text: str, lines: list[str]) -> None:
        """Escapes, returns and backspaces work as on a terminal; blank lines are left out."""
        assert [message.line for message in Screen().feed(text)] == lines

    def test_end(self) -> None:
        """At the end of the output the unfinished line becomes a message."""
        screen = Screen()
        assert screen.feed("Connection closed by 192.0.2.7") == []
        assert screen.end() == [Message("Connection closed by 192.0.2.7", MessageKind.OTHER)]
        assert screen.end() == []


# What a terminal gets during a login, in scraps, with the characters that change a line.
SCRAPS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "\r",
                    "\n",
                    "\r\n",
                    "\b",
                    "\x07",
                    "\x1b",
                    "\x1b[",
                    "\x1b[31m",
                    "\x1b]0;t\x07",
                    "\x1b]0;t\x1b\\",
                ),
                *("\x1b(B", "\x1bP", "\x1b\\", "\x9b", "\t", " "),
                *(
                    "(me@h) ",
                    "(me@j) ",
                    "Password: ",
                    "me@h's password: ",
                    "Permission denied, please try again.",
                ),
                *(FAILLOCK, DUO, HOST_KEY),
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=30,
).map("".join)


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces, cut at any places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:stop] for start, stop in itertools.pairwise(edges)]


class TestPieces:
    """How the output is cut into pieces does not matter."""

    @given(SCRAPS, st.lists(st.integers(min_value=0)))
    def test_any_pieces(self, text: str, places: list[int]) -> None:
        """Fed in any pieces, a text gives the same messages and the same prompt as fed at once."""
        whole, pieces = Screen(), Screen()
        at_once = whole.feed(text)
        assert [message for piece in cut(text, places) for message in pieces.feed(piece)] == at_once
        assert pieces.prompt() == whole.prompt()
        assert pieces.end() == whole.end()

    @given(st.text("ab1 ", min_size=1, max_size=4), SCRAPS, st.lists(st.integers(min_value=0)))
    def test_any_pieces_after_answer(self, sent: str, text: str, places: list[int]) -> None:
        """The same holds while the echo of an answer may come back."""
        whole, pieces = Screen(), Screen()
        for screen in (whole, pieces):
            screen.feed("Password: ")
            screen.answered(Secret(sent))
        at_once = whole.feed(sent[:2] + text)
        assert [
            message for piece in cut(sent[:2] + text, places) for message in pieces.feed(piece)
        ] == at_once
        assert pieces.prompt() == whole.prompt()


class TestAnswered:
    """What comes back after an answer."""

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_echoed_code(self, size: int) -> None:
        """A code that the terminal echoes is in no message and no prompt."""
        screen = Screen()
        screen.feed("(me@h) TOTP code for me: ")
        screen.answered(Secret("267577"))
        output = "267577\r\nInvalid code.\r\n(me@h) TOTP code for me: "
        pieces = [output[start : start + size] for start in range(0, len(output), size)]
        messages = [message for piece in pieces for message in screen.feed(piece)]
        assert messages == [Message("Invalid code.", MessageKind.REJECTED)]
        assert screen.prompt() == Prompt(
            "TOTP code for me: ", PromptKind.KEYBOARD_INTERACTIVE, user="me", hop="h"
        )

    def test_half_echoed(self) -> None:
        """When the line ends within the echo, what came of the secret is dropped."""
        screen = Screen()
        screen.answered(Secret("267577"))
        assert screen.feed("2675\r\n") == []

    def test_echo_ends_with_line(self) -> None:
        """An echo is awaited on the same line only; after it even equal words are read."""
        screen = Screen()
        screen.answered(Secret("OTP: "))
        screen.feed("\r\nOTP: ")
        assert screen.prompt() == Prompt("OTP: ", PromptKind.OTHER)

    def test_prompt_on_the_same_line(self) -> None:
        """A script that reads silently and prints the next prompt on the same line is understood."""
        screen = Screen()
        screen.feed("Password: ")
        screen.answered(Secret("Only-begins-alike"))
        screen.feed("OTP: ")
        assert screen.prompt() == Prompt("OTP: ", PromptKind.OTHER)

    def test_person_types(self) -> None:
        """What a person types at the terminal is in no message, up to the end of the line."""
        screen = Screen()
        screen.feed("(me@h) Verification code: ")
        screen.answered()
        assert screen.feed("123") == []
        assert screen.prompt() is None
        assert screen.feed("456\r\nWelcome\r\n") == [Message("Welcome", MessageKind.OTHER)]

    def test_screen_shows_no_secret(self) -> None:
        """While an echo is awaited, a traceback with local variables does not show the secret."""
        screen = Screen()
        screen.answered(Secret(WORDS))
        values = {name: getattr(screen, name) for name in Screen.__slots__}
        assert WORDS not in repr(values)


class TestChoose:
    """Which rule answers, and how often."""

    def test_first_rule_wins(self) -> None:
        """Rules are tried in order."""
        rules = (rule("(?i)password", Text("first")), rule("(?i)password", Text("second")))
        assert chosen(rules, "(me@h) Password: ") == Text("first")

    def test_no_rule(self) -> None:
        """A prompt that no rule knows is unexpected."""
        decision = choose((rule("OTP"),), shown("(me@h) Favourite colour: "), ())
        assert (decision.outcome, decision.rule, decision.given) == (Outcome.UNEXPECTED, None, None)

    def test_prefix_is_not_searched(self) -> None:
        """`expect` sees neither the prefix nor earlier lines."""
        rules = (rule("me@|login|locked|minutes"),)
        assert chosen(rules, FAILLOCK) is None

    def test_repeated_prompt(self) -> None:
        """A repeated prompt is a rejection, even where a later rule would match it too."""
        rules = (rule("(?i)password", Text("first")), rule("Password", Text("second")))
        first = choose(rules, shown("(me@h) Password: "), ())
        assert first.outcome is Outcome.ANSWER
        assert first.given is not None
        second = choose(rules, shown("(me@h) Password: "), (first.given,))
        assert second.outcome is Outcome.REJECTED

    def test_other_method_of_the_same_host(self) -> None:
        """A rule that answered keyboard-interactive does not send it by the password method too."""
        rules = profile_rules(ALL)
        first = choose(rules, shown("(me@h) Password: "), ())
        assert first.given is not None
        assert choose(rules, shown("me@h's password: "), (first.given,)).outcome is Outcome.REJECTED

    def test_other_prompt(self) -> None:
        """A prompt that another rule matches is a new one."""
        rules = profile_rules(ALL)
        first = choose(rules, shown("(me@h) Password: "), ())
        assert first.given is not None
        second = choose(rules, shown("(me@h) Verification code: "), (first.given,))
        assert second.outcome is Outcome.ANSWER

    def test_hops(self) -> None:
        """Two hops may show the same prompt: each is answered once."""
        rules = profile_rules(ALL)
        answered: tuple[Given, ...] = ()
        outcomes = []
        for hop in ("jump", "target", "jump", "target"):
            decision = choose(rules, shown(f"(me@{hop}) Password: "), answered)
            outcomes.append(decision.outcome)
            if decision.outcome is Outcome.ANSWER and decision.given:
                answered += (decision.given,)
        assert outcomes == [Outcome.ANSWER, Outcome.ANSWER, Outcome.REJECTED, Outcome.REJECTED]

    @pytest.mark.parametrize(
        ("hop", "text", "matches"),
        [
            ("jump", "(me@jump) Password: ", True),
            ("jump", "(me@target) Password: ", False),
            ("jump", "me@jump's password: ", True),
            ("jump", "me@target's password: ", False),
            ("*.hpc.example", "(me@Login1.HPC.example) Password: ", True),
            ("me@*.example", "(me@jump.example) Password: ", True),
            ("me@*.example", "(you@jump.example) Password: ", False),
            ("*", "Password: ", False),
            ("jump", FAILLOCK, False),
            ("login.hpc.*", FAILLOCK, True),
            ("*", "Enter passphrase for key '/home/me/password': ", False),
        ],
    )
    def test_hop_of_rule(self, hop: str, text: str, matches: bool) -> None:
        """A rule with a hop is for that host's prompts alone; where the host is unknown it does not match."""
        assert (chosen((rule("(?i)password", hop=hop),), text) is not None) is matches

    def test_passphrase_of_several_hops(self) -> None:
        """The passphrase of one key is given once to each ssh program that takes part, and no further."""
        rules = (rule("passphrase"),)
        prompt = shown("Enter passphrase for key '/home/me/.ssh/id': ")
        given_once = choose(rules, prompt, ()).given
        assert given_once is not None
        assert choose(rules, prompt, (given_once,)).outcome is Outcome.REJECTED
        assert choose(rules, prompt, (given_once,), hops=2).outcome is Outcome.ANSWER
        assert choose(rules, prompt, (given_once, given_once), hops=2).outcome is Outcome.REJECTED

    @pytest.mark.parametrize("text", ["(me@h) Password: ", "Enter PIN for ED25519-SK key /k: "])
    def test_hops_are_for_passphrases(self, text: str) -> None:
        """Passwords and PINs, whose wrong attempts are counted, are given once for any number of hops."""
        rules = (rule("Password|PIN"),)
        given_once = choose(rules, shown(text), ()).given
        assert given_once is not None
        assert choose(rules, shown(text), (given_once,), hops=3).outcome is Outcome.REJECTED

    def test_two_keys(self) -> None:
        """Each key's passphrase is asked for on its own."""
        rules = (rule("passphrase"),)
        first = choose(rules, shown("Enter passphrase for key '/k1': "), ())
        assert first.given is not None
        second = choose(rules, shown("Enter passphrase for key '/k2': "), (first.given,))
        assert second.outcome is Outcome.ANSWER

    def test_reject_on_one_screen(self) -> None:
        """A whole login on one screen: password, then code; the code is asked again and not answered."""
        screen, rules = Screen(), profile_rules(ALL)
        answered: tuple[Given, ...] = ()
        outcomes = []
        for output in (
            "Welcome\r\n(me@h) Password: ",
            "\r\n(me@h) Verification code: ",
            "\r\n(me@h) Verification code: ",
        ):
            screen.feed(output)
            prompt = screen.prompt()
            assert prompt is not None
            decision = choose(rules, prompt, answered)
            outcomes.append(decision.outcome)
            if decision.given:
                answered += (decision.given,)
                screen.answered(Secret("x"))
        assert outcomes == [Outcome.ANSWER, Outcome.ANSWER, Outcome.REJECTED]
