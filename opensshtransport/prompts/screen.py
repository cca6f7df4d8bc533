"""What ssh asks and shows: prompts, who asks with them, and the lines of a terminal.

The idea: `read_prompt` tells who asks with a prompt that ssh hands over whole (SSH_ASKPASS). `Screen` turns
the characters that ssh writes to a terminal into whole lines (messages) and one unfinished line, perhaps a
prompt. Nothing here does I/O.

The trap: the server writes the words of a keyboard-interactive prompt and of its banner, so it can write
another host's prompt, or ssh's own. What counts is what ssh itself writes in front of them: since 8.5
`(user@host) `, and before that nothing. Where two seem to ask, or a character moves the cursor, the prompt is
`UNCLEAR`, and no rule answers it. A carriage return hides from the eye who asks, but not from `Screen`.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

from opensshtransport.prompts.answers import Secret


class PromptKind(enum.Enum):
    """Who asks, as far as the words tell."""

    HOST_KEY = enum.auto()  # only a person may accept one
    PASSPHRASE = enum.auto()  # of a key; asked and judged on this machine
    PIN = enum.auto()  # of a security key or smart card, which counts wrong ones
    PASSWORD = enum.auto()  # ssh's own words for the password method
    KEYBOARD_INTERACTIVE = enum.auto()  # the server's words after ssh's prefix
    UNCLEAR = enum.auto()  # perhaps from elsewhere than it seems; never answered by a rule
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
        echoes: the terminal shows what is typed.
        doubt: why it is `UNCLEAR`.
    """

    text: str
    kind: PromptKind
    _: KW_ONLY
    user: str | None = None
    hop: str | None = None
    key: str | None = None
    whole: bool = False
    echoes: bool = False
    doubt: str = ""

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


@dataclass(frozen=True, slots=True)
class Way:
    """Who may ask, and how far ssh tells.

    Attributes:
        askers: `user@host` of each hop, the target last, as ssh shows them; () where they are not known.
        named: all that has no `(user@host) ` in front is in ssh's own words. Not so before 8.5.
        hidden: others than these hops may ask (a ProxyCommand).
        strict: what asks is ssh, and what it passes on is a stranger's; else a program of this machine.
    """

    askers: tuple[str, ...] = ()
    _: KW_ONLY
    named: bool = True
    hidden: bool = False
    strict: bool = True


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
}

_MESSAGE_PATTERNS = {
    **{
        kind: re.compile(f"{_REALLY}(?:{'|'.join(texts)})", re.IGNORECASE)
        for kind, texts in _MESSAGES.items()
    },
    MessageKind.URL: re.compile(r"\bhttps?://\S", re.IGNORECASE),
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
    (PromptKind.PASSPHRASE, re.compile(r"Enter passphrase for key '(?P<key>.+)':\s*")),
    (
        PromptKind.PASSPHRASE,
        re.compile(r"(?:Enter passphrase|Bad passphrase, try again) for (?P<key>.+):\s*"),
    ),
    (PromptKind.PIN, re.compile(r"Enter PIN (?:and confirm user presence )?for (?P<key>.+?):\s*")),
    (PromptKind.PASSWORD, re.compile(r"(?P<user>\S{1,255})@(?P<hop>[^\s@]{1,255})'s password:\s*")),
    # to change a password is for a person
    (PromptKind.UNCLEAR, re.compile(r"(?:Enter|Retype) (?P<key>\S{1,512})'s (?:old|new) password:\s*")),
)

# Cheap, and in all of these.
_SUSPECT = re.compile(r"@|passphrase|PIN|yes")

# Longer than any prompt, and than any line of one; the patterns take long on long lines.
_LONGEST_PROMPT = 8000

_LONGEST_LINE = 2000

_TOO_LONG = "it is too long"

_CONTROL = "it holds a control character"

_SEVERAL = "it is not clear who asks"

_UNNAMED = "ssh does not say which host asks, as OpenSSH 8.5 and later do"

_ALIKE = "two hosts on the way are called that; give one a HostKeyAlias in ssh_config"

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def _odd(line: str) -> bool:
    """Whether a character moves the cursor, or nobody sees it: controls, marks of format, separators."""
    if line.isascii():
        return not line.isprintable()
    return any(unicodedata.category(letter) in _INVISIBLE for letter in line)


def _named(match: re.Match[str], kind: PromptKind) -> Prompt:
    names = match.groupdict()
    return Prompt("", kind, user=names.get("user"), hop=names.get("hop"), key=names.get("key"))


# All that seem to ask by some lines, by name.
_Askers = dict[tuple[str, str], Prompt]


def _askers(line: str, before: _Askers) -> _Askers:
    """Add those that seem to ask by a line: by ssh's prefix, or in ssh's own words."""
    if not _SUSPECT.search(line):
        return before
    _, text = _split(line)
    found = [
        _named(match, PromptKind.UNCLEAR if match.start() else PromptKind.KEYBOARD_INTERACTIVE)
        for match in _PREFIX.finditer(line)
    ]
    if _HOST_KEY.search(text):
        found.append(Prompt("", PromptKind.HOST_KEY))
    for kind, pattern in _OWN:
        # a server can put words before them, too
        own = pattern.search(text) if found or before else pattern.fullmatch(text)
        if own:
            found.append(_named(own, kind))
            break
    everyone = dict(before)
    for one in found:
        everyone.setdefault(("", one.asker.lower()) if one.hop else (one.kind.name, one.asker), one)
    return everyone


def read_prompt(words: str, way: Way) -> Prompt:
    """Tell who asks with a whole prompt, which nothing else has got into and which is not echoed.

    Args:
        words: as ssh hands them to the program that SSH_ASKPASS names.
        way: who may ask.
    """
    if len(words) > _LONGEST_PROMPT:
        return Prompt(words[:_LONGEST_PROMPT], PromptKind.UNCLEAR, doubt=_TOO_LONG)
    *lines, last = words.rstrip().split("\n")
    before: _Askers = {}
    for line in lines:
        before = _askers(line, before)
    doubt = _CONTROL if any(map(_odd, words.split("\n"))) else ""
    if way.strict and not doubt and not _PREFIX.match(words) and _is_by_server(_askers(last, before)):
        doubt = _SEVERAL
    return _judged(last, before, way, doubt=doubt)


def _is_by_server(askers: _Askers) -> bool:
    return any(one.kind is PromptKind.KEYBOARD_INTERACTIVE for one in askers.values())


def _judged(line: str, before: _Askers, way: Way, *, doubt: str = "", echoes: bool = False) -> Prompt:
    """The prompt that ends with this line.

    Args:
        line: the last one.
        before: who seems to ask by the lines before.
        way: who may ask.
        doubt: a reason against it that was seen before.
        echoes: the terminal shows what is typed.
    """
    _, text = _split(line)
    askers = _askers(line, before)
    asker = next(iter(askers.values()), None)
    if asker and asker.kind is PromptKind.HOST_KEY and len(askers) == 1 and not doubt:
        return Prompt(text, PromptKind.HOST_KEY, echoes=echoes)
    doubt = (doubt if way.strict else "") or _doubt(line, askers, before, way)
    if doubt:
        return Prompt(text, PromptKind.UNCLEAR, doubt=doubt, echoes=echoes)
    if not way.named:
        user, _, hop = way.askers[0].rpartition("@")
        return Prompt(text, PromptKind.OTHER, user=user, hop=hop, echoes=echoes)
    # ssh asks for passwords and passphrases without echo; what stands there with it is a banner
    if asker is None or (echoes and asker.kind is not PromptKind.KEYBOARD_INTERACTIVE):
        return Prompt(text, PromptKind.OTHER, echoes=echoes)
    return Prompt(text, asker.kind, user=asker.user, hop=asker.hop, key=asker.key, echoes=echoes)


def _doubt(line: str, askers: _Askers, before: _Askers, way: Way) -> str:
    """Why it is not clear who asks by some lines, or ""."""
    asker = next(iter(askers.values()), None)
    own = asker is not None and asker.kind is not PromptKind.KEYBOARD_INTERACTIVE
    if len(askers) > 1 or (asker and (asker.kind is PromptKind.UNCLEAR or (own and before))):
        return _SEVERAL
    if not way.strict:
        return ""
    if _odd(line):
        return _CONTROL
    if way.named:
        alike = asker is not None and [one.lower() for one in way.askers].count(asker.asker.lower()) > 1
        # a name that the prefix cannot be told from
        return _ALIKE if alike else _SEVERAL if asker is None and re.match(r"\(\S.*@", line) else ""
    if len(way.askers) != 1 or way.hidden:
        return _UNNAMED
    others = asker and (asker.kind is not PromptKind.PASSWORD or asker.asker.lower() != way.askers[0].lower())
    return _UNNAMED if others else ""


# Lines of these kinds wait for nothing, even while their end has not arrived.
_TELLING = frozenset(
    {MessageKind.REJECTED, MessageKind.TOO_MANY, MessageKind.LOCKED, MessageKind.TOUCH, MessageKind.PROGRESS}
)

# A program that has no prefix to its prompts may write the beginning of a line and go on working.
_WORKING = re.compile(r"^\W*\w+ing\b.*(?:\.\.+|…)\s*$|\d\s?%[\s\])|]*$", re.IGNORECASE)

_CHOICE = re.compile(r"[\[(][a-z]+(?:[/|,] ?[a-z]+)+[\])]\s*$", re.IGNORECASE)

_ENDS_LIKE_PROMPT = re.compile(r"(?:[:?]|(?<![-=])>)\s*$")


class _State(enum.Enum):
    """Where in an escape the characters stand (ECMA-48)."""

    TEXT = enum.auto()
    ESCAPE = enum.auto()  # after ESC
    SEQUENCE = enum.auto()  # after ESC [
    STRING = enum.auto()  # in a command string: OSC, DCS, SOS, PM, APC
    STRING_ESCAPE = enum.auto()  # after ESC within one: perhaps its end


# What goes on in each state, as long as possible; then one character, and the state that it leads to. Where
# none is named, the character is read as text: it ends the escape.
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

# What only looks like a name of somebody that asks, and questions that are over with their line.
_NO_ASKERS = frozenset({PromptKind.OTHER, PromptKind.UNCLEAR, PromptKind.HOST_KEY})


class Screen:
    """What a person would read at the terminal of ssh, fed in pieces of any size.

    `feed` returns the lines that were finished. `prompt` looks at the unfinished line. Whether that line is
    complete cannot be seen in it: the caller waits until nothing has come for a short while (some 0.1 s; a
    longer one where the prompt is not `certain`), then sends an answer and calls `answered` before it feeds
    what comes next.

    Pictures (QR codes) are not kept: show a person the characters as they came.

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
        self._askers: _Askers = {}  # who seems to ask, by what stood before the line since the last answer
        self._doubt = ""  # why what is asked cannot be told any more
        self._echo: Secret | None = None  # what was sent and may come back
        self._held = ""  # the part of it that came back
        self._hidden = False  # somebody else types: nothing of this line is kept

    def feed(self, text: str) -> list[Message]:
        """Take the next characters; return the lines that they finish, blank ones left out."""
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
                self._doubt = self._doubt or _CONTROL
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
        self._doubt = self._doubt or _CONTROL
        return []

    def end(self) -> list[Message]:
        """Take the unfinished line as finished, as at the end of the output."""
        self._stop_echo()
        line, self._line = self._line, ""
        self._returned = self._hidden = self._long = False
        asker, text = _split(line)
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
        """Keep who seems to ask by a line that something follows."""
        found = _askers(line, self._askers)
        # an address within a sentence asks nothing, unless the sentence belongs to a prompt
        if self._askers or next(iter(found.values()), _NOBODY).kind not in _NO_ASKERS:
            self._askers = found
            if _odd(line):
                self._doubt = self._doubt or _CONTROL

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
        _, text = _split(line)
        if message_kind(text) in _TELLING and not _ENDS_LIKE_PROMPT.search(text):
            return None
        # a prompt of several lines has the prefix on its first one
        prompt = _judged(line, self._askers, self._way, doubt=self._doubt, echoes=not unseen)
        if prompt.kind is PromptKind.OTHER and _WORKING.search(text):
            return None
        return replace(prompt, whole=True) if whole and prompt.kind is PromptKind.OTHER else prompt

    def answered(self, sent: Secret | None = None) -> None:
        """Forget the unfinished line, for it has been answered.

        Args:
            sent: what was sent, without the line's end. Many servers let a code be echoed; it must not come
                back as a message. None: somebody else types, so nothing is kept up to the end of the line.
        """
        self._line, self._last, self._held, self._doubt = "", "", "", ""
        self._returned, self._long, self._askers = False, False, {}
        self._echo, self._hidden = sent, sent is None

    def _write(self, text: str) -> None:
        if self._hidden or not text:
            return
        if self._returned:
            # out of sight, but not unsaid
            self._pass(self._line)
            if self._askers:
                self._doubt = self._doubt or _CONTROL
            self._line, self._returned, self._long = "", False, False
        line = self._line + text
        if len(line) > _LONGEST_LINE:
            if not self._long:
                self._pass(line[:_LONGEST_LINE])
            self._long, self._doubt = True, self._doubt or _TOO_LONG
            line = line[-_LONGEST_LINE:]
        self._line = line

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
