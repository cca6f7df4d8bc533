"""What AiiDA expects of a transport: scenarios and transports, whose answers are compared.

Each scenario gets a transport and two directories, one on each side, with the same trees. An answer is a
result or an exception with its text, the warnings, what has changed in the trees, and which files that were
there before are still the same inodes. For how long a scenario stops the event loop is measured apart.

The answers of AiiDA's own transports are recorded in `aiida_answers.json`, by `record_aiida.py`, and never
asked for in a test: as root, `core.local` removes the working directory where it is asked to remove "".
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pwd
import re
import stat
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

Scenario = Callable[[Any, Path, Path], object]

# Seconds between two looks whether the loop goes on.
_TICK = 0.01

_ANSWERS = Path(__file__).parent / "aiida_answers.json"

# What a shell might eat on its way.
TEXT = r"""printf '%s|' "a\\b" 'c\d' "\$HOME" '$HOME' "it's" 'say "so"' '!x' `printf q` $((1+2)) a\ b '*' '#'
cat <<'END'
 in $HERE `x` \n "q" 'r' !!
END
x=one; echo "${x:-two}" >&2; for n in 1 2; do echo "$n"; done; exit 3"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a scenario's trees are: `there` on the remote side, `here` on this one."""

    there: Path
    here: Path

    @classmethod
    def make(cls, directory: Path) -> Places:
        """Make both trees below a new directory."""
        directory.mkdir()
        made = cls(directory / "there", directory / "here")
        for top in (made.there, made.here):
            (top / "sub/.h").mkdir(parents=True)
            (top / "empty").mkdir()
            for name in ("a.txt", "b.txt", ".hidden", "with blank", "new\nline", "sub/c.txt", "sub/.h/d.txt"):
                (top / name).write_text(f"content of {name}\n")
            (top / "a.txt").chmod(0o640)
            (top / "b.txt").chmod(0o755)
            for name, target in {"link": "a.txt", "broken": "nowhere", "dirlink": "sub"}.items():
                (top / name).symlink_to(target)
            (top / "sub/inner").symlink_to("c.txt")
        return made

    def neutral(self, value: object) -> object:
        """A value in which paths are the same for any place; times and owners are left out."""
        if isinstance(value, str):
            named = {str(self.there): "THERE", str(self.here): "HERE", str(Path.home()): "AT-HOME"}
            for path, name in named.items():
                value = value.replace(path, name)
            return value
        if isinstance(value, list | tuple):
            return type(value)(self.neutral(one) for one in value)
        return value

    def inodes(self) -> dict[str, int]:
        """Which inode each plain file is."""
        return {
            f"{top.name}/{path.relative_to(top)}": path.stat().st_ino
            for top in (self.there, self.here)
            for path in top.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def trees(self) -> dict[str, str]:
        """What lies in both places: names, kinds, contents, and where links lead."""
        found = {}
        for top in (self.there, self.here):
            for path in sorted(top.rglob("*")):
                name = f"{top.name}/{path.relative_to(top)}"
                if path.is_symlink():
                    found[name] = f"-> {self.neutral(str(path.readlink()))}"
                elif path.is_dir():
                    found[name] = "directory"
                elif path.suffix in {".tar", ".gz", ".bz2", ".xz"}:
                    with tarfile.open(path) as archive:
                        found[name] = repr(sorted((one.name, one.type, one.linkname) for one in archive))
                else:
                    found[name] = path.read_text()
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transport did with a scenario.

    Attributes:
        result: repr of what it returned.
        kinds: names of the classes of what it raised, the most particular first.
        text: what that said.
        warned: texts of warnings.
        trees: what was added, changed or (None) removed.
        replaced: files that were there, and whose content is that of another inode now.
    """

    result: str = "None"
    kinds: tuple[str, ...] = ()
    text: str = ""
    warned: tuple[str, ...] = ()
    trees: Mapping[str, str | None] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Answer:
        """From what `aiida_answers.json` has."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})

    def written(self) -> dict[str, Any]:
        """For `aiida_answers.json`: what is not as in `Answer()`."""
        return {name: value for name, value in asdict(self).items() if value and value != "None"}


class Awaiting:
    """A transport whose methods are those with `_async`, each in a loop of its own or the given one."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.transport, self.loop = transport, loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.transport, f"{name}_async")
        run = self.loop.run_until_complete if self.loop else asyncio.run
        return lambda *args, **kwargs: run(method(*args, **kwargs))


class WithinPortal:
    """A transport whose methods are those with `_async`, awaited in the running loop through a portal."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        from plumpy.greenback_bridge import sync_await

        method = getattr(self._transport, f"{name}_async")
        return lambda *args, **kwargs: sync_await(method(*args, **kwargs))


async def stands_still(*works: Callable[[], object]) -> tuple[list[object], float]:
    """Call functions side by side, each within a portal, as AiiDA does.

    Returns:
        what they give, and for how many seconds the loop stood still at most. Only those count in which
        another thread went on: a busy machine stops both.
    """
    from plumpy.greenback_bridge import run_with_portal

    ticks, longest = 0, 0
    over = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not over.wait(_TICK):
            ticks += 1

    async def beat() -> None:
        nonlocal longest
        while True:
            before = ticks
            await asyncio.sleep(_TICK)
            longest = max(longest, ticks - before - 1)

    ticking = threading.Thread(target=tick)
    ticking.start()
    beating = asyncio.ensure_future(beat())
    try:
        results = await asyncio.gather(*(run_with_portal(work) for work in works))
        # a last gap is seen by the next beat only
        await asyncio.sleep(2 * _TICK)
    finally:
        beating.cancel()
        over.set()
        ticking.join()
    return list(results), longest * _TICK


def acts(scenario: Scenario, transport: Any, places: Places) -> Callable[[], None]:
    """A scenario to be called; only its time counts."""

    def act() -> None:
        with contextlib.suppress(Exception):
            scenario(transport, places.there, places.here)

    return act


def answer(scenario: Scenario, transport: Any, places: Places) -> Answer:
    """Run a scenario."""
    before, inodes = places.trees(), places.inodes()
    result: object = None
    raised: Exception | None = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = scenario(transport, places.there, places.here)
        except Exception as reason:
            raised = reason
    after, now = places.trees(), places.inodes()
    names = before.keys() | after.keys()
    changed = {name: after.get(name) for name in names if after.get(name) != before.get(name)}
    both = changed.keys() & inodes.keys() & now.keys()
    kinds = type(raised).__mro__ if raised else ()
    return Answer(
        repr(places.neutral(result)),
        tuple(kind.__name__ for kind in kinds if issubclass(kind, Exception)),
        str(places.neutral(str(raised))) if raised else "",
        tuple(sorted({str(places.neutral(str(one.message))) for one in warned})),
        dict(sorted(changed.items())),
        tuple(sorted(name for name in both if inodes[name] != now[name])),
    )


# What AiiDA, its plugins and its tests look for in errors. Each has one meaning.
_WORDS = (
    "already exist|destination exists",
    "does not exist|[Nn]ot found|No such file|not found",
    "not a (valid )?directory|not a folder|Not a directory",
    "must be an absolute path",
    "(must be|with) a non.empty|empty argument|not a valid (string|path)|non.empty",
    "[Pp]atterns? are not allowed|cannot have patterns",
    "more than one file",
    "[Cc]an.?t overwrite existing|not overwriting",
    "directory into a file",
    "itself",
    "Unsupported compression format",
    "not implemented",
    "should include a filename",
    "Error while (creating|extracting) the tar archive",
    "You can only pass strings",
)


def expected(name: str, theirs: Mapping[str, Answer]) -> Answer:
    """What ours is to answer."""
    wanted = EXPECTED.get(name, "core.local")
    return theirs[wanted] if isinstance(wanted, str) else wanted


def common_words(theirs: Mapping[str, Answer]) -> list[str]:
    """The meanings that are in the words of all of them, if more than one fails."""
    texts = [one.text for one in theirs.values() if one.kinds]
    return [words for words in _WORDS if len(texts) > 1 and all(re.search(words, text) for text in texts)]


def recorded() -> dict[str, dict[str, Answer]]:
    """The answers of AiiDA's own transports, by scenario and transport."""
    table = json.loads(_ANSWERS.read_text())
    return {
        name: {transport: Answer.read(values) for transport, values in answers.items()}
        for name, answers in table["answers"].items()
    }


def recorded_stalls() -> dict[str, dict[str, float]]:
    """For how many seconds AiiDA's own transports stop the loop, by scenario and transport."""
    stalls: dict[str, dict[str, float]] = json.loads(_ANSWERS.read_text())["stalls"]
    return stalls


def _seen(attributes: Any) -> tuple[int, int, bool, bool, int]:
    return (
        attributes.st_mode,
        # a directory's size is the file system's own affair
        attributes.st_size if stat.S_ISREG(attributes.st_mode) else 0,
        attributes.st_uid == os.getuid(),
        attributes.st_gid == os.getgid(),
        len(attributes.keys()),
    )


def _sorted(names: list[str]) -> list[str]:
    assert all(isinstance(name, str) for name in names)
    return sorted(names)


def _listed(t: Any, path: object, *more: object) -> list[tuple[str, bool, object]]:
    found = t.listdir_withattributes(path, *more)
    return sorted((one["name"], one["isdir"], _seen(one["attributes"])) for one in found)


def _ran(answer: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
    status, out, err = answer
    return status, out, err


def _each(
    name: str, run: Callable[[Any, Path, Any], object], values: Iterable[object]
) -> dict[str, Scenario]:
    """The same scenario for several values."""

    def one(value: object) -> Scenario:
        return lambda t, a, _: run(t, a, value)

    return {f"{name} {value!r}": one(value) for value in values}


def _archived(t: Any, there: Path, kind: str, sources: object, *more: object, **options: object) -> None:
    t.compress(kind, sources, there / f"new/all.{kind}", there, *more, **options)


def _twice(t: Any, there: Path, kind: str, **options: object) -> None:
    _archived(t, there, kind, there / "sub")
    t.makedirs(there / "unpacked/here", ignore_existing=True)
    t.extract(there / f"new/all.{kind}", there / "unpacked/here", **options)


_NAMES = (
    "a.txt",
    "sub",
    "link",
    "dirlink",
    "broken",
    "missing",
    ".hidden",
    "with blank",
    "new\nline",
    "sub/c.txt/x",
)
_PATTERNS = (
    *(
        "*",
        "*.txt",
        "?.txt",
        "[ab].txt",
        "[!a]*",
        ".*",
        "w* b*",
        "new*",
        "none*",
        "*/*.txt",
        "sub/*",
        "*/c.txt",
    ),
    *("s*/.h/*", "a.txt", "missing", "broken", "br*", "*/", "**", "**/*.txt", "sub/**", "[", "sub*/inner"),
)
_INPUTS = ("", "text", "two\nlines\n", "ümläut", b"", b"bytes\n")
_KINDS = ("tar", "tar.gz", "tar.bz2", "tar.xz")

SCENARIOS: dict[str, Scenario] = {
    # what is there
    **_each("isdir", lambda t, a, n: t.isdir(a / n), _NAMES),
    **_each("isfile", lambda t, a, n: t.isfile(str(a / n)), _NAMES),
    **_each("path_exists", lambda t, a, n: t.path_exists(PurePosixPath(a / n)), _NAMES),
    "isdir of nothing": lambda t, *_: (t.isdir(""), t.isfile("")),
    **_each("get_attribute", lambda t, a, n: _seen(t.get_attribute(a / n)), _NAMES),
    "get_attribute's times": lambda t, a, _: (
        abs(t.get_attribute(a / "a.txt").st_mtime - (a / "a.txt").stat().st_mtime) < 1e-6
    ),
    "get_mode": lambda t, a, _: [t.get_mode(a / n) for n in ("a.txt", "b.txt", "sub", "link")],
    "get_mode of nothing": lambda t, a, _: t.get_mode(a / "missing"),
    "listdir": lambda t, a, _: _sorted(t.listdir(a)),
    "listdir of a link": lambda t, a, _: _sorted(t.listdir(str(a / "dirlink"))),
    "listdir with a slash": lambda t, a, _: _sorted(t.listdir(f"{a}/sub/")),
    "listdir of nothing": lambda t, a, _: t.listdir(a / "missing"),
    "listdir of a file": lambda t, a, _: t.listdir(a / "a.txt"),
    **_each("listdir", lambda t, a, p: _sorted(t.listdir(a, p)), [p for p in _PATTERNS if p[-1] not in "/["]),
    "listdir of nothing by a pattern": lambda t, a, _: t.listdir(a / "missing", "*"),
    "listdir_withattributes": lambda t, a, _: _listed(t, a),
    "listdir_withattributes of nothing": lambda t, a, _: _listed(t, a / "missing"),
    **_each("glob", lambda t, a, p: _sorted(t.glob(f"{a}/{p}")), _PATTERNS),
    "glob of a Path": lambda t, a, _: _sorted(t.glob(a / "*.txt")),
    "normalize": lambda t, a, _: [
        t.normalize(f"{a}/{n}") for n in ("sub/../a.txt", "dirlink/.h", "no/such", ".")
    ],
    # directories
    "mkdir": lambda t, a, _: t.mkdir(a / "new"),
    "mkdir what is there": lambda t, a, _: t.mkdir(a / "sub"),
    "mkdir what may be there": lambda t, a, _: t.mkdir(str(a / "sub"), ignore_existing=True),
    "mkdir where a file is": lambda t, a, _: t.mkdir(a / "a.txt", True),
    "mkdir below nothing": lambda t, a, _: t.mkdir(a / "no/such"),
    "makedirs": lambda t, a, _: t.makedirs(a / "x/y z/w"),
    "makedirs round a corner": lambda t, a, _: t.makedirs(f"{a}/x/../y/./z"),
    "makedirs what is there": lambda t, a, _: t.makedirs(a / "sub/.h"),
    "makedirs what may be there": lambda t, a, _: t.makedirs(a / "sub/.h", ignore_existing=True),
    "makedirs through a file": lambda t, a, _: t.makedirs(a / "a.txt/x"),
    "makedirs where a file is": lambda t, a, _: t.makedirs(a / "a.txt", True),
    "rmdir": lambda t, a, _: t.rmdir(a / "empty"),
    "rmdir of what is not empty": lambda t, a, _: t.rmdir(a / "sub"),
    "rmdir of nothing": lambda t, a, _: t.rmdir(a / "missing"),
    "rmdir of a file": lambda t, a, _: t.rmdir(a / "a.txt"),
    **_each("rmtree", lambda t, a, n: t.rmtree(a / n), _NAMES[:-1]),
    **_each("remove", lambda t, a, n: t.remove(str(a / n)), [n for n in _NAMES if n != "sub"]),
    "remove a directory": lambda t, a, _: t.remove(a / "empty"),
    # names
    "rename a file": lambda t, a, _: t.rename(a / "a.txt", a / "new name"),
    "rename a tree": lambda t, a, _: t.rename(str(a / "sub"), str(a / "empty/sub")),
    "rename nothing": lambda t, a, _: t.rename(a / "missing", a / "x"),
    "rename to what is there": lambda t, a, _: t.rename(a / "a.txt", a / "b.txt"),
    "rename to a directory": lambda t, a, _: t.rename(a / "a.txt", a / "empty"),
    "rename without a name": lambda t, a, _: t.rename("", a / "x"),
    "rename to no name": lambda t, a, _: t.rename(a / "a.txt", ""),
    "symlink": lambda t, a, _: t.symlink(a / "a.txt", a / "new"),
    "symlink to nothing": lambda t, a, _: t.symlink(a / "missing", a / "new"),
    "symlink with a relative target": lambda t, a, _: t.symlink("sub/./c.txt", f"{a}//new"),
    "symlink where something is": lambda t, a, _: t.symlink(a / "a.txt", a / "b.txt"),
    "symlinks by a pattern": lambda t, a, _: t.symlink(a / "*.txt", a / "empty"),
    "symlink from a pattern to a pattern": lambda t, a, _: t.symlink(a / "*.txt", a / "em*"),
    "chmod": lambda t, a, _: (t.chmod(a / "a.txt", 0o751), stat.S_IMODE((a / "a.txt").stat().st_mode)),
    "chmod through a link": lambda t, a, _: (t.chmod(a / "link", 0o600), (a / "a.txt").stat().st_mode),
    "chmod of nothing": lambda t, a, _: t.chmod(a / "missing", 0o600),
    "chmod of no name": lambda t, *_: t.chmod("", 0o600),
    "rmtree of no name": lambda t, *_: t.rmtree(""),
    "rmdir of no name": lambda t, *_: t.rmdir(""),
    "remove no name": lambda t, *_: t.remove(""),
    "chown": lambda t, a, _: t.chown(a / "a.txt", os.getuid(), os.getgid()),
    "getcwd": lambda t, *_: t.getcwd(),
    "chdir": lambda t, a, _: (t.chdir(a), t.chdir(""), t.isdir("sub"), t.chdir(str(Path.home())))[2],
    "chdir to nothing": lambda t, a, _: t.chdir(a / "missing"),
    "chdir to a file": lambda t, a, _: t.chdir(a / "a.txt"),
    # copies on the remote side
    "copy a link": lambda t, a, _: t.copy(a / "link", a / "new"),
    "copy a broken link": lambda t, a, _: t.copy(a / "broken", a / "new"),
    "copy a link to a directory": lambda t, a, _: t.copy(a / "dirlink", a / "new"),
    "copy a link to a directory into one": lambda t, a, _: t.copy(a / "dirlink", a / "empty"),
    "copytree of a link to a directory": lambda t, a, _: t.copytree(a / "dirlink", a / "new"),
    "copy links by a pattern": lambda t, a, _: t.copy(a / "dirl*", a / "empty"),
    "copy the content of a tree": lambda t, a, _: t.copy(f"{a}/sub/.", a / "new"),
    "copytree of the content of a tree": lambda t, a, _: t.copytree(f"{a}/sub/.", a / "new"),
    "copy the content of a tree into a directory": lambda t, a, _: t.copy(f"{a}/sub/.", a / "empty"),
    "copy the content of the tree above": lambda t, a, _: t.copy(f"{a}/sub/.h/..", a / "new"),
    "copy to a new file": lambda t, a, _: t.copy(a / "a.txt", a / "new"),
    "copy into a directory": lambda t, a, _: t.copy(str(a / "with blank"), str(a / "empty")),
    "copy over a file": lambda t, a, _: t.copy(a / "a.txt", a / "b.txt"),
    "copy a tree to a new name": lambda t, a, _: t.copy(a / "sub", a / "new"),
    "copy a tree into a directory": lambda t, a, _: t.copy(a / "sub", a / "empty"),
    "copy a tree with what links lead to": lambda t, a, _: t.copy(a / "sub", a / "new", dereference=True),
    "copy a tree onto a file": lambda t, a, _: t.copy(a / "sub", a / "a.txt"),
    "copy nothing": lambda t, a, _: t.copy(a / "missing", a / "new"),
    "copy to below nothing": lambda t, a, _: t.copy(a / "a.txt", a / "no/such"),
    "copy to itself": lambda t, a, _: t.copy(a / "a.txt", f"{a}/sub/../a.txt"),
    "copy no name": lambda t, a, _: t.copy("", a / "x"),
    "copy to no name": lambda t, a, _: t.copy(a / "a.txt", ""),
    "copy by a pattern": lambda t, a, _: t.copy(a / "*.txt", a / "empty"),
    "copy by a pattern that matches one": lambda t, a, _: t.copy(f"{a}/a.*", a / "new"),
    "copy trees by a pattern": lambda t, a, _: t.copy(a / "s*", a / "empty"),
    "copy by a pattern to a file": lambda t, a, _: t.copy(a / "*.txt", a / "with blank"),
    "copy by a pattern to nothing": lambda t, a, _: t.copy(a / "*.txt", a / "missing"),
    "copy by a pattern that matches nothing": lambda t, a, _: t.copy(a / "none*", a / "empty"),
    "copy from a pattern to a pattern": lambda t, a, _: t.copy(a / "*.txt", a / "em*"),
    "copyfile": lambda t, a, _: t.copyfile(a / "new\nline", a / "new"),
    "copyfile of a link": lambda t, a, _: t.copyfile(a / "link", a / "new"),
    "copyfile of what a link leads to": lambda t, a, _: t.copyfile(a / "link", a / "new", dereference=True),
    "copyfile of nothing": lambda t, a, _: t.copyfile(a / "missing", a / "new"),
    "copyfile of no name": lambda t, a, _: t.copyfile("", a / "new"),
    "copytree": lambda t, a, _: t.copytree(a / "sub", a / "new"),
    "copytree into a directory": lambda t, a, _: t.copytree(a / "sub", a / "empty"),
    "copytree with what links lead to": lambda t, a, _: t.copytree(a / "sub", a / "new", True),
    "copytree of nothing": lambda t, a, _: t.copytree(a / "missing", a / "new"),
    "copytree to no name": lambda t, a, _: t.copytree(a / "sub", ""),
    **_each("compress and extract", _twice, _KINDS),
    "compress several": lambda t, a, _: _archived(t, a, "tar", [a / "a.txt", str(a / "empty"), a / "link"]),
    "compress by a pattern": lambda t, a, _: _archived(t, a, "tar.gz", [a / "*.txt"]),
    "compress what links lead to": lambda t, a, _: _archived(t, a, "tar", a / "link", dereference=True),
    "compress nothing": lambda t, a, _: _archived(t, a, "tar", a / "missing"),
    "compress a pattern of nothing": lambda t, a, _: _archived(t, a, "tar", a / "none*"),
    "compress over what is there": lambda t, a, _: t.compress(
        "tar", a / "sub", a / "a.txt", a, overwrite=False
    ),
    "compress to a directory": lambda t, a, _: t.compress("tar", a / "sub", a / "empty", a),
    "compress below nothing": lambda t, a, _: t.compress("tar", a / "sub", a / "x.tar", a / "missing"),
    "compress another format": lambda t, a, _: _archived(t, a, "zip", a / "sub"),
    "compress from elsewhere": lambda t, a, _: t.compress("tar", a / "a.txt", a / "x.tar", a / "sub"),
    "extract nothing": lambda t, a, _: t.extract(a / "missing.tar", a / "empty"),
    "extract what is no archive": lambda t, a, _: t.extract(a / "a.txt", a / "empty"),
    "extract without overwriting": lambda t, a, _: t.extract(a / "a.txt", a / "empty", overwrite=False),
    "extract without the first names": lambda t, a, _: _twice(t, a, "tar", strip_components=1),
    # to the remote side
    "put a file": lambda t, a, h: t.put(h / "with blank", a / "new"),
    "put a file into a directory": lambda t, a, h: t.put(str(h / "a.txt"), str(a / "empty")),
    "put a file over another": lambda t, a, h: t.put(h / "a.txt", a / "b.txt"),
    "put a file over no other": lambda t, a, h: t.put(h / "a.txt", a / "b.txt", overwrite=False),
    "put a file below nothing": lambda t, a, h: t.put(h / "a.txt", a / "no/such"),
    "put what a link leads to": lambda t, a, h: t.put(h / "link", a / "new"),
    "put a tree to a new name": lambda t, a, h: t.put(h / "sub", a / "new"),
    "put a tree into a directory": lambda t, a, h: t.put(h / "sub", a / "empty"),
    "put a tree to where a tree is": lambda t, a, h: (t.put(h / "sub", a), t.put(h / "sub", a)),
    "put a tree without overwriting": lambda t, a, h: t.put(h / "sub", a / "empty", overwrite=False),
    "put a tree with its links": lambda t, a, h: t.put(h / "sub", a / "new", dereference=False),
    "put a tree onto a file": lambda t, a, h: t.put(h / "sub", a / "a.txt"),
    "put the content of a tree": lambda t, a, h: t.put(f"{h}/sub/", a / "empty"),
    "put the content of a tree to a dot": lambda t, a, h: t.put(f"{h}/sub/", f"{a}/empty/."),
    "put the content of a tree to a new name": lambda t, a, h: t.put(f"{h}/sub/", a / "new"),
    "put an empty directory": lambda t, a, h: t.put(h / "empty", a / "new"),
    "put by a pattern": lambda t, a, h: t.put(h / "*.txt", a / "empty"),
    "put by a pattern that matches one": lambda t, a, h: t.put(h / "a.*", a / "new"),
    "put one by a pattern into a directory": lambda t, a, h: t.put(h / "a.*", a / "empty"),
    "put by a pattern to nothing": lambda t, a, h: t.put(h / "*.txt", a / "missing"),
    "put by a pattern to a file": lambda t, a, h: t.put(h / "*.txt", a / "a.txt"),
    "put by a pattern that matches nothing": lambda t, a, h: t.put(h / "none*", a / "empty"),
    "put from a pattern to a pattern": lambda t, a, h: t.put(h / "*.txt", a / "em*"),
    "put nothing": lambda t, a, h: t.put(h / "missing", a / "new"),
    "put nothing and ignore it": lambda t, a, h: t.put(h / "missing", a / "new", ignore_nonexisting=True),
    "put a relative path": lambda t, a, _: t.put("a.txt", a / "new"),
    "put no name": lambda t, a, _: t.put("", a / "new"),
    "put to no name": lambda t, _, h: t.put(h / "a.txt", ""),
    "putfile": lambda t, a, h: t.putfile(h / "a.txt", a / "b.txt"),
    "putfile over no other": lambda t, a, h: t.putfile(h / "a.txt", a / "b.txt", overwrite=False),
    "putfile of nothing": lambda t, a, h: t.putfile(h / "missing", a / "new"),
    "putfile of a tree": lambda t, a, h: t.putfile(h / "sub", a / "new"),
    "putfile of a relative path": lambda t, a, _: t.putfile("a.txt", a / "new"),
    "putfile of no name": lambda t, a, _: t.putfile("", a / "new"),
    "puttree": lambda t, a, h: t.puttree(h / "sub", a / "x/y/z"),
    "puttree into a directory": lambda t, a, h: t.puttree(h / "sub", str(a / "empty")),
    "puttree of nothing": lambda t, a, h: t.puttree(h / "missing", a / "new"),
    "puttree onto a file": lambda t, a, h: t.puttree(h / "sub", a / "a.txt"),
    "puttree without overwriting": lambda t, a, h: t.puttree(h / "sub", a / "empty", overwrite=False),
    "puttree to no name": lambda t, _, h: t.puttree(h / "sub", ""),
    # from the remote side
    "get a file": lambda t, a, h: t.get(a / "with blank", h / "new"),
    "get a file into a directory": lambda t, a, h: t.get(str(a / "a.txt"), str(h / "empty")),
    "get a file over another": lambda t, a, h: t.get(a / "a.txt", h / "b.txt"),
    "get a file over no other": lambda t, a, h: t.get(a / "a.txt", h / "b.txt", overwrite=False),
    "get a file below nothing": lambda t, a, h: t.get(a / "a.txt", h / "no/such"),
    "get a file below nothing, ignoring": lambda t, a, h: t.get(
        a / "a.txt", h / "no/such", ignore_nonexisting=True
    ),
    "get what a link leads to": lambda t, a, h: t.get(a / "link", h / "new"),
    "get a tree to a new name": lambda t, a, h: t.get(a / "sub", h / "new"),
    "get a tree into a directory": lambda t, a, h: t.get(a / "sub", h / "empty"),
    "get a tree to where a tree is": lambda t, a, h: (t.get(a / "sub", h), t.get(a / "sub", h)),
    "get a tree without overwriting": lambda t, a, h: t.get(a / "sub", h / "empty", overwrite=False),
    "get a tree with its links": lambda t, a, h: t.get(a / "sub", h / "new", dereference=False),
    "get a tree by a link": lambda t, a, h: t.get(a / "dirlink", h / "new"),
    "get a tree onto a file": lambda t, a, h: t.get(a / "sub", h / "a.txt"),
    "get a tree to below nothing": lambda t, a, h: t.get(a / "sub", h / "x/y"),
    "get by a pattern": lambda t, a, h: t.get(a / "*.txt", h / "empty"),
    "get by a pattern that matches one": lambda t, a, h: t.get(a / "a.*", h / "new"),
    "get by a pattern to nothing": lambda t, a, h: t.get(a / "*.txt", h / "missing"),
    "get by a pattern to a file": lambda t, a, h: t.get(a / "*.txt", h / "a.txt"),
    "get by a pattern that matches nothing": lambda t, a, h: t.get(a / "none*", h / "empty"),
    "get from a pattern to a pattern": lambda t, a, h: t.get(a / "*.txt", h / "em*"),
    "get nothing": lambda t, a, h: t.get(a / "missing", h / "new"),
    "get nothing and ignore it": lambda t, a, h: t.get(a / "missing", h / "new", ignore_nonexisting=True),
    "get a broken link": lambda t, a, h: t.get(a / "broken", h / "new"),
    "get a broken link and ignore it": lambda t, a, h: t.get(
        a / "broken", h / "new", ignore_nonexisting=True
    ),
    "get to a relative path": lambda t, a, _: t.get(a / "a.txt", "new"),
    "get to no name": lambda t, a, _: t.get(a / "a.txt", ""),
    "get no name": lambda t, _, h: t.get("", h / "new"),
    "getfile": lambda t, a, h: t.getfile(a / "a.txt", h / "b.txt"),
    "getfile over no other": lambda t, a, h: t.getfile(a / "a.txt", h / "b.txt", overwrite=False),
    "getfile of nothing": lambda t, a, h: t.getfile(a / "missing", h / "new"),
    "getfile of a tree": lambda t, a, h: t.getfile(a / "sub", h / "new"),
    "getfile to a relative path": lambda t, a, _: t.getfile(a / "a.txt", "new"),
    "gettree": lambda t, a, h: t.gettree(a / "sub", h / "x/y/z"),
    "gettree into a directory": lambda t, a, h: t.gettree(a / "sub", str(h / "empty")),
    "gettree of nothing": lambda t, a, h: t.gettree(a / "missing", h / "new"),
    "gettree of a file": lambda t, a, h: t.gettree(a / "a.txt", h / "new"),
    "gettree onto a file": lambda t, a, h: t.gettree(a / "sub", h / "a.txt"),
    "gettree without overwriting": lambda t, a, h: t.gettree(a / "sub", h / "empty", overwrite=False),
    "copy_from_remote_to_remote": lambda t, a, h: (
        t.copy_from_remote_to_remote(_local(), a / "sub", h / "new"),
        t.copy_from_remote_to_remote(_local(), a / "a.txt", h / "empty", dereference=False, overwrite=True),
    ),
    "copy_from_remote_to_remote of nothing": lambda t, a, h: t.copy_from_remote_to_remote(
        _local(), a / "missing", h / "new"
    ),
    # commands
    "a command's text": lambda t, a, _: _ran(t.exec_command_wait(TEXT, workdir=a)),
    "a command's bytes": lambda t, *_: _ran(t.exec_command_wait_bytes(r"printf '\377\000\n'; printf e >&2")),
    "a command in a directory": lambda t, a, _: t.exec_command_wait("pwd", workdir=str(a / "sub")),
    "a command in a directory by its Path": lambda t, a, _: t.exec_command_wait("pwd", workdir=a / "sub"),
    "a command in no directory": lambda t, a, _: t.exec_command_wait("pwd", workdir=a / "missing"),
    "a command in a file": lambda t, a, _: t.exec_command_wait("pwd", workdir=a / "a.txt"),
    "a command at home": lambda t, *_: t.exec_command_wait("pwd"),
    "a command that is not there": lambda t, *_: t.exec_command_wait("no-such-command-here")[0],
    "a command that is empty": lambda t, *_: t.exec_command_wait(""),
    "a command's login shell": lambda t, *_: t.exec_command_wait("shopt login_shell; echo ${0##*/}"),
    "no stdin": lambda t, *_: t.exec_command_wait("wc -c; cat"),
    **_each("stdin", lambda t, _, given: t.exec_command_wait("wc -c; cat", stdin=given), _INPUTS),
    "stdin from a file of text": lambda t, *_: t.exec_command_wait("wc -c", stdin=io.StringIO("ä\nb")),
    "stdin from a file of bytes": lambda t, *_: t.exec_command_wait("wc -c", stdin=io.BytesIO(b"a\nb")),
    "stdin of megabytes": lambda t, *_: t.exec_command_wait("wc -c; sleep 0", stdin="x" * 3_000_000),
    "stdin that nobody reads": lambda t, *_: t.exec_command_wait("echo done", stdin=b"a\n" * 200),
    "stdin of another kind": lambda t, *_: t.exec_command_wait("cat", stdin=17),
    "output in another encoding": lambda t, *_: t.exec_command_wait(r"printf '\344'", encoding="latin-1"),
    "output that is not in the encoding": lambda t, *_: t.exec_command_wait(r"printf '\344'"),
    "output of megabytes": lambda t, *_: len(t.exec_command_wait("head -c 3000000 /dev/zero")[1]),
    "whoami": lambda t, *_: t.whoami() == pwd.getpwuid(os.getuid()).pw_name,
}

# Seconds that a question takes to the remote side and back where stalls are measured.
ROUND_TRIP = 0.3

# For each method a right use, for some an error: a stall lasts a round trip at least. What `core.local` does
# is no measure for commands: it has no network, and stops the loop until they end.
STALLS: dict[str, Scenario] = {
    name: SCENARIOS[name]
    for name in (
        *("isdir 'sub'", "isfile 'a.txt'", "path_exists 'missing'", "get_attribute 'a.txt'", "get_mode"),
        *("get_attribute 'missing'", "listdir", "listdir '*.txt'", "listdir_withattributes", "glob '*.txt'"),
        *("normalize", "mkdir", "mkdir what is there", "makedirs", "rmdir", "rmtree 'sub'", "remove 'a.txt'"),
        *("rename a file", "rename to what is there", "symlink", "symlinks by a pattern", "chmod"),
        *("copy by a pattern", "copyfile", "copytree", "compress and extract 'tar.gz'", "compress nothing"),
        *(
            "put by a pattern",
            "put the content of a tree",
            "putfile",
            "puttree",
            "get by a pattern",
            "getfile",
        ),
        *("get nothing and ignore it", "gettree", "copy_from_remote_to_remote", "a command's text", "whoami"),
    )
} | {"a command that takes a second": lambda t, *_: t.exec_command_wait("sleep 1")}

_WRONG = Answer(kinds=("OSError", "Exception"))
# Where ours is not as `core.local`, and why.
EXPECTED: dict[str, Answer | str] = {
    # it reports success if a file is in the way
    "makedirs where a file is": _WRONG,
    # it says that it has removed a link that leads nowhere, and has not
    "rmtree 'broken'": _WRONG,
    # it removes the working directory; core.ssh refuses
    "rmtree of no name": Answer(kinds=("ValueError", "Exception")),
    # it does not know how
    "chown": Answer(
        warned=(
            (
                "The `Transport.chown` method is deprecated and will be removed. "
                "It is not used internally by AiiDA. (this will be removed in v3)"
            ),
        )
    ),
    # its own getcwd says nothing of what AiiDA's interface says
    "getcwd": Answer(
        "'AT-HOME'",
        warned=(
            (
                "`getcwd()` is deprecated and will be removed in the next major version. "
                "(this will be removed in v3)"
            ),
        ),
    ),
    # it fails; the others copy, as `cp -r` does
    "copy the content of a tree into a directory": "core.ssh",
    # all of them fail
    "output that is not in the encoding": Answer("(0, '\ufffd', '')"),
}
# What AiiDA has no method to await for.
NOT_AWAITED = {"getcwd"}
# Where the answer is the same, but the trees are not.
OTHER_TREES = {
    "compress nothing": "core.local leaves an empty directory for the archive",
    "compress a pattern of nothing": "core.local leaves an empty directory for the archive",
    "put a tree to where a tree is": "a link in the way is replaced; core.local writes through it",
    "get a tree to where a tree is": "a link in the way is replaced; core.local writes through it",
}


def _local() -> Any:
    from aiida.plugins import TransportFactory

    made = TransportFactory("core.local")(machine="localhost")
    made.open()
    return made
