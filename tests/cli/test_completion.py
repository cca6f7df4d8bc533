"""Completion in the real shells, and the help of each command."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from opensshtransport.cli import completion
from opensshtransport.cli.command_table import SUMMARIES, parser_of
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.nodes import missing_programs
from tests.support.programs import OSSH, OSSH_RUN, ossh, until

# -- what may follow -----------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    return {name: parser_of(name) for name in SUMMARIES}


def possible(*words: str) -> list[str]:
    """What `ossh complete` offers for the last word."""
    return completion.candidates(words)


@pytest.fixture
def config(isolated: Path) -> Path:
    """A configuration that knows two names, one of them in an included file."""
    (isolated / "more").write_text("Host daint-debug\n")
    path = isolated / "ssh_config"
    path.write_text(f"Include {isolated}/more\nHost daint *.example\n")
    return path


def test_commands() -> None:
    """Every command is offered, and those that are not for people are not."""
    assert set(commands()) < set(possible("ossh", ""))
    assert possible("ossh", "logi") == ["login"]
    assert not {"end", "complete"} & set(possible("ossh", ""))


def test_options() -> None:
    """Every option that the help shows is offered, of that command alone."""
    for name, parser in commands().items():
        shown = set(re.findall(r"(?<=[\s\[,])--?[\w-]+", parser.format_usage()))
        assert shown <= set(possible("ossh", name, "-")), name
    assert "--report" not in possible("ossh", "login", "-")
    assert possible("ossh", "status", "--j") == ["--json"]


def test_values_of_options() -> None:
    """What an option takes is completed, and not taken for a host."""
    assert possible("ossh", "setup", "--auth", "k") == ["key", "kerberos"]
    assert possible("ossh", "login", "-F", "") == [completion.FILES]
    assert possible("ossh", "completion", "") == ["bash", "zsh", "fish"]
    assert possible("ossh-run", "--timeout", "") == []


def test_hosts(config: Path) -> None:
    """Names of ssh_config and its Includes are offered in the place of a host, once each."""
    for command in (["ossh", "login"], ["ossh", "doctor"], ["ossh-run", "-n"], ["ossh", "run"]):
        assert possible(*command, "-F", str(config), "da") == ["daint", "daint-debug"]
    assert possible("ossh", "doctor", "-F", str(config), "daint", "") == []
    assert possible("ossh", "status", "-F", str(config), "daint", "daint-") == ["daint-debug"]
    assert possible("ossh", "cp", "-F", str(config), "a", "daint") == [
        completion.FILES,
        "daint:",
        "daint-debug:",
    ]


def test_what_is_the_remote_command_s_own(config: Path) -> None:
    """What follows HOST of ossh-run belongs to the command there."""
    assert possible("ossh-run", "-F", str(config), "daint", "-") == []
    assert possible("ossh-run", "-F", str(config), "daint", "ls", "") == []


def test_nothing_is_printed_for_nonsense(isolated: Path) -> None:
    """A TAB never prints an error, whatever is typed."""
    for words in ([], ["ossh", "no-such-command", ""], ["ossh", "cp", "-oX:a"], ["ossh", "cp", "no'quote:"]):
        done = ossh("complete", "--", *words)
        assert (done.returncode, done.stderr) == (0, b""), words
        assert not done.stdout.replace(b":files\n", b""), words


# -- real shells ---------------------------------------------------------------------------------------

_SETUP = {
    "bash": 'eval "$(command ossh completion bash)"',
    # no compinit before
    "zsh": "source <(command ossh completion zsh)",
    "fish": "command ossh completion fish | source",
}
_ARGV = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-i"],
}


@pytest.fixture(params=list(_SETUP))
def typed(request: pytest.FixtureRequest, isolated: Path) -> Callable[[str], list[str]]:
    """Type a line with TABs into a real shell; gives the words of the command that ran after Enter.

    `ossh` is a script first on PATH, which keeps its arguments; only what completion asks goes to the real
    one.
    """
    shell: str = request.param
    require(missing_programs(shell))
    place, kept = isolated / "bin", isolated / "kept"
    place.mkdir()
    for name, real in (("ossh", OSSH), ("ossh-run", OSSH_RUN)):
        (place / name).write_text(
            f'#!/bin/sh\ncase $1 in complete | completion) exec {real} "$@" ;; esac\n'
            f"printf '%s\\n' \"$@\" >{kept}.draft && mv {kept}.draft {kept}\n"
        )
        (place / name).chmod(0o755)
    home = isolated / "home"
    home.mkdir()
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}

    def run(line: str) -> list[str]:
        kept.unlink(missing_ok=True)
        child: pexpect.spawn[str] = pexpect.spawn(
            shell, _ARGV[shell], env=environment, encoding="utf-8", timeout=20, cwd=str(home)
        )
        child.sendline(f"{_SETUP[shell]}; echo re''ady")
        child.expect("ready\r?\n")
        child.send(f"{line}\r")
        until(kept.exists, f"the command to run: {line!r}")
        child.close(force=True)
        return kept.read_text().splitlines()

    return run


def test_shell_completes_commands_options_and_hosts(typed: Callable[[str], list[str]], config: Path) -> None:
    """A TAB completes a command, an option and a host; and ossh-run's host too."""
    assert typed(f"ossh stat\t --js\t -F {config} daint-\t") == [
        "status",
        "--json",
        "-F",
        str(config),
        "daint-debug",
    ]
    assert typed(f"ossh-run -F {config} daint-d\t ls") == ["-F", str(config), "daint-debug", "ls"]


def test_shell_completes_local_files(typed: Callable[[str], list[str]], isolated: Path) -> None:
    """In the place of a file, local files are completed."""
    (isolated / "home" / "inputs.tar").touch()
    assert typed("ossh cp inp\t x") == ["cp", "inputs.tar", "x"]


@pytest.fixture
def far(node: Sandbox, isolated: Path) -> Path:
    """A directory on the remote side, which has two entries, one with a blank in its name."""
    top = isolated / "far"
    (top / "inputs").mkdir(parents=True)
    (top / "my results").touch()
    return top


def test_shell_completes_remote_paths(typed: Callable[[str], list[str]], node: Sandbox, far: Path) -> None:
    """With a live master remote paths are completed, step by step, with blanks in their names."""
    assert ossh("login", "-q", "-F", node.ssh_config, node.host).returncode == 0
    begin = f"ossh cp -F {node.ssh_config}"
    assert typed(f"{begin} sandbox:{far}/inp\t{far}")[-1] == f"sandbox:{far}/inputs/{far}"
    assert typed(f"{begin} x sandbox:{far}/my\t")[-1] == f"sandbox:{far}/my results"
    assert typed(f"{begin} sandb\t{far}/inp\t")[-1] == f"sandbox:{far}/inputs/"


def test_shell_never_logs_in(typed: Callable[[str], list[str]], node: Sandbox, far: Path) -> None:
    """Without a live master no remote path is completed, and no connection is made."""
    before = node.connections()
    line = f"ossh cp -F {node.ssh_config} sandbox:{far}/inp"
    assert typed(f"{line}\t")[-1] == f"sandbox:{far}/inp"
    assert node.connections() == before


# -- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", commands())
def test_help_has_an_example(name: str) -> None:
    """`--help` of each command has an example that its own parser takes."""
    done = ossh(name, "--help", env={"COLUMNS": "300"})
    assert done.returncode == 0
    example = re.search(r"^examples?: (.*)", done.stdout.decode(), re.MULTILINE)
    assert example, name
    called = re.search(rf"(?:ossh {name}|ossh-run)\b([^)\"]*)", example[1])
    assert called, example[1]
    words = [word for word in called[1].split() if word != "&&"]
    arguments, unknown = commands()[name].parse_known_args(words)
    assert unknown == []
    assert callable(arguments.run)


def test_script_is_for_the_shell_that_is_named() -> None:
    """Each shell takes its script without a word."""
    checks = {"bash": ["-n"], "zsh": ["-n"], "fish": ["--no-execute"]}
    for shell, options in checks.items():
        if missing_programs(shell):
            continue
        text = ossh("completion", shell).stdout
        done = subprocess.run([shell, *options, "/dev/stdin"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), shell
