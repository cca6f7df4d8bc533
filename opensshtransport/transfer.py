"""put and get: what goes where, by which way, and what came of it.

Where a source goes follows `cp -r` (the README has the scenarios with their trees); a link that is named as
a source is followed, as `cp -rH` does. The ways: `inline`, one request of the remote shell; `tar`, streams of
an archive; `stream`, parts of one large file side by side; `sftp` and `scp` where no shell is to be had.

The trap: moving is safe to repeat, since nothing appears under its name before it is complete. So a transfer
goes on by itself after a lost connection, as long as it gets further.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import posixpath
import secrets
import shlex
import shutil
import stat as modes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from opensshtransport import archive, trees
from opensshtransport.archive import Exclude, Item
from opensshtransport.entries import DirEntry, Stat, parse_records, parse_trees
from opensshtransport.errors import ConnectionFailed, ConnectionLost, MasterGone, SettingsError
from opensshtransport.files import Files
from opensshtransport.meter import Meter, Progress, Transferred
from opensshtransport.paths import PathLike, path_text, quoted
from opensshtransport.session import Session
from opensshtransport.sftp import Sftp
from opensshtransport.shell import Reply, Request, Shells
from opensshtransport.stripes import (
    BLOCK,
    MIB,
    Part,
    block_sums,
    missing_parts,
    move,
    reply_errno,
    streams_for,
)

__all__ = ["Transfer", "TransferFailed", "Way"]

Way = Literal["inline", "tar", "stream", "sftp", "scp"]
Sources = PathLike | Sequence[PathLike]
_T = TypeVar("_T")

# Files, and trees together, up to these sizes go within one request, in bytes.
_INLINE_FILE = 256 << 10
_INLINE_TREE = 1 << 20
_INLINE_ITEMS = 2000
_PIECE = 1 << 18
# How often a transfer goes on that gets no further.
_MOST_TRIES = 3
_GLOB = frozenset("*?[")


class TransferFailed(OSError):
    """Several files could not be moved; all others are in their places.

    Attributes:
        failures: what happened, one error for each.
        result: what was moved, as put and get return it.
    """

    failures: tuple[OSError, ...] = ()
    result: Transferred | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The options of one transfer."""

    recursive: bool | None
    dereference: bool
    preserve: bool
    overwrite: bool
    resume: bool
    verify: bool
    exclude: Exclude
    way: Way | None

    def check_tree(self, name: str) -> None:
        """Raise where a directory was not to be moved."""
        if self.recursive is False:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)


@dataclass(frozen=True, slots=True)
class _Found:
    """A source on the far side."""

    path: str
    name: str
    stat: Stat
    content: bytes | None
    entries: dict[str, DirEntry] | None
    unreadable: tuple[str, ...] = ()


class Transfer:
    """Moves files between here and one destination; any thread may ask."""

    def __init__(self, shells: Shells, files: Files) -> None:
        self._shells, self._files = shells, files
        self._host = shells.host
        self._probed: tuple[float, bool] | None = None

    # -- here to there -------------------------------------------------------------------------------------

    def put(
        self,
        source: Sources,
        destination: PathLike,
        *,
        recursive: bool | None = None,
        dereference: bool = False,
        preserve: bool = False,
        overwrite: bool = True,
        resume: bool = True,
        verify: bool = False,
        progress: Callable[[Progress], object] | bool | None = None,
        exclude: Exclude = (),
        limit_rate: float | None = None,
        way: Way | None = None,
    ) -> Transferred:
        """See `Transport.put`."""
        how = _How(
            recursive=recursive,
            dereference=dereference,
            preserve=preserve,
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            exclude=exclude if callable(exclude) else tuple(exclude),
            way=way,
        )
        sources = _local_sources(source)
        if not path_text(destination):
            raise self._error(errno.ENOENT, "")
        for one in sources:
            if Path(one).is_dir():
                how.check_tree(one)
        meter = Meter(progress, limit_rate)
        with contextlib.closing(meter):
            if self._restricted(way):
                Sftp(self._shells, legacy=way == "scp").put(
                    sources, path_text(destination), how.dereference, how.preserve, how.overwrite, meter
                )
                return meter.end()
            if len(sources) == 1 and Path(sources[0]).is_file():
                self._put_file(sources[0], destination, how, meter)
                return meter.end()
            return self._put_tree(sources, destination, how, meter)

    def _restricted(self, way: Way | None) -> bool:
        return way in {"sftp", "scp"} or (way is None and not self._shells.facts().shell)

    def _put_file(self, source: str, destination: PathLike, how: _How, meter: Meter) -> None:
        name = os.path.basename(os.path.abspath(source))
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            before = os.fstat(descriptor)
            meter.expect(1, before.st_size)
            if how.way in {None, "inline"} and (before.st_size <= _INLINE_FILE or how.way == "inline"):
                self._put_inline(file.readall(), before, destination, name, how, meter)
            elif how.way in {None, "stream"}:
                self._again(
                    meter, lambda: self._put_stripes(descriptor, source, destination, name, how, meter)
                )
            else:
                self._put_tree([source], destination, how, meter)
                return
            self._unchanged(descriptor, before, source)
        meter.done(name)

    def _unchanged(self, descriptor: int, before: os.stat_result, source: str) -> None:
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise OSError(errno.EBUSY, "the file changed while it was read", source)

    def _put_inline(
        self, content: bytes, seen: os.stat_result, destination: PathLike, name: str, how: _How, meter: Meter
    ) -> None:
        if len(content) != seen.st_size:
            raise OSError(errno.EBUSY, "the file changed while it was read", name)
        words = [
            f"put_file {len(content)} {_permissions(seen.st_mode):o}",
            _time(seen, how),
            _flag(how.overwrite),
            quoted(destination),
            shlex.quote(name),
        ]
        # written twice it is the same, but where it must be new
        reply = self._ask(" ".join(words), payload=content, reads=how.overwrite)
        if reply.status:
            raise self._failed(reply, destination)
        meter.moved(len(content), name)
        if how.verify:
            self._verify_there(destination, name, hashlib.sha256(content).hexdigest())

    def _verify_there(self, destination: PathLike, name: str, ours: str) -> None:
        reply = self._ask(
            f'place {quoted(destination)} {shlex.quote(name)}; checksum sha256sum "$final"', slow=True
        )
        if reply.status or reply.out.lstrip(b"\\")[:64].decode("ascii", "replace") != ours:
            raise self._error(errno.EIO, destination, "the checksums differ after the transfer")

    def _put_stripes(
        self, descriptor: int, source: str, destination: PathLike, name: str, how: _How, meter: Meter
    ) -> None:
        seen = os.fstat(descriptor)
        size = seen.st_size
        already = meter.bytes
        key = _key(self._host, os.path.abspath(source), size, seen.st_mtime_ns, path_text(destination))
        place = f"{quoted(destination)} {shlex.quote(name)}"
        script = f"prepare {key} {_flag(how.resume)} {_flag(how.overwrite)} {place}"
        reply = self._ask(script, slow=True)
        if reply.status:
            raise self._failed(reply, destination)
        target, draft, rest = reply.out.split(b"\0", 2)
        there = [line.split()[0].decode("ascii") for line in rest.splitlines()]
        round_trip, _ = self._probe()
        streams = streams_for(round_trip, size)
        parts = missing_parts(size, there, block_sums(descriptor, len(there)), streams)
        left = sum(part.size for part in parts)
        meter.there(max(0, size - left - max(0, already)), name)
        words = quoted(os.fsdecode(draft))

        def carry(session: Session, part: Part, stop: threading.Event) -> None:
            offset, end = part.offset, part.offset + part.size
            while offset < end and not stop.is_set():
                piece = os.pread(descriptor, min(_PIECE, end - offset), offset)
                if not piece:
                    raise OSError(errno.EBUSY, "the file became shorter while it was read", source)
                session.write(piece)
                offset += len(piece)
                meter.moved(len(piece), name)

        move(
            self._shells,
            parts,
            streams,
            lambda part: f"receive {words} {part.offset // MIB}",
            carry,
            lambda failed: self._failed(failed, destination),
        )
        try:
            self._unchanged(descriptor, seen, source)
            if how.verify:
                theirs = self._files.checksum(os.fsdecode(draft))
                if theirs != trees.file_sum(source):
                    raise self._error(errno.EIO, destination, "the checksums differ after the transfer")
        except OSError as reason:
            if not isinstance(reason, ConnectionFailed):
                self._files.unlink(os.fsdecode(draft), missing_ok=True)
            raise
        reply = self._ask(
            f"draft={words}; settle {size} {_permissions(seen.st_mode):o} {_time(seen, how)}"
            f" {_flag(how.overwrite)} {quoted(os.fsdecode(target))}",
        )
        if reply.status:
            raise self._failed(reply, destination)

    def _put_tree(
        self, sources: Sequence[str], destination: PathLike, how: _How, meter: Meter
    ) -> Transferred:
        failures: list[OSError] = []
        items: list[Item] = []
        contents = len(sources) == 1 and os.path.basename(sources[0].rstrip("/")) in {".", ".."}
        many = len(sources) > 1 or contents
        for source in sources:
            prefix = os.path.basename(os.path.abspath(source)) if len(sources) > 1 else ""
            items += archive.list_tree(
                source,
                prefix=prefix,
                dereference=how.dereference,
                exclude=how.exclude,
                failed=failures.append,
            )
        name = os.path.basename(os.path.abspath(sources[0]))
        if len(sources) == 1 and items[0].kind == "file":
            items = [_renamed(items[0], name)]
            many = False
        size = sum(item.size for item in items)
        files = sum(1 for item in items if item.kind != "directory")
        meter.expect(files, size)
        spoilt: list[str] = []

        def failed(item: Item, reason: OSError) -> None:
            failures.append(reason)
            if item.name not in spoilt:
                spoilt.append(item.name)

        where = _Tree(destination, name, many, _key(self._host, *sources, path_text(destination)))
        self._again(meter, lambda: self._put_items(items, size, where, how, failed, failures, spoilt, meter))
        meter.done(name, files - len(spoilt))
        return self._outcome(failures, meter)

    def _outcome(self, failures: list[OSError], meter: Meter) -> Transferred:
        result = meter.end()
        if not failures:
            return result
        if len(failures) == 1:
            raise failures[0]
        first = failures[0]
        error = TransferFailed(
            first.errno, f"{len(failures)} files were not moved, the first: {first.strerror}", first.filename
        )
        error.failures, error.result = tuple(failures), result
        raise error

    def _put_items(
        self,
        items: Sequence[Item],
        size: int,
        where: _Tree,
        how: _How,
        failed: Callable[[Item, OSError], object],
        failures: list[OSError],
        spoilt: list[str],
        meter: Meter,
    ) -> None:
        if size <= _INLINE_TREE and len(items) <= _INLINE_ITEMS and not how.verify:
            self._put_small(items, where, how, failed, failures, meter)
            return
        flags = f"{_flag(how.resume)} {_flag(where.many)}"
        prepare = f"tree {where.key} {flags} {quoted(where.destination)} {shlex.quote(where.name)}"
        reply = self._ask(prepare, reads=True, slow=True)
        if reply.status:
            raise self._failed(reply, where.destination)
        kind, final, draft, rest = reply.out.split(b"\0", 3)
        words = quoted(os.fsdecode(draft))
        there = _sums(rest)
        todo = [item for item in items if not self._is_there(item, there, meter)]
        unpack = f"unpack {_flag(how.preserve)} {words}"
        round_trip, _ = self._probe()
        streams = streams_for(round_trip, sum(item.size + 4096 for item in todo))
        trees.send_tree(
            self._shells,
            todo,
            streams,
            unpack,
            preserve=how.preserve,
            failed=failed,
            refused=lambda reply: self._tree_failed(reply, where.destination),
            meter=meter,
        )
        directories = [item for item in items if item.kind == "directory"]
        content = trees.pack_small(directories, preserve=how.preserve, failed=failed, meter=meter)
        reply = self._ask(unpack, payload=content, slow=True)
        if reply.status:
            raise self._tree_failed(reply, where.destination)
        if how.verify:
            self._verify_tree(items, spoilt, os.fsdecode(draft), where)
        names = b"".join(os.fsencode(f"./{name}") + b"\0" for name in spoilt)
        commit = f"commit {kind.decode()} {_flag(how.overwrite)} {quoted(os.fsdecode(final))} {words}"
        reply = self._ask(f"{commit} {_flag(how.preserve)}", payload=names, slow=True)
        if reply.status:
            failures.extend(self._commit_errors(reply, where.destination))

    def _put_small(
        self,
        items: Sequence[Item],
        where: _Tree,
        how: _How,
        failed: Callable[[Item, OSError], object],
        failures: list[OSError],
        meter: Meter,
    ) -> None:
        """All in one request."""
        content = trees.pack_small(items, preserve=how.preserve, failed=failed, meter=meter)
        script = (
            f"put_tree {_flag(how.preserve)} {_flag(how.overwrite)} {_flag(where.many)}"
            f" {quoted(where.destination)} {shlex.quote(where.name)}"
        )
        # nothing of it is there before the end, and twice is as once, but where it must be new
        reply = self._ask(script, payload=content, reads=how.overwrite, slow=True)
        if reply.status and "ossh-file " in reply.errors:
            failures.extend(self._commit_errors(reply, where.destination))
        elif reply.status:
            raise self._tree_failed(reply, where.destination)

    def _commit_errors(self, reply: Reply, destination: PathLike) -> Iterator[OSError]:
        for line in reply.errors.splitlines():
            if line.startswith("xargs:"):
                continue
            number = reply_errno(Reply(b"", line, 1))
            yield self._error(number, destination, f"{os.strerror(number)} ({line})")

    def _tree_failed(self, reply: Reply, destination: PathLike) -> OSError:
        number = reply_errno(reply)
        return self._error(number, destination, f"{os.strerror(number)} ({reply.errors.strip()[:300]})")

    def _is_there(self, item: Item, there: dict[str, str], meter: Meter) -> bool:
        ours = there.get(item.name)
        if item.kind != "file" or ours is None:
            return False
        try:
            same = trees.file_sum(item.path) == ours
        except OSError:
            # packing it will tell
            return False
        if same:
            meter.there(item.size, item.name)
        return same

    def _verify_tree(self, items: Sequence[Item], spoilt: Sequence[str], draft: str, where: _Tree) -> None:
        reply = self._ask(f"cd {quoted(draft)} && find . -type f -exec sha256sum {{}} +", slow=True)
        theirs = sorted(line.lstrip("\\")[:64] for line in os.fsdecode(reply.out).splitlines())
        files = [item for item in items if item.kind == "file" and item.name not in spoilt]
        ours = sorted(trees.file_sum(item.path) for item in files)
        if theirs != ours:
            raise self._error(errno.EIO, where.destination, "the checksums differ after the transfer")

    # -- there to here -------------------------------------------------------------------------------------

    def get(
        self,
        source: Sources,
        destination: PathLike = ".",
        *,
        recursive: bool | None = None,
        dereference: bool = False,
        preserve: bool = False,
        overwrite: bool = True,
        resume: bool = True,
        verify: bool = False,
        progress: Callable[[Progress], object] | bool | None = None,
        exclude: Exclude = (),
        limit_rate: float | None = None,
        way: Way | None = None,
    ) -> Transferred:
        """See `Transport.get`."""
        how = _How(
            recursive=recursive,
            dereference=dereference,
            preserve=preserve,
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            exclude=exclude if callable(exclude) else tuple(exclude),
            way=way,
        )
        text = path_text(destination)
        if not text:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")
        place = os.path.expanduser(text)
        meter = Meter(progress, limit_rate)
        with contextlib.closing(meter):
            if self._restricted(way):
                names = [path_text(one) for one in _listed(source)]
                Sftp(self._shells, legacy=way == "scp").get(names, place, how.preserve, how.overwrite, meter)
                return meter.end()
            found = self._remote_sources(source, how)
            many = len(found) > 1
            if many and not os.path.isdir(place):
                number = errno.ENOTDIR if os.path.lexists(place) else errno.ENOENT
                raise OSError(number, os.strerror(number), place)
            failures: list[OSError] = []
            for one in found:
                size = sum(entry.stat.size for entry in (one.entries or {}).values()) if one.entries else 0
                meter.expect(len(one.entries or {}) or 1, size or one.stat.size)
            for one in found:
                try:
                    self._get_one(one, place, how, failures, meter)
                except OSError as reason:  # noqa: PERF203 - the others are to be moved all the same
                    if isinstance(reason, ConnectionFailed) or not many:
                        raise
                    failures.append(reason)
            return self._outcome(failures, meter)

    def _remote_sources(self, source: Sources, how: _How) -> list[_Found]:
        names: list[str] = []
        for one in _listed(source):
            text = path_text(one)
            if _GLOB & set(text) and (matched := self._files.glob(text)):
                names += matched
            else:
                names.append(text)
        if not names:
            raise SettingsError("no source", advice="name one")
        for name in names:
            if not name:
                raise self._error(errno.ENOENT, name)
        limit = _INLINE_FILE if how.way in {None, "inline"} else -1
        if how.way == "inline":
            limit = 1 << 62
        scripts = []
        for name in names:
            word = quoted(name)
            fetch = f"fetch {limit} {word}"
            scripts.append(
                f"if [ -d {word} ]; then followed {word}; else {fetch}; fi" if how.dereference else fetch
            )
        found = []
        mark = secrets.token_hex(8)
        requests = [_request(script, slow=True, mark=mark) for script in scripts]
        for name, reply in zip(names, self._shells.ask_all(requests), strict=True):
            if reply.status and b" tree " not in reply.out:
                raise self._failed(reply, name)
            found.append(self._found(name, reply, mark))
            if found[-1].entries is not None:
                how.check_tree(f"{self._host}:{name}")
        return found

    def _found(self, path: str, reply: Reply, mark: str) -> _Found:
        name = posixpath.basename(path.rstrip("/"))
        if name in {"", ".", ".."} or path.startswith("~"):
            name = posixpath.basename(self._files.realpath(path)) if "/" not in path.strip("/") else name
        head, inline, content = reply.out.partition(f"{mark} content\n".encode())
        if inline:
            stat = next(iter(parse_records(head, mark).values()))
            return _Found(path, name, stat, content, None)
        head, listed, _ = reply.out.partition(f"{mark} tree ".encode())
        stat = next(iter(parse_records(head, mark).values()))
        if not listed:
            return _Found(path, name, stat, None, None)
        listing, _, closed = reply.out.partition(f"{mark} unreadable\n".encode())
        ((_, entries),) = parse_trees(listing, mark).items()
        unreadable = tuple(os.fsdecode(one) for one in closed.split(b"\0") if one)
        return _Found(path, name, stat, None, entries, unreadable)

    def _get_one(self, found: _Found, place: str, how: _How, failures: list[OSError], meter: Meter) -> None:
        if found.entries is not None:
            self._get_tree(found, place, how, failures, meter)
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
        final = Path(os.path.realpath(target))
        if found.content is not None:
            if len(found.content) != found.stat.size:
                raise self._error(errno.EBUSY, found.path, "the file changed while it was read")
            self._arrive_inline(found, final, how, meter)
        elif how.way in {None, "stream"}:
            self._again(meter, lambda: self._get_stripes(found, final, how, meter))
        else:
            self._again(meter, lambda: self._get_stripes(found, final, how, meter))
        meter.done(found.name)

    def _arrive_inline(self, found: _Found, final: Path, how: _How, meter: Meter) -> None:
        content = found.content or b""
        if how.verify and self._files.checksum(found.path) != hashlib.sha256(content).hexdigest():
            raise self._error(errno.EIO, found.path, "the checksums differ after the transfer")
        if final.exists() and not final.is_file():
            final.write_bytes(content)
        else:
            draft = final.parent / f".ossh-{secrets.token_hex(8)}"
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    self._settle_here(file.fileno(), draft, final, found.stat, how)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        meter.moved(len(content), found.name)

    def _settle_here(self, descriptor: int, draft: Path, final: Path, stat: Stat, how: _How) -> None:
        """Give a complete draft its mode and times, and its name."""
        if how.preserve:
            os.fchmod(descriptor, stat.permissions)
        elif final.exists():
            os.fchmod(descriptor, modes.S_IMODE(final.stat().st_mode))
        else:
            os.fchmod(descriptor, _permissions(stat.mode) & ~_umask())
        os.fsync(descriptor)
        if how.preserve:
            os.utime(draft, ns=(stat.atime_ns, stat.mtime_ns))
        if not how.overwrite and os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        draft.replace(final)

    def _get_stripes(self, found: _Found, final: Path, how: _How, meter: Meter) -> None:
        size, stat = found.stat.size, found.stat
        key = _key(self._host, found.path, size, stat.mtime_ns, str(final))
        draft = final.parent / f".ossh-{key}"
        if final.exists() and not final.is_file():
            raise OSError(errno.EINVAL, "not a regular file", str(final))
        if not how.resume:
            draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        already = meter.bytes
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            had = os.fstat(descriptor).st_size
            blocks = -(-min(had, size) // BLOCK)
            there: list[str] = []
            if blocks:
                there = self._remote_sums(found.path, blocks)
            round_trip, _ = self._probe()
            streams = streams_for(round_trip, size)
            parts = missing_parts(size, block_sums(descriptor, blocks), there, streams)
            left = sum(part.size for part in parts)
            meter.there(max(0, size - left - already), found.name)

            def carry(session: Session, part: Part, stop: threading.Event) -> None:
                offset, end = part.offset, part.offset + part.size
                while offset < end and not stop.is_set():
                    piece = session.read(min(_PIECE, end - offset))
                    if not piece:
                        return
                    # what is nothing but zeros is left out where nothing was before
                    if offset < had or any(piece):
                        _write_at(descriptor, piece, offset)
                    offset += len(piece)
                    meter.moved(len(piece), found.name)

            word = quoted(found.path)
            move(
                self._shells,
                parts,
                streams,
                lambda part: f"send {word} {part.offset // MIB} {-(-part.size // MIB)}",
                carry,
                lambda failed: self._failed(failed, found.path),
            )
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            try:
                after = self._files.stat(found.path)
                if (after.size, after.mtime_ns) != (stat.size, stat.mtime_ns):
                    raise self._error(errno.EBUSY, found.path, "the file changed while it was read")
                if how.verify and self._files.checksum(found.path) != trees.file_sum(draft):
                    raise self._error(errno.EIO, found.path, "the checksums differ after the transfer")
                self._settle_here(file.fileno(), draft, final, stat, how)
            except OSError as reason:
                if not isinstance(reason, ConnectionFailed):
                    draft.unlink(missing_ok=True)
                raise

    def _remote_sums(self, path: str, blocks: int) -> list[str]:
        reply = self._ask(f"sums {quoted(path)}", slow=True)
        if reply.status:
            raise self._failed(reply, path)
        return [line.split()[0].decode("ascii") for line in reply.out.splitlines()][:blocks]

    def _get_tree(self, found: _Found, place: str, how: _How, failures: list[OSError], meter: Meter) -> None:
        contents = posixpath.basename(found.path.rstrip("/")) in {".", ".."}
        target = os.path.join(place, found.name) if os.path.isdir(place) and not contents else place
        final = Path(os.path.realpath(target.rstrip("/") or "/"))
        if os.path.lexists(final) and not final.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final))
        entries = found.entries or {}
        items = archive.from_entries(entries, exclude=how.exclude)
        if how.dereference:
            items = [item for item in items if item.kind != "symlink"]
        lost: list[OSError] = [self._error(errno.EACCES, path) for path in found.unreadable]
        others = [item for item in items if item.kind == "other"]
        lost += [self._error(errno.EINVAL, item.path, "neither file, directory nor link") for item in others]
        items = [item for item in items if item.kind != "other"]
        key = _key(self._host, found.path, str(final))
        new = not os.path.lexists(final)
        draft = (final.parent if new else final) / f".ossh-{key}"
        if not how.resume:
            shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, exist_ok=True)
        problems: list[OSError] = []
        self._again(meter, lambda: self._get_items(found, items, draft, how, problems, meter))
        draft.chmod(found.stat.permissions if how.preserve else _permissions(found.stat.mode) & ~_umask())
        if how.preserve:
            os.utime(draft, ns=(found.stat.atime_ns, found.stat.mtime_ns))
        trees.arrange(
            draft, final, new=new, exist_ok=how.overwrite, preserve=how.preserve, failed=problems.append
        )
        files = sum(1 for item in items if item.kind != "directory")
        meter.done(found.name, files - len(problems))
        failures += lost + problems

    def _get_items(
        self,
        found: _Found,
        items: Sequence[Item],
        draft: Path,
        how: _How,
        problems: list[OSError],
        meter: Meter,
    ) -> None:
        del problems[:]
        todo = self._not_yet(found, items, draft, meter)

        def failed(name: str, reason: OSError) -> None:
            problems.append(
                OSError(reason.errno, reason.strerror, str(draft.parent / name))
                if reason.errno
                else self._error(errno.EIO, found.path, str(reason))
            )

        options = "-h" if how.dereference else "''"
        word = quoted(found.path)
        size = sum(item.size + 1024 for item in todo)
        if not todo:
            return
        whole = len(todo) == len(found.entries or {})
        if whole and size <= _INLINE_TREE and how.way is None:
            reply = self._ask(f"archive {options} {word}", slow=True)
            self._check_archive(reply, found)
            directories = archive.unpack(
                _Bytes(reply.out),
                draft,
                preserve=how.preserve,
                failed=failed,
                progress=lambda name, size: meter.moved(size, name),
            )
            for settle in reversed(directories):
                settle()
        else:
            round_trip, lists = self._probe()
            streams = streams_for(round_trip, size) if lists else 1
            trees.receive_tree(
                self._shells,
                trees.dealt(todo, streams),
                draft,
                f"archive {options} {word} {_flag(lists)}",
                preserve=how.preserve,
                listed=lists,
                failed=failed,
                refused=lambda reply: self._tree_failed(reply, found.path),
                meter=meter,
            )
        self._complete(todo, draft, problems)
        if how.verify:
            reply = self._ask(f"cd {word} && find . -type f -exec sha256sum {{}} +", slow=True)
            theirs = {line.lstrip("\\")[:64] for line in os.fsdecode(reply.out).splitlines()}
            for item in items:
                if item.kind == "file" and trees.file_sum(draft / item.name) not in theirs:
                    (draft / item.name).unlink()
                    problems.append(self._error(errno.EIO, item.path, "the checksums differ"))

    def _check_archive(self, reply: Reply, found: _Found) -> None:
        # tar says what it could not read, and packs the rest; that the file is missing is found below
        if reply.status and not reply.out:
            raise self._tree_failed(reply, found.path)

    def _complete(self, todo: Sequence[Item], draft: Path, problems: list[OSError]) -> None:
        """Note what has not come, or not as it was listed."""
        known = {problem.filename for problem in problems}
        for item in todo:
            place = draft / item.name
            if str(draft.parent / item.name) in known:
                continue
            if not os.path.lexists(place):
                problems.append(self._error(errno.ENOENT, item.path, "the file vanished, or cannot be read"))
            elif item.kind == "file" and place.stat().st_size != item.size:
                place.unlink()
                problems.append(self._error(errno.EBUSY, item.path, "the file changed while it was read"))

    def _not_yet(self, found: _Found, items: Sequence[Item], draft: Path, meter: Meter) -> list[Item]:
        """What of the items is not in the draft, as an earlier try left it."""
        if not any(draft.iterdir()):
            return list(items)
        here = {
            item.name: item
            for item in items
            if item.kind == "file"
            and os.path.lexists(draft / item.name)
            and not (draft / item.name).is_symlink()
            and (draft / item.name).stat().st_size == item.size
        }
        payload = b"".join(os.fsencode(f"./{name}") + b"\0" for name in here)
        script = f"cd {quoted(found.path)} && xargs -0 -r sha256sum -z 2>/dev/null"
        sums = _sums(self._ask(script, payload=payload, slow=True).out) if here else {}
        same = {name for name in here if sums.get(name) == trees.file_sum(draft / name)}
        for name in same:
            meter.there(here[name].size, name)
        return [item for item in items if item.name not in same]

    # -- both ----------------------------------------------------------------------------------------------

    def _ask(self, script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False) -> Reply:
        # most of what is asked here may be asked again: a draft is a draft
        return self._shells.ask(_request(script, payload=payload, reads=reads, slow=slow))

    def _probe(self) -> tuple[float, bool]:
        """The round trip in seconds, and whether the far side's tar takes a list of names."""
        if self._probed is None:
            self._ask(":")
            begin = time.monotonic()
            self._ask(":")
            round_trip = time.monotonic() - begin
            said = self._ask("tar --version").out
            self._probed = (round_trip, b"GNU tar" in said)
        return self._probed

    def _again(self, meter: Meter, work: Callable[[], _T]) -> _T:
        """Go on after a lost connection, as long as that gets further."""
        tries = 0
        while True:
            before = meter.bytes
            try:
                return work()
            except (MasterGone, ConnectionLost):
                tries = 0 if meter.bytes > before else tries + 1
                if tries >= _MOST_TRIES:
                    raise
                self._shells.revive()

    def _error(self, number: int, path: PathLike, text: str = "") -> OSError:
        return OSError(number, text or os.strerror(number), f"{self._host}:{path_text(path)}")

    def _failed(self, reply: Reply, path: PathLike) -> OSError:
        number = reply_errno(reply)
        said = reply.errors.strip()
        text = f"{os.strerror(number)} ({said[-300:]})" if number == errno.EIO and said else ""
        return self._error(number, path, text)


@dataclass(frozen=True, slots=True)
class _Tree:
    """Where a tree goes on the far side."""

    destination: PathLike
    name: str
    many: bool
    key: str


class _Bytes:
    """Bytes to be read as a stream."""

    def __init__(self, raw: bytes) -> None:
        self._left = memoryview(raw)

    def read(self, size: int = _PIECE, /) -> bytes:
        piece, self._left = self._left[:size], self._left[size:]
        return bytes(piece)


def _request(
    script: str, *, payload: bytes = b"", reads: bool = True, slow: bool = False, mark: str = ""
) -> Request:
    marks = f"m={mark} d={secrets.token_hex(6)}"
    return Request(script=f"{marks}\n{script}", payload=payload, reads=reads, slow=slow)


def _listed(source: Sources) -> list[PathLike]:
    if isinstance(source, str | bytes | os.PathLike):
        return [source]
    return list(source)


def _local_sources(source: Sources) -> list[str]:
    """Paths of this side, with patterns and `~` expanded.

    Raises:
        FileNotFoundError: one is not there, or a pattern matches nothing.
        SettingsError: there is none.
    """
    found: list[str] = []
    for one in _listed(source):
        text = os.path.expanduser(path_text(one))
        if not os.path.lexists(text) and _GLOB & set(text):
            matched = sorted(glob.glob(text, recursive=True))
            if not matched:
                raise FileNotFoundError(errno.ENOENT, "nothing matches the pattern", text)
            found += matched
            continue
        os.stat(text)
        found.append(text)
    if not found:
        raise SettingsError("no source", advice="name one")
    return found


def _renamed(item: Item, name: str) -> Item:
    return Item(name, item.kind, item.size, item.mode, item.mtime_ns, item.path, item.twin)


def _flag(value: bool) -> str:
    return "yes" if value else "''"


def _permissions(mode: int) -> int:
    return modes.S_IMODE(mode) & 0o777


def _time(seen: os.stat_result, how: _How) -> str:
    if not how.preserve:
        return "''"
    return f"{seen.st_mtime_ns // 10**9}.{seen.st_mtime_ns % 10**9:09}"


def _key(*words: object) -> str:
    text = "\0".join(map(str, words))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _sums(raw: bytes) -> dict[str, str]:
    """What `sha256sum -z` prints, by name."""
    found = {}
    for line in raw.split(b"\0"):
        total, _, name = line.partition(b"  ")
        if name:
            found[os.fsdecode(name).removeprefix("./")] = total.decode("ascii", "replace")
    return found


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_at(descriptor: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
