"""The table of commands: each is found, and loaded when it is called and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opensshtransport import Transport, cli
from opensshtransport.cli.command_table import SUMMARIES, is_command, parser_of
from opensshtransport.errors import Unreachable
from opensshtransport.sandbox import Sandbox
from tests.support.programs import ossh

# What several commands use.
SHARED = {"__init__", "command_table", "main", "masters", "options", "output", "start"}


def test_each_file_is_a_command() -> None:
    """A command is a file of its name, and each other file is shared by several."""
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert {name.replace("_", "-") for name in files - SHARED} == {*SUMMARIES, "end", "ride"}


@pytest.mark.parametrize("name", [*SUMMARIES, "end", "ride"])
def test_parsers(name: str) -> None:
    """Each command has a parser with an example."""
    assert is_command(name)
    assert "example: " in str(parser_of(name).epilog)


def test_what_is_loaded() -> None:
    """A command loads no other one, and finding it loads none."""
    find = "from opensshtransport.cli import command_table; command_table.parser_of('run')"
    program = f"{find}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.rpartition("opensshtransport.cli.")[2] for name in done.stdout.split()}
    assert loaded & {name.replace("-", "_") for name in SUMMARIES} == {"run"}
    assert not {"opensshtransport.transport", "opensshtransport.commands.passthrough"} & set(
        done.stdout.split()
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logni"], "ossh: there is no command 'logni'; did you mean: ossh login"),
        (["hlep", "tunnels"], "ossh: there is no command 'hlep'; did you mean: ossh help"),
        (["xyzzy"], "ossh: there is no command 'xyzzy'; see: ossh --help"),
        (["--", "login", "daint"], "ossh: there is no command '--'; see: ossh --help"),
        (["a\nb"], "ossh: there is no command 'a\\nb'; see: ossh --help"),
    ],
)
def test_unknown_command(words: list[str], told: str) -> None:
    """A command that does not exist gets one line, with the command that may be meant."""
    done = ossh(*words)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (255, b"", f"{told}\n")


@pytest.mark.parametrize(
    ("words", "usage", "told"),
    [
        ([], "ossh [OPTION ...] COMMAND ...", "ossh: COMMAND is missing, see ossh --help"),
        (["run"], "ossh-run [OPTION ...] HOST ...", "ossh-run: HOST is missing, see ossh-run --help"),
        (
            ["cp"],
            "ossh cp [OPTION ...] SRC [SRC ...] DST",
            "ossh cp: SRC, DST are missing, see ossh cp --help",
        ),
        (
            ["setup", "-F"],
            "ossh setup [OPTION ...] HOST",
            "ossh setup: argument -F: expected one argument, see ossh setup --help",
        ),
    ],
)
def test_mistakes_are_told_shortly(words: list[str], usage: str, told: str) -> None:
    """A wrong call is answered with two lines, without a list of all options."""
    done = ossh(*words)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode().splitlines() == [f"usage: {usage}", told]


@pytest.mark.parametrize("words", [[], ["-x"]])
def test_no_command(words: list[str]) -> None:
    """Without a command nothing happens, and it says so."""
    done = ossh(*words)
    assert done.returncode == 255
    assert done.stderr.startswith(b"usage: ossh ")
    assert b"Traceback" not in done.stderr


def test_steps_are_told(own_node: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """-v reports the steps on stderr and stdout stays as it is; without it nothing is reported."""
    config, host = own_node.ssh_config, own_node.host
    done = ossh("login", "-v", "-F", config, host)
    assert f"ossh login: {host}: logged in\n" in done.stderr.decode()
    assert ossh("login", "-F", config, host).stderr.decode().count("\n") == 1
    done = ossh("run", "-v", "-F", config, host, "echo x")
    assert done.stdout == b"x\n"
    with Transport(host, ssh_config=config) as transport, caplog.at_level("DEBUG", "opensshtransport"):
        transport.run("true")
    assert "opening a session" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_steps_of_a_login_process(
    own_node: Sandbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fails: bool
) -> None:
    """A login that `Transport` makes in another process passes its steps to the loggers of this one."""
    if fails:
        own_node.stop()
    with Transport(own_node.host, ssh_config=own_node.ssh_config) as transport:
        with caplog.at_level("INFO", "opensshtransport"):
            if fails:
                with pytest.raises(Unreachable):
                    transport.login()
            else:
                transport.login()
        steps = [f"{record.name} {record.getMessage()}" for record in caplog.records]
        login = f"opensshtransport.login.login {own_node.host}: "
        assert f"{login}logging in unattended" in steps
        assert (f"{login}the login failed: Unreachable" if fails else f"{login}logged in") in steps
    assert capfd.readouterr() == ("", "")


def test_options_of_forward_come_anywhere() -> None:
    """A port may follow an option, as people type it."""
    arguments = parser_of("forward").parse_all(["daint", "-b", "8888", "-L", "1:x:2", "9999"])
    assert (arguments.host, arguments.ports, arguments.background) == ("daint", ["8888", "9999"], True)
