"""`remote.wrapper`: around a command for a real login shell, nothing changes but what should.

Plain ssh over the same connection says what is right: the same output, the same words on stderr, the same
status. Only a signal is told more exactly, as 128+N.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opensshtransport.master.facts import Facts
from opensshtransport.remote.wrapper import for_any_shell, wrapper
from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeShellNode
from tests.support.users import NOISY, ShellName, Startup, User

MARK = "0f1e2d3c4b5a6978"
_SIGNALS = (1, 2, 3, 6, 9, 11, 13, 15)


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a command; `leader` is the number next to the mark."""

    status: int
    stdout: bytes
    stderr: bytes
    leader: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A master to a node, over which commands run as they are, or wrapped."""

    node: Sandbox
    user: User
    socket: Path

    @property
    def program(self) -> Path:
        """The login shell's path."""
        return Path(pwd.getpwnam(self.user.name).pw_shell)

    @property
    def posix(self) -> bool:
        """How the package classifies the login shell."""
        return Facts(
            host="",
            ssh_config=None,
            address="",
            socket="",
            pid=0,
            since=0,
            ours=True,
            shell=str(self.program),
        ).posix_shell

    def send(self, text: str, stdin: bytes = b"", *options: str) -> Reply:
        """Run a text by plain ssh."""
        argv: list[str | Path] = ["ssh", "-F", self.node.ssh_config, "-S", self.socket]
        argv += [*(options or ["-T"]), "--", self.node.host]
        sent = os.fsencode(text)
        done = subprocess.run([*argv, sent], input=stdin, capture_output=True, timeout=20, check=False)
        return Reply(done.returncode, done.stdout, done.stderr)

    def wrapped(self, command: str, stdin: bytes = b"", *, posix: bool | None = None) -> Reply:
        """Run a command in its wrapping; what comes before the mark is dropped."""
        wrap = wrapper(MARK, posix=self.posix if posix is None else posix)
        reply = self.send(wrap.wrap(command), stdin)
        match = re.search(rb"(?:^|\n)%b (\d+)\n" % MARK.encode(), reply.stdout)
        if match is None:
            return Reply(reply.status, b"", reply.stderr)
        return Reply(reply.status, reply.stdout[match.end() :], reply.stderr, int(match[1]))

    def ask(self, script: str) -> list[str]:
        """Run a script by sh, without wrapping; returns its lines."""
        return self.send("exec /bin/sh", script.encode()).stdout.decode().splitlines()

    def normal(self, stderr: bytes) -> str:
        """Words on stderr without what may differ: the shell's own name and process numbers."""
        text = stderr.decode(errors="surrogateescape").replace(str(self.program), self.program.name)
        return re.sub(r"\d+", "N", text)


def open_line(node: Sandbox, user: User, socket: Path) -> Line:
    """Log in; the test's walls end the master."""
    argv: list[str | Path] = ["ssh", "-F", node.ssh_config, "-N", "-f", "-E", socket.with_suffix(".log")]
    argv += ["-oControlMaster=yes", f"-oControlPath={socket}", "-oControlPersist=yes", "--", node.host]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, timeout=20)
    return Line(node, user, socket)


@pytest.fixture(scope="module")
def line(shell_user_node: tuple[Sandbox, User]) -> Iterator[Line]:
    """A line to each login shell, whose start-up files say nothing."""
    node, user = shell_user_node
    made = open_line(node, user, node.directory / "wrapper")
    yield made
    argv: list[str | Path] = ["ssh", "-F", "none", "-S", made.socket, "-O", "exit", "--", "master"]
    subprocess.run(argv, capture_output=True, check=True, timeout=20)


_SAME = [
    "echo hello; echo world",
    "sh -c 'echo one; echo two >&2; echo three'",
    "exit 3",
    "printf 'no newline'",
    r"printf '\000\001\377\r\n\n'",
    "true # a comment",
    "# only a comment",
    "   echo   blanks   ",
    "echo one\necho two\n",
    "\n\necho after\n",
    "echo 'it''s' \"quoted\" \\\" \\\\ \\'",
    "echo 'dollar $HOME `id` $(id)'",
    'echo "$HOME"',
    "echo 'bang! !! !x' '!'",
    r"echo 'back\slash' \\ 'end\\'",
    "echo * ~ [a-z] {a,b} ? '*'",
    "echo 'ä € 🐟'",
    "printf %s 'not utf-8: \udcff\udcfe' | od -An -c",
    "cat <<'E'\n$x `y` \\z 'q'\nE",
    "cd / && pwd",
    "echo to-a-file > f; cat f; rm f",
    "exec echo replaced",
    "set -e; false; echo not reached",
    "sh -c 'test -t 0 || test -t 1 || test -t 2 || echo no terminal'",
    "sh -c 'ls /proc/self/fd | wc -l'",
    "trap",
    "env | grep -v -e SHLVL -e SSH_ -e ^_= -e OLDPWD | sort",
    "sh -c 'exec 5>&1; echo five >&5'",
    "sh -c 'exit 7'; sh -c 'exit 8'",
    "sh -c 'kill -9 $$'; echo went on",
    "sh -c 'sleep 0.05; echo late' & wait",
    "/",
    "nosuchcommand; echo went on",
    "cat nosuchfile",
    f"echo {'x' * 60_000} | wc -c",
]


@pytest.mark.parametrize("command", _SAME, ids=lambda command: ascii(command)[1:30])
def test_same_as_plain(line: Line, command: str) -> None:
    """A command gives the bytes, the words on stderr and the status that it gives without wrapping."""
    plain, ours = line.send(command), line.wrapped(command)
    # ssh itself tells a signal by 255 and no more
    died = plain.status == 255 and ours.status > 128
    # tcsh tells the number of a job's process
    job = re.compile(rb"^\[1\] \d+$", re.MULTILINE)
    assert job.sub(b"[1]", ours.stdout) == job.sub(b"[1]", plain.stdout)
    assert died or ours.status == plain.status
    if line.user.shell != "fish":  # whose errors show the line that it read
        assert line.normal(ours.stderr) == line.normal(plain.stderr)


@pytest.mark.parametrize("command", ["echo 'a!b\\c'\necho two", "exit 3", "sh -c 'echo x >&2'; echo y"])
def test_other_wrapping(line: Line, command: str) -> None:
    """What is sent to a shell that is not of the POSIX family works with each shell."""
    plain, ours = line.send(command), line.wrapped(command, posix=False)
    assert (ours.status, ours.stdout, ours.stderr) == (plain.status, plain.stdout, plain.stderr)


# Letters that some shell takes for more than they are come often.
_TEXT = st.text(
    st.sampled_from("'\"\\!$`\n\t *?~#&|;<>(){}[]^%=-")
    | st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=30,
)


@hypothesis_settings(max_examples=20, deadline=None)
@given(text=_TEXT)
@example(text="'")
@example(text="!")
@example(text="\\'")
@example(text="a\n!\n'b'\\")
def test_text_arrives(line: Line, text: str) -> None:
    """Any text that plain ssh brings to a command arrives there through the wrapping, too."""
    command = f"printf %s {shlex.quote(text)}"
    plain, ours = line.send(command), line.wrapped(command)
    assert (ours.status, ours.stdout) == (plain.status, plain.stdout)
    assert (ours.stderr == b"") is (plain.stderr == b"")
    if line.posix:
        assert ours.stdout == text.encode()


@hypothesis_settings(max_examples=20, deadline=None)
@given(raw=st.binary(max_size=200).map(lambda raw: raw.replace(b"\0", b"")), text=_TEXT)
@example(raw=bytes(range(1, 256)), text="\\n\\0101!\n!'\\c")
def test_a_script_for_any_shell(line: Line, raw: bytes, text: str) -> None:
    """A script of sh arrives byte for byte, whichever shell reads the line that it is sent in."""
    expected = raw + text.encode()
    reply = line.send(for_any_shell(f"printf %s {shlex.quote(os.fsdecode(expected))}; exit 5"))
    assert (reply.status, reply.stdout, reply.stderr) == (5, expected, b"")


@hypothesis_settings(max_examples=8, deadline=None)
@given(data=st.binary(max_size=2000))
def test_bytes_pass(line: Line, data: bytes) -> None:
    """A command that reads stdin gets all of it and no more, and its output is exact."""
    reply = line.wrapped("cat; exit 9", data)
    assert (reply.status, reply.stdout, reply.stderr) == (9, data, b"")


def test_status(line: Line) -> None:
    """Each exit status from 0 to 255 comes back, whichever of the two wrappings it passes."""
    # some shells take their time to start
    statuses = range(256) if line.user.shell in {"dash", "tcsh"} else range(0, 256, 15)
    wrap = wrapper(MARK, posix=line.posix)
    # as sshd does it for each command, but in one session
    sent = [shlex.quote(wrap.wrap(f"exit {status}")) for status in statuses]
    answer = line.ask("".join(f"$SHELL -c {text} >/dev/null; echo $?\n" for text in sent))
    assert answer == [str(status) for status in statuses]
    for status in (1, 127, 137, 255):
        assert line.wrapped(f"exit {status}").status == status


def kill_self(shell: ShellName, number: int) -> str:
    """A command by which a login shell sends itself a signal."""
    return f"kill -{number} {'$fish_pid' if shell == 'fish' else '$$'}"


def test_signals(line: Line) -> None:
    """A signal N that kills the command shows as 128+N, one that the shell survives as it survives it."""
    commands = [kill_self(line.user.shell, number) for number in _SIGNALS]
    script = "".join(f"$SHELL -c {shlex.quote(command)} 2>/dev/null; echo $?\n" for command in commands)
    expected = [int(status) for status in line.ask(script)]
    assert set(expected) >= {128 + number for number in (9, 11, 15)}
    assert [line.wrapped(command).status for command in commands] == expected


def test_signals_are_silent(line: Line) -> None:
    """No word of ours about the signal comes on stderr, such as the `Killed` of some shells."""
    for number in _SIGNALS:
        command = kill_self(line.user.shell, number)
        assert line.wrapped(command).stderr == line.send(command).stderr


@pytest.mark.parametrize(
    ("command", "status"), [("sh -c 'kill -9 $$'; exit 4", 4), ("sh -c 'kill -9 $$'", 137)]
)
def test_child_is_killed(line: Line, command: str, status: int) -> None:
    """A signal that kills a child of the command is the command's business."""
    assert line.wrapped(command).status == status


def test_group_is_killed(line: Line) -> None:
    """A signal to the whole process group ends the command, and its status still comes back."""
    for number in (1, 2, 15):
        if (line.user.shell, number) == ("zsh", 1):
            continue  # it ends itself, by exit 1
        assert line.wrapped(f"sh -c 'kill -{number} 0; sleep 20'; sleep 20").status == 128 + number


def test_leader(line: Line) -> None:
    """The number next to the mark is that of the session and process group that the command runs in."""
    reply = line.wrapped("sh -c 'ps -o pgid=,sid= -p $$'")
    assert reply.leader
    assert [int(number) for number in reply.stdout.split()] == [reply.leader, reply.leader]


def test_background(line: Line) -> None:
    """A child in the background that holds none of the three streams holds nobody up."""
    begin = time.monotonic()
    reply = line.wrapped("sh -c 'sleep 20 >/dev/null 2>&1 </dev/null &'; echo started")
    assert (reply.status, reply.stdout) == (0, b"started\n")
    assert time.monotonic() - begin < 5


def test_mark_stays_out_of_errors(line: Line) -> None:
    """A shell that quotes the line in which it found a mistake quotes the command alone."""
    for command in ("echo )", "echo ; ; ; )", "nosuchcommand"):
        assert MARK.encode() not in line.wrapped(command).stderr


def test_begins_with_semicolon(line: Line) -> None:
    """An empty statement at the beginning means what it means to the shell."""
    plain, ours = line.send("; echo x"), line.wrapped("; echo x")
    assert (ours.status, ours.stdout) == (plain.status, plain.stdout)


def test_terminal(line: Line) -> None:
    """At a terminal nothing is printed before the command's own output, and the status comes back."""
    wrap = wrapper(MARK, posix=line.posix)
    for command in (
        "echo hello; exit 5",
        "test -t 0; and echo yes",
        "sh -c 'test -t 0 && test -t 1 && test -t 2'",
    ):
        plain = line.send(command, b"", "-tt", "-q")
        ours = line.send(wrap.wrap(command, tty=True), b"", "-tt", "-q")
        assert (ours.status, line.normal(ours.stdout)) == (plain.status, line.normal(plain.stdout))
        assert MARK.encode() not in ours.stdout
    killed = line.send(wrap.wrap(kill_self(line.user.shell, 9), tty=True), b"", "-tt", "-q")
    assert killed.status == 137


class TestStartupFiles:
    """Start-up files that print, and that cost."""

    @pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish", "busybox"])
    def test_noise(self, make_shell_node: MakeShellNode, isolated: Path, shell: ShellName) -> None:
        """After the mark the output is exact, whatever the files print; on stderr their words stay."""
        line = open_line(*make_shell_node(shell, NOISY), isolated / "s")
        data = os.urandom(200_000) + b"\n" + MARK.encode() + b" 1\n"
        reply = line.wrapped("cat; exit 6", data)
        assert (reply.status, reply.stdout) == (6, data)
        assert reply.leader
        # these cannot be kept from reading them again in the shell below
        times = 2 if shell in {"zsh", "tcsh", "fish"} else 1
        assert reply.stderr == NOISY.stderr.encode() * times

    @pytest.mark.parametrize(("shell", "times"), [("bash", 1), ("zsh", 2), ("tcsh", 2), ("fish", 2)])
    def test_read_once(
        self, make_shell_node: MakeShellNode, isolated: Path, shell: ShellName, times: int
    ) -> None:
        """bash reads ~/.bashrc once, as without wrapping; the others, which cannot be kept from it, twice."""
        line = open_line(*make_shell_node(shell, Startup(lines="echo x >> ~/count\n")), isolated / "s")
        count = line.user.home / "count"
        for command in ("true", "cd /; exit 3", "echo 'a!b\\c'"):
            count.unlink(missing_ok=True)
            line.wrapped(command)
            assert len(count.read_text().splitlines()) <= times

    def test_what_they_set(self, make_shell_node: MakeShellNode, isolated: Path) -> None:
        """What ~/.bashrc exports, and only that, is there for the command, as when bash runs it once."""
        lines = "export SITE=here\nunexported=1\nPATH=$PATH:/site\n"
        line = open_line(*make_shell_node("bash", Startup(lines=lines)), isolated / "s")
        command = "echo $SITE; echo $PATH; sh -c 'echo $SITE'"
        assert line.wrapped(command).stdout == line.send(command).stdout


class TestText:
    """The text itself."""

    def test_nothing_is_wrapped(self) -> None:
        """Without a mark a command stays as it is: where the remote side lets no command run freely."""
        for posix in (True, False):
            assert wrapper("", posix=posix).wrap("echo 'a'\n") == "echo 'a'\n"
            assert wrapper("", posix=posix).wrap("echo", tty=True) == "echo"

    @pytest.mark.parametrize("posix", [True, False])
    def test_parts(self, posix: bool) -> None:
        """`ossh-run` can build the text from its parts: the command in single quotes between them."""
        wrap = wrapper(MARK, posix=posix)
        assert wrap.wrap("it's") == f"{wrap.before}'it'\\''s'{wrap.after}"
        assert wrap.wrap("it's", tty=True) == f"{wrap.tty_before}'it'\\''s'{wrap.after}"
        assert MARK in wrap.before
        assert MARK not in wrap.tty_before
        if not posix:
            assert not re.search(r"[!\\\n]", wrap.before + wrap.tty_before + wrap.after)

    @hypothesis_settings(deadline=None)
    @given(_TEXT)
    def test_special_letters(self, text: str) -> None:
        """What single quotes do not protect everywhere is sent in letters that no shell changes."""
        sent = wrapper(MARK, posix=False).wrap(text)
        assert re.search(r"[!\n]", sent) is None
        if re.search(r"[!\\\n]", text):
            assert re.fullmatch(r"[ -~]+", sent)
