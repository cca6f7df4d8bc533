"""Drafts: files that arrive under a temporary name next to their destination, until they are complete.

The trap: a draft's name depends on what it will become, so that a resumed transfer finds it again. Two
transfers of the same file would share it, and one could publish what the other has not finished. So a draft
is claimed, and a second transfer gets another one. Nobody else can know its name beforehand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat as modes
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opensshtransport.errors import OpenSshTransportError
from opensshtransport.local.settings import runtime_directory, state_directory
from opensshtransport.remote.entries import Stat
from opensshtransport.transfer import archive
from opensshtransport.transfer.in_place import appear
from opensshtransport.transfer.items import Item
from opensshtransport.transfer.options import How

_PIECE = 1 << 18

# Linux opens even directories that cannot be listed.
_AS_A_PATH: int = getattr(os, "O_PATH", os.O_RDONLY)


def file_sum(path: str | Path) -> str:
    """The sha256 of a local file's content."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def beginning_sum(descriptor: int, size: int) -> str:
    """The sha256 of this many bytes of a local file, or of all if there are fewer."""
    digest, offset = hashlib.sha256(), 0
    while offset < size and (piece := os.pread(descriptor, min(_PIECE, size - offset), offset)):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def ours_alone(seen: os.stat_result, kind: int) -> bool:
    """Whether nobody else can write to a draft: by type (S_IFDIR or S_IFREG), owner, mode and hard links."""
    return (
        modes.S_IFMT(seen.st_mode) == kind
        and seen.st_uid == os.geteuid()
        and not seen.st_mode & 0o077
        and (kind == modes.S_IFDIR or seen.st_nlink == 1)
    )


def draft_beside(parent: Path, key: str) -> Path:
    """The draft of what will be in a directory; files.sh (`beside`) names those on the remote side."""
    return parent / f".ossh-{key}"


def own_key(parent: Path, key: str, kind: int) -> str:
    """The name of a draft, or another one if somebody else could write to what has that name."""
    try:
        seen = draft_beside(parent, key).lstat()
    except OSError:
        return key
    return key if ours_alone(seen, kind) else secrets.token_hex(8)


def still_ours(seen: os.stat_result, kind: int, parent: Path) -> bool:
    """Whether a draft that was ours alone is still ours: some file systems have neither owners nor modes."""
    if modes.S_IFMT(seen.st_mode) != kind or (kind == modes.S_IFREG and seen.st_nlink != 1):
        return False
    return seen.st_uid == os.geteuid() or not parent.stat().st_mode & 0o022


@contextlib.contextmanager
def anchored(directory: Path, *, shown: Path | None = None) -> Iterator[Path]:
    """A directory, but no link, by a path that leads to it even if somebody puts a link in its place.

    Raises:
        OSError: it does not exist, or is a link; about `shown`, if that is given.
    """
    try:
        descriptor = os.open(directory, _AS_A_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as reason:
        raise OSError(reason.errno, reason.strerror, str(shown or directory)) from None
    try:
        # by the process number: sftp writes there, too
        inside = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield inside if inside.is_dir() else directory
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(draft: Path) -> Iterator[Path]:
    """A draft, created if missing, by a path that leads to it even if somebody puts a link in its place.

    Raises:
        OSError: it cannot be created, or is not ours.
    """
    with contextlib.suppress(FileExistsError):
        draft.mkdir(mode=0o700)
    with anchored(draft) as inside:
        if not still_ours(inside.stat(), modes.S_IFDIR, draft.parent):
            raise FileExistsError(errno.EEXIST, "somebody else's draft is in the way", str(draft))
        yield inside


def arrange(
    draft: Path, final: Path, how: How, *, shown: Path, new: bool, failed: Callable[[OSError], object]
) -> None:
    """Move what was unpacked to its names; those that fail are reported, and the others appear.

    Args:
        draft: what was unpacked.
        final: the tree; `anchored` if it exists already.
        how: whether existing files are replaced, and directories get the modes and times of the source.
        shown: how errors name it.
        new: whether it does not exist yet.
        failed: called for each that fails.
    """
    if new and not os.path.lexists(final):
        try:
            draft.rename(final)
        except OSError as reason:
            # somebody else may have put one there meanwhile
            if reason.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
    with held(draft) as inside, anchored(final) if new else contextlib.nullcontext(final) as top:

        def lost(place: Path, reason: OSError) -> None:
            failed(OSError(reason.errno, reason.strerror, str(shown / place.relative_to(top))))

        _merge(inside, top, how, lost)
    remove(draft)


def _merge(draft: Path, final: Path, how: How, failed: Callable[[Path, OSError], object]) -> None:
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
                    if _made(place) or how.preserve:
                        dated.append((place, seen))
                    archive.chmod_directory(Path(entry.path), 0o700)
                    above.append((Path(entry.path), place))
                else:
                    appear(entry.path, place, exist_ok=how.overwrite, preserve=how.preserve)
            except OSError as reason:
                failed(place, reason)
    for place, seen in reversed(dated):
        with contextlib.suppress(OSError):
            archive.chmod_directory(place, modes.S_IMODE(seen.st_mode))
            if how.preserve:
                os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def _group(target: Path) -> int | None:
    """The group that files in a directory should get: its own, if it is set-group-ID."""
    seen = target.stat()
    return seen.st_gid if seen.st_mode & modes.S_ISGID else None


def _made(place: Path) -> bool:
    """Create a directory unless there is one; a link to a directory is not one."""
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        if place.is_symlink() or not place.is_dir():
            raise
        return False
    return True


def make_parents(top: Path, name: str) -> None:
    """Create the directories above a name, passing through no link.

    Raises:
        NotADirectoryError: something else has the name.
    """
    path = top
    for piece in name.split("/")[:-1]:
        path /= piece
        if path.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(path.stat().st_mode & 0o7777 | 0o700)


def remove(top: Path) -> None:
    """Remove a tree if it exists, including directories that cannot be written to."""
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


# Seconds after which an untouched draft is abandoned.
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
                # by both times: the draft of a file may already have the time of its source
                if max(seen.st_mtime, seen.st_ctime) > before or seen.st_uid != os.geteuid():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


# Seconds after which a claim that nobody holds is that of a killed transfer.
_FORGOTTEN = 3600.0


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
    """The secret that keeps others from computing the names of drafts: ps(1) shows a transfer's paths.

    It is stored, so that a resumed transfer finds its draft again. If it cannot be stored, each starts anew.
    """
    with contextlib.suppress(OSError, OpenSshTransportError):
        path = state_directory() / "drafts"
        if not path.exists():
            fresh = path.with_name(f"drafts.{secrets.token_hex(8)}")
            try:
                with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(secrets.token_bytes(32))
                # complete at once, and the first of several counts
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        if len(secret := path.read_bytes()) == 32:
            return secret
    return secrets.token_bytes(32)


@contextlib.contextmanager
def claimed(*words: object) -> Iterator[str]:
    """The name of a draft, which no other process of this user on this machine uses within the block.

    Args:
        words: what it is a draft of, and what it will become; the same words give the same draft again.
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
            # its previous owner may just have removed it
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


def permissions(stat: Stat | os.stat_result) -> int:
    """The permissions of a file, without set-user-ID and set-group-ID."""
    mode = stat.mode if isinstance(stat, Stat) else stat.st_mode
    return modes.S_IMODE(mode) & 0o777


def begins(item: Item, size: int) -> str | None:
    """The checksum of this many bytes of a local file, if it has them."""
    with contextlib.suppress(OSError), open(item.path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size >= size:
            return beginning_sum(file.fileno(), size)
    return None


# As many as Linux follows at most (path_resolution(7)).
_MOST_LINKS = 40


def followed(path: str) -> Path:
    """As os.path.realpath, except for another user's link in a directory that everybody can write to.

    Linux does not follow these either if fs.protected_symlinks is set (proc(5)), but it checks only the last
    link, and containers may have it off.

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
            # nothing exists there yet; any other reason is reported when it is opened
            seen = None
        if seen is None or not modes.S_ISLNK(seen.st_mode) or links == _MOST_LINKS:
            done = here
            continue
        links += 1
        above = os.stat(done)
        if above.st_mode & modes.S_IWOTH and seen.st_uid not in {os.geteuid(), above.st_uid}:
            words = "somebody else's link, in a directory that everybody can write to"
            raise PermissionError(errno.EACCES, words, here)
        to = os.readlink(here)
        done = "/" if to.startswith("/") else done
        left += to.split("/")[::-1]
    return Path(done)
