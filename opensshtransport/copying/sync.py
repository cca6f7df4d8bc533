"""`ossh sync`: make a directory like another, with rsync if both sides have it."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from opensshtransport.copying import comparison, rsync
from opensshtransport.copying.options import Listener, SyncOptions
from opensshtransport.errors import SettingsError
from opensshtransport.openssh.notation import parse_place
from opensshtransport.transport import Transport

_log = logging.getLogger(__name__)


def sync(
    source: str, destination: str, ssh_config: str | None, options: SyncOptions, listener: Listener
) -> None:
    """Make the destination like the source.

    Raises:
        SettingsError: not exactly one of them is on a host.
        OSError: for a file, or the source is not a directory.
        ConnectionFailed: one of its kinds.
    """
    here, there = parse_place(source), parse_place(destination)
    host = here.host or there.host
    if (here.host is None) == (there.host is None) or host is None:
        raise SettingsError("one of SRC and DST must be on a host", advice="write it as HOST:PATH")
    with Transport(host, ssh_config=ssh_config) as transport:
        found = Path(here.path).expanduser().is_dir() if here.host is None else transport.is_dir(here.path)
        if not found:
            raise NotADirectoryError(errno.ENOTDIR, "no such directory", source)
        if options.rsync and rsync.is_there(transport):
            inherited = rsync.inherited(transport, there)
            if inherited is not None:
                _log.info("%s: rsync is on both sides and does the work", host)
                rsync.sync(transport, (here, there), options, inherited, listener)
                return
            _log.info("%s: rsync would take the set-group-ID bit of some directories", host)
        _log.info("%s: without rsync: both sides are listed, and what differs is moved", host)
        comparison.sync(transport, here, there, options, listener)
