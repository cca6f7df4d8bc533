"""What the program `sftp` prints: names of files, and what it left out. Pure functions of its output.

The trap: a name dropped from a listing counts as absent, and would be replaced. So a listing is understood
completely, or is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# A comment in a batch, which is echoed. It shows whether a client prints more than ASCII: in the C locale,
# 7.4 drops each line that has more.
SHOWS = "# \N{LATIN SMALL LETTER E WITH ACUTE}"

# A byte that sftp does not print as it is (vis(3) with VIS_OCTAL, in utf8.c of OpenSSH).
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")

# The messages about what is left out of a tree: `download "NAME": …` from 8.9 on, `NAME: …` before.
_LEFT_OUT = re.compile(r'^(?:download "(.*)"|(.*)): not a regular file\r?$', re.MULTILINE)


def parse_listing(text: str, top: str) -> list[str]:
    """The names that `ls -1a` prints, as they are printed: see `decoded`.

    We ask for no columns: names of groups may contain blanks, and 9.2 to 10.3 print names even with `-n`.

    Args:
        text: what it prints.
        top: the directory that was asked for, which is printed before each name.

    Raises:
        ValueError: it is not a listing of this directory.
    """
    before = f"{top.rstrip('/')}/"
    names: list[str] = []
    for line in text.removesuffix("\n").split("\n") if text else ():
        if line.startswith(before):
            names.append(line.removeprefix(before))
        elif names:
            # sftp prints a newline of a name as it is
            names[-1] += f"\n{line}"
        else:
            raise ValueError(line)
    return [name for name in names if name not in {".", ".."}]


def decoded(name: str) -> str:
    r"""A printed name with its `\ooo` read as bytes; it may have been spelled so, too."""
    return os.fsdecode(_OCTAL.sub(lambda byte: bytes([int(byte.group(1), 8)]), os.fsencode(name)))


def utf8_locale(environ: Mapping[str, str]) -> str:
    """A locale in which sftp prints all names: a UTF-8 locale, the user's own if that is one.

    sftp uses it only for characters (`LC_CTYPE`); its messages stay English.
    """
    own = next((environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environ.get(name)), "")
    # in a Turkish locale sftp uses C (msetlocale in utf8.c)
    fits = re.search(r"utf-?8", own, re.IGNORECASE) and not own.lower().startswith("tr")
    return own if fits else "C.UTF-8"


def left_out(said: str) -> list[str]:
    """The names that `get -R` reports to have left out of a tree: links, devices and fifos."""
    return [quoted or plain for quoted, plain in _LEFT_OUT.findall(said)]
