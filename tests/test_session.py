"""Raw bytes through a session, told from the far side's own lines by nothing but their place."""

from __future__ import annotations

import array
import fcntl
import termios
from pathlib import Path

import pytest
from conftest import Keep
from users import wait_until

from opensshtransport import Transport
from opensshtransport.sandbox import Sandbox
from opensshtransport.session import Session, open_session

_SIZE = 600_000
# the digit with which the lines of the bootstrap begin
_DIGIT = 'head -c 600000 /dev/zero | tr "\\0" "${ossh_mark%"${ossh_mark#?}"}"'
_FAILING = "head -c 300000 /dev/zero; echo told >&2; exit 3"


@pytest.fixture
def there(node: Sandbox, keep: Keep, isolated: Path) -> Transport:
    """A transport that is logged in."""
    transport = keep(Transport(node.host, ssh_config=node.ssh_config))
    assert transport.exists("/")
    return transport


def _begun(there: Transport, script: str) -> Session:
    """A session whose first bytes all wait in the pipe."""
    session = open_session(there._shells, script)
    assert session is not None

    def full() -> bool:
        waiting = array.array("i", [0])
        fcntl.ioctl(session._out.fileno(), termios.FIONREAD, waiting)
        return waiting[0] > 1 << 18

    wait_until(full, what="output")
    return session


def test_no_byte_is_lost_at_the_start(there: Transport) -> None:
    """Output that comes together with the far side's word that it started, and looks like another one."""
    session = _begun(there, _DIGIT)
    pieces: list[bytes] = []
    assert session.read_exactly(_SIZE, pieces.append)
    assert len(b"".join(pieces)) == _SIZE
    assert len(set(b"".join(pieces))) == 1
    reply = session.finish()
    assert (reply.out, reply.status) == (b"", 0)


def test_less_than_was_asked_for(there: Transport) -> None:
    """A script that fails in the midst is found out, though nothing looks for its words on the way."""
    session = _begun(there, _FAILING)
    pieces: list[bytes] = []
    assert not session.read_exactly(_SIZE, pieces.append)
    assert b"".join(pieces).startswith(bytes(300_000))
    reply = session.finish()
    assert (reply.out, reply.errors, reply.status) == (b"", "told", 3)
