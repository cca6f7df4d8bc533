"""`ossh status`: what it shows about masters that are live, busy or hang, or that no name leads to."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pexpect
import pytest

from opensshtransport import Transport
from opensshtransport.cli.masters import Row
from opensshtransport.cli.status import in_words, table
from opensshtransport.local.activity import Activity, at_work, look
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep
from tests.support.nodes import config_through
from tests.support.programs import OSSH, ossh, runtime, status, until, write_settings
from tests.support.relay import Relay

NOW = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=datetime.timezone.utc)


def ago(**amount: float) -> datetime.datetime:
    """A moment before now."""
    return NOW - datetime.timedelta(**amount)


class Throttle:
    """A link that takes so many bytes a second on the way up; the rest waits in the sender's own queue."""

    def __init__(self, target: int, rate: int) -> None:
        self.moved, self._target, self._rate = 0, target, rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        # inherited by what is accepted: a link holds little itself
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.port: int = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Throttle:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # the thread that accepts comes first, so no other is added behind our back
        for thread in self._threads:
            for opened in self._sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
            thread.join()
        for opened in self._sockets:
            opened.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets.append(server)
                for source, sink, rate in ((client, server, self._rate), (server, client, 0)):
                    thread = threading.Thread(target=self._pump, args=(source, sink, rate))
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, rate: int) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 14):
                sink.sendall(piece)
                if rate:
                    self.moved += len(piece)
                    time.sleep(len(piece) / rate)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


# -- the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (ago(), "just now"),
        (ago(seconds=59), "just now"),
        (ago(minutes=5), "5 min ago"),
        (ago(hours=3, minutes=40), "3 h ago"),
        (ago(days=3), "3 days ago"),
        (ago(seconds=-30), "in seconds"),
        (ago(minutes=-20), "in 20 min"),
        (ago(hours=-30), "in 30 h"),
    ],
)
def test_times_in_words(moment: datetime.datetime, words: str) -> None:
    """Times are told as a person would."""
    assert in_words(moment, NOW) == words


def test_table_has_columns_that_are_used() -> None:
    """A line fits 80 columns; tickets and certificates have a column only where a host uses one."""
    plain = Row(host="daint", state="live", login_node="ln1", since=ago(hours=3), sessions=2)
    assert table([plain], NOW, width=80) == [
        "HOST   STATE  LOGIN NODE  SINCE    SESSIONS",
        "daint  live   ln1         3 h ago  2",
    ]
    ticket = Row(
        host="ssh://alice@login.a-long-name.example.org:2222",
        state="unreachable",
        login_node="login-node-0042.a-long-name.example.org",
        since=ago(days=20),
        certificate_expires=ago(hours=1),
        ticket_expires=ago(minutes=-20),
    )
    lines = table([plain, ticket], NOW, width=80)
    assert lines[0].endswith("SESSIONS  CERT   TICKET")
    assert lines[2].endswith("20 days ago  -         ended  in 20 min")
    assert "…" in lines[2]
    assert max(map(len, lines)) <= 80


def test_table_in_colour_and_unspoilt() -> None:
    """Colours widen nothing, and a name cannot bring its own."""
    rows = [Row(host="a\x1b[31m", state=state) for state in ("live", "busy", "unreachable", "none")]
    lines = table(rows, NOW, width=80, colour=True)
    assert "\x1b[32mlive\x1b[0m" in lines[1]
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in lines] == table(rows, NOW, width=80)
    assert r"a\x1b[31m" in lines[1]


def test_at_a_terminal(own_node: Sandbox) -> None:
    """At a terminal the state is coloured, not with NO_COLOR, and lines fit the terminal."""
    ossh("login", "-F", own_node.ssh_config, own_node.host)
    for environment, shown in (({}, "\x1b[32mlive\x1b[0m"), ({"NO_COLOR": "1"}, "  live  ")):
        child: pexpect.spawn[str] = pexpect.spawn(
            str(OSSH),
            ["status", "-F", str(own_node.ssh_config)],
            env={**os.environ, "TERM": "xterm", **environment},
            encoding="utf-8",
            dimensions=(24, 60),
            timeout=20,
        )
        child.expect(pexpect.EOF)
        assert child.before is not None
        assert shown in child.before
        assert "just now" in child.before


# -- what is found -------------------------------------------------------------------------------------


def test_after_the_port_has_changed(own_node: Sandbox, keep: Keep) -> None:
    """A master to which its name no longer leads is listed once, next to the new one; logout ends both."""
    relay = keep(Relay(own_node.port))
    config, host = own_node.ssh_config, own_node.host
    before = config.read_text()
    ossh("login", "-F", config, host)
    config.write_text(before.replace(f"Port {own_node.port}", f"Port {relay.port}"))
    ossh("login", "-F", config, host)
    for rows in (status(config), status(config, host)):
        assert [row["state"] for row in rows] == ["live", "live"]
        assert {row["address"].rpartition(":")[2] for row in rows} == {str(own_node.port), str(relay.port)}
        assert len({row["pid"] for row in rows}) == 2
    assert str(relay.port) in ossh("status", "-F", config).stdout.decode()
    assert ossh("logout", "-F", config, host).stderr == b"sandbox: logged out\n"
    assert status(config) == []


def test_a_master_whose_login_was_killed(own_node: Sandbox) -> None:
    """A master without a record is named, and ended by its name or with all others."""
    config, host = own_node.ssh_config, own_node.host
    for arguments in (["-F", str(config), host], ["--all"]):
        ossh("login", "-F", config, host)
        for file in runtime().glob("*.json"):
            file.unlink()
        (row,) = status(config)
        assert (row["host"], row["state"]) == (host, "live")
        os.kill(row["pid"], signal.SIGSTOP)
        assert ossh("logout", *arguments).stderr == b"sandbox: logged out\n"
        until(lambda pid=row["pid"]: look(pid) is None, "it to end")  # type: ignore[misc]
        assert status(config) == []


def test_hosts_are_asked_side_by_side(own_node: Sandbox, keep: Keep) -> None:
    """With a network that is silent, three masters take as long as one: check_timeout."""
    relays = [keep(Relay(own_node.port)) for _ in range(3)]
    configs = [config_through(own_node, relay) for relay in relays]
    for config, relay in zip(configs, relays, strict=True):
        assert ossh("login", "-F", config, own_node.host).returncode == 0
        relay.silence()
    write_settings('[host."*"]\ncheck_timeout = 4\n')
    begin = time.monotonic()
    rows = status(configs[0])
    assert time.monotonic() - begin < 8
    assert [row["state"] for row in rows] == ["unreachable"] * 3


# -- late answers --------------------------------------------------------------------------------------


def test_quiet_ssh_config(own_node: Sandbox) -> None:
    """`LogLevel QUIET` hides no answer."""
    config = own_node.ssh_config
    config.write_text(f"LogLevel QUIET\n{config.read_text()}")
    ossh("login", "-F", config, own_node.host)
    assert status(config)[0]["state"] == "live"
    with Transport(own_node.host, ssh_config=config) as there:
        assert there.run("echo x").stdout == b"x\n"
    assert own_node.authentications() == 1


def test_what_counts_as_work() -> None:
    """Bytes that move and a wait for a processor do; what a question moves by itself, and a stop, do not."""
    still = Activity("S", moved=1000, queued=0)
    assert not at_work(still, still, 5)
    assert not at_work(still, Activity("S", moved=1900), 5)
    assert at_work(still, Activity("S", moved=10_000), 5)
    assert at_work(Activity("S", queued=90_000), Activity("S", queued=10_000), 5)
    assert not at_work(Activity("S", queued=90_000), Activity("S", queued=90_000), 5)
    assert at_work(still, Activity("S", moved=1000, waited=2), 5)
    assert at_work(still, Activity("R", moved=1000), 5)
    assert not at_work(still, Activity("T", moved=10_000), 5)
    assert not at_work(None, still, 5)


def test_look_at_a_process() -> None:
    """A process of our own is seen to sleep, to stop and to go."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        until(lambda: getattr(look(sleeper.pid), "state", "") == "S", "it to sleep")
        sleeper.send_signal(signal.SIGSTOP)
        until(lambda: getattr(look(sleeper.pid), "state", "") == "T", "it to stop")
        sleeper.kill()
    assert look(sleeper.pid) is None


def test_a_copy_fills_the_link(own_node: Sandbox, keep: Keep, tmp_path: Path) -> None:
    """While a copy makes each answer late the master is busy, and no login ends it."""
    slow = keep(Throttle(own_node.port, 400_000))
    config = own_node.ssh_config
    config.write_text(config.read_text().replace(f"Port {own_node.port}", f"Port {slow.port}"))
    ossh("login", "-F", config, own_node.host)
    (before,) = status(config)
    write_settings('[host."*"]\ncheck_timeout = 1\n')
    big = tmp_path / "big"
    big.write_bytes(os.urandom(30_000_000))
    with subprocess.Popen([OSSH, "cp", "-q", "-F", config, big, f"{own_node.host}:{tmp_path}/copy"]) as copy:
        until(lambda: slow.moved > 1_000_000, "the copy to begin")
        until(lambda: status(config)[0]["state"] == "busy", "the master to be late")
        done = ossh("login", "-F", config, own_node.host)
        assert done.returncode == 0
        assert b"already logged in" in done.stderr
        assert copy.poll() is None
        copy.terminate()
    assert Path(f"/proc/{before['pid']}").exists()
    assert own_node.authentications() == 1


def test_broken_settings(own_node: Sandbox) -> None:
    """A broken config.toml is reported once, with status 255; masters are still shown and can be ended."""
    config, host = own_node.ssh_config, own_node.host
    ossh("login", "-F", config, host)
    write_settings('[host."*"]\nno_such_key = 1\n')
    done = ossh("status", "-F", config, "--json", host, host, "other")
    assert done.returncode == 255
    assert done.stderr.decode().count("no_such_key") == 1
    assert [row["state"] for row in json.loads(done.stdout)] == ["live", "live", "none"]
    done = ossh("logout", "-F", config, host)
    assert (done.returncode, done.stderr) == (0, b"sandbox: logged out\n")


def test_without_path(own_node: Sandbox) -> None:
    """Programs are found without PATH, as cron and `env -i` have it."""
    config = own_node.ssh_config
    config.write_text(f"GSSAPIAuthentication yes\n{config.read_text()}")
    bare = {name: value for name, value in os.environ.items() if name.startswith("XDG_")}
    for words in (["login"], ["status", "--json"], ["logout"]):
        done = subprocess.run(
            [OSSH, *words, "-F", config, own_node.host], env=bare, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
