"""What `ossh-run` needs to go straight to a live master: a file of POSIX sh for each name in use.

The trap: ssh_config may be edited while the master is running. So the file contains a test whether it is
still valid: the files that ssh reads must have the times that they had when it was written or, if times do
not decide (`Match exec` and the like), `ssh -G` must still say the same. And the socket is reached through a
link named by `%C`, which ssh itself computes from user, host and port at each call.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opensshtransport.errors import ConfigurationError
from opensshtransport.local import processes
from opensshtransport.local.locks import locked, replace_file, replace_link
from opensshtransport.local.settings import config_file, private_directory
from opensshtransport.master import forwards
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import bypass, command_lines, versions
from opensshtransport.openssh.destination import (
    Destination,
    ask_resolved,
    jump_options,
    resolve,
    resolve_command,
)
from opensshtransport.openssh.ssh_config import files, keywords
from opensshtransport.remote.wrapper import wrapper

# `Match` by these words depends on ssh_config and the destination alone (ssh_config(5), Match).
_STATIC_MATCH = {"host", "originalhost", "user", "localuser", "tagged"}

_LONGEST_NAME = 200


def name_of(host: str, ssh_config: Path | None) -> str | None:
    """The file's name for a destination, as `ossh-run` builds it too; None if there can be no file."""
    name = host if ssh_config is None else host + str(ssh_config).replace("/", ",")
    return None if "/" in host or "," in host or len(os.fsencode(name)) > _LONGEST_NAME else name


def _directory(runtime: Path, host: str, ssh_config: Path | None) -> Path:
    """The directory of a name's links and time stamps."""
    key = f"{ssh_config or ''}\0{host}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return private_directory(private_directory(runtime / "names") / f"{digest}.d")


def control_path(master: Master, socket: Path) -> str:
    """Link a name to a socket, and return the ControlPath that leads there while ssh_config is unchanged.

    Raises:
        ConfigurationError: ssh refuses ssh_config.
    """
    return _linked(master, socket)[0]


def _linked(master: Master, socket: Path) -> tuple[str, Path]:
    """The ControlPath, and the link that it leads to now."""
    destination = master.destination
    directory = _directory(master.directory, destination.host, destination.ssh_config)
    template_of = template(master.directory, destination.host, destination.ssh_config)
    # under the guard, because that changes %C from OpenSSH 9.6 on
    resolved = ask_resolved(
        destination.ssh, destination.host, destination.ssh_config, ["-S", template_of, *command_lines.guard()]
    )
    link = Path(resolved.get("controlpath"))
    if link.parent == directory and (not link.is_symlink() or link.readlink() != socket):
        replace_link(link, socket)
    return template_of, link


def template(runtime: Path, host: str, ssh_config: Path | None) -> str:
    """The ControlPath that leads to a name's master while one is running and ssh_config is unchanged.

    Its link is made together with the master. ssh itself fills in `%C`, and so finds no link for another user
    or port.
    """
    return f"{command_lines.literal(_directory(runtime, host, ssh_config))}/%C"


def file_of(runtime: Path, host: str, ssh_config: Path | None) -> Path | None:
    """The file of a name, if there can be one."""
    name = name_of(host, ssh_config)
    return None if name is None else runtime / "names" / name


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def publish(master: Master, facts: Facts) -> None:
    """Write the file that tells `ossh-run` the way to a live master.

    Nothing is written if ssh_config was edited since the destination was resolved.
    """
    destination = master.destination
    name = name_of(destination.host, destination.ssh_config)
    if name is None:
        return
    # without it `ossh-run` asks us again: a full disk is no reason to fail
    with contextlib.suppress(OSError):
        directory = _directory(master.directory, destination.host, destination.ssh_config)
        # where the hook notes which program has asked for what
        forwards.directory()
        # one writer at a time: otherwise the times of one and the text of another could get mixed
        with locked(directory.parent / "lock"):
            _publish(master, facts, directory, directory.parent / name)


def _publish(master: Master, facts: Facts, directory: Path, file: Path) -> None:
    destination = master.destination
    now = time.time()
    watched = list(dict.fromkeys(_watched(destination)))
    stamps = [(path, _mtime(path)) for path in watched]
    try:
        again = resolve(destination.host, destination.ssh_config)
    except ConfigurationError:
        return
    if again.identity != destination.identity:
        return
    tests = [_same_time(path, stamp, directory / str(number)) for number, (path, stamp) in enumerate(stamps)]
    if _dynamic(watched, again) or not all(_settled(stamp, now) for _, stamp in stamps):
        # for config.toml only its time counts
        tests = tests[:1] + [_same_answer(argv) for argv in _questions(again)]
    # otherwise somebody has removed the master, or redirected the link while the directory was open to others
    leads = f"[ -O {_quoted(directory)} ] && [ ! -L {_quoted(directory)} ]"
    path, link = _linked(master, Path(facts.socket))
    socket = shlex.quote(facts.socket)
    tests.append(f"{leads} && [ -O {socket} ] && [ {_quoted(link)} -ef {socket} ]")
    unchanged = " && ".join(tests)
    wrap = wrapper(secrets.token_hex(8) if facts.shell else "", posix=facts.posix_shell)
    # what follows `-S PATH`: words without blanks
    options = command_lines.guarded_options(again, "")
    options = options[options.index("-S") + 2 :]
    lines = {
        "ossh_host": destination.host,
        "ossh_config": str(destination.ssh_config or ""),
        "ossh_ssh": destination.ssh,
        # what the hook of `ossh share` compares and uses
        "ossh_user": destination.resolved.user,
        "ossh_port": str(destination.resolved.port),
        "ossh_socket": facts.socket,
        "ossh_pid": str(facts.pid),
        "ossh_began": processes.began(facts.pid) or "",
        "ossh_path": path,
        "ossh_options": " ".join(options),
        "ossh_mark": wrap.mark,
        # each run adds something of its own to the mark, to tell its processes from those of others
        "ossh_before": wrap.before.partition(wrap.mark)[0] if wrap.mark else "",
        "ossh_begin": wrap.before.partition(wrap.mark)[2] if wrap.mark else "",
        "ossh_tty_before": wrap.tty_before,
        "ossh_after": wrap.after,
        "ossh_posix": "yes" if wrap.posix else "",
    }
    text = "".join(f"{key}={shlex.quote(value)}\n" for key, value in lines.items())
    replace_file(file, f"{text}ossh_unchanged() {{ {unchanged}; }}\n")


def withdraw(runtime: Path, host: str, ssh_config: Path | None) -> None:
    """Forget the way to a master, for the name by which it is known on this machine."""
    name = name_of(host, ssh_config)
    if name is not None:
        (runtime / "names" / name).unlink(missing_ok=True)
    shutil.rmtree(_directory(runtime, host, ssh_config), ignore_errors=True)


def _watched(destination: Destination) -> Iterator[Path]:
    """All files that decide where a name leads, and the directories where an Include could find more."""
    yield config_file()
    if destination.ssh_config is not None:
        yield from files(destination.ssh_config)
        return
    yield from files(None, versions.system_files(resolve_command(destination.ssh, destination.host, None)))


def _dynamic(watched: Sequence[Path], resolved: Destination) -> bool:
    """Whether ssh_config may mean something else without being edited."""
    if resolved.resolved.get("canonicalizehostname", "false") not in {"no", "false"}:
        return True
    for file in watched:
        # next to config.toml is what `ossh share` writes, which changes nothing for us
        for keyword, arguments in keywords(file) if file.parent != config_file().parent else ():
            if keyword == "match" and not _static(arguments):
                return True
            # environment variables and tokens, in versions that expand them there
            if keyword == "include" and any("$" in word or "%" in word for word in arguments):
                return True
    return False


def _static(criteria: Sequence[str]) -> bool:
    """Whether `Match` criteria test only names: `host a,b user me` and the like."""
    if len(criteria) == 1:
        return criteria[0].lower() == "all"
    return all(word.lstrip("!").lower() in _STATIC_MATCH for word in criteria[::2])


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _settled(stamp: int | None, now: float) -> bool:
    """Whether an edit after `now` is certain to show as another time.

    If times are whole seconds, an edit within the same second leaves no trace.
    """
    if stamp is None:
        return True
    granularity = 0.05 if stamp % 1_000_000_000 and _sh_compares_fractions() else 2.0
    return stamp / 1e9 < now - granularity


@functools.cache
def _sh_compares_fractions() -> bool:
    """Whether the sh of this system compares times of files more finely than by the second."""
    with tempfile.TemporaryDirectory() as name:
        older, newer = Path(name, "older"), Path(name, "newer")
        for path, nanoseconds in ((older, 1_000_000), (newer, 2_000_000)):
            path.touch()
            os.utime(path, ns=(nanoseconds, nanoseconds))
        test = ["/bin/sh", "-c", '[ "$0" -nt "$1" ]', str(newer), str(older)]
        return (
            subprocess.run(test, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
        )


def _same_time(path: Path, stamp: int | None, reference: Path) -> str:
    """A test in sh that a file's time is unchanged; every sh in use has -nt and -ot."""
    quoted = _quoted(path)
    if stamp is None:
        return f"[ ! -e {quoted} ]"
    if reference.is_symlink() or _mtime(reference) != stamp:
        # others may be reading it
        draft = reference.with_name(f".{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        os.utime(draft, ns=(stamp, stamp))
        draft.replace(reference)
    other = _quoted(reference)
    ours = f"[ -O {other} ] && [ ! -L {other} ]"
    return f"{ours} && [ -e {quoted} ] && ! [ {quoted} -nt {other} ] && ! [ {quoted} -ot {other} ]"


def _questions(destination: Destination) -> Iterator[list[str]]:
    """The calls of `ssh -G` whose answers decide where a name leads: for it, and for each hop on the way."""
    ssh, ssh_config = destination.ssh, destination.ssh_config
    asked: list[tuple[list[str], str]] = [([], destination.host)]
    while asked:
        options, name = asked.pop(0)
        yield resolve_command(ssh, name, ssh_config, options)
        jumps = ask_resolved(ssh, name, ssh_config, options).jumps
        asked += [jump_options(jump) for jump in jumps]


def _same_answer(argv: Sequence[str]) -> str:
    """A test in sh that `ssh -G` still says what it says now."""
    answer = subprocess.run(
        argv,
        env=bypass.unshared(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    ).stdout.rstrip("\n")
    question = f"{bypass.SHARE}=no {shlex.join(argv)}"
    return f'[ "$({question} </dev/null 2>/dev/null)" = {shlex.quote(answer)} ]'
