"""Drafts and destinations where others can write, on both sides; needs root, which plays the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from opensshtransport import Transport
from opensshtransport.remote.paths import quoted
from opensshtransport.sandbox import Sandbox
from opensshtransport.transfer import drafts
from opensshtransport.transfer.drafts import claimed, followed
from tests.conftest import require
from tests.support.contracts import acting_as
from tests.support.nodes import missing_programs
from tests.support.users import User, missing_for_users, temporary_user

Direction = Literal["put", "get"]
Plant = Literal["directory", "file", "link", "fifo"]


@dataclass(frozen=True, slots=True)
class Shared:
    """A directory like /tmp, who writes there, and who else does."""

    transport: Transport
    user: User
    top: Path
    writer: int
    other: int


@pytest.fixture(scope="module")
def account(passable: Path) -> Iterator[tuple[User, Transport]]:
    """A user on the host, who is another user on this side."""
    require(missing_for_users() or missing_programs("sshd"))
    with ExitStack() as stack:
        user = stack.enter_context(temporary_user(passable))
        node = stack.enter_context(Sandbox("shared", user.name))
        yield user, stack.enter_context(Transport("shared", ssh_config=node.ssh_config))


@pytest.fixture(params=["put", "get"])
def shared(
    request: pytest.FixtureRequest,
    account: tuple[User, Transport],
    passable: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Shared:
    """There we are the user, and root is the other one; here it is the other way round."""
    user, transport = account
    top = passable / f"shared{tmp_path_factory.mktemp('shared').name}{request.param}"
    top.mkdir()
    top.chmod(0o1777)
    ends = (user.uid, 0) if request.param == "put" else (0, user.uid)
    os.chown(top, ends[0], -1)
    return Shared(transport, user, top, *ends)


def plant(kind: Plant, path: Path, secret: Path) -> None:
    """Put something where a draft will be, by which its maker could read or redirect what is written."""
    if kind == "directory":
        (path / "t").mkdir(parents=True)
        (path / "sub").symlink_to(secret.parent)
        (path / "t/sub").symlink_to(secret.parent)
        for place in (path, path / "t"):
            place.chmod(0o777)
    elif kind == "file":
        path.touch()
        path.chmod(0o666)
    elif kind == "link":
        path.symlink_to(secret)
    else:
        os.mkfifo(path)
        path.chmod(0o666)


def a_source(shared: Shared, tree: bool) -> Path:
    """A tree, or a file too large for one request, which the one who writes can read."""
    source = shared.user.home / f"source-{shared.top.name}-{tree}"
    large = source / "sub/large" if tree else source
    large.parent.mkdir(parents=True, exist_ok=True)
    large.write_bytes(os.urandom(1 << 19))
    large.chmod(0o600)
    for path in (source, *source.rglob("*")):
        os.chown(path, shared.user.uid, -1)
    return source


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("kind", ["directory", "file", "link", "fifo"])
def test_nobody_elses_draft_is_used(kind: Plant, tree: bool, shared: Shared) -> None:
    """What another user has put where the draft would be is left alone; all arrives by another one."""
    source, final = a_source(shared, tree), shared.top / "final"
    secret = shared.user.home / "secret" / "file"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(b"kept")
    for path in (secret.parent, secret):
        os.chown(path, shared.writer, -1)
    host, seen = shared.transport.host, source.stat()
    size = () if tree else (seen.st_size, seen.st_mtime_ns)
    words: tuple[object, ...] = (
        (source, *size, host, final) if shared.writer else (host, source, *size, final)
    )
    with claimed(*words, final) as key:
        draft = shared.top / f".ossh-{key}"
    with acting_as(shared.other):
        plant(kind, draft, secret)
    before = draft.lstat()
    move = shared.transport.put if shared.writer else shared.transport.get
    move(source, final, way="tar" if tree else None)
    arrived = final / "sub/large" if tree else final
    original = source / "sub/large" if tree else source
    assert arrived.read_bytes() == original.read_bytes()
    assert arrived.stat().st_uid == shared.writer
    assert arrived.stat().st_mode & 0o077 == 0
    assert (secret.read_bytes(), [path.name for path in secret.parent.iterdir()]) == (b"kept", ["file"])
    after = draft.lstat()
    assert (after.st_ino, after.st_uid, after.st_size) == (before.st_ino, shared.other, before.st_size)
    assert {path.name for path in shared.top.iterdir()} == {"final", draft.name}


@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_links_of_others_are_not_followed(mode: int, shared: Shared) -> None:
    """In a directory to which everybody can write only our links, and its owner's, lead anywhere."""
    shared.top.chmod(mode)
    inner = shared.user.home / f"inner-{shared.top.name}"
    inner.mkdir()
    (inner / "file").write_bytes(b"kept")
    for path in (inner, inner / "file"):
        os.chown(path, shared.writer, -1)
    with acting_as(shared.other):
        (shared.top / "file").symlink_to(inner / "file")
        (shared.top / "new").symlink_to(inner / "new")
        (shared.top / "tree").symlink_to(inner)
        (shared.top / "step").symlink_to("tree")
    source = a_source(shared, tree=False)
    tree = a_source(shared, tree=True)
    move = shared.transport.put if shared.writer else shared.transport.get
    for name in ("file", "new", "tree", "tree/x", "step", "step/x"):
        with pytest.raises(PermissionError):
            move(source, shared.top / name)
    for name in ("tree", "tree/x", "step"):
        with pytest.raises(PermissionError):
            move(tree, shared.top / name)
        with pytest.raises(PermissionError):
            move(f"{tree}/.", shared.top / name)
    if shared.writer:
        there = shared.transport
        for name in ("file", "new", "tree/x"):
            path = shared.top / name
            for change in (
                lambda path=path: there.write_bytes(path, b"x"),
                lambda path=path: there.append(path, b"x"),
                lambda path=path: there.touch(path),
                lambda path=path: there.truncate(path, 0),
                lambda path=path: there.copy(source, path),
            ):
                with pytest.raises(OSError, match=r"Permission denied|No such file"):
                    change()
    assert {path.name: path.stat().st_size for path in inner.iterdir()} == {"file": 4}
    # ours
    (shared.top / "own").symlink_to(inner / "own")
    os.chown(shared.top / "own", shared.writer, -1, follow_symlinks=False)
    move(source, shared.top / "own")
    assert (inner / "own").stat().st_size == source.stat().st_size
    # where not everybody can write
    shared.top.chmod(0o755)
    move(source, shared.top / "new")
    assert (inner / "new").stat().st_size == source.stat().st_size


@pytest.mark.parametrize(
    "path", ["", ".", "a", "a/../b/./c", "//a", "/", "..", "l/x", "l/../x", "n/x", "o", "/tmp/../x"]
)
def test_paths_without_links(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all links are ours it is os.path.realpath."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "l").symlink_to("a/b")
    (tmp_path / "n").symlink_to("nowhere")
    (tmp_path / "o").symlink_to("/proc/self/fd/0")
    assert str(followed(path)) == os.path.realpath(path)


def test_a_draft_is_held(tmp_path: Path) -> None:
    """Who puts a link in a draft's place, where he can, gets nothing of what is written."""
    draft, other = tmp_path / "draft", tmp_path / "other"
    other.mkdir()
    with drafts.held(draft) as inside:
        draft.rename(tmp_path / "away")
        draft.symlink_to(other)
        (inside / "file").write_bytes(b"x")
    assert list(other.iterdir()) == []
    assert (tmp_path / "away/file").read_bytes() == b"x"
    with pytest.raises(OSError, match=r"draft"), drafts.held(draft):
        pass


def test_a_drafts_link_is_not_unpacked_to(account: tuple[User, Transport]) -> None:
    """Over there neither: tar is not started where a link has been put in a draft's place."""
    user, transport = account
    top = user.home / "group"
    with acting_as(user.uid):
        (top / "other").mkdir(parents=True)
        top.chmod(0o777)
        (top / ".ossh-0123456789abcdef").symlink_to("other")
    # there is no way to have it happen at this very moment
    reply = transport._reply(f"unpack '' {quoted(top / '.ossh-0123456789abcdef')}")
    assert reply.status
    assert "EPERM" in reply.errors
