"""The contenders of `scripts/bench`, each doing the same operations its own way, over one open connection.

A contender that cannot do something lacks the row. What a row needs on either side is put there before each
repetition. There are rows of large files for each of the sizes in `LARGE`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench_server import Stage

from opensshtransport.openssh import command_lines, destination
from opensshtransport.transport import Transport

_T = TypeVar("_T")
Work = Callable[[], object]

# In MiB: for a quick run, for the round trips, for loopback.
LARGE = (64, 200, 512)


class Contender(Protocol):
    """Who is measured."""

    name: str

    def rows(self) -> dict[str, Work]:
        """What it does for each row."""

    def close(self) -> None:
        """Let go."""


def _large(put: Callable[[Path], object], get: Callable[[Path], object], stage: Stage) -> dict[str, Work]:
    """The rows of large files."""

    def one(move: Callable[[Path], object], side: str, size: int) -> Work:
        return lambda: move(stage.large(side, size))

    return {f"put {size} MB": one(put, "near", size) for size in LARGE} | {
        f"get {size} MB": one(get, "far", size) for size in LARGE
    }


class Ours:
    """This package."""

    name = "ours"

    def __init__(self, host: str, config: Path, stage: Stage) -> None:
        self.stage, self.transport = stage, Transport(host, ssh_config=config)

    def close(self) -> None:
        """Let go."""
        self.transport.close()

    def rows(self) -> dict[str, Work]:
        """What it does for each row."""
        stage, transport = self.stage, self.transport
        far, near = stage.far, stage.near
        return {
            "run": lambda: transport.run("true"),
            "stat": lambda: transport.stat(far / "small"),
            "mkdir": lambda: transport.mkdir(far / "new"),
            "listdir of 200": lambda: transport.listdir(far / "tree"),
            "scandir of 10,000": lambda: transport.scandir(stage.wide(10_000)),
            "glob of 200": lambda: transport.glob(f"{far}/tree/*"),
            "rmtree of 200": lambda: transport.rmtree(far / "doomed"),
            "copy of a file there": lambda: transport.copy(far / "small", far / "new"),
            "copy of 20 files there": lambda: transport.copy(far / "copied", far / "new"),
            "stat of 1,000": lambda: transport.stat_many(stage.paths),
            "put 1 KB": lambda: transport.put(near / "small", far / "new"),
            "get 1 KB": lambda: transport.get(far / "small", near / "new"),
            "put 200 of 1 KB": lambda: transport.put(near / "tree", far / "new"),
            "get 200 of 1 KB": lambda: transport.get(far / "tree", near / "new"),
            "put 10,000 of 1 KB": lambda: transport.put(stage.many("near", 10_000), far / "new"),
            "get 10,000 of 1 KB": lambda: transport.get(stage.many("far", 10_000), near / "new"),
        } | _large(
            lambda path: transport.put(path, far / "new"),
            lambda path: transport.get(path, near / "new"),
            stage,
        )


class OpenSsh:
    """The programs themselves, on the same master."""

    name = "ssh, scp"

    def __init__(self, host: str, config: Path, stage: Stage, socket: str) -> None:
        self.stage, self.host = stage, host
        self.ssh = ["ssh", "-F", str(config), "-S", socket]
        self.copying = ["-F", str(config), "-o", f"ControlPath={command_lines.literal(Path(socket))}", "-q"]

    def close(self) -> None:
        """Nothing is open."""

    def _local(self, *argv: str | Path, stdin: str = "") -> None:
        # no timeout: with one, Python looks only every 50 ms whether the program has ended
        subprocess.run(list(map(str, argv)), input=stdin.encode(), stdout=subprocess.DEVNULL, check=True)

    def _ssh(self, command: str) -> None:
        self._local(*self.ssh, self.host, command)

    def _scp(self, *operands: str | Path) -> None:
        self._local("scp", *self.copying, "-r", *operands)

    def _there(self, path: Path) -> str:
        return f"{self.host}:{path}"

    def rows(self) -> dict[str, Work]:
        """What they do for each row, as one would type it."""
        stage = self.stage
        far, near = stage.far, stage.near
        return {
            "run": lambda: self._ssh("true"),
            "stat": lambda: self._ssh(f"stat {far}/small"),
            "mkdir": lambda: self._ssh(f"mkdir {far}/new"),
            "listdir of 200": lambda: self._ssh(f"ls -a {far}/tree"),
            "scandir of 10,000": lambda: self._ssh(f"ls -la {stage.wide(10_000)}"),
            "glob of 200": lambda: self._ssh(f"ls -d {far}/tree/*"),
            "rmtree of 200": lambda: self._ssh(f"rm -r {far}/doomed"),
            "copy of a file there": lambda: self._ssh(f"cp {far}/small {far}/new"),
            "copy of 20 files there": lambda: self._ssh(f"cp -r {far}/copied {far}/new"),
            "stat of 1,000": lambda: self._ssh(f"stat {far}/paths/*"),
            "put 1 KB": lambda: self._scp(near / "small", self._there(far / "new")),
            "get 1 KB": lambda: self._scp(self._there(far / "small"), near / "new"),
            "put 200 of 1 KB": lambda: self._scp(near / "tree", self._there(far / "new")),
            "get 200 of 1 KB": lambda: self._scp(self._there(far / "tree"), near / "new"),
            "put 10,000 of 1 KB": lambda: self._scp(stage.many("near", 10_000), self._there(far / "new")),
            "get 10,000 of 1 KB": lambda: self._scp(self._there(stage.many("far", 10_000)), near / "new"),
        } | _large(
            lambda path: self._scp(path, self._there(far / "new")),
            lambda path: self._scp(self._there(path), near / "new"),
            stage,
        )


class Sftp(OpenSsh):
    """The program sftp, on the same master."""

    name = "sftp"

    def _batch(self, line: str) -> None:
        self._local("sftp", *self.copying, "-b", "-", self.host, stdin=line + "\n")

    def rows(self) -> dict[str, Work]:
        """Rows of content alone."""
        stage = self.stage
        far, near = stage.far, stage.near

        def put(source: Callable[[], Path]) -> Work:
            return lambda: self._batch(f"put -r {source()} {far}/new")

        def get(source: Callable[[], Path]) -> Work:
            return lambda: self._batch(f"get -r {source()} {near}/new")

        return {
            "put 1 KB": put(lambda: near / "small"),
            "get 1 KB": get(lambda: far / "small"),
            "put 200 of 1 KB": put(lambda: near / "tree"),
            "get 200 of 1 KB": get(lambda: far / "tree"),
            "put 10,000 of 1 KB": put(lambda: stage.many("near", 10_000)),
            "get 10,000 of 1 KB": get(lambda: stage.many("far", 10_000)),
        } | _large(
            lambda path: self._batch(f"put {path} {far}/new"),
            lambda path: self._batch(f"get {path} {near}/new"),
            stage,
        )


class Pipes(OpenSsh):
    """What an experienced user pipes through ssh: cat and tar."""

    name = "cat, tar"

    def _piped(self, line: str) -> None:
        self._local("/bin/sh", "-c", line)

    def rows(self) -> dict[str, Work]:
        """Rows of content alone."""
        stage = self.stage
        far, near = stage.far, stage.near
        ssh = shlex.join([*self.ssh, self.host])

        def put(path: Path) -> None:
            self._piped(f"{ssh} 'cat >{far}/new' <{path}")

        def get(path: Path) -> None:
            self._piped(f"{ssh} cat {path} >{near}/new")

        def put_tree(tree: Path) -> None:
            self._piped(f"tar -C {tree} -cf - . | {ssh} 'mkdir {far}/new && tar -C {far}/new -xf -'")

        def get_tree(tree: Path) -> None:
            self._piped(f"mkdir {near}/new && {ssh} tar -C {tree} -cf - . | tar -C {near}/new -xf -")

        return {
            "put 1 KB": lambda: put(near / "small"),
            "get 1 KB": lambda: get(far / "small"),
            "put 200 of 1 KB": lambda: put_tree(near / "tree"),
            "get 200 of 1 KB": lambda: get_tree(far / "tree"),
            "put 10,000 of 1 KB": lambda: put_tree(stage.many("near", 10_000)),
            "get 10,000 of 1 KB": lambda: get_tree(stage.many("far", 10_000)),
        } | _large(put, get, stage)


class Rsync(OpenSsh):
    """rsync over the same master."""

    name = "rsync"

    def _rsync(self, *operands: str | Path) -> None:
        self._local("rsync", "-r", "--whole-file", "-e", shlex.join(self.ssh), *operands)

    def rows(self) -> dict[str, Work]:
        """Rows of content alone."""
        stage = self.stage
        far, near = stage.far, stage.near
        return {
            "put 1 KB": lambda: self._rsync(near / "small", self._there(far / "new")),
            "get 1 KB": lambda: self._rsync(self._there(far / "small"), near / "new"),
            "put 200 of 1 KB": lambda: self._rsync(f"{near}/tree/", self._there(far / "new")),
            "get 200 of 1 KB": lambda: self._rsync(f"{self._there(far / 'tree')}/", near / "new"),
            "put 10,000 of 1 KB": lambda: self._rsync(
                f"{stage.many('near', 10_000)}/", self._there(far / "new")
            ),
            "get 10,000 of 1 KB": lambda: self._rsync(
                f"{self._there(stage.many('far', 10_000))}/", near / "new"
            ),
        } | _large(
            lambda path: self._rsync(path, self._there(far / "new")),
            lambda path: self._rsync(self._there(path), near / "new"),
            stage,
        )


class AsyncSsh:
    """asyncssh, with one connection and one sftp session that stay open."""

    name = "asyncssh"

    def __init__(self, host: str, config: Path, stage: Stage) -> None:
        import asyncssh

        self.stage = stage
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        resolved = _resolved(host, config)

        async def connect() -> tuple[Any, Any]:
            connection = await asyncssh.connect(
                resolved.hostname,
                resolved.port,
                username=resolved.user,
                client_keys=[resolved.get("identityfile")],
                known_hosts=None,
                config=None,
            )
            return connection, await connection.start_sftp_client()

        self.connection, self.sftp = self._wait(connect())

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(900)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        self._wait(self.connection.wait_closed())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def rows(self) -> dict[str, Work]:
        """What its interface has for each row."""
        stage, sftp = self.stage, self.sftp
        far, near = str(stage.far), str(stage.near)

        def work(make: Callable[[], Coroutine[Any, Any, object]]) -> Work:
            return lambda: self._wait(make())

        async def stats() -> None:
            await asyncio.gather(*(sftp.stat(path) for path in stage.paths))

        return {
            "run": work(lambda: self.connection.run("true")),
            "stat": work(lambda: sftp.stat(f"{far}/small")),
            "mkdir": work(lambda: sftp.mkdir(f"{far}/new")),
            "listdir of 200": work(lambda: sftp.listdir(f"{far}/tree")),
            "scandir of 10,000": work(lambda: sftp.readdir(str(stage.wide(10_000)))),
            "glob of 200": work(lambda: sftp.glob(f"{far}/tree/*")),
            "rmtree of 200": work(lambda: sftp.rmtree(f"{far}/doomed")),
            "copy of a file there": work(lambda: sftp.copy(f"{far}/small", f"{far}/new")),
            "copy of 20 files there": work(lambda: sftp.copy(f"{far}/copied", f"{far}/new", recurse=True)),
            "stat of 1,000": work(stats),
            "put 1 KB": work(lambda: sftp.put(f"{near}/small", f"{far}/new")),
            "get 1 KB": work(lambda: sftp.get(f"{far}/small", f"{near}/new")),
            "put 200 of 1 KB": work(lambda: sftp.put(f"{near}/tree", f"{far}/new", recurse=True)),
            "get 200 of 1 KB": work(lambda: sftp.get(f"{far}/tree", f"{near}/new", recurse=True)),
        } | _large(
            lambda path: self._wait(sftp.put(str(path), f"{far}/new")),
            lambda path: self._wait(sftp.get(str(path), f"{near}/new")),
            stage,
        )


class Paramiko:
    """paramiko, with one connection and one sftp session that stay open."""

    name = "paramiko"

    def __init__(self, host: str, config: Path, stage: Stage) -> None:
        import paramiko

        self.stage = stage
        resolved = _resolved(host, config)
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self.client.connect(
            resolved.hostname,
            resolved.port,
            resolved.user,
            key_filename=resolved.get("identityfile"),
            allow_agent=False,
            look_for_keys=False,
        )
        self.sftp = self.client.open_sftp()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _run(self) -> None:
        _, out, _ = self.client.exec_command("true")
        out.channel.recv_exit_status()

    def _put_all(self, tree: Path) -> None:
        self.sftp.mkdir(f"{self.stage.far}/new")
        for path in tree.iterdir():
            self.sftp.put(str(path), f"{self.stage.far}/new/{path.name}")

    def _get_all(self) -> None:
        (self.stage.near / "new").mkdir()
        for name in self.sftp.listdir(f"{self.stage.far}/tree"):
            self.sftp.get(f"{self.stage.far}/tree/{name}", f"{self.stage.near}/new/{name}")

    def _rmtree(self) -> None:
        for name in self.sftp.listdir(f"{self.stage.far}/doomed"):
            self.sftp.remove(f"{self.stage.far}/doomed/{name}")
        self.sftp.rmdir(f"{self.stage.far}/doomed")

    def rows(self) -> dict[str, Work]:
        """What its interface has for each row."""
        stage, sftp = self.stage, self.sftp
        far, near = str(stage.far), str(stage.near)
        return {
            "run": self._run,
            "stat": lambda: sftp.stat(f"{far}/small"),
            "mkdir": lambda: sftp.mkdir(f"{far}/new"),
            "listdir of 200": lambda: sftp.listdir(f"{far}/tree"),
            "scandir of 10,000": lambda: sftp.listdir_attr(str(stage.wide(10_000))),
            "rmtree of 200": self._rmtree,
            "put 1 KB": lambda: sftp.put(f"{near}/small", f"{far}/new"),
            "get 1 KB": lambda: sftp.get(f"{far}/small", f"{near}/new"),
            "put 200 of 1 KB": lambda: self._put_all(stage.near / "tree"),
            "get 200 of 1 KB": self._get_all,
        } | _large(
            lambda path: sftp.put(str(path), f"{far}/new"),
            lambda path: sftp.get(str(path), f"{near}/new"),
            stage,
        )


class Fabric:
    """Fabric, which is paramiko underneath, for what it does its own way."""

    name = "Fabric"

    def __init__(self, host: str, config: Path, stage: Stage) -> None:
        import fabric

        self.stage = stage
        resolved = _resolved(host, config)
        self.connection = fabric.Connection(
            resolved.hostname,
            user=resolved.user,
            port=resolved.port,
            config=fabric.Config(runtime_ssh_path=os.devnull),
            connect_kwargs={
                "key_filename": resolved.get("identityfile"),
                "allow_agent": False,
                "look_for_keys": False,
            },
        )
        self.connection.open()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def rows(self) -> dict[str, Work]:
        """What its interface has for each row."""
        near, far = self.stage.near, self.stage.far
        return {
            "run": lambda: self.connection.run("true", hide=True, in_stream=False),
            "put 1 KB": lambda: self.connection.put(str(near / "small"), f"{far}/new"),
            "get 1 KB": lambda: self.connection.get(f"{far}/small", f"{near}/new"),
        }


def _resolved(host: str, config: Path) -> destination.Resolved:
    return destination.resolve(host, config).resolved
