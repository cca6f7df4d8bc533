"""One OpenSSH login shared by everything that runs on this machine.

`Transport` and `AsyncTransport` run commands on a host through its one master; all errors derive from
`OpenSshTransportError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensshtransport.async_transport import AsyncRemoteProcess, AsyncTransport
    from opensshtransport.commands.command import CompletedCommand
    from opensshtransport.commands.process import RemoteProcess
    from opensshtransport.errors import OpenSshTransportError
    from opensshtransport.transport import Transport

__all__ = [
    "AsyncRemoteProcess",
    "AsyncTransport",
    "CompletedCommand",
    "OpenSshTransportError",
    "RemoteProcess",
    "Transport",
]
__version__ = "0.2.0"

_HOMES = {
    "AsyncRemoteProcess": "async_transport",
    "AsyncTransport": "async_transport",
    "CompletedCommand": "commands.command",
    "OpenSshTransportError": "errors",
    "RemoteProcess": "commands.process",
    "Transport": "transport",
}


def __getattr__(name: str) -> object:
    """Import when first used: `ossh` must start fast and needs little of it."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"opensshtransport.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
