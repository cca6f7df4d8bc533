"""`ossh cp` and `ossh sync`, as shells call them, between here and real servers."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
from pathlib import Path

import pytest
from conftest import Keep, MakeUser
from programs import ossh
from users import NOISY

from opensshtransport import copying
from opensshtransport.errors import ConnectionFailed
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
    assert done.returncode == 1, done.stderr.decode()
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
    assert done.returncode == 1, done.stderr.decode()
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


@pytest.mark.parametrize("noise", ["start-up file", "rc", "ForceCommand"])
def test_sync_with_noise(
    noise: str, make_user: MakeUser, keep: Keep, here: Path, isolated: Path, way: list[str]
) -> None:
    """What start-up files, ~/.ssh/rc and forced commands print comes into no stream."""
    user = make_user("dash" if noise == "rc" else "bash")
    forced = 'echo Welcome; exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"'
    node = keep(
        Sandbox(
            "noisy", user.name, server_options={"ForceCommand": forced} if noise == "ForceCommand" else {}
        )
    )
    if noise != "ForceCommand":
        user.set_startup(NOISY)
    both: list[list[str | Path]] = [[here / "tree", "noisy:copy"], ["noisy:copy", isolated / "back"]]
    for operands in both:
        done = ossh("sync", "-F", node.ssh_config, *way, *operands)
        assert (done.returncode, b"Welcome" in done.stdout) == (0, False), done.stderr
    assert shape(user.home / "copy") == shape(isolated / "back") == shape(here / "tree")
    assert node.log.read_text().count("Accepted publickey") == 1


@pytest.mark.parametrize("upward", [True, False])
def test_sync_to_a_full_disk(
    upward: bool, node: Sandbox, here: Path, limited: Path, way: list[str], tmp_path: Path
) -> None:
    """A full disk is a file at fault, on either side: its error, and status 1."""
    (here / "tree" / "big").write_bytes(os.urandom(3 << 20))
    target = limited / f"sync-{upward}-{len(way)}"
    names: list[str | Path] = (
        [here / "tree", f"{node.host}:{target}"] if upward else [f"{node.host}:{here}/tree", target]
    )
    done = ossh("sync", "-F", node.ssh_config, *way, *names)
    shutil.rmtree(target, ignore_errors=True)
    assert done.returncode == 1, done.stderr.decode()
    said = done.stderr.decode()
    assert re.match(rf"ossh sync: {f'{node.host}:' if upward else ''}{target}", said), said
    assert any(words in said for words in ("No space left on device", "Disk quota exceeded"))


def test_sync_leaves_out_what_is_no_file(node: Sandbox, here: Path, there: Path, way: list[str]) -> None:
    """Fifos and sockets are left out in both directions, which is said once, and is no error."""
    tree = here / "tree"
    os.mkfifo(tree / "sub" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tree):
        listener.bind("a socket")
    told = "ossh sync: left out, as fifos, sockets and devices are: a socket, sub/fifo\n"
    there_and_back: list[list[str | Path]] = [
        [tree, f"{node.host}:{there}/copy"],
        [f"{node.host}:{tree}", here / "back"],
    ]
    for operands in there_and_back:
        done = ossh("sync", "-F", node.ssh_config, *way, *operands)
        assert (done.returncode, done.stderr.decode()) == (0, told)
        done = ossh("sync", "-q", "-F", node.ssh_config, *way, *operands)
        assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (there / "copy").rglob("*")) == [".hidden", "a b", "link", "sub"]


@pytest.mark.parametrize(
    ("line", "path", "what"),
    [
        (
            'rsync: [receiver] write failed on "/there/x": No space left on device (28)',
            "host:/there/x",
            errno.ENOSPC,
        ),
        (
            'rsync: [sender] send_files failed to open "/here/a\\#012b": Permission denied (13)',
            "/here/a\nb",
            errno.EACCES,
        ),
        ('rsync: mkstemp "/there/.x.Ab3" failed: Disk quota exceeded (69)', "/there/.x.Ab3", errno.EDQUOT),
        (
            'rsync: [receiver] rename "/there/.x.Ab3" -> "x": Read-only file system (30)',
            "host:/there/.x.Ab3",
            errno.EROFS,
        ),
    ],
)
def test_what_rsync_says_of_a_file(line: str, path: str, what: int) -> None:
    """Lines of rsync 3.1 and 3.2 that name a file are errors of that file, on its side."""
    said = copying._Said("host", upward=True)
    said.read_errors([f"{line}\n".encode(), b"rsync error: error in file IO (code 11) at receiver.c(381)\n"])
    with pytest.raises(OSError, match=re.escape(os.strerror(what))) as caught:
        said.outcome(11)
    assert (caught.value.filename, caught.value.errno) == (path, what)


def test_sync_without_a_master_any_more(own_node: Sandbox) -> None:
    """Where the connection breaks, that is what is told, with ssh's status."""
    said = copying._Said("host", upward=True)
    said.read_errors([b"ossh-run: host: there is no live master; run: ossh login host\n"])
    with pytest.raises(ConnectionFailed, match=r"^host: there is no live master; run: ossh login host$"):
        said.outcome(255)


@pytest.mark.parametrize(
    "form",
    [
        "{user}@[::1]:{path}",
        "[::1]:{path}",
        "scp://{user}@localhost:{port}/{path}",
        "scp://localhost:{port}/{path}",
    ],
)
def test_all_of_scp_s_notations(form: str, own_node: Sandbox, here: Path, there: Path) -> None:
    """cp and sync reach a host however scp(1) lets it be written."""
    config = own_node.ssh_config
    text = config.read_text().replace(f"Host {own_node.host}", "Host *")
    config.write_text(re.sub(r"(?m)^ *(HostName|Port) .*\n", "", text) + "HostName 127.0.0.1\n")
    if "port" not in form:
        config.write_text(f"{config.read_text()}Port {own_node.port}\n")
    place = form.format(user=own_node.user, port=own_node.port, path=f"{there}/copy")
    done = ossh("sync", "-F", config, here / "tree", place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shape(there / "copy") == shape(here / "tree")
    done = ossh("cp", "-r", "-F", config, place, here / "back")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shape(here / "back") == shape(here / "tree")
    assert own_node.authentications() == 1
