"""`ossh status`: every master and its state; as values for programs, as a table for people."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opensshtransport.cli.options import FAILED, add_ssh_config
from opensshtransport.cli.output import coloured, complain
from opensshtransport.errors import printable

if TYPE_CHECKING:
    from opensshtransport.cli.masters import Row

EXAMPLE = "ossh status --json"

# The width of a table that is not for a terminal.
_WIDTH = 80

_COLOURS = {"live": "32", "busy": "33", "unreachable": "31", "error": "31", "none": "2"}

_GAP = "  "

# How many characters of a shortened name stay.
_SHORTEST = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh status` takes."""
    add_ssh_config(parser)
    parser.add_argument("--json", action="store_true", help="a JSON list of objects")
    parser.add_argument("hosts", metavar="HOST", nargs="*")


def run(arguments: argparse.Namespace) -> int:
    """Print what is known of each master."""
    from opensshtransport.cli.masters import collect

    report = collect(arguments.hosts, arguments.ssh_config)
    for problem in (*report.settings, *report.problems):
        complain("status", problem)
    if arguments.json:
        print(json.dumps([as_object(row) for row in report.rows], indent=2))
    elif not report.rows:
        print("no masters; run: ossh login HOST", file=sys.stderr)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
        now = datetime.datetime.now().astimezone()
        for line in table(report.rows, now, width=width, colour=coloured()):
            print(line)
    return FAILED if report.settings else 0


def as_object(row: Row) -> dict[str, object]:
    """A row for programs; times as in ISO 8601."""
    values = dataclasses.asdict(row).items()
    return {
        key: value.isoformat(timespec="seconds") if isinstance(value, datetime.datetime) else value
        for key, value in values
    }


def in_words(moment: datetime.datetime, now: datetime.datetime) -> str:
    """A moment as a person would say it: `3 h ago`, `in 20 min`."""
    minutes = int(abs((moment - now).total_seconds())) // 60
    if minutes < 1:
        return "just now" if moment <= now else "in seconds"
    if minutes < 2 * 60:
        amount = f"{minutes} min"
    elif minutes < 48 * 60:
        amount = f"{minutes // 60} h"
    else:
        amount = f"{minutes // (24 * 60)} days"
    return f"{amount} ago" if moment <= now else f"in {amount}"


def _until(moment: datetime.datetime | None, now: datetime.datetime) -> str:
    if moment is None:
        return "-"
    return "ended" if moment <= now else in_words(moment, now)


def table(rows: Sequence[Row], now: datetime.datetime, *, width: int, colour: bool = False) -> list[str]:
    """The rows as lines for people.

    Args:
        rows: at least one.
        now: the time to which others are relative.
        width: how long a line may be; names are cut to it.
        colour: whether states are coloured.
    """
    hosts = [row.host for row in rows]
    lines = [["HOST", "STATE", "LOGIN NODE", "SINCE", "SESSIONS", "CERT", "TICKET"]]
    for row in rows:
        # two masters of one name differ in where that led
        twin = hosts.count(row.host) > 1 and row.address
        cells = [f"{row.host} ({row.address})" if twin else row.host, row.state, row.login_node or "-"]
        cells += [in_words(row.since, now) if row.since else "-"]
        cells += ["-" if row.sessions is None else str(row.sessions)]
        cells += [_until(row.certificate_expires, now), _until(row.ticket_expires, now)]
        lines.append([printable(cell).replace("\n", "\\n") for cell in cells])
    # a column that no host uses is left out
    columns = [
        each for each in range(len(lines[0])) if each < 5 or any(line[each] != "-" for line in lines[1:])
    ]
    widths = {column: max(len(line[column]) for line in lines) for column in columns}
    for column in (2, 0):
        excess = sum(widths.values()) + len(_GAP) * (len(columns) - 1) - width
        widths[column] -= max(0, min(excess, widths[column] - _SHORTEST))
    return [
        _GAP.join(
            _cell(line[column], widths[column], _COLOURS.get(line[1], "") if colour and column == 1 else "")
            for column in columns
        ).rstrip()
        for line in lines
    ]


def _cell(text: str, width: int, colour: str) -> str:
    shown = text if len(text) <= width else f"{text[: width - 1]}…"
    padded = shown.ljust(width)
    return f"\x1b[{colour}m{shown}\x1b[0m{padded[len(shown) :]}" if colour else padded
