"""What a server says to anyone who connects: its greeting, or that it accepts nobody.

The trap: unless it is verbose, ssh does not show a refusal, and says only that the connection was closed. So
the server is asked once more, on a connection over which nothing is sent.
"""

from __future__ import annotations

import enum
import socket

# RFC 4253, section 4.2.
_VERSION = b"SSH-"

_LONGEST = 256


class Greeting(enum.Enum):
    """What a greeting means."""

    WELCOME = enum.auto()
    # sshd from 9.8 on, after failed logins (PerSourcePenalties) or with too many at once (MaxStartups)
    ADDRESS_REFUSED = enum.auto()
    TOO_MANY = enum.auto()  # sshd before 9.8 (MaxStartups)
    SILENCE = enum.auto()  # closed without a word
    ANOTHER_SERVER = enum.auto()


_REFUSALS = {
    b"Not allowed at this time": Greeting.ADDRESS_REFUSED,
    b"Exceeded MaxStartups": Greeting.TOO_MANY,
}


def read(said: bytes) -> Greeting:
    """Find out what a server's first bytes mean."""
    if not said:
        return Greeting.SILENCE
    if said.startswith(_VERSION) or b"\n" + _VERSION in said:
        return Greeting.WELCOME
    return next(
        (meaning for words, meaning in _REFUSALS.items() if said.startswith(words)), Greeting.ANOTHER_SERVER
    )


def ask(name: str, port: int, timeout: float) -> bytes:
    """Connect to a server, and return what it says first.

    Raises:
        OSError, UnicodeError: it cannot be reached, or says nothing within `timeout` seconds.
    """
    with socket.create_connection((name, port), timeout=timeout) as link:
        return link.recv(_LONGEST)
