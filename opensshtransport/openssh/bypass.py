"""How our own calls of ssh bypass the block that `ossh share` has put into ssh_config (`sharing.block`).

The idea: the block runs a hook at each call of ssh, and two environment variables tell the hook to leave the
call alone. What a name means is asked without the block; a login bypasses the block of its own host, but
still uses the master of a jump host if one is running.
"""

from __future__ import annotations

import os

# `ossh-hook` reads both. Users may set the first one too: `OSSH_SHARE=no ssh daint` connects on its own.
SHARE, LOGIN = "OSSH_SHARE", "OSSH_LOGIN"


def unshared() -> dict[str, str]:
    """The environment in which no name is shared."""
    return {**os.environ, SHARE: "no"}


def login_of(host: str) -> dict[str, str]:
    """What is added to the environment of the ssh that logs in to a host."""
    return {LOGIN: host}
