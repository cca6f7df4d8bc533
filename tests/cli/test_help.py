"""`ossh help`: the list of topics, a page in a pipe and at a terminal; and `ossh --version`."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opensshtransport
from opensshtransport.cli import help as manual
from opensshtransport.cli.command_table import SUMMARIES
from opensshtransport.errors import ConnectionFailed, OpenSshTransportError
from opensshtransport.local.settings import config_file
from tests.support.programs import OSSH, ossh, ossh_run

ALL = [topic for topics in manual.TOPICS.values() for topic in topics]


def test_topics_are_listed_by_kind() -> None:
    """Without a topic there is the list of them, each with its title below its kind."""
    done = ossh("help")
    assert (done.returncode, done.stderr) == (0, b"")
    listed = done.stdout.decode()
    for kind, topics in manual.TOPICS.items():
        _, _, below = listed.partition(f"\n{kind}:\n")
        names = [line.split()[0] for line in below.partition("\n\n")[0].splitlines()]
        assert names == list(topics)


@pytest.mark.parametrize("topic", ALL)
def test_a_page_in_a_pipe_is_plain(topic: str) -> None:
    """What is piped has no escape sequences, and neither links nor pictures: a link names its topic."""
    text = manual.plain(manual.page(topic).text)
    assert text.startswith(f"# {manual.page(topic).title}\n")
    assert "\x1b" not in text
    assert not re.search(r"\]\([^)]*\.(?:md|svg)|<!--", text)
    for name in re.findall(r"\(ossh help ([\w-]+)\)", text):
        assert name in ALL


def test_a_page_is_printed() -> None:
    """`ossh help TOPIC | cat` gives the whole page."""
    done = ossh("help", "logging-in")
    assert done.stdout.decode() == manual.plain(manual.page("logging-in").text)


def test_an_unknown_topic_is_one_line() -> None:
    """A missing topic is reported in one line, with the command that lists the topics."""
    done = ossh("help", "nonsense")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr == b"ossh help: there is no topic 'nonsense'; run: ossh help\n"


def test_errors_name_a_page(isolated: Path) -> None:
    """What fails for the connection, or for a setting, names the page about it; each such page is there."""
    kinds = [OpenSshTransportError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    named = {kind.__name__: kind.topic for kind in kinds if kind.topic}
    assert set(named.values()) <= set(ALL)
    assert {kind.__name__ for kind in kinds if issubclass(kind, ConnectionFailed)} <= set(named)
    config = isolated / "ssh_config"
    config.write_text("Host nowhere\n    HostName 127.0.0.1\n    Port 1\n    BatchMode yes\n")
    for program in (ossh_run, functools.partial(ossh, "run")):
        line = program("-F", config, "nowhere", "true").stderr.decode()
        assert " (ossh help doctor); " in line
    file = config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('[host."*"]\npersist = "soon"\n')
    line = ossh("login", "-F", config, "nowhere").stderr.decode()
    assert " (ossh help settings); " in line


def test_each_command_has_a_page() -> None:
    """`ossh help COMMAND` shows the page on which the command is described."""
    for name in SUMMARIES:
        page = manual.page(name)
        assert f"ossh {name}" in page.text or f"ossh-{name}" in page.text, name
    assert set(manual.PAGES_OF_COMMANDS) <= set(SUMMARIES)


@pytest.mark.parametrize("pager", ["cat", "no-such-pager", ""])
def test_a_page_at_a_terminal_is_formatted(monkeypatch: pytest.MonkeyPatch, pager: str) -> None:
    """At a terminal headings are bold and come without their marks; a pager that is missing is no error."""
    monkeypatch.setenv("PAGER", pager)
    monkeypatch.setenv("TERM", "xterm")
    child = pexpect.spawn(str(OSSH), ["help", "one-master"], encoding="utf-8", dimensions=(200, 120))
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    assert shown.startswith("\x1b[1mOne master per destination\x1b[0m\r\n")
    assert "`" not in shown


def test_a_table_is_aligned() -> None:
    """The columns of a narrow table are aligned; the rows of a wide one become paragraphs."""
    narrow = "| a | b |\n|---|---|\n| long cell | `x` |\n"
    assert manual.formatted(narrow).splitlines() == ["a          b", "long cell  \x1b[1mx\x1b[0m"]
    wide = f"| key | meaning |\n|---|---|\n| `k` | {'word ' * 30}|\n"
    assert manual.formatted(wide).splitlines()[:2] == ["  \x1b[1mk\x1b[0m", f"      {('word ' * 30).strip()}"]


@given(st.text(alphabet="ab |`*#\n[](.md)-!<>"))
def test_any_text_can_be_formatted(text: str) -> None:
    """No page is so malformed that showing it fails, and no word of it is lost."""
    shown = manual.formatted(text)
    assert shown.count("a") <= text.count("a")
    manual.plain(text)


def test_version_names_openssh() -> None:
    """`ossh --version` shows the package's version and that of the ssh on PATH."""
    done = ossh("--version")
    own = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.strip()
    assert done.stdout.decode() == f"ossh {opensshtransport.__version__}, {own}\n"


def test_version_without_openssh() -> None:
    """Without an ssh, the package's own version is shown all the same."""
    done = ossh("--version", env={"PATH": "/nonexistent"})
    assert done.stdout.decode() == f"ossh {opensshtransport.__version__}, no ssh on PATH\n"
