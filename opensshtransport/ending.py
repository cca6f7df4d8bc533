"""How a session ends: what ssh's log tells of it, and ending a command's processes on the far side.

ssh's status 255 may be the command's own, or mean that a signal killed it, that the master died or that no
session was had. Its stderr cannot tell, as it is mixed with the command's; its log (-E) can.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from opensshtransport import openssh
from opensshtransport.errors import (
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    SessionRefused,
    connection_error,
)
from opensshtransport.master import Facts, Master

__all__ = ["GRACE", "end_group", "log_error", "logged_status"]

# Seconds between TERM and KILL.
GRACE = 5.0


def logged_status(log: str) -> int | None:
    """The command's own exit status as ssh noted it, or None where none came."""
    found = re.findall(r"^debug2: Received exit status from master (\d+)\r?$", log, re.MULTILINE)
    return int(found[-1]) if found else None


def log_error(log: str, host: str) -> ConnectionFailed:
    """What it means that ssh ended without the command's status.

    Args:
        log: what ssh wrote at DEBUG2.
        host: the destination as the caller named it.

    Returns:
        SessionRefused or MasterGone where nothing had started, else ConnectionLost.
    """
    if re.search(r"^debug1: mux_client_request_session: master session id: ", log, re.MULTILINE):
        return ConnectionLost(
            "the connection was lost while the command ran", host=host, started=True, stderr=log
        )
    error = connection_error(log, host=host, otherwise=MasterGone)
    if isinstance(error, ConnectionLost | SessionRefused | MasterGone):
        return error
    if "debug1: Executing proxy command: exec false" in log:
        # the guard has caught it: nobody was dialled
        return MasterGone("no live master answers", host=host, stderr=log)
    return error


def end_group(shared: Master, facts: Facts, mark: str) -> None:
    """End a remote process group by a session of its own: TERM, then KILL after a grace.

    The group is found by the mark, which stands in the command line of its leader, the shell above the
    command, from the first moment; so no process but ours gets a signal, whatever became of its number.
    Our own ssh has the mark in its command line too, but leads no group.
    """
    if not mark:
        return
    half = len(mark) // 2
    # the mark is put together there, or the search would find itself; the text has nothing that is
    # special between single quotes in any login shell
    script = (
        f'm={mark[:half]}; m="$m"{mark[half:]}; '
        "g=$({ ps -A -ww -o pid= -o pgid= -o args= || ps -o pid,pgid,args; } 2>/dev/null | "
        'while read -r p g a; do case "$p $a" in "$g "*"$m"*) echo "$g"; break;; esac; done); '
        '[ -n "$g" ] || exit 0; kill -s TERM -- "-$g"; n=0; '
        f'while kill -s 0 -- "-$g" 2>/dev/null && [ $n -lt {int(GRACE * 10)} ]; '
        "do sleep 0.1 || sleep 1; n=$((n+1)); done; "
        'kill -s KILL -- "-$g" 2>/dev/null; :'
    )
    argv = openssh.guarded_ssh(
        shared.destination,
        openssh.literal(Path(facts.socket)),
        command=f"exec /bin/sh -c '{script}'",
        no_stdin=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=4 * GRACE,
            check=False,
        )
