"""Make a directory like another without rsync: one listing of each side, and a stream of what differs."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from opensshtransport.copying.failures import collected, naming, raise_all
from opensshtransport.copying.options import Listener, SyncOptions, left_out, shown
from opensshtransport.errors import OpenSshTransportError
from opensshtransport.openssh.notation import Place
from opensshtransport.transfer import drafts
from opensshtransport.transfer.items import Item, excluded, from_records, list_tree
from opensshtransport.transport import Transport

# Seconds; file systems and tools differ below that.
_SAME_TIME = 1.0

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Side:
    """What one side has, and the names about which, and below which, nothing is known ("" for the top)."""

    items: Mapping[str, Item]
    unknown: Mapping[str, OSError] = field(default_factory=dict)


def sync(transport: Transport, here: Place, there: Place, options: SyncOptions, listener: Listener) -> None:
    """List both sides once and stream what differs; failures are reported at the end.

    Raises:
        OSError: of a file.
        ConnectionFailed: one of its kinds.
    """
    upward = here.host is None
    local = Path(here.path if upward else there.path).expanduser()
    remote = there.path if upward else here.path
    ours = _local_side(local)
    theirs = _remote_side(transport, remote, target=upward)
    sides = (ours.items, theirs.items) if upward else (theirs.items, ours.items)
    source, target = (
        {name: item for name, item in side.items() if not excluded(name, options.exclude)} for side in sides
    )
    same = _same(transport, source, target, local, remote, options.checksum)
    skipped = sorted(name for name, item in source.items() if item.kind == "other")
    changed = sorted(name for name in source if name not in same and source[name].kind != "other")
    unknown = {**ours.unknown, **theirs.unknown}
    # excluded files stay, and so do their directories, as with rsync
    spared = _spared({*unknown, *(sides[1].keys() - target.keys())})
    surplus = [name for name in target if name not in source] if options.delete else []
    # it is of another kind, and in the way
    in_the_way = [name for name in changed if name in target and target[name].kind != source[name].kind]
    surplus = sorted(name for name in surplus if not spared(name))
    if not options.quiet:
        for name in changed:
            listener.line(f"{shown(name)}\n".encode())
        for name in surplus:
            listener.line(f"deleting {shown(name)}\n".encode())
        if skipped:
            listener.note(left_out(skipped))
    words = ": nothing below it is deleted" if options.delete else ""
    failures = [
        OSError(reason.errno, f"{reason.strerror}{words}", reason.filename) for reason in unknown.values()
    ]
    if not options.dry_run:
        # directories are always descended into
        kept = {name for name in same if source[name].kind != "directory"} | set(skipped)

        def stays(name: str) -> bool:
            return name in kept or excluded(name, options.exclude)

        in_the_way = [name for name in in_the_way if not spared(name)]
        gone = _tops([*surplus, *in_the_way]) if options.delete else []
        with collected(failures):
            if upward:
                transport.makedirs(remote, exist_ok=True)
            else:
                local.mkdir(parents=True, exist_ok=True)
        for remove in (
            _removals_there(transport, remote, gone, target) if upward else _removals(local, gone, target)
        ):
            with collected(failures):
                remove()
        with collected(failures):
            if changed and upward:
                transport.put(f"{local}/.", remote, preserve=True, exclude=stays, progress=options.progress)
            elif changed:
                with naming(str(local)):
                    transport.get(
                        f"{remote}/.", local, preserve=True, exclude=stays, progress=options.progress
                    )
    raise_all(failures)


def _spared(unknown: Iterable[str]) -> Callable[[str], bool]:
    """Which names must not be deleted: unknown ones, what is below them, and the directories above them."""
    apart = set(unknown)
    above = {name[:end] for name in apart for end, letter in enumerate(name) if letter == "/"}

    def spared(name: str) -> bool:
        ends = (end for end, letter in enumerate(f"{name}/") if letter == "/")
        return "" in apart or name in above or any(name[:end] in apart for end in ends)

    return spared


def _local_side(top: Path) -> _Side:
    if not top.is_dir():
        return _Side({})
    failures: list[OSError] = []
    items = {item.name: item for item in list_tree(str(top), failed=failures.append) if item.name}
    return _Side(items, {_below(one, str(top)): one for one in failures})


def _remote_side(transport: Transport, top: str, *, target: bool) -> _Side:
    failures: list[OSError] = []
    try:
        listing = transport.scantree(top, onerror=failures.append).items()
    except FileNotFoundError:
        if not target:
            raise
        return _Side({})
    except PermissionError as reason:
        if not target:
            raise
        return _Side({}, {"": reason})
    items = from_records(((name, entry.stat) for name, entry in listing), top=top)
    prefix = f"{transport.host}:{top}"
    return _Side({item.name: item for item in items}, {_below(one, prefix): one for one in failures})


def _below(reason: OSError, top: str) -> str:
    """The name below the top that an error is about; that of the top if not known."""
    path, start = str(reason.filename), f"{top.rstrip('/')}/"
    return path.removeprefix(start) if path.startswith(start) else ""


def _same(
    transport: Transport,
    source: Mapping[str, Item],
    target: Mapping[str, Item],
    local: Path,
    remote: str,
    checksum: bool,
) -> set[str]:
    """The names that need not be moved."""
    alike = {
        name
        for name, item in source.items()
        if name in target and target[name].kind == item.kind and target[name].size == item.size
    }
    kinds = {name: source[name].kind for name in alike}
    same = {name for name in alike if kinds[name] == "directory"}
    by_time = [name for name in alike if kinds[name] == "symlink" or (kinds[name] == "file" and not checksum)]
    same |= {
        name
        for name in by_time
        if abs(source[name].mtime_ns - target[name].mtime_ns) < _SAME_TIME * 1e9
        and source[name].mode == target[name].mode
    }
    if checksum:
        files = [name for name in alike if kinds[name] == "file"]
        # they are pipelined through one session
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sums = pool.map(
                lambda name: _sum(transport.checksum, posixpath.join(remote, name)),
                files,
            )
            same |= {
                name
                for name, total in zip(files, sums, strict=True)
                if total is not None
                and total == _sum(drafts.file_sum, local / name)
                and source[name].mode == target[name].mode
            }
    return same


def _sum(of: Callable[[Any], str], path: object) -> str | None:
    """A checksum; None if it is not available: the transfer will report why."""
    try:
        return of(path)
    except OpenSshTransportError:
        raise
    except OSError:
        return None


def _tops(names: Sequence[str]) -> list[str]:
    """Those that are not below any of the others."""
    kept: list[str] = []
    for name in sorted(set(names), key=lambda name: name.split("/")):
        if not kept or not name.startswith(f"{kept[-1]}/"):
            kept.append(name)
    return kept


def _removals(top: Path, names: Sequence[str], items: Mapping[str, Item]) -> Iterator[Callable[[], object]]:
    """Removes local names."""
    for name in names:
        path = top / name
        yield partial(shutil.rmtree, path) if items[name].kind == "directory" else path.unlink


def _removals_there(
    transport: Transport, top: str, names: Sequence[str], items: Mapping[str, Item]
) -> Iterator[Callable[[], object]]:
    """Removes names on the host."""
    files = [posixpath.join(top, name) for name in names if items[name].kind != "directory"]
    if files:
        yield partial(transport.remove_many, files, missing_ok=True)
    for name in names:
        if items[name].kind == "directory":
            yield partial(transport.rmtree, posixpath.join(top, name))
