"""`ossh share`: programs that run a plain ssh ride the one master, and log in by it alone."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from opensshtransport import Transport
from opensshtransport.errors import SettingsError
from opensshtransport.local.settings import shared_file
from opensshtransport.sandbox import Sandbox
from opensshtransport.sharing.block import check_name, with_include, without_include
from tests.conftest import Keep, MakeChain, require
from tests.sharing.conftest import Plain
from tests.support.nodes import missing_programs
from tests.support.pam_nodes import rule
from tests.support.programs import OSSH, ossh, ossh_run, run, runtime, status, until, write_settings

pytestmark = pytest.mark.client


def kill_master(plain: Plain) -> None:
    """Kill the running master, as nobody should; its socket stays behind."""
    pid = plain.master()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the master to be gone")


def test_the_first_one_logs_in(daint: Plain) -> None:
    """Five plain ssh at once, and no master: one of them logs in, and all use what it opened."""
    with ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda number: daint.ssh("daint", f"echo {number}"), range(5)))
    assert [(one.stdout, one.returncode) for one in done] == [(b"%d\n" % n, 0) for n in range(5)]
    assert daint.logins() == 1


def test_programs(daint: Plain, tmp_path: Path) -> None:
    """ssh, scp, sftp, rsync and git ride; each master that is killed on the way costs one login."""
    require(missing_programs("git", "rsync", "scp", "sftp"))
    far = daint.node.directory
    subprocess.run(["git", "init", "-q", "--bare", far / "code.git"], check=True)
    (tmp_path / "file").write_text("words\n")
    (tmp_path / "batch").write_text(f"put {tmp_path}/file {far}/by-sftp\n")
    calls: list[list[str | Path]] = [
        ["ssh", "-F", daint.config, "daint", "true"],
        ["scp", "-q", "-F", daint.config, tmp_path / "file", f"daint:{far}/by-scp"],
        ["sftp", "-q", "-F", daint.config, "-b", tmp_path / "batch", "daint"],
        ["rsync", tmp_path / "file", f"daint:{far}/by-rsync"],
        ["git", "ls-remote", f"daint:{far}/code.git"],
    ]
    for number, call in enumerate(calls):
        for _ in range(2):
            done = daint.run(*call)
            assert (done.stderr, done.returncode) == (b"", 0), call
        assert daint.logins() == number + 1
        kill_master(daint)
    assert {path.name for path in far.glob("by-*")} == {"by-scp", "by-sftp", "by-rsync"}


def test_frozen_master_is_replaced(daint: Plain) -> None:
    """A master that is stopped answers nobody: the next plain ssh ends it, and logs in."""
    write_settings('[host."daint"]\ncheck_timeout = 0.5\n')
    daint.ssh("daint", "true")
    os.kill(daint.master(), signal.SIGSTOP)
    assert daint.ssh("daint", "echo words").stdout == b"words\n"
    assert daint.logins() == 2


def test_edited_ssh_config(daint: Plain, keep: Keep) -> None:
    """The name leads elsewhere now: nobody rides the old master."""
    assert daint.ssh("daint", "true").returncode == 0
    other = keep(Sandbox("daint"))
    mine = daint.config.read_text().partition("\n\n")[0]
    daint.config.write_text(f"{mine}\n\n{other.ssh_config.read_text()}")
    assert daint.ssh("daint", "true").returncode == 0
    assert (daint.logins(), other.authentications()) == (1, 1)


OTHERS = (
    ["-l", "stranger", "daint"],
    ["-oUser=stranger", "daint"],
    ["stranger@daint"],
    ["ssh://stranger@daint"],
    ["daint", "-l", "stranger"],
    ["-p", "1", "daint"],
    ["-vTp1", "daint"],
    ["-o", 'Port = "1"', "daint"],
    ["ssh://daint:1"],
)


@pytest.mark.parametrize("running", [True, False])
def test_another_account(daint: Plain, running: bool) -> None:
    """Another user or another port is another account: a connection of its own, and no login of ours."""
    if running:
        assert daint.ssh("daint", "true").returncode == 0
    for words in OTHERS if running else OTHERS[:1]:
        done = daint.ssh("-oBatchMode=yes", *words, "echo wrong account")
        assert done.returncode == 255
        # ssh's own words of its own connection
        assert b"Permission denied" in done.stderr or b"Connection refused" in done.stderr
    assert daint.logins() == running


def test_the_same_account_in_other_words(daint: Plain) -> None:
    """The user and the port that the name has anyhow are no other account."""
    user, port = daint.node.user, str(daint.node.port)
    for words in (["-l", user, "daint"], [f"ssh://{user}@daint:{port}"], ["-p", port, f"{user}@daint"]):
        assert daint.ssh(*words, "echo words").stdout == b"words\n"
    assert daint.logins() == 1


def test_questions_never_log_in(daint: Plain) -> None:
    """`ssh -G` and `ssh -O` ask: without a master they start none."""
    assert b"controlpath " in daint.ssh("-G", "daint").stdout
    assert daint.ssh("-O", "check", "daint").returncode == 255
    assert daint.ssh("-G", "-p", str(daint.node.port), "daint").returncode == 0
    assert daint.node.connections() == 0
    daint.ssh("daint", "true")
    assert b"Master running" in daint.ssh("-O", "check", "daint").stderr


def test_through_a_shared_jump_host(daint: Plain, keep: Keep) -> None:
    """`ssh -J daint inner`, and a ProxyJump that names it: both go through the master of the jump host."""
    inner = keep(Sandbox("inner"))
    with daint.config.open("a") as file:
        file.write(f"\n{inner.ssh_config.read_text()}")
    for _ in range(2):
        assert daint.ssh("-J", "daint", "inner", "echo words").stdout == b"words\n"
    assert daint.logins() == 1


def test_login_behind_a_shared_jump_host(daint: Plain, keep: Keep) -> None:
    """Our own login passes through the jump host's master, however it is made; what it opens stays."""
    inner = keep(Sandbox("inner"))
    with daint.config.open("a") as file:
        file.write(f"\n{inner.ssh_config.read_text()}ProxyJump daint\n")
    assert daint.ssh("daint", "true").returncode == 0
    # nobody may be asked: by a terminal of its own
    assert ossh("login", "-F", daint.config, "inner").returncode == 0
    _check_stays(daint, inner)
    # a rule may: by a program
    write_settings(rule("nothing", '{ command = ["true"] }', host="inner"))
    assert ossh("login", "-F", daint.config, "inner").returncode == 0
    _check_stays(daint, inner)
    # a person may: by the terminal
    login = pexpect.spawn(str(OSSH), ["login", "-F", str(daint.config), "inner"], timeout=30)
    login.expect(pexpect.EOF)
    login.close()
    assert login.exitstatus == 0
    _check_stays(daint, inner)
    assert (daint.logins(), inner.authentications()) == (1, 3)


def _check_stays(plain: Plain, inner: Sandbox) -> None:
    """The master of a host behind another one works after the login has ended; it is logged out then."""
    for _ in range(3):
        done = ossh_run("--no-login", "-F", plain.config, inner.host, "echo words")
        assert done.stdout == b"words\n", done
    assert ossh("logout", "-F", plain.config, inner.host).returncode == 0


REFUSED = (
    (["-S", "none"], b"ControlPath=none would connect on its own"),
    (["-oControlPath none"], b"ControlPath=none would connect on its own"),
    (["-M"], b"would open a master of its own"),
    (["-o", "controlmaster=yes"], b"would open a master of its own"),
)


def test_refused(daint: Plain) -> None:
    """What would connect by itself is refused with the reason, and dials nobody."""
    for words, told in REFUSED:
        done = daint.ssh(*words, "daint", "true")
        assert done.returncode == 255
        first, second, *_ = done.stderr.splitlines()
        assert told in first
        # the second from 9.5 on, the third if ssh writes after its ProxyCommand has ended
        ssh_says = (b"kex_exchange_identification", b"Connection closed by ", b"banner exchange: ")
        assert second.startswith(ssh_says)
    assert daint.node.connections() == 0


def test_control_path_of_the_caller(daint: Plain, isolated: Path) -> None:
    """A program that brings its own ControlPath, as TRAMP does, rides by a link; also when that is stale."""
    own = ["-oControlMaster=auto", "-oControlPersist=no", f"-oControlPath={isolated}/t.%C"]
    for logins in (1, 2):
        for _ in range(2):
            assert daint.ssh(*own, "daint", "echo words").stdout == b"words\n"
        assert daint.logins() == logins
        kill_master(daint)
    (link,) = isolated.glob("t.*")
    assert link.is_symlink()


def test_hook_that_is_gone(daint: Plain) -> None:
    """Without the hook, or with a shell that runs nothing, ssh fails; it never dials."""
    for shell in ("/bin/false", "/nonexistent"):
        assert daint.ssh("daint", "true", SHELL=shell).returncode == 255
    assert daint.node.connections() == 0
    included = shared_file(daint.config)
    included.write_text(included.read_text().replace("ossh-hook ", "ossh-gone "))
    assert daint.ssh("daint", "true").returncode == 255
    assert daint.node.connections() == 0


def test_another_runtime_directory(daint: Plain, isolated: Path) -> None:
    """The block's counts, whatever cron says; without it no login is spent on a master that ssh misses."""
    (isolated / "other").mkdir(mode=0o700)
    for other in (str(isolated / "other"), "", "/nonexistent"):
        assert daint.ssh("daint", "echo words", XDG_RUNTIME_DIR=other).stdout == b"words\n"
        assert daint.ssh("daint", "echo words").stdout == b"words\n"
        kill_master(daint)
    assert daint.logins() == 3
    included = shared_file(daint.config)
    names = f"{runtime()}/names/daint"
    included.write_text(included.read_text().replace(f" {names}", f" /nonexistent{names}"))
    done = daint.ssh("daint", "true")
    assert (done.returncode, b"run: ossh share -F" in done.stderr) == (255, True)
    assert daint.logins() == daint.node.connections() == 3


def test_user_names_run_nothing(daint: Plain, tmp_path: Path) -> None:
    """Whatever a URL gives for a user's name, no shell of ours runs it."""
    trap = tmp_path / "trap"
    for user in ("$(touch {})", "x;touch {};", "x`touch {}`", "a\nb|touch {}"):
        daint.ssh("-oBatchMode=yes", "-l", user.format(trap), "daint", "true")
    assert not trap.exists()
    assert daint.logins() == 0


def test_our_own_calls(daint: Plain, tmp_path: Path) -> None:
    """What we do ourselves works through the block as without it, and is guarded as before."""
    line = shlex.split(ossh("ssh-command", "-F", daint.config, "daint").stdout.decode())
    assert run([*line, "true"], None, 60).returncode == 255
    assert daint.node.connections() == 0
    (tmp_path / "file").write_text("words\n")
    with Transport("daint", ssh_config=daint.config) as transport:
        assert transport.run("echo words", text=True).stdout == "words\n"
        transport.put(tmp_path / "file", daint.node.directory / "there")
        assert transport.read_text(daint.node.directory / "there") == "words\n"
        kill_master(daint)
        assert transport.run("echo words", text=True).stdout == "words\n"
    assert ossh_run("-F", daint.config, "daint", "echo words").stdout == b"words\n"
    assert daint.logins() == 2


def test_own_connection(daint: Plain) -> None:
    """`OSSH_SHARE=no` connects by itself, as before."""
    assert daint.ssh("daint", "true", OSSH_SHARE="no").returncode == 0
    assert not status(daint.config)


# -- the files ------------------------------------------------------------------------------------------


def test_nobody_confirms(node: Sandbox, tmp_path: Path) -> None:
    """Without a terminal it shows what it would do, and writes nothing without --yes."""
    config = tmp_path / "config"
    config.write_text(node.ssh_config.read_text())
    before = config.read_bytes()
    done = ossh("share", "-F", config, node.host)
    assert done.returncode == 255
    assert b"+Include " in done.stdout
    assert b"--yes" in done.stderr
    assert ossh("share", "-F", config, "--dry-run", node.host).returncode == 0
    assert config.read_bytes() == before
    assert not shared_file(config).exists()


def test_back_again(node: Sandbox, tmp_path: Path) -> None:
    """A person confirms at a terminal; `unshare` leaves each byte as it was, also behind a link."""
    real, config = tmp_path / "dotfiles", tmp_path / "config"
    real.write_text(node.ssh_config.read_text())
    config.symlink_to(real)
    before = real.read_bytes()
    for word, included in (("share", True), ("unshare", False)):
        asked = pexpect.spawn(str(OSSH), [word, "-F", str(config), node.host], timeout=30)
        asked.expect("y/N")
        asked.sendline("y")
        asked.expect(pexpect.EOF)
        asked.close()
        assert asked.exitstatus == 0
        assert real.read_bytes().startswith(b"Include ") == included
    assert real.read_bytes() == before
    assert config.is_symlink()
    assert not shared_file(config).exists()
    assert list(tmp_path.glob("dotfiles.before-ossh-*"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mistyped", b"no Host block for mistyped"),
        ("me@daint", b"cannot be shared"),
        ("*.example.org", b"cannot be shared"),
        ("nowhere.invalid", b"has no HostName"),
    ],
)
def test_names_that_mean_nothing(node: Sandbox, tmp_path: Path, name: str, told: bytes) -> None:
    """A name that nobody has written, and one that leads nowhere, are refused."""
    config = tmp_path / "config"
    config.write_text(
        f"{node.ssh_config.read_text()}\nHost nowhere.*\n    User me\nHost *\n    Compression no\n"
    )
    done = ossh("share", "--yes", "-F", config, name)
    assert (done.returncode, done.stdout) == (255, b"")
    assert told in done.stderr


def test_include_that_is_not_first(daint: Plain) -> None:
    """`ossh doctor` says so; to share the name again puts the line in its place."""
    first, _, rest = daint.config.read_text().partition("\n")
    for text, told in (
        (f"ControlMaster no\n{first}\n{rest}", "no longer first"),
        (rest, "no longer includes"),
    ):
        daint.config.write_text(text)
        (link,) = _doctor(daint, "ssh_config")
        assert (link["state"], link["advice"]) == ("warning", f"run: ossh share -F {daint.config} daint")
        assert told in link["seen"]
        assert ossh("share", "--yes", "-F", daint.config, "daint").returncode == 0
        assert daint.config.read_text().startswith(f"{first}\n")
    assert [link["state"] for link in _doctor(daint, "ssh_config")] == ["fine"]


def _doctor(plain: Plain, link: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(ossh("doctor", "--json", "-F", plain.config, "daint").stdout)
    return [one for one in found if one["link"] == link]


def test_two_names(daint: Plain, keep: Keep) -> None:
    """Each name has its block; one that goes leaves the other."""
    other = keep(Sandbox("eiger"))
    with daint.config.open("a") as file:
        file.write(f"\n{other.ssh_config.read_text()}")
    assert ossh("share", "--yes", "-F", daint.config, "eiger", "daint").returncode == 0
    assert daint.ssh("eiger", "true").returncode == 0
    assert ossh("unshare", "--yes", "-F", daint.config, "daint").returncode == 0
    assert b"Match originalhost eiger" in shared_file(daint.config).read_bytes()
    assert b"daint is not shared" in ossh("unshare", "--yes", "-F", daint.config, "daint").stderr


@pytest.mark.parametrize("text", ["", "Host a\n", "# mine\n\nHost a\n", "\nHost a", "Compression yes\n"])
def test_include_is_first_and_goes(text: str) -> None:
    """The line is the first, once, and leaves nothing behind."""
    file = Path("/home/me/.config/opensshtransport/ssh_config")
    shared = with_include(text, file)
    assert shared.startswith(f"Include {file}\n")
    assert with_include(shared, file) == shared
    assert with_include(f"Host b\n{shared}", file).startswith("Include ")
    assert without_include(shared, file) == text


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a,b", "a%h", "a'b", "[::1]", "a*", "ssh://a"])
def test_names_that_no_block_can_have(name: str) -> None:
    """What cannot are in the block is refused."""
    with pytest.raises(SettingsError):
        check_name(name)


def test_ossh_run_stays_quick(daint: Plain) -> None:
    """The block is no reason for `ossh-run` to ask `ssh -G` at each call: it decides nothing there."""
    assert ossh("login", "-F", daint.config, "daint").returncode == 0
    (alias,) = (runtime() / "names").glob("daint*")
    # once the file's time is old enough to tell of a change
    os.utime(daint.config, (1, 1))
    os.utime(shared_file(daint.config), (1, 1))
    assert ossh("login", "-F", daint.config, "daint").returncode == 0
    assert " -G " not in alias.read_text()


def test_behind_our_own_jump_host(make_chain: MakeChain) -> None:
    """A login through a shared jump host without a master goes on as if that were not shared."""
    chain = make_chain("key", "key")
    front, target = chain.nodes
    config = chain.config()
    done = ossh("share", "--yes", "-F", config, front.host)
    assert done.returncode == 0, done.stderr
    assert ossh("login", "-F", config, target.host).returncode == 0
    assert (front.authentications(), target.authentications()) == (1, 1)
    assert [row["host"] for row in status(config)] == [target.host]
