"""File operations of a destination, one request each: one round trip, whatever it does on the host.

What only reads is in `queries`; these operations change something, and are never sent twice. Each has a
function in `remote/files.sh`, and methods in `transport` and `async_transport`. The host needs POSIX sh with
GNU coreutils, busybox, or a mix of them.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import shlex
from collections.abc import Iterable

from opensshtransport.errors import OpenSshTransportError, SettingsError
from opensshtransport.files.queries import Questions
from opensshtransport.remote.paths import PathLike, path_text, quoted, tilde
from opensshtransport.sessions.requests import Reply


class Files(Questions):
    """File operations on one destination, from any number of threads.

    Paths are str, bytes or path objects; any name will do. `~` and `~user` are expanded only at the beginning
    of a path, and relative paths are relative to the home directory. All methods raise `OSError`'s own
    subclasses for errors on the host, and `ConnectionFailed`'s kinds for the connection; a change is never
    sent twice.
    """

    def _change(self, script: str, *paths: PathLike, payload: bytes = b"", slow: bool = False) -> None:
        self._ask(script, *paths, payload=payload, reads=False, slow=slow)

    # -- directories ---------------------------------------------------------------------------------------

    def mkdir(
        self, path: PathLike, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """As pathlib.Path.mkdir."""
        text = path_text(path)
        plain = text.rstrip("/") or text[:1]
        # of the others mkdir(2) takes none
        self._change(f"mkdir_ {mode & 0o1777:o} '{_flag(parents)}' '{_flag(exist_ok)}'", plain)

    def makedirs(self, path: PathLike, mode: int = 0o777, *, exist_ok: bool = False) -> None:
        """As os.makedirs."""
        self.mkdir(path, mode, parents=True, exist_ok=exist_ok)

    def rmdir(self, path: PathLike) -> None:
        """As os.rmdir."""
        self._change("rmdir", path)

    def rmtree(self, path: PathLike, *, ignore_errors: bool = False) -> None:
        """As shutil.rmtree: never through a link.

        Raises:
            SettingsError: the path is empty, the root or a home directory.
        """
        text = path_text(path)
        plain = posixpath.normpath(text) if text else ""
        if (
            not plain.strip("/.")
            or (tilde(text) and tilde(plain) == plain)
            or posixpath.basename(plain) == ".."
        ):
            raise SettingsError(f"{text!r} is never removed", advice="name a directory below it")
        try:
            self._change("rmtree", text.rstrip("/"), slow=True)
        except OSError as reason:
            if isinstance(reason, OpenSshTransportError) or not ignore_errors:
                raise

    # -- changing ------------------------------------------------------------------------------------------

    def remove(self, path: PathLike) -> None:
        """As os.remove."""
        self._change("unlink", path)

    def unlink(self, path: PathLike, *, missing_ok: bool = False) -> None:
        """As pathlib.Path.unlink."""
        try:
            self.remove(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_many(self, paths: Iterable[PathLike], *, missing_ok: bool = False) -> None:
        """As `remove` for thousands of paths in one round trip; all are tried.

        Raises:
            OSError: of the first that could not be removed.
        """
        names, replies = self._many("remove", paths, reads=False)
        failed = {"": self._error(errno.ENOENT, "")} if not missing_ok else {}
        for reply in replies:
            if reply.status:
                raise self._failed(reply)
            told = iter(os.fsdecode(reply.out).split("\0")[:-1])
            for said in told:
                kind, _, name = said.partition(" ")
                if kind == "left":
                    failed[name] = self._failed(Reply(b"", next(told), 1), name)
                elif not missing_ok:
                    failed[name] = self._error(errno.ENOENT, name)
        for name in names:
            if name in failed:
                raise failed[name]

    def rename(self, source: PathLike, destination: PathLike) -> None:
        """As os.rename, within one file system."""
        self._change("rename", source, destination)

    def replace(self, source: PathLike, destination: PathLike) -> None:
        """As os.replace, which is the same as `rename` on the host."""
        self.rename(source, destination)

    def symlink(self, target: PathLike, path: PathLike) -> None:
        """As os.symlink: `path` becomes a link to `target`, which is used as it is."""
        text = path_text(target)
        if not text:
            raise self._error(errno.ENOENT, target, path)
        self._change(f"symlink {shlex.quote(text)}", path)

    def chmod(self, path: PathLike, mode: int | str, *, recursive: bool = False) -> None:
        """As os.chmod.

        Args:
            path: what is changed; a link is followed.
            mode: bits, or words as chmod(1) takes them, like `u+x,go-w`.
            recursive: the whole tree.
        """
        if isinstance(mode, str) and not _MODE.fullmatch(mode):
            raise SettingsError(f"{mode!r} is not a mode", advice="write it as for chmod, like u+x,go-w")
        # chmod(1) keeps a directory's setgid bit where there are less than five digits
        text = mode if isinstance(mode, str) else f"{mode:05o}"
        self._change(f"chmod {'-R ' if recursive else ''}-- {text}", path, slow=recursive)

    def chown(
        self,
        path: PathLike,
        user: int | str | None = None,
        group: int | str | None = None,
        *,
        follow_symlinks: bool = True,
        recursive: bool = False,
    ) -> None:
        """As shutil.chown: by names or numbers; None leaves as it is."""
        owner = "" if user is None else str(user)
        if group is not None:
            owner += f":{group}"
        if not owner:
            raise SettingsError("neither user nor group is given", advice="give one of them")
        options = ("-h " if not follow_symlinks else "") + ("-R " if recursive else "")
        reply = self._reply(
            f"chown {options}-- {shlex.quote(owner)} {quoted(path)}", reads=False, slow=recursive
        )
        if _NOBODY.search(reply.errors.partition("\n")[0]):
            raise LookupError(f"{self._shells.host}: no such user or group: {owner!r}")
        if reply.status:
            raise self._failed(reply, path)

    def touch(self, path: PathLike, mode: int = 0o666, *, exist_ok: bool = True) -> None:
        """As pathlib.Path.touch."""
        self._change(f"touch_ {mode:o} '{_flag(exist_ok)}'", path)

    def truncate(self, path: PathLike, length: int) -> None:
        """As os.truncate; the length is in bytes."""
        if length < 0:
            raise self._error(errno.EINVAL, path)
        self._change(f"truncate_ {length}", path)

    def copy(
        self,
        source: PathLike,
        destination: PathLike,
        *,
        dereference: bool = False,
        preserve: bool = False,
        follow_source: bool = False,
    ) -> None:
        """Copy a file or a tree on the server, as `cp -r` does.

        A new file or tree appears under its name when it is complete; an existing file stays the same file
        (see `Transport.put`), and an existing tree is merged.

        Args:
            source: a file, a directory or a link; `DIR/.` is the content of a directory.
            destination: its new name, or a directory that exists.
            dereference: copy what links lead to.
            preserve: keep modes, times, owners if permitted, and hard links within a tree.
            follow_source: if the source itself is a link, copy what it leads to, as `cp -rH` does.
        """
        follows = "L" if dereference else "H" if follow_source else "P"
        options = f"-r{follows}" + ("p" if preserve else "")
        if preserve and not dereference:
            options = f"-a{follows}"
        text = path_text(source)
        name = posixpath.basename(text.rstrip("/"))
        if name == "..":
            # what is in it
            name = "."
        if not name or tilde(text) == text.rstrip("/"):
            raise SettingsError(f"{text!r} has no name to copy it by", advice="name the directory")
        script = f"copy_ {options} {quoted(source)} {quoted(destination)} {shlex.quote(name)}"
        for path in (source, destination):
            if not path_text(path):
                raise self._error(errno.ENOENT, path)
        reply = self._reply(script, reads=False, slow=True)
        if reply.status:
            raise self._failed(reply, source, destination)

    # -- content -------------------------------------------------------------------------------------------

    def write_bytes(self, path: PathLike, content: bytes, *, mode: int = 0o666, exist_ok: bool = True) -> int:
        """Write a file, which appears with all of its content or not at all; returns the number of bytes.

        An existing file keeps its mode; a link is followed.

        Args:
            path: the file.
            content: its new content.
            mode: of a new file, less the umask.
            exist_ok: whether an existing file is replaced.
        """
        self._change(f"write {len(content)} {mode:o} '{_flag(exist_ok)}'", path, payload=bytes(content))
        return len(content)

    def write_text(
        self, path: PathLike, content: str, encoding: str = "utf-8", errors: str = "strict"
    ) -> int:
        """As `write_bytes`, for text; returns the number of characters."""
        self.write_bytes(path, content.encode(encoding, errors))
        return len(content)

    def append(self, path: PathLike, content: bytes) -> None:
        """Append to a file, which is created if missing.

        Nothing is appended before all of the content has arrived; a full disk may cut it short.
        """
        self._change(f"append {len(content)}", path, payload=bytes(content))


_NOBODY = re.compile(r"^chown: (?:invalid|unknown) (?:user|group|spec)")

_MODE = re.compile(r"[0-7]{1,5}|[ugoa]*[-+=][rwxXstugo]*(?:[-+=][rwxXstugo]*)*(?:,[ugoa]*[-+=][rwxXstugo]*)*")


def _flag(value: bool) -> str:
    return "yes" if value else ""
