"""`ossh setup HOST`: make a key and write ssh_config for a host, then log in and check it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opensshtransport.cli.options import add_ssh_config, config_path
from opensshtransport.cli.output import say

if TYPE_CHECKING:
    from opensshtransport.setup import plan

EXAMPLE = "ossh setup daint --hostname login.daint.example.org --user me --jump me@front.example.org"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh setup` takes; at a terminal it asks for what is not given."""
    add_ssh_config(parser)
    parser.add_argument("--hostname", metavar="NAME[:PORT]", help="the login node's real name")
    parser.add_argument("--user", metavar="USER", help="your user name on the login node")
    parser.add_argument(
        "--jump",
        dest="jumps",
        action="append",
        metavar="HOP",
        help="a jump host, [NAME=][USER@]HOST[:PORT] or a name of ssh_config; may be repeated, in order",
    )
    parser.add_argument(
        "--auth",
        choices=("key", "certificate", "kerberos", "password"),
        help="how to log in; password: with or without a code",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="the private key; created if it does not exist"
    )
    parser.add_argument(
        "--type", default="ed25519", metavar="TYPE", help="the type of a new key, as for ssh-keygen"
    )
    parser.add_argument("--bits", type=int, metavar="BITS", help="the size of a new key, as for ssh-keygen")
    parser.add_argument("--no-passphrase", action="store_true", help="create a new key without a passphrase")
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="the certificate, if not KEY-cert.pub"
    )
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="the program that gets a new certificate (goes into config.toml)",
    )
    parser.add_argument("--no-copy", action="store_true", help="do not copy the public key to any hop")
    parser.add_argument(
        "--store",
        action="append",
        choices=("password", "code", "pin"),
        default=[],
        help="ask for this secret and keep it in the keyring; may be repeated",
    )
    parser.add_argument("--no-login", action="store_true", help="do not log in at the end")
    parser.add_argument("-y", "--yes", action="store_true", help="use the defaults without asking")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show what would be done")
    parser.add_argument("host", metavar="HOST")


def _offer_to_share(request: plan.SetupRequest) -> None:
    from opensshtransport.cli.share import confirmed
    from opensshtransport.sharing import share

    asked = sys.stdin.isatty() and not request.yes
    if not asked or request.host in share.shared_names(request.ssh_config):
        return
    if confirmed("Let every program that runs ssh use this one login (ossh share)?"):
        share.share(share.Request((request.host,), request.ssh_config, False, lambda _: True, say))


def run(arguments: argparse.Namespace) -> int:
    """Set the host up, then check it."""
    from opensshtransport.cli import doctor
    from opensshtransport.login.person import person_at_terminal
    from opensshtransport.openssh.destination import check_destination
    from opensshtransport.openssh.notation import parse_address
    from opensshtransport.setup import plan, setup

    # a `Host` block is for the host alone; the block says what else is in the name
    address = parse_address(check_destination(arguments.host))
    hostname = None if address.port is None else f"{address.operand}:{address.port}"
    request = plan.SetupRequest(
        host=address.host,
        ssh_config=config_path(arguments.ssh_config),
        hostname=arguments.hostname or hostname,
        user=arguments.user or address.user,
        jumps=arguments.jumps,
        method=arguments.auth,
        key=arguments.key,
        kind=arguments.type,
        bits=arguments.bits,
        passphrase=False if arguments.no_passphrase else None,
        certificate=arguments.certificate,
        script=arguments.script,
        copy=not arguments.no_copy,
        store=arguments.store,
        yes=arguments.yes,
        dry_run=arguments.dry_run,
    )
    with person_at_terminal() as somebody:
        setup.setup(request, somebody, say)
    if arguments.dry_run:
        return 0
    _offer_to_share(request)
    print()
    return doctor.run(argparse.Namespace(**vars(arguments), login=not arguments.no_login, json=False))
