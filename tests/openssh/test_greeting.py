"""`opensshtransport.openssh.greeting`: what a server's first bytes mean."""

from __future__ import annotations

import pytest

from opensshtransport.openssh.greeting import Greeting, read


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Greeting.WELCOME),
        # RFC 4253, section 4.2: other lines may come before
        (b"A word first\r\nSSH-2.0-x\r\n", Greeting.WELCOME),
        (b"Not allowed at this time\r\n", Greeting.ADDRESS_REFUSED),
        (b"Exceeded MaxStartups\r\n", Greeting.TOO_MANY),
        (b"", Greeting.SILENCE),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Greeting.ANOTHER_SERVER),
        (b"220 mail SSH-2.0\r\n", Greeting.ANOTHER_SERVER),
    ],
)
def test_meanings(said: bytes, meaning: Greeting) -> None:
    """Refusals in sshd's own words are distinguished from other servers."""
    assert read(said) is meaning
