"""`ossh sync SRC DST`: make a directory like another."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from opensshtransport.cli.cp import telling_of_files
from opensshtransport.cli.options import add_ssh_config
from opensshtransport.cli.output import complain

EXAMPLE = "ossh sync --delete results/ daint:/scratch/me/results"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh sync` takes."""
    add_ssh_config(parser)
    parser.add_argument("--delete", action="store_true", help="remove what is missing from the source")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument(
        "--checksum", action="store_true", help="compare contents, not sizes and modification times"
    )
    parser.add_argument("--no-rsync", action="store_true", help="do not use rsync")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out names such as '*.o', or paths below SRC such as 'build/*.o'; may be repeated",
    )
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0, help="report each step; -vv reports more"
    )
    parser.add_argument("-q", dest="quiet", action="store_true", help="print only errors")
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")


def run(arguments: argparse.Namespace) -> int:
    """Make the destination like the source."""
    from opensshtransport.copying import sync
    from opensshtransport.copying.options import Listener, SyncOptions

    options = SyncOptions(
        delete=arguments.delete,
        dry_run=arguments.dry_run,
        checksum=arguments.checksum,
        quiet=arguments.quiet,
        rsync=not arguments.no_rsync,
        exclude=tuple(arguments.exclude),
        progress=not arguments.quiet and not arguments.dry_run and sys.stderr.isatty(),
    )
    listener = Listener(line=_print, note=partial(complain, "sync"), progress=_draw)
    return telling_of_files(
        "sync",
        lambda: sync.sync(arguments.source, arguments.destination, arguments.ssh_config, options, listener),
    )


def _print(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _draw(line: bytes) -> None:
    # replaces the previous one; what is printed next begins on a clean line
    sys.stderr.buffer.write(b"\r" + line + b"\x1b[K\r")
    sys.stderr.buffer.flush()
