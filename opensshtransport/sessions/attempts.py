"""What may be tried again: the one rule, for commands, files, transfers and `ossh-run` alike.

Opening a session may show that the server refuses it, or that the master is gone. Both mean that nothing had
started, so the work is tried again: the first after a pause, the second after a login. Nothing else is tried
again, unless it only reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from opensshtransport.errors import ConnectionLost, MasterGone, SessionRefused
from opensshtransport.master.slots import Slots

_T = TypeVar("_T")

# Seconds within which another program may give back a session.
PATIENCE = 120.0

# Seconds before asking again a server that has refused a session: the first time, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

# How many dead masters are replaced for one piece of work.
_MOST_LOGINS = 2

_log = logging.getLogger(__name__)


class Patience:
    """How long, and how often, to ask again for a session that the server has refused."""

    def __init__(self, slots: Slots, until: float | None = None) -> None:
        """Nothing is waited for yet.

        Args:
            slots: the budget.
            until: when it ends, on the monotonic clock; by default after `PATIENCE`.
        """
        self._slots, self._pause = slots, _FIRST_PAUSE
        self._until = time.monotonic() + PATIENCE if until is None else until

    def wait(self, reason: SessionRefused, pause: Callable[[float], object] = time.sleep) -> None:
        """Wait a while, longer each time; meanwhile processes with idle sessions give them back.

        Args:
            reason: the refusal.
            pause: waits so many seconds.

        Raises:
            SessionRefused: the given reason, if the time is over.
        """
        if time.monotonic() + self._pause > self._until:
            raise reason
        with self._slots.waiting():
            pause(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def attempt(
    work: Callable[[], _T],
    patience: Patience,
    revive: Callable[[], object],
    *,
    host: str,
    reads: Callable[[], bool] = lambda: False,
) -> _T:
    """Do work that needs a session, and do it again as long as nothing of it has started.

    Args:
        work: what is done; it cleans up after itself if it fails.
        patience: for how long to ask again for a refused session.
        revive: makes sure that a master is running, after one was found dead.
        host: the destination, for the log.
        reads: whether everything that a lost connection left unanswered only reads, so that it may be
            repeated.

    Raises:
        SessionRefused: the server gave no session in that time.
        ConnectionFailed: another of its kinds.
    """
    logins = 0
    while True:
        try:
            return work()
        except SessionRefused as reason:  # noqa: PERF203 - the outcome of each try decides
            _log.info("%s: the server refused a session; asking again", host)
            patience.wait(reason)
        except (MasterGone, ConnectionLost) as reason:
            logins += 1
            if logins > _MOST_LOGINS or not (isinstance(reason, MasterGone) or reads()):
                raise
            _log.info("%s: %s; trying again", host, type(reason).__name__)
            revive()
