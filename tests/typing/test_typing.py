"""What mypy and pyright make of a user's program: the right types, and its mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import opensshtransport

HERE = Path(__file__).parent
# Where the package is: an editable installation is found by Python alone.
HOUSE = Path(opensshtransport.__file__).parent.parent
# The lines that hold a mistake, as they are marked in the file itself.
MISTAKES = 7


def mypy(file: Path, cache: Path) -> str:
    """What mypy says, with no settings of this project's."""
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", str(cache), "--no-error-summary"]
    return _said([sys.executable, "-m", "mypy", *options, str(file)])


def pyright(file: Path, cache: Path) -> str:
    """What pyright says; it and its node come from PyPI, and it fetches nothing when it runs."""
    settings = cache / "pyrightconfig.json"
    chosen = {"include": [str(file)], "extraPaths": [str(HOUSE)], "typeCheckingMode": "strict"}
    settings.write_text(json.dumps(chosen))
    return _said(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(settings)]
    )


def _said(argv: list[str]) -> str:
    env = {**os.environ, "MYPYPATH": str(HOUSE)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd=HERE, timeout=110, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert "No module" not in done.stderr, done.stderr
    return done.stdout


CHECKERS = [
    pytest.param(
        check,
        id=check.__name__,
        marks=pytest.mark.skipif(
            not find_spec(check.__name__) and os.environ.get("CI") != "true",
            reason=f"{check.__name__} is missing (scripts/set-up --for check)",
        ),
    )
    for check in (mypy, pyright)
]


@pytest.mark.parametrize("check", CHECKERS)
def test_a_users_program(check: Callable[[Path, Path], str], tmp_path: Path) -> None:
    """text=True and encoding= give text, nothing gives bytes, and handlers for subprocess's errors fit."""
    said = check(HERE / "users_program.py", tmp_path)
    assert "error" not in said.replace("0 errors", ""), said


@pytest.mark.parametrize("check", CHECKERS)
def test_mistakes_are_told(check: Callable[[Path, Path], str], tmp_path: Path) -> None:
    """Each wrong option, and each mix of text and bytes, is an error in its line."""
    source = (HERE / "mistakes.py").read_text()
    file = tmp_path / "mistakes.py"
    # this project's own check overlooks them
    file.write_text(re.sub(r"# mypy: .*\n", "", source))
    lines = file.read_text().splitlines()
    said = check(file, tmp_path)
    told = {int(number) for number in re.findall(r"mistakes\.py:(\d+)(?::\d+)?(?: -|:) error", said)}
    first = next(number for number, line in enumerate(lines, 1) if "there.run" in line)
    assert told == set(range(first, first + MISTAKES)), said
