"""Record the answers of AiiDA's own transports to the scenarios of `aiida_contract`.

    python -m tests.support.record_aiida DIRECTORY

It is run by a user who owns nothing but a new, empty directory, never by root: what these transports remove
where a path is empty is theirs to say. It writes `aiida_answers.json` there, to be moved next to this file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.support.aiida_contract import (
    ROUND_TRIP,
    SCENARIOS,
    STALLS,
    Awaiting,
    Places,
    WithinPortal,
    acts,
    answer,
    stands_still,
)

# Seconds after which a transport hangs.
_PATIENCE = 15


def _hangs(*_: object) -> None:
    raise TimeoutError("it hangs")


# What is not to be asked of a transport: it removes the working directory.
_NEVER = {("core.local", "rmtree of no name")}


@contextlib.contextmanager
def opened(name: str, transport: Any) -> Iterator[Any]:
    """A transport, open, with blocking methods: those of `core.ssh_async` would ask for a broker."""
    if name.startswith("ssh_async"):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(transport.open_async())
        yield Awaiting(transport, loop)
        loop.run_until_complete(transport.close_async())
        loop.close()
    else:
        with transport:
            yield transport


def answers(name: str, transport: Any, top: Path) -> dict[str, dict[str, Any]]:
    """What a transport does, by scenario."""
    found = {}
    for number, (scenario, run) in enumerate(SCENARIOS.items()):
        if (name, scenario) in _NEVER:
            continue
        signal.alarm(_PATIENCE)
        found[scenario] = answer(run, transport, _places(top, name, number)).written()
        signal.alarm(0)
    return found


def stalls(name: str, transport: Any, top: Path) -> dict[str, float]:
    """For how many seconds a transport stops the loop, by scenario."""
    loop = asyncio.new_event_loop()
    if isinstance(transport, Awaiting):
        # blocking methods wait through the portal in the same way
        loop, transport = transport.loop or loop, WithinPortal(transport.transport)
    found = {}
    for number, (scenario, run) in enumerate(STALLS.items()):
        _, seconds = loop.run_until_complete(
            stands_still(acts(run, transport, _places(top, f"{name} stalls", number)))
        )
        found[scenario] = round(seconds, 2)
    return found


def _places(top: Path, name: str, number: int) -> Places:
    return Places.make(top / f"{name} {number}".replace(" ", "-").replace(",", ""))


def _written(table: Mapping[str, Mapping[str, object]]) -> str:
    """With a line for each value, so that changes can be read."""
    lines = (
        f"  {json.dumps(scenario)}: {{\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(one)}" for name, one in by_name.items())
        + "\n  }"
        for scenario, by_name in table.items()
    )
    return "{\n" + ",\n".join(lines) + "\n }"


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--ours", action="store_true", help="ours too, to be compared")
    parser.add_argument("--only", choices=("answers", "stalls"), help="keep the others as they are recorded")
    arguments = parser.parse_args()
    top = arguments.directory.resolve()
    if os.geteuid() == 0 or list(top.iterdir()):
        sys.exit("as a user without rights, and in an empty directory")
    for name in ("AIIDA_PATH", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = tempfile.mkdtemp(prefix="or", dir="/tmp")
    os.environ["HOME"] = str(top / "home")
    (top / "home").mkdir()
    (top / "nothing").mkdir()
    os.chdir(top / "nothing")
    os.umask(0o022)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hangs)

    from aiida.plugins import TransportFactory

    from opensshtransport.sandbox import Sandbox

    # scripts, no modules
    bench, bench_server = map(importlib.import_module, ("bench_aiida", "bench_server"))

    recorders: dict[str, tuple[Callable[..., dict[str, Any]], float]] = {
        "answers": (answers, 0),
        "stalls": (stalls, ROUND_TRIP),
    }
    recorded: dict[str, dict[str, dict[str, Any]]] = json.loads(
        (Path(__file__).parent / "aiida_answers.json").read_text()
    )
    with Sandbox() as node:
        for kind, (record, seconds) in recorders.items():
            if arguments.only not in (None, kind):
                continue
            recorded[kind] = {}
            with bench_server.way(node, seconds * 1000) as config:
                made = {
                    "core.local": TransportFactory("core.local")(machine="localhost"),
                    **bench.transports(node.host, config),
                }
                for name, transport in made.items():
                    if name == "ours" and not arguments.ours:
                        continue
                    with (
                        bench.surroundings(top, config, programs=name != "ours"),
                        opened(name, transport) as open_one,
                    ):
                        for scenario, value in record(name, open_one, top).items():
                            by_name = recorded[kind].setdefault(scenario, {})
                            by_name[name.replace("ssh_async", "core.ssh_async")] = value
                    sys.stderr.write(f"{name}: {kind}\n")
    lines = (f' "{kind}": {_written(table)}' for kind, table in recorded.items())
    (top / "aiida_answers.json").write_text("{" + ",\n".join(lines).lstrip() + "}\n")


if __name__ == "__main__":
    main()
