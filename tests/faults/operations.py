"""What is done while something breaks: each operation, and its model, which does the same with `os`.

The server is on this machine. So after the fault one look tells whether a directory is as it was before the
operation, as it is after it, or neither.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opensshtransport import Transport
from opensshtransport.remote.entries import DirEntry, Stat
from opensshtransport.transfer.options import Way

__all__ = ["LONG", "OPERATIONS", "Operation", "Snapshot", "build", "drafts", "mixed", "snapshot", "torn"]

Snapshot = Mapping[str, tuple[str, int, bytes]]
"""Kind, permissions and content by path."""

# Bytes that pass while an operation is at work: a request of a shell that waits; the channel that it opens.
REQUEST, CHANNEL = 1_200, 12_000
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: of the operation.
        act: does it, with a transport, in a directory that holds `far` and `near`; gives what came of it.
        model: does the same in another such directory.
        span: about how many bytes pass.
        whole: whether it is done completely or not at all; else each path by itself is.
        moves: whether it moves files, so that a draft of it may stay until it is asked for again.
        big: bytes of the file `big` on both sides.
        once: whether it has a key, under which it runs one time.
        sweeps: whether asked again it finds the draft that it has left.
        again: whether asked again after it was done it comes to the same.
        torn: the path that shows a file while it arrives, so that a beginning of it may stay.
    """

    name: str
    act: Callable[[Transport, Path], object]
    model: Callable[[Path], object]
    span: int = REQUEST
    whole: bool = True
    moves: bool = False
    big: int = 0
    once: bool = False
    sweeps: bool = True
    again: bool = False
    torn: str = ""


def build(top: Path, seed: int, big: int = 0) -> None:
    """Make what operations work on."""
    chance = random.Random(seed)
    for side in ("far", "near"):
        base = top / side
        (base / "tree" / "deep" / "deeper").mkdir(parents=True)
        (base / "empty").mkdir()
        (base / "file").write_bytes(b"content\n" * chance.randrange(1, 400))
        (base / "other").write_bytes(b"other\n")
        (base / "small").write_bytes(chance.randbytes(20_000))
        (base / "link").symlink_to("file")
        for number, place in enumerate(("", "deep", "deep/deeper", "deep/deeper")):
            (base / "tree" / place / f"f{number}").write_bytes(chance.randbytes(chance.randrange(3000)))
        (base / "tree" / "name with\nnewline").write_bytes(b"x")
        if big:
            (base / "big").write_bytes(chance.randbytes(big))
            (base / "many").mkdir()
            for number in range(12):
                (base / "many" / f"m{number}").write_bytes(chance.randbytes(big // 12))
    # a shell may be ended after it has made a file and before it writes there
    (top / "far" / "ran").touch()
    # what is there already, in part
    (top / "far" / "half").mkdir()
    (top / "far" / "half" / "f0").write_bytes(b"old")
    (top / "near" / "half").mkdir()
    (top / "near" / "half" / "f0").write_bytes(b"old")


def snapshot(top: Path) -> Snapshot:
    """What is in a directory, but for drafts."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for base in (top / "far", top / "near"):
        for directory, names, files in os.walk(base):
            names[:] = [name for name in names if not name.startswith(".ossh-")]
            for name in (*names, *files):
                path = Path(directory, name)
                if name.startswith(".ossh-"):
                    continue
                seen = path.lstat()
                content = b""
                if stat.S_ISLNK(seen.st_mode):
                    content = os.fsencode(path.readlink())
                elif stat.S_ISREG(seen.st_mode):
                    content = _content(path)
                kind = stat.filemode(seen.st_mode)[0]
                found[str(path.relative_to(top))] = (kind, stat.S_IMODE(seen.st_mode), content)
    return found


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    # what an assertion shows has an end
    return raw if len(raw) < 200 else b"%d %b" % (len(raw), hashlib.sha256(raw).hexdigest().encode())


def drafts(top: Path) -> list[str]:
    """The drafts in a directory."""
    return [str(path.relative_to(top)) for path in top.rglob(".ossh-*") if "/.ossh-" not in str(path.parent)]


def mixed(now: Snapshot, before: Snapshot, after: Snapshot) -> bool:
    """Whether each path is as it was before or as it is after."""
    return all(now.get(path) in (before.get(path), after.get(path)) for path in {*now, *before, *after})


def torn(top: Path, path: str, now: Snapshot, before: Snapshot, whole: Path) -> bool:
    """Whether all is as it was before, but for a path that is new and has a beginning of a file."""
    others = {one: found for one, found in now.items() if one != path}
    if others != before or not (top / path).is_file():
        return False
    return (whole / path).read_bytes().startswith((top / path).read_bytes())


# -- commands ------------------------------------------------------------------------------------------------

# Would go on for a minute.
LONG = "echo x >> ran; i=0; while [ $i -lt 1200 ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo end >> ran"


def _ran(top: Path) -> None:
    with (top / "far" / "ran").open("a") as file:
        file.write("x\n")


def _run(there: Transport, top: Path) -> object:
    done = there.run("echo x >> ran; echo out; echo err >&2; exit 3", cwd=top / "far")
    return done.returncode, done.stdout, done.stderr


def _run_model(top: Path) -> object:
    _ran(top)
    return 3, b"out\n", b"err\n"


def _input(there: Transport, top: Path) -> object:
    done = there.run("echo x >> ran; sha256sum", cwd=top / "far", input=b"i" * 300_000)
    return done.returncode, done.stdout


def _input_model(top: Path) -> object:
    _ran(top)
    return 0, hashlib.sha256(b"i" * 300_000).hexdigest().encode() + b"  -\n"


def _output(there: Transport, top: Path) -> object:
    done = there.run("echo x >> ran; head -c 300000 /dev/zero", cwd=top / "far")
    return done.returncode, done.stdout == bytes(300_000)


def _output_model(top: Path) -> object:
    _ran(top)
    return 0, True


def _once(there: Transport, top: Path) -> object:
    done = there.run(
        "echo x >> ran; echo out; exit 3",
        cwd=top / "far",
        once=f"key-{top.name}",
        env={"XDG_STATE_HOME": str(top / "state")},
    )
    return done.returncode, done.stdout


def _once_model(top: Path) -> object:
    _ran(top)
    return 3, b"out\n"


def _long(there: Transport, top: Path) -> object:
    return there.run(LONG, cwd=top / "far", timeout=6).returncode


def _long_model(top: Path) -> object:
    _ran(top)
    return None


def _started(there: Transport, top: Path) -> object:
    process = there.start("echo x >> ran; read line; echo $line", cwd=top / "far")
    with process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("a process has pipes")
        # a command that has ended takes no more; how it ended, `wait` tells
        try:
            process.stdin.write(b"line\n")
            process.stdin.close()
        except BrokenPipeError:
            pass
        said = process.stdout.read()
        return process.wait(30), said


def _started_model(top: Path) -> object:
    _ran(top)
    return 0, b"line\n"


# -- files ---------------------------------------------------------------------------------------------------


def _seen(found: Stat | os.stat_result) -> tuple[int, int]:
    size = found.size if isinstance(found, Stat) else found.st_size
    mode = found.mode if isinstance(found, Stat) else found.st_mode
    return (0 if stat.S_ISDIR(mode) else size), mode


def _walked(found: object, top: Path) -> object:
    return [(os.path.relpath(place, top), sorted(names), sorted(files)) for place, names, files in found]  # type: ignore[attr-defined]  # of both kinds of walk


def _entry(entry: DirEntry | os.DirEntry[str]) -> tuple[str, bool]:
    return entry.name, entry.is_dir(follow_symlinks=False)


def _names(paths: list[str], top: Path) -> list[str]:
    return [os.path.relpath(path, top) for path in paths]


def _below(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def _do(*steps: Callable[[], object]) -> None:
    for step in steps:
        step()


_READS: tuple[Operation, ...] = (
    Operation("stat", lambda t, p: _seen(t.stat(p / "far/link")), lambda p: _seen((p / "far/link").stat())),
    Operation(
        "lstat", lambda t, p: _seen(t.lstat(p / "far/link")), lambda p: _seen((p / "far/link").lstat())
    ),
    Operation("exists", lambda t, p: t.exists(p / "far/file"), lambda _: True),
    Operation("lexists", lambda t, p: t.lexists(p / "far/none"), lambda _: False),
    Operation("is_file", lambda t, p: t.is_file(p / "far/file"), lambda _: True),
    Operation("is_dir", lambda t, p: t.is_dir(p / "far/file"), lambda _: False),
    Operation("is_symlink", lambda t, p: t.is_symlink(p / "far/link"), lambda _: True),
    Operation("readlink", lambda t, p: t.readlink(p / "far/link"), lambda _: "file"),
    Operation("realpath", lambda t, p: os.path.relpath(t.realpath(p / "far/link"), p), lambda _: "far/file"),
    Operation(
        "normalize", lambda t, p: os.path.relpath(t.normalize(p / "far/link"), p), lambda _: "far/file"
    ),
    Operation("home", lambda t, _: t.home(), lambda _: str(Path.home())),
    Operation("whoami", lambda t, _: t.whoami(), lambda p: p.owner()),
    Operation(
        "disk_usage", lambda t, p: t.disk_usage(p / "far").total, lambda p: shutil.disk_usage(p / "far").total
    ),
    Operation(
        "tree_size",
        lambda t, p: t.tree_size(p / "far/tree"),
        lambda p: sum(path.stat().st_size for path in (p / "far/tree").rglob("*") if path.is_file()),
    ),
    Operation(
        "checksum",
        lambda t, p: t.checksum(p / "far/small"),
        lambda p: hashlib.sha256((p / "far/small").read_bytes()).hexdigest(),
    ),
    Operation(
        "stat_many",
        lambda t, p: [one and _seen(one) for one in t.stat_many([p / "far/file", p / "far/none"] * 50)],
        lambda p: [_seen((p / "far/file").stat()), None] * 50,
        span=30_000,
    ),
    Operation(
        "exists_many",
        lambda t, p: t.exists_many([p / "far/file", p / "far/none"] * 50),
        lambda _: [True, False] * 50,
        span=10_000,
    ),
    Operation(
        "listdir",
        lambda t, p: t.listdir(p / "far"),
        lambda p: sorted(path.name for path in (p / "far").iterdir()),
    ),
    Operation(
        "scandir",
        lambda t, p: [_entry(one) for one in t.scandir(p / "far")],
        lambda p: sorted(_entry(one) for one in os.scandir(p / "far")),
        span=4_000,
    ),
    Operation(
        "scantree",
        lambda t, p: sorted(t.scantree(p / "far/tree")),
        lambda p: _below(p / "far/tree"),
        span=4_000,
    ),
    Operation(
        "walk",
        lambda t, p: _walked(t.walk(p / "far/tree"), p),
        lambda p: _walked(sorted(os.walk(p / "far/tree")), p),
        span=4_000,
    ),
    Operation(
        "glob",
        lambda t, p: _names(t.glob("f*", root=p / "far"), p / "far"),
        lambda p: sorted(path.name for path in (p / "far").glob("f*")),
    ),
    Operation(
        "rglob",
        lambda t, p: _names(t.rglob("f*", root=p / "far/tree"), p / "far/tree"),
        lambda p: sorted(str(path.relative_to(p / "far/tree")) for path in (p / "far/tree").rglob("f*")),
        span=4_000,
    ),
    Operation(
        "read_bytes",
        lambda t, p: t.read_bytes(p / "far/small"),
        lambda p: (p / "far/small").read_bytes(),
        span=21_000,
    ),
    Operation("read_text", lambda t, p: t.read_text(p / "far/other"), lambda _: "other\n"),
    Operation("head", lambda t, p: t.head(p / "far/file", 1), lambda _: b"content\n"),
    Operation("tail", lambda t, p: t.tail(p / "far/file", size=4), lambda _: b"ent\n"),
)

_CHANGES: tuple[Operation, ...] = (
    Operation("mkdir", lambda t, p: t.mkdir(p / "far/new"), lambda p: (p / "far/new").mkdir()),
    Operation(
        "makedirs",
        lambda t, p: t.makedirs(p / "far/new/of/these"),
        lambda p: (p / "far/new/of/these").mkdir(parents=True),
        whole=False,
    ),
    Operation("rmdir", lambda t, p: t.rmdir(p / "far/empty"), lambda p: (p / "far/empty").rmdir()),
    Operation(
        "rmtree", lambda t, p: t.rmtree(p / "far/tree"), lambda p: shutil.rmtree(p / "far/tree"), whole=False
    ),
    Operation("remove", lambda t, p: t.remove(p / "far/file"), lambda p: (p / "far/file").unlink()),
    Operation(
        "unlink",
        lambda t, p: t.unlink(p / "far/link", missing_ok=True),
        lambda p: (p / "far/link").unlink(),
        again=True,
    ),
    Operation(
        "remove_many",
        lambda t, p: t.remove_many([p / "far/file", p / "far/other", p / "far/small"], missing_ok=True),
        lambda p: _do(*((p / "far" / name).unlink for name in ("file", "other", "small"))),
        whole=False,
        again=True,
    ),
    Operation(
        "rename",
        lambda t, p: t.rename(p / "far/file", p / "far/other"),
        lambda p: _do(lambda: (p / "far/file").rename(p / "far/other")),
    ),
    Operation(
        "replace",
        lambda t, p: t.replace(p / "far/tree", p / "far/empty"),
        lambda p: _do(lambda: (p / "far/tree").rename(p / "far/empty")),
    ),
    Operation(
        "symlink", lambda t, p: t.symlink("to", p / "far/new"), lambda p: (p / "far/new").symlink_to("to")
    ),
    Operation(
        "chmod",
        lambda t, p: t.chmod(p / "far/file", 0o640),
        lambda p: (p / "far/file").chmod(0o640),
        again=True,
    ),
    Operation(
        "chmod -R",
        lambda t, p: t.chmod(p / "far/tree", "go-rwx", recursive=True),
        lambda p: _closed(p / "far/tree"),
        whole=False,
        again=True,
    ),
    Operation("chown", lambda t, p: t.chown(p / "far/file", os.getuid()), lambda _: None, again=True),
    Operation("touch", lambda t, p: t.touch(p / "far/new"), lambda p: (p / "far/new").touch(), again=True),
    Operation(
        "truncate",
        lambda t, p: t.truncate(p / "far/small", 10),
        lambda p: os.truncate(p / "far/small", 10),
        again=True,
    ),
    Operation(
        "copy",
        lambda t, p: t.copy(p / "far/small", p / "far/other"),
        lambda p: _do(lambda: shutil.copyfile(p / "far/small", p / "far/other")),
        again=True,
    ),
    Operation(
        "copy a tree",
        lambda t, p: t.copy(p / "far/tree", p / "far/new"),
        lambda p: _do(lambda: shutil.copytree(p / "far/tree", p / "far/new")),
    ),
    Operation(
        "write_bytes",
        lambda t, p: t.write_bytes(p / "far/other", bytes(60_000)),
        lambda p: (p / "far/other").write_bytes(bytes(60_000)),
        span=61_000,
        again=True,
    ),
    Operation(
        "write_bytes large",
        lambda t, p: t.write_bytes(p / "far/new", b"z" * 2 * MIB),
        lambda p: (p / "far/new").write_bytes(b"z" * 2 * MIB),
        span=2 * MIB,
        again=True,
    ),
    Operation(
        "write_text",
        lambda t, p: t.write_text(p / "far/link", "text"),
        lambda p: (p / "far/link").write_text("text"),
        again=True,
    ),
    Operation(
        "append",
        lambda t, p: t.append(p / "far/other", b"more\n"),
        lambda p: _do(lambda: (p / "far/other").write_bytes(b"other\nmore\n")),
    ),
)


def _closed(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o077)


# -- moving --------------------------------------------------------------------------------------------------


def _put(
    name: str, to: str, way: Way | None = None, verify: bool = False
) -> Callable[[Transport, Path], int]:
    return lambda t, p: t.put(f"{p}/near/{name}", p / "far" / to, way=way, verify=verify).files


def _get(
    name: str, to: str, way: Way | None = None, verify: bool = False
) -> Callable[[Transport, Path], int]:
    return lambda t, p: t.get(f"{p}/far/{name}", p / "near" / to, way=way, verify=verify).files


def _copied(source: str, target: str) -> Callable[[Path], int]:
    def model(top: Path) -> int:
        found = top / source
        if not found.is_dir():
            shutil.copyfile(found, top / target)
            return 1
        shutil.copytree(found, top / target, dirs_exist_ok=True)
        return sum(not path.is_dir() for path in found.rglob("*"))

    return model


_TREE = 3 * MIB // 2
_MOVES: tuple[Operation, ...] = (
    Operation(
        "put inline",
        _put("small", "other"),
        _copied("near/small", "far/other"),
        22_000,
        moves=True,
        again=True,
    ),
    Operation(
        "get inline",
        _get("small", "other"),
        _copied("far/small", "near/other"),
        22_000,
        moves=True,
        again=True,
    ),
    Operation("put a small tree", _put("tree", "new"), _copied("near/tree", "far/new"), 16_000, moves=True),
    Operation("get a small tree", _get("tree", "new"), _copied("far/tree", "near/new"), 16_000, moves=True),
    Operation(
        "put tar", _put("many", "new", "tar"), _copied("near/many", "far/new"), _TREE, moves=True, big=_TREE
    ),
    Operation(
        "get tar", _get("many", "new", "tar"), _copied("far/many", "near/new"), _TREE, moves=True, big=_TREE
    ),
    Operation(
        "put tar into a tree",
        _put("many/.", "half", "tar", verify=True),
        _copied("near/many", "far/half"),
        _TREE,
        whole=False,
        moves=True,
        big=_TREE,
        again=True,
    ),
    Operation(
        "get tar into a tree",
        _get("many/.", "half", "tar", verify=True),
        _copied("far/many", "near/half"),
        _TREE,
        whole=False,
        moves=True,
        big=_TREE,
        again=True,
    ),
    Operation(
        "put stream",
        _put("big", "new", "stream"),
        _copied("near/big", "far/new"),
        9 * MIB,
        moves=True,
        big=9 * MIB,
        again=True,
    ),
    Operation(
        "get stream",
        _get("big", "new", "stream"),
        _copied("far/big", "near/new"),
        9 * MIB,
        moves=True,
        big=9 * MIB,
        again=True,
    ),
    Operation(
        "put stream over a file",
        _put("big", "other", "stream", verify=True),
        _copied("near/big", "far/other"),
        9 * MIB,
        moves=True,
        big=9 * MIB,
        again=True,
    ),
    Operation(
        "get stream over a file",
        _get("big", "other", "stream", verify=True),
        _copied("far/big", "near/other"),
        9 * MIB,
        moves=True,
        big=9 * MIB,
        again=True,
    ),
    Operation(
        "put sftp",
        _put("small", "other", "sftp"),
        _copied("near/small", "far/other"),
        40_000,
        moves=True,
        sweeps=False,
        again=True,
    ),
    Operation(
        "get sftp",
        _get("small", "other", "sftp"),
        _copied("far/small", "near/other"),
        30_000,
        moves=True,
        sweeps=False,
        again=True,
    ),
    Operation(
        "get sftp tree", _get("half", "new", "sftp"), _copied("far/half", "near/new"), 10_000, moves=True
    ),
    Operation(
        "put scp",
        _put("small", "new", "scp"),
        _copied("near/small", "far/new"),
        30_000,
        moves=True,
        again=True,
        torn="far/new",
    ),
    Operation(
        "get scp",
        _get("small", "other", "scp"),
        _copied("far/small", "near/other"),
        30_000,
        moves=True,
        sweeps=False,
        again=True,
    ),
)

_COMMANDS: tuple[Operation, ...] = (
    Operation("run", _run, _run_model),
    Operation("run with input", _input, _input_model, 300_000),
    Operation("run with output", _output, _output_model, 300_000),
    Operation("run long", _long, _long_model, 4_000),
    Operation("start", _started, _started_model),
    Operation("run once", _once, _once_model, CHANNEL, once=True, again=True),
)

OPERATIONS = {one.name: one for one in (*_COMMANDS, *_READS, *_CHANGES, *_MOVES)}
