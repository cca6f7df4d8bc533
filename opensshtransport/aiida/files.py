"""AiiDA's file operations, in terms of ours; what moves files is in `transfers`.

If AiiDA's transports differ, the rules of `core.local` apply. The trap: AiiDA takes `FileNotFoundError` for
"nothing to copy", and any `OSError` for a reason to skip a stash or to report a directory as removed. So a
failed connection does not raise an `OSError` here but a `ConnectionFault`, which makes AiiDA try again and
finally pause.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiida.common.warnings import warn_deprecation
from aiida.transports.transport import Transport as AiidaTransport
from aiida.transports.transport import TransportInternalError
from aiida.transports.util import FileAttribute

from opensshtransport.aiida.faults import MAGIC, AnyPath, awaited, checked
from opensshtransport.remote.entries import Stat
from opensshtransport.sessions.requests import Abandon
from opensshtransport.transport import Transport

_T = TypeVar("_T")


class FileTransport(AiidaTransport):  # type: ignore[misc]  # AiiDA is not there when types are checked
    """What AiiDA does with files on the host."""

    _is_open: bool
    _line: Transport | None
    _threads: ThreadPoolExecutor | None
    _max_io_allowed: int
    _cwd: str

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Do something in a thread; if the task is cancelled, its request to the host is given up."""
        if self._threads is None:
            # a thread of its own: the loop's default ones are few, and for others
            self._threads = ThreadPoolExecutor(self._max_io_allowed, thread_name_prefix="openssh")
        abandon = Abandon()

        def act() -> _T:
            with abandon:
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except asyncio.CancelledError:
            abandon()
            raise

    @property
    def _ssh(self) -> Transport:
        if self._line is None:
            raise TransportInternalError("Error, a method was called without opening the transport first")
        return self._line

    # -- paths ---------------------------------------------------------------------------------------------

    def _path(self, path: AnyPath) -> str:
        """A path on the host; relative ones begin where `chdir` said, or at the home directory."""
        text = str(path)
        if not text or text.startswith("/"):
            return text
        # AiiDA's paths know no `~`
        return posixpath.join(self._cwd, text) if self._cwd else f"./{text}"

    def chdir(self, path: AnyPath) -> None:
        """Where relative paths begin; an empty path changes nothing. AiiDA has deprecated it."""
        _deprecated(
            "`chdir()` is deprecated and will be removed in the next major version. "
            "Use absolute paths instead.",
        )
        if str(path):
            self._chdir(path)

    @checked
    def _chdir(self, path: AnyPath) -> None:
        where = self._ssh.realpath(self._path(path))
        if not self._ssh.is_dir(where):
            raise NotADirectoryError(errno.ENOTDIR, f"'{where}' is not a valid directory", where)
        self._cwd = where

    def getcwd(self) -> str:
        """Where relative paths begin. AiiDA has deprecated it, and drops it in version 3."""
        _deprecated("`getcwd()` is deprecated and will be removed in the next major version.")
        return self._cwd or self._home()

    @checked
    def _home(self) -> str:
        return self._ssh.home()

    @checked
    def normalize(self, path: AnyPath = ".") -> str:
        """As os.path.realpath."""
        return self._ssh.realpath(self._path(path))

    # -- what is there -------------------------------------------------------------------------------------

    @checked
    def isdir(self, path: AnyPath) -> bool:
        """As os.path.isdir."""
        return self._ssh.is_dir(self._path(path))

    @checked
    def isfile(self, path: AnyPath) -> bool:
        """As os.path.isfile."""
        return self._ssh.is_file(self._path(path))

    @checked
    def path_exists(self, path: AnyPath) -> bool:
        """As os.path.exists."""
        return self._ssh.exists(self._path(path))

    @checked
    def get_attribute(self, path: AnyPath) -> Any:
        """As os.lstat, in AiiDA's words."""
        return _attributes(self._ssh.lstat(self._path(path)))

    def get_mode(self, path: AnyPath) -> int:
        """The mode without the file's type."""
        return stat.S_IMODE(self.get_attribute(path).st_mode)

    @checked
    def listdir(self, path: AnyPath = ".", pattern: str | None = None) -> list[str]:
        """As os.listdir; or what matches a pattern, as `glob` does, relative to the directory."""
        top = self._path(path)
        if not pattern:
            return self._ssh.listdir(top)
        if pattern.startswith("/"):
            return self.glob(pattern)
        base = posixpath.join(top, "")
        return [
            name[len(base) :] for name in _shown(self._ssh.glob(_plain(pattern), root=top), pattern, base)
        ]

    @checked
    def listdir_withattributes(self, path: AnyPath = ".", pattern: str | None = None) -> list[dict[str, Any]]:
        """As `listdir`, with what lstat returns, and whether it is a directory or leads to one."""
        top = self._path(path)
        if not pattern:
            return [
                {"name": entry.name, "attributes": _attributes(entry.stat), "isdir": entry.is_dir()}
                for entry in self._ssh.scandir(top)
            ]
        names = self.listdir(path, pattern)
        paths = [posixpath.join(top, name) for name in names]
        found = zip(
            names, self._ssh.stat_many(paths, follow_symlinks=False), self._ssh.stat_many(paths), strict=True
        )
        return [
            {
                "name": name,
                "attributes": _attributes(own),
                "isdir": target is not None and stat.S_ISDIR(target.mode),
            }
            for name, own, target in found
            if own is not None
        ]

    @checked
    def glob(self, pathname: AnyPath, ignore_nonexisting: bool = True) -> list[str]:
        """As glob.glob: hidden names match only what begins with a dot.

        Raises:
            FileNotFoundError: nothing matches, and that is not ignored.
        """
        text = str(pathname)
        pattern = self._path(text)
        if MAGIC.search(text):
            skip = len(pattern) - len(text)
            # as AiiDA returns directories for a pattern that ends in a slash
            slash = "/" if text.endswith("/") else ""
            shown = _shown(self._ssh.glob(_plain(pattern)), pattern, "")
            found = [name[skip:] + slash for name in shown]
        else:
            found = [text] if self._ssh.exists(pattern) else []
        if not found and not ignore_nonexisting:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        return found

    def iglob(self, pathname: AnyPath) -> Iterator[str]:
        """As `glob`."""
        yield from self.glob(pathname)

    # -- directories and names -----------------------------------------------------------------------------

    @checked
    def mkdir(self, path: AnyPath, ignore_existing: bool = False) -> None:
        """As os.mkdir; with `ignore_existing`, the directory may exist."""
        self._ssh.mkdir(self._path(path), exist_ok=ignore_existing)

    @checked
    def makedirs(self, path: AnyPath, ignore_existing: bool = False) -> None:
        """As os.makedirs; with `ignore_existing`, the directory may exist."""
        self._ssh.makedirs(posixpath.normpath(self._path(path)), exist_ok=ignore_existing)

    @checked
    def rmdir(self, path: AnyPath) -> None:
        """As os.rmdir."""
        self._ssh.rmdir(self._path(path))

    @checked
    def rmtree(self, path: AnyPath) -> None:
        """As shutil.rmtree; also removes a file, and a missing path is not an error."""
        where = self._path(path)
        try:
            self._ssh.rmtree(where)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            if self._ssh.is_symlink(where):
                raise
            self._ssh.remove(where)

    @checked
    def remove(self, path: AnyPath) -> None:
        """As os.remove."""
        self._ssh.remove(self._path(path))

    @checked
    def rename(self, oldpath: AnyPath, newpath: AnyPath) -> None:
        """Rename a file or a directory, which may move it to another file system.

        Raises:
            ValueError: a path is empty.
            OSError: the old path does not exist, or the new one does.
        """
        if not str(oldpath) or not str(newpath):
            raise ValueError(f"{str(oldpath)!r} or {str(newpath)!r} is not a valid string")
        old, new = self._path(oldpath), self._path(newpath)
        (source, target) = self._ssh.stat_many([old, new], follow_symlinks=False)
        if source is None:
            raise FileNotFoundError(errno.ENOENT, "The source does not exist", old)
        if target is not None:
            raise FileExistsError(errno.EEXIST, "The destination already exists", new)
        try:
            self._ssh.rename(old, new)
        except OSError as reason:
            if reason.errno != errno.EXDEV:
                raise
            self._ssh.copy(old, new, preserve=True)
            self.rmtree(old)

    @checked
    def symlink(self, remotesource: AnyPath, remotedestination: AnyPath) -> None:
        """Make a link to the source; with a pattern, a link to each that matches, in a directory.

        Raises:
            ValueError: both are patterns.
            OSError: the link cannot be made.
        """
        source, where = posixpath.normpath(str(remotesource)), posixpath.normpath(str(remotedestination))
        if not MAGIC.search(source):
            self._ssh.symlink(source, self._path(where))
            return
        if MAGIC.search(where):
            raise ValueError("`remotedestination` cannot have patterns")
        for name in self.glob(source):
            self._ssh.symlink(name, posixpath.join(self._path(where), posixpath.basename(name)))

    @checked
    def chmod(self, path: AnyPath, mode: int, follow_symlinks: bool = True) -> None:
        """As os.chmod.

        Raises:
            NotImplementedError: a link's own mode is to be changed.
        """
        if not follow_symlinks and self._ssh.is_symlink(self._path(path)):
            raise NotImplementedError("a link has no mode of its own")
        self._ssh.chmod(self._path(path), mode)

    def chown(self, path: AnyPath, uid: int, gid: int) -> None:
        """As os.chown. AiiDA has deprecated it, and drops it in version 3."""
        _deprecated(
            "The `Transport.chown` method is deprecated and will be removed. "
            "It is not used internally by AiiDA."
        )
        self._chown(path, uid, gid)

    @checked
    def _chown(self, path: AnyPath, uid: int, gid: int) -> None:
        self._ssh.chown(self._path(path), uid, gid)

    # -- copies on the host -----------------------------------------------------------------------------

    @checked
    def copy(
        self,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        dereference: bool = False,
        recursive: bool = True,
        preserve: bool = False,
    ) -> None:
        """Copy files or trees, as `cp -rH` does; the source may be a pattern.

        A link that is named as a source is followed; those in a tree only with `dereference`. A source that
        ends in `/.` or `/..` means the content of that directory.

        Raises:
            ValueError: a path is empty, both are the same, or the destination is a pattern.
            FileNotFoundError: there is no source, or no directory for the destination.
            OSError: another of its kinds.
        """
        source, destination = str(remotesource), str(remotedestination)
        if not source or not destination:
            raise ValueError("the source and the destination of a copy must be non-empty strings")
        there = self._path(destination)
        if not MAGIC.search(source):
            found = [self._path(source)]
        elif MAGIC.search(destination):
            raise ValueError("Pathname patterns are not allowed in the destination")
        else:
            found = [self._path(name) for name in self.glob(source)]
            if len(found) > 1 and not self._ssh.is_dir(there):
                raise NotADirectoryError(errno.ENOTDIR, "more than one file cannot be copied to", there)
        for path in found:
            if posixpath.normpath(path) == posixpath.normpath(there):
                raise ValueError("Cannot copy from itself to itself")
            if not recursive and self._ssh.is_dir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._ssh.copy(path, there, dereference=dereference, preserve=preserve, follow_source=recursive)

    def copyfile(
        self,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        dereference: bool = False,
        preserve: bool = False,
    ) -> None:
        """As `copy`, of a file."""
        self.copy(remotesource, remotedestination, dereference, recursive=False, preserve=preserve)

    def copytree(
        self,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        dereference: bool = False,
        preserve: bool = False,
    ) -> None:
        """As `copy`, of a tree."""
        self.copy(remotesource, remotedestination, dereference, preserve=preserve)

    # -- the same to await ---------------------------------------------------------------------------------

    chdir_async = awaited(chdir)
    chmod_async = awaited(chmod)
    chown_async = awaited(chown)
    copy_async = awaited(copy)
    copyfile_async = awaited(copyfile)
    copytree_async = awaited(copytree)
    get_attribute_async = awaited(get_attribute)
    get_mode_async = awaited(get_mode)
    glob_async = awaited(glob)
    isdir_async = awaited(isdir)
    isfile_async = awaited(isfile)
    listdir_async = awaited(listdir)
    listdir_withattributes_async = awaited(listdir_withattributes)
    makedirs_async = awaited(makedirs)
    mkdir_async = awaited(mkdir)
    normalize_async = awaited(normalize)
    path_exists_async = awaited(path_exists)
    remove_async = awaited(remove)
    rename_async = awaited(rename)
    rmdir_async = awaited(rmdir)
    rmtree_async = awaited(rmtree)
    symlink_async = awaited(symlink)


def _deprecated(words: str) -> None:
    """Warn as AiiDA does, about the caller."""
    warn_deprecation(words, version=3, stacklevel=4)


def _attributes(seen: Stat) -> Any:
    found = FileAttribute()
    for name in ("size", "uid", "gid", "mode", "atime", "mtime"):
        found[f"st_{name}"] = getattr(seen, name)
    return found


def _plain(pattern: str) -> str:
    """A pattern in which `**` means the same as `*`, as in AiiDA."""
    return "/".join("*" if set(part) == {"*"} else part for part in pattern.split("/"))


def _shown(paths: Iterable[str], pattern: str, base: str) -> Iterator[str]:
    """The paths that AiiDA's patterns match: hidden names only if a pattern begins with a dot."""
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    for path in paths:
        names = [name for name in path[len(base) :].split("/") if name not in {"", "."}]
        pairs = zip(names, parts, strict=True)
        if not any(name[0] == "." != part[0] and MAGIC.search(part) for name, part in pairs):
            yield path
