"""One file from this machine to the host.

The trap: the source may change while it is read, and what was read is on its way by then; so a file is
checked again when all of it was sent, before it gets its name. If it was written to, such as a log that
grows, what was sent must be its beginning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shlex
import threading
from dataclasses import dataclass

from opensshtransport.errors import ConnectionFailed
from opensshtransport.remote.paths import PathLike, path_text, quoted
from opensshtransport.sessions.stream import Session
from opensshtransport.transfer import archive, drafts, packing
from opensshtransport.transfer.archive import CHANGED
from opensshtransport.transfer.blocks import (
    MIB,
    Missing,
    Part,
    block_sums,
    blocks_with_data,
    holes,
    mibs_of_block,
    missing_parts,
)
from opensshtransport.transfer.crew import move_file
from opensshtransport.transfer.drafts import claimed, permissions
from opensshtransport.transfer.items import Since, since
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.mover import DIFFER, Mover, flag
from opensshtransport.transfer.options import INLINE_FILE, How

_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local file that is open.

    Attributes:
        descriptor: of the file.
        path: as it was named.
        name: for the progress.
        seen: the file when it was looked at; what was added since is left out.
    """

    descriptor: int
    path: str
    name: str
    seen: os.stat_result

    @property
    def size(self) -> int:
        """How many bytes to send."""
        return self.seen.st_size

    @property
    def blocks(self) -> str:
        """How to compare its draft, as words of sh: the MiB of a block, and how many blocks."""
        mibs = mibs_of_block(self.size)
        return f"{mibs} {-(-self.size // (mibs * MIB))}"

    def settled(self, how: How) -> str:
        """The size, mode and time that it should get, as words of sh."""
        return f"{self.size} {permissions(self.seen):o} {time_word(self.seen, how)}"

    def changed(self) -> OSError:
        """The error for a file that is another one by now."""
        return OSError(errno.EBUSY, CHANGED, self.path)


class FilePutting(Mover):
    """Puts single files to one destination."""

    def file(self, source: str, destination: PathLike, job: Job) -> None:
        """Put one file, inline or in parts."""
        how, name = job.how, os.path.basename(os.path.abspath(source))
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0):
            file = Outgoing(descriptor, source, name, os.fstat(descriptor))
            job.meter.expect(1, file.size)
            if how.way == "inline" or (how.way is None and file.size <= INLINE_FILE):
                self._inline(file, destination, job)
            else:
                # only by what it becomes, so that a growing file is resumed
                words = ("file", source, self._host, path_text(destination))
                with claimed(*words) as key:
                    self._again(job, lambda: self._stripes(file, destination, key, job))
        job.meter.done(name)

    def _inline(self, file: Outgoing, destination: PathLike, job: Job) -> None:
        how, content = job.how, packing.read_beginning(file.descriptor, file.seen, file.path)
        words = [
            f"put_file {file.settled(how)}",
            flag(how.overwrite),
            hashlib.sha256(content).hexdigest() if how.verify else "''",
            quoted(destination),
            shlex.quote(file.name),
        ]
        # writing it twice does no harm, unless it must be new
        reply = self._ask(" ".join(words), payload=content, reads=how.overwrite)
        if reply.status:
            raise self._failed(reply, destination)
        job.meter.moved(len(content), file.name)

    def _compare(self, file: Outgoing, draft: str, *, verify: bool) -> None:
        """Make sure that what was sent is the beginning of a file, and so no mixture of two versions."""
        became = since(file.seen, os.fstat(file.descriptor))
        if became is Since.OTHER:
            raise file.changed()
        if verify or became is Since.PERHAPS:
            word = quoted(draft)
            theirs = self._ask(f"whole {file.size} {word} && sha256sum <{word}", slow=True).out[:64]
            if theirs.decode("ascii", "replace") != drafts.beginning_sum(file.descriptor, file.size):
                if became is Since.PERHAPS:
                    raise file.changed()
                raise self._error(errno.EIO, file.path, DIFFER)

    def _stripes(self, file: Outgoing, destination: PathLike, key: str, job: Job) -> None:
        # one that has grown since the last try is sent as it is now
        file, how = dataclasses.replace(file, seen=os.fstat(file.descriptor)), job.how
        place = f"{quoted(destination)} {shlex.quote(file.name)}"
        script = f"prepare {key} {flag(how.resume)} {flag(how.overwrite)} {file.blocks} {place}"
        (reply,) = self._ask_first([self._request(script, slow=True)])
        if reply.status:
            raise self._failed(reply, destination)
        target, draft, inode, there = reply.out.split(b"\0", 3)
        path = os.fsdecode(draft)
        try:
            receive = f"receive {quoted(path)}"
            self._parts(file, receive, there, destination, meter=job.meter, inode=inode.decode())
            self._compare(file, path, verify=how.verify)
            reply = self._ask(
                f"draft={quoted(path)}; settle {file.settled(how)}"
                f" {flag(how.overwrite)} {inode.decode()} {quoted(os.fsdecode(target))}",
            )
            if reply.status:
                raise self._failed(reply, destination)
        except OSError as reason:
            if not isinstance(reason, ConnectionFailed):
                self._remove(path)
            raise

    def _remove(self, draft: str) -> None:
        # the reason for the removal matters more
        with contextlib.suppress(OSError):
            self._ask(f"rm -rf {quoted(draft)}", slow=True)

    def _parts(
        self,
        file: Outgoing,
        receive: str,
        sums_there: bytes,
        destination: PathLike,
        *,
        meter: Meter,
        inode: str = "",
    ) -> None:
        """Send what a draft lacks, as long as it still is this inode; `receive` is the command for it."""
        there = [line.split()[0].decode("ascii") for line in sums_there.splitlines()]
        ours = block_sums(file.descriptor, file.size, len(there))
        parts = missing_parts(file.size, there, ours, blocks_with_data(file.descriptor, file.size))
        left = sum(part.size for part in parts)
        streams = self._streams(left)
        meter.there(file.size - left, file.name)
        # dd may cut off what another dd has written behind a hole at its end
        sparse = flag(holes(os.fstat(file.descriptor)) > 0 and not there and streams == 1)

        def carry(session: Session, part: Part, stop: threading.Event) -> None:
            offset, end = part.offset, part.offset + part.size
            while offset < end and not stop.is_set():
                sent = session.send(file.descriptor, offset, min(_PIECE, end - offset))
                if not sent:
                    raise file.changed()
                offset += sent
                meter.moved(sent, file.name)

        move_file(
            self._shells.connection,
            Missing(parts, streams),
            streams=streams,
            script=f"{receive} {sparse} '{inode}'",
            carry=carry,
            failed=lambda reply: self._failed(reply, destination),
        )


def time_word(seen: os.stat_result, how: How) -> str:
    """The time of a file as a word of sh, empty if it is not kept."""
    return archive.seconds(seen.st_mtime_ns) if how.preserve else "''"
