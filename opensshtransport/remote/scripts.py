"""The remote halves as text: read from the package, without comments, ready to be sent."""

from __future__ import annotations

import importlib.resources
import re
from functools import cache

from opensshtransport.remote.wrapper import spelled

# A request below this size is read by the shell itself, byte by byte; a larger one by a program.
_SHORT_REQUEST = 4096


@cache
def bootstrap_text() -> str:
    """The script that begins every channel, without its comments."""
    text = importlib.resources.files("opensshtransport.remote").joinpath("bootstrap.sh").read_text()
    # comments are not sent
    return spelled(re.sub(r"^\s*#.*\n|^\s+", "", text, flags=re.MULTILINE))


def quoted_lines(request: str) -> bytes:
    """A request as it is sent to a bootstrap that waits."""
    raw = request.encode("utf-8", "surrogateescape")
    if len(raw) <= _SHORT_REQUEST:
        return b"L%d\n%b\n" % (raw.count(b"\n") + 1, raw)
    return b"B%d\n%b" % (len(raw), raw)


@cache
def far_half() -> str:
    """The remote side's half, without its comments."""
    home = importlib.resources.files("opensshtransport.remote")
    text = "".join(home.joinpath(name).read_text() for name in ("shell.sh", "files.sh", "transfer.sh"))
    return re.sub(r"^\s*#.*\n|^\s+", "", text, flags=re.MULTILINE)


def serving() -> str:
    """The request for a shell that stays open."""
    return f"{far_half()}\nserve <&4 4<&-"
