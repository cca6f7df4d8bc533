"""Trees of files: tar streams, several side by side over a long way; at the end they become the tree.

Both directions unpack into a draft directory beside the destination, or inside of it, so that a file appears
under its name by one rename(2), and a broken transfer finds there what it need not move again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat as modes
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from opensshtransport import archive
from opensshtransport.items import Item
from opensshtransport.meter import Meter
from opensshtransport.session import Session
from opensshtransport.shell import Reply
from opensshtransport.shells import Shells
from opensshtransport.stripes import Part, move

__all__ = [
    "Failed",
    "appear",
    "arrange",
    "beginning_sum",
    "dealt",
    "file_sum",
    "make_parents",
    "modes_of",
    "opened",
    "pack_small",
    "receive_tree",
    "remove",
    "remove_links",
    "rename_new",
    "send_tree",
    "sweep",
]

_PIECE = 1 << 18


def file_sum(path: str | Path) -> str:
    """The sha256 of a local file's content."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - paths come as text from a listing
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def beginning_sum(descriptor: int, size: int) -> str:
    """The sha256 of so many bytes of a local file, or of all if there are less."""
    digest, offset = hashlib.sha256(), 0
    while offset < size and (piece := os.pread(descriptor, min(_PIECE, size - offset), offset)):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def dealt(items: Sequence[Item], streams: int) -> list[list[Item]]:
    """Items in about equal shares; directories, and hard links, are all in the first one's care."""
    if streams <= 1:
        return [list(items)]
    shares: list[list[Item]] = [[] for _ in range(streams)]
    sizes = [0] * streams
    for item in items:
        together = item.kind == "directory" or item.twin is not None
        number = 0 if together else sizes.index(min(sizes))
        shares[number].append(item)
        # a small file costs its header, and the far side's work for it
        sizes[number] += item.size + 4096
    return [share for share in shares if share]


Failed = Callable[[str, OSError], object]

# Below this a draft has what it will become; beside it, what `commit` of `transfer.sh` must know.
_TOP = "t/"


def opened(items: Iterable[Item]) -> list[Item]:
    """With directories that can be written to, since one without that must get its content first."""
    return [
        dataclasses.replace(item, mode=item.mode | 0o700) if item.kind == "directory" else item
        for item in items
    ]


def modes_of(items: Sequence[Item], *, preserve: bool) -> bytes:
    """What `commit` of `transfer.sh` does to directories: mode, time and name of each, the deepest first."""
    words = [
        (
            f"{item.mode if preserve else item.mode & 0o777:o}",
            archive.seconds(item.mtime_ns) if preserve else "",
            f"./{item.name}",
        )
        for item in reversed(items)
        if item.kind == "directory"
    ]
    return b"".join(os.fsencode(word) + b"\0" for three in words for word in three)


def pack_small(
    items: Iterable[Item],
    *,
    preserve: bool,
    failed: Callable[[Item, OSError], object],
    meter: Meter,
    spoilt: Sequence[str],
    modes: bytes,
) -> bytes:
    """A whole tar stream, for a tree that is small, or for the end of one.

    Args:
        items: what is in it.
        preserve: keep times and hard links.
        failed: is told what cannot be packed.
        meter: counts.
        spoilt: grows by names that must not appear, while it is packed.
        modes: see `modes_of`.
    """
    buffer = io.BytesIO()

    def counted(item: Item, size: int) -> None:
        meter.moved(size, item.name)

    def words() -> dict[str, bytes]:
        return {"spoilt": b"".join(os.fsencode(f"./{name}") + b"\0" for name in spoilt), "modes": modes}

    archive.pack(
        items, buffer, prefix=_TOP, further=words, preserve=preserve, failed=failed, progress=counted
    )
    return buffer.getvalue()


def send_tree(
    shells: Shells,
    items: Sequence[Item],
    streams: int,
    script: str,
    *,
    preserve: bool,
    failed: Callable[[Item, OSError], object],
    written: Callable[[Item, int], object],
    refused: Callable[[Reply], OSError],
    meter: Meter,
) -> None:
    """Stream items to a script that unpacks them.

    Raises:
        OSError: what the script said.
        ConnectionFailed: one of its kinds.
    """
    shares = dealt(opened(items), streams)

    def carry(session: Session, part: Part, stop: threading.Event) -> None:
        def counted(item: Item, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            meter.moved(size, item.name)

        archive.pack(
            shares[part.offset],
            session,
            prefix=_TOP,
            preserve=preserve,
            failed=failed,
            written=written,
            progress=counted,
        )

    parts = [Part(number, 0) for number in range(len(shares))]
    move(shells, parts, streams, lambda _: script, carry, refused)


def receive_tree(
    shells: Shells,
    shares: Sequence[Sequence[Item]],
    draft: Path,
    script: str,
    *,
    preserve: bool,
    listed: bool,
    failed: Callable[[str, OSError], object],
    refused: Callable[[Reply], OSError],
    meter: Meter,
) -> bool:
    """Unpack what a script packs; gives whether it had nothing to say.

    Args:
        shells: whose destination.
        shares: what is wanted, for each stream.
        draft: where to.
        script: packs what is named on its stdin, or all where `listed` is False.
        preserve: keep modes and times.
        listed: whether the far side's tar takes a list of names.
        failed: is told of each member that could not be unpacked.
        refused: makes the error of what the script said.
        meter: counts.
    """
    later: list[Callable[[], None]] = []
    said: list[Reply] = []
    mine = threading.local()

    def carry(session: Session, part: Part, stop: threading.Event) -> None:
        share = shares[part.offset]
        mine.whole = False
        mtimes = {item.name: item.mtime_ns for item in share}

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError):
                if listed:
                    for item in share:
                        session.write(os.fsencode(f"./{item.name}") + b"\0")
                session.end_input()

        # beside the reading: the far side packs while it reads names, and neither waits for the other then
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()

        def counted(name: str, size: int) -> None:
            if stop.is_set():
                raise BrokenPipeError
            meter.moved(size, name)

        try:
            later.extend(
                archive.unpack(
                    session,
                    draft,
                    preserve=preserve,
                    wanted=mtimes.__contains__,
                    mtimes=mtimes,
                    failed=failed,
                    progress=counted,
                )
            )
            mine.whole = True
        except BaseException:
            session.halt()
            raise
        finally:
            asking.join()

    def told(reply: Reply) -> OSError | None:
        said.append(reply)
        # tar says what it could not read, or has changed, and packs the rest; the caller looks for that
        return None if mine.whole or not reply.errors else refused(reply)

    parts = [Part(number, 0) for number in range(len(shares))]
    move(shells, parts, len(shares), lambda _: script, carry, told)
    for settle in reversed(later):
        settle()
    return not said


def arrange(
    draft: Path,
    final: Path,
    *,
    new: bool,
    exist_ok: bool,
    preserve: bool,
    failed: Callable[[OSError], object],
) -> None:
    """What was unpacked appears under its names; each that cannot is told, and the others do.

    Args:
        draft: what was unpacked.
        final: the tree.
        new: it is not there yet.
        exist_ok: whether files that are there are replaced.
        preserve: directories that are there get the modes and times of the source.
        failed: is told of each that cannot.
    """
    if new and not os.path.lexists(final):
        try:
            draft.rename(final)
        except OSError as reason:
            # somebody else may have moved one there meanwhile
            if reason.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
    above = [(draft, final)]
    dated: list[tuple[Path, os.stat_result]] = []
    while above:
        source, target = above.pop()
        for entry in list(os.scandir(source)):
            place = target / entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    seen = entry.stat()
                    if _made(place) or preserve:
                        dated.append((place, seen))
                    Path(entry.path).chmod(0o700)
                    above.append((Path(entry.path), place))
                else:
                    appear(entry.path, place, exist_ok=exist_ok, preserve=preserve)
            except OSError as reason:
                failed(OSError(reason.errno, reason.strerror, str(place)))
    for place, seen in reversed(dated):
        with contextlib.suppress(OSError):
            place.chmod(modes.S_IMODE(seen.st_mode))
            if preserve:
                os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    remove(draft)


def _made(place: Path) -> bool:
    """Make a directory, if it is not there; through a link, whoever has made it, is not there."""
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        if place.is_symlink() or not place.is_dir():
            raise
        return False
    return True


def appear(
    draft: str | Path, final: Path, *, exist_ok: bool, preserve: bool = False, durable: bool = False
) -> None:
    """Give a complete draft its name; a regular file that is there gets the content, and stays the same file.

    So it does for `cp`: inode, owner, mode and hard links stay, and who has it open reads the new content.
    The trap: that takes its time. Where it fails, the draft takes the name, which so has all of it.

    Args:
        draft: a file or a link.
        final: its name.
        exist_ok: whether somebody may have this name.
        preserve: a file that is there gets the draft's mode and times too.
        durable: what is written over is on the disk before the draft goes.

    Raises:
        FileExistsError: somebody has the name.
        OSError: it cannot get it.
    """
    if not exist_ok:
        rename_new(draft, final)
    elif not _stays_the_same(draft, final):
        os.replace(draft, final)  # noqa: PTH105 - it may be there as text
    else:
        try:
            _write_over(draft, final, preserve, durable)
        except BaseException as reason:
            if not preserve:
                os.chmod(draft, modes.S_IMODE(final.stat().st_mode))  # noqa: PTH101 - the same
            os.replace(draft, final)  # noqa: PTH105 - the same
            if not isinstance(reason, OSError):
                raise
        else:
            os.unlink(draft)  # noqa: PTH108 - the same


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
        open(draft, "rb", buffering=0) as source,  # noqa: PTH123 - it may be there as text
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


# Bytes of holes that are worth keeping.
_WORTHY_HOLES = 1 << 20
# Seconds that another writer of the same file is waited for, and how often it is looked.
_LOCKED_FOR, _LOOK_AGAIN = 10.0, 0.02


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
        view = memoryview(b"" if offset >= size and archive.is_zeros(piece) else piece)
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
        os.rename(source, target)  # noqa: PTH104 - both are there as text
    else:
        os.unlink(source)  # noqa: PTH108 - the same


def make_parents(top: Path, name: str) -> None:
    """Make the directories above a name, which lead through no link.

    Raises:
        NotADirectoryError: something else is there.
    """
    path = top
    for piece in name.split("/")[:-1]:
        path /= piece
        if path.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(path.stat().st_mode & 0o7777 | 0o700)


def remove(top: Path) -> None:
    """Remove a tree, with directories that cannot be written to, if it is there."""
    if top.is_symlink() or not top.is_dir():
        top.unlink(missing_ok=True)
        return
    for here, directories, _ in os.walk(top):
        Path(here).chmod(0o700)
        for name in directories:
            path = Path(here, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(top, ignore_errors=True)


def remove_links(top: Path) -> None:
    """Remove all symlinks of a tree, and open its directories."""
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(here, name)
            if path.is_symlink():
                path.unlink()
            elif name in directories:
                path.chmod(0o700)


# Seconds after which a draft that nobody touches is nobody's.
_STALE = 7 * 86400.0
_DRAFT = re.compile(r"\.ossh-(?:[0-9a-f]{12}|[0-9a-f]{16})")


def sweep(directory: Path) -> None:
    """Remove drafts that nobody has touched for a week."""
    before = time.time() - _STALE
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(directory)):
            if not _DRAFT.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                seen = entry.stat(follow_symlinks=False)
                # by both times: the draft of a file may have the time of its source already
                if max(seen.st_mtime, seen.st_ctime) > before or seen.st_uid != os.geteuid():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)  # noqa: PTH108 - it is there as text
