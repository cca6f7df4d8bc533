"""`ossh doctor`: for each link a real server or configuration in which it alone is broken."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest

from opensshtransport.doctor import after_login, before_login, credentials, doctor
from opensshtransport.doctor.finding import Finding
from opensshtransport.errors import Remedy
from opensshtransport.sandbox import Sandbox
from tests.conftest import Keep, MakeChain, MakeShellNode, require
from tests.support.authority import AuthorityNode
from tests.support.homes import empty_home, missing_for_homes
from tests.support.jumps import can_isolate
from tests.support.kerberos import KerberosNode
from tests.support.nodes import config_through, missing_programs
from tests.support.programs import OSSH, Done, ossh, runtime, status, write_settings
from tests.support.relay import Relay
from tests.support.users import NOISY, Startup, User

Rows = dict[str, dict[str, Any]]


def rows(done: Done) -> Rows:
    """The findings of a run with --json, by link."""
    assert not done.stderr, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {row["link"]: row for row in found}


def examined(config: Path, host: str, *options: str) -> Rows:
    """What the doctor finds; its exit status is held against that."""
    done = ossh("doctor", "--json", "-F", config, *options, host)
    found = rows(done)
    states = {row["state"] for row in found.values()}
    assert done.returncode == (2 if "broken" in states else 1 if "warning" in states else 0)
    return found


def only(found: Rows, link: str, state: str, seen: str) -> None:
    """That link is as told, and no other one is worse than skipped."""
    bad = {name: row for name, row in found.items() if row["state"] in {"warning", "broken"}}
    assert list(bad) == [link], bad
    assert bad[link]["state"] == state
    assert re.search(seen, bad[link]["seen"]), bad[link]["seen"]
    assert bad[link]["advice"]


def executable(path: Path, text: str) -> Path:
    """Write a program for sh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_there(isolated: Path) -> Path:
    """A directory that is first on PATH of `healthy` nodes; its `squeue` works."""
    executable(isolated / "bin" / "squeue", "exit 0")
    return isolated / "bin"


def healthy(bin_there: Path, *, server: Mapping[str, str] | None = None, **client: str) -> Sandbox:
    """A node at which all is well, whatever is installed on this machine."""
    require(missing_programs("sshd", "ssh-keygen"))
    variables = {"SetEnv": f"SHLVL=1 PATH={bin_there}:/usr/bin:/bin"}
    return Sandbox(server_options={**variables, **(server or {})}, client_options=client)


# -- where all is well ---------------------------------------------------------------------------------


def test_all_is_well(bin_there: Path, keep: Keep) -> None:
    """Every link is fine after a login; the text has no more lines than a screen, and the status is 0."""
    node = keep(healthy(bin_there))
    done = ossh("doctor", "--login", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.decode().splitlines()
    assert {line.split()[0] for line in lines[:-1]} == {"fine"}
    assert lines[-1] == "23 fine"
    # with the command above and the next prompt below
    assert len(lines) <= 24 - 2
    assert "fine    certificate, ticket, script, secrets: not used" in lines
    assert b"\x1b" not in done.stdout
    assert node.authentications() == 1


def test_what_is_skipped_shares_a_line(node: Sandbox) -> None:
    """Without a login too the text has no more lines than a screen: one reason, one line, with its links."""
    done = ossh("doctor", "-F", node.ssh_config, node.host)
    lines = done.stdout.decode().splitlines()
    assert len(lines) <= 24 - 2
    (line,) = (line for line in lines if "needs a running master" in line)
    assert line == f"skipped {', '.join(name for name, _ in after_login.LINKS)}: needs a running master"


def test_no_login_unless_asked_for(bin_there: Path, keep: Keep) -> None:
    """Without --login nobody logs in: what needs a master is skipped, and that is no fault."""
    node = keep(healthy(bin_there))
    found = examined(node.ssh_config, node.host)
    assert node.authentications() == 0
    assert found["master"]["state"] == "skipped"
    assert found["master"]["advice"] == f"run: ossh doctor --login -F {node.ssh_config} sandbox"
    names = [name for name, _ in after_login.LINKS]
    assert [found[name]["state"] for name in names] == ["skipped"] * len(names)
    assert {row["state"] for row in found.values()} == {"fine", "skipped"}


def test_every_object_has_the_same_keys(node: Sandbox) -> None:
    """--json is a list of objects with the keys state, seen, advice and link."""
    for row in examined(node.ssh_config, node.host).values():
        assert set(row) == {"state", "seen", "advice", "link"}


def test_colour_at_a_terminal(node: Sandbox) -> None:
    """At a terminal the states are coloured, unless NO_COLOR is set."""
    argv = ["doctor", "-F", str(node.ssh_config), node.host]
    shown = {}
    for name, env in (("yes", {}), ("no", {"NO_COLOR": "1"})):
        child = pexpect.spawn(str(OSSH), argv, env={**os.environ, **env}, encoding="utf-8", timeout=30)
        child.expect(pexpect.EOF)
        shown[name] = str(child.before)
        child.close()
    assert "\x1b[32mfine" in shown["yes"]
    assert "\x1b[" not in shown["no"]


def test_text_is_aligned() -> None:
    """States, links and what was seen are aligned; advice is on a line of its own."""
    one = doctor.text(Finding("fine", "well", link="keys"), colour=False)
    two = doctor.text(Finding("warning", "late", Remedy("hurry"), link="login shell"), colour=False)
    assert len(doctor.text(Finding("fine", "x" * 100, link="keys"), width=80)) == 80
    assert "x" * 100 in doctor.text(Finding("broken", "x" * 100, link="keys"), width=80)
    assert one.index("well") == two.index("late")
    assert two.endswith("-> hurry")
    assert doctor.summary([Finding("fine", "")] * 2 + [Finding("broken", "")]) == "2 fine, 1 broken"


# -- links before the login ----------------------------------------------------------------------------


def test_openssh_is_too_old(node: Sandbox, isolated: Path) -> None:
    """A version that is too old is named."""
    old = executable(isolated / "ssh", 'case $1 in -V) echo OpenSSH_6.6p1 >&2 ;; *) exec ssh "$@" ;; esac')
    write_settings(f'[host.{node.host}]\nssh = "{old}"\n')
    only(examined(node.ssh_config, node.host), "openssh", "broken", "OpenSSH 6.6")


def test_openssh_is_missing(node: Sandbox) -> None:
    """Without ssh nothing else can be told, and nothing else is called broken."""
    write_settings(f'[host.{node.host}]\nssh = "no-such-ssh"\n')
    found = examined(node.ssh_config, node.host)
    only(found, "openssh", "broken", "'no-such-ssh' was not found")
    assert found["ssh_config"]["state"] == "skipped"


def test_runtime_directory_is_a_link(node: Sandbox, isolated: Path) -> None:
    """A runtime directory that somebody could have put there is named."""
    runtime().symlink_to(isolated)
    only(examined(node.ssh_config, node.host), "runtime directory", "broken", "is a symbolic link")


def test_runtime_directory_is_too_long(node: Sandbox, isolated: Path) -> None:
    """Where sockets do not fit into XDG_RUNTIME_DIR another place is taken, and that is said."""
    require(missing_for_homes())
    long = isolated / ("x" * 80)
    long.mkdir(mode=0o700)
    # a /run of this program alone, in which that other place is
    mounts = 'mount -t tmpfs none /run && mkdir -p -m 700 "/run/user/$(id -u)" && exec "$@"'
    argv: list[str | Path] = ["unshare", "--mount", "sh", "-c", mounts, "sh", OSSH, "doctor", "--json"]
    done = subprocess.run(
        [*argv, "-F", node.ssh_config, node.host],
        env={**os.environ, "XDG_RUNTIME_DIR": str(long)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )
    only(rows(done), "runtime directory", "warning", f"as XDG_RUNTIME_DIR cannot hold sockets: {long}")
    assert done.returncode == 1


def test_settings_are_wrong(node: Sandbox) -> None:
    """A mistake in config.toml is named, and the links that do not need it are told all the same."""
    write_settings(f"[host.{node.host}]\npersits = 3\n")
    found = examined(node.ssh_config, node.host, "--login")
    only(found, "settings", "broken", "persits is not a setting")
    assert found["connection"]["state"] == "fine"
    assert found["master"]["state"] == "skipped"


def test_ssh_config_is_wrong(own_node: Sandbox) -> None:
    """An option that ssh does not know is named."""
    own_node.ssh_config.write_text(f"{own_node.ssh_config.read_text()}Prot 22\n")
    only(
        examined(own_node.ssh_config, own_node.host), "ssh_config", "broken", "ssh refuses its configuration"
    )


def test_ssh_config_can_be_written_by_others(own_node: Sandbox) -> None:
    """So are permissions that let others change where we go."""
    own_node.ssh_config.chmod(0o666)
    only(examined(own_node.ssh_config, own_node.host), "ssh_config", "warning", "can be written by others")


def test_own_ssh_config_can_be_written_by_others(node: Sandbox, isolated: Path) -> None:
    """For the person's own file ssh itself refuses them; the advice mends it."""
    require(missing_for_homes())
    home = empty_home(isolated)
    config = home.path / ".ssh" / "config"
    config.parent.mkdir(mode=0o700)
    config.write_text(node.ssh_config.read_text())
    config.chmod(0o666)
    found = {row["link"]: row for row in json.loads(home.run(OSSH, "doctor", "--json", node.host).stdout)}
    only(found, "ssh_config", "broken", "can be written by others")
    advice: str = found["ssh_config"]["advice"]
    home.run("sh", "-c", advice.removeprefix("run: "))
    found = {row["link"]: row for row in json.loads(home.run(OSSH, "doctor", "--json", node.host).stdout)}
    assert found["ssh_config"]["state"] == "fine"


@pytest.mark.parametrize(
    ("options", "state", "seen"),
    [
        ({"RemoteCommand": "tmux"}, "warning", "remotecommand tmux"),
        ({"RequestTTY": "force"}, "warning", "requesttty force"),
        ({"LocalForward": "9999 localhost:80"}, "warning", "localforward"),
        ({"SessionType": "none"}, "broken", "no command can run"),
        ({"ServerAliveInterval": "5"}, "warning", "a login that waits for a push"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_break_us(own_node: Sandbox, options: dict[str, str], state: str, seen: str) -> None:
    """An option of ssh_config that disturbs us is named, with what it does."""
    lines = "".join(f"{name} {value}\n" for name, value in options.items())
    own_node.ssh_config.write_text(own_node.ssh_config.read_text() + lines)
    only(examined(own_node.ssh_config, own_node.host), "resolution", state, seen)


def changed(node: Sandbox, **options: str) -> Path:
    """The node's ssh_config, with other values."""
    kept = [line for line in node.ssh_config.read_text().splitlines() if line.split()[0] not in options]
    lines = [*kept, *(f"{name} {value}" for name, value in options.items())]
    node.ssh_config.write_text("".join(f"{line}\n" for line in lines))
    return node.ssh_config


def test_name_is_unknown(own_node: Sandbox) -> None:
    """A name that leads nowhere is named; the links behind it are skipped."""
    found = examined(changed(own_node, HostName="no-such-host.invalid"), own_node.host)
    only(found, "name", "broken", "no-such-host.invalid is not known")
    assert found["connection"]["seen"] == "needs the link name"


def test_nobody_listens(own_node: Sandbox) -> None:
    """A port at which nobody listens is named."""
    own_node.stop()
    only(examined(own_node.ssh_config, own_node.host), "connection", "broken", "Connection refused")


def test_somebody_else_listens(own_node: Sandbox) -> None:
    """So is one at which no ssh server answers."""
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            client, _ = web.accept()
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        config = changed(own_node, Port=str(web.getsockname()[1]))
        only(examined(config, own_node.host), "connection", "broken", "no ssh server answers")
        thread.join()


def test_host_key_is_unknown(own_node: Sandbox) -> None:
    """A host key that nobody has confirmed yet is named."""
    (own_node.directory / "known_hosts").write_text("")
    only(examined(own_node.ssh_config, own_node.host), "host keys", "warning", "of sandbox is not known")


def test_host_key_has_changed(own_node: Sandbox) -> None:
    """A changed host key is distinguished from an unknown one."""
    key = (own_node.directory / "id_ed25519.pub").read_text()
    (own_node.directory / "known_hosts").write_text(f"{own_node.host} {key}")
    only(examined(own_node.ssh_config, own_node.host), "host keys", "broken", "not the one that is known")


def test_host_key_of_a_jump_host_is_unknown(own_node: Sandbox) -> None:
    """Each hop's host key is looked up, under the name by which ssh knows it."""
    block = own_node.ssh_config.read_text().replace(f"HostKeyAlias {own_node.host}", "HostKeyAlias other")
    first = block.replace(f"Host {own_node.host}", "Host front")
    with own_node.ssh_config.open("a") as file:
        file.write(f"ProxyJump front\n{first}")
    only(examined(own_node.ssh_config, own_node.host), "host keys", "warning", "of front is not known")


def test_host_key_behind_a_jump_host_has_changed(make_chain: MakeChain, isolated: Path) -> None:
    """It cannot be asked for without a login; the login compares it, and the doctor says so."""
    chain = make_chain("key", "key")
    config, known = isolated / "ssh_config", isolated / "known"
    other = chain.nodes[0].directory / "host_key.pub"
    text = chain.config().read_text()
    before = re.search(r"UserKnownHostsFile (.*)", chain.target.ssh_config.read_text())
    assert before is not None
    name = Path(before[1]).read_text().split()[0]
    known.write_text(f"{name} {other.read_text()}")
    config.write_text(text.replace(before[1], str(known)))
    found = examined(config, "target")
    assert found["host keys"]["state"] == "fine"
    assert found["host keys"]["seen"] == "jump1 known and unchanged, target known (compared by each login)"
    only(
        examined(config, "target", "--login"), "master", "broken", "the host key is not the one that is known"
    )


def test_key_can_be_read_by_others(own_node: Sandbox) -> None:
    """A private key that ssh ignores for its permissions is named."""
    (own_node.directory / "id_ed25519").chmod(0o644)
    only(examined(own_node.ssh_config, own_node.host), "keys", "broken", "others can read it")


def test_key_is_missing(own_node: Sandbox) -> None:
    """A key that is not there is named."""
    (own_node.directory / "id_ed25519").unlink()
    only(examined(own_node.ssh_config, own_node.host), "keys", "warning", "there is no key in")


def test_key_has_a_passphrase(isolated: Path, keep: Keep) -> None:
    """A key with a passphrase is fine only where the agent holds it."""
    require(missing_programs("sshd", "ssh-keygen", "ssh-agent"))
    node = keep(Sandbox(second_factor="passphrase"))
    found = examined(node.ssh_config, node.host)
    only(found, "keys", "warning", "has a passphrase, and the agent does not hold it")
    said = ossh("agent").stdout.decode()
    agent = re.search(r"=(\S+)", said)
    assert agent
    try:
        env = {
            "SSH_AUTH_SOCK": agent[1],
            "SSH_ASKPASS": str(node.answer_command),
            "SSH_ASKPASS_REQUIRE": "force",
        }
        key = node.directory / "id_ed25519"
        subprocess.run(
            ["ssh-add", "-q", key], env={**os.environ, **env}, check=True, stdin=subprocess.DEVNULL
        )
        found = examined(node.ssh_config, node.host)
        assert found["keys"]["state"] == "fine"
        assert "held by the agent" in found["keys"]["seen"]
    finally:
        listed = subprocess.run(["pgrep", "-f", f"ssh-agent -a {agent[1]}"], capture_output=True, check=False)
        for pid in listed.stdout.split():
            os.kill(int(pid), signal.SIGTERM)


@pytest.mark.parametrize(
    ("validity", "state", "seen"),
    [("20200101:20200102", "broken", "expired at 2020-01-02"), ("+10m", "warning", "expires soon")],
    ids=["ended", "ends"],
)
def test_certificate_ends(authority_node: AuthorityNode, validity: str, state: str, seen: str) -> None:
    """A certificate that has expired, or soon will, is named with its expiry."""
    top = authority_node.directory
    sign: list[str | Path] = [
        "ssh-keygen",
        "-q",
        "-s",
        top / "ca",
        "-I",
        "me",
        "-n",
        authority_node.user,
        "-V",
        validity,
    ]
    subprocess.run([*sign, top / "id_ed25519.pub"], check=True)
    only(examined(authority_node.ssh_config, authority_node.host), "certificate", state, seen)


def test_there_is_no_ticket(kerberos_node: KerberosNode) -> None:
    """A missing Kerberos ticket is named where there is no other way; with one all is fine."""
    only(examined(kerberos_node.ssh_config, kerberos_node.host), "ticket", "broken", "there is no ticket")
    kerberos_node.get_ticket("1h")
    found = examined(kerberos_node.ssh_config, kerberos_node.host)
    assert found["ticket"]["state"] == "fine"
    assert "is valid until" in found["ticket"]["seen"]


@pytest.mark.parametrize(
    ("text", "mode", "seen"),
    [
        (None, 0, "there is no"),
        ("#!/bin/sh\n", 0o600, "not executable"),
        ("#!/no/sh\n", 0o700, "needs /no/sh"),
    ],
    ids=["missing", "mode", "interpreter"],
)
def test_script_is_of_no_use(node: Sandbox, isolated: Path, text: str | None, mode: int, seen: str) -> None:
    """An authentication script that cannot be run is named, whatever the reason."""
    path = isolated / "get_keys.sh"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    write_settings(f'[host.{node.host}]\nauthentication_script = "{path}"\n')
    only(examined(node.ssh_config, node.host), "script", "broken", seen)


def test_secret_is_missing(node: Sandbox, isolated: Path) -> None:
    """A secret that is not available is named; one that can is counted, and not shown."""
    kept = isolated / "seed"
    kept.write_text("GEZDGNBVGY3TQOJQ\n")
    write_settings(
        f"[host.{node.host}]\n"
        f'password = {{ command = ["cat", "{isolated / "password"}"] }}\n'
        f'code = {{ totp = {{ command = ["cat", "{kept}"] }} }}\n'
    )
    only(examined(node.ssh_config, node.host), "secrets", "broken", "cat")
    (isolated / "password").write_text("hunter2\n")
    done = ossh("doctor", "--json", "-F", node.ssh_config, node.host)
    assert rows(done)["secrets"]["seen"] == "2 resolvable"
    assert b"hunter2" not in done.stdout
    assert b"GEZDG" not in done.stdout
    # no code was made: a code that is made is used up
    assert not [path for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*") if "code" in path.name]


def test_logins_have_failed(own_node: Sandbox) -> None:
    """A login that has failed is told with its reason and the pause."""
    (own_node.directory / "authorized_keys").write_text("")
    assert ossh("login", "--unattended", "-F", own_node.ssh_config, own_node.host).returncode == 255
    only(
        examined(own_node.ssh_config, own_node.host),
        "failed logins",
        "warning",
        "1 in a row.* for 30 s|for 2. s",
    )


# -- links beyond the login ----------------------------------------------------------------------------


def logged_in(node: Sandbox, config: Path | None = None) -> Path:
    """Log in, and give the configuration by which that was done."""
    config = config or node.ssh_config
    done = ossh("login", "-q", "-F", config, node.host)
    assert done.returncode == 0, done.stderr
    return config


def test_master_is_frozen(bin_there: Path, keep: Keep) -> None:
    """A master that no longer answers is distinguished from a missing one."""
    node = keep(healthy(bin_there))
    write_settings(f"[host.{node.host}]\ncheck_timeout = 1\n")
    config = logged_in(node)
    (row,) = status(config, node.host)
    os.kill(row["pid"], signal.SIGSTOP)
    try:
        only(examined(config, node.host), "master", "broken", "does not answer")
    finally:
        os.kill(row["pid"], signal.SIGCONT)


def test_line_is_slow(bin_there: Path, keep: Keep) -> None:
    """A long way is told with its round trip."""
    node = keep(healthy(bin_there))
    relay = keep(Relay(node.port))
    # few sessions to count, each of which takes its time
    write_settings(f"[host.{node.host}]\nmax_sessions = 1\n")
    config = logged_in(node, config_through(node, relay))
    relay.delay = 0.16
    only(examined(config, node.host), "round trip", "warning", r"^[3-9]\d\d\.\d ms, .*: a long round trip")


def test_login_shell_is_noisy(make_shell_node: MakeShellNode, bin_there: Path) -> None:
    """What start-up files print is shown, as other programs than ours break by it."""
    node, user = make_shell_node("bash", NOISY)
    executable(user.home / "bin" / "squeue", "exit 0")
    with (user.home / ".bashrc").open("a") as file:
        file.write('PATH="$HOME/bin:$PATH"\n')
    config = logged_in(node)
    only(examined(config, node.host), "login shell", "warning", "prints 'Welcome to the cluster!")


def test_login_shell_is_slow(make_shell_node: MakeShellNode, bin_there: Path) -> None:
    """Start-up files that take seconds, as module systems do, are reported with their time."""
    node, user = make_shell_node("bash", Startup(sleep=2.2, lines='PATH="$HOME/bin:$PATH"\n'))
    executable(user.home / "bin" / "squeue", "exit 0")
    # few sessions to count, each of which takes its time
    write_settings(f"[host.{node.host}]\nmax_sessions = 1\n")
    only(examined(logged_in(node), node.host), "login shell", "warning", r"/bash takes [2-9]\.\d s to start$")


def test_server_has_no_sftp(bin_there: Path, keep: Keep) -> None:
    """A server without the subsystem sftp is named."""
    node = keep(healthy(bin_there, server={"Subsystem": "other internal-sftp"}))
    only(examined(logged_in(node), node.host), "sftp", "warning", "the server has none")


def test_program_is_missing_there(isolated: Path, keep: Keep) -> None:
    """A program that we need on the remote side is named."""
    place = isolated / "bin"
    place.mkdir()
    for directory in ("/bin", "/usr/bin"):
        for program in Path(directory).iterdir():
            if program.name not in {"tar", "squeue"} and not (place / program.name).is_symlink():
                (place / program.name).symlink_to(program)
    node = keep(healthy(place, server={"SetEnv": f"SHLVL=1 PATH={place}"}))
    only(examined(logged_in(node), node.host), "programs there", "broken", "^missing: tar$")


def test_server_gives_few_sessions(bin_there: Path, keep: Keep) -> None:
    """How many sessions the server grants is counted, and reported if it is less than max_sessions."""
    node = keep(healthy(bin_there, server={"MaxSessions": "3"}))
    found = examined(logged_in(node), node.host)
    only(found, "sessions", "warning", "the server grants 3, max_sessions is 8")
    assert found["sessions"]["advice"] == "set max_sessions = 3 in config.toml"
    write_settings(f"[host.{node.host}]\nmax_sessions = 3\n")
    assert examined(node.ssh_config, node.host)["sessions"]["state"] == "fine"


@pytest.fixture
def full_disk(isolated: Path) -> Iterator[Path]:
    """A file system with nothing left."""
    require("" if can_isolate() else "mounting needs root")
    place = isolated / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (place / "much").write_bytes(bytes(2 << 20))
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_home_is_full(bin_there: Path, full_disk: Path, keep: Keep) -> None:
    """A home directory without space is named, with its file system."""
    variables = f"SHLVL=1 PATH={bin_there}:/usr/bin:/bin HOME={full_disk}"
    node = keep(healthy(bin_there, server={"SetEnv": variables}))
    only(examined(logged_in(node), node.host), "home", "warning", r"/disk on tmpfs .*100% is used")


def test_quota_is_exceeded(bin_there: Path, keep: Keep) -> None:
    """A quota that is exceeded is named by its file system."""
    shown = (
        "Disk quotas for user me (uid 1000): \n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        "      home:/me  1048580* 1000000 1100000   6days    1042       0       0        \n"
    )
    executable(bin_there / "quota", f"printf '%s' '{shown}'")
    node = keep(healthy(bin_there))
    only(examined(logged_in(node), node.host), "home", "warning", "over the quota of home:/me")


def test_every_login_shell(shell_user_node: tuple[Sandbox, User]) -> None:
    """With every login shell all links can be told, and what we send is understood."""
    node, user = shell_user_node
    found = examined(logged_in(node), node.host)
    assert re.match(rf"\S*/(?:{user.shell}|ash), silent, ", found["login shell"]["seen"])
    del found["scheduler"]
    bad = [row for row in found.values() if row["state"] != "fine"]
    assert not bad


def test_scheduler_does_not_answer(bin_there: Path, keep: Keep) -> None:
    """A queue command that fails is named with what it says."""
    executable(bin_there / "squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    node = keep(healthy(bin_there))
    found = examined(logged_in(node), node.host)
    only(found, "scheduler", "broken", "^Slurm: squeue fails .*Unable to")


def test_name_leads_to_several_machines(bin_there: Path, isolated: Path, keep: Keep) -> None:
    """A name of several login nodes is reported, with the current one."""
    require("" if can_isolate() else "mounting needs root")
    node = keep(healthy(bin_there))
    hosts = isolated / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 nodes.example\n127.0.0.2 nodes.example\n")
    config = changed(node, HostName="nodes.example")
    script = f"mount --bind {hosts} /etc/hosts && exec {OSSH} doctor --login --json -F {config} {node.host}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        start_new_session=True,
    )
    only(rows(done), "login node", "warning", r"one of 2 behind nodes\.example")


# -- parsers -------------------------------------------------------------------------------------------


def test_answers_of_the_script() -> None:
    """Each line NAME=VALUE is an answer; values may be empty, and hold `=`."""
    said = "noise\nnode=ln1\nmissing= tar dd\nquota=\nsaid=a=b \n"
    assert after_login.parse_answers(said) == {
        "node": "ln1",
        "missing": " tar dd",
        "quota": "",
        "said": "a=b",
    }


def test_links_have_names_of_their_own() -> None:
    """No two links share a name, by which programs find them."""
    names = [name for name, _ in (*before_login.LINKS, *credentials.LINKS, *after_login.LINKS)]
    assert len(set(names)) == len(names)
