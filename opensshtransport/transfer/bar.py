"""`Bar`: a progress bar of tqdm's on stderr, with the rate and the time left.

A module of its own: only who wants a bar loads tqdm.
"""

from __future__ import annotations

import threading

from tqdm import tqdm

from opensshtransport.transfer.progress import Progress

# Letters of a name that are shown.
_LONGEST = 30


class _Bar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    # tqdm's own would be a thread and a semaphore between processes, in a library that others fork
    monitor_interval = 0
    _lock = threading.RLock()


class Bar:
    """Draws how far a transfer is; follows a terminal that is resized."""

    def __init__(self) -> None:
        self._bar = _Bar(unit="B", unit_scale=True, unit_divisor=1024, leave=False, dynamic_ncols=True)

    def __call__(self, progress: Progress) -> None:
        """Draw it."""
        bar = self._bar
        bar.total = progress.total_bytes
        bar.set_description_str(_shown(progress.name), refresh=False)
        # what was there already is no part of the rate
        skipped = progress.found - bar.initial
        bar.initial += skipped
        bar.n += skipped
        bar.last_print_n += skipped
        bar.update(progress.bytes - bar.n)

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.close()


def _shown(name: str) -> str:
    """The end of a name, without what would steer the terminal."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= _LONGEST else f"…{plain[1 - _LONGEST :]}"
