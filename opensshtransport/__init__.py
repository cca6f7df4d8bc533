"""One OpenSSH login shared by everything that runs on this machine.

`Transport` and `AsyncTransport` run commands on a host through its one master; all errors derive from
`OpenSshTransportError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensshtransport.async_process import AsyncRemoteProcess
    from opensshtransport.command import CompletedCommand
    from opensshtransport.errors import OpenSshTransportError
    from opensshtransport.process import RemoteProcess
    from opensshtransport.transport import AsyncTransport, Transport

__all__ = [
    "AsyncRemoteProcess",
    "AsyncTransport",
    "CompletedCommand",
    "OpenSshTransportError",
    "RemoteProcess",
    "Transport",
]
__version__ = "0.1.0"

_HOMES = {
    "AsyncRemoteProcess": "async_process",
    "AsyncTransport": "transport",
    "CompletedCommand": "command",
    "OpenSshTransportError": "errors",
    "RemoteProcess": "process",
    "Transport": "transport",
}


def __getattr__(name: str) -> object:
    """Import when first used: `ossh` must start fast and needs little of it."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"opensshtransport.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
