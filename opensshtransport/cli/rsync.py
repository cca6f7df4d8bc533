"""`ossh cp` and `ossh sync`: files named as scp names them, `HOST:PATH`.

The trap: a local name may have a colon; as for scp, what has a slash before its colon is local.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from opensshtransport.errors import ConnectionFailed, OpenSshTransportError, SettingsError, printable
from opensshtransport.openssh.destination import config_options
from opensshtransport.openssh.notation import Place, parse_place
from opensshtransport.remote.strerror import errno_of
from opensshtransport.transfer import drafts
from opensshtransport.transfer.items import Item, from_records, list_tree
from opensshtransport.transfer.outcome import TransferFailed
from opensshtransport.transport import Transport

# Seconds: file systems and tools differ below that.
_SAME_TIME = 1.0

_AT_ONCE = 16

# Those of rsync(1), EXIT VALUES, that are about files.
_OF_FILES = {3, 11, 23, 24, 25}

# Names in a line about what was left out.
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How `ossh cp` copies."""

    recursive: bool = False
    preserve: bool = False
    limit_rate: float | None = None
    verify: bool = False
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """How `ossh sync` makes a directory like another."""

    delete: bool = False
    dry_run: bool = False
    checksum: bool = False
    quiet: bool = False
    rsync: bool = True


class _Hosts:
    """One Transport for each host that is named."""

    def __init__(self, ssh_config: str | None, stack: ExitStack) -> None:
        self._ssh_config, self._stack = ssh_config, stack
        self._open: dict[str, Transport] = {}

    def __getitem__(self, host: str) -> Transport:
        if host not in self._open:
            transport = Transport(host, ssh_config=self._ssh_config)
            self._open[host] = self._stack.enter_context(transport)
        return self._open[host]


def copy(names: Sequence[str], target: str, ssh_config: str | None, options: Options) -> int:
    """Copy files and trees, all in scp's notation; returns the exit status.

    Raises:
        SettingsError: none of them is on a host.
        OSError: of a file.
        ConnectionFailed: one of its kinds.
    """
    sources, destination = [parse_place(name) for name in names], parse_place(target)
    if destination.host is None and all(source.host is None for source in sources):
        raise SettingsError("all of these are local", advice="use cp, or name a host: HOST:PATH")
    if destination.host is None:
        for source in sources:
            if source.host is None:
                raise SettingsError(
                    f"{source.path!r} and the destination are local", advice="copy that one by cp"
                )
    with ExitStack() as stack:
        hosts = _Hosts(ssh_config, stack)
        if len(sources) > 1 and len({source.host for source in sources}) > 1:
            _check_directory(destination, hosts)
        for host in dict.fromkeys(source.host for source in sources):
            paths = [source.path for source in sources if source.host == host]
            if host is None:
                hosts[destination.host or ""].put(paths, destination.path, **_for_transfer(options))
            elif destination.host is None:
                with _naming(destination.path):
                    hosts[host].get(paths, destination.path, **_for_transfer(options))
            elif host == destination.host:
                _on_server(hosts[host], paths, destination.path, options)
            else:
                with tempfile.TemporaryDirectory(prefix="ossh-cp-") as between:
                    hosts[host].get(paths, between, **_for_transfer(options))
                    arrived = [str(path) for path in sorted(Path(between).iterdir())]
                    hosts[destination.host].put(arrived, destination.path, **_for_transfer(options))
    return 0


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Name in an error of this side where it happened: a full disk does not say it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None and not isinstance(error, TransferFailed):
            error.filename = path
        raise


def _check_directory(destination: Place, hosts: _Hosts) -> None:
    if destination.host is None:
        there = Path(destination.path).is_dir()
    else:
        there = hosts[destination.host].is_dir(destination.path)
    if not there:
        raise SettingsError(
            f"{destination.path!r} is no directory", host=destination.host, advice="name one that is there"
        )


def _for_transfer(options: Options) -> dict[str, Any]:
    """The options as put and get take them."""
    return {
        "recursive": options.recursive,
        "preserve": options.preserve,
        "limit_rate": options.limit_rate,
        "verify": options.verify,
        # a bar is a convenience
        "progress": options.progress and importlib.util.find_spec("tqdm") is not None,
    }


def _on_server(transport: Transport, paths: list[str], destination: str, options: Options) -> None:
    names = [name for path in paths for name in (transport.glob(path) if _wild(path) else [path])]
    if len(names) > 1 and not transport.is_dir(destination):
        raise SettingsError(f"{destination!r} is no directory", host=transport.host)
    for name in names:
        if not options.recursive and transport.is_dir(name):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"{transport.host}:{name}")
        transport.copy(name, destination, preserve=options.preserve)


def _wild(path: str) -> bool:
    return any(letter in path for letter in "*?[")


def sync(source: str, destination: str, ssh_config: str | None, options: SyncOptions) -> int:
    """Make the destination like the source; returns the exit status.

    Raises:
        SettingsError: not exactly one of them is on a host, or the source is no directory.
        OSError: of a file.
        ConnectionFailed: one of its kinds.
    """
    here, there = parse_place(source), parse_place(destination)
    host = here.host or there.host
    if (here.host is None) == (there.host is None) or host is None:
        raise SettingsError("one of SRC and DST must be on a host", advice="write it as HOST:PATH")
    with Transport(host, ssh_config=ssh_config) as transport:
        upward = here.host is None
        found = Path(here.path).expanduser().is_dir() if upward else transport.is_dir(here.path)
        if not found:
            raise NotADirectoryError(errno.ENOTDIR, "no such directory", source)
        if options.rsync and shutil.which("rsync") and _has_rsync(transport):
            inherited = _inherited(transport, there)
            if inherited is not None:
                return _rsync(transport, here, there, options, inherited)
        _compare(transport, here, there, options)
    return 0


def _has_rsync(transport: Transport) -> bool:
    return transport.run("command -v rsync >/dev/null").returncode == 0


# Prints whether a directory, or one below it, is set-group-ID, and whether one is not; or of the
# directory that it will be in.
_SET_GROUP_ID = """
while [ ! -d "${1:-/}" ]; do set -- "${1%/*}"; done
set -- "${1:-/}"
find "$1" -type d -perm -2000 2>/dev/null | head -n 1 | wc -l
find "$1" -type d ! -perm -2000 2>/dev/null | head -n 1 | wc -l
"""


def _inherited(transport: Transport, place: Place) -> list[str] | None:
    """What rsync must be told so that set-group-ID directories stay so; None where that cannot be said.

    Its `-p` takes the bit from each directory that has none in the source, and what is put there then is in
    another group.
    """
    script = ["sh", "-c", _SET_GROUP_ID, "sh", _absolute(place, transport)]
    if place.host is None:
        said = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
        some, others = map(int, said.split())
    else:
        some, others = map(int, (transport.run(script).stdout or "").split())
    if some and others:
        return None
    return ["--chmod=Dg+s"] if some else []


def _rsync(
    transport: Transport, here: Place, there: Place, options: SyncOptions, inherited: Sequence[str]
) -> int:
    """By rsync, through our own `run`: it never logs in by itself, and drops what start-up files print."""
    destination = transport.master.destination
    run = [sys.executable, "-m", "opensshtransport", "run", "--no-login"]
    run += [*config_options(destination.ssh_config), "--", destination.host]
    argv = ["rsync", "-rlpt", *inherited, "--protect-args", "-e", shlex.join(run)]
    argv += ["--delete"] if options.delete else []
    argv += ["--dry-run"] if options.dry_run else []
    argv += ["--checksum"] if options.checksum else []
    argv += [] if options.quiet else ["--itemize-changes"]
    argv += ["--", _operand(here, transport), _operand(there, transport)]
    said = _Said(transport.host, upward=here.host is None)
    # `-m` puts the working directory first on the path of imports
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
    ) as rsync:
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(said.read_errors, rsync.stderr or ())
            said.read_output(rsync.stdout or ())
            told.result()
    if not options.quiet:
        _tell_skipped(said.skipped)
    return said.outcome(rsync.returncode)


# What rsync says of a file, with the words of strerror(3): who says it, which file, what, the number.
_OF_FILE = re.compile(
    r'rsync: (?:\[(?P<who>\w+)\] )?[^"]*"(?P<path>.*?)"(?: -> ".*")?(?: failed)?'
    r": (?P<what>.+) \((?P<number>\d+)\)"
)

# What follows from that, or from a lost connection, and names no file.
_CONSEQUENCE = re.compile(
    r"rsync error: |rsync: (?:\[\w+\] )?(?:connection unexpectedly closed|write error: )"
)

_SKIPPING = b'skipping non-regular file "'

_OF_RUN = "ossh-run: "


class _Said:
    """What rsync has said: passed on, but for errors of files and of the connection, which are kept."""

    def __init__(self, host: str, *, upward: bool) -> None:
        self._host, self._upward = host, upward
        self.skipped: list[str] = []
        self._failures: list[OSError] = []
        self._consequences: list[str] = []
        self._of_run = ""

    def read_output(self, lines: Iterable[bytes]) -> None:
        """Read its stdout to the end."""
        for line in lines:
            if line.startswith(_SKIPPING):
                self.skipped.append(_unescaped(os.fsdecode(line[len(_SKIPPING) :].rstrip(b'"\n'))))
            else:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def read_errors(self, lines: Iterable[bytes]) -> None:
        """Read its stderr to the end."""
        for line in map(os.fsdecode, lines):
            text = line.rstrip("\r\n")
            if of_file := _OF_FILE.fullmatch(text):
                self._failures.append(self._failure(of_file))
            elif text.startswith(_OF_RUN):
                self._of_run = text.removeprefix(_OF_RUN).removeprefix(f"{self._host}: ")
            elif _CONSEQUENCE.match(text):
                self._consequences.append(text)
            elif text:
                print(printable(text), file=sys.stderr)

    def _failure(self, match: re.Match[str]) -> OSError:
        # older versions do not say who
        far = match["who"] and (match["who"].lower() == "sender") != self._upward
        path, what = _unescaped(match["path"]), match["what"]
        number = errno_of(what) or int(match["number"])
        return OSError(number, what, f"{self._host}:{path}" if far else path)

    def outcome(self, status: int) -> int:
        """The exit status.

        Raises:
            OSError: of a file.
            ConnectionFailed: the connection broke, or rsync failed for another reason.
        """
        if self._of_run:
            raise ConnectionFailed(self._of_run, host=self._host, advice="", returncode=status)
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            error = TransferFailed(errno.EIO, f"{len(self._failures)} files could not be moved")
            error.failures = tuple(self._failures)
            raise error
        if status == 0:
            return 0
        said = self._consequences[-1] if self._consequences else f"it ended with status {status}"
        if status in _OF_FILES:
            print(printable(said), file=sys.stderr)
            return 1
        raise ConnectionFailed(f"rsync failed: {said}", host=self._host, returncode=status)


def _unescaped(name: str) -> str:
    """A name as it is: rsync writes what is not printed by its number (rsync(1), --8-bit-output)."""
    raw = re.sub(rb"\\#(\d{3})", lambda match: bytes([int(match[1], 8) & 255]), os.fsencode(name))
    return os.fsdecode(raw)


def _tell_skipped(names: Sequence[str]) -> None:
    """Say once what was left out: it is neither a file nor a directory nor a link."""
    if names:
        shown = ", ".join(printable(name).replace("\n", "\\n") for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        print(f"ossh sync: left out, as fifos, sockets and devices are: {shown}{more}", file=sys.stderr)


def _operand(place: Place, transport: Transport) -> str:
    # a slash at the end: what is in it, not the directory itself
    path = f"{_absolute(place, transport)}/"
    # our `run` knows the host; what rsync takes for one begins the command there, as a word of every shell
    return path if place.host is None else f"exec:{path}"


def _absolute(place: Place, transport: Transport) -> str:
    if place.host is None:
        return str(Path(place.path).expanduser().absolute()).rstrip("/")
    return posixpath.join(transport.home(), _plain(place.path, transport)).rstrip("/")


def _plain(path: str, transport: Transport) -> str:
    return transport.realpath(path) if path.startswith("~") else path


@dataclass(frozen=True, slots=True)
class _Side:
    """What one side has, and of which names, and of all below these, it is not known ("" for the top)."""

    items: Mapping[str, Item]
    unknown: Mapping[str, OSError] = field(default_factory=dict)


def _compare(transport: Transport, here: Place, there: Place, options: SyncOptions) -> None:
    """By one listing on each side, and a stream of what differs; what goes wrong is told at the end."""
    upward = here.host is None
    local = Path(here.path if upward else there.path).expanduser()
    remote = there.path if upward else here.path
    ours = _local_side(local)
    theirs = _remote_side(transport, remote, target=upward)
    source, target = (ours.items, theirs.items) if upward else (theirs.items, ours.items)
    same = _same(transport, source, target, local, remote, options.checksum)
    skipped = sorted(name for name, item in source.items() if item.kind == "other")
    changed = sorted(name for name in source if name not in same and source[name].kind != "other")
    unknown = {**ours.unknown, **theirs.unknown}
    spared = _spared(unknown)
    surplus = [name for name in target if name not in source] if options.delete else []
    # of another kind, so it is in the way
    in_the_way = [name for name in changed if name in target and target[name].kind != source[name].kind]
    surplus = sorted(name for name in surplus if not spared(name))
    if not options.quiet:
        # a name may hold a newline too
        for name in changed:
            print(printable(name).replace("\n", "\\n"))
        for name in surplus:
            print("deleting", printable(name).replace("\n", "\\n"))
        _tell_skipped(skipped)
    words = ": nothing below it is deleted" if options.delete else ""
    failures = [
        OSError(reason.errno, f"{reason.strerror}{words}", reason.filename) for reason in unknown.values()
    ]
    if not options.dry_run:
        # directories are gone through, whatever they are themselves
        kept = {name for name in same if source[name].kind != "directory"} | set(skipped)
        in_the_way = [name for name in in_the_way if not spared(name)]
        gone = _tops([*surplus, *in_the_way]) if options.delete else []
        with _collected(failures):
            if upward:
                transport.makedirs(remote, exist_ok=True)
            else:
                local.mkdir(parents=True, exist_ok=True)
        for remove in (
            _removals_there(transport, remote, gone, target) if upward else _removals(local, gone, target)
        ):
            with _collected(failures):
                remove()
        with _collected(failures):
            if changed and upward:
                transport.put(f"{local}/.", remote, preserve=True, exclude=kept.__contains__)
            elif changed:
                with _naming(str(local)):
                    transport.get(f"{remote}/.", local, preserve=True, exclude=kept.__contains__)
    _raise_all(failures)


def _spared(unknown: Iterable[str]) -> Callable[[str], bool]:
    """Tell which names must not be deleted: what is not known, what is below it, and what it is in."""
    apart = set(unknown)
    above = {name[:end] for name in apart for end, letter in enumerate(name) if letter == "/"}

    def spared(name: str) -> bool:
        ends = (end for end, letter in enumerate(f"{name}/") if letter == "/")
        return "" in apart or name in above or any(name[:end] in apart for end in ends)

    return spared


@contextlib.contextmanager
def _collected(failures: list[OSError]) -> Iterator[None]:
    """What goes wrong with a file does not keep the others from moving."""
    try:
        yield
    except OpenSshTransportError:
        raise
    except OSError as error:
        failures += getattr(error, "failures", ()) or (error,)


def _raise_all(failures: Sequence[OSError]) -> None:
    """Raise what has been collected; what was told of one name twice, once.

    Raises:
        OSError: the only one.
        TransferFailed: several.
    """
    told = {(one.errno, posixpath.normpath(str(one.filename))): one for one in reversed(failures)}
    found = list(reversed(told.values()))
    if len(found) == 1:
        raise found[0]
    if found:
        error = TransferFailed(found[0].errno, found[0].strerror, found[0].filename)
        error.failures = tuple(found)
        raise error


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
    """The name below the top that an error is of; the top's where that is not known."""
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
        # they go one behind the other through one session, without waiting for each
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
    """A checksum; None where it cannot be had, of which the move will tell."""
    try:
        return of(path)
    except OpenSshTransportError:
        raise
    except OSError:
        return None


def _tops(names: Sequence[str]) -> list[str]:
    """Those that are in none of the others."""
    kept: list[str] = []
    for name in sorted(set(names), key=lambda name: name.split("/")):
        if not kept or not name.startswith(f"{kept[-1]}/"):
            kept.append(name)
    return kept


def _removals(top: Path, names: Sequence[str], items: Mapping[str, Item]) -> Iterator[Callable[[], object]]:
    """What removes these names here."""
    for name in names:
        path = top / name
        yield partial(shutil.rmtree, path) if items[name].kind == "directory" else path.unlink


def _removals_there(
    transport: Transport, top: str, names: Sequence[str], items: Mapping[str, Item]
) -> Iterator[Callable[[], object]]:
    """What removes these names there."""
    files = [posixpath.join(top, name) for name in names if items[name].kind != "directory"]
    if files:
        yield partial(transport.remove_many, files, missing_ok=True)
    for name in names:
        if items[name].kind == "directory":
            yield partial(transport.rmtree, posixpath.join(top, name))
