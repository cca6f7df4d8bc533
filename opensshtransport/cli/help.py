"""`ossh help`: the pages of the manual, formatted and paged at a terminal, plain in a pipe.

The pages are Markdown, since they are read on a repository's web page too. Only what these pages use is
understood here: headings, tables, fenced blocks, emphasis and links.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opensshtransport.cli.output import nearest
from opensshtransport.errors import SettingsError

EXAMPLE = "ossh help logging-in"

# The pages by kind, in the order in which they are best read.
TOPICS: Mapping[str, Sequence[str]] = {
    "tutorial": ("tutorial",),
    "how to": (
        *("setup", "logging-in", "prompts", "locked-out", "copying", "scripts", "daemons", "many-hosts"),
        *("other-programs", "tunnels", "completion", "python", "aiida", "sandbox"),
    ),
    "reference": (
        *("ossh-run", "commands", "settings", "exit-statuses", "doctor", "errors"),
        *("transfers", "python-files", "files"),
    ),
    "explanation": ("one-master", "guarantees", "security", "performance", "development"),
}

# People try `ossh help COMMAND` first: the pages of commands that have none of their own.
PAGES_OF_COMMANDS: Mapping[str, str] = {
    "login": "logging-in",
    "agent": "logging-in",
    "run": "ossh-run",
    "cp": "copying",
    "sync": "copying",
    "share": "other-programs",
    "unshare": "other-programs",
    "forward": "tunnels",
    "ssh-command": "other-programs",
    "logout": "commands",
    "status": "commands",
    "help": "commands",
}

# A table that is wider becomes a list of paragraphs.
_WIDEST_TABLE = 100

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its name, its title, and its text in Markdown."""

    name: str
    title: str
    text: str


def page(topic: str) -> Page:
    """The page of a topic, or of a command.

    Raises:
        SettingsError: there is no such topic.
    """
    name = PAGES_OF_COMMANDS.get(topic, topic)
    topics = [one for names in TOPICS.values() for one in names]
    if name not in topics:
        near = nearest(topic, [*PAGES_OF_COMMANDS, *topics])
        advice = f"did you mean: ossh help {near}" if near else "run: ossh help"
        raise SettingsError(f"there is no topic {topic!r}", advice=advice)
    text = (importlib.resources.files("opensshtransport") / "manual" / f"{name}.md").read_text("utf-8")
    return Page(name, text.partition("\n")[0].removeprefix("# "), text)


def overview() -> str:
    """The list of topics."""
    lines = [
        "ossh help TOPIC shows a page of the manual; ossh COMMAND --help lists the options of a command."
    ]
    for kind, topics in TOPICS.items():
        lines += ["", f"{kind}:", *(f"  {topic:<16} {page(topic).title}" for topic in topics)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A page without what only a web page shows: pictures, comments and the targets of links."""
    text = re.sub(r"^(?:!\[[^\]]*\]\([^)]*\)|<!--.*-->)\n+", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]+)\]\(([\w-]+)\.md(?:#[^)]*)?\)", r"\1 (ossh help \2)", text)
    # in brackets of their own, so that an index such as `x[0](y)` in a program stays
    return re.sub(r"\[([^\]]+)\]\((?:#|\.\./)[^)]*\)", r"\1", text)


def formatted(text: str) -> str:
    """A page for a terminal: headings and what is in backticks or asterisks are bold, tables are aligned."""
    lines: list[str] = []
    table: list[list[str]] = []
    fenced = False
    for line in [*plain(text).splitlines(), ""]:
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            lines.append(f"    {line}")
        elif line.startswith("|"):
            if not line.startswith(("|--", "| --")):
                table.append([_bold(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            lines += _aligned(table)
            table = []
            lines.append(f"{_BOLD}{line.lstrip('# ')}{_PLAIN}" if line.startswith("#") else _bold(line))
    return "\n".join(lines)


def _bold(text: str) -> str:
    def bold(found: re.Match[str]) -> str:
        return f"{_BOLD}{found[1] or found[2].replace('`', '')}{_PLAIN}"

    # code first, as it may hold asterisks; code within bold type is not bold twice
    return re.sub(r"`([^`]+)`|\*\*((?:[^*`]|`[^`]*`)+)\*\*", bold, text)


def _width(cell: str) -> int:
    return len(cell.replace(_BOLD, "").replace(_PLAIN, ""))


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; if it is too wide, each row becomes a heading with its cells below it."""
    widths = [max(map(_width, column)) for column in zip(*table, strict=False)]
    if sum(widths) + 2 * len(widths) > _WIDEST_TABLE:
        return [
            line
            for row in table[1:]
            for line in (f"  {row[0]}", *(f"      {cell}" for cell in row[1:] if cell))
        ]
    return [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=False)
        ).rstrip()
        for row in table
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh help` takes."""
    parser.add_argument(
        "topic", metavar="TOPIC", nargs="?", help="a topic or a command; the list of topics if not given"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show a page, or the list of topics."""
    text = page(arguments.topic).text if arguments.topic else overview()
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        sys.stdout.write(plain(text))
    else:
        _page_through(formatted(text) + "\n")
    return 0


def _page_through(text: str) -> None:
    """Show a text with the pager that git and man use, or without if there is none."""
    pager = shlex.split(os.environ.get("PAGER", "less")) or ["cat"]
    # as git does (git-config(1), core.pager): -F ends at once what fits on the screen, -R shows bold type
    environment = {"LESS": "FRX", **os.environ}
    # Ctrl-C is for the pager, which goes on
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        subprocess.run(pager, input=text, encoding="utf-8", errors="replace", env=environment, check=False)
    except OSError:
        sys.stdout.write(text)
    finally:
        signal.signal(signal.SIGINT, before)
