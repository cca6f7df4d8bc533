"""`Transport` and `AsyncTransport`: what a Python program sees when it runs commands."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opensshtransport import AsyncTransport, CompletedCommand, Transport
from opensshtransport.errors import CommandFailed, CommandTimeout, ConnectionLost, MasterGone, SettingsError
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeShellNode
from tests.support.commands import MEBIBYTE, PEAK, python, said, sleepers, to
from tests.support.nodes import shell_node
from tests.support.programs import ossh, runtime, until, write_settings
from tests.support.users import NOISY, ShellName, Startup, User, missing_for_users

PLAIN_WORDS = "' a!b ! \\! \\ a\\ \\\\ it's '!' \" $HOME `id` $(id) * ? [a] {a,b} ~ # ; & | < \t -n = ^ % é ☃"
WORDS = ("", " ", "a b", "\n", "a\nb", "\\\n", "!\n!", *PLAIN_WORDS.split(" "))
STARTED_SHELLS: tuple[ShellName, ...] = ("bash", "zsh", "tcsh", "fish")


@pytest.fixture(scope="module")
def transport(node: Sandbox, _walls_of_the_session: None) -> Iterator[Transport]:
    """A transport to the plain node, which is logged in for all tests that do it no harm."""
    with Transport(node.host, ssh_config=node.ssh_config) as made:
        # now, as each test has directories of its own
        made.run("true")
        yield made


@pytest.fixture(scope="module")
def user_node(passable: Path) -> Iterator[tuple[Sandbox, User]]:
    """A node of a user of this module's own, whose processes can be counted."""
    if missing_for_users():
        pytest.skip(missing_for_users())
    with shell_node(passable, "bash") as made:
        yield made


# -- commands -------------------------------------------------------------------------------------------


def test_a_sequence_is_quoted_and_a_string_is_not(transport: Transport) -> None:
    """Words of a sequence arrive as they are; a string is the remote shell's to read."""
    words = ["a  b", "c'd", '"', "$HOME", "`id`", "\\", "new\nline", "", "*", "~", "-n", "ü", ";"]
    done = transport.run(["printf", "<%s>", *words])
    assert done.stdout == "".join(f"<{word}>" for word in words).encode()
    assert done.argv == ("printf", "<%s>", *words)
    done = transport.run("echo $((1+1)) 'a  b'; exit 3")
    assert said(done) == (3, b"2 a  b\n", b"")
    assert done.argv == ("echo $((1+1)) 'a  b'; exit 3",)


def test_bytes_that_are_no_text(transport: Transport) -> None:
    """A command may have any bytes, as os.fsdecode gives them, and output comes back so."""
    name = os.fsdecode(b"\xff\xfe caf\xe9")
    assert transport.run(["printf", "%s", name]).stdout == os.fsencode(name)
    done = transport.run(["printf", "%s", name], encoding="utf-8")
    assert done.stdout == name
    assert done.stderr == ""


def test_each_status_is_the_commands_own(transport: Transport) -> None:
    """Return codes 0 to 255 come as they are, with the output."""
    for number in (0, 1, 2, 77, 124, 126, 127, 128, 129, 137, 254, 255):
        assert said(transport.run(f"echo out; echo err >&2; exit {number}")) == (number, b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("whom", "names"),
    [
        ("$$", "TERM KILL INT HUP SEGV PIPE"),
        ("0", "TERM INT HUP PIPE ALRM USR1 USR2"),
    ],
)
def test_signals_are_told(transport: Transport, whom: str, names: str) -> None:
    """A command that a signal kills, alone or with its group, gives 128+N, the signal and its output."""
    for name in names.split():
        number = signal.Signals[f"SIG{name}"]
        for given in (None, "not read"):
            done = transport.run(f"echo out; kill -{name} {whom}; sleep 60", input=given)
            assert said(done) == (128 + number, b"out\n", b""), name
            assert done.signal is number


@pytest.mark.parametrize("name", ["KILL", "SEGV"])
def test_a_killed_group_has_no_status(transport: Transport, name: str) -> None:
    """If the shell that reports the status is killed too, the error says so, and nothing runs again."""
    ran: list[bytes] = []
    for given in (None, "not read"):
        with pytest.raises(
            ConnectionLost, match="ended without a status: its shell or its session"
        ) as caught:
            transport.run(f"echo out; kill -{name} 0; sleep 60", input=given, stdout=ran.append)
        assert caught.value.started is True
        with transport.start(f"echo out; kill -{name} 0; sleep 60", stdin=given is not None) as process:
            with pytest.raises(ConnectionLost, match="ended without a status"):
                process.wait(60)
    assert b"".join(ran) == b"out\n" * 2
    assert transport.run("echo on").stdout == b"on\n"


@pytest.mark.parametrize("way", ["run", "start"])
def test_wrong_requests_touch_nothing(own_node: Sandbox, keep: Keep, way: str) -> None:
    """An empty command, a NUL, a wrong name of a variable or directory: an error before any connection."""
    transport = to(own_node, keep)
    call: Callable[..., object] = getattr(transport, way)
    for command in ("", "  \n", [], "a\0b", ["a", "b\0"]):
        with pytest.raises(SettingsError):
            call(command)
    for name in ("", "a b", "1a", "a=b", "a;b", "ä"):
        with pytest.raises(SettingsError, match="cannot be set as a variable"):
            call("true", env={name: "x"})
    with pytest.raises(SettingsError, match="cannot be set as a variable"):
        call("true", env={"A": "x\0"})
    with pytest.raises(SettingsError, match="not a directory's name"):
        call("true", cwd="")
    with pytest.raises(SettingsError, match="not a directory's name"):
        call("true", cwd="a\0")
    assert own_node.connections() == 0


def test_no_login_where_none_is_wanted(own_node: Sandbox, keep: Keep) -> None:
    """With login=False and no live master a command fails, and no connection is made."""
    transport = keep(Transport(own_node.host, ssh_config=own_node.ssh_config, login=False))
    with pytest.raises(MasterGone):
        transport.run("true")
    assert own_node.connections() == 0


def test_opening_costs_nothing(own_node: Sandbox) -> None:
    """A Transport opens without a connection or a session, also while a master is running."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    before = own_node.log.read_text()
    with Transport(own_node.host, ssh_config=own_node.ssh_config):
        assert not list(runtime().glob("run.*"))
    assert own_node.log.read_text() == before


def test_check(transport: Transport) -> None:
    """check=True raises with the command, its status and the end of its stderr; 0 raises nothing."""
    assert transport.run("true", check=True).returncode == 0
    with pytest.raises(CommandFailed, match="returned 7") as caught:
        transport.run(["sh", "-c", "echo some; echo no such queue >&2; exit 7"], check=True)
    error = caught.value
    assert (error.returncode, error.stderr, error.argv[0]) == (7, "no such queue", "sh")
    assert isinstance(error.completed, CompletedCommand)
    assert error.completed.stdout == b"some\n"
    with pytest.raises(CommandFailed, match="was killed by SIGKILL"):
        transport.run("kill -9 $$", check=True)


# -- login shells and start-up files --------------------------------------------------------------------


def test_every_login_shell(shell_user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """On each login shell: words, bytes, directory, variables and status are right, cold and warm.

    A sequence is quoted for the login shell that reads it: no shell changes a word of it.
    """
    node, user = shell_user_node
    logins = node.authentications()
    transport = to(node, keep)
    odd = user.home / "a 'b'\n$c"
    odd.mkdir(exist_ok=True)
    os.chown(odd, user.uid, user.uid)
    blob = secrets.token_bytes(MEBIBYTE)
    # fish without a locale, as here, writes other letters anew
    value = "two\nlines 'quoted' \"too\" $HOME !x \\"
    for _ in range(2):
        assert said(transport.run("echo 'a  b' \"c'd\"; exit 7")) == (7, b"a  b c'd\n", b"")
        assert said(transport.run("cat", input=blob)) == (0, blob, b"")
        assert transport.run("pwd", cwd=odd).stdout == os.fsencode(odd) + b"\n"
        assert transport.run(["sh", "-c", 'printf %s "$V"'], env={"V": value}).stdout == value.encode()
        done = transport.run("sh -c 'kill -9 $$'")
        assert done.returncode == 137
        assert transport.run("echo $0").stdout != b"sh\n"
        assert transport.run("echo on the side >/dev/stderr").stderr == b"on the side\n"
    done = transport.run(["/usr/bin/printf", r"%s\0", *WORDS], check=True)
    assert isinstance(done.stdout, bytes)
    assert tuple(done.stdout.decode().split("\0")[:-1]) == WORDS
    assert node.authentications() == logins + 1


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish", "busybox"])
def test_noisy_start_up_files(make_shell_node: MakeShellNode, keep: Keep, shell: ShellName) -> None:
    """What start-up files print is not the command's output, on neither stream, cold or warm."""
    node, _ = make_shell_node(shell, NOISY)
    transport = to(node, keep)
    for number in range(4):
        assert said(
            transport.run(
                f"echo {number}; echo e >&2; exit 5"
                if shell != "tcsh"
                else f"echo {number}; sh -c 'echo e >&2'; exit 5"
            )
        ) == (
            5,
            b"%d\n" % number,
            b"e\n",
        )


@pytest.mark.parametrize("shell", ["bash", "tcsh"])
def test_slow_start_up_files(make_shell_node: MakeShellNode, keep: Keep, shell: ShellName) -> None:
    """Start-up files that take 2 seconds: all is right, for many at once too."""
    node, _ = make_shell_node(shell, Startup(sleep=2.0, stdout="slow\n"))
    transport = to(node, keep)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: transport.run(f"echo {number}"), range(4)))
    assert [said(done) for done in answers] == [(0, b"%d\n" % number, b"") for number in range(4)]


def test_start_up_files_of_bash_are_read_once(make_shell_node: MakeShellNode, keep: Keep) -> None:
    """Once channels are open, a command does not pay for a start-up file."""
    node, user = make_shell_node("bash", Startup(lines="echo read >> ~/reads\n"))
    transport = to(node, keep)
    count = "wc -l < reads"
    cold = int(transport.run(count, encoding="utf-8").stdout or "")
    open_now = cold + transport.connection.spares._wanted
    until(lambda: len((user.home / "reads").read_text().split()) == open_now, "the spares to be open")
    assert transport.run(count).stdout == b"%d\n" % open_now


@pytest.mark.parametrize("shell", STARTED_SHELLS)
def test_start_up_files_that_read_all_of_stdin(
    make_shell_node: MakeShellNode, keep: Keep, monkeypatch: pytest.MonkeyPatch, shell: ShellName
) -> None:
    """A start-up file that reads its stdin neither hangs a command without input nor swallows a request."""
    # it is 10 s, as some start-up files are slow
    monkeypatch.setattr("opensshtransport.commands.process._READY_WITHIN", 1.0)
    node, _ = make_shell_node(shell, Startup(reads="everything"))
    transport = to(node, keep)
    for number in range(3):
        assert said(transport.run(f"echo {number}; exit 4", timeout=60)) == (4, b"%d\n" % number, b"")


@pytest.mark.parametrize("shell", STARTED_SHELLS)
def test_start_up_files_that_read_a_line(
    make_shell_node: MakeShellNode, keep: Keep, shell: ShellName
) -> None:
    """A start-up file that reads a line of stdin takes nothing of the input if it is read once."""
    node, _ = make_shell_node(shell, Startup(reads="line"))
    transport = to(node, keep)
    lines = b"one\ntwo\nthree\n"
    expected = lines if shell == "bash" else b"two\nthree\n"
    for number in range(3):
        assert said(transport.run(f"echo {number}; exit 4", timeout=60)) == (4, b"%d\n" % number, b"")
        assert transport.run("cat", input=lines, timeout=60).stdout == expected


def test_start_up_variables_reach_the_command(make_shell_node: MakeShellNode, keep: Keep) -> None:
    """What a start-up file exports is there, whatever the names."""
    names = [
        *("M", "request", "nl", "input", "n", "line", "size", "stays", "file", "key", "dir", "p", "g"),
        *("hash", "node", "status", "draft", "frame", "me", "all", "CDPATH", "mark"),
    ]
    lines = "".join(f"export {name}=/mine/{name}\n" for name in names)
    node, _ = make_shell_node("bash", Startup(lines=lines))
    transport = to(node, keep)
    expected = "".join(f"{name}=/mine/{name}\n" for name in names)
    command = "; ".join(f'echo "{name}=${name}"' for name in names)
    for options in ({}, {"cwd": "/"}, {"input": "x"}, {"once": "k1"}, {"once": "k1"}):
        assert transport.run(command, encoding="utf-8", **options).stdout == expected  # type: ignore[call-overload]  # mixed options


def test_a_login_shell_reads_the_profile(shell_user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """login_shell=True reads what a login reads, and without it that is not read; long commands too."""
    node, user = shell_user_node
    for name, line in {
        ".profile": "FROM_PROFILE=yes; export FROM_PROFILE",
        ".zprofile": "export FROM_PROFILE=yes",
        ".login": "setenv FROM_PROFILE yes",
        ".config/fish/config.fish": "status is-login; and set -gx FROM_PROFILE yes",
    }.items():
        file = user.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{line}\n")
    transport = to(node, keep)
    command = "sh -c 'echo \"[$FROM_PROFILE]\"'"
    assert transport.run(command).stdout == b"[]\n"
    assert transport.run(command, login_shell=True).stdout == b"[yes]\n"
    long = (
        f"{command} # {'x' * 200_000}"
        if user.shell not in {"zsh", "tcsh"}
        else f": {'x' * 200_000}\n{command}"
    )
    assert transport.run(long, login_shell=True).stdout == b"[yes]\n"


# -- directory and environment --------------------------------------------------------------------------


def test_directories_that_are_none(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """A directory that cannot be entered raises as os.chdir does, with HOST:dir; the command does not run."""
    node, user = user_node
    transport = to(node, keep)
    closed = user.home / "closed"
    closed.mkdir(mode=0o000, exist_ok=True)
    (user.home / "file").write_text("")
    (user.home / "dangling").unlink(missing_ok=True)
    (user.home / "dangling").symlink_to("nowhere")
    cases: list[tuple[str, type[OSError]]] = [
        (f"{user.home}/missing", FileNotFoundError),
        ("missing/below", FileNotFoundError),
        ("dangling", FileNotFoundError),
        (f"{user.home}/file", NotADirectoryError),
        ("file/below", NotADirectoryError),
        ("closed", PermissionError),
        (f"{closed}/below", PermissionError),
        ("closed/below/further", PermissionError),
    ]
    for directory, error in cases:
        with pytest.raises(error) as caught:
            transport.run("touch ran", cwd=directory)
        assert type(caught.value) is error
        assert caught.value.filename == f"{node.host}:{directory}"
        with pytest.raises(error):
            transport.start("touch ran", cwd=directory)
    assert not (user.home / "ran").exists()


def test_directories_with_odd_names(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """Names with blanks, newlines, quotes, a dash or a tilde in front are entered as they are."""
    node, user = user_node
    transport = to(node, keep)
    names = ["a b", "new\nline", "q'u\"o", "-", "-P", "--", "$HOME", "*", "ü", "~user", "back\\slash", "`id`"]
    for name in names:
        (user.home / name).mkdir(exist_ok=True)
        (user.home / name).chmod(0o755)
        for given in (name, user.home / name):
            done = transport.run('printf %s "$PWD"', cwd=given)
            assert done.stdout == os.fsencode(user.home / name), given
    assert transport.run("pwd", cwd="~").stdout == os.fsencode(user.home) + b"\n"
    assert transport.run("pwd", cwd="~/a b").stdout == os.fsencode(user.home / "a b") + b"\n"
    assert transport.run("pwd").stdout == os.fsencode(user.home) + b"\n"
    trailing = user.home / "ends in newline\n"
    trailing.mkdir(exist_ok=True)
    trailing.chmod(0o755)
    assert transport.run('printf %s "$PWD"', cwd=trailing).stdout == os.fsencode(trailing)


def test_environment(transport: Transport) -> None:
    """Values of any kind arrive as they are; nothing of one command is seen by the next."""
    values = {
        "ONE": "two\nlines\n",
        "_2": 'it\'s "quoted" \\ $HOME `id` !',
        "UNI": "ünï€",
        "BYTES": os.fsdecode(b"\xff\xe9"),
        "EMPTY": "",
        "LONG": "x" * 50_000,
    }
    for name, value in values.items():
        done = transport.run(f'printf "<%s>" "${{{name}-unset}}"', env=values)
        assert done.stdout == b"<" + os.fsencode(value) + b">"
        assert transport.run(f'printf "<%s>" "${{{name}-unset}}"').stdout == b"<unset>"
    assert transport.run("echo $HOME", env={"A": "b"}).stdout == transport.run("echo $HOME").stdout


# -- input and output -----------------------------------------------------------------------------------


def test_32_mebibytes_both_ways(transport: Transport) -> None:
    """Random bytes come back as they went, by both streams at once."""
    blob = secrets.token_bytes(32 * MEBIBYTE)
    done = transport.run("tee /dev/stderr", input=blob, timeout=100)
    assert done.returncode == 0
    assert isinstance(done.stdout, bytes)
    assert isinstance(done.stderr, bytes)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(blob).digest()
    assert hashlib.sha256(done.stderr).digest() == hashlib.sha256(blob).digest()


def test_kinds_of_input(transport: Transport, tmp_path: Path) -> None:
    """Input is bytes, text or a file; without any, and with an empty one, the command reads nothing."""
    assert transport.run("cat", input=b"by\0tes").stdout == b"by\0tes"
    assert transport.run("cat", input="tëxt").stdout == "tëxt".encode()
    assert transport.run("cat", input="tëxt", encoding="latin-1").stdout == "tëxt"
    assert transport.run("wc -c", input="tëxt", encoding="latin-1").stdout == "4\n"
    file = tmp_path / "file"
    file.write_bytes(secrets.token_bytes(3 * MEBIBYTE + 17))
    with file.open("rb") as stream:
        assert transport.run("cat", input=stream).stdout == file.read_bytes()
    for nothing in (None, b"", "", io.BytesIO()):
        assert said(transport.run("cat; echo end", input=nothing)) == (0, b"end\n", b"")
    # what looks like the frames of the bootstrap
    for tricky in (b"Q\n", b"E\n", b"S KILL\n", b"5\nabcde", b"\n\n"):
        assert transport.run("cat", input=tricky).stdout == tricky


def test_a_command_that_reads_little(transport: Transport) -> None:
    """A command that reads a part of its input, or none, ends as it would; endless input ends with it."""
    blob = b"line\n" * (4 * MEBIBYTE)
    assert said(transport.run("head -n 1", input=blob)) == (0, b"line\n", b"")
    assert said(transport.run("exec 0<&-; echo x", input=blob)) == (0, b"x\n", b"")
    assert said(transport.run("exit 3", input=blob)) == (3, b"", b"")

    read = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            read += size
            return b"x" * size

    assert said(transport.run("head -c 5", input=Endless())) == (0, b"xxxxx", b"")  # type: ignore[call-overload]  # enough of a file

    def stands_still() -> bool:
        before = read
        time.sleep(0.5)
        return read == before

    until(stands_still, "the reading to end")


def test_output_to_a_file_and_a_callback(transport: Transport, tmp_path: Path) -> None:
    """Output goes to a file or a callback as it comes, and is not kept."""
    pieces: list[bytes] = []
    with (tmp_path / "out").open("wb") as file:
        done = transport.run("seq 100000; seq 5 >&2", stdout=file, stderr=pieces.append)
    assert said(done) == (0, None, None)
    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\n" % n for n in range(1, 100_001))
    assert b"".join(pieces) == b"1\n2\n3\n4\n5\n"


def test_much_output_needs_no_memory(node: Sandbox) -> None:
    """300 MB to a callback leave the calling program small."""
    program = f"""
        from opensshtransport import Transport
        size = 0
        def take(piece):
            global size
            size += len(piece)
        with Transport({node.host!r}, ssh_config={str(node.ssh_config)!r}) as there:
            there.run("true")
            before = {PEAK}
            there.run("head -c 300000000 /dev/zero", stdout=take)
            after = {PEAK}
        print(size, after - before < 50_000)
    """
    assert python(program).stdout == b"300000000 True\n"


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_max_output(user_node: tuple[Sandbox, User], keep: Keep, stream: str) -> None:
    """A command that prints more than max_output is ended; up to it nothing happens."""
    node, user = user_node
    transport = to(node, keep)
    assert transport.run("printf 12345", max_output=5).stdout == b"12345"
    begin = time.monotonic()
    with pytest.raises(SettingsError, match="more than 100000 bytes"):
        transport.run(f"yes{stream}", max_output=100_000)
    assert time.monotonic() - begin < 20
    transport.close()
    until(lambda: not sleepers(user), "the command to end")


def test_a_callback_that_fails(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """An error of the caller's callback ends the command and comes to the caller."""
    node, user = user_node
    transport = to(node, keep)

    def fail(_piece: bytes) -> None:
        raise RuntimeError("of the caller's own")

    with pytest.raises(RuntimeError, match="of the caller's own"):
        transport.run("echo x; sleep 300", stdout=fail)
    transport.close()
    until(lambda: not sleepers(user), "the command to end")


@pytest.mark.parametrize(
    "command",
    [
        f": {'x' * 3_000_000}\necho end",
        f": {'é' * 59_000}\necho end",
        ": '" + "\"'\"'\"'" * 8_000 + "'\necho end",
        ["sh", "-c", "shift; echo end", *["'" * 500] * 100],
        f": {'x' * 119_000}\necho end",
        f": {'x' * 121_000}\necho end",
        "\n" * 100_000 + "echo end",
    ],
    ids=["3 MB", "two-byte letters", "quotes", "quoted quotes", "119 kB", "121 kB", "newlines"],
)
def test_long_commands(own_node: Sandbox, keep: Keep, command: str | list[str]) -> None:
    """A command may be megabytes of text, on a cold channel and on a warm one, with input and without."""
    transport = to(own_node, keep)
    assert said(transport.run(command)) == (0, b"end\n", b"")
    until(lambda: bool(transport.connection.spares), "a spare")
    assert said(transport.run(command)) == (0, b"end\n", b"")
    if isinstance(command, str):
        assert said(transport.run(f"{command}\ncat", input="tail")) == (0, b"end\ntail", b"")


def test_a_long_command_leaves_no_file(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """The file of a long command is gone when it ran, whether once or not."""
    node, user = user_node
    tmp = user.home / "tmp"
    tmp.mkdir(exist_ok=True)
    tmp.chmod(0o777)
    user.set_startup(Startup(lines=f"export TMPDIR={tmp}\n"))
    transport = to(node, keep)
    command = f": {'x' * 200_000}\necho end $((1+1))"
    key = secrets.token_hex(8)
    for once in (None, key, key):
        assert transport.run(command, once=once).stdout == b"end 2\n"
    assert not list(tmp.iterdir())
    user.set_startup(Startup())


# -- what a command leaves behind -----------------------------------------------------------------------


def test_background_processes_do_not_hold_run(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """`run` returns when the command ends; its background processes keep running."""
    node, user = user_node
    transport = to(node, keep)
    begin = time.monotonic()
    done = transport.run("sleep 300 & echo $!; exit 6")
    assert time.monotonic() - begin < 20
    assert isinstance(done.stdout, bytes)
    left = int(done.stdout)
    assert (done.returncode, done.stderr) == (6, b"")
    transport.run("true")
    transport.close()
    until(lambda: sleepers(user) == [left], "nothing but the background process to be left")
    os.kill(left, signal.SIGKILL)


def test_start_streams_what_background_processes_print(transport: Transport) -> None:
    """After the command's end its stdout goes on as long as a background process has it, as with ssh."""
    process = transport.start("echo one; (read x; echo $x) <&0 & (sleep 1; echo two) & exit 5", stdin=False)
    assert process.stdout is not None
    assert process.stdout.read() == b"one\n\ntwo\n"
    assert process.wait(20) == 5
    process.close()


def test_wait_ends_the_streaming(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """`wait` returns at the command's end, and its output ends there; a background process keeps running."""
    node, user = user_node
    transport = to(node, keep)
    process = transport.start("echo one; sleep 300 & exit 5", stdin=False)
    assert process.wait(20) == 5
    assert process.stdout is not None
    assert process.stdout.read() == b"one\n"
    process.close()
    transport.close()
    until(lambda: len(sleepers(user)) == 1, "nothing but the background process to be left")
    os.kill(sleepers(user)[0], signal.SIGKILL)


# -- many at once ---------------------------------------------------------------------------------------


def test_32_threads(own_node: Sandbox, keep: Keep) -> None:
    """32 threads at once on a transport without a master: one login, no output mixed up."""
    transport = to(own_node, keep)

    def one(number: int) -> None:
        blob = secrets.token_bytes(10_000)
        done = transport.run(f"cat; echo {number} >&2; exit {number}", input=blob)
        assert said(done) == (number, blob, b"%d\n" % number)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, [*range(96)]))
    assert own_node.authentications() == 1


def test_run_many(transport: Transport) -> None:
    """Results come in the order of the commands; the first failure is raised, and the rest is not begun."""
    commands = [f"sleep 0.{9 - number}; echo {number}" for number in range(10)]
    done = transport.run_many(commands, encoding="utf-8")
    assert [one.stdout for one in done] == [f"{number}\n" for number in range(10)]
    assert transport.run_many([]) == []
    with pytest.raises(CommandFailed, match="returned 4"):
        transport.run_many(["sleep 0.5; exit 4", "exit 5"], check=True)


def test_run_many_stops_at_a_failure(transport: Transport, tmp_path: Path) -> None:
    """After a failure, commands that have not begun are not run."""
    commands = ["exit 1", *(f"sleep 0.2; touch {tmp_path}/{number}" for number in range(50))]
    with pytest.raises(CommandFailed):
        transport.run_many(commands, limit=2, check=True)
    assert len(list(tmp_path.iterdir())) < 25


def test_spares(own_node: Sandbox, keep: Keep) -> None:
    """Use makes spares, within the budget; closing gives all sessions back."""
    transport = to(own_node, keep)
    slots = Slots(Master(resolve(own_node.host, own_node.ssh_config)))
    transport.run("true")
    until(lambda: bool(transport.connection.spares), "a spare")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: transport.run("true"), range(40)))
    until(lambda: slots.in_use() <= slots.limit - 1, "the sessions to be given back")
    assert transport.connection.spares
    transport.close()
    until(lambda: slots.in_use() == 0, "the spares to be closed")
    assert transport.run("echo x").stdout == b"x\n"
    until(lambda: slots.in_use() == 0, "no spares of a closed transport")


def test_spares_are_given_back_when_idle(
    own_node: Sandbox, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spares that nobody uses for a while are closed, and the thread that looks after them ends."""
    monkeypatch.setattr("opensshtransport.sessions.spares._IDLE", 1.0)
    transport = to(own_node, keep)
    slots = Slots(Master(resolve(own_node.host, own_node.ssh_config)))
    transport.run("true")
    until(lambda: bool(transport.connection.spares), "a spare")
    until(lambda: slots.in_use() == 0, "the spares to be closed")
    assert transport.run("echo x").stdout == b"x\n"


@pytest.mark.parametrize("most", [1, 2])
def test_no_spares_in_a_small_budget(own_node: Sandbox, keep: Keep, most: int) -> None:
    """With fewer than three sessions none is kept for later."""
    write_settings(f'[host."*"]\nmax_sessions = {most}\n')
    transport = to(own_node, keep)
    slots = Slots(Master(resolve(own_node.host, own_node.ssh_config)))
    for _ in range(3):
        transport.run("true")
    until(lambda: slots.in_use() == 0, "the sessions to be given back")
    with ThreadPoolExecutor(4) as pool:
        assert [done.returncode for done in pool.map(lambda _: transport.run("true"), range(8))] == [0] * 8
    until(lambda: slots.in_use() == 0, "the sessions to be given back")


def test_a_spare_gives_way(own_node: Sandbox, keep: Keep) -> None:
    """Another process that needs a session gets that of a spare."""
    write_settings('[host."*"]\nmax_sessions = 3\n')
    first = to(own_node, keep)
    first.run("true")
    until(lambda: bool(first.connection.spares), "a spare")
    processes = [first.start("sleep 300") for _ in range(2)]
    program = f"""
        from opensshtransport import Transport
        with Transport({own_node.host!r}, ssh_config={str(own_node.ssh_config)!r}) as there:
            print(there.run("echo x", timeout=20, encoding="utf-8").stdout, end="")
    """
    assert python(program).stdout == b"x\n"
    for process in processes:
        process.kill()
        process.close()


FORKS = """
    import os, sys
    from opensshtransport import Transport
    there = Transport({host!r}, ssh_config={config!r})
    there.run("true")
    running = there.start("while read x; do echo got $x; done")
    pids = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            ok = there.run(f"echo {{number}}; exit {{number}}")
            if (ok.returncode, ok.stdout) != (number, b"%d\\n" % number):
                os._exit(1)
            there.close()
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    running.stdin.write(b"one\\n")
    line = running.stdout.readline()
    running.stdin.close()
    print(statuses, line, running.wait(20), there.run("echo after").stdout)
    there.close()
"""


def test_a_forked_child(own_node: Sandbox) -> None:
    """A forked child runs commands by channels of its own, and its parent's go on; one login in all."""
    done = python(FORKS.format(host=own_node.host, config=str(own_node.ssh_config)))
    assert done.stdout == b"[0, 0, 0, 0] b'got one\\n' 0 b'after\\n'\n"
    assert own_node.authentications() == 1


LEAVES_NOTHING = """
    import os, subprocess, threading, time
    from concurrent.futures import ThreadPoolExecutor
    from opensshtransport import Transport
    from opensshtransport.errors import CommandTimeout
    def open_files():
        return len(os.listdir("/proc/self/fd"))
    def children():
        return subprocess.run(["pgrep", "-P", str(os.getpid()), "ssh"], capture_output=True).stdout.split()
    def use():
        with Transport({host!r}, ssh_config={config!r}) as there:
            with ThreadPoolExecutor(8) as pool:
                command = "cat; sleep 60 >/dev/null 2>&1 & echo x"
                list(pool.map(lambda n: there.run(command, input="y"), range(40)))
            try:
                there.run("sleep 300", timeout=0.5)
            except CommandTimeout:
                pass
            try:
                there.run("yes", max_output=10)
            except ValueError:
                pass
            try:
                there.run("true", cwd="/nonesuch")
            except FileNotFoundError:
                pass
            with there.start("sleep 300") as process:
                process.poll()
            process = there.start("echo x; exit 3")
            process.stdout.read()
            process.wait()
            process.close()
    use()
    def settle(files):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if not children() and threading.active_count() == 1 and open_files() <= files:
                break
            time.sleep(0.05)
    settle(1 << 20)
    before = open_files()
    for _ in range(3):
        use()
    settle(before)
    print(open_files() - before, children(), threading.active_count())
"""


def test_nothing_is_left_over(own_node: Sandbox) -> None:
    """After all kinds of use no descriptor, thread or ssh process is left, and no file of a session."""
    done = python(LEAVES_NOTHING.format(host=own_node.host, config=str(own_node.ssh_config)), timeout=110)
    assert done.stdout == b"0 [] 1\n"
    assert not list(runtime().glob("run.*"))


# -- asyncio --------------------------------------------------------------------------------------------


def test_500_tasks(own_node: Sandbox) -> None:
    """500 tasks at once: every answer is right, one login, and the loop is never held up."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    async def main() -> None:
        async with AsyncTransport(own_node.host, ssh_config=own_node.ssh_config) as there:
            ticker = asyncio.ensure_future(tick())
            tasks = [there.run(f"echo {number}; exit {number % 256}") for number in range(500)]
            done = await asyncio.gather(*tasks)
            ticker.cancel()
            assert [one.stdout for one in done] == [b"%d\n" % number for number in range(500)]
            assert [one.returncode for one in done] == [number % 256 for number in range(500)]

    asyncio.run(main())
    assert own_node.authentications() == 1
    # a blocked loop would stand still for the login and all the commands
    assert longest < 3.0
    until(lambda: not list(runtime().glob("run.*")), "the files of the sessions to go")


def test_cancellation_ends_the_command(user_node: tuple[Sandbox, User]) -> None:
    """A cancelled `run` ends its remote group; a cancelled one that has not begun never runs."""
    node, user = user_node

    async def main() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            up = asyncio.Event()
            loop = asyncio.get_running_loop()

            def began(_piece: bytes) -> None:
                loop.call_soon_threadsafe(up.set)

            task = asyncio.ensure_future(there.run("echo up; sleep 300 & sleep 300", stdout=began))
            await asyncio.wait_for(up.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(there.run("sleep 300"), 0.5)
            many = [asyncio.ensure_future(there.run(f"touch ran; sleep 300 # {n}")) for n in range(200)]
            for one in many:
                one.cancel()
            await asyncio.gather(*many, return_exceptions=True)
            assert (await there.run("echo x")).stdout == b"x\n"

    asyncio.run(main())
    until(lambda: not sleepers(user), "the commands to end", timeout=40)


def test_async_has_the_same_semantics(node: Sandbox, tmp_path: Path) -> None:
    """check, timeout, cwd, input and run_many do what they do without asyncio."""

    async def main() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            assert (await there.run("cat; pwd", input="x", cwd="/")).stdout == b"x/\n"
            with pytest.raises(CommandFailed):
                await there.run("exit 1", check=True)
            with pytest.raises(FileNotFoundError):
                await there.run("true", cwd="/nonesuch")
            with pytest.raises(CommandTimeout):
                await there.run("sleep 300", timeout=0.5)
            done = await there.run_many([f"sleep 0.{9 - n}; echo {n}" for n in range(10)], limit=4)
            assert [one.stdout for one in done] == [b"%d\n" % n for n in range(10)]
            with pytest.raises(CommandFailed, match="returned 4"):
                await there.run_many(["sleep 0.5; exit 4", "exit 5"], check=True)
            commands = ["exit 1", *(f"sleep 0.2; touch {tmp_path}/{number}" for number in range(50))]
            with pytest.raises(CommandFailed):
                await there.run_many(commands, limit=2, check=True)
            count = len(os.listdir(tmp_path))  # noqa: PTH208 - a local look
            assert count < 25
            await there.run("sleep 1")
            assert len(os.listdir(tmp_path)) == count  # noqa: PTH208 - a local look
            process = await there.start("echo x; exit 3")
            assert await process.stdout.read() == b"x\n"
            assert await process.wait(20) == 3
            await process.close()

    asyncio.run(main())
