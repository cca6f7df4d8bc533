"""`opensshtransport.prompts.rules`: which answer a prompt gets; and the answers and secrets themselves."""

from __future__ import annotations

import copy
import dataclasses
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

from opensshtransport.errors import SettingsError
from opensshtransport.prompts.answers import (
    Answer,
    Ask,
    Command,
    Join,
    Keyring,
    Secret,
    Text,
    Totp,
    parse_answer,
)
from opensshtransport.prompts.profiles import profile_rules
from opensshtransport.prompts.rules import Given, Outcome, Rule, choose, parse_rule
from opensshtransport.prompts.screen import Screen
from tests.support.screens import DUO, FAILLOCK, NCHC, shown

WORDS = "correct-horse-7319"
PASSWORD = Keyring("hpc", "me")
CODE = Totp(Keyring("hpc_totp", "me"))
PIN = Command(("pass", "pin"))
ALL: Mapping[str, Answer] = {"password": PASSWORD, "code": CODE, "pin": PIN}


def rule(expect: str, answer: Answer = PASSWORD, *, hop: str | None = None) -> Rule:
    """A rule with the password as its answer."""
    return Rule(re.compile(expect), answer, hop=hop)


def chosen(rules: tuple[Rule, ...], text: str) -> Answer | None:
    """The answer that `text` gets on a fresh screen."""
    decision = choose(rules, shown(text), ())
    return decision.rule.answer if decision.rule else None


BOTH = Join((PASSWORD, CODE))
# The words of the known systems, as their manuals have them.
ASKED: Mapping[str, Answer] = {
    "Verification code:": CODE,
    "Password & verification code:": BOTH,
    "One-time password (OATH) for `me':": CODE,
    "Passcode or option (1-3):": CODE,
    "Passcode or option (1-1):": CODE,
    "TACC Token Code:": CODE,
    "Password + OTP:": BOTH,
    "Password+OTPToken:": BOTH,
    "TOTP code for me:": CODE,
    "TOTP Verification Code:": CODE,
    "JSC TOTP Verification code:": CODE,
    "Enter PASSCODE:": Join((PIN, CODE)),
    "OTP:": CODE,
    "Password:": PASSWORD,
    "First Factor:": PASSWORD,
    "Second Factor (optional):": CODE,
}
NEAR_MISSES = (
    "New verification code:",
    "Your verification code was sent to:",
    "Verification code for payment:",
    "Password & verification code & PIN:",
    "One-time password (OATH) for:",
    "Passcode or option (1-3) again?",
    "Passcode:",
    "Enter your TACC Token Code:",
    "Password + OTP + PIN:",
    "Password or OTP:",
    "TOTP code:",
    "OTP or password:",
    "otp:",
    "passcode:",
    "Password again:",
    "Enter new Password:",
    "Password for payment:",
    "Third Factor:",
)


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
        """Comparing secrets reveals nothing about their texts."""
        secret = Secret(WORDS)
        assert secret == secret
        assert secret != Secret(WORDS)


class TestParseAnswer:
    """Answers as they are in the settings."""

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
            (WORDS, "here: an answer is a table, not str; no secret is written here"),
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
            ({"totp": {"command": ["x"]}, "digits": 9}, "here.digits: not an allowed number"),
            ({"totp": {"command": ["x"]}, "digits": True}, "write a whole number from 6 to 8"),
            ({"totp": {"command": ["x"]}, "period": "30"}, "here.period: not an allowed number"),
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
    """Rules as they are in the settings."""

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
            ({"expect": "(", "answer": "ask"}, "here.expect: not a regular expression"),
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
            ("(me@frontier.olcf.ornl.gov) PASSCODE", Join((PIN, CODE))),
            (NCHC, Text("1")),
            ("(me@nano4.nchc.org.tw) OTP: ", CODE),
            ("(me@ipa) First Factor: ", PASSWORD),
            ("(me@ipa) Second Factor (optional): ", CODE),
            ("(me@ipa) Second Factor: ", CODE),
        ],
    )
    def test_code(self, text: str, answer: Answer) -> None:
        """With all secrets available and codes as second factor, each system's prompt gets its own."""
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

    @pytest.mark.parametrize("prefix", ["", "(me@login.hpc.example) "], ids=["bare", "prefixed"])
    @pytest.mark.parametrize("text", [*ASKED, *NEAR_MISSES])
    def test_with_and_without_prefix(self, prefix: str, text: str) -> None:
        """ssh before 8.5 shows no prefix; the words decide, and words that are merely alike get nothing."""
        assert chosen(profile_rules(ALL), f"{prefix}{text} ") == ASKED.get(text)

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


class TestChoose:
    """Which rule answers, and how often."""

    def test_first_rule_wins(self) -> None:
        """Rules are tried in order."""
        rules = (rule("(?i)password", Text("first")), rule("(?i)password", Text("second")))
        assert chosen(rules, "(me@h) Password: ") == Text("first")

    @pytest.mark.parametrize(
        "text",
        [
            *(text for text in ASKED if "assword" in text and text != "Password:"),
            "Enter your one time password:",
            "Password and token:",
            "Password (or passcode):",
            "New password:",
            "Retype new password:",
        ],
    )
    def test_password_is_not_for_codes(self, text: str) -> None:
        """A rule that finds merely the word `password` sends none where a code or a new one is wanted."""
        decision = choose((rule("(?i)password"),), shown(f"(me@h) {text} "), ())
        assert decision.outcome is Outcome.UNEXPECTED
        assert decision.overlooked.startswith("'(?i)password' does not cover ")

    def test_the_next_rule_has_its_turn(self) -> None:
        """Careless rules in the wrong order do what was meant: each prompt gets its own answer, or none."""
        rules = (rule("(?i)password"), rule("(?i)one-time|otp|verification code", CODE))
        assert chosen(rules, "(me@h) Password: ") == PASSWORD
        assert chosen(rules, "(me@h) One-time password (OATH) for `me': ") == CODE
        assert chosen(rules, "(me@h) Verification code: ") == CODE
        # both are wanted, and no rule has both
        assert chosen(rules, "(me@h) Password + OTP: ") is None
        assert chosen((*rules, *profile_rules(ALL)), "(me@h) Password + OTP: ") == BOTH

    @pytest.mark.parametrize(
        ("expect", "answer", "text"),
        [
            ("(?i)one-time password", PASSWORD, "One-time password (OATH) for `me':"),
            ("OATH", PASSWORD, "One-time password (OATH) for `me':"),
            ("(?i)^enter", CODE, "Enter the code:"),
            ("(?i)password", CODE, "One-time password:"),
            ("(?i)otp", BOTH, "Password + OTP:"),
            ("(?i)password", BOTH, "Password + OTP:"),
            ("(?i)password.*otp", PIN, "Password + OTP:"),
            ("^.*$", PIN, "Password + OTP:"),
            ("option", Text("1"), "Passcode or option (1-3):"),
            ("(?i)password", Ask(), "One-time password:"),
            ("(?i)pass", Join((Ask(), CODE)), "PASSCODE:"),
            ("(?i)new password", PASSWORD, "New password:"),
            ("(?i)password", PASSWORD, "Password for me@code.example.org:"),
            ("(?i)password", PASSWORD, "Password (codename anaconda):"),
        ],
    )
    def test_who_names_the_code_may_answer(self, expect: str, answer: Answer, text: str) -> None:
        """What `expect` finds, or what the answer is made of, reaches all that is asked for."""
        assert chosen((rule(expect, answer),), f"(me@h) {text} ") == answer

    def test_own_words_of_ssh(self) -> None:
        """Only the server's words count: `code` in the name of a key or of a host is no code."""
        assert chosen((rule("password"),), "me@token's password: ") == PASSWORD
        assert chosen((rule("phrase"),), "Enter passphrase for key '/home/me/otp code': ") == PASSWORD

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
            prompt = screen.prompt(unseen=True)
            assert prompt is not None
            decision = choose(rules, prompt, answered)
            outcomes.append(decision.outcome)
            if decision.given:
                answered += (decision.given,)
                screen.answered(Secret("x"))
        assert outcomes == [Outcome.ANSWER, Outcome.ANSWER, Outcome.REJECTED]
