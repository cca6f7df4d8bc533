"""The budget of failed logins: what counts, how long the pauses are, and who ends them.

`let_time_pass` makes a pause end at once: it rewrites `until`, the time in the state file before which nobody
but a person logs in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport.login.budget import pause_after
from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeConversationNode, require
from tests.support.nodes import PenalisingNode, config_through, missing_programs, penalising_sshd
from tests.support.pam_nodes import ConversationNode, asks, rule, stored
from tests.support.programs import OSSH, OSSH_RUN, ossh, ossh_run, runtime, until, write_settings
from tests.support.relay import Relay

WRONG = "wrong-horse-2186"
RIGHT = "right-horse-5340"


@pytest.fixture
def asking(make_conversation_node: MakeConversationNode) -> ConversationNode:
    """A node that wants the right password."""
    return make_conversation_node(asks(("Password: ", RIGHT)))


def set_password(directory: Path, password: str, *lines: str) -> None:
    """Store a password, and name it in the settings."""
    write_settings("\n".join(['[host."*"]', f"password = {stored(directory, 'password', password)}", *lines]))


def state_files() -> Iterator[Path]:
    """The files with what was counted."""
    return (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "failures").glob("*")


def counted() -> dict[str, object]:
    """What was counted for the only destination."""
    (file,) = state_files()
    found: dict[str, object] = json.loads(file.read_text())
    return found


def let_time_pass() -> None:
    """Let the pauses be over."""
    for file in state_files():
        file.write_text(json.dumps({**json.loads(file.read_text()), "until": 0}))


def run(node: Sandbox, config: Path | None = None) -> str:
    """A command that fails since there is no login; what it says, which is one line."""
    done = ossh_run("-F", config or node.ssh_config, node.host, "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    (line,) = done.stderr.decode().splitlines()
    return line


def log_in_by_hand(node: Sandbox, password: str, *, wait: bool = False) -> int:
    """A person types the password, if wanted after a look that no rule does; the status of `ossh login`.

    Asked again, the person gives up by Ctrl-C: -2.
    """
    child: pexpect.spawn[str] = pexpect.spawn(
        str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=30, encoding="utf-8"
    )
    child.expect("Password: ")
    # an answer by a rule would end the line
    assert not wait or child.expect([pexpect.TIMEOUT, "\r\n"], timeout=1) == 0
    child.sendline(password)
    if child.expect([pexpect.EOF, "Password: "]) == 1:
        child.sendintr()
        child.expect(pexpect.EOF)
    child.close()
    return -int(child.signalstatus or 0) if child.exitstatus is None else child.exitstatus


COOLING_DOWN = (
    r"no unattended login for \d+ s \(ossh help locked-out\); "
    r"run(?:: ossh login -F \S+ asks| it at a terminal)$"
)


def test_pauses() -> None:
    """No pause before the first failure; then 30 s, doubled each time, an hour at most."""
    pauses = [pause_after(failures) for failures in range(11)]
    assert pauses == [0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert pause_after(100_000) == 3600


def test_one_attempt_then_a_pause(asking: ConversationNode, isolated: Path) -> None:
    """A wrong stored password is sent once; other processes then fail at once, and say why and what to do."""
    set_password(isolated, WRONG)
    first = run(asking)
    assert "Permission denied (keyboard-interactive)" in first
    assert asking.answers() == [WRONG]
    begin = time.monotonic()
    for line in (run(asking), ossh("login", "-F", asking.ssh_config, asking.host).stderr.decode()):
        assert re.search(COOLING_DOWN, line)
        assert "Permission denied (keyboard-interactive)" in line
    assert time.monotonic() - begin < 15
    assert (asking.answers(), asking.connections()) == ([WRONG], 1)


def test_eight_starters_make_one_attempt(asking: ConversationNode, isolated: Path) -> None:
    """Those that waited for the one that failed get its error; they do not try one after the other."""
    set_password(isolated, WRONG)
    argv: list[str | Path] = [OSSH_RUN, "-F", asking.ssh_config, asking.host, "echo x"]
    starters = [
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(8)
    ]
    said = [starter.communicate(timeout=60)[1].decode() for starter in starters]
    assert [starter.returncode for starter in starters] == [255] * 8
    assert all("Permission denied (keyboard-interactive)" in line for line in said)
    assert sum(re.search(COOLING_DOWN, line) is not None for line in said) == 7
    assert (asking.answers(), asking.connections()) == ([WRONG], 1)


def test_three_failures_in_a_row(asking: ConversationNode, isolated: Path) -> None:
    """Each failure doubles the pause; after the third no time helps, only a person."""
    set_password(isolated, WRONG)
    for number, pause in enumerate((30, 60, 120), start=1):
        begin = time.time()
        run(asking)
        assert counted()["failures"] == number
        end = counted()["until"]
        assert isinstance(end, float)
        assert begin + pause <= end <= time.time() + pause
        assert re.search(COOLING_DOWN if number < 3 else "3 logins in a row have failed", run(asking))
        let_time_pass()
    set_password(isolated, RIGHT)
    assert "3 logins in a row have failed, the last: " in run(asking)
    assert asking.answers() == [WRONG] * 3
    assert log_in_by_hand(asking, RIGHT) == 0
    ossh("logout", "-F", asking.ssh_config, asking.host)
    done = ossh_run("-F", asking.ssh_config, asking.host, "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert asking.answers() == [WRONG] * 3 + [RIGHT] * 2


def test_a_person_is_asked_after_a_failure(asking: ConversationNode, isolated: Path) -> None:
    """What was refused is not sent again for a person; their failures count, their success clears."""
    set_password(isolated, WRONG)
    run(asking)
    assert log_in_by_hand(asking, "mistyped", wait=True) == -signal.SIGINT
    assert counted()["failures"] == 2
    assert log_in_by_hand(asking, RIGHT) == 0
    assert not list(state_files())
    assert asking.answers() == [WRONG, "mistyped", RIGHT]


def test_a_success_clears(asking: ConversationNode, isolated: Path) -> None:
    """After the pause a corrected password is tried, and a failure later begins with the shortest pause."""
    set_password(isolated, WRONG)
    run(asking)
    let_time_pass()
    set_password(isolated, RIGHT)
    assert ossh("login", "-F", asking.ssh_config, asking.host).returncode == 0
    ossh("logout", "-F", asking.ssh_config, asking.host)
    set_password(isolated, WRONG)
    run(asking)
    assert counted()["failures"] == 1
    assert asking.answers() == [WRONG, RIGHT, WRONG]


def test_names_of_one_place_share_the_budget(asking: ConversationNode, isolated: Path) -> None:
    """Another alias for the same server is no way around the pause."""
    set_password(isolated, WRONG)
    config = isolated / "ssh_config"
    config.write_text(asking.ssh_config.read_text().replace("Host asks", "Host asks again"))
    run(asking)
    done = ossh("login", "-F", config, "again")
    assert b"no unattended login" in done.stderr
    assert asking.answers() == [WRONG]


def test_killed_in_the_midst(make_conversation_node: MakeConversationNode, isolated: Path) -> None:
    """A login process that is killed after it has sent the password counts as failed: perhaps it has."""
    node = make_conversation_node(f"echo_off Password: \nwait 3\nexpect {RIGHT}\nallow\n")
    set_password(isolated, WRONG)
    process = subprocess.Popen(
        [OSSH, "login", "-F", node.ssh_config, node.host], stdin=subprocess.DEVNULL, start_new_session=True
    )
    until(lambda: node.answers() == [WRONG], "the password to be sent")
    process.kill()
    process.wait()
    assert re.search(COOLING_DOWN, run(node))
    assert node.answers() == [WRONG]


def test_after_a_reboot(asking: ConversationNode, isolated: Path) -> None:
    """What was counted outlives the runtime directory, which a reboot empties."""
    set_password(isolated, WRONG)
    run(asking)
    shutil.rmtree(runtime())
    assert re.search(COOLING_DOWN, run(asking))
    assert asking.answers() == [WRONG]


SPOILT = (
    b"",
    b'{"failures": 1, "until',
    b"null",
    b"[]",
    b"\xff\xfe\x00",
    b'{"failures": 0, "unknown": 1}',
    b'{"failures": "none"}',
    b'{"failures": 1, "until": "tomorrow"}',
    b'{"failures": 1, "until": NaN}',
)


def test_spoilt_file(asking: ConversationNode, isolated: Path) -> None:
    """A state file that says nothing clear forbids logins without a person, who makes it good again."""
    set_password(isolated, WRONG)
    run(asking)
    (file,) = state_files()
    set_password(isolated, RIGHT)
    for content in SPOILT:
        file.write_bytes(content)
        line = run(asking)
        assert "logins in a row have failed" in line, content
        assert str(file) in line
    assert asking.connections() == 1
    assert log_in_by_hand(asking, RIGHT) == 0
    assert not list(state_files())


def another_time(directory: Path, seconds: float) -> dict[str, str]:
    """The environment of a program whose clock is ahead by so many seconds."""
    place = directory / f"clock{seconds:+.0f}"
    place.mkdir()
    text = f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
    (place / "sitecustomize.py").write_text(text)
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def test_clock_set_back(asking: ConversationNode, isolated: Path) -> None:
    """A failure noted by a clock that was a day ahead does not forbid logins for a day, only for a pause."""
    set_password(isolated, WRONG)
    argv: list[str | Path] = ["login", "-F", asking.ssh_config, asking.host]
    ossh(*argv, env=another_time(isolated, 86_400))
    assert asking.answers() == [WRONG]
    done = ossh(*argv, env=another_time(isolated, 10))
    found = re.search(rb"for (\d+) s", done.stderr)
    assert found is None or int(found[1]) <= 30
    ossh(*argv, env=another_time(isolated, 60))
    assert asking.answers() == [WRONG] * 2


def test_clock_goes_on(asking: ConversationNode, isolated: Path) -> None:
    """The pause ends by itself, and not before its time."""
    set_password(isolated, WRONG)
    run(asking)
    argv: list[str | Path] = ["login", "-F", asking.ssh_config, asking.host]
    ossh(*argv, env=another_time(isolated, 15))
    assert asking.answers() == [WRONG]
    ossh(*argv, env=another_time(isolated, 31))
    assert asking.answers() == [WRONG] * 2


def test_a_line_that_breaks_after_the_answer(
    make_conversation_node: MakeConversationNode, isolated: Path
) -> None:
    """Where the connection ends after an answer, nobody knows whether that was refused: it counts."""
    node = make_conversation_node(f"echo_off Password: \nwait 30\nexpect {RIGHT}\nallow\n")
    set_password(isolated, WRONG)
    with Relay(node.port) as relay:
        config = config_through(node, relay)
        process = subprocess.Popen(
            [OSSH, "login", "-F", config, node.host],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        until(lambda: node.answers() == [WRONG], "the password to be sent")
        relay.cut()
        _, said = process.communicate(timeout=30)
        assert b"ended the connection" in said
        assert re.search(COOLING_DOWN, run(node, config))
    assert node.answers() == [WRONG]


# -- what does not count -------------------------------------------------------------------------------


def test_unreachable_does_not_count(asking: ConversationNode, isolated: Path) -> None:
    """Nobody can be locked out by a server that is not there: no pause, and no hook, when it comes back."""
    set_password(isolated, RIGHT, f'login_hook = "touch {isolated}/called"')
    with Relay(asking.port) as relay:
        config = config_through(asking, relay)
        relay.refuse()
        for _ in range(2):
            assert "the server refused the connection" in run(asking, config)
        relay.listen_again()
        assert ossh("login", "-F", config, asking.host).returncode == 0
    assert not (isolated / "called").exists()


@pytest.mark.parametrize("rules", [False, True], ids=["no-rules", "rules"])
def test_unknown_host_key_does_not_count(asking: ConversationNode, isolated: Path, *, rules: bool) -> None:
    """A host key that nobody has accepted says so each time; once it is known no pause is waited for."""
    if rules:
        set_password(isolated, RIGHT)
    config, known = isolated / "ssh_config", isolated / "known"
    text = asking.ssh_config.read_text().replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask")
    before = re.search(r"UserKnownHostsFile (.*)", text)
    assert before is not None
    config.write_text(text.replace(before[1], str(known)))
    for _ in range(2):
        assert re.search("host key is not known yet|continue connecting", run(asking, config))
    known.write_text(Path(before[1]).read_text())
    set_password(isolated, RIGHT)
    done = ossh("login", "-F", config, asking.host)
    assert done.returncode == 0, done.stderr
    assert asking.answers() == [RIGHT]


def test_missing_secret_does_not_count(asking: ConversationNode, isolated: Path) -> None:
    """A secret that is not available is no failed login: nothing was sent."""
    set_password(isolated, RIGHT)
    (isolated / "password").unlink()
    for _ in range(2):
        assert "the command 'cat' failed with status 1" in run(asking)
    set_password(isolated, RIGHT)
    assert ossh("login", "-F", asking.ssh_config, asking.host).returncode == 0
    assert asking.answers() == [RIGHT]


# -- the hook ------------------------------------------------------------------------------------------


def test_hook_runs_once_per_change(asking: ConversationNode, isolated: Path) -> None:
    """The hook hears of the first failure, with host and reason; again only after a login that worked."""
    told = isolated / "told"
    hook = f"""login_hook = 'printf "%s: %s\\n" "$OSSH_HOST" "$OSSH_REASON" >>{told}; exit 3'"""
    set_password(isolated, WRONG, hook)
    line = run(asking)
    for _ in range(2):
        run(asking)
    let_time_pass()
    run(asking)
    until(lambda: told.exists() and told.read_text().endswith("\n"), "the hook to run")
    (first,) = told.read_text().splitlines()
    assert first.startswith("asks: ")
    assert "Permission denied (keyboard-interactive)" in first
    assert first.partition(": ")[2] in line
    assert log_in_by_hand(asking, RIGHT) == 0
    ossh("logout", "-F", asking.ssh_config, asking.host)
    run(asking)
    run(asking)
    until(lambda: told.read_text().splitlines() == [first, first], "the hook to run again")


def test_hook_of_eight_starters(asking: ConversationNode, isolated: Path) -> None:
    """Eight that fail at once call the person once, and none of them waits for that."""
    told, waiting = isolated / "told", isolated / "waiting"
    os.mkfifo(waiting)
    set_password(isolated, WRONG, f"login_hook = 'cat {waiting} >>{told}'")
    argv: list[str | Path] = [OSSH_RUN, "-F", asking.ssh_config, asking.host, "echo x"]
    starters = [
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for _ in range(8)
    ]
    assert [starter.wait(60) for starter in starters] == [255] * 8
    waiting.write_text("x\n")
    until(lambda: told.read_text() == "x\n", "the hook to end")


def test_hook_for_an_unexpected_prompt(asking: ConversationNode, isolated: Path) -> None:
    """What only a person can answer is a reason to call one; at a terminal nobody is called."""
    told = isolated / "told"
    text = rule("no such prompt", "{ text = 'x' }")
    write_settings(f"[host.asks]\nlogin_hook = 'echo \"$OSSH_REASON\" >>{told}'\n{text}")
    assert log_in_by_hand(asking, WRONG) == -signal.SIGINT
    assert not told.exists()
    for file in state_files():
        file.unlink()
    run(asking)
    until(lambda: told.exists() and told.read_text().endswith("\n"), "the hook to run")
    assert told.read_text() == "no rule answers the prompt 'Password:'\n"


@pytest.fixture
def penal() -> Iterator[PenalisingNode]:
    """A node that refuses this address for a minute after one failed login, and the key that it takes."""
    if penalising_sshd() is None:
        pytest.skip("no sshd of 9.8 or later is here; get one by: scripts/openssh trixie")
    require(missing_programs("ssh-keygen"))
    # the failure of one login by key counts as long as that
    made = PenalisingNode("authfail:60s noauth:0s min:1s max:60s")
    with made:
        yield made


@pytest.mark.client
def test_server_refuses_our_address(penal: PenalisingNode, isolated: Path) -> None:
    """After failed logins a server lets our address wait: that is told, waited for, and made no longer."""
    config, wrong = penal.ssh_config, isolated / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    other = isolated / "ssh_config"
    other.write_text(config.read_text().replace(f"{penal.directory}/id_ed25519", str(wrong)))
    assert b"none of the keys" in ossh("login", "-F", other, "penal").stderr

    let_time_pass()
    refused = ossh("login", "-F", config, "penal")
    assert refused.returncode == 255
    assert (
        b"refuses this address for a while, probably after failed logins (ossh help locked-out);"
        b" wait (with sshd's defaults," in refused.stderr
    )
    noted = counted()
    assert (noted["failures"], noted["refused"]) == (1, True), "it counts as no failure of ours"
    done = ossh("doctor", "-F", config, "penal")
    assert b"refuses this address for a while" in done.stdout
    assert b"correct HostName" not in done.stdout

    # without a person nobody connects until the pause is over
    dropped = penal.log.read_text().count("drop connection")
    waiting = ossh("login", "-F", config, "penal")
    assert re.search(
        rb"refuses this address .*; no unattended login for \d+ s \(ossh help locked-out\); wait",
        waiting.stderr,
    )
    assert penal.log.read_text().count("drop connection") == dropped

    # a server that is started anew has forgotten
    penal.restart()
    let_time_pass()
    assert ossh("login", "-F", config, "penal").returncode == 0
    assert not list(state_files())
