"""What commands print for people: errors in one line, and colours where a terminal shows them."""

from __future__ import annotations

import argparse
import os
import sys

from opensshtransport.cli.commands import program
from opensshtransport.errors import LoginNeeded, OpenSshTransportError, Remedy, printable


def coloured() -> bool:
    """Whether what is printed may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(line: str) -> None:
    """Print a line at once."""
    print(printable(line), flush=True)


def complain(command: str, text: str) -> None:
    """Print what went wrong in a command on stderr."""
    print(f"{program(command)}: {printable(text)}", file=sys.stderr)


def tell_steps(command: str, verbose: int) -> None:
    """Show on stderr what the package logs: its steps, or with more than one -v all that there is."""
    import logging

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter(f"{program(command)}: %(message)s"))
    logger = logging.getLogger("opensshtransport")
    logger.addHandler(shown)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)


def sentence(error: OpenSshTransportError, arguments: argparse.Namespace) -> str:
    """An error in one line, with the commands that it advises as they must be called here."""
    # what `ossh login` could not do, only `ossh login` at a terminal can
    if arguments.command == "login" and error.remedy == LoginNeeded.advice_by_default:
        error.remedy = Remedy("run it at a terminal")
    return error.sentence(getattr(arguments, "ssh_config", None))
