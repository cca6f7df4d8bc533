"""Trees from the host to this machine: a draft is filled, and then gets its name at once.

The trap: files may change while they are read; so what has arrived is compared with the listing, and of a
file that was written to, it must be the beginning.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat as modes
from collections.abc import Sequence
from pathlib import Path

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.paths import quoted
from opensshtransport.sessions.requests import Reply
from opensshtransport.transfer import archive, drafts, tar_streams, unpacking
from opensshtransport.transfer.archive import CHANGED
from opensshtransport.transfer.drafts import claimed, followed, permissions
from opensshtransport.transfer.get_file import FileGetting, is_taken, opened
from opensshtransport.transfer.items import Item, excluded
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.mover import DIFFER, flag, sums
from opensshtransport.transfer.options import INLINE_TREE, LARGE, How
from opensshtransport.transfer.remote_sources import Found

_PIECE = 1 << 18


class Getting(FileGetting):
    """Gets files and trees from one destination."""

    def one(self, found: Found, place: str, job: Job) -> None:
        """Get one source; what could not be moved of a tree is added to the job's failures."""
        if found.items is None:
            self.file(found, place, job)
        else:
            self._tree(found, place, job)

    def _tree(self, found: Found, place: str, job: Job) -> None:
        contents = posixpath.basename(found.path.rstrip("/")) in {".", ".."}
        inside = os.path.isdir(place) and not contents
        target = (os.path.join(place, found.name) if inside else place).rstrip("/") or "/"
        if os.path.lexists(target) and (not os.path.isdir(target) or (inside and os.path.islink(target))):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
        final = followed(target)
        items = found.items or []
        skip = len(found.path.rstrip("/")) + 1
        lost = [
            self._error(*self._why_closed(one, job.how))
            for one in found.unreadable
            if not excluded(one[skip:], job.how.exclude)
        ]
        lost += [
            self._error(number, one)
            for number, one in found.gaps
            if not excluded(one[skip:], job.how.exclude)
        ]
        others = [item for item in items if item.kind == "other"]
        lost += [self._error(errno.EINVAL, item.path, "neither file, directory nor link") for item in others]
        items = [item for item in items if item.kind != "other"]
        files = sum(1 for item in items if item.kind != "directory")
        new = not is_taken(final)
        drafts.sweep(final.parent if new else final)
        with (
            claimed(self._host, found.path, final) as key,
            drafts.anchored(final.parent if new else final, shown=final) as parent,
        ):
            top = parent / final.name if new else parent
            draft = drafts.draft_beside(parent, drafts.own_key(parent, key, modes.S_IFDIR))
            try:
                problems = self._again(job, lambda: self._filled(found, items, draft, final, job))
                drafts.arrange(draft, top, job.how, shown=final, new=new, failed=problems.append)
                self._settle_top(found, top, new, job.how)
            except OSError as reason:
                if isinstance(reason, ConnectionFailed):
                    raise
                with contextlib.suppress(OSError):
                    drafts.remove(draft)
                if str(reason.filename).startswith((str(draft), "/proc/")):
                    raise OSError(reason.errno, reason.strerror, str(final)) from reason
                raise
        job.meter.done(found.name, max(0, files - len(problems)))
        job.failures.extend(lost + problems)

    def _settle_top(self, found: Found, final: Path, new: bool, how: How) -> None:
        if new:
            tar_streams.no_link(final)
        # last, because without write permission nothing could be moved
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
        self, found: Found, items: Sequence[Item], draft: Path, final: Path, job: Job
    ) -> list[OSError]:
        if not job.how.resume:
            drafts.remove(draft)
        with contextlib.ExitStack() as stack:
            try:
                inside = stack.enter_context(drafts.held(draft))
            except OSError as reason:
                raise OSError(reason.errno, reason.strerror, str(final)) from None
            return self._fill(found, items, inside, final, job)

    def _fill(self, found: Found, items: Sequence[Item], draft: Path, final: Path, job: Job) -> list[OSError]:
        """Fill a draft; returns what could not be moved."""
        problems: list[OSError] = []
        told: set[str] = set()
        # otherwise a link of an earlier try would be written through
        drafts.remove_links(draft)

        def failed(name: str, reason: OSError) -> None:
            told.add(name)
            problems.append(OSError(reason.errno, reason.strerror, str(final / name.lstrip("/"))))

        large = [item for item in items if item.kind == "file" and item.size >= LARGE and item.twin is None]
        apart = {item.name for item in large}
        rest = self._not_yet(found, [item for item in items if item.name not in apart], draft, job)
        if rest and not self._stream(found, rest, draft, failed, job):
            problems += self._rewritten(found, rest, draft)
        for item in large:
            self._large(item, draft, failed, job)
        problems += self._incomplete(found, [item for item in items if item.name not in told], draft)
        if job.how.verify:
            problems += self._differing(found, items, draft)
        return problems

    def _stream(
        self,
        found: Found,
        todo: Sequence[Item],
        draft: Path,
        failed: tar_streams.Failed,
        job: Job,
    ) -> bool:
        """Receive what goes by tar; returns whether tar says that nothing changed meanwhile."""
        options = "-h" if job.how.dereference else "''"
        word = quoted(found.path)
        size = sum(item.size + 1024 for item in todo)
        whole = found.whole and len(todo) == len(found.items or [])
        if whole and size <= INLINE_TREE and job.how.way in {None, "inline"}:
            reply = self._ask(f"archive {options} {word}", slow=True)
            if reply.status and not reply.out:
                raise self._tree_failed(reply, found)
            later = unpacking.unpack(
                _Bytes(reply.out),
                draft,
                preserve=job.how.preserve,
                listed={item.name: item for item in todo},
                failed=failed,
                progress=lambda name, size: job.meter.moved(size, name),
            )
            for settle in reversed(later):
                settle()
            return not reply.status and self._probe()[1]
        lists = self._probe()[1]
        streams = self._streams(size) if lists else 1
        calm = tar_streams.receive_tree(
            self._shells.connection,
            tar_streams.dealt(todo, streams),
            draft,
            f"archive {options} {word} {flag(lists)}",
            job=job,
            listed=lists,
            failed=failed,
            refused=lambda reply: self._tree_failed(reply, found),
        )
        # GNU's tar tells if a file was written to meanwhile (its manual, Return Values); others do not
        return calm and lists

    def _rewritten(self, found: Found, items: Sequence[Item], draft: Path) -> list[OSError]:
        """Files that were written to meanwhile, if what arrived is not their beginning."""
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
        """Remove from a draft what is not the beginning of its source, and report each."""
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

    def _large(self, item: Item, draft: Path, failed: tar_streams.Failed, job: Job) -> None:
        """Receive a large file of a tree in parts."""
        path = draft / item.name
        try:
            drafts.make_parents(draft, item.name)
            descriptor = opened(path, 0, path)
            with os.fdopen(descriptor, "r+b", buffering=0):
                seen = self._files.stat(item.path)
                if seen.size < item.size:
                    raise self._error(errno.EBUSY, item.path, CHANGED)
                self._parts(descriptor, item.path, item.name, seen, job.meter)
                bits = item.mode & 0o777
                os.fchmod(descriptor, bits if job.how.preserve else bits & ~archive.umask())
                if job.how.preserve:
                    # both times the same, as for files from an archive
                    os.utime(descriptor, ns=(item.mtime_ns, item.mtime_ns))
        except OSError as reason:
            if isinstance(reason, ConnectionFailed) or reason.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            path.unlink(missing_ok=True)
            failed(item.name, reason)

    def _incomplete(self, found: Found, items: Sequence[Item], draft: Path) -> list[OSError]:
        """What has not arrived, or not as it was listed."""
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
        # for those that grow, it is another one
        unsure = [item for item in files if drafts.file_sum(draft / item.name) != theirs.get(item.name)]
        return self._no_beginnings(found, unsure, draft, errno.EIO, DIFFER)

    def _sums(self, found: Found, items: Sequence[Item]) -> dict[str, str]:
        names = b"".join(os.fsencode(f"./{item.name}") + b"\0" for item in items)
        if not names:
            return {}
        return sums(self._ask(f"cd {quoted(found.path)} && sums_of", payload=names, slow=True).out)

    def _not_yet(self, found: Found, items: Sequence[Item], draft: Path, job: Job) -> list[Item]:
        """The items that are not in the draft that an earlier try left."""
        here = []
        for item in items:
            # hard links go together
            if item.kind != "file" or (job.how.preserve and item.twin is not None):
                continue
            with contextlib.suppress(OSError):
                seen = (draft / item.name).lstat()
                if modes.S_ISREG(seen.st_mode) and seen.st_size == item.size:
                    here.append(item)
        theirs = self._sums(found, here)
        same = {item.name for item in here if theirs.get(item.name) == drafts.file_sum(draft / item.name)}
        for item in here:
            if item.name in same:
                job.meter.there(item.size, item.name)
        return [item for item in items if item.name not in same]


class _Bytes:
    """Bytes to be read as a stream."""

    def __init__(self, raw: bytes) -> None:
        self._left = memoryview(raw)

    def read(self, size: int = _PIECE, /) -> bytes:
        piece, self._left = self._left[:size], self._left[size:]
        return bytes(piece)
