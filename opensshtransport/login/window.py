"""Who can be asked: a person at the terminal, or one behind the program of SSH_ASKPASS."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

from opensshtransport.login.person import Person, person_at_terminal


def somebody(*, unattended: bool = False) -> AbstractContextManager[Person | None]:
    """Who can be asked, if anybody."""
    return contextlib.nullcontext() if unattended else person_at_terminal()
