"""`run` and `start` take what subprocess takes, and do what it does: both run the same, and are compared."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest

from opensshtransport import CompletedCommand, Transport
from opensshtransport.errors import CommandFailed, CommandTimeout, SettingsError
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeShellNode
from tests.support.commands import sleepers, to
from tests.support.programs import until
from tests.support.users import NOISY, ShellName

BOTH = "echo out; echo err >&2; printf 'a\\r\\nb\\rc'; printf 'caf\\351' >&2; exit 3"


@pytest.fixture(scope="module")
def transport(node: Sandbox, _walls_of_the_session: None) -> Iterator[Transport]:
    """A transport to the plain node, which is logged in for all tests."""
    with Transport(node.host, ssh_config=node.ssh_config) as made:
        yield made.login()


def here(command: str, **options: Any) -> Any:
    """What subprocess.run gives for a shell's command here."""
    return subprocess.run(["sh", "-c", command], check=False, **{"capture_output": True, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capture_output": True},
        {"text": True, "errors": "replace"},
        {"universal_newlines": True, "errors": "surrogateescape"},
        {"encoding": "latin-1"},
        {"errors": "backslashreplace"},
        {"text": False, "universal_newlines": False},
        {"stdout": PIPE, "stderr": STDOUT, "capture_output": False},
        {"stdout": PIPE, "stderr": DEVNULL, "capture_output": False, "text": True},
        {"stdout": DEVNULL, "stderr": PIPE, "capture_output": False},
        {"stdin": DEVNULL},
        {"input": b"x"},
        {"input": "x", "text": True, "errors": "ignore"},
    ],
    ids=repr,
)
def test_the_same_result(transport: Transport, options: dict[str, Any]) -> None:
    """Status, stdout and stderr are subprocess's own: bytes or text, ends of lines, what is dropped."""
    ours = transport.run(f"cat; {BOTH}", **options)
    theirs = here(f"cat; {BOTH}", **({"stdin": DEVNULL} | options if "input" not in options else options))
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert ours.args == f"cat; {BOTH}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_merged_in_the_order_of_printing(
    make_shell_node: MakeShellNode, keep: Keep, shell: ShellName
) -> None:
    """stderr=STDOUT keeps the order, in each login shell, and what start-up files print stays out of it."""
    node, _ = make_shell_node(shell, NOISY)
    there = to(node, keep)
    command = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9; do echo o$n; echo e$n >&2; done"]
    expected = "".join(f"o{n}\ne{n}\n" for n in range(1, 10))
    for options in ({}, {"login_shell": True}, {"input": b"x"}):
        done: CompletedCommand[Any] = there.run(command, stderr=STDOUT, text=True, **options)
        assert (done.stdout, done.stderr) == (expected, None)
    long = f"{'x=' + 'y' * 200_000}; echo o; echo e >&2"
    if shell not in {"fish", "tcsh"}:
        assert there.run(long, stderr=STDOUT).stdout == b"o\ne\n"


def test_files_and_descriptors(transport: Transport, tmp_path: Path) -> None:
    """stdin, stdout and stderr may be files of bytes or text, and descriptors, as for subprocess."""
    (tmp_path / "in").write_bytes(b"given")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("w") as out:
        out.write("before ")
        done: CompletedCommand[Any] = transport.run(
            "cat; echo err >&2", stdin=source, stdout=out, stderr=STDOUT
        )
    assert (done.stdout, done.stderr) == (None, None)
    assert (tmp_path / "out").read_text() == "before givenerr\n"
    descriptor = os.open(tmp_path / "in", os.O_RDWR)
    try:
        transport.run("cat; echo more", stdin=descriptor, stdout=descriptor)
    finally:
        os.close(descriptor)
    assert (tmp_path / "in").read_bytes() == b"givengivenmore\n"
    text = io.StringIO()
    transport.run("printf '\\303\\251'", stdout=text)
    assert text.getvalue() == "é"
    with (tmp_path / "in").open() as source_of_text:
        assert transport.run("cat", input=source_of_text, text=True).stdout == "givengivenmore\n"
    for given in (bytearray(b"ab"), memoryview(b"ab")):
        assert transport.run("cat", input=given).stdout == b"ab"


def test_wrong_options_touch_nothing(own_node: Sandbox, keep: Keep) -> None:
    """What contradicts itself, or has no meaning, is refused before anything is dialled, and says why."""
    there = to(own_node, keep)
    for way in (there.run, there.start):
        call: Any = way
        for shell in (True, False):
            with pytest.raises(
                SettingsError, match=r"always read by the login shell there.*leave out shell="
            ):
                call("true", shell=shell)
        wrong: tuple[dict[str, Any], ...] = (
            {"stdout": STDOUT},
            {"stdout": -7},
            {"stderr": "name"},
            {"stdin": "name"},
            {"text": True, "universal_newlines": False},
        )
        for options in wrong:
            with pytest.raises(ValueError):  # noqa: PT011 - the class is what counts
                call("true", **options)
        with pytest.raises(LookupError):
            call("true", encoding="nonesuch")
        with pytest.raises(LookupError):
            call("true", errors="nonesuch")
        with pytest.raises(TypeError, match="nonesuch"):
            call("true", nonesuch=1)
    also: tuple[dict[str, Any], ...] = (
        {"capture_output": True, "stdout": PIPE},
        {"input": b"", "stdin": PIPE},
        {"input": 3},
    )
    for options in also:
        with pytest.raises(SettingsError):
            there.run("true", **options)
    assert own_node.connections() == 0


def test_errors_are_subprocesss_too(transport: Transport) -> None:
    """`except subprocess.CalledProcessError` and `TimeoutExpired` work, attributes and all."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        transport.run("echo out; echo err >&2; exit 7", check=True, text=True)
    with pytest.raises(subprocess.TimeoutExpired) as late:
        transport.run("echo out; echo err >&2; sleep 60", timeout=0.7)
    assert isinstance(late.value, TimeoutError)
    for one in (failed.value, pickle.loads(pickle.dumps(failed.value))):  # noqa: S301 - our own
        assert (one.returncode, one.cmd, one.stdout, one.output) == (
            *(7, "echo out; echo err >&2; exit 7"),
            *("out\n", "out\n"),
        )
        assert isinstance(one, CommandFailed)
    for other in (late.value, pickle.loads(pickle.dumps(late.value))):  # noqa: S301 - our own
        assert isinstance(other, CommandTimeout)
        assert (other.cmd, other.timeout, other.stdout, other.stderr) == (
            *("echo out; echo err >&2; sleep 60", 0.7),
            *(b"out\n", b"err\n"),
        )
    with pytest.raises(CommandFailed):
        transport.run("exit 1").check_returncode()


def test_a_failure_shows_what_was_said(transport: Transport) -> None:
    """The error ends with the last lines of stderr, or of stdout where both are one."""
    command = "seq 100; printf '\\033[31mno such queue\\n' >&2; exit 1"
    with pytest.raises(CommandFailed) as caught:
        transport.run(command, check=True)
    assert str(caught.value).endswith("returned 1\n    \\x1b[31mno such queue")
    with pytest.raises(CommandFailed) as caught:
        transport.run("seq 100; echo last >&2; exit 1", check=True, stderr=STDOUT)
    assert str(caught.value).splitlines()[1:] == [f"    {n}" for n in [*range(90, 101), "last"]]
    with pytest.raises(CommandFailed) as caught:
        transport.run("exit 1", check=True, stderr=DEVNULL)
    assert len(str(caught.value).splitlines()) == 1


# -- start -----------------------------------------------------------------------------------------------


def test_communicate(transport: Transport) -> None:
    """Input of any size goes and all output comes, as bytes or as text; a second time gives the same."""
    with transport.start("cat; echo err >&2; exit 3") as process:
        out, err = process.communicate(b"x" * (3 << 20), timeout=60)
        assert (len(out), err, process.returncode) == (3 << 20, b"err\n", 3)
        assert process.communicate() == (out, err)
        with pytest.raises(SettingsError, match="sent already"):
            process.communicate(b"more")
    with transport.start(["cat"], text=True, stderr=STDOUT) as other:
        both: Any = other.communicate("é\r\n")
        assert both == ("é\n", None)
        assert other.args == ["cat"]
    with transport.start("echo x; cat", stdin=DEVNULL, stderr=DEVNULL) as silent:
        one: Any = silent.communicate()
        assert one == (b"x\n", None)
    with transport.start("head -c 1") as little:
        assert little.communicate(b"x" * (3 << 20))[0] == b"x"


def test_a_conversation_in_text(transport: Transport) -> None:
    """With text=True the pipes are of text, line by line; `print` writes to stdin."""
    with transport.start("while read x; do echo got $x; done", text=True) as talk:
        assert talk.stdin is not None
        assert talk.stdout is not None
        with talk.stdin as there:
            for number in range(3):
                there.write(f"é{number}\n")
                assert talk.stdout.readline() == f"got é{number}\n"
            there.writelines(["a\n", "b\n"])
        assert list(talk.stdout) == ["got a\n", "got b\n"]
        assert talk.wait(20) == 0


def test_a_timeout_of_communicate_loses_nothing(transport: Transport) -> None:
    """The error is subprocess's too; the command goes on, and all comes when asked again."""
    with transport.start("echo first; read x; echo second $x; read y; exit 4") as process:
        with pytest.raises(subprocess.TimeoutExpired) as late:
            process.wait(0.1)
        assert late.value.timeout == 0.1
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        with pytest.raises(CommandTimeout) as caught:
            # the end of the input is not told to a command that is still to be spoken to: it is, as by Popen
            process.communicate(timeout=0)
        assert caught.value.completed is None
        assert process.communicate(timeout=30) == (b"first\nsecond a\n", b"")
        assert process.returncode == 4
    with transport.start("echo first; sleep 1; echo second", text=True) as slow:
        with pytest.raises(subprocess.TimeoutExpired):
            slow.communicate(timeout=0.3)
        assert slow.communicate() == ("first\nsecond\n", "")


def test_start_with_files(transport: Transport, tmp_path: Path) -> None:
    """A process reads from and writes to files of ours, as Popen's does."""
    (tmp_path / "in").write_text("given")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as out:
        with transport.start("cat; echo err >&2", stdin=source, stdout=out, stderr=STDOUT) as process:
            assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
            assert process.wait(30) == 0
    assert (tmp_path / "out").read_text() == "givenerr\n"


def test_how_things_are_shown(transport: Transport, node: Sandbox) -> None:
    """A repr says host, command and status, and how to make it again; help names nothing internal."""
    config = str(node.ssh_config)
    assert repr(transport) == f"Transport('{node.host}', ssh_config='{config}')"
    with Transport(node.host, ssh_config=node.ssh_config, login=False, settings={"persist": "1h"}) as other:
        assert (
            repr(other)
            == f"Transport('{node.host}', ssh_config='{config}', login=False, settings=['persist'])"
        )
    with transport.start(["sleep", "60"], stdin=DEVNULL) as process:
        shown = f"<RemoteProcess: host: '{node.host}' returncode: None args: ['sleep', '60']>"
        assert repr(process) == shown
        process.kill()
        process.wait(20)
        assert repr(process) == shown.replace("None", "137")
    said = subprocess.run(
        [sys.executable, "-c", "from opensshtransport import Transport; help(Transport)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for word in ("capture_output: ", "dereference: ", "login(self)"):
        assert word in said
    for word in ("began", "_shells", "Abandon", "_transfer"):
        assert word not in said


def test_ctrl_c_in_communicate(make_shell_node: MakeShellNode, keep: Keep) -> None:
    """Ctrl-C while all output is waited for ends the remote command, as it ends one that runs here."""
    node, user = make_shell_node("bash")
    there = to(node, keep).login()
    process = there.start("echo up; sleep 300 & sleep 300")
    before = signal.getsignal(signal.SIGALRM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            process.communicate()
        assert time.monotonic() - begin < 30
    finally:
        signal.signal(signal.SIGALRM, before)
    there.close()
    until(lambda: not sleepers(user), "the command to end")


def test_results_are_pickled(transport: Transport) -> None:
    """A result can be sent to another process."""
    done = transport.run("echo x", text=True)
    again: CompletedCommand[str] = pickle.loads(pickle.dumps(done))  # noqa: S301 - our own
    assert again == done
