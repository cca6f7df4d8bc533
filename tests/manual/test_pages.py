"""README and manual stay true: commands are run as written, tables are compared with the programs.

ssh takes `~/.ssh/config` from the system's accounts and never from HOME. So a page's plain
`ossh-run daint ...` finds, first on PATH, two scripts that add `-F CONFIG` of a sandbox named `daint` and
start the real programs. On that login node commands begin in a directory of the test, where `sbatch` and the
like are scripts too: what a centre has is not what is tested here.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from opensshtransport import errors
from opensshtransport.cli.help import TOPICS
from opensshtransport.local import setting_table, settings
from opensshtransport.sandbox import Sandbox, SecondFactor
from tests.conftest import require
from tests.support.nodes import missing_programs
from tests.support.pam_nodes import missing_for_pam
from tests.support.programs import OSSH, OSSH_RUN
from tests.test_imports import FLOORS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TREE = Path(__file__).parents[2]
MANUAL = TREE / "opensshtransport" / "manual"
# README comes first: the first session is its own
PAGES = {
    path: path.read_text(encoding="utf-8") for path in (TREE / "README.md", *sorted(MANUAL.glob("*.md")))
}
HOST = "daint"
# The login node's name in the README.
NODE = "daint-ln002"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, its page and the number of its first line."""

    language: str
    text: str
    page: str
    line: int


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages."""
    return [
        Block(match[1], match[2], path.stem, page.count("\n", 0, match.start()) + 2)
        for path, page in PAGES.items()
        for match in re.finditer(r"^```(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        if match[1] in languages
    ]


def rows(heading: str) -> list[list[str]]:
    """The cells of all tables below a heading, down to the next one of its rank or above."""
    begins = re.compile(rf"^(#+) {re.escape(heading)}$", re.MULTILINE)
    ((page, begin),) = [
        (PAGES[path], found) for path in PAGES for found in [begins.search(PAGES[path])] if found
    ]
    end = re.compile(rf"^#{{1,{len(begin[1])}}} ", re.MULTILINE).search(page, begin.end())
    lines = page[begin.end() : end.start() if end else None].splitlines()
    # after a table's head and the line of dashes below it
    bodies = [line for number, line in enumerate(lines) if line.startswith("|") and _in_body(lines, number)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in bodies]


def _in_body(lines: list[str], number: int) -> bool:
    above = "".join(lines[number - 1 : number])
    return above.startswith("|") and not lines[number].startswith("|--")


def code(cell: str) -> list[str]:
    """What is in backticks."""
    return re.findall(r"`([^`]+)`", cell)


# -- the way to the sandbox ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a block of the README is run: the sandbox, our directory, and the remote side's."""

    node: Sandbox
    here: Path
    there: Path


def _executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def set_stage(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """Make a stage; `second_factor` is what its sandbox asks for."""
    require(missing_programs("sshd", "ssh-keygen"))
    here, there, programs = isolated / "here", isolated / "there", isolated / "programs"
    for directory in (here / "inputs", there / "run1", there / "bin", programs):
        directory.mkdir(parents=True)
    opened: list[Sandbox] = []

    def make(second_factor: SecondFactor = "none") -> Stage:
        begin = f'cd {there} && export HOME={there} PATH={there}/bin:$PATH && exec "$SHELL" -c'
        node = Sandbox(
            HOST,
            second_factor=second_factor,
            # exec: the command is its session's leader, as without this line
            server_options={"ForceCommand": f'{begin} "$SSH_ORIGINAL_COMMAND"'},
        )
        opened.append(node.__enter__())
        config = f"-F {node.ssh_config}"
        for program in (OSSH_RUN, OSSH_RUN.with_name("ossh-ssh")):
            _executable(programs / program.name, f'exec "{program}" {config} "$@"')
        reads_ssh_config = (
            "login | logout | status | run | cp | sync | ssh-command | doctor | setup | forward"
        )
        _executable(
            programs / "ossh",
            f'case $1 in\n{reads_ssh_config}) command=$1; shift; exec "{OSSH}" "$command" {config} "$@" ;;\n'
            f'*) exec "{OSSH}" "$@" ;;\nesac',
        )
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        return Stage(node, here, there)

    yield make
    for node in opened:
        node.stop()
        node.__exit__(None, None, None)


# What the README's commands find on the remote side, and here.
_FAR_PROGRAMS = {
    "sbatch": "echo 4711",
    "squeue": "echo 4711 me RUNNING",
    "scontrol": 'echo "JobId=$3 JobState=RUNNING"',
    "htop": 'tty && echo "load average"',
}
_HERE = {
    "job.sh": "#!/bin/sh\n",
    "prepare.sh": "mkdir prepared\n",
    "jobs.txt": "4711\n4712\n",
    "hosts.txt": f"{HOST}\n",
}


def furnish(stage: Stage) -> None:
    """Put in place what the README's commands work on."""
    for name, text in _FAR_PROGRAMS.items():
        _executable(stage.there / "bin" / name, text)
    _executable(stage.there / "check.sh", "exit 3")
    for name, text in _HERE.items():
        (stage.here / name).write_text(text)
    (stage.here / "inputs" / "a.in").write_text("1\n")
    (stage.there / "run1" / "out.log").write_text("well\n")
    if not missing_programs("git"):
        git: list[str | Path] = ["git", "init", "--quiet", "--bare", stage.there / "code.git"]
        subprocess.run(git, check=True, stdin=subprocess.DEVNULL)


# -- blocks of commands --------------------------------------------------------------------------------


def _has_help(script: str) -> None:
    """It would install packages and make an environment: here it only prints its usage."""
    done = subprocess.run([TREE / script, "--help"], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script}")


def _has_option(script: str, option: str) -> None:
    done = subprocess.run([TREE / script, "--help"], capture_output=True, text=True, check=True, timeout=30)
    assert option in done.stdout


def _is_tested_by(module: str, *tests: str) -> None:
    """Another test does it, in an environment of its own."""
    defined = {
        node.name
        for node in ast.parse((next((TREE / "tests").rglob(module))).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert defined >= set(tests)


def _opens_sftp(_: Callable[..., Stage]) -> None:
    """Mounting wants FUSE: here sshfs's part is played, which gives the command these words of its own."""
    require(missing_programs("sshd", "ssh-keygen"))
    # not on the stage: a forced command replaces subsystems too
    with Sandbox(HOST) as node:
        options = ["-F", str(node.ssh_config)]
        subprocess.run([OSSH, "login", "-q", *options, HOST], check=True, stdin=subprocess.DEVNULL)
        line = subprocess.check_output([OSSH, "ssh-command", "--no-host", *options, HOST], text=True)
        # as sshfs takes it apart: at blanks, with no quoting but backslashes
        argv = [*line.split(), "-x", "-a", "-oClearAllForwardings=yes", HOST, "-s", "sftp"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as ssh:
            assert ssh.stdin is not None
            assert ssh.stdout is not None
            # draft-ietf-secsh-filexfer-02, section 4: length, SSH_FXP_INIT or SSH_FXP_VERSION, version
            ssh.stdin.write(b"\0\0\0\5\1\0\0\0\3")
            assert ssh.stdout.read(9)[4:] == b"\2\0\0\0\3"
            ssh.stdin.close()


# The lines of `sh` blocks that are not run here, with what checks them instead, and why. A block with one of
# these lines is not run; then all its lines must be here.
_ELSEWHERE: dict[str, Callable[[Callable[..., Stage]], None]] = {
    # installs packages by apt, makes .venv
    "scripts/demo": lambda _: _has_help("scripts/demo"),
    "scripts/test": lambda _: _has_help("scripts/test"),
    "scripts/test --python 3.12": lambda _: _has_option("scripts/test", "--python 3.X"),
    "scripts/check": lambda _: _has_help("scripts/check"),
    # want an index of packages, and change the person's environment
    "pipx install .": lambda _: _is_tested_by("test_install.py", "test_by_a_link"),
    "python3 -m pip install .": lambda _: _is_tested_by("test_install.py", "test_by_its_path"),
    # want AiiDA, which is no part of every test run
    "python3 -m pip install '.[aiida]'": lambda _: _is_tested_by("test_aiida.py", "test_contract"),
    **{
        line: lambda _: _is_tested_by("test_aiida.py", "test_configure", "test_many_calculations")
        for line in (
            "verdi computer setup --transport openssh",
            f"verdi computer configure openssh {HOST}",
            f"verdi computer test {HOST}",
        )
    },
    # wants FUSE
    f'sshfs -o ssh_command="$(ossh ssh-command --no-host {HOST})" {HOST}: mnt': _opens_sftp,
    # changes ~/.ssh
    f"ossh share {HOST}": lambda _: _is_tested_by("test_share.py", "test_back_again", "test_programs"),
    # forward until Ctrl-C
    **{
        line: lambda _: _is_tested_by("test_forward.py", "test_short_forms", "test_the_other_way")
        for line in (
            f"ossh forward {HOST} 8888",
            f"ossh forward {HOST} nid001234:8888 --open",
            f"ossh forward {HOST} -L 5432:db.example.org:5432 -D 1080",
        )
    },
    # change ~/.ssh, and want a person; a centre of its own is there
    f"ossh setup {HOST}": lambda _: _is_tested_by("test_setup.py", "test_from_an_empty_home_directory"),
    f"ossh setup {HOST} --hostname {HOST}.example.org --user alice --jump alice@front.example.org": (
        lambda _: _is_tested_by("test_setup.py", "test_dry_run", "test_by_options_alone")
    ),
    # not on the stage: a forced command is what a doctor warns of
    f"ossh doctor --login {HOST}": lambda _: _is_tested_by("test_doctor.py", "test_all_is_well"),
    # want a shell of their own each
    **{
        line: lambda _: _is_tested_by("test_completion.py", "test_shell_completes_remote_paths")
        for line in (
            'eval "$(ossh completion bash)"',
            "source <(ossh completion zsh)",
            "ossh completion fish | source",
        )
    },
    # wants a person; its shell is that of the tutorial's session
    "ossh sandbox --second-factor passphrase sh": lambda _: _is_tested_by(
        "test_sandbox.py", "test_a_passphrase_is_asked_for"
    ),
    # changes the machine; systemd's own command
    "loginctl enable-linger": lambda _: None,
}


def _is_elsewhere(block: Block) -> bool:
    return any(line in _ELSEWHERE for line in block.text.splitlines())


def _id(block: Block) -> str:
    return f"{block.page}-{block.line}"


@pytest.mark.parametrize("block", [block for block in blocks("sh") if _is_elsewhere(block)], ids=_id)
def test_commands_checked_elsewhere(block: Block, set_stage: Callable[..., Stage]) -> None:
    """Commands that want root, an index of packages, FUSE or systemd are checked in the way that is named."""
    for line in block.text.splitlines():
        assert line in _ELSEWHERE, f"{_id(block)}: {line!r} stands beside lines that are not run"
        _ELSEWHERE[line](set_stage)


_RUN = [block for block in blocks("sh") if not _is_elsewhere(block)]


@pytest.mark.parametrize("block", [block for block in _RUN if "ossh-run -t" not in block.text], ids=_id)
def test_commands_are_run(block: Block, set_stage: Callable[..., Stage]) -> None:
    """sh runs each block as written, until the first command that fails; none does."""
    for program in ("rsync", "git"):
        if re.search(rf"\b{program} ", block.text):
            require(missing_programs(program))
    stage = set_stage()
    furnish(stage)
    done = subprocess.run(
        ["/bin/sh", "-euc", block.text],
        cwd=stage.here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    assert "ossh-run:" not in done.stderr
    for word, wanted in _EFFECTS.items():
        if word in block.text:
            assert wanted(stage, done.stdout), (word, done.stdout)


def _keys(said: str) -> list[str]:
    """The keys of the first object of the JSON list that ends a text."""
    listed: list[dict[str, object]] = json.loads(said[said.index("[\n") :])
    return list(listed[0])


# Those that the README names.
_KEYS = code("".join(PAGES.values()).partition("objects with the keys ")[2].partition(".\n")[0])

# What blocks with these words bring about.
_EFFECTS: dict[str, Callable[[Stage, str], bool]] = {
    "ossh-run daint squeue --me": lambda _, said: "4711 me RUNNING\n" in said,
    "sh < prepare.sh": lambda stage, _: (stage.there / "prepared").is_dir(),
    "tar -xf": lambda stage, _: (stage.there / "run1" / "inputs" / "a.in").read_text() == "1\n",
    "> out.log": lambda stage, _: (stage.here / "out.log").read_text() == "well\n",
    "while read -r job;": lambda _, said: said.count("JobState") == 2,
    "sbatch --parsable": lambda _, said: said == "JobId=4711 JobState=RUNNING\n",
    "./check.sh": lambda _, said: said == "it failed with status 3\n",
    "rsync -a": lambda stage, _: (stage.there / "inputs" / "a.in").read_text() == "1\n",
    '--once "submit': lambda _, said: said == "4711\n",
    '--once "job': lambda _, said: said == "4711\n4711\n",
    "> queue.txt": lambda _, said: said.strip() == "1",
    "xargs -P": lambda _, said: said == f"{platform.node()}\n",
    "ossh cp -r -p": lambda stage, _: (
        (stage.there / "run1" / "jobs.txt").is_file() and (stage.here / "results" / "out.log").is_file()
    ),
    "ossh sync -n": lambda stage, _: (
        (stage.there / "inputs" / "a.in").is_file() and not (stage.here / "results").exists()
    ),
    "git clone": lambda stage, _: (stage.here / "code" / ".git").is_dir(),
    "ossh sandbox": lambda _, said: said == f"{platform.node()}\n",
    "ossh status --json": lambda _, said: _keys(said) == _KEYS,
}


def test_no_check_is_left_over() -> None:
    """What is checked elsewhere, or looked for afterwards, is on a page."""
    assert set(_ELSEWHERE) <= {line for block in blocks("sh") for line in block.text.splitlines()}
    for words in _EFFECTS:
        assert any(words in block.text for block in _RUN), words


@pytest.mark.parametrize("block", [block for block in _RUN if "ossh-run -t" in block.text], ids=_id)
def test_commands_with_a_terminal_are_run(block: Block, set_stage: Callable[..., Stage]) -> None:
    """Each line with -t gets a terminal; a shell is left by `exit`."""
    stage = set_stage()
    furnish(stage)
    if os.geteuid() != 0:
        plain = ["ssh", "-tt", "-F", str(stage.node.ssh_config), HOST, "tty"]
        if subprocess.run(plain, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            pytest.skip("a plain user's sshd can give no terminal here")
    for line in block.text.splitlines():
        child = pexpect.spawn("/bin/sh", ["-c", line], cwd=str(stage.here), encoding="utf-8", timeout=60)
        if line.endswith("bash -l"):
            word = secrets.token_hex(4)
            child.sendline(f"tty; echo {word[:4]}''{word[4:]}; exit")
            child.expect_exact(word)
        else:
            child.expect("/dev/.*load average")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0, line


@pytest.mark.parametrize("block", blocks("crontab"), ids=_id)
def test_cron_jobs_run(block: Block, set_stage: Callable[..., Stage]) -> None:
    """The command of each line of a crontab runs as cron runs it, once a person has logged in."""
    stage = set_stage()
    furnish(stage)
    for line in block.text.splitlines():
        # crontab(5): five fields of times, then the command
        *times, command = line.split(None, 5)
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in times)
        for program in (f"ossh login -q {HOST}", command):
            done = subprocess.run(
                ["/bin/sh", "-c", program],
                cwd=stage.here,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# -- sessions ------------------------------------------------------------------------------------------

_PROMPT = r"\(\S+\) One-time password [^\n]*: ?|Enter passphrase for key [^\n]*: ?"


def normal(text: str) -> str:
    """A session's text without what differs from run to run: places, times, numbers of processes."""
    for pattern, word in (
        (_PROMPT, "PROMPT"),
        (r"\x1b\[\d*m", ""),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d|just now|\d+ (?:min|h|days) ago", "TIME"),
        (r"\S+@127\.0\.0\.1:\d+", "ADDRESS"),
        (r"pid=\d+ \d+\.\d+s", "PROCESS"),
        # advice repeats the configuration that the scripts on PATH have added
        (r"ossh login -F \S+ ", "ossh login "),
        (rf"\b(?:{re.escape(NODE)}|laptop|{re.escape(platform.node())})(?!\S)", "NODE"),
        # columns are as wide as what is in them
        (r" {2,}", "  "),
        (r"\s*\r?\n\s*", "\n"),
    ):
        text = re.sub(pattern, word, text)
    return text.strip()


def played(command: str, node: Sandbox, here: Path) -> str:
    """What a command shows at a terminal, where somebody answers what is asked."""
    child = pexpect.spawn(
        "/bin/sh", ["-c", command], cwd=str(here), encoding="utf-8", timeout=60, dimensions=(40, 200)
    )
    shown = ""
    while child.expect([_PROMPT, pexpect.EOF]) == 0:
        shown += str(child.before) + str(child.after)
        child.sendline(node.code() if node.totp_secret else node.passphrase)
    child.close()
    return shown + str(child.before)


@pytest.mark.parametrize("block", blocks("console"), ids=_id)
def test_sessions(block: Block, set_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of a session shows what the page shows, and the whole session is one login."""
    factor: SecondFactor = "none"
    if re.search(_PROMPT, block.text):
        factor = "code" if os.geteuid() == 0 and not missing_for_pam("pam_oath") else "passphrase"
    stage = set_stage(factor)
    node = stage.node
    monkeypatch.setenv("OSSH_SANDBOX_CONFIG", str(node.ssh_config))
    # on a busy machine sessions would be opened ahead, and ossh status would count them
    monkeypatch.setenv("OSSH_FRESH", "1")
    # the tutorial's own sandbox has its usual name
    steps = re.split(r"^\$ (.*)\n", re.sub(r"\bsandbox\b", HOST, block.text), flags=re.MULTILINE)
    assert steps[0] == ""
    for command, expected in zip(steps[1::2], steps[2::2], strict=True):
        assert normal(played(command, node, stage.here)) == normal(expected), command
    assert node.authentications() == 1


def test_the_first_session_is_short() -> None:
    """The session by which the README opens fits on a screen."""
    assert blocks("console")[0].text.count("\n") <= 24


# -- other blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("ssh-config"), ids=_id)
def test_ssh_accepts_the_configuration(block: Block, tmp_path: Path) -> None:
    """Each part of an ssh_config is one, and says something of the README's host."""
    require(missing_programs("ssh"))
    file = tmp_path / "config"
    file.write_text(block.text)
    done = subprocess.run(
        ["ssh", "-F", file, "-G", HOST], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "hostname daint.example.org\n" in done.stdout


@pytest.mark.parametrize("block", blocks("toml"), ids=_id)
def test_settings_are_accepted(block: Block, tmp_path: Path) -> None:
    """Each config.toml can be loaded, and changes something for the README's host."""
    file = tmp_path / "config.toml"
    file.write_text(block.text, encoding="utf-8")
    assert settings.load(HOST, file) != settings.Settings()


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """A block without a language, or with an unknown one, would be checked by nobody."""
    for page in PAGES.values():
        opened = re.findall(r"^```(.*)$", page, re.MULTILINE)[::2]
        assert set(opened) <= {"sh", "console", "crontab", "ssh-config", "toml", "python"}


@pytest.mark.parametrize("block", blocks("python"), ids=_id)
def test_python_runs(block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each program runs, on a node of the README's name with the files that the program names."""
    (tmp_path / "job.sh").write_text("echo Submitted batch job 1234\n")
    (tmp_path / "out.log").write_text("step 1\n")
    with Sandbox(HOST) as node:
        program = block.text.replace(f'Transport("{HOST}")', f'Transport("{HOST}", ssh_config=CONFIG)')
        # no queue here, and no /scratch
        program = program.replace("sbatch job.sh", "sh job.sh").replace("/scratch/me", str(tmp_path))
        exec(program, {"CONFIG": node.ssh_config})  # noqa: S102 - the README's own program
    shown = capsys.readouterr().out
    wanted = {
        "sbatch job.sh": "Submitted batch job 1234",
        "out.log": "step 1",
        "local_port": "http://localhost:",
    }
    assert any(words in block.text for words in wanted)
    for words, told in wanted.items():
        if words in block.text:
            assert told in shown


# -- tables --------------------------------------------------------------------------------------------


def usage(*words: str) -> str:
    """The line of usage of `ossh WORDS`, without -h."""
    done = subprocess.run(
        [OSSH, *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "400"},
    )
    return done.stdout.partition("\n")[0].removeprefix("usage: ").replace(" [-h]", "")


def test_generated_parts_are_up_to_date() -> None:
    """The tables of commands and settings, and the man pages, are what `scripts/manual` makes now."""
    done = subprocess.run(
        [sys.executable, TREE / "scripts" / "manual_pages.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_options_are_those_of_the_help() -> None:
    """The table of options has each one of `ossh-run`, in the help's order."""
    table = [code(row[0])[0] for row in rows("Running commands: ossh-run") if row[0].startswith("`-")]
    assert [f"[{option}]" for option in table] == re.findall(r"\[[^]]+\]", usage("run"))


_STATUS = rows("Exit status")


@pytest.mark.parametrize("row", _STATUS, ids=[f"{number}-{row[0]}" for number, row in enumerate(_STATUS)])
def test_exit_status(row: list[str], set_stage: Callable[..., Stage]) -> None:
    """The examples of the table end with its status, and with a line of our own only where it says so."""
    status, meaning, example = row
    command, *given = code(example)
    set_stage()
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert str(done.returncode) == (given or code(status))[0]
    ours = "begins with `ossh-run:`" in meaning
    assert [line.startswith("ossh-run: ") for line in done.stderr.splitlines()].count(True) == ours


def test_settings_are_all_described() -> None:
    """The tables of settings have each key once, with its default."""
    table = {code(row[0])[0]: row for row in rows("Settings") if len(row) == 5}
    assert list(table) == [setting.key for setting in setting_table.SETTINGS]
    assert sorted(table) == sorted(settings._READERS)
    for key, (_, _, cell, _, _) in table.items():
        default = getattr(settings.Settings(), key)
        if cell == "none":
            assert not default, key
        else:
            assert _as_read(key, code(cell)[0]) == default, key


def _as_read(key: str, value: str) -> object:
    return settings._READERS[key](tomllib.loads(f"it = {value}")["it"], key)


@pytest.mark.parametrize("setting", setting_table.SETTINGS, ids=lambda setting: str(setting.key))
def test_settings_are_of_their_type(setting: setting_table.Setting, tmp_path: Path) -> None:
    """An example is accepted by the setting's reader, and settings of one type are read by one reader."""
    assert setting.type in setting_table.TYPES
    example = setting.example
    if setting.type == "file":
        _executable(tmp_path / "it", "true")
        example = f'"{tmp_path / "it"}"'
    assert _as_read(setting.key, example) is not None
    if setting.type not in {"text", "file"}:
        same = {settings._READERS[each.key] for each in setting_table.SETTINGS if each.type == setting.type}
        assert len(same) == 1


def _texts() -> str:
    """All texts of the package, one per line; `…` marks what a value fills in."""
    found = []
    for file in (TREE / "opensshtransport").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_errors_are_all_described() -> None:
    """The table of errors has each class once, and quotes only what the package says."""
    table = rows("Errors and what to do")
    named = ((name, getattr(errors, name)) for name in errors.__all__)
    classes = {name for name, it in named if isinstance(it, type) and issubclass(it, Exception)}
    assert sorted(code(row[0])[0] for row in table) == sorted(classes)
    texts = _texts()
    for row in table:
        for words in code(row[1]):
            assert words in texts, f"{row[0]}: nothing says {words!r}"


def test_modules_are_those_of_the_package() -> None:
    """The table of folders names each one, from the top."""
    table = [code(row[0])[0] for row in rows("Development")]
    folders = [floor for floor in reversed(FLOORS) if (TREE / "opensshtransport" / floor).is_dir()]
    assert [name for name in table if not name.endswith(".py")] == folders


def test_links_of_the_doctor_are_all_described(node: Sandbox) -> None:
    """The table of the doctor's links has each one, in its order."""
    told = subprocess.run(
        [OSSH, "doctor", "--json", "-F", node.ssh_config, node.host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    table = [code(row[0])[0] for row in rows("Checking: ossh doctor")]
    assert table == [finding["link"] for finding in json.loads(told.stdout)]


def test_each_page_is_a_topic() -> None:
    """`ossh help` lists every page once, under the kind that it is of, and has a page for every topic."""
    topics = [topic for names in TOPICS.values() for topic in names]
    assert sorted(topics) == sorted(path.stem for path in PAGES if path.parent == MANUAL)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as a repository's web page makes them."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_links_lead_somewhere(path: Path) -> None:
    """Links within a page lead to a heading, others to a file of the repository, and to a heading there."""
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[path]):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target
