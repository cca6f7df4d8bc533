"""Raw bytes through a session, told from the remote side's own lines by nothing but their place."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.errors import MasterGone
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions import stream as sessions
from opensshtransport.sessions.stream import Session, open_session
from opensshtransport.transfer import archive
from tests.conftest import Keep
from tests.support.users import wait_until

Receive = Callable[[Session], tuple[bool, bytes]]

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


def _waiting(descriptor: int) -> int:
    """How many bytes a pipe holds."""
    held = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, held)
    return held[0]


def _begun(there: Transport, script: str) -> Session:
    """A session whose first bytes all wait in the pipe."""
    session = open_session(there.connection, script)
    assert session is not None

    wait_until(lambda: _waiting(session._out.fileno()) > 1 << 18, what="output")
    return session


@pytest.fixture(params=[None, "zeros", "no splice"])
def receive(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receive:
    """Receives to a file, from its second byte on, in each way that there is."""
    if request.param == "no splice":
        monkeypatch.setattr(sessions, "_SPLICE", None)
    skips = archive.is_zeros if request.param == "zeros" else None
    place = tmp_path / "received"

    def act(session: Session) -> tuple[bool, bytes]:
        took: list[int] = []
        with place.open("w+b", buffering=0) as file:
            whole = session.receive(file.fileno(), 1, _SIZE, took.append, skips=skips)
        found = place.read_bytes()[1:]
        assert len(found) <= sum(took) <= _SIZE
        return whole, found

    return act


def test_no_byte_is_lost_at_the_start(there: Transport, receive: Receive) -> None:
    """Output that comes together with the remote side's word that it started, and looks like another one."""
    session = _begun(there, _DIGIT)
    whole, found = receive(session)
    assert whole
    assert len(found) == _SIZE
    assert len(set(found)) == 1
    reply = session.finish()
    assert (reply.out, reply.status) == (b"", 0)


def test_less_than_was_asked_for(there: Transport, receive: Receive) -> None:
    """A script that fails in the midst is found out, though nothing looks for its words on the way."""
    session = _begun(there, _FAILING)
    whole, found = receive(session)
    assert not whole
    assert found.startswith(bytes(300_000))
    reply = session.finish()
    assert (reply.out, reply.errors, reply.status) == (b"", "told", 3)


def test_a_master_that_dies_before_the_word_to_begin(own_node: Sandbox, keep: Keep, isolated: Path) -> None:
    """The remote side is ready, and then there is nobody to be told to begin: that is no broken pipe."""
    transport = keep(Transport(own_node.host, ssh_config=own_node.ssh_config))
    assert transport.exists("/")
    channel = transport.connection.beside("echo begun")
    assert channel is not None
    assert channel.ssh.stdout is not None
    out = channel.ssh.stdout.fileno()
    # an empty line, and the one that it is ready
    wait_until(lambda: _waiting(out) > len("\n\n ready "), what="the far side")
    facts = transport.master.facts()
    assert facts is not None
    os.kill(facts.pid, signal.SIGKILL)
    assert channel.ssh.wait(20) != 0
    with pytest.raises(MasterGone) as failed:
        Session(channel, "echo begun")
    assert failed.value.started is False


def test_a_spare_is_lent(there: Transport) -> None:
    """A session that was opened ahead for a command serves a script; and then there is another one."""
    spares, slots = there.connection.spares, there.connection.slots
    there.run("true")
    wait_until(lambda: len(spares) > 0, what="a spare")
    lent = spares._ready[0]
    session = open_session(there.connection, "cat; echo told >&2; exit 3")
    assert session is not None
    assert session._channel is lent
    session.write(b"x" * 100_000)
    reply = session.finish()
    assert (reply.out, reply.errors, reply.status) == (b"x" * 100_000, "told", 3)
    wait_until(lambda: len(spares) > 0, what="another spare")
    there.close()
    wait_until(lambda: slots.in_use() == 0, what="the sessions to be given back")


def test_a_shell_in_a_spare(node: Sandbox, keep: Keep, isolated: Path) -> None:
    """The first file operation after a command needs no session of its own."""
    transport = keep(Transport(node.host, ssh_config=node.ssh_config))
    transport.run("true")
    wait_until(lambda: len(transport.connection.spares) > 0, what="a spare")
    lent = transport.connection.spares._ready[0]
    assert transport.exists("/")
    assert [shell._channel for shell in transport._shells._shells] == [lent]
    (isolated / "file").write_bytes(b"content")
    assert transport.read_bytes(isolated / "file") == b"content"
