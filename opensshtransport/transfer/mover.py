"""What put and get have in common: how they ask the host, what its errors mean, and when they go on."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from opensshtransport.errors import ConnectionLost, MasterGone
from opensshtransport.files.changes import Files
from opensshtransport.remote.paths import PathLike, path_text
from opensshtransport.sessions.requests import Reply, Request
from opensshtransport.sessions.shell_pool import Shells
from opensshtransport.transfer.blocks import streams_for
from opensshtransport.transfer.crew import reply_errno
from opensshtransport.transfer.job import Job

_T = TypeVar("_T")

DIFFER = "the checksums differ after the transfer"

# How often a transfer that makes no progress is continued.
_MOST_TRIES = 3


class Mover:
    """Asks one destination, for put and for get."""

    def __init__(self, shells: Shells, files: Files) -> None:
        self._shells, self._files = shells, files
        self._host = shells.host
        self._probed: tuple[float, bool] | None = None

    def _request(
        self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False, mark: str = ""
    ) -> Request:
        marks = f"m={mark} d={secrets.token_hex(8)}"
        return Request(script=f"{marks}\n{script}", payload=payload, reads=reads, slow=slow)

    def _ask(self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False) -> Reply:
        # most requests may be repeated: they only change a draft
        return self._shells.ask(self._request(script, payload=payload, reads=reads, slow=slow))

    def _ask_first(self, requests: list[Request]) -> list[Reply]:
        """Ask, and find out at the same time what `_probed` reports: it takes no round trip."""
        if self._probed is not None:
            return self._shells.ask_all(requests)
        probe = self._request("tar --version")
        begin = time.monotonic()
        said, *replies = self._shells.ask_all([probe, *requests])
        waited = time.monotonic() - begin
        # the first reply arrives after a round trip
        self._probed = (self._shells.round_trip or waited, b"GNU tar" in said.out)
        return replies

    def _probe(self) -> tuple[float, bool]:
        """The round trip in seconds, and whether the remote side's tar takes a list of names."""
        if self._probed is None:
            self._ask_first([])
        if self._probed is None:
            raise AssertionError("it was asked")
        return self._shells.round_trip or self._probed[0], self._probed[1]

    def _streams(self, size: int) -> int:
        """How many streams are worth opening for this many bytes."""
        return streams_for(self._probe()[0], size)

    def _again(self, job: Job, work: Callable[[], _T]) -> _T:
        """Continue after a lost connection, as long as each try finds more of the previous one."""
        meter = job.meter
        tries, best, begun = 0, -1, meter.bytes
        while True:
            meter.again(begun)
            try:
                return work()
            except (MasterGone, ConnectionLost):
                tries = 0 if meter.found > best else tries + 1
                best = max(best, meter.found)
                if tries >= _MOST_TRIES:
                    raise
                self._shells.connection.revive()

    def _error(self, number: int, path: PathLike, text: str = "") -> OSError:
        return OSError(number, text or os.strerror(number), f"{self._host}:{path_text(path)}")

    def _failed(self, reply: Reply, path: PathLike) -> OSError:
        number = reply_errno(reply)
        said = reply.errors.strip()
        text = f"{os.strerror(number)} ({said[-300:]})" if number == errno.EIO and said else ""
        return self._error(number, path, text)


def flag(value: bool) -> str:
    """A word of sh that is empty for False."""
    return "yes" if value else "''"


def sums(raw: bytes) -> dict[str, str]:
    """What `sums_of` of `transfer.sh` prints, by name."""
    found = {}
    for line in raw.split(b"\0"):
        total, _, name = line.partition(b"  ")
        if name:
            found[os.fsdecode(name).removeprefix("./")] = total.decode("ascii", "replace")
    return found
