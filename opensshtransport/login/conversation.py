"""A program that asks questions, and who answers them: rules first, then the person.

It asks at a pseudo-terminal (`run`) or, if it is ssh and unattended, through a program of ours
(`run_by_askpass`), which passes on each prompt whole and separate from what the server shows.

The traps. The master that ssh leaves behind belongs to the session of the pseudo-terminal, so when that is
closed it gets SIGHUP and dies in about half the runs, unless it was started with the signal ignored. And ssh
must never be answered with an empty line: that counts as a failed attempt. To give up, end ssh. A terminal
that closes at a prompt is an empty answer too, and it closes when we are killed; so another process holds it
open until ssh has ended (`_outlived`).
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import socket
import subprocess
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pexpect

from opensshtransport.errors import (
    AuthenticationRefused,
    ConnectionFailed,
    HostKeyUnknown,
    LoginNeeded,
    OpenSshTransportError,
    Remedy,
    ToolMissing,
    UnexpectedPrompt,
)
from opensshtransport.login import leader
from opensshtransport.login.asking import Desk, Question, desk
from opensshtransport.login.budget import MOST_FAILURES
from opensshtransport.login.person import Person, terminal_size
from opensshtransport.login.secrets import resolve_answer
from opensshtransport.prompts.answers import Ask, Secret
from opensshtransport.prompts.recognition import Prompt, PromptKind, Way, read_prompt
from opensshtransport.prompts.refusals import Refusals
from opensshtransport.prompts.rules import Decision, Given, Outcome, Rule, choose, quoted
from opensshtransport.prompts.screen import Message, MessageKind, Screen, message_kind

_CHUNK = 65536

# An unfinished line is a prompt if nothing follows it for this many seconds. One that does not look like a
# prompt may be the beginning of a message, and a secret must not go to a program that does not ask.
_QUIET = 0.15

_QUIET_UNCERTAIN_ANSWER = 3.0

_QUIET_UNCERTAIN_END = 10.0

_TAIL = 12

# How many bytes a server may send before the login succeeds, on the screen and into ssh's log; and how many
# lines of them are kept.
_MOST_BYTES = 1 << 20

_MOST_LINES = 1000

# Seconds that ssh gets to end after SIGTERM.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended: its status (128+N for signal N), and its messages, without what was typed."""

    returncode: int
    text: str


@dataclass(slots=True, kw_only=True)
class Conversation:
    """One program's questions and answers.

    Attributes:
        host: the destination as the caller named it, for messages.
        person: who may be asked.
        rules: answer prompts before the person is asked.
        deadline: on the monotonic clock.
        way: who may ask.
        log: the file to which ssh writes its own messages and a server's instructions.
        what: what the program is, for messages.
        hops: how many ssh programs take part: the jump hosts and the target.
        whole_lines: whether a rule may answer a question that ends with a newline, as scripts write it with
            `echo`; ssh writes none, but shows banners that look like that.
        answered: how many answers the rules have sent, except to a key on this machine.
        typed: whether the person has typed something.
        interrupted: whether the last key was Ctrl-C.
        refusals: what was answered, and what of it was refused.
        most_refused: after this many refusals by servers, the person is not asked any more.
    """

    host: str
    person: Person | None
    rules: Sequence[Rule]
    deadline: float
    way: Way = field(default_factory=Way)
    log: Path | None = None
    what: str = "the login"
    hops: int = 1
    whole_lines: bool = False
    answered: int = 0
    typed: bool = False
    interrupted: bool = False
    refusals: Refusals = field(default_factory=Refusals)
    most_refused: int = MOST_FAILURES
    _given: list[Given] = field(default_factory=list)
    _messages: deque[Message] = field(default_factory=lambda: deque(maxlen=_MOST_LINES))
    _received: int = 0
    _asked: Prompt | None = None
    _seen: Prompt | None = None

    def __post_init__(self) -> None:
        self.refusals.hops, self.refusals.strict = self.hops, self.way.strict

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        """Run the program until it ends or goes into the background.

        Raises:
            UnexpectedPrompt: it asks what no rule answers, and nobody is there.
            AuthenticationRefused: it asks again what a rule has answered, or too often what the person has
                answered.
            LoginNeeded: the deadline has passed, or the person gave up.
            KeyboardInterrupt: the person has ended it by Ctrl-C.
            SettingsError: an answer is not available.
            ToolMissing: it cannot be run.
        """
        with _ended_in_order():
            return self._run(argv, env)

    def run_by_askpass(self, argv: Sequence[str], env: Mapping[str, str], place: Path) -> Said:
        """Run ssh without a terminal until it ends or goes into the background; only rules answer.

        Args:
            argv: ssh and its arguments.
            env: variables besides ours.
            place: a path for a new directory, inside one that only we can enter.

        Raises:
            ToolMissing, SettingsError, LoginNeeded, ConnectionFailed: as `run`, all its kinds.
        """
        with _ended_in_order(), desk(place) as opened:
            if opened is None:
                return self._run(argv, env)
            try:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **env, **opened.environment},
                    # without a terminal, so that nothing can ask there
                    start_new_session=True,
                )
            except OSError as reason:
                raise ToolMissing(f"{argv[0]} cannot be run", host=self.host) from reason
            with child, _outlived(child.pid):
                try:
                    self._hear(child, opened)
                except OpenSshTransportError as error:
                    self._quote(error)
                    raise
                finally:
                    if child.poll() is None:
                        # ssh first: the desk stays open meanwhile, so that ssh gets no empty answer
                        _end_group(child.pid, lambda: child.poll() is not None)
            returncode = child.returncode if child.returncode >= 0 else 128 - child.returncode
            return Said(returncode, "\n".join(message.line for message in self._messages))

    def _hear(self, child: subprocess.Popen[bytes], opened: Desk) -> None:
        screen, decoder = Screen(self.way), codecs.getincrementaldecoder("utf-8")(errors="replace")
        stderr = child.stderr.fileno() if child.stderr else -1
        readers: list[int | socket.socket] = [opened.listener, stderr]
        while True:
            left = self._left(screen)
            ready, _, _ = select.select(readers, [], [], min(left, _QUIET if stderr in readers else 0.01))
            if stderr in ready:
                piece = os.read(stderr, _CHUNK)
                if not piece:
                    # closed by all processes, as when ssh goes into the background
                    readers.remove(stderr)
                self._take(screen, piece, decoder)
            elif opened.listener in ready:
                if question := opened.question():
                    self._answer_question(question)
            elif child.poll() is not None:
                self._messages += screen.end()
                return

    def _answer_question(self, question: Question) -> None:
        if question.hint:
            # a notice, such as that a security key waits for a touch; or a permission that only a person
            # gives
            self._messages.append(Message(question.text, message_kind(question.text)))
            if question.hint == "confirm":
                question.refuse()
            return
        prompt = read_prompt(question.text, self.way)
        lines = [] if prompt.doubt else question.text.splitlines()[:-1]
        self._messages += [Message(line, message_kind(line)) for line in lines if line.strip()]
        decision = choose(self.rules, prompt, self._given, hops=self.hops)
        secret = self._secret(prompt, decision)
        if secret is not None:
            self._note(prompt, decision)
            question.answer(secret)

    def _left(self, screen: Screen) -> float:
        """Seconds up to the deadline.

        Raises:
            LoginNeeded: none.
            ConnectionFailed: the server has sent too much.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            self._messages += screen.end()
            said = f" (last output: {self._messages[-1].line.strip()!r})" if self._messages else ""
            raise LoginNeeded(f"{self.what} did not finish in time{said}", host=self.host)
        logged = 0
        if self.log:
            with contextlib.suppress(OSError):
                logged = self.log.stat().st_size
        if self.way.strict and max(self._received, logged) > _MOST_BYTES:
            raise ConnectionFailed(
                f"the server has sent more than {_MOST_BYTES >> 20} MiB before the login succeeded",
                host=self.host,
                advice="ask your centre what it shows before a login",
            )
        return left

    def _take(self, screen: Screen, piece: bytes, decoder: codecs.IncrementalDecoder) -> None:
        self._received += len(piece)
        self._messages += screen.feed(decoder.decode(piece))

    def _quote(self, error: OpenSshTransportError) -> None:
        """Add the last messages to an error."""
        error.stderr = error.stderr or "\n".join(message.line for message in [*self._messages][-_TAIL:])

    def _run(self, argv: Sequence[str], env: Mapping[str, str] | None) -> Said:
        try:
            child: pexpect.spawn[str] = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                timeout=None,
                ignore_sighup=True,
                preexec_fn=leader.follow,
                dimensions=terminal_size(self.person),
                env={**os.environ, **(env or {})},
            )
        except pexpect.ExceptionPexpect as reason:
            raise ToolMissing(f"{argv[0]} cannot be run", host=self.host) from reason
        # that pause is for programs that end only because the terminal closes
        child.ptyproc.delayafterclose = 0  # type: ignore[attr-defined]  # the stubs have forgotten it
        pid = int(child.pid or 0)
        with _outlived(pid, child.child_fd):
            try:
                with self.person.typing_through() if self.person else contextlib.nullcontext():
                    self._converse(child)
            except OpenSshTransportError as error:
                self._quote(error)
                raise
            finally:
                if child.isalive() and pid:
                    # we leave early: SIGTERM at ssh's prompt costs no counted failure
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGTERM)
                    child.close(force=True)
                    # what it has started, and what ignores the signal
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                child.close(force=True)
        status = child.exitstatus if child.exitstatus is not None else 128 + (child.signalstatus or 0)
        if status != 0 and self.interrupted and self.person:
            self.person.interrupt()
        return Said(status, "\n".join(message.line for message in self._messages))

    def _converse(self, child: pexpect.spawn[str]) -> None:
        terminal = child.child_fd
        screen = Screen(self.way)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        readers = [terminal, *([self.person.terminal] if self.person else [])]
        heard = time.monotonic()
        while True:
            left = self._left(screen)
            wait = _QUIET if terminal in readers else 0.01
            ready, _, _ = select.select(readers, [], [], min(left, wait))
            if terminal in ready:
                heard = time.monotonic()
                piece = _read(terminal)
                if not piece:
                    # closed by all processes; the program itself may take its time
                    readers.remove(terminal)
                self._take(screen, piece, decoder)
                if self.person:
                    # before the question itself is shown
                    self._see(screen, terminal)
                    self.person.show(piece)
            if self.person and self.person.terminal in ready:
                typed = self.person.read()
                if not typed:
                    raise LoginNeeded("the terminal was closed", host=self.host)
                self._see(screen, terminal)
                self._note_typed(typed)
                screen.answered()
                os.write(terminal, typed)
            if not ready and not child.isalive():
                # processes in the background may keep the terminal open
                self._messages += screen.end()
                return
            if not ready:
                self._consider(terminal, screen, time.monotonic() - heard)

    def _see(self, screen: Screen, terminal: int) -> None:
        """Tell the person if a new question means that an answer was refused.

        Raises:
            AuthenticationRefused: too often.
        """
        unseen = _unseen(terminal)
        prompt = screen.prompt(unseen=unseen)
        if prompt is None or prompt == self._seen or not (unseen or prompt.certain):
            return
        self._seen = prompt
        refused = self.refusals.asked(prompt)
        if self.refusals.known >= self.most_refused:
            raise AuthenticationRefused(refused, host=self.host)
        if refused:
            last = 0 < self.refusals.known == self.most_refused - 1
            self._tell(f"{refused}; this is the last attempt" if last else refused)

    def _note_typed(self, typed: bytes) -> None:
        self.typed, self.interrupted = True, b"\x03" in typed
        if self._seen and not {b"\r", b"\n"}.isdisjoint(typed[at : at + 1] for at in range(len(typed))):
            self.refusals.answered(self._seen)
            # the same words may come again, and then mean that this answer was not accepted
            self._seen = self._asked = None

    def _consider(self, terminal: int, screen: Screen, quiet: float) -> None:
        """Act on a question if nothing has followed it for long enough."""
        unseen = _unseen(terminal)
        prompt = screen.prompt(unseen=unseen)
        if prompt is None or prompt == self._asked:
            return
        decision = choose(self.rules, prompt, self._given, hops=self.hops)
        if prompt.whole and not (self.whole_lines and decision.outcome in {Outcome.ANSWER, Outcome.REJECTED}):
            # probably a heading
            return
        enough = _QUIET_UNCERTAIN_ANSWER if decision.outcome is Outcome.ANSWER else _QUIET_UNCERTAIN_END
        # a program may turn off the echo only after it has asked
        shown = decision.outcome is Outcome.SHOWN
        if (prompt.certain and not shown) or unseen or quiet >= enough:
            self._asked = prompt
            self._answer(terminal, screen, prompt, decision)

    def _answer(self, terminal: int, screen: Screen, prompt: Prompt, decision: Decision) -> None:
        secret = self._secret(prompt, decision)
        if secret is None:
            return
        if not prompt.echoes and not _unseen(terminal):
            # getting it took time, and the program may have ended meanwhile
            return
        self._note(prompt, decision)
        screen.answered(secret)
        os.write(terminal, secret.reveal().encode() + b"\n")
        self._seen = self._asked = None
        if decision.rule and decision.rule.push:
            self._tell("approve the request on your phone")

    def _note(self, prompt: Prompt, decision: Decision) -> None:
        """Count an answer before it is sent."""
        if decision.given:
            self._given.append(decision.given)
        push = decision.rule is not None and decision.rule.push
        self.refusals.answered(prompt, "the request on your phone" if push else "")
        self.answered += prompt.kind not in {PromptKind.PASSPHRASE, PromptKind.PIN}

    def _secret(self, prompt: Prompt, decision: Decision) -> Secret | None:
        """What a rule sends, or None if the person answers.

        Raises:
            UnexpectedPrompt, AuthenticationRefused, HostKeyUnknown: nothing may be sent, and nobody is there.
        """
        if decision.outcome is Outcome.ANSWER and decision.rule:
            answer = decision.rule.answer
            if not isinstance(answer, Ask) or self.person is None:
                return resolve_answer(
                    answer, ask=lambda ask: self._ask(ask, prompt), tell=self._tell, deadline=self.deadline
                )
        elif decision.outcome is Outcome.REJECTED and self.person is None:
            said = [message.line for message in self._messages if message.kind is not MessageKind.OTHER]
            what = self.refusals.asked(prompt) or f"the answer to {quoted(prompt)} was not accepted"
            raise AuthenticationRefused(
                what + (f" ({said[-1]})" if said else ""),
                host=self.host,
                advice=Remedy("correct the stored secret, then run: ", "ossh login"),
            )
        if self.person is None and decision.outcome is Outcome.HOST_KEY:
            raise HostKeyUnknown("the host key is not known yet", host=self.host)
        if self.person is None:
            why = f" ({decision.overlooked})" if decision.overlooked else ""
            raise UnexpectedPrompt(f"no rule answers the prompt {quoted(prompt)}{why}", host=self.host)
        return None

    def _ask(self, question: Ask, prompt: Prompt) -> Secret:
        if self.person is None:
            raise UnexpectedPrompt(f"only a person can answer the prompt {quoted(prompt)}", host=self.host)
        return self.person.ask(question, f"{prompt.text.strip()} (the part that you type): ")

    def _tell(self, text: str) -> None:
        if self.person:
            self.person.tell(text)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise an exception, which restores the terminal and leaves no program behind."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    # handlers of others stay
    both = (signal.SIGTERM, signal.SIGHUP)
    ours = [number for number in both if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end_group(pid: int, ended: Callable[[], bool]) -> None:
    """End a program that leads its group with SIGTERM, then whatever is left of the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        late = time.monotonic() + _PATIENCE
        while not ended() and time.monotonic() < late:
            time.sleep(0.01)


@contextlib.contextmanager
def _outlived(pid: int, *held: int) -> Iterator[None]:
    """If we are killed ourselves, the program and all it has started is killed before its terminal closes.

    A separate process holds the terminal open and reads from us: an end of file without a word before it
    means that we have died.
    """
    script = 'read -r word || kill -s KILL -- "-$1"'
    watch = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=held,
        cwd="/",
        # a signal to our whole group must not reach it
        start_new_session=True,
    )
    try:
        yield
    finally:
        watch.communicate(b"done\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, _CHUNK)
    except OSError:
        # Linux says EIO when the last process has closed the pseudo-terminal
        return b""


def _unseen(terminal: int) -> bool:
    """Whether a line is being read without echo, the way programs ask for secrets."""
    try:
        modes = termios.tcgetattr(terminal)[3]
    except termios.error:
        return False
    # a full-screen program, which reads keys one by one, has no echo either
    return bool(modes & termios.ICANON) and not modes & termios.ECHO
