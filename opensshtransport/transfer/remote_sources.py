"""Sources on the host: which exist, what they lead to, and what is in them.

The trap: the host must not decide where something goes: a name in its listing or its archive must not lead
out of the draft.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat as modes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.entries import Stat, records, unlisted
from opensshtransport.remote.paths import path_text, quoted
from opensshtransport.sessions.requests import Reply
from opensshtransport.transfer.items import Item, Since, from_records, since
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.mover import Mover
from opensshtransport.transfer.options import INLINE_FILE, WILD, How, Sources, listed

_ANY_SIZE = 1 << 62


@dataclass(frozen=True, slots=True)
class Found:
    """A source on the host: `content` of a small file, `items` of a tree.

    Attributes:
        path: as it was named.
        name: its name at the destination.
        stat: what it leads to.
        content: of a small file.
        since: what has happened to that meanwhile.
        items: of a tree, without what is left out.
        whole: whether nothing was left out.
        sparse: whether a large file has holes.
        unreadable: directories that cannot be read and, if links are followed, dangling links.
        gaps: errno and path of whatever else is missing.
    """

    path: str
    name: str
    stat: Stat
    content: bytes | None = None
    items: list[Item] | None = None
    whole: bool = True
    sparse: bool = False
    unreadable: tuple[str, ...] = ()
    gaps: tuple[tuple[int, str], ...] = ()
    since: Since = Since.NOTHING

    @property
    def files(self) -> int:
        """How many files and links there are."""
        return 1 if self.items is None else sum(1 for item in self.items if item.kind != "directory")

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return self.stat.size if self.items is None else sum(item.size for item in self.items)


class SourceFinder(Mover):
    """Looks at sources on one destination."""

    def find(self, source: Sources, job: Job) -> tuple[list[Found], bool]:
        """Look at all sources; small files come with their content. Also returns whether several were named.

        Raises:
            OSError: of the only one.
        """
        how, failures = job.how, job.failures
        named = [path_text(one) for one in listed(source)]
        names = self._matched(named, failures)
        many = len(names) > 1 or len(named) > 1
        limit = INLINE_FILE if how.way is None else -1
        if how.way == "inline":
            limit = _ANY_SIZE
        mark = secrets.token_hex(8)
        function = "followed" if how.dereference else "fetch"
        requests = [
            self._request(f"{function} {limit} {quoted(name)}", slow=True, mark=mark) for name in names
        ]
        replies = self._ask_first(requests)
        replies.reverse()
        found = []
        for name in names:
            # do not keep a long listing longer than it is read
            reply = replies.pop()
            try:
                if reply.status and b" tree " not in reply.out:
                    raise self._failed(reply, name)
                one = self._found(name, reply, mark, how)
                if one.items is not None:
                    how.check_tree(f"{self._host}:{name}")
                found.append(one)
            except OSError as reason:
                if isinstance(reason, ConnectionFailed) or not many:
                    raise
                failures.append(reason)
        return found, many

    def _matched(self, named: Sequence[str], failures: list[OSError]) -> list[str]:
        """Names with patterns expanded, as a shell does; the name of an existing file is not a pattern."""
        wild = [name for name in named if WILD & set(name)]
        literal = dict(zip(wild, self._files.exists_many(wild), strict=True)) if wild else {}
        names: list[str] = []
        for name in named:
            if not name:
                raise self._error(errno.ENOENT, name)
            if name not in literal or literal[name]:
                names.append(name)
                continue
            found = [one for one in self._files.glob(name) if _shown(one, name)]
            names += found
            if not found:
                missing = self._error(errno.ENOENT, name, "nothing matches the pattern")
                if len(named) == 1:
                    raise missing
                failures.append(missing)
        return names

    def _found(self, path: str, reply: Reply, mark: str, how: How) -> Found:
        name = posixpath.basename(path.rstrip("/"))
        if name in {"", ".", ".."} or (name.startswith("~") and path.rstrip("/") == name):
            name = posixpath.basename(self._files.realpath(path))
        if "/" in name or name in {".", ".."}:
            raise self._error(errno.EPERM, path, "its name on the server leads out of the destination")
        out = reply.out
        _, stat = next(records(out, mark))
        begin = out.find(f"{mark} tree ".encode())
        if begin < 0:
            _, inline, content = out.partition(f"{mark} content\n".encode())
            content, _, after = content.rpartition(f"{mark} after\n".encode())
            became = since(stat, next(records(after, mark))[1]) if inline else Since.NOTHING
            sparse = not inline and f"{mark} sparse\n".encode() in out
            return Found(path, name, stat, content if inline else None, sparse=sparse, since=became)
        links, closed = f"{mark} links\n".encode(), f"{mark} unreadable\n".encode()
        first, end = out.index(b"\0", begin), out.find(links, begin)
        skip = first - begin - len(f"{mark} tree ") + 1
        top = os.fsdecode(out[first + 1 - skip : first])
        count = 0

        def wanted() -> Iterator[tuple[str, Stat]]:
            nonlocal count
            for place, seen in records(out, mark, first, end if end >= 0 else len(out)):
                count += 1
                if not (how.dereference and modes.S_ISLNK(seen.mode)):
                    yield place[len(top) + 1 :], seen

        items = from_records(wanted(), top=top, exclude=how.exclude)
        shut = [os.fsdecode(one) for one in out.partition(closed)[2].split(b"\0") if one]
        missing = unlisted(reply.errors, top, set(shut))
        if missing and not how.dereference:
            # what is beyond PATH_MAX cannot be looked at either, and find has reported it
            known = {item.name for item in items}
            shut = [one for one in shut if one[len(top) + 1 :] in known]

        def named(place: str) -> str:
            """The path as it was given."""
            return posixpath.join(path, below) if (below := place[len(top) + 1 :]) else path

        unreadable = tuple(map(named, shut))
        gaps = tuple((number, named(place)) for number, place in missing)
        return Found(path, name, stat, None, items, len(items) == count, unreadable=unreadable, gaps=gaps)


def _shown(path: str, pattern: str) -> bool:
    """Whether a shell's pattern matches this path: hidden names only if the pattern has the dot."""
    hidden = [part for part in path.split("/") if part.startswith(".") and part not in {".", ".."}]
    asked = [part for part in pattern.split("/") if part.startswith((".", "[."))]
    return len(hidden) <= len(asked)
