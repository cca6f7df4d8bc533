"""`ossh sandbox`: a throw-away login node on loopback."""

from __future__ import annotations

import argparse

from opensshtransport.cli.options import remote_words

EXAMPLE = "ossh sandbox"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh sandbox` takes."""
    parser.add_argument(
        "--second-factor",
        choices=("none", "code", "passphrase"),
        default="none",
        help="asked for after the key: a one-time code (needs root), or the key's passphrase",
    )
    parser.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="run it there, then clean up"
    )


def run(arguments: argparse.Namespace) -> int:
    """Start it, run the command or wait, and clean up."""
    from opensshtransport import sandbox

    return sandbox.run_sandbox(remote_words(arguments.words), second_factor=arguments.second_factor)
