"""A person who is not at a terminal but is asked by the program of SSH_ASKPASS, as in editors and desktops.

The idea: ssh passes each whole prompt to us (`asking`), and we pass it to the user's own program if ssh
itself would have done so (readpass.c). Rules answer first.

The traps: ssh asks endlessly if a program answers its question about a host key with anything other than yes
or no. And an empty answer counts as a failed login, but a cancelled question arrives as an empty answer.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from opensshtransport.errors import AuthenticationRefused, HostKeyUnknown, LoginNeeded
from opensshtransport.login.asking import Desk, Question
from opensshtransport.login.conversation import Conversation
from opensshtransport.login.person import Person, person_at_terminal
from opensshtransport.prompts.answers import Ask, Secret
from opensshtransport.prompts.recognition import PromptKind, read_prompt
from opensshtransport.prompts.rules import Outcome, choose

_MOST_HOST_KEY_QUESTIONS = 3

# The most that ssh reads (readpass.c).
_LONGEST_ANSWER = 1024

_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Window:
    """The program of SSH_ASKPASS."""

    program: str

    def ask(self, text: str, wanted: Callable[[], bool]) -> Secret | None:
        """Let the program ask; None if the person cancels, or answers nothing.

        Args:
            text: what is shown.
            wanted: whether the answer is still needed; if not, the program is ended.
        """
        try:
            asker = subprocess.Popen(
                [self.program, text],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as reason:
            raise LoginNeeded(f"SSH_ASKPASS={self.program} cannot be run: {reason.strerror}") from reason
        with asker:
            while asker.poll() is None:
                if not wanted():
                    asker.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    asker.wait(_POLL)
            said = asker.stdout.read(_LONGEST_ANSWER) if asker.stdout else b""
        line = said.partition(b"\n")[0].rstrip(b"\r")
        return Secret(line.decode(errors="replace")) if line and asker.returncode == 0 else None


def window(environment: Mapping[str, str], *, terminal: bool, require: bool) -> Window | None:
    """The program that ssh itself would use; None if it would not (ssh(1), ENVIRONMENT; readpass.c).

    Args:
        environment: the variables.
        terminal: whether ssh could ask at a terminal.
        require: whether this ssh knows SSH_ASKPASS_REQUIRE (8.4).
    """
    program = environment.get("SSH_ASKPASS")
    said = environment.get("SSH_ASKPASS_REQUIRE", "").lower() if require else ""
    display = bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    may = {"force": True, "never": False}.get(said, display)
    first = said in {"force", "prefer"}
    return Window(program) if program and may and (first or not terminal) else None


@contextlib.contextmanager
def somebody(*, unattended: bool = False) -> Iterator[Person | Window | None]:
    """Who can be asked, as ssh would decide: a person at the terminal, through SSH_ASKPASS, or nobody."""
    if unattended:
        yield None
        return
    with person_at_terminal() as person:
        yield window(os.environ, terminal=person is not None, require=True) or person


def shown(text: str, host: str, *, named: bool) -> str:
    """A prompt for a window: it says who asks, and contains nothing that could hide that.

    Args:
        text: the prompt as ssh has composed it.
        host: the host as the person named it.
        named: whether the prompt itself names who asks.
    """
    clean = "".join(letter if letter == "\n" or letter.isprintable() else "?" for letter in text)
    return clean if named else f"({host}) {clean}"


@dataclass(kw_only=True)
class Dialogue(Conversation):
    """A conversation with a person at a window.

    Attributes:
        window: asks them.
        cancelled: they have given up.
    """

    window: Window
    cancelled: bool = False
    _host_keys: int = 0
    _child: subprocess.Popen[bytes] | None = None

    def _hear(self, child: subprocess.Popen[bytes], opened: Desk) -> None:
        self._child = child
        Conversation._hear(self, child, opened)

    def _wanted(self) -> bool:
        return self._child is not None and self._child.poll() is None and time.monotonic() < self.deadline

    def _answer_question(self, question: Question) -> None:
        prompt = read_prompt(question.text, self.way)
        decision = choose(self.rules, prompt, self._given, hops=self.hops)
        rule = decision.rule if decision.outcome is Outcome.ANSWER else None
        if question.hint or (rule and not isinstance(rule.answer, Ask)):
            Conversation._answer_question(self, question)
            return
        refused = self.refusals.asked(prompt)
        if self.refusals.known >= self.most_refused:
            raise AuthenticationRefused(refused, host=self.host)
        if prompt.kind is PromptKind.HOST_KEY:
            self._host_keys += 1
            if self._host_keys > _MOST_HOST_KEY_QUESTIONS:
                raise HostKeyUnknown(
                    f"SSH_ASKPASS={self.window.program} has answered neither yes nor no to the host key",
                    host=self.host,
                )
        text = shown(question.text, self.host, named=bool(prompt.asker) or prompt.kind is PromptKind.HOST_KEY)
        secret = self.window.ask(f"{refused}\n{text}" if refused else text, self._wanted)
        if secret is None:
            if self._wanted():
                self.cancelled = True
                raise LoginNeeded("the question was not answered", host=self.host)
            return
        self.typed = True
        self.refusals.answered(prompt)
        question.answer(secret)
