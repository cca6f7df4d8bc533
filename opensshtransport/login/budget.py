"""The budget of failed logins: counted per destination, across all processes and reboots.

Centres lock an account after a few failures. So after each failure there is a pause that doubles, and after
three in a row only a person may try again. The caller holds the destination's lock.

The trap: a full or read-only home must not shut anybody out, and uncounted failures must not lock an account.
So what the state directory cannot store goes into the runtime directory; if that fails too, only a person may
log in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensshtransport.errors import (
    AddressRefused,
    AuthenticationRefused,
    CoolingDown,
    LoginNeeded,
    OpenSshTransportError,
    SettingsError,
)
from opensshtransport.local.locks import replace_file
from opensshtransport.local.settings import private_directory, runtime_directory, state_directory
from opensshtransport.local.trust import read_ours
from opensshtransport.openssh.destination import Destination

FIRST_PAUSE = 30.0

LONGEST_PAUSE = 3600.0

# A server that refuses our address does not say for how long: by default, sshd does so for 15 seconds to 10
# minutes (PerSourcePenalties). A refused connection does not prolong it.
REFUSED_PAUSE = 60.0

MOST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Spent:
    """What has happened since the last successful login.

    Attributes:
        failures: how many failed, in a row.
        until: no unattended login before this time, in seconds since the epoch.
        reason: the last failure's message.
        refused: whether the pause is for a server that refuses our address.
        told: whether `login_hook` has been run for it.
    """

    failures: int = 0
    until: float = 0.0
    reason: str = ""
    refused: bool = False
    told: bool = False

    @property
    def pause(self) -> float:
        """Seconds from the last failure to the next unattended login."""
        return max(pause_after(self.failures), REFUSED_PAUSE if self.refused else 0.0)


class Budget:
    """The budget of one destination."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        # it contains only what the state directory could not store, so it is newer
        self._files: list[Path] = []
        # if that is unusable, no login gets as far as this, but `ossh doctor` does
        with contextlib.suppress(SettingsError):
            self._files.append(runtime_directory() / f"{destination.identity}.failures")
        with contextlib.suppress(OSError):
            self._files.append(
                private_directory(state_directory() / "failures") / f"{destination.identity}.json"
            )
        self.file = self._files[-1]

    def read(self) -> Spent:
        """What has happened so far. An unreadable file counts as an exhausted budget, to be safe."""
        return next((spent for file in self._files if (spent := _noted(file))), Spent())

    def check(self) -> None:
        """Check whether an unattended login may go on.

        Raises:
            CoolingDown: it must not be tried, or not yet.
            AddressRefused: not yet, because the server has refused our address.
        """
        spent = self.read()
        host = self.destination.host
        if spent.failures >= MOST_FAILURES:
            raise CoolingDown(
                f"{spent.failures} logins in a row have failed, the last: {spent.reason}", host=host
            )
        pause = spent.pause
        left = spent.until - time.time()
        if left > pause:
            # the clock was set back: that must not prolong the pause
            left = pause
            self._write(dataclasses.replace(spent, until=time.time() + pause))
        if left > 0:
            kind = AddressRefused if spent.refused else CoolingDown
            raise kind(f"{spent.reason}; no unattended login for {left:.0f} s", host=host)

    def begin(self) -> Spent:
        """Count a login as failed before it begins: if it is killed, nobody knows what it has sent.

        Returns:
            What was noted before.
        """
        before = self.read()
        self._count(before, "the login process was killed")
        return before

    def note(
        self, error: OpenSshTransportError, before: Spent, *, sent: int = 0, local: bool = False
    ) -> None:
        """Count a failure if the server or a script may have counted one too; otherwise restore the count.

        Args:
            error: how the login ended.
            before: what `begin` or `read` returned.
            sent: how often something was sent that the server may have refused.
            local: nothing was sent, because ssh got no further than a key's passphrase.
        """
        # if nothing can be stored, the next attempt reports that, not this one
        with contextlib.suppress(CoolingDown):
            if sent or (not local and isinstance(error, AuthenticationRefused | LoginNeeded)):
                self._count(before, error.message, max(1, sent))
            elif isinstance(error, AddressRefused):
                until = max(before.until, time.time() + REFUSED_PAUSE)
                self._write(dataclasses.replace(before, refused=True, reason=error.message, until=until))
            elif before.failures:
                self._write(before)
            else:
                self.clear()

    def _count(self, before: Spent, reason: str, times: int = 1) -> None:
        failures = before.failures + times
        until = time.time() + pause_after(failures)
        self._write(dataclasses.replace(before, failures=failures, until=until, reason=reason, refused=False))

    def note_told(self) -> bool:
        """Note that the person was told; returns whether that is new."""
        spent = self.read()
        if spent.told:
            return False
        with contextlib.suppress(CoolingDown):
            self._write(dataclasses.replace(spent, told=True))
        return True

    def clear(self) -> None:
        """A login has succeeded."""
        try:
            # remove the newer one last: it must not leave an older one behind
            for file in reversed(self._files):
                file.unlink(missing_ok=True)
        except OSError:
            with contextlib.suppress(CoolingDown):
                self._write(Spent())

    def _write(self, spent: Spent) -> None:
        """Store it in the state directory or, if that cannot be written to, in the runtime directory.

        Raises:
            CoolingDown: neither can be written to.
        """
        text = json.dumps(dataclasses.asdict(spent))
        problem = ""
        for file in reversed(self._files):
            try:
                replace_file(file, text)
            except OSError as reason:
                problem = f"{file}: {reason.strerror}"
                continue
            for newer in self._files[: self._files.index(file)]:
                newer.unlink(missing_ok=True)
            return
        raise CoolingDown(f"failed logins cannot be counted ({problem})", host=self.destination.host)


def _noted(file: Path) -> Spent | None:
    """What a file says; None if there is none."""
    spoilt = Spent(failures=MOST_FAILURES, reason=f"{file} cannot be read")
    try:
        noted: dict[str, Any] = json.loads(read_ours(file))
        spent = Spent(**noted)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return spoilt
    kinds = {"failures": int, "until": int | float, "reason": str, "refused": bool, "told": bool}
    if not all(isinstance(value, kinds[name]) for name, value in noted.items()):
        return spoilt
    return spent if spent.failures >= 0 and math.isfinite(spent.until) else spoilt


def pause_after(failures: int) -> float:
    """Seconds to wait after this many failures in a row: 30 s, doubling, an hour at most."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16)) if failures else 0.0
