"""`ossh-run` in a session that is open already: all that holds for it holds there, and nothing is left."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from opensshtransport.master import shell_spares
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.command_lines import guarded_ssh
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeShellNode, require
from tests.support.nodes import config_through, missing_programs
from tests.support.programs import OSSH_RUN, ossh, ossh_run, until
from tests.support.relay import Relay
from tests.support.spares import Warm, always_pays, directories, keepers, naming
from tests.support.users import NOISY, ShellName

MEBIBYTE = 1 << 20

# The remote side of a spare has this word in its command line.
_IN_A_SPARE = (
    'case $(ps -ww -o args= -p $(ps -o ppid= -p $$)) in *" "ready*) echo spare ;; *) echo plain ;; esac'
)


def test_a_second_call_within_a_minute_opens_one(own_node: Sandbox) -> None:
    """One call opens none; the second does, behind its back, and the third takes it."""
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    spares = always_pays(config, host)
    assert ossh_run("-F", config, host, "true").returncode == 0
    assert (spares / "called").read_text().split()[1] == "0"
    assert not directories(spares)
    warm = Warm(own_node)
    assert warm.taken(_IN_A_SPARE).stdout == b"spare\n"
    assert warm.run(_IN_A_SPARE, env={"OSSH_FRESH": "1"}).stdout == b"plain\n"
    assert own_node.authentications() == 1
    warm.check_nothing_left()


def test_opened_where_it_pays(own_node: Sandbox, keep: Keep) -> None:
    """How long the last sessions took to begin decides: a single one that began soon is enough for none."""
    relay = keep(Relay(own_node.port, delay=0.03))
    config = config_through(own_node, relay)
    ossh("login", "-F", config, own_node.host)
    limit = shell_spares.WORTH
    for worth, earlier, pays in (
        (100000, "", False),
        (limit, f"99 {limit - 1} 99", False),
        (limit, "", True),
    ):
        spares = always_pays(config, own_node.host, worth=str(worth))
        (spares / "start").write_text(f"{earlier}\n")
        for _ in range(2):
            assert ossh_run("-F", config, own_node.host, "true").returncode == 0
        noted = [int(number) for number in (spares / "start").read_text().split()]
        # two round trips, in hundredths of a second
        assert all(12 <= number < 100000 for number in noted[:2])
        assert noted[2:] == [int(number) for number in earlier.split()]
        assert (spares / "called").exists() == pays
    until(lambda: bool(directories(spares)), "one to be opened")


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_all_that_holds_for_it_holds_there(own_node: Sandbox, isolated: Path, shell: str) -> None:
    """Statuses, signals, streams, odd bytes, words of many lines: whichever sh there is on this side."""
    require(missing_programs(shell.split(maxsplit=1)[0]))
    warm = Warm(own_node, shell)
    for command, status in (
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("no-such-command", 127),
        ("kill -9 $$", 137),
        ("kill 0", 143),
        ("(", 2),
    ):
        done = warm.taken(command)
        assert done.returncode == status, command
        assert b"ossh-run" not in done.stderr
        assert done.stdout == b""
    done = warm.taken("printf 'a\\nb'; printf 'c\\nd' >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, b"a\nb", b"c\nd")
    odd = "'\\!\"$`*\t" + bytes(range(0x80, 0x100)).decode("utf-8", "surrogateescape")
    done = warm.taken(f'x={_quoted(odd)}\n\nprintf %s "$x"\n# \' not the end\nexit 5\n\n')
    assert (done.returncode, done.stdout) == (5, odd.encode("utf-8", "surrogateescape"))
    everything = bytes(range(256)) * 40 + b"\n\n"
    assert warm.taken("cat", stdin=everything).stdout == everything
    assert warm.taken("head -c 3", stdin=bytes(3 * MEBIBYTE)).stdout == bytes(3)
    # `lost` as without
    done = subprocess.run(
        ["sh", "-c", '"$@" >/dev/full', "sh", *warm.argv, *warm.words, "echo x"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 255
    assert b"could not be written" in done.stderr
    # ours ends when it does, not when stdin does
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as silent:
        warm.wait()
        done = subprocess.run(
            [*warm.argv, *warm.words, "echo x"],
            stdin=silent.stdout,
            capture_output=True,
            timeout=20,
            check=False,
        )
        silent.kill()
    assert done.stdout == b"x\n"
    closed = '"$@" <&- >&- 2>&-; echo $? >status'
    argv: list[str | Path] = ["sh", "-c", closed, "sh", *warm.argv, *warm.words, "echo x; exit 6"]
    subprocess.run(argv, cwd=isolated, check=True)
    assert (isolated / "status").read_text() == "6\n"
    warm.check_nothing_left()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_streams_both_ways(own_node: Sandbox) -> None:
    """Much more than any buffer through one command, both ways at once, to the byte."""
    warm = Warm(own_node)
    much = random.Random(18).randbytes(64 * MEBIBYTE)
    assert warm.taken("cat", stdin=much).stdout == much


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish", "busybox"])
def test_login_shells(make_shell_node: MakeShellNode, shell: ShellName) -> None:
    """Under each login shell: noise is dropped, words reach it as they are, nothing is left there."""
    node, user = make_shell_node(shell, NOISY)
    warm = Warm(node)
    done = warm.taken('echo "it\'s" \\; exit 3')
    assert (done.returncode, done.stdout) == (0, b"it's ; exit 3\n")
    assert warm.taken("sh -c 'kill -9 $$'").returncode == 137
    assert warm.taken("cat; exit 9", stdin=b"1\n2").stdout == b"1\n2"
    warm.check_nothing_left()
    until(lambda: not user.processes(), "the remote processes to end")


def test_the_far_side_is_as_without(make_shell_node: MakeShellNode) -> None:
    """The environment is that of a new session, with bash's functions; ~/.bashrc is read once."""
    node, user = make_shell_node("bash")
    (user.home / ".bashrc").write_text(
        "f() { echo f; }\nexport -f f\nexport COUNT=x$COUNT\nread -r -t 0.1 line\n"
    )
    warm = Warm(node)
    names = "f; echo $COUNT; env | cut -d= -f1 | sort; echo $0 $-; umask; pwd; ls /proc/self/fd | wc -l"
    assert warm.taken(names).stdout == warm.run(names, env={"OSSH_FRESH": "1"}).stdout


def test_what_ssh_passes_on_is_ours(own_node: Sandbox) -> None:
    """A spare that was opened with another value of what SendEnv names is left alone."""
    own_node.stop()
    node = Sandbox("sends", server_options={"AcceptEnv": "LC_*"}, client_options={"SendEnv": "LC_*"})
    with node:
        warm = Warm(node)
        assert warm.taken('echo "$LC_PAPER"').stdout == b"\n"
        warm.wait()
        kept = warm.ready()
        # what is passed on may be a secret, and everybody can see command lines
        assert warm.run("true", env={"LC_PAPER": "not in a command line"}).returncode == 0
        until(lambda: len(warm.ready()) > len(kept), "one with that")
        assert not naming("not in a command line")
        assert warm.run('echo "$LC_PAPER"', env={"LC_PAPER": "a b"}).stdout == b"a b\n"
        assert set(kept) <= set(warm.ready())


def test_many_at_once(own_node: Sandbox) -> None:
    """Forty commands, eight at a time, each exactly once, in order of nobody; never more spares than half."""
    warm = Warm(own_node)
    with ThreadPoolExecutor(8) as pool:
        done = list(
            pool.map(
                lambda number: warm.run(f"echo {number}; echo {number} >>{own_node.directory}/many"),
                range(40),
            )
        )
    written = ossh_run(*warm.words, f"sort -n {own_node.directory}/many").stdout
    assert [one.stdout for one in done] == [b"%d\n" % number for number in range(40)]
    assert written == b"".join(b"%d\n" % number for number in range(40))
    assert len(warm.ready()) <= 4
    warm.check_nothing_left()


@pytest.mark.parametrize("sessions", [1, 2])
def test_none_is_kept_where_sessions_are_few(keep: Keep, sessions: int) -> None:
    """With MaxSessions 1 or 2 all sessions are free for others a moment after a command, and stay so."""
    node = keep(Sandbox("few", server_options={"MaxSessions": str(sessions)}))
    config, host = node.ssh_config, node.host
    ossh("login", "-F", config, host)
    spares = always_pays(config, host)
    for _ in range(3):
        assert ossh_run("-F", config, host, "echo x").stdout == b"x\n"
    until((spares / "narrow").exists, "the refusal to be noted")
    until(lambda: not directories(spares), "the spares to go")
    assert ossh_run("-F", config, host, "echo x").stdout == b"x\n"
    # a keeper that would open one has looked by then
    until(lambda: not keepers(), "the last keeper to look")
    assert not directories(spares)
    master = Master(resolve(host, config))
    argv = guarded_ssh(master.destination, str(master.own_socket), command="echo x; cat")
    with contextlib.ExitStack() as stack:
        for _ in range(sessions):
            one = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert one.stdout is not None
            assert one.stdout.readline() == b"x\n"


def test_two_of_three(keep: Keep) -> None:
    """With MaxSessions 3 one is kept: the others that have shown it are free again."""
    node = keep(Sandbox("few", server_options={"MaxSessions": "3"}))
    warm = Warm(node)
    until(lambda: len(directories(warm.spares)) == 1, "two to be given back")
    assert warm.taken("echo x").stdout == b"x\n"


def test_one_account_with_python(own_node: Sandbox) -> None:
    """Python counts the spares among the sessions, and has them given back when it needs one, or waits."""
    warm = Warm(own_node)
    slots = Slots(warm.master)
    assert slots.in_use() == shell_spares.count(warm.spares) > 0
    taken = [slots.take() for _ in range(slots.limit)]
    assert None not in taken
    until(lambda: not directories(warm.spares), "the spares to go")
    # and none is opened while all are in use
    for _ in range(3):
        assert warm.run("echo x").stdout == b"x\n"
    until(lambda: not keepers(), "the last keeper to look")
    assert not directories(warm.spares)
    for slot in taken:
        if slot is not None:
            slots.give(slot)
    warm.run("true")
    warm.wait()
    with slots.waiting():
        until(lambda: not directories(warm.spares), "the spares to go")
        warm.run("true")
        until(lambda: not keepers(), "the last keeper to look")
    assert not directories(warm.spares)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_signals_end_the_far_side(own_node: Sandbox, name: str) -> None:
    """A signal to `ossh-run` ends the whole remote group, and is what its caller sees."""
    warm = Warm(own_node)
    argv = [*warm.argv, *warm.words, "echo $$; sleep 600 & sleep 600"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        leader = int(process.stdout.readline())
        group = os.getpgid(leader)
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(20) == -getattr(signal, f"SIG{name}")
    until(lambda: not _group(group), "the remote group to end")
    warm.check_nothing_left()


def test_at_a_terminal(own_node: Sandbox) -> None:
    """What is typed reaches the command, the end of it too; Ctrl-C ends it on both sides."""
    warm = Warm(own_node)
    script = f'{_IN_A_SPARE}; read -r line; echo "got $line"; cat; echo end; sleep 600'
    child = pexpect.spawn(str(OSSH_RUN), [*map(str, warm.words), f"echo $$; {script}"], timeout=20)
    child.setecho(False)
    child.expect(r"(\d+)\r\nspare\r\n")
    assert isinstance(child.match, re.Match)
    group = os.getpgid(int(child.match[1]))
    child.sendline("first")
    child.expect_exact("got first")
    child.sendline("second")
    child.expect_exact("second")
    child.sendeof()
    child.expect_exact("end")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT
    until(lambda: not _group(group), "the remote group to end")
    warm.check_nothing_left()


def _group(number: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == number and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_nobody_waits_for_the_keeper(own_node: Sandbox, isolated: Path) -> None:
    """A pipe ends with the command, and no descriptor of the caller's is kept: above 9 none is opened."""
    warm = Warm(own_node)
    run = f"{OSSH_RUN} -F {own_node.ssh_config} {own_node.host} true"
    begin = time.monotonic()
    script = f"({run}; {run}) 9>{isolated}/lock 2>&1 | cat"
    subprocess.run(["sh", "-c", script], check=True, timeout=20)
    assert time.monotonic() - begin < 20
    warm.wait()
    assert not _holding(isolated / "lock")
    warm.check_nothing_left()
    # that sh cannot close those above 9 itself
    warm = Warm(own_node)
    script = f"exec 20>{isolated}/lock; {run}; {run}"
    subprocess.run(["bash", "-c", script], check=True, timeout=20)
    assert not _holding(isolated / "lock")


def _holding(file: Path) -> list[Path]:
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == file:
                found.append(link)
    return found


@pytest.mark.parametrize("victims", ["ssh", "keeper and ssh", "remote side"])
def test_a_dead_spare_is_no_lost_command(own_node: Sandbox, victims: str) -> None:
    """Where ssh or the remote side of a spare has died before, the command takes another way, once."""
    warm = Warm(own_node)
    for number in range(3):
        warm.run("true")
        warm.wait()
        ready = warm.ready()
        for spare in ready:
            _, ssh, keeper = (int(pid) for pid in (spare / "held").read_text().split())
            remote = [pid for pid in naming(spare.name) if pid != ssh]
            for pid in {"ssh": [ssh], "keeper and ssh": [keeper, ssh], "remote side": remote}[victims]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # of the remote side's end we are told a round trip later, and what is killed does not end at once
        until(functools.partial(_ended, ready, victims), "them to end")
        done = warm.run(f"echo {number}")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"%d\n" % number, b"")
    warm.check_nothing_left()


def _ended(spares: list[Path], killed: str) -> bool:
    """Whether the keepers have noticed that the remote sides were killed, or the system that ssh was."""
    for spare in spares:
        with contextlib.suppress(OSError):
            ssh = (spare / "held").read_text().split()[1]
            if killed == "remote side" or any(Path(f"/proc/{ssh}/fd").iterdir()):
                return False
    return True


def test_a_request_that_is_not_read_is_given_back(own_node: Sandbox) -> None:
    """A remote side whose time is over ends without a word: what it was handed runs elsewhere, whole."""
    warm = Warm(own_node)
    until(lambda: len(directories(warm.spares)) == 1, "the others that were tried to be given back")
    (spare,) = warm.ready()
    # stopped, it reads nothing; then it is told that its time is over, before it goes on
    leader = next(pid for pid in naming(spare.name) if pid == os.getsid(pid))
    os.kill(leader, signal.SIGSTOP)
    argv = [*warm.argv, *warm.words, "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until(lambda: not spare.exists(), "it to be taken")
        os.kill(leader, signal.SIGTERM)
        os.kill(leader, signal.SIGCONT)
        out, _ = process.communicate(b"all of it", timeout=20)
    assert (process.returncode, out) == (0, b"all of it")


def test_stopped_keepers(own_node: Sandbox) -> None:
    """Nobody waits for a keeper or a holder that is stopped: the command runs there, to its end."""
    warm = Warm(own_node)
    # not ssh: of one that is stopped nobody learns the status
    holders = [int((spare / "held").read_text().split()[0]) for spare in warm.ready()]
    stopped = [*keepers(), *holders]
    for pid in stopped:
        # those that have found enough there end
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(4):
            done = subprocess.run(
                [*warm.argv, *warm.words, "cat"],
                input=b"%d" % number,
                capture_output=True,
                timeout=10,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"%d" % number, b"")
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    warm.check_nothing_left()


def test_not_for_long(own_node: Sandbox) -> None:
    """One that nobody takes goes after its time, with its session, processes and directory."""
    warm = Warm(own_node, kept_for="3")
    before = warm.ready()
    marks = [one.name for one in before]
    until(lambda: not any(one.exists() for one in before), "them to go")
    until(lambda: not any(naming(mark) for mark in marks), "their processes to end")
    assert warm.run("echo x").stdout == b"x\n"


@pytest.mark.parametrize("victim", ["master", "remote side"])
def test_a_command_that_is_lost(own_node: Sandbox, victim: str) -> None:
    """Where the master or the session is killed while it runs, it is not run again, and one line says so."""
    warm = Warm(own_node)
    argv = [*warm.argv, *warm.words, f"echo x >>{own_node.directory}/lost; echo $PPID; exec sleep 60"]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        above = int(process.stdout.readline())
        facts = warm.master.facts()
        assert facts is not None
        if victim == "master":
            os.kill(facts.pid, signal.SIGKILL)
        else:
            os.killpg(os.getsid(above), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 255
    assert said.startswith(b"ossh-run: ")
    assert said.count(b"\n") == 1
    assert (own_node.directory / "lost").read_text() == "x\n"


def test_an_edited_ssh_config_is_a_new_one(own_node: Sandbox) -> None:
    """After an edit of ssh_config no command goes to a spare of before, and those go at once."""
    warm = Warm(own_node)
    before = warm.ready()
    own_node.ssh_config.write_text(own_node.ssh_config.read_text() + "\n# edited\n")
    assert warm.run("echo x").stdout == b"x\n"
    until(lambda: not any(one.exists() for one in before), "the old spares to go")
    warm.check_nothing_left()
