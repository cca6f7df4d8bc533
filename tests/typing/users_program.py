"""What a user may write, as mypy and pyright read it; `test_typing` runs both on it. It is never run."""

from __future__ import annotations

import subprocess
import sys
from typing import IO, Any

from typing_extensions import assert_type

from opensshtransport import AsyncTransport, CompletedCommand, RemoteProcess, Transport
from opensshtransport.errors import CommandFailed, CommandTimeout


def commands(there: Transport, maybe: bool, name: str | None) -> None:
    """Which results are of bytes, and which of text."""
    assert_type(there.run("date"), CompletedCommand[bytes])
    assert_type(there.run(["date", "-u"], text=False, encoding=None), CompletedCommand[bytes])
    assert_type(there.run("date", text=True), CompletedCommand[str])
    assert_type(there.run("date", universal_newlines=True, check=True), CompletedCommand[str])
    assert_type(there.run("date", encoding="utf-8", timeout=3, cwd="some"), CompletedCommand[str])
    assert_type(there.run("date", errors="replace", capture_output=True), CompletedCommand[str])
    assert_type(there.run("date", text=maybe), CompletedCommand[Any])
    assert_type(there.run("date", encoding=name), CompletedCommand[Any])
    assert_type(there.run("date", text=True).stdout.splitlines()[0], str)
    assert_type(there.run("date").stdout.split(b" ")[0], bytes)
    assert_type(there.login(), Transport)
    there.run("cat", input="text", stderr=subprocess.STDOUT, stdout=sys.stdout.buffer)
    seen: list[bytes] = []
    there.run("cat", stdin=subprocess.DEVNULL, stdout=seen.append, env={"A": "b"}, once="key")


def processes(there: Transport) -> None:
    """Which processes are of bytes, and which of text."""
    with there.start("cat") as process:
        assert_type(process, RemoteProcess[bytes])
        assert_type(process.stdout, IO[bytes] | None)
        assert_type(process.communicate(b"x", timeout=3), tuple[bytes, bytes])
    with there.start("cat", text=True, stderr=subprocess.STDOUT) as other:
        assert_type(other, RemoteProcess[str])
        assert_type(other.communicate("x")[0], str)


def errors(there: Transport) -> None:
    """Handlers that were written for subprocess."""
    try:
        there.run("date", check=True, timeout=3)
    except CommandFailed as error:
        as_subprocess_has_it: subprocess.CalledProcessError = error
        assert_type(as_subprocess_has_it.returncode, int)
        assert_type(error.stderr.splitlines(), list[str])
    except CommandTimeout as error:
        timed_out: subprocess.TimeoutExpired = error
        assert isinstance(timed_out, TimeoutError)


def transfers(there: Transport) -> None:
    """The options of `put` and `get`."""
    there.put("a", "b", recursive=True, preserve=True, progress=True, exclude=["*.o"], limit_rate=1e6)
    assert_type(there.get("a", way="tar").files, int)


async def awaited(there: AsyncTransport) -> None:
    """The same to await."""
    assert_type(await there.run("date", text=True), CompletedCommand[str])
    assert_type(await there.run("date"), CompletedCommand[bytes])
    assert_type(await there.exists("a"), bool)
    await there.put("a", "b", verify=True)
    async with await there.start("cat") as process:
        assert_type(await process.communicate(b"x"), tuple[bytes, bytes])
