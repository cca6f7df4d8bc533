"""A TCP relay between a client and a server on loopback: a network with a length, and faults on demand.

One thread moves everything. Each direction is a delay line: what was read waits in a queue until it is due,
so a delay costs no throughput, and a full queue stops reading, so memory stays bounded. As in a real network,
a fault loses what was under way. The TCP handshake itself is not delayed.

``python tests/relay.py --target PORT --port PORT --delay SECONDS`` runs a relay as a program of its own.
"""

from __future__ import annotations

import argparse
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

Direction = Literal["up", "down"]
"""``up`` is from the client to the server, ``down`` is back."""

Fault = Literal["cut", "reset", "silence"]

_CHUNK = 256 * 1024
_LIMIT = 64 * 1024 * 1024
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction of a connection. In the queue, ``None`` is the end of the stream, ``False`` a reset."""

    direction: Direction
    source: socket.socket
    sink: socket.socket
    queue: deque[tuple[float, memoryview | Literal[False] | None]] = field(default_factory=deque)
    held: int = 0
    due: float = 0.0
    blocked: bool = False
    ended: bool = False
    done: bool = False


@dataclass(slots=True, eq=False)
class _Link:
    client: socket.socket
    server: socket.socket
    up: _Flow
    down: _Flow
    closed: bool = False


@dataclass(slots=True)
class _Armed:
    remaining: int
    how: Fault
    direction: Direction | None


class Relay:
    """Forward connections made to ``port`` to ``target_port``; ``delay`` is in seconds, each way."""

    def __init__(
        self, target_port: int, *, port: int = 0, delay: float = 0.0, target_host: str = _LOOPBACK
    ) -> None:
        self.target = (target_host, target_port)
        self.delay_up = self.delay_down = delay
        self.connections = 0
        self.faults = 0
        self.bytes_up = self.bytes_down = 0
        self._listener = self._bind(port)
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._calls: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._links: list[_Link] = []
        self._waiting: list[socket.socket] = []
        self._silent = False
        self._armed: _Armed | None = None
        self._running = True
        self._buffer = memoryview(bytearray(_CHUNK))
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"relay-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a test turns. Each call returns when it has taken effect.

    @property
    def delay(self) -> tuple[float, float]:
        """Seconds up and down. Setting one number sets both; it holds for what is read from then on."""
        return self.delay_up, self.delay_down

    @delay.setter
    def delay(self, seconds: float) -> None:
        self.delay_up = self.delay_down = seconds

    @property
    def bytes_forwarded(self) -> int:
        """Bytes handed on, both directions together, since the relay started."""
        return self.bytes_up + self.bytes_down

    @property
    def open_connections(self) -> int:
        """Connections that are open now, including those held in silence."""
        return len(self._links) + len(self._waiting)

    @property
    def held(self) -> int:
        """Bytes that wait in the delay lines now."""
        return sum(flow.held for link in list(self._links) for flow in (link.up, link.down))

    def cut(self) -> None:
        """Close both sides of all connections in an orderly way (FIN). New ones are served."""
        self._call(self._cut)

    def reset(self) -> None:
        """Reset both sides of all connections (RST). New ones are served."""
        self._call(self._reset)

    def silence(self) -> None:
        """Accept and keep connections but forward nothing: a network that went away.

        New connections reach the server only after ``resume``.
        """
        self._call(self._silence)

    def resume(self) -> None:
        """End ``silence``; what the kernels and the relay held goes on its way."""
        self._call(self._resume)

    def refuse(self) -> None:
        """Refuse new connections; the port stays reserved. Living connections go on."""
        self._call(self._refuse)

    def listen_again(self) -> None:
        """End ``refuse``."""
        self._call(self._listen_again)

    def cut_after(self, n_bytes: int, how: Fault = "cut", direction: Direction | None = None) -> None:
        """Strike with ``how`` when exactly ``n_bytes`` more have been forwarded, both ways by default.

        Strikes once and counts in ``faults``; a further call arms anew.
        """

        def arm() -> None:
            self._armed = _Armed(n_bytes, how, direction)
            self._strike_if_spent()

        self._call(arm)

    def disarm(self) -> None:
        """Forget what ``cut_after`` armed."""

        def forget() -> None:
            self._armed = None

        self._call(forget)

    def close(self) -> None:
        """Cut everything and give the port back."""
        if not self._thread.is_alive():
            return

        def stop() -> None:
            self._running = False

        self._call(stop)
        self._thread.join()

    # The thread.

    def _bind(self, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, port))
        listener.setblocking(False)
        return listener

    def _call(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._calls.append((action, done))
        self._wake.send(b".")
        while not done.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the relay has ended")

    def _run(self) -> None:
        try:
            while self._running:
                # epoll counts in milliseconds; select on the epoll descriptor counts in microseconds.
                select.select([self._selector], [], [], self._time_left())
                for key, events in self._selector.select(0):
                    if key.fileobj is self._woken:
                        self._answer_calls()
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._move(key.data, key.fileobj, events)
                for link in list(self._links):
                    for flow in (link.up, link.down):
                        self._forward(link, flow)
        finally:
            self._cut()
            self._selector.close()
            for sock in (self._listener, self._wake, self._woken):
                sock.close()

    def _answer_calls(self) -> None:
        self._woken.recv(4096)
        while self._calls:
            action, done = self._calls.popleft()
            action()
            done.set()

    def _time_left(self) -> float | None:
        if self._silent:
            return None
        dues = [
            flow.queue[0][0]
            for link in self._links
            for flow in (link.up, link.down)
            if flow.queue and not flow.blocked
        ]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        self.connections += 1
        if self._silent:
            self._waiting.append(client)
        else:
            self._dial(client)

    def _dial(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            _close(client, reset=True)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server, _Flow("up", client, server), _Flow("down", server, client))
        self._links.append(link)
        self._watch(link)

    def _watch(self, link: _Link) -> None:
        if link.closed:
            return
        for sock, reads, writes in ((link.client, link.up, link.down), (link.server, link.down, link.up)):
            wanted = 0
            if not self._silent:
                if not reads.ended and reads.held < _LIMIT:
                    wanted |= selectors.EVENT_READ
                if writes.blocked:
                    wanted |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(sock)
            if wanted and known is None:
                self._selector.register(sock, wanted, link)
            elif wanted and known is not None and known.events != wanted:
                self._selector.modify(sock, wanted, link)
            elif not wanted and known is not None:
                self._selector.unregister(sock)

    def _move(self, link: _Link, sock: object, events: int) -> None:
        if link.closed or self._silent:
            return
        reads, writes = (link.up, link.down) if sock is link.client else (link.down, link.up)
        if events & selectors.EVENT_WRITE:
            writes.blocked = False
        if events & selectors.EVENT_READ and not reads.ended:
            self._read(link, reads)
        self._watch(link)

    def _read(self, link: _Link, flow: _Flow) -> None:
        delay = self.delay_up if flow.direction == "up" else self.delay_down
        flow.due = max(flow.due, time.monotonic() + delay)
        try:
            got = flow.source.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            flow.ended = True
            flow.queue.append((flow.due, False))
            return
        if not got:
            flow.ended = True
            flow.queue.append((flow.due, None))
            return
        piece = self._buffer[:got]
        if not flow.queue and not delay and not flow.blocked:
            sent = self._send(link, flow, piece)
            if link.closed or sent == got:
                return
            piece = piece[sent:]
        flow.queue.append((flow.due, memoryview(bytes(piece))))
        flow.held += len(piece)

    def _forward(self, link: _Link, flow: _Flow) -> None:
        now = time.monotonic()
        while flow.queue and flow.queue[0][0] <= now:
            if link.closed or flow.blocked or self._silent:
                return
            due, piece = flow.queue[0]
            if piece is None or piece is False:
                flow.queue.popleft()
                self._end(link, flow, reset=piece is False)
                return
            sent = self._send(link, flow, piece)
            flow.held -= sent
            if sent == len(piece):
                flow.queue.popleft()
            else:
                flow.queue[0] = (due, piece[sent:])
            self._watch(link)

    def _send(self, link: _Link, flow: _Flow, piece: memoryview) -> int:
        armed = self._armed
        counted = armed is not None and armed.direction in (None, flow.direction)
        if armed is not None and counted:
            piece = piece[: armed.remaining]
        try:
            sent = flow.sink.send(piece)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(link, reset=True)
            return 0
        flow.blocked = sent < len(piece)
        if flow.direction == "up":
            self.bytes_up += sent
        else:
            self.bytes_down += sent
        if armed is not None and counted:
            armed.remaining -= sent
            self._strike_if_spent()
        return sent

    def _end(self, link: _Link, flow: _Flow, *, reset: bool) -> None:
        flow.done = True
        if reset or (link.up.done and link.down.done):
            self._drop(link, reset=reset)
            return
        try:
            flow.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(link, reset=True)

    def _strike_if_spent(self) -> None:
        if self._armed is None or self._armed.remaining > 0:
            return
        how = self._armed.how
        self._armed = None
        self.faults += 1
        {"cut": self._cut, "reset": self._reset, "silence": self._silence}[how]()

    def _drop(self, link: _Link, *, reset: bool) -> None:
        if link.closed:
            return
        link.closed = True
        self._links.remove(link)
        for sock in (link.client, link.server):
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
            _close(sock, reset=reset)

    def _drop_all(self, *, reset: bool) -> None:
        for link in list(self._links):
            self._drop(link, reset=reset)
        while self._waiting:
            _close(self._waiting.pop(), reset=reset)

    def _cut(self) -> None:
        self._drop_all(reset=False)

    def _reset(self) -> None:
        self._drop_all(reset=True)

    def _silence(self) -> None:
        self._silent = True
        for link in self._links:
            self._watch(link)

    def _resume(self) -> None:
        self._silent = False
        for link in self._links:
            self._watch(link)
        while self._waiting:
            self._dial(self._waiting.pop(0))

    def _refuse(self) -> None:
        if self._listener not in self._selector.get_map():
            return
        self._selector.unregister(self._listener)
        self._listener.close()
        # Bound but not listening: the kernel refuses, and nobody else gets the port.
        self._listener = self._bind(self.port)

    def _listen_again(self) -> None:
        if self._listener in self._selector.get_map():
            return
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ)


def _close(sock: socket.socket, *, reset: bool) -> None:
    try:
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            # Linux sends RST instead of FIN when unread bytes remain at close.
            while sock.recv(_CHUNK):
                pass
    except OSError:
        pass
    sock.close()


def main() -> None:
    """Run a relay until SIGINT or SIGTERM; the first line of output is its port."""
    parser = argparse.ArgumentParser(description="Relay TCP connections on loopback with a delay.")
    parser.add_argument("--target", type=int, required=True, help="port of the server")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, in each direction")
    arguments = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Relay(arguments.target, port=arguments.port, delay=arguments.delay) as relay:
        sys.stdout.write(f"{relay.port}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
