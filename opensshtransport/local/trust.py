"""Whether nobody else can write to a file: its owner, mode and links, and those of all directories above.

One rule for everything that is sourced, read or locked in our directories. `ossh-run` has it too, in sh
(`trusted`). The trap: a directory that was once open to others may contain what they have left, although it
is closed now. So each file is checked by itself, through the descriptor by which it is used.
"""

from __future__ import annotations

import enum
import os
import stat
from pathlib import Path

from opensshtransport.errors import SettingsError

# How a user namespace may show root (user_namespaces(7)); nobody logs in as this user.
_NOBODY = 65534

# The one problem that can be corrected, if nobody has left anything.
OPEN = "is open to others"


class Kind(enum.Enum):
    """What is on the way to a file."""

    ABOVE = "above our directories"
    DIRECTORY = "a directory of ours"
    FILE = "a file of ours"


def distrust(seen: os.stat_result, kind: Kind, uid: int) -> str:
    """Why something must not be trusted, as a predicate; "" if it may be.

    Args:
        seen: what lstat(2) says about it.
        kind: its place on the way.
        uid: who we are.
    """
    mode, owner = seen.st_mode, seen.st_uid
    owners = {uid, 0, _NOBODY} if kind is Kind.ABOVE else {uid}
    # in a sticky directory, others may rename only their own files (inode(7))
    closed = bool(mode & stat.S_ISVTX) if kind is Kind.ABOVE else False
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if kind is Kind.FILE and not stat.S_ISREG(mode):
        return "is not a regular file"
    if kind is not Kind.FILE and not stat.S_ISDIR(mode):
        return "is not a directory"
    if owner not in owners:
        return f"belongs to user {owner}"
    if kind is Kind.FILE and seen.st_nlink != 1:
        return "has another hard link, which may be anybody's"
    if mode & (0o077 if kind is Kind.DIRECTORY else 0o022) and not closed:
        return OPEN
    return ""


def doubt_above(path: Path, uid: int) -> str:
    """Why we must not use a directory: others can change it, or one above it; "" if they cannot.

    Raises:
        OSError: it is not there.
    """
    real = path.resolve(strict=True)
    for above in (real, *real.parents):
        if problem := distrust(above.lstat(), Kind.ABOVE, uid):
            return f"{above} {problem}"
    return ""


def open_ours(path: Path, flags: int) -> int:
    """Open a file of ours, created with mode 0600 if `flags` has O_CREAT; returns the descriptor.

    Raises:
        SettingsError: it is not ours alone.
        OSError: as open(2).
    """
    try:
        # opening a fifo would block
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError:
        problem = _seen_by_name(path)
        if not problem:
            raise
    else:
        problem = distrust(os.fstat(file), Kind.FILE, os.getuid())
        if not problem:
            return file
        os.close(file)
    raise SettingsError(
        f"{path} {problem}", topic="security", advice="somebody may have planted it: remove it"
    )


def read_ours(path: Path) -> str:
    """The text of a file of ours.

    Raises:
        As `open_ours`; ValueError: it is not UTF-8.
    """
    with open(open_ours(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def _seen_by_name(path: Path) -> str:
    try:
        return distrust(path.lstat(), Kind.FILE, os.getuid())
    except OSError:
        return ""
