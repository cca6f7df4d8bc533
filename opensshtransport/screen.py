"""What ssh shows at its terminal: whole lines, and one unfinished line that may wait for an answer.

The idea: `Screen` turns the characters that ssh writes to a terminal into whole lines (messages) and one
unfinished line (perhaps a prompt), and says who asks. Nothing here does I/O.

The trap: the server writes the words of a keyboard-interactive prompt and of its banner. So a server could
put another host's prompt on the screen. Since OpenSSH 8.5 ssh itself puts `(user@host) ` in front of each
such prompt; that prefix counts, and where two of them stand in one prompt nothing is answered. Before 8.5
there is no prefix: `hop` is None, rules that name a hop do not match, two hops cannot be told apart.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from opensshtransport.answers import Secret

__all__ = ["Message", "MessageKind", "Prompt", "PromptKind", "Screen", "message_kind"]


class PromptKind(enum.Enum):
    """Who asks, as far as the words tell."""

    HOST_KEY = enum.auto()  # only a person may accept one
    PASSPHRASE = enum.auto()  # of a key; asked and judged on this machine
    PIN = enum.auto()  # of a security key or smart card, which counts wrong ones
    PASSWORD = enum.auto()  # ssh's own words for the password method
    KEYBOARD_INTERACTIVE = enum.auto()  # the server's words after ssh's prefix
    UNCLEAR = enum.auto()  # a server's words that pretend to come from elsewhere; never answered by a rule
    OTHER = enum.auto()  # no prefix: ssh before 8.5, a ProxyCommand, a script


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line that may wait for an answer.

    Attributes:
        text: without escapes and prefix.
        kind: who asks.
        user, hop: of `(user@host) `.
        key: the file of a key, for its passphrase or PIN.
        whole: the line has ended, and nothing but its looks tells that it asks.
    """

    text: str
    kind: PromptKind
    _: KW_ONLY
    user: str | None = None
    hop: str | None = None
    key: str | None = None
    whole: bool = False

    @property
    def certain(self) -> bool:
        """Whether it is a prompt by its looks or by who asks; else perhaps the beginning of a message."""
        if self.whole:
            return False
        if self.kind is not PromptKind.OTHER:
            return True
        return bool(_ENDS_LIKE_PROMPT.search(self.text) or _CHOICE.search(self.text))

    @property
    def asker(self) -> str:
        """`user@host`, or the key's file, or "" where nothing is known."""
        return f"{self.user}@{self.hop}" if self.hop else self.key or ""


class MessageKind(enum.Enum):
    """What a whole line says about the login."""

    REJECTED = enum.auto()
    TOO_MANY = enum.auto()
    LOCKED = enum.auto()
    TOUCH = enum.auto()  # the security key waits for a finger
    PROGRESS = enum.auto()
    URL = enum.auto()  # perhaps to be opened in a browser
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Message:
    """A whole line, without escapes and prefix."""

    line: str
    kind: MessageKind
    _: KW_ONLY
    hop: str | None = None


# Rules of use tell what would happen ("your account may be locked"); only what did happen counts.
_REALLY = r"^(?:(?!\b(?:if|when|unless|may|might|will|would|could|avoid)\b).)*?"

# The first row that matches decides.
_MESSAGES: Mapping[MessageKind, tuple[str, ...]] = {
    MessageKind.TOO_MANY: (
        r"\btoo many (?:authentication|password|(?:failed )?login) (?:failures|attempts)\b",
    ),
    MessageKind.LOCKED: (
        r"\baccount (?:is|has been|was) (?:\w+ly )?(?:locked|blocked|disabled|suspended)\b",
        r"\baccount (?:temporar(?:y|ily) )?locked\b",
        r"\byou (?:are|have been) locked out\b",
        r"\bminutes? left to unlock\b",
        r"(?:\b|_)faillock\b",
    ),
    MessageKind.REJECTED: (
        r"^(?:\S+: )?permission denied\b",
        r"^(?:access|login request) denied\b",
        r"^(?:login incorrect|authentication fail(?:ed|ure))\b",
        r"\b(?:incorrect|invalid|wrong) (?:\w+ )?(?:passcode|password|code|otp|pin|token)(?:[.,:!]|$)",
    ),
    MessageKind.TOUCH: (r"^confirm user presence for key\b",),
    MessageKind.PROGRESS: (
        r"^(?:autopushing|pushed a) login request",
        r"^success\. logging you in",
        r"^please open duo mobile",
        r"^using default second-factor",
        r"^(?:calling|dialing|waiting)\b.*\.\.\.",
        r"^authenticated with partial success",
        r"^user presence confirmed",
    ),
    MessageKind.URL: (r".*\bhttps?://\S",),
}
_MESSAGE_PATTERNS = {
    kind: re.compile(f"{_REALLY}(?:{'|'.join(texts)})", re.IGNORECASE) for kind, texts in _MESSAGES.items()
}


def message_kind(line: str) -> MessageKind:
    """Tell what a whole line says; for lines of the screen and of ssh's log."""
    return next(
        (kind for kind, pattern in _MESSAGE_PATTERNS.items() if pattern.search(line)), MessageKind.OTHER
    )


# sshconnect2.c puts this in front of the first line of each prompt of the server.
_PREFIX = re.compile(r"\((?P<user>[^\s()]+)@(?P<hop>[^\s()@]+)\) ")


def _split(line: str) -> tuple[tuple[str, str] | None, str]:
    match = _PREFIX.match(line)
    return ((match["user"], match["hop"]), line[match.end() :]) if match else (None, line)


# sshconnect.c (confirm) and clientloop.c, including the words of releases before 8.0.
_HOST_KEY = re.compile(
    r"continue connecting \(yes/no.*\)\?|^Please type 'yes'(?:,| or) 'no'|^Accept updated hostkeys\?"
)

# What ssh asks in its own words (sshconnect2.c, ssh-add.c, ssh-pkcs11.c).
_OWN: tuple[tuple[PromptKind, re.Pattern[str]], ...] = (
    (PromptKind.PASSPHRASE, re.compile(r"^Enter passphrase for key '(?P<key>.+)':\s*$")),
    (
        PromptKind.PASSPHRASE,
        re.compile(r"^(?:Enter passphrase|Bad passphrase, try again) for (?P<key>.+):\s*$"),
    ),
    (PromptKind.PIN, re.compile(r"^Enter PIN (?:and confirm user presence )?for (?P<key>.+?):\s*$")),
    (PromptKind.PASSWORD, re.compile(r"^(?P<user>\S+)@(?P<hop>[^\s@]+)'s password:\s*$")),
)


def _in_own_words(text: str) -> tuple[PromptKind, dict[str, str]]:
    matches = ((kind, pattern.search(text)) for kind, pattern in _OWN)
    found = ((kind, match.groupdict()) for kind, match in matches if match)
    return next(found, (PromptKind.OTHER, {}))


# Lines of these kinds wait for nothing, even while their end has not arrived.
_TELLING = frozenset(
    {MessageKind.REJECTED, MessageKind.TOO_MANY, MessageKind.LOCKED, MessageKind.TOUCH, MessageKind.PROGRESS}
)
# A program that has no prefix to its prompts may write the beginning of a line and go on working.
_WORKING = re.compile(r"^\W*\w+ing\b.*(?:\.\.+|…)\s*$|\d\s?%[\s\])|]*$", re.IGNORECASE)
_CHOICE = re.compile(r"[\[(][a-z]+(?:[/|,] ?[a-z]+)+[\])]\s*$", re.IGNORECASE)
# Longer than any prompt; the patterns below take long on long lines.
_LONGEST_LINE = 2000
_ENDS_LIKE_PROMPT = re.compile(r"(?:[:?]|(?<![-=])>)\s*$")

# ECMA-48: control sequences, command strings (OSC and the like) and the short escapes. `partial` is one
# whose end has not arrived; it comes first, so that a piece never ends differently from the whole.
_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)"
    r"|(?P<partial>\x1b(?:\[[0-?]*[ -/]*|[]PX^_][^\x07\x1b\r\n]*\x1b?|[ -/]*)\Z)"
    r"|(?P<escape>\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[ -/]*[0-~]))"
    r"|(?P<control>.)",
    re.DOTALL,
)


class Screen:
    """What a person would read at the terminal of ssh, fed in pieces of any size.

    `feed` returns the lines that were finished. `prompt` looks at the unfinished line. Whether that line is
    complete cannot be seen in it: the caller waits until nothing has come for a short while (some 0.1 s; a
    longer one where the prompt is not `certain`), then sends an answer and calls `answered` before it feeds
    what comes next.

    Pictures (QR codes) are not kept: show a person the characters as they came.
    """

    __slots__ = ("_askers", "_echo", "_held", "_hidden", "_last", "_line", "_partial", "_returned")

    def __init__(self) -> None:
        self._line = ""
        self._last = ""  # the last whole line since the last answer
        self._partial = ""  # an escape whose end has not arrived
        self._returned = False  # after a \r: what comes next overwrites the line, unless it is \n
        self._askers: dict[tuple[str, str], None] = {}  # prefixes of the prompt so far, in order
        self._echo: Secret | None = None  # what was sent and may come back
        self._held = ""  # the part of it that came back
        self._hidden = False  # somebody else types: nothing of this line is kept

    def feed(self, text: str) -> list[Message]:
        """Take the next characters; return the lines that they finish, blank ones left out."""
        messages: list[Message] = []
        text, self._partial = self._partial + text, ""
        for token in _TOKEN.finditer(text):
            piece = token.group()
            if token.lastgroup == "text":
                self._write(self._after_echo(piece))
            elif token.lastgroup == "partial":
                self._partial = piece
            elif piece == "\n":
                messages += self.end()
            elif piece == "\r":
                self._stop_echo()
                self._returned = True
            elif piece == "\b" and not self._returned:
                self._stop_echo()
                self._line = self._line[:-1]
        return messages

    def end(self) -> list[Message]:
        """Take the unfinished line as finished, as at the end of the output."""
        self._stop_echo()
        line, self._line = self._line, ""
        self._returned = self._hidden = False
        asker, text = _split(line)
        if asker:
            self._askers[asker] = None
        if not text.strip():
            return []
        self._last = text
        return [Message(text.rstrip(), message_kind(text), hop=asker[1] if asker else None)]

    def prompt(self, *, unseen: bool = False) -> Prompt | None:
        """Return the unfinished line as a prompt, or None if it is blank or only tells something.

        Where a server's prompt ends with its line, that line is the prompt: nothing else has its prefix. A
        script's may end with its line too, as by `echo`: one that looks like a question is `whole`.

        Args:
            unseen: the terminal does not show what is typed, so something is asked. Then too the whole line
                before may be the prompt.
        """
        if self._returned or self._hidden:
            return None
        line, whole = self._line, False
        if not line.strip():
            line = self._last
            whole = not (unseen or self._askers)
        if not line.strip() or (whole and not _ENDS_LIKE_PROMPT.search(line)):
            return None
        asker, text = _split(line)
        if message_kind(text) in _TELLING and not _ENDS_LIKE_PROMPT.search(text):
            return None
        if _HOST_KEY.search(text):
            return Prompt(text, PromptKind.HOST_KEY)
        kind, named = _in_own_words(text)
        # A prompt of several lines has the prefix on its first one.
        askers = list({**self._askers, asker: None} if asker else self._askers)
        if len(askers) > 1 or (askers and kind in (PromptKind.PASSPHRASE, PromptKind.PIN)):
            return Prompt(text, PromptKind.UNCLEAR)
        if askers:
            return Prompt(text, PromptKind.KEYBOARD_INTERACTIVE, user=askers[0][0], hop=askers[0][1])
        if kind is PromptKind.OTHER and _WORKING.search(text):
            return None
        return Prompt(text, kind, **named, whole=whole)

    def answered(self, sent: Secret | None = None) -> None:
        """Forget the unfinished line, for it has been answered.

        Args:
            sent: what was sent, without the line's end. Many servers let a code be echoed; it must not come
                back as a message. None: somebody else types, so nothing is kept up to the end of the line.
        """
        self._line, self._last, self._held, self._returned = "", "", "", False
        self._askers.clear()
        self._echo, self._hidden = sent, sent is None

    def _write(self, text: str) -> None:
        if self._hidden or not text:
            return
        self._line = (text if self._returned else self._line + text)[-_LONGEST_LINE:]
        self._returned = False

    def _after_echo(self, text: str) -> str:
        if self._echo is None:
            return text
        self._held += text
        if self._echo.reveal().startswith(self._held) and self._held != self._echo.reveal():
            return ""
        # Other words that merely begin like the secret are given back whole.
        echoed = self._held.startswith(self._echo.reveal())
        rest = self._held[len(self._echo.reveal()) :] if echoed else self._held
        self._echo, self._held = None, ""
        return rest

    def _stop_echo(self) -> None:
        self._held, self._echo = "", None
