"""`ossh sandbox`: a throw-away login node on loopback."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from opensshtransport.cli.options import remote_words
from opensshtransport.local.processes import END_WITHIN

if TYPE_CHECKING:
    from opensshtransport.sandbox import Sandbox, SecondFactor

EXAMPLE = "ossh sandbox"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh sandbox` takes."""
    parser.add_argument(
        "--second-factor",
        choices=("none", "code", "passphrase"),
        default="none",
        help="what a login asks for; code: a one-time code (needs root), passphrase: that of the key",
    )
    parser.add_argument(
        "words",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="run this command in the sandbox, then clean up",
    )


def run(arguments: argparse.Namespace) -> int:
    """Start it, run the command or wait, and clean up."""
    return run_sandbox(remote_words(arguments.words), second_factor=arguments.second_factor)


def run_sandbox(
    command: Sequence[str] = (), *, host: str = "sandbox", second_factor: SecondFactor = "none"
) -> int:
    """Run a command with a sandbox, or keep one until told to end.

    The command's environment has OSSH_SANDBOX_CONFIG (for `ssh -F`), OSSH_SANDBOX_HOST, OSSH_SANDBOX_LOG and,
    if the login asks for something, OSSH_SANDBOX_CODE_COMMAND, a program that prints the answer. Without a
    command it lasts until Ctrl-C, or until standard input ends, if that is no terminal.

    Returns:
        The command's exit status, 128+N if a signal N ended it, 127 if it is not there; 0 without a command.

    Raises:
        SystemExit: by SIGTERM or SIGHUP with 128+N, by Ctrl-C without a command with 0; nothing is left then.
    """
    from opensshtransport.sandbox import Sandbox

    leave = _Leave()
    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    # At the terminal the command has the Ctrl-C too, and ends as it sees fit.
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, (lambda *_: None) if command else leave)
    try:
        with contextlib.ExitStack() as stack:
            with leave:
                node = stack.enter_context(Sandbox(host, second_factor=second_factor))
            return _run(node, command, leave) if command else _wait(node)
    finally:
        for number, what in previous.items():
            signal.signal(number, what)


class _Leave:
    """Turns a signal into SystemExit; within its `with`, only at the end of that.

    An exception within `Popen` would lose the number of the process that was just started.
    """

    def __init__(self) -> None:
        self._held = False
        self._status: int | None = None

    def __call__(self, signum: int, _: FrameType | None) -> None:
        self._status = 0 if signum == signal.SIGINT else 128 + signum
        if not self._held:
            raise SystemExit(self._status)

    def __enter__(self) -> None:
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        if self._status is not None:
            raise SystemExit(self._status)


def _run(node: Sandbox, command: Sequence[str], leave: _Leave) -> int:
    told = {"CONFIG": node.ssh_config, "HOST": node.host, "LOG": node.log}
    if node.answer_command.exists():
        told["CODE_COMMAND"] = node.answer_command
    environment = os.environ | {f"OSSH_SANDBOX_{name}": str(value) for name, value in told.items()}
    child: subprocess.Popen[bytes] | None = None
    try:
        with leave:
            child = subprocess.Popen(command, env=environment)
        status = child.wait()
    except OSError as error:
        print(f"ossh sandbox: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    except SystemExit:
        if child:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_WITHIN)
            child.kill()
            child.wait()
        raise
    return status if status >= 0 else 128 - status


def _wait(node: Sandbox) -> int:
    asks = {
        "none": "",
        "code": f"After the key it asks for a code; this prints the current one: {node.answer_command}\n",
        "passphrase": f"The key's passphrase is {node.passphrase}\n",
    }
    where = f"-F {node.ssh_config} {node.host}"
    print(
        f"A login node for {node.user} is up on 127.0.0.1, port {node.port}. Reach it by\n\n"
        f"    ssh {where}\n    ossh login {where}\n    ossh-run {where} hostname\n\n"
        f"{asks[node.second_factor]}Its log is {node.log}\nCtrl-C ends it.",
        flush=True,
    )
    if sys.stdin is None or sys.stdin.isatty():
        while True:
            signal.pause()
    while sys.stdin.buffer.read(4096):
        pass
    return 0
