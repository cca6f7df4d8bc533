"""Where `ossh` begins and ends: a signal at any moment ends it as it ends any program.

The idea: before the commands are loaded, and after they have ended, there is nothing to clean up, so Ctrl-C
does what it does to `cat`. In between Python makes it an exception, because what is open must be closed.

The trap: a program that was started with SIGINT ignored, as by `nohup` or `&` in a script, must ignore it.
"""

from __future__ import annotations

import os
import signal
import sys

_OURS = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _OURS:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Run `ossh` with the arguments of this process; returns the exit status."""
    try:
        from opensshtransport.cli import main as commands

        if _OURS:
            sys.unraisablehook = _once_more
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = commands.main()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return die_by(signal.SIGINT)
    except BrokenPipeError:
        return die_by(signal.SIGPIPE)
    finally:
        if _OURS:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _once_more(ignored: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that arrived in a callback, such as those of imports: Python only prints it."""
    if ignored.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(ignored)
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def die_by(number: signal.Signals) -> int:
    """End as the signal would have ended us, so that a calling shell sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
