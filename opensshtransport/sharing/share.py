"""`ossh share` and `ossh unshare`: they change two files, exactly as shown, or none.

Everything is checked before anything is written: what is shown is all that changes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opensshtransport.errors import ConfigurationError, Remedy, SettingsError, ToolMissing
from opensshtransport.local import edits
from opensshtransport.local.settings import load, runtime_directory, shared_file
from opensshtransport.master import aliases
from opensshtransport.openssh import bypass, programs, ssh_config
from opensshtransport.openssh.destination import Resolved, ask_resolved
from opensshtransport.sharing.block import (
    Shared,
    block,
    blocks,
    check_name,
    includes,
    of_blocks,
    with_include,
    without_include,
)


@dataclass(frozen=True, slots=True)
class Request:
    """The request.

    Attributes:
        names: of ssh_config.
        ssh_config: the file given by -F, or None.
        dry_run: change nothing.
        confirm: asks whether to go on; None if nobody can be asked.
        say: shows a line.
    """

    names: tuple[str, ...]
    ssh_config: Path | None
    dry_run: bool
    confirm: Callable[[str], bool] | None
    say: Callable[[str], None] = field(repr=False)

    @property
    def config(self) -> Path:
        """The file that includes ours."""
        return self.ssh_config or ssh_config.person_file()


def share(request: Request) -> None:
    """Let every program that runs ssh use the masters of these names.

    Raises:
        SettingsError: a name cannot be shared, or nobody has confirmed it.
        ConfigurationError: ssh does not see in the new files what it should.
    """
    for name in request.names:
        _check(name, request)
    wanted = {name: expected(name, request.ssh_config) for name in request.names}
    if _change(request, {**_blocks(request), **wanted}):
        for name in request.names:
            request.say(f"{name}: every program that runs ssh uses the shared master now")


def unshare(request: Request) -> None:
    """Remove names; with the last one, the Include is removed too.

    Raises:
        SettingsError: a name is not shared, or nobody has confirmed it.
    """
    now = _blocks(request)
    if missing := [name for name in request.names if name not in now]:
        raise SettingsError(
            f"{missing[0]} is not shared in {request.config}",
            topic="other-programs",
            advice=f"shared names: {', '.join(sorted(now)) or 'none'}",
        )
    if _change(request, {name: text for name, text in now.items() if name not in request.names}):
        for name in request.names:
            request.say(f"{name}: no longer shared; programs that use the master keep it until they end")


def shared_names(file: Path | None) -> list[str]:
    """The names that are shared in the user's own ssh_config, or in that of -F."""
    return sorted(blocks(edits.text_of(shared_file(file))))


def expected(name: str, file: Path | None) -> str:
    """The block that a name should have now.

    Raises:
        SettingsError, ToolMissing: it cannot be made.
    """
    directory = runtime_directory()
    alias = aliases.file_of(directory, name, file)
    if alias is None:
        raise SettingsError(f"{name!r} and the path of ssh_config are too long", advice="use shorter ones")
    config = file or ssh_config.person_file()
    path = aliases.template(directory, name, file)
    return block(Shared(name, find_hook(), alias, config, own=file is None, control_path=path))


def complaint(name: str, file: Path | None) -> tuple[str, Remedy] | None:
    """What is wrong with a shared name, and how to fix it; None if nothing is, or it is not shared.

    Raises:
        SettingsError, ToolMissing: as `expected`.
    """
    ours, config = shared_file(file), file or ssh_config.person_file()
    now = blocks(edits.text_of(ours)).get(name)
    if now is None:
        return None
    places = includes(edits.text_of(config), ours)
    again = Remedy("run: ", "ossh share")
    if not places:
        return f"{config} no longer includes what shares {name}", again
    if places[0] != 0:
        return (
            f"the Include that shares {name} is no longer first in {config}: lines above it take precedence",
            again,
        )
    if now != expected(name, file):
        return f"the block that shares {name} belongs to another installation or runtime directory", again
    return None


def find_hook() -> Path:
    """The hook program: next to `ossh`, wherever that was installed.

    Raises:
        ToolMissing: it does not exist.
    """
    places = [Path(sys.executable).parent, Path(sys.argv[0]).absolute().parent]
    places += [Path(sysconfig.get_path("scripts", scheme)) for scheme in ("posix_user", "posix_prefix")]
    hooks = (place / "ossh-hook" for place in places)
    for hook in hooks:
        if os.access(hook, os.X_OK) and os.access(hook.with_name("ossh"), os.X_OK):
            return hook
    raise ToolMissing("the program ossh-hook was not found", advice="install opensshtransport again")


def _blocks(request: Request) -> dict[str, str]:
    return blocks(edits.text_of(shared_file(request.ssh_config)))


def _check(name: str, request: Request) -> None:
    """Refuse a name that means nothing: a mistyped one would never be noticed."""
    check_name(name)
    if not ssh_config.has_own_words(name, request.ssh_config):
        raise SettingsError(
            f"{request.config} has no Host block for {name}",
            topic="other-programs",
            advice=f"run: ossh setup {name}",
        )
    resolved = ask_resolved(programs.locate(load(name).ssh), name, request.ssh_config)
    if resolved.hostname == name.lower() and not resolved.jumps and not resolved.get("proxycommand"):
        _check_known(name, resolved)


def _check_known(name: str, resolved: Resolved) -> None:
    try:
        socket.getaddrinfo(resolved.hostname, resolved.port)
    except socket.gaierror as reason:
        # the network may be down for now
        if reason.errno == socket.EAI_NONAME:
            raise SettingsError(
                f"the Host block of {name} has no HostName, and no host has this name",
                topic="other-programs",
                advice=f"write HostName there, or run: ossh setup {name}",
            ) from reason


def _change(request: Request, wanted: Mapping[str, str]) -> bool:
    """Write both files, if something has to change.

    Returns:
        Whether they are as wanted now.
    """
    file, config = shared_file(request.ssh_config), request.config
    old = edits.text_of(config)
    # an Include never names a missing file
    changes = [(file, of_blocks(wanted)), (config, with_include(old, file))]
    if not wanted:
        changes = [(config, without_include(old, file)), (file, "")]
    changes = [(path, text) for path, text in changes if text != edits.text_of(path)]
    if not changes:
        request.say(f"{' '.join(request.names)}: already shared")
        return False
    for path, text in changes:
        for line in edits.difference(edits.text_of(path), text, path):
            request.say(line)
    if request.dry_run:
        return False
    if request.confirm is None:
        raise SettingsError(
            "there is nobody to confirm the change",
            topic="other-programs",
            advice="run it at a terminal, or with --yes",
        )
    if not request.confirm(f"Change {' and '.join(str(path) for path, _ in changes)}?"):
        request.say("nothing was changed")
        return False
    _write(request, changes, wanted)
    return True


def _write(request: Request, changes: Iterable[tuple[Path, str]], wanted: Mapping[str, str]) -> None:
    kept: set[Path] = set()
    with contextlib.ExitStack() as written:
        for path, text in changes:
            written.enter_context(edits.replaced(path, text, kept))
        for name in request.names if wanted else ():
            if name in wanted:
                _check_seen(name, request)
    if not wanted:
        shared_file(request.ssh_config).unlink(missing_ok=True)


def _check_seen(name: str, request: Request) -> None:
    """Ask ssh, which asks the hook, whether the name leads to the shared master now."""
    env = {key: value for key, value in os.environ.items() if key not in {bypass.SHARE, bypass.LOGIN}}
    resolved = ask_resolved(programs.locate(load(name).ssh), name, request.ssh_config, env=env)
    path = aliases.template(runtime_directory(), name, request.ssh_config)
    if Path(resolved.get("controlpath")).parent != Path(path.replace("%%", "%")).parent:
        raise ConfigurationError(
            f"{request.config} would not have this effect:"
            f" ssh -G {name} does not show the shared ControlPath",
            host=name,
            topic="other-programs",
            advice="look there for lines above the Include; the files are unchanged",
        )
