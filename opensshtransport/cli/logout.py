"""`ossh logout HOST...`: end masters that we opened."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from opensshtransport.cli.login import for_each
from opensshtransport.cli.options import add_ssh_config
from opensshtransport.errors import OpenSshTransportError, SettingsError, printable
from opensshtransport.master import aliases, control_socket
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import programs

EXAMPLE = "ossh logout daint"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh logout` takes."""
    add_ssh_config(parser)
    parser.add_argument("--all", action="store_true", help="end all of them")
    parser.add_argument("hosts", metavar="HOST", nargs="*")


def run(arguments: argparse.Namespace) -> int:
    """End the masters of some hosts, or all."""
    if arguments.all == bool(arguments.hosts):
        raise SettingsError("no host was named", advice="name hosts, or give --all")
    if not arguments.all:
        return for_each(arguments, lambda host: _log_out(host, arguments.ssh_config))
    ours = [facts for facts in control_socket.known() if facts.ours]
    ssh = programs.locate("ssh")
    for facts in ours:
        _end_noted(facts, ssh)
        print(f"{printable(facts.host)}: logged out", file=sys.stderr)
    if not ours:
        print("no masters were running", file=sys.stderr)
    return 0


def _log_out(host: str, ssh_config: str | None) -> int:
    from opensshtransport.cli.masters import of_name, resolve_anyhow

    noted = [facts for facts in of_name(control_socket.known(), host, ssh_config) if facts.ours]
    try:
        destination = resolve_anyhow(host, ssh_config, [])
    except OpenSshTransportError:
        # what was opened by this name can be ended all the same
        if not noted:
            raise
        ssh, ended = programs.locate("ssh"), False
    else:
        shared, ssh = Master(destination), destination.ssh
        facts = shared.facts()
        if facts is not None and not facts.ours and control_socket.listens(Path(facts.socket)):
            print(
                f"{printable(host)}: its master is your own, at {facts.socket}; "
                f"end it with: ssh -O exit {shlex.quote(host)}",
                file=sys.stderr,
            )
            return 1
        ended = shared.end()
        aliases.withdraw(shared.directory, host, destination.ssh_config)
    # including those that the name does not lead to any more
    ended = any([ended, *(_end_noted(facts, ssh) for facts in noted)])
    print(f"{printable(host)}: {'logged out' if ended else 'no master was running'}", file=sys.stderr)
    return 0


def _end_noted(facts: Facts, ssh: str) -> bool:
    """End a master as recorded when it was opened, wherever its name leads now."""
    socket = Path(facts.socket)
    ended = control_socket.end_at(socket, ssh)
    aliases.withdraw(socket.parent, facts.host, None if facts.ssh_config is None else Path(facts.ssh_config))
    return ended
