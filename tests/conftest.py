"""Fixtures: login nodes, relays, and the isolation of each test.

A test sees only directories of its own, no agent and no ticket, and leaves no master behind. Each worker
creates the nodes of the session once, so a test that stops, reconfigures or locks a node makes its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import hypothesis
import pytest

from opensshtransport.sandbox import Sandbox
from tests.exhaustive import left_out
from tests.support.authority import AuthorityNode
from tests.support.jumps import Chain, Hop, jump_chain
from tests.support.kerberos import KerberosNode, missing_for_kerberos
from tests.support.nodes import missing_programs, shell_node
from tests.support.pam_nodes import (
    ConversationNode,
    LockingNode,
    OathNode,
    compile_module,
    duo,
    missing_for_compiling,
    missing_for_pam,
)
from tests.support.relay import Relay
from tests.support.users import (
    QUIET,
    SHELLS,
    ShellName,
    Startup,
    User,
    missing_for_users,
    temporary_user,
    wait_until,
)

_Entered = TypeVar("_Entered")
_DIRECTORIES = {
    "XDG_RUNTIME_DIR": "r",
    "XDG_CONFIG_HOME": "config",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_DATA_HOME": "data",
}
_UNWANTED = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "KRB5CCNAME", "KRB5_CONFIG")


# The same examples each time, as with the rounds of faults, so that a change is judged by its own effect.
# Otherwise each run draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI") == "true":
    hypothesis.settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Restore the signals of a terminal: a script that starts tests with `&` or nohup ignores some."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what CI runs."""
    parser.addoption("--all", action="store_true", help="run what takes long too: see tests/exhaustive.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, unless they are asked for."""
    if config.getoption("--all") or any("::" in word for word in config.args):
        return
    unwanted = left_out([item.nodeid for item in items])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in unwanted])
    items[:] = [item for item in items if item.nodeid not in unwanted]


def require(missing: str) -> None:
    """Skip the test if something is missing; in CI, on Linux, a missing package fails it."""
    if missing and os.environ.get("CI") == "true" and sys.platform == "linux" and "root" not in missing:
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


# -- the walls -----------------------------------------------------------------------------------------


def _dot_ssh() -> dict[str, int]:
    # ssh takes the home directory from the system's accounts and not from HOME.
    top = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
    found = [top, *top.rglob("*")] if top.exists() else []
    return {str(path): path.lstat().st_mtime_ns for path in found}


def _masters(directory: Path) -> Iterator[tuple[Path, int | None]]:
    """Find each control socket below a directory, and its master's process id if the master says it."""
    # unlike rglob, it passes over a directory that goes meanwhile
    for path in (Path(above, name) for above, _, names in os.walk(directory) for name in names):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                found = re.search(r"pid=(\d+)", _ask_master(path, "check"))
                yield path, int(found[1]) if found else None


def _ask_master(path: Path, question: str) -> str:
    argv: list[str | Path] = ["ssh", "-F", "none", "-S", path, "-O", question, "x"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=2
        ).stderr
    return ""


def _named_after(directory: Path) -> list[int]:
    """Find processes whose command line names the directory; a frozen or orphaned master does too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _end_masters(directory: Path) -> None:
    told = []
    for path, pid in _masters(directory):
        if pid:
            told.append(pid)
            _ask_master(path, "exit")

    def ended() -> bool:
        left = {*_named_after(directory), *filter(_is_ssh, told)}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(ended, what=f"the masters below {directory} to end")


def _is_ssh(pid: int) -> bool:
    argv = ["ps", "-o", "stat=,comm=", "-p", str(pid)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    # an ended process waits for its parent, which may be a slow init
    return done.stdout.strip().endswith("ssh") and not done.stdout.startswith("Z")


@contextmanager
def walls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point every directory of the user to an empty one, and forget agents and tickets."""
    # Directly below /tmp: a control socket's path may have 90 bytes at most.
    top = Path(tempfile.mkdtemp(prefix="ox", dir="/tmp"))
    try:
        for name, place in _DIRECTORIES.items():
            (top / place).mkdir(mode=0o700)
            monkeypatch.setenv(name, str(top / place))
        for name in _UNWANTED:
            monkeypatch.delenv(name, raising=False)
        yield top
    finally:
        _end_masters(top)
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _walls_of_the_session() -> Iterator[None]:
    """The environment of fixtures with a wider scope; and nothing may have touched ``~/.ssh``."""
    before = _dot_ssh()
    with pytest.MonkeyPatch.context() as monkeypatch, walls(monkeypatch):
        yield
    assert _dot_ssh() == before, "a test changed ~/.ssh"


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, _walls_of_the_session: None) -> Iterator[Path]:
    """The test's own directory, which has a short path and contains the XDG directories."""
    with walls(monkeypatch) as top:
        yield top


@pytest.fixture(scope="session")
def passable() -> Iterator[Path]:
    """A directory that other users can pass through, for homes and programs."""
    path = Path(tempfile.mkdtemp(prefix="oh", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


# -- nodes and relays ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def limited(passable: Path) -> Iterator[Path]:
    """A directory of anybody's in which 2 MiB may be written: btrfs has quotas of its own."""
    require(missing_programs("mkfs.btrfs", "btrfs"))
    image, place = passable / "image", passable / "limited"
    with image.open("wb") as file:
        file.truncate(200 << 20)
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        for words in (("quota", "enable", place), ("subvolume", "create", place / "of")):
            subprocess.run(["btrfs", *words], check=True, capture_output=True)
        subprocess.run(["btrfs", "qgroup", "limit", "2M", place / "of"], check=True, capture_output=True)
        (place / "of").chmod(0o1777)
        yield place / "of"
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="session")
def node() -> Iterator[Sandbox]:
    """A plain node for the current user, with a key; shared, so do not stop or change it."""
    require(missing_programs("sshd", "ssh-keygen"))
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def own_node() -> Iterator[Sandbox]:
    """A plain node for this test alone, which it may stop and break."""
    require(missing_programs("sshd", "ssh-keygen"))
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def relay(node: Sandbox) -> Iterator[Relay]:
    """A relay to ``node``; ``nodes.config_through`` writes the ``ssh_config`` for it."""
    with Relay(node.port) as made:
        yield made


class Keep(Protocol):
    """What the fixture ``keep`` gives."""

    def __call__(self, manager: contextlib.AbstractContextManager[_Entered], /) -> _Entered:
        """Enter a context manager."""


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Enter a context manager until the test ends, and return its value."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(scope="session", params=SHELLS)
def shell_user_node(request: pytest.FixtureRequest, passable: Path) -> Iterator[tuple[Sandbox, User]]:
    """A node and its user for each login shell; shared, so leave the start-up file as it is."""
    shell: ShellName = request.param
    require(missing_for_users() or missing_programs("sshd", shell))
    with shell_node(passable, shell) as made:
        yield made


class MakeShellNode(Protocol):
    """What the fixture ``make_shell_node`` gives."""

    def __call__(self, shell: ShellName, startup: Startup = QUIET) -> tuple[Sandbox, User]:
        """Make a node whose user has this shell and start-up file."""


@pytest.fixture
def make_shell_node(passable: Path) -> Iterator[MakeShellNode]:
    """Make nodes of this test alone by login shell and start-up file."""
    with ExitStack() as stack:

        def make(shell: ShellName, startup: Startup = QUIET) -> tuple[Sandbox, User]:
            require(missing_for_users() or missing_programs("sshd", shell))
            return stack.enter_context(shell_node(passable, shell, startup=startup))

        yield make


class MakeUser(Protocol):
    """What the fixture ``make_user`` gives."""

    def __call__(self, shell: ShellName = "bash", *, password: str | None = None) -> User:
        """Make a user."""


@pytest.fixture
def make_user(passable: Path) -> Iterator[MakeUser]:
    """Make temporary users of this test alone."""
    with ExitStack() as stack:

        def make(shell: ShellName = "bash", *, password: str | None = None) -> User:
            require(missing_for_users() or missing_programs(shell))
            return stack.enter_context(temporary_user(passable, shell, password=password))

        yield make


# -- nodes that ask through PAM: one for each test, since codes are spent and accounts get locked -------


class MakeOathNode(Protocol):
    """What the fixture ``make_oath_node`` gives."""

    def __call__(self, *, key: bool = False, password: str | None = None) -> OathNode:
        """Make a node that asks for a code, after a key or a password if wanted."""


@pytest.fixture
def make_oath_node(make_user: MakeUser, keep: Keep) -> MakeOathNode:
    """Make nodes that ask for a one-time code; the alias is ``otp``."""

    def make(*, key: bool = False, password: str | None = None) -> OathNode:
        require(missing_for_pam("pam_oath"))
        user = make_user(password=password)
        made = OathNode("otp", user.name, key=key, password=password is not None)
        keep(made)
        return made

    return make


@pytest.fixture(scope="session")
def pam_conversation(passable: Path) -> Path:
    """The compiled PAM module that plays conversations."""
    require(missing_for_compiling())
    return compile_module(passable)


class MakeConversationNode(Protocol):
    """What the fixture ``make_conversation_node`` gives."""

    def __call__(self, script: str, *, key: bool = False) -> ConversationNode:
        """Make a node that asks what the script says."""


@pytest.fixture
def make_conversation_node(make_user: MakeUser, pam_conversation: Path, keep: Keep) -> MakeConversationNode:
    """Make nodes that ask anything; the alias is ``asks``. ``pam_nodes`` has functions that write scripts."""

    def make(script: str, *, key: bool = False) -> ConversationNode:
        made = ConversationNode("asks", make_user().name, script, module=pam_conversation, key=key)
        keep(made)
        return made

    return make


@pytest.fixture
def duo_node(make_conversation_node: MakeConversationNode) -> ConversationNode:
    """A node with Duo's menu after the key, a push that is approved at once, and the passcode 123456."""
    return make_conversation_node(duo(), key=True)


@pytest.fixture
def locking_node(make_user: MakeUser, keep: Keep) -> LockingNode:
    """A node (alias ``locks``) that wants the password ``right``, and locks the account after 3 failures."""
    require(missing_for_pam("pam_faillock"))
    made = LockingNode("locks", make_user(password="right").name)
    keep(made)
    return made


# -- jump hosts, certificates, tickets -----------------------------------------------------------------


class MakeChain(Protocol):
    """What the fixture ``make_chain`` gives."""

    def __call__(self, *hops: Hop) -> Chain:
        """Make a target behind jump hosts; each hop, the target last, asks for "key" or "code"."""


@pytest.fixture
def make_chain(make_user: MakeUser, keep: Keep) -> MakeChain:
    """Make targets behind jump hosts: ``make_chain("key", "code")`` is a jump host and a target that asks."""

    def make(*hops: Hop) -> Chain:
        require(missing_programs("sshd"))
        if "code" in hops:
            require(missing_for_pam("pam_oath"))
        return keep(jump_chain(make_user() if os.geteuid() == 0 else None, hops))

    return make


@pytest.fixture
def authority_node() -> Iterator[AuthorityNode]:
    """A node that wants a certificate, with the script that gets one."""
    require(missing_programs("sshd", "ssh-keygen"))
    made = AuthorityNode()
    with made:
        yield made


@pytest.fixture
def kerberos_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[KerberosNode]:
    """A node that wants a Kerberos ticket, with a realm of its own; there is no ticket yet."""
    require(missing_for_kerberos())
    made = KerberosNode()
    with made:
        for name, value in made.client_environment.items():
            monkeypatch.setenv(name, value)
        yield made
