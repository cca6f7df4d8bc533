"""AiiDA's archives on the host: made and unpacked there by tar.

The trap: as in AiiDA's own transports, the transport's own `exec_command_wait`, or its coroutine, runs the
command. So a subclass or a plugin can change it.
"""

from __future__ import annotations

import functools
import posixpath
import shlex
import stat
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from opensshtransport.aiida.faults import AnyPath, checked
from opensshtransport.aiida.files import FileTransport

_FORMATS = {"tar": "", "tar.gz": "z", "tar.bz2": "j", "tar.xz": "J"}


class ArchiveTransport(FileTransport):
    """Packs and unpacks for AiiDA on the host."""

    if TYPE_CHECKING:

        def exec_command_wait(self, command: str, *args: Any, **kwargs: Any) -> tuple[int, str, str]:
            """See `OpenSshTransport`."""

        async def exec_command_wait_async(
            self, command: str, *args: Any, **kwargs: Any
        ) -> tuple[int, str, str]:
            """See `OpenSshTransport`."""

    def compress(
        self,
        format: str,  # noqa: A002 - AiiDA's name
        remotesources: AnyPath | list[AnyPath],
        remotedestination: AnyPath,
        root_dir: AnyPath,
        overwrite: bool = True,
        dereference: bool = False,
    ) -> None:
        """Put files and trees into a tar archive, by their names below a directory.

        Args:
            format: `tar`, `tar.gz`, `tar.bz2` or `tar.xz`.
            remotesources: paths and patterns.
            remotedestination: the archive.
            root_dir: the directory.
            overwrite: whether an existing archive is replaced.
            dereference: whether links are followed.

        Raises:
            ValueError: another format, or a source that is not below the directory.
            OSError: of its kinds.
        """
        command = self._packing(format, remotesources, remotedestination, root_dir, overwrite, dereference)
        self._judge("creating", command, self.exec_command_wait(command))

    async def compress_async(
        self,
        format: str,  # noqa: A002 - AiiDA's name
        remotesources: AnyPath | list[AnyPath],
        remotedestination: AnyPath,
        root_dir: AnyPath,
        overwrite: bool = True,
        dereference: bool = False,
    ) -> None:
        """As `compress`."""
        given = (format, remotesources, remotedestination, root_dir, overwrite, dereference)
        command = await self._in_thread(functools.partial(self._packing, *given))
        self._judge("creating", command, await self.exec_command_wait_async(command))

    @checked
    def _packing(
        self,
        format: str,  # noqa: A002 - AiiDA's name
        remotesources: AnyPath | list[AnyPath],
        remotedestination: AnyPath,
        root_dir: AnyPath,
        overwrite: bool,
        dereference: bool,
    ) -> str:
        """The command that packs; the errors are in AiiDA's words."""
        root, archive = self._path(root_dir), self._path(remotedestination)
        top, target = self._ssh.stat_many([root, archive])
        if top is None or not stat.S_ISDIR(top.mode):
            raise OSError(f"The relative root {root_dir} does not exist, or is not a directory.")
        if target is not None and stat.S_ISDIR(target.mode):
            raise OSError(f"The remote destination {archive} is a directory, should include a filename.")
        if target is not None and not overwrite:
            raise FileExistsError(f"The remote destination {archive} already exists.")
        if format not in _FORMATS:
            raise ValueError(f"Unsupported compression format: {format}")
        sources = remotesources if isinstance(remotesources, list) else [remotesources]
        found: list[str] = []
        for source in sources:
            names = self.glob(source)
            if not names:
                raise FileNotFoundError(
                    f"Either the remote path {source} does not exist, or a matching file/folder not found."
                )
            found += [str(PurePosixPath(self._path(name)).relative_to(root)) for name in names]
        self._ssh.makedirs(posixpath.dirname(archive) or ".", exist_ok=True)
        flags = f"-c{_FORMATS[format]}{'h' if dereference else ''}f"
        return shlex.join(["tar", flags, archive, "-C", root, "--", *found])

    def extract(
        self,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        overwrite: bool = True,
        strip_components: int = 0,
        *_: object,
        **__: object,
    ) -> None:
        """Unpack an archive into a directory, which is created if missing.

        Raises:
            NotImplementedError: `overwrite` is False, as in AiiDA's own transports.
            OSError: of its kinds.
        """
        command = self._unpacking(remotesource, remotedestination, overwrite, strip_components)
        self._judge("extracting", command, self.exec_command_wait(command))

    async def extract_async(
        self,
        remotesource: AnyPath,
        remotedestination: AnyPath,
        overwrite: bool = True,
        strip_components: int = 0,
        *_: object,
        **__: object,
    ) -> None:
        """As `extract`."""
        given = (remotesource, remotedestination, overwrite, strip_components)
        command = await self._in_thread(functools.partial(self._unpacking, *given))
        self._judge("extracting", command, await self.exec_command_wait_async(command))

    @checked
    def _unpacking(
        self, remotesource: AnyPath, remotedestination: AnyPath, overwrite: bool, strip_components: int
    ) -> str:
        if not overwrite:
            raise NotImplementedError("The overwrite=False is not implemented yet")
        archive, where = self._path(remotesource), self._path(remotedestination)
        if not self._ssh.exists(archive):
            raise FileNotFoundError(f"The remote path {remotesource} does not exist")
        self._ssh.makedirs(where, exist_ok=True)
        return shlex.join(["tar", f"--strip-components={strip_components}", "-xf", archive, "-C", where])

    def _judge(self, what: str, command: str, answer: Sequence[Any]) -> None:
        """The result of tar, in the words of AiiDA's own transports."""
        status, out, err = answer
        if status:
            words = "Problem executing tar. Exit code: %s, stdout: '%s', stderr: '%s', command: '%s'"
            self.logger.error(words, status, out, err, command)
            told = f": {err.strip()}" if err else ""
            raise OSError(f"Error while {what} the tar archive. Exit code: {status}{told}")
        if err:
            self.logger.warning("There was nonempty stderr in the tar command: %s", err)
