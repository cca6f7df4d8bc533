"""`ossh cp` and `ossh sync`: files named as scp names them, `HOST:PATH`.

The trap: a local name may have a colon; as for scp, what has a slash before its colon is local.
"""

from __future__ import annotations

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensshtransport import openssh, trees
from opensshtransport.errors import ConnectionFailed, SettingsError, errno_of, printable
from opensshtransport.items import Item, from_records, list_tree
from opensshtransport.notation import Place, parse_place
from opensshtransport.placement import TransferFailed
from opensshtransport.transport import Transport

__all__ = ["Options", "SyncOptions", "copy", "sync"]

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


# -- sync ------------------------------------------------------------------------------------------------


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
            return _rsync(transport, here, there, options)
        _compare(transport, here, there, options)
    return 0


def _has_rsync(transport: Transport) -> bool:
    return transport.run("command -v rsync >/dev/null").returncode == 0


def _rsync(transport: Transport, here: Place, there: Place, options: SyncOptions) -> int:
    """By rsync, through our own `run`: it never logs in by itself, and drops what start-up files print."""
    destination = transport.master.destination
    run = [sys.executable, "-m", "opensshtransport", "run", "--no-login"]
    run += [*openssh.config_options(destination.ssh_config), "--", destination.host]
    argv = ["rsync", "-rlpt", "--protect-args", "-e", shlex.join(run)]
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
    if place.host is None:
        path = str(Path(place.path).expanduser().absolute())
        return f"{path.rstrip('/')}/"
    path = posixpath.join(transport.home(), _plain(place.path, transport))
    # our `run` knows the host; what rsync takes for one begins the command there, as a word of every shell
    return f"exec:{path.rstrip('/')}/"


def _plain(path: str, transport: Transport) -> str:
    return transport.realpath(path) if path.startswith("~") else path


def _compare(transport: Transport, here: Place, there: Place, options: SyncOptions) -> None:
    """By one listing on each side, and a stream of what differs."""
    upward = here.host is None
    local = Path(here.path if upward else there.path).expanduser()
    remote = there.path if upward else here.path
    ours = _local_items(local)
    theirs = _remote_items(transport, remote, missing_ok=upward)
    source, target = (ours, theirs) if upward else (theirs, ours)
    same = _same(transport, source, target, local, remote, options.checksum)
    skipped = sorted(name for name, item in source.items() if item.kind == "other")
    changed = sorted(name for name in source if name not in same and source[name].kind != "other")
    surplus = sorted(name for name in target if name not in source) if options.delete else []
    # of another kind, so it is in the way
    in_the_way = [name for name in changed if name in target and target[name].kind != source[name].kind]
    if not options.quiet:
        # a name may hold a newline too
        for name in changed:
            print(printable(name).replace("\n", "\\n"))
        for name in surplus:
            print("deleting", printable(name).replace("\n", "\\n"))
        _tell_skipped(skipped)
    if options.dry_run:
        return
    # directories are gone through, whatever they are themselves
    kept = {name for name in same if source[name].kind != "directory"} | set(skipped)
    gone = _tops([*surplus, *in_the_way]) if options.delete else []
    if upward:
        transport.makedirs(remote, exist_ok=True)
        _remove_there(transport, remote, gone, theirs)
        if changed:
            transport.put(f"{local}/.", remote, preserve=True, exclude=kept.__contains__)
    else:
        local.mkdir(parents=True, exist_ok=True)
        for name in gone:
            if target[name].kind == "directory":
                shutil.rmtree(local / name)
            else:
                (local / name).unlink()
        if changed:
            with _naming(str(local)):
                transport.get(f"{remote}/.", local, preserve=True, exclude=kept.__contains__)


def _local_items(top: Path) -> dict[str, Item]:
    if not top.is_dir():
        return {}

    def failed(reason: OSError) -> None:
        raise reason

    return {item.name: item for item in list_tree(str(top), failed=failed) if item.name}


def _remote_items(transport: Transport, top: str, *, missing_ok: bool) -> dict[str, Item]:
    try:
        listing = transport.scantree(top).items()
        items = from_records(((name, entry.stat) for name, entry in listing), top=top)
        return {item.name: item for item in items}
    except FileNotFoundError:
        if not missing_ok:
            raise
        return {}


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
            sums = pool.map(transport.checksum, (posixpath.join(remote, name) for name in files))
            same |= {
                name
                for name, total in zip(files, sums, strict=True)
                if total == trees.file_sum(local / name) and source[name].mode == target[name].mode
            }
    return same


def _tops(names: Sequence[str]) -> list[str]:
    """Those that are in none of the others."""
    kept: list[str] = []
    for name in sorted(set(names), key=lambda name: name.split("/")):
        if not kept or not name.startswith(f"{kept[-1]}/"):
            kept.append(name)
    return kept


def _remove_there(transport: Transport, remote: str, names: Sequence[str], items: Mapping[str, Item]) -> None:
    files = [name for name in names if items[name].kind != "directory"]
    if files:
        transport.remove_many([posixpath.join(remote, name) for name in files], missing_ok=True)
    for name in names:
        if items[name].kind == "directory":
            transport.rmtree(posixpath.join(remote, name))
