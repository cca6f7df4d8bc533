"""get: from there to here.

The trap: what is read there may change meanwhile; so it is looked at again when all of it has come, before it
gets its name. What has come of one that was written to, as a log that grows, must be its beginning.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import secrets
import stat as modes
import threading
from collections.abc import Sequence
from pathlib import Path

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.entries import Stat
from opensshtransport.remote.paths import quoted
from opensshtransport.sessions.requests import Reply
from opensshtransport.sessions.stream import Session
from opensshtransport.transfer import archive, drafts, tar_streams
from opensshtransport.transfer.archive import CHANGED, BrokenStream
from opensshtransport.transfer.blocks import (
    MIB,
    Missing,
    Part,
    block_sums,
    mibs_of_block,
    missing_parts,
    streams_for,
)
from opensshtransport.transfer.crew import move_file
from opensshtransport.transfer.drafts import claimed, permissions
from opensshtransport.transfer.in_place import appear
from opensshtransport.transfer.items import Item, Since, excluded, since
from opensshtransport.transfer.job import DIFFER, flag, followed, sums
from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.options import INLINE_TREE, LARGE, How
from opensshtransport.transfer.remote_sources import Finding, Found

_PIECE = 1 << 18

# Bytes after which the disk is to begin with what has come.
_SOON_WRITTEN = 16 << 20


class Getting(Finding):
    """Moves files from one destination to here."""

    def one(self, found: Found, place: str, how: How, failures: list[OSError], meter: Meter) -> None:
        """Get one source; what of a tree could not be moved is told in `failures`."""
        if found.items is not None:
            self._tree(found, place, how, failures, meter)
            return
        target = os.path.join(place, found.name) if os.path.isdir(place) else place
        if target.endswith("/"):
            number = errno.ENOTDIR if os.path.lexists(target.rstrip("/")) else errno.ENOENT
            raise OSError(number, os.strerror(number), target)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        if not how.overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        # a link is written through, as by open(2)
        final = followed(target)
        if _is_there(final) and final.is_file():
            # why it cannot be written is told before anything has moved
            os.close(os.open(final, os.O_WRONLY | os.O_CLOEXEC))
        if found.content is not None:
            self._inline(found, final, how, meter)
        else:
            # by what it becomes alone: one that grows is gone on with
            words = ("file", self._host, found.path, final)
            drafts.sweep(final.parent)
            with claimed(*words) as key:
                key = drafts.own_key(final.parent, key, modes.S_IFREG)
                self._again(meter, lambda: self._stripes(found, final, key, how, meter))
        meter.done(found.name)

    def _inline(self, found: Found, final: Path, how: How, meter: Meter) -> None:
        content = found.content or b""
        if found.since is not Since.NOTHING:
            # what was there when it was looked at
            content = content[: found.stat.size]
            if found.since is Since.OTHER or len(content) < found.stat.size:
                raise self._error(errno.EBUSY, found.path, CHANGED)
        if how.verify or found.since is Since.PERHAPS:
            ours = hashlib.sha256(content).hexdigest()
            self._compare(found.path, len(content), ours, found.since)
        if final.exists() and not final.is_file():
            final.write_bytes(content)
        else:
            draft = final.parent / f".ossh-{secrets.token_hex(8)}"
            try:
                descriptor = _opened(draft, os.O_EXCL, final)
                with os.fdopen(descriptor, "r+b") as file:
                    file.write(content)
                    file.flush()
                    self._settle(file.fileno(), draft, final, found.stat, how)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        meter.moved(len(content), found.name)

    def _compare(self, path: str, size: int, ours: str, became: Since) -> None:
        """See that what has come is the beginning of a file, and so no mixture of two versions."""
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

    def _stripes(self, found: Found, final: Path, key: str, how: How, meter: Meter) -> None:
        if final.exists() and not final.is_file():
            raise OSError(errno.EINVAL, "not a regular file", str(final))
        draft = final.parent / f".ossh-{key}"
        if not how.resume:
            draft.unlink(missing_ok=True)
        descriptor = _own(draft, final)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                self._parts(
                    file.fileno(),
                    found.path,
                    found.name,
                    found.stat,
                    meter,
                    holes=found.sparse,
                    verify=how.verify,
                )
                self._settle(file.fileno(), draft, final, found.stat, how)
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
        """Receive what a draft has not, and see that it is still the beginning of the source.

        Args:
            descriptor: of the draft.
            path: of the source.
            name: for the progress.
            seen: the source when it was looked at; what it has got since then is left out.
            meter: counts.
            holes: whether there may be some.
            verify: compare the sums, also where nothing was written to it meanwhile.
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
        round_trip, _ = self._probe()
        streams = streams_for(round_trip, left)
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
                raise BrokenStream(errno.EIO, "the far side sent less of it", f"{self._host}:{path}")
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

    # -- trees ---------------------------------------------------------------------------------------------

    def _tree(self, found: Found, place: str, how: How, failures: list[OSError], meter: Meter) -> None:
        contents = posixpath.basename(found.path.rstrip("/")) in {".", ".."}
        inside = os.path.isdir(place) and not contents
        target = (os.path.join(place, found.name) if inside else place).rstrip("/") or "/"
        if os.path.lexists(target) and (not os.path.isdir(target) or (inside and os.path.islink(target))):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
        final = followed(target)
        items = found.items or []
        skip = len(found.path.rstrip("/")) + 1
        lost = [
            self._error(*self._why_closed(one, how))
            for one in found.unreadable
            if not excluded(one[skip:], how.exclude)
        ]
        lost += [
            self._error(number, one) for number, one in found.gaps if not excluded(one[skip:], how.exclude)
        ]
        others = [item for item in items if item.kind == "other"]
        lost += [self._error(errno.EINVAL, item.path, "neither file, directory nor link") for item in others]
        items = [item for item in items if item.kind != "other"]
        files = sum(1 for item in items if item.kind != "directory")
        new = not _is_there(final)
        drafts.sweep(final.parent if new else final)
        with (
            claimed(self._host, found.path, final) as key,
            drafts.anchored(final.parent if new else final, shown=final) as parent,
        ):
            top = parent / final.name if new else parent
            draft = parent / f".ossh-{drafts.own_key(parent, key, modes.S_IFDIR)}"
            try:
                problems = self._again(
                    meter, lambda: self._filled(found, items, draft, final=final, how=how, meter=meter)
                )
                drafts.arrange(
                    draft,
                    top,
                    shown=final,
                    new=new,
                    exist_ok=how.overwrite,
                    preserve=how.preserve,
                    failed=problems.append,
                )
                self._settle_top(found, top, new, how)
            except OSError as reason:
                if isinstance(reason, ConnectionFailed):
                    raise
                with contextlib.suppress(OSError):
                    drafts.remove(draft)
                if str(reason.filename).startswith((str(draft), "/proc/")):
                    raise OSError(reason.errno, reason.strerror, str(final)) from reason
                raise
        meter.done(found.name, max(0, files - len(problems)))
        failures += lost + problems

    def _settle_top(self, found: Found, final: Path, new: bool, how: How) -> None:
        if new:
            tar_streams.no_link(final)
        # last: without write permission nothing could be moved
        if how.preserve:
            archive.chmod_directory(final, found.stat.permissions)
            os.utime(final, ns=(found.stat.atime_ns, found.stat.mtime_ns))
        elif new:
            archive.chmod_directory(final, permissions(found.stat) & ~archive.umask())

    def _why_closed(self, path: str, how: How) -> tuple[int, str]:
        if how.dereference:
            return errno.ENOENT, path
        return errno.EACCES, path

    def _filled(
        self, found: Found, items: Sequence[Item], draft: Path, *, final: Path, how: How, meter: Meter
    ) -> list[OSError]:
        if not how.resume:
            drafts.remove(draft)
        with contextlib.ExitStack() as stack:
            try:
                inside = stack.enter_context(drafts.held(draft))
            except OSError as reason:
                raise OSError(reason.errno, reason.strerror, str(final)) from None
            return self._fill(found, items, inside, final=final, how=how, meter=meter)

    def _fill(
        self, found: Found, items: Sequence[Item], draft: Path, *, final: Path, how: How, meter: Meter
    ) -> list[OSError]:
        """Fill a draft; gives what could not be moved."""
        problems: list[OSError] = []
        told: set[str] = set()
        # a link that an earlier try has made would be written through
        drafts.remove_links(draft)

        def failed(name: str, reason: OSError) -> None:
            told.add(name)
            problems.append(OSError(reason.errno, reason.strerror, str(final / name.lstrip("/"))))

        large = [item for item in items if item.kind == "file" and item.size >= LARGE and item.twin is None]
        apart = {item.name for item in large}
        rest = self._not_yet(found, [item for item in items if item.name not in apart], draft, how, meter)
        if rest and not self._stream(found, rest, draft, how=how, failed=failed, meter=meter):
            problems += self._rewritten(found, rest, draft)
        for item in large:
            self._large(item, draft, how, failed, meter)
        problems += self._incomplete(found, [item for item in items if item.name not in told], draft)
        if how.verify:
            problems += self._differing(found, items, draft)
        return problems

    def _stream(
        self,
        found: Found,
        todo: Sequence[Item],
        draft: Path,
        *,
        how: How,
        failed: tar_streams.Failed,
        meter: Meter,
    ) -> bool:
        """Receive what is to go by tar; whether that says that nothing changed meanwhile."""
        options = "-h" if how.dereference else "''"
        word = quoted(found.path)
        size = sum(item.size + 1024 for item in todo)
        whole = found.whole and len(todo) == len(found.items or [])
        if whole and size <= INLINE_TREE and how.way in {None, "inline"}:
            reply = self._ask(f"archive {options} {word}", slow=True)
            if reply.status and not reply.out:
                raise self._tree_failed(reply, found)
            later = archive.unpack(
                _Bytes(reply.out),
                draft,
                preserve=how.preserve,
                listed={item.name: item for item in todo},
                failed=failed,
                progress=lambda name, size: meter.moved(size, name),
            )
            for settle in reversed(later):
                settle()
            return not reply.status and self._probe()[1]
        round_trip, lists = self._probe()
        streams = streams_for(round_trip, size) if lists else 1
        calm = tar_streams.receive_tree(
            self._shells.connection,
            tar_streams.dealt(todo, streams),
            draft,
            f"archive {options} {word} {flag(lists)}",
            preserve=how.preserve,
            listed=lists,
            failed=failed,
            refused=lambda reply: self._tree_failed(reply, found),
            meter=meter,
        )
        # GNU's tar tells if a file was written to meanwhile (its manual, Return Values); others do not
        return calm and lists

    def _rewritten(self, found: Found, items: Sequence[Item], draft: Path) -> list[OSError]:
        """What has come of files that were written to meanwhile, and is not their beginning."""
        came = [item for item in items if item.kind == "file" and os.path.lexists(draft / item.name)]
        now = self._files.stat_many([item.path for item in came])
        unsure = [
            item
            for item, seen in zip(came, now, strict=True)
            if seen is None or (seen.size, seen.mtime_ns) != (item.size, item.mtime_ns)
        ]
        return self._no_beginnings(found, unsure, draft, errno.EBUSY, CHANGED)

    def _no_beginnings(
        self, found: Found, items: Sequence[Item], draft: Path, number: int, words: str
    ) -> list[OSError]:
        """Remove of a draft what is not the beginning of its source, and tell of each."""
        names = b"".join(
            os.fsencode(f"{(draft / item.name).stat().st_size}\0./{item.name}\0") for item in items
        )
        script = f"cd {quoted(found.path)} && beginnings"
        theirs = sums(self._ask(script, payload=names, slow=True).out) if names else {}
        problems = []
        for item in items:
            place = draft / item.name
            if drafts.file_sum(place) != theirs.get(item.name):
                place.unlink()
                problems.append(self._error(number, item.path, words))
        return problems

    def _tree_failed(self, reply: Reply, found: Found) -> OSError:
        error = self._failed(reply, found.path)
        return self._error(error.errno or errno.EIO, found.path, f"{error.strerror} ({reply.errors[:300]})")

    def _large(self, item: Item, draft: Path, how: How, failed: tar_streams.Failed, meter: Meter) -> None:
        """Receive a large file of a tree by parts."""
        path = draft / item.name
        try:
            drafts.make_parents(draft, item.name)
            descriptor = _opened(path, 0, path)
            with os.fdopen(descriptor, "r+b", buffering=0):
                seen = self._files.stat(item.path)
                if seen.size < item.size:
                    raise self._error(errno.EBUSY, item.path, CHANGED)
                self._parts(descriptor, item.path, item.name, seen, meter)
                bits = item.mode & 0o777
                os.fchmod(descriptor, bits if how.preserve else bits & ~archive.umask())
                if how.preserve:
                    # both times alike, as of those that come by an archive
                    os.utime(descriptor, ns=(item.mtime_ns, item.mtime_ns))
        except OSError as reason:
            if isinstance(reason, ConnectionFailed) or reason.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            path.unlink(missing_ok=True)
            failed(item.name, reason)

    def _incomplete(self, found: Found, items: Sequence[Item], draft: Path) -> list[OSError]:
        """What has not come, or not as it was listed."""
        problems = []
        missing = []
        for item in items:
            place = draft / item.name
            try:
                size = place.lstat().st_size
            except OSError:
                missing.append(item)
                continue
            if item.kind == "file" and size < item.size:
                place.unlink()
                problems.append(self._error(errno.EBUSY, item.path, CHANGED))
        if missing:
            names = b"".join(os.fsencode(f"./{item.name}") + b"\0" for item in missing)
            said = self._ask(f"cd {quoted(found.path)} && why", payload=names, slow=True).out.decode()
            for item, why in zip(missing, said.ljust(len(missing), "-"), strict=False):
                number = {"-": errno.ENOENT, "x": errno.EACCES}.get(why, errno.EBUSY)
                problems.append(self._error(number, item.path, CHANGED if why == "o" else ""))
        return problems

    def _differing(self, found: Found, items: Sequence[Item], draft: Path) -> list[OSError]:
        files = [item for item in items if item.kind == "file" and os.path.lexists(draft / item.name)]
        theirs = self._sums(found, files)
        # of those that grow, it is another one
        unsure = [item for item in files if drafts.file_sum(draft / item.name) != theirs.get(item.name)]
        return self._no_beginnings(found, unsure, draft, errno.EIO, DIFFER)

    def _sums(self, found: Found, items: Sequence[Item]) -> dict[str, str]:
        names = b"".join(os.fsencode(f"./{item.name}") + b"\0" for item in items)
        if not names:
            return {}
        return sums(self._ask(f"cd {quoted(found.path)} && sums_of", payload=names, slow=True).out)

    def _not_yet(
        self, found: Found, items: Sequence[Item], draft: Path, how: How, meter: Meter
    ) -> list[Item]:
        """What of the items is not in the draft, as an earlier try left it."""
        here = []
        for item in items:
            # twins go together
            if item.kind != "file" or (how.preserve and item.twin is not None):
                continue
            with contextlib.suppress(OSError):
                seen = (draft / item.name).lstat()
                if modes.S_ISREG(seen.st_mode) and seen.st_size == item.size:
                    here.append(item)
        theirs = self._sums(found, here)
        same = {item.name for item in here if theirs.get(item.name) == drafts.file_sum(draft / item.name)}
        for item in here:
            if item.name in same:
                meter.there(item.size, item.name)
        return [item for item in items if item.name not in same]


class _Bytes:
    """Bytes to be read as a stream."""

    def __init__(self, raw: bytes) -> None:
        self._left = memoryview(raw)

    def read(self, size: int = _PIECE, /) -> bytes:
        piece, self._left = self._left[:size], self._left[size:]
        return bytes(piece)


def _own(draft: Path, final: Path) -> int:
    """Open the draft of a file, which is made where there is none; see `own_key`."""
    try:
        return _opened(draft, os.O_EXCL, final)
    except FileExistsError:
        descriptor = os.open(draft, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if drafts.still_ours(os.fstat(descriptor), modes.S_IFREG, draft.parent):
            return descriptor
        os.close(descriptor)
        raise


def _opened(draft: Path, further: int, final: Path) -> int:
    try:
        return os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | further, 0o600)
    except OSError as reason:
        # of a draft nobody has heard
        raise OSError(reason.errno, reason.strerror, str(final)) from None


def _is_there(path: Path) -> bool:
    """Whether something has this name; raises where nothing can have it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _start_writing(descriptor: int, begin: int, end: int) -> None:
    """Let the disk begin with it, so that fsync(2) has little left to wait for at the end."""
    if hasattr(os, "posix_fadvise"):
        # Linux begins to write, and keeps what is not written yet (mm/fadvise.c)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
