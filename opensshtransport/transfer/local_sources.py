"""What `put` is to send: the files of this side that its sources name."""

from __future__ import annotations

import errno
import glob
import os

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.paths import path_text
from opensshtransport.transfer.options import WILD, Sources, listed


def local_sources(source: Sources, failures: list[OSError]) -> list[str]:
    """Local paths, with patterns and `~` expanded.

    Args:
        source: as they are named.
        failures: if there are several sources, missing ones are added here.

    Raises:
        FileNotFoundError: the only one does not exist, or a pattern matches nothing.
        SettingsError: there is none.
    """
    found: list[str] = []
    named = listed(source)
    for one in named:
        text = os.path.expanduser(path_text(one))
        try:
            if not os.path.lexists(text) and WILD & set(text):
                matched = sorted(glob.glob(text, recursive=True))
                if not matched:
                    raise FileNotFoundError(errno.ENOENT, "nothing matches the pattern", text)
                found += matched
            else:
                os.stat(text)
                found.append(text)
        except OSError as reason:
            if isinstance(reason, ConnectionFailed) or len(named) == 1:
                raise
            failures.append(reason)
    return found
