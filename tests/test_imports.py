"""The house: a folder is a floor, and a module imports only from its own folder and from those below.

The imports are read from the sources, those within functions and for type checkers among them.
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

# From the bottom to the top. A folder or a single module; a new one gets its place here.
FLOORS = (
    *("errors", "remote", "prompts", "local", "openssh", "master", "login", "sessions", "sharing"),
    *("commands", "files", "transfer", "transport", "async_transport", "copying"),
    *("doctor", "setup", "aiida", "sandbox", "cli", "__main__"),
)
# These know nothing of one another, though one is below the other.
APART = {("sandbox", "setup"), ("prompts", "remote")}

# Where each way to start a process is used.
STARTERS = {
    "sh": {"local.tools"},
    "pexpect": {"login.conversation"},
    "subprocess": {
        *("openssh.programs", "openssh.destination", "openssh.versions", "openssh.hops"),
        *("master.master", "master.control_socket", "master.ensure", "master.aliases"),
        "master.forwards",
        *(
            "sessions.channel",
            "sessions.reader",
            "sessions.remote_kill",
            "commands.execution",
            "commands.passthrough",
        ),
        # its exceptions and constants alone
        *("errors", "commands.streams", "commands.as_subprocess"),
        *("transfer.without_shell", "copying.rsync", "cli.help", "sandbox", "doctor.after_login"),
        *("local.processes", "cli.sandbox"),
        *("login.conversation", "login.window", "sharing.ride"),
    },
    "multiprocessing": set[str](),
}
# os's own ways to start a process
FORKS = (
    "os.fork",
    "os.forkpty",
    "pty.fork",
    "pty.spawn",
    "os.system",
    "os.popen",
    "os.posix_spawn",
    "os.spawn",
)
# in the process that pexpect has forked, before it becomes ssh: there is one thread
FORKED = {"login.leader": ["os.fork"]}


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """The absolute names of all that a module imports, with each name that it imports from another one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = f"{PACKAGE}.{module}".split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def graph_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module, which others of the package it imports."""
    return {
        module: {
            name.removeprefix(f"{PACKAGE}.")
            for name in imported(ast.parse(text), module)
            if name.removeprefix(f"{PACKAGE}.") in sources
        }
        for module, text in sources.items()
    }


def wrong_arrows(graph: dict[str, set[str]]) -> list[str]:
    """What is not allowed in a graph of imports."""
    floor = {room: number for number, room in enumerate(FLOORS)}
    found = [f"{module}: has no floor" for module in graph if module.split(".")[0] not in floor]
    for module, others in graph.items():
        room = module.split(".")[0]
        for other in others:
            below = other.split(".")[0]
            if floor.get(room, 0) < floor.get(below, 0):
                found.append(f"{module} -> {other}: upwards")
            if (room, below) in APART:
                found.append(f"{module} -> {other}: these are apart")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        found.append(f"circle: {' -> '.join(circle.args[1])}")
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """The text of each module, by its name within the package."""
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts): path.read_text()
        for path in HOUSE.rglob("*.py")
        if path.name != "__init__.py"
    }


def test_no_wrong_arrow(sources: dict[str, str]) -> None:
    """Each module is on a floor, and no import leads upwards or in a circle."""
    assert wrong_arrows(graph_of(sources)) == []


def test_graph_is_read(sources: dict[str, str]) -> None:
    """The graph is the real one: these imports are known to be there, in each way of writing one."""
    graph = graph_of(sources)
    assert graph["__main__"] == {"cli.start"}
    assert graph["errors"] == set()
    assert {"errors", "local.settings"} <= graph["openssh.command_lines"] | graph["openssh.destination"]
    assert "login.login" in graph["cli.login"]


@pytest.mark.parametrize(
    ("module", "text", "what"),
    [
        ("errors", "import opensshtransport.local.settings", "errors -> local.settings: upwards"),
        (
            "openssh.programs",
            "from opensshtransport.master.master import Master",
            "-> master.master: upwards",
        ),
        ("openssh.programs", "from opensshtransport.master import master", "-> master.master: upwards"),
        ("openssh.programs", "from ..master import master", "-> master.master: upwards"),
        ("openssh.programs", "def f():\n    from ..master.master import Master", "-> master.master: upwards"),
        ("prompts.rules", "from opensshtransport.remote import paths", "-> remote.paths: these are apart"),
        ("unheard_of", "", "unheard_of: has no floor"),
    ],
)
def test_wrong_arrows_are_found(sources: dict[str, str], module: str, text: str, what: str) -> None:
    """A wrong import is found in each way of writing it, and so is a module without a floor."""
    changed = {**sources, module: f"{sources.get(module, '')}\n{text}\n"}
    assert what in "\n".join(wrong_arrows(graph_of(changed)))


def test_circle_is_found() -> None:
    """Two modules of a folder that import each other are found."""
    circle = {
        "prompts.rules": "from . import answers",
        "prompts.answers": "import opensshtransport.prompts.rules",
    }
    (found,) = wrong_arrows(graph_of(circle))
    assert found.startswith("circle: ")


def test_rooms_are_described() -> None:
    """Each folder says what it is for."""
    for folder in [path for path in HOUSE.iterdir() if list(path.glob("*.py"))]:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder.name


@pytest.mark.parametrize("starter", STARTERS)
def test_starters(sources: dict[str, str], starter: str) -> None:
    """Each way to start a process is used only where it belongs."""
    users = {
        module
        for module, text in sources.items()
        if starter in {name.split(".")[0] for name in imported(ast.parse(text), module)}
    }
    assert users <= STARTERS[starter]


def test_no_fork(sources: dict[str, str]) -> None:
    """No module forks itself, or starts a process in any other way than those above."""
    for module, text in sources.items():
        called = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        forks = [name for name in called if name.startswith(FORKS)]
        assert forks == FORKED.get(module, []), module


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    argv = [sys.executable, "-c", program]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import opensshtransport",
        "import opensshtransport.master.master, opensshtransport.commands.execution",
        "import opensshtransport.master.aliases, opensshtransport.remote.wrapper",
        "import opensshtransport.cli.main, opensshtransport.cli.run, opensshtransport.commands.passthrough",
    ],
)
def test_library_does_not_load_what_forks(statement: str) -> None:
    """What a library loads, and what `ossh run` starts with, has neither sh nor pexpect, which fork."""
    assert loaded(statement) & {"sh", "pexpect", "ptyprocess"} == set()


def test_login_loads_them() -> None:
    """The login does load them, so the test above can fail."""
    assert "pexpect" in loaded("import opensshtransport.login.login")
    assert "sh" in loaded("from opensshtransport.local import tools; tools.ask('true')")


def test_no_module_is_long(sources: dict[str, str]) -> None:
    """At most 500 lines: one that is longer does two jobs."""
    assert [module for module, text in sources.items() if len(text.splitlines()) > 500] == []


# Their signatures are AiiDA's; and one that compares two sides.
LONG_SIGNATURES = ("aiida.", "copying.comparison")


def test_no_function_has_many_positional_parameters() -> None:
    """At most five, besides self: what is beyond is given by name."""
    found = []
    for path in sorted(HOUSE.rglob("*.py")):
        module = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
                if len([name for name in names if name not in {"self", "cls"}]) > 5:
                    found.append(f"{module}:{node.name}")
    assert [one for one in found if not one.startswith(LONG_SIGNATURES)] == []
