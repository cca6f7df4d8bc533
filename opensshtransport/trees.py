"""Trees of files: tar streams, several side by side over a long way; at the end they become the tree.

Both directions unpack into a draft directory beside the destination, or inside of it, so that a file appears
under its name by one rename(2), and a broken transfer finds there what it need not move again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat as modes
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from opensshtransport import archive
from opensshtransport.appearing import appear
from opensshtransport.items import Item
from opensshtransport.meter import Meter
from opensshtransport.session import Session
from opensshtransport.shell import Reply
from opensshtransport.shells import Shells
from opensshtransport.stripes import Part, move

__all__ = [
    "Failed",
    "arrange",
    "beginning_sum",
    "dealt",
    "file_sum",
    "held",
    "make_parents",
    "modes_of",
    "no_link",
    "opened",
    "ours_alone",
    "own_key",
    "pack_small",
    "receive_tree",
    "remove",
    "remove_links",
    "send_tree",
    "still_ours",
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
        wanted = {item.name: item for item in share}

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
                    listed=wanted,
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


def ours_alone(seen: os.stat_result, kind: int) -> bool:
    """Whether nobody else can have a hand in a draft: by type (S_IFDIR or S_IFREG), owner, mode and names."""
    return (
        modes.S_IFMT(seen.st_mode) == kind
        and seen.st_uid == os.geteuid()
        and not seen.st_mode & 0o077
        and (kind == modes.S_IFDIR or seen.st_nlink == 1)
    )


def own_key(parent: Path, key: str, kind: int) -> str:
    """The name of a draft, or another one where somebody else has a hand in what is called so."""
    try:
        seen = (parent / f".ossh-{key}").lstat()
    except OSError:
        return key
    return key if ours_alone(seen, kind) else secrets.token_hex(8)


def still_ours(seen: os.stat_result, kind: int, parent: Path) -> bool:
    """Whether a draft that was ours alone is still ours: some file systems have neither owners nor modes."""
    if modes.S_IFMT(seen.st_mode) != kind or (kind == modes.S_IFREG and seen.st_nlink != 1):
        return False
    return seen.st_uid == os.geteuid() or not parent.stat().st_mode & 0o022


@contextlib.contextmanager
def held(draft: Path) -> Iterator[Path]:
    """A draft, made if it is not there, by a path that leads to it even if somebody puts a link in its place.

    Raises:
        OSError: it cannot be made, or is not ours.
    """
    with contextlib.suppress(FileExistsError):
        draft.mkdir(mode=0o700)
    descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not still_ours(os.fstat(descriptor), modes.S_IFDIR, draft.parent):
            raise FileExistsError(errno.EEXIST, "somebody else's draft is in the way", str(draft))
        # by the process: sftp writes there, too
        inside = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield inside if inside.is_dir() else draft
    finally:
        os.close(descriptor)


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
    no_link(final)
    with held(draft) as inside:
        _merge(inside, final, exist_ok=exist_ok, preserve=preserve, failed=failed)
    remove(draft)


def _merge(
    draft: Path, final: Path, *, exist_ok: bool, preserve: bool, failed: Callable[[OSError], object]
) -> None:
    above = [(draft, final)]
    dated: list[tuple[Path, os.stat_result]] = []
    while above:
        source, target = above.pop()
        group = _group(target)
        for entry in list(os.scandir(source)):
            place = target / entry.name
            try:
                if group is not None and not entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        os.chown(entry.path, -1, group, follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    seen = entry.stat()
                    if _made(place) or preserve:
                        dated.append((place, seen))
                    archive.chmod_directory(Path(entry.path), 0o700)
                    above.append((Path(entry.path), place))
                else:
                    appear(entry.path, place, exist_ok=exist_ok, preserve=preserve)
            except OSError as reason:
                failed(OSError(reason.errno, reason.strerror, str(place)))
    for place, seen in reversed(dated):
        with contextlib.suppress(OSError):
            archive.chmod_directory(place, modes.S_IMODE(seen.st_mode))
            if preserve:
                os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def no_link(final: Path) -> None:
    """See that a directory, whose path had no links when it was looked at, is none by now.

    Raises:
        NotADirectoryError: somebody has put one there.
    """
    if final.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final))


def _group(target: Path) -> int | None:
    """The group that files moved to a directory are to have: where that is set-group-ID, its own."""
    seen = target.stat()
    return seen.st_gid if seen.st_mode & modes.S_ISGID else None


def _made(place: Path) -> bool:
    """Make a directory, if it is not there; through a link, whoever has made it, is not there."""
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        if place.is_symlink() or not place.is_dir():
            raise
        return False
    return True


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
                archive.chmod_directory(path, 0o700)


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
