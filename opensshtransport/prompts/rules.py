"""Which answer a prompt gets: rules of the settings first, then those for prompts of known systems.

The idea: `choose` decides by rules which answer goes to the prompt that `screen` has read. A rule names where
an answer comes from (`Keyring`, `Command`, `Totp`, ...) and never holds the secret. Nothing here does I/O.

The trap: words of prompts overlap, as `password` in `One-time password`. A password sent in place of a code
counts as a failed login; so a rule answers only if it covers everything that is asked for (`overlooked`).
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from opensshtransport.prompts.answers import (
    Answer,
    Ask,
    Join,
    Text,
    Totp,
    check_keys,
    flag_value,
    parse_answer,
    text_value,
    wrong,
)
from opensshtransport.prompts.recognition import Prompt, PromptKind

# What a prompt may ask for, as far as its words show. In `One-time password` the first word asks for a code,
# and the second one belongs to it.
_THINGS = re.compile(
    r"(?P<code>\bone[- ]?time\b|\bverification(?: code)?\b|\b[th]?otp\w*|\bpass ?code\b"
    r"|\btoken\w*(?: code)?\b|(?<![\w.@/-])codes?(?![\w.@/-])|\b(?:second|two)[- ]factor\b|\b[2m]fa\b"
    r"|\bauthenticator\b|\boath\b)"
    r"(?: pass(?:word|phrase))?"
    r"|(?P<new>\b(?:new|retype|re-enter|repeat)\b)"
    r"|(?P<password>pass(?:word|phrase))",
    re.IGNORECASE,
)

# The beginning of the source of a rule for a known system.
KNOWN = "profile "

# What unlocks a key goes to ssh on this machine.
_OF_A_KEY = re.compile(r"\bpass ?phrase\b|\bPIN\b.* for\b", re.IGNORECASE)


def _made_of(answer: Answer) -> frozenset[str]:
    """What an answer is known to contain, in the words of `_THINGS`."""
    if isinstance(answer, Totp):
        return frozenset({"code"})
    if isinstance(answer, Join):
        parts = (frozenset({"code"}) if isinstance(part, Ask) else _made_of(part) for part in answer.parts)
        return frozenset({"password"}).union(*parts)
    return frozenset()


def _secrets(answer: Answer) -> frozenset[Answer]:
    """The parts of an answer that are stored somewhere."""
    if isinstance(answer, Join):
        return frozenset[Answer]().union(*map(_secrets, answer.parts))
    return frozenset() if isinstance(answer, Ask | Text) else frozenset({answer})


# A choice is asked for too, so the answer need not be a code.
_MENU = re.compile(r"\boptions?\b|\bmethod\b|\bselect\b", re.IGNORECASE)

_LONGEST_QUOTE = 200


def quoted(prompt: Prompt) -> str:
    """A prompt for an error, on one line and not too long."""
    text = prompt.text.strip()
    return repr(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…")


def wanted(prompt: Prompt) -> str:
    """What a prompt asks for, to be put after "the server refused"."""
    if prompt.kind is PromptKind.PASSWORD:
        return "the password"
    things = {str(word.lastgroup) for word in _THINGS.finditer(prompt.text)}
    names = [f"the {thing}" for thing in ("password", "code") if thing in things]
    if not names or "new" in things or _MENU.search(prompt.text):
        return f"the answer to {quoted(prompt)}"
    return " and ".join(names)


@dataclass(frozen=True, slots=True)
class Rule:
    """One answer for the prompts that `expect` finds; given once per login and hop.

    Attributes:
        expect: searched in the prompt's last line, without the prefix.
        hop: a pattern as in `fnmatch` for the asking host, or for `user@host` if it contains an `@`.
        echo: the answer may be sent even if the terminal shows it.
        source: where the rule comes from, for messages.
        push: the answer starts a request on the person's phone, which takes its time.
    """

    expect: re.Pattern[str]
    answer: Answer
    _: KW_ONLY
    hop: str | None = None
    echo: bool = False
    source: str = "settings"
    push: bool = False

    def repeats(self, other: Rule) -> bool:
        """Whether this rule would send again what another one has sent.

        The rules for known systems count as one: a server that asks again in other words gets no second code.
        """
        both_known = self.source.startswith(KNOWN) and other.source.startswith(KNOWN)
        return self == other or (both_known and bool(_secrets(self.answer) & _secrets(other.answer)))

    def matches(self, prompt: Prompt) -> bool:
        """Whether this rule matches a prompt; `overlooked` may still forbid it to answer."""
        if self.hop is not None:
            target = prompt.asker if "@" in self.hop else prompt.hop
            if prompt.hop is None or not fnmatch.fnmatchcase(str(target).lower(), self.hop.lower()):
                return False
        return self.expect.search(prompt.text) is not None

    def overlooked(self, prompt: Prompt) -> str:
        """The words of a matching prompt that this rule does not cover; "" if it may answer.

        If a code or a new secret is asked for, what `expect` finds must overlap the words for each thing, or
        the answer must contain it. So `(?i)password` with a stored password does not answer `One-time
        password (OATH):`, nor `Password + OTP:`; `(?i)password.*otp` does, and so does `OTP` with an answer
        that joins a password and a code. A rule for a key's passphrase, which names no host, does not answer
        a server that asks with ssh's words.
        """
        found = self.expect.search(prompt.text)
        by_server = prompt.kind is PromptKind.KEYBOARD_INTERACTIVE
        own_words = not by_server and prompt.kind is not PromptKind.OTHER
        # a choice in a menu is no secret, and a person reads the prompt
        if found is None or own_words or isinstance(self.answer, Ask | Text):
            return ""
        if by_server and self.hop is None and (words_of_ssh := _OF_A_KEY.search(prompt.text)):
            return words_of_ssh.group()
        words = [(str(word.lastgroup), word) for word in _THINGS.finditer(prompt.text)]
        if {"code", "new"}.isdisjoint(thing for thing, _ in words):
            return ""
        known = _made_of(self.answer) | {
            thing
            for thing, word in words
            if word.start(thing) < found.end() and found.start() < word.end(thing)
        }
        return next((word.group() for thing, word in words if thing not in known), "")


def parse_rule(value: object, where: str) -> Rule:
    """Read a rule as it is in the settings: `expect`, `answer` and perhaps `hop` and `echo`.

    Raises:
        SettingsError: a key is unknown or missing, a value has the wrong type, or `expect` is no usable
            regular expression.
    """
    if not isinstance(value, Mapping):
        what = f"a rule is a table, not {type(value).__name__}"
        raise wrong(where, what, "write expect = … and answer = …")
    check_keys(value, where, needed=("expect", "answer"), allowed=("hop", "echo"))
    pattern = text_value(value["expect"], f"{where}.expect")
    try:
        expect = re.compile(pattern)
    except re.error as error:
        raise wrong(f"{where}.expect", f"not a regular expression ({error})", "see Python's re") from error
    if expect.search(""):
        raise wrong(f"{where}.expect", "it matches every prompt", "name words of the prompt")
    hop = text_value(value["hop"], f"{where}.hop") if "hop" in value else None
    echo = flag_value(value.get("echo", False), f"{where}.echo")
    return Rule(expect, parse_answer(value["answer"], f"{where}.answer"), hop=hop, echo=echo, source=where)


class Outcome(enum.Enum):
    """What to do with a prompt."""

    ANSWER = enum.auto()
    REJECTED = enum.auto()  # asked again, so the first answer was not accepted
    UNEXPECTED = enum.auto()  # no rule: a person answers, or the login ends
    SHOWN = enum.auto()  # a rule matches, but the terminal would show its answer
    HOST_KEY = enum.auto()  # only a person answers, whatever the rules say


_SHOWN = "the terminal would show the answer; if it may, write echo = true into the rule"

# A rule that was used, and the asker that got its answer.
Given = tuple[Rule, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a prompt; with ANSWER, `given` must be added to the previous answers.

    Attributes:
        overlooked: with UNEXPECTED and SHOWN, why no rule answers, where one might; or "".
    """

    outcome: Outcome
    _: KW_ONLY
    rule: Rule | None = None
    given: Given | None = None
    overlooked: str = ""


def choose(rules: Sequence[Rule], prompt: Prompt, answered: Sequence[Given], *, hops: int = 1) -> Decision:
    """Decide by the first rule that may answer; no rule answers the same asker twice in a login.

    Args:
        rules: those of the settings first, then those of `profile_rules`.
        prompt: what `Screen.prompt` returned.
        answered: `given` of the answers sent so far in this login.
        hops: how many ssh programs take part (the jump hosts and the target). Each asks for the passphrase of
            the same key on its own, and the server never sees a wrong one; so it may be sent that often.
    """
    if prompt.kind is PromptKind.HOST_KEY:
        return Decision(Outcome.HOST_KEY)
    if prompt.kind is PromptKind.UNCLEAR:
        return Decision(Outcome.UNEXPECTED, overlooked=prompt.doubt)
    matching = [(rule, rule.overlooked(prompt)) for rule in rules if rule.matches(prompt)]
    rule = next((rule for rule, overlooked in matching if not overlooked), None)
    if rule is None:
        reasons = (f"{one.expect.pattern!r} does not cover {words!r}" for one, words in matching if words)
        return Decision(Outcome.UNEXPECTED, overlooked=next(reasons, ""))
    # a choice in a menu is not a secret, and a person decides what to type
    if prompt.echoes and not rule.echo and not isinstance(rule.answer, Ask | Text):
        return Decision(Outcome.SHOWN, overlooked=_SHOWN)
    given = (rule, prompt.asker)
    times = hops if prompt.kind is PromptKind.PASSPHRASE else 1
    before = sum(rule.repeats(one) for one, asker in answered if asker == given[1])
    outcome = Outcome.REJECTED if before >= times else Outcome.ANSWER
    return Decision(outcome, rule=rule, given=given)
