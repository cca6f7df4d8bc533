"""What is left out by default: the lists name tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import exhaustive
from tests.exhaustive import LEFT_OUT, SAMPLED, left_out

TESTS = Path(__file__).parents[1]


def test_names_are_of_tests() -> None:
    """Each name in the lists is that of a test, so that a test that was renamed is not run by mistake."""
    for name in LEFT_OUT | SAMPLED.keys():
        file, *words = name.split("::")
        scope: list[ast.stmt] = ast.parse((TESTS / file).read_text()).body
        for word in words:
            (found,) = [
                node
                for node in scope
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == word
            ]
            scope = found.body


def test_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that takes long the first test and each Nth one is run; of the others all are."""
    monkeypatch.setattr(exhaustive, "SAMPLED", {"a/test_b.py": 3})
    monkeypatch.setattr(exhaustive, "LEFT_OUT", frozenset({"test_d.py::test_e"}))
    many = [f"tests/a/test_b.py::test_c[{number}]" for number in range(5)]
    many += ["tests/a/test_b.py::test_f", "tests/a/test_b.py::test_g"]
    other = ["tests/a/test_x.py::test_c", "tests/test_d.py::test_e", "tests/test_d.py::test_f"]
    assert left_out([*many, *other]) == {many[1], many[2], many[4], many[5], other[1]}
