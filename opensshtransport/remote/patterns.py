"""Shell patterns for remote names.

How they are matched on our side, and how a pattern is written for the remote shell.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence

from opensshtransport.remote.entries import DirEntry

_WILD = re.compile(r"[*?\[]")


def words(parts: Sequence[str]) -> list[str]:
    """The patterns of sh that match at least as much as pathlib's, in the C locale."""
    choices: list[list[str]] = []
    for part in parts:
        if not _WILD.search(part):
            choices.append([shlex.quote(part)])
            continue
        # a byte is not a character, so a pattern for one character becomes `*`
        wide = re.sub(r"\[!?\]?[^\]]*\]|[*?]", "\0", part)
        word = "*".join(shlex.quote(piece) if piece else "" for piece in wide.split("\0"))
        # in sh, a pattern at the beginning of a name matches no hidden name
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
