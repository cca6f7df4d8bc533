"""`ossh cp`: files named as scp names them, `HOST:PATH`.

The trap: a local name may have a colon; as for scp, what has a slash before its colon is local.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensshtransport.copying.failures import naming
from opensshtransport.errors import SettingsError
from opensshtransport.openssh.notation import Place, parse_place
from opensshtransport.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How `ossh cp` copies."""

    recursive: bool = False
    preserve: bool = False
    limit_rate: float | None = None
    verify: bool = False
    progress: bool = False


class _Hosts:
    """One Transport for each host that is named."""

    def __init__(self, ssh_config: str | None, stack: ExitStack) -> None:
        self._ssh_config, self._stack = ssh_config, stack
        self._open: dict[str, Transport] = {}

    def __getitem__(self, host: str) -> Transport:
        if host not in self._open:
            transport = Transport(host, ssh_config=self._ssh_config)
            self._open[host] = self._stack.enter_context(transport)
        return self._open[host]


def copy(names: Sequence[str], target: str, ssh_config: str | None, options: CopyOptions) -> None:
    """Copy files and trees, all in scp's notation.

    Raises:
        SettingsError: none of them is on a host.
        OSError: of a file.
        ConnectionFailed: one of its kinds.
    """
    sources, destination = [parse_place(name) for name in names], parse_place(target)
    if destination.host is None and all(source.host is None for source in sources):
        raise SettingsError("all of these paths are local", advice="use cp, or name a host: HOST:PATH")
    if destination.host is None:
        for source in sources:
            if source.host is None:
                raise SettingsError(
                    f"{source.path!r} and the destination are local", advice="copy that one with cp"
                )
    with ExitStack() as stack:
        hosts = _Hosts(ssh_config, stack)
        if len(sources) > 1 and len({source.host for source in sources}) > 1:
            _check_directory(destination, hosts)
        for host in dict.fromkeys(source.host for source in sources):
            paths = [source.path for source in sources if source.host == host]
            if host is None:
                hosts[destination.host or ""].put(paths, destination.path, **_for_transfer(options))
            elif destination.host is None:
                with naming(destination.path):
                    hosts[host].get(paths, destination.path, **_for_transfer(options))
            elif host == destination.host:
                _on_server(hosts[host], paths, destination.path, options)
            else:
                with tempfile.TemporaryDirectory(prefix="ossh-cp-") as between:
                    hosts[host].get(paths, between, **_for_transfer(options))
                    arrived = [str(path) for path in sorted(Path(between).iterdir())]
                    hosts[destination.host].put(arrived, destination.path, **_for_transfer(options))


def _check_directory(destination: Place, hosts: _Hosts) -> None:
    if destination.host is None:
        there = Path(destination.path).is_dir()
    else:
        there = hosts[destination.host].is_dir(destination.path)
    if not there:
        raise SettingsError(
            f"{destination.path!r} is not a directory", host=destination.host, advice="name an existing one"
        )


def _for_transfer(options: CopyOptions) -> dict[str, Any]:
    """The options as put and get take them."""
    return {
        "recursive": options.recursive,
        "preserve": options.preserve,
        "limit_rate": options.limit_rate,
        "verify": options.verify,
        "progress": options.progress,
    }


def _on_server(transport: Transport, paths: list[str], destination: str, options: CopyOptions) -> None:
    names = [name for path in paths for name in (transport.glob(path) if _wild(path) else [path])]
    if len(names) > 1 and not transport.is_dir(destination):
        raise SettingsError(f"{destination!r} is not a directory", host=transport.host)
    for name in names:
        if not options.recursive and transport.is_dir(name):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"{transport.host}:{name}")
        transport.copy(name, destination, preserve=options.preserve)


def _wild(path: str) -> bool:
    return any(letter in path for letter in "*?[")
