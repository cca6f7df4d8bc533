"""The audit log: one line for each login, whatever its outcome."""

from __future__ import annotations

import contextlib
import datetime
import os
import re

from opensshtransport import errors
from opensshtransport.local.settings import state_directory
from opensshtransport.local.trust import open_ours
from opensshtransport.openssh.destination import Destination


def audit(destination: Destination, outcome: str, seconds: float) -> None:
    """Note a login and its outcome: one line in `audit.log` of the state directory, where that takes one."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # it may contain a server's words, and the log may be shown at a terminal
    told = errors.printable(re.sub(r"\s+", " ", outcome))
    line = f"{now} {destination.host} {destination.address} pid={os.getpid()} {seconds:.1f}s {told}\n"
    # a full or read-only disk is no reason to refuse a login
    with contextlib.suppress(OSError):
        file = open_ours(state_directory() / "audit.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode(errors="surrogateescape"))
        finally:
            os.close(file)
