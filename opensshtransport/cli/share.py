"""`ossh share HOST...`: let every program that runs ssh use the shared master."""

from __future__ import annotations

import argparse
import sys

from opensshtransport.cli.options import add_ssh_config, config_path
from opensshtransport.cli.output import say
from opensshtransport.errors import SettingsError
from opensshtransport.sharing import share
from opensshtransport.sharing.share import Request

EXAMPLE = "ossh share daint && git clone daint:code.git"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh share` takes."""
    add_ssh_config(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="change the files without asking")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show what would be changed")
    parser.add_argument("hosts", metavar="HOST", nargs="+")


def run(arguments: argparse.Namespace) -> int:
    """Share the names."""
    share.share(request_of(arguments))
    return 0


def request_of(arguments: argparse.Namespace) -> Request:
    """The request for `ossh share` or `ossh unshare`."""
    confirm = (lambda _: True) if arguments.yes else confirmed if sys.stdin.isatty() else None
    return Request(
        tuple(dict.fromkeys(arguments.hosts)),
        config_path(arguments.ssh_config),
        arguments.dry_run,
        confirm,
        say,
    )


def confirmed(question: str) -> bool:
    """Ask at the terminal; without an answer it is no.

    Raises:
        SettingsError: the input has ended.
    """
    try:
        return input(f"{question} [y/N]: ").strip().lower().startswith("y")
    except EOFError:
        raise SettingsError("the question was not answered", advice="give --yes") from None
