"""The AiiDA transport: as `core.local` in all that AiiDA asks, over one login, nothing submitted twice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from opensshtransport.local.settings import parse_duration
from opensshtransport.master import control_socket
from opensshtransport.master.facts import Facts
from opensshtransport.openssh import destination
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, require
from tests.support.aiida_contract import (
    NOT_AWAITED,
    OTHER_TREES,
    ROUND_TRIP,
    SCENARIOS,
    STALLS,
    TEXT,
    Awaiting,
    Places,
    WithinPortal,
    acts,
    answer,
    common_words,
    expected,
    recorded,
    recorded_stalls,
    stands_still,
)
from tests.support.aiida_profile import Profile, computer, missing_for_aiida, too_old_for_profiles
from tests.support.nodes import config_through, missing_programs
from tests.support.programs import OSSH, ossh
from tests.support.relay import Relay
from tests.support.slurm import Slurm, missing_for_slurm
from tests.support.users import User, temporary_user, wait_until

CALCULATION = "work/ab/cd/01ab-4567-89ab-cdef-0123456789ab"


@pytest.fixture(scope="module")
def aiida(_walls_of_the_session: None) -> Iterator[None]:
    """AiiDA is loaded, and its configuration is not the person's."""
    require(missing_for_aiida())
    with tempfile.TemporaryDirectory(prefix="oa", dir="/tmp") as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIIDA_PATH", place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("aiida.transports.plugins.local", "opensshtransport.aiida.transport"):
                importlib.import_module(name)
            # that is where deprecation warnings are configured
            settings = importlib.import_module("aiida.manage.configuration.settings")
            if hasattr(settings, "AiiDAConfigDir"):
                settings.AiiDAConfigDir.set()
            else:
                # of 2.6
                settings.set_configuration_directory()
            # of an earlier module in this process
            manage = importlib.import_module("aiida.manage.configuration")
            patch.setattr(manage, "CONFIG", None)
            configuration = manage.get_config(create=True)
        assert Path(configuration.dirpath).is_relative_to(place)
        yield


@pytest.fixture(scope="module")
def runtime(_walls_of_the_session: None) -> str:
    """The runtime directory that the tests of this module share, so that they share a master."""
    return os.environ["XDG_RUNTIME_DIR"]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, isolated: Path, runtime: str) -> None:
    """This test uses the master of the module."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)


@pytest.fixture(scope="module")
def quick_node(_walls_of_the_session: None) -> Iterator[Sandbox]:
    """A node for the present user, whose records of what ran once are not the user's own."""
    require(missing_programs("sshd", "ssh-keygen"))
    with tempfile.TemporaryDirectory(prefix="oh", dir="/tmp") as state:
        with Sandbox(server_options={"SetEnv": f"SHLVL=1 XDG_STATE_HOME={state}"}) as node:
            yield node


def ours(node: Sandbox, **options: object) -> Any:
    """Our transport to a node, not yet open."""
    from opensshtransport.aiida.transport import OpenSshTransport

    return OpenSshTransport(machine=node.host, **{"ssh_config": str(node.ssh_config), **options})


def ours_again(transport: Any) -> Any:
    """Another transport to the same computer."""
    return type(transport)(machine=transport.host, ssh_config=transport._ssh_config)


@pytest.fixture(scope="module")
def open_transport(aiida: None, quick_node: Sandbox, runtime: str) -> Iterator[Any]:
    """Our transport, open for all tests of the contract."""
    with ours(quick_node) as transport:
        yield transport


# What AiiDA tells apart, the most particular first.
KINDS = ("FileNotFoundError", "OSError", "UnicodeError", "ValueError", "NotImplementedError")
ANSWERS = recorded()


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(name: str, way: str, open_transport: Any, isolated: Path) -> None:
    """Each method gives what `core.local` gives, in the words that AiiDA's own transports have in common.

    That is its results, exceptions, warnings, what becomes of the trees, and which files stay the same inode.
    """
    theirs = ANSWERS[name]
    wanted = expected(name, theirs)
    from aiida.plugins import TransportFactory

    awaited = way == "async" and name not in NOT_AWAITED
    between_two = name == "copy_from_remote_to_remote"
    if between_two and awaited and not hasattr(TransportFactory("core.local"), "put_async"):
        pytest.skip("core.local of this AiiDA has nothing to await")
    transport = Awaiting(open_transport) if awaited else open_transport
    given = answer(SCENARIOS[name], transport, Places.make(isolated / "1"))
    assert given.result == wanted.result, given.text
    kinds = [kind for kind in KINDS if kind in wanted.kinds]
    assert bool(given.kinds) == bool(wanted.kinds), given.text
    # what catches the error of core.local catches ours too
    assert not kinds or kinds[0] in given.kinds
    assert given.warned == wanted.warned
    if name not in OTHER_TREES:
        assert given.trees == wanted.trees
        assert set(given.replaced) <= set(wanted.replaced)
    for words in common_words(theirs) if given.kinds else ():
        assert re.search(words, given.text), given.text


def of_aiida(name: str) -> Any:
    """One of AiiDA's own transports, which an older release may not have."""
    from aiida.common.exceptions import MissingEntryPointError
    from aiida.plugins import TransportFactory

    try:
        return TransportFactory(name)
    except MissingEntryPointError:
        pytest.skip(f"this AiiDA has no {name}")


# What AiiDA never asks of a transport it does not know.
_THEIRS_ALONE = {"exec_command_internal_async", "stat", "lstat", "run_command_blocking"}


@pytest.mark.parametrize("name", ["core.local", "core.ssh", "core.ssh_async"])
def test_arguments(aiida: None, name: str) -> None:
    """What can be given to the methods of AiiDA's own transports can be given to ours."""
    from aiida.plugins import TransportFactory

    theirs, mine = of_aiida(name), TransportFactory("openssh")
    for method, function in inspect.getmembers(theirs, inspect.isfunction):
        if method.startswith("_") or method in _THEIRS_ALONE:
            continue
        parameters = inspect.signature(getattr(mine, method)).parameters
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            continue
        wanted = inspect.signature(function).parameters.values()
        known = {one.name for one in wanted if one.kind is one.POSITIONAL_OR_KEYWORD}
        assert known <= parameters.keys(), method


@pytest.mark.usefixtures("shared")
def test_arguments_of_ssh_async(open_transport: Any, isolated: Path) -> None:
    """What `core.ssh_async` takes beyond the others does what it says there."""
    (isolated / "f").write_text("")
    (isolated / "link").symlink_to("f")
    assert open_transport.glob(isolated / "no*") == []
    for missing in ("no*", "missing"):
        with pytest.raises(FileNotFoundError):
            open_transport.glob(isolated / missing, ignore_nonexisting=False)
    assert open_transport.glob(isolated / "f*", ignore_nonexisting=False) == [str(isolated / "f")]
    open_transport.chmod(isolated / "f", 0o640, follow_symlinks=False)
    assert open_transport.get_mode(isolated / "f") == 0o640
    with pytest.raises(NotImplementedError):
        open_transport.chmod(isolated / "link", 0o600, follow_symlinks=False)
    assert open_transport.get_mode(isolated / "f") == 0o640


# -- shells ------------------------------------------------------------------------------------------------


def test_command_text_in_any_login_shell(
    aiida: None, shell_user_node: tuple[Sandbox, User], isolated: Path
) -> None:
    """Whatever the login shell is, bash gets a command unchanged, here documents, backslashes and all."""
    node, user = shell_user_node
    wanted = subprocess.run(["bash", "-c", TEXT], capture_output=True, check=False, cwd="/", env={}).stdout
    for login_shell in (True, False):
        with ours(node, use_login_shell=login_shell) as transport:
            status, out, err = transport.exec_command_wait_bytes(TEXT, workdir="/")
            assert (status, err) == (3, b"one\n")
            assert out == wanted
            said = transport.exec_command_wait("shopt -q login_shell && echo yes; echo $BASH_VERSION")[1]
            assert said.splitlines()[:-1] == (["yes"] if login_shell else [])
            assert transport.whoami() == user.name


# -- opening -----------------------------------------------------------------------------------------------


def test_open_without_a_network(aiida: None, own_node: Sandbox, keep: Keep) -> None:
    """Where a master is running, opening asks no network, which may be silent, and needs no wait."""
    relay = keep(Relay(own_node.port))
    transport = ours(own_node, ssh_config=str(config_through(own_node, relay)), safe_interval=7.0)
    assert transport.get_safe_open_interval() == 7.0
    with transport:
        assert transport.isdir("/")
    assert transport.get_safe_open_interval() == 0.0
    relay.silence()
    begun = relay.bytes_forwarded
    for _ in range(3):
        transport.open()
        transport.close()
    asyncio.run(transport.open_async())
    asyncio.run(transport.close_async())
    assert relay.bytes_forwarded == begun
    assert own_node.authentications() == 1


@pytest.mark.usefixtures("shared")
def test_open_and_close(open_transport: Any, quick_node: Sandbox) -> None:
    """Opening twice and closing twice are errors; nested `with` opens once; closed, nothing can be asked."""
    from aiida.common.exceptions import InvalidOperation
    from aiida.transports.transport import TransportInternalError

    transport = ours(quick_node)
    with pytest.raises(InvalidOperation):
        transport.close()
    with pytest.raises(TransportInternalError):
        transport.isdir("/")
    with transport, transport:
        with pytest.raises(InvalidOperation):
            transport.open()
        assert "OPEN" in str(transport)
        assert transport.is_open

    async def nested() -> bool:
        async with transport, transport:
            return bool(await transport.isdir_async("/"))

    # older releases of AiiDA know no `async with`
    assert not hasattr(transport, "__aexit__") or asyncio.run(nested())
    assert not transport.is_open
    assert "CLOSED" in repr(transport)


@pytest.mark.usefixtures("shared")
@pytest.mark.filterwarnings("ignore:.* is deprecated")
def test_relative_paths(open_transport: Any, isolated: Path) -> None:
    """Relative paths begin at the home directory, or where `chdir` said; a `~` is a name like any other."""
    home = Path.home()
    assert open_transport.getcwd() == open_transport.normalize() == str(home)
    assert not open_transport.isdir("~")
    try:
        open_transport.chdir(isolated)
        open_transport.mkdir("~")
        open_transport.makedirs("a/b")
        open_transport.exec_command_wait("echo x > y")
        assert {"a", "y", "~"} < set(open_transport.listdir())
        assert open_transport.glob("a*") == ["a"]
        assert open_transport.getcwd() == str(isolated)
        assert (isolated / "~").is_dir()
        with pytest.raises(NotADirectoryError):
            open_transport.chdir("y")
    finally:
        open_transport._cwd = ""


# -- faults ------------------------------------------------------------------------------------------------


def test_login_that_needs_a_person(aiida: None, isolated: Path) -> None:
    """Only a person can log in: the error says how, names the doctor, and is none about files."""
    from opensshtransport.aiida.faults import ConnectionFault

    with Sandbox(second_factor="passphrase") as node:
        transport = ours(node)
        with pytest.raises(ConnectionFault) as raised:
            transport.open()
        assert "ossh login sandbox" in str(raised.value)
        assert "ossh doctor sandbox" in str(raised.value)
        assert raised.value.started is False
        assert not isinstance(raised.value, OSError)
        assert not transport.is_open
        with pytest.raises(ConnectionFault):
            asyncio.run(transport.open_async())


def test_authentication_script(aiida: None, own_node: Sandbox, isolated: Path) -> None:
    """The options of the computer reach the login: the script runs before it, and only then."""
    script = isolated / "script"
    script.write_text(f"#!/bin/sh\necho ran >> {isolated}/count\n")
    script.chmod(0o700)
    transport = ours(own_node, authentication_script=str(script), min_validity="1h", persist="2h")
    for _ in range(2):
        with transport:
            assert transport.isdir("/")
    assert (isolated / "count").read_text() == "ran\n"
    (facts,) = control_socket.known()
    assert b"ControlPersist=2h" not in Path(f"/proc/{facts.pid}/cmdline").read_bytes()
    # ssh has renamed itself; what it was told is in the audit log, and a script that fails is told so
    script.write_text("#!/bin/sh\nexit 3\n")
    kill(facts)
    with pytest.raises(Exception, match=r"script .* failed with status 3"):
        transport.open()


def kill(facts: Facts) -> None:
    """Kill a master, and wait until nothing listens there."""
    os.kill(facts.pid, signal.SIGKILL)
    wait_until(lambda: not control_socket.listens(Path(facts.socket)), what="the master's end")


def test_lost_connection_is_no_missing_file(aiida: None, isolated: Path) -> None:
    """With the connection gone, no method says that a file is not there, and none ignores it."""
    from opensshtransport.aiida.faults import ConnectionFault

    place = Places.make(isolated / "x")
    with Sandbox(second_factor="passphrase") as node:
        terminal = pexpect.spawn(str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=20)
        terminal.expect("passphrase")
        terminal.sendline(node.passphrase)
        terminal.expect(pexpect.EOF)
        terminal.close()
        with ours(node) as transport:
            assert transport.isdir(place.there)
            (facts,) = control_socket.known()
            kill(facts)
            there, here = place.there, place.here
            calls: tuple[Callable[[], object], ...] = (
                lambda: transport.isdir(there),
                lambda: transport.isfile(there / "a.txt"),
                lambda: transport.path_exists(there / "missing"),
                lambda: transport.listdir(there),
                lambda: transport.glob(there / "*"),
                lambda: transport.get_attribute(there / "missing"),
                lambda: transport.rmtree(there / "missing"),
                lambda: transport.makedirs(there / "sub", ignore_existing=True),
                lambda: transport.copy(there / "missing", there / "new"),
                lambda: transport.get(there / "missing", here / "new", ignore_nonexisting=True),
                lambda: transport.put(here / "a.txt", there / "new"),
                lambda: transport.compress("tar", there / "sub", there / "x.tar", there),
                lambda: transport.exec_command_wait("true"),
                lambda: asyncio.run(
                    transport.get_async(there / "a.txt", here / "n", ignore_nonexisting=True)
                ),
                lambda: asyncio.run(transport.exec_command_wait_async("true")),
            )
            for call in calls:
                with pytest.raises(ConnectionFault, match="ossh login sandbox"):
                    call()
        assert node.authentications() == 1


def test_master_that_dies_is_replaced(aiida: None, own_node: Sandbox, isolated: Path) -> None:
    """Where a login is possible, a master that was killed is replaced by one login, and work goes on."""
    with ours(own_node) as transport:
        assert transport.isdir("/")
        for _ in range(2):
            (facts,) = control_socket.known()
            kill(facts)

            async def many() -> list[Any]:
                return await asyncio.gather(*(transport.isdir_async("/tmp") for _ in range(20)))

            assert asyncio.run(many()) == [True] * 20
    assert own_node.authentications() == 3


# -- side by side ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared")
def test_side_by_side(open_transport: Any, quick_node: Sandbox) -> None:
    """Sixty questions at once are all answered right, by one login, and commands run side by side."""

    async def many() -> tuple[list[bool], float]:
        answers = await asyncio.gather(
            *(open_transport.isdir_async("/tmp" if number % 2 else "/missing") for number in range(60))
        )
        begun = time.monotonic()
        await asyncio.gather(*(open_transport.exec_command_wait_async("sleep 1") for _ in range(4)))
        return answers, time.monotonic() - begun

    answers, seconds = asyncio.run(many())
    assert answers == [False, True] * 30
    # pipelined they take four
    assert seconds < 3.5
    assert quick_node.authentications() == 1


@pytest.mark.usefixtures("shared")
def test_loop_is_not_blocked(open_transport: Any, isolated: Path) -> None:
    """While a command runs that is awaited, the loop does other things."""
    gate = isolated / "gate"

    async def both() -> int:
        # the command ends only by what the loop does meanwhile
        waiting = asyncio.ensure_future(
            open_transport.exec_command_wait_async(f"until [ -e {gate} ]; do sleep 0.05; done; exit 7")
        )
        await asyncio.sleep(0)
        await open_transport.exec_command_wait_async(f"touch {gate}")
        return int((await waiting)[0])

    assert asyncio.run(asyncio.wait_for(both(), 60)) == 7


@pytest.mark.usefixtures("shared")
def test_blocking_method_within_a_loop(open_transport: Any) -> None:
    """A scheduler calls blocking methods while the loop runs; they need no loop, and no broker."""

    async def scheduler() -> int:
        with open_transport:
            return int(open_transport.exec_command_wait("exit 5")[0])

    assert asyncio.run(scheduler()) == 5


@pytest.fixture
def portals(aiida: None) -> None:
    """AiiDA opens portals for blocking methods."""
    pytest.importorskip("plumpy.greenback_bridge", reason="this AiiDA has no portals")


@pytest.fixture
def distant_transport(aiida: None, quick_node: Sandbox, keep: Keep) -> Any:
    """Our transport, open, to where a question takes twice the time for which others were recorded."""
    relay = keep(Relay(quick_node.port, delay=ROUND_TRIP))
    return keep(ours(quick_node, ssh_config=str(config_through(quick_node, relay))))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("portals")
def test_no_method_stops_the_loop(distant_transport: Any, isolated: Path) -> None:
    """Within AiiDA's loop, each method stops it no longer than the best of AiiDA's own transports does."""
    ways = {"blocking": distant_transport, "async": WithinPortal(distant_transport)}
    numbers = itertools.count()

    def act(way: str, name: str) -> Callable[[], None]:
        return acts(STALLS[name], ways[way], Places.make(isolated / str(next(numbers))))

    # for what waits for an answer there, twice as long as this
    allowed = {name: min(theirs.values()) + ROUND_TRIP for name, theirs in recorded_stalls().items()}
    cases = [(way, name) for name in STALLS for way in ways]
    _, longest = asyncio.run(stands_still(*(act(*case) for case in cases)))
    if longest < min(allowed.values()):
        return
    # which of them it was
    slow = {case: asyncio.run(stands_still(act(*case)))[1] for case in cases}
    slow = {case: seconds for case, seconds in slow.items() if seconds > allowed[case[1]]}
    assert not slow


@pytest.mark.usefixtures("shared", "portals")
def test_blocking_methods_within_a_portal(open_transport: Any, isolated: Path) -> None:
    """AiiDA's schedulers and monitors call blocking methods in the loop, which goes on meanwhile."""
    there, here = Places.make(isolated / "x").there, str(isolated / "got")
    pipe = isolated / "pipe"
    os.mkfifo(pipe)
    slow = f"exec 3<>{pipe}; read -t 2 -u 3"
    [status], longest = asyncio.run(stands_still(lambda: open_transport.exec_command_wait(slow)[0]))
    assert status != 0
    assert longest < 1

    def several() -> tuple[object, ...]:
        with pytest.raises(FileNotFoundError):
            open_transport.get_attribute(there / "missing")
        open_transport.getfile(there / "a.txt", here)
        open_transport.compress("tar", there / "sub", there / "x.tar", there)
        with ours_again(open_transport) as another:
            return open_transport.isdir(there), another.listdir(there / "sub"), another.whoami()

    [seen], _ = asyncio.run(stands_still(several))
    assert seen == (True, [".h", "c.txt", "inner"], open_transport.whoami())
    assert Path(here).read_text() == (there / "a.txt").read_text()
    assert (there / "x.tar").exists()


@pytest.mark.usefixtures("shared", "portals")
def test_cancelled_within_a_portal(open_transport: Any, isolated: Path) -> None:
    """Where the task is cancelled that waits through a portal, the command ends there."""
    pid = isolated / "pid"

    async def cancelled() -> None:
        call = functools.partial(open_transport.exec_command_wait, f"echo $$ > {pid}; sleep 300")
        task = asyncio.ensure_future(stands_still(call))
        await asyncio.to_thread(wait_until, lambda: pid.exists() and pid.read_text(), what="the command")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), what="the command's end")


def test_interval_is_told_without_a_program(
    aiida: None, own_node: Sandbox, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AiiDA asks for the interval in its loop: no `ssh -G` is run for it, with a master or without."""
    config, asked = isolated / "ssh_config", isolated / "asked"
    config.write_text(f'Match exec "echo >> {asked}"\n{Path(own_node.ssh_config).read_text()}')
    transport = ours(own_node, ssh_config=str(config), safe_interval=7.0)
    assert transport.get_safe_open_interval() == 7.0
    assert not asked.exists()
    with ours(own_node, ssh_config=str(config)) as another:
        another.isdir("/")
    asked.unlink()
    # of another process, which has never opened it
    monkeypatch.setattr(
        importlib.import_module("opensshtransport.aiida.connections").connections, "_known", {}
    )
    assert transport.get_safe_open_interval() == 0.0
    assert not asked.exists()


# A job that adds two hundred lines a second to each of its outputs, until it is killed.
_TALKATIVE = """\
exec 3<>pipe
while :; do
    for log in aiida.out out/a.log out/b.log; do echo "step $((n += 1)) of many" >> $log; done
    read -rt 0.005 -u 3
done
"""


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_output_of_a_running_job(open_transport: Any, isolated: Path, way: str) -> None:
    """Of what a job writes to, the beginning arrives, in whole lines: by name, tree and pattern.

    So it does as monitors and `verdi calcjob remotecat` ask, who read a temporary file that they have open.
    """
    transport = Awaiting(open_transport) if way == "async" else open_transport
    there, here = isolated / "job", isolated / "here"
    (there / "out").mkdir(parents=True)
    here.mkdir()
    os.mkfifo(there / "pipe")
    (there / "job.sh").write_text(_TALKATIVE)
    logs = [there / name for name in ("aiida.out", "out/a.log", "out/b.log")]
    command = "(bash job.sh > /dev/null 2>&1 & echo $!) &"
    status, pid, _ = transport.exec_command_wait(command, workdir=there)
    assert status == 0
    try:
        wait_until(lambda: all(log.exists() for log in logs), what="the job's first lines")
        for number in range(3):
            least = {log: log.stat().st_size for log in logs}
            single, tree, flat = (here / f"{name}{number}" for name in ("single", "tree", "flat"))
            flat.mkdir()
            transport.getfile(logs[0], single)
            transport.gettree(there / "out", tree)
            transport.get(f"{there}/out/*.log", flat)
            with tempfile.NamedTemporaryFile("w+", dir=here) as handle:
                transport.getfile(logs[0], handle.name)
                handle.seek(0)
                texts = [(handle.read(), logs[0]), (single.read_text(), logs[0])]
            texts += [(path.read_text(), there / "out" / path.name) for path in here.glob(f"*{number}/*.log")]
            assert len(texts) == 6
            for text, log in texts:
                assert len(text) >= least[log]
                assert text.endswith("\n")
                assert log.read_text().startswith(text)
            # it went on meanwhile
            assert all(log.stat().st_size > size for log, size in least.items())
    finally:
        os.kill(int(pid), signal.SIGKILL)


def _large(path: Path) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(400):
            file.write(block)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["put", "get"])
def test_cancelled_transfer_ends(open_transport: Any, isolated: Path, way: str, keep: Keep) -> None:
    """Where the task is cancelled that moves a file, no more of it is moved."""
    source, place = isolated / "source", isolated / "place"
    place.mkdir()
    _large(source)

    def arrived() -> int:
        return sum(path.stat().st_blocks for path in place.iterdir())

    async def cancelled() -> None:
        task = asyncio.ensure_future(getattr(open_transport, f"{way}_async")(source, place / "large"))
        await asyncio.to_thread(wait_until, arrived, what="its beginning")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    seen = [-1]

    def rests() -> bool:
        # long for a file that is still moved, at hundreds of MB a second
        time.sleep(0.5)
        seen.append(arrived())
        return seen[-1] == seen[-2]

    wait_until(rests, what="its end")
    assert not (place / "large").exists()
    assert seen[-1] * 512 < source.stat().st_size


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_text_that_is_none(open_transport: Any, way: str) -> None:
    """What is not in the encoding is replaced; a timeout's error has what was printed, as text too."""
    transport = Awaiting(open_transport) if way == "async" else open_transport
    said = transport.exec_command_wait(r"printf 'a\344b'; printf '\377' >&2")
    assert said == (0, "a\ufffdb", "\ufffd")
    with pytest.raises(TimeoutError, match="part") as raised:
        transport.exec_command_wait(r"printf 'part\344'; echo err >&2; sleep 300", timeout=2)
    assert (raised.value.stdout, raised.value.stderr) == ("part\ufffd", "err\n")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_archives_of_any_name(open_transport: Any, isolated: Path, way: str) -> None:
    """Archives, sources and directories may have names that are no UTF-8, or hold backslashes and quotes."""
    transport = Awaiting(open_transport) if way == "async" else open_transport
    names = ["back\\slash", os.fsdecode(b"\xff\xe9"), "quo'te", 'dou"ble', "$HOME", "-rf", "a:b", "new\nline"]
    top = isolated / "".join(names)
    for name in names:
        (top / name).mkdir(parents=True)
        (top / name / name).write_text("x")
    archive, out = isolated / "".join(reversed(names)), isolated / f"out{names[1]}"
    transport.compress("tar", [top / name for name in names], archive, top)
    transport.extract(archive, out)
    assert {path.name for path in out.glob("*/*")} == set(names)
    transport.compress("tar.gz", top / "*", archive, top)


@pytest.mark.usefixtures("shared")
def test_failing_tar(open_transport: Any, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is the transport's own `exec_command_wait`, and its failure is told as by `core.ssh`."""
    (isolated / "a").write_text("")
    (isolated / "x.tar").write_text("no archive")
    with pytest.raises(OSError, match=r"^Error while extracting the tar archive\. Exit code: 2"):
        open_transport.extract(isolated / "x.tar", isolated / "out")

    async def failing(*_: object, **__: object) -> tuple[int, str, str]:
        return 1, "", ""

    monkeypatch.setattr(open_transport, "exec_command_wait", lambda *_, **__: (1, "", ""), raising=False)
    monkeypatch.setattr(open_transport, "exec_command_wait_async", failing, raising=False)
    for transport in (open_transport, Awaiting(open_transport)):
        with pytest.raises(OSError, match=r"Error while creating the tar archive\."):
            transport.compress("tar", isolated / "a", isolated / "y.tar", isolated)
        with pytest.raises(OSError, match=r"Error while extracting the tar archive\."):
            transport.extract(isolated / "x.tar", isolated / "out")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_timeout(open_transport: Any, isolated: Path, way: str) -> None:
    """A command that takes too long is ended there; what it has printed is kept."""
    transport = Awaiting(open_transport) if way == "async" else open_transport
    pid = isolated / "pid"
    with pytest.raises(TimeoutError) as raised:
        transport.exec_command_wait(f"echo $$ > {pid}; echo part; sleep 300", timeout=5)
    assert raised.value.completed.stdout == b"part\n"  # type: ignore[attr-defined]
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), what="the command's end")


@pytest.mark.usefixtures("shared")
def test_cancelled_command_is_ended(open_transport: Any, isolated: Path) -> None:
    """Where the task that awaits a command is cancelled, the command ends there."""
    pid = isolated / "pid"

    async def cancelled() -> None:
        task = asyncio.ensure_future(open_transport.exec_command_wait_async(f"echo $$ > {pid}; sleep 300"))
        await asyncio.to_thread(wait_until, lambda: pid.exists() and pid.read_text(), what="the command")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), what="the command's end")


# -- submissions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "workdir", "keyed"),
    [
        ("sbatch _aiidasubmit.sh", f"/x/{CALCULATION}", True),
        ("sbatch '_aiida submit.sh'", f"/x/{CALCULATION}/", True),
        ("/opt/slurm/bin/sbatch --parsable x", f"/{CALCULATION}", True),
        ("qsub x", f"/x/{CALCULATION}", True),
        ("bsub < x", f"/x/{CALCULATION}", True),
        ("hq submit x", f"/x/{CALCULATION}", True),
        ("(bash _aiidasubmit.sh > /dev/null 2>&1 & echo $!) &", f"/x/{CALCULATION}", True),
        ("sbatch x", "/home/me", False),
        ("sbatch x", None, False),
        ("sbatch x", f"/x/{CALCULATION}/sub", False),
        ("squeue --me", f"/x/{CALCULATION}", False),
        ("sbatch-wrapper x", f"/x/{CALCULATION}", False),
        ("tail -f sbatch", f"/x/{CALCULATION}", False),
        ("scancel 17", f"/x/{CALCULATION}", False),
    ],
)
def test_submission_key(aiida: None, command: str, workdir: str | None, keyed: bool) -> None:
    """What submits, in a calculation's directory, has a key that holds its UUID; other commands have none."""
    from opensshtransport.aiida.submissions import submission_key

    key = submission_key(command, workdir)
    assert (key is not None) is keyed
    assert not keyed or "abcd01ab-4567-89ab-cdef-0123456789ab" in str(key)
    assert not keyed or key != submission_key(f"{command} y", workdir)


@pytest.fixture
def scheduler(isolated: Path) -> Path:
    """The directory of a calculation, and an `sbatch` that records each run."""
    where = isolated / CALCULATION
    where.mkdir(parents=True)
    program = isolated / "sbatch"
    # it fails as long as there is a file that says so, and takes until there is none that says wait
    program.write_text(
        f"#!/bin/sh\necho ran >> {isolated}/count\n[ ! -e {isolated}/fail ] || {{ echo no >&2; exit 1; }}\n"
        f"while [ -e {isolated}/wait ]; do sleep 0.05; done\n"
        f"echo Submitted batch job $(wc -l < {isolated}/count)\n"
    )
    program.chmod(0o755)
    return where


def runs(directory: Path) -> int:
    """How many submissions there were."""
    count = directory / "count"
    return len(count.read_text().splitlines()) if count.exists() else 0


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_submission_runs_once(open_transport: Any, isolated: Path, scheduler: Path, way: str) -> None:
    """Asked again, a submission gives its first answer; other commands, and other directories, run anew."""
    transport = Awaiting(open_transport) if way == "async" else open_transport
    (scheduler / "submit.sh").write_text("")
    command = f"{isolated}/sbatch submit.sh"
    for _ in range(3):
        assert transport.exec_command_wait(command, workdir=scheduler) == (0, "Submitted batch job 1\n", "")
    assert runs(isolated) == 1
    assert transport.exec_command_wait(command, workdir=isolated)[1] == "Submitted batch job 2\n"
    assert transport.exec_command_wait(command, workdir=isolated)[1] == "Submitted batch job 3\n"


@pytest.mark.usefixtures("shared")
def test_submission_without_a_scheduler(open_transport: Any, isolated: Path, scheduler: Path) -> None:
    """On a busy machine `core.direct` prints the job's number late; we wait for that, not for the job."""
    os.mkfifo(scheduler / "pipe")
    (scheduler / "job").write_text("exec 3<>pipe; read -r -u 3\n")
    (scheduler / "slow").write_text("sleep 1\n")
    for name in ("pipe", "job", "slow"):
        (isolated / name).symlink_to(scheduler / name)
    command = "(bash slow > /dev/null 2>&1; bash job > /dev/null 2>&1 & echo $!) &"
    for workdir in (scheduler, isolated):
        status, out, err = open_transport.exec_command_wait(command, workdir=workdir)
        assert (status, err) == (0, "")
        # it runs, and nothing else ends it
        os.kill(int(out), signal.SIGKILL)


@pytest.mark.usefixtures("shared")
def test_failed_submission_may_be_repeated(
    open_transport: Any, isolated: Path, scheduler: Path, aiida: None
) -> None:
    """What the scheduler has refused is submitted anew when asked again, by this process and by others."""
    command = f"{isolated}/sbatch submit.sh"
    (isolated / "fail").touch()
    for number in (1, 2, 3):
        assert open_transport.exec_command_wait(command, workdir=scheduler) == (1, "", "no\n")
        assert runs(isolated) == number
    (isolated / "fail").unlink()
    for _ in range(2):
        assert open_transport.exec_command_wait(command, workdir=scheduler)[:2] == (
            0,
            "Submitted batch job 4\n",
        )


def test_submission_whose_answer_is_lost(
    aiida: None, quick_node: Sandbox, isolated: Path, scheduler: Path
) -> None:
    """The connection breaks between submission and answer: an error, and asked again the job's number."""
    from opensshtransport.aiida.faults import ConnectionFault

    command = f"{isolated}/sbatch submit.sh"
    (isolated / "wait").touch()
    with ours(quick_node) as transport:
        outcome: list[object] = []

        def submit() -> None:
            try:
                outcome.append(transport.exec_command_wait(command, workdir=scheduler))
            except ConnectionFault as reason:
                outcome.append(reason)

        thread = threading.Thread(target=submit)
        thread.start()
        wait_until(lambda: runs(isolated) == 1, what="the submission")
        (facts,) = control_socket.known()
        kill(facts)
        thread.join(30)
        (fault,) = outcome
        assert isinstance(fault, ConnectionFault)
        assert fault.started is not False
        (isolated / "wait").unlink()
        assert transport.exec_command_wait(command, workdir=scheduler) == (0, "Submitted batch job 1\n", "")
    assert runs(isolated) == 1


# -- at the terminal ---------------------------------------------------------------------------------------


def test_gotocomputer(aiida: None, own_node: Sandbox, isolated: Path) -> None:
    """The command opens a bash in the directory, after a login where one is needed, and only then."""
    where = isolated / "it's a $dir"
    where.mkdir()
    for _ in range(2):
        with ours(own_node, use_login_shell=False) as transport:
            line = transport.gotocomputer_command(where)
        terminal = pexpect.spawn("/bin/sh", ["-c", line], timeout=20, encoding="utf-8")
        terminal.sendline("pwd; echo sum=$((1+1)); exit 4")
        terminal.expect("sum=2")
        assert str(where) in (terminal.before or "")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 4
    assert own_node.authentications() == 1
    # where there is no master, the same line logs in first
    assert ossh("logout", "-F", own_node.ssh_config, own_node.host).returncode == 0
    shutil.rmtree(where)
    terminal = pexpect.spawn("/bin/sh", ["-c", line], timeout=20, encoding="utf-8")
    terminal.expect("seems to have been deleted")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert own_node.authentications() == 2


# -- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("authentication_script", "None", ""),
        ("authentication_script", "script.sh", "script.sh is not an absolute path"),
        ("authentication_script", "/no/such", "The file /no/such does not exist"),
        ("authentication_script", "/etc/passwd", "The script /etc/passwd is not executable"),
        ("authentication_script", "/bin/sh", ""),
        ("ssh_config", "/etc/passwd", ""),
        ("ssh_config", "config", "config is not an absolute path"),
        ("max_io_allowed", 8, ""),
        ("max_io_allowed", 0, "0 is less than 1"),
        ("max_io_allowed", -1, "-1 is not a valid positive number"),
        ("min_validity", "1h30m", ""),
        ("min_validity", "soon", "is not a time"),
        ("persist", "0", ""),
        ("persist", "3d", ""),
        ("persist", "-1", "is not a time"),
        ("host", "-oProxyCommand=x", "begins with '-'"),
        ("host", "daint", ""),
    ],
)
def test_options_are_checked(aiida: None, name: str, value: object, words: str) -> None:
    """What is typed for an option is checked at once, in `core.ssh_async`'s words where it has the option."""
    import click

    from opensshtransport.aiida.transport import OpenSshTransport

    check = OpenSshTransport.auth_options[name]["callback"]
    if not words:
        assert check(None, None, value) == value
        return
    with pytest.raises(click.BadParameter, match=words):
        check(None, None, value)


def test_options_of_ssh_async(aiida: None) -> None:
    """What `core.ssh_async` has and ours has too has the same name, type and default; none must be typed."""
    from aiida.plugins import TransportFactory

    from opensshtransport.aiida.options import IGNORED

    theirs, mine = (of_aiida(name).auth_options for name in ("core.ssh_async", "openssh"))
    same = (theirs.keys() & mine.keys()) - IGNORED.keys()
    assert same >= {"host", "max_io_allowed", "authentication_script", "use_login_shell", "safe_interval"}
    for name in same:
        assert [theirs[name].get(key) for key in ("type", "default", "switch")] == [
            mine[name].get(key) for key in ("type", "default", "switch")
        ]
    assert all(option["non_interactive_default"] for option in mine.values())
    # the others are known, and kept nowhere
    for name in ("core.ssh_async", "core.ssh"):
        assert TransportFactory(name).auth_options.keys() <= mine.keys()
    assert not IGNORED.keys() & set(TransportFactory("openssh").get_valid_auth_params())


# -- the engine --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiles(aiida: None) -> None:
    """There can be profiles."""
    if reason := too_old_for_profiles():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def slurm(profiles: None) -> Iterator[Slurm]:
    """A Slurm cluster of one node."""
    require(missing_for_slurm())
    with Slurm() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster_user(passable: Path, slurm: Slurm) -> Iterator[User]:
    """Who computes on the cluster."""
    with temporary_user(passable) as user:
        # the answer comes some time after the submission, so that a connection can break between them
        program = user.home / "bin/sbatch"
        program.parent.mkdir()
        real = shutil.which("sbatch")
        program.write_text(f'#!/bin/sh\nsaid=$({real} "$@") || exit\nsleep 0.4\necho "$said"\n')
        program.chmod(0o755)
        (user.home / ".profile").write_text("PATH=$HOME/bin:$PATH\n")
        for path in (user.home / ".profile", program, program.parent):
            os.chown(path, user.uid, user.uid)
        yield user


@pytest.fixture(scope="module")
def quiet_profile(profiles: None, runtime: str) -> Iterator[Profile]:
    """A profile that tries again soon; it may have a daemon."""
    options = {"transport.task_retry_initial_interval": 1, "transport.task_maximum_attempts": 4}
    with Profile(options) as made:
        yield made


@pytest.fixture(scope="module")
def profile(quiet_profile: Profile) -> Profile:
    """The profile with a daemon of two workers."""
    quiet_profile.start_daemon(2)
    return quiet_profile


def cluster_node(user: User, slurm: Slurm, **options: Any) -> Sandbox:
    """A login node of the cluster."""
    words = " ".join(f"{name}={value}" for name, value in slurm.environment.items())
    return Sandbox(user=user.name, server_options={"SetEnv": words}, **options)


def computers(node: Sandbox, workdir: Path, *labels: str) -> list[list[str]]:
    """The commands that make the node known to a profile, once for each scheduler."""
    options = ["--ssh-config", str(node.ssh_config), "--safe-interval", "1"]
    return [
        words
        for label in labels
        for words in computer(label, f"core.{label.partition('-')[0]}", workdir, *options)
    ]


# of CalcJob's exit codes
STOPPED_BY_MONITOR = 150


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared")
def test_many_calculations(profile: Profile, slurm: Slurm, cluster_user: User) -> None:
    """Ten at once, with and without Slurm, the master killed twice: all end, each was submitted once.

    It is killed when a job has come to the queue and the answer is still on its way. There is one login
    for each master, and `verdi computer test` is content. A monitor reads a running job's output and ends it.
    """
    with cluster_node(cluster_user, slurm) as node:
        *_, said = profile.verdis(
            *computers(node, cluster_user.home / "work", "slurm", "direct"),
            ["computer", "test", "slurm", "--print-traceback"],
        )
        assert "all 6 tests succeeded" in said
        assert "Warning" not in said
        jobs: list[dict[str, Any]] = [
            *({"computer": "slurm", "kind": "add", "x": number, "y": 1} for number in range(3)),
            *({"computer": "direct", "kind": "add", "x": number, "y": 2} for number in range(2)),
            *({"computer": "slurm", "kind": "files", "seed": number, "count": 60} for number in range(3)),
            *({"computer": label, "kind": "watched"} for label in ("slurm", "direct")),
        ]
        script = profile.start_script("submit", jobs=jobs, seconds=400)
        for submitted in (2, 5):
            wait_until(lambda n=submitted: slurm.seen() >= n, seconds=200, what=f"{submitted} submissions")  # type: ignore[misc]
            facts = master_of(node)
            assert facts is not None
            kill(facts)
            wait_until(functools.partial(_lives_another, node, facts), seconds=60, what="another master")
        told = profile.finish(script, seconds=420)
        wait_until(lambda: not slurm.queued(), what="the queue's end")
        wrong = [one for one in told[:8] if one["exit_status"] != 0 or one.get("files")]
        assert not wrong, f"{wrong}\n{profile.daemon_log()[-3000:]}"
        assert [one["sum"] for one in told[:5]] == [1, 2, 3, 2, 3]
        # by the monitor, long before they would have ended
        assert [one["exit_status"] for one in told[8:]] == [STOPPED_BY_MONITOR] * 2, told[8:]
        # the cluster's own record
        submissions = Counter(slurm.submissions())
        wanted = {one["workdir"] for one, job in zip(told, jobs, strict=True) if job["computer"] == "slurm"}
        assert {place: count for place, count in submissions.items() if place in wanted} == dict.fromkeys(
            wanted, 1
        )
        assert len(submissions) == len(wanted) == 7
        assert node.authentications() == 3


def master_of(node: Sandbox) -> Facts | None:
    """What is known of a node's master."""
    return next((facts for facts in control_socket.known() if facts.ssh_config == str(node.ssh_config)), None)


def _lives_another(node: Sandbox, former: Facts) -> bool:
    facts = master_of(node)
    return facts is not None and facts.pid != former.pid


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared")
def test_person_logs_in_and_plays(profile: Profile, isolated: Path) -> None:
    """Only a person can log in: the calculation pauses and says so; after `ossh login` and `play` it ends."""
    with Sandbox(second_factor="passphrase") as node:
        *_, said = profile.verdis(
            *computers(node, isolated / "work", "direct-person"), ["computer", "test", "direct-person"]
        )
        assert "ossh login sandbox" in said
        jobs = [{"computer": "direct-person", "kind": "add", "x": 3, "y": 4}]
        script = profile.start_script("submit", jobs=jobs, seconds=300)
        # where people look first
        said = profile.script("until_paused", patience=200)
        assert "Pausing after failed transport task" in said
        assert "ossh login sandbox" in said
        assert "ossh login sandbox" in profile.daemon_log()
        assert node.authentications() == 0
        terminal = pexpect.spawn(str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=20)
        terminal.expect("passphrase")
        terminal.sendline(node.passphrase)
        terminal.expect(pexpect.EOF)
        terminal.close()
        profile.verdi("process", "play", "--all")
        (told,) = profile.finish(script, seconds=320)
        assert (told["state"], told["exit_status"], told["sum"]) == ("finished", 0, 7)
        assert node.authentications() == 1


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("shared")
def test_configure(quiet_profile: Profile) -> None:
    """`verdi` knows the plugin; what is wrong is refused; configured again, even false values stay."""
    setup, configure = computer("again", "core.direct", "/tmp", hostname="daint")
    plugins, *_, refused, first, again, (_, said) = quiet_profile.commands(
        ["verdi", "plugin", "list", "aiida.transports", "openssh"],
        ["verdi", *setup],
        ["verdi", *configure, "--authentication-script", "no/such"],
        ["verdi", *configure, "--no-use-login-shell", "--safe-interval", "0", "--persist", "3d"],
        ["verdi", *configure],
        ["verdi", "computer", "configure", "show", "again"],
    )
    assert "OpenSSH" in plugins[1]
    assert refused[0] == 2
    assert "no/such is not an absolute path" in refused[1]
    assert (first[0], again[0]) == (0, 0), (first, again)
    shown = dict(line.lstrip("* ").split(None, 1) for line in said.splitlines())
    assert shown["use_login_shell"] == "False"
    assert float(shown["safe_interval"]) == 0
    assert shown["persist"] == "3d"
    assert shown["host"] == "daint"
    assert shown["login_hook"] == "None"


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("shared")
def test_moving_over(quiet_profile: Profile, isolated: Path, own_node: Sandbox) -> None:
    """A computer of AiiDA's own transports goes over: by its exported configuration, and by one command."""
    profile = quiet_profile
    config = isolated / "ssh_config"
    config.write_text(Path(own_node.ssh_config).read_text())
    # not /tmp: `verdi computer test` puts a file of that directory there, and removes the first of both
    of = functools.partial(computer, scheduler="core.direct", workdir=isolated / "work")
    old, configure_old = of("old", transport="core.ssh_async")
    new, _ = of("new")
    older, configure_older = of("older", transport="core.ssh", hostname="elsewhere")
    configure_old += ["--backend", "openssh", "--no-use-sftp", "--max-io-allowed", "3"]
    configure_old += ["--data-node-host", "files", "--no-use-login-shell"]
    show_old, to_config = ["computer", "show", "old"], ["-F", str(config)]

    *_, said, shown, before = profile.verdis(
        *(old, configure_old, new, older),
        ["computer", "export", "config", "old", "old.yaml"],
        ["computer", "configure", "openssh", "new", "-n", "--config", "old.yaml"],
        ["computer", "configure", "show", "new"],
        show_old,
    )
    for name in ("backend = openssh", "data_node_host = files"):
        assert f"{name} is ignored" in said
    assert "backend" not in shown
    assert re.search(r"max_io_allowed +3\b", shown)
    assert re.search(r"use_login_shell +False", shown)

    # what core.ssh keeps in AiiDA, and ours reads from ssh_config
    configure_older += ["--username", "somebody", "--port", "2222", "--key-policy", "AutoAddPolicy"]
    configure_older += ["--proxy-jump", "me@front.example.org:2222"]
    dry, after, _, dry_older = profile.commands(
        ["ossh", "aiida", "migrate", "old", "--dry-run", *to_config],
        ["verdi", *show_old],
        ["verdi", *configure_older],
        ["ossh", "aiida", "migrate", "older", "--dry-run", *to_config],
    )
    assert dry[0] == dry_older[0] == 0
    assert "core.ssh_async -> openssh" in dry[1]
    assert after[1] == before
    assert "+    User somebody" in dry_older[1]
    assert config.read_text() == Path(own_node.ssh_config).read_text()

    # by itself, as a person runs it
    argv: list[str | Path] = [OSSH, "aiida", "migrate", "old", *to_config]
    done = subprocess.run(
        argv,
        env=profile.environment,
        cwd=profile.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "data_node_host" in done.stdout
    (_, shown), (_, tested), *others = profile.commands(
        ["verdi", *show_old],
        ["verdi", "computer", "test", "old"],
        ["ossh", "aiida", "migrate", "older", *to_config],
        ["ossh", "aiida", "migrate", "older", *to_config],
        ["ossh", "aiida", "migrate", "nobody", *to_config],
    )
    assert "openssh" in shown
    assert "succeeded" in tested
    assert [status for status, _ in others] == [0, 255, 255]
    assert "only core.ssh or core.ssh_async" in others[1][1]
    assert "nobody" in others[2][1]
    resolved = destination.resolve("elsewhere", config).resolved
    seen = (resolved.user, resolved.port, resolved.get("proxyjump"))
    assert seen == ("somebody", 2222, "me@front.example.org:2222")


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"persist": 3600}, {"persist": 3600}),
        ({"persist": 0}, {"persist": 0}),
        ({"persist": "3d", "min_validity": 60}, {"persist": "3d", "min_validity": 60}),
        ({"min_validity": 60.0}, {"min_validity": 60}),
        ({"login_hook": ["notify-send", "log in"]}, {"login_hook": "notify-send 'log in'"}),
        ({"authentication_script": Path("/bin/sh")}, {"authentication_script": "/bin/sh"}),
        ({"persist": "None", "login_hook": "", "min_validity": None}, {}),
    ],
)
def test_values_from_python(aiida: None, given: dict[str, object], known: dict[str, object]) -> None:
    """Values may be what Python has for them; the transport can be opened with them."""
    from opensshtransport.aiida.transport import OpenSshTransport

    transport = OpenSshTransport(machine="nowhere", ssh_config="None", **given)
    assert transport._settings == known
    assert transport._resolve().settings.persist == parse_duration(known.get("persist", "12h"), "")
    hash(transport._key)


@pytest.mark.parametrize("value", [0, -1, "0", 1.5, "many", True])
def test_no_operations_at_once(aiida: None, value: object) -> None:
    """`max_io_allowed` is a number above 0."""
    from opensshtransport.aiida.transport import OpenSshTransport

    with pytest.raises(ValueError, match="max_io_allowed"):
        OpenSshTransport(machine="nowhere", max_io_allowed=value)
