"""What ssh asks, and who is asking, as far as the words show. Pure: nothing here does I/O.

The trap: the server writes the words of a keyboard-interactive prompt and of its banner, so it can write
another host's prompt, or ssh's own. What counts is what ssh itself writes in front of them: since 8.5
`(user@host) `, and before that nothing. If two hosts seem to ask, or a character moves the cursor, the prompt
is `UNCLEAR`, and no rule answers it.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from dataclasses import KW_ONLY, dataclass

_CHOICE = re.compile(r"[\[(][a-z]+(?:[/|,] ?[a-z]+)+[\])]\s*$", re.IGNORECASE)

ENDS_LIKE_PROMPT = re.compile(r"(?:[:?]|(?<![-=])>)\s*$")


class PromptKind(enum.Enum):
    """Who asks, as far as the words show."""

    HOST_KEY = enum.auto()  # only a person may accept one
    PASSPHRASE = enum.auto()  # of a key; asked and checked on this machine
    PIN = enum.auto()  # of a security key or smart card, which counts wrong ones
    PASSWORD = enum.auto()  # ssh's own words for the password method
    KEYBOARD_INTERACTIVE = enum.auto()  # the server's words after ssh's prefix
    UNCLEAR = enum.auto()  # perhaps not from where it seems; never answered by a rule
    OTHER = enum.auto()  # no prefix: ssh before 8.5, a ProxyCommand, a script


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line that may wait for an answer.

    Attributes:
        text: without escapes and prefix.
        kind: who asks.
        user, hop: of `(user@host) `.
        key: the file of a key, for its passphrase or PIN.
        whole: the line has ended, and only its looks suggest that it asks.
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
        """Whether its looks or its asker make it a prompt; otherwise it may be the beginning of a message."""
        if self.whole:
            return False
        if self.kind is not PromptKind.OTHER:
            return True
        return bool(ENDS_LIKE_PROMPT.search(self.text) or _CHOICE.search(self.text))

    @property
    def asker(self) -> str:
        """`user@host`, or the key's file, or "" if nothing is known."""
        return f"{self.user}@{self.hop}" if self.hop else self.key or ""


@dataclass(frozen=True, slots=True)
class Way:
    """Who may ask, and how far ssh says who does.

    Attributes:
        askers: `user@host` of each hop, the target last, as ssh shows them; () if not known.
        named: whatever has no `(user@host) ` in front is in ssh's own words. Not so before 8.5.
        hidden: hosts other than these hops may ask (a ProxyCommand).
        strict: ssh asks, and what it passes on comes from strangers; otherwise a program of this machine
            asks.
    """

    askers: tuple[str, ...] = ()
    _: KW_ONLY
    named: bool = True
    hidden: bool = False
    strict: bool = True


# sshconnect2.c puts this in front of the first line of each prompt of the server.
_PREFIX = re.compile(r"\((?P<user>[^\s()]+)@(?P<hop>[^\s()@]+)\) ")


def split_prefix(line: str) -> tuple[tuple[str, str] | None, str]:
    """User and host of ssh's prefix, if there is one, and the rest of a line."""
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
    # only a person changes a password
    (PromptKind.UNCLEAR, re.compile(r"(?:Enter|Retype) (?P<key>\S{1,512})'s (?:old|new) password:\s*")),
)

# A cheap test that all of these pass.
_SUSPECT = re.compile(r"@|passphrase|PIN|yes")

# Longer than any prompt; the patterns are slow on long lines.
_LONGEST_PROMPT = 8000

TOO_LONG = "it is too long"

CONTROL = "it contains a control character"

_SEVERAL = "it is not clear who asks"

_UNNAMED = "ssh does not say which host asks, as OpenSSH 8.5 and later do"

_ALIKE = "two hosts on the way have this name; give one a HostKeyAlias in ssh_config"

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def is_odd(line: str) -> bool:
    """Whether a character moves the cursor or is invisible: controls, format characters, separators."""
    if line.isascii():
        return not line.isprintable()
    return any(unicodedata.category(letter) in _INVISIBLE for letter in line)


def _named(match: re.Match[str], kind: PromptKind) -> Prompt:
    names = match.groupdict()
    return Prompt("", kind, user=names.get("user"), hop=names.get("hop"), key=names.get("key"))


# All hosts that seem to ask in some lines, by name.
Askers = dict[tuple[str, str], Prompt]


def add_askers(line: str, before: Askers) -> Askers:
    """Add those that seem to ask in a line: by ssh's prefix, or in ssh's own words."""
    if not _SUSPECT.search(line):
        return before
    _, text = split_prefix(line)
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
    """Find out who asks in a whole prompt, which contains nothing else and is not echoed.

    Args:
        words: as ssh passes them to the program of SSH_ASKPASS.
        way: who may ask.
    """
    if len(words) > _LONGEST_PROMPT:
        return Prompt(words[:_LONGEST_PROMPT], PromptKind.UNCLEAR, doubt=TOO_LONG)
    *lines, last = words.rstrip().split("\n")
    before: Askers = {}
    for line in lines:
        before = add_askers(line, before)
    doubt = CONTROL if any(map(is_odd, words.split("\n"))) else ""
    if way.strict and not doubt and not _PREFIX.match(words) and _is_by_server(add_askers(last, before)):
        doubt = _SEVERAL
    return judged(last, before, way, doubt=doubt)


def _is_by_server(askers: Askers) -> bool:
    return any(one.kind is PromptKind.KEYBOARD_INTERACTIVE for one in askers.values())


def judged(line: str, before: Askers, way: Way, *, doubt: str = "", echoes: bool = False) -> Prompt:
    """The prompt that ends with this line.

    Args:
        line: the last one.
        before: who seems to ask in the lines before.
        way: who may ask.
        doubt: a reason against it that was seen before.
        echoes: the terminal shows what is typed.
    """
    _, text = split_prefix(line)
    askers = add_askers(line, before)
    asker = next(iter(askers.values()), None)
    if asker and asker.kind is PromptKind.HOST_KEY and len(askers) == 1 and not doubt:
        return Prompt(text, PromptKind.HOST_KEY, echoes=echoes)
    doubt = (doubt if way.strict else "") or _doubt(line, askers, before, way)
    if doubt:
        return Prompt(text, PromptKind.UNCLEAR, doubt=doubt, echoes=echoes)
    if not way.named:
        user, _, hop = way.askers[0].rpartition("@")
        return Prompt(text, PromptKind.OTHER, user=user, hop=hop, echoes=echoes)
    # ssh asks for passwords and passphrases without echo; with echo it is a banner
    if asker is None or (echoes and asker.kind is not PromptKind.KEYBOARD_INTERACTIVE):
        return Prompt(text, PromptKind.OTHER, echoes=echoes)
    return Prompt(text, asker.kind, user=asker.user, hop=asker.hop, key=asker.key, echoes=echoes)


def _doubt(line: str, askers: Askers, before: Askers, way: Way) -> str:
    """Why some lines do not make clear who asks, or ""."""
    asker = next(iter(askers.values()), None)
    own = asker is not None and asker.kind is not PromptKind.KEYBOARD_INTERACTIVE
    if len(askers) > 1 or (asker and (asker.kind is PromptKind.UNCLEAR or (own and before))):
        return _SEVERAL
    if not way.strict:
        return ""
    if is_odd(line):
        return CONTROL
    if way.named:
        alike = asker is not None and [one.lower() for one in way.askers].count(asker.asker.lower()) > 1
        # a name that cannot be distinguished from the prefix
        return _ALIKE if alike else _SEVERAL if asker is None and re.match(r"\(\S.*@", line) else ""
    if len(way.askers) != 1 or way.hidden:
        return _UNNAMED
    others = asker and (asker.kind is not PromptKind.PASSWORD or asker.asker.lower() != way.askers[0].lower())
    return _UNNAMED if others else ""
