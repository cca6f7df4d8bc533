"""`ossh ride HOST`: decides for `ossh-hook`, and logs in; not for users."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from opensshtransport.cli.options import add_ssh_config
from opensshtransport.login.window import somebody
from opensshtransport.master import forwards
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.sharing.ride import Call, is_ours, prepare

EXAMPLE = "ossh ride daint"

# What the hook tells ssh: 0 would let it connect on its own.
_NOT_OURS, _OURS = 0, 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh ride` takes."""
    add_ssh_config(parser)
    for option in ("--user", "--port", "--path", "--forwards"):
        parser.add_argument(option, default="")
    parser.add_argument("--alias", type=Path, help="the file where the block looks for the way to a master")
    parser.add_argument("--question", action="store_true", help="ssh only asks: no login")
    parser.add_argument("--running", action="store_true", help="not ours where no master is running")
    parser.add_argument("--leaves", action="store_true", help="ssh goes into the background")
    parser.add_argument("--batch", action="store_true", help="nobody may be asked")
    parser.add_argument("host", metavar="HOST")


def run(arguments: argparse.Namespace) -> int:
    """Decide whether ssh must use the shared master; if so, make sure that one is running."""
    call = Call(
        host=arguments.host,
        ssh_config=arguments.ssh_config,
        user=arguments.user,
        port=arguments.port,
        path=arguments.path,
        forwards=tuple(map(forwards.parse, arguments.forwards.splitlines())),
        owner=0 if arguments.leaves else os.getppid(),
        alias=arguments.alias,
    )
    destination = resolve(call.host, call.ssh_config)
    if not is_ours(call, destination):
        return _NOT_OURS
    if arguments.running and Master(destination).check() is None:
        return _NOT_OURS
    if not arguments.question:
        batch = arguments.batch or destination.resolved.flag("batchmode")
        with somebody(unattended=batch) as person:
            prepare(call, destination, person)
    return _OURS
