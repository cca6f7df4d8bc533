"""Records of stat(1), as GNU's and busybox's write them, and the errno that words mean."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.remote.entries import Stat, parse_records, parse_trees
from opensshtransport.remote.strerror import errno_of

MARK = "0123456789abcdef"
names = st.binary(min_size=1, max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"\n")))
numbers = st.integers(0, 2**63)
moments = st.integers(-(2**40) * 10**9, 2**40 * 10**9)


def gnu_time(moment: int) -> str:
    """As `%.9Y` of coreutils: the sign is that of the whole number."""
    sign = "-" if moment < 0 else ""
    return f"{sign}{abs(moment) // 10**9}.{abs(moment) % 10**9:09}"


def busybox_time(moment: int) -> str:
    """As `%Y.%y` of busybox: floored seconds, and the date with the fraction."""
    return f"{moment // 10**9}.2023-01-02 03:04:05.{moment % 10**9:09} +0000"


def record(name: str, stat: Stat, time: object) -> bytes:
    """One record as the remote side prints it."""
    write = gnu_time if time == "gnu" else busybox_time
    times = " ".join(map(write, (stat.atime_ns, stat.mtime_ns, stat.ctime_ns)))
    head = f"{stat.mode:x} {stat.nlink} {stat.ino} {stat.dev} {stat.size} {stat.uid} {stat.gid}"
    return os.fsencode(f"{MARK} {head} {times} {name}\n")


stats = st.builds(
    Stat,
    *(
        st.integers(0, 0o177777),
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
        moments,
        moments,
        moments,
    ),
)


@pytest.mark.parametrize("tools", ["gnu", "busybox"])
@given(files=st.dictionaries(names, stats, max_size=8))
def test_records(tools: str, files: dict[str, Stat]) -> None:
    """Whatever a name looks like, and whenever a file was changed: each record is read as it was written."""
    assert parse_records(b"".join(record(name, stat, tools) for name, stat in files.items()), MARK) == files


def test_unknown_records() -> None:
    """What cannot be read is an error and not a guess."""
    with pytest.raises(ValueError, match="cannot be read"):
        parse_records(f"{MARK} 81a4 1 2 3 4 5 6 yesterday x\n".encode(), MARK)


def test_trees() -> None:
    """Entries are named by their path below the top, and links know what they lead to."""
    stat, link = Stat(0o100644, 5, 1, 1, 1, 1, 1, 0, 0, 0), Stat(0o120777, 1, 1, 1, 1, 1, 1, 0, 0, 0)
    raw = (
        f"{MARK} tree /top\0".encode()
        + record("/top/a", stat, "gnu")
        + record("/top/d/l", link, "gnu")
        + f"{MARK} links\n".encode()
        + record("/top/d/l", stat, "gnu")
    )
    ((top, entries),) = parse_trees(raw, MARK).items()
    assert top == "/top"
    assert set(entries) == {"a", "d/l"}
    found = entries["d/l"]
    assert (found.name, found.is_symlink(), found.is_file(), found.is_file(follow_symlinks=False)) == (
        *("l", True, True, False),
    )
    assert (found.stat.type, found.stat.permissions, entries["a"].stat.mtime) == ("symlink", 0o777, 0.0)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("stat: cannot statx 'x': No such file or directory\n", errno.ENOENT),
        (
            "rm: cannot remove 'a/b': Permission denied\nrm: cannot remove 'a/c': Directory not empty",
            errno.ENOTEMPTY,
        ),
        ("cat: write error: Disk quota exceeded", errno.EDQUOT),
        ("cp: error writing 'x': Quota exceeded", errno.EDQUOT),
        ("cat: write error: No space left on device", errno.ENOSPC),
        ("sh: 1: cannot create x: Directory nonexistent", errno.ENOENT),
        ("sh: can't create /x: Read-only file system", errno.EROFS),
        ("stat: can't stat 'l': Symbolic link loop", errno.ELOOP),
        ("stat: can't stat 'a\nb': Filename too long", errno.ENAMETOOLONG),
        ("mv: cannot move 'a' to a subdirectory of itself, 'a/b'", errno.EINVAL),
        ("chmod: cannot operate on dangling symlink 'l'", errno.ENOENT),
        ("rmdir: failed to remove 'l/': Symbolic link not followed", errno.ENOTDIR),
        ("sh: sha1sum: not found", errno.ENOSYS),
        ("touch: setting times of 'x': Stale file handle", errno.ESTALE),
        ("ossh: EISDIR", errno.EISDIR),
        ("ossh: ENOSUCHTHING", None),
        ("mv: 'No such file or directory' is in the way", None),
        ("", None),
    ],
)
def test_errno_of(said: str, number: int | None) -> None:
    """The end of the last line decides, in glibc's, musl's, busybox's and dash's words; a name does not."""
    assert errno_of(said) == number
