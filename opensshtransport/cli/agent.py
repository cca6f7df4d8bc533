"""`ossh agent`: the agent that all shells, jobs and daemons share."""

from __future__ import annotations

import argparse
import shlex

EXAMPLE = 'eval "$(ossh agent)"'


def add_options(_parser: argparse.ArgumentParser) -> None:
    """`ossh agent` takes no options."""


def run(_arguments: argparse.Namespace) -> int:
    """Print what a shell evaluates."""
    from opensshtransport.local import locks, tools
    from opensshtransport.local.settings import runtime_directory

    directory = runtime_directory()
    with locks.locked(directory / "agent.lock"):
        socket = tools.shared_agent(directory) or tools.start_agent(directory)
    print(f"export SSH_AUTH_SOCK={shlex.quote(str(socket))}")
    return 0
