"""The text that shares a name with every program that runs ssh: an Include, and a block for each name.

The idea: `Match originalhost NAME !exec HOOK` gives a plain ssh our ControlPath, and a ProxyCommand that
fails, so it uses the master or ends. The hook answers "not ours" with status 0: if a shell cannot run it, ssh
does not connect.

The traps. The first value counts, so the Include must be the first line. Nothing from the caller may be
passed to the hook: ssh before 9.6 puts tokens unquoted into a shell. And only 10.5 understands an escaped
quote within the quotes of `exec`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opensshtransport.errors import SettingsError
from opensshtransport.openssh import ssh_config

_HEADER = "# written by `ossh share`; `ossh unshare NAME` takes a name out again\n"

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)

# Characters that ssh_config or some shells cannot quote, or that glob(3) would not take literally in an
# Include.
_UNQUOTABLE = re.compile(r"""["'\\$`!*?\[\x00-\x1f\x7f]""")


@dataclass(frozen=True, slots=True)
class Shared:
    """What a block is made from.

    Attributes:
        name: as it is in ssh_config.
        hook: the program.
        alias: the file with the way to a running master (`aliases`).
        config: the file with the Include.
        own: whether that is the user's own file, not one given by -F.
        control_path: as ssh takes it, with its tokens.
    """

    name: str
    hook: Path
    alias: Path
    config: Path
    own: bool
    control_path: str


def check_name(name: str) -> None:
    """Refuse a name for which no block can be written.

    Raises:
        SettingsError: it is a pattern, or contains a user, a port or other characters.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be shared",
            topic="other-programs",
            advice="give a name alone, as in a Host line of ssh_config",
        )


def block(shared: Shared) -> str:
    """The block of a name.

    Raises:
        SettingsError: a path contains a character that cannot be quoted.
    """
    for path in (shared.hook, shared.alias, shared.config):
        _check_quotable(path)
    words = [str(shared.hook), shared.name, str(shared.alias), str(shared.config)]
    hook = shlex.join([*words, *([] if shared.own else ["-F"])]).replace("%", "%%")
    options = {
        "ControlPath": ssh_config.quoted(shared.control_path),
        "ControlMaster": "no",
        "ControlPersist": "no",
        # without a master it ends here; the hook has said why
        "ProxyCommand": "false",
    }
    lines = [f'Match originalhost {shared.name} !exec "exec {hook}"']
    return "".join(
        f"{line}\n" for line in [*lines, *(f"    {key} {value}" for key, value in options.items())]
    )


def _check_quotable(path: Path) -> None:
    if _UNQUOTABLE.search(str(path)):
        raise SettingsError(
            f"{path} cannot be written in ssh_config", advice="use a path without such characters"
        )


def blocks(text: str) -> dict[str, str]:
    """The blocks of our file, by name."""
    _, *parts = re.split(r"^(?=Match originalhost )", text, flags=re.MULTILINE)
    return {part.split()[2]: f"{part.strip()}\n" for part in parts}


def of_blocks(wanted: Mapping[str, str]) -> str:
    """The text of our file; "" without any name."""
    return "\n".join([_HEADER, *(wanted[name] for name in sorted(wanted))]) if wanted else ""


def include(file: Path) -> str:
    """The line that makes ssh read our file.

    Raises:
        SettingsError: its path cannot be quoted.
    """
    _check_quotable(file)
    return f"Include {ssh_config.quoted(str(file))}"


def includes(text: str, file: Path) -> list[int]:
    """The positions among a text's keywords at which it includes our file alone; 0 means first."""
    return [
        number
        for number, (keyword, words) in enumerate(ssh_config.keywords_of(text))
        if keyword == "include" and words == [str(file)]
    ]


def with_include(text: str, file: Path) -> str:
    """A text of ssh_config whose first line includes our file."""
    line = include(file)
    rest = without_include(text, file)
    return f"{line}\n\n{rest}" if rest else f"{line}\n"


def without_include(text: str, file: Path) -> str:
    """A text of ssh_config without the line, and without the empty one that was put below it."""
    lines = text.splitlines(keepends=True)
    ours = [number for number, line in enumerate(lines) if line.strip() == include(file)]
    for number in reversed(ours):
        following = lines[number + 1 : number + 2]
        del lines[number : number + (2 if number == 0 and following == ["\n"] else 1)]
    return "".join(lines)
