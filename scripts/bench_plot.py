"""Draw what `scripts/bench` has measured: the two pictures of the README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
# the same numbers make the same file, and text stays text
mpl.rcParams.update({"svg.hashsalt": "opensshtransport", "svg.fonttype": "none", "font.size": 9})

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws

__all__ = ["draw"]

Results = Mapping[str, Mapping[str, Mapping[str, float]]]

# Small operations, and what is shown of each.
_OPERATIONS = ("run", "stat", "put 1 KB", "put 200 of 1 KB")
_STREAMS = (("put 200 MB", 200 * 1.048576), ("get 200 MB", 200 * 1.048576))
_COLOURS = {
    "ours": "#c0392b",
    "OpenSSH": "#2c3e50",
    "cat, tar | ssh": "#7f8c8d",
    "rsync": "#8e44ad",
    "asyncssh": "#2980b9",
    "paramiko": "#27ae60",
    "Fabric": "#d68910",
}
_NO_DATE = {"Date": None}


def draw(results: Results, directory: Path) -> None:
    """Draw time per operation, and throughput, against the round-trip time, as SVG files.

    Args:
        results: seconds by round trip in milliseconds, row and contender.
        directory: where to; made if it is not there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(_OPERATIONS), figsize=(11, 3.2))
    for axis, row in zip(axes, _OPERATIONS, strict=True):
        for name, points in _lines(results, row).items():
            axis.plot(*_split(points), marker="o", markersize=3, color=_COLOURS.get(name), label=name)
        axis.set_title(row)
        axis.set_yscale("log")
        axis.set_xlabel("round trip, ms")
    axes[0].set_ylabel("seconds")
    _save(figure, axes, directory / "operations.svg")

    figure, axes = plt.subplots(1, len(_STREAMS), figsize=(8, 3.2), sharey=True)
    for axis, (row, megabytes) in zip(axes, _STREAMS, strict=True):
        for name, points in _lines(results, row).items():
            rates = {trip: megabytes / seconds for trip, seconds in points.items()}
            axis.plot(*_split(rates), marker="o", markersize=3, color=_COLOURS.get(name), label=name)
        axis.set_title(row)
        axis.set_yscale("log")
        axis.set_xlabel("round trip, ms")
    axes[0].set_ylabel("MB/s")
    _save(figure, axes, directory / "throughput.svg")


def _lines(results: Results, row: str) -> dict[str, dict[float, float]]:
    """For each contender, seconds by round trip."""
    found: dict[str, dict[float, float]] = {}
    for trip, table in results.items():
        for name, seconds in table.get(row, {}).items():
            found.setdefault(name, {})[float(trip)] = seconds
    return found


def _split(points: Mapping[float, float]) -> tuple[list[float], list[float]]:
    ordered = sorted(points.items())
    return [trip for trip, _ in ordered], [value for _, value in ordered]


def _save(figure: plt.Figure, axes: object, path: Path) -> None:
    handles: dict[str, object] = {}
    for axis in axes:  # type: ignore[attr-defined]  # an array of numpy's
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(
        list(handles.values()), list(handles), loc="lower center", ncols=len(handles), frameon=False
    )
    figure.savefig(path, metadata=_NO_DATE)
    plt.close(figure)
