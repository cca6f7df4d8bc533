"""How a complete draft gets its name: by a rename if it is new, else by overwriting the existing file.

An existing file keeps its inode, its mode and its hard links. The price: while it is overwritten, a reader
sees a mixture, and a full disk leaves the rest in the draft.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as modes
import time
from pathlib import Path

from opensshtransport.transfer.archive import is_zeros

_PIECE = 1 << 18

# The least bytes of holes that are worth keeping.
_WORTHY_HOLES = 1 << 20

# Seconds to wait for another writer of the same file, and between checks.
_LOCKED_FOR, _LOOK_AGAIN = 10.0, 0.02


def appear(
    draft: str | Path,
    final: Path,
    *,
    exist_ok: bool,
    preserve: bool = False,
    mode: int | None = None,
    durable: bool = False,
) -> None:
    """Give a complete draft its name; an existing regular file gets the content, and stays the same file.

    As with `cp`, inode, owner, mode and hard links stay, and a process that has it open reads the new
    content. The trap: overwriting takes time. If it fails, the draft is renamed instead, so that the name has
    all of it.

    Args:
        draft: a file or a link.
        final: its name.
        exist_ok: whether the name may exist already.
        preserve: an existing file gets mode and times too.
        mode: set before the draft appears, because nobody else can read it until then; None leaves it.
        durable: the overwritten file is on the disk before the draft is removed.

    Raises:
        FileExistsError: somebody has the name.
        OSError: it cannot get it.
    """
    if exist_ok and _stays_the_same(draft, final):
        try:
            _write_over(draft, final, preserve, durable)
            if preserve and mode is not None:
                final.chmod(mode)
        except BaseException as reason:
            # in any case, the name has all of the content
            kept = mode if preserve else modes.S_IMODE(final.stat().st_mode)
            if kept is not None:
                os.chmod(draft, kept)
            os.replace(draft, final)
            if not isinstance(reason, OSError):
                raise
        else:
            os.unlink(draft)
        return
    if mode is not None:
        os.chmod(draft, mode)
    if exist_ok:
        os.replace(draft, final)
    else:
        rename_new(draft, final)


def _stays_the_same(draft: str | Path, final: Path) -> bool:
    try:
        ours, theirs = os.lstat(draft), final.lstat()
    except FileNotFoundError:
        return False
    # hard links must become hard links again
    return modes.S_ISREG(ours.st_mode) and modes.S_ISREG(theirs.st_mode) and ours.st_nlink == 1


def _write_over(draft: str | Path, final: Path, preserve: bool, durable: bool) -> None:
    """Write a draft's content into an existing file; on a full disk that file stays as it was."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        open(draft, "rb", buffering=0) as source,
        os.fdopen(os.open(final, flags), "wb", buffering=0) as file,
    ):
        _lock(file.fileno())
        new, old = os.fstat(source.fileno()), os.fstat(file.fileno())
        # over existing content, holes would take space
        afresh = bool(old.st_size) and new.st_size - new.st_blocks * 512 >= _WORTHY_HOLES
        begin = 0 if afresh else min(old.st_size, new.st_size)
        try:
            # what needs space comes first
            if afresh:
                os.ftruncate(file.fileno(), 0)
            _copy(source.fileno(), file.fileno(), begin, new.st_size)
            if durable and begin < new.st_size:
                os.fsync(file.fileno())
        except BaseException:
            if not afresh:
                os.ftruncate(file.fileno(), old.st_size)
            raise
        _copy(source.fileno(), file.fileno(), 0, begin)
        os.ftruncate(file.fileno(), new.st_size)
        if preserve:
            os.fchmod(file.fileno(), modes.S_IMODE(new.st_mode))
            os.utime(file.fileno(), ns=(new.st_atime_ns, new.st_mtime_ns))
        if durable:
            os.fsync(file.fileno())


def _lock(descriptor: int) -> None:
    """Two that write at once must not mix; a lock that is held for long has another purpose."""
    deadline = time.monotonic() + _LOCKED_FOR
    while not _locked(descriptor) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as reason:
        # some file systems have no locks
        return reason.errno != errno.EWOULDBLOCK
    return True


def _copy(source: int, target: int, offset: int, end: int) -> None:
    """Copy a range of one file to the same place in another; zeros behind its end become a hole."""
    size = os.fstat(target).st_size
    while offset < end and (piece := os.pread(source, min(_PIECE, end - offset), offset)):
        view = memoryview(b"" if offset >= size and is_zeros(piece) else piece)
        while view:
            view = view[os.pwrite(target, view, offset + len(piece) - len(view)) :]
        offset += len(piece)


def rename_new(source: str | Path, target: Path) -> None:
    """Give a file a name that does not exist: link(2) never replaces one.

    Raises:
        FileExistsError: the name exists.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as reason:
        if reason.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES}:
            raise FileExistsError(reason.errno, reason.strerror, str(target)) from None
        # a file system without hard links
        os.rename(source, target)
    else:
        os.unlink(source)
