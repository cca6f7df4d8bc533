"""Who is measured by `scripts/bench`, each doing the same operations its own way, over one open connection.

A contender that has no way to do something lacks the row. What a row needs on either side is put there before
each time.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from opensshtransport import openssh
from opensshtransport.transport import Transport

_T = TypeVar("_T")
Work = Callable[[], object]


class Stage:
    """What is there to be worked on: `near` here, `far` on the server, which is this machine."""

    def __init__(self, near: Path, far: Path, owner: int) -> None:
        self.near, self.far, self.owner = near, far, owner
        self._fill(far, "tree", 200)
        self._fill(near, "tree", 200)
        self._fill(far, "copied", 20)
        self._fill(far, "paths", 1000, size=0)
        self.paths = [str(far / "paths" / f"{number:05}") for number in range(1000)]
        self.file("near", "small", 1024)
        self.file("far", "small", 1024)

    def _fill(self, top: Path, name: str, count: int, size: int = 1024) -> None:
        (top / name).mkdir()
        for number in range(count):
            (top / name / f"{number:05}").write_bytes(os.urandom(size))
        self._own(top / name)

    def _own(self, path: Path) -> None:
        for one in (path, *path.rglob("*")):
            os.chown(one, self.owner, -1)

    def file(self, side: str, name: str, size: int) -> Path:
        """A file of random bytes, made when it is first asked for."""
        path = (self.near if side == "near" else self.far) / name
        if not path.exists():
            with path.open("wb") as file:
                for _ in range(size >> 20):
                    file.write(os.urandom(1 << 20))
                file.write(os.urandom(size & ((1 << 20) - 1)))
            os.chown(path, self.owner, -1)
        return path

    def many(self, count: int) -> Path:
        """A local directory of so many files of 1 KB."""
        path = self.near / f"many{count}"
        if not path.exists():
            self._fill(self.near, path.name, count)
        return path

    def wide(self, count: int) -> Path:
        """A remote directory of so many empty files."""
        path = self.far / f"wide{count}"
        if not path.exists():
            self._fill(self.far, path.name, count, size=0)
        return path

    def clear(self, name: str) -> Path:
        """A remote name that is not there."""
        path = self.far / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        return path

    def clear_here(self, name: str) -> Path:
        """A local name that is not there."""
        path = self.near / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        return path

    def doomed(self) -> Path:
        """A remote tree of 200 files to be removed."""
        path = self.far / "doomed"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.far / "tree", path)
        self._own(path)
        return path


MIB = 1 << 20


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
            "copy on the server": lambda: transport.copy(far / "copied", far / "new"),
            "stat of 1,000": lambda: transport.stat_many(stage.paths),
            "put 1 KB": lambda: transport.put(near / "small", far / "new"),
            "get 1 KB": lambda: transport.get(far / "small", near / "new"),
            "put 200 of 1 KB": lambda: transport.put(near / "tree", far / "new"),
            "get 200 of 1 KB": lambda: transport.get(far / "tree", near / "new"),
            "put 10,000 of 1 KB": lambda: transport.put(stage.many(10_000), far / "new"),
            "put 200 MB": lambda: transport.put(stage.file("near", "200", 200 * MIB), far / "new"),
            "get 200 MB": lambda: transport.get(stage.file("far", "200", 200 * MIB), near / "new"),
            "put 512 MB": lambda: transport.put(stage.file("near", "512", 512 * MIB), far / "new"),
            "get 512 MB": lambda: transport.get(stage.file("far", "512", 512 * MIB), near / "new"),
        }


class OpenSsh:
    """The programs themselves, on the same master."""

    name = "OpenSSH"

    def __init__(self, host: str, config: Path, stage: Stage, socket: str) -> None:
        self.stage, self.host = stage, host
        self.ssh = ["ssh", "-F", str(config), "-S", socket]
        self.copying = ["-F", str(config), "-o", f"ControlPath={openssh.literal(Path(socket))}", "-q"]

    def close(self) -> None:
        """Nothing is open."""

    def _local(self, *argv: str | Path, stdin: str = "") -> None:
        subprocess.run(
            list(map(str, argv)), input=stdin.encode(), stdout=subprocess.DEVNULL, check=True, timeout=900
        )

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
            "copy on the server": lambda: self._ssh(f"cp -r {far}/copied {far}/new"),
            "stat of 1,000": lambda: self._ssh(f"stat {far}/paths/*"),
            "put 1 KB": lambda: self._scp(near / "small", self._there(far / "new")),
            "get 1 KB": lambda: self._scp(self._there(far / "small"), near / "new"),
            "put 200 of 1 KB": lambda: self._scp(near / "tree", self._there(far / "new")),
            "get 200 of 1 KB": lambda: self._scp(self._there(far / "tree"), near / "new"),
            "put 10,000 of 1 KB": lambda: self._scp(stage.many(10_000), self._there(far / "new")),
            "put 200 MB": lambda: self._scp(stage.file("near", "200", 200 * MIB), self._there(far / "new")),
            "get 200 MB": lambda: self._scp(self._there(stage.file("far", "200", 200 * MIB)), near / "new"),
            "put 512 MB": lambda: self._scp(stage.file("near", "512", 512 * MIB), self._there(far / "new")),
            "get 512 MB": lambda: self._scp(self._there(stage.file("far", "512", 512 * MIB)), near / "new"),
        }


class Pipes(OpenSsh):
    """What an experienced user pipes through ssh: cat and tar."""

    name = "cat, tar | ssh"

    def _piped(self, line: str) -> None:
        self._local("/bin/sh", "-c", line)

    def rows(self) -> dict[str, Work]:
        """Rows of content alone."""
        stage = self.stage
        far, near = stage.far, stage.near
        ssh = shlex.join([*self.ssh, self.host])

        def put(name: str, size: int) -> Work:
            return lambda: self._piped(f"{ssh} 'cat >{far}/new' <{stage.file('near', name, size)}")

        def get(name: str, size: int) -> Work:
            return lambda: self._piped(f"{ssh} cat {stage.file('far', name, size)} >{near}/new")

        def put_tree(tree: Callable[[], Path]) -> Work:
            return lambda: self._piped(
                f"tar -C {tree()} -cf - . | {ssh} 'mkdir {far}/new && tar -C {far}/new -xf -'"
            )

        return {
            "put 1 KB": put("small", 1024),
            "get 1 KB": get("small", 1024),
            "put 200 of 1 KB": put_tree(lambda: near / "tree"),
            "get 200 of 1 KB": lambda: self._piped(
                f"mkdir {near}/new && {ssh} tar -C {far}/tree -cf - . | tar -C {near}/new -xf -"
            ),
            "put 10,000 of 1 KB": put_tree(lambda: stage.many(10_000)),
            "put 200 MB": put("200", 200 * MIB),
            "get 200 MB": get("200", 200 * MIB),
            "put 512 MB": put("512", 512 * MIB),
            "get 512 MB": get("512", 512 * MIB),
        }


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
            "put 10,000 of 1 KB": lambda: self._rsync(f"{stage.many(10_000)}/", self._there(far / "new")),
            "put 200 MB": lambda: self._rsync(stage.file("near", "200", 200 * MIB), self._there(far / "new")),
            "get 200 MB": lambda: self._rsync(self._there(stage.file("far", "200", 200 * MIB)), near / "new"),
            "put 512 MB": lambda: self._rsync(stage.file("near", "512", 512 * MIB), self._there(far / "new")),
        }


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
            "copy on the server": work(lambda: sftp.copy(f"{far}/copied", f"{far}/new", recurse=True)),
            "stat of 1,000": work(stats),
            "put 1 KB": work(lambda: sftp.put(f"{near}/small", f"{far}/new")),
            "get 1 KB": work(lambda: sftp.get(f"{far}/small", f"{near}/new")),
            "put 200 of 1 KB": work(lambda: sftp.put(f"{near}/tree", f"{far}/new", recurse=True)),
            "get 200 of 1 KB": work(lambda: sftp.get(f"{far}/tree", f"{near}/new", recurse=True)),
            "put 10,000 of 1 KB": work(lambda: sftp.put(str(stage.many(10_000)), f"{far}/new", recurse=True)),
            "put 200 MB": work(lambda: sftp.put(str(stage.file("near", "200", 200 * MIB)), f"{far}/new")),
            "get 200 MB": work(lambda: sftp.get(str(stage.file("far", "200", 200 * MIB)), f"{near}/new")),
            "put 512 MB": work(lambda: sftp.put(str(stage.file("near", "512", 512 * MIB)), f"{far}/new")),
        }


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
            "put 200 MB": lambda: sftp.put(str(stage.file("near", "200", 200 * MIB)), f"{far}/new"),
            "get 200 MB": lambda: sftp.get(str(stage.file("far", "200", 200 * MIB)), f"{near}/new"),
            "put 512 MB": lambda: sftp.put(str(stage.file("near", "512", 512 * MIB)), f"{far}/new"),
        }


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


def _resolved(host: str, config: Path) -> openssh.Resolved:
    return openssh.resolve(host, config).resolved
