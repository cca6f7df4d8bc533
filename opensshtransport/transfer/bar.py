"""`Bar`: a progress bar of tqdm's on stderr, with the rate and the time left.

In a module of its own, so that tqdm is loaded only if a bar is wanted.
"""

from __future__ import annotations

import threading

from tqdm import tqdm

from opensshtransport.transfer.progress import Progress

# How many characters of a name are shown.
_LONGEST = 30


class _Bar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    # tqdm's own lock would need a thread and a semaphore between processes, in a library whose users fork
    monitor_interval = 0
    _lock = threading.RLock()


class Bar:
    """Draws the progress of a transfer; follows a terminal that is resized."""

    def __init__(self) -> None:
        self._bar = _Bar(unit="B", unit_scale=True, unit_divisor=1024, leave=False, dynamic_ncols=True)

    def __call__(self, progress: Progress) -> None:
        """Draw it."""
        bar = self._bar
        bar.total = progress.total_bytes
        bar.set_description_str(_shown(progress.name), refresh=False)
        # what was already there does not count towards the rate
        skipped = progress.found - bar.initial
        bar.initial += skipped
        bar.n += skipped
        bar.last_print_n += skipped
        bar.update(progress.bytes - bar.n)

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.close()


def _shown(name: str) -> str:
    """The end of a name, without control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= _LONGEST else f"…{plain[1 - _LONGEST :]}"
