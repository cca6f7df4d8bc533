"""The leader of the session in which ssh logs in at a pseudo-terminal.

The idea: when the leader of a session ends, the system sends SIGHUP to whatever is in the foreground. If ssh
led the session, that would be the ssh of a jump host, which stays behind in the foreground when ssh goes into
the background. So a process of ours leads, waits for ssh, and puts an empty group into the foreground before
it ends.

The trap: the client of a master ends by SIGHUP even if it was started with that signal ignored (mux.c). A
master that is reached through a jump host's master would end with it.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

# What the terminal or we may send to the whole group: ssh ends by it, and we by the end of ssh.
_SSH_DECIDES = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)

_MANY = 1 << 20


def follow() -> None:
    """Part in two, between fork and exec: the child, which is to become ssh, returns; the leader never does.

    Both are of the leader's group, so what ends the group ends ssh.
    """
    # what comes in between is held back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SSH_DECIDES)
    pid = os.fork()
    if pid:
        _lead(pid)
    for number in _SSH_DECIDES:
        # as exec does it; handlers of ours are not for this process
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lead(pid: int) -> NoReturn:
    status = 255
    try:
        for number in _SSH_DECIDES:
            signal.signal(number, signal.SIG_IGN)
        # among them is a pipe whose end tells that ssh was started; -1 means that there is no limit
        most = os.sysconf("SC_OPEN_MAX")
        os.closerange(3, most if most > 0 else _MANY)
        _, ended = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(ended)
        status = code if code >= 0 else 128 - code
        _empty_foreground()
    finally:
        os._exit(status)


def _empty_foreground() -> None:
    waits, holds = os.pipe()
    placeholder = os.fork()
    if not placeholder:
        os.close(holds)
        # until it is let go, or the leader was killed
        os.read(waits, 1)
        os._exit(0)
    os.setpgid(placeholder, placeholder)
    os.tcsetpgrp(0, placeholder)
    os.close(holds)
    os.waitpid(placeholder, 0)
