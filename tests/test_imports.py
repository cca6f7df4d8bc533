"""The house stands: a module imports only from floors below its own, and within a floor in one direction.

The graph is read from the sources, the imports within functions and those for type checkers among them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import opensshtransport

PACKAGE = "opensshtransport"
HOUSE = Path(opensshtransport.__file__).parent

# A new room gets its place here.
FLOORS = {
    0: {
        *("entries", "paths", "errors", "answers", "screen", "prompts", "settings", "trust", "descriptors"),
        *("notation", "listings"),
    },
    1: {"openssh", "hops", "tools", "wrapper", "ssh_config", "runlog", "activity"},
    2: {
        *("master", "aliases", "slots", "channel", "spares", "ending"),
        *("login", "conversation", "asking", "askpass", "budget", "sources"),
    },
    3: {
        *("shell", "shells"),
        "command",
        "process",
        "async_process",
        "execution",
        "direct",
        *("session", "meter", "items", "archive", "appearing", "stripes", "trees", "sftp"),
        *("questions", "files"),
        *("placement", "putting", "finding", "getting", "transfer"),
        "transport",
        *("links", "credentials", "far_side", "plan"),
        # parts of the AiiDA transport
        *("aiida_options", "aiida_files", "aiida_archives", "aiida_transfers"),
    },
    4: {
        "cli",
        "sandbox",
        "doctor",
        "configure",
        "completion",
        "copying",
        "aiida",
        "aiida_migration",
        "status",
        "__main__",
    },
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# These may start the others of their floor.
DOORS = {"cli", "__main__", "aiida_migration"}

# Which way to start a process has which place.
STARTERS = {
    "sh": {"tools"},
    "pexpect": {"conversation"},
    "subprocess": {
        *("openssh", "versions", "master", "aliases", "channel", "ending"),
        *("execution", "direct", "sftp", "copying", "sandbox", "far_side", "conversation"),
    },
    "multiprocessing": set[str](),
}


def imported(tree: ast.AST) -> Iterator[str]:
    """The absolute names of all that a module imports, with each name that it imports from another one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [PACKAGE if node.level else "", node.module]))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module's source, which others of them it imports."""
    return {
        room: {
            name.split(".")[1]
            for name in imported(ast.parse(text))
            if name.startswith(f"{PACKAGE}.") and name.split(".")[1] in sources
        }
        for room, text in sources.items()
    }


def wrong_arrows(graph: dict[str, set[str]]) -> list[str]:
    """What is not allowed in a graph of imports."""
    found = [f"{room}: has no floor" for room in graph if room not in FLOOR_OF]
    for room, others in graph.items():
        for other in others:
            above, below = FLOOR_OF.get(room, 0), FLOOR_OF.get(other, 0)
            if above < below:
                found.append(f"{room} -> {other}: upwards")
            if above == below == max(FLOORS) and room not in DOORS:
                found.append(f"{room} -> {other}: on the floor whose rooms are apart")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        found.append(f"circle: {' -> '.join(circle.args[1])}")
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """The text of each module, by its name."""
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts): path.read_text()
        for path in HOUSE.rglob("*.py")
        if path.name != "__init__.py"
    }


def test_no_wrong_arrow(sources: dict[str, str]) -> None:
    """Each module has a floor; no import leads upwards, in a circle, or from one edge to another."""
    assert wrong_arrows(rooms_of(sources)) == []


def test_graph_is_read(sources: dict[str, str]) -> None:
    """The graph is the real one: these arrows are known to be there, in each way of writing an import."""
    graph = rooms_of(sources)
    assert graph["__main__"] == {"cli"}
    assert graph["errors"] == graph["wrapper"] == set()
    assert {"errors", "settings"} <= graph["openssh"]
    assert "errors" in graph["sandbox"]
    assert "login" in graph["cli"]


@pytest.mark.parametrize(
    ("room", "text", "what"),
    [
        ("errors", "import opensshtransport.settings", "errors -> settings"),
        ("openssh", "from opensshtransport.master import Master", "openssh -> master: upwards"),
        ("openssh", "from opensshtransport import master", "openssh -> master: upwards"),
        ("openssh", "from . import master", "openssh -> master: upwards"),
        ("openssh", "from .master import Master", "openssh -> master: upwards"),
        ("openssh", "def f():\n    from .master import Master", "openssh -> master: upwards"),
        ("sandbox", "from opensshtransport import cli", "sandbox -> cli: on the floor"),
        ("unheard_of", "", "unheard_of: has no floor"),
    ],
)
def test_wrong_arrows_are_found(sources: dict[str, str], room: str, text: str, what: str) -> None:
    """A wrong arrow is found in each way of writing it, and so is a room that has no floor."""
    assert what in "\n".join(wrong_arrows(rooms_of({**sources, room: f"{sources.get(room, '')}\n{text}\n"})))


def test_circle_is_found() -> None:
    """Two modules of a floor that import each other are found."""
    circle = {"prompts": "import opensshtransport.answers", "answers": "from . import prompts"}
    (found,) = wrong_arrows(rooms_of(circle))
    assert found.startswith("circle: ")


@pytest.mark.parametrize("starter", STARTERS)
def test_starters(sources: dict[str, str], starter: str) -> None:
    """Each way to start a process is used only where it has its place."""
    users = {
        room
        for room, text in sources.items()
        if starter in {name.split(".")[0] for name in imported(ast.parse(text))}
    }
    assert users <= STARTERS[starter]


def test_no_fork(sources: dict[str, str]) -> None:
    """Nobody forks by hand, or starts a process past the ways above."""
    forbidden = (
        "os.fork",
        "os.forkpty",
        "pty.fork",
        "pty.spawn",
        "os.system",
        "os.popen",
        "os.posix_spawn",
        "os.spawn",
    )
    for room, text in sources.items():
        called = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        assert not [name for name in called if name.startswith(forbidden)], room


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    argv = [sys.executable, "-c", program]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import opensshtransport",
        "import opensshtransport.master, opensshtransport.execution",
        "import opensshtransport.aliases, opensshtransport.wrapper",
        "import opensshtransport.cli",
    ],
)
def test_library_does_not_load_what_forks(statement: str) -> None:
    """What a library loads, and what `ossh run` starts with, has neither sh nor pexpect, which fork."""
    assert loaded(statement) & {"sh", "pexpect", "ptyprocess"} == set()


def test_login_loads_them() -> None:
    """The login does load them: so the test above can fail."""
    assert {"sh", "pexpect"} <= loaded("import opensshtransport.login")
