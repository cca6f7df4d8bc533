"""A running master for a destination: an existing one, or one that a login opens.

pexpect and sh fork, which is unsafe in a process with threads. So a library call that needs a login starts
`python -m opensshtransport login HOST` as a process of its own, and its error comes back as JSON.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys

from opensshtransport.errors import LoginNeeded
from opensshtransport.master import login_process
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import Destination

_log = logging.getLogger(__name__)


def ensure(destination: Destination, *, login: bool = True, person: bool = True) -> Facts:
    """Make sure that a master is running; if not, start a login process. For libraries: spawns, never forks.

    Args:
        destination: where to.
        login: whether a login may be made; otherwise only a running master is used.
        person: whether somebody at the terminal may be asked.

    Raises:
        LoginNeeded: only a person can go on.
        ConnectionFailed: another of its kinds.
        KeyboardInterrupt: the person has ended the login by Ctrl-C.
    """
    master = Master(destination)
    live = master.check()
    facts = master.facts()
    if live is not None and facts is not None and facts.socket == str(live):
        _log.info("%s: a master is running at %s", destination.host, live)
        return facts
    _log.info("%s: no master is running, so a login process is started", destination.host)
    argv = [sys.executable, "-m", "opensshtransport", "login", "--report"]
    argv += ["-F", str(destination.ssh_config)] if destination.ssh_config else []
    argv += ["--settings", json.dumps(destination.overrides)] if destination.overrides else []
    argv += [] if person else ["--unattended"]
    argv += [] if login else ["--no-login"]
    with login_process.steps() as (options, descriptors):
        done = subprocess.run(
            [*argv, *options, "--", destination.host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            # `-m` puts the working directory first on the path of imports
            cwd="/",
            pass_fds=descriptors,
            timeout=3 * destination.settings.login_timeout + 60,
            check=False,
        )
    lines = done.stdout.splitlines()
    report = json.loads(lines[-1]) if lines else {}
    _log.info("%s: the login process ended with status %s", destination.host, done.returncode)
    if done.returncode == 0 and report:
        return Facts(**report)
    if report:
        raise login_process.revive(report)
    if done.returncode == -signal.SIGINT:
        # if the signal has reached only that process
        raise KeyboardInterrupt
    raise LoginNeeded(
        f"the login process ended with status {done.returncode}", host=destination.host, argv=argv
    )
