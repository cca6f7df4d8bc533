"""`ossh unshare HOST...`: let programs that run ssh connect on their own again."""

from __future__ import annotations

import argparse

from opensshtransport.cli.share import add_options, request_of
from opensshtransport.sharing import share

__all__ = ["EXAMPLE", "add_options", "run"]

EXAMPLE = "ossh unshare daint"


def run(arguments: argparse.Namespace) -> int:
    """Remove the names."""
    share.unshare(request_of(arguments))
    return 0
