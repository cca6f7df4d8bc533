"""Moving files with the programs `sftp` and `scp` themselves, if the host gives us no shell.

An account that has only `internal-sftp` can put, get and list; one that has only `scp` can put and get by the
old protocol (scp -O). Each file goes to a draft and is renamed, if the host can do that.

The traps: sftp's batch language quotes in its own way and expands patterns, and no name in it may contain a
newline; and the programs' messages are all that is known about a failure.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import posixpath
import re
import stat as modes
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opensshtransport.errors import (
    ConnectionFailed,
    ConnectionLost,
    MasterGone,
    SessionRefused,
    SettingsError,
)
from opensshtransport.master.control_socket import listens
from opensshtransport.openssh import command_lines, programs, versions
from opensshtransport.openssh.diagnosis import classify, connection_error
from opensshtransport.remote.paths import quoted
from opensshtransport.remote.sftp_listings import SHOWS, decoded, left_out, parse_listing, utf8_locale
from opensshtransport.remote.strerror import errno_of
from opensshtransport.sessions.attempts import PATIENCE
from opensshtransport.sessions.channel import Client
from opensshtransport.sessions.connection import Connection
from opensshtransport.transfer.drafts import (
    anchored,
    arrange,
    claimed,
    draft_beside,
    followed,
    held,
    own_key,
    remove,
    sweep,
)
from opensshtransport.transfer.in_place import appear
from opensshtransport.transfer.items import excluded, list_tree
from opensshtransport.transfer.job import Job
from opensshtransport.transfer.options import WILD, How

# Seconds between checks whether the master is still running.
_LOOK = 0.5


def batch_word(path: str) -> str:
    """A path as one word of sftp's batch language, and not a pattern.

    Raises:
        SettingsError: it contains a newline, which cannot be written there.
    """
    if "\n" in path or "\r" in path:
        raise SettingsError(f"sftp cannot name {path!r}", advice="rename it")
    # within quotes wildcards stand for themselves (makeargv of OpenSSH's sftp.c)
    text = re.sub(r'([\\"])', r"\\\1", path)
    # `~` has no meaning there, and a relative path begins in the home directory
    text = re.sub(r"^~/+", "", text) if text not in {"", "~"} else "."
    text = text or "."
    return f'"./{text}"' if text.startswith("-") else f'"{text}"'


def missing_sftp(reason: ConnectionFailed) -> bool:
    """Whether an error of sftp's says that the host has no such subsystem, or that noise breaks it."""
    if type(reason) is not ConnectionFailed:
        return False
    said = reason.stderr or ""
    return versions.has_no_sftp(said) or "Received message too long" in said


# sftp prints this before each line of a batch when it begins.
_PROMPT = b"sftp> "


class Sftp:
    """put, get and list by sftp, or put and get by scp's old protocol."""

    def __init__(self, connection: Connection, *, legacy: bool = False) -> None:
        self._connection, self._legacy = connection, legacy
        self._host, self._destination = connection.host, connection.master.destination

    def _run(self, lines: Sequence[str], path: str) -> tuple[str, str]:
        """Run a batch; the first line that fails ends it. Returns what it printed on stdout and on stderr.

        Raises:
            OSError: what sftp said of a path.
            ConnectionFailed: one of its kinds.
        """
        # no -q: it would not report what is left out of a tree
        argv = command_lines.guarded_sftp(self._destination, self._control_path(), ["-b", "-"])
        text = "\n".join(lines) + "\n"
        return self._end(argv, text.encode("utf-8", "surrogateescape"), path)

    def _control_path(self) -> str:
        return command_lines.literal(Path(self._connection.facts().socket))

    def _end(self, argv: Sequence[str], text: bytes, path: str) -> tuple[str, str]:
        until = time.monotonic() + PATIENCE
        out, errors, returncode = self._connection.attempt(lambda: self._finish(argv, text, until), until)
        said = errors.decode("utf-8", "replace")
        if returncode == 0:
            return out.decode("utf-8", "surrogateescape"), errors.decode("utf-8", "surrogateescape")
        number = errno_of(said.replace("No such file or directory.", "No such file or directory"))
        if number is None and re.search(r"not found\.?$", said.strip()):
            number = errno.ENOENT
        if number is None and "failure" in said.lower():
            number = errno.EIO
        if number is not None:
            raise OSError(number, os.strerror(number), f"{self._host}:{path}")
        raise self._broken(argv, said, begun=_PROMPT in out)

    def _broken(self, argv: Sequence[str], said: str, *, begun: bool) -> ConnectionFailed:
        """The error for a program that has ended without saying anything about a path.

        sftp says only "Connection closed", whether the host has no such subsystem or the connection broke.
        Only if none of its lines had begun is it known that nothing has happened.
        """
        if begun:
            words = "the connection was lost while files were moved"
            return ConnectionLost(words, host=self._host, argv=argv, stderr=said)
        # scp does not say how far it got
        otherwise = ConnectionLost if self._legacy else ConnectionFailed
        error = connection_error(said, host=self._host, argv=argv, otherwise=otherwise)
        facts = self._connection.master.facts()
        if type(error) is ConnectionFailed and (facts is None or not listens(Path(facts.socket))):
            return MasterGone("no live master answers", host=self._host, argv=argv, stderr=said)
        return error

    def _finish(self, argv: Sequence[str], text: bytes, until: float) -> tuple[bytes, bytes, int]:
        """Run a program within the budget of sessions.

        Raises:
            SessionRefused: the server granted none; nothing has happened.
        """
        slots = self._connection.slots
        slot = slots.wait(until)
        beside = slots.in_use() - 1
        try:
            out, errors, returncode = self._talk(argv, text)
        finally:
            slots.give(slot)
        said = errors.decode("utf-8", "replace")
        if classify(said, returncode) is SessionRefused and _PROMPT not in out:
            slots.learn(max(beside, slots.in_use()))
            raise connection_error(said, host=self._host, argv=argv)
        return out, errors, returncode

    def _talk(self, argv: Sequence[str], text: bytes) -> tuple[bytes, bytes, int]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        env = {**os.environ, "LC_ALL": utf8_locale(os.environ)}
        given: bytes | None = text
        with Client(argv, self._connection.master, self._connection.facts(), env=env, **pipes) as program:
            while True:
                try:
                    out, errors = program.communicate(given, timeout=_LOOK)
                except subprocess.TimeoutExpired:
                    given = None
                    # a stopped master keeps the pipes open
                    if program.poll() is None or not program.gave_up:
                        continue
                    raise ConnectionLost("the master no longer answers", host=self._host, argv=argv) from None
                return out, errors, program.returncode

    # -- the host -----------------------------------------------------------------------------

    def listdir(self, path: str = ".") -> list[str]:
        """The names in a directory, sorted."""
        return sorted(self._listing(path))

    def _listing(self, path: str) -> set[str]:
        top = re.sub(r"^~(?:/+|$)", "", path) or "."
        lines = [SHOWS, f"ls -1a {batch_word(top)}"]
        out, _ = self._run(lines, path)
        shows, _, rest = out.partition("\n")
        if decoded(shows) != f"sftp> {SHOWS}":
            raise self._error(errno.EILSEQ, path, "sftp does not print all names: set LANG to a UTF-8 locale")
        listing = rest.partition("\n")[2]
        try:
            printed = parse_listing(listing, f"./{top}" if top.startswith("-") else top)
        except ValueError:
            if listing.rstrip("\n") == top.rstrip("/"):
                raise self._error(errno.ENOTDIR, path) from None
            raise self._error(errno.EBADMSG, path, "the listing of sftp cannot be understood") from None
        names = {name for name in printed if decoded(name) == name}
        return names | self._told_apart([name for name in printed if name not in names], top)

    def _told_apart(self, printed: Sequence[str], top: str) -> set[str]:
        r"""Names that were printed with `\ooo`: bytes, or spelled so, or one of each; which one, is asked."""
        candidates = sorted({one for name in printed for one in (name, decoded(name)) if "\n" not in name})
        if not candidates:
            return {decoded(name) for name in printed}
        lines = [f"-ls -1a {batch_word(posixpath.join(top, one))}" for one in candidates]
        out, _ = self._run(lines, top)
        said = re.split(r"^sftp> ", out, flags=re.MULTILINE)[1:]
        found = {one for one, words in zip(candidates, said, strict=True) if words.partition("\n")[2]}
        if len(found) != sum(1 for name in printed if "\n" not in name):
            raise self._error(errno.EBADMSG, top, "the listing of sftp has names that cannot be told apart")
        return found | {decoded(name) for name in printed if "\n" in name}

    def kind(self, path: str) -> str | None:
        """`d`, `-` and so on, or None if nothing exists; a link is what it leads to."""
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
        job: Job,
        *,
        many: bool,
    ) -> None:
        """Put files and trees, one after another."""
        if self._legacy:
            self._check_plain(job.how)
            for source in sources:
                self._scp(source, destination, job)
            return
        kind = self.kind(destination)
        if many and kind != "d":
            raise self._error(errno.ENOENT if kind is None else errno.ENOTDIR, destination)
        for source in sources:
            name = os.path.basename(os.path.abspath(source))
            contents = not many and os.path.basename(source.rstrip("/")) in {".", ".."}
            target = posixpath.join(destination, name) if kind == "d" and not contents else destination
            try:
                if os.path.isdir(source):
                    self._put_tree(source, target.rstrip("/"), job)
                else:
                    self._put_file(source, target, job)
            except OSError as reason:
                if isinstance(reason, ConnectionFailed) or not many:
                    raise
                job.failures.append(reason)

    def _check_plain(self, how: How) -> None:
        if how.exclude or not how.overwrite:
            raise SettingsError(
                "scp's old protocol can neither leave out files nor spare existing ones",
                host=self._host,
                advice="leave out exclude and overwrite",
            )

    def _put_file(self, source: str, target: str, job: Job) -> None:
        if not job.how.overwrite and self.kind(target) is not None:
            raise self._error(errno.EEXIST, target)
        if not os.access(source, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source)
        size = Path(source).stat().st_size
        job.meter.expect(1, size)
        self._run_drafts([(source, target)], [], job.how, target)
        job.meter.moved(size, target)
        job.meter.done(target)

    def _put_tree(self, source: str, target: str, job: Job) -> None:
        if self.kind(target) == "-":
            raise self._error(errno.ENOTDIR, target)
        lines = [f"-mkdir {batch_word(target)}"]
        files: list[tuple[str, str]] = []
        size = links = 0
        for item in list_tree(
            source, dereference=job.how.dereference, exclude=job.how.exclude, failed=job.failures.append
        ):
            place = posixpath.join(target, item.name)
            if item.kind == "directory" and item.name:
                lines.append(f"-mkdir {batch_word(place)}")
            elif item.kind == "symlink":
                # one command cannot replace an existing link
                lines += [
                    f"-rm {batch_word(place)}",
                    f"symlink {batch_word(os.readlink(item.path))} {batch_word(place)}",
                ]
                links += 1
            elif item.kind == "other":
                job.failures.append(OSError(errno.EINVAL, "neither file, directory nor link", item.path))
            elif item.kind == "file" and not os.access(item.path, os.R_OK):
                job.failures.append(OSError(errno.EACCES, os.strerror(errno.EACCES), item.path))
            elif item.kind == "file":
                files.append((item.path, place))
                size += item.size
        if not job.how.overwrite:
            files = self._new(files, job.failures)
        job.meter.expect(len(files) + links, size)
        self._run_drafts(files, lines, job.how, target)
        job.meter.moved(size, target)
        job.meter.done(target, len(files) + links)

    def _new(self, files: Sequence[tuple[str, str]], failures: list[OSError]) -> list[tuple[str, str]]:
        """Those that do not exist yet."""
        there: dict[str, set[str]] = {}
        kept = []
        for source, place in files:
            above, name = posixpath.split(place)
            if above not in there:
                there[above] = self._listing(above) if self.kind(above) == "d" else set()
            if name in there[above]:
                failures.append(self._error(errno.EEXIST, place))
            else:
                kept.append((source, place))
        return kept

    def _run_drafts(
        self, files: Sequence[tuple[str, str]], lines: Sequence[str], how: How, path: str
    ) -> None:
        """Put each file to a draft and rename that; remaining drafts are removed."""
        option = "-p " if how.preserve else ""
        batch, drafts = list(lines), []
        # what a broken try has left is overwritten by the next one
        with claimed("sftp", self._host, path, *(source for source, _ in files)) as key:
            for source, place in files:
                name = hashlib.sha256(f"{key}\0{place}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
                draft = posixpath.join(posixpath.dirname(place), f".ossh-{name}")
                drafts.append(draft)
                batch += [
                    f"put {option}{batch_word(os.path.abspath(source))} {batch_word(draft)}",
                    # sftp uses posix-rename@openssh.com if the server has it, which replaces
                    f"rename {batch_word(draft)} {batch_word(place)}",
                ]
            try:
                self._run(batch, path)
            except OSError as reason:
                if not isinstance(reason, ConnectionFailed):
                    self._run([f"-rm {batch_word(draft)}" for draft in drafts], path)
                raise

    def get(self, sources: Sequence[str], place: str, job: Job) -> None:
        """Get files and trees, one after another; each appears when it is complete."""
        if self._legacy:
            self._check_plain(job.how)
        names = [name for source in sources for name in self._matched(source)]
        many = len(names) > 1 or len(sources) > 1
        if many and not os.path.isdir(place):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
        for source in names:
            try:
                self._get_one(source, place, job)
            except OSError as reason:  # noqa: PERF203 - the others are to be moved all the same
                if isinstance(reason, ConnectionFailed) or not many:
                    raise
                job.failures.append(reason)

    def _matched(self, source: str) -> list[str]:
        """A name, or the names that match a pattern; only its last part may be a pattern."""
        above, name = posixpath.split(source)
        if self._legacy or not WILD & set(name) or self.kind(source) is not None:
            return [source]
        found = [
            posixpath.join(above, one)
            for one in self.listdir(above or ".")
            if fnmatch.fnmatchcase(one, name) and (name.startswith(".") or not one.startswith("."))
        ]
        if not found:
            raise self._error(errno.ENOENT, source)
        return found

    def _get_one(self, source: str, place: str, job: Job) -> None:
        name = posixpath.basename(source.rstrip("/"))
        contents = name in {"", ".", "..", "~"}
        target = Path(place, name) if os.path.isdir(place) and not contents else Path(place)
        if place.endswith("/") and target == Path(place) and self.kind(source) == "-":
            number = errno.ENOTDIR if target.exists() else errno.ENOENT
            raise OSError(number, os.strerror(number), place)
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target))
        if job.how.recursive is False and not self._legacy and self.kind(source) == "d":
            job.how.check_tree(f"{self._host}:{source}")
        followed(str(target))
        sweep(target.parent)
        with self._draft(source, target) as draft:
            arrived = draft / "it"
            if self._legacy:
                self._scp_get(source, arrived, job.how.preserve)
            else:
                option = "-R" + ("p" if job.how.preserve else "")
                _, said = self._run([f"get {option} {batch_word(source)} {batch_word(str(arrived))}"], source)
                job.failures.extend([self._error(errno.EOPNOTSUPP, left) for left in left_out(said)])
            self._arrange(arrived, target, job)

    @contextlib.contextmanager
    def _draft(self, source: str, target: Path) -> Iterator[Path]:
        """A directory next to what it will become, with the same name as that of a killed try."""
        with claimed("sftp", self._host, source, target) as key:
            draft = draft_beside(target.parent, own_key(target.parent, key, modes.S_IFDIR))
            remove(draft)
            try:
                with held(draft) as inside:
                    yield inside
            finally:
                remove(draft)

    def _arrange(self, arrived: Path, target: Path, job: Job) -> None:
        if not os.path.lexists(arrived):
            raise self._error(errno.ENOENT, str(target))
        if not arrived.is_dir() or arrived.is_symlink():
            size = arrived.stat().st_size
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            final = followed(str(target))
            appear(
                arrived,
                final if job.how.overwrite else target,
                exist_ok=job.how.overwrite,
                preserve=job.how.preserve,
            )
            job.meter.expect(1, size)
            job.meter.moved(size, target.name)
            job.meter.done(target.name)
            return
        if os.path.lexists(target) and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        for path in sorted(arrived.rglob("*"), reverse=True):
            if excluded(str(path.relative_to(arrived)), job.how.exclude):
                remove(path)
        if arrived.parent.stat().st_mode & modes.S_ISGID:
            # sftp takes from directories what they have inherited
            for path in (arrived, *arrived.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(path.stat().st_mode | modes.S_ISGID)
        files = [path for path in arrived.rglob("*") if path.is_symlink() or not path.is_dir()]
        size = sum(path.lstat().st_size for path in files)
        problems: list[OSError] = []
        new, final = not os.path.lexists(target), followed(str(target))
        with contextlib.nullcontext(final) if new else anchored(final) as top:
            arrange(arrived, top, job.how, shown=final, new=new, failed=problems.append)
        job.meter.expect(len(files), size)
        job.meter.moved(size, target.name)
        job.meter.done(target.name, len(files) - len(problems))
        job.failures.extend(problems)

    # -- scp's old protocol --------------------------------------------------------------------------------

    def _scp(self, source: str, destination: str, job: Job) -> None:
        argv = self._scp_command(job.how.preserve, os.path.abspath(source), self._remote(destination))
        files = [path for path in Path(source).rglob("*") if path.is_file()] or [Path(source)]
        size = sum(path.stat().st_size for path in files if path.is_file())
        job.meter.expect(len(files), size)
        self._end(argv, b"", destination)
        job.meter.moved(size, destination)
        job.meter.done(destination, len(files))

    def _scp_get(self, source: str, arrived: Path, preserve: bool) -> None:
        self._end(self._scp_command(preserve, self._remote(source), str(arrived)), b"", source)

    def _scp_command(self, preserve: bool, *operands: str) -> list[str]:
        destination = self._destination
        options = [*versions.old_protocol(programs.locate(destination.settings.scp)), "-q", "-r"]
        options += ["-p"] if preserve else []
        return command_lines.guarded_scp(destination, self._control_path(), [*options, "--", *operands])

    def _remote(self, path: str) -> str:
        # the old protocol passes the path to a shell on the host
        return f"{command_lines.copy_host(self._destination)}:{quoted(path)}"

    def _error(self, number: int, path: str, words: str = "") -> OSError:
        return OSError(number, words or os.strerror(number), f"{self._host}:{path}")
