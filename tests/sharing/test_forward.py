"""Forwards through the master: who asked for them, where they listen, and when they end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opensshtransport import AsyncTransport, Transport
from opensshtransport.errors import SettingsError
from opensshtransport.master import forwards
from opensshtransport.master.forwards import Forward
from opensshtransport.sharing.forwarding import short
from tests.sharing.conftest import Plain
from tests.support.programs import OSSH, ossh, until

pytestmark = pytest.mark.client


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def greets(port: int) -> bool:
    """Whether the node's sshd answers through a local port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def greets_by_proxy(port: int, target: int) -> bool:
    """Whether it answers through a SOCKS proxy (RFC 1928)."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\5\1\0")
        assert connection.recv(2) == b"\5\0"
        connection.sendall(b"\5\1\0\1\x7f\0\0\1" + target.to_bytes(2, "big"))
        return connection.recv(10)[1] == 0 and connection.recv(4) == b"SSH-"


def logged_in(plain: Plain) -> int:
    """Log in; gives the master's process id."""
    assert plain.ssh("daint", "true").returncode == 0
    return plain.master()


def listed(plain: Plain) -> list[str]:
    """What `--list` says."""
    return ossh("forward", "-F", plain.config, "daint", "--list").stdout.decode().splitlines()


@contextmanager
def forwarding(plain: Plain, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """`ossh forward`, and the local ports that it prints."""
    argv: list[str | Path] = [OSSH, "forward", "-F", plain.config, "daint", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            lines = [running.stdout.readline() for word in words if not word.startswith("-")]
            yield running, [int(found[1]) for line in lines if (found := re.search(r":(\d+) ", line))]
        finally:
            running.terminate()


def test_short_forms(daint: Plain) -> None:
    """A port, or the next free one, leads to the login node while the program runs; a node may be named."""
    logged_in(daint)
    port = daint.node.port
    # that one is taken: by sshd itself
    with forwarding(daint, str(port), f"127.0.0.1:{port}") as (running, ports):
        assert len(set(ports)) == 2
        assert all(port < one < port + 100 for one in ports)
        assert all(greets(one) for one in ports)
        assert len(listed(daint)) == 2
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == -signal.SIGINT
    assert not any(greets(one) for one in ports)
    assert listed(daint) == []
    assert daint.logins() == 1


def test_killed_owner(daint: Plain) -> None:
    """What belongs to a program that was killed is cancelled by anyone who looks next."""
    logged_in(daint)
    with forwarding(daint, str(daint.node.port)) as (running, (port,)):
        running.kill()
        running.wait()
    assert greets(port)
    assert listed(daint) == []
    assert not greets(port)


def test_kept_over_logins(daint: Plain) -> None:
    """-b keeps it: it comes back on the same port after the master was killed, until it is cancelled."""
    pid = logged_in(daint)
    port = free_port()
    spec = f"{port}:localhost:{daint.node.port}"
    for _ in range(2):
        assert ossh("forward", "-F", daint.config, "daint", "-b", "-L", spec).returncode == 0
    assert greets(port)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not greets(port), "the forward to go with its master")
    assert daint.ssh("daint", "true").returncode == 0
    assert greets(port)
    assert daint.logins() == 2
    assert ossh("forward", "-F", daint.config, "daint", "--cancel", str(port)).returncode == 0
    assert not greets(port)
    assert listed(daint) == []
    done = ossh("forward", "-F", daint.config, "daint", "--cancel", str(port))
    assert (done.returncode, b"no forward" in done.stderr) == (255, True)


def test_kept_once(daint: Plain) -> None:
    """What is kept already is not kept twice, however it is asked for."""
    logged_in(daint)
    target, port = daint.node.port, free_port()
    far = str(target)
    for words in ([far], [far], [f"localhost:{far}"], ["-D", str(port)], ["-D", f"localhost:{port}"]):
        assert ossh("forward", "-F", daint.config, "daint", "-b", *words).returncode == 0
    short_form, proxy = sorted(listed(daint), key=len, reverse=True)
    found = re.fullmatch(rf"-L 127\.0\.0\.1:(\d+):localhost:{far}\tkept", short_form)
    assert found, short_form
    assert greets(int(found[1]))
    assert proxy == f"-D 127.0.0.1:{port}\tkept"


def test_taken_port(daint: Plain) -> None:
    """A port that another program has for IPv4 alone is refused: the master would listen at ::1, silently."""
    logged_in(daint)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for option, spec in (
            ("-L", f"{port}:localhost:1"),
            ("-L", f"localhost:{port}:h:1"),
            ("-D", str(port)),
        ):
            done = ossh("forward", "-F", daint.config, "daint", "-b", option, spec)
            assert done.returncode == 255
            assert b"another program listens" in done.stderr
    assert listed(daint) == []


def test_sockets(daint: Plain, isolated: Path) -> None:
    """A local socket goes with its forward, and one that was left behind is in nobody's way."""
    logged_in(daint)
    path = isolated / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    words: list[str | Path] = ["-F", daint.config, "daint", "-b", "-L", f"{path}:localhost:{daint.node.port}"]
    assert ossh("forward", *words).returncode == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        assert connection.recv(4) == b"SSH-"
    assert ossh("forward", "-F", daint.config, "daint", "--all").returncode == 0
    assert not path.exists()


def test_the_other_way(daint: Plain) -> None:
    """-R 0 prints the port that the host has chosen; -D is a proxy."""
    logged_in(daint)
    target = daint.node.port
    done = ossh("forward", "-F", daint.config, "daint", "-b", "-R", f"0:localhost:{target}")
    found = re.search(rb"port (\d+) on the host", done.stdout)
    assert found, done
    assert greets(int(found[1]))
    proxy = free_port()
    assert ossh("forward", "-F", daint.config, "daint", "-b", "-D", str(proxy)).returncode == 0
    assert greets_by_proxy(proxy, target)
    assert ossh("forward", "-F", daint.config, "daint", "--all").returncode == 0
    assert not greets(int(found[1]))


def test_editor_that_connects_again_and_again(daint: Plain) -> None:
    """As VS Code does it, 30 times: no login, no listener left, and no descriptor of the master lost."""
    pid = logged_in(daint)
    descriptors = Path(f"/proc/{pid}/fd")
    before = len(list(descriptors.iterdir()))
    ports = []
    for _ in range(30):
        ports.append(free_port())
        words: list[str | Path] = [
            "ssh",
            "-v",
            "-T",
            "-D",
            str(ports[-1]),
            "-o",
            "ConnectTimeout=15",
            "-F",
            daint.config,
        ]
        with subprocess.Popen(
            [*words, "daint", "bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin
            assert client.stdout
            client.stdin.write(b"echo ready; exec cat\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"ready\n"
            assert greets_by_proxy(ports[-1], daint.node.port)
            client.kill()
    until(lambda: not list(forwards.directory().iterdir()), "all to be cancelled", 60)
    # the login's own session may have been open yet
    until(lambda: len(list(descriptors.iterdir())) <= before, "the last session to end")
    assert not any(greets(port) for port in ports)
    assert daint.logins() == 1


def test_first_client_with_forwards(daint: Plain) -> None:
    """What comes with the login itself is cancelled with its client too; the master's limit is raised."""
    port = free_port()
    spec = f"{port}:localhost:{daint.node.port}"
    assert daint.ssh("-L", spec, "daint", "true").returncode == 0
    until(lambda: not list(forwards.directory().iterdir()), "it to be cancelled")
    assert not greets(port)
    limits = Path(f"/proc/{daint.master()}/limits").read_text()
    found = re.search(r"Max open files +(\d+) +(\d+)", limits)
    assert found
    assert int(found[1]) == min(int(found[2]), 65536)


def test_two_owners(daint: Plain) -> None:
    """The same forward of two programs ends with the second one."""
    logged_in(daint)
    port = free_port()
    spec = f"{port}:localhost:{daint.node.port}"
    argv: list[str | Path] = ["ssh", "-F", daint.config, "-L", spec, "daint", "echo ready; exec cat"]
    clients = []
    for _ in range(2):
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        clients.append(client)
    for client, left in zip(clients, (True, False), strict=True):
        client.communicate()
        until(lambda left=left: len(list(forwards.directory().iterdir())) == left, "the register")  # type: ignore[misc]
        assert greets(port) == left


def test_library(daint: Plain) -> None:
    """`Transport.forward` and `AsyncTransport.forward` give a local port, which ends with the block."""
    port = daint.node.port
    with Transport("daint", ssh_config=daint.config) as transport:
        with transport.forward(port) as one, transport.forward(f"127.0.0.1:{port}") as two:
            assert greets(one.local_port)
            assert greets(two.local_port)
        assert not greets(one.local_port)
        wanted = free_port()
        with transport.forward(port, local_port=wanted) as found:
            assert found.local_port == wanted
            assert greets(wanted)
        with pytest.raises(SettingsError), transport.forward("no port"):
            pass

    async def there() -> int:
        async with AsyncTransport("daint", ssh_config=daint.config) as far, far.forward(port) as found:
            assert await asyncio.to_thread(greets, found.local_port)
        return found.local_port

    assert not greets(asyncio.run(there()))
    assert daint.logins() == 1


@pytest.mark.parametrize(
    ("text", "port", "asked"),
    [
        ("-L8888:localhost:80", 8888, "127.0.0.1:8888:localhost:80"),
        ("-Llocalhost:8888:h:80", 8888, "127.0.0.1:8888:h:80"),
        ("-L*:8888:h:80", 8888, "*:8888:h:80"),
        ("-L[::1]:8888:[::2]:80", 8888, "[::1]:8888:[::2]:80"),
        ("-L8888:/run/s", 8888, "127.0.0.1:8888:/run/s"),
        ("-L/a:/b", None, "/a:/b"),
        ("-D 1080", 1080, "127.0.0.1:1080"),
        ("-D[::1]:1080", 1080, "[::1]:1080"),
        ("-R9000", 9000, "9000"),
        ("-R0:h:22", 0, "0:h:22"),
    ],
)
def test_specs(text: str, port: int | None, asked: str) -> None:
    """A spec as ssh reads it; a local port without an address gets one."""
    forward = forwards.parse(text)
    assert forward.port == port
    assert forwards.local(forward) == Forward(text[:2], asked)


@pytest.mark.parametrize("word", ["", "x", "0", "65536", "a:b", "1:2:3", "-1", "a b:1"])
def test_no_short_form(word: str) -> None:
    """What is no port is refused."""
    with pytest.raises(SettingsError):
        short(word)
