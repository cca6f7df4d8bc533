"""What tests run inside a profile: `verdi run aiida_scripts.py NAME VALUES`; the answer is a line of JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

_MONITOR = {"entry_point": "core.always_kill"}


def commands(lines: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Run commands of `verdi` and `ossh` in one process, since each takes seconds to load AiiDA.

    Args:
        lines: the words of each, the program's name first.

    Returns:
        for each its exit status, and what it has printed.
    """
    from aiida.cmdline.commands.cmd_verdi import verdi

    from opensshtransport.cli.main import main as ossh

    programs = {"verdi": verdi, "ossh": ossh}
    return [_ran(programs[name], list(words)) for name, *words in lines]


def _ran(program: Any, words: list[str]) -> tuple[int, str]:
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = program(words)
        except SystemExit as reason:
            status = int(reason.code or 0)
    return status, said.getvalue()


def until_paused(patience: float) -> str:
    """Wait until `verdi process list` has a paused process; what it shows as its status."""
    list_ = ["verdi", "process", "list", "--paused", "--raw", "--project", "process_status"]
    deadline = time.monotonic() + patience
    while not (said := commands([list_])[0][1].strip()) and time.monotonic() < deadline:
        # the database tells nobody when it changes
        time.sleep(0.5)
    return said


def submit(jobs: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Submit calculations to the daemon, all at once, and wait for their ends.

    Args:
        jobs: for each `computer`, `kind` ("add" or "files"), and its numbers.
        seconds: how long to wait.
    """
    from aiida import engine, orm
    from aiida.calculations.arithmetic.add import ArithmeticAddCalculation

    from tests.support.aiida_calculation import FileHeavy

    codes: dict[str, Any] = {}
    nodes = []
    for job in jobs:
        label = job["computer"]
        if label not in codes:
            computer = orm.load_computer(label)
            computer.set_minimum_job_poll_interval(1)
            codes[label] = orm.InstalledCode(
                label=f"bash-{label}", computer=computer, filepath_executable="/bin/bash"
            ).store()
        if job["kind"] == "shell":
            nodes.append(_shell_job(label, job["seed"]))
            continue
        if job["kind"] == "watched":
            # it reads what the job has printed so far
            inputs = {"x": orm.Int(1), "y": orm.Int(1), "monitors": {"kill": orm.Dict(_MONITOR)}}
            builder = ArithmeticAddCalculation.get_builder()
        elif job["kind"] == "add":
            inputs = {"x": orm.Int(job["x"]), "y": orm.Int(job["y"])}
            builder = ArithmeticAddCalculation.get_builder()
        else:
            inputs = {"seed": orm.Int(job["seed"]), "count": orm.Int(job["count"])}
            builder = FileHeavy.get_builder()
        builder._update({"code": codes[label], **inputs})
        if job["kind"] == "watched":
            # core.direct cannot kill what has ended, and tries again for minutes
            builder.metadata.options["sleep"] = 600
        nodes.append(engine.submit(builder))
    deadline = time.monotonic() + seconds
    while not all(node.is_terminated for node in nodes) and time.monotonic() < deadline:
        # the database tells nobody when it changes
        time.sleep(0.5)
    return [_told(node, job) for node, job in zip(nodes, jobs, strict=True)]


def _shell_job(label: str, number: int) -> Any:
    """A job of aiida-shell, which only the bench has."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent
    from aiida_shell import ShellCode, launch_shell_job

    name = f"echo@{label}"
    try:
        code = orm.load_code(name)
    except NotExistent:
        code = ShellCode(
            label="echo",
            computer=orm.load_computer(label),
            filepath_executable="/bin/echo",
            default_calc_job_plugin="core.shell",
        ).store()
    return launch_shell_job(code, arguments=f"job {number}", submit=True)[1]


def _told(node: Any, job: dict[str, Any]) -> dict[str, Any]:
    told = {
        "state": str(node.process_state.value if node.process_state else None),
        "exit_status": node.exit_status,
        "status": node.process_status,
        "job_id": node.get_job_id(),
        "workdir": node.get_remote_workdir(),
        # of what has ended nothing changes any more
        "seconds": [node.ctime.timestamp(), node.mtime.timestamp()],
    }
    if node.is_finished and job["kind"] == "add":
        told["sum"] = node.outputs.sum.value
    if node.is_finished and job["kind"] == "files":
        told["files"] = _wrong_files(node, job)
    return told


def _wrong_files(node: Any, job: dict[str, Any]) -> list[str]:
    """What is missing, spoilt or too much of what a calculation of files has retrieved."""
    from tests.support.aiida_calculation import content

    repository = node.outputs.retrieved.base.repository
    found = {
        str(root / name): repository.get_object_content(str(root / name), mode="rb")
        for root, _, names in repository.walk()
        for name in names
    }
    wanted = {"count": b"%d\n" % job["count"], **{f"out/{n}.log": b"%d\n" % n for n in (1, 2, 3)}}
    for number in range(job["count"]):
        place = f"{number % 5}/.hidden" if number % 3 == 0 else "flat"
        for top in ("in puts", "linked"):
            wanted[f"trees/{top}/{place}/file {number}"] = content(job["seed"], number)
    named = {name for name in found if not name.startswith(("_scheduler", "_aiida"))}
    return sorted({name for name, raw in wanted.items() if found.get(name) != raw} | (named - wanted.keys()))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
