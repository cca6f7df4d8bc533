"""`ossh run HOST COMMAND...`: what `ossh-run` does if its script cannot go on alone."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from opensshtransport.cli.options import add_ssh_config, add_version, remote_words, seconds
from opensshtransport.errors import SettingsError

EXAMPLE = "ossh-run -n daint sbatch job.sh"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh run` takes."""
    add_ssh_config(parser)
    parser.add_argument("-n", dest="no_stdin", action="store_true", help="read nothing from stdin")
    parser.add_argument(
        "-t",
        dest="tty",
        action="count",
        default=0,
        help="request a terminal; twice: even if stdin is not one",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="TIME",
        help="end the command after TIME, such as 90, 90s or 5m; status 124",
    )
    parser.add_argument("--once", metavar="KEY", help="run the command at most once under this key")
    parser.add_argument("--no-login", action="store_true", help="fail if no master is running")
    parser.add_argument("-q", dest="quiet", action="store_true", help="print only errors")
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0, help="report each step; -vv reports more"
    )
    add_version(parser)
    parser.add_argument("host", metavar="HOST")
    words = parser.add_argument(
        "words",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="joined by spaces, as ssh does; a login shell if not given",
    )
    # argparse before Python 3.13 would report it as missing together with HOST
    words.required = False


def run(arguments: argparse.Namespace) -> int:
    """Run the command with our own stdin, stdout and stderr."""
    from opensshtransport.commands import passthrough
    from opensshtransport.openssh.destination import resolve

    words = remote_words(arguments.words)
    command = " ".join(words) if words else None
    log = _earlier_log()
    if arguments.once is not None:
        return _run_once(arguments, command)
    options = passthrough.Options(
        no_stdin=arguments.no_stdin,
        tty=arguments.tty,
        timeout=arguments.timeout,
        login=not arguments.no_login,
        verbose=arguments.verbose > 0,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    destination = resolve(arguments.host, arguments.ssh_config)
    return passthrough.pass_through(destination, command, options, earlier_log=log)


def _earlier_log() -> str | None:
    """What ssh logged if `ossh-run` has started it for this command; None if it has not."""
    number = os.environ.pop("OSSH_RUN_LOG", None)
    if number is None:
        return None
    # an unreadable log proves nothing: it is not known then what happened to the command
    try:
        with open(int(number), "rb") as log:  # noqa: PTH123 - a descriptor
            log.seek(0)
            return log.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _run_once(arguments: argparse.Namespace, command: str | None) -> int:
    from opensshtransport.transport import Transport

    if command is None:
        raise SettingsError(
            "no command is given", host=arguments.host, advice="name the command that --once is to run"
        )
    if arguments.tty:
        raise SettingsError("--once keeps the output, so there is no terminal", advice="leave out -t")
    stdin = None if arguments.no_stdin or sys.stdin.isatty() else sys.stdin.buffer
    with Transport(
        arguments.host, ssh_config=arguments.ssh_config, login=not arguments.no_login
    ) as transport:
        done = transport.run(
            command,
            once=arguments.once,
            input=stdin,
            timeout=arguments.timeout,
            stdout=sys.stdout.buffer,
            stderr=sys.stderr.buffer,
        )
    sys.stdout.flush()
    return done.returncode


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
