"""`ossh end HOST MARK`: how `ossh-run` ends what it has started on the host; not for users."""

from __future__ import annotations

import argparse
from pathlib import Path

from opensshtransport.cli.options import add_ssh_config
from opensshtransport.master import control_socket
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.sessions.remote_kill import end_group

EXAMPLE = "ossh end daint MARK"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh end` takes."""
    add_ssh_config(parser)
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("mark", metavar="MARK")


def run(arguments: argparse.Namespace) -> int:
    """End the process group that has the mark; without a master, nothing can be done."""
    shared = Master(resolve(arguments.host, arguments.ssh_config))
    facts = shared.facts()
    if facts is not None and control_socket.listens(Path(facts.socket)):
        end_group(shared, facts, arguments.mark)
    return 0
