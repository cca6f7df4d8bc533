"""The shell functions of the remote side."""

from __future__ import annotations

import importlib.resources
import re
from collections import Counter


def test_names_of_functions() -> None:
    """No two scripts define a function of one name: one would replace the other."""
    home = importlib.resources.files("opensshtransport.remote")
    scripts = [entry.read_text() for entry in home.iterdir() if entry.name.endswith(".sh")]
    assert len(scripts) > 3
    names = Counter(name for text in scripts for name in re.findall(r"^(\w+)\(\)", text, re.MULTILINE))
    assert [name for name, times in names.items() if times > 1] == []
