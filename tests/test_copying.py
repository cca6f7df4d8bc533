"""`ossh cp` and `ossh sync`, as shells call them, between here and real servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import ossh

from opensshtransport.sandbox import Sandbox


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory of this side, with a tree."""
    top = tmp_path / "here"
    (top / "tree" / "sub").mkdir(parents=True)
    (top / "file").write_text("content")
    (top / "tree" / "a b").write_text("ab")
    (top / "tree" / "sub" / ".hidden").write_text("h")
    (top / "tree" / "link").symlink_to("a b")
    return top


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory of the far side, which is this machine."""
    top = tmp_path / "there"
    top.mkdir()
    return top


@pytest.fixture(params=["rsync", "without rsync"])
def way(request: pytest.FixtureRequest) -> list[str]:
    """By rsync, and by our own comparison."""
    return ["--no-rsync"] if request.param == "without rsync" else []


def shape(top: Path) -> list[tuple[str, str, int]]:
    """What is below a directory: name, content or target, mode."""
    return sorted(
        (
            str(path.relative_to(top)),
            str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else "/",
            path.lstat().st_mode,
        )
        for path in top.rglob("*")
    )


def test_both_directions(node: Sandbox, here: Path, there: Path) -> None:
    """A file goes there and back by scp's notation; nothing is printed, as in a pipe."""
    config = node.ssh_config
    done = ossh("cp", "-F", config, here / "file", f"{node.host}:{there}/new")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (there / "new").read_text() == "content"
    done = ossh("cp", "-F", config, f"{node.host}:{there}/new", here)
    assert (done.returncode, (here / "new").read_text()) == (0, "content")


def test_tree_needs_r(node: Sandbox, here: Path, there: Path) -> None:
    """Without -r a directory is refused by name, with status 1; with it, the tree arrives as it is."""
    done = ossh("cp", "-F", node.ssh_config, here / "tree", f"{node.host}:{there}")
    assert done.returncode == 1
    assert b"ossh cp: " in done.stderr
    assert b"tree: Is a directory" in done.stderr
    assert list(there.iterdir()) == []
    done = ossh("cp", "-r", "-p", "-F", node.ssh_config, here / "tree", f"{node.host}:{there}")
    assert done.returncode == 0
    assert shape(there / "tree") == shape(here / "tree")
    done = ossh("cp", "-r", "-F", node.ssh_config, f"{node.host}:{there}/tree", here / "back")
    assert done.returncode == 0
    assert shape(here / "back") == shape(here / "tree")


def test_on_one_server(node: Sandbox, there: Path) -> None:
    """From a host to itself the file stays there, and patterns are expanded there."""
    (there / "a1").write_text("1")
    (there / "a2").write_text("2")
    (there / "d").mkdir()
    done = ossh("cp", "-F", node.ssh_config, f"{node.host}:{there}/a*", f"{node.host}:{there}/d")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (there / "d").iterdir()) == ["a1", "a2"]


def test_between_two_servers(node: Sandbox, own_node: Sandbox, here: Path, there: Path) -> None:
    """From one host to another."""
    both = here / "config"
    second = own_node.ssh_config.read_text().replace(f"Host {own_node.host}", "Host second", 1)
    both.write_text(f"{node.ssh_config.read_text()}\n{second}")
    (there / "one").write_text("from one")
    done = ossh("cp", "-F", both, f"{node.host}:{there}/one", f"second:{there}/two")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (there / "two").read_text() == "from one"


def test_missing_source(node: Sandbox, there: Path, here: Path) -> None:
    """A file that is not there is told as cp(1) tells it, with status 1, and nothing appears."""
    done = ossh("cp", "-F", node.ssh_config, f"{node.host}:{there}/no", here / "new")
    assert done.returncode == 1
    assert done.stderr.decode().strip() == f"ossh cp: {node.host}:{there}/no: No such file or directory"
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("operands", "words"),
    [
        (["x"], "required: DST"),
        (["x", "y"], "all of these are local"),
        (["h:x", "y", "."], "'y' and the destination are local"),
        (["", "h:x"], "empty name"),
    ],
)
def test_wrong_operands(operands: list[str], words: str) -> None:
    """Operands that make no sense are refused before anything is touched, with ssh's status."""
    done = ossh("cp", *operands)
    assert done.returncode == 255
    assert words in done.stderr.decode()


def test_sync_there(node: Sandbox, here: Path, there: Path, way: list[str]) -> None:
    """A second sync moves nothing, a changed file is moved, and only --delete removes anything."""
    config, target = node.ssh_config, f"{node.host}:{there}/copy"
    arguments: list[str | Path] = ["-F", config, *way, here / "tree", target]
    assert ossh("sync", *arguments).returncode == 0
    assert shape(there / "copy") == shape(here / "tree")
    done = ossh("sync", *arguments)
    assert (done.returncode, done.stdout) == (0, b"")
    (here / "tree" / "a b").write_text("changed")
    (there / "copy" / "extra").mkdir()
    (there / "copy" / "extra" / "x").write_text("x")
    done = ossh("sync", "-n", "--delete", *arguments)
    assert b"a b" in done.stdout
    assert b"extra" in done.stdout
    assert (there / "copy" / "a b").read_text() == "ab"
    assert ossh("sync", *arguments).returncode == 0
    assert (there / "copy" / "extra" / "x").exists()
    assert (there / "copy" / "a b").read_text() == "changed"
    assert ossh("sync", "--delete", *arguments).returncode == 0
    assert shape(there / "copy") == shape(here / "tree")


def test_sync_here(node: Sandbox, here: Path, there: Path, way: list[str]) -> None:
    """The other direction, with files that must go, and a directory that must make way for a file."""
    config = node.ssh_config
    (there / "tree" / "sub").mkdir(parents=True)
    (there / "tree" / "new").write_text("new")
    (here / "tree" / "new").mkdir()
    (here / "tree" / "new" / "inner").write_text("i")
    done = ossh("sync", "--delete", "-F", config, *way, f"{node.host}:{there}/tree/", here / "tree")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shape(here / "tree") == shape(there / "tree")


def test_sync_by_checksum(node: Sandbox, here: Path, there: Path, way: list[str]) -> None:
    """A change that keeps size and time is seen by --checksum alone."""
    config, target = node.ssh_config, f"{node.host}:{there}/copy"
    assert ossh("sync", "-F", config, *way, here / "tree", target).returncode == 0
    changed = here / "tree" / "a b"
    before = changed.stat()
    changed.write_text("AB")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ossh("sync", "-F", config, *way, here / "tree", target).returncode == 0
    assert (there / "copy" / "a b").read_text() == "ab"
    assert ossh("sync", "--checksum", "-F", config, *way, here / "tree", target).returncode == 0
    assert (there / "copy" / "a b").read_text() == "AB"


def test_sync_without_master_dials_nobody_twice(
    own_node: Sandbox, here: Path, there: Path, way: list[str]
) -> None:
    """One sync is one login, whatever moves the files."""
    target = f"{own_node.host}:{there}/copy"
    assert ossh("sync", "-F", own_node.ssh_config, *way, here / "tree", target).returncode == 0
    assert own_node.log.read_text().count("Accepted publickey") == 1


def test_sync_wrong_operands(here: Path) -> None:
    """Two local names, or two remote ones, are refused."""
    for operands in ([here, here], ["a:x", "b:y"]):
        done = ossh("sync", *operands)
        assert done.returncode == 255
        assert b"one of SRC and DST must be on a host" in done.stderr
