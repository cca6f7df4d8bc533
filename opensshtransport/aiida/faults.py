"""Our errors as AiiDA expects them, and methods as coroutines."""

from __future__ import annotations

import functools
import math
import re
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Any, TypeVar, cast

from aiida.common.exceptions import RemoteOperationError

from opensshtransport.errors import ConnectionFailed

AnyPath = str | PurePath

_Method = TypeVar("_Method", bound=Callable[..., Any])

MAGIC = re.compile(r"[*?\[]")


class ConnectionFault(RemoteOperationError):  # type: ignore[misc]  # AiiDA is not there when types are checked
    """The connection could not be made, or did not hold. Not an OSError: those are about files.

    Attributes:
        started: whether the remote command had started: False, True, or None where it cannot be known.
    """

    def __init__(self, reason: ConnectionFailed) -> None:
        super().__init__(f"{reason} (to find the cause, run: ossh doctor {reason.host or 'HOST'})")
        self.started = reason.started


# When a host was first found to need a person, by its name; see `connection_fault`.
_needs_a_person_since: dict[str | None, float] = {}


def connection_fault(reason: ConnectionFailed) -> ConnectionFault:
    """The error to raise for a failed connection.

    If only a person can help, AiiDA tries again for some minutes, in which the person may log in. After that
    a process is paused at once, and its status says what to do.
    """
    if reason.remedy.command != "ossh login":
        return ConnectionFault(reason)
    now = time.monotonic()
    since = _needs_a_person_since.setdefault(reason.host, now)
    return ConnectionFault(reason) if now - since < _patience() else _pausing_fault()(reason)


def connected(host: str) -> None:
    """A host has a connection again, and needs no person."""
    _needs_a_person_since.pop(host, None)


def _patience() -> float:
    """Seconds during which AiiDA keeps trying; without a configuration there are no processes to pause."""
    from aiida.manage import configuration

    if configuration.CONFIG is None:
        return math.inf
    first = float(configuration.get_config_option("transport.task_retry_initial_interval"))
    # it waits twice as long each time
    return first * (2.0 ** (int(configuration.get_config_option("transport.task_maximum_attempts")) - 1) - 1)


@functools.cache
def _pausing_fault() -> type[ConnectionFault]:
    # only if there are processes: loading it takes too long for `verdi`
    from plumpy.process_states import PauseInterruption

    class LoginFault(ConnectionFault, PauseInterruption):  # type: ignore[misc]  # as above
        """A fault for which AiiDA pauses the process, with these words as its status."""

        def __init__(self, reason: ConnectionFailed) -> None:
            super().__init__(reason)
            # older releases take the text of the error itself
            paused = PauseInterruption(f"Pausing after failed transport task: {self}")
            self.msg = getattr(paused, "msg", None)

    return LoginFault


def within_portal() -> Any:
    """greenback, if the current task has a portal of it."""
    # if it is not loaded, there is no portal
    greenback = sys.modules.get("greenback")
    return greenback if greenback is not None and greenback.has_portal() else None


def checked(method: _Method) -> _Method:
    """A blocking method that separates connection errors from file errors, and never stops the loop.

    AiiDA's schedulers and monitors call blocking methods within the loop. It opens a portal of greenback for
    them, through which the call waits for a thread while the loop goes on. Without a portal it blocks.
    """

    def work(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except ConnectionFailed as reason:
            raise connection_fault(reason) from reason

    @functools.wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if portal := within_portal():
            return portal.await_(self._in_thread(functools.partial(work, self, *args, **kwargs)))
        return work(self, *args, **kwargs)

    return cast(_Method, call)


def awaited(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A method as a coroutine: it runs in a thread."""

    @functools.wraps(method)
    async def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._in_thread(functools.partial(method, self, *args, **kwargs))

    return call
