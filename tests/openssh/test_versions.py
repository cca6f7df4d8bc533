"""`opensshtransport.openssh.versions`: what differs between the releases of OpenSSH's programs.

What the installed programs do is looked at; of the others there is what they have said, by version.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensshtransport.openssh import destination, programs, versions
from opensshtransport.openssh.destination import parse_resolved
from opensshtransport.remote.sftp_listings import left_out
from opensshtransport.sandbox import Sandbox
from opensshtransport.setup import plan
from tests.conftest import require
from tests.support.capture_stderr import CLIENTS, kept
from tests.support.homes import Home, empty_home, missing_for_homes
from tests.support.programs import OSSH, OSSH_RUN

pytestmark = pytest.mark.client


def recorded(name: str) -> dict[str, str]:
    """What each version's programs have said."""
    found = kept(name, CLIENTS)
    assert {"7.4p1", "8.0p1"} <= set(found)
    return found


@pytest.mark.parametrize(("version", "said"), recorded("sftp-no-subsystem").items())
def test_no_sftp(version: str, said: str) -> None:
    """A server without the subsystem is recognised by each sftp's words, also by the last line alone."""
    assert version
    assert versions.has_no_sftp(said)
    assert versions.has_no_sftp(said.splitlines()[-1])


@pytest.mark.parametrize("said", ["", "Connection closed by peer\n", "Couldn't stat remote file: Failure\n"])
def test_other_words_of_sftp(said: str) -> None:
    """Other words do not mean that there is no sftp."""
    assert not versions.has_no_sftp(said)


@pytest.mark.parametrize(("version", "said"), recorded("sftp-get-tree-with-links").items())
def test_names_left_out(version: str, said: str) -> None:
    """What each sftp leaves out of a tree is read from its words."""
    assert version
    assert sorted(left_out(said)) == [f"/home/me/tree/{name}" for name in ("dangling", "fifo", "link")]


def test_old_protocol() -> None:
    """Whether an scp knows -O is reported by the program, and what it says then depends on nothing else."""
    known = {version: versions.knows_old_protocol(said) for version, said in recorded("scp-O").items()}
    assert {version for version, knows in known.items() if not knows} == {"7.4p1", "8.0p1"}
    installed = programs.locate("scp")
    assert versions.old_protocol(installed) == (("-O",) if programs.version("ssh") >= (8, 7) else ())


def test_options_that_are_not_shown() -> None:
    """`ossh setup` believes its own result where an ssh does not show an option that it knows."""
    old, new = (parse_resolved(recorded("ssh-G")[version]) for version in ("7.4p1", "8.0p1"))
    options = {"AddKeysToAgent": "yes", "HashKnownHosts": "no"}
    shown = plan.lacking(new, options)
    assert shown.pop("AddKeysToAgent") == "no"
    assert plan.lacking(old, options) == shown


# -- the system-wide file ------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory below which a file `ssh_config` has a path as long as that of the system's own."""
    path = Path("/tmp", secrets.token_hex(2)[:3])  # mkdir fails if it is there
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def other_ssh(elsewhere: Path, isolated: Path) -> Path:
    """The installed ssh, built for another system-wide file."""
    before, after = (f"\0{path}/ssh_config\0".encode() for path in ("/etc/ssh", elsewhere))
    assert len(before) == len(after)
    content = Path(programs.locate("ssh")).resolve().read_bytes()
    if before not in content:
        pytest.skip("the installed ssh reads another file than /etc/ssh/ssh_config")
    program = isolated / "other-ssh"
    program.write_bytes(content.replace(before, after))
    program.chmod(0o755)
    return program


@pytest.fixture
def home(isolated: Path, other_ssh: Path) -> Home:
    """An empty home directory, with settings that name that ssh."""
    require(missing_for_homes())
    made = empty_home(isolated)
    settings = made.path / ".config" / "opensshtransport" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[host."*"]\nssh = "{other_ssh}"\n')
    (made.path / ".ssh").mkdir(mode=0o700)
    return made


@pytest.mark.parametrize("there", [True, False], ids=["edited", "new"])
def test_system_file_of_another_ssh(own_node: Sandbox, home: Home, elsewhere: Path, *, there: bool) -> None:
    """A ProxyJump that comes into the system-wide file of the ssh in use is noticed by `ossh-run`."""
    system, own = elsewhere / "ssh_config", home.path / ".ssh" / "config"
    (system if there else own).write_text(own_node.ssh_config.read_text())
    assert home.run(OSSH, "login", own_node.host).returncode == 0
    done = home.run(OSSH_RUN, own_node.host, "echo here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
    kept_text = system.read_text() if there else ""
    system.write_text(f"Host {own_node.host}\n    ProxyJump host.invalid\n{kept_text}")
    done = home.run(OSSH_RUN, own_node.host, "echo here")
    assert (done.returncode, done.stdout) == (255, ""), done.stderr
    assert own_node.authentications() == 1


def test_files_are_asked_for(other_ssh: Path, elsewhere: Path) -> None:
    """ssh names the file that it reads; one that is not there yet is known from the program."""
    argv = destination.resolve_command(str(other_ssh), "host", None)
    assert versions.system_files(argv) == [elsewhere / "ssh_config"]
    (elsewhere / "ssh_config").write_text("Host host\n")
    assert versions.system_files(argv) == [elsewhere / "ssh_config"]
