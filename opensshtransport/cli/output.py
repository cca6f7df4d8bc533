"""What commands print for people: errors in one line, and colours if a terminal shows them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from opensshtransport.cli.command_table import program
from opensshtransport.errors import LoginNeeded, OpenSshTransportError, Remedy, printable

# Advice to do the same once more.
_AGAIN = {"try again", "run it again"}


def coloured() -> bool:
    """Whether what is printed may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(line: str) -> None:
    """Print a line at once."""
    print(printable(line), flush=True)


def complain(command: str, text: str) -> None:
    """Print what went wrong in a command on stderr."""
    print(f"{program(command)}: {printable(text)}", file=sys.stderr)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Which of the known words may be meant by one that is not known; None if none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def tell_steps(command: str, verbose: int) -> None:
    """Show on stderr what the package logs: its steps, or everything with more than one -v."""
    import logging

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter(f"{program(command)}: %(message)s"))
    logger = logging.getLogger("opensshtransport")
    logger.addHandler(shown)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)


def sentence(error: OpenSshTransportError, arguments: argparse.Namespace) -> str:
    """An error in one line, with the page about it and the command that it advises, as called here."""
    error.remedy = Remedy(advised(error.remedy, error.host, arguments))
    # the command comes last, so that it can be copied
    return error.told(f" (ossh help {error.topic})" if error.topic else "")


def advised(remedy: Remedy, host: str | None, arguments: argparse.Namespace) -> str:
    """A remedy as a clause, with its command as it must be called after the current one.

    Args:
        remedy: of an error, or of what `ossh doctor` has found.
        host: what it is about.
        arguments: of the current command; the advised command needs the same -F.
    """
    if arguments.command == "login" and remedy == LoginNeeded.advice_by_default:
        # what `ossh login` could not do, only the same at a terminal can
        remedy = Remedy("run it at a terminal")
    elif arguments.command == "setup" and (remedy.command == "ossh login" or remedy.words in _AGAIN):
        # it continues where it stopped, and its host may differ from the hop that the error is about
        words = remedy.words if remedy.command else "run: "
        remedy, host = Remedy(words, "ossh setup"), arguments.host
    return remedy.clause(host, getattr(arguments, "ssh_config", None))
