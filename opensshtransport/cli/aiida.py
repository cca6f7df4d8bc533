"""`ossh aiida migrate COMPUTER`: move a computer of AiiDA to this transport."""

from __future__ import annotations

import argparse

from opensshtransport.cli.options import add_ssh_config, config_path
from opensshtransport.cli.output import say

EXAMPLE = "ossh aiida migrate daint --dry-run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh aiida` takes."""
    parser.add_argument("action", choices=("migrate",), help="from core.ssh_async or core.ssh to openssh")
    add_ssh_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.add_argument("--profile", metavar="NAME", help="the AiiDA profile; the default one if not given")
    parser.add_argument("computer", metavar="COMPUTER", help="the computer's label")


def run(arguments: argparse.Namespace) -> int:
    """Change the computer, or show what would change."""
    from opensshtransport.setup import aiida_migration as migration

    migration.migrate(
        arguments.computer,
        profile=arguments.profile,
        config=config_path(arguments.ssh_config),
        dry_run=arguments.dry_run,
        say=say,
    )
    return 0
