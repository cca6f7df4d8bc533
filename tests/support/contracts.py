"""What file operations promise: numbered scenarios, each run on the remote side and here, answers compared.

The remote side is a `Transport`; here is `Local`, the same names over os, pathlib and shutil. Each has a
directory of its own on one file system; a scenario says paths below it by `at`. An answer is a result, or the
class and errno of an exception. At the end of a scenario the two trees are compared too.
"""

# `Local` has the names of `Files`, and is os itself: a Path would drop slashes at the end of a path.
# ruff: noqa: D102, PTH101, PTH110, PTH114, PTH115, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
import pwd
import shutil
import stat as modes
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opensshtransport import AsyncTransport
from opensshtransport.errors import OpenSshTransportError, SettingsError
from opensshtransport.remote.entries import DirEntry, DiskUsage, Stat

# What a name may be; the bytes 0x81 and 0x88 mean something within dash.
NAMES = [
    *(
        "two words",
        " before",
        "after ",
        "new\nline",
        "ends\n",
        "tab\t",
        "'",
        '"',
        'it\'s "so"',
        "-rf",
        "--",
        "-",
    ),
    *(
        "*",
        "?",
        "[a]",
        "$(touch x)",
        "`touch x`",
        "$HOME",
        "\\",
        "\\n",
        "a\\",
        "~",
        "~root",
        "#x",
        ";",
        "&",
        "|",
    ),
    *("!", "!!", "{a,b}", "%s", "(", "=", "ümläut", "🐢", "\r", "\x1b[31m", "\x7f", "..."),
    *(os.fsdecode(raw) for raw in (b"\xff\xfe", b"caf\xe9", b"\x81\x82\x88", b"a\x80\n\xff")),
    *("x" * 255, "é" * 127),
]


class at(str):  # noqa: N801 - reads as a preposition
    """A path below the directory of the scenario."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink, in what `Both.given` makes."""

    target: str


Tree = Mapping[str, bytes | Link | None]


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Let this thread meet the file system's permissions as a user; the other threads stay what they are."""
    if uid == os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    # setfsuid(2) takes root's capabilities on files away too, for as long as it holds
    libc.setfsgid(pwd.getpwuid(uid).pw_gid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


def _plain(found: os.stat_result) -> Stat:
    return Stat(
        *(
            found.st_mode,
            found.st_size,
            found.st_uid,
            found.st_gid,
            found.st_nlink,
            found.st_ino,
            found.st_dev,
        ),
        *(found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns),
    )


class Local:
    """The names of `Files` for the local file system, by the standard library alone."""

    def __init__(self, uid: int, home: Path) -> None:
        self._uid, self._home = uid, home

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Stat:
        return _plain(os.stat(path, follow_symlinks=follow_symlinks))

    def lstat(self, path: str) -> Stat:
        return _plain(os.lstat(path))

    exists = staticmethod(os.path.exists)
    lexists = staticmethod(os.path.lexists)
    is_file = staticmethod(os.path.isfile)
    is_dir = staticmethod(os.path.isdir)
    is_symlink = staticmethod(os.path.islink)
    readlink = staticmethod(os.readlink)
    realpath = normalize = staticmethod(os.path.realpath)
    rmdir = staticmethod(os.rmdir)
    remove = staticmethod(os.remove)
    rename = staticmethod(os.rename)
    replace = staticmethod(os.replace)
    symlink = staticmethod(os.symlink)
    truncate = staticmethod(os.truncate)
    makedirs = staticmethod(os.makedirs)

    def home(self) -> str:
        return str(self._home)

    def disk_usage(self, path: str) -> DiskUsage:
        return DiskUsage(*shutil.disk_usage(path))

    def tree_size(self, path: str) -> int:
        below = [] if os.path.islink(path) else os.walk(path)
        found = [path, *(os.path.join(top, name) for top, _, names in below for name in names)]
        return sum(os.lstat(name).st_size for name in found if modes.S_ISREG(os.lstat(name).st_mode))

    def checksum(self, path: str, algorithm: str = "sha256") -> str:
        return hashlib.new(algorithm, Path(path).read_bytes()).hexdigest()

    def stat_many(self, paths: list[str], *, follow_symlinks: bool = True) -> list[Stat | None]:
        def one(path: str) -> Stat | None:
            try:
                return self.stat(path, follow_symlinks=follow_symlinks)
            except (FileNotFoundError, NotADirectoryError):
                return None

        return [one(path) for path in paths]

    def exists_many(self, paths: list[str]) -> list[bool]:
        return [os.path.exists(path) for path in paths]

    def remove_many(self, paths: list[str], *, missing_ok: bool = False) -> None:
        first: OSError | None = None
        for path in paths:
            try:
                self.unlink(path, missing_ok=missing_ok)
            except OSError as error:  # noqa: PERF203 - all are tried
                first = first or error
        if first is not None:
            raise first

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def scandir(self, path: str) -> list[DirEntry]:
        found = []
        for entry in os.scandir(path):
            try:
                target = _plain(os.stat(entry.path)) if entry.is_symlink() else None
            except OSError:
                target = None
            found.append(DirEntry(entry.name, entry.path, _plain(os.lstat(entry.path)), target))
        return sorted(found, key=lambda entry: entry.name)

    def walk(self, top: str, topdown: bool = True, **named: Any) -> list[tuple[str, list[str], list[str]]]:
        found = []
        for here, dirs, files in os.walk(top, topdown, **named):
            dirs.sort()
            found.append((here, list(dirs), sorted(files)))
        # bottom up, the order of directories side by side is the file system's
        return found if topdown else sorted(found)

    def glob(self, pattern: str, *, root: str) -> list[str]:
        return sorted(map(str, Path(root).glob(pattern)))

    def rglob(self, pattern: str, *, root: str) -> list[str]:
        return sorted(map(str, Path(root).rglob(pattern)))

    def mkdir(self, path: str, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        Path(path).mkdir(mode, parents, exist_ok)

    def rmtree(self, path: str, *, ignore_errors: bool = False) -> None:
        if os.path.islink(path) and not ignore_errors:
            # shutil raises OSError without an errno
            raise NotADirectoryError(errno.ENOTDIR, "a link", path)
        shutil.rmtree(path, ignore_errors=ignore_errors)

    def unlink(self, path: str, *, missing_ok: bool = False) -> None:
        Path(path).unlink(missing_ok)

    def chmod(self, path: str, mode: int | str, *, recursive: bool = False) -> None:
        if isinstance(mode, int) and not recursive:
            os.chmod(path, mode)
        else:
            word = mode if isinstance(mode, str) else f"{mode:05o}"
            self._run("chmod", *["-R"] * recursive, "--", word, path)

    def chown(self, path: str, user: int | str | None = None, group: int | str | None = None) -> None:
        who: dict[str, Any] = {"user": user, "group": group}
        shutil.chown(path, **{name: value for name, value in who.items() if value is not None})

    def touch(self, path: str, mode: int = 0o666, *, exist_ok: bool = True) -> None:
        # as pathlib does it, which takes a slash at the end for nothing
        try:
            if exist_ok:
                os.utime(path)
                return
        except OSError:
            pass
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | (0 if exist_ok else os.O_EXCL), mode))

    def copy(
        self, source: str, destination: str, *, dereference: bool = False, preserve: bool = False
    ) -> None:
        self._run("cp", "-r" + ("L" if dereference else "P") + "p" * preserve, "--", source, destination)

    def _run(self, *argv: str) -> None:
        # execve(2) forgets what setfsuid has set
        who: dict[str, Any] = {"user": self._uid, "group": self._uid, "extra_groups": []}
        subprocess.run(argv, check=True, capture_output=True, **(who if self._uid != os.geteuid() else {}))

    def read_bytes(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        return Path(path).read_bytes().decode(encoding)

    def write_bytes(self, path: str, content: bytes, *, mode: int = 0o666, exist_ok: bool = True) -> int:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if exist_ok else os.O_EXCL)
        with open(os.open(path, flags, mode), "wb") as file:
            return file.write(content)

    def write_text(self, path: str, content: str, encoding: str = "utf-8") -> int:
        self.write_bytes(path, content.encode(encoding))
        return len(content)

    def append(self, path: str, content: bytes) -> None:
        with open(path, "ab") as file:
            file.write(content)

    def head(self, path: str, lines: int = 10, *, size: int | None = None) -> bytes:
        content = Path(path).read_bytes()
        return b"".join(content.splitlines(keepends=True)[:lines]) if size is None else content[:size]

    def tail(self, path: str, lines: int = 10, *, size: int | None = None) -> bytes:
        content = Path(path).read_bytes()
        if size is None:
            return b"".join(content.splitlines(keepends=True)[-lines:] if lines else [])
        return content[max(0, len(content) - size) :]


class Awaited:
    """An `AsyncTransport` whose methods are run on an event loop, each until it is done."""

    def __init__(self, transport: AsyncTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self._loop = transport, loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.transport, name)

        def call(*args: Any, **named: Any) -> Any:
            return self._loop.run_until_complete(method(*args, **named))

        return call

    def walk(self, top: str, *options: Any, **named: Any) -> list[tuple[str, list[str], list[str]]]:
        async def collect() -> list[tuple[str, list[str], list[str]]]:
            if options:
                named["topdown"] = options[0]
            return [
                (here, list(dirs), files) async for here, dirs, files in self.transport.walk(top, **named)
            ]

        return self._loop.run_until_complete(collect())


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, or the class and errno of what was raised."""

    value: Any = None
    error: type[BaseException] | None = None
    number: int | None = None


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """All below a directory: type, permissions, owner, and the content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        what: object = None
        if modes.S_ISLNK(status.st_mode):
            found[str(path.relative_to(top))] = ("link", os.readlink(path).replace(str(top), "TOP"))
            continue
        if modes.S_ISREG(status.st_mode):
            what = path.read_bytes()
        found[str(path.relative_to(top))] = (oct(status.st_mode), status.st_uid, status.st_nlink, what)
    return found


class Both:
    """The remote side and here; calling it asks both."""

    def __init__(self, far: Any, host: str, user: int, home: Path, tops: tuple[Path, Path]) -> None:
        self.far, self.here, self.host, self.uid = far, Local(user, home), host, user
        self.tops = tops
        self.differences: list[str] = []

    def __call__(self, name: str, *args: Any, **named: Any) -> Any:
        """Ask both; gives the remote side's result, or the exception's class."""
        answers = []
        for side, top in zip((self.far, self.here), self.tops, strict=True):
            with acting_as(self.uid) if side is self.here else acting_as(os.geteuid()):
                answers.append(
                    self._answer(side, top, name, self._placed(args, top), self._placed(named, top))
                )
        if answers[0] != answers[1]:
            self.differences.append(
                f"{name}{args!r:.200}{named or ''}: there {answers[0]!r}, here {answers[1]!r}"
            )
        return answers[0].error or answers[0].value

    def given(self, files: Tree) -> None:
        """Make files, directories (None) and links on both sides, in their order."""
        for top in self.tops:
            with acting_as(self.uid):
                for name, content in files.items():
                    path = top / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if content is None:
                        path.mkdir(exist_ok=True)
                    elif isinstance(content, Link):
                        path.symlink_to(content.target.replace("TOP", str(top)))
                    else:
                        path.write_bytes(content)

    def each(self, change: Callable[[Path], object]) -> None:
        """Do something directly on both sides."""
        for top in self.tops:
            with acting_as(self.uid):
                change(top)

    def modes(self, files: Mapping[str, int]) -> None:
        """Set permissions directly on both sides, in order."""
        for top in self.tops:
            with acting_as(self.uid):
                for name, mode in files.items():
                    (top / name).chmod(mode)

    def same_trees(self) -> None:
        """Both sides have given the same answers, and have the same files."""
        assert not self.differences, "\n".join(self.differences)
        there, here = map(tree, self.tops)
        different = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        assert not different, [(name, there.get(name), here.get(name)) for name in different]

    def _names_the_file(self, error: OSError) -> None:
        assert str(error.filename).startswith(f"{self.host}:"), error
        assert error.errno is not None, error

    def _placed(self, value: Any, top: Path) -> Any:
        if isinstance(value, at):
            return f"{top}/{value}" if value else str(top)
        if isinstance(value, list | tuple):
            return type(value)(self._placed(part, top) for part in value)
        if isinstance(value, dict):
            return {name: self._placed(part, top) for name, part in value.items()}
        return value

    def _answer(self, side: Any, top: Path, name: str, args: Any, named: Any) -> Answer:
        try:
            value = getattr(side, name)(*args, **named)
            if side is self.far and name == "walk":
                value = [(here, list(dirs), files) for here, dirs, files in value]
                if False in args:
                    places = [here for here, _, _ in value]
                    assert all(
                        os.path.dirname(here) not in places[:number] for number, here in enumerate(places)
                    )
                    value.sort()
            return Answer(_normal(value, top))
        except OpenSshTransportError:
            raise
        except subprocess.CalledProcessError as error:
            # cp and chmod: only that they refuse is compared
            return Answer(error=OSError, number=None if error.returncode else 0)
        except OSError as error:
            if side is self.far:
                self._names_the_file(error)
            if name == "copy" or (name == "chmod" and (named.get("recursive") or isinstance(args[1], str))):
                return Answer(error=OSError)
            return Answer(error=type(error), number=error.errno)
        except (LookupError, UnicodeError, ValueError) as error:
            return Answer(error=type(error))


def _normal(value: Any, top: Path) -> Any:
    """A result without what differs between two directories, or from moment to moment."""
    if isinstance(value, Stat):
        size = None if value.type == "directory" else value.size
        if value.type == "symlink":
            # a target may have the directory's path in it
            size = None
        return ("stat", value.type, value.permissions, size, value.uid, value.gid, value.nlink, value.dev)
    if isinstance(value, DirEntry):
        target = _normal(value.target, top)
        kinds = (value.is_dir(), value.is_file(), value.is_symlink(), value.is_dir(follow_symlinks=False))
        return (value.name, _normal(value.path, top), _normal(value.stat, top), target, kinds)
    if isinstance(value, str):
        return value.replace(str(top), "TOP")
    if isinstance(value, DiskUsage):
        return value.total
    if isinstance(value, list):
        return [_normal(part, top) for part in value]
    if isinstance(value, tuple):
        return tuple(_normal(part, top) for part in value)
    return value


TREE: Tree = {
    "d": None,
    "d/f": b"one\ntwo\n",
    "d/.hidden": b"",
    "d/sub": None,
    "d/sub/deep": b"x" * 5000,
    "empty": None,
    "f": b"content\n",
    "l": Link("f"),
    "ld": Link("d"),
    "dangling": Link("nothing/there"),
    "loop": Link("loop"),
}
# Ways to name things of TREE, and what is not there.
PLACES = [
    *("", "d", "d/", "d/f", "d/sub", "d/.hidden", "empty", "f", "f/", "f/x", "l", "l/", "ld", "ld/", "ld/f"),
    *("dangling", "loop", "loop/x", "missing", "missing/x", "d/.", "d/..", "d//f", "d/sub/../f", "x" * 256),
]


PATTERNS = [
    *("*", "*/", ".*", "?", "d/*", "d/.*", "d/f", "d/sub/", "*/f", "*/*", "[dl]*", "[!d]*", "d/[.]hidden"),
    *("**/f", "**/*", "d/**/deep", "**/sub/*", "**/", "*/**/deep", "**/sub/**/deep", "l*/f", "missing"),
    *("nothing/*", "f/*", "ld/**/deep", "**/ld/*", "d/sub/*", "**/[s]ub", "[[]", "*[]]", "lo*", "d//f"),
]


class FilesContract:
    """The scenarios. A test module gives `both`, for each kind of remote side."""

    @pytest.fixture(autouse=True)
    def _compared(self, both: Both) -> Iterator[None]:
        yield
        both.same_trees()

    def test_01_questions_about_a_path(self, both: Both) -> None:
        """1: each question about each kind of path has the answer that os and pathlib give."""
        both.given(TREE)
        for place in PLACES:
            for question in (
                "stat",
                "lstat",
                "exists",
                "lexists",
                "is_file",
                "is_dir",
                "is_symlink",
                "readlink",
            ):
                both(question, at(place))
        assert both("stat", at("f"))[1] == "file"
        assert both("stat", at("missing")) is FileNotFoundError
        assert both("stat", at("f/x")) is NotADirectoryError

    def test_02_empty_path(self, both: Both) -> None:
        """2: the empty path is nowhere, for every operation."""
        for question in ("stat", "lstat", "readlink", "listdir", "rmdir", "remove", "read_bytes"):
            assert both(question, "") is FileNotFoundError
        for question in ("exists", "lexists", "is_file", "is_dir", "is_symlink"):
            assert both(question, "") is False
        assert both("rename", "", at("x")) is FileNotFoundError
        assert both("rename", at("x"), "") is FileNotFoundError
        assert both("write_bytes", "", b"", exist_ok=True) is FileNotFoundError

    def test_03_times_and_sizes(self, both: Both) -> None:
        """3: size, mode, owner and times are exact, to the nanosecond where the tools there tell it."""
        both.given({"f": b"12345", "old": b"", "d": None, "l": Link("f")})
        times = {
            "f": 1_700_000_000_123_456_789,
            "old": -1_500_000_000,
            "d": 4_102_444_800_000_000_001,
            "l": 5,
        }
        for name, moment in times.items():
            both.each(lambda top, n=name, m=moment: os.utime(top / n, ns=(m + 7, m), follow_symlinks=False))  # type: ignore[misc]
            found = both.far.lstat(f"{both.tops[0]}/{name}")
            local = os.lstat(both.tops[0] / name)
            assert (found.mtime_ns, found.atime_ns, found.ctime_ns) == (moment, moment + 7, local.st_ctime_ns)
            assert (found.ino, found.dev, found.nlink) == (local.st_ino, local.st_dev, local.st_nlink)

    def test_04_every_name(self, both: Both) -> None:
        """4: each name can be made, listed, looked at, written, read, moved, linked, globbed and removed."""
        for name in NAMES:
            both("write_bytes", at(name), b"1\n")
            assert both("read_bytes", at(name)) == b"1\n"
            both("append", at(name), b"2\n")
            assert both("head", at(name), 1) == b"1\n"
            assert both("stat", at(name))[1] == "file"
            both("checksum", at(name))
            both("symlink", name, at("a link"))
            assert both("readlink", at("a link")) == name
            both("remove", at("a link"))
            both("mkdir", at("d"))
            both("mkdir", at(f"d/{name}"))
            assert both("listdir", at("d")) == [name]
            assert both("scandir", at(f"d/{name}")) == []
            both("write_bytes", at(f"d/{name}/{name}"), b"")
            assert both("walk", at("d"))[1][2] == [name]
            both("rename", at(f"d/{name}/{name}"), at("moved"))
            both("replace", at("moved"), at(f"d/{name}/{name}"))
            both("rmtree", at("d"))
        both("listdir", at(""))
        both("scandir", at(""))
        both("stat_many", [at(name) for name in NAMES])
        assert all(both("exists_many", [at(name) for name in NAMES]))
        both("glob", "*", root=at(""))
        both("remove_many", [at(name) for name in NAMES])
        assert both("listdir", at("")) == []

    def test_05_no_name(self, both: Both) -> None:
        """5: a NUL is refused before anything is sent."""
        with pytest.raises(SettingsError):
            both.far.stat("a\0b")

    def test_06_listdir_and_scandir(self, both: Both) -> None:
        """6: names, and names with lstat and what links lead to; errors as os has them."""
        both.given(TREE)
        for place in PLACES:
            both("listdir", at(place))
            both("scandir", at(place))

    def test_07_walk(self, both: Both) -> None:
        """7: os.walk, top down and bottom up, links followed or not; what is no directory yields nothing."""
        both.given(TREE)
        both.each(lambda top: (top / "d/sub/up").symlink_to("../../empty"))
        for topdown in (True, False):
            both("walk", at(""), topdown)
            both("walk", at("ld"), topdown)
            both("walk", at("d"), topdown, followlinks=True)
        for place in ("f", "missing", "dangling", "x" * 256):
            assert both("walk", at(place)) == []

    def test_08_walk_tells_errors(self, both: Both) -> None:
        """8: what cannot be read is passed to `onerror` with its errno, and skipped."""
        both.given({"a/b/c": b"", "a/closed/x": b"", "z/y": b""})
        both.each(lambda top: (top / "a/closed").chmod(0))
        told: list[OSError] = []
        both("walk", at(""), onerror=told.append)
        both("walk", at("missing"), onerror=told.append)
        both("walk", at("z/y"), onerror=told.append)
        found = [(type(error), error.errno, os.path.basename(str(error.filename))) for error in told]
        # each walk tells first what the remote side met, then what was met here
        assert found[::2] == found[1::2]
        assert len(found) == 6
        both.each(lambda top: (top / "a/closed").chmod(0o700))

    def test_09_pruned_walk(self, both: Both) -> None:
        """9: as with os.walk, what is taken out of the directories is not entered."""
        both.given({"a/b/c": b"", "k/l": b""})
        if isinstance(both.far, Awaited):
            return
        seen = []
        for here, dirs, _ in both.far.walk(str(both.tops[0])):
            seen.append(os.path.basename(here))
            dirs[:] = [name for name in dirs if name != "a"]
        assert seen[1:] == ["k"]

    def test_10_glob(self, both: Both) -> None:
        """10: pathlib's rules, hidden files as pathlib has them."""
        both.given({**TREE, "[": b"", "]": b"", "a b": b""})
        for pattern in PATTERNS:
            both("glob", pattern, root=at(""))
            if not pattern.startswith("**"):
                both("rglob", pattern, root=at("d"))

    def test_11_glob_trailing(self, both: Both) -> None:
        """11: since Python 3.13 a `**` at the end matches files too."""
        both.given(TREE)
        found = both.far.glob("d/**", root=str(both.tops[0]))
        names = [os.path.relpath(path, both.tops[0]) for path in found]
        assert names == ["d", "d/.hidden", "d/f", "d/sub", "d/sub/deep"]
        if sys.version_info >= (3, 13):
            both("glob", "d/**", root=at(""))
            both("glob", "**", root=at(""))

    def test_12_mkdir(self, both: Both) -> None:
        """12: pathlib's mkdir with parents, exist_ok and mode; os.makedirs."""
        both.given(TREE)
        for parents in (False, True):
            for exist_ok in (False, True):
                for place in (*PLACES, f"new{parents}{exist_ok}/a/b/", f"n{parents}{exist_ok}", "f/a/b"):
                    both("mkdir", at(place), parents=parents, exist_ok=exist_ok)
        # of a project's directory a new one inherits the group's bit
        both.given({"project": None})
        both.modes({"project": 0o2775})
        for mode in (0o700, 0o755, 0o1777, 0o2770, 0o6755, 0o500, 0):
            both("mkdir", at(f"m{mode:o}"), mode)
            both("mkdir", at(f"p{mode:o}/q"), mode, parents=True)
            both("mkdir", at(f"project/{mode:o}"), mode)
        both("makedirs", at("made/by/makedirs"))
        assert both("makedirs", at("made/by/makedirs")) is FileExistsError
        both("makedirs", at("made/by/makedirs"), exist_ok=True)

    def test_13_rmdir_and_remove(self, both: Both) -> None:
        """13: rmdir wants an empty directory, remove none."""
        both.given(TREE)
        assert both("rmdir", at("d")) is OSError  # ENOTEMPTY
        assert both("remove", at("d")) is IsADirectoryError
        for place in reversed(PLACES[1:]):
            if not place.endswith("."):
                both("rmdir", at(place))
                both("remove", at(place))

    def test_14_unlink(self, both: Both) -> None:
        """14: `missing_ok` is for what is missing alone."""
        both.given(TREE)
        assert both("unlink", at("missing"), missing_ok=True) is None
        assert both("unlink", at("missing")) is FileNotFoundError
        both("unlink", at("f/x"), missing_ok=True)
        both("unlink", at("d"), missing_ok=True)
        both("unlink", at("ld"), missing_ok=True)
        both("unlink", at("loop"))

    def test_15_rmtree(self, both: Both) -> None:
        """15: a tree goes, what its links lead to stays; no link and no file is taken for a tree."""
        both.given({**TREE, "t/a/b/c": b"", "t/out": Link("../d"), "t/closed": None})
        assert both("rmtree", at("ld")) is NotADirectoryError
        assert both("rmtree", at("ld/")) is NotADirectoryError
        assert both("rmtree", at("f")) is NotADirectoryError
        assert both("rmtree", at("missing")) is FileNotFoundError
        both("rmtree", at("missing"), ignore_errors=True)
        both("rmtree", at("t"))
        both("rmtree", at("d/"))

    def test_16_rmtree_of_what_is_closed(self, both: Both) -> None:
        """16: a tree that cannot be removed whole is an error."""
        both.given({"t/closed/x": b""})
        both.each(lambda top: (top / "t/closed").chmod(0o500))
        if os.geteuid() != both.uid:
            assert both("rmtree", at("t")) is PermissionError
            both("rmtree", at("t"), ignore_errors=True)
        both.each(lambda top: (top / "t/closed").chmod(0o700))

    def test_17_rmtree_refuses(self, both: Both) -> None:
        """17: the root, the home directory, what holds it and the empty path are refused at once."""
        for path in ("/", "//", "", "~", "~/", "~/.", "~root", ".", "..", "./", "a/..", "~/a/../"):
            with pytest.raises(SettingsError):
                both.far.rmtree(path)

    def test_18_rmtree_refuses_over_there(self, both: Both) -> None:
        """18: so are other names of the home directory and of what holds it."""
        home = both.far.home()
        with acting_as(both.uid):
            Path(home, "kept").write_text("kept")
        for path in (
            home,
            f"{home}/",
            os.path.dirname(home),
            f"/{os.path.dirname(home)}",
            f"{home}/../{os.path.basename(home)}",
        ):
            with pytest.raises(PermissionError):
                both.far.rmtree(path)
        assert Path(home, "kept").exists()
        Path(home, "kept").unlink()

    def test_19_rename(self, both: Both) -> None:
        """19: os.rename between each two kinds of things."""
        kinds: Tree = {
            "f": b"f",
            "g": b"g",
            "e": None,
            "d/x": b"x",
            "l": Link("f"),
            "ld": Link("d"),
            "no": Link("-"),
        }
        for number, source in enumerate([*kinds, "missing", "f/x", "x" * 256]):
            for target in (
                "f",
                "g",
                "e",
                "d",
                "d/x",
                "l",
                "ld",
                "no",
                "new",
                "d/new",
                "missing/x",
                "g/x",
                "new/",
            ):
                if (source, target) == ("d/x", "d"):
                    # Linux says ENOTEMPTY where another file would make it EISDIR
                    continue
                below = f"{number}{target.replace('/', '_')}"
                both.given({f"{below}/{name}": content for name, content in kinds.items()})
                both(("rename", "replace")[number % 2], at(f"{below}/{source}"), at(f"{below}/{target}"))

    def test_20_rename_into_itself(self, both: Both) -> None:
        """20: a directory does not go below itself: EINVAL; two names of one file: nothing happens."""
        both.given({"d/e/f": b"", "f": b""})
        both.each(lambda top: os.link(top / "f", top / "g"))
        assert both("rename", at("d"), at("d/e/x")) is OSError
        assert both("rename", at("f"), at("g")) is None
        assert both("rename", at("f"), at("f")) is None
        assert both("rename", at("d"), at("d")) is None

    def test_21_symlink(self, both: Both) -> None:
        """21: the target is taken as it is; a name that is taken stays."""
        both.given(TREE)
        for target in ("f", "../up", "no/where", "a b", "-s", "~", "$x", "new\nline\n", "/"):
            both("symlink", target, at(f"to {target.replace('/', '_')}"))
        for place in ("f", "d", "ld", "dangling", "loop", "missing/x", "f/x"):
            both("symlink", "f", at(place))
        assert both("symlink", "", at("x")) is FileNotFoundError

    def test_22_realpath(self, both: Both) -> None:
        """22: os.path.realpath: links are resolved, what is missing is kept."""
        both.given({**TREE, "d/back": Link("../ld/sub"), "abs": Link("TOP/d/sub")})
        for place in (
            *PLACES,
            "d/back/deep",
            "abs/../f",
            "missing/../f",
            "missing/a/../../d",
            "dangling/x",
            "f/..",
        ):
            both("realpath", at(place))
        for place in ("", "d/sub", "/", "/etc/..", "//usr"):
            both("normalize", at(place) if not place.startswith("/") else place)

    def test_23_chmod(self, both: Both) -> None:
        """23: bits are set as they are, of directories too; words are chmod(1)'s; no links are followed."""
        both.given(TREE)
        for mode in (0o644, 0o755, 0o600, 0o2755, 0o755, 0o1777, 0o4711, 0o700):
            for place in ("f", "d", "l"):
                both("chmod", at(place), mode)
        for mode_words in ("u+x", "go-rwx", "a=rX", "u=rwx,go=rx", "+x", "g=u", "755"):
            both("chmod", at("d"), mode_words)
            both("chmod", at("d"), mode_words, recursive=True)
        for place in ("missing", "dangling", "loop", "f/x"):
            both("chmod", at(place), 0o644)
        with pytest.raises(SettingsError):
            both.far.chmod(f"{both.tops[0]}/f", "u+x; touch x")

    def test_24_chown(self, both: Both) -> None:
        """24: to oneself it goes, to others only for root; unknown names are LookupErrors."""
        both.given(TREE)
        both("chown", at("f"), both.uid)
        both("chown", at("d"), both.uid, both.uid)
        both("chown", at("d"), None, both.uid)
        both("chown", at("missing"), both.uid)
        assert both("chown", at("f"), "no-such-user") is LookupError
        assert both("chown", at("f"), None, "no-such-group") is LookupError
        if both.uid:
            assert both("chown", at("f"), "root") is PermissionError

    def test_25_touch(self, both: Both) -> None:
        """25: pathlib's touch with mode and exist_ok; a time that is there moves on."""
        both.given(TREE)
        both.each(lambda top: os.utime(top / "f", (1, 1)))
        for place in PLACES:
            both("touch", at(place))
            both("touch", at(place), exist_ok=False)
        assert both.far.stat(f"{both.tops[0]}/f").mtime > 1e9
        for mode in (0o600, 0o777, 0o640, 0):
            both("touch", at(f"m{mode:o}"), mode)
            both("touch", at(f"x{mode:o}"), mode, exist_ok=False)

    def test_26_truncate(self, both: Both) -> None:
        """26: os.truncate, shorter and longer; nothing is made by it."""
        both.given(TREE)
        for length in (3, 0, 100):
            both("truncate", at("f"), length)
            both("truncate", at("l"), length)
        assert both("truncate", at("f"), -1) is OSError
        for place in ("missing", "d", "dangling", "loop", "f/x"):
            both("truncate", at(place), 1)

    @pytest.mark.parametrize("options", [{}, {"dereference": True}, {"preserve": True}])
    def test_27_copy(self, both: Both, options: dict[str, bool]) -> None:
        """27: `cp -r`: files, trees and links; to a new name, into a directory, over what is there."""
        more: Tree = {"with mode": b"m", "target": b"old", "merged/d/f": b"old", "merged/d/own": b""}
        both.given({**TREE, **more})
        both.modes({"with mode": 0o751, "target": 0o604})
        for source, target in (
            *(("f", "f2"), ("with mode", "m2"), ("with mode", "target"), ("f", "empty"), ("f", "empty/")),
            *(("d", "d2"), ("d", "empty"), ("d/", "d3"), ("d", "merged"), ("l", "l2"), ("ld", "ld2")),
            *(
                ("f", "missing/x"),
                ("missing", "x"),
                ("d", "f"),
                ("f", "f/x"),
                ("d", "missing/x"),
                ("f", "new/"),
            ),
            *(("f", "f"), ("f", "l"), ("d/.hidden", "ld")),
        ):
            both("copy", at(source), at(target), **options)
        # cp(1) makes a part of it
        for target in ("d/sub", "d/new", "d"):
            with pytest.raises(OSError, match="Invalid argument"):
                both.far.copy(f"{both.tops[0]}/d", f"{both.tops[0]}/{target}", **options)

    def test_28_copy_of_what_is_closed(self, both: Both) -> None:
        """28: a copy that fails leaves nothing behind under the new name, and no draft."""
        both.given({"t/a": b"1", "t/closed": b"2"})
        both.each(lambda top: (top / "t/closed").chmod(0))
        if os.geteuid() != both.uid:
            with pytest.raises(PermissionError):
                both.far.copy(f"{both.tops[0]}/t", f"{both.tops[0]}/u")
            with pytest.raises(PermissionError):
                both.far.copy(f"{both.tops[0]}/t/closed", f"{both.tops[0]}/v")
        assert both("listdir", at("")) == ["t"]

    def test_29_preserved_times(self, both: Both) -> None:
        """29: with `preserve` a copy has the times."""
        both.given({"t/a": b"1"})
        both.each(lambda top: os.utime(top / "t/a", (10, 20)))
        top = str(both.tops[0])
        both.far.copy(f"{top}/t", f"{top}/u", preserve=True)
        assert both.far.stat(f"{top}/u/a").mtime == 20
        both.far.rmtree(f"{top}/u")

    def test_30_content(self, both: Both) -> None:
        """30: bytes go there and back as they are, at every size."""
        for size in (0, 1, 4096, 65536, 1 << 20, (1 << 20) + 1, 3_000_001):
            content = (bytes(range(256)) * (size // 256 + 1))[:size]
            assert both("write_bytes", at("f"), content) == size
            assert both("read_bytes", at("f")) == content
            both("append", at("f"), content)

    def test_31_text(self, both: Both) -> None:
        """31: text is encoded here; line ends stay as they are."""
        assert both("write_text", at("f"), "zwölf\r\n€\n") == 9
        assert both("read_text", at("f")) == "zwölf\r\n€\n"
        both("write_text", at("f"), "zwölf", "latin-1")
        assert both("read_text", at("f")) is UnicodeDecodeError

    def test_32_writing_to_each_place(self, both: Both) -> None:
        """32: what can be written, read and added to, and what cannot, as open(2) has it."""
        both.given(TREE)
        for place in PLACES:
            both("write_bytes", at(place), b"new")
            both("append", at(place), b" more")
            both("read_bytes", at(place))
        for place in (*PLACES, "fresh"):
            both("write_bytes", at(place), b"x", exist_ok=False)

    def test_33_modes_of_written_files(self, both: Both) -> None:
        """33: a new file has the mode less the umask; one that is there keeps its own."""
        for mode in (0o600, 0o666, 0o777, 0o400):
            both("write_bytes", at(f"m{mode:o}"), b"1", mode=mode)
        both.each(lambda top: (top / "m777").chmod(0o711))
        both("write_bytes", at("m777"), b"2", mode=0o600)

    def test_34_heads_and_tails(self, both: Both) -> None:
        """34: lines and bytes from both ends."""
        both.given({"f": b"1\n2\n3\n4\nlast without an end", "e": b"", "d": None})
        for name in ("head", "tail"):
            for number in (0, 1, 3, 10):
                for place in ("f", "e", "d", "missing"):
                    both(name, at(place), number)
                    both(name, at(place), size=number)

    def test_35_checksums(self, both: Both) -> None:
        """35: sha256, md5, sha1 and sha512 of a file."""
        both.given({**TREE, "with\nnewline": b"x", "with\\": b"x"})
        for algorithm in ("sha256", "md5", "sha1", "sha512"):
            both("checksum", at("f"), algorithm)
        for place in ("with\nnewline", "with\\", "d", "missing", "l", "dangling", "loop"):
            both("checksum", at(place))

    def test_36_sizes(self, both: Both) -> None:
        """36: the bytes of a tree's files; the size of the file system."""
        both.given(TREE)
        for place in ("", "d", "f", "l", "ld", "empty", "missing"):
            both("tree_size", at(place))
        both("disk_usage", at("d"))
        both("disk_usage", at("missing"))

    def test_37_many_paths(self, both: Both) -> None:
        """37: thousands of paths at once: what is there, None for what is not."""
        both.given(TREE)
        places = [place for place in PLACES if place != "x" * 256]
        paths = [*map(at, places), "", *(at(f"missing{number}") for number in range(3000)), at("f")]
        if "loop" in places:
            paths = [path for path in paths if not str(path).startswith("loop")]
        both("stat_many", paths)
        both("stat_many", paths, follow_symlinks=False)
        both("exists_many", [*paths, at("loop")])
        assert both("stat_many", []) == []
        assert both("exists_many", []) == []
        assert both("remove_many", []) is None

    def test_38_removing_many(self, both: Both) -> None:
        """38: all are tried; the first error in the order of the paths is raised."""
        both.given({"d": None, "a": b"", "b": b"", "c": b"", "l": Link("d"), "n\n": b""})
        assert both("remove_many", [at("a"), at("d"), at("missing"), at("b")]) is IsADirectoryError
        assert both("remove_many", [at("missing"), at("d"), at("l")]) is FileNotFoundError
        both("remove_many", [at("missing"), at("c"), at("n\n")], missing_ok=True)
        assert both("listdir", at("")) == ["d"]

    def test_39_permission(self, both: Both) -> None:
        """39: what a user may not do is EACCES, whatever the operation."""
        if os.geteuid() == both.uid:
            pytest.skip("the far side's user is the present one")
        both.given({"closed/f": b"", "readonly/f": b"x", "f": b"", "unreadable": b"", "d/sub": None})
        modes_of = {"closed": 0, "readonly": 0o555, "f": 0o444, "unreadable": 0o222, "d/sub": 0}
        both.modes(modes_of)
        for place in ("closed/f", "closed/missing", "unreadable", "d/sub", "closed"):
            for question in (
                "stat",
                "lstat",
                "exists",
                "is_file",
                "readlink",
                "listdir",
                "read_bytes",
                "checksum",
            ):
                both(question, at(place))
        for place in ("closed/f", "readonly/f", "readonly/new", "f"):
            if place == "readonly/f":
                continue
            both("write_bytes", at(place), b"x")
            both("append", at(place), b"x")
            both("truncate", at(place), 0)
        both("append", at("readonly/f"), b"more")
        for name in ("remove", "rmdir"):
            both(name, at("readonly/f"))
            both(name, at("closed/f"))
        for name in ("mkdir", "touch"):
            both(name, at("readonly/new"))
            both(name, at("closed/new"))
        both("mkdir", at("readonly/new/deep"), parents=True)
        both("symlink", "x", at("readonly/l"))
        both("rename", at("f"), at("readonly/f"))
        both("rename", at("readonly/f"), at("g"))
        both("chmod", "/etc/passwd", 0o644)
        both("stat_many", [at("f"), at("closed/f")])
        both("exists_many", [at("f"), at("closed/f"), at("readonly/f")])
        both("remove_many", [at("readonly/f"), at("missing")])
        both("glob", "*/*", root=at(""))
        both.modes(dict.fromkeys(modes_of, 0o700))

    def test_40_special_files(self, both: Both) -> None:
        """40: pipes and devices are reported, written to in place and never replaced."""
        both.each(lambda top: os.mkfifo(top / "pipe"))
        both("stat", at("pipe"))
        both("stat", "/dev/null")
        both("write_bytes", "/dev/null", b"x")
        assert both("read_bytes", "/dev/null") == b""
        both("scandir", at(""))
