"""`opensshtransport.prompts.screen`: what is read from the terminal."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.prompts.answers import Keyring, Secret
from opensshtransport.prompts.recognition import Prompt, PromptKind
from opensshtransport.prompts.rules import Outcome, Rule, choose
from opensshtransport.prompts.screen import Message, MessageKind, Screen, message_kind
from tests.support.screens import DUO, FAILLOCK, HOST_KEY, shown

WORDS = "correct-horse-7319"


def rule(expect: str, *, hop: str | None = None) -> Rule:
    """A rule with some password as its answer."""
    return Rule(re.compile(expect), Keyring("hpc", "me"), hop=hop)


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
        prompt = screen.prompt(unseen=True)
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
        """A server may ask in ssh's words for itself (`me@h's password: `), but for nobody else."""
        assert shown("(me@h) me@H's password: ").hop == "h"
        assert shown("(me@evil) me@jump's password: ").kind is PromptKind.UNCLEAR

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
        """By its ending, or by who asks: nothing else can follow ssh's own words and its prefix."""
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
        """Without prefix it is a prompt for sure only while the terminal hides what is typed."""
        screen = Screen()
        screen.feed("Hello\r\nEnter the code\r\n")
        assert screen.prompt() is None
        assert screen.prompt(unseen=True) == Prompt("Enter the code", PromptKind.OTHER)

    def test_by_its_looks(self) -> None:
        """One that looks like a question may be one, or a heading: it is not certain."""
        screen = Screen()
        screen.feed("Hello\r\nEnter the code:\r\n")
        prompt = screen.prompt()
        assert prompt == Prompt("Enter the code:", PromptKind.OTHER, whole=True, echoes=True)
        assert not prompt.certain
        assert screen.prompt(unseen=True) == Prompt("Enter the code:", PromptKind.OTHER)
        screen.feed("1. by phone\r\n")
        assert screen.prompt() is None

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
        """Each line is classified by its words, on the screen as in ssh's log."""
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
            ("\x1b]0;title\r\nnext\r\n", ["next"]),
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
        assert screen.prompt(unseen=True) == Prompt(
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
        assert screen.prompt(unseen=True) == Prompt("OTP: ", PromptKind.OTHER)

    def test_prompt_on_the_same_line(self) -> None:
        """A script that reads silently and prints the next prompt on the same line is understood."""
        screen = Screen()
        screen.feed("Password: ")
        screen.answered(Secret("Only-begins-alike"))
        screen.feed("OTP: ")
        assert screen.prompt(unseen=True) == Prompt("OTP: ", PromptKind.OTHER)

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
