"""`ossh cp SRC... DST`: copy files, in scp's notation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from opensshtransport.cli.options import add_ssh_config, positive
from opensshtransport.cli.output import complain
from opensshtransport.errors import OpenSshTransportError

EXAMPLE = "ossh cp -r inputs/ daint:/scratch/me/run1"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh cp` takes."""
    add_ssh_config(parser)
    parser.add_argument("-r", dest="recursive", action="store_true", help="copy directories")
    parser.add_argument("-p", dest="preserve", action="store_true", help="keep modes and times")
    parser.add_argument(
        "-l", dest="limit", type=positive, metavar="LIMIT", help="limit the rate, in Kbit/s, as for scp"
    )
    parser.add_argument("-q", dest="quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0, help="report each step; -vv reports more"
    )
    parser.add_argument("--verify", action="store_true", help="compare checksums")
    parser.add_argument("sources", metavar="SRC", nargs="+", help="a path, or HOST:PATH")
    parser.add_argument("destination", metavar="DST", help="a path, or HOST:PATH")


def run(arguments: argparse.Namespace) -> int:
    """Copy them."""
    from opensshtransport.copying import copy

    options = copy.CopyOptions(
        recursive=arguments.recursive,
        preserve=arguments.preserve,
        limit_rate=None if arguments.limit is None else arguments.limit * 1024 / 8,
        verify=arguments.verify,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )
    return telling_of_files(
        arguments.command,
        lambda: copy.copy(arguments.sources, arguments.destination, arguments.ssh_config, options),
        "" if arguments.recursive else "copy directories with -r",
    )


def telling_of_files(command: str, work: Callable[[], object], of_directories: str = "") -> int:
    """Do the work, and report failed files as cp(1) does: one line each, status 1.

    Args:
        command: of `ossh`.
        work: what is done.
        of_directories: what to do if a directory is refused.
    """
    try:
        work()
    except OpenSshTransportError:
        raise
    except OSError as error:
        for one in getattr(error, "failures", ()) or (error,):
            name = f"{one.filename}: " if one.filename else ""
            # a program's message may have several lines
            words = str(one.strerror).splitlines()
            if of_directories and isinstance(one, IsADirectoryError):
                words.append(of_directories)
            complain(command, f"{name}{'; '.join(words)}")
        return 1
    return 0
