"""Trees, and several files, from this machine to the host: a draft is filled, then gets its name at once.

The trap: a file that is written to meanwhile may be in the draft as a mixture of two versions. So it is
checked again on the host, before anything appears.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.paths import PathLike, path_text, quoted
from opensshtransport.remote.strerror import in_words
from opensshtransport.sessions.requests import Reply
from opensshtransport.transfer import archive, drafts, tar_streams
from opensshtransport.transfer.archive import CHANGED
from opensshtransport.transfer.blocks import holes
from opensshtransport.transfer.crew import reply_errno
from opensshtransport.transfer.drafts import claimed
from opensshtransport.transfer.items import Item, list_tree
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.mover import DIFFER, flag, sums
from opensshtransport.transfer.options import INLINE_ITEMS, INLINE_TREE, LARGE, How
from opensshtransport.transfer.put_file import FilePutting, Outgoing

# The least bytes of holes that make a file of a tree go in parts.
_WORTHY_HOLES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tree:
    """Where and how a tree arrives on the host."""

    destination: PathLike
    name: str
    many: str
    key: str
    job: Job

    @property
    def place(self) -> str:
        return f"{self.many} {quoted(self.destination)} {shlex.quote(self.name)}"


@dataclass(slots=True)
class _Try:
    """What went wrong in one try."""

    failures: list[OSError] = field(default_factory=list)
    spoilt: list[str] = field(default_factory=list)
    unsure: list[tuple[Item, int]] = field(default_factory=list)

    def failed(self, item: Item, reason: OSError) -> None:
        """Nothing of this may appear. Any thread may report it."""
        self.failures.append(reason)
        self.spoilt.append(item.name)

    def written(self, item: Item, size: int) -> None:
        """This much was sent of a file that was written to meanwhile. Any thread may report it."""
        self.unsure.append((item, size))


class Putting(FilePutting):
    """Puts files and trees to one destination."""

    def tree(self, sources: Sequence[str], destination: PathLike, job: Job, *, many: bool) -> None:
        """Put trees, or several files; what could not be moved is added to the job's failures."""
        name = os.path.basename(os.path.abspath(sources[0]))
        contents = not many and os.path.basename(sources[0].rstrip("/")) in {".", ".."}
        items: list[Item] = []
        names: set[str] = set()
        for source in sources:
            prefix = os.path.basename(os.path.abspath(source)) if many else ""
            if prefix in names and many:
                job.failures.append(OSError(errno.EEXIST, "another source has the same name", source))
                continue
            names.add(prefix)
            items += list_tree(
                source,
                prefix=prefix,
                dereference=job.how.dereference,
                exclude=job.how.exclude,
                failed=job.failures.append,
            )
        job.failures.extend(
            OSError(errno.EINVAL, "neither file, directory nor link", item.path)
            for item in items
            if item.kind == "other"
        )
        items = [item for item in items if item.kind != "other"]
        if not items:
            return
        size = sum(item.size for item in items)
        files = sum(1 for item in items if item.kind != "directory")
        job.meter.expect(files, size)
        with claimed(*sources, self._host, path_text(destination)) as key:
            several = "many" if many else "contents" if contents else "''"
            where = _Tree(destination, name, several, key, job)
            if not many and not contents:
                where = self._placed(where)
            tried = self._again(job, lambda: self._items(items, size, where))
        job.failures.extend(tried.failures)
        job.meter.done(name, files - len(set(tried.spoilt)))

    def _placed(self, where: _Tree) -> _Tree:
        """Name what the tree becomes: a second try must not put it below what the first one has made."""
        reply = self._ask(f"placed {quoted(where.destination)} {shlex.quote(where.name)}")
        if reply.status:
            raise self._failed(reply, where.destination)
        return dataclasses.replace(where, destination=os.fsdecode(reply.out), many="contents")

    def _items(self, items: Sequence[Item], size: int, where: _Tree) -> _Try:
        how, tried = where.job.how, _Try()
        small = size <= INLINE_TREE and len(items) <= INLINE_ITEMS and not how.verify
        if small and how.way in {None, "inline"}:
            self._small(items, where, tried)
            return tried
        script = f"tree {where.key} {flag(how.resume)} {where.place}"
        (reply,) = self._ask_first([self._request(script, slow=True)])
        if reply.status:
            raise self._failed(reply, where.destination)
        kind, final, raw, rest = reply.out.split(b"\0", 3)
        draft = os.fsdecode(raw)
        try:
            self._fill(items, draft, where, tried, new=kind == b"new", there=sums(rest))
            commit = f"commit {kind.decode()} {flag(how.overwrite)} {_top(items, how)}"
            reply = self._ask(
                f"{commit} {quoted(os.fsdecode(final))} {quoted(draft)} {flag(how.preserve)}", slow=True
            )
        except OSError as reason:
            if not isinstance(reason, ConnectionFailed):
                self._remove(draft)
            raise
        if reply.status:
            tried.failures.extend(self._commit_errors(reply, where.destination))
        return tried

    def _fill(
        self,
        items: Sequence[Item],
        draft: str,
        where: _Tree,
        tried: _Try,
        *,
        new: bool,
        there: dict[str, str],
    ) -> None:
        """Fill a draft, and put what `commit` must know next to it."""
        job, how = where.job, where.job.how
        large = [item for item in items if _by_parts(item, how)]
        apart = {item.name for item in large}
        todo = [item for item in items if item.name not in apart and not self._is_there(item, there, job)]
        unpack = f"unpack {flag(how.preserve)} {quoted(draft)}"
        streams = self._streams(sum(item.size + 4096 for item in todo))
        tar_streams.send_tree(
            self._shells.connection,
            todo,
            streams,
            unpack,
            job=job,
            failed=tried.failed,
            written=tried.written,
            refused=lambda reply: self._tree_failed(reply, where.destination),
        )
        self._rewritten(draft, tried)
        for item in large:
            self._large(item, draft, where, tried)
        directories = [item for item in items if item.kind == "directory" and item.name]
        # a new tree gets its modes in its draft, except for its top, which could not be moved then
        last = list(reversed(directories)) if new else []
        content = tar_streams.pack_small(
            last,
            job=job,
            failed=tried.failed,
            spoilt=tried.spoilt,
            modes=tar_streams.modes_of([] if new else directories, preserve=how.preserve),
        )
        if how.verify:
            self._verify(items, draft, where, tried)
        reply = self._ask(unpack, payload=content, slow=True)
        if reply.status:
            raise self._tree_failed(reply, where.destination)

    def _small(self, items: Sequence[Item], where: _Tree, tried: _Try) -> None:
        """All in one request."""
        how = where.job.how
        content = tar_streams.pack_small(
            tar_streams.opened(items),
            job=where.job,
            failed=tried.failed,
            spoilt=tried.spoilt,
            modes=tar_streams.modes_of(
                [item for item in items if item.kind == "directory" and item.name], preserve=how.preserve
            ),
        )
        script = f"put_tree {flag(how.preserve)} {flag(how.overwrite)} {_top(items, how)} {where.place}"
        # nothing of it appears before the end, and repeating it does no harm, unless it must be new
        reply = self._ask(script, payload=content, reads=how.overwrite, slow=True)
        if not reply.status:
            return
        if "ossh-file " not in reply.errors and "mv: " not in reply.errors:
            raise self._tree_failed(reply, where.destination)
        tried.failures.extend(self._commit_errors(reply, where.destination))

    def _large(self, item: Item, draft: str, where: _Tree, tried: _Try) -> None:
        """Send a large file of a tree in parts."""
        how, destination = where.job.how, where.destination
        inside, name = f"within {quoted(draft)} &&", quoted(f"t/{item.name}")
        try:
            descriptor = os.open(item.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as reason:
            tried.failed(item, reason)
            return
        with os.fdopen(descriptor, "rb", buffering=0):
            file = Outgoing(descriptor, item.path, item.name, os.fstat(descriptor))
            try:
                if file.size < item.size:
                    raise file.changed()
                reply = self._ask(f"{inside} part_of {name} {flag(how.resume)} {file.blocks}", slow=True)
                if reply.status:
                    raise self._failed(reply, destination)
                self._parts(file, f"{inside} receive {name}", reply.out, destination, meter=where.job.meter)
                self._compare(file, f"{draft}/t/{item.name}", verify=False)
                reply = self._ask(f"{inside} part_done {name} {file.settled(how)}")
                if reply.status:
                    raise self._failed(reply, destination)
            except OSError as reason:
                if reason.errno != errno.EBUSY:
                    raise
                tried.failed(item, reason)

    def _is_there(self, item: Item, there: dict[str, str], job: Job) -> bool:
        ours = there.get(item.name)
        # hard links go together
        if item.kind != "file" or ours is None or (job.how.preserve and item.twin is not None):
            return False
        try:
            same = drafts.file_sum(item.path) == ours
        except OSError:
            # packing it will report that
            return False
        if same:
            job.meter.there(item.size, item.name)
        return same

    def _sums(self, items: Sequence[Item], draft: str) -> dict[str, str]:
        names = b"".join(os.fsencode(f"./{item.name}") + b"\0" for item in items)
        reply = self._ask(f"cd {quoted(f'{draft}/t')} && sums_of", payload=names, slow=True)
        return sums(reply.out)

    def _rewritten(self, draft: str, tried: _Try) -> None:
        """Report files that were written to meanwhile, if what was sent is not their beginning."""
        if not tried.unsure:
            return
        theirs = self._sums([item for item, _ in tried.unsure], draft)
        for item, size in tried.unsure:
            if theirs.get(item.name) != drafts.begins(item, size):
                tried.failed(item, OSError(errno.EBUSY, CHANGED, item.path))

    def _verify(self, items: Sequence[Item], draft: str, where: _Tree, tried: _Try) -> None:
        files = [item for item in items if item.kind == "file" and item.name not in tried.spoilt]
        theirs = self._sums(files, draft)
        unsure = [item for item in files if theirs.get(item.name) != drafts.file_sum(item.path)]
        # for those that grow, it is another one
        there = self._files.stat_many([f"{draft}/t/{item.name}" for item in unsure])
        for item, seen in zip(unsure, there, strict=True):
            if (
                seen is None
                or seen.size < item.size
                or theirs.get(item.name) != drafts.begins(item, seen.size)
            ):
                raise self._error(errno.EIO, where.destination, f"{DIFFER}: {item.name}")

    def _commit_errors(self, reply: Reply, destination: PathLike) -> Iterator[OSError]:
        for line in reply.errors.splitlines():
            if line.startswith("xargs:") or not line.strip():
                continue
            number = reply_errno(Reply(b"", line, 1))
            if line.startswith("ossh-file "):
                name = line.removeprefix("ossh-file ").rpartition(": ")[0]
                yield self._error(number, f"{path_text(destination).rstrip('/')}/{name}")
            else:
                yield self._error(number, destination, in_words(number, line))

    def _tree_failed(self, reply: Reply, destination: PathLike) -> OSError:
        numbers = [reply_errno(Reply(b"", line, 1)) for line in reply.errors.splitlines()]
        # where there is no space left, much else fails too
        worst = [number for number in (errno.ENOSPC, errno.EDQUOT) if number in numbers]
        if re.search(r": Wrote only \d+ of \d+ bytes$", reply.errors, re.MULTILINE):
            # tar's words for a disk that has been full since
            worst.append(errno.ENOSPC)
        number = worst[0] if worst else reply_errno(reply)
        return self._error(number, destination, in_words(number, reply.errors.strip()[:300]))


def _by_parts(item: Item, how: How) -> bool:
    """Whether a file of a tree is large, or has holes."""
    if item.kind != "file" or (how.preserve and item.twin is not None) or item.size < _WORTHY_HOLES:
        return False
    if item.size >= LARGE:
        return True
    with contextlib.suppress(OSError):
        return holes(os.stat(item.path)) >= _WORTHY_HOLES
    return False


def _top(items: Sequence[Item], how: How) -> str:
    """Mode and time of the top of a tree, as words; both empty if there is none."""
    top = items[0]
    if top.name:
        return "'' ''"
    if how.preserve:
        return f"{top.mode:o} {archive.seconds(top.mtime_ns)}"
    return f"{top.mode & 0o777:o} ''"
