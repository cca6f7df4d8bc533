"""One file from here to there.

The trap: what is read here may change meanwhile, and what was read of it is on its way by then; so a file is
looked at again when all of it has gone, before it gets its name. What has gone of one that was written to,
as a log that grows, must be its beginning.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import threading

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
from opensshtransport.transfer.job import DIFFER, Mover, flag
from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.options import INLINE_FILE, How

_PIECE = 1 << 18


class FilePutting(Mover):
    """Moves single files from here to one destination."""

    def file(self, source: str, destination: PathLike, how: How, meter: Meter) -> None:
        """Put one file, inline or by parts."""
        name = os.path.basename(os.path.abspath(source))
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0):
            before = os.fstat(descriptor)
            meter.expect(1, before.st_size)
            if how.way == "inline" or (how.way is None and before.st_size <= INLINE_FILE):
                content = packing.read_beginning(descriptor, before, source)
                self._inline(content, before, source, destination, how=how, meter=meter)
            else:
                # by what it becomes alone: one that grows is gone on with
                words = ("file", source, self._host, path_text(destination))
                with claimed(*words) as key:
                    self._again(
                        meter,
                        lambda: self._stripes(descriptor, source, destination, key=key, how=how, meter=meter),
                    )
        meter.done(name)

    def _inline(
        self,
        content: bytes,
        seen: os.stat_result,
        source: str,
        destination: PathLike,
        *,
        how: How,
        meter: Meter,
    ) -> None:
        name = os.path.basename(os.path.abspath(source))
        words = [
            f"put_file {len(content)} {permissions(seen):o}",
            time_word(seen, how),
            flag(how.overwrite),
            hashlib.sha256(content).hexdigest() if how.verify else "''",
            quoted(destination),
            shlex.quote(name),
        ]
        # written twice it is the same, but where it must be new
        reply = self._ask(" ".join(words), payload=content, reads=how.overwrite)
        if reply.status:
            raise self._failed(reply, destination)
        meter.moved(len(content), name)

    def _compare(self, descriptor: int, seen: os.stat_result, source: str, draft: str, verify: bool) -> None:
        """See that what has gone is the beginning of a file, and so no mixture of two versions."""
        became = since(seen, os.fstat(descriptor))
        if became is Since.OTHER:
            raise OSError(errno.EBUSY, CHANGED, source)
        if verify or became is Since.PERHAPS:
            word, size = quoted(draft), seen.st_size
            theirs = self._ask(f"whole {size} {word} && sha256sum <{word}", slow=True).out[:64]
            if theirs.decode("ascii", "replace") != drafts.beginning_sum(descriptor, size):
                if became is Since.PERHAPS:
                    raise OSError(errno.EBUSY, CHANGED, source)
                raise self._error(errno.EIO, source, DIFFER)

    def _stripes(
        self, descriptor: int, source: str, destination: PathLike, *, key: str, how: How, meter: Meter
    ) -> None:
        seen = os.fstat(descriptor)
        name = os.path.basename(os.path.abspath(source))
        place = f"{quoted(destination)} {shlex.quote(name)}"
        mibs = mibs_of_block(seen.st_size)
        blocks = -(-seen.st_size // (mibs * MIB))
        script = f"prepare {key} {flag(how.resume)} {flag(how.overwrite)} {mibs} {blocks} {place}"
        (reply,) = self._ask_first([self._request(script, slow=True)])
        if reply.status:
            raise self._failed(reply, destination)
        target, draft, inode, there = reply.out.split(b"\0", 3)
        path = os.fsdecode(draft)
        try:
            self._parts(
                descriptor,
                source,
                size=seen.st_size,
                name=name,
                receive=f"receive {quoted(path)}",
                sums_there=there,
                destination=destination,
                meter=meter,
                inode=inode.decode(),
            )
            self._compare(descriptor, seen, source, path, how.verify)
            reply = self._ask(
                f"draft={quoted(path)}; settle {seen.st_size} {permissions(seen):o} {time_word(seen, how)}"
                f" {flag(how.overwrite)} {inode.decode()} {quoted(os.fsdecode(target))}",
            )
            if reply.status:
                raise self._failed(reply, destination)
        except OSError as reason:
            if not isinstance(reason, ConnectionFailed):
                self._remove(path)
            raise

    def _remove(self, draft: str) -> None:
        # why it is removed is what matters
        with contextlib.suppress(OSError):
            self._ask(f"rm -rf {quoted(draft)}", slow=True)

    def _parts(
        self,
        descriptor: int,
        source: str,
        *,
        size: int,
        name: str,
        receive: str,
        sums_there: bytes,
        destination: PathLike,
        meter: Meter,
        inode: str = "",
    ) -> None:
        """Send what a draft has not, as long as it still is this inode; `receive` is the command for it."""
        there = [line.split()[0].decode("ascii") for line in sums_there.splitlines()]
        parts = missing_parts(
            size, there, block_sums(descriptor, size, len(there)), blocks_with_data(descriptor, size)
        )
        left = sum(part.size for part in parts)
        streams = self._streams(left)
        meter.there(size - left, name)
        # dd may cut off what another one has written behind a hole at its end
        sparse = flag(holes(os.fstat(descriptor)) > 0 and not there and streams == 1)

        def carry(session: Session, part: Part, stop: threading.Event) -> None:
            offset, end = part.offset, part.offset + part.size
            while offset < end and not stop.is_set():
                sent = session.send(descriptor, offset, min(_PIECE, end - offset))
                if not sent:
                    raise OSError(errno.EBUSY, CHANGED, source)
                offset += sent
                meter.moved(sent, name)

        move_file(
            self._shells.connection,
            Missing(parts, streams),
            streams=streams,
            script=f"{receive} {sparse} '{inode}'",
            carry=carry,
            failed=lambda reply: self._failed(reply, destination),
        )


def time_word(seen: os.stat_result, how: How) -> str:
    """The time of a file as a word of sh, empty where it is not kept."""
    return archive.seconds(seen.st_mtime_ns) if how.preserve else "''"
