"""Every advice that is in the package, read from its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import opensshtransport

HOUSE = Path(opensshtransport.__file__).parent

# Which argument of these functions is an advice.
_CALLS = {"broken": 1, "warning": 1, "skipped": 1, "wrong": 2, "_until": 3}


def _expressions(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if _is_remedy(node):
            yield node
        elif isinstance(node, ast.keyword) and node.arg == "advice":
            yield node.value
        elif isinstance(node, ast.Assign):
            names = {ast.unparse(target).rpartition(".")[2].lower() for target in node.targets}
            if any("advice" in name or name == "another_keyring" for name in names):
                yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield from node.args[_CALLS[node.func.id] : _CALLS[node.func.id] + 1]


def _is_remedy(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "Remedy" and bool(node.args)


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts in an expression, with {} for what is put into one."""
    if isinstance(node, ast.Constant):
        yield from [node.value] if isinstance(node.value, str) else []
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif _is_remedy(node):
        words, *called = node.args
        parts = [next(_texts(part), "{}") for part in called]
        # the host follows the command
        parts.insert(1, "{}" if parts else "")
        yield from (text + " ".join(parts) for text in _texts(words))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def all_advice() -> dict[str, set[str]]:
    """Each advice, with the modules that contain it."""
    found: dict[str, set[str]] = {}
    for path in HOUSE.rglob("*.py"):
        module = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        for expression in _expressions(ast.parse(path.read_text())):
            for text in _texts(expression):
                # words to join parts by, and options of functions
                if " " in text.strip(" ,.:;{}") or text.startswith(("run: ", "ossh ")):
                    found.setdefault(text, set()).add(module)
    return found
