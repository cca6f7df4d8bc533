"""What may be tried again: the one rule, for commands, files, transfers and `ossh-run` alike.

Opening a session may show that the server refuses it, or that the master has gone. Both mean that nothing had
started, so the work is tried again: the first after a pause, the second after a login. Nothing else is tried
again, unless it only reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from opensshtransport.errors import ConnectionLost, MasterGone, SessionRefused
from opensshtransport.master.slots import Patience

_T = TypeVar("_T")

# Masters that are found dead and replaced for one piece of work.
_MOST_LOGINS = 2

_log = logging.getLogger(__name__)


def attempt(
    work: Callable[[], _T],
    patience: Patience,
    revive: Callable[[], object],
    *,
    host: str,
    reads: Callable[[], bool] = lambda: False,
) -> _T:
    """Do something that needs a session, and again while nothing of it has started.

    Args:
        work: what is done; it cleans up after itself where it fails.
        patience: for how long a refused session is asked for again.
        revive: makes sure that a master is running, after one was found dead.
        host: the destination, for the log.
        reads: whether all that a lost connection left without an answer only reads, so that it may be done
            again.

    Raises:
        SessionRefused: the server gave no session in that time.
        ConnectionFailed: another of its kinds.
    """
    logins = 0
    while True:
        try:
            return work()
        except SessionRefused as reason:  # noqa: PERF203 - what comes of each try decides
            _log.info("%s: the server refused a session; asking again", host)
            patience.wait(reason)
        except (MasterGone, ConnectionLost) as reason:
            logins += 1
            if logins > _MOST_LOGINS or not (isinstance(reason, MasterGone) or reads()):
                raise
            _log.info("%s: %s; trying again", host, type(reason).__name__)
            revive()
