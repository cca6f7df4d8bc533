"""What ssh may have noted of a command that has ended, and what that proves: one table for all who decide."""

from __future__ import annotations

from typing import NamedTuple

from opensshtransport.errors import (
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    SessionRefused,
)

__all__ = ["EVIDENCE", "Evidence"]


class Evidence(NamedTuple):
    """A log, and the status that it shows, or else the error and whether the command had started."""

    log: str
    status: int | None = None
    error: type[ConnectionFailed] | None = None
    started: bool | None = None


_HELLO = "debug2: mux_client_hello_exchange: master version 4\r\n"
_SENT = "debug3: mux_client_request_session: session request sent\r\n"
_OPENED = "debug1: mux_client_request_session: master session id: 2\r\n"
_STATUS = "debug2: Received exit status from master "
_GUARD = (
    "debug1: Executing proxy command: exec false\r\n"
    "kex_exchange_identification: Connection closed by remote host\r\n"
    "Connection closed by UNKNOWN port 65535\r\n"
)
_REFUSED = "mux_client_request_session: session request failed: Session open refused by peer\r\n"


def _unknown(log: str) -> Evidence:
    return Evidence(log, None, ConnectionLost, None)


EVIDENCE: dict[str, Evidence] = {
    "status": Evidence(f"{_HELLO}{_SENT}{_OPENED}{_STATUS}3\r\n", 3),
    "status 0": Evidence(f"{_STATUS}0\r\n", 0),
    "status 255, no carriage return": Evidence(f"{_STATUS}255\n", 255),
    "the last status counts": Evidence(f"{_STATUS}1\r\n{_STATUS}2\r\n", 2),
    # the disk was full, or ssh was killed, while it wrote
    "a status cut short": Evidence(f"{_OPENED}{_STATUS}25", None, ConnectionLost, True),
    "a status cut short, then more": Evidence(
        f"{_OPENED}{_STATUS}2debug3: x\r\n", None, ConnectionLost, True
    ),
    "a status behind a line cut short": _unknown(f"debug3: mux_cl{_STATUS}3\r\n"),
    "a status in somebody's words": _unknown(f"they say {_STATUS}3\r\n"),
    "a status that is none": _unknown(f"{_STATUS}x\r\n"),
    # lost, never written, or only in part
    "nothing": _unknown(""),
    "an empty line": _unknown("\r\n"),
    "the hello alone": _unknown(_HELLO),
    "sent": _unknown(f"{_HELLO}{_SENT}"),
    "sent, then the guard": _unknown(f"{_HELLO}{_SENT}{_GUARD}"),
    "the guard alone": _unknown(_GUARD),
    "the end of the guard alone": _unknown("Connection closed by UNKNOWN port 65535\r\n"),
    "half of a proof": _unknown('debug1: Control socket "/run/x" does not ex'),
    "opened": Evidence(f"{_HELLO}{_SENT}{_OPENED}", None, ConnectionLost, True),
    "opened, then the guard": Evidence(f"{_OPENED}{_GUARD}", None, ConnectionLost, True),
    # proofs
    "no socket": Evidence(
        f'debug1: Control socket "/run/x" does not exist\r\n{_GUARD}', None, MasterGone, False
    ),
    "nobody listens": Evidence(
        f"Control socket connect(/run/x): Connection refused\r\n{_GUARD}", None, MasterGone, False
    ),
    "no greeting": Evidence(
        f"debug1: mux_client_hello_exchange: read packet failed\r\n{_GUARD}", None, MasterGone, False
    ),
    "refused": Evidence(f"{_HELLO}{_SENT}{_REFUSED}{_GUARD}", None, SessionRefused, False),
    "no configuration": Evidence(
        "/home/me/.ssh/config: line 3: Bad configuration option: colour\r\n", None, ConfigurationError, False
    ),
}
