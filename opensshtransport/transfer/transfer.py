"""put and get: what goes where, in which way, and with what result.

Where a source goes follows `cp -r` (the README has the scenarios with their trees); a link that is named as
a source is followed, as `cp -rH` does. The ways: `inline`, one request of the remote shell; `tar`, streams of
an archive; `stream`, parts of one large file in parallel; `sftp` and `scp` if no shell is available.

Moving is safe to repeat, because nothing appears under its name before it is complete. So a transfer
continues by itself after a lost connection, as long as it makes progress.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from opensshtransport.errors import ConnectionFailed, SettingsError
from opensshtransport.files.changes import Files
from opensshtransport.remote.paths import PathLike, path_text
from opensshtransport.sessions.shell_pool import Shells
from opensshtransport.transfer.get_tree import Getting
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.local_sources import local_sources
from opensshtransport.transfer.meter import Meter, Transferred
from opensshtransport.transfer.options import How, Sources, Way, listed
from opensshtransport.transfer.outcome import outcome
from opensshtransport.transfer.put_tree import Putting
from opensshtransport.transfer.without_shell import Sftp, missing_sftp


class Transfer:
    """Moves files between this machine and one destination; any thread may use it."""

    def __init__(self, shells: Shells, files: Files) -> None:
        self._shells = shells
        self._putting, self._getting = Putting(shells, files), Getting(shells, files)
        self._host = shells.host

    def put(self, source: Sources, destination: PathLike, how: How) -> Transferred:
        """See `Transport.put`."""
        failures: list[OSError] = []
        many = len(listed(source)) > 1
        sources = local_sources(source, failures)
        many = many or len(sources) > 1
        if not path_text(destination):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._host}:")
        for one in sources:
            if os.path.isdir(one):
                how.check_tree(one)
            elif not many and not os.path.isfile(one):
                raise OSError(errno.EINVAL, "neither file nor directory", one)
        job = Job(how, Meter(how.progress, how.limit_rate), failures)
        with contextlib.closing(job.meter):
            if self._restricted(how.way):
                self._without_shell(
                    how, lambda sftp: sftp.put(sources, path_text(destination), job, many=many)
                )
            elif not many and os.path.isfile(sources[0]):
                self._putting.file(sources[0], destination, job)
            elif sources:
                self._putting.tree(sources, destination, job, many=many)
            return outcome(job)

    def get(self, source: Sources, destination: PathLike, how: How) -> Transferred:
        """See `Transport.get`."""
        text = path_text(destination)
        if not text:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")
        place = os.path.expanduser(text)
        job = Job(how, Meter(how.progress, how.limit_rate), [])
        with contextlib.closing(job.meter):
            if self._restricted(how.way):
                names = [path_text(one) for one in listed(source)]
                self._without_shell(how, lambda sftp: sftp.get(names, place, job))
            else:
                self._get(source, place, job)
            return outcome(job)

    def _get(self, source: Sources, place: str, job: Job) -> None:
        found, many = self._getting.find(source, job)
        if many and not os.path.isdir(place):
            number = errno.ENOTDIR if os.path.lexists(place) else errno.ENOENT
            raise OSError(number, os.strerror(number), place)
        for one in found:
            job.meter.expect(one.files, one.size)
        names: set[str] = set()
        for one in found:
            try:
                if one.name in names:
                    raise OSError(
                        errno.EEXIST, "another source has the same name", f"{self._host}:{one.path}"
                    )
                names.add(one.name)
                self._getting.one(one, place, job)
            except OSError as reason:  # noqa: PERF203 - the others are to be moved all the same
                if isinstance(reason, ConnectionFailed) or not many:
                    raise
                job.failures.append(reason)

    @property
    def restricted(self) -> bool:
        """Whether the account gives no shell."""
        return not self._shells.connection.facts().shell

    def _restricted(self, way: Way | None) -> bool:
        return way in {"sftp", "scp"} or (way is None and self.restricted)

    def _without_shell(self, how: How, work: Callable[[Sftp], object]) -> None:
        """By sftp; if the host has none, by scp's old protocol."""
        if how.verify:
            raise SettingsError(
                "without a shell there are no checksums",
                host=self._host,
                topic="transfers",
                advice="leave out verify",
            )
        if how.way == "scp":
            work(Sftp(self._shells.connection, legacy=True))
            return
        try:
            work(Sftp(self._shells.connection))
        except ConnectionFailed as reason:
            if how.way is not None or not missing_sftp(reason):
                raise
            work(Sftp(self._shells.connection, legacy=True))

    def listdir(self, path: PathLike) -> list[str]:
        """The names in a directory, by sftp, if there is no shell."""
        return Sftp(self._shells.connection).listdir(path_text(path))
