"""Commands that run: streams, signals and the end of all their processes, blocking and awaited."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opensshtransport import AsyncTransport, CompletedCommand, Transport
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.errors import CommandTimeout, ConnectionLost
from opensshtransport.master.master import Master
from opensshtransport.openssh.destination import resolve
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions.channel import Channel, _open_channels
from opensshtransport.sessions.remote_kill import end_group
from tests.conftest import Keep, MakeShellNode
from tests.support.commands import MEBIBYTE, sleepers, to
from tests.support.nodes import config_through, shell_node
from tests.support.programs import ossh, runtime, until
from tests.support.relay import Relay
from tests.support.users import Startup, User, missing_for_users


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


# -- start ----------------------------------------------------------------------------------------------


def test_start_streams_both_ways(transport: Transport) -> None:
    """A conversation with a running command: each line is answered before the next is sent."""
    with transport.start("while read x; do echo got $x; echo err $x >&2; done; exit 9") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for number in range(20):
            assert process.poll() is None
            process.stdin.write(b"%d\n" % number)
            assert process.stdout.readline() == b"got %d\n" % number
            assert process.stderr.readline() == b"err %d\n" % number
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(20) == 9
        assert process.returncode == process.poll() == process.wait() == 9


def test_wait_with_a_timeout(transport: Transport) -> None:
    """`wait` that runs out of time raises TimeoutError, and the command goes on."""
    with transport.start("read x; exit $x") as process:
        assert process.stdin is not None
        for _ in range(2):
            with pytest.raises(TimeoutError):
                process.wait(0.05)
        assert process.returncode is None
        process.stdin.write(b"3\n")
        assert process.wait(20) == 3


@pytest.mark.parametrize(("way", "status"), [("terminate", 143), ("kill", 137)])
@pytest.mark.parametrize("stdin", [True, False])
def test_terminate_and_kill(transport: Transport, way: str, status: int, stdin: bool) -> None:
    """`terminate` and `kill` end the group with the status of that signal; what was printed is there."""
    process = transport.start("echo up; sleep 300 & sleep 300", stdin=stdin)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    getattr(process, way)()
    assert process.wait(20) == status
    getattr(process, way)()
    process.close()


def stuffed(transport: Transport, command: str) -> RemoteProcess:
    """A command that is up and reads none of the megabytes that a thread writes to it."""
    process = transport.start(f"echo up; {command}")

    def write() -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                assert process.stdin is not None
                process.stdin.write(b"x" * MEBIBYTE)

    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    # when all that lies between is full
    writer.join(1)
    assert writer.is_alive()
    return process


@pytest.mark.parametrize(("way", "status"), [("terminate", 143), ("kill", 137)])
def test_a_signal_passes_input_that_is_not_read(
    user_node: tuple[Sandbox, User], keep: Keep, way: str, status: int
) -> None:
    """`terminate` and `kill` reach a command whose input is full, and its status is reported."""
    node, user = user_node
    transport = to(node, keep)
    process = stuffed(transport, "sleep 300 & sleep 300")
    begin = time.monotonic()
    getattr(process, way)()
    assert process.wait(20) == status
    assert time.monotonic() - begin < 10
    process.close()
    transport.close()
    until(lambda: not sleepers(user), "the command to end")


def test_a_signal_where_sessions_are_few(keep: Keep) -> None:
    """The session that brings a signal past the input is had from those that are kept for later."""
    node = keep(Sandbox(server_options={"MaxSessions": "2"}))
    transport = to(node, keep)
    assert transport.exists("/")
    process = stuffed(transport, "exec sleep 300")
    process.terminate()
    assert process.wait(30) == 143
    process.close()


def test_an_ssh_that_was_killed_has_told_nothing(own_node: Sandbox, keep: Keep, tmp_path: Path) -> None:
    """Where our own ssh is killed before it heard of a session, it is unknown whether the command began."""
    relay = keep(Relay(own_node.port))
    config = config_through(own_node, relay)
    assert ossh("login", "-F", config, own_node.host).returncode == 0
    transport = keep(Transport(own_node.host, ssh_config=config))
    file = tmp_path / "ran"

    def asked() -> list[Channel]:
        mine = [one for one in _open_channels if one.log.path.parent == runtime()]
        return [one for one in mine if "mux_client_hello_exchange" in one.words()]

    relay.silence()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.run, f"echo ran >> {file}")
        until(lambda: bool(asked()), "the master to be asked")
        (ours,) = asked()
        ours.ssh.send_signal(signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="not known whether") as caught:
            waiting.result(60)
    assert caught.value.started is None
    relay.resume()
    assert transport.run("echo x", timeout=60).stdout == b"x\n"
    assert not file.exists() or file.read_text() == "ran\n"


def test_a_signal_comes_one_time(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """A signal that passes the input does not come again when the input is read."""
    node, user = user_node
    transport = to(node, keep)
    gate = user.home / "gate"
    gate.unlink(missing_ok=True)
    count = "trap 'echo caught' USR1; n=0"
    loop = f"until [ -e {gate} ] && [ $((n=n+1)) = 5 ]; do sleep 0.1; done; head -c {8 * MEBIBYTE} >/dev/null"
    process = stuffed(transport, f"{count}; {loop}; sleep 1; exit 7")
    assert process.stdout is not None
    for _ in range(2):
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"caught\n"
    gate.touch()
    assert process.wait(20) == 7
    assert process.stdout.read() == b""
    process.close()


def test_end_passes_input_that_is_not_read(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """`end` ends a command whose input is full, and what ignores TERM, as timeouts do."""
    node, user = user_node
    transport = to(node, keep)
    process = stuffed(transport, "sh -c 'trap \"\" TERM; while :; do sleep 300; done' & sleep 300")
    begin = time.monotonic()
    process.end(grace=1)
    assert time.monotonic() - begin < 12
    transport.close()
    until(lambda: not sleepers(user), "the command to end")


def test_leaving_the_block_ends_the_command(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """A `with` block that is left, by an error too, ends what still runs."""
    node, user = user_node
    transport = to(node, keep)
    with transport.start("sleep 300"):
        pass
    with pytest.raises(RuntimeError, match="mine"), transport.start("sleep 300 & sleep 300"):
        raise RuntimeError("mine")
    transport.close()
    until(lambda: not sleepers(user), "the commands to end")


def test_writing_to_a_command_that_has_ended(transport: Transport) -> None:
    """Writing goes on into nothing or raises BrokenPipeError, and never blocks; the status is reported."""
    process = transport.start("exit 4")
    assert process.stdin is not None
    begin = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(64):
            process.stdin.write(b"x" * MEBIBYTE)
    assert time.monotonic() - begin < 30
    assert process.wait(20) == 4
    with pytest.raises(BrokenPipeError):
        process.stdin.write(b"x")
    process.close()


# -- ending ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "echo up; sleep 300",
        "echo up; sleep 300 | sleep 300",
        "trap '' TERM; echo up; while :; do sleep 300; done",
        "echo up; sh -c 'trap \"\" TERM HUP INT; while :; do sleep 300; done' & wait",
        "echo up; sh -c 'trap \"\" TERM; sleep 300; :' & exec sleep 300",
    ],
    ids=["plain", "pipe", "ignores TERM", "a child ignores TERM", "only a child ignores TERM"],
)
@pytest.mark.parametrize("source", [None, b"input"])
def test_timeout_ends_the_whole_group(
    user_node: tuple[Sandbox, User],
    keep: Keep,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    source: bytes | None,
) -> None:
    """After the timeout all of the command's processes end, and the error has what was printed."""
    monkeypatch.setattr("opensshtransport.sessions.remote_kill.GRACE", 1.0)
    node, user = user_node
    transport = to(node, keep)
    transport.run("true")
    with pytest.raises(CommandTimeout) as caught:
        transport.run(command, timeout=1.5, input=source)
    assert isinstance(caught.value.completed, CompletedCommand)
    assert caught.value.completed.stdout == b"up\n"
    transport.close()
    until(lambda: not sleepers(user), "the command to end")


def test_no_grace_is_wasted(transport: Transport) -> None:
    """A command that ends by TERM is waited for no longer."""
    transport.run("true")
    for source in (None, b"input"):
        begin = time.monotonic()
        with pytest.raises(CommandTimeout):
            transport.run("sleep 300", timeout=0.5, input=source)
        assert time.monotonic() - begin < 3.5


def test_nobody_elses_processes(user_node: tuple[Sandbox, User], keep: Keep) -> None:
    """A search for a mark that no command has ends nothing, and one for a command ends no other."""
    node, user = user_node
    transport = to(node, keep)
    first, second = (transport.start("echo up; sleep 300") for _ in range(2))
    for process in (first, second):
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    master = Master(resolve(node.host, node.ssh_config))
    facts = master.facts()
    assert facts is not None
    assert end_group(master, facts, f"ossh_tag={secrets.token_hex(8)}")
    assert first.poll() is second.poll() is None
    assert end_group(master, facts, first._channel.sign, spared=True)
    assert first.wait(20) == 143
    assert second.poll() is None
    second.kill()
    for process in (first, second):
        process.close()
    transport.close()
    until(lambda: not sleepers(user), "the commands to end")


def test_timeout_before_the_start(make_shell_node: MakeShellNode, keep: Keep) -> None:
    """A command whose timeout passes while start-up files run does not run afterwards."""
    node, user = make_shell_node("bash", Startup(sleep=2.0))
    transport = to(node, keep)
    # the login's own questions have passed by then
    transport.run("true")
    transport.close()
    with Transport(node.host, ssh_config=node.ssh_config) as other:
        with pytest.raises(CommandTimeout):
            other.run("touch ran; sleep 300", timeout=0.5)
    until(lambda: not sleepers(user), "all to end")
    assert not (user.home / "ran").exists()


RUNS_LONG = """
    import sys
    from opensshtransport import Transport
    def up(piece):
        sys.stdout.write("up\\n")
        sys.stdout.flush()
    with Transport({host!r}, ssh_config={config!r}) as there:
        there.run({command!r}, stdout=up, input={source})
"""


@pytest.mark.parametrize("source", [None, b"input", b"x" * 8 * MEBIBYTE], ids=["none", "some", "megabytes"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_callers_end_is_the_commands(
    user_node: tuple[Sandbox, User], number: signal.Signals, source: bytes | None
) -> None:
    """A calling Python that is killed, or gets Ctrl-C, takes its remote commands with it."""
    node, user = user_node
    program = textwrap.dedent(
        RUNS_LONG.format(
            host=node.host,
            config=str(node.ssh_config),
            command="echo up; sh -c 'trap \"\" TERM; while :; do sleep 300; done' & sleep 300",
            source=None if source is None else f"b'x' * {len(source)}",
        )
    )
    ossh("login", "-F", node.ssh_config, node.host)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert len(sleepers(user)) >= 2
        child.send_signal(number)
        child.wait(40)
        assert child.returncode in {-number, 130}
    until(lambda: not sleepers(user), "the command to end", timeout=60)


# -- asyncio ---------------------------------------------------------------------------------------------


def test_start_is_awaited(node: Sandbox) -> None:
    """A conversation with a running command, its signals and its status, while the loop goes on."""

    async def main() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            async with await there.start(
                "while read x; do echo got $x; echo err $x >&2; done; exit 9"
            ) as talk:
                assert talk.stdin is not None
                for number in range(20):
                    assert await talk.poll() is None
                    await talk.stdin.write(b"%d\n" % number)
                    assert await talk.stdout.readline() == b"got %d\n" % number
                    assert await talk.stderr.readline() == b"err %d\n" % number
                await talk.stdin.close()
                assert await talk.stdout.read() == b""
                assert await talk.wait(20) == 9
                assert talk.returncode == await talk.poll() == await talk.wait() == 9
            for way, status in (("terminate", 143), ("kill", 137)):
                process = await there.start("echo up; sleep 300 & sleep 300", stdin=False)
                assert await process.stdout.readline() == b"up\n"
                with pytest.raises(TimeoutError):
                    await process.wait(0.05)
                await getattr(process, way)()
                assert await process.wait(20) == status
                await process.close()
            with pytest.raises(FileNotFoundError):
                await there.start("true", cwd="/nonesuch")
            process = await there.start(["head", "-c", str(4 * MEBIBYTE), "/dev/zero"])
            assert await process.stdout.read() == bytes(4 * MEBIBYTE)
            await process.close()

    asyncio.run(main())


def test_leaving_an_async_block_ends_the_command(user_node: tuple[Sandbox, User]) -> None:
    """An `async with` that is left ends what still runs, and so does a cancelled `start` and `wait`."""
    node, user = user_node

    async def main() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            async with await there.start("echo up; sleep 300 & sleep 300") as process:
                assert await process.stdout.readline() == b"up\n"
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.1)
            starting = [asyncio.ensure_future(there.start("sleep 300")) for _ in range(8)]
            await asyncio.sleep(0.02)
            for one in starting:
                one.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            assert any(one.cancelled() for one in starting)
            for one in starting:
                if not one.cancelled():
                    await one.result().end()

    asyncio.run(main())
    until(lambda: not sleepers(user), "the commands to end", timeout=40)


def test_many_processes_do_not_hold_up_the_loop(own_node: Sandbox, keep: Keep) -> None:
    """Processes that say nothing hold up neither the loop nor commands, as long as there are sessions."""

    async def main() -> None:
        async with AsyncTransport(own_node.host, ssh_config=own_node.ssh_config) as there:
            silent = [await there.start("read x; exit $x") for _ in range(6)]
            waits = [asyncio.ensure_future(one.wait()) for one in silent]
            reads = [asyncio.ensure_future(one.stdout.read()) for one in silent]
            done = await asyncio.gather(*(there.run(f"echo {n}") for n in range(100)))
            assert [one.stdout for one in done] == [b"%d\n" % n for n in range(100)]
            for number, one in enumerate(silent):
                assert one.stdin is not None
                await one.stdin.write(b"%d\n" % number)
            assert await asyncio.gather(*waits) == [*range(6)]
            assert await asyncio.gather(*reads) == [b""] * 6
            for one in silent:
                await one.close()

    asyncio.run(main())


@pytest.mark.parametrize("given", [None, b"some"], ids=["no input", "input"])
def test_the_shell_above_is_killed(transport: Transport, given: bytes | None) -> None:
    """Without the shell that reports the status, the connection counts as lost, and nothing waits forever."""
    with pytest.raises(ConnectionLost) as caught:
        transport.run("kill -9 $PPID; cat", input=given, timeout=60)
    assert caught.value.started is True


def test_quick_commands_with_input(transport: Transport) -> None:
    """Commands that end before all of their far half has started end all the same, on a busy machine too."""

    def one(_: int) -> int:
        return transport.run("exit 3", input=b"not read", timeout=60).returncode

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(one, range(300))) == {3}
