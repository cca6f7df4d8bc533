"""The person at the terminal, who sees what ssh asks and types the answer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from opensshtransport.errors import LoginNeeded
from opensshtransport.prompts.answers import Ask, Secret


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at the controlling terminal, who sees what the program says and types the answers."""

    terminal: int

    def show(self, text: bytes) -> None:
        """Write to the terminal."""
        # if the terminal is gone, `read` will notice
        with contextlib.suppress(OSError):
            while text:
                text = text[os.write(self.terminal, text) :]

    def tell(self, text: str) -> None:
        """Write a line of our own to the terminal."""
        self.show(f"\r\n[ossh: {text}]\r\n".encode())

    def read(self, most: int = 1024) -> bytes:
        """What was typed; b"" if the terminal is gone."""
        try:
            return os.read(self.terminal, most)
        except OSError:
            return b""

    def interrupt(self) -> NoReturn:
        """Do what the terminal would have done at Ctrl-C if it did not pass each key on.

        Raises:
            KeyboardInterrupt: always. Our whole group gets the signal, including a script that we may be part
                of.
        """
        os.killpg(os.getpgrp(), signal.SIGINT)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def typing_through(self) -> Iterator[None]:
        """Pass each key on as it is; the program's pseudo-terminal does the echo, or does not for secrets."""
        before = termios.tcgetattr(self.terminal)
        try:
            tty.setraw(self.terminal, termios.TCSADRAIN)
            yield
        finally:
            # it may be gone
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, before)

    def ask(self, question: Ask, text: str) -> Secret:
        """Ask for one line within `typing_through`; what is typed is shown only if the question says so.

        Raises:
            LoginNeeded: the person gave up by Ctrl-D, or the terminal has gone.
            KeyboardInterrupt: by Ctrl-C.
        """
        self.show(f"\r\n{text}".encode())
        line = b""
        while True:
            key = self.read(1)
            if key == b"\x03":
                self.interrupt()
            if key in {b"", b"\x04"}:
                raise LoginNeeded("the question was not answered")
            if key in {b"\r", b"\n"}:
                self.show(b"\r\n")
                return Secret(line.decode(errors="replace"))
            if key in {b"\x7f", b"\b"}:
                line = line[:-1]
            else:
                line += key
                self.show(key if question.echo else b"")


@contextlib.contextmanager
def person_at_terminal() -> Iterator[Person | None]:
    """The person at the controlling terminal; None if there is none or we are in its background.

    A background process that touched the terminal would be stopped (SIGTTIN, SIGTTOU).
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield None
        return
    try:
        yield Person(terminal) if os.tcgetpgrp(terminal) == os.getpgrp() else None
    finally:
        os.close(terminal)


def terminal_size(person: Person | None) -> tuple[int, int]:
    """Rows and columns of the person's terminal."""
    if person is None:
        return 24, 80
    packed = fcntl.ioctl(person.terminal, termios.TIOCGWINSZ, b"\0" * 8)
    rows, columns, _, _ = struct.unpack("HHHH", packed)
    return rows or 24, columns or 80
