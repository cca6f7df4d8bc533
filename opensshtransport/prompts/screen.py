"""What a person would read at the terminal of ssh.

The idea: `Screen` turns the characters that ssh writes into whole lines (messages) and one unfinished line,
perhaps a prompt. Nothing here does I/O.

The trap: a server's words may move the cursor, so that a person sees another prompt than the one that was
sent. A carriage return hides from the eye who asks, but not from `Screen`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

from opensshtransport.prompts.answers import Secret
from opensshtransport.prompts.recognition import (
    CONTROL,
    ENDS_LIKE_PROMPT,
    TOO_LONG,
    Askers,
    Prompt,
    PromptKind,
    Way,
    add_askers,
    is_odd,
    judged,
    split_prefix,
)


class MessageKind(enum.Enum):
    """What a complete line says about the login."""

    REJECTED = enum.auto()
    TOO_MANY = enum.auto()
    LOCKED = enum.auto()
    TOUCH = enum.auto()  # the security key waits for a touch
    PROGRESS = enum.auto()
    URL = enum.auto()  # perhaps to be opened in a browser
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Message:
    """A complete line, without escapes and prefix."""

    line: str
    kind: MessageKind
    _: KW_ONLY
    hop: str | None = None


# Terms of use say what might happen ("your account may be locked"); only what did happen counts.
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
}

_MESSAGE_PATTERNS = {
    **{
        kind: re.compile(f"{_REALLY}(?:{'|'.join(texts)})", re.IGNORECASE)
        for kind, texts in _MESSAGES.items()
    },
    MessageKind.URL: re.compile(r"\bhttps?://\S", re.IGNORECASE),
}


def message_kind(line: str) -> MessageKind:
    """What a complete line says; for lines of the screen and of ssh's log."""
    return next(
        (kind for kind, pattern in _MESSAGE_PATTERNS.items() if pattern.search(line)), MessageKind.OTHER
    )


# Longer than any line of a prompt; the patterns are slow on long lines.
_LONGEST_LINE = 2000

# Lines of these kinds wait for no answer, even before their end has arrived.
_TELLING = frozenset(
    {MessageKind.REJECTED, MessageKind.TOO_MANY, MessageKind.LOCKED, MessageKind.TOUCH, MessageKind.PROGRESS}
)

# A program whose prompts have no prefix may write the beginning of a line and go on working.
_WORKING = re.compile(r"^\W*\w+ing\b.*(?:\.\.+|…)\s*$|\d\s?%[\s\])|]*$", re.IGNORECASE)


class _State(enum.Enum):
    """The position within an escape sequence (ECMA-48)."""

    TEXT = enum.auto()
    ESCAPE = enum.auto()  # after ESC
    SEQUENCE = enum.auto()  # after ESC [
    STRING = enum.auto()  # in a command string: OSC, DCS, SOS, PM, APC
    STRING_ESCAPE = enum.auto()  # after ESC within one: perhaps its end


# What continues each state, as long as possible; then one character, and the state that it leads to. If none
# is named, the character ends the escape and is read as text.
_RUNS: Mapping[_State, re.Pattern[str]] = {
    _State.TEXT: re.compile(r"[^\x00-\x08\x0a-\x1f\x7f-\x9f]*"),
    _State.ESCAPE: re.compile(r"[ -/\x1b]*"),
    _State.SEQUENCE: re.compile(r"[ -?]*"),
    _State.STRING: re.compile(r"[^\x07\x1b\r\n]*"),
    _State.STRING_ESCAPE: re.compile(r""),
}

_FINAL = tuple(map(chr, range(0x40, 0x7F)))

_STEPS: Mapping[_State, Mapping[str, _State]] = {
    _State.TEXT: {"\x1b": _State.ESCAPE},
    _State.ESCAPE: {
        **dict.fromkeys((*"0123456789:;<=>?", *_FINAL), _State.TEXT),
        **dict.fromkeys("]PX^_", _State.STRING),
        "[": _State.SEQUENCE,
    },
    _State.SEQUENCE: {**dict.fromkeys(_FINAL, _State.TEXT), "\x1b": _State.ESCAPE},
    _State.STRING: {"\x1b": _State.STRING_ESCAPE, "\x07": _State.TEXT},
    _State.STRING_ESCAPE: {"\\": _State.TEXT},
}

_NOBODY = Prompt("", PromptKind.OTHER)

# What only looks like the name of an asker, and questions that end with their line.
_NO_ASKERS = frozenset({PromptKind.OTHER, PromptKind.UNCLEAR, PromptKind.HOST_KEY})


class Screen:
    """What a person would read at the terminal of ssh, fed in pieces of any size.

    `feed` returns the lines that were finished. `prompt` looks at the unfinished line. The line itself does
    not show whether it is complete: the caller waits until nothing has arrived for a short while (some 0.1 s;
    longer if the prompt is not `certain`), then sends an answer and calls `answered` before feeding what
    comes next.

    Pictures (QR codes) are not kept: show a person the characters as they arrived.

    Args:
        way: who may ask.
    """

    __slots__ = (
        "_askers",
        "_doubt",
        "_echo",
        "_held",
        "_hidden",
        "_last",
        "_line",
        "_long",
        "_returned",
        "_state",
        "_way",
    )

    def __init__(self, way: Way | None = None) -> None:
        self._way = Way() if way is None else way
        self._state = _State.TEXT
        self._line = ""
        self._long = False  # only the end of the line is kept
        self._last = ""  # the last whole line since the last answer
        self._returned = False  # after a \r: what comes next overwrites the line, unless it is \n
        self._askers: Askers = {}  # who seems to ask, by what stood before the line since the last answer
        self._doubt = ""  # why the question is not clear any more
        self._echo: Secret | None = None  # what was sent and may come back
        self._held = ""  # the part of it that came back
        self._hidden = False  # the person types: nothing of this line is kept

    def feed(self, text: str) -> list[Message]:
        """Take the next characters; return the lines that they finish, except blank ones."""
        messages: list[Message] = []
        at = 0
        while at < len(text):
            run = _RUNS[self._state].match(text, at)
            end = run.end() if run else at
            if self._state is _State.TEXT and end > at:
                self._write(self._after_echo(text[at:end]))
            at = end
            if at == len(text):
                break
            after = _STEPS[self._state].get(text[at])
            if after is None and self._state is _State.STRING_ESCAPE:
                # an ESC ends the string, and begins another escape
                self._state = _State.ESCAPE
                continue
            if after is not None:
                self._state = after
                self._doubt = self._doubt or CONTROL
            elif self._state is not _State.TEXT:
                self._state = _State.TEXT
                continue
            else:
                messages += self._control(text[at])
            at += 1
        return messages

    def _control(self, letter: str) -> list[Message]:
        if letter == "\n":
            return self.end()
        if letter == "\r":
            self._stop_echo()
            self._returned = True
            return []
        if letter == "\b" and not self._returned:
            self._stop_echo()
            self._line = self._line[:-1]
        self._doubt = self._doubt or CONTROL
        return []

    def end(self) -> list[Message]:
        """Take the unfinished line as finished, as at the end of the output."""
        self._stop_echo()
        line, self._line = self._line, ""
        self._returned = self._hidden = self._long = False
        asker, text = split_prefix(line)
        if line:
            self._pass(line)
        if not self._askers:
            # a line of a banner; nobody asks yet
            self._doubt = ""
        if not text.strip():
            return []
        self._last = text
        return [Message(text.rstrip(), message_kind(text), hop=asker[1] if asker else None)]

    def _pass(self, line: str) -> None:
        """Remember who seems to ask in a line, when more text follows it."""
        found = add_askers(line, self._askers)
        # an address within a sentence asks nothing, unless the sentence belongs to a prompt
        if self._askers or next(iter(found.values()), _NOBODY).kind not in _NO_ASKERS:
            self._askers = found
            if is_odd(line):
                self._doubt = self._doubt or CONTROL

    def prompt(self, *, unseen: bool = False) -> Prompt | None:
        """Return the unfinished line as a prompt, or None if it is blank or only informs.

        A server's prompt may end with a newline: then that line is the prompt, because nothing else has its
        prefix. A script's may too, as with `echo`: one that looks like a question is `whole`.

        Args:
            unseen: the terminal does not show what is typed, so something is asked. Then the complete line
                before may be the prompt too.
        """
        if self._returned or self._hidden:
            return None
        line, whole = self._line, False
        if not line.strip():
            line = self._last
            whole = not (unseen or self._askers)
        if not line.strip() or (whole and not ENDS_LIKE_PROMPT.search(line)):
            return None
        _, text = split_prefix(line)
        if message_kind(text) in _TELLING and not ENDS_LIKE_PROMPT.search(text):
            return None
        # a prompt of several lines has the prefix on its first one
        prompt = judged(line, self._askers, self._way, doubt=self._doubt, echoes=not unseen)
        if prompt.kind is PromptKind.OTHER and _WORKING.search(text):
            return None
        return replace(prompt, whole=True) if whole and prompt.kind is PromptKind.OTHER else prompt

    def answered(self, sent: Secret | None = None) -> None:
        """Forget the unfinished line, because it has been answered.

        Args:
            sent: what was sent, without the line's end. Many servers let a code be echoed; it must not come
                back as a message. None: the person types, so nothing is kept up to the end of the line.
        """
        self._line, self._last, self._held, self._doubt = "", "", "", ""
        self._returned, self._long, self._askers = False, False, {}
        self._echo, self._hidden = sent, sent is None

    def _write(self, text: str) -> None:
        if self._hidden or not text:
            return
        if self._returned:
            # not visible, but it was sent
            self._pass(self._line)
            if self._askers:
                self._doubt = self._doubt or CONTROL
            self._line, self._returned, self._long = "", False, False
        line = self._line + text
        if len(line) > _LONGEST_LINE:
            if not self._long:
                self._pass(line[:_LONGEST_LINE])
            self._long, self._doubt = True, self._doubt or TOO_LONG
            line = line[-_LONGEST_LINE:]
        self._line = line

    def _after_echo(self, text: str) -> str:
        if self._echo is None:
            return text
        self._held += text
        if self._echo.reveal().startswith(self._held) and self._held != self._echo.reveal():
            return ""
        # Other words that only begin like the secret are restored completely.
        echoed = self._held.startswith(self._echo.reveal())
        rest = self._held[len(self._echo.reveal()) :] if echoed else self._held
        self._echo, self._held = None, ""
        return rest

    def _stop_echo(self) -> None:
        self._held, self._echo = "", None
