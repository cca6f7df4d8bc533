"""Do one thing over a `Transport`, and tell what it, and the largest process that it started, had in memory.

`scripts/bench` starts it: HOST CONFIG run, or HOST CONFIG put|get SOURCE DESTINATION.
"""

from __future__ import annotations

import json
import resource
import sys

from opensshtransport.transport import Transport

KIB = 1024


def main() -> None:
    """Do as the command line says; what is printed is in MiB."""
    host, config, operation, *operands = sys.argv[1:]
    with Transport(host, ssh_config=config) as transport:
        if operation == "run":
            transport.run("true")
        else:
            getattr(transport, operation)(*operands)
    peaks = {
        "our process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB,
        "largest child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / KIB,
    }
    sys.stdout.write(json.dumps(peaks) + "\n")


if __name__ == "__main__":
    main()
