"""The relay passes bytes intact, delays them as requested, and strikes where it was told to."""

from __future__ import annotations

import hashlib
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.relay import Fault, Relay

SIZE = 64 * 1024 * 1024


class Server:
    """Accepts on loopback and hands each connection to ``serve`` in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.serve = serve
        self.threads: list[threading.Thread] = []
        self.accepted: list[socket.socket] = []
        self.arrivals: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(connection)
            self.arrivals.put(connection)
            thread = threading.Thread(target=self.serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.accepted:
            connection.close()


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    """Run a ``Server`` for a while."""
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


def echo(connection: socket.socket) -> None:
    """Send back whatever comes."""
    try:
        while piece := connection.recv(1 << 20):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def dial(relay: Relay, *, timeout: float = 10) -> socket.socket:
    """Connect to the relay."""
    client = socket.create_connection(("127.0.0.1", relay.port), timeout=timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read to the end of the stream."""
    pieces = []
    while piece := client.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def round_trip(client: socket.socket) -> float:
    """Seconds until one byte came back."""
    begin = time.perf_counter()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return time.perf_counter() - begin


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.mark.parametrize("delay", [0.0, 0.01], ids=["direct", "delayed"])
def test_bytes_arrive_intact_both_ways(delay: float) -> None:
    """64 MiB of random bytes go up and come back the same, in order, with and without a delay."""
    content = random.Random(7).randbytes(SIZE)
    with serving(echo) as server, Relay(server.port, delay=delay) as relay, dial(relay, timeout=60) as client:

        def send() -> None:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(client)
        sender.join()
        assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()
        assert (relay.bytes_up, relay.bytes_down) == (SIZE, SIZE)
        assert relay.connections == 1
        wait_until(lambda: relay.open_connections == 0)


def test_delay_is_that_of_the_network() -> None:
    """25 ms each way make a round trip of 50 ms, and the delay changes while connected, each way alone."""
    with serving(echo) as server, Relay(server.port, delay=0.025) as relay, dial(relay) as client:
        trips = [round_trip(client) for _ in range(20)]
        assert min(trips) >= 0.050
        assert min(trips) < 0.052
        relay.delay_up, relay.delay_down = 0.0, 0.04
        trips = [round_trip(client) for _ in range(5)]
        assert 0.040 <= min(trips) < 0.048
        relay.delay = 0.0
        assert min(round_trip(client) for _ in range(5)) < 0.01


def test_delay_keeps_throughput() -> None:
    """A delay line holds many pieces at once: 64 MiB at 50 ms a round trip take no 256 round trips."""
    done = threading.Event()

    def count(connection: socket.socket) -> None:
        if len(read_all(connection)) == SIZE:
            done.set()
        connection.sendall(b"k")

    with (
        serving(count) as server,
        Relay(server.port, delay=0.025) as relay,
        dial(relay, timeout=30) as client,
    ):
        begin = time.monotonic()
        client.sendall(bytes(SIZE))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"k"
        assert done.is_set()
        assert time.monotonic() - begin < 3


def test_shorter_delay_keeps_the_order() -> None:
    """What was sent under a long delay is not overtaken by what follows under none."""
    with serving(echo) as server, Relay(server.port, delay=0.1) as relay, dial(relay) as client:
        client.sendall(b"first")
        wait_until(lambda: relay.held == 5)
        relay.delay = 0.0
        client.sendall(b"second")
        assert client.recv(5, socket.MSG_WAITALL) == b"first"
        assert client.recv(6, socket.MSG_WAITALL) == b"second"


def test_memory_is_bounded() -> None:
    """A reader that never reads stops the writer: the relay holds no more than its limit."""
    with serving(lambda _: None) as server, Relay(server.port, delay=0.01) as relay, dial(relay) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(4 * SIZE))
        assert relay.held <= 65 * 1024 * 1024


def test_half_closed_connection_goes_on() -> None:
    """The end of one direction is passed on, and the other direction still works."""

    def answer_at_the_end(connection: socket.socket) -> None:
        connection.sendall(read_all(connection)[::-1])
        connection.close()

    with (
        serving(answer_at_the_end) as server,
        Relay(server.port, delay=0.005) as relay,
        dial(relay) as client,
    ):
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"cba"


def test_cut_ends_in_order() -> None:
    """``cut`` gives both sides an end of file, and the next connection is served."""
    with serving(echo) as server, Relay(server.port) as relay:
        with dial(relay) as client:
            round_trip(client)
            relay.cut()
            assert client.recv(1) == b""
            server.threads[0].join(5)
            assert not server.threads[0].is_alive()
        with dial(relay) as client:
            round_trip(client)
        assert relay.connections == 2


def test_reset_is_an_error() -> None:
    """``reset`` gives both sides ``ECONNRESET``."""
    failures: list[OSError] = []

    def read(connection: socket.socket) -> None:
        try:
            while connection.recv(10):
                connection.sendall(b"x")
        except OSError as error:
            failures.append(error)

    with serving(read) as server, Relay(server.port) as relay, dial(relay) as client:
        round_trip(client)
        relay.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        wait_until(lambda: bool(failures))
        assert isinstance(failures[0], ConnectionResetError)


def test_server_that_resets_is_passed_on() -> None:
    """A reset by the server reaches the client as a reset."""

    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with serving(reset) as server, Relay(server.port) as relay, dial(relay) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_silence_keeps_and_forwards_nothing() -> None:
    """During silence connections stay open without an answer; then everything arrives in order."""
    with serving(echo) as server, Relay(server.port) as relay, dial(relay) as old:
        round_trip(old)
        relay.silence()
        old.sendall(b"held")
        with dial(relay) as new:
            new.sendall(b"new")
            wait_until(lambda: relay.connections == 2)
            for client in (old, new):
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                client.settimeout(10)
            assert len(server.accepted) == 1
            assert relay.open_connections == 2
            relay.resume()
            assert old.recv(4, socket.MSG_WAITALL) == b"held"
            assert new.recv(3, socket.MSG_WAITALL) == b"new"


def test_refuse_and_listen_again() -> None:
    """``refuse`` refuses new connections and leaves old ones alone, until ``listen_again``."""
    with serving(echo) as server, Relay(server.port) as relay, dial(relay) as old:
        round_trip(old)
        relay.refuse()
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(relay)
        round_trip(old)
        relay.listen_again()
        relay.listen_again()
        with dial(relay) as new:
            round_trip(new)


def test_dead_target_resets() -> None:
    """With no server behind it, a connection is accepted and then reset."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Relay(port) as relay, pytest.raises(ConnectionResetError):
        with dial(relay) as client:
            client.recv(1)


@pytest.mark.parametrize("delay", [0.0, 0.005], ids=["direct", "delayed"])
@pytest.mark.parametrize("how", ["cut", "reset", "silence"])
def test_fault_at_a_byte(how: Fault, delay: float) -> None:
    """The fault strikes after exactly the bytes asked for, once, and can be armed again."""
    rng = random.Random(f"{how} {delay}")
    with serving(lambda _: None) as server, Relay(server.port, delay=delay) as relay:
        for strike in (1, 2, 3):
            where = rng.randrange(1, 3_000_000)
            before = relay.bytes_up
            relay.cut_after(where, how, direction="up")
            with dial(relay) as client:
                client.settimeout(0.3)
                with suppress(OSError):
                    client.sendall(bytes(4_000_000))
                    client.recv(1)
                received = server.arrivals.get(timeout=10)
                received.settimeout(0.3)
                arrived = 0
                try:
                    while piece := received.recv(1 << 20):
                        arrived += len(piece)
                except (TimeoutError, ConnectionResetError):
                    assert how != "cut"
                assert relay.bytes_up - before == where
                assert arrived == where if how != "reset" else arrived <= where
            assert relay.faults == strike
            relay.cut()
            relay.resume()


def test_fault_counts_both_directions() -> None:
    """Without a direction, bytes up and down count together; ``disarm`` forgets."""
    with serving(echo) as server, Relay(server.port) as relay, dial(relay) as client:
        relay.cut_after(1)
        relay.disarm()
        relay.cut_after(10)
        for _ in range(4):
            round_trip(client)
        assert relay.faults == 0
        client.sendall(b"x")
        assert client.recv(2) == b"x"
        assert client.recv(2) == b""
        assert (relay.faults, relay.bytes_forwarded) == (1, 10)


def test_runs_as_a_program() -> None:
    """Started as a program it prints its port, delays, and ends on SIGTERM with status 0."""
    program = Path(__file__).with_name("relay.py")
    argv = [sys.executable, str(program), "--delay", "0.01", "--target"]
    with (
        serving(echo) as server,
        subprocess.Popen([*argv, str(server.port)], stdout=subprocess.PIPE, text=True) as started,
    ):
        assert started.stdout is not None
        port = int(started.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert 0.02 <= min(round_trip(client) for _ in range(5)) < 0.03
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
