"""`ossh ssh-command HOST`: the guarded command line, for programs that let you choose their ssh."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from opensshtransport.cli.options import add_ssh_config
from opensshtransport.master import aliases
from opensshtransport.master.master import Master
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.destination import resolve

EXAMPLE = 'rsync -e "$(ossh ssh-command --no-host daint)" -a data/ daint:data/'


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh ssh-command` takes."""
    add_ssh_config(parser)
    parser.add_argument("--no-host", action="store_true", help="leave out the host at the end")
    parser.add_argument("host", metavar="HOST")


def run(arguments: argparse.Namespace) -> int:
    """Print the command line."""
    destination = resolve(arguments.host, arguments.ssh_config)
    shared = Master(destination)
    facts = shared.facts()
    socket = Path(facts.socket) if facts else shared.listening() or shared.own_socket
    options = command_lines.guarded_options(destination, aliases.control_path(shared, socket))
    # anyone who adds -L, -R or -D wants it
    argv = [word for word in options if word != command_lines.NO_FORWARDS]
    print(shlex.join(argv if arguments.no_host else [*argv, destination.host]))
    return 0
