"""What was answered in a login, and which answers were refused.

The idea: a question that comes again, word for word and from the same host, shows that its answer was not
accepted; and ssh's end shows it of the last answer.

The trap: several hosts on the way, and several programs, may ask for the passphrase of the same key, so a
second question is no proof there. A passphrase is checked on this machine: the server never sees a wrong one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from opensshtransport.prompts.recognition import Prompt, PromptKind
from opensshtransport.prompts.rules import wanted

# Checked on this machine, before anything is sent.
_LOCAL = frozenset({PromptKind.PASSPHRASE, PromptKind.PIN})

# The host that asks is known.
_NAMED = frozenset({PromptKind.PASSWORD, PromptKind.KEYBOARD_INTERACTIVE})

# How often ssh asks for a passphrase by default (ssh_config(5), NumberOfPasswordPrompts).
_TRIES = 3


@dataclass(slots=True)
class Refusals:
    """The answers of one login.

    Attributes:
        hops: how many ssh programs take part.
        strict: ssh asks; another program may ask twice for reasons of its own.
        known: how often a server has refused what was sent, as far as it has asked again.
    """

    hops: int = 1
    strict: bool = True
    known: int = 0
    _answered: list[tuple[Prompt, str]] = field(default_factory=list)
    _last: str = ""

    def answered(self, prompt: Prompt, what: str = "") -> None:
        """Note an answer that is about to be sent.

        Args:
            prompt: what is answered.
            what: what the answer is, if the prompt's words do not say so.
        """
        if prompt.kind is not PromptKind.HOST_KEY:
            self._answered.append((prompt, what or wanted(prompt)))

    def asked(self, prompt: Prompt) -> str:
        """Take note of a new question; returns what was refused, if it shows that."""
        if not self.strict or not self._answered:
            return ""
        again = any((one.asker, one.text) == (prompt.asker, prompt.text) for one, _ in self._answered)
        if prompt.kind in _LOCAL:
            return self.told if again and self.hops == 1 else ""
        last = self._answered[-1][0]
        # ssh goes on to its next method after as many refusals as it allows
        another = self.known and last.kind is not prompt.kind and last.asker == prompt.asker
        if not (again or another) or not (prompt.kind in _NAMED or self.hops == 1):
            return ""
        self._last = self.told
        self._answered.clear()
        self.known += 1
        return self._last

    @property
    def told(self) -> str:
        """What was refused, if anything; "" if not known."""
        if not self._answered:
            return self._last
        last = self._answered[-1][0]
        if last.kind in _LOCAL:
            same = itertools.takewhile(lambda one: one[0].text == last.text, reversed(self._answered))
            enough = 1 if self.hops == 1 else _TRIES
            word = "passphrase" if last.kind is PromptKind.PASSPHRASE else "PIN"
            return f"wrong {word} for {last.key}" if len(list(same)) >= enough else ""
        names = dict.fromkeys(
            what for one, what in self._answered if one.asker == last.asker and one.kind not in _LOCAL
        )
        who = last.hop if self.hops > 1 and last.hop else "the server"
        return f"{who} refused {' or '.join(names)}"

    @property
    def local(self) -> bool:
        """Whether nothing was sent that a server may have refused: ssh got no further than the key."""
        return bool(self._answered) and not self.sent

    @property
    def sent(self) -> int:
        """How many failed logins a server may have counted."""
        return self.known + any(one.kind not in _LOCAL for one, _ in self._answered)
