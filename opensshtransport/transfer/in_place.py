"""How what has arrived takes its name: by a rename if it is new, else written over what is there.

An existing file keeps its inode, its mode and its hard links. The price: while it is written over, a reader
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

# Bytes of holes that are worth keeping.
_WORTHY_HOLES = 1 << 20

# Seconds that another writer of the same file is waited for, and how often it is looked.
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
    """Give a complete draft its name; a regular file that is there gets the content, and stays the same file.

    So it does for `cp`: inode, owner, mode and hard links stay, and who has it open reads the new content.
    The trap: that takes its time. Where it fails, the draft takes the name, which so has all of it.

    Args:
        draft: a file or a link.
        final: its name.
        exist_ok: whether somebody may have this name.
        preserve: a file that is there gets mode and times too.
        mode: what the draft gets before it appears, as nobody else can read it until then; None: what it has.
        durable: what is written over is on the disk before the draft goes.

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
            # whatever became of it, the name has all
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
    # names of one file are to be names of one file there too
    return modes.S_ISREG(ours.st_mode) and modes.S_ISREG(theirs.st_mode) and ours.st_nlink == 1


def _write_over(draft: str | Path, final: Path, preserve: bool, durable: bool) -> None:
    """Write a draft's content into a file that is there; on a full disk that is as it was."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        open(draft, "rb", buffering=0) as source,
        os.fdopen(os.open(final, flags), "wb", buffering=0) as file,
    ):
        _lock(file.fileno())
        new, old = os.fstat(source.fileno()), os.fstat(file.fileno())
        # over what is there, holes would take room
        afresh = bool(old.st_size) and new.st_size - new.st_blocks * 512 >= _WORTHY_HOLES
        begin = 0 if afresh else min(old.st_size, new.st_size)
        try:
            # what needs room comes first
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
    """Of two that write at once, each is to be whole; a lock that is held for long has another purpose."""
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
    """Give a file a name that nobody has: link(2) takes none twice.

    Raises:
        FileExistsError: somebody has it.
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
