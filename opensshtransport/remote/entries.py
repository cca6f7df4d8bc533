"""What is known about a file, parsed from what stat(1) prints on the host. No I/O."""

from __future__ import annotations

import errno
import os
import re
import stat as modes
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from opensshtransport.remote.strerror import errno_of


def _moment(number: int) -> str:
    """The pattern of one time: seconds and a fraction, or busybox's seconds and its date with a fraction.

    Only a date has a zone after it; otherwise that is the next time, or the name.
    """
    date = rf"(?P<date{number}>-?\d+-\d\d-\d\d \d\d:\d\d:\d\d\.)"
    return rf"(-?\d+)\.{date}?(\d{{1,9}})\d*(?(date{number})(?: [+-]\d{{4}})?)"


_RECORD = re.compile(
    rf"([0-9a-f]+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) {_moment(1)} {_moment(2)} {_moment(3)} (.*?)\n?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Stat:
    """What lstat(2) returns about a file; times in nanoseconds since the epoch, the size in bytes."""

    mode: int
    size: int
    uid: int
    gid: int
    nlink: int
    ino: int
    dev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def type(self) -> str:
        """`file`, `directory`, `symlink`, `fifo`, `socket`, `block` or `character`."""
        return _TYPES.get(modes.S_IFMT(self.mode), "unknown")

    @property
    def permissions(self) -> int:
        """The mode without the file's type."""
        return modes.S_IMODE(self.mode)

    @property
    def atime(self) -> float:
        """The time of the last access, in seconds."""
        return self.atime_ns / 1e9

    @property
    def mtime(self) -> float:
        """The time of the last change of the content, in seconds."""
        return self.mtime_ns / 1e9


_TYPES = {
    modes.S_IFREG: "file",
    modes.S_IFDIR: "directory",
    modes.S_IFLNK: "symlink",
    modes.S_IFIFO: "fifo",
    modes.S_IFSOCK: "socket",
    modes.S_IFBLK: "block",
    modes.S_IFCHR: "character",
}


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name in a directory. Names follow os.DirEntry; nothing here takes a further round trip.

    Attributes:
        name: the name alone.
        path: the directory as the caller named it, and the name.
        stat: as lstat returns it.
        target: what a symlink leads to; None if it is not a symlink, or dangling.
    """

    name: str
    path: str
    stat: Stat
    target: Stat | None = None

    def _mode(self, follow_symlinks: bool) -> int:
        if follow_symlinks and self.is_symlink():
            return self.target.mode if self.target else 0
        return self.stat.mode

    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return modes.S_ISLNK(self.stat.mode)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory, or leads to one."""
        return modes.S_ISDIR(self._mode(follow_symlinks))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file, or leads to one."""
        return modes.S_ISREG(self._mode(follow_symlinks))


class DiskUsage(NamedTuple):
    """As shutil.disk_usage returns it, in bytes."""

    total: int
    used: int
    free: int


def _time(seconds: str, date: str | None, fraction: str) -> int:
    fraction = fraction.ljust(9, "0")
    # GNU writes -1.5 for half a second before -1; busybox rounds down
    return int(seconds) * 10**9 + int(fraction) if date else int(seconds + fraction)


def records(raw: bytes, token: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[str, Stat]]:
    """Read records, each `TOKEN fields name`: names and their attributes, in order.

    One at a time, because there may be any number of them.

    Args:
        raw: the bytes that contain them.
        token: begins each.
        begin: where to begin.
        end: where to end.
    """
    mark = f"{token} ".encode()
    end = len(raw) if end is None else end
    begin = raw.find(mark, begin, end)
    while begin >= 0:
        after = raw.find(mark, begin + len(mark), end)
        record = os.fsdecode(raw[begin + len(mark) : end if after < 0 else after])
        begin = after
        match = _RECORD.fullmatch(record)
        if match is None:
            raise ValueError(f"a record from the server cannot be read: {record!r}")
        mode, nlink, ino, dev, size, uid, gid, *times, name = match.groups()
        stat = Stat(
            int(mode, 16),
            *(int(size), int(uid), int(gid), int(nlink), int(ino), int(dev)),
            *(_time(*times[:3]), _time(*times[3:6]), _time(*times[6:])),
        )
        yield name, stat


def parse_records(raw: bytes, token: str) -> dict[str, Stat]:
    """Read records, each `TOKEN fields name`; by name, in order."""
    return dict(records(raw, token))


def parse_trees(raw: bytes, mark: str) -> dict[str, dict[str, DirEntry]]:
    """Read what `below` of `files.sh` prints.

    Returns:
        For each top, as it was expanded on the host, the entries by their path below it.
    """
    found: dict[str, dict[str, DirEntry]] = {}
    for tree in raw.split(f"{mark} tree ".encode())[1:]:
        top, _, rest = tree.partition(b"\0")
        entries, _, links = rest.partition(f"{mark} links\n".encode())
        targets = parse_records(links, mark)
        skip = len(os.fsdecode(top)) + 1
        found[os.fsdecode(top)] = {
            name[skip:]: DirEntry(name.rpartition("/")[2], name, entry, targets.get(name))
            for name, entry in parse_records(entries, mark).items()
        }
    return found


# Not a gap of a listing: names that disappeared meanwhile, and links in a circle, which are listed as links.
_NO_GAP = {errno.ENOENT, errno.ELOOP}

_CIRCLE = "File system loop detected"


def unlisted(said: str, top: str, closed: Container[str] = ()) -> list[tuple[int, str]]:
    """What a listing lacks, according to find and stat: beyond PATH_MAX, on a broken disk, or not permitted.

    Args:
        said: their words.
        top: the directory that was listed, as it was expanded on the host.
        closed: directories that are known not to be readable; messages about these are left out.

    Returns:
        For each an errno and its path; that of the top if the message has none.
    """
    gaps = []
    for line in said.splitlines():
        number = errno_of(line) or errno.EIO
        if number in _NO_GAP or _CIRCLE in line:
            continue
        # some programs put names in quotes
        path = line[line.index(top) :].rpartition(": ")[0].removesuffix("'") if top in line else top
        above = path
        while len(above) > len(top) and above not in closed:
            above = above.rpartition("/")[0]
        if number != errno.EACCES or above not in closed:
            gaps.append((number, path))
    return gaps
