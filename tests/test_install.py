"""The package as people install it: a wheel, in an environment that has nothing but it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import opensshtransport
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.nodes import missing_programs

pytestmark = pytest.mark.timeout(300)

TREE = Path(__file__).parents[1]
VERSION = opensshtransport.__version__
# What pip says when no index of packages can be reached.
_NO_INDEX = (
    "Failed to establish a new connection",
    "Failed to resolve",
    "connect to proxy",
    "Read timed out",
)


@dataclass(frozen=True, slots=True)
class Installed:
    """What was built, and the environment that the wheel was installed in."""

    wheel: Path
    sdist: Path
    environment: Path

    @property
    def bin(self) -> Path:
        """Where the environment has its programs."""
        return self.environment / "bin"


def run(
    *argv: str | Path, cwd: Path = Path("/"), timeout: float = 60, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that reads nothing, away from the tree and with nothing that leads there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**inherited, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
        start_new_session=True,
    )


def build(*argv: str | Path, cwd: Path, **variables: str) -> None:
    """Run a step of the making; without an index of packages nothing can be made."""
    done = run(*argv, cwd=cwd, timeout=240, **variables)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        require("no index of packages can be reached" if any(words in said for words in _NO_INDEX) else "")
    assert done.returncode == 0, said


def install(place: Path) -> None:
    """Build both distributions from a copy of the tree, and install the wheel."""
    source = place / "source"
    # a copy: old build/ directories do not get in, nor new ones into the tree
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(TREE, source, ignore=unwanted)
    # a blank in the path, as people have
    environment = place / "an environment"
    venv.create(environment, with_pip=True)
    pip = (environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    build(*pip, "wheel", "--use-pep517", "--no-deps", "--wheel-dir", place / "dist", source, cwd=place)
    # the same step of PEP 517 that "python -m build --sdist" takes
    build(*pip, "install", "--target", place / "tools", "setuptools", cwd=place)
    step = f"from setuptools import build_meta; build_meta.build_sdist({str(place / 'dist')!r})"
    build(environment / "bin" / "python", "-c", step, cwd=source, PYTHONPATH=str(place / "tools"))
    (wheel,) = (place / "dist").glob("*.whl")
    build(*pip, "install", wheel, cwd=place)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installed:
    """The built distributions and an environment; made once, also where several processes run the tests."""
    require(missing_programs("sshd", "ssh-keygen"))
    top = tmp_path_factory.getbasetemp()
    place = (top if worker_id == "master" else top.parent) / "installed"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            install(place)
            (place / "done").touch()
    (wheel,) = (place / "dist").glob("*.whl")
    (sdist,) = (place / "dist").glob("*.tar.gz")
    return Installed(wheel, sdist, place / "an environment")


def test_what_the_wheel_holds(installed: Installed) -> None:
    """The package with its types' mark, the licence, and `ossh-run` to be executed; no other package."""
    assert installed.wheel.name == f"opensshtransport-{VERSION}-py3-none-any.whl"
    stem = f"opensshtransport-{VERSION}"
    with zipfile.ZipFile(installed.wheel) as wheel:
        modes = {info.filename: info.external_attr >> 16 for info in wheel.infolist()}
        script = wheel.read(f"{stem}.data/scripts/ossh-run")
    assert {name.split("/")[0] for name in modes} == {
        "opensshtransport",
        f"{stem}.data",
        f"{stem}.dist-info",
    }
    assert modes[f"{stem}.data/scripts/ossh-run"] & 0o777 == 0o755
    manual = {
        f"{stem}.data/data/share/man/man1/{path.name}"
        for path in (TREE / "opensshtransport" / "manual" / "man1").glob("*.1")
    }
    assert f"{stem}.data/data/share/man/man1/ossh-run.1" in manual
    scripts = {f"{stem}.data/scripts/{name}" for name in ("ossh-hook", "ossh-run", "ossh-ssh")}
    assert {name for name in modes if ".data/" in name} == scripts | manual
    assert {modes[name] & 0o777 for name in scripts} == {0o755}
    assert "opensshtransport/manual/commands.md" in modes
    assert script == (TREE / "scripts" / "ossh-run").read_bytes()
    assert "opensshtransport/py.typed" in modes
    assert [name for name in modes if name.startswith(f"{stem}.dist-info/") and name.endswith("/LICENSE")]
    modules = {f"opensshtransport/{path.name}" for path in (TREE / "opensshtransport").glob("*.py")}
    remote = {f"opensshtransport/{path.name}" for path in (TREE / "opensshtransport").glob("*.sh")}
    assert modules | remote <= modes.keys()


def test_what_the_sdist_holds(installed: Installed) -> None:
    """All that is needed to build the wheel again, `ossh-run` among it."""
    stem = f"opensshtransport-{VERSION}"
    assert installed.sdist.name == f"{stem}.tar.gz"
    with tarfile.open(installed.sdist) as sdist:
        modes = {member.name: member.mode for member in sdist.getmembers()}
    assert modes[f"{stem}/scripts/ossh-run"] & 0o777 == 0o755
    package = ("py.typed", "cli/main.py", "remote/shell.sh", "manual/tutorial.md", "manual/man1/ossh-run.1")
    for name in ("setup.cfg", "setup.py", "LICENSE", *(f"opensshtransport/{each}" for each in package)):
        assert f"{stem}/{name}" in modes


def test_versions(installed: Installed) -> None:
    """`ossh`, the module and the package's metadata tell one version, that of the installed copy."""
    wanted = (0, f"ossh {VERSION}, OpenSSH_".encode())
    for done in (
        run(installed.bin / "ossh", "--version"),
        run(installed.bin / "python", "-m", "opensshtransport", "--version"),
    ):
        assert (done.returncode, done.stdout[: len(wanted[1])]) == wanted
    program = (
        "import importlib.metadata, opensshtransport as it\n"
        "print(importlib.metadata.version(it.__name__))\n"
        "print(it.__file__)\n"
    )
    told, file = run(installed.bin / "python", "-c", program).stdout.decode().splitlines()
    assert told == VERSION
    assert Path(file).is_relative_to(installed.environment)


def test_installed_as_it_is_in_the_tree(installed: Installed) -> None:
    """Installing changes no byte of `ossh-run`, so no Python starts where a master is running."""
    assert (installed.bin / "ossh-run").read_bytes() == (TREE / "scripts" / "ossh-run").read_bytes()
    assert os.access(installed.bin / "ossh-run", os.X_OK)


def test_no_dependency_is_missing(installed: Installed) -> None:
    """Every module can be imported with no more than what the wheel asks for."""
    done = run(installed.bin / "python", "-m", "pip", "--disable-pip-version-check", "check")
    assert done.returncode == 0, done.stdout
    program = (
        "import importlib, pkgutil, opensshtransport as it\n"
        "for module in pkgutil.iter_modules(it.__path__):\n"
        # importing it needs the extra of that name
        "    if module.name != '__main__' and not module.name.startswith('aiida'):\n"
        "        importlib.import_module(f'{it.__name__}.{module.name}')\n"
    )
    done = run(installed.bin / "python", "-c", program)
    assert done.returncode == 0, done.stderr.decode()


def called(*argv: str | Path, node: Sandbox, **around: object) -> None:
    """`ossh-run`, called by some way, works: without a master by Python, with one by itself."""
    ask = ["-F", node.ssh_config, node.host, "echo $((6 * 7))"]
    for number, options in enumerate(([], [], ["--timeout", "50"])):
        done = run(*argv, *options, *ask, **around)  # type: ignore[arg-type]  # run's own
        assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b""), number
    assert node.authentications() == 1


def test_by_its_path(installed: Installed, own_node: Sandbox) -> None:
    """By its absolute path it logs in, and then goes through the master."""
    called(installed.bin / "ossh-run", node=own_node)
    done = run(installed.bin / "ossh", "logout", "-F", own_node.ssh_config, own_node.host)
    assert done.stderr == b"sandbox: logged out\n"


def test_by_its_relative_path(installed: Installed, own_node: Sandbox) -> None:
    """Called by a relative path, it finds the `ossh` next to it."""
    called("bin/ossh-run", node=own_node, cwd=installed.environment)


def test_by_a_link(installed: Installed, own_node: Sandbox, tmp_path: Path) -> None:
    """Called by a link in another directory, as with pipx, it finds the `ossh` next to the link's target."""
    (tmp_path / "ossh-run").symlink_to(installed.bin / "ossh-run")
    called(tmp_path / "ossh-run", node=own_node)


def test_by_a_chain_of_relative_links(installed: Installed, own_node: Sandbox, tmp_path: Path) -> None:
    """By a relative link to a relative link, each counts from its own directory."""
    for name in ("one", "two/deep"):
        (tmp_path / name).mkdir(parents=True)
    target = os.path.relpath(installed.bin / "ossh-run", (tmp_path / "two" / "deep").resolve())
    (tmp_path / "two" / "deep" / "second").symlink_to(target)
    (tmp_path / "one" / "first").symlink_to("../two/deep/second")
    called("one/first", node=own_node, cwd=tmp_path)


def test_by_path_lookup(installed: Installed, own_node: Sandbox, tmp_path: Path) -> None:
    """Found on PATH, also where there is a link, and by a shell that is given the bare name."""
    (tmp_path / "ossh-run").symlink_to(installed.bin / "ossh-run")
    path = os.environ["PATH"]
    called("ossh-run", node=own_node, PATH=f"{installed.bin}:{path}")
    called("ossh-run", node=own_node, PATH=f"{tmp_path}:{path}")
    # here the script is told no more than its name
    done = run("bash", "ossh-run", *by_python(own_node), PATH=f"{tmp_path}:{path}")
    assert (done.returncode, done.stdout) == (0, b"42\n"), done.stderr


def by_python(node: Sandbox) -> list[str | Path]:
    """Arguments for which `ossh-run` hands over to the `ossh` next to it."""
    return ["--timeout", "50", "-F", node.ssh_config, node.host, "echo $((6 * 7))"]


@pytest.mark.parametrize("call", [["dash", "ossh-run"], ["dash", "-c", 'ossh-run "$@"', "dash"]])
def test_by_a_bare_name_in_the_working_directory(
    installed: Installed, own_node: Sandbox, call: list[str]
) -> None:
    """In its own directory it is found by its name alone, as a file and by an empty entry of PATH."""
    done = run(*call, *by_python(own_node), cwd=installed.bin, PATH=f":{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b"")


@pytest.mark.parametrize(
    "shell",
    [
        "dash",
        "bash",
        "busybox sh",
    ],
)
def test_by_every_sh(installed: Installed, own_node: Sandbox, shell: str) -> None:
    """Whatever shell is the system's /bin/sh, `ossh-run` gives the output and the status."""
    words = shell.split()
    require(missing_programs(words[0]))
    called(*words, installed.bin / "ossh-run", node=own_node)
    done = run(*words, installed.bin / "ossh-run", "-F", own_node.ssh_config, own_node.host, "exit 7")
    assert (done.returncode, done.stderr) == (7, b"")


def test_without_its_ossh(installed: Installed, own_node: Sandbox, tmp_path: Path) -> None:
    """A copy of the script alone says what is missing where, and connects to nobody."""
    shutil.copy(installed.bin / "ossh-run", tmp_path)
    done = run(tmp_path / "ossh-run", "-F", own_node.ssh_config, own_node.host, "true")
    assert done.returncode == 255
    assert done.stderr.decode() == (f"ossh-run: {tmp_path}/ossh is missing; install opensshtransport again\n")
    assert own_node.connections() == 0


def test_library_in_another_program(installed: Installed, own_node: Sandbox) -> None:
    """A program of the environment opens a master by a login process of the same environment."""
    program = (
        "import sys\n"
        "from opensshtransport.master.ensure import ensure\n"
        "from opensshtransport.openssh.destination import resolve\n"
        "print(ensure(resolve('sandbox', sys.argv[1])).address)\n"
    )
    done = run(installed.bin / "python", "-c", program, own_node.ssh_config, timeout=120)
    assert done.stdout.decode() == f"{own_node.user}@127.0.0.1:{own_node.port}\n", done.stderr
    assert sys.prefix not in done.stderr.decode()
