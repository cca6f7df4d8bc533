"""`ossh forward HOST`: ports through the shared master, without a session of their own."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator

from opensshtransport.cli.options import Parser, add_ssh_config
from opensshtransport.cli.output import say
from opensshtransport.errors import SettingsError
from opensshtransport.login import login
from opensshtransport.login.window import somebody
from opensshtransport.master import forwards
from opensshtransport.master.forwards import Forward
from opensshtransport.master.master import Master
from opensshtransport.openssh import programs
from opensshtransport.openssh.destination import Destination, resolve
from opensshtransport.sharing import forwarding
from opensshtransport.sharing.forwarding import Wanted

EXAMPLE = "ossh forward daint 8888"


class _Spec(argparse.Action):
    """-L, -R and -D, in the order in which they are given."""

    def __call__(
        self,
        _: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.specs = [*(namespace.specs or []), Forward(str(option_string), str(values))]


def add_options(parser: Parser) -> None:
    """Add what `ossh forward` takes."""
    parser.intermixed = True
    add_ssh_config(parser)
    for option, what in (("-L", "a local port"), ("-R", "a port on the host"), ("-D", "a local SOCKS proxy")):
        parser.add_argument(
            option, dest="specs", action=_Spec, metavar="SPEC", default=None, help=f"{what}, as for ssh"
        )
    parser.add_argument(
        "-b",
        dest="background",
        action="store_true",
        help="return at once; the forward stays, and comes back after later logins",
    )
    parser.add_argument("--open", action="store_true", help="open http://localhost:PORT in the browser")
    parser.add_argument("--list", action="store_true", help="show the forwards of this host's master")
    parser.add_argument(
        "--cancel", metavar="SPEC", help="end the forward with this local port, or as --list shows it"
    )
    parser.add_argument("--all", action="store_true", help="end all forwards of this host's master")
    # how the process that watches a program calls us
    parser.add_argument("--sweep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("host", metavar="HOST", nargs="?")
    parser.add_argument(
        "ports",
        metavar="[NODE:]PORT",
        nargs="*",
        help="a port of the login node, or of a node that it reaches",
    )


def run(arguments: argparse.Namespace) -> int:
    """Forward, list or cancel."""
    if arguments.sweep:
        forwards.sweep(programs.locate("ssh"))
        return 0
    if arguments.host is None:
        raise SettingsError("no host was named", advice="write: ossh forward HOST PORT")
    destination = resolve(arguments.host, arguments.ssh_config)
    socket = Master(destination).listening()
    if arguments.list:
        forwards.sweep(destination.ssh)
        for entry in forwarding.of_destination(destination, socket):
            for one in entry.forwards:
                print(f"{one.option} {one.spec}\t{f'process {entry.pid}' if entry.pid else 'kept'}")
        return 0
    if arguments.all or arguments.cancel:
        for one in forwarding.cancel(destination, socket, None if arguments.all else arguments.cancel):
            say(f"{destination.host}: ended {one.option} {one.spec}")
        return 0
    wanted = [Wanted(forward) for forward in arguments.specs or []]
    wanted += [forwarding.short(word) for word in arguments.ports]
    if not wanted:
        raise SettingsError("no port was named", advice=f"write: ossh forward {destination.host} 8888")
    return _forward(destination, wanted, arguments)


def _forward(destination: Destination, wanted: list[Wanted], arguments: argparse.Namespace) -> int:
    with somebody() as person:
        facts = login.open_master(destination, person)
    # a signal must end what was begun, whenever it arrives
    with _ended_by_signals(), contextlib.ExitStack() as opened:
        for one in wanted:
            if arguments.background:
                forward, port = forwarding.start(destination, facts, one, keep=True)
            else:
                forward, port = opened.enter_context(forwarding.forwarded(destination, facts, one))
            say(_told(forward, port))
            if arguments.open and port:
                _open(f"http://localhost:{port}/")
        while not arguments.background:
            signal.pause()
    return 0


def _told(forward: Forward, port: int) -> str:
    if forward.option == "-R":
        return f"port {port} on the host leads to {forward.spec.partition(':')[2] or 'a local SOCKS proxy'}"
    if forward.option == "-D":
        return f"localhost:{port} is a SOCKS proxy"
    if not port:
        return f"{forward.local_socket} leads to {forward.spec.rpartition(':')[2]}"
    target = forward.spec.split(f":{port}:", 1)[-1]
    return f"localhost:{port} leads to {target}: http://localhost:{port}/"


def _open(url: str) -> None:
    import webbrowser

    with contextlib.suppress(OSError, webbrowser.Error):
        webbrowser.open(url)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does, with what was begun."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
