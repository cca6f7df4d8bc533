"""Record the answers of AiiDA's own transports to the scenarios of `aiida_contract`.

    python tests/record_aiida.py DIRECTORY [ours]

It is run by a user who owns nothing but a new, empty directory, never by root: what these transports remove
where a path is empty is theirs to say. It writes `aiida_answers.json` there, to be moved beside this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.support.aiida_contract import SCENARIOS, Awaiting, Places, answer

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


def main() -> None:
    """Record."""
    top = Path(sys.argv[1]).resolve()
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
    signal.signal(signal.SIGALRM, _hangs)
    from aiida.plugins import TransportFactory

    from opensshtransport.sandbox import Sandbox

    # a script, not a module
    bench = importlib.import_module("bench_aiida")

    table: dict[str, dict[str, Any]] = {name: {} for name in SCENARIOS}
    with Sandbox() as node:
        config = Path(node.ssh_config)
        made = {
            "core.local": TransportFactory("core.local")(machine="localhost"),
            **bench.transports(node.host, config),
        }
        for name, transport in made.items():
            if name == "ours" and len(sys.argv) < 3:
                continue
            with (
                bench.surroundings(top, config, programs=name != "ours"),
                opened(name, transport) as open_one,
            ):
                for number, (scenario, run) in enumerate(SCENARIOS.items()):
                    if (name, scenario) in _NEVER:
                        continue
                    places = Places.make(top / f"{name} {number}".replace(" ", "-").replace(",", ""))
                    signal.alarm(_PATIENCE)
                    table[scenario][name.replace("ssh_async", "core.ssh_async")] = answer(
                        run, open_one, places
                    ).written()
                    signal.alarm(0)
            sys.stderr.write(f"{name} is done\n")
    lines = (
        f"  {json.dumps(scenario)}: {{\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(one)}" for name, one in answers.items())
        + "\n  }"
        for scenario, answers in table.items()
    )
    (top / "aiida_answers.json").write_text('{"answers": {\n' + ",\n".join(lines) + "\n }}\n")


if __name__ == "__main__":
    main()
