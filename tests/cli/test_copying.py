"""`ossh cp` and `ossh sync`, as shells call them, between here and real servers."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport import Transport
from opensshtransport.copying import rsync
from opensshtransport.copying.comparison import _spared
from opensshtransport.copying.options import Listener
from opensshtransport.errors import ConnectionFailed
from opensshtransport.sandbox import Sandbox
from opensshtransport.transfer.options import Way
from tests.conftest import Keep, MakeUser, require
from tests.support.contracts import acting_as
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, ossh
from tests.support.users import NOISY, User, missing_for_users, temporary_user

NOBODY = Listener(line=lambda _: None, note=lambda _: None)


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
    """A directory of the remote side, which is this machine."""
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
    assert b"tree: Is a directory; copy directories with -r" in done.stderr
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
    """A missing file is reported as by cp(1), with status 1, and nothing appears."""
    done = ossh("cp", "-F", node.ssh_config, f"{node.host}:{there}/no", here / "new")
    assert done.returncode == 1, done.stderr.decode()
    assert done.stderr.decode().strip() == f"ossh cp: {node.host}:{there}/no: No such file or directory"
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("operands", "words"),
    [
        (["x"], "DST is missing"),
        (["x", "y"], "all of these paths are local"),
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
    said = rsync.Said("host", NOBODY, upward=True)
    said.read_errors([f"{line}\n".encode(), b"rsync error: error in file IO (code 11) at receiver.c(381)\n"])
    with pytest.raises(OSError, match=re.escape(os.strerror(what))) as caught:
        said.raise_for(11)
    assert (caught.value.filename, caught.value.errno) == (path, what)


def test_sync_without_a_master_any_more(own_node: Sandbox) -> None:
    """If the connection breaks, that is reported, with ssh's status."""
    said = rsync.Said("host", NOBODY, upward=True)
    said.read_errors([b"ossh-run: host: no master is running; run: ossh login host\n"])
    with pytest.raises(ConnectionFailed, match=r"^host: no master is running; run: ossh login host$"):
        said.raise_for(255)


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


@pytest.fixture(scope="module")
def other(passable: Path) -> Iterator[tuple[User, Sandbox]]:
    """A node where we are a user to whom a directory can be closed."""
    require(missing_for_users() or missing_programs("sshd"))
    with temporary_user(passable) as user, Sandbox("other", user.name) as node:
        yield user, node


def fill(top: Path, files: dict[str, str]) -> None:
    """Make files, with the directories above them."""
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)


def deep(top: Path) -> str:
    """A file whose path is longer than PATH_MAX, which nobody can list; gives its directory's name."""
    name = "d" * 250
    place = os.open(top, os.O_RDONLY)
    for _ in range(18):
        os.mkdir(name, dir_fd=place)
        above, place = place, os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(above)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)
    return name


def test_nothing_is_deleted_that_is_not_known(
    other: tuple[User, Sandbox], tmp_path: Path, way: list[str]
) -> None:
    """What could not be listed in the source is not deleted in the destination; the rest moves, status 1."""
    user, node = other
    source, target = user.home / f"from{len(way)}", tmp_path / "to"
    with acting_as(user.uid):
        fill(source, {"closed/x": "new", "open/y": "y", "file": "f"})
        (source / "closed").chmod(0)
    fill(target, {"closed/x": "good", "closed/sub/z": "good", "open/old": "o", "gone/g": "g"})
    done = ossh("sync", "--delete", "-F", node.ssh_config, *way, f"other:{source}", target)
    assert done.returncode == 1
    assert b"closed" in done.stderr
    assert ((target / "closed/x").read_text(), (target / "closed/sub/z").read_text()) == ("good", "good")
    assert ((target / "open/y").read_text(), (target / "file").read_text()) == ("y", "f")
    if way:
        # rsync then deletes nothing at all
        assert not (target / "open/old").exists()
        assert not (target / "gone").exists()
        assert b"nothing below it is deleted" in done.stderr


def test_what_is_closed_over_there_stops_nothing_else(other: tuple[User, Sandbox], tmp_path: Path) -> None:
    """What cannot be listed in the destination stays, and all else is moved and deleted, with status 1."""
    user, node = other
    source, target = tmp_path / "from", user.home / "to"
    fill(source, {"closed/x": "new", "open/y": "y", "file": "f"})
    with acting_as(user.uid):
        fill(target, {"closed/kept": "k", "open/old": "o", "gone/closed/k": "k", "gone/g": "g"})
        (target / "gone/closed").chmod(0)
        (target / "closed").chmod(0o500)
    done = ossh("sync", "--delete", "-F", node.ssh_config, "--no-rsync", source, f"other:{target}")
    assert done.returncode == 1
    assert b"gone/closed" in done.stderr
    assert (target / "gone/closed/k").read_text() == "k"
    assert not (target / "gone/g").exists()
    assert not (target / "open/old").exists()
    assert ((target / "open/y").read_text(), (target / "file").read_text()) == ("y", "f")


@pytest.mark.parametrize("upward", [True, False])
def test_what_is_beyond_the_longest_path_here(
    upward: bool, node: Sandbox, here: Path, there: Path, tmp_path: Path
) -> None:
    """What is beyond PATH_MAX here is told, in the source and in the destination, and stops nothing else."""
    name = deep(here / "tree")
    fill(
        there,
        {"copy/gone": "g", "copy/a b": "ab, but longer", f"copy/{name}/kept": "k"}
        if upward
        else {"copy/n": "n"},
    )
    local, remote = here / "tree", f"{node.host}:{there}/copy"
    ends = (local, remote) if upward else (remote, local)
    done = ossh("sync", "--delete", "-F", node.ssh_config, "--no-rsync", *ends)
    assert done.returncode == 1
    assert b"File name too long" in done.stderr
    if upward:
        assert not (there / "copy/gone").exists()
        assert (there / "copy/a b").read_text() == "ab"
    else:
        assert (local / "n").read_text() == "n"
        assert not (local / "a b").exists()
        assert (local / name).is_dir()
    shutil.rmtree(here)


def test_what_is_spared() -> None:
    """A name that is not known, what is below it and what it is in are spared; its siblings are not."""
    spared = _spared(["a/b", "c"])
    names = ["a", "a/b", "a/b/c", "a/bc", "b", "c", "c/d", "cd"]
    assert [name for name in names if spared(name)] == ["a", "a/b", "a/b/c", "c", "c/d"]
    assert _spared([""])("x")
    assert not _spared([])("x")


def project(top: Path, uid: int) -> int:
    """A set-group-ID directory with a tree of its own, as centres have them for projects; gives its group."""
    group = grp.getgrnam("games").gr_gid
    fill(top, {"old/before": "b"})
    for place in (top, top / "old", top / "old/before"):
        os.chown(place, uid, group)
    for place in (top, top / "old"):
        place.chmod(0o2775)
    return group


def check_project(top: Path, group: int) -> None:
    """All of a project is its group's, and its directories are set-group-ID."""
    paths = [top, *top.rglob("*")]
    assert {path for path in paths if path.lstat().st_gid != group} == set()
    assert {path for path in paths if path.is_dir() and not path.stat().st_mode & stat.S_ISGID} == set()


def a_project(top: Path) -> Path:
    """What is moved into a project: new directories, one that is there, links, an executable."""
    fill(top, {"new/deeper/x": "x", "old/before": "after", "old/y": "y", "top": "t"})
    (top / "new").chmod(0o750)
    (top / "old/y").chmod(0o755)
    (top / "new/link").symlink_to("deeper")
    return top


@pytest.mark.parametrize("around", ["project", "around it"])
@pytest.mark.parametrize("upward", [True, False])
def test_sync_in_a_project(
    other: tuple[User, Sandbox], tmp_path: Path, way: list[str], upward: bool, around: str
) -> None:
    """In a set-group-ID directory what is synchronised has its group, and directories keep the bit."""
    user, node = other
    subprocess.run(["usermod", "-a", "-G", "games", user.name], check=True)
    there = user.home / f"{upward}{around}{len(way)}"
    with acting_as(user.uid):
        there.mkdir()
    source, target = (tmp_path / "from", there) if upward else (there / "from", tmp_path)
    inner = "project" if around == "around it" else ""
    a_project(source / inner)
    for path in (source, *source.rglob("*")):
        os.chown(path, user.uid, user.uid, follow_symlinks=False)
    target = target / "to"
    target.mkdir()
    os.chown(target, user.uid if upward else -1, -1)
    group = project(target / inner, user.uid if upward else 0)
    ends = (source, f"other:{target}") if upward else (f"other:{source}", target)
    done = ossh("sync", "-F", node.ssh_config, *way, *ends)
    assert (done.returncode, done.stderr) == (0, b"")
    check_project(target / inner, group)
    modes = {name: (target / inner / name).stat().st_mode & 0o7777 for name in ("new", "old/y", "top")}
    assert modes == {"new": 0o2750, "old/y": 0o755, "top": 0o644}
    assert (target / inner / "old/before").read_text() == "after"
    assert ossh("sync", "-F", node.ssh_config, *way, *ends).stdout == b""


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("transfer_way", ["inline", "tar", "sftp"])
def test_a_tree_in_a_project(
    other: tuple[User, Sandbox], tmp_path: Path, transfer_way: Way, preserve: bool
) -> None:
    """The same of trees that are put and got, new ones and such as are merged."""
    user, node = other
    subprocess.run(["usermod", "-a", "-G", "games", user.name], check=True)
    source = a_project(tmp_path / "tree")
    there = user.home / f"{transfer_way}{preserve}"
    with acting_as(user.uid):
        there.mkdir()
    group = project(there / "p", user.uid)
    here = tmp_path / "p"
    project(here, 0)
    with Transport("other", ssh_config=node.ssh_config) as transport:
        if transfer_way != "sftp":
            transport.put(source, there / "p", preserve=preserve, way=transfer_way)
            transport.put(f"{source}/.", there / "p", preserve=preserve, way=transfer_way)
            transport.put(f"{source}/.", there / "p", preserve=preserve, way=transfer_way)
            check_project(there / "p", group)
        with acting_as(user.uid):
            a_project(there / "tree")
            if transfer_way == "sftp":
                (there / "tree/new/link").unlink()
        transport.get(there / "tree", here, preserve=preserve, way=transfer_way)
        transport.get(f"{there}/tree/.", here, preserve=preserve, way=transfer_way)
        check_project(here, group)


@pytest.mark.parametrize("upward", [True, False], ids=["put", "get"])
def test_sync_excludes(node: Sandbox, tmp_path: Path, way: list[str], upward: bool) -> None:
    """What is excluded is neither copied nor deleted; a pattern with a slash is of a path below SRC."""
    source, target = tmp_path / "source", tmp_path / "target"
    names = ("a.o", "a.c", "sub/b.o", "sub/b.c", "build/x", "sub/build/x")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("new")
    for name in ("a.o", "old", "gone/c.o", "gone/c.c"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("old")
    places = [str(source), f"{node.host}:{target}"] if upward else [f"{node.host}:{source}", str(target)]
    options = ["--delete", "--exclude", "*.o", "--exclude", "build/*"]
    done = ossh("sync", "-F", node.ssh_config, *way, *options, *places)
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {"a.o": "old", "gone/c.o": "old", "a.c": "new", "sub/b.c": "new", "sub/build/x": "new"}


def test_sync_shows_progress(node: Sandbox, tmp_path: Path, way: list[str]) -> None:
    """At a terminal each way shows how far it is."""
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "large").open("wb") as file:
        file.truncate(64 << 20)
    words = ["sync", "-F", str(node.ssh_config), *way, f"{tmp_path}/source", f"{node.host}:{tmp_path}/target"]
    child = pexpect.spawn(str(OSSH), words, timeout=60)
    child.expect(r"\d+%.*B/s")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (tmp_path / "target" / "large").stat().st_size == 64 << 20
