"""Logging in: with and without a person, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from opensshtransport import Transport
from opensshtransport.openssh.command_lines import guard
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeChain
from tests.support.jumps import Style
from tests.support.nodes import config_through
from tests.support.programs import OSSH, ossh, ossh_run, runtime, status, until, write_settings
from tests.support.relay import Relay


@pytest.fixture
def passphrase_node() -> Iterator[Sandbox]:
    """A node whose key is encrypted."""
    with Sandbox(second_factor="passphrase") as made:
        yield made


def terminal(arguments: list[str]) -> pexpect.spawn[str]:
    """`ossh` at a pseudo-terminal."""
    return pexpect.spawn(str(OSSH), arguments, timeout=20, encoding="utf-8")


def audit_log() -> list[str]:
    """The lines of the audit log."""
    return (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "audit.log").read_text().splitlines()


@pytest.mark.client
def test_key_login_without_a_person(own_node: Sandbox) -> None:
    """A key alone suffices: a master is running, its facts are known, the login is in the audit log."""
    done = ossh("login", "-F", own_node.ssh_config, own_node.host)
    assert done.returncode == 0
    assert done.stderr.startswith(f"sandbox: logged in as {own_node.user}@127.0.0.1:{own_node.port}".encode())
    (row,) = status(own_node.ssh_config, own_node.host)
    assert row["state"] == "live"
    assert row["login_node"] == os.uname().nodename
    assert Path(f"/proc/{row['pid']}").exists()
    (line,) = audit_log()
    assert line.endswith(" logged in")
    assert f" sandbox {own_node.user}@127.0.0.1:{own_node.port} " in line
    assert ossh("login", "-F", own_node.ssh_config, own_node.host).returncode == 0
    assert own_node.authentications() == 1


def test_passphrase_without_a_person(passphrase_node: Sandbox) -> None:
    """An encrypted key and nobody there: it fails at once, says that a login is needed, and asks nothing."""
    begin = time.monotonic()
    for done in (
        ossh("login", "-F", passphrase_node.ssh_config, passphrase_node.host),
        ossh_run("-F", passphrase_node.ssh_config, passphrase_node.host, "echo x"),
    ):
        assert done.returncode == 255
        assert done.stdout == b""
        assert b"a person must log in: the key " in done.stderr
        assert done.stderr.decode().endswith(f": ossh login -F {passphrase_node.ssh_config} sandbox\n")
    assert time.monotonic() - begin < 20
    assert passphrase_node.authentications() == 0
    assert "failed: LoginNeeded" in audit_log()[0]


@pytest.mark.client
def test_passphrase_typed_at_the_terminal(passphrase_node: Sandbox) -> None:
    """A person types the passphrase, which is not shown; then `ossh-run` needs nobody."""
    child = terminal(["login", "-F", str(passphrase_node.ssh_config), passphrase_node.host])
    child.expect("Enter passphrase for key")
    child.expect(": ")
    child.sendline(passphrase_node.passphrase)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert passphrase_node.passphrase not in (child.before or "")
    done = ossh_run("-F", passphrase_node.ssh_config, passphrase_node.host, "echo x")
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert passphrase_node.authentications() == 1


def test_interrupt_at_the_prompt(passphrase_node: Sandbox) -> None:
    """Ctrl-C at the prompt gives up, as by the signal: no ssh stays, and the lock is free for the next."""
    arguments = ["login", "-F", str(passphrase_node.ssh_config), passphrase_node.host]
    child = terminal(arguments)
    child.expect("Enter passphrase")
    child.expect(": ")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT
    assert str(child.before).strip() == ""
    assert audit_log()[0].endswith("failed: ConnectionFailed: the login was interrupted")
    child = terminal(arguments)
    child.expect(": ")
    child.sendline(passphrase_node.passphrase)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_killed_at_the_prompt(passphrase_node: Sandbox) -> None:
    """A login process that is killed at the prompt leaves no ssh and no lock."""
    child = terminal(["login", "-F", str(passphrase_node.ssh_config), passphrase_node.host])
    child.expect("Enter passphrase")
    assert processes_of(passphrase_node)
    child.kill(9)
    child.wait()
    until(lambda: not processes_of(passphrase_node), "ssh to end")
    done = ossh("login", "-F", passphrase_node.ssh_config, passphrase_node.host)
    assert b"a person must log in" in done.stderr


def processes_of(node: Sandbox) -> list[str]:
    """The command lines of the ssh clients of a node."""
    done = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(node.ssh_config) in line and "ssh " in line]


def test_unattended_asks_nobody(passphrase_node: Sandbox) -> None:
    """--unattended at a terminal fails as without one."""
    shown, returncode = at_a_terminal(
        f"{OSSH} login --unattended -F {passphrase_node.ssh_config} {passphrase_node.host}"
    )
    assert returncode == 255
    assert "Enter passphrase" not in shown
    assert "a person must log in" in shown


def at_a_terminal(command: str) -> tuple[str, int]:
    """Run a command at a pseudo-terminal; what it showed and its status."""
    child = pexpect.spawn(command, timeout=30, encoding="utf-8")
    shown = child.read()
    child.close()
    return shown, child.exitstatus if child.exitstatus is not None else -1


def test_in_the_background_of_a_terminal_nobody_is_asked(passphrase_node: Sandbox) -> None:
    """A background job of a terminal is not stopped by the terminal: it fails instead of asking."""
    shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], timeout=30, encoding="utf-8")
    shell.sendline(
        f"{OSSH} login -F {passphrase_node.ssh_config} {passphrase_node.host} & wait $!; echo status=$?"
    )
    shell.expect("status=255")
    assert "a person must log in" in (shell.before or "")
    shell.close(force=True)


def test_fifty_masters_survive_their_terminal(own_node: Sandbox) -> None:
    """Fifty logins, whose terminals close at once, leave fifty live masters; each is logged out again.

    Ten in a row by each of five ways to the node at once, so that the machine is busy too.
    """

    def ten_logins(config: Path) -> list[str]:
        return [login_and_out(config, own_node.host) for _ in range(10)]

    with contextlib.ExitStack() as relays, ThreadPoolExecutor(5) as pool:
        configs = [config_through(own_node, relays.enter_context(Relay(own_node.port))) for _ in range(5)]
        outcomes = [outcome for lane in pool.map(ten_logins, configs) for outcome in lane]
    assert outcomes == ["live, logged out"] * 50
    assert own_node.authentications() == own_node.connections() == 50
    assert not [path for path in runtime().iterdir() if path.is_socket()]


def login_and_out(config: Path, host: str) -> str:
    """Log in at a terminal, and out when it is gone; what became of the master in between."""
    shown, code = at_a_terminal(f"{OSSH} login -q -F {config} {host}")
    if code != 0:
        return shown
    socket = next(
        Path(facts["socket"])
        for facts in (json.loads(file.read_text()) for file in runtime().glob("*.json"))
        if facts["ssh_config"] == str(config)
    )
    argv: list[str | Path] = ["ssh", "-F", "none", "-S", socket, *guard()]
    done = subprocess.run([*argv, host, "echo x"], capture_output=True, check=False, timeout=30)
    if (done.returncode, done.stdout) != (0, b"x\n"):
        return f"dead: {done.stderr.decode()}"
    ended = subprocess.run([*argv, "-O", "exit", host], capture_output=True, check=False, timeout=30)
    until(lambda: not socket.exists(), "the master to end")
    return "live, logged out" if ended.returncode == 0 else ended.stderr.decode()


@pytest.mark.parametrize("style", ["ProxyJump", "ProxyCommand"])
@pytest.mark.client
def test_what_a_jump_host_said(make_chain: MakeChain, style: Style) -> None:
    """ssh hides why a jump host lets nobody in; the error names the command that shows it."""
    chain = make_chain("key", "key", "key")
    (chain.nodes[1].directory / "authorized_keys").write_text("")
    config = chain.config(style)
    done = ossh("login", "-F", config, "target")
    assert done.returncode == 255
    _, _, command = (
        done.stderr.decode().strip().partition("ssh hides what the jump host said; to see it, run: ")
    )
    assert command == f"ssh -F {config} -S none target true"
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Permission denied (publickey)" in said.stderr


@pytest.mark.client
def test_unknown_host_key(own_node: Sandbox, isolated: Path) -> None:
    """A host key that nobody has accepted: unattended it fails; only a person is asked."""
    config = isolated / "ssh_config"
    text = own_node.ssh_config.read_text().replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask")
    (isolated / "known").touch()
    lines = [line for line in text.splitlines() if "UserKnownHostsFile" not in line]
    config.write_text("\n".join([*lines, f"UserKnownHostsFile {isolated}/known"]) + "\n")
    done = ossh("login", "-F", config, own_node.host)
    assert done.returncode == 255
    assert b"the host key is not known yet" in done.stderr
    assert own_node.authentications() == 0
    child = terminal(["login", "-F", str(config), own_node.host])
    # with a colon from 10.3 on
    child.expect("fingerprint is:? SHA256:")
    child.expect(r"\(yes/no")
    child.sendline("yes")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.client
def test_changed_host_key(own_node: Sandbox, isolated: Path) -> None:
    """A host key that differs from the known one is an error, also for a person."""
    with Sandbox(host="other") as other:
        config = isolated / "ssh_config"
        text = own_node.ssh_config.read_text()
        known = next(line.split()[1] for line in text.splitlines() if "UserKnownHostsFile" in line)
        key = Path(other.directory).glob("*host*key*.pub")
        fields = next(key).read_text().split()[:2]
        (isolated / "known").write_text(f"{own_node.host} {' '.join(fields)}\n")
        config.write_text(text.replace(known, str(isolated / "known")))
        done = ossh("login", "-F", config, own_node.host)
        assert done.returncode == 255
        assert b"the host key is not the one that is known" in done.stderr


def test_library_calls_log_in_by_a_process_of_their_own(own_node: Sandbox) -> None:
    """`master.ensure` in a program with threads starts a login process, and forks nothing itself."""
    program = (
        "import sys, threading, warnings\n"
        "warnings.simplefilter('error')\n"
        "threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()\n"
        "from opensshtransport.master.ensure import ensure\n"
        "from opensshtransport.openssh.destination import resolve\n"
        "facts = ensure(resolve('sandbox', sys.argv[1]))\n"
        "assert 'sh' not in sys.modules and 'pexpect' not in sys.modules\n"
        "print(facts.address)\n"
    )
    done = subprocess.run(
        [OSSH.with_name("python"), "-c", program, own_node.ssh_config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{own_node.user}@127.0.0.1:{own_node.port}\n"


def test_errors_reach_the_caller_whole(own_node: Sandbox) -> None:
    """The login process's report revives as the same error, with ssh's words."""
    with Relay(own_node.port) as relay:
        config = config_through(own_node, relay)
        relay.refuse()
        done = ossh("login", "--report", "-F", config, own_node.host)
    report = json.loads(done.stdout)
    assert (report["error"], report["host"], report["returncode"]) == ("Unreachable", "sandbox", 255)
    assert "Connection refused" in report["stderr"]
    assert report["argv"][0].endswith("/ssh")


def test_status(own_node: Sandbox) -> None:
    """`ossh status` distinguishes live, unreachable and none, counts sessions, and has a table for people."""
    config, host = own_node.ssh_config, own_node.host
    assert status(config) == []
    (row,) = status(config, host)
    assert (row["state"], row["pid"], row["since"]) == ("none", None, None)
    with Relay(own_node.port) as relay:
        config = config_through(own_node, relay)
        ossh("login", "-F", config, host)
        with subprocess.Popen(
            [OSSH.with_name("ossh-run"), "-F", config, host, "echo up; read x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            (row,) = status(config)
            assert row.keys() == {
                "host",
                "state",
                "address",
                "pid",
                "login_node",
                "since",
                "sessions",
                "certificate_expires",
                "ticket_expires",
            }
            assert (row["host"], row["state"], row["sessions"]) == (host, "live", 1)
            child.communicate(b"\n", timeout=20)
        until(lambda: status(config)[0]["sessions"] == 0, "the session to be counted no more")
        table = ossh("status", "-F", config).stdout.decode().splitlines()
        assert table[0].split()[:2] == ["HOST", "STATE"]
        assert table[1].split()[:2] == [host, "live"]

        write_settings('[host."*"]\ncheck_timeout = 1\n')
        relay.silence()
        assert status(config)[0]["state"] == "unreachable"


def test_forwardings_of_ssh_config(own_node: Sandbox) -> None:
    """A master makes forwardings of ssh_config only where asked, and a port that is taken ends no login."""
    config, host = own_node.ssh_config, own_node.host
    with socket.socket() as taken, socket.socket() as free:
        for each in (taken, free):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        port = free.getsockname()[1]
        forwards = [f"LocalForward 127.0.0.1:{one.getsockname()[1]} 127.0.0.1:1" for one in (taken, free)]
        config.write_text("\n".join(["ExitOnForwardFailure yes", *forwards, config.read_text()]))
    with socket.create_server(("127.0.0.1", int(forwards[0].split()[1].rpartition(":")[2]))):
        for asked in (False, True):
            if asked:
                write_settings('[host."*"]\nforwards = true\n')
            done = ossh("login", "-F", config, host)
            assert done.returncode == 0, done.stderr
            with socket.socket() as client:
                assert (client.connect_ex(("127.0.0.1", port)) == 0) == asked
            assert ossh("logout", "-F", config, host).returncode == 0
    assert own_node.authentications() == 2


def test_several_hosts(own_node: Sandbox, keep: Keep, isolated: Path) -> None:
    """login and logout take several hosts; a failure is reported and does not stop the others."""
    second = keep(Sandbox("second"))
    both = isolated / "both"
    both.write_text(f"{own_node.ssh_config.read_text()}\n{second.ssh_config.read_text()}\nHost no\nPort 1\n")
    done = ossh("login", "-F", both, own_node.host, "no@127.0.0.1", "second")
    assert done.returncode == 255
    lines = done.stderr.decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["sandbox", "ossh login", "second"]
    assert [row["state"] for row in status(both)] == ["live", "live"]
    done = ossh("logout", "-F", both, "second", own_node.host)
    assert (done.returncode, done.stderr) == (0, b"second: logged out\nsandbox: logged out\n")
    ossh("login", "-F", both, own_node.host, "second")
    done = ossh("logout", "--all")
    assert (done.returncode, done.stderr) == (0, b"sandbox: logged out\nsecond: logged out\n")
    assert ossh("logout", "--all").stderr == b"no masters were running\n"
    for wrong in (["logout"], ["logout", "--all", "second"]):
        assert ossh(*wrong).returncode == 255


def test_what_is_too_much() -> None:
    """A word too many is no option."""
    for words, told in (
        (["doctor", "daint", "key"], b"ossh doctor: unexpected argument 'key', see ossh doctor --help\n"),
        (
            ["logout", "--al1"],
            b"ossh logout: there is no option --al1, only -h|--help -F --all, see ossh logout --help\n",
        ),
    ):
        done = ossh(*words)
        assert (done.returncode, done.stderr) == (255, told)


def test_ssh_command(own_node: Sandbox, tmp_path: Path) -> None:
    """The printed command line serves rsync and a plain shell over the master, and never logs in."""
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    line = ossh("ssh-command", "-F", config, host).stdout.decode()
    assert line.count("\n") == 1
    assert line.rstrip().endswith(f" {host}")
    done = subprocess.run(["sh", "-c", f"{line.strip()} echo x"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"x\n")
    if shutil.which("rsync"):
        (tmp_path / "file").write_text("content")
        words = ossh("ssh-command", "--no-host", "-F", config, host).stdout.decode().strip()
        subprocess.run(["rsync", "-a", "-e", words, tmp_path / "file", f"{host}:{tmp_path}/copy"], check=True)
        assert (tmp_path / "copy").read_text() == "content"
    ossh("logout", "-F", config, host)
    before = own_node.connections()
    done = subprocess.run(["sh", "-c", f"{line.strip()} echo x"], capture_output=True, check=False)
    assert done.returncode == 255
    assert own_node.connections() == before


def test_logout_twice(own_node: Sandbox) -> None:
    """Logging out ends the master; a second time says that there was none."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    assert ossh("logout", "-F", own_node.ssh_config, own_node.host).stderr == b"sandbox: logged out\n"
    assert (
        ossh("logout", "-F", own_node.ssh_config, own_node.host).stderr == b"sandbox: no master was running\n"
    )
    assert not list(runtime().glob("*.json"))


def test_a_terminal_without_a_reader_is_no_person(passphrase_node: Sandbox) -> None:
    """With a terminal on stdin only, not the controlling one, nobody is asked."""
    leader, follower = pty.openpty()
    done = subprocess.run(
        [OSSH, "login", "-F", passphrase_node.ssh_config, passphrase_node.host],
        stdin=follower,
        capture_output=True,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    os.close(leader)
    os.close(follower)
    assert done.returncode == 255
    assert b"a person must log in" in done.stderr


def test_leftovers_are_swept(own_node: Sandbox) -> None:
    """What a killed master and a killed command have left is removed at the next look, of whatever host."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    (row,) = status(own_node.ssh_config)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    log = runtime() / f"run.{gone.pid}.abc"
    log.touch()
    # young ones may be those of commands that begin
    os.utime(log, (0, 0))
    os.kill(int(row["pid"]), 9)
    until(lambda: not Path(f"/proc/{row['pid']}").exists(), "the master to end")
    assert status(own_node.ssh_config) == []
    left = [path.name for path in runtime().iterdir() if path.is_socket() or path.suffix == ".json"]
    assert not left
    assert not list(runtime().glob("run.*"))


def test_first_session_is_refused(isolated: Path, keep: Keep) -> None:
    """Where others have all sessions of a master, `ossh login` waits, and takes nothing for granted."""
    node = keep(Sandbox(server_options={"MaxSessions": "1"}))
    config = isolated / "ssh_config"
    config.write_text(f"ControlPath {isolated}/theirs\n{node.ssh_config.read_text()}")
    plain = ["ssh", "-F", str(config)]
    subprocess.run([*plain, "-MNf", node.host], check=True, capture_output=True)
    try:
        other = subprocess.Popen(
            [*plain, node.host, "echo there; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with other, subprocess.Popen([OSSH, "login", "-F", config, node.host]) as login:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == b"there\n"
            until(lambda: "refused by peer" in session_logs(), "a session to be refused")
            other.stdin.close()
            assert login.wait(30) == 0
        (row,) = status(config, node.host)
        assert row["login_node"] == os.uname().nodename
        assert node.authentications() == 1
    finally:
        subprocess.run([*plain, "-O", "exit", node.host], check=True, capture_output=True)


def session_logs() -> str:
    """What ssh has noted of the sessions that are open or being opened."""
    found = ""
    for log in runtime().glob("run.*"):
        # it may end meanwhile
        with contextlib.suppress(FileNotFoundError):
            found += log.read_text()
    return found


def test_first_session_is_killed(isolated: Path, keep: Keep) -> None:
    """A first session that breaks says nothing about the account: a second one finds out what the host is."""
    script = isolated / "hangs-once"
    script.write_text(
        f'#!/bin/sh\nmkdir {isolated}/once && exec sleep 60\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    script.chmod(0o700)
    node = keep(Sandbox(server_options={"ForceCommand": str(script)}))
    with subprocess.Popen([OSSH, "login", "-F", node.ssh_config, node.host]) as login:
        until((isolated / "once").is_dir, "the first session")
        until(lambda: "master session id" in session_logs(), "ssh to note it")
        (found,) = [
            pid
            for pid in _children(login.pid)
            if "LogLevel=DEBUG2" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        os.kill(found, signal.SIGKILL)
        assert login.wait(30) == 0
    (row,) = status(node.ssh_config, node.host)
    assert row["login_node"] == os.uname().nodename
    with Transport(node.host, ssh_config=node.ssh_config) as there:
        assert there.run("echo works").stdout == b"works\n"


def _children(pid: int) -> list[int]:
    return [
        int(one)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for one in (task / "children").read_text().split()
    ]
