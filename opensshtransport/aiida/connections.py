"""The connections of a process to its hosts: AiiDA's transports come and go all the time, and share them."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import Destination
from opensshtransport.transport import Transport


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection, and the master that it goes through."""

    master: Master
    transport: Transport


class Connections:
    """The connections of this process: they outlive AiiDA's transports, which come and go all the time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: dict[tuple[object, ...], Connection] = {}

    def last(self, key: tuple[object, ...]) -> Connection | None:
        """Where a name led when it was last used."""
        with self._guard:
            return self._known.get(key)

    def get(self, key: tuple[object, ...], master: Master, make: Callable[[], Transport]) -> Connection:
        """The connection of a name; a new one if the name now leads elsewhere."""
        with self._guard:
            known = self._known.get(key)
            if known is None or _place(known.master) != _place(master):
                # transports that still use the old one continue with it
                self._known[key] = known = Connection(master, make())
            return known

    def close(self) -> None:
        """Close the sessions that are open but unused."""
        with self._guard:
            known, self._known = self._known, {}
        for connection in known.values():
            connection.transport.close()


def _place(master: Master) -> tuple[Destination, Path]:
    return master.destination, master.directory


connections = Connections()
atexit.register(connections.close)
