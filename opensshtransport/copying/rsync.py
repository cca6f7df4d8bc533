"""Make a directory like another with rsync, through our own `run`."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from opensshtransport.copying.failures import raise_all
from opensshtransport.copying.options import Listener, SyncOptions, left_out
from opensshtransport.errors import ConnectionFailed
from opensshtransport.openssh.destination import config_options
from opensshtransport.openssh.notation import Place
from opensshtransport.remote.strerror import errno_of
from opensshtransport.transport import Transport

# Those of rsync(1), EXIT VALUES, that are about files.
_OF_FILES = {3, 11, 23, 24, 25}


def is_there(transport: Transport) -> bool:
    """Whether both sides have rsync."""
    return shutil.which("rsync") is not None and transport.run("command -v rsync >/dev/null").returncode == 0


# Prints whether a directory, or one below it, is set-group-ID, and whether one is not; or of the
# directory that it will be in.
_SET_GROUP_ID = """
while [ ! -d "${1:-/}" ]; do set -- "${1%/*}"; done
set -- "${1:-/}"
find "$1" -type d -perm -2000 2>/dev/null | head -n 1 | wc -l
find "$1" -type d ! -perm -2000 2>/dev/null | head -n 1 | wc -l
"""


def inherited(transport: Transport, place: Place) -> list[str] | None:
    """The options that make rsync keep set-group-ID bits; None if that is impossible.

    Its `-p` clears the bit of each directory that has none in the source, and new files there then get
    another group.
    """
    script = ["sh", "-c", _SET_GROUP_ID, "sh", _absolute(place, transport)]
    if place.host is None:
        said = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
        some, others = map(int, said.split())
    else:
        some, others = map(int, (transport.run(script).stdout or "").split())
    if some and others:
        return None
    return ["--chmod=Dg+s"] if some else []


def sync(
    transport: Transport,
    places: tuple[Place, Place],
    options: SyncOptions,
    inherited: Sequence[str],
    listener: Listener,
) -> None:
    """Use rsync through our own `run`, which never logs in on its own and drops what start-up files print.

    Raises:
        OSError: of a file.
        ConnectionFailed: the connection broke, or rsync failed for another reason.
    """
    here, there = places
    destination = transport.master.destination
    run = [sys.executable, "-m", "opensshtransport", "run", "--no-login"]
    run += [*config_options(destination.ssh_config), "--", destination.host]
    argv = ["rsync", "-rlpt", *inherited, "--protect-args", "-e", shlex.join(run)]
    argv += ["--delete"] if options.delete else []
    argv += ["--dry-run"] if options.dry_run else []
    argv += ["--checksum"] if options.checksum else []
    argv += [f"--exclude={_pattern(each)}" for each in options.exclude]
    # the progress of the whole transfer, with the rate and the time left
    argv += ["--info=progress2"] if options.progress else []
    # a line would break the bar
    argv += [] if options.quiet or options.progress else ["--itemize-changes"]
    argv += ["--", _operand(here, transport), _operand(there, transport)]
    said = Said(transport.host, listener, upward=here.host is None)
    # `-m` puts the working directory first on the path of imports
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
    ) as rsync:
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(said.read_errors, rsync.stderr or ())
            said.read_output(_records(cast(BinaryIO, rsync.stdout)))
            told.result()
    if said.skipped and not options.quiet:
        listener.note(left_out(said.skipped))
    said.raise_for(rsync.returncode)


def _pattern(pattern: str) -> str:
    """A pattern of `excluded`, for rsync: with a slash it is matched with the path below the top."""
    plain = pattern.strip("/")
    return f"/{plain}" if "/" in plain else plain


# A record of --info=progress2: bytes and per cent.
_PROGRESS = re.compile(rb" *[\d.,]+\w? +\d+%")

_PIECE = 1 << 16


def _records(source: BinaryIO) -> Iterator[bytes]:
    """What rsync prints, split at line endings: progress ends with a carriage return, names contain none."""
    left = b""
    while piece := os.read(source.fileno(), _PIECE):
        *whole, left = re.split(rb"[\r\n]", left + piece)
        # a record of progress begins with its carriage return, and would be reported late
        if _PROGRESS.match(left) and left.endswith(b" "):
            whole, left = [*whole, left], b""
        yield from filter(None, whole)
    if left:
        yield left


# What rsync says about a file, with the words of strerror(3): who says it, which file, what, the number.
_OF_FILE = re.compile(
    r'rsync: (?:\[(?P<who>\w+)\] )?[^"]*"(?P<path>.*?)"(?: -> ".*")?(?: failed)?'
    r": (?P<what>.+) \((?P<number>\d+)\)"
)

# What follows from that, or from a lost connection, and names no file.
_CONSEQUENCE = re.compile(
    r"rsync error: |rsync: (?:\[\w+\] )?(?:connection unexpectedly closed|write error: )"
)

_SKIPPING = b'skipping non-regular file "'

_OF_RUN = "ossh-run: "


class Said:
    """What rsync says: passed on, except for errors of files and of the connection, which are kept."""

    def __init__(self, host: str, listener: Listener, *, upward: bool) -> None:
        self._host, self._listener, self._upward = host, listener, upward
        self.skipped: list[str] = []
        self._failures: list[OSError] = []
        self._consequences: list[str] = []
        self._of_run = ""

    def read_output(self, lines: Iterable[bytes]) -> None:
        """Read its stdout to the end."""
        for line in lines:
            if _PROGRESS.match(line):
                self._listener.progress(line.rstrip())
            elif line.startswith(_SKIPPING):
                self.skipped.append(_unescaped(os.fsdecode(line[len(_SKIPPING) :].rstrip(b'"'))))
            else:
                self._listener.line(line + b"\n")

    def read_errors(self, lines: Iterable[bytes]) -> None:
        """Read its stderr to the end."""
        for line in map(os.fsdecode, lines):
            text = line.rstrip("\r\n")
            if of_file := _OF_FILE.fullmatch(text):
                self._failures.append(self._failure(of_file))
            elif text.startswith(_OF_RUN):
                self._of_run = text.removeprefix(_OF_RUN).removeprefix(f"{self._host}: ")
            elif _CONSEQUENCE.match(text):
                self._consequences.append(text)
            elif text:
                self._listener.note(text)

    def _failure(self, match: re.Match[str]) -> OSError:
        # older versions do not say who
        far = match["who"] and (match["who"].lower() == "sender") != self._upward
        path, what = _unescaped(match["path"]), match["what"]
        number = errno_of(what) or int(match["number"])
        return OSError(number, what, f"{self._host}:{path}" if far else path)

    def raise_for(self, status: int) -> None:
        """Raise what went wrong.

        Raises:
            OSError: of a file.
            ConnectionFailed: the connection broke, or rsync failed for another reason.
        """
        if self._of_run:
            raise ConnectionFailed(self._of_run, host=self._host, advice="", returncode=status)
        raise_all(self._failures)
        if status == 0:
            return
        said = self._consequences[-1] if self._consequences else f"it ended with status {status}"
        if status in _OF_FILES:
            raise OSError(errno.EIO, said)
        raise ConnectionFailed(f"rsync failed: {said}", host=self._host, returncode=status)


def _unescaped(name: str) -> str:
    """A name as it is: rsync writes what is not printed by its number (rsync(1), --8-bit-output)."""
    raw = re.sub(rb"\\#(\d{3})", lambda match: bytes([int(match[1], 8) & 255]), os.fsencode(name))
    return os.fsdecode(raw)


def _operand(place: Place, transport: Transport) -> str:
    # a slash at the end: what is in it, not the directory itself
    path = f"{_absolute(place, transport)}/"
    # our `run` knows the host; what rsync takes for one becomes the first word of the command, valid in every
    # shell
    return path if place.host is None else f"exec:{path}"


def _absolute(place: Place, transport: Transport) -> str:
    if place.host is None:
        return str(Path(place.path).expanduser().absolute()).rstrip("/")
    return posixpath.join(transport.home(), _plain(place.path, transport)).rstrip("/")


def _plain(path: str, transport: Transport) -> str:
    return transport.realpath(path) if path.startswith("~") else path
