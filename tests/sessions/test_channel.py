"""Channels: telling the bootstrap's lines from bytes, the budget of sessions, and the bootstrap by itself."""

from __future__ import annotations

import contextlib
import importlib.resources
import itertools
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport import Transport
from opensshtransport.errors import SessionRefused
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.destination import resolve
from opensshtransport.remote.marks import Event, Stream
from opensshtransport.remote.scripts import quoted_lines
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep
from tests.support.programs import runtime, until, write_settings

MARK = "0123456789abcdef" * 2
M = MARK.encode()

# -- the stream -----------------------------------------------------------------------------------------

# Bytes that resemble the marks, as far as a command can write them without knowing the mark.
_tricky = st.sampled_from([M[:1], M[:16], M[:31], M[1:], b"\n", b" ready\n", b" end 0\n", M[:20] + b"\n"])
_bytes = st.lists(st.binary(max_size=20) | _tricky, max_size=12).map(b"".join).filter(lambda b: M not in b)


def parted(pieces: list[bytes], mark: str = MARK) -> tuple[bytes, list[Event], bytes]:
    """The result of reading pieces of a stream: the bytes, the events, the rest."""
    stream = Stream(mark)
    out, events = b"", []
    for piece in pieces:
        for part in stream.feed(piece):
            if isinstance(part, Event):
                events.append(part)
            else:
                assert part
                out += part
    return out, events, stream.rest()


@given(noise=_bytes, body=_bytes, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same(noise: bytes, body: bytes, cuts: list[int]) -> None:
    """However a stream is cut into pieces, the same bytes and events come; noise before is dropped."""
    if M in noise + b"\n" + M or (noise + b"\n" + M).find(M) != len(noise) + 1:
        return
    if (body + M).find(M) != len(body):
        return
    whole = noise + b"\n" + M + b" ready\n" + M + b" started\n" + body + M + b" end 7\n"
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[begin:end] for begin, end in itertools.pairwise(bounds)]
    out, events, rest = parted(pieces)
    assert out == body
    assert events == [Event("ready"), Event("started"), Event("end", "7")]
    assert rest == b""


@given(body=_bytes)
def test_byte_by_byte(body: bytes) -> None:
    """Pieces of one byte give what one piece gives, also where the data ends in the beginning of the mark."""
    if (body + M).find(M) != len(body):
        return
    whole = M + b" ready\n" + body + M + b" end 0\n"
    assert parted([bytes([byte]) for byte in whole]) == parted([whole])
    assert parted([whole])[0] == body


@pytest.mark.parametrize("length", range(33))
def test_what_was_held_back_is_given_at_the_end(length: int) -> None:
    """Data that ends in a beginning of the mark is complete when the stream breaks off."""
    out, events, rest = parted([M + b" ready\n", b"data" + M[:length]])
    assert out + rest == b"data" + M[:length]
    assert events == [Event("ready")]


def test_data_is_not_held_back_needlessly() -> None:
    """Bytes that can be no mark any more come at once."""
    stream = Stream(MARK)
    list(stream.feed(M + b" ready\n"))
    assert list(stream.feed(b"data" + M[:5])) == [b"data"]
    assert list(stream.feed(b"x")) == [M[:5] + b"x"]


def test_noise_without_an_end_is_not_kept() -> None:
    """Endless noise before the mark fills no memory, and gives nothing."""
    stream = Stream(MARK)
    for _ in range(100):
        assert list(stream.feed(b"noise" * 10_000)) == []
    assert len(stream._buffer) < 100
    assert stream.rest() == b""


def test_refusal_and_text_that_is_no_text() -> None:
    """A refusal comes with its reason; bytes that are no UTF-8 in a line do no harm."""
    _, events, _ = parted([M + b" ready\n" + M + b" refused ENOENT\n" + M + b" \xff\n"])
    assert events[1] == Event("refused", "ENOENT")
    assert len(events) == 3


@pytest.mark.parametrize(
    "request_", ["run none true", "a\nb\nc", "", "x" * 4096, "x" * 4097, "ü" * 4000, os.fsdecode(b"\xff")]
)
def test_quoted_lines(request_: str) -> None:
    """A request says its own size first: in lines where the shell reads it, in bytes where a program does."""
    raw = os.fsencode(request_)
    size, _, rest = quoted_lines(request_).partition(b"\n")
    if size.startswith(b"L"):
        assert len(raw) <= 4096
        assert rest == raw + b"\n"
        assert int(size[1:]) == rest.count(b"\n")
    else:
        assert len(raw) > 4096
        assert (size, rest) == (b"B%d" % len(raw), raw)


# -- the budget -----------------------------------------------------------------------------------------

HOLDER = """
    import os, sys, time
    from opensshtransport.master.slots import Slots
    from opensshtransport.master.master import Master
    from opensshtransport.openssh.destination import resolve
    slots = Slots(Master(resolve({host!r}, {config!r})))
    {body}
"""


@pytest.fixture
def slots(node: Sandbox) -> Slots:
    """The budget of the plain node in this test's own runtime directory: 4 sessions."""
    write_settings('[host."*"]\nmax_sessions = 4\n')
    return Slots(Master(resolve(node.host, node.ssh_config)))


@contextlib.contextmanager
def holder(node: Sandbox, body: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process of its own that has `slots`."""
    inner = textwrap.dedent(body).strip().replace("\n", "\n    ")
    program = textwrap.dedent(HOLDER.format(host=node.host, config=str(node.ssh_config), body=inner))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        yield child
        child.kill()


def line(child: subprocess.Popen[bytes]) -> bytes:
    """The next line that a child prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


TAKES_TWO = "print(slots.take(), slots.take(), flush=True); sys.stdin.read(); sys.exit()"


def test_slots_are_counted_over_processes(node: Sandbox, slots: Slots) -> None:
    """What one process has, no other gets; never more than the limit; given back, it is free."""
    with holder(node, TAKES_TWO) as child:
        assert line(child) == b"0 1"
        assert [slots.take(), slots.take(), slots.take()] == [2, 3, None]
        assert slots.in_use() == 4
        slots.give(2)
        slots.give(2)
        assert slots.in_use() == 3
        with holder(node, TAKES_TWO) as other:
            assert line(other) == b"2 None"
        until(lambda: slots.in_use() == 3, "the other's slot to be free")
    until(lambda: slots.in_use() == 1, "the child's slots to be free")
    assert [slots.take() for _ in range(4)] == [0, 1, 2, None]


def test_sigkill_frees_slots(node: Sandbox, slots: Slots) -> None:
    """A killed process holds nothing, and a waiting one gets it."""
    with holder(node, "print([slots.take() for _ in range(4)], flush=True); time.sleep(300)") as child:
        assert line(child) == b"[0, 1, 2, 3]"
        with pytest.raises(SessionRefused, match="all 4 sessions are in use"):
            slots.wait(time.monotonic() + 0.2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(slots.wait, time.monotonic() + 30)
            until(slots.wanted, "somebody to wait")
            child.send_signal(signal.SIGKILL)
            assert waiting.result(30) in range(4)
    assert not slots.wanted()


def test_waiters_are_seen_and_served(node: Sandbox, slots: Slots) -> None:
    """Who waits in another process is seen as wanting, and gets what is given back."""
    taken = [slots.take() for _ in range(4)]
    assert not slots.wanted()
    with holder(node, "print(slots.wait(None), flush=True); sys.stdin.read()") as child:
        until(slots.wanted, "the other to wait")
        slots.give(taken[2] or 0)
        assert line(child) == b"2"
        until(lambda: not slots.wanted(), "nobody to wait")
        assert slots.take() is None


def test_threads_share_fairly(slots: Slots) -> None:
    """16 threads for 4 slots: never more than 4 at once, never one slot twice, and all get their turn."""
    guard = threading.Lock()
    held: set[int] = set()
    most = 0

    def work(_: int) -> None:
        nonlocal most
        number = slots.wait(time.monotonic() + 60)
        with guard:
            assert number not in held
            held.add(number)
            most = max(most, len(held))
        time.sleep(0.002)
        with guard:
            held.discard(number)
        slots.give(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(200)))
    assert most == 4
    assert slots.in_use() == 0


def test_processes_never_exceed_the_limit(node: Sandbox, slots: Slots, tmp_path: Path) -> None:
    """Six processes take and give slots at random: nobody ever meets another in the same slot."""
    body = f"""
        import random
        for _ in range(60):
            number = slots.wait(time.monotonic() + 60)
            mine = os.path.join({str(tmp_path)!r}, str(number))
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
            time.sleep(random.random() / 500)
            os.unlink(mine)
            slots.give(number)
        print("done", flush=True)
    """
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(holder(node, body)) for _ in range(6)]
        assert [line(child) for child in children] == [b"done"] * 6
    assert slots.in_use() == 0


def test_a_forked_child_holds_nothing(node: Sandbox, slots: Slots) -> None:
    """A child made by os.fork has none of its parent's slots, and does not free them either."""
    body = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        slots.take(), slots.take()
        pid = os.fork()
        if not pid:
            print("child", slots.take(), slots.in_use(), flush=True)
            slots.give(0)
            # until the end of the test
            sys.stdin.read()
            os._exit(0)
        signal.sigwait([signal.SIGUSR1])
        os._exit(0)
    """
    with holder(node, body) as child:
        assert line(child) == b"child 2 3"
        assert slots.in_use() == 3
        assert slots.take() == 3
        # the parent ends, the child lives on
        child.send_signal(signal.SIGUSR1)
        assert child.wait(20) == 0
        assert slots.in_use() == 2
        assert slots.take() == 0


def test_a_learned_limit(slots: Slots, node: Sandbox) -> None:
    """A limit that a refusal taught holds for all processes, grows again, and is never below 1."""
    assert slots.limit == 4
    slots.learn(2)
    assert slots.limit == 2
    with holder(node, "print(slots.limit, slots.take(), slots.take(), slots.take(), flush=True)") as child:
        assert line(child) == b"2 0 1 None"
        child.wait(20)
    slots.learn(0)
    assert slots.limit == 1
    slots.learn(9)
    assert slots.limit == 4
    slots.learn(1)
    file = next(runtime().glob("*.limit"))
    for age, limit in [(20, 1), (40, 2), (70, 3), (700, 4)]:
        then = time.time() - age
        os.utime(file, (then, then))
        assert slots.limit == limit
    slots.learn(1)
    file.write_text("rubbish")
    assert slots.limit == 4


@pytest.mark.parametrize("most", [1, 2, 10])
def test_every_budget_of_the_server(keep: Keep, most: int) -> None:
    """With MaxSessions 1, 2 and 10, eight threads get all their commands done, each one time."""
    node = keep(Sandbox(server_options={"MaxSessions": str(most)}))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    file = node.directory / "ran"
    with ThreadPoolExecutor(8) as pool:
        done = list(
            pool.map(lambda n: there.run(f"echo {n} >> {file}; echo {n}; exit {n}", timeout=100), range(40))
        )
    assert [(one.returncode, one.stdout) for one in done] == [(n, b"%d\n" % n) for n in range(40)]
    assert sorted(map(int, file.read_text().split())) == list(range(40))
    assert node.authentications() == 1


@pytest.mark.parametrize("most", [1, 2])
def test_idle_sessions_give_way(keep: Keep, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Where the server refuses a session, what is kept for later is given back, and nothing waits for it."""
    monkeypatch.setattr("opensshtransport.sessions.spares._IDLE", 1e6)
    node = keep(Sandbox(server_options={"MaxSessions": str(most)}))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    source = node.directory / "source"
    source.write_bytes(b"x" * 3_000_000)
    for number in range(3):
        # the first time nobody knows yet how few there may be
        # a shell is kept for 60 s
        assert there.run("echo x", timeout=40).stdout == b"x\n"
        assert there.exists("/")
        there.put(source, node.directory / f"{number}")
    assert node.authentications() == 1


def test_a_refused_spare_holds_no_slot(keep: Keep) -> None:
    """A spare that the server has refused is given up, and the limit is learned from it."""
    node = keep(Sandbox(server_options={"MaxSessions": "2"}))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    slots = Slots(Master(resolve(node.host, node.ssh_config)))
    with there.start("echo up; cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        until(lambda: slots.limit == 2 and slots.in_use() == 2, "the limit to be learned")


def test_what_lingers_counts(slots: Slots) -> None:
    """A session whose ssh was killed counts for a while, unless its slot is in use again."""
    first, second = slots.take(), slots.take()
    assert first is not None
    assert second is not None
    slots.give(first)
    assert slots.lingering() == 0
    slots.give(second, lingers=True)
    assert slots.lingering() == 1
    assert [slots.take(), slots.take()] == [first, second]
    assert slots.lingering() == 0
    slots.give(second, lingers=True)
    until(lambda: slots.lingering() == 0, "it to be over")


def test_sessions_that_others_use(keep: Keep) -> None:
    """Where others have taken the server's sessions, a command waits until one of them ends."""
    node = keep(Sandbox(server_options={"MaxSessions": "2"}))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    with Transport(node.host, ssh_config=node.ssh_config) as first:
        first.run("true")
    slots = Slots(Master(resolve(node.host, node.ssh_config)))
    until(lambda: slots.in_use() == 0, "the sessions to be given back")
    socket = next(path for path in runtime().iterdir() if path.is_socket())
    tag = f"sleep 1{secrets.randbelow(10**8):08d}"
    argv = ["ssh", "-F", "none", "-S", str(socket), "--", "x", f"echo up; exec {tag}"]
    others = [
        keep(subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)) for _ in range(2)
    ]
    for other in others:
        assert line(other) == b"up"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(there.run, "echo x", timeout=60)
        until(lambda: bool(list(runtime().glob("*.limit"))), "a refusal")
        assert not waiting.done()
        for other in others:
            other.kill()
        subprocess.run(["pkill", "-x", "-f", tag], check=False)
        assert waiting.result(60).stdout == b"x\n"


# -- the bootstrap by itself ----------------------------------------------------------------------------

SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]


@pytest.fixture(params=SHELLS, ids=" ".join)
def shell(request: pytest.FixtureRequest) -> list[str]:
    """A sh to run the bootstrap."""
    words: list[str] = request.param
    return words


def bootstrap() -> str:
    """The remote half, as it is in the package."""
    return importlib.resources.files("opensshtransport.remote").joinpath("bootstrap.sh").read_text()


@contextlib.contextmanager
def far_side(
    shell: list[str], request: str = "", begins: str = "told", *, stdin: IO[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The bootstrap in a session of its own, as sshd gives it one."""
    begins = begins if request else ""
    text = f"ossh_mark={MARK}\nossh_begins={begins}\nossh_request='{request}'\n{bootstrap()}"
    # the descriptors as they are on the remote side
    begin = 'exec "$@" 4<&0 5>&2 2>/dev/null'
    with subprocess.Popen(
        ["/bin/sh", "-c", begin, "sh", *shell, "-c", text, "tag"],
        stdin=subprocess.PIPE if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        yield child
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def group(pid: int) -> list[int]:
    """The living processes of a group."""
    done = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [row.split() for row in done.stdout.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and not row[2].startswith("Z")]


def outcome(child: subprocess.Popen[bytes], given: bytes) -> tuple[bytes, list[Event], bytes]:
    """What comes of some input: bytes, events, bytes on stderr."""
    out, err = child.communicate(given, timeout=30)
    parts, events, _ = parted([out])
    said, ends, _ = parted([err])
    assert [event.kind for event in ends] in (["ready", "end"], ["ready"])
    return parts, events, said


def frames(*pieces: bytes) -> bytes:
    """Input in frames, with its end."""
    return b"".join(b"%d\n%b" % (len(piece), piece) for piece in pieces) + b"E\n"


def test_it_is_plain_sh(shell: list[str]) -> None:
    """Every sh takes the bootstrap."""
    done = subprocess.run([*shell, "-n"], input=bootstrap().encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_request_by_stdin(shell: list[str]) -> None:
    """A request in lines and one in bytes run; status and both streams are exact."""
    for padding in (0, 100_000):
        request = f"SHELL=/bin/sh\nrun none \"$SHELL\" -c 'echo out; echo err >&2; exit 9 # {'x' * padding}'"
        with far_side(shell) as child:
            got = outcome(child, quoted_lines(request) + b"Q\n")
        assert got == (b"out\n", [Event("ready"), Event("started"), Event("end", "9")], b"err\n")


def test_input_that_is_not_read(shell: list[str], tmp_path: Path) -> None:
    """P is answered as soon as the command has read what came before it, and not earlier."""
    gate = tmp_path / "gate"
    command = f"echo up; until [ -e {gate} ]; do sleep 0.1; done; head -c 300000 >/dev/null; exec sleep 300"
    with far_side(shell) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(quoted_lines(f"run frames sh -c '{command}'"))
        child.stdin.flush()
        while child.stdout.readline() != b"up\n":
            assert child.poll() is None
        child.stdin.write(b"300000\n" + b"x" * 300_000 + b"P\n")
        child.stdin.flush()
        assert select.select([child.stdout], [], [], 0.5)[0] == []
        gate.touch()
        assert child.stdout.readline().endswith(b" heard\n")


def test_end_of_the_sender_behind_input_that_is_not_read(shell: list[str]) -> None:
    """When nobody reads the output any more, all of the group goes, whatever input is in the way."""
    with far_side(shell) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(quoted_lines("run frames sh -c 'echo up; sleep 300 & exec sleep 300'"))
        child.stdin.flush()
        while child.stdout.readline() != b"up\n":
            assert child.poll() is None
        child.stdin.write(b"300000\n" + b"x" * 300_000)
        child.stdin.flush()
        child.stdout.close()
        child.stdin.close()
        child.wait(30)
        until(lambda: not group(child.pid), "the group to end")


def test_request_at_once(shell: list[str]) -> None:
    """A request that came with the bootstrap runs at a word, after blank lines too; a signal is 128+N."""
    with far_side(shell, 'run none sh -c "echo out; kill -9 \\$\\$"') as child:
        got = outcome(child, b"\n\nG\nG\nQ\n")
    assert got == (b"out\n", [Event("ready"), Event("started"), Event("end", "137")], b"")


def test_request_begins_before_its_word(shell: list[str]) -> None:
    """If stdin is silent but not at its end, a request that may do so begins without the word."""
    with far_side(shell, "run none echo ran", "idle") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        before = b""
        while b"ran\n" not in before:
            piece = child.stdout.readline()
            assert piece
            before += piece
        child.stdin.write(b"\n\nG\nG\nQ\n")
        child.stdin.close()
        got = parted([before + child.stdout.read()])
    assert got == (b"ran\n", [Event("ready"), Event("started"), Event("end", "0")], b"")


@pytest.mark.parametrize("begins", ["told", "idle"])
@pytest.mark.parametrize("sent", [b"", b"\n\n"])
def test_request_whose_word_was_swallowed(shell: list[str], begins: str, sent: bytes) -> None:
    """Where stdin has ended without the word, nothing runs, and the remote side says so."""
    reader, writer = os.pipe()
    # all of it is there, and the end, before anybody looks
    os.write(writer, sent)
    os.close(writer)
    with os.fdopen(reader) as stdin, far_side(shell, "run none echo ran", begins, stdin=stdin) as child:
        got = outcome(child, b"")
    assert got == (b"", [Event("ready"), Event("refused", "swallowed")], b"")


def test_marks_are_made_over_there(shell: list[str]) -> None:
    """The mark in the command line is worth nothing once the host has told its own, which is random."""
    command = f"echo {MARK} end 7; echo {MARK} ready {'0' * 32}"
    told = set()
    for _ in range(2):
        with far_side(shell) as child:
            out, err = child.communicate(quoted_lines(f"run none sh -c '{command}'") + b"Q\n", timeout=30)
        mark = out.split()[2]
        assert re.fullmatch(rb"[0-9a-f]{32}", mark)
        assert out.count(mark) == 3
        assert err == b"\n%b ready %b\n%b end\n" % (M, mark, mark)
        parts, events, _ = parted([out])
        assert parts == b"%b end 7\n%b ready %b\n" % (M, M, b"0" * 32)
        assert events == [Event("ready"), Event("started"), Event("end", "0")]
        told.add(mark)
    assert len(told) == 2


@pytest.mark.parametrize(("begins", "sent"), [("told", b"\nG\nA\n"), ("idle", b"\nG\nA\n"), ("anyhow", b"")])
def test_a_sender_that_lets_go(shell: list[str], begins: str, sent: bytes) -> None:
    """After its farewell the end of the sender means nothing, nor if there was no stdin."""
    with far_side(shell, 'run none sh -c "sleep 0.3; echo out"', begins) as child:
        got = outcome(child, sent)
    assert got == (b"out\n", [Event("ready"), Event("started"), Event("end", "0")], b"")


def test_frames(shell: list[str]) -> None:
    """Input in frames arrives byte for byte, whatever it looks like."""
    blob = secrets.token_bytes(500_000)
    with far_side(shell) as child:
        # without Q the sender has died, and the command may go before it has read all
        given = (
            quoted_lines("run frames cat") + frames(blob[:1], b"E\nQ\nS KILL\n", blob, b"\n", b"\0") + b"Q\n"
        )
        got = outcome(child, given)
    assert got[0] == blob[:1] + b"E\nQ\nS KILL\n" + blob + b"\n\0"
    assert got[1][-1] == Event("end", "0")


def test_end_of_the_sender_ends_the_group(shell: list[str]) -> None:
    """When stdin ends without Q, all of the group goes, also what ignores TERM."""
    with far_side(shell) as child:
        assert child.stdin is not None
        command = 'trap "" TERM; echo up; sleep 300 & sh -c "trap : TERM; sleep 300; sleep 300"; sleep 300'
        child.stdin.write(quoted_lines(f"run none sh -c '{command}'"))
        child.stdin.flush()
        assert child.stdout is not None
        while child.stdout.readline() != b"up\n":
            assert child.poll() is None
        assert len(group(child.pid)) >= 3
        child.stdin.close()
        child.wait(20)
        until(lambda: not group(child.pid), "the group to end")


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("KILL", 137), ("INT", 130), ("USR1", 138)])
def test_signals(shell: list[str], name: str, status: int) -> None:
    """A signal reaches the command's whole group, and the status is still told."""
    # what sh starts in the background ignores INT
    more = "" if name == "INT" else "sleep 300 &"
    with far_side(shell) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(quoted_lines(f"run none sh -c 'echo up; {more} exec sleep 300'"))
        child.stdin.flush()
        while child.stdout.readline() != b"up\n":
            assert child.poll() is None
        child.stdin.write(b"S %s\n" % name.encode())
        child.stdin.flush()
        lines = child.stdout.readlines()
        assert lines[-1].endswith(b" end %d\n" % status)
        # as sshd does: until then the shell seems to live
        child.wait(20)
        child.stdin.close()
        until(lambda: not group(child.pid), "the group to end")


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("/nonesuch", "ENOENT"),
        ("/etc/passwd", "ENOTDIR"),
        ("/etc/passwd/x", "ENOTDIR"),
        ("/no/such", "ENOENT"),
    ],
)
def test_enter(shell: list[str], directory: str, why: str) -> None:
    """A directory that cannot be entered refuses the command with the reason."""
    with far_side(shell) as child:
        out, events, err = outcome(child, quoted_lines(f"start_in {directory}\nrun none echo ran") + b"Q\n")
    assert (out, err) == (b"", b"")
    assert events == [Event("ready"), Event("refused", why)]


def test_nobody_asks(shell: list[str]) -> None:
    """A bootstrap whose stdin ends before a request goes without a trace."""
    for words in (b"", b"L2\nrun none echo ran\n", b"rubbish\n"):
        with far_side(shell) as child:
            out, events, err = outcome(child, words)
        assert (out, events, err) == (b"", [Event("ready")], b"")
