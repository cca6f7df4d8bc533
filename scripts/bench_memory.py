"""Do one thing over a `Transport`, and print how much memory that took.

`scripts/bench` starts it: HOST CONFIG run, or HOST CONFIG put|get SOURCE DESTINATION.
The trap: getrusage(2) includes what the process was before it became this one, so /proc is read.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

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
    # see proc_pid_status(5)
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    peaks = {"ours": int(match[1]) / KIB} if match else {}
    sys.stdout.write(json.dumps(peaks) + "\n")


if __name__ == "__main__":
    main()
