"""Print what `scripts/bench` has measured: times, round trips, proportions, and which targets are met."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["markdown", "show"]

Table = Mapping[str, Mapping[str, float]]

ORDER = ("ours", "ssh, scp", "sftp", "cat, tar", "rsync", "asyncssh", "paramiko", "Fabric")


@dataclass(frozen=True, slots=True)
class Target:
    """What ours must reach in a row.

    Attributes:
        row: its name.
        most: round trips; or, with `beside`, how many times as long as that contender.
        beside: a contender.
        milliseconds: the round trip at which it counts.
    """

    row: str
    most: float
    beside: str = ""
    milliseconds: float = 50.0


TARGETS = (
    Target("run", 1.15),
    Target("run, cold", 2.3),
    # local work takes some milliseconds; less than half a round trip means none
    Target("open a Transport", 0.5),
    Target("stat", 1.15),
    Target("mkdir", 1.15),
    Target("listdir of 200", 1.15),
    Target("glob of 200", 1.15),
    Target("rmtree of 200", 1.15),
    Target("copy of a file there", 1.15),
    Target("copy of 20 files there", 1.15),
    Target("stat of 1,000", 1.5),
    Target("put 1 KB", 1.2),
    Target("get 1 KB", 1.2),
    Target("put 200 of 1 KB", 5),
    Target("get 200 of 1 KB", 5),
    Target("put 200 MB", 0.2, "ssh, scp"),
    Target("get 200 MB", 0.2, "ssh, scp"),
    Target("ossh-run", 1.5, "ssh, scp", 0),
    Target("ossh-run in a loop", 1.35),
    # there no session is opened ahead
    Target("ossh-run in a loop", 1.5, "ssh, scp", 0),
    Target("ossh-run, slow start-up", 0.1, "ssh, scp", 0),
    Target("put 512 MB", 1.15, "cat, tar", 0),
    Target("get 512 MB", 1.15, "cat, tar", 0),
)


def show(results: Mapping[str, Any]) -> None:
    """Print all of it."""
    told = (f"{name} {value}" for name, value in results["versions"].items())
    sys.stdout.write(f"{', '.join(told)}\n")
    for trip, table in results["rows"].items():
        _show_round_trip(table, float(trip))
    _show_targets(results["rows"])
    if results.get("memory"):
        _block("memory: the most in MiB", results["memory"], "{:.0f}".format)
    for trip, table in results.get("aiida", {}).items():
        times = {row: values for row, values in table.items() if row != "logins"}
        title = f"AiiDA, calls of one job, round trip {trip} ms: ms"
        _block(title, times, lambda seconds: f"{seconds * 1000:.0f}", width=21)
        _block("", {"logins": table["logins"]}, "{:.0f}".format, width=21, head=False)
    if jobs := results.get("aiida jobs"):
        _block(
            f"AiiDA, {jobs['calculations']} calculations: s",
            {"until all ended": jobs["seconds"]},
            "{:.0f}".format,
            width=21,
        )
        _block("", {name: jobs[name] for name in ("logins", "failed")}, "{:.0f}".format, width=21, head=False)
    sys.stdout.write(f"\na {results['kind']} run, in {results['seconds']} s\n")
    sys.stdout.flush()


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of the manual: a round trip of 50 ms, loopback, memory, AiiDA."""
    rows = results["rows"]
    parts = [_markdown(rows[trip], milliseconds=float(trip)) for trip in ("50", "0") if trip in rows]
    if results.get("memory"):
        parts.append(_markdown(results["memory"], "{:.0f} MiB".format))
    jobs = {
        "loopback" if trip == "0" else f"{trip} ms round trip": table["one job"]
        for trip, table in results.get("aiida", {}).items()
    }
    if jobs:
        parts.append(_markdown(jobs))
    return "\n".join(parts)


def _told(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _markdown(table: Table, cell: Callable[[float], str] = _told, *, milliseconds: float = 0.0) -> str:
    names = _columns(table)
    heads = ["", *names]
    if milliseconds:
        heads.insert(2, "in round trips")
    lines = [heads, ["---"] * len(heads)]
    for row, values in table.items():
        line = [row, *(cell(values[name]) if name in values else "-" for name in names)]
        if milliseconds:
            line.insert(2, f"{values['ours'] / (milliseconds / 1000):.2f}")
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def _show_round_trip(table: Table, milliseconds: float) -> None:
    title = f"round trip {milliseconds:g} ms"
    _block(f"{title}: ms", table, lambda seconds: f"{seconds * 1000:.1f}")
    if milliseconds:
        _block(f"{title}: in round trips", table, lambda seconds: f"{seconds / (milliseconds / 1000):.2f}")
    proportions = {
        row: {name: values["ours"] / seconds for name, seconds in values.items() if name != "ours"}
        for row, values in table.items()
        if len(values) > 1
    }
    _block(f"{title}: ours / theirs", proportions, lambda value: f"{value:.3g}")


def _columns(table: Table) -> list[str]:
    found = dict.fromkeys(name for row in table.values() for name in row)
    return sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def _block(
    title: str, table: Table, cell: Callable[[float], str], *, width: int = 10, head: bool = True
) -> None:
    names = _columns(table)
    if head:
        sys.stdout.write(f"\n{title}\n{'':24}{''.join(f'{name:>{width}}' for name in names)}\n")
    for row, values in table.items():
        cells = (cell(values[name]) if name in values else "-" for name in names)
        sys.stdout.write(f"{row:24}{''.join(f'{text:>{width}}' for text in cells)}\n")


def _show_targets(rows: Mapping[str, Table]) -> None:
    lines = []
    for target in TARGETS:
        values = rows.get(f"{target.milliseconds:g}", {}).get(target.row, {})
        if "ours" not in values or (target.beside and target.beside not in values):
            continue
        unit = target.milliseconds / 1000
        reached = values["ours"] / (values[target.beside] if target.beside else unit)
        measure = f"x {target.beside}" if target.beside else "round trips"
        verdict = "met" if reached <= target.most else "MISSED"
        lines.append(
            f"{target.row:24}{reached:10.2f}{target.most:10.2f}  {measure:12}"
            f"  at {target.milliseconds:g} ms: {verdict}\n"
        )
    if lines:
        sys.stdout.write(f"\n{'targets':24}{'measured':>10}{'at most':>10}\n{''.join(lines)}")
