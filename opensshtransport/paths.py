"""Paths and patterns of the far side: as words of sh, and matched by the rules of pathlib. No I/O."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from opensshtransport.entries import DirEntry
from opensshtransport.errors import SettingsError

__all__ = ["PathLike", "chunks", "matches", "path_text", "quoted", "select", "tilde", "words"]

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# Bytes of paths in one request; many of them are sent one behind the other.
_CHUNK = 1 << 19
_USER = re.compile(r"~([A-Za-z_][A-Za-z0-9_.-]*)?(?=/|\Z)")
_WILD = re.compile(r"[*?\[]")


def path_text(path: PathLike) -> str:
    """A path as text.

    Raises:
        SettingsError: it holds a NUL.
    """
    text = os.fsdecode(path)
    if "\0" in text:
        raise SettingsError(f"the path {text!r} holds a NUL", advice="correct it")
    return text


def tilde(text: str) -> str:
    """The `~` or `~user` that a path begins with, or ""."""
    found = _USER.match(text)
    return found.group() if found else ""


def quoted(path: PathLike) -> str:
    """A path as one word of sh; `~` and `~user` at its beginning are expanded there.

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


def words(parts: Sequence[str]) -> list[str]:
    """The patterns of sh that match at least what pathlib's do, in the C locale."""
    choices: list[list[str]] = []
    for part in parts:
        if not _WILD.search(part):
            choices.append([shlex.quote(part)])
            continue
        # a byte is not a character, so what matches one character becomes `*` here
        wide = re.sub(r"\[!?\]?[^\]]*\]|[*?]", "\0", part)
        word = "*".join(shlex.quote(piece) if piece else "" for piece in wide.split("\0"))
        # what stands for a name's first character matches no hidden name in sh
        choices.append([word, f".{word}"] if wide.startswith("\0") else [word])
    return ["/".join(choice) for choice in itertools.product(*choices)]


def matches(path: str, parts: Sequence[str]) -> bool:
    """Whether a path matches a pattern without `**`, name by name."""
    pieces = path.split("/")
    return len(pieces) == len(parts) and all(
        piece == part or (piece not in {".", ".."} and fnmatch.fnmatchcase(piece, part))
        for piece, part in zip(pieces, parts, strict=True)
    )


def select(
    entries: Mapping[str, DirEntry], parts: Sequence[str]
) -> tuple[set[str], set[tuple[str, tuple[str, ...]]]]:
    """Match a pattern that has `**` in a listed tree.

    Returns:
        The paths that match, "" for the top itself; and links to directories behind which the pattern goes
        on, each with the rest of the pattern.
    """
    children: dict[str, list[str]] = {}
    for name in entries:
        children.setdefault(name.rpartition("/")[0], []).append(name)
    found: set[str] = set()
    links: set[tuple[str, tuple[str, ...]]] = set()
    seen: set[tuple[str, int]] = set()
    todo = [("", 0)]
    while todo:
        place, depth = todo.pop()
        if (place, depth) in seen:
            continue
        seen.add((place, depth))
        if depth == len(parts):
            found.add(place)
            continue
        last = depth + 1 == len(parts)
        if parts[depth] == "**":
            todo.append((place, depth + 1))
            for name in children.get(place, ()):
                if entries[name].is_dir(follow_symlinks=False):
                    todo.append((name, depth))
                elif last:
                    found.add(name)
            continue
        test = re.compile(fnmatch.translate(parts[depth]))
        for name in children.get(place, ()):
            entry = entries[name]
            if not test.match(entry.name):
                continue
            if last or entry.is_dir(follow_symlinks=False):
                todo.append((name, depth + 1))
            elif entry.is_dir():
                links.add((name, tuple(parts[depth + 1 :])))
    return found, links
