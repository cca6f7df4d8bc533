"""What ssh asks without a terminal: each prompt as a whole, separate from what the server shows.

The idea: with SSH_ASKPASS_REQUIRE=force (since 8.4) ssh passes each prompt to a program, here `askpass`,
which asks us through a socket in a directory that only we can enter. Nothing is read back from a screen, so
nothing that a server shows can be taken for what ssh asks; and nothing echoes.

The trap: the program must be an executable file, and a runtime directory may forbid those.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.login import askpass
from opensshtransport.prompts.answers import Secret

# One argument of a program holds 128 KiB on Linux; macOS allows more, but no prompt needs that.
_LONGEST = 1 << 18

# Our own program sends all it has at once.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """What ssh asks.

    Attributes:
        text: the prompt as ssh has composed it.
        hint: "" for an answer, "confirm" for yes or no, "none" for a notice that needs no answer.
    """

    text: str
    hint: str
    connection: socket.socket

    def answer(self, secret: Secret) -> None:
        """Send the answer."""
        # the program may have ended: then nobody gets it
        with self.connection, contextlib.suppress(OSError):
            self.connection.sendall(askpass.ANSWER + secret.reveal().encode())

    def refuse(self) -> None:
        """Say no."""
        self.connection.close()


class Desk:
    """Where questions arrive. When the desk closes, unanswered questions end the program that asked."""

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self.listener = listener
        self.environment = environment
        self._open: list[socket.socket] = []

    def question(self) -> Question | None:
        """The next question if one waits; None if what arrived is not a question."""
        connection, _ = self.listener.accept()
        self._open.append(connection)
        deadline = time.monotonic() + _PATIENCE
        words = b""
        while len(words) <= _LONGEST:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([connection], [], [], left)[0]:
                return None
            piece = connection.recv(1 << 16)
            if not piece:
                hint, _, text = words.partition(b"\0")
                return Question(
                    text.decode(errors="surrogateescape"), hint.decode(errors="replace"), connection
                )
            words += piece
        return None

    def close(self) -> None:
        """Give no more answers."""
        for connection in [*self._open, self.listener]:
            connection.close()


@contextlib.contextmanager
def desk(place: Path) -> Iterator[Desk | None]:
    """Open a desk; None if the program cannot be put there, or must not be executed there.

    Args:
        place: a directory for it, inside one that only we can enter; what a killed login has left there is
            removed.
    """
    with contextlib.ExitStack() as opened:
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
            opened.callback(shutil.rmtree, place, ignore_errors=True)
            listener = opened.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(place / "s"))
            listener.listen()
            program = place / "askpass"
            words = [sys.executable, "-I", "-S", str(Path(askpass.__file__).absolute()), str(place / "s")]
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$1"\n')
            program.chmod(0o700)
        except OSError:
            usable = False
        else:
            usable = bool(sys.executable) and os.access(program, os.X_OK)
        if usable:
            # even if the user has a program of another kind
            told = {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
            # before 8.4 this takes a display; without one, ssh sends an empty answer
            found = Desk(listener, {**told, "DISPLAY": os.environ.get("DISPLAY") or ":"})
            opened.callback(found.close)
            yield found
        else:
            yield None
