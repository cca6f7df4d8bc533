"""Attempts at what must not happen: by names, by other users here, by the remote side, and through files.

Secrets during a login are in `test_secrets`, hostile archives and listings as values in `test_archive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import secrets
import shlex
import signal
import socket as sockets
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from opensshtransport import AsyncTransport, OpenSshTransportError, Transport
from opensshtransport.commands import process
from opensshtransport.errors import CommandTimeout, ConnectionFailed, SettingsError, printable
from opensshtransport.master import master
from opensshtransport.openssh import destination
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions import attempts, shell
from opensshtransport.sessions import stream as session
from opensshtransport.transfer import archive, unpacking
from opensshtransport.transfer.bar import _shown
from tests.conftest import Keep, MakeConversationNode, MakeShellNode, MakeUser
from tests.login.test_secrets import Secrets, Watch, files_with, keyring, rules_for, store
from tests.support.pam_nodes import questions, rule, stored
from tests.support.programs import OSSH_RUN, ossh, ossh_run, runtime, until, write_settings
from tests.support.users import Startup, User

__all__ = ["keyring", "store"]

ESCAPES = "\x1b[31m\x07\x9b2J"


@pytest.fixture
def nowhere(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: empty, so that `hit` is there only if something made it."""
    place = isolated / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def hits(*tops: Path) -> list[Path]:
    """What injected commands would have made."""
    return [path for top in tops for path in top.rglob("hit")]


# -- injection -----------------------------------------------------------------------------------------

HOSTS = (
    *("-oProxyCommand=touch hit", "-F/dev/null", "--", "-", "$(touch hit)", "`touch hit`", "x;touch hit"),
    *("x|touch hit", "x\ntouch hit", "me@x&touch hit", "`touch hit`@x", "me@-oProxyCommand=touch hit"),
    *("ssh://-oProxyCommand=touch%20hit", "x'y", 'x"y', "x\\y", "x y", "", "\udcff\n"),
)


@pytest.fixture
def naive(isolated: Path) -> Path:
    """An `ssh_config` that passes any host and user to a shell."""
    config = isolated / "naive"
    config.write_text("Host * !sandbox\n    ProxyCommand echo %h %r %n >/dev/null; false\n")
    return config


def calls(host: str, config: Path) -> list[list[str]]:
    """Every command that takes a host, with this one."""
    own = ["-F", str(config)]
    return [
        ["run", *own, "--no-login", "--", host, "true"],
        *([name, *own, "--", host] for name in ("login", "logout", "status", "ssh-command", "doctor")),
        ["cp", *own, "--", f"{host}:x", "."],
        ["sync", *own, "--", ".", f"{host}:x"],
        ["setup", *own, "--dry-run", "--no-login", "-y", "--hostname", "h", "--", host],
        ["setup", *own, "--dry-run", "--no-login", "-y", "--hostname", host, "--", "alias"],
        ["setup", *own, "--dry-run", "--no-login", "-y", "--hostname", "h", "--jump", host, "--", "alias"],
    ]


@pytest.mark.parametrize("host", [HOSTS[0], HOSTS[4], HOSTS[8]])
def test_no_command_takes_a_host_for_more(nowhere: Path, naive: Path, host: str) -> None:
    """Each command refuses a host that is an option, a substitution or two lines; nothing of it is run."""
    with ThreadPoolExecutor(4) as pool:
        for argv, done in zip(
            calls(host, naive), pool.map(lambda argv: ossh(*argv), calls(host, naive)), strict=True
        ):
            assert b"Traceback" not in done.stderr, (argv, done.stderr)
            # of --jump the words are hops
            assert done.returncode or argv[0] == "status" or "--jump" in argv, (argv, done)
    assert not hits(nowhere)
    assert list(runtime().glob("*.json")) == []


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_in_python(nowhere: Path, naive: Path, host: str) -> None:
    """`Transport` and `AsyncTransport` refuse such a host before ssh is asked to go there."""

    async def alone() -> None:
        async with AsyncTransport(host, ssh_config=naive) as transport:
            await transport.run("true")

    with pytest.raises(OpenSshTransportError):
        with Transport(host, ssh_config=naive) as transport:
            transport.run("true")
    with pytest.raises(OpenSshTransportError):
        asyncio.run(alone())
    assert not hits(nowhere)


def test_hosts_for_the_script(node: Sandbox, nowhere: Path, naive: Path) -> None:
    """The script `ossh-run`, even with a live master, runs and reads nothing because of such a host."""
    naive.write_text(f"{node.ssh_config.read_text()}\n{naive.read_text()}")
    assert ossh("login", "-F", naive, node.host).returncode == 0
    hosts = [*(host for host in HOSTS if "\n" not in host), ".", "..", "names/..", "sandbox,..", "*"]
    with ThreadPoolExecutor(4) as pool:
        runs = pool.map(lambda host: ossh_run("-F", naive, "--no-login", "--", host, "true"), hosts)
        for host, done in zip(hosts, runs, strict=True):
            assert (done.returncode, done.stdout) == (255, b""), host
            assert done.stderr.startswith(b"ossh-run: "), host
            assert done.stderr.count(b"\n") == 1, host
    assert not hits(nowhere)


WORDS = (
    *("-rf", "--", "-oProxyCommand=touch hit", "$(touch hit)", "`touch hit`", "; touch hit", "& touch hit"),
    *("a\ntouch hit\nb", "a\n!touch hit", "!touch hit", "'", '"', "\\", "'; touch hit; '", "* ?[", "~root"),
    *(" ", "\t", "-e\n", "%h", "#", "$HOME", "\x1b[31m", os.fsdecode(b"\xff")),
)


def test_words_of_commands(node: Sandbox, nowhere: Path, keep: Keep) -> None:
    """Words, directories, variables and input reach the remote side as they are; none is run."""
    there = nowhere / "there"
    there.mkdir()
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        done = transport.run(["printf", "%s\\0", *WORDS], cwd=there)
        assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in WORDS)
        for word in WORDS:
            (there / word).mkdir(exist_ok=True)
        said = transport.run_many(
            [["sh", "-c", 'pwd; printf %s "$WORD"; cat']] * 2, cwd=there / WORDS[0], env={"WORD": WORDS[3]}
        )
        assert {one.stdout for one in said} == {os.fsencode(f"{there / WORDS[0]}\n{WORDS[3]}")}
        for word in WORDS:
            done = transport.run('pwd; printf %s "$WORD"', cwd=f"{there}/{word}", env={"WORD": word})
            assert done.stdout == os.fsencode(f"{there}/{word}\n{word}".replace("//", "/"))
    assert not hits(nowhere)


def test_words_of_ossh_run(node: Sandbox, nowhere: Path) -> None:
    """`ossh-run` hands the remote shell what ssh would, and the local one nothing."""
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    once = [["--once", secrets.token_hex(4)] for _ in range(5)]
    options = [*once, *([] for _ in WORDS[5:])]

    def said(word: str, option: list[str]) -> tuple[bytes, bytes]:
        argv = ["-F", str(node.ssh_config), "-n", *option, node.host, "printf %s", shlex.quote(word)]
        done = ossh_run(*argv)
        return done.stdout, done.stderr

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(said, WORDS, options)) == [(os.fsencode(word), b"") for word in WORDS]
    assert not hits(nowhere)


@pytest.mark.parametrize(
    "key", ["", ".", "..", "-rf", "../x", "a/b", "a,status", "$(touch hit)", "a b", "a\n"]
)
def test_keys_of_once(node: Sandbox, nowhere: Path, key: str) -> None:
    """A key that is a path, an option or a substitution is refused, and the command does not run."""
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        with pytest.raises(SettingsError):
            transport.run(f"touch {nowhere}/hit", once=key)
    done = ossh_run("-F", node.ssh_config, "--once", key, node.host, f"touch {nowhere}/hit")
    assert done.returncode == 255
    assert not hits(nowhere)


@pytest.mark.parametrize("name", ["A;touch hit", "A B", "A=$(touch hit)", "-A", "", "A\n", "LD_PRELOAD\0"])
def test_names_of_variables(node: Sandbox, nowhere: Path, name: str) -> None:
    """What is no variable's name is refused."""
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        with pytest.raises(SettingsError):
            transport.run("true", env={name: "x"}, cwd=nowhere)
    assert not hits(nowhere)


def test_paths(node: Sandbox, nowhere: Path) -> None:
    """File operations take each name for a name."""
    there = nowhere / "there"
    there.mkdir()
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        for word in WORDS:
            path = f"{there}/{word}"
            transport.write_bytes(path, b"1")
            transport.append(path, b"2")
            transport.chmod(path, 0o600)
            assert transport.stat(path).size == 2
            assert transport.read_bytes(path) == transport.head(path) == transport.tail(path) == b"12"
            assert len(transport.checksum(path)) == 64
            transport.rename(path, f"{path}.new")
            transport.copy(f"{path}.new", path)
            transport.remove(f"{path}.new")
            transport.symlink(word, f"{path}.link")
            assert transport.readlink(f"{path}.link") == word
            transport.remove(f"{path}.link")
        assert sorted(transport.listdir(there)) == sorted(WORDS)
        assert all(transport.exists_many([f"{there}/{word}" for word in WORDS]))
        transport.remove_many([f"{there}/{word}" for word in WORDS])
        assert transport.listdir(there) == []
        for word in ("-rf", "--", "$(touch hit)", "a\ntouch hit"):
            transport.makedirs(f"{there}/x/{word}/y")
            assert transport.glob(f"{there}/x/*/y") == [f"{there}/x/{word}/y"]
            transport.rmtree(f"{there}/x/{word}")
    assert not hits(nowhere)


def test_relative_paths(make_shell_node: MakeShellNode, nowhere: Path) -> None:
    """A relative name that begins with a dash is a name too, and `~` counts at the beginning only."""
    node, user = make_shell_node("bash")
    names = ["-rf", "--", "-e", "--help", "x~", "a/~root"]
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        transport.mkdir("a")
        for name in names:
            transport.write_bytes(name, b"1")
            assert transport.read_bytes(name) == b"1"
            transport.copy(name, f"{name}.copy")
            transport.remove(name)
        found = {str(path.relative_to(user.home)) for path in user.home.rglob("*.copy")}
        assert found == {f"{name}.copy" for name in names}


@pytest.mark.parametrize("way", [None, "tar", "sftp", "scp"])
def test_paths_of_transfers(
    node: Sandbox, nowhere: Path, way: Literal["inline", "tar", "sftp", "scp"] | None
) -> None:
    """put and get take each name for a name, by each way; what a way cannot name is refused."""
    here, there, back = nowhere / "here", nowhere / "there", nowhere / "back"
    words = [word for word in WORDS if way in {None, "tar"} or not ("\n" in word or word == WORDS[-1])]
    for place in (here, there, back):
        place.mkdir()
    for word in words:
        (here / word).write_bytes(os.fsencode(word))
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        transport.put(here, there, way=way)
        transport.get(there / "here", back, way=way)
        for one in words[:6]:
            transport.put(here / one, f"{there}/{one}", way=way)
            # a name with a pattern in it means the file of that name
            transport.get(f"{there}/{one}", back / f"{one}.single", way=way)
        if way == "sftp":
            with pytest.raises(SettingsError):
                transport.put(here / words[0], f"{there}/a\n!touch hit", way=way)
    for top in (there / "here", back / "here"):
        assert {path.name: path.read_bytes() for path in top.iterdir()} == {
            word: os.fsencode(word) for word in words
        }
    assert {path.name for path in back.iterdir()} == {"here", *(f"{word}.single" for word in words[:6])}
    assert not hits(nowhere)


@pytest.mark.parametrize("way", [[], ["--no-rsync"]])
def test_paths_of_cp_and_sync(node: Sandbox, nowhere: Path, way: list[str]) -> None:
    """`ossh cp` and `ossh sync` take each name for a name, also for rsync."""
    top, there, back = nowhere / "-e touch hit", nowhere / "$(touch hit)", nowhere / "`touch hit`"
    top.mkdir()
    for word in WORDS:
        (top / word).write_bytes(os.fsencode(word))
    config = ["-F", str(node.ssh_config)]
    place = f"{node.host}:{there}"
    for argv in (
        ["sync", *config, *way, "--", "-e touch hit", place],
        ["sync", *config, *way, "--delete", "--", place, "./`touch hit`"],
        ["cp", *config, "-r", "--", "-e touch hit", f"{node.host}:{there}/-r"],
        ["cp", *config, "--", f"{node.host}:{there}/-rf", "./--"],
        ["cp", *config, "--", f"{node.host}:{there}/-rf", f"{node.host}:{there}/--help"],
    ):
        done = ossh(*argv)
        assert (done.returncode, done.stderr) == (0, b""), argv
        # for a terminal, and a name on each line
        assert printable(done.stdout.decode()) == done.stdout.decode()
    assert {path.name for path in there.iterdir()} == {*WORDS, "-r", "--help"}
    assert {path.name for path in back.iterdir()} == set(WORDS)
    assert {path.name for path in (there / "-r").iterdir()} == set(WORDS)
    assert (nowhere / "--").read_bytes() == b"-rf"
    assert not hits(nowhere)


# -- other users of this machine -----------------------------------------------------------------------


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Make files and sockets as somebody else."""
    os.setegid(user.uid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def open_to_all(path: Path, top: Path) -> None:
    """Let others write to a directory, and pass to it."""
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    for above in path.parents:
        if above.is_relative_to(top):
            above.chmod(0o755)


def set_trap(trap: str, path: Path, user: User, target: Path) -> None:
    """Put something in the place of our directory."""
    if trap == "a link":
        path.symlink_to(target)
    elif trap == "somebody else's":
        path.mkdir(mode=0o777)
        os.chown(path, user.uid, user.uid)
    else:
        path.touch()
        os.chown(path, user.uid, user.uid)


@pytest.mark.parametrize("trap", ["a link", "somebody else's", "somebody else's file"])
@pytest.mark.parametrize("directory", ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"])
def test_traps_where_a_directory_should_be(
    own_node: Sandbox, isolated: Path, make_user: MakeUser, directory: str, trap: str
) -> None:
    """A link or another's directory in the place of ours: every command refuses, and nobody is dialled."""
    (isolated / "target").mkdir()
    path = Path(os.environ[directory]) / "opensshtransport"
    set_trap(trap, path, make_user(), isolated / "target")
    names = ["login", "run"] if directory == "XDG_STATE_HOME" else ["login", "run", "status", "logout"]
    for name in names:
        words = [] if name == "status" else [own_node.host]
        done = ossh(name, "-F", own_node.ssh_config, *words, *(["true"] if name == "run" else []))
        assert done.returncode == 255
        assert b"opensshtransport" in done.stderr
        assert b"Traceback" not in done.stderr
    with (
        pytest.raises(OpenSshTransportError),
        Transport(own_node.host, ssh_config=own_node.ssh_config, person=False) as transport,
    ):
        transport.run("true")
    assert own_node.connections() == 0
    assert list((isolated / "target").iterdir()) == []


def plant_file(what: str, place: Path, identity: str, name: str, *, facts: str, top: Path) -> None:
    """Leave something that is ours by its name."""
    own = place / identity
    if what == "socket":
        with sockets.socket(sockets.AF_UNIX) as made:
            made.bind(str(own))
    elif what == "facts":
        own.with_suffix(".json").write_text(facts)
    elif what == "names":
        (place / "names").mkdir()
        (place / "names" / name).write_text(f"touch {top}/hit")
    elif what == "slots":
        own.with_suffix(".slots").write_text("")
    else:
        own.with_suffix(f".{what}").symlink_to(top / "precious")


@pytest.mark.parametrize(
    ("plant", "mode"),
    [
        *((what, 0o777) for what in ("lock", "slots", "log", "socket", "facts", "names")),
        *(("facts", mode) for mode in (0o1777, 0o770)),
    ],
)
def test_planted_files(own_node: Sandbox, isolated: Path, make_user: MakeUser, plant: str, mode: int) -> None:
    """In a directory that others could write to, what another user has left is not used: it says so."""
    user = make_user()
    place = runtime()
    open_to_all(place, isolated)
    if mode == 0o770:
        os.chown(place, -1, user.uid)
    place.chmod(mode)
    evil, precious = user.home / "config", isolated / "precious"
    evil.write_text(f'Match exec "touch {isolated}/hit"\n')
    precious.write_text("precious")
    os.chown(evil, user.uid, user.uid)
    identity = destination.resolve(own_node.host, own_node.ssh_config).identity
    name = master_name(own_node)
    facts = json.dumps(
        {
            **dict.fromkeys(("login_node", "shell"), "x"),
            "host": own_node.host,
            "ssh_config": str(evil),
            "address": "a",
            "socket": str(place / identity),
            "pid": os.getpid(),
            "since": 0.0,
            "ours": True,
        }
    )
    with acting_as(user):
        plant_file(plant, place, identity, name, facts=facts, top=isolated)
    for argv in (["status"], ["run", "-F", own_node.ssh_config, own_node.host, "true"]):
        done = ossh(*argv)
        assert done.returncode == 255
        assert re.search(rf"(contains something of|belongs to) user {user.uid}", done.stderr.decode())
    assert ossh_run("-F", own_node.ssh_config, own_node.host, "true").returncode == 255
    assert own_node.connections() == 0
    assert not hits(isolated)
    assert precious.read_text() == "precious"


def master_name(node: Sandbox) -> str:
    """The name of the file by which `ossh-run` finds the way to a node's master."""
    return node.host + str(node.ssh_config).replace("/", ",")


def test_planted_alias_record(own_node: Sandbox, isolated: Path, make_user: MakeUser) -> None:
    """`ossh-run` reads no record that another user has put in the place of ours."""
    user = make_user()
    assert ossh("login", "-F", own_node.ssh_config, own_node.host).returncode == 0
    assert ossh_run("-F", own_node.ssh_config, own_node.host, "echo x").stdout == b"x\n"
    record = runtime() / "names" / master_name(own_node)
    assert record.exists()
    for place in (runtime(), runtime() / "names"):
        open_to_all(place, isolated)
    with acting_as(user):
        record.unlink()
        record.write_text(f"touch {isolated}/hit")
    done = ossh_run("-F", own_node.ssh_config, own_node.host, "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    assert f"contains something of user {user.uid}" in done.stderr.decode()
    assert not hits(isolated)


def test_planted_socket(own_node: Sandbox, isolated: Path, make_user: MakeUser) -> None:
    """Where the person's own ControlPath lies open, another's socket there is not taken for a master."""
    user = make_user()
    place = isolated / "open"
    open_to_all(place, isolated)
    config = isolated / "config_with_path"
    config.write_text(f"Host {own_node.host}\n    ControlPath {place}/cm\n{own_node.ssh_config.read_text()}")
    with sockets.socket(sockets.AF_UNIX) as listener:
        with acting_as(user):
            listener.bind(str(place / "cm"))
        listener.listen()
        for word in ("x", "y"):
            done = ossh_run("-F", config, own_node.host, f"echo {word}")
            assert (done.returncode, done.stdout.decode()) == (0, f"{word}\n"), done.stderr
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert own_node.authentications() == 1


CONFIG = '[host."*"]\nlogin_hook = "touch HIT"\nauthentication_script = "SCRIPT"\n'


@pytest.mark.parametrize("how", ["somebody else's", "group", "others"])
def test_config_of_others(own_node: Sandbox, isolated: Path, make_user: MakeUser, how: str) -> None:
    """A config.toml that somebody else could have written is not read: it names programs to run."""
    script = isolated / "script"
    script.write_text(f"#!/bin/sh\ntouch {isolated}/hit\n")
    script.chmod(0o755)
    write_settings(CONFIG.replace("HIT", str(isolated / "hit")).replace("SCRIPT", str(script)))
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "opensshtransport" / "config.toml"
    if how == "somebody else's":
        user = make_user()
        os.chown(file, user.uid, user.uid)
    else:
        file.chmod(0o664 if how == "group" else 0o646)
    for name in ("login", "run"):
        done = ossh(name, "-F", own_node.ssh_config, own_node.host, *(["true"] if name == "run" else []))
        assert done.returncode == 255
        assert b"config.toml" in done.stderr
    assert own_node.connections() == 0
    assert not hits(isolated)
    if how != "somebody else's":
        file.chmod(0o644)
        ossh("login", "-F", own_node.ssh_config, own_node.host)
        assert hits(isolated), "the same file works when only its owner can write"


def test_a_strangers_process_is_left_alone(make_shell_node: MakeShellNode, make_user: MakeUser) -> None:
    """A user who sees the mark of a command on the host cannot keep it running by using the same mark."""
    node, user = make_shell_node("bash")
    stranger = make_user()
    word = stranger.home / "word"
    loop = f'while [ ! -s {word} ]; do sleep 0.05; done; exec sh -c "sleep 60; :" "$(cat {word})"'
    first = subprocess.Popen(
        ["sh", "-c", loop], user=stranger.uid, group=stranger.uid, extra_groups=[], start_new_session=True
    )
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    ossh_run("-F", node.ssh_config, node.host, "true")
    with subprocess.Popen(
        [OSSH_RUN, "-F", node.ssh_config, node.host, "sleep 59; :"], stdin=subprocess.DEVNULL
    ) as ours:

        def mark() -> str:
            for pid in user.processes():
                with contextlib.suppress(OSError):
                    found = re.search(rb"echo ([\w.]+) \$\$", Path(f"/proc/{pid}/cmdline").read_bytes())
                    if found and first.pid < pid:
                        return found[1].decode()
            return ""

        def sleeping() -> bool:
            return any(b"sleep\x00" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in user.processes())

        until(lambda: bool(mark()) and sleeping(), "the command to run")
        given = mark()
        word.write_text(given)
        until(lambda: given in Path(f"/proc/{first.pid}/cmdline").read_text(), "the mark to be shown")
        ours.send_signal(signal.SIGTERM)
        assert ours.wait(30) == -signal.SIGTERM
    until(lambda: not sleeping(), "the command to be ended")
    assert first.poll() is None
    first.kill()
    first.wait()


# -- hostile servers -----------------------------------------------------------------------------------


class Liar:
    """The remote side's user, whose programs lie from a moment on that the test chooses."""

    def __init__(self, node: Sandbox, user: User) -> None:
        self.node, self.user = node, user
        self.programs = user.home / "bin"
        self.programs.mkdir()
        self.programs.chmod(0o755)

    def lies(self, program: str, text: str) -> None:
        """Put a program before the true one; `true_PROGRAM` is that."""
        path = self.programs / program
        path.write_text(f'#!/bin/sh\ntrue_{program}() {{ /usr/bin/{program} "$@"; }}\n{text}\n')
        path.chmod(0o755)


@pytest.fixture
def liar(make_shell_node: MakeShellNode) -> Liar:
    """A node whose user has programs of their own on PATH."""
    node, user = make_shell_node(
        "bash", Startup(lines="PATH=$HOME/bin:$PATH\nexport PATH\n. ~/more 2>/dev/null\n")
    )
    return Liar(node, user)


def hostile_archive() -> bytes:
    """Names that lead out, and one that is wanted."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        for name, kind, link in (
            ("../planted", tarfile.REGTYPE, ""),
            ("/tmp/ossh-planted", tarfile.REGTYPE, ""),
            ("./file", tarfile.SYMTYPE, "/tmp"),
            ("./file/planted", tarfile.REGTYPE, ""),
            ("./other", tarfile.LNKTYPE, "../../precious"),
            ("./sub/../../planted", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            made.addfile(info)
    return raw.getvalue()


@pytest.mark.parametrize("preserve", [False, True])
def test_tar_that_lies(liar: Liar, nowhere: Path, preserve: bool) -> None:
    """An archive that leads out of the destination: nothing but the destination is written to."""
    top = liar.user.home / "tree"
    top.mkdir()
    for name in ("file", "other"):
        (top / name).write_bytes(b"x" * 10)
    (liar.user.home / "evil.tar").write_bytes(hostile_archive())
    liar.lies("tar", f"cat {liar.user.home}/evil.tar")
    (nowhere / "precious").write_text("precious")
    with Transport(liar.node.host, ssh_config=liar.node.ssh_config) as transport:
        with pytest.raises((OSError, OpenSshTransportError), match="not moved"):
            transport.get("tree", "got", way="tar", preserve=preserve)
    (nowhere / "precious").stat()
    assert (nowhere / "precious").stat().st_nlink == 1
    assert {path.name for path in nowhere.iterdir()} <= {"precious", "got"}
    assert not Path("/tmp/ossh-planted").exists()
    assert not Path("/tmp/planted").exists()
    assert not (nowhere / "got" / "other").exists()


LISTINGS = {
    "climbs": "s#/tree/file#/tree/../planted#",
    "absolute": "s#/tree/file#/tree//tmp/planted#",
    "itself": "s#/tree/file#/tree/.#",
}


@pytest.mark.parametrize("lie", LISTINGS)
def test_listing_that_lies(liar: Liar, nowhere: Path, lie: str) -> None:
    """Names in a listing that lead out of the tree: get and sync refuse, and remove nothing either."""
    top = liar.user.home / "tree"
    top.mkdir()
    (top / "file").write_text("x")
    liar.lies("stat", f"true_stat \"$@\" | sed '{LISTINGS[lie]}'")
    (nowhere / "planted").write_text("precious")
    with Transport(liar.node.host, ssh_config=liar.node.ssh_config) as transport:
        with pytest.raises(PermissionError, match="leads out"):
            transport.get(top, "got")
    done = ossh(
        *("sync", "-F", liar.node.ssh_config, "--no-rsync", "--delete", f"{liar.node.host}:{top}", "synced")
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert (nowhere / "planted").read_text() == "precious"
    assert not (nowhere / "got").exists()
    assert not Path("/tmp/planted").exists()


@contextlib.contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Make sure that no more than so many bytes are held at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


ENDLESS = "while :; do printf '%065536d' 0; done"


def test_endless_reply(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply or a listing without end ends with an error, and the next request is answered."""
    monkeypatch.setattr(shell, "_LONGEST_REPLY", 4 << 20)
    top = liar.user.home / "tree"
    top.mkdir()
    (top / "file").write_text("x")
    with Transport(liar.node.host, ssh_config=liar.node.ssh_config) as transport:
        assert transport.read_bytes("tree/file") == b"x"
        liar.lies("cat", ENDLESS)
        liar.lies("find", "yes tree/file | tr '\\n' '\\0'")
        # the programs that are asked for errors too
        with little_memory(64 << 20):
            for ask in (
                lambda: transport.read_bytes("tree/file"),
                lambda: transport.scandir("tree"),
                lambda: transport.get("tree", "got"),
            ):
                with pytest.raises(ConnectionFailed, match="the reply is longer than"):
                    ask()
        for name in ("cat", "find"):
            (liar.programs / name).unlink()
        assert transport.read_bytes("tree/file") == b"x"


def test_endless_transfer(liar: Liar, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes behind an archive without end ends with an error, and nothing is left of the copy."""
    monkeypatch.setattr(session, "_MOST_KEPT", 4 << 20)
    top = liar.user.home / "tree"
    top.mkdir()
    (top / "file").write_text("x")
    liar.lies("tar", f'true_tar "$@"\ncase $* in *tree*) {ENDLESS}; esac')
    with Transport(liar.node.host, ssh_config=liar.node.ssh_config) as transport:
        with (
            little_memory(64 << 20),
            pytest.raises(ConnectionFailed, match=r"more than can be kept|connection was lost"),
        ):
            transport.get("tree", "got", way="tar")
    assert not (nowhere / "got").exists()


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    """A header of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


class Endless(io.RawIOBase):
    """A beginning, and then the same forever."""

    def __init__(self, begin: bytes, more: bytes) -> None:
        self._left, self._more = begin, more * (1 + (1 << 18) // len(more))

    def read(self, size: int = -1) -> bytes:
        if len(self._left) < size:
            self._left += self._more
        piece, self._left = self._left[:size], self._left[size:]
        return piece


LONG = {
    "a pax header": Endless(header(tarfile.XHDTYPE, 1 << 50), bytes(512)),
    "a long name": Endless(header(tarfile.GNUTYPE_LONGNAME, 1 << 50), b"x" * 512),
    "headers within headers": Endless(b"", header(tarfile.XHDTYPE, 0)),
    "one after a file that is none": Endless(
        header(tarfile.DIRTYPE, 1 << 50) + header(tarfile.XHDTYPE, 1 << 50), b"1 a=b\n"
    ),
}


@pytest.mark.parametrize("what", LONG)
def test_endless_headers(what: str, tmp_path: Path) -> None:
    """Endless headers of an archive are not kept: the archive is reported as broken."""
    with little_memory(48 << 20), pytest.raises(archive.BrokenStream):
        unpacking.unpack(LONG[what], tmp_path, failed=lambda *_: None)


@pytest.mark.parametrize(
    "fields",
    [
        {"mtime": "soon"},
        {"mtime": "1e999"},
        {"mtime": "9" * 40},
        {"size": "-1"},
        {"path": "a\0b"},
        {"path": "../x"},
        {"linkpath": "\0"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "10"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "x"},
    ],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_senseless_headers(fields: dict[str, str], kind: bytes, tmp_path: Path) -> None:
    """Numbers and names that make no sense are refused properly, and nothing is written outside."""
    raw = io.BytesIO()
    info = tarfile.TarInfo("file")
    info.type, info.linkname, info.pax_headers = kind, "x", fields
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(info)
    raw.seek(0)
    top = tmp_path / "top"
    top.mkdir()
    refused: list[str] = []
    try:
        for settle in unpacking.unpack(raw, top, preserve=True, failed=lambda name, _: refused.append(name)):
            settle()
    except archive.BrokenStream:
        refused.append("all")
    assert [path.name for path in tmp_path.iterdir()] == ["top"]
    assert len(list(top.iterdir())) <= 1


def test_endless_noise(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up files that print without end: little is kept of it, and each call ends with an error."""
    monkeypatch.setattr(shell, "_READY_WITHIN", 0.7)
    monkeypatch.setattr(process, "_READY_FOR_INPUT_WITHIN", 0.7)
    monkeypatch.setattr(attempts, "PATIENCE", 2.0)
    assert ossh("login", "-F", liar.node.ssh_config, liar.node.host).returncode == 0
    (liar.user.home / "more").write_text(ENDLESS + "\n")
    with little_memory(32 << 20), Transport(liar.node.host, ssh_config=liar.node.ssh_config) as transport:
        with pytest.raises(ConnectionFailed, match="does not end"):
            transport.stat(".")
        with pytest.raises(ConnectionFailed, match="start-up file"):
            transport.run("cat", input=b"x")
        with pytest.raises(TimeoutError):
            transport.run("true", timeout=1)


def test_endless_answer_at_login() -> None:
    """Of what endless start-up files print during a login little is kept."""
    with little_memory(4 << 20):
        assert master._printed_behind("\nmark\n", ["sh", "-c", ENDLESS], 0.5) == ""
        assert master._printed_behind("\nm\n", ["sh", "-c", f"echo; echo m; {ENDLESS}"], 5) == ""
    assert master._printed_behind("\nm\n", ["sh", "-c", "echo noise; echo m; echo a; echo b"], 5) == "a\nb\n"
    assert master._printed_behind("\nm\n", ["sh", "-c", "echo noise"], 5) == ""


# The mark is in the command line of each channel; so the remote side knows it.
FORGER = r"""#!/bin/sh
[ -e DIR/forge ] || exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
mark=$(printf '%s\n' "$SSH_ORIGINAL_COMMAND" | grep -o 'ossh_mark=[0-9a-f]\{32\}' | cut -d = -f 2)
. DIR/forge
"""


@pytest.fixture
def forger(isolated: Path, keep: Keep) -> tuple[Sandbox, Path]:
    """A node that answers in the place of our remote side, when the file has what it is to say."""
    script = isolated / "forger"
    script.write_text(FORGER.replace("DIR", str(isolated)))
    script.chmod(0o755)
    node = keep(Sandbox("forges", server_options={"ForceCommand": str(script)}))
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    return node, isolated / "forge"


FORGED = {
    "a line without end": r"""printf '%s ' "$mark"; while :; do printf '%065536d' 0; done""",
    "a status that is none": r"""
        printf '\n%s ready\n%s started\n%s end x\n' "$mark" "$mark" "$mark"
        printf '\n%s ready\n%s end\n' "$mark" "$mark" >&2; cat""",
    "a huge status": r"""
        printf '\n%s ready\n%s started\n%s end %0999d\n' "$mark" "$mark" "$mark" 7
        printf '\n%s ready\n%s end\n' "$mark" "$mark" >&2; cat""",
    "nothing": "exit 0",
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_marks(forger: tuple[Sandbox, Path], what: str) -> None:
    """A remote side that says senseless things by our own marks gets an error of ours, and little memory."""
    node, forge = forger
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        assert transport.run("echo x").stdout == b"x\n"
    forge.write_text(FORGED[what])
    with (
        little_memory(16 << 20),
        Transport(node.host, ssh_config=node.ssh_config, login=False, timeout=5) as transport,
    ):
        with pytest.raises(OpenSshTransportError) as caught:
            transport.run("echo x", timeout=20)
        assert not isinstance(caught.value, CommandTimeout)
        with pytest.raises(OpenSshTransportError):
            transport.stat("/")


def test_marks_are_not_seen(make_shell_node: MakeShellNode) -> None:
    """What parts output from status, and replies from each other, is in no command line there."""
    node, user = make_shell_node("bash")
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        transport.write_text("x", "x")
        (shell,) = transport._shells._shells
        with transport.start("echo up; sleep 300 & exec sleep 300", stdin=True) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"up\n"
            streams = (shell._channel.out, running._channel.out, running._channel.err)
            marks = [stream._mark.decode() for stream in streams]
            assert [len(mark) for mark in marks] == [32] * 3
            watch = Watch(marks)
            watch.look()
            assert not watch.found
            shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in user.processes())
        # the first marks are seen, and of no use
        assert shown.count(b"ossh_mark=") >= 2
        assert not [mark for mark in marks if mark.encode() in shown]


# -- what a terminal would obey ------------------------------------------------------------------------


def clean(raw: bytes) -> str:
    """A program's output, which must have nothing that steers a terminal."""
    text = raw.decode("utf-8", "surrogateescape")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udcff]", text), text
    return text


def test_escapes(liar: Liar, nowhere: Path) -> None:
    """Control characters that the remote side sends, in names and errors, are spelled out."""
    liar.lies("uname", f"printf '{ESCAPES}node\\n'".replace("\x1b", "\\033").replace("\x07", "\\007"))
    config = ["-F", str(liar.node.ssh_config)]
    top = liar.user.home / f"tree{ESCAPES}"
    top.mkdir()
    (top / f"file{ESCAPES}").write_text("x")
    os.mkfifo(top / f"fifo{ESCAPES}")
    assert "\\x1b[31m" in clean(ossh("login", *config, liar.node.host).stderr)
    assert "\\x1b[31m" in clean(ossh("status").stdout)
    for argv in (
        ["cp", f"{liar.node.host}:none{ESCAPES}", "."],
        ["cp", "-r", f"{liar.node.host}:{top.name}", "."],
        ["sync", "--no-rsync", f"{liar.node.host}:{top.name}", "synced"],
        ["sync", "--no-rsync", "--delete", "-n", "synced", f"{liar.node.host}:"],
        ["doctor", liar.node.host],
        ["doctor", "--json", liar.node.host],
    ):
        done = ossh(argv[0], *config, *argv[1:])
        said = clean(done.stdout + done.stderr)
        assert argv[0] == "doctor" or "\\x1b[31m" in said, argv
    assert _shown(ESCAPES) == "?[31m??2J"
    audit = Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "audit.log"
    clean(audit.read_bytes())


def test_escapes_in_a_prompt(make_conversation_node: MakeConversationNode, store: Path) -> None:
    """A prompt that nobody can answer is quoted without what would steer the terminal."""
    node = make_conversation_node(questions("\x1b[31mGive \x07me: "))
    write_settings("[host.asks]\n" + rule("nothing of the kind", stored(store, "secret", "x")))
    done = ossh_run("-F", node.ssh_config, node.host, "true")
    assert done.returncode == 255
    assert "me:" in clean(done.stderr)
    audit = Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "audit.log"
    clean(audit.read_bytes())


# -- secrets after a login -----------------------------------------------------------------------------


def test_secrets_beyond_the_login(
    make_conversation_node: MakeConversationNode, isolated: Path, keyring: Path, nowhere: Path
) -> None:
    """Copies, checks and reports over such a login: no secret in arguments, environments, output or files."""
    node = make_conversation_node("echo_off Password: \necho_off PIN: \necho_on Code: \nallow\n")
    chosen = Secrets()
    write_settings("\n".join(["[host.asks]", rules_for(chosen, keyring)]))
    (nowhere / "file").write_text("x")
    config = ["-F", str(node.ssh_config)]
    watch = Watch(chosen.texts)
    said = b""
    with watch.watching():
        for argv in (
            ["login", "--report", *config, node.host],
            ["cp", *config, "file", f"{node.host}:copied"],
            ["cp", *config, f"{node.host}:copied", "back"],
            ["sync", *config, "--no-rsync", ".", f"{node.host}:synced"],
            ["doctor", "--json", *config, node.host],
            ["status", "--json"],
            ["ssh-command", *config, node.host],
            ["setup", *config, "--dry-run", "-y", "--no-copy", "--no-login", node.host],
            ["logout", *config, node.host],
        ):
            done = ossh(*argv)
            assert b"Traceback" not in done.stderr, done.stderr
            said += done.stdout + done.stderr
    assert b'"pid"' in said
    assert (nowhere / "back").read_text() == "x"
    assert node.answers()[:2] == [chosen.password, chosen.pin]
    assert watch.looks > 10
    assert not watch.found
    assert not [text for text in watch.texts if text in said.decode()]
    assert not files_with(isolated, watch.texts, keyring)
    made = [path for path in Path("/tmp").glob("ossh-*") if path != node.directory]
    assert not [found for path in made for found in files_with(path, watch.texts, keyring)]
    loaded = repr(destination.resolve(node.host, node.ssh_config).settings)
    assert not [text for text in watch.texts if text in loaded]


# -- permissions ---------------------------------------------------------------------------------------


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of everything in the test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def readable_by_others(top: Path) -> list[tuple[str, str]]:
    """What below a directory, and the directory itself, others could read, write or enter."""
    return [
        (str(path), oct(path.lstat().st_mode))
        for path in (top, *top.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


def test_permissions_here(
    make_conversation_node: MakeConversationNode,
    monkeypatch: pytest.MonkeyPatch,
    isolated: Path,
    keyring: Path,
    nowhere: Path,
    mask: int,
) -> None:
    """Whatever the umask, all that we make in the person's directories is theirs alone, parents included."""
    node = make_conversation_node("echo_off Password: \necho_off PIN: \necho_on Code: \nallow\n")
    state = isolated / "not" / "there" / "yet"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    write_settings("\n".join(["[host.asks]", rules_for(Secrets(), keyring)]))
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "opensshtransport" / "config.toml"
    file.chmod(0o600)
    (nowhere / "file").write_text("x")
    config = ["-F", str(node.ssh_config)]
    agent = ossh("agent")
    assert ossh_run(*config, node.host, "true").returncode == 0
    assert ossh_run(*config, node.host, "true").returncode == 0
    ossh_run(*config, "--once", "key", node.host, "true")
    ossh("cp", *config, "file", f"{node.host}:copied")
    ossh("ssh-command", *config, node.host)
    # counted failures, and what a refused session teaches
    write_settings("[host.asks]\n")
    assert ossh("login", *config, "nobody@asks").returncode == 255
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        transport.connection.slots.learn(3)
        with transport.start("echo begun; sleep 60") as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"begun\n"
            assert list(runtime().glob("run.*"))
            found = readable_by_others(runtime())
    for process_id in re.findall(r"-a (\S+)", " ".join(agents(isolated))):
        assert process_id
    assert agent.returncode == 0
    assert {path.name for path in runtime().iterdir()} >= {"names", "agent", "agent.lock"}
    assert not found
    assert not readable_by_others(runtime())
    assert not readable_by_others(isolated / "not")
    assert list((state / "opensshtransport").rglob("*"))


def agents(top: Path) -> list[str]:
    """End the agents that were started below a directory; gives their command lines."""
    ended = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words.startswith("ssh-agent") and str(top) in words:
                os.kill(int(entry.name), signal.SIGTERM)
                ended.append(words)
    return ended


@pytest.mark.parametrize("there", [0o000, 0o077], ids=oct)
def test_permissions_there(make_shell_node: MakeShellNode, nowhere: Path, there: int) -> None:
    """Whatever the umask there: records of once, spilled commands and drafts are their owner's alone."""
    node, user = make_shell_node("bash", Startup(lines=f"umask {there:o}\n"))
    # bash reads its script by that number; the file itself has gone by then
    long = f"stat -L -c %a /proc/$$/fd/255 # {'x' * 140_000}"
    big = nowhere / "big"
    with big.open("wb") as file:
        for _ in range(6 << 4):
            file.write(secrets.token_bytes(1 << 16))
    tree = nowhere / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "file").write_bytes(secrets.token_bytes(1 << 20))
    with Transport(node.host, ssh_config=node.ssh_config) as transport:
        transport.run("echo secret", once="key")
        spilled = transport.run(long, encoding="utf-8")
        assert spilled.stdout == "600\n"
        seen: set[tuple[str, str]] = set()

        def look(_: object) -> None:
            for path in (*user.home.rglob(".ossh-*"), *nowhere.rglob(".ossh-*")):
                with contextlib.suppress(OSError):
                    seen.add(("draft", oct(path.lstat().st_mode & 0o777)))

        transport.put(big, "big", progress=look, limit_rate=20 << 20)
        transport.put(tree, "tree", progress=look, limit_rate=5 << 20)
        transport.get("big", nowhere / "back", progress=look, limit_rate=20 << 20)
        transport.get("tree", nowhere / "tree.back", progress=look, limit_rate=5 << 20)
    assert seen
    assert all(mode in {"0o600", "0o700"} for _, mode in seen), seen
    records = user.home / ".local"
    assert len(list(records.rglob("key*"))) == 4
    assert not readable_by_others(records)
    # what is complete has what the umask there leaves of its source's mode
    assert (user.home / "big").stat().st_mode & 0o777 == 0o644 & ~there
