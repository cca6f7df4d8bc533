"""Draw what `scripts/bench` has measured: the two pictures of the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# the same numbers make the same file, and text stays text
mpl.rcParams.update(
    {
        "svg.hashsalt": "opensshtransport",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator  # noqa: E402

__all__ = ["draw"]

# What is shown, and under which title.
_OPERATIONS = {
    "run": "run a command",
    "stat": "stat a file",
    "rmtree of 200": "remove a tree of 200 files",
    "put 1 KB": "put a file of 1 KB",
    "get 1 KB": "get a file of 1 KB",
    "put 200 of 1 KB": "put 200 files of 1 KB",
}
# In MiB: of a full run, of a quick one.
_LARGE = (200, 64)
# Okabe and Ito's colours, which colour-blind people can distinguish; and each has a mark of its own.
_STYLES = {
    "ours": ("#D55E00", "o"),
    "ssh, scp": ("#000000", "s"),
    "sftp": ("#7F7F7F", "P"),
    "cat, tar": ("#E69F00", "v"),
    "rsync": ("#CC79A7", "D"),
    "asyncssh": ("#0072B2", "^"),
    "paramiko": ("#009E73", "X"),
    "Fabric": ("#56B4E9", "*"),
}
_NAMES = {"ours": "opensshtransport", "cat, tar": "cat, tar through ssh"}
_NO_DATE = {"Date": None}

Lines = Mapping[str, Mapping[float, float]]


def draw(results: Mapping[str, Any], directory: Path) -> None:
    """Draw time per operation, and throughput, against the round-trip time, as SVG files.

    Args:
        results: what `scripts/bench --json` writes.
        directory: where to write them; created if missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = results["rows"]
    figure, grid = plt.subplots(2, 3, figsize=(10, 6.6), sharex=True)
    for axis, (row, title) in zip(grid.flat, _OPERATIONS.items(), strict=True):
        _panel(axis, title, _lines(rows, row))
        axis.yaxis.set_major_formatter(FuncFormatter(_seconds))
        one = [trip / 1000 for trip in map(float, rows) if trip]
        axis.plot([1000 * trip for trip in one], one, color="#999999", linestyle=":", linewidth=1.2, zorder=1)
    for axis in grid[-1]:
        axis.set_xlabel("round trip, ms")
    for axis in grid[:, 0]:
        axis.set_ylabel("time")
    _save(figure, directory / "operations.svg", below=0.09, one_trip=True)

    figure, grid = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True, sharey=True)
    size = next((size for size in _LARGE if any(f"put {size} MB" in table for table in rows.values())), 200)
    for axis, way in zip(grid.flat, ("put", "get"), strict=True):
        title = f"{way} a file of {size} MB"
        lines = _lines(rows, f"{way} {size} MB")
        rates = {
            name: {trip: size * 1.048576 / spent for trip, spent in line.items()}
            for name, line in lines.items()
        }
        _panel(axis, title, rates)
        axis.set_xlabel("round trip, ms")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    grid[0].set_ylabel("MB/s")
    _save(figure, directory / "throughput.svg", below=0.14)


def _lines(rows: Mapping[str, Mapping[str, Mapping[str, float]]], row: str) -> Lines:
    """For each contender, seconds by round trip."""
    found: dict[str, dict[float, float]] = {}
    for trip, table in rows.items():
        for name, seconds in table.get(row, {}).items():
            found.setdefault(name, {})[float(trip)] = seconds
    return {name: dict(sorted(found[name].items())) for name in _STYLES if name in found}


def _panel(axis: Any, title: str, lines: Lines) -> None:
    for name, line in lines.items():
        colour, mark = _STYLES[name]
        ours = name == "ours"
        axis.plot(
            list(line),
            list(line.values()),
            color=colour,
            marker=mark,
            markersize=6 if ours else 5,
            linewidth=2.6 if ours else 1.3,
            zorder=3 if ours else 2,
        )
    axis.set_title(title)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=_steps(lines)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    # loopback has a place on it too
    axis.set_xscale("symlog", linthresh=20, linscale=0.3)
    trips = sorted({trip for line in lines.values() for trip in line})
    axis.set_xticks(trips, [f"{trip:g}" for trip in trips])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", labelbottom=True)


def _steps(lines: Lines) -> Sequence[float]:
    """Where there are few decades, ticks between them."""
    values = [value for line in lines.values() for value in line.values()] or [1.0]
    decades = max(values) / min(values)
    return (1, 2, 5) if decades < 300 else (1, 3) if decades < 3000 else (1,)


def _seconds(value: float, _: object) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


def _save(figure: Any, path: Path, *, below: float, one_trip: bool = False) -> None:
    marks: dict[str, Line2D] = {}
    drawn = {line.get_color() for axis in figure.axes for line in axis.get_lines()}
    for name, (colour, mark) in _STYLES.items():
        if colour in drawn:
            width = 2.6 if name == "ours" else 1.3
            marks[_NAMES.get(name, name)] = Line2D([], [], color=colour, marker=mark, linewidth=width)
    if one_trip:
        marks["one round trip"] = Line2D([], [], color="#999999", linestyle=":", linewidth=1.2)
    figure.tight_layout(rect=(0, below, 1, 1))
    figure.legend(
        list(marks.values()),
        list(marks),
        loc="lower center",
        ncols=(len(marks) + 1) // 2,
        frameon=False,
        fontsize=10,
    )
    figure.savefig(path, metadata=_NO_DATE, facecolor="white")
    plt.close(figure)
