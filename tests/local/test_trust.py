"""`opensshtransport.local.trust`: whose hand may have been in a file, by one rule in Python and in sh."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opensshtransport.errors import SettingsError
from opensshtransport.local.trust import Kind, distrust, doubt_above, open_ours
from tests.conftest import require
from tests.support.nodes import missing_programs

SCRIPT = Path(__file__).parents[2] / "scripts" / "ossh-run"
STRANGER = 12345
SHELLS = ["dash", "bash", "busybox sh", "zsh --emulate sh"]


class Way:
    """The way to a file that is sourced: `top/above/run/names/alias`."""

    def __init__(self, top: Path) -> None:
        self.top, self.above = top, top / "above"
        self.run = self.above / "run"
        self.names = self.run / "names"
        self.file = self.names / "alias"
        self.names.mkdir(parents=True)
        self.file.write_text("")
        for path in (top, self.above, self.run, self.names):
            path.chmod(0o700)
        self.file.chmod(0o600)

    def trusted(self) -> bool:
        """What Python says of it."""
        try:
            if doubt_above(self.above, os.getuid()):
                return False
            if any(distrust(path.lstat(), Kind.DIRECTORY, os.getuid()) for path in (self.run, self.names)):
                return False
            os.close(open_ours(self.file, os.O_RDONLY))
        except (OSError, SettingsError):
            return False
        return True


def _mode(name: str, mode: int) -> Callable[[Way], object]:
    return lambda way: getattr(way, name).chmod(mode)


def _owner(name: str, uid: int) -> Callable[[Way], object]:
    return lambda way: os.chown(getattr(way, name), uid, -1)


def _link(name: str) -> Callable[[Way], object]:
    """Put the thing elsewhere, and a link to it in its place."""

    def act(way: Way) -> None:
        path: Path = getattr(way, name)
        path.rename(way.top / "elsewhere")
        path.symlink_to(way.top / "elsewhere")

    return act


def _instead(name: str, target: str) -> Callable[[Way], object]:
    """Replace the file by a link."""

    def act(way: Way) -> None:
        path: Path = getattr(way, name)
        path.unlink()
        path.symlink_to(target)

    return act


def _linked_by_a_stranger(way: Way) -> None:
    (way.top / "open").mkdir(mode=0o700)
    way.above.rename(way.top / "open" / "above")
    (way.top / "open").chmod(0o777)
    way.above.symlink_to("open/above")


def _fifo(way: Way) -> None:
    way.file.unlink()
    os.mkfifo(way.file, 0o600)


CASES: dict[str, tuple[Callable[[Way], object], bool]] = {
    "as we make it": (lambda _: None, True),
    "a file that others may read": (_mode("file", 0o644), True),
    "a file that the group may write": (_mode("file", 0o620), False),
    "a file that all may write": (_mode("file", 0o602), False),
    "somebody else's file": (_owner("file", STRANGER), False),
    "a file with another name": (lambda way: os.link(way.file, way.top / "other"), False),
    "a link in the file's place": (_link("file"), False),
    "a link to stdin": (_instead("file", "/proc/self/fd/0"), False),
    "a link to nothing": (_instead("file", "nothing"), False),
    "a fifo": (_fifo, False),
    "a directory of names that all may read": (_mode("names", 0o755), False),
    "a directory of names that all may write": (_mode("names", 0o777), False),
    "the same, sticky": (_mode("names", 0o1777), False),
    "somebody else's directory of names": (_owner("names", STRANGER), False),
    "a link to a directory of names": (_link("names"), False),
    "a runtime directory that the group may enter": (_mode("run", 0o710), False),
    "a runtime directory that all may write": (_mode("run", 0o777), False),
    "somebody else's runtime directory": (_owner("run", STRANGER), False),
    "a link to a runtime directory": (_link("run"), False),
    "above, all may read": (_mode("above", 0o755), True),
    "above, the group may write": (_mode("above", 0o770), False),
    "above, all may write": (_mode("above", 0o777), False),
    "above, all may write, sticky": (_mode("above", 0o1777), True),
    "above, somebody else's": (_owner("above", STRANGER), False),
    "above, root's as a namespace shows it": (_owner("above", 65534), True),
    "further above, all may write": (_mode("top", 0o777), False),
    "a link above, all closed": (_link("above"), True),
    "a link above to what is open": (_linked_by_a_stranger, False),
}


@pytest.fixture
def way(isolated: Path, request: pytest.FixtureRequest) -> Way:
    """A way, with a case of the table applied."""
    top = isolated / "a b"
    top.mkdir()
    made = Way(top)
    act, _ = CASES[request.param]
    if os.geteuid() and act.__qualname__.startswith("_owner"):
        pytest.skip("giving files away needs root")
    act(made)
    return made


@pytest.mark.parametrize(("way", "name"), [(name, name) for name in CASES], indirect=["way"], ids=list(CASES))
def test_table(way: Way, name: str) -> None:
    """Python and each sh say the same of each case."""
    expected = CASES[name][1]
    assert way.trusted() is expected
    parts = re.findall(r"^(?:LF='\n'|trusted\(\) \{\n.*?^\})\n", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(parts) == 2
    for shell in SHELLS:
        require(missing_programs(shell.split(maxsplit=1)[0]))
        text = f'{"".join(parts)}run=$1 file=$1/names/alias; trusted; echo "$?"'
        done = subprocess.run(
            [*shell.split(), "-c", text, "sh", way.run], capture_output=True, check=False, timeout=20
        )
        assert done.stdout == (b"0\n" if expected else b"1\n"), (shell, done)


def test_relative_ways_are_not_taken(tmp_path: Path) -> None:
    """A runtime directory by a relative name is none, and the search for those above it ends."""
    (function,) = re.findall(r"^trusted\(\) \{\n.*?^\}\n", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    argv = ["sh", "-c", f'{function}run=x file=x/names/alias; trusted; echo "$?"']
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=20).stdout == b"1\n"
