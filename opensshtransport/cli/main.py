"""`ossh`, which the script `ossh-run` calls too: finds the command, runs it, prints its errors.

The trap: `ossh run` must start fast, so nothing is imported here that only one command needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from opensshtransport.cli import command_table
from opensshtransport.cli.options import FAILED, TIMED_OUT
from opensshtransport.cli.output import complain, nearest, sentence, tell_steps
from opensshtransport.errors import CommandTimeout, ConnectionFailed, OpenSshTransportError, Remedy, printable
from opensshtransport.local import descriptors


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ossh` with its arguments; returns the exit status.

    Raises:
        KeyboardInterrupt, BrokenPipeError: `start` ends the program by the signal.
    """
    descriptors.plug()
    argv = sys.argv[1:] if argv is None else argv
    _open_what_is_closed()
    if argv[:2] == ["complete", "--"]:
        return _complete(argv[2:])
    if not argv or not command_table.is_command(argv[0]):
        if argv and (argv[0] == "--" or not argv[0].startswith("-")):
            _refuse(argv[0])
        command_table.parser_of_all().parse_all(argv)
    return _run(command_table.parser_of(argv[0]).parse_all(argv[1:]))


def _refuse(name: str) -> NoReturn:
    """Say that there is no such command, and which one may be meant; then end."""
    near = nearest(name, command_table.SUMMARIES)
    advice = f"did you mean: ossh {near}" if near else "see: ossh --help"
    print(printable(f"ossh: there is no command {name!r}; {advice}"), file=sys.stderr)
    raise SystemExit(FAILED)


def _run(arguments: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = arguments.run
    if verbose := getattr(arguments, "verbose", 0):
        tell_steps(arguments.command, verbose)
    try:
        return run(arguments)
    except BrokenPipeError:
        raise
    except Exception as reason:  # any traceback, and Python's status 1, would be taken for the command's
        if getattr(arguments, "verbose", False) and not isinstance(reason, OpenSshTransportError):
            traceback.print_exc()
        error = _as_ours(reason, getattr(arguments, "host", None))
        if getattr(arguments, "report", False):
            from opensshtransport.master import login_process

            print(json.dumps(login_process.dismantle(error)))
        elif not (arguments.command == "run" and arguments.quiet):
            complain(arguments.command, sentence(error, arguments))
        return TIMED_OUT if isinstance(error, CommandTimeout) else FAILED


def _complete(words: Sequence[str]) -> int:
    """What the shells call at a TAB; it never prints an error, and never logs in."""
    from opensshtransport.cli import completion

    for word in completion.candidates(words) if words else ():
        # one per line; what a terminal would take for a control sequence is not offered
        if word.isprintable():
            print(word)
    return 0


def _open_what_is_closed() -> None:
    """Open those of stdin, stdout and stderr that are closed to nothing, as ssh does.

    Otherwise the next file that is opened gets their number, and their output.
    """
    # open(2) returns the lowest free number
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    os.close(number)


def _as_ours(reason: Exception, host: str | None) -> OpenSshTransportError:
    """An error as one of ours, which takes one line."""
    if isinstance(reason, OpenSshTransportError):
        return reason
    if isinstance(reason, OSError):
        place = f"{reason.filename}: " if reason.filename else ""
        return ConnectionFailed(f"{place}{reason.strerror or reason}", host=host)
    what = " ".join(str(reason).split())
    return ConnectionFailed(
        f"unexpected {type(reason).__name__}: {what}",
        host=host,
        advice=Remedy("please report this, with the output of ossh-run -v"),
    )
