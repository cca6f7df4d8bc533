"""One file from the host to this machine.

The trap: the source may change while it is read; so it is checked again when all of it has arrived, before it
gets its name. If it was written to, such as a log that grows, what has arrived must be its beginning.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat as modes
import threading
from pathlib import Path

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.entries import Stat
from opensshtransport.remote.paths import quoted
from opensshtransport.sessions.stream import Session
from opensshtransport.transfer import archive, drafts
from opensshtransport.transfer.archive import CHANGED, BrokenStream
from opensshtransport.transfer.blocks import MIB, Missing, Part, block_sums, mibs_of_block, missing_parts
from opensshtransport.transfer.crew import move_file
from opensshtransport.transfer.drafts import claimed, followed, permissions
from opensshtransport.transfer.in_place import appear
from opensshtransport.transfer.items import Since, since
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.mover import DIFFER
from opensshtransport.transfer.options import How
from opensshtransport.transfer.remote_sources import Found, SourceFinder

# Bytes after which the disk should begin to write what has arrived.
_SOON_WRITTEN = 16 << 20


class FileGetting(SourceFinder):
    """Gets single files from one destination."""

    def file(self, found: Found, place: str, job: Job) -> None:
        """Get one file."""
        target = os.path.join(place, found.name) if os.path.isdir(place) else place
        if target.endswith("/"):
            number = errno.ENOTDIR if os.path.lexists(target.rstrip("/")) else errno.ENOENT
            raise OSError(number, os.strerror(number), target)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        if not job.how.overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        # a link is written through, as by open(2)
        final = followed(target)
        if is_taken(final) and final.is_file():
            # report that it cannot be written before anything has moved
            os.close(os.open(final, os.O_WRONLY | os.O_CLOEXEC))
        if found.content is not None:
            self._inline(found, final, job)
        else:
            # only by what it becomes, so that a growing file is resumed
            words = ("file", self._host, found.path, final)
            drafts.sweep(final.parent)
            with claimed(*words) as key:
                key = drafts.own_key(final.parent, key, modes.S_IFREG)
                self._again(job, lambda: self._stripes(found, final, key, job))
        job.meter.done(found.name)

    def _inline(self, found: Found, final: Path, job: Job) -> None:
        content = found.content or b""
        if found.since is not Since.NOTHING:
            # what it contained when it was looked at
            content = content[: found.stat.size]
            if found.since is Since.OTHER or len(content) < found.stat.size:
                raise self._error(errno.EBUSY, found.path, CHANGED)
        if job.how.verify or found.since is Since.PERHAPS:
            ours = hashlib.sha256(content).hexdigest()
            self._compare(found.path, len(content), ours, found.since)
        if final.exists() and not final.is_file():
            final.write_bytes(content)
        else:
            draft = drafts.draft_beside(final.parent, secrets.token_hex(8))
            try:
                descriptor = opened(draft, os.O_EXCL, final)
                with os.fdopen(descriptor, "r+b") as file:
                    file.write(content)
                    file.flush()
                    self._settle(file.fileno(), draft, final, found.stat, job.how)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        job.meter.moved(len(content), found.name)

    def _compare(self, path: str, size: int, ours: str, became: Since) -> None:
        """Make sure that what has arrived is the beginning of a file, and so no mixture of two versions."""
        theirs = self._ask(f"beginning {size} {quoted(path)}", slow=True).out[:64]
        if theirs.decode("ascii", "replace") != ours:
            number, words = (errno.EIO, DIFFER) if became is Since.NOTHING else (errno.EBUSY, CHANGED)
            raise self._error(number, path, words)

    def _settle(self, descriptor: int, draft: Path, final: Path, stat: Stat, how: How) -> None:
        """Give a complete draft its mode and times, and its name."""
        os.fsync(descriptor)
        if how.preserve:
            os.utime(descriptor, ns=(stat.atime_ns, stat.mtime_ns))
        mode = permissions(stat) & ~(0 if how.preserve else archive.umask())
        appear(draft, final, exist_ok=how.overwrite, preserve=how.preserve, mode=mode, durable=True)

    def _stripes(self, found: Found, final: Path, key: str, job: Job) -> None:
        if final.exists() and not final.is_file():
            raise OSError(errno.EINVAL, "not a regular file", str(final))
        draft = drafts.draft_beside(final.parent, key)
        if not job.how.resume:
            draft.unlink(missing_ok=True)
        descriptor = _own(draft, final)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                self._parts(
                    file.fileno(),
                    found.path,
                    found.name,
                    found.stat,
                    job.meter,
                    holes=found.sparse,
                    verify=job.how.verify,
                )
                self._settle(file.fileno(), draft, final, found.stat, job.how)
            except OSError as reason:
                if isinstance(reason, ConnectionFailed):
                    raise
                draft.unlink(missing_ok=True)
                if reason.filename is None:
                    raise OSError(reason.errno, reason.strerror, str(final)) from reason
                raise

    def _parts(
        self,
        descriptor: int,
        path: str,
        name: str,
        seen: Stat,
        meter: Meter,
        *,
        holes: bool = True,
        verify: bool = False,
    ) -> None:
        """Receive what a draft lacks, and check that it is still the beginning of the source.

        Args:
            descriptor: of the draft.
            path: of the source.
            name: for the progress.
            seen: the source when it was looked at; what was added since is left out.
            meter: counts.
            holes: whether there may be some.
            verify: compare the checksums even if nothing was written to it meanwhile.
        """
        size, had = seen.size, os.fstat(descriptor).st_size
        mibs = mibs_of_block(size)
        blocks = -(-min(had, size) // (mibs * MIB))
        there: list[str] = []
        word = quoted(path)
        if blocks:
            reply = self._ask(f"sums {word} {mibs} {blocks}", slow=True)
            if reply.status:
                raise self._failed(reply, path)
            there = [line.split()[0].decode("ascii") for line in reply.out.splitlines()]
        filled = None
        if holes and not had:
            reply = self._ask(f"filled {word} {mibs} {-(-size // (mibs * MIB))}", slow=True)
            if not reply.status and reply.out:
                filled = {number for number, letter in enumerate(reply.out) if letter == ord("x")}
        parts = missing_parts(size, block_sums(descriptor, size, blocks), there, filled)
        left = sum(part.size for part in parts)
        streams = self._streams(left)
        meter.there(size - left, name)
        short: OSError | None = None

        # the smaller holes of a file that has some
        skips = None if filled is None else archive.is_zeros

        def carry(session: Session, part: Part, stop: threading.Event) -> None:
            offset = begun = part.offset

            def took(moved: int) -> None:
                nonlocal offset, begun
                offset += moved
                if offset - begun >= _SOON_WRITTEN:
                    _start_writing(descriptor, begun, offset)
                    begun = offset
                meter.moved(moved, name)
                if stop.is_set():
                    raise BrokenPipeError

            if not session.receive(descriptor, offset, part.size, took, skips=skips):
                raise BrokenStream(
                    errno.EIO, "the server sent less than the whole file", f"{self._host}:{path}"
                )
            _start_writing(descriptor, begun, offset)

        try:
            move_file(
                self._shells.connection,
                Missing(parts, streams),
                streams=streams,
                script=f"send {word}",
                carry=carry,
                failed=lambda reply: self._failed(reply, path),
                ahead=1,
            )
        except OSError as reason:
            if reason.errno != errno.EBUSY and not isinstance(reason, BrokenStream):
                raise
            short = reason
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)
        became = since(seen, self._files.stat(path))
        if became is Since.OTHER or (short is not None and became is Since.PERHAPS):
            raise self._error(errno.EBUSY, path, CHANGED)
        if short is not None:
            raise short
        if verify or became is Since.PERHAPS:
            self._compare(path, size, drafts.beginning_sum(descriptor, size), became)


def _own(draft: Path, final: Path) -> int:
    """Open the draft of a file, created if missing; see `own_key`."""
    try:
        return opened(draft, os.O_EXCL, final)
    except FileExistsError:
        descriptor = os.open(draft, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if drafts.still_ours(os.fstat(descriptor), modes.S_IFREG, draft.parent):
            return descriptor
        os.close(descriptor)
        raise


def opened(draft: Path, further: int, final: Path) -> int:
    """Open a draft, created if missing; errors name what it will become."""
    try:
        return os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | further, 0o600)
    except OSError as reason:
        # nobody knows the draft's name
        raise OSError(reason.errno, reason.strerror, str(final)) from None


def is_taken(path: Path) -> bool:
    """Whether something has this name; raises an error if nothing can have it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _start_writing(descriptor: int, begin: int, end: int) -> None:
    """Let the disk begin to write, so that fsync(2) has little left to wait for at the end."""
    if hasattr(os, "posix_fadvise"):
        # Linux begins to write, and keeps what is not written yet (mm/fadvise.c)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
