"""AiiDA's put and get, in terms of ours.

The rules are those of `core.local`: a directory goes into an existing directory, or becomes a new one. Unlike
with `cp -r`, directories above are created for trees, and a path that ends in a slash means the content of a
local directory.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiida.common.folders import SandboxFolder

from opensshtransport.aiida.faults import MAGIC, AnyPath, awaited, checked
from opensshtransport.aiida.files import FileTransport


class TransferTransport(FileTransport):
    """Moves files for AiiDA to and from the host."""

    @checked
    def put(
        self,
        localpath: AnyPath,
        remotepath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        ignore_nonexisting: bool = False,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy files or trees to the host, as `cp -r` does.

        Args:
            localpath: absolute; may be a pattern. A directory that ends in a slash means its content.
            remotepath: a new name, or a directory.
            dereference: whether links are followed.
            overwrite: whether existing files may be replaced.
            ignore_nonexisting: whether a missing source is ignored.
            preserve: keep times and modes.

        Raises:
            ValueError: the local path is wrong, or the remote one is a pattern.
            OSError: the source does not exist, or cannot be copied.
        """
        local, remote = _absolute(localpath), self._there(remotepath)
        if not MAGIC.search(local):
            if not os.path.exists(local):  # noqa: PTH110 - a path that keeps its last slash
                if ignore_nonexisting:
                    return
                raise FileNotFoundError(f"The local path {local} does not exist")
            self._put(local, remote, dereference, overwrite, preserve)
            return
        if MAGIC.search(remote):
            raise ValueError("Pathname patterns are not allowed in the remotepath")
        found = sorted(glob.glob(local))  # noqa: PTH207 - AiiDA's own rules are those of this module
        if len(found) > 1 and not self._ssh.is_dir(remote):
            raise _no_directory(remote, there=self._ssh.exists(remote))
        for name in found:
            self._put(name, remote, dereference, overwrite, preserve)

    def _put(self, local: str, remote: str, dereference: bool, overwrite: bool, preserve: bool) -> None:
        if os.path.isdir(local):  # noqa: PTH112 - a path that keeps its last slash
            self._put_tree(local, remote, dereference, overwrite, preserve)
        else:
            with _refused():
                self._ssh.put(
                    glob.escape(local),
                    remote,
                    dereference=dereference,
                    overwrite=overwrite,
                    preserve=preserve,
                )

    def _put_tree(self, local: str, remote: str, dereference: bool, overwrite: bool, preserve: bool) -> None:
        if not overwrite and self._ssh.exists(remote):
            raise FileExistsError(errno.EEXIST, "Can't overwrite existing files", remote)
        source = glob.escape(local.rstrip("/") or "/")
        if local.endswith("/"):
            source = f"{source}/."

        def put() -> None:
            with _refused(remote):
                self._ssh.put(source, remote, recursive=True, dereference=dereference, preserve=preserve)

        try:
            put()
        except FileNotFoundError:
            # unlike `cp`, AiiDA expects it to make the directories above
            above = remote if local.endswith("/") else posixpath.dirname(remote.rstrip("/"))
            self._ssh.makedirs(above or ".", exist_ok=True)
            put()

    @checked
    def putfile(
        self,
        localpath: AnyPath,
        remotepath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy a file to the host; arguments and errors as for `put`."""
        local, remote = _absolute(localpath), self._there(remotepath)
        if os.path.isdir(local):  # noqa: PTH112 - a text, as above
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), local)
        if not os.path.exists(local):  # noqa: PTH110 - a text, as above
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), local)
        self._put(local, remote, dereference, overwrite, preserve)

    @checked
    def puttree(
        self,
        localpath: AnyPath,
        remotepath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy a tree to the host; arguments and errors as for `put`."""
        local, remote = _absolute(localpath), self._there(remotepath)
        if not os.path.isdir(local):  # noqa: PTH112 - a text, as above
            number = errno.ENOTDIR if os.path.exists(local) else errno.ENOENT  # noqa: PTH110 - a text
            raise OSError(number, os.strerror(number), local)
        self._put_tree(local, remote, dereference, overwrite, preserve)

    @checked
    def get(
        self,
        remotepath: AnyPath,
        localpath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        ignore_nonexisting: bool = False,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy files or trees from the host, as `cp -r` does; arguments and errors as for `put`.

        A failed connection never counts as a missing file, and is never ignored.
        """
        local, remote = _absolute(localpath), self._there(remotepath)
        if not MAGIC.search(str(remotepath)):
            found = [remote]
        elif MAGIC.search(local):
            raise ValueError("Pathname patterns are not allowed in the localpath")
        else:
            found = self.glob(remote)
            if len(found) > 1 and not os.path.isdir(local):  # noqa: PTH112 - a path that keeps its last slash
                raise _no_directory(local, there=os.path.exists(local))  # noqa: PTH110 - likewise
        for name in found:
            try:
                self._get(name, local, None, dereference, overwrite, preserve)
            except FileNotFoundError:  # noqa: PERF203 - each may be ignored
                if not ignore_nonexisting or self._ssh.exists(name):
                    raise

    def _get(
        self,
        remote: str,
        local: str,
        recursive: bool | None,
        dereference: bool,
        overwrite: bool,
        preserve: bool,
    ) -> None:
        if not overwrite and os.path.exists(local) and (recursive or self._ssh.is_dir(remote)):  # noqa: PTH110
            raise FileExistsError(errno.EEXIST, "Can't overwrite existing files", local)

        def get() -> None:
            with _refused(local):
                self._ssh.get(
                    glob.escape(remote),
                    local,
                    recursive=recursive,
                    dereference=dereference,
                    overwrite=overwrite,
                    preserve=preserve,
                )

        try:
            get()
        except FileNotFoundError:
            above = Path(local).parent
            if above.exists() or not self._ssh.is_dir(remote):
                raise
            # unlike `cp`, AiiDA expects it to make the directories above
            above.mkdir(parents=True, exist_ok=True)
            get()

    @checked
    def getfile(
        self,
        remotepath: AnyPath,
        localpath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy a file from the remote side; arguments and errors as for `get`."""
        local, remote = _absolute(localpath), self._there(remotepath)
        self._get(remote, local, False, dereference, overwrite, preserve)

    @checked
    def gettree(
        self,
        remotepath: AnyPath,
        localpath: AnyPath,
        dereference: bool = True,
        overwrite: bool = True,
        preserve: bool = False,
        *_: object,
        **__: object,
    ) -> None:
        """Copy a tree from the remote side; arguments and errors as for `get`."""
        local, remote = _absolute(localpath), self._there(remotepath)
        if not self._ssh.is_dir(remote):
            raise NotADirectoryError(errno.ENOTDIR, "Input remotepath is not a folder", remote)
        self._get(remote, local, True, dereference, overwrite, preserve)

    def _there(self, path: AnyPath) -> str:
        if not str(path):
            raise OSError("The remote path must be a non-empty string")
        return self._path(path)

    async def copy_from_remote_to_remote_async(
        self,
        transportdestination: Any,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        **kwargs: Any,
    ) -> None:
        """As `copy_from_remote_to_remote`: through this machine, to a transport of any kind."""
        dereference = kwargs.pop("dereference", True)
        options = {
            "callback": kwargs.pop("callback", None),
            "dereference": True,
            "overwrite": kwargs.pop("overwrite", True),
            "ignore_nonexisting": kwargs.pop("ignore_nonexisting", False),
        }
        if kwargs:
            self.logger.error("Unknown parameters passed to copy_from_remote_to_remote")
        with SandboxFolder() as folder:
            await self.get_async(remotesource, folder.abspath, dereference=dereference)
            for name in folder.get_content_list():
                source = os.path.join(folder.abspath, name)  # noqa: PTH118 - a text for AiiDA
                await transportdestination.put_async(source, remotedestination, **options)

    # -- the same to await ---------------------------------------------------------------------------------

    get_async = awaited(get)
    getfile_async = awaited(getfile)
    gettree_async = awaited(gettree)
    put_async = awaited(put)
    putfile_async = awaited(putfile)
    puttree_async = awaited(puttree)


def _no_directory(path: str, *, there: bool) -> OSError:
    """The error for several files without a directory to go to."""
    words = "is not a directory" if there else "does not exist"
    return OSError(errno.ENOTDIR if there else errno.ENOENT, f"The directory for several files {words}", path)


@contextlib.contextmanager
def _refused(tree: str | None = None) -> Iterator[None]:
    """Report what is in the way of a transfer as AiiDA's own transports do.

    Args:
        tree: where a tree would go to.
    """
    try:
        yield
    except FileExistsError as reason:
        words = "Destination already exists: not overwriting it"
        raise FileExistsError(errno.EEXIST, words, reason.filename) from reason
    except NotADirectoryError as reason:
        if tree is None or not str(reason.filename).endswith(tree.rstrip("/")):
            raise
        words = "Cannot copy a directory into a file"
        raise NotADirectoryError(errno.ENOTDIR, words, reason.filename) from reason


def _absolute(path: AnyPath) -> str:
    text = str(path)
    if not text:
        raise ValueError("The local path must be a non-empty string")
    if not os.path.isabs(text):  # noqa: PTH117 - a text that keeps its last slash
        raise ValueError("The local path must be an absolute path")
    return text
