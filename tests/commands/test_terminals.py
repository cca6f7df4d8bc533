"""One user's terminal and everybody's master: what is typed during a command, and what nobody reads.

Each test has a second session on the same master, which must go on all the while.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support import proc
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, until

PROGRAMS = pytest.mark.parametrize("program", [[OSSH_RUN], [OSSH, "run"]], ids=["script", "python"])
SHELLS = {
    "bash": ["--norc", "--noprofile", "-i"],
    "dash": ["-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-C", "function fish_prompt; echo 'ready> '; end", "-i"],
}
DESCRIPTORS = (("<in", "<&-"), (">out", ">&-"), ("2>err", "2>&-"))


class Typist:
    """Somebody at a shell, whose typed lines each leave a word in a file when the shell runs them."""

    def __init__(self, shell: str, directory: Path) -> None:
        self.child = pexpect.spawn(
            shell,
            SHELLS[shell],
            timeout=20,
            dimensions=(24, 200),
            cwd=directory,
            env={**os.environ, "PS1": "ready> ", "TERM": "dumb"},
        )
        self.child.delaybeforesend = None
        self._file = directory / "ran"
        self._file.touch()
        self._typed: list[str] = []
        self.child.expect_exact("ready> ")

    def has_the_terminal(self) -> bool:
        """Whether the shell itself does, and no command of it."""
        return os.tcgetpgrp(self.child.child_fd) == self.child.pid

    def types(self, count: int) -> None:
        """Type lines for the shell, which runs each once and in order."""
        for _ in range(count):
            word = f"w{len(self._typed)}"
            self._typed.append(word)
            self.child.sendline(f"echo {word} >>{self._file}")
        with contextlib.suppress(AssertionError):
            until(lambda: self._file.read_text().split() == self._typed, "the lines to be run")
        assert self._file.read_text().split() == self._typed

    def is_told(self, words: str) -> None:
        """Press Enter until the shell has said it."""
        until(lambda: not self._asked(words), f"the shell to say {words}")

    def _asked(self, words: str) -> int:
        self.child.sendline()
        return self.child.expect([words, pexpect.TIMEOUT], timeout=0.5)

    def stops(self) -> None:
        """Press Ctrl-Z."""
        job = os.tcgetpgrp(self.child.child_fd)
        self.child.send("\x1a")
        until(self.has_the_terminal, "the command to stop")
        # A process that waits for input still gets a line that comes before it is told to stop (n_tty_read).
        # The shell waits for its own child alone. No person types that fast.
        until(
            lambda: set(map(proc.state, proc.of_group(job))) <= {"T", "Z", ""},
            "all of the command to stop",
        )
        self.child.expect_exact("ready> ")

    def continues(self) -> None:
        """Bring the command to the foreground."""
        self.child.sendline("fg")
        until(lambda: not self.has_the_terminal(), "the command to have the terminal")


@pytest.fixture
def typist(request: pytest.FixtureRequest, isolated: Path) -> Iterator[Typist]:
    """Somebody at the shell that the test names."""
    require(missing_programs(request.param))
    somebody = Typist(request.param, isolated)
    yield somebody
    somebody.child.close(force=True)


# what is ours does not know who started it, so one shell will do for the second program
IN_EACH_SHELL = pytest.mark.parametrize(
    ("typist", "program"),
    [*((shell, [OSSH_RUN]) for shell in SHELLS), ("bash", [OSSH, "run"])],
    ids=[*SHELLS, "bash-python"],
    indirect=["typist"],
)


def in_master(node: Sandbox) -> None:
    """Log in, so that the next command finds its way alone, and others' sessions do."""
    ossh("login", "-F", node.ssh_config, node.host)
    others_go_on(node)


def others_go_on(node: Sandbox) -> None:
    """Another process has a session on the same master."""
    done = ossh_run("-F", node.ssh_config, "--no-login", node.host, "echo x", timeout=15)
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr


def call(program: list[Path | str], node: Sandbox, *words: str) -> str:
    """The beginning of a command line."""
    return " ".join(map(str, [*program, *words, "-F", node.ssh_config, node.host]))


@IN_EACH_SHELL
def test_a_stopped_command(typist: Typist, program: list[Path | str], node: Sandbox, isolated: Path) -> None:
    """What is typed while it is stopped or in the background is the shell's, in the foreground its own."""
    in_master(node)
    up, got, end = (isolated / name for name in ("up", "got", "end"))
    typist.child.sendline(f"{call(program, node)} 'echo >{up}; cat >{got}; echo >{end}'")
    until(up.exists, "the command to begin")
    typist.stops()
    typist.types(4)
    others_go_on(node)
    typist.child.sendline("bg")
    typist.types(4)
    others_go_on(node)
    typist.continues()
    typist.child.sendline("first")
    typist.child.sendline("second")
    until(lambda: got.read_text() == "first\nsecond\n", "the command to get what is its own")
    typist.stops()
    typist.types(2)
    typist.continues()
    typist.child.sendeof()
    until(typist.has_the_terminal, "the command to end")
    typist.types(1)
    assert got.read_text() == "first\nsecond\n"
    assert end.exists()


@IN_EACH_SHELL
def test_a_background_command(
    typist: Typist, program: list[Path | str], node: Sandbox, isolated: Path
) -> None:
    """Started with `&` it runs to its end without stopping, and takes nothing that is typed."""
    in_master(node)
    up, go, end = (isolated / name for name in ("up", "go", "end"))
    wait = f"echo >{up}; while [ ! -e {go} ]; do sleep 0.1; done; echo >{end}"
    typist.child.sendline(f"{call(program, node)} '{wait}' &")
    typist.types(6)
    until(up.exists, "the command to begin")
    typist.types(6)
    others_go_on(node)
    go.touch()
    until(end.exists, "the command to end")


@IN_EACH_SHELL
def test_a_terminal_in_the_background(
    typist: Typist, program: list[Path | str], node: Sandbox, isolated: Path
) -> None:
    """`-t … &` waits for the foreground, as with ssh, and only then the master has the terminal."""
    in_master(node)
    up, got = isolated / "up", isolated / "got"
    typist.child.sendline(f"{call(program, node, '-t')} 'echo >{up}; cat >{got}; exit 4' &")
    typist.types(6)
    typist.is_told("(?i)stopped|suspended")
    typist.types(2)
    others_go_on(node)
    assert not up.exists()
    typist.continues()
    until(up.exists, "the command to begin")
    typist.child.sendline("first")
    until(lambda: got.exists() and got.read_text() == "first\n", "the command to get what is typed")
    typist.child.sendeof()
    until(typist.has_the_terminal, "the command to end")
    typist.types(2)


@PROGRAMS
@pytest.mark.parametrize(
    ("words", "command"), [([], "yes"), ([], "yes >&2"), (["-t"], "yes")], ids=["stdout", "stderr", "tty"]
)
def test_output_that_nobody_takes(
    program: list[Path | str], words: list[str], command: str, node: Sandbox
) -> None:
    """A terminal that is not read (a suspended window, a lost line, Ctrl-S) makes no other command wait."""
    in_master(node)
    argv = [*map(str, program), *words, "-F", str(node.ssh_config), node.host, command]
    child = pexpect.spawn(argv[0], argv[1:], timeout=20)
    try:
        child.expect_exact("y\r\n" * 1000)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            others_go_on(node)
        # and it goes on when it is read
        child.expect_exact("y\r\n" * 100_000)
    finally:
        child.close(force=True)


@PROGRAMS
def test_one_pipe_for_both(program: list[Path | str], node: Sandbox) -> None:
    """With `2>&1` and a slow reader no byte is lost, though ssh sets its pipes not to wait for readers."""
    in_master(node)
    command = "seq 200000; seq 200000 >&2; seq 200000"
    argv = [*program, "-n", "-F", node.ssh_config, node.host, command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        number = child.stdout.fileno()
        full = fcntl.fcntl(number, fcntl.F_GETPIPE_SZ)
        until(lambda: waiting(number) > full - 8192, "the pipe to fill")
        others_go_on(node)
        out = child.stdout.read()
        assert child.wait(20) == 0
    lines = b"".join(b"%d\n" % n for n in range(1, 200_001))
    assert len(out) == 3 * len(lines)


def waiting(number: int) -> int:
    """How many bytes can be read at once."""
    buffer = bytearray(4)
    fcntl.ioctl(number, termios.FIONREAD, buffer)
    return int(struct.unpack("i", buffer)[0])


@PROGRAMS
def test_a_reader_that_has_gone(program: list[Path | str], node: Sandbox) -> None:
    """Where nobody can read stderr any more, the command runs all the same."""
    in_master(node)
    reading, writing = os.pipe()
    os.close(reading)
    argv = [*program, "-n", "-F", node.ssh_config, node.host, "echo x >&2; echo y"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=writing, check=False, timeout=20)
    finally:
        os.close(writing)
    assert done.stdout == b"y\n"


def test_nothing_more_is_started_without_a_terminal(node: Sandbox, isolated: Path) -> None:
    """For pipes and files the script starts ssh, `ls`, `cat` and `rm`: nothing that terminals need."""
    in_master(node)
    programs = isolated / "bin"
    programs.mkdir()
    for name in ("cat", "ls", "rm"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [OSSH_RUN, "-F", node.ssh_config, node.host, "cat; echo err >&2"],
        input=b"abc",
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": str(programs)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"abc", b"err\n")


@PROGRAMS
def test_closed_descriptors(program: list[Path | str], node: Sandbox, isolated: Path) -> None:
    """Whatever of stdin, stdout and stderr is closed: status and the bytes of the others are as with ssh."""
    in_master(node)
    (isolated / "in").write_text("abc")

    def run(words: list[Path | str], redirections: str) -> tuple[int, str, str]:
        for name in ("out", "err"):
            (isolated / name).write_text("")
        done = subprocess.run(
            ["sh", "-c", f'"$@" {redirections}', "sh", *words, "cat | wc -c; echo err >&2; exit 3"],
            cwd=isolated,
            check=False,
            timeout=30,
        )
        return done.returncode, (isolated / "out").read_text(), (isolated / "err").read_text()

    for redirections in map(" ".join, itertools.product(*DESCRIPTORS)):
        ours = run([*program, "-F", node.ssh_config, node.host], redirections)
        assert ours == run(["ssh", "-F", node.ssh_config, node.host], redirections), redirections


def test_closed_descriptors_of_a_copy(node: Sandbox, isolated: Path) -> None:
    """`ossh cp` copies, and no file gets what is said, whatever is closed."""
    in_master(node)
    (isolated / "a").write_text("content")
    for redirections in map(" ".join, itertools.product(*DESCRIPTORS)):
        script = f'"$1" cp -F "$2" a "$3:$PWD/b" {redirections}'
        argv: list[str | Path] = ["sh", "-c", script.replace("<in", "</dev/null"), "sh", OSSH]
        done = subprocess.run([*argv, node.ssh_config, node.host], cwd=isolated, check=False, timeout=60)
        assert done.returncode == 0, redirections
        assert [(isolated / name).read_text() for name in "ab"] == ["content"] * 2, redirections
        (isolated / "b").unlink()


@PROGRAMS
def test_what_bash_env_prints(program: list[Path | str], isolated: Path) -> None:
    """The file that BASH_ENV names is read, and what it prints before the command is dropped."""
    (isolated / "noise").write_text("echo noise\nfunction_of_it() { echo function; }\n")
    with Sandbox(server_options={"SetEnv": f"SHLVL=1 BASH_ENV={isolated}/noise"}) as node:
        in_master(node)
        for command, expected in (("function_of_it; exit 3", 3), ("kill -9 $$", 137), ("", 0)):
            argv = [*program, "-n", "-F", node.ssh_config, node.host, command]
            done = subprocess.run(argv, capture_output=True, check=False, timeout=30)
            assert done.returncode == expected
            assert done.stdout == (b"function\n" if "function" in command else b"")
            assert done.stderr == b""
