"""`Reader`: waiting for what arrives on the pipes of a channel.

The trap: when our ssh is killed, the master keeps the pipes open, so their end may never come. And when ssh
has ended by itself, something that it wrote before may still be in them.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import IO

# Seconds between checks whether ssh is still running.
_LOOK = 0.25


class Reader:
    """Waits for several pipes at once, of one ssh."""

    def __init__(self, status: Callable[[], int | None], *pipes: IO[bytes] | int) -> None:
        """Nothing is waited for yet.

        Args:
            status: the exit status of the ssh that writes to them, None while it runs (`Popen.poll`).
            pipes: its outputs; or descriptors of others to wait for.
        """
        self._status = status
        self._poll = select.poll()
        for pipe in pipes:
            self._poll.register(pipe, select.POLLIN)

    def drop(self, descriptor: int) -> None:
        """No longer wait for a pipe that has ended."""
        self._poll.unregister(descriptor)

    def ready(self, seconds: float = _LOOK) -> list[int] | None:
        """Wait so long for something to read, or for the end of a pipe.

        Returns:
            The descriptors that have either. An empty list if nothing has arrived yet, None if nothing will
            arrive any more, as ssh has ended.
        """
        found = self._poll.poll(seconds * 1000)
        if not found and self._status() is not None:
            found = self._poll.poll(0)
            if not found:
                return None
        return [descriptor for descriptor, _ in found]
