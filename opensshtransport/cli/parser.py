"""`ossh` and, where its script cannot go on alone, `ossh-run`.

Imports of what a command alone needs wait until that command runs: `ossh run` must start fast.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import opensshtransport
from opensshtransport.cli.advice import as_called
from opensshtransport.commands import passthrough
from opensshtransport.commands.passthrough import Options
from opensshtransport.errors import (
    CommandTimeout,
    ConnectionFailed,
    OpenSshTransportError,
    SettingsError,
    printable,
)
from opensshtransport.local import descriptors, locks
from opensshtransport.local.settings import runtime_directory
from opensshtransport.master import aliases, control_socket, ensure
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import command_lines, programs
from opensshtransport.openssh.destination import Destination, check_destination, resolve
from opensshtransport.openssh.notation import parse_address
from opensshtransport.sessions.remote_kill import end_group

if TYPE_CHECKING:
    from opensshtransport.login.person import Person


# What scripts can rely on: ssh's own 255 for everything that is not the command's, 124 as timeout(1).
FAILED = 255

TIMED_OUT = 124

# Of a table that is not for a terminal.
_WIDTH = 80


class _Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes end with ssh's status."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it never returns, as in the base
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ossh` with its arguments; returns the exit status."""
    descriptors.plug()
    argv = sys.argv[1:] if argv is None else argv
    _open_what_is_closed()
    if argv[:2] == ["complete", "--"]:
        return _complete(argv[2:])
    parser = _end_parser() if argv[:1] == ["end"] else _parser()
    arguments, unknown = parser.parse_known_args(argv)
    prog = "ossh-run" if arguments.command == "run" else f"ossh {arguments.command}"
    if unknown:
        option = next((word for word in unknown if word.startswith("-")), None)
        what = f"there is no option {option}" if option else f"unexpected argument {unknown[0]!r}"
        parser.exit(FAILED, f"{prog}: {what}, see {prog} --help\n")
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except BrokenPipeError:
        raise
    except Exception as reason:  # any traceback, and Python's status 1, would be taken for the command's
        if getattr(arguments, "verbose", False) and not isinstance(reason, OpenSshTransportError):
            traceback.print_exc()
        error = _as_ours(reason, getattr(arguments, "host", None))
        if getattr(arguments, "report", False):
            print(json.dumps(ensure.dismantle(error)))
        elif not (arguments.command == "run" and arguments.quiet):
            print(f"{prog}: {printable(_advised(error, arguments))}", file=sys.stderr)
        return TIMED_OUT if isinstance(error, CommandTimeout) else FAILED


def _open_what_is_closed() -> None:
    """Open those of stdin, stdout and stderr that are closed to nothing, as ssh does.

    Else the next file that is opened gets their number, and with it what is meant for them.
    """
    # the lowest number that is free is what is given
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    os.close(number)


def _as_ours(reason: Exception, host: str | None) -> OpenSshTransportError:
    """An error as one of ours, which is told in one line."""
    if isinstance(reason, OpenSshTransportError):
        return reason
    if isinstance(reason, OSError):
        place = f"{reason.filename}: " if reason.filename else ""
        return ConnectionFailed(f"{place}{reason.strerror or reason}", host=host)
    what = " ".join(str(reason).split())
    return ConnectionFailed(
        f"unexpected {type(reason).__name__}: {what}", host=host, advice="please report it, with ossh-run -v"
    )


def _advised(error: OpenSshTransportError, arguments: argparse.Namespace) -> str:
    """An error's text, with what it advises as it must be called here."""
    if arguments.command == "login" and error.advice == f"run: ossh login {error.host}":
        error.advice = "run it at a terminal"
    error.advice = _as_called(error.advice, arguments)
    return str(error)


def _as_called(advice: str, arguments: argparse.Namespace) -> str:
    host, config = getattr(arguments, "host", None), getattr(arguments, "ssh_config", None)
    return as_called(advice, arguments.command, host, config)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ossh",
        description="One OpenSSH login shared by everything that runs on this machine.",
        epilog="example: ossh login daint && ossh-run daint squeue --me",
    )
    parser.add_argument("--version", action="version", version=f"ossh {opensshtransport.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: {example}",
            prog="ossh-run" if name == "run" else None,
        )
        added.set_defaults(run=run)
        return added

    added = command("login", _login, "log in, so that a master lives for everybody", "ossh login daint")
    _add_ssh_config(added)
    added.add_argument("-q", dest="quiet", action="store_true", help="say nothing but errors")
    added.add_argument("--unattended", action="store_true", help="ask nobody, even at a terminal")
    # how a library's login process is called
    added.add_argument("--report", action="store_true", help=argparse.SUPPRESS)
    added.add_argument("--no-login", action="store_true", help=argparse.SUPPRESS)
    added.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    added.add_argument("hosts", metavar="HOST", nargs="+")

    added = command("logout", _logout, "end masters that we opened, and their sessions", "ossh logout daint")
    _add_ssh_config(added)
    added.add_argument("--all", action="store_true", help="end all of them")
    added.add_argument("hosts", metavar="HOST", nargs="*")

    added = command("status", _status, "show the masters, each asked by a round trip", "ossh status --json")
    _add_ssh_config(added)
    added.add_argument("--json", action="store_true", help="a JSON list of objects")
    added.add_argument("hosts", metavar="HOST", nargs="*")

    added = command("run", _run, "run a command through the shared master", "ossh-run -n daint sbatch job.sh")
    _add_ssh_config(added)
    added.add_argument("-n", dest="no_stdin", action="store_true", help="read nothing from stdin")
    added.add_argument("-t", dest="tty", action="count", default=0, help="ask for a terminal, twice: insist")
    added.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="end the command's processes; status 124"
    )
    added.add_argument(
        "--once", metavar="KEY", help="never run it twice under this key; give its first result"
    )
    added.add_argument("--no-login", action="store_true", help="fail where there is no live master")
    added.add_argument("-q", dest="quiet", action="store_true", help="say nothing but errors")
    added.add_argument("-v", dest="verbose", action="store_true", help="tell each step on stderr")
    added.add_argument("host", metavar="HOST")
    added.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="joined by spaces, as ssh does"
    )

    added = command(
        "cp", _cp, "copy files, in scp's notation HOST:PATH", "ossh cp -r inputs/ daint:/scratch/me/run1"
    )
    _add_ssh_config(added)
    added.add_argument("-r", dest="recursive", action="store_true", help="copy directories")
    added.add_argument("-p", dest="preserve", action="store_true", help="keep modes and times")
    added.add_argument("-l", dest="limit", type=_positive, metavar="LIMIT", help="Kbit/s, as for scp")
    added.add_argument("-q", dest="quiet", action="store_true", help="show no progress")
    added.add_argument("--verify", action="store_true", help="compare checksums")
    added.add_argument("sources", metavar="SRC", nargs="+", help="a path, or HOST:PATH")
    added.add_argument("destination", metavar="DST", help="a path, or HOST:PATH")

    added = command(
        "sync",
        _sync,
        "make a directory like another, moving only what differs",
        "ossh sync --delete results/ daint:/scratch/me/results",
    )
    _add_ssh_config(added)
    added.add_argument("--delete", action="store_true", help="remove what the source has not")
    added.add_argument("-n", "--dry-run", action="store_true", help="only tell what would be done")
    added.add_argument(
        "--checksum", action="store_true", help="compare contents, not sizes and times of change"
    )
    added.add_argument("--no-rsync", action="store_true", help="do without rsync where there is one")
    added.add_argument("-q", dest="quiet", action="store_true", help="say nothing but errors")
    added.add_argument("source", metavar="SRC")
    added.add_argument("destination", metavar="DST")

    added = command(
        "ssh-command",
        _ssh_command,
        "print the guarded ssh command line",
        'rsync -e "$(ossh ssh-command --no-host daint)" -a data/ daint:data/',
    )
    _add_ssh_config(added)
    added.add_argument("--no-host", action="store_true", help="leave out the host at the end")
    added.add_argument("host", metavar="HOST")

    added = command(
        "setup",
        _setup,
        "make a key and write ssh_config for a host, then log in and check it",
        "ossh setup daint --hostname login.daint.example.org --user me --jump me@front.example.org",
    )
    _add_setup(added)

    added = command("doctor", _doctor, "check each link from here to the scheduler", "ossh doctor daint")
    _add_ssh_config(added)
    added.add_argument("--login", action="store_true", help="log in where no master lives; else never")
    added.add_argument("--json", action="store_true", help="a JSON list of objects")
    added.add_argument("host", metavar="HOST")

    added = command(
        "agent",
        _agent,
        "find or start the agent that all shells, jobs and daemons share",
        'eval "$(ossh agent)"',
    )

    added = command(
        "completion",
        _completion,
        "print what a shell loads to complete commands, hosts and remote paths",
        'eval "$(ossh completion bash)"',
    )
    added.add_argument("shell", choices=("bash", "zsh", "fish"))

    added = command(
        "aiida",
        _aiida,
        "let a computer of AiiDA go over to this transport",
        "ossh aiida migrate daint --dry-run",
    )
    added.add_argument("action", choices=("migrate",), help="from core.ssh_async or core.ssh to openssh")
    _add_ssh_config(added)
    added.add_argument("--dry-run", action="store_true", help="only tell what would change")
    added.add_argument("--profile", metavar="NAME", help="AiiDA's profile; its default one if not given")
    added.add_argument("computer", metavar="COMPUTER", help="its label")

    added = command("sandbox", _sandbox, "start a throw-away login node on loopback", "ossh sandbox")
    added.add_argument(
        "--second-factor",
        choices=("none", "code", "passphrase"),
        default="none",
        help="asked for after the key: a one-time code (needs root), or the key's passphrase",
    )
    added.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="run it there, then clean up"
    )
    return parser


def _end_parser() -> argparse.ArgumentParser:
    """How `ossh-run` ends what it has started on the far side; not for people."""
    parser = _Parser(prog="ossh end")
    parser.add_argument("command")
    _add_ssh_config(parser)
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("mark", metavar="MARK")
    parser.set_defaults(run=_end)
    return parser


def _add_ssh_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-F", dest="ssh_config", metavar="CONFIG", help="ssh_config file for all that ssh reads"
    )


def _add_setup(parser: argparse.ArgumentParser) -> None:
    """The options of `ossh setup`; what is not given is asked at a terminal."""
    _add_ssh_config(parser)
    parser.add_argument("--hostname", metavar="NAME[:PORT]", help="the login node's real name")
    parser.add_argument("--user", metavar="USER", help="your name there")
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
        help="how to log in; password: + code",
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key, made where it is missing")
    parser.add_argument("--type", default="ed25519", metavar="TYPE", help="of a new key, as for ssh-keygen")
    parser.add_argument("--bits", type=int, metavar="BITS", help="likewise")
    parser.add_argument("--no-passphrase", action="store_true", help="a new key gets none")
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="the certificate, if not KEY-cert.pub"
    )
    parser.add_argument(
        "--script", type=Path, metavar="FILE", help="what gets a new certificate (config.toml)"
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
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing that has a default")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, tell what would be done")
    parser.add_argument("host", metavar="HOST")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e9:
            return float(text)
    raise argparse.ArgumentTypeError(f"wants a number of seconds above 0, not {text!r}")


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e12:
            return float(text)
    raise argparse.ArgumentTypeError(f"wants a number above 0, not {text!r}")


def _resolved(arguments: argparse.Namespace) -> Destination:
    return resolve(arguments.host, arguments.ssh_config)


def _login(arguments: argparse.Namespace) -> int:
    from opensshtransport.login.person import person_at_terminal

    person = contextlib.nullcontext() if arguments.unattended else person_at_terminal()
    with person as somebody:
        return _each(arguments, lambda host: _log_in(host, arguments, somebody))


def _log_in(host: str, arguments: argparse.Namespace, somebody: Person | None) -> int:
    from opensshtransport.login import login

    begin = time.time()
    destination = resolve(host, arguments.ssh_config, overrides=arguments.settings)
    facts = login.open_master(destination, somebody, login=not arguments.no_login)
    if arguments.report:
        print(json.dumps(dataclasses.asdict(facts)))
    elif not arguments.quiet:
        node = f", login node {printable(facts.login_node)}" if facts.login_node else ""
        how = "logged in" if facts.since >= begin else "already logged in"
        print(f"{printable(host)}: {how} as {printable(facts.address)}{node}", file=sys.stderr)
    return 0


def _each(arguments: argparse.Namespace, work: Callable[[str], int]) -> int:
    """Do it for each host; one that fails keeps the others from nothing. The worst status counts."""
    statuses, told = [0], set()
    for host in arguments.hosts:
        status = FAILED
        try:
            status = work(host)
        except OpenSshTransportError as error:
            if len(arguments.hosts) == 1:
                raise
            text = printable(_advised(error, arguments))
            if text not in told:
                print(f"ossh {arguments.command}: {text}", file=sys.stderr)
            told.add(text)
        statuses.append(status)
    return max(statuses)


def _logout(arguments: argparse.Namespace) -> int:
    if arguments.all == bool(arguments.hosts):
        raise SettingsError("which masters are to end?", advice="name hosts, or give --all")
    if not arguments.all:
        return _each(arguments, lambda host: _log_out(host, arguments.ssh_config))
    ours = [facts for facts in control_socket.known() if facts.ours]
    ssh = programs.locate("ssh")
    for facts in ours:
        _end_noted(facts, ssh)
        print(f"{printable(facts.host)}: logged out", file=sys.stderr)
    if not ours:
        print("there were no masters", file=sys.stderr)
    return 0


def _log_out(host: str, ssh_config: str | None) -> int:
    from opensshtransport.cli.status import of_name, resolve_anyhow

    noted = [facts for facts in of_name(control_socket.known(), host, ssh_config) if facts.ours]
    try:
        destination = resolve_anyhow(host, ssh_config, [])
    except OpenSshTransportError:
        # what was opened by this name can be ended all the same
        if not noted:
            raise
        ssh, ended = programs.locate("ssh"), False
    else:
        shared, ssh = Master(destination), destination.ssh
        facts = shared.facts()
        if facts is not None and not facts.ours and control_socket.listens(Path(facts.socket)):
            print(
                f"{printable(host)}: its master is your own, at {facts.socket}; "
                f"end it by: ssh -O exit {shlex.quote(host)}",
                file=sys.stderr,
            )
            return 1
        ended = shared.end()
        aliases.withdraw(shared.directory, host, destination.ssh_config)
    # those too that the name does not lead to any more
    ended = any([ended, *(_end_noted(facts, ssh) for facts in noted)])
    print(f"{printable(host)}: {'logged out' if ended else 'there was no master'}", file=sys.stderr)
    return 0


def _end_noted(facts: Facts, ssh: str) -> bool:
    """End a master as it was noted when it was opened, wherever its name leads now."""
    socket = Path(facts.socket)
    ended = control_socket.end_at(socket, ssh)
    aliases.withdraw(socket.parent, facts.host, None if facts.ssh_config is None else Path(facts.ssh_config))
    return ended


def _run(arguments: argparse.Namespace) -> int:
    # as ssh, which ends its options there
    words: list[str] = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    log = _earlier_log()
    if not words:
        raise SettingsError(
            "no command is given",
            host=arguments.host,
            advice=f"for a shell: ossh-run -t {arguments.host} bash -l",
        )
    if arguments.once is not None:
        return _run_once(arguments, " ".join(words))
    options = Options(
        no_stdin=arguments.no_stdin,
        tty=arguments.tty,
        timeout=arguments.timeout,
        login=not arguments.no_login,
        verbose=arguments.verbose,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    return passthrough.pass_through(_resolved(arguments), " ".join(words), options, earlier_log=log)


def _earlier_log() -> str | None:
    """What ssh noted where `ossh-run` has started it for this command; None where it has not."""
    number = os.environ.pop("OSSH_RUN_LOG", None)
    if number is None:
        return None
    # a log that cannot be read is one that tells nothing: it is not known then what became of the command
    try:
        with open(int(number), "rb") as log:  # noqa: PTH123 - a descriptor
            log.seek(0)
            return log.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _run_once(arguments: argparse.Namespace, command: str) -> int:
    from opensshtransport.transport import Transport

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


def _end(arguments: argparse.Namespace) -> int:
    shared = Master(_resolved(arguments))
    facts = shared.facts()
    if facts is not None and control_socket.listens(Path(facts.socket)):
        end_group(shared, facts, arguments.mark)
    return 0


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _cp(arguments: argparse.Namespace) -> int:
    from opensshtransport.cli import rsync

    options = rsync.Options(
        recursive=arguments.recursive,
        preserve=arguments.preserve,
        limit_rate=None if arguments.limit is None else arguments.limit * 1024 / 8,
        verify=arguments.verify,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )
    return _told(
        arguments,
        lambda: rsync.copy(arguments.sources, arguments.destination, arguments.ssh_config, options),
    )


def _sync(arguments: argparse.Namespace) -> int:
    from opensshtransport.cli import rsync

    options = rsync.SyncOptions(
        delete=arguments.delete,
        dry_run=arguments.dry_run,
        checksum=arguments.checksum,
        quiet=arguments.quiet,
        rsync=not arguments.no_rsync,
    )
    return _told(
        arguments,
        lambda: rsync.sync(arguments.source, arguments.destination, arguments.ssh_config, options),
    )


def _told(arguments: argparse.Namespace, work: Callable[[], int]) -> int:
    """Do it, and tell of files in the way of cp(1): each on its line, status 1."""
    try:
        return work()
    except OpenSshTransportError:
        raise
    except OSError as error:
        for one in getattr(error, "failures", ()) or (error,):
            name = f"{one.filename}: " if one.filename else ""
            # what a program there has said may have several lines
            words = "; ".join(str(one.strerror).splitlines())
            print(f"ossh {arguments.command}: {printable(f'{name}{words}')}", file=sys.stderr)
        return 1


def _ssh_command(arguments: argparse.Namespace) -> int:
    destination = _resolved(arguments)
    shared = Master(destination)
    facts = shared.facts()
    socket = Path(facts.socket) if facts else shared.listening() or shared.own_socket
    argv = command_lines.guarded_options(destination, aliases.control_path(shared, socket))
    print(shlex.join(argv if arguments.no_host else [*argv, destination.host]))
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from opensshtransport.login.person import person_at_terminal
    from opensshtransport.setup import plan, setup

    file = arguments.ssh_config
    # a `Host` block is for a host alone; what else the name says is what the block is to say
    address = parse_address(check_destination(arguments.host))
    hostname = None if address.port is None else f"{address.operand}:{address.port}"
    request = plan.Request(
        host=address.host,
        ssh_config=None if file is None else Path(file).expanduser().absolute(),
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
        setup.setup(request, somebody, lambda line: print(printable(line), flush=True))
    if arguments.dry_run:
        return 0
    print()
    return _doctor(argparse.Namespace(**vars(arguments), login=not arguments.no_login, json=False))


def _doctor(arguments: argparse.Namespace) -> int:
    from opensshtransport.doctor import doctor
    from opensshtransport.doctor.finding import Finding
    from opensshtransport.login.person import person_at_terminal

    ssh_config = None if arguments.ssh_config is None else Path(arguments.ssh_config).expanduser().absolute()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    person = person_at_terminal() if arguments.login else contextlib.nullcontext()
    check_destination(arguments.host)
    findings = []

    def walk(somebody: Person | None) -> Iterator[Finding]:
        for found in doctor.examine(arguments.host, ssh_config, log_in=arguments.login, person=somebody):
            findings.append(
                dataclasses.replace(
                    found,
                    seen=printable(found.seen),
                    advice=printable(_as_called(found.advice, arguments)),
                )
            )
            yield findings[-1]

    with person as somebody:
        for line in doctor.lines(walk(somebody), colour=_coloured(), width=width):
            if not arguments.json:
                print(line, flush=True)
    if arguments.json:
        print(json.dumps([doctor.as_object(finding) for finding in findings], indent=2))
    else:
        print(doctor.summary(findings))
    return doctor.status(findings)


def _aiida(arguments: argparse.Namespace) -> int:
    from opensshtransport.aiida import migration

    file = arguments.ssh_config
    migration.migrate(
        arguments.computer,
        profile=arguments.profile,
        config=None if file is None else Path(file).expanduser().absolute(),
        dry_run=arguments.dry_run,
        say=lambda line: print(printable(line), flush=True),
    )
    return 0


def _agent(_arguments: argparse.Namespace) -> int:
    from opensshtransport.local import tools

    directory = runtime_directory()
    with locks.locked(directory / "agent.lock"):
        socket = tools.shared_agent(directory) or tools.start_agent(directory)
    print(f"export SSH_AUTH_SOCK={shlex.quote(str(socket))}")
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from opensshtransport.cli import completion

    print(completion.SCRIPTS[arguments.shell], end="")
    return 0


def _complete(words: Sequence[str]) -> int:
    """What the shells ask at a TAB; never an error, and never a login."""
    from opensshtransport.cli import completion

    for word in completion.candidates(_parser(), words) if words else ():
        # one a line; what a terminal would take for a command is not offered
        if word.isprintable():
            print(word)
    return 0


def _sandbox(arguments: argparse.Namespace) -> int:
    from opensshtransport import sandbox

    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    return sandbox.run_sandbox(words, second_factor=arguments.second_factor)


def _status(arguments: argparse.Namespace) -> int:
    from opensshtransport.cli.status import as_object, collect, table

    report = collect(arguments.hosts, arguments.ssh_config)
    for problem in (*report.settings, *report.problems):
        print(f"ossh status: {printable(problem)}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([as_object(row) for row in report.rows], indent=2))
    elif not report.rows:
        print("no masters; run: ossh login HOST", file=sys.stderr)
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else _WIDTH
        now = datetime.datetime.now().astimezone()
        for line in table(report.rows, now, width=width, colour=_coloured()):
            print(line)
    return FAILED if report.settings else 0


def _coloured() -> bool:
    """Whether what is printed may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
