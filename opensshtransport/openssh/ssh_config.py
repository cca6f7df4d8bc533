"""ssh_config as text: which files ssh reads, which names are in them, and a single `Host` block.

Only `ssh -G` knows what a configuration means; here its text is read and written.

The trap: the first value that ssh finds for an option is the one that counts (ssh_config(5)). So a new block
goes before all others, but after the options that precede the first block, which would otherwise become part
of it.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from opensshtransport.errors import SettingsError
from opensshtransport.local.settings import matches

# That of the system's own ssh; others have theirs elsewhere (`versions.system_files`).
SYSTEM_FILE = Path("/etc/ssh/ssh_config")

_DEEPEST_INCLUDE = 16

_INDENT = "    "

_MAGIC = re.compile(r"[*?!]")

_BEGIN = re.compile(r"\s*(?:Host|Match)(?:\s|=|$)", re.IGNORECASE)


def home() -> Path:
    """The home directory as ssh finds it: in the password database, not in HOME."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def person_file() -> Path:
    """The user's own file."""
    return home() / ".ssh" / "config"


def files(ssh_config: Path | None, system: Sequence[Path] = (SYSTEM_FILE,)) -> Iterator[Path]:
    """All files that ssh reads, including missing ones, and the directories where an Include could find more.

    Args:
        ssh_config: the file given by -F; None for the user's and the system's.
        system: the latter.
    """
    yield from included(ssh_config or person_file())
    for file in system if ssh_config is None else ():
        yield from included(file, file.parent)


def included(file: Path, base: Path | None = None) -> Iterator[Path]:
    """A file of ssh_config, and what it includes.

    Args:
        file: it.
        base: the directory for relative names; ~/.ssh in a user's file and in one given by -F
            (ssh_config(5)).
    """
    return _included(file, base or home() / ".ssh", 0)


def _included(file: Path, base: Path, depth: int) -> Iterator[Path]:
    yield file
    for keyword, arguments in keywords(file):
        if keyword != "include" or depth >= _DEEPEST_INCLUDE:
            continue
        for pattern in arguments:
            path = home() / pattern[2:] if pattern.startswith("~/") else Path(pattern)
            path = path if path.is_absolute() else base / path
            if glob.has_magic(str(path)):
                yield before_magic(path)
            found = sorted(glob.glob(str(path)))  # noqa: PTH207 - absolute patterns, glob(3)'s order
            for match in found or ([] if glob.has_magic(str(path)) else [str(path)]):
                yield from _included(Path(match), base, depth + 1)


def before_magic(path: Path) -> Path:
    """The part of a pattern that is a plain directory."""
    while glob.has_magic(str(path)):
        path = path.parent
    return path


def keywords(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The keywords, in lower case, and arguments of an ssh_config file; none if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    yield from keywords_of(text)


def keywords_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """The keywords, in lower case, and arguments of a text of ssh_config."""
    for line in text.splitlines():
        if found := _parsed(line):
            yield found


def _parsed(line: str) -> tuple[str, list[str]] | None:
    match = re.match(r"\s*([A-Za-z]\w*)(?:\s*=\s*|\s+)(.*)", line)
    if match is None:
        return None
    try:
        return match[1].lower(), shlex.split(match[2], comments=True)
    except ValueError:
        return match[1].lower(), match[2].split()


def names(ssh_config: Path | None) -> list[str]:
    """The names that are in `Host` lines, without patterns; each once, in alphabetical order."""
    found = {
        name
        for file in files(ssh_config)
        if file.is_file()
        for keyword, arguments in keywords(file)
        if keyword == "host"
        for name in arguments
        if not _MAGIC.search(name)
    }
    return sorted(found)


def has_own_words(name: str, ssh_config: Path | None) -> bool:
    """Whether a `Host` or `Match` line is about this name, and not about all names."""
    wanted = [
        pattern
        for file in files(ssh_config)
        if file.is_file()
        for keyword, arguments in keywords(file)
        for pattern in _patterns(keyword, arguments)
    ]
    return any(set(pattern) != {"*"} and matches(name, pattern) for pattern in wanted)


def _patterns(keyword: str, arguments: Sequence[str]) -> Iterator[str]:
    if keyword == "host":
        yield from arguments
    if keyword == "match":
        pairs = zip(arguments[::2], arguments[1::2], strict=False)
        yield from (value for word, value in pairs if word.lower() in {"host", "originalhost"})


def quoted(value: str) -> str:
    """A value as it is in ssh_config.

    Raises:
        SettingsError: ssh_config has no way to write it.
    """
    if re.search(r'["\x00-\x1f\x7f]', value) or not value.strip():
        raise SettingsError(f"{value!r} cannot be written in ssh_config", advice="use another name")
    return f'"{value}"' if re.search(r"[\s#]", value) else value


def has_block(file: Path, name: str) -> bool:
    """Whether a file has a `Host` block for this name alone."""
    return any(keyword == "host" and arguments == [name] for keyword, arguments in keywords(file))


def with_block(text: str, name: str, options: Mapping[str, str | None]) -> str:
    """The text of an ssh_config file, changed so that the `Host` block of a name has the wanted options.

    In an existing block, comments and lines with other keywords stay as they are.

    Args:
        text: the file's.
        name: the block is for this name alone.
        options: the values, as written in the file; None for a keyword to be removed.
    """
    lines = text.splitlines()
    header = next((number for number, line in enumerate(lines) if _parsed(line) == ("host", [name])), None)
    if header is None:
        return _with_new_block(lines, [f"Host {name}", *_written(options, _INDENT)])
    end = header + 1
    while end < len(lines) and not _BEGIN.match(lines[end]):
        end += 1
    block = _changed(lines[header + 1 : end], options)
    return "".join(f"{line}\n" for line in [*lines[: header + 1], *block, *lines[end:]])


def _written(options: Mapping[str, str | None], indent: str) -> list[str]:
    return [f"{indent}{keyword} {value}" for keyword, value in options.items() if value is not None]


def _with_new_block(lines: Sequence[str], block: Sequence[str]) -> str:
    place = next((number for number, line in enumerate(lines) if _BEGIN.match(line)), len(lines))
    # a comment directly above a block belongs to it
    while 0 < place < len(lines) and lines[place - 1].lstrip().startswith("#"):
        place -= 1
    before, after = list(lines[:place]), list(lines[place:])
    above = [""] if before and before[-1].strip() else []
    below = [""] if after else []
    return "".join(f"{line}\n" for line in [*before, *above, *block, *below, *after])


def _changed(block: Sequence[str], options: Mapping[str, str | None]) -> list[str]:
    """The lines below a `Host` line, with the wanted options in place of the existing ones."""
    left = {keyword.lower(): keyword for keyword in options}
    indent = next((line[: len(line) - len(line.lstrip())] for line in block if line.strip()), _INDENT)
    kept: list[str] = []
    for line in block:
        parsed = _parsed(line)
        keyword = parsed[0] if parsed else ""
        wanted = {word.lower(): value for word, value in options.items()}
        if parsed is None or keyword not in wanted:
            kept.append(line)
        elif keyword in left:
            spelled, value = left.pop(keyword), wanted[keyword]
            if value is None:
                continue
            same = _parsed(f"x {value}")
            kept.append(line if same and same[1] == parsed[1] else f"{indent}{spelled} {value}")
    missing = {spelled: options[spelled] for spelled in left.values()}
    # what separates the block from the next one stays below it
    end = len(kept)
    while end and not (kept[end - 1].strip() and not kept[end - 1].lstrip().startswith("#")):
        end -= 1
    return [*kept[:end], *_written(missing, indent), *kept[end:]]
