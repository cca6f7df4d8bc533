"""What put and get have in common: their options, their sources, their errors, and who works at a draft.

The trap: a draft is known by what it will become, so that a broken transfer finds it again; two that move the
same at once would share it, and one would give its name to what the other has not finished. So a draft is
claimed; who comes second gets another one. Nobody else can know its name beforehand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import platform
import secrets
import stat as modes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from opensshtransport.entries import Stat
from opensshtransport.errors import (
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    OpenSshTransportError,
    SettingsError,
)
from opensshtransport.files import Files
from opensshtransport.items import Exclude
from opensshtransport.meter import Meter, Transferred
from opensshtransport.paths import PathLike, path_text
from opensshtransport.settings import runtime_directory, state_directory
from opensshtransport.shell import Reply, Request
from opensshtransport.shells import Shells
from opensshtransport.stripes import reply_errno

__all__ = [
    "DIFFER",
    "INLINE_FILE",
    "INLINE_ITEMS",
    "INLINE_TREE",
    "LARGE",
    "WILD",
    "How",
    "Mover",
    "Sources",
    "TransferFailed",
    "Way",
    "claimed",
    "flag",
    "followed",
    "listed",
    "local_sources",
    "permissions",
    "sums",
]

Way = Literal["inline", "tar", "stream", "sftp", "scp"]
Sources = PathLike | Sequence[PathLike]
_T = TypeVar("_T")

# Files, and trees together, up to these sizes go within one request, in bytes.
INLINE_FILE = 256 << 10
INLINE_TREE = 1 << 20
INLINE_ITEMS = 2000
# Files of a tree from this size on go by parts; `tree` of `transfer.sh` has the same.
LARGE = 64 << 20
WILD = frozenset("*?[")
DIFFER = "the checksums differ after the transfer"
# Seconds after which a claim that nobody holds is one of a killed transfer.
_FORGOTTEN = 3600.0
# As Linux follows at most (path_resolution(7)).
_MOST_LINKS = 40
# How often a transfer goes on that gets no further.
_MOST_TRIES = 3


class TransferFailed(OSError):
    """Several files could not be moved; all others are in their places.

    Attributes:
        failures: what happened, one error for each.
        result: what was moved, as put and get return it.
    """

    failures: tuple[OSError, ...] = ()
    result: Transferred | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """The options of one transfer."""

    recursive: bool | None
    dereference: bool
    preserve: bool
    overwrite: bool
    resume: bool
    verify: bool
    exclude: Exclude
    way: Way | None

    def __post_init__(self) -> None:
        """Keep the patterns: they are asked for each name."""
        if not callable(self.exclude):
            object.__setattr__(self, "exclude", tuple(self.exclude))

    def check_tree(self, name: str) -> None:
        """Raise where a directory was not to be moved."""
        if self.recursive is False:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)


class Mover:
    """Asks one destination, for put and for get."""

    def __init__(self, shells: Shells, files: Files) -> None:
        self._shells, self._files = shells, files
        self._host = shells.host
        self._probed: tuple[float, bool] | None = None

    def _request(
        self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False, mark: str = ""
    ) -> Request:
        marks = f"m={mark} d={secrets.token_hex(8)}"
        return Request(script=f"{marks}\n{script}", payload=payload, reads=reads, slow=slow)

    def _ask(self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False) -> Reply:
        # most of what is asked here may be asked again: a draft is a draft
        return self._shells.ask(self._request(script, payload=payload, reads=reads, slow=slow))

    def _ask_first(self, requests: list[Request]) -> list[Reply]:
        """Ask, and find out beside it what `_probed` tells: it costs no round trip."""
        if self._probed is not None:
            return self._shells.ask_all(requests)
        probe = self._request("tar --version")
        begin = time.monotonic()
        said, *replies = self._shells.ask_all([probe, *requests])
        waited = time.monotonic() - begin
        # the first reply comes after a round trip
        self._probed = (self._shells.round_trip or waited, b"GNU tar" in said.out)
        return replies

    def _probe(self) -> tuple[float, bool]:
        """The round trip in seconds, and whether the far side's tar takes a list of names."""
        if self._probed is None:
            self._ask_first([])
        if self._probed is None:
            raise AssertionError("it was asked")
        return self._shells.round_trip or self._probed[0], self._probed[1]

    def _again(self, meter: Meter, work: Callable[[], _T]) -> _T:
        """Go on after a lost connection, as long as each try finds more of the try before."""
        tries, best, begun = 0, -1, meter.bytes
        while True:
            meter.again(begun)
            try:
                return work()
            except (MasterGone, ConnectionLost):
                tries = 0 if meter.found > best else tries + 1
                best = max(best, meter.found)
                if tries >= _MOST_TRIES:
                    raise
                self._shells.revive()

    def _error(self, number: int, path: PathLike, text: str = "") -> OSError:
        return OSError(number, text or os.strerror(number), f"{self._host}:{path_text(path)}")

    def _failed(self, reply: Reply, path: PathLike) -> OSError:
        number = reply_errno(reply)
        said = reply.errors.strip()
        text = f"{os.strerror(number)} ({said[-300:]})" if number == errno.EIO and said else ""
        return self._error(number, path, text)


def _sweep(directory: Path) -> None:
    """Remove claims of transfers that were killed."""
    before = time.time() - _FORGOTTEN
    for entry in os.scandir(directory):
        # somebody else may remove it too
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            # a new one may be about to be locked
            if entry.stat(follow_symlinks=False).st_mtime < before:
                descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def _secret() -> bytes:
    """What keeps others from computing names of drafts: the words of a transfer can be seen by ps(1).

    It is kept, so that a broken transfer finds its draft again. Where it cannot be, each begins anew.
    """
    with contextlib.suppress(OSError, OpenSshTransportError):
        path = state_directory() / "drafts"
        if not path.exists():
            fresh = path.with_name(f"drafts.{secrets.token_hex(8)}")
            try:
                with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(secrets.token_bytes(32))
                # complete at once, and of several the first
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        if len(secret := path.read_bytes()) == 32:
            return secret
    return secrets.token_bytes(32)


@contextlib.contextmanager
def claimed(*words: object) -> Iterator[str]:
    """The name of a draft, which nobody else of this user and machine has meanwhile.

    Args:
        words: what it is of, and what it will become; the same ones lead to the same draft again.
    """
    # another machine may have another file of the same name, size and time
    text = "\0".join(map(str, (platform.node(), os.geteuid(), *words)))
    name = hashlib.sha256(_secret() + text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    directory = runtime_directory() / "moving"
    directory.mkdir(mode=0o700, exist_ok=True)
    _sweep(directory)
    path = directory / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        ours = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who had it before may just have removed it
            ours = os.fstat(descriptor).st_nlink > 0
        except BlockingIOError:
            ours = False
        try:
            yield name if ours else secrets.token_hex(8)
        finally:
            if ours:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def outcome(failures: Sequence[OSError], meter: Meter) -> Transferred:
    """What put and get return, or raise.

    Raises:
        OSError: the only failure.
        TransferFailed: several.
    """
    result = meter.end()
    if not failures:
        return result
    if len(failures) == 1:
        raise failures[0]
    first = failures[0]
    error = TransferFailed(
        first.errno, f"{len(failures)} files were not moved, the first: {first.strerror}", first.filename
    )
    error.failures, error.result = tuple(failures), result
    raise error


def followed(path: str) -> Path:
    """As os.path.realpath, but for somebody else's link in a directory to which everybody can write.

    Linux follows none either where fs.protected_symlinks is set (proc(5)), but looks at the last link only,
    and containers may have it off.

    Raises:
        PermissionError: there is such a link.
    """
    done, left, links = "/", os.path.join(os.getcwd(), path).split("/")[::-1], 0
    while left:
        piece = left.pop()
        if piece in {"", ".", ".."}:
            done = os.path.dirname(done) if piece == ".." else done
            continue
        here = os.path.join(done, piece)
        try:
            seen = os.lstat(here)
        except OSError:
            # nothing is there yet; why else, is told by what opens it
            seen = None
        if seen is None or not modes.S_ISLNK(seen.st_mode) or links == _MOST_LINKS:
            done = here
            continue
        links += 1
        above = os.stat(done)
        if above.st_mode & modes.S_IWOTH and seen.st_uid not in {os.geteuid(), above.st_uid}:
            words = "somebody else's link, in a directory to which everybody can write"
            raise PermissionError(errno.EACCES, words, here)
        to = os.readlink(here)
        done = "/" if to.startswith("/") else done
        left += to.split("/")[::-1]
    return Path(done)


def listed(source: Sources) -> list[PathLike]:
    """One source, or several.

    Raises:
        SettingsError: there is none.
    """
    found = [source] if isinstance(source, str | bytes | os.PathLike) else list(source)
    if not found:
        raise SettingsError("no source", advice="name one")
    return found


def local_sources(source: Sources, failures: list[OSError]) -> list[str]:
    """Paths of this side, with patterns and `~` expanded.

    Args:
        source: as they are named.
        failures: of several, those that are not there are told here.

    Raises:
        FileNotFoundError: the only one is not there, or a pattern matches nothing.
        SettingsError: there is none.
    """
    found: list[str] = []
    named = listed(source)
    for one in named:
        text = os.path.expanduser(path_text(one))
        try:
            if not os.path.lexists(text) and WILD & set(text):
                matched = sorted(glob.glob(text, recursive=True))
                if not matched:
                    raise FileNotFoundError(errno.ENOENT, "nothing matches the pattern", text)
                found += matched
            else:
                os.stat(text)
                found.append(text)
        except OSError as reason:
            if isinstance(reason, ConnectionFailed) or len(named) == 1:
                raise
            failures.append(reason)
    return found


def flag(value: bool) -> str:
    """A word of sh that is empty for False."""
    return "yes" if value else "''"


def permissions(stat: Stat | os.stat_result) -> int:
    """The permissions of a file, without what runs it as somebody else."""
    mode = stat.mode if isinstance(stat, Stat) else stat.st_mode
    return modes.S_IMODE(mode) & 0o777


def sums(raw: bytes) -> dict[str, str]:
    """What `sums_of` of `transfer.sh` prints, by name."""
    found = {}
    for line in raw.split(b"\0"):
        total, _, name = line.partition(b"  ")
        if name:
            found[os.fsdecode(name).removeprefix("./")] = total.decode("ascii", "replace")
    return found
