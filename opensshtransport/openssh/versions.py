"""What differs between releases of OpenSSH's programs, found out from the programs themselves.

The idea: a version number proves nothing, because distributions backport single changes. Running the program
shows what it supports.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from opensshtransport.openssh import ssh_config

_PATIENCE = 30.0

# How sftp ends if the server starts no such subsystem; over a master, the refusal itself is not shown. The
# second text is 7.4's. A connection that breaks ends it with the same words.
_NO_ANSWER = ("Connection closed", "Couldn't read packet: Connection reset by peer")


def has_no_sftp(said: str) -> bool:
    """Whether sftp's words mean that the server has no such subsystem, or that it ended at once."""
    return "subsystem request failed" in said or said.rstrip().endswith(_NO_ANSWER)


def _said(argv: Sequence[str]) -> str:
    """What a program says on stderr when it has nothing to do; "" if it cannot be run."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr.decode("utf-8", "surrogateescape")


def knows_old_protocol(said: str) -> bool:
    """Whether an scp has the option -O, by what `scp -O` says: how it is used, or an error."""
    return re.search(r"\boption -- '?O\b", said) is None


@functools.cache
def old_protocol(scp: str) -> tuple[str, ...]:
    """The option that makes an scp use its old protocol, `-O`; none before 8.7, which know no other."""
    return ("-O",) if knows_old_protocol(_said([scp, "-O"])) else ()


def files_read(argv: Sequence[str]) -> list[Path]:
    """The files that ssh reads to answer a question (`resolve_command`), in order."""
    said = _said([argv[0], "-v", *argv[1:]])
    return [
        Path(name)
        for name in re.findall(r"^debug1: Reading configuration data (.+?)\r?$", said, re.MULTILINE)
    ]


def system_files(argv: Sequence[str]) -> list[Path]:
    """The system-wide files of an ssh; each build has its own, such as PREFIX/etc/ssh_config.

    With `-v`, ssh names it if it exists. If it does not exist yet, its path is in the program's own bytes;
    for a script, the usual path is returned.

    Args:
        argv: a question that is asked without -F, which would set that file aside.
    """
    own = set(ssh_config.included(ssh_config.person_file()))
    # what it includes is among them
    named = [file for file in files_read(argv) if file not in own]
    # some builds read one where another one is missing
    return list(dict.fromkeys([*named, *_built_in(argv[0])])) or [ssh_config.SYSTEM_FILE]


@functools.cache
def _built_in(ssh: str) -> list[Path]:
    try:
        content = Path(ssh).read_bytes()
    except OSError:
        return []
    return [Path(name.decode()) for name in re.findall(rb"\0(/[!-~]*/ssh_config)(?=\0)", content)]
