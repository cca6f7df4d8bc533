"""`ossh doctor HOST`: check each link from here to the scheduler."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from opensshtransport.cli.options import add_ssh_config, config_path
from opensshtransport.cli.output import advised, coloured
from opensshtransport.errors import Remedy, printable

if TYPE_CHECKING:
    from opensshtransport.doctor.finding import Finding
    from opensshtransport.login.person import Person
    from opensshtransport.login.window import Window

EXAMPLE = "ossh doctor daint"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh doctor` takes."""
    add_ssh_config(parser)
    parser.add_argument("--login", action="store_true", help="log in if no master is running")
    parser.add_argument("--json", action="store_true", help="a JSON list of objects")
    parser.add_argument("host", metavar="HOST")


def run(arguments: argparse.Namespace) -> int:
    """Print each finding as soon as it is there."""
    from opensshtransport.doctor import doctor
    from opensshtransport.login.window import somebody
    from opensshtransport.openssh.destination import check_destination

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    asked = somebody() if arguments.login else contextlib.nullcontext()
    check_destination(arguments.host)
    findings = []

    def walk(person: Person | Window | None) -> Iterator[Finding]:
        ssh_config = config_path(arguments.ssh_config)
        for found in doctor.examine(arguments.host, ssh_config, log_in=arguments.login, person=person):
            findings.append(
                dataclasses.replace(
                    found,
                    seen=printable(found.seen),
                    remedy=Remedy(printable(advised(found.remedy, arguments.host, arguments))),
                )
            )
            yield findings[-1]

    with asked as person:
        for line in doctor.lines(walk(person), colour=coloured(), width=width):
            if not arguments.json:
                print(line, flush=True)
    if arguments.json:
        print(json.dumps([doctor.as_object(finding) for finding in findings], indent=2))
    else:
        print(doctor.summary(findings))
    return doctor.status(findings)
