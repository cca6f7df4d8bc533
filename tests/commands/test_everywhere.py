"""A transport elsewhere: in other processes, after a fork, and where Ctrl-C comes: asyncio and notebooks."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from opensshtransport import AsyncTransport, Transport
from opensshtransport.errors import CommandFailed, CommandTimeout, MasterGone, SettingsError
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeShellNode
from tests.support.commands import python, sleepers, to
from tests.support.programs import ossh, runtime, until

# -- other processes -------------------------------------------------------------------------------------


def test_login_at_a_chosen_moment(own_node: Sandbox, keep: Keep) -> None:
    """`login` logs in before anything is asked, once; without leave to log in it is MasterGone."""
    with pytest.raises(MasterGone):
        keep(Transport(own_node.host, ssh_config=own_node.ssh_config, login=False)).login()
    there = to(own_node, keep)
    assert own_node.authentications() == 0
    assert there.login() is there
    assert own_node.authentications() == 1
    there.login()
    assert there.run("echo x").stdout == b"x\n"
    assert own_node.authentications() == 1

    async def main() -> None:
        async with AsyncTransport(own_node.host, ssh_config=own_node.ssh_config) as other:
            assert await other.login() is other

    asyncio.run(main())
    assert own_node.authentications() == 1


def test_pickled_by_host_and_options(own_node: Sandbox, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gets the same host and options, wherever it is, and nothing is opened for it."""
    monkeypatch.chdir(Path(own_node.ssh_config).parent)
    options = {"ssh_config": Path(own_node.ssh_config).name, "timeout": 9.0, "settings": {"persist": "1h"}}
    for made in (Transport(own_node.host, **options), AsyncTransport(own_node.host, **options)):  # type: ignore[arg-type]  # mixed options
        again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
        assert type(again) is type(made)
        assert repr(again) == repr(made)
        assert "1h" not in repr(made)
    raw = pickle.dumps(Transport(own_node.host, **options))  # type: ignore[arg-type]  # mixed options
    monkeypatch.chdir("/")
    moved: Transport = keep(pickle.loads(raw))  # noqa: S301 - our own
    assert own_node.connections() == 0
    assert moved.run("echo x").stdout == b"x\n"


POOL = """
    import multiprocessing, os, sys
    from concurrent.futures import ProcessPoolExecutor
    from opensshtransport import Transport
    from opensshtransport.errors import CommandFailed

    def one(there, number):
        if number == 3:
            there.run("echo no such queue >&2; exit 9", check=True)
        return os.getpid() != int(sys.argv[2]), there.run(f"echo {{number}}", text=True)

    if __name__ == "__main__":
        sys.argv[2:] = [str(os.getpid())] if len(sys.argv) < 3 else sys.argv[2:]
        there = Transport({host!r}, ssh_config={config!r}).login()
        there.run("true")
        with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool:
            futures = [pool.submit(one, there, number) for number in range(6)]
            for number, future in enumerate(futures):
                try:
                    elsewhere, done = future.result()
                    assert elsewhere and done.stdout == f"{{number}}\\n", done
                except CommandFailed as error:
                    assert number == 3 and error.returncode == 9 and "no such queue" in str(error)
        assert there.run("echo on").stdout == b"on\\n"
        there.close()
"""


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_process_pool(own_node: Sandbox, tmp_path: Path, way: str) -> None:
    """A transport goes to a pool's processes, results and errors come back, and there is one login."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(POOL.format(host=own_node.host, config=str(own_node.ssh_config))))
    done = subprocess.run(
        [sys.executable, str(program), way], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert own_node.authentications() == 1


FORKED = """
    import asyncio, os, sys
    from opensshtransport import AsyncTransport, Transport
    there = Transport({host!r}, ssh_config={config!r})
    other = AsyncTransport({host!r}, ssh_config={config!r})
    async def many():
        done = await asyncio.gather(*(other.run(f"echo {{n}}") for n in range(5)), other.exists("/"))
        return [getattr(one, "stdout", one) for one in done]
    def use(name):
        path = {top!r} + "/" + name
        with open(path, "wb") as file:
            file.write(name.encode())
        there.put(path, path + "-there")
        there.get(path + "-there", path + "-back")
        with there.start("cat", text=True) as process:
            assert process.communicate(name)[0] == name
        assert [one.stdout for one in there.run_many(["echo 1", "echo 2"])] == [b"1\\n", b"2\\n"]
        assert asyncio.run(many()) == [b"%d\\n" % n for n in range(5)] + [True]
        assert there.read_text(path + "-back") == name
    use("before")
    child = os.fork()
    use("child" if child == 0 else "parent")
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    use("after")
    there.close()
"""


def test_all_of_it_after_a_fork(own_node: Sandbox, tmp_path: Path) -> None:
    """Commands, files, transfers and asyncio work in a forked child and in its parent, at the same time."""
    python(FORKED.format(host=own_node.host, config=str(own_node.ssh_config), top=str(tmp_path)))
    assert own_node.authentications() == 1


# -- asyncio ---------------------------------------------------------------------------------------------


def test_the_same_names_to_await() -> None:
    """All that a Transport does can be awaited, and shows the same options."""
    own = {"connection", "commands", "master", "host"}
    for name, method in inspect.getmembers(Transport, inspect.isfunction):
        if not name.startswith("_") and name not in own:
            awaited = getattr(AsyncTransport, name)
            assert inspect.iscoroutinefunction(awaited) or name in {"walk", "forward"}, name
            if name in {"run", "put", "get"}:
                assert inspect.signature(awaited) == inspect.signature(method), name


def test_communicate_is_awaited(node: Sandbox) -> None:
    """Input and output together, a timeout after which nothing is lost, and files for the output."""

    async def main() -> None:
        async with AsyncTransport(node.host, ssh_config=node.ssh_config) as there:
            async with await there.start("cat; echo err >&2; exit 3") as process:
                out, err = await process.communicate(b"x" * (3 << 20), timeout=60)
                assert (len(out), err, process.returncode) == (3 << 20, b"err\n", 3)
                assert process.args == "cat; echo err >&2; exit 3"
                assert "returncode: 3" in repr(process)
            slow = await there.start(
                "echo a; sleep 1; echo b >&2", stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
            )
            async with slow:
                with pytest.raises(CommandTimeout):
                    await slow.communicate(timeout=0.2)
                assert await slow.communicate() == (b"a\nb\n", b"")
            with pytest.raises(SettingsError, match="streams are of bytes"):
                await there.start("true", text=True)  # type: ignore[call-arg]  # refused
            with pytest.raises(CommandFailed, match="no such queue"):
                await there.run("echo no such queue >&2; exit 1", check=True)

    asyncio.run(main())


ASYNC = """
    import asyncio, sys
    from opensshtransport import AsyncTransport
    def up(piece):
        sys.stdout.write("up\\n")
        sys.stdout.flush()
    async def main():
        async with AsyncTransport({host!r}, ssh_config={config!r}) as there:
            process = await there.start("sleep 300 & sleep 300")
            command = "echo up; sh -c 'trap \\"\\" TERM; while :; do sleep 300; done' & sleep 300"
            await asyncio.gather(
                there.run(command, stdout=up), process.communicate(), there.glob("/proc/*/task/*/fd/*")
            )
    asyncio.run(main())
"""


def test_ctrl_c_in_asyncio(make_shell_node: MakeShellNode) -> None:
    """Ctrl-C in `asyncio.run` ends all commands on the remote side, and leaves no ssh and no file here."""
    node, user = make_shell_node("bash")
    ossh("login", "-F", node.ssh_config, node.host)
    program = textwrap.dedent(ASYNC.format(host=node.host, config=str(node.ssh_config)))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGINT)
        child.wait(60)
        said = child.stderr.read().decode()
    assert child.returncode in {-signal.SIGINT, 130}, said
    assert said.splitlines()[-1] == "KeyboardInterrupt", said
    until(lambda: not sleepers(user), "the commands to end", timeout=60)
    assert not list(runtime().glob("run.*"))


# -- notebooks -------------------------------------------------------------------------------------------

# Drives a real kernel as a notebook does: a cell, its interruption, and another cell.
NOTEBOOK = """
    import json, os, subprocess, sys, time
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name="python3")
    def outcome(message):
        while True:
            reply = client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message:
                return reply["content"].get("ename") or reply["content"]["status"]
    def cell(code, interrupted=False):
        message = client.execute(code)
        while interrupted:
            heard = client.get_iopub_msg(timeout=60)
            if heard["msg_type"] == "stream" and "up" in heard["content"]["text"]:
                manager.interrupt_kernel()
                break
        return outcome(message)
    told = []
    try:
        for number, code in enumerate(json.loads(sys.stdin.read())):
            told.append(cell(code, interrupted="sleep 300" in code))
            print(json.dumps([code, told[-1]]), flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
"""

CELLS = [
    "import sys, os, threading, subprocess; from opensshtransport import Transport, AsyncTransport",
    "there = Transport({host!r}, ssh_config={config!r})",
    "other = AsyncTransport({host!r}, ssh_config={config!r})",
    "assert there.run('echo x', text=True).stdout == 'x\\n'; there.run('echo y', stdout=sys.stdout)",
    "there.run('echo up; sleep 300 & sleep 300', stdout=sys.stdout)",
    "process = there.start('sleep 300 & sleep 300'); print('up', flush=True); process.communicate()",
    "assert there.run('echo on').stdout == b'on\\n'; assert (await other.run('echo on')).stdout == b'on\\n'",
]


def test_ctrl_c_in_a_notebook(make_shell_node: MakeShellNode) -> None:
    """An interrupted cell is a KeyboardInterrupt, the next ones go on, and no command outlives the kernel.

    A cell that awaits is not interrupted here: ipykernel 7.4 does not even cancel an `asyncio.sleep`.
    """
    pytest.importorskip("ipykernel")
    node, user = make_shell_node("bash")
    ossh("login", "-F", node.ssh_config, node.host)
    cells = [one.format(host=node.host, config=str(node.ssh_config)) for one in CELLS]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(NOTEBOOK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        out, err = child.communicate(json.dumps(cells), timeout=110)
    told = [json.loads(line)[1] for line in out.splitlines()]
    interrupted = [
        ("KeyboardInterrupt", "CancelledError") if "sleep 300" in one else ("ok",) for one in cells
    ]
    assert len(told) == len(cells), err
    assert [(one, one in may) for one, may in zip(told, interrupted, strict=True) if one not in may] == []
    until(lambda: not sleepers(user), "the commands to end", timeout=60)
