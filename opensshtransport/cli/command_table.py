"""The table of commands: the name of each, one line of help, and the module that is loaded when it is called.

`ossh NAME` is the module `opensshtransport.cli.NAME` (a `-` is written `_`). It has

- `EXAMPLE`: a command line for the end of its help;
- `add_options(parser)`: its options and operands;
- `run(arguments)`: what it does; returns the exit status.

The trap: completion loads a module at each TAB for its parser alone. Slow imports that only `run` needs
belong inside it.
"""

from __future__ import annotations

import importlib

from opensshtransport.cli.options import Parser, add_version

SUMMARIES = {
    "login": "log in, and open the master that programs share",
    "logout": "end masters that this package opened, and their sessions",
    "status": "show the masters, each checked by a round trip",
    "run": "run a command through the shared master",
    "cp": "copy files, in scp's notation HOST:PATH",
    "sync": "make a directory like another, copying only what differs",
    "share": "let every program that runs ssh use the shared master",
    "unshare": "let programs that run ssh connect on their own again",
    "forward": "forward ports through the shared master",
    "ssh-command": "print an ssh command line that goes through the master and never logs in",
    "setup": "make a key and write ssh_config for a host, then log in and check it",
    "doctor": "check each link from here to the scheduler",
    "agent": "find or start the agent that all shells, jobs and daemons share",
    "completion": "print a completion script for a shell: commands, hosts and remote paths",
    "aiida": "move a computer of AiiDA to this transport",
    "help": "show the manual: a list of topics, or the page of one",
    "sandbox": "start a throw-away login node on loopback",
}

# For our own programs, not for users.
_HIDDEN = {
    "end": "end what ossh-run has started on the remote side",
    "ride": "decide for ossh-hook what a plain ssh may do",
}

# What a command is called in its own messages, if not `ossh NAME`.
_PROGRAMS = {"run": "ossh-run", "ride": "ossh-hook"}


def is_command(name: str) -> bool:
    """Whether there is such a command."""
    return name in SUMMARIES or name in _HIDDEN


def program(name: str) -> str:
    """What a command is called in its own messages."""
    return _PROGRAMS.get(name, f"ossh {name}")


def parser_of(name: str) -> Parser:
    """The parser of a command; the `run` that it sets does the work."""
    module = importlib.import_module(f"opensshtransport.cli.{name.replace('-', '_')}")
    summary = SUMMARIES.get(name) or _HIDDEN[name]
    parser = Parser(
        prog=program(name),
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {module.EXAMPLE}",
    )
    parser.set_defaults(command=name, run=module.run)
    module.add_options(parser)
    return parser


def parser_of_all() -> Parser:
    """The parser of `ossh` itself, which knows only the names of the commands."""
    parser = Parser(
        prog="ossh",
        description="One OpenSSH login shared by everything that runs on this machine.",
        epilog="example: ossh login daint && ossh-run daint squeue --me",
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in SUMMARIES.items():
        commands.add_parser(name, help=summary)
    return parser
