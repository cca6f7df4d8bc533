"""The process that is killed: opens a transport, waits for a line, does one operation, reports it."""

from __future__ import annotations

import sys
from pathlib import Path

from opensshtransport import Transport
from opensshtransport.errors import ConnectionFailed
from tests.faults.operations import OPERATIONS


def main() -> None:
    """Do what the command line says."""
    host, config, operation, top = sys.argv[1:]
    with Transport(host, ssh_config=config, person=False) as there:
        there.run("true")
        there.exists("/")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        try:
            OPERATIONS[operation].act(there, Path(top))
        except ConnectionFailed as reason:
            sys.stdout.write(f"failed {reason}\n")
        else:
            sys.stdout.write("done\n")
        sys.stdout.flush()
        # what it has open is not given back in order
        sys.stdin.readline()


if __name__ == "__main__":
    main()
