"""Commands over connections that break at random bytes: what is told is what happened; nothing runs twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from opensshtransport import Transport
from opensshtransport.commands.command import CommandRequest
from opensshtransport.commands.process import RemoteProcess
from opensshtransport.errors import ConnectionFailed, ConnectionLost
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh.destination import resolve
from opensshtransport.openssh.diagnosis import logged_status
from opensshtransport.sandbox import Sandbox
from opensshtransport.sessions.channel import Channel
from tests.conftest import Keep, MakeShellNode
from tests.support.nodes import config_through
from tests.support.programs import ossh, until, write_settings
from tests.support.relay import Fault, Relay
from tests.support.users import Startup

FAST = '[host."*"]\nserver_alive_interval = 1\nserver_alive_count_max = 2\ncheck_timeout = 2\n'
FAULTS: tuple[Fault, ...] = ("cut", "cut", "reset")
# A login and its questions take some 9,000 bytes, a command's channel some 9,000, what it says some hundreds.
LOGIN, COMMAND = 9_000, 9_000


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A new seed each time; SEED in the environment repeats one."""
    return int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))


def ran(file: Path) -> Counter[int]:
    """How often each command ran, by what it left on the server."""
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def quiet(file: Path) -> None:
    """Wait until no command is under way any more."""
    seen = (-1, time.monotonic())

    def settled() -> bool:
        nonlocal seen
        size = file.stat().st_size if file.exists() else 0
        if size != seen[0]:
            seen = (size, time.monotonic())
        return time.monotonic() - seen[1] > 1

    until(settled, "the commands to end")


def works(there: Transport) -> bool:
    """Whether a command comes through: the fault before may have come after its command's end."""
    try:
        return there.run("true", timeout=60).returncode == 0
    except ConnectionFailed:
        return False


def arm(relay: Relay, there: Transport, chance: random.Random) -> None:
    """Let the connection break at a random byte: at times in the login, mostly later."""
    relay.disarm()
    if chance.random() < 0.1:
        relay.cut_after(chance.randrange(LOGIN), chance.choice(FAULTS))
        return
    until(lambda: works(there), "a connection", timeout=60)
    relay.cut_after(chance.randrange(COMMAND), chance.choice(FAULTS))


@pytest.mark.timeout(300)
def test_cuts(own_node: Sandbox, keep: Keep, tmp_path: Path, seed: int) -> None:
    """40 commands over connections that are cut at random: each outcome agrees with what the server saw."""
    print(f"SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    chance = random.Random(seed)
    write_settings(FAST)
    relay = keep(Relay(own_node.port))
    there = keep(Transport(own_node.host, ssh_config=config_through(own_node, relay)))
    file = tmp_path / "ran"
    outcomes: dict[int, object] = {}
    for number in range(40):
        arm(relay, there, chance)
        try:
            done = there.run(f"echo {number} >> {file}; echo out {number}", timeout=60)
        except ConnectionFailed as error:
            outcomes[number] = error.started
        else:
            assert (done.returncode, done.stdout) == (0, b"out %d\n" % number)
            outcomes[number] = "ok"
    relay.disarm()
    quiet(file)
    counts = ran(file)
    allowed: dict[object, set[int]] = {"ok": {1}, True: {0, 1}, None: {0, 1}, False: {0}}
    wrong = {
        number: (outcome, counts[number])
        for number, outcome in outcomes.items()
        if counts[number] not in allowed[outcome]
    }
    assert not wrong, f"SEED={seed}: outcome, runs = {wrong}"
    tally = Counter(map(str, outcomes.values()))
    print(tally, relay.faults)  # noqa: T201
    # that the test hits: many cuts, many commands that were right all the same, and all kinds of them
    assert relay.faults > 15
    assert tally["ok"] > 5
    assert tally["True"] + tally["None"] > 0
    assert there.run("echo x").stdout == b"x\n"


@pytest.mark.timeout(300)
def test_cuts_with_once(own_node: Sandbox, keep: Keep, tmp_path: Path, seed: int) -> None:
    """30 commands with a key, asked for again until there is an answer: each ran exactly one time."""
    print(f"SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    chance = random.Random(seed)
    write_settings(FAST)
    relay = keep(Relay(own_node.port))
    there = keep(Transport(own_node.host, ssh_config=config_through(own_node, relay)))
    file = tmp_path / "ran"
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    for number in range(30):
        deadline = time.monotonic() + 60
        while True:
            # not forever: else no answer could come
            if chance.random() < 0.7:
                arm(relay, there, chance)
            else:
                relay.disarm()
            try:
                done = there.run(
                    f"echo {number} >> {file}; echo out {number}; exit 3", once=f"n{number}", env=env
                )
            except ConnectionFailed:
                assert time.monotonic() < deadline, f"SEED={seed}: no answer for {number}"
            else:
                assert (done.returncode, done.stdout) == (3, b"out %d\n" % number)
                break
    relay.disarm()
    quiet(file)
    assert ran(file) == Counter(range(30)), f"SEED={seed}"
    # that the test hits
    assert relay.faults > 2


def test_a_status_outlives_its_output(make_shell_node: MakeShellNode, isolated: Path) -> None:
    """A master that dies may have told the status and not what was printed: then nothing is denied."""
    # more than the pipe to us holds, so the master keeps the rest
    node, user = make_shell_node("bash", Startup(lines="head -c 300000 /dev/zero\n"))
    ossh("login", "-F", node.ssh_config, node.host)
    master = Master(resolve(node.host, node.ssh_config))
    facts = master.facts()
    assert facts is not None
    slots = Slots(master)
    request = CommandRequest(command="echo x >> ran")
    channel = Channel(master, facts, slots, slots.wait(None), request.script(facts.shell))
    until((user.home / "ran").exists, "the command to run")
    # who comes later on the same connection is answered later
    argv = ["ssh", "-F", "none", "-S", facts.socket, "-oProxyCommand=false", "--", "master", "true"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    os.kill(facts.pid, signal.SIGKILL)
    process = RemoteProcess(master, channel, request, facts.shell, out=print, err=print)
    with pytest.raises(ConnectionLost) as failed:
        process.wait(20)
    assert failed.value.started is None
    # the error has it without the last newline
    assert logged_status(f"{failed.value.stderr}\n") is not None
    assert (user.home / "ran").read_text() == "x\n"
