"""Accounts that give no shell: by sftp, and by scp's old protocol where there is no sftp either."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.errors import ConnectionFailed, ConnectionLost, MasterGone, SettingsError
from opensshtransport.sandbox import Sandbox
from opensshtransport.transfer.outcome import TransferFailed
from opensshtransport.transfer.without_shell import batch_word
from tests.conftest import MakeShellNode, require
from tests.support.nodes import config_through, missing_programs
from tests.support.relay import Relay
from tests.support.users import NOISY, User, missing_for_users, temporary_user

_numbers = itertools.count()
# Of scp's old protocol alone, as a restricted shell lets it through.
_ONLY_SCP = 'case "$SSH_ORIGINAL_COMMAND" in "scp "*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;; *) exit 1 ;; esac'


@dataclass(frozen=True, slots=True)
class Restricted:
    """An account without a shell, and a directory of this test there."""

    user: User
    transport: Transport
    there: Path


def _restricted(passable: Path, options: dict[str, str]) -> Iterator[tuple[User, Transport]]:
    require(missing_for_users() or missing_programs("sshd"))
    with temporary_user(passable) as user, Sandbox("only", user.name, server_options=options) as node:
        with Transport("only", ssh_config=node.ssh_config) as transport:
            # logged in before the test's own directories are set up; scp cannot list
            with contextlib.suppress(OSError):
                transport.listdir()
            yield user, transport


@pytest.fixture(scope="module")
def sftp_account(passable: Path) -> Iterator[tuple[User, Transport]]:
    """An account with internal-sftp alone."""
    yield from _restricted(passable, {"ForceCommand": "internal-sftp"})


@pytest.fixture(scope="module")
def scp_account(passable: Path) -> Iterator[tuple[User, Transport]]:
    """An account with scp's old protocol alone."""
    yield from _restricted(passable, {"ForceCommand": _ONLY_SCP, "Subsystem": "sftp /bin/false"})


def _place(account: tuple[User, Transport]) -> Iterator[Restricted]:
    user, transport = account
    there = user.home / f"test{next(_numbers)}"
    there.mkdir()
    os.chown(there, user.uid, user.uid)
    yield Restricted(user, transport, there)
    shutil.rmtree(there)


@pytest.fixture
def by_sftp(sftp_account: tuple[User, Transport]) -> Iterator[Restricted]:
    """internal-sftp, and a directory of this test."""
    yield from _place(sftp_account)


@pytest.fixture
def by_scp(scp_account: tuple[User, Transport]) -> Iterator[Restricted]:
    """scp -O, and a directory of this test."""
    yield from _place(scp_account)


NAMES = ["plain", "two words", "-rf", "'", '"', "*", "[a]", "a\\b", "ü🐢", ".hidden", "~", "#", "x" * 255]


def content(top: Path) -> dict[str, bytes | str | None]:
    """What is below a directory."""
    return {
        str(path.relative_to(top)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in top.rglob("*")
    }


def some_tree(top: Path) -> Path:
    """A tree of awkward names."""
    (top / "deep" / "empty").mkdir(parents=True)
    for name in NAMES:
        (top / "deep" / name).write_bytes(name.encode())
    (top / "large").write_bytes(bytes(range(256)) * 4096)
    return top


@pytest.mark.client
def test_an_account_with_sftp_alone(by_sftp: Restricted, tmp_path: Path) -> None:
    """internal-sftp puts, gets and lists, files and trees, of any name but with a newline; links go there."""
    source = some_tree(tmp_path / "tree")
    by_sftp.transport.put(source, by_sftp.there)
    assert content(by_sftp.there / "tree") == content(source)
    done = by_sftp.transport.get(f"{by_sftp.there}/tree", tmp_path / "back")
    assert content(tmp_path / "back") == content(source)
    assert (done.files, done.bytes) == (len(NAMES) + 1, sum(len(name.encode()) for name in NAMES) + MIB)
    assert by_sftp.transport.listdir(f"{by_sftp.there}/tree/deep") == sorted([*NAMES, "empty"])
    (source / "link").symlink_to("large")
    by_sftp.transport.put(source, by_sftp.there)
    assert str((by_sftp.there / "tree" / "link").readlink()) == "large"
    with pytest.raises(OSError, match="not supported") as failed:
        by_sftp.transport.get(f"{by_sftp.there}/tree", tmp_path / "other")
    assert failed.value.errno == errno.EOPNOTSUPP
    assert (tmp_path / "other" / "large").exists()
    with pytest.raises(SettingsError):
        by_sftp.transport.put(source, by_sftp.there, verify=True)
    with pytest.raises(SettingsError, match="cannot name"):
        by_sftp.transport.get(f"{by_sftp.there}/new\nline", tmp_path)


MIB = 1 << 20


def test_options_of_sftp(by_sftp: Restricted, tmp_path: Path) -> None:
    """overwrite=False, exclude, recursive and preserve hold by sftp too, in both directions."""
    source = some_tree(tmp_path / "tree")
    os.utime(source / "large", (1, 1_000_000_000))
    (source / "large").chmod(0o600)
    by_sftp.transport.put(source, by_sftp.there, exclude=["deep"], preserve=True)
    there = by_sftp.there / "tree"
    assert list(content(there)) == ["large"]
    assert ((there / "large").stat().st_mode & 0o777, (there / "large").stat().st_mtime) == (0o600, 1e9)
    (source / "large").write_bytes(b"new")
    (source / "small").write_bytes(b"new")
    with pytest.raises(FileExistsError, match="large"):
        by_sftp.transport.put(source, by_sftp.there, overwrite=False, exclude=["deep"])
    assert (there / "small").read_bytes() == b"new"
    assert (there / "large").stat().st_size == MIB
    with pytest.raises(FileExistsError):
        by_sftp.transport.put(source / "large", there, overwrite=False)
    with pytest.raises(IsADirectoryError):
        by_sftp.transport.get(str(there), tmp_path / "x", recursive=False)
    with pytest.raises(FileExistsError):
        by_sftp.transport.get(str(there), tmp_path, overwrite=False, exclude=["small"])
    assert (source / "large").read_bytes() == b"new"


@pytest.mark.client
def test_errors_of_sftp(by_sftp: Restricted, tmp_path: Path) -> None:
    """What sftp says becomes the errno; the others of several arrive; no draft is left here or there."""
    source = some_tree(tmp_path / "tree")
    with pytest.raises(FileNotFoundError):
        by_sftp.transport.get(f"{by_sftp.there}/missing", tmp_path)
    with pytest.raises(FileNotFoundError):
        by_sftp.transport.put(source / "large", by_sftp.there / "none" / "x")
    with pytest.raises(FileNotFoundError):
        by_sftp.transport.listdir(f"{by_sftp.there}/missing")
    with pytest.raises(PermissionError):
        by_sftp.transport.put(source / "large", "/etc/x")
    (tmp_path / "got").mkdir()
    by_sftp.transport.put(source / "large", by_sftp.there)
    with pytest.raises(FileNotFoundError):
        by_sftp.transport.get([f"{by_sftp.there}/missing", f"{by_sftp.there}/large"], tmp_path / "got")
    assert list(content(tmp_path / "got")) == ["large"]
    by_sftp.transport.get(f"{by_sftp.there}/l*", tmp_path / "got")
    os.mkfifo(source / "fifo")
    with pytest.raises(OSError, match="neither file") as failed:
        by_sftp.transport.put(source, by_sftp.there)
    assert not isinstance(failed.value, TransferFailed)
    assert (by_sftp.there / "tree" / "large").exists()
    for top in (tmp_path, by_sftp.there):
        assert list(top.rglob(".ossh-*")) == []


@pytest.mark.client
def test_an_account_with_scp_alone(by_scp: Restricted, tmp_path: Path) -> None:
    """Where there is no sftp either, scp's old protocol puts and gets by itself, and says what it cannot."""
    source = some_tree(tmp_path / "tree")
    by_scp.transport.put(source, by_scp.there)
    assert content(by_scp.there / "tree") == content(source)
    by_scp.transport.get(f"{by_scp.there}/tree", tmp_path / "back")
    assert content(tmp_path / "back") == content(source)
    by_scp.transport.put(source / "large", f"{by_scp.there}/two words")
    by_scp.transport.get(f"{by_scp.there}/two words", tmp_path)
    assert (tmp_path / "two words").read_bytes() == (source / "large").read_bytes()
    with pytest.raises(FileNotFoundError):
        by_scp.transport.get(f"{by_scp.there}/missing", tmp_path)
    with pytest.raises(SettingsError):
        by_scp.transport.put(source, by_scp.there, overwrite=False)
    with pytest.raises(ConnectionFailed):
        by_scp.transport.put(source, by_scp.there, way="sftp")


def test_sessions_are_waited_for(tmp_path: Path) -> None:
    """More threads than the server has sessions put by sftp: those that are refused wait, and all arrive."""
    require(missing_programs("sshd"))
    with (
        Sandbox("few", server_options={"MaxSessions": "2"}) as node,
        Transport(node.host, ssh_config=node.ssh_config) as transport,
        ThreadPoolExecutor(6) as threads,
    ):
        for number in range(6):
            (tmp_path / f"source{number}").write_bytes(b"%d" % number * 1000)
        transport.exists("/")

        def put(number: int) -> bytes:
            transport.put(tmp_path / f"source{number}", tmp_path / f"target{number}", way="sftp")
            return (tmp_path / f"target{number}").read_bytes()

        assert list(threads.map(put, range(6))) == [b"%d" % number * 1000 for number in range(6)]


@pytest.mark.parametrize("sent", [1, 2_000, 300_000])
def test_a_cut_is_no_missing_subsystem(sent: int, passable: Path, tmp_path: Path) -> None:
    """A connection that is cut while sftp works is reported as lost; scp, which shows parts, is not tried."""
    require(missing_for_users() or missing_programs("sshd"))
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * 4096)
    options = {"ForceCommand": "internal-sftp"}
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(temporary_user(passable))
        node = stack.enter_context(Sandbox("only", user.name, server_options=options))
        relay = stack.enter_context(Relay(node.port))
        transport = stack.enter_context(Transport("only", ssh_config=config_through(node, relay)))
        transport.listdir()
        relay.cut_after(sent, direction="up")
        with pytest.raises(ConnectionFailed) as failed:
            transport.put(source, user.home)
        assert isinstance(failed.value, ConnectionLost | MasterGone)
        assert failed.value.started is None or not list(user.home.glob(".ossh-*"))
        assert sent < 300_000 or failed.value.started is None
        assert not (user.home / "large").exists()
        transport.put(source, user.home)
        assert (user.home / "large").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("shell", ["bash", "tcsh"])
def test_noisy_start_up_files(shell: str, make_shell_node: MakeShellNode, tmp_path: Path) -> None:
    """Start-up files that print, and would break sftp, do no harm to any stream of ours."""
    node, user = make_shell_node(shell, NOISY)  # type: ignore[arg-type]  # one of its names
    source = some_tree(tmp_path / "tree")
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        for name in ("tree", "tree/large"):
            transport.put(tmp_path / name, user.home / Path(name).name)
            transport.get(user.home / Path(name).name, tmp_path / f"{Path(name).name} back")
    for top in (user.home / "tree", tmp_path / "tree back"):
        assert content(top) == content(source)
    for path in (user.home / "large", tmp_path / "large back"):
        assert path.read_bytes() == (source / "large").read_bytes()


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("a", '"a"'),
        ("~/a", '"a"'),
        ("~", '"."'),
        ("", '"."'),
        ("-a", '"./-a"'),
        ('a"b\\c*?[', '"a\\"b\\\\c*?["'),
    ],
)
def test_words_of_batches(path: str, word: str) -> None:
    """Words are quoted as sftp's own reader has it, and are no patterns."""
    assert batch_word(path) == word


def test_a_listing_is_complete(by_sftp: Restricted, tmp_path: Path) -> None:
    """Names of any bytes are listed as they are, whatever looks like an escape; a file has no listing."""
    names = [
        b"raw\xff",
        b"lit\\377",
        b"both\xff",
        b"both\\377",
        b"new\nline",
        b"cr\rx",
        b"\xe2\x80\xa8",
        b"esc\x1b",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(by_sftp.there) + b"/" + name)).write_bytes(name)
    there = str(by_sftp.there)
    assert by_sftp.transport.listdir(there) == sorted(os.fsdecode(name) for name in names)
    with pytest.raises(NotADirectoryError):
        by_sftp.transport.listdir(f"{there}/lit\\377")
    by_sftp.transport.get(f"{there}/lit*", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lit\\377"]
    source = tmp_path / "tree"
    source.mkdir()
    (source / "lit\\377").write_bytes(b"another")
    with pytest.raises(FileExistsError):
        by_sftp.transport.put(f"{source}/.", there, overwrite=False)
    assert (by_sftp.there / "lit\\377").read_bytes() == b"lit\\377"
