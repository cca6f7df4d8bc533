"""The sandbox, by logging in to it: what it asks, what it counts, and that nothing of it is left."""

from __future__ import annotations

import base64
import os
import pwd
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from opensshtransport.cli.sandbox import run_sandbox
from opensshtransport.errors import SettingsError, ToolMissing
from opensshtransport.sandbox import Sandbox, SandboxError, SecondFactor, find_sshd, totp
from tests.support.users import User, missing_for_users, temporary_user, wait_until


def _unless(reason: str) -> None:
    """Skip for a reason, if there is one; where everything must be there, fail."""
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def _sshd() -> None:
    try:
        find_sshd()
    except ToolMissing as error:
        _unless(str(error))


@pytest.fixture
def coded() -> Iterator[Sandbox]:
    """A node that asks for a code."""
    if os.geteuid() != 0:
        pytest.skip("only root's sshd can ask PAM for a code")
    try:
        with Sandbox(second_factor="code") as node:
            yield node
    except ToolMissing as error:
        _unless(str(error))


@pytest.fixture
def user() -> Iterator[User]:
    """A user of the system that is not root."""
    if os.geteuid() != 0:
        pytest.skip(missing_for_users())
    _unless(missing_for_users())
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with temporary_user(Path(directory)) as made:
            yield made


def ssh(node: Sandbox, *command: str) -> list[str]:
    """The command line of one ssh that asks nothing."""
    return ["ssh", "-o", "BatchMode=yes", "-F", str(node.ssh_config), node.host, *command]


def output(node: Sandbox, *command: str) -> str:
    """What a remote command prints, logging in anew."""
    return subprocess.run(ssh(node, *command), capture_output=True, text=True, check=True, timeout=20).stdout


def login(node: Sandbox, prompt: str, answer: str) -> bool:
    """Log in by answering one prompt at a terminal, and tell whether that was let in."""
    argv = ["-o", "NumberOfPasswordPrompts=1", "-F", str(node.ssh_config), node.host, "echo welcome"]
    # A code comes back to ssh after a second: PAM is slow to refuse.
    client = pexpect.spawn("ssh", argv, encoding="utf-8", timeout=20)
    try:
        client.expect(prompt)
        client.sendline(answer)
        return client.expect(["welcome", "Permission denied"]) == 0
    finally:
        client.close(force=True)


def processes_naming(text: str | Path) -> list[int]:
    """Every living process whose command line has the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(text).encode() in line:
                found.append(int(entry.name))
    return found


def assert_nothing_left(directory: Path) -> None:
    """Neither the directory nor the PAM service nor a process of a sandbox is there."""
    assert not directory.exists()
    assert not Path("/etc/pam.d", f"sshd-{directory.name}").exists()
    assert processes_naming(directory) == []


def as_user(user: User, body: Callable[[], object]) -> str:
    """Run a function in a child that has become the user; give what went wrong there, or an empty text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # What Python is made of may lie where only root can read, so nothing is started anew.
        wrong = "never began"
        try:
            os.setgroups([])
            os.setgid(user.uid)
            os.setuid(user.uid)
            os.chdir("/")
            body()
            wrong = ""
        except BaseException:
            wrong = traceback.format_exc()
        finally:
            os.write(writer, wrong.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        wrong = said.read()
    os.waitpid(child, 0)
    return wrong


def test_a_login_works_and_is_counted() -> None:
    """ssh logs in with nothing but `-F` and the alias; logins and mere connections are counted apart."""
    with Sandbox() as node:
        assert (node.authentications(), node.connections()) == (0, 0)
        assert output(node, "id -un").strip() == node.user == pwd.getpwuid(os.geteuid()).pw_name
        assert (node.authentications(), node.connections()) == (1, 1)
        with socket.create_connection(("127.0.0.1", node.port)) as plain:
            assert plain.recv(4) == b"SSH-"
        wait_until(lambda: node.connections() == 2)
        assert node.authentications() == 1
        assert node.directory.stat().st_mode & 0o777 == 0o700


def test_a_terminal_and_files_work() -> None:
    """A session may have a terminal, and sftp is served."""
    with Sandbox() as node:
        # A plain user's sshd cannot give a terminal to the group tty; where the system does, it need not.
        if os.geteuid() == 0 or "gid=5" in Path("/proc/mounts").read_text():
            assert "/dev/" in output(node, "-tt", "tty")
        copy = node.directory / "copy"
        argv = ["scp", "-q", "-F", str(node.ssh_config), f"{node.host}:{node.log}", str(copy)]
        subprocess.run(argv, check=True, timeout=20)
        assert copy.read_text().startswith("Server listening on")


def test_twenty_logins_at_once_are_all_served() -> None:
    """No login is dropped for coming with others, as sshd's own MaxStartups would."""
    with Sandbox() as node:
        clients = [subprocess.Popen(ssh(node, "true"), stderr=subprocess.PIPE) for _ in range(20)]
        said = [client.communicate(timeout=60)[1] for client in clients]
        assert [client.returncode for client in clients] == [0] * 20, said
        assert node.authentications() == 20


def test_a_code_is_asked_for_and_taken_once(coded: Sandbox) -> None:
    """The right code after the key lets in, a wrong one and the same one again do not; one login each."""
    prompt = rf"\({coded.user}@{coded.host}\) One-time password .*: "
    first = coded.code()
    assert login(coded, prompt, first)
    assert (coded.authentications(), coded.connections()) == (1, 1)
    assert not login(coded, prompt, first)
    wrong = "000000" if coded.code() != "000000" else "111111"
    assert not login(coded, prompt, wrong)
    assert (coded.authentications(), coded.connections()) == (1, 3)
    assert login(coded, prompt, coded.code(ahead=1))
    assert coded.authentications() == 2


def test_the_key_alone_is_not_enough_where_a_code_is_asked_for(coded: Sandbox) -> None:
    """Without a person, the login fails and names the second factor, and is not counted."""
    done = subprocess.run(ssh(coded, "true"), capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 255
    assert "Permission denied (keyboard-interactive)" in done.stderr
    assert coded.authentications() == 0


def test_a_program_prints_the_present_code(coded: Sandbox) -> None:
    """Scripts get the code from a program of the sandbox, and secrets stay out of its `repr`."""
    before = coded.code()
    done = subprocess.run([coded.answer_command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() in {before, coded.code()}
    assert coded.totp_secret not in repr(coded)


def test_a_passphrase_is_asked_for() -> None:
    """The key opens with its passphrase only, which the answering program prints too."""
    with Sandbox(second_factor="passphrase") as node:
        prompt = "Enter passphrase for key .*: "
        assert not login(node, prompt, "wrong")
        assert login(node, prompt, node.passphrase)
        assert node.authentications() == 1
        done = subprocess.run([node.answer_command], capture_output=True, text=True, check=True, timeout=20)
        assert done.stdout.strip() == node.passphrase
        assert node.passphrase not in repr(node)


def test_codes_are_those_of_the_rfc() -> None:
    """The codes are the last six digits of RFC 6238, appendix B, and pyotp's."""
    secret = base64.b32encode(b"12345678901234567890").decode()
    expected = {59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"}
    assert {at: totp(secret, at=at) for at in expected} == expected
    pyotp = pytest.importorskip("pyotp")
    assert totp(secret, at=1111111109, ahead=2) == pyotp.TOTP(secret).at(1111111109 + 60)


@pytest.mark.parametrize("second_factor", ["none", "code", "passphrase"])
def test_nothing_is_left(second_factor: SecondFactor) -> None:
    """After the block, directory, PAM service and processes are gone."""
    if second_factor == "code" and os.geteuid() != 0:
        pytest.skip("only root's sshd can ask PAM for a code")
    with Sandbox(second_factor=second_factor) as node:
        assert processes_naming(node.directory)
        if second_factor == "code":
            assert Path("/etc/pam.d", f"sshd-{node.directory.name}").exists()
    assert_nothing_left(node.directory)
    node.close()


def test_nothing_is_left_after_an_exception_with_commands_running() -> None:
    """An exception in the block ends logins and their commands too, even one that ignores SIGTERM."""
    node = Sandbox()

    def fail_while_a_command_runs() -> None:
        with node:
            stubborn = f"trap '' TERM HUP PIPE; echo up; while :; do sleep 0.1; : {node.directory}; done"
            client = subprocess.Popen(ssh(node, stubborn), stdout=subprocess.PIPE)
            clients.append(client)
            assert client.stdout
            assert client.stdout.readline() == b"up\n"
            raise RuntimeError("mine")

    clients: list[subprocess.Popen[bytes]] = []
    with pytest.raises(RuntimeError, match="mine"):
        fail_while_a_command_runs()
    with clients[0] as client:
        assert client.wait(10) == 255
    assert_nothing_left(node.directory)


def test_nothing_is_left_by_a_program_that_forgets() -> None:
    """A program that never closes its sandbox leaves nothing when it ends."""
    program = "from opensshtransport.sandbox import Sandbox; print(Sandbox().__enter__().directory)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert_nothing_left(Path(done.stdout.strip()))


def test_a_fork_does_not_close_it() -> None:
    """A child that inherits the sandbox and ends leaves it alone."""
    with Sandbox() as node:
        child = os.fork()
        if child == 0:
            node.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert output(node, "echo here") == "here\n"


def test_two_stand_side_by_side() -> None:
    """Two sandboxes have their own ports, keys and logs."""
    with Sandbox("one") as one, Sandbox("two") as two:
        assert (output(one, "echo 1"), output(two, "echo 2")) == ("1\n", "2\n")
        assert (one.authentications(), two.authentications()) == (1, 1)
        assert one.port != two.port


def test_restart_keeps_the_port_and_ends_the_logins() -> None:
    """A stopped node is gone for its clients; restarted, it is the same node for ssh, and its log goes on."""
    with Sandbox() as node:
        port, first = node.port, node.server_pid
        with subprocess.Popen(ssh(node, "echo up; exec sleep 1000"), stdout=subprocess.PIPE) as client:
            assert client.stdout
            assert client.stdout.readline() == b"up\n"
            node.stop()
            assert client.wait(10) == 255
        with pytest.raises(SandboxError):
            _ = node.server_pid
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        node.restart()
        assert (node.port, output(node, "echo again")) == (port, "again\n")
        assert node.server_pid != first
        assert node.authentications() == 2


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another server has the port, the sandbox takes another one."""
    with Sandbox() as first:
        free = first.port + 1
        choices = iter([first.port, first.port, *range(free, free + 100)])
        monkeypatch.setattr(secrets, "choice", lambda _: next(choices))
        with Sandbox() as second:
            assert second.port >= free
            assert output(second, "echo here") == "here\n"


def test_options_replace_ours_in_any_case() -> None:
    """An option given replaces the one that is written by default, however it is spelled."""
    with Sandbox(
        server_options={"subsystem": "sftp /bin/false", "ForceCommand": "echo forced"},
        client_options={"stricthostkeychecking": "accept-new", "ServerAliveInterval": "7"},
    ) as node:
        assert output(node, "echo asked") == "forced\n"
        argv = ["ssh", "-G", "-F", str(node.ssh_config), node.host]
        told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout
        assert "stricthostkeychecking accept-new" in told
        assert "serveraliveinterval 7" in told


def test_a_wrong_server_option_is_named() -> None:
    """sshd's own words tell why it did not start, and nothing is left."""
    with (
        pytest.raises(SandboxError, match="NoSuchOption") as caught,
        Sandbox(server_options={"NoSuchOption": "1"}),
    ):
        pytest.fail("it started")
    config = Path(caught.value.argv[caught.value.argv.index("-f") + 1])
    assert_nothing_left(config.parent)


@pytest.mark.parametrize(
    ("host", "second_factor"), [("-oProxyCommand=x", "none"), ("", "none"), ("a b", "none"), ("ok", "push")]
)
def test_wrong_arguments_are_refused(host: str, second_factor: SecondFactor) -> None:
    """A name that ssh would take for an option, or an unknown factor, is refused before anything is made."""
    with pytest.raises(SettingsError):
        Sandbox(host, second_factor=second_factor)


@pytest.mark.parametrize("second_factor", ["none", "passphrase"])
def test_a_plain_user_has_it_too(user: User, second_factor: SecondFactor) -> None:
    """Without root it serves its own user, and leaves nothing."""

    def body() -> None:
        with Sandbox(second_factor=second_factor) as node:
            assert node.user == user.name
            if second_factor == "none":
                assert output(node, "id -un").strip() == user.name
            else:
                assert login(node, "Enter passphrase", node.passphrase)
            assert node.authentications() == 1
        assert_nothing_left(node.directory)

    assert as_user(user, body) == ""


def test_a_plain_user_is_told_what_needs_root(user: User) -> None:
    """A code, or another user, is refused at once without root."""

    def body() -> None:
        for wanted in ({"second_factor": "code"}, {"user": "root"}):
            with pytest.raises(SettingsError, match="root"):
                Sandbox(**wanted)  # type: ignore[arg-type]  # one of two arguments

    assert as_user(user, body) == ""


@pytest.mark.parametrize("second_factor", ["none", "code"])
def test_root_can_let_in_another_user(user: User, second_factor: SecondFactor) -> None:
    """Root's sandbox serves any user, even one whose password is locked."""
    subprocess.run(["usermod", "--lock", user.name], check=True)
    with Sandbox(user=user.name, second_factor=second_factor) as node:
        if second_factor == "code":
            assert login(node, "One-time password", node.code())
        else:
            assert output(node, "id -un").strip() == user.name
        assert node.authentications() == 1
    assert_nothing_left(node.directory)


COMMAND = """
ssh -o BatchMode=yes -F "$OSSH_SANDBOX_CONFIG" "$OSSH_SANDBOX_HOST" true &&
grep -q 'Accepted publickey' "$OSSH_SANDBOX_LOG" && test -z "$OSSH_SANDBOX_CODE_COMMAND" && exit 7
"""


@pytest.mark.parametrize(
    ("command", "status"),
    [(["sh", "-c", COMMAND], 7), (["sh", "-c", "kill -9 $$"], 137), (["/no/such/program"], 127)],
)
def test_a_command_runs_beside_it(command: list[str], status: int) -> None:
    """The command finds the node by its environment, and its exit status is ours."""
    assert run_sandbox(command) == status


def test_the_command_gets_what_the_login_asks_for(tmp_path: Path) -> None:
    """The environment names a program that prints the answer."""
    kept = tmp_path / "kept"
    assert run_sandbox(["sh", "-c", f'"$OSSH_SANDBOX_CODE_COMMAND" >{kept}'], second_factor="passphrase") == 0
    assert re.fullmatch(r"[0-9a-f]{8}\n", kept.read_text())


@pytest.mark.parametrize(
    ("end", "status"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0), (None, 0)],
    ids=["SIGTERM", "SIGHUP", "Ctrl-C", "end of stdin"],
)
@pytest.mark.parametrize("second_factor", ["none", "code"])
def test_it_waits_until_told_to_end(
    second_factor: SecondFactor, end: signal.Signals | None, status: int
) -> None:
    """Without a command it prints how to reach it, lasts until told to end, and leaves nothing."""
    if second_factor == "code" and os.geteuid() != 0:
        pytest.skip("only root's sshd can ask PAM for a code")
    program = f"""
import sys
from opensshtransport.cli.sandbox import run_sandbox
sys.exit(run_sandbox(second_factor={second_factor!r}))
"""
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdin
        assert shown.stdout
        said = ""
        while "Ctrl-C ends it." not in said:
            line = shown.stdout.readline()
            assert line, said
            said += line
        config = re.search(r"ssh -F (\S+)/ssh_config sandbox", said)
        assert config, said
        directory = Path(config[1])
        assert processes_naming(directory)
        if end is None:
            shown.stdin.close()
        else:
            shown.send_signal(end)
        assert shown.wait(20) == status
    assert_nothing_left(directory)


def test_sigterm_ends_the_command_too(tmp_path: Path) -> None:
    """SIGTERM is passed on to the command that runs with it."""
    mark = tmp_path / "mark"
    beside = f"trap 'echo ended >>{mark}; exit' TERM; echo $OSSH_SANDBOX_CONFIG; while :; do sleep 0.05; done"
    program = (
        "import sys; from opensshtransport.cli.sandbox import run_sandbox as run; sys.exit(run(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", program, "sh", "-c", beside]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout
        config = Path(shown.stdout.readline().strip())
        shown.terminate()
        assert shown.wait(20) == 143
    assert mark.read_text() == "ended\n"
    assert_nothing_left(config.parent)
