"""`RemoteShell` and `Shells`: many who ask at once, what is given up, and connections that are lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opensshtransport import AsyncTransport, Transport
from opensshtransport.errors import CommandTimeout, ConnectionFailed, ConnectionLost
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.destination import resolve
from opensshtransport.remote.marks import Event, Stream
from opensshtransport.remote.paths import quoted
from opensshtransport.remote.scripts import far_half
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions.requests import Deadline, Request
from tests.conftest import Keep, require
from tests.support.contracts import NAMES
from tests.support.nodes import config_through, missing_programs, shell_node
from tests.support.programs import until, write_settings
from tests.support.relay import Relay
from tests.support.users import Startup, User, missing_for_users, temporary_user


@pytest.fixture(scope="module")
def user_node(passable: Path) -> Iterator[tuple[Sandbox, User]]:
    """A node of a user of this module's own, whose processes can be counted."""
    require(missing_for_users())
    with shell_node(passable, "bash") as made:
        yield made


@pytest.fixture
def there(user_node: tuple[Sandbox, User], keep: Keep) -> Transport:
    """A transport to it."""
    return keep(Transport(user_node[0].host, ssh_config=user_node[0].ssh_config))


@pytest.fixture
def pipe(user_node: tuple[Sandbox, User]) -> Iterator[Path]:
    """A named pipe that nobody writes to: reading it blocks forever."""
    path = user_node[1].home / f"pipe{secrets.token_hex(4)}"
    os.mkfifo(path)
    path.chmod(0o644)
    yield path
    path.unlink()


def at_work(user: User, word: str) -> list[int]:
    """The user's processes with a word in their command line, but for the shells that have it in a script."""
    found = []
    for pid in user.processes():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if word.encode() in line and b"ossh_" not in line:
                found.append(pid)
    return found


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def sessions(transport: Transport) -> int:
    """How many sessions are in use."""
    return Slots(transport.connection.master).in_use()


# -- the remote side's half, in each shell that may be /bin/sh there ---------------------------------------


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
@pytest.mark.parametrize("applets", [False, True], ids=["gnu", "busybox"])
def test_requests_in_each_sh(shell: str, applets: bool, tmp_path: Path) -> None:
    """Whatever /bin/sh is: each name and content arrives; replies come in order with errors and status."""
    require(missing_programs(shell.split(maxsplit=1)[0], "busybox"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if applets:
        (tmp_path / "bin").mkdir()
        subprocess.run(["busybox", "--install", "-s", tmp_path / "bin"], check=True)
        environment["PATH"] = f"{tmp_path}/bin:{environment['PATH']}"
    far = tmp_path / "far"
    far.mkdir()
    requests, wanted = [], []
    for name in NAMES:
        content = os.fsencode(name)
        path = quoted(f"far/{name}")
        requests += [
            Request(script=f"d=1\nwrite {len(content)} 666 yes {path}", payload=content, reads=False),
            Request(script=f"read_ {path}"),
            Request(script=f"# {'x' * 5000}\nprintf %s {path}"),
            Request(script="echo out; echo e1 >&2; echo e2 >&2; exit 3", payload=b"left unread"),
            Request(script="fail EPERM", payload=b"u" * 1_100_000),
        ]
        wanted += [
            *((b"", b"", 0), (content, b"", 0), (b"far/" + content, b"", 0)),
            *((b"out\n", b"e1\ne2", 3), (b"", b"ossh: EPERM", 1)),
        ]
    script = f"ossh_mark=mark\n{far_half()}\nserve"
    done = subprocess.run(
        [*shell.split(), "-c", script],
        input=b"".join(request.head + request.payload for request in requests),
        env=environment,
        capture_output=True,
        check=True,
    )
    stream = Stream("mark")
    list(stream.feed(b"mark ready\n"))
    replies, parts = [], [b"", b""]
    half = 0
    for part in stream.feed(done.stdout.partition(b"mark started\n")[2]):
        if not isinstance(part, Event):
            parts[half] += part
        elif part.kind == "errors":
            half = 1
        else:
            replies.append((parts[0], parts[1], int(part.value)))
            parts, half = [b"", b""], 0
    assert replies == wanted
    assert {os.fsencode(path.name) for path in far.iterdir()} == {os.fsencode(name) for name in NAMES}


def test_start_up_file_that_goes_elsewhere(passable: Path, keep: Keep) -> None:
    """Relative paths are relative to the home directory, wherever a start-up file is gone."""
    require(missing_for_users())
    startup = Startup(stdout="welcome\n", stderr="hello\n", lines="cd /\n")
    node, user = keep(shell_node(passable, "bash", startup=startup))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    assert there.realpath(".") == str(user.home)
    assert there.home() == str(user.home)


# -- many at once --------------------------------------------------------------------------------------


def test_many_threads_on_one_shell(there: Transport) -> None:
    """Requests of 16 threads go pipelined through one session; each gets its own reply."""
    there.mkdir("many", exist_ok=True)

    def work(number: int) -> None:
        for turn in range(8):
            content = os.urandom(number * 1000 + turn)
            there.write_bytes(f"many/{number}", content)
            assert there.read_bytes(f"many/{number}") == content
            assert there.stat(f"many/{number}").size == len(content)
            assert not there.exists(f"many/{number}x")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert sessions(there) == 1
    assert len(there.listdir("many")) == 16
    there.rmtree("many")


def test_slow_requests_hold_up_no_others(
    there: Transport, pipe: Path, user_node: tuple[Sandbox, User]
) -> None:
    """While one thread waits for a pipe that nobody writes to, others are served by another session."""
    waiting = threading.Thread(target=lambda: there.read_bytes(pipe), daemon=True)
    waiting.start()
    until(lambda: bool(at_work(user_node[1], pipe.name)), "the pipe to be read")
    time.sleep(0.35)  # so long it is not yet taken for slow
    for _ in range(5):
        assert there.exists("~")
    assert waiting.is_alive()
    pipe.open("w").close()
    waiting.join(20)
    assert not waiting.is_alive()


def test_one_session_for_all(passable: Path, keep: Keep) -> None:
    """With MaxSessions 1 commands and file operations take turns: an idle shell gives its session back."""
    require(missing_for_users())
    user = keep(temporary_user(passable, "dash"))
    node = keep(Sandbox("one", user.name, server_options={"MaxSessions": "1"}))
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    for number in range(3):
        there.write_text("f", str(number))
        assert there.run("cat f").stdout == str(number).encode()
    with ThreadPoolExecutor(4) as pool:
        told = list(
            pool.map(lambda number: [there.exists("f"), there.run(f"exit {number}").returncode], range(4))
        )
    assert told == [[True, number] for number in range(4)]


def test_idle_shell_is_given_back(there: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that nobody uses is closed, and opened again for the next request."""
    assert there.exists("~")
    (shell,) = there._shells._shells
    assert sessions(there) == 1
    monkeypatch.setattr(shell, "_idle_for", 0.0)
    until(lambda: sessions(there) == 0, "the session to be given back")
    assert there.exists("~")


def test_nothing_is_left_open(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """Transports that come and go leave no descriptor, no thread and no session."""
    keep(Transport(user_node[0].host, ssh_config=user_node[0].ssh_config)).home()

    def once() -> None:
        with Transport(user_node[0].host, ssh_config=user_node[0].ssh_config) as transport:
            assert transport.exists("~")

    once()
    before = descriptors()
    for _ in range(5):
        once()
    until(lambda: descriptors() <= before, "the descriptors to be closed")


# -- given up ------------------------------------------------------------------------------------------


def test_timeout(user_node: tuple[Sandbox, User], pipe: Path, keep: Keep) -> None:
    """What takes too long is ended there; the next request gets its own reply from another shell."""
    node, user = user_node
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    for _ in range(2):
        # the session is opened, and the other one too, for which a busy machine takes its time
        assert there.whoami() == user.name
        there._timeout = 1.0
        # what is told is what was asked for, however much of it had gone when the request was sent
        with pytest.raises(CommandTimeout, match=r"no reply within 1 s\b"):
            there.read_bytes(pipe)
        there._timeout = None
    hasty = keep(Transport(node.host, ssh_config=node.ssh_config, timeout=1.0))
    with pytest.raises(CommandTimeout, match=r"within 1 s\b"):
        hasty.read_bytes(pipe)
    until(lambda: not at_work(user, pipe.name), "the readers to end")


def test_timeout_while_sending(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """A network that takes nothing more does not hold up a write beyond its timeout."""
    node, _ = user_node
    write_settings('[host."*"]\nserver_alive_interval = 1\nserver_alive_count_max = 3\ncheck_timeout = 2\n')
    relay = keep(Relay(node.port))
    there = keep(Transport(node.host, ssh_config=config_through(node, relay)))
    assert there.exists("~")
    relay.silence()
    there._timeout = 1.0
    begin = time.monotonic()
    with pytest.raises(CommandTimeout):
        there.write_bytes("never", b"x" * 30_000_000)
    assert time.monotonic() - begin < 4
    relay.resume()
    there._timeout = 30.0
    assert there.exists("never") is False


def test_others_behind_what_is_given_up(user_node: tuple[Sandbox, User], pipe: Path, keep: Keep) -> None:
    """Who only reads, and waits behind a request that is given up, is served by another shell."""
    node, user = user_node
    there = keep(Transport(node.host, ssh_config=node.ssh_config))
    assert there.exists("~")
    (shell,) = there._shells._shells
    hung = shell.ask(Request(script=f"read_ {quoted(pipe)}"))
    behind = shell.ask(Request(script="echo behind"))
    with pytest.raises(CommandTimeout):
        shell.reply(hung, Deadline.after(0.2))
    with pytest.raises(ConnectionFailed, match="asked elsewhere"):
        shell.reply(behind, Deadline.after(20))
    assert there.home() == str(user.home)


def test_keyboard_interrupt(user_node: tuple[Sandbox, User], pipe: Path, there: Transport) -> None:
    """Ctrl-C ends the request there, and the next one gets its own reply."""
    _, user = user_node
    assert there.exists("~")

    def interrupt() -> None:
        until(lambda: bool(at_work(user, pipe.name)), "the pipe to be read")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        there.read_bytes(pipe)
    thread.join()
    assert there.home() == str(user.home)
    until(lambda: not at_work(user, pipe.name), "the reader to end")


async def until_at_work(user: User, word: str, wanted: bool) -> None:
    """Wait until the user's processes with a word are there, or gone."""
    await asyncio.to_thread(until, lambda: bool(at_work(user, word)) is wanted, f"{word} at work: {wanted}")


def test_cancelled_task(user_node: tuple[Sandbox, User], pipe: Path) -> None:
    """A cancelled task ends its request there, and holds neither a thread nor a session."""
    node, user = user_node

    async def scenario() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            assert await there.exists("~")
            for _ in range(3):
                task = asyncio.ensure_future(there.read_bytes(pipe))
                await until_at_work(user, pipe.name, True)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await there.home() == str(user.home)
                await until_at_work(user, pipe.name, False)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(there.read_bytes(pipe), 0.3)
            assert await there.is_dir("~")

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_forked_child(user_node: tuple[Sandbox, User], there: Transport) -> None:
    """A forked child opens a session of its own; what it does disturbs no reply of the parent's."""
    _, user = user_node
    assert there.exists("~")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.write(writer, there.home().encode())
            status = 0 if there.exists("~") else 2
            there.close()
        os._exit(status)
    os.close(writer)
    for _ in range(20):
        assert there.exists("~")
    with os.fdopen(reader) as told:
        assert told.read() == str(user.home)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert there.listdir("/") == sorted(path.name for path in Path("/").iterdir())


# -- lost ----------------------------------------------------------------------------------------------


def kill_master(transport: Transport) -> None:
    """Kill it, and wait until it is gone."""
    master: Master = transport.connection.master
    facts = master.facts()
    assert facts is not None
    found = subprocess.run(
        ["ssh", "-F", "none", "-S", facts.socket, "-O", "check", "x"],
        capture_output=True,
        text=True,
        check=True,
    )
    pid = int(found.stderr.partition("pid=")[2].partition(")")[0])
    os.kill(pid, signal.SIGKILL)
    until(
        lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(),
        "its end",
    )


def test_reading_after_the_master_died(there: Transport) -> None:
    """A dead master costs a new login and no more: what reads is asked again, never told as missing."""
    assert there.exists("~")
    questions: list[Callable[[str], object]] = [there.exists, there.is_dir, there.stat]
    for question in questions:
        kill_master(there)
        assert question("~")


@pytest.mark.parametrize("fault", ["master", "relay"])
@pytest.mark.parametrize("changes", [False, True], ids=["reads", "changes"])
def test_lost_within_an_operation(
    user_node: tuple[Sandbox, User], pipe: Path, keep: Keep, fault: str, changes: bool
) -> None:
    """Lost on the way: reading requests are repeated after a login; for changes the outcome is unknown."""
    node, user = user_node
    relay = keep(Relay(node.port))
    there = keep(Transport(node.host, ssh_config=config_through(node, relay)))
    assert there.exists("~")
    with ThreadPoolExecutor(1) as pool:
        work: Callable[[], object] = (
            (lambda: there.write_bytes(pipe, b"x" * 200_000)) if changes else (lambda: there.read_bytes(pipe))
        )
        if changes:
            # as the user: root's pipe is not theirs to write; more than it holds is stuck in there
            os.chown(pipe, user.uid, user.uid)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        future = pool.submit(work)
        until(lambda: bool(at_work(user, "cat")), "the pipe to be opened")
        relay.cut() if fault == "relay" else kill_master(there)
        if changes:
            with pytest.raises(ConnectionLost) as caught:
                future.result(30)
            assert caught.value.started is None
            os.close(reader)
        else:
            until(lambda: bool(at_work(user, pipe.name)), "the pipe to be read again")
            until(lambda: answered(pipe, future.done), "the reply")
            assert future.result() in (b"here", b"")
    assert there.exists("~") is True


def answered(pipe: Path, done: Callable[[], bool]) -> bool:
    """Write to a pipe for any reader; returns whether the reply has arrived."""
    with contextlib.suppress(OSError):
        number = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        os.write(number, b"here")
        os.close(number)
    return done()


def test_unreachable_is_not_missing(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """Where no connection is available at all, no question about a file is answered by False."""
    node, _ = user_node
    relay = keep(Relay(node.port))
    there = keep(Transport(node.host, ssh_config=config_through(node, relay)))
    assert there.exists("~")
    relay.refuse()
    relay.cut()
    for question in (there.exists, there.lexists, there.is_file, there.is_dir, there.is_symlink, there.stat):
        with pytest.raises(ConnectionFailed) as caught:
            question("~")
        assert not isinstance(caught.value, FileNotFoundError)
    assert resolve(node.host, node.ssh_config).host == node.host
