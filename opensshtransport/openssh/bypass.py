"""How our own calls of ssh pass by the block that `ossh share` has put into ssh_config (`sharing.block`).

The idea: the block asks a hook at each call of ssh, and two variables of the environment tell it to leave the
call alone. What a name means is asked without the block; a login passes by that of its own host, and still
rides the master of a jump host where one is running.
"""

from __future__ import annotations

import os

# `ossh-hook` reads both. The first is the person's too: `OSSH_SHARE=no ssh daint` connects by itself.
SHARE, LOGIN = "OSSH_SHARE", "OSSH_LOGIN"


def unshared() -> dict[str, str]:
    """The environment in which no name is shared."""
    return {**os.environ, SHARE: "no"}


def login_of(host: str) -> dict[str, str]:
    """What is added to the environment of the ssh that logs in to a host."""
    return {LOGIN: host}
