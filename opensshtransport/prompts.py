"""What ssh asks at its terminal, and which answer goes there.

The idea: `Screen` turns the characters that ssh writes to a terminal into whole lines (messages) and one
unfinished line (perhaps a prompt). `choose` says by rules which answer that prompt gets. A rule names where
an answer comes from (`Keyring`, `Command`, `Totp`, ...) and never holds the secret. Nothing here does I/O.

The trap: the server writes the words of a keyboard-interactive prompt and of its banner. So a server could
put another host's prompt on the screen. Since OpenSSH 8.5 ssh itself puts `(user@host) ` in front of each
such prompt; that prefix counts, and where two of them stand in one prompt nothing is answered. Before 8.5
there is no prefix: `hop` is None, rules that name a hop do not match, two hops cannot be told apart.
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from opensshtransport.answers import Answer, Join, Secret, Text, check_keys, parse_answer, text_value, wrong

__all__ = [
    "Decision",
    "Given",
    "Message",
    "MessageKind",
    "Outcome",
    "Profile",
    "Prompt",
    "PromptKind",
    "Rule",
    "Screen",
    "choose",
    "message_kind",
    "parse_rule",
    "profile_rules",
]


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
    """An unfinished line that may wait for an answer; `text` is without escapes and prefix."""

    text: str
    kind: PromptKind
    _: KW_ONLY
    user: str | None = None
    hop: str | None = None
    key: str | None = None

    @property
    def certain(self) -> bool:
        """Whether it is a prompt by its looks or by who asks; else perhaps the beginning of a message."""
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

        Where a server's prompt ends with its line, that line is the prompt: nothing else has its prefix.

        Args:
            unseen: the terminal does not show what is typed, so something is asked. Then too the whole line
                before may be the prompt.
        """
        if self._returned or self._hidden:
            return None
        line = self._line
        if not line.strip() and (unseen or self._askers):
            line = self._last
        if not line.strip():
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
        return Prompt(text, kind, **named)

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


@dataclass(frozen=True, slots=True)
class Rule:
    """One answer for the prompts that `expect` finds; given once per login and hop.

    Attributes:
        expect: searched in the prompt's last line, without the prefix.
        hop: a pattern as in `fnmatch` for the asking host, or for `user@host` if it contains an `@`.
        source: where the rule comes from, for messages.
        push: the answer starts a request on the person's phone, which takes its time.
    """

    expect: re.Pattern[str]
    answer: Answer
    _: KW_ONLY
    hop: str | None = None
    source: str = "settings"
    push: bool = False

    def matches(self, prompt: Prompt) -> bool:
        """Tell whether this rule is for that prompt."""
        if self.hop is not None:
            target = prompt.asker if "@" in self.hop else prompt.hop
            if prompt.hop is None or not fnmatch.fnmatchcase(str(target).lower(), self.hop.lower()):
                return False
        return self.expect.search(prompt.text) is not None


def parse_rule(value: object, where: str) -> Rule:
    """Read a rule as it stands in the settings: `expect`, `answer` and perhaps `hop`.

    Raises:
        SettingsError: a key is unknown or missing, a value has the wrong type, or `expect` is no usable
            regular expression.
    """
    if not isinstance(value, Mapping):
        what = f"a rule is a table, not {type(value).__name__}"
        raise wrong(where, what, "write expect = … and answer = …")
    check_keys(value, where, needed=("expect", "answer"), allowed=("hop",))
    pattern = text_value(value["expect"], f"{where}.expect")
    try:
        expect = re.compile(pattern)
    except re.error as error:
        raise wrong(f"{where}.expect", f"no regular expression ({error})", "see Python's re") from error
    if expect.search(""):
        raise wrong(f"{where}.expect", "it matches every prompt", "name words of the prompt")
    hop = text_value(value["hop"], f"{where}.hop") if "hop" in value else None
    return Rule(expect, parse_answer(value["answer"], f"{where}.answer"), hop=hop, source=where)


@dataclass(frozen=True, slots=True)
class Profile:
    """A prompt that a known system writes, and what it wants.

    Attributes:
        role: `password`, `code`, `password_then_code`, `pin_then_code`, `pin_then_push` or `menu:TEXT`.
        second_factor: the row counts only if this was chosen: "push" or "code".
    """

    name: str
    pattern: str
    role: str
    _: KW_ONLY
    second_factor: str | None = None


_DUO = r"(?i)^Passcode or option \(1-\d+\):\s*$"
_NCHC = r"(?i)^Login method\b.*Mobile APP OTP.*:\s*$"
_PLAIN = r"(?i)^(?:[^\s@]+@\S+'s )?password:\s*$"

# The first row that matches decides. Each pattern is a whole line, so that `Password + OTP:` never
# gets the password alone; prompts for two things at once stand first all the same.
_PROFILES: tuple[Profile, ...] = (
    Profile("Google PAM", r"(?i)^Password & verification code:\s*$", "password_then_code"),
    Profile("NERSC", r"(?i)^Password \+ OTP:\s*$", "password_then_code"),
    Profile("NREL", r"(?i)^Password ?\+ ?OTP ?Token:\s*$", "password_then_code"),
    # In capitals: `Passcode:` elsewhere wants the code alone.
    Profile("OLCF", r"^(?:Enter )?PASSCODE:\s*$", "pin_then_code"),
    # Duo numbers the ways in the order of the person's devices; 1 is the push of the first one.
    Profile("Duo", _DUO, "menu:1", second_factor="push"),
    Profile("Duo", _DUO, "code", second_factor="code"),
    Profile("NCHC", _NCHC, "menu:2", second_factor="push"),
    Profile("NCHC", _NCHC, "menu:1", second_factor="code"),
    Profile("OATH PAM", r"(?i)^One-time password \(OATH\) for \S+:\s*$", "code"),
    Profile("TACC", r"(?i)^TACC Token Code:\s*$", "code"),
    Profile("SDSC", r"(?i)^TOTP code for \S+:\s*$", "code"),
    Profile("Cambridge", r"(?i)^TOTP Verification Code:\s*$", "code"),
    Profile("Jülich", r"(?i)^JSC TOTP Verification code:\s*$", "code"),
    Profile("Google PAM", r"(?i)^Verification code:\s*$", "code"),
    Profile("SSSD", r"(?i)^First Factor:\s*$", "password"),
    Profile("SSSD", r"(?i)^Second Factor(?: \(optional\))?:\s*$", "code"),
    Profile("NCHC", r"^OTP:\s*$", "code"),
    Profile("password", _PLAIN, "password"),
    # Where people have a PIN and no password, it goes to the password prompt together with the word.
    Profile("Purdue", _PLAIN, "pin_then_push", second_factor="push"),
)

# The secrets that a role joins, what separates them, and a fixed text that follows.
_ROLES: Mapping[str, tuple[tuple[str, ...], str, str | None]] = {
    "password": (("password",), "", None),
    "code": (("code",), "", None),
    "password_then_code": (("password", "code"), "", None),
    "pin_then_code": (("pin", "code"), "", None),
    "pin_then_push": (("pin",), ",", "push"),
}


def _role_answer(role: str, secrets: Mapping[str, Answer]) -> Answer | None:
    if role.startswith("menu:"):
        return Text(role.removeprefix("menu:"))
    wanted, separator, last = _ROLES[role]
    if not all(name in secrets for name in wanted):
        return None
    parts = (*(secrets[name] for name in wanted), *((Text(last),) if last else ()))
    return parts[0] if len(parts) == 1 else Join(parts, separator=separator)


def profile_rules(secrets: Mapping[str, Answer], *, second_factor: str | None = None) -> tuple[Rule, ...]:
    """Return the rules for the known systems' prompts that these secrets can answer.

    They go after the rules of the settings.

    Args:
        secrets: answers by name: `password`, `code`, `pin`; each may be absent.
        second_factor: "push" or "code", where a system offers both. None: "code" if there is a code.

    Raises:
        SettingsError: an unknown name.
    """
    check_keys(secrets, "secrets", allowed=("password", "code", "pin"))
    if second_factor not in (None, "push", "code"):
        raise wrong("second_factor", "unknown word", 'write "push" or "code"')
    factor = second_factor or ("code" if "code" in secrets else None)
    if factor == "code" and "code" not in secrets:
        raise wrong("second_factor", "there is no code to send", 'add a code, or write "push"')
    rules = []
    for row in _PROFILES:
        answer = _role_answer(row.role, secrets)
        if answer is not None and row.second_factor in (None, factor):
            push = row.second_factor == "push"
            rules.append(Rule(re.compile(row.pattern), answer, source=f"profile {row.name}", push=push))
    return tuple(rules)


class Outcome(enum.Enum):
    """What to do with a prompt."""

    ANSWER = enum.auto()
    REJECTED = enum.auto()  # asked again, so the first answer was not taken
    UNEXPECTED = enum.auto()  # no rule: for a person, or the end
    HOST_KEY = enum.auto()  # for a person, whatever the rules say


# A rule that was used, and the asker that got its answer.
Given = tuple[Rule, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a prompt; with ANSWER, `given` is to be added to what was answered before."""

    outcome: Outcome
    _: KW_ONLY
    rule: Rule | None = None
    given: Given | None = None


def choose(rules: Sequence[Rule], prompt: Prompt, answered: Sequence[Given], *, hops: int = 1) -> Decision:
    """Decide by the first rule that matches; no rule answers the same asker twice in a login.

    Args:
        rules: those of the settings first, then those of `profile_rules`.
        prompt: what `Screen.prompt` returned.
        answered: `given` of the answers sent so far in this login.
        hops: how many ssh programs take part (the jump hosts and the target). Each asks for the passphrase of
            the same key on its own, and a wrong one costs nothing at the server; so it is given that often.
    """
    if prompt.kind is PromptKind.HOST_KEY:
        return Decision(Outcome.HOST_KEY)
    rule = next((rule for rule in rules if rule.matches(prompt)), None)
    if rule is None or prompt.kind is PromptKind.UNCLEAR:
        return Decision(Outcome.UNEXPECTED)
    given = (rule, prompt.asker)
    times = hops if prompt.kind is PromptKind.PASSPHRASE else 1
    outcome = Outcome.REJECTED if answered.count(given) >= times else Outcome.ANSWER
    return Decision(outcome, rule=rule, given=given)
