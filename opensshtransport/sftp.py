"""Moving files by the programs `sftp` and `scp` themselves, where the far side gives us no shell.

An account that has only `internal-sftp` can put, get and list; one that has only `scp` can put and get by the
old protocol (scp -O). Each file goes to a draft and is renamed, where the far side can do that.

The traps: sftp's batch language quotes in its own way and expands patterns, and no name in it may have a
newline; and the programs' words are all that is known of a failure.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import secrets
import stat as modes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opensshtransport import openssh, trees
from opensshtransport.errors import ConnectionFailed, SettingsError, connection_error, errno_of
from opensshtransport.meter import Meter
from opensshtransport.paths import quoted
from opensshtransport.shell import Shells

__all__ = ["Sftp", "batch_word", "parse_listing"]

# A line of `ls -lan`: mode, links, owner, group, size, date in three words, name.
_LINE = re.compile(r"([-dlbcps])([-rwxsStT]{9})\S*\s+\S+\s+\S+\s+\S+\s+(\d+)\s+\w{3}\s+\d+\s+[\d:]+\s(.*)")


def batch_word(path: str) -> str:
    """A path as one word of sftp's batch language, which is no pattern.

    Raises:
        SettingsError: it has a newline, for which there is no way.
    """
    if "\n" in path or "\r" in path:
        raise SettingsError(f"sftp cannot name {path!r}", advice="rename it")
    text = re.sub(r'([\\"*?\[\]])', r"\\\1", path)
    # `~` has no meaning there, and a relative path begins in the home directory
    text = re.sub(r"^~/", "", text)
    return f'"./{text}"' if text.startswith("-") else f'"{text}"'


def parse_listing(text: str, top: str) -> dict[str, tuple[str, int]]:
    """Kind and size by name, of what `ls -lan` prints.

    Args:
        text: what it prints.
        top: the directory that was asked for, which is printed before each name.
    """
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        kind, _, size, name = match.groups()
        if kind == "l":
            name = name.partition(" -> ")[0]
        name = name.removeprefix(top.rstrip("/") + "/")
        if name not in {".", ".."}:
            found[name] = (kind, int(size))
    return found


class Sftp:
    """put, get and list by sftp, or put and get by scp's old protocol."""

    def __init__(self, shells: Shells, *, legacy: bool = False) -> None:
        self._shells, self._legacy = shells, legacy
        self._host = shells.host

    def _run(self, lines: Sequence[str], path: str) -> str:
        """Run a batch; the first line that fails ends it.

        Raises:
            OSError: what sftp said of a path.
            ConnectionFailed: one of its kinds.
        """
        argv = openssh.guarded_sftp(self._shells.master.destination, self._control_path(), ["-q", "-b", "-"])
        text = "\n".join(lines) + "\n"
        return self._end(argv, text.encode("utf-8", "surrogateescape"), path)

    def _control_path(self) -> str:
        return openssh.literal(Path(self._shells.facts().socket))

    def _end(self, argv: Sequence[str], text: bytes, path: str) -> str:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            check=False,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "surrogateescape")
        number = errno_of(said.replace("No such file or directory.", "No such file or directory"))
        if number is None and re.search(r"not found\.?$", said.strip()):
            number = errno.ENOENT
        if number is None and "failure" in said.lower():
            number = errno.EIO
        if number is not None:
            raise OSError(number, os.strerror(number), f"{self._host}:{path}")
        raise connection_error(said, host=self._host, argv=argv, otherwise=ConnectionFailed)

    # -- the far side --------------------------------------------------------------------------------------

    def listdir(self, path: str = ".") -> list[str]:
        """The names in a directory, sorted."""
        return sorted(self._listing(path))

    def _listing(self, path: str) -> dict[str, tuple[str, int]]:
        said = self._run([f"ls -lan {batch_word(path)}"], path)
        return parse_listing(said, re.sub(r"^~/", "", path))

    def kind(self, path: str) -> str | None:
        """`d`, `-` and so on, or None where nothing is; a link is what it leads to."""
        try:
            self._run([f"cd {batch_word(path)}"], path)
        except FileNotFoundError:
            return None
        except ConnectionFailed:
            raise
        except OSError:
            return "-"
        return "d"

    # -- moving --------------------------------------------------------------------------------------------

    def put(
        self,
        sources: Sequence[str],
        destination: str,
        dereference: bool,
        preserve: bool,
        overwrite: bool,
        meter: Meter,
    ) -> None:
        """Put files and trees, one after the other."""
        if self._legacy:
            self._scp(["-r", *sources], destination, preserve, meter, sources)
            return
        there = self.kind(destination) == "d"
        if len(sources) > 1 and not there:
            raise self._error(errno.ENOTDIR, destination)
        for source in sources:
            name = os.path.basename(os.path.abspath(source))
            target = posixpath.join(destination, name) if there else destination
            self._put_one(source, target, dereference, preserve, overwrite, meter)

    def _put_one(
        self, source: str, target: str, dereference: bool, preserve: bool, overwrite: bool, meter: Meter
    ) -> None:
        option = "-p " if preserve else ""
        if os.path.isdir(source):
            lines = [f"-mkdir {batch_word(target)}"]
            for directory, names, files in os.walk(source, followlinks=dereference):
                below = os.path.relpath(directory, source)
                place = target if below == "." else posixpath.join(target, below)
                lines += [f"-mkdir {batch_word(posixpath.join(place, name))}" for name in sorted(names)]
                for name in sorted(files):
                    path = os.path.join(directory, name)
                    if os.path.islink(path) and not dereference:
                        link = os.readlink(path)
                        lines.append(f"symlink {batch_word(link)} {batch_word(posixpath.join(place, name))}")
                    else:
                        lines += self._file(path, posixpath.join(place, name), option)
                        meter.expect(1, Path(path).stat().st_size)
        else:
            if not overwrite and self._exists(target):
                raise self._error(errno.EEXIST, target)
            lines = self._file(source, target, option)
            meter.expect(1, Path(source).stat().st_size)
        self._run(lines, target)
        meter.moved(meter.total_bytes - meter.bytes, target)
        meter.done(target, meter.total_files - meter.files)

    def _exists(self, path: str) -> bool:
        try:
            self._run([f"ls -d {batch_word(path)}"], path)
        except FileNotFoundError:
            return False
        return True

    def _file(self, source: str, target: str, option: str) -> list[str]:
        draft = posixpath.join(posixpath.dirname(target), f".ossh-{secrets.token_hex(6)}")
        return [
            f"put {option}{batch_word(os.path.abspath(source))} {batch_word(draft)}",
            # sftp uses posix-rename@openssh.com where the server has it, which replaces
            f"rename {batch_word(draft)} {batch_word(target)}",
        ]

    def get(
        self,
        sources: Sequence[str],
        place: str,
        preserve: bool,
        overwrite: bool,
        meter: Meter,
    ) -> None:
        """Get files and trees, one after the other; each appears when it is complete."""
        many = len(sources) > 1
        if many and not os.path.isdir(place):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
        for source in sources:
            name = posixpath.basename(source.rstrip("/")) or "."
            target = Path(place, name) if os.path.isdir(place) else Path(place)
            if not overwrite and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            if not target.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target))
            with tempfile.TemporaryDirectory(prefix=".ossh-", dir=target.parent) as draft:
                arrived = Path(draft, "it")
                if self._legacy:
                    self._scp_get(source, arrived, preserve)
                else:
                    option = "-R" + ("p" if preserve else "")
                    self._run([f"get {option} {batch_word(source)} {batch_word(str(arrived))}"], source)
                self._arrange(arrived, target, meter)

    def _arrange(self, arrived: Path, target: Path, meter: Meter) -> None:
        if not os.path.lexists(arrived):
            raise self._error(errno.ENOENT, str(target))
        if arrived.is_dir() and not arrived.is_symlink():
            files = [path for path in arrived.rglob("*") if not path.is_dir()]
            size = sum(path.lstat().st_size for path in files)
            problems: list[OSError] = []
            trees.arrange(
                arrived,
                target,
                new=not os.path.lexists(target),
                exist_ok=True,
                preserve=False,
                failed=problems.append,
            )
            if problems:
                raise problems[0]
            meter.expect(len(files), size)
            meter.moved(size, target.name)
            meter.done(target.name, len(files))
            return
        size = arrived.stat().st_size
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        mode = modes.S_IMODE(arrived.stat().st_mode)
        arrived.chmod(mode)
        arrived.replace(target)
        meter.expect(1, size)
        meter.moved(size, target.name)
        meter.done(target.name)

    # -- scp's old protocol --------------------------------------------------------------------------------

    def _scp(
        self, options: Sequence[str], destination: str, preserve: bool, meter: Meter, sources: Sequence[str]
    ) -> None:
        operands = [os.path.abspath(source) for source in options[1:]]
        argv = openssh.guarded_scp(
            self._shells.master.destination,
            self._control_path(),
            ["-O", "-q", "-r", *(["-p"] if preserve else []), "--", *operands, self._remote(destination)],
        )
        self._end(argv, b"", destination)
        size = sum(Path(source).stat().st_size for source in sources)
        meter.expect(len(sources), size)
        meter.moved(size, destination)
        meter.done(destination, len(sources))

    def _scp_get(self, source: str, arrived: Path, preserve: bool) -> None:
        argv = openssh.guarded_scp(
            self._shells.master.destination,
            self._control_path(),
            ["-O", "-q", "-r", *(["-p"] if preserve else []), "--", self._remote(source), str(arrived)],
        )
        self._end(argv, b"", source)

    def _remote(self, path: str) -> str:
        # the old protocol gives the path to a shell over there
        return f"{self._shells.master.destination.host}:{quoted(path)}"

    def _error(self, number: int, path: str) -> OSError:
        return OSError(number, os.strerror(number), f"{self._host}:{path}")
