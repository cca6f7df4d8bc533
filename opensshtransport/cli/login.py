"""`ossh login HOST...`: log in, once for all programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from opensshtransport.cli.options import FAILED, add_ssh_config
from opensshtransport.cli.output import complain, sentence
from opensshtransport.errors import OpenSshTransportError, printable

if TYPE_CHECKING:
    from opensshtransport.login.person import Person
    from opensshtransport.login.window import Window

EXAMPLE = "ossh login daint"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh login` takes."""
    add_ssh_config(parser)
    parser.add_argument("-q", dest="quiet", action="store_true", help="print only errors")
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0, help="report each step; -vv reports more"
    )
    parser.add_argument("--unattended", action="store_true", help="never ask, even at a terminal")
    # how a library's login process is called
    parser.add_argument("--report", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", help=argparse.SUPPRESS)
    parser.add_argument("--no-login", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("hosts", metavar="HOST", nargs="+")


def run(arguments: argparse.Namespace) -> int:
    """Log in to each host."""
    from opensshtransport.login.window import somebody

    if arguments.steps:
        from opensshtransport.master import login_process

        login_process.pass_on_steps(arguments.steps)
    with somebody(unattended=arguments.unattended) as person:
        return for_each(arguments, lambda host: _log_in(host, arguments, person))


def _log_in(host: str, arguments: argparse.Namespace, person: Person | Window | None) -> int:
    from opensshtransport.login import login
    from opensshtransport.openssh.destination import resolve

    begin = time.time()
    destination = resolve(host, arguments.ssh_config, overrides=arguments.settings)
    facts = login.open_master(destination, person, login=not arguments.no_login)
    if arguments.report:
        print(json.dumps(dataclasses.asdict(facts)))
    elif not arguments.quiet:
        node = f", login node {printable(facts.login_node)}" if facts.login_node else ""
        how = "logged in" if facts.since >= begin else "already logged in"
        print(f"{printable(host)}: {how} as {printable(facts.address)}{node}", file=sys.stderr)
    return 0


def for_each(arguments: argparse.Namespace, work: Callable[[str], int]) -> int:
    """Do it for each host; a failure does not stop the others. The worst status counts."""
    statuses, told = [0], set()
    for host in arguments.hosts:
        status = FAILED
        try:
            status = work(host)
        except OpenSshTransportError as error:
            if len(arguments.hosts) == 1:
                raise
            text = sentence(error, arguments)
            if text not in told:
                complain(arguments.command, text)
            told.add(text)
        statuses.append(status)
    return max(statuses)
