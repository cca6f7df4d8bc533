"""Remote paths as words of sh. No I/O."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence

from opensshtransport.errors import SettingsError

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# How many bytes of paths one request holds; several requests are pipelined.
_CHUNK = 1 << 19

_USER = re.compile(r"~([A-Za-z_][A-Za-z0-9_.-]*)?(?=/|\Z)")


def path_text(path: PathLike) -> str:
    """A path as text.

    Raises:
        SettingsError: it holds a NUL.
    """
    text = os.fsdecode(path)
    if "\0" in text:
        raise SettingsError(f"the path {text!r} contains a NUL", advice="correct it")
    return text


def tilde(text: str) -> str:
    """The `~` or `~user` that a path begins with, or ""."""
    found = _USER.match(text)
    return found.group() if found else ""


def quoted(path: PathLike) -> str:
    """A path as one word of sh; `~` and `~user` at its beginning are expanded on the host.

    Raises:
        SettingsError: it holds a NUL.
    """
    text = path_text(path)
    if user := tilde(text):
        rest = text[len(user) :]
        return ('"$HOME"' if user == "~" else user) + (shlex.quote(rest) if rest else "")
    # a path must not look like an option
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def chunks(names: Sequence[str]) -> Iterator[bytes]:
    """Names as requests carry them, each ended by a NUL; always at least one chunk."""
    chunk: list[bytes] = []
    size = 0
    for name in names:
        if not name:
            continue
        raw = os.fsencode(name)
        if chunk and size + len(raw) > _CHUNK:
            yield b"\0".join(chunk) + b"\0"
            chunk, size = [], 0
        chunk.append(raw)
        size += len(raw) + 1
    yield b"\0".join(chunk) + b"\0" if chunk else b""
