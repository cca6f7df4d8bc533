"""File operations of a destination that change nothing: one request each, one round trip.

Names follow `os`, `pathlib` and `shutil`; errors are `OSError`'s own subclasses with the host's errno and
`HOST:path` as the file name. They may be repeated after a lost connection.

The trap: programs run in the C locale, so their messages can be parsed; but only the end of the last line,
which comes from strerror(3), because file names can look like anything.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Literal

from opensshtransport.errors import OpenSshTransportError, SettingsError
from opensshtransport.remote.entries import DirEntry, DiskUsage, Stat, parse_records, parse_trees, unlisted
from opensshtransport.remote.paths import PathLike, chunks, path_text, quoted, tilde
from opensshtransport.remote.patterns import matches, select, words
from opensshtransport.remote.strerror import errno_of
from opensshtransport.sessions.requests import Reply, Request
from opensshtransport.sessions.shell_pool import Shells


class Questions:
    """The queries about the files of one destination, from any number of threads."""

    def __init__(self, shells: Shells, *, timeout: float | None = None) -> None:
        """Nothing is opened yet.

        Args:
            shells: which to ask.
            timeout: seconds that one operation may take; None for no limit.
        """
        self._shells = shells
        self._timeout = timeout
        self._home: str | None = None

    # -- asking --------------------------------------------------------------------------------------------

    def _request(
        self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False, mark: str = ""
    ) -> Request:
        # if another user sees the mark (with ps), it is useless
        marks = (f"m={mark} " if mark else "") + ("" if reads else f"d={secrets.token_hex(6)}")
        return Request(script=f"{marks}\n{script}", payload=payload, reads=reads, slow=slow)

    def _reply(
        self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False, mark: str = ""
    ) -> Reply:
        request = self._request(script, payload=payload, reads=reads, slow=slow, mark=mark)
        return self._shells.ask(request, timeout=self._timeout)

    def _ask(
        self,
        script: str,
        *paths: PathLike,
        payload: bytes = b"",
        reads: bool = True,
        slow: bool = False,
        mark: str = "",
    ) -> bytes:
        """Ask, with paths as the last words; returns what was printed."""
        for path in paths:
            if not os.fsdecode(path):
                raise self._error(errno.ENOENT, path)
        line = " ".join([script, *map(quoted, paths)])
        reply = self._reply(line, payload=payload, reads=reads, slow=slow, mark=mark)
        if reply.status:
            raise self._failed(reply, *paths)
        return reply.out

    def _test(self, letter: str, path: PathLike) -> bool:
        text = path_text(path)
        return bool(text) and self._reply(f"[ -{letter} {quoted(text)} ]").status == 0

    def _error(self, number: int, *paths: PathLike, text: str = "") -> OSError:
        names = [f"{self._shells.host}:{os.fsdecode(path)}" for path in paths]
        if len(names) > 1:
            return OSError(number, text or os.strerror(number), names[0], None, names[1])
        return OSError(number, text or os.strerror(number), names[0] if names else self._shells.host)

    def _failed(self, reply: Reply, *paths: PathLike) -> OSError:
        number = errno_of(reply.errors)
        if number is None:
            said = reply.errors.strip().splitlines()
            return self._error(errno.EIO, *paths, text=said[-1] if said else f"status {reply.status}")
        return self._error(number, *paths)

    # -- what is there -------------------------------------------------------------------------------------

    def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> Stat:
        """As os.stat: size, mode, owner, times."""
        mark = _mark()
        raw = self._ask("stat_ -L" if follow_symlinks else "stat_", path, mark=mark)
        return next(iter(parse_records(raw, mark).values()))

    def lstat(self, path: PathLike) -> Stat:
        """As os.lstat: of a symlink itself."""
        return self.stat(path, follow_symlinks=False)

    def exists(self, path: PathLike) -> bool:
        """As os.path.exists: False for a dangling symlink."""
        return self._test("e", path)

    def lexists(self, path: PathLike) -> bool:
        """As os.path.lexists."""
        text = path_text(path)
        return bool(text) and self._reply(f"there {quoted(text)}").status == 0

    def is_file(self, path: PathLike) -> bool:
        """As os.path.isfile."""
        return self._test("f", path)

    def is_dir(self, path: PathLike) -> bool:
        """As os.path.isdir."""
        return self._test("d", path)

    def is_symlink(self, path: PathLike) -> bool:
        """As os.path.islink."""
        return self._test("L", path)

    def readlink(self, path: PathLike) -> str:
        """As os.readlink."""
        return os.fsdecode(self._ask("link_", path))

    def realpath(self, path: PathLike) -> str:
        """As os.path.realpath: a missing part at the end is kept."""
        found, _, rest = os.fsdecode(self._ask("resolved", path)).partition("\0")
        return posixpath.normpath(posixpath.join(found, rest)) if rest else found

    def normalize(self, path: PathLike = ".") -> str:
        """As `realpath`; the home directory by default."""
        return self.realpath(path)

    def home(self) -> str:
        """The home directory."""
        if self._home is None:
            self._home = os.fsdecode(self._ask('printf %s "$HOME"'))
        return self._home

    def whoami(self) -> str:
        """The name of the remote user."""
        return os.fsdecode(self._ask("id -un")).removesuffix("\n")

    def disk_usage(self, path: PathLike = ".") -> DiskUsage:
        """As shutil.disk_usage: of the file system that holds a path."""
        block, total, free, available = map(int, self._ask("stat -f -c '%S %b %f %a'", path).split())
        return DiskUsage(block * total, block * (total - free), block * available)

    def tree_size(self, path: PathLike) -> int:
        """Bytes in the regular files of a tree, or of one file; links are not followed.

        Raises:
            OSError: for the first directory that cannot be read, or is beyond PATH_MAX.
        """
        reply = self._replied("size", path)
        for number, place in unlisted(reply.errors, os.fsdecode(path).rstrip("/")):
            raise self._error(number, place)
        return int(reply.out or 0)

    def _replied(self, script: str, path: PathLike, mark: str = "") -> Reply:
        """As `_ask`, but also returns what was printed on stderr."""
        if not os.fsdecode(path):
            raise self._error(errno.ENOENT, path)
        reply = self._reply(f"{script} {quoted(path)}", slow=True, mark=mark)
        if reply.status:
            raise self._failed(reply, path)
        return reply

    def checksum(
        self, path: PathLike, algorithm: Literal["sha256", "sha1", "sha512", "md5"] = "sha256"
    ) -> str:
        """The checksum of a file's content, in hexadecimal digits."""
        if algorithm not in {"sha256", "sha1", "sha512", "md5"}:
            raise SettingsError(f"unknown algorithm {algorithm!r}", advice="use sha256, sha1, sha512 or md5")
        said = self._ask(f"checksum {algorithm}sum", path, slow=True)
        # a name with a newline or a backslash puts one before the sum
        return said.split()[0].removeprefix(b"\\").decode("ascii")

    # -- many paths ----------------------------------------------------------------------------------------

    def _many(
        self, script: str, paths: Iterable[PathLike], *, reads: bool = True, mark: str = ""
    ) -> tuple[list[str], list[Reply]]:
        """Ask the same about many paths, which are read on stdin; in one round trip."""
        names = [self._plain(path) for path in paths]
        requests = [self._request(script, payload=chunk, reads=reads, mark=mark) for chunk in chunks(names)]
        return names, self._shells.ask_all(requests, timeout=self._timeout)

    def _plain(self, path: PathLike) -> str:
        """A path that sh does not parse."""
        text = path_text(path)
        if user := tilde(text):
            home = self.home() if user == "~" else os.fsdecode(self._ask("printf %s", user))
            return home + text[len(user) :]
        return f"./{text}" if text.startswith("-") else text

    def stat_many(self, paths: Iterable[PathLike], *, follow_symlinks: bool = True) -> list[Stat | None]:
        """As `stat` for thousands of paths in one round trip; None for what does not exist.

        Raises:
            OSError: for what exists but cannot be looked at.
        """
        option = "-L " if follow_symlinks else ""
        mark = _mark()
        names, replies = self._many(f'xargs -0 -r stat {option}-c "$m$record"', paths, mark=mark)
        found: dict[str, Stat] = {}
        doubtful = False
        for reply in replies:
            found.update(parse_records(reply.out, mark))
            numbers = {errno_of(line) for line in reply.errors.splitlines()}
            doubtful = doubtful or bool(numbers - _NOTHING_THERE)
        missing = [name for name in dict.fromkeys(names) if name and name not in found] if doubtful else []
        # ask again which one it is: rare, and exact
        asked = [self._request(f"stat_ {option}{shlex.quote(name)}", mark=mark) for name in missing]
        for name, reply in zip(missing, self._shells.ask_all(asked, timeout=self._timeout), strict=True):
            if reply.status and errno_of(reply.errors) not in _NOTHING_THERE:
                raise self._failed(reply, name)
        return [found.get(name) for name in names]

    def exists_many(self, paths: Iterable[PathLike]) -> list[bool]:
        """As `exists` for thousands of paths in one round trip."""
        names, replies = self._many("exist", paths)
        for reply in replies:
            if reply.status:
                # something has killed the program that looks
                raise self._failed(reply)
        told = iter(b"".join(reply.out for reply in replies))
        return [bool(name) and next(told) == ord("1") for name in names]

    # -- directories ---------------------------------------------------------------------------------------

    def listdir(self, path: PathLike = ".") -> list[str]:
        """As os.listdir, sorted."""
        if not os.fsdecode(path):
            raise self._error(errno.ENOENT, path)
        reply = self._reply(f"names {quoted(path)}")
        if reply.status and not _only_gone(reply):
            raise self._failed(reply, path)
        # what find prints begins with the path as it was expanded there
        return sorted(os.fsdecode(name).rpartition("/")[2] for name in reply.out.split(b"\0") if name)

    def scandir(self, path: PathLike = ".") -> list[DirEntry]:
        """As os.scandir, sorted: names together with what lstat returns for them."""
        mark = _mark()
        reply = self._replied("scan", path, mark)
        ((top, entries),) = parse_trees(reply.out, mark).items()
        for number, place in unlisted(reply.errors, top):
            raise self._error(number, posixpath.join(os.fsdecode(path), place[len(top) + 1 :]))
        here = posixpath.join(os.fsdecode(path), "")
        return [
            DirEntry(name, f"{here}{name}", entry.stat, entry.target)
            for name, entry in sorted(entries.items(), key=itemgetter(0))
        ]

    def scantree(
        self, path: PathLike = ".", *, onerror: Callable[[OSError], object] | None = None
    ) -> dict[str, DirEntry]:
        """As `scandir` for everything below a directory, by the path below it; in one round trip.

        The content of directories that cannot be read, or are beyond PATH_MAX, is missing.

        Args:
            path: the directory.
            onerror: called for what is missing, as that of os.walk.
        """
        entries, closed, gaps = self._tree(path)
        for number, below in [*((errno.EACCES, name) for name in sorted(closed)), *gaps]:
            if onerror is not None:
                onerror(self._error(number, posixpath.join(os.fsdecode(path), below) if below else path))
        return dict(sorted(entries.items()))

    def _tree(self, path: PathLike) -> tuple[dict[str, DirEntry], set[str], list[tuple[int, str]]]:
        """All below a directory, which directories of it cannot be read, and what else the listing lacks."""
        mark = _mark()
        reply = self._replied("scan_all", path, mark)
        listing, _, rest = reply.out.partition(f"{mark} unreadable\n".encode())
        ((top, entries),) = parse_trees(listing, mark).items()
        closed = {os.fsdecode(name) for name in rest.split(b"\0") if name}
        gaps = unlisted(reply.errors, top, closed)
        skip = len(top) + 1
        below = {name[skip:] for name in closed}
        # find has reported one that is beyond PATH_MAX
        return entries, below & entries.keys(), [(number, place[skip:]) for number, place in gaps]

    def walk(
        self,
        top: PathLike,
        topdown: bool = True,
        onerror: Callable[[OSError], object] | None = None,
        followlinks: bool = False,
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """As os.walk, sorted; the tree takes one round trip, and each link that is followed another one."""
        start = os.fsdecode(top)
        try:
            entries, unreadable, gaps = self._tree(top)
        except OSError as reason:
            if isinstance(reason, OpenSshTransportError):
                raise
            if onerror is not None:
                onerror(reason)
            return
        for number, below in gaps:
            if onerror is not None:
                onerror(self._error(number, posixpath.join(start, below) if below else start))
        children: dict[str, list[DirEntry]] = {}
        for name, entry in entries.items():
            children.setdefault(name.rpartition("/")[0], []).append(entry)

        def descend(below: str) -> Iterator[tuple[str, list[str], list[str]]]:
            here = posixpath.join(start, below) if below else start
            if below in unreadable:
                if onerror is not None:
                    onerror(self._error(errno.EACCES, here))
                return
            found = sorted(children.get(below, ()), key=lambda entry: entry.name)
            dirs = [entry.name for entry in found if entry.is_dir()]
            links = {entry.name for entry in found if entry.is_symlink()}
            files = [entry.name for entry in found if not entry.is_dir()]
            if topdown:
                yield here, dirs, files
            for name in dirs:
                if name not in links:
                    yield from descend(posixpath.join(below, name))
                elif followlinks:
                    yield from self.walk(posixpath.join(here, name), topdown, onerror, followlinks)
            if not topdown:
                yield here, dirs, files

        yield from descend("")

    def glob(self, pattern: str, *, root: PathLike | None = None) -> list[str]:
        """Paths that match a pattern, by the rules of pathlib's glob of Python 3.13; sorted.

        `*`, `?` and `[...]` match within a name, hidden ones too; `**` matches any number of directories, and
        does not follow links. A slash at the end asks for directories only.

        Args:
            pattern: may begin with `/`, `~` or `~user`.
            root: a directory, taken as it is; the pattern is relative to it.

        Raises:
            SettingsError: the pattern is empty.
        """
        if not pattern or "\0" in pattern:
            raise SettingsError(f"not a pattern: {pattern!r}", advice="give one, like *.out")
        if root is not None:
            base = posixpath.join(os.fsdecode(root), "")
        elif user := tilde(pattern):
            base, pattern = f"{user}/", pattern[len(user) :]
        else:
            base = "/" if pattern.startswith("/") else ""
        parts = [part for part in pattern.split("/") if part not in {"", "."}]
        directories = pattern.endswith("/")
        if "**" in parts:
            found = self._glob_trees(base, parts, directories)
        else:
            found = self._glob_names(base, parts, directories)
        return sorted(found)

    def rglob(self, pattern: str, *, root: PathLike | None = None) -> list[str]:
        """As `glob` with `**/` before the pattern: paths at any depth below a directory; sorted."""
        return self.glob(f"**/{pattern}", root=root)

    def _glob_names(self, base: str, parts: Sequence[str], directories: bool) -> set[str]:
        """For a pattern without `**`: sh expands a wider one, and we filter the result."""
        wider = [quoted(base or "./") + word + ("/" if directories else "") for word in words(parts)]
        # the expanded base comes first, so that we know it
        raw = self._ask(f"printf '%s\\0' {quoted(base or './')}; matching {' '.join(wider)}", slow=True)
        top, *names = [os.fsdecode(name) for name in raw.split(b"\0")[:-1]]
        found = set()
        for name in names:
            rest = name[len(top) :].rstrip("/")
            if matches(rest, parts):
                found.add((top if base else "") + rest)
        return found

    def _glob_trees(self, base: str, parts: Sequence[str], directories: bool) -> set[str]:
        """For a pattern with `**`: all below the directories before it is listed, and matched here."""
        depth = parts.index("**")
        before, rest = parts[:depth], parts[depth:]
        wider = [quoted(base or "./") + word for word in words(before)]
        mark = _mark()
        script = f"printf '%s\\0' {quoted(base or './')}; trees {' '.join(wider)}"
        raw = self._ask(script, slow=True, mark=mark)
        top = os.fsdecode(raw.partition(b"\0")[0])
        found: set[str] = set()
        for place, entries in parse_trees(raw, mark).items():
            start = place if base else place.removeprefix("./")
            if before and not matches(place[len(top) :], before):
                continue
            names, links = select(entries, rest)
            for name in names:
                entry = entries.get(name)
                # a `**` at the end does not take a link for a directory
                if not directories or entry is None or entry.is_dir(follow_symlinks=rest[-1] != "**"):
                    found.add(posixpath.join(start, name).rstrip("/") if name else start.rstrip("/") or start)
            for link, remaining in links:
                going_on = "/".join(remaining) + "/" * directories
                found.update(self.glob(going_on, root=posixpath.join(start, link)))
        return found - {""}

    # -- content -------------------------------------------------------------------------------------------

    def read_bytes(self, path: PathLike) -> bytes:
        """The content of a file; for large ones, `get` is better."""
        return self._ask("read_", path)

    def read_text(self, path: PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of a file as text, with line endings unchanged."""
        return self.read_bytes(path).decode(encoding, errors)

    def head(self, path: PathLike, lines: int = 10, *, size: int | None = None) -> bytes:
        """The first lines of a file, or the first `size` bytes."""
        return self._ask(f"part head {_amount(lines, size)}", path)

    def tail(self, path: PathLike, lines: int = 10, *, size: int | None = None) -> bytes:
        """The last lines of a file, or the last `size` bytes."""
        return self._ask(f"part tail {_amount(lines, size)}", path)


# A missing path, for `stat_many`.
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, None}

# The status of `names` if the directory itself exists.
_SOMETHING_TOLD = 3


def _only_gone(reply: Reply) -> bool:
    """Whether the only problem of a listing is that names disappeared while it was read."""
    told = reply.errors.splitlines()
    return reply.status == _SOMETHING_TOLD and {errno_of(line) for line in told} == {errno.ENOENT}


def _mark() -> str:
    return secrets.token_hex(8)


def _amount(lines: int, size: int | None) -> str:
    if (lines if size is None else size) < 0:
        raise SettingsError("a negative number of lines or bytes", advice="give 0 or more")
    return f"-n {lines}" if size is None else f"-c {size}"
