"""`Meter`: counts what is moved, reports it, and limits the rate. Any number of threads may count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opensshtransport.errors import SettingsError
from opensshtransport.sessions.requests import abandoned
from opensshtransport.transfer.progress import Progress

if TYPE_CHECKING:
    from opensshtransport.transfer.bar import Bar

# Seconds between two reports of progress.
_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Transferred:
    """The result of a transfer.

    Attributes:
        files: files and links that have arrived.
        bytes: their size together.
        seconds: how long it took.
    """

    files: int
    bytes: int
    seconds: float


class Meter:
    """The counts of one transfer."""

    def __init__(
        self, progress: Callable[[Progress], object] | bool | None, limit_rate: float | None
    ) -> None:
        """Nothing is counted yet.

        Args:
            progress: called now and then; True for a bar by tqdm.
            limit_rate: bytes a second; None for no limit.

        Raises:
            SettingsError: the limit is not a rate.
        """
        if limit_rate is not None and not limit_rate > 0:
            raise SettingsError(f"not a rate: {limit_rate!r}", advice="give bytes a second, or None")
        self._bar = _bar() if progress is True else None
        self._tell = self._bar or (progress if callable(progress) else None)
        self._rate = limit_rate
        self._guard = threading.Lock()
        self._began = time.monotonic()
        self._told = 0.0
        self._telling = threading.Lock()
        self._free = self._began
        # every thread that moves something calls this
        self._go_on = abandoned()
        self.bytes = self.files = self.total_bytes = self.total_files = 0
        self.found = 0
        self.name = ""

    def expect(self, files: int, size: int) -> None:
        """This much more is to be moved."""
        with self._guard:
            self.total_files += files
            self.total_bytes += size

    def moved(self, size: int, name: str) -> None:
        """This many bytes have been moved; waits if that was faster than the limit.

        It raises an error if nobody waits for the transfer any more.
        """
        self._go_on()
        pause = 0.0
        with self._guard:
            self.bytes += size
            self.name = name
            if self._rate:
                now = time.monotonic()
                self._free = max(self._free, now - 0.1) + size / self._rate
                pause = self._free - now
        self._say()
        if pause > 0:
            time.sleep(pause)

    def there(self, size: int, name: str) -> None:
        """This many bytes need not be moved."""
        with self._guard:
            self.bytes += size
            self.found += size
            self.name = name

    def again(self, begun: int) -> None:
        """Go back to this many bytes: what began there begins anew."""
        with self._guard:
            self.bytes = begun
            self.found = 0

    def done(self, name: str, files: int = 1) -> None:
        """This many files are complete."""
        with self._guard:
            self.files += files
            self.name = name
        self._say()

    def _say(self, *, last: bool = False) -> None:
        if self._tell is None:
            return
        with self._guard:
            now = time.monotonic()
            if not last and now - self._told < _EVERY:
                return
            self._told = now
        # one at a time, and in order; another thread has nothing newer to report meanwhile
        if not self._telling.acquire(blocking=last):
            return
        try:
            with self._guard:
                progress = Progress(
                    self.bytes, self.total_bytes, self.files, self.total_files, self.name, self.found
                )
            self._tell(progress)
        finally:
            self._telling.release()

    def end(self) -> Transferred:
        """Report the end."""
        self._say(last=True)
        self.close()
        return Transferred(self.files, self.bytes, time.monotonic() - self._began)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.close()


def _bar() -> Bar:
    from opensshtransport.transfer.bar import Bar

    return Bar()
