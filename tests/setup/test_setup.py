"""`ossh setup`: from nothing to a working login; and every file as it was, but for what was shown."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from opensshtransport.errors import SettingsError
from opensshtransport.local.settings import load
from opensshtransport.openssh import destination, ssh_config
from opensshtransport.openssh.ssh_config import with_block
from opensshtransport.sandbox import Sandbox
from opensshtransport.setup import plan
from opensshtransport.setup.config_toml import with_settings
from opensshtransport.setup.plan import Hop, parse_hop, way
from tests.conftest import Keep, MakeUser, require
from tests.login.test_secrets import KEYRING, with_modules
from tests.support.homes import Home, empty_home, missing_for_homes
from tests.support.jumps import _network
from tests.support.kerberos import KerberosNode
from tests.support.nodes import Node, missing_programs
from tests.support.pam_nodes import missing_for_pam
from tests.support.programs import OSSH, OSSH_RUN, ossh, write_settings
from tests.support.users import User

# -- from an empty home directory ----------------------------------------------------------------------

PASSWORDS = ("first horse", "second battery", "third staple")
PASSPHRASE = "correct horse"


class PasswordNode(Node):
    """Lets in its own user, by the password or by a key of the user's own file."""

    def __init__(self, name: str, user: User, namespace: str, address: str) -> None:
        # behind others it has an address of its own, and else a port
        listening = {"ListenAddress": f"{address}:22"} if namespace else {}
        super().__init__(
            name,
            user.name,
            pam=lambda _: "auth required pam_unix.so nodelay\n",
            namespace=namespace,
            server_options={
                **listening,
                "AuthenticationMethods": "publickey password",
                "PasswordAuthentication": "yes",
                "KbdInteractiveAuthentication": "no",
                "AuthorizedKeysCommand": "none",
                "AuthorizedKeysFile": ".ssh/authorized_keys",
                "SetEnv": f"PATH={user.home}/bin:/usr/bin:/bin",
            },
            client_options={"HostName": address, "Port": "22"} if namespace else {},
        )
        self.address = address

    @property
    def fingerprint(self) -> str:
        """The host key's, as ssh shows it."""
        argv: list[str | Path] = ["ssh-keygen", "-l", "-f", self.directory / "host_key.pub"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]


@dataclass(frozen=True, slots=True)
class Centre:
    """Two jump hosts and the login node behind them; and a person with an empty home directory."""

    nodes: tuple[PasswordNode, ...]
    home: Home

    def spawn(self, *argv: str | Path) -> pexpect.spawn[str]:
        """Start a program as that person, at a terminal."""
        prefix = self.home.prefix
        return pexpect.spawn(
            prefix[0],
            [*prefix[1:], *map(str, argv)],
            env=self.home.environment,
            encoding="utf-8",
            timeout=40,
            dimensions=(50, 200),
        )


@pytest.fixture
def centre(isolated: Path, make_user: MakeUser) -> Iterator[Centre]:
    """A centre that asks for a password at each of three hops, with `squeue` at the end."""
    require(missing_for_pam("pam_unix") or missing_programs("ssh-copy-id") or missing_for_homes())
    users = [make_user(password=password) for password in PASSWORDS]
    squeue = users[-1].home / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\n[ $# -gt 0 ] || echo 4711 RUNNING\n")
    squeue.chmod(0o755)
    for path in (squeue, squeue.parent):
        os.chown(path, users[-1].uid, users[-1].uid)
    with ExitStack() as stack:
        places = stack.enter_context(_network(len(users)))
        names = ("jump1", "jump2", "far")
        nodes = tuple(
            PasswordNode(name, user, *place) for name, user, place in zip(names, users, places, strict=True)
        )
        for node in nodes:
            stack.enter_context(node)
        yield Centre(nodes, empty_home(isolated))


def test_from_an_empty_home_directory(centre: Centre) -> None:
    """From nothing to `ossh-run far squeue` through two jump hosts that ask for passwords.

    A person at a terminal answers; each password is asked for once, each host key is shown to be confirmed.
    Run again, with nothing but Enter, it asks no secret, changes no file and logs in nowhere.
    """
    one, two, target = centre.nodes
    child = centre.spawn(OSSH, "setup", "far")

    def answer(prompt: str, text: str) -> None:
        child.expect_exact(prompt)
        child.sendline(text)

    answer("Host name of the login node [far]: ", target.address)
    answer("]: ", target.user)
    answer("Jump hosts", f"jump1={one.user}@{one.address} jump2={two.user}@{two.address}")
    answer("[key]: ", "")
    answer("[~/.ssh/id_ed25519]: ", "")
    answer("Protect it with a passphrase? [Y/n]: ", "")
    answer("Enter passphrase", PASSPHRASE)
    answer("again: ", PASSPHRASE)
    answer("Enter passphrase for ", PASSPHRASE)
    for node, password in zip(centre.nodes, PASSWORDS, strict=True):
        child.expect_exact(f"compare the fingerprint of {node.host}")
        child.expect_exact(node.fingerprint)
        answer("(yes/no/[fingerprint])? ", "yes")
        answer("'s password: ", password)
    answer("(ossh share)? [y/N]: ", "")
    child.expect(pexpect.EOF)
    child.close()
    said = str(child.before)
    assert child.exitstatus == 0, said
    assert re.search(r"\d+ fine\s*$", said), said
    for secret in (*PASSWORDS, PASSPHRASE):
        assert secret not in said

    done = centre.home.run(OSSH_RUN, "far", "squeue")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4711 RUNNING\n", "")
    top = centre.home.path / ".ssh"
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    assert {stat.S_IMODE((top / name).stat().st_mode) for name in ("config", "id_ed25519")} == {0o600}

    before, logins = centre.home.files(), [node.authentications() for node in centre.nodes]
    child = centre.spawn(OSSH, "setup", "far")
    for prompt in (
        f"[{target.address}]: ",
        f"[{target.user}]: ",
        "[jump1 jump2]: ",
        "[key]: ",
        "id_ed25519]: ",
    ):
        answer(prompt, "")
    child.expect_exact("far: ssh_config already says so")
    answer("(ossh share)? [y/N]: ", "")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    assert centre.home.files() == before
    assert [node.authentications() for node in centre.nodes] == logins


# -- options, files ------------------------------------------------------------------------------------


@pytest.fixture
def config(isolated: Path) -> Path:
    """A configuration that keeps host keys out of the person's own file."""
    path = isolated / "ssh_config"
    path.write_text(f"Host *\n    UserKnownHostsFile {isolated}/known_hosts\n    GlobalKnownHostsFile none\n")
    return path


Options = tuple[str | Path, ...]


def setup(config: Path, *options: str | Path) -> tuple[int, str, str]:
    """Run `ossh setup` without a terminal: status, stdout, stderr."""
    done = ossh("setup", "-F", config, *options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def known(node: Sandbox, config: Path) -> None:
    """Make the node's host key known to a configuration."""
    key = (node.directory / "host_key.pub").read_text()
    (config.parent / "known_hosts").write_text(f"[127.0.0.1]:{node.port} {key}")


def place(node: Sandbox) -> tuple[str, ...]:
    """The options that lead to a node."""
    return "--hostname", f"127.0.0.1:{node.port}", "--user", node.user


def by_key(node: Sandbox) -> Options:
    """The options for a node whose key is there, and is known to the server."""
    return (*place(node), "--key", node.directory / "id_ed25519", "--no-copy")


def test_by_options_alone(node: Sandbox, config: Path) -> None:
    """With options for everything nothing is asked; the second time nothing is changed."""
    known(node, config)
    options: Options = (*by_key(node), "centre")
    status, said, errors = setup(config, *options)
    assert status in {0, 1, 2}, errors
    assert "\nfine    master " in said
    assert ossh("run", "-F", config, "centre", "echo", "there").stdout == b"there\n"
    assert destination.resolve("centre", config).resolved.get("userknownhostsfile").endswith("/known_hosts")
    before = config.stat()
    assert "centre: ssh_config already says so" in setup(config, *options)[1]
    assert config.stat() == before
    assert len(list(config.parent.glob("ssh_config.before-ossh-*"))) == 1


def test_dry_run(isolated: Path, config: Path) -> None:
    """--dry-run shows what it would do, and changes nothing."""
    before = config.read_bytes(), sorted(isolated.rglob("*"))
    options: Options = ("--dry-run", "--hostname", "a.example", "--user", "me", "--jump", "j=me@b.example")
    status, said, errors = setup(config, *options, "--key", isolated / "key", "centre")
    assert (status, errors) == (0, "")
    assert "would run: ssh-keygen -t ed25519" in said
    assert "+Host centre\n+    HostName a.example\n+    User me\n+    ProxyJump j\n" in said
    assert said.index("id_ed25519" if "id_ed25519" in said else "key.pub") < said.index("centre\n", -10)
    assert re.search(r"would run: ssh-copy-id .* j\nwould run: ssh-copy-id .* centre\n", said)
    assert (config.read_bytes(), sorted(isolated.rglob("*"))) == before


def test_an_answer_that_cannot_be_used(isolated: Path, config: Path) -> None:
    """At a terminal an unusable answer is reported and asked again; previous answers are kept."""
    before = config.read_bytes()
    argv = ["setup", "--dry-run", "-F", str(config), "centre"]
    child = pexpect.spawn(str(OSSH), argv, encoding="utf-8", timeout=30)
    for question, answers in (
        ("login node", {"log in": "not a host", "login.example.org": ""}),
        ("User name", {"-x": "not a user name", "alice": ""}),
        ("Jump hosts", {"front front": "the same name", "centre": "the same name", "al@front": ""}),
        ("Log in by", {"magic": "not a way to log in", "key": ""}),
        ("Private key", {str(isolated / "key"): ""}),
    ):
        for answer, words in answers.items():
            child.expect_exact(question)
            child.expect_exact("]: ")
            child.sendline(answer)
            child.expect_exact(words)
    rest = child.read()
    child.close()
    assert child.exitstatus == 0, rest
    assert "HostName login.example.org" in rest
    assert "ProxyJump front" in rest
    assert config.read_bytes() == before


def test_new_key_without_a_passphrase(node: Sandbox, isolated: Path, config: Path) -> None:
    """A key is made as asked for, after a warning; without a person to type one, a passphrase is refused."""
    key = isolated / "new" / "id"
    options: Options = (
        "--hostname",
        "127.0.0.1:9",
        "--user",
        "me",
        "--key",
        key,
        "--type",
        "rsa",
        "--bits",
        "2048",
    )
    status, _, errors = setup(config, *options, "centre")
    assert (status, key.exists()) == (255, False)
    assert "a person must type the new key's passphrase" in errors
    host_key = (node.directory / "host_key.pub").read_text()
    (isolated / "known_hosts").write_text(f"[127.0.0.1]:9 {host_key}")
    status, said, errors = setup(config, *options, "--no-passphrase", "centre")
    assert "warning: anyone who can read a key file" in said
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True)
    assert made.stdout.startswith("2048 ")
    assert made.stdout.endswith("(RSA)\n")


def test_only_a_person_confirms_a_host_key(node: Sandbox, config: Path) -> None:
    """With --yes and nobody there, an unknown host key ends it, before any login."""
    logins, before = node.connections(), config.read_text()
    options: Options = (*place(node), "--key", node.directory / "id_ed25519", "--yes", "centre")
    status, _, errors = setup(config, *options)
    assert status == 255
    assert "the host key of centre is not known yet" in errors
    assert config.read_text() == before
    assert node.connections() == logins


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ((), "nobody to ask for --hostname and --user"),
        (("--hostname", "a.example"), "nobody to ask for --user"),
        (("--user", "me"), "nobody to ask for --hostname"),
        (("--hostname", "a.example", "--user", "me"), "a person must type the new key's passphrase"),
        (("--yes",), "a person must type the new key's passphrase"),
        (
            ("--hostname", "a.example", "--user", "me", "--no-passphrase"),
            "the host key of centre is not known yet",
        ),
        (
            ("--hostname", "a.example", "--user", "me", "--no-passphrase", "--jump", "b.example"),
            "the host key of b.example is not known yet",
        ),
        (
            ("--hostname", "a.example", "--user", "me", "--auth", "password", "--store", "pin"),
            "a person must type the PIN",
        ),
    ],
)
def test_options_that_do_not_suffice(
    isolated: Path, config: Path, options: Sequence[str], lacking: str
) -> None:
    """Without a terminal, and without what must be known, nothing is written: not a block, not a key."""
    before = config.read_bytes()
    key = () if "--auth" in options else ("--key", str(isolated / "key"))
    modules = with_modules(isolated / "modules", file_keyring=KEYRING)
    environment = {
        **modules,
        "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
        "HOME": str(isolated),
    }
    done = ossh("setup", "-F", config, *options, *key, "centre", env=environment)
    assert done.returncode == 255
    assert lacking in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert config.read_bytes() == before
    assert not (isolated / "key").exists()


def test_existing_block(node: Sandbox, config: Path) -> None:
    """A block is shown as a diff and changed only when told; what is not ours in it stays."""
    known(node, config)
    theirs = "Host centre\n  # my own\n  HostName old.example\n  ForwardAgent yes\n\n"
    config.write_text(theirs + config.read_text())
    before = config.read_text()
    options: Options = (*by_key(node), "--no-login", "centre")
    status, said, errors = setup(config, *options)
    assert status == 255
    assert "-  HostName old.example\n+  HostName 127.0.0.1\n" in said
    assert "has another block for centre (ossh help setup); give --yes" in errors
    assert config.read_text() == before
    assert setup(config, "--yes", *options)[0] in {0, 1}
    after = config.read_text()
    assert after.startswith("Host centre\n  # my own\n  HostName 127.0.0.1\n  ForwardAgent yes\n")
    assert after.endswith(before[len(theirs) - 1 :])
    (kept,) = config.parent.glob("ssh_config.before-ossh-*")
    assert kept.read_text() == before
    assert stat.S_IMODE(config.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_what_precedes_wins(node: Sandbox, config: Path) -> None:
    """Where something above gives another value the file is put back, and what is wrong is named."""
    known(node, config)
    config.write_text(f"User somebody\n{config.read_text()}")
    before = config.read_text()
    options: Options = (*by_key(node), "centre")
    status, _, errors = setup(config, *options)
    assert status == 255
    assert "something in it gives User somebody for centre" in errors
    assert config.read_text() == before


def test_block_in_an_included_file(node: Sandbox, config: Path, isolated: Path) -> None:
    """A block is changed in the file that contains it, and a link to a file stays a link."""
    known(node, config)
    real = isolated / "dotfiles"
    real.write_text("Host centre\n    HostName old.example\n")
    (isolated / "more").symlink_to(real)
    config.write_text(f"Include {isolated}/more\n{config.read_text()}")
    before = config.read_text()
    options: Options = (*by_key(node), "--no-login", "--yes")
    assert setup(config, *options, "centre")[0] in {0, 1}
    assert config.read_text() == before
    assert (isolated / "more").is_symlink()
    assert "HostName 127.0.0.1" in real.read_text()


def test_script_stands_in_our_settings(node: Sandbox, config: Path, isolated: Path) -> None:
    """What ssh_config does not know is written to config.toml; one that is of no use is not."""
    known(node, config)
    script = isolated / "get keys.sh"
    options: Options = (*place(node), "--key", node.directory / "id_ed25519", "--auth", "certificate")
    options += ("--script", str(script), "--no-login", "centre")
    status, _, errors = setup(config, *options)
    assert status == 255
    assert f"there is no {script}" in errors
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    assert setup(config, *options)[0] in {0, 1}
    assert load("centre").authentication_script == script
    assert "centre: config.toml already says so" in setup(config, *options)[1]


def test_kerberos(kerberos_node: KerberosNode, config: Path) -> None:
    """With a ticket, `--auth kerberos` leads to a login that works."""
    kerberos_node.get_ticket("1h")
    key = (kerberos_node.directory / "host_key.pub").read_text()
    (config.parent / "known_hosts").write_text(f"[localhost]:{kerberos_node.port} {key}")
    config.write_text(f"{config.read_text()}    AddressFamily inet\n")
    options: Options = ("--hostname", f"localhost:{kerberos_node.port}", "--user", kerberos_node.user)
    _, said, errors = setup(config, *options, "--auth", "kerberos", "centre")
    assert "\nfine    ticket            it is valid until " in said, errors
    assert "\nfine    master " in said


@pytest.fixture
def by_password(make_user: MakeUser, config: Path, keep: Keep) -> PasswordNode:
    """A node that asks for a password, known to the configuration."""
    require(missing_for_pam("pam_unix") or missing_programs("ssh-copy-id"))
    user = make_user(password=PASSWORDS[0])
    node = PasswordNode("centre", user, "", "127.0.0.1")
    keep(node)
    known(node, config)
    return node


def unattended(node: PasswordNode, config: Path, password: str) -> tuple[int, str, str]:
    """Set up unattended; a rule answers with this password."""
    stored = config.parent / "password"
    stored.write_text(f"{password}\n")
    answer = f'answer = {{ command = ["cat", "{stored}"] }}'
    write_settings(f"[[host.centre.prompts]]\nexpect = '(?i)password'\nhop = 'centre'\n{answer}\n")
    (config.parent / "home" / ".ssh").mkdir(parents=True, exist_ok=True)
    argv: Options = (*place(node), "--key", config.parent / "key", "--no-passphrase", "--yes", "centre")
    done = ossh("setup", "-F", config, *argv, env={"HOME": str(config.parent / "home")})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_rules_answer_while_the_key_is_copied(by_password: PasswordNode, config: Path) -> None:
    """A stored password lets the key be copied without a person; then the key alone is used."""
    status, said, errors = unattended(by_password, config, PASSWORDS[0])
    assert "\nfine    master " in said, (status, errors)
    log = by_password.log.read_text()
    assert log.count("Accepted password for") == 1
    assert log.count("Accepted publickey for") == 1


def test_wrong_password_is_counted(by_password: PasswordNode, config: Path) -> None:
    """A password that is refused is sent once, counted as a failed login, and not sent again at once."""
    status, _, errors = unattended(by_password, config, "wrong")
    assert status == 255
    assert "centre: 127.0.0.1 refused the password (" in errors
    assert by_password.log.read_text().count("Failed password for") == 1
    status, _, errors = unattended(by_password, config, "wrong")
    assert "no unattended login for" in errors
    assert by_password.log.read_text().count("Failed password for") == 1


def test_apple_s_keychain() -> None:
    """On macOS a key's passphrase is kept in the keychain, and other programs ignore the option."""
    options = list(plan.method_options("key", "darwin").items())
    assert options[-2:] == [("IgnoreUnknown", "UseKeychain"), ("UseKeychain", "yes")]
    assert "UseKeychain" not in plan.method_options("key", "linux")


def test_password_in_the_keyring(
    node: Sandbox, config: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret is typed unseen, kept in the keyring, and named in config.toml; the second time not asked."""
    writing = KEYRING.replace("raise keyring.errors.PasswordSetError", "_write(service, username, password)")
    writing += (
        "\ndef _write(service, username, password):\n"
        "    import pathlib\n"
        '    top = pathlib.Path(__file__).parent / "entries"\n'
        "    top.mkdir(exist_ok=True)\n"
        '    (top / f"{service}.{username}").write_text(password)\n'
    )
    for name, value in with_modules(isolated / "store", file_keyring=writing).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "file_keyring.FileKeyring")
    known(node, config)
    options = ["-F", str(config), *place(node), "--auth", "password", "--store", "password", "--yes"]
    argv = ["setup", *options, "--no-login", "centre"]
    child = pexpect.spawn(str(OSSH), argv, encoding="utf-8", timeout=30)
    child.expect_exact("assword of centre: ")
    child.sendline("hunter2")
    child.expect(pexpect.EOF)
    child.close()
    assert "hunter2" not in str(child.before)
    entry = f"opensshtransport.password of {node.user}@127.0.0.1"
    assert (isolated / "store" / "entries" / entry).read_text() == "hunter2"
    assert load("centre").password is not None
    done = ossh(*argv)
    assert b"already in the keyring" in done.stdout
    assert b"\nfine    secrets           1 resolvable\n" in done.stdout


# -- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("front", Hop("front", "front")),
        ("me@front.example", Hop("front.example", "front.example", "me")),
        ("front:2222", Hop("front", "front", "", 2222)),
        ("f=me@front.example:22", Hop("f", "front.example", "me")),
        ("f=[2001:db8::1]:99", Hop("f", "2001:db8::1", "", 99)),
    ],
)
def test_hops(text: str, hop: Hop) -> None:
    """A hop is [NAME=][USER@]HOST[:PORT]."""
    assert parse_hop(text) == hop


@pytest.mark.parametrize("text", ["", "-oProxyCommand=x", "a b", "me@", "host:port", "host:65536", "x=-l"])
def test_wrong_hops(text: str) -> None:
    """What is no host, or would be an option of ssh, is refused."""
    with pytest.raises(SettingsError):
        parse_hop(text)


def test_way_by_version(isolated: Path) -> None:
    """From OpenSSH 7.3 on there is ProxyJump; before, a ProxyCommand leads to the last jump host."""
    assert way([], (9, 2)) == {}
    assert way(["a", "b"], (7, 3))["ProxyJump"] == "a,b"
    assert way(["a", "b"], (7, 2)) == {"ProxyCommand": "ssh -W %h:%p b", "ProxyJump": None}
    assert way(["a"], (7, 2), Path("/x y"))["ProxyCommand"] == "ssh -F '/x y' -W %h:%p a"


_NEW = {"HostName": "new", "User": None}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "Host a\n    HostName new\n"),
        ("Host b\n    User x\n", "Host a\n    HostName new\n\nHost b\n    User x\n"),
        # options above the first block belong to no block, and a comment to what follows it
        ("Include x\n\n# all\nHost *\n", "Include x\n\nHost a\n    HostName new\n\n# all\nHost *\n"),
        ("Compression yes\n", "Compression yes\n\nHost a\n    HostName new\n"),
        # ours: values change, what must not be there is removed, the rest stays
        ("Host a\n\tUser x\n\tPort 3\n\n# b\nHost b\n", "Host a\n\tPort 3\n\tHostName new\n\n# b\nHost b\n"),
        ("Host=a\n  hostname = old\n", "Host=a\n  HostName new\n"),
        ("Host a\n  HostName new # why\n", "Host a\n  HostName new # why\n"),
        # a block for several names is nobody's own
        ("Host a b\n  HostName old\n", "Host a\n    HostName new\n\nHost a b\n  HostName old\n"),
    ],
)
def test_blocks(before: str, after: str) -> None:
    """A block is added above all others, or changed in its place."""
    assert with_block(before, "a", _NEW) == after
    assert with_block(after, "a", _NEW) == after


def test_names_of_included_files(isolated: Path) -> None:
    """Names are found through Includes; patterns and negations are none."""
    (isolated / "one").write_text(f"Include {isolated}/more/*\nHost b *.example !c\n")
    (isolated / "more").mkdir()
    (isolated / "more" / "two").write_text("Host a\nMatch host x\n")
    assert ssh_config.names(isolated / "one") == ["a", "b"]


def test_values_that_cannot_be_written() -> None:
    """A quote or a newline has no place in ssh_config; blanks are put in quotes."""
    assert ssh_config.quoted("/a b") == '"/a b"'
    with pytest.raises(SettingsError, match="cannot be written in ssh_config"):
        ssh_config.quoted('a"b')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[host."a"]\npin = 1\n'),
        ("# mine\n[host.b]\nx = 1\n", '[host."a"]\npin = 1\n\n# mine\n[host.b]\nx = 1\n'),
        ('[host."a"] # me\nx = 1\n', '[host."a"] # me\npin = 1\nx = 1\n'),
        ("[host.a]\npin = 1 # yes\n", "[host.a]\npin = 1 # yes\n"),
    ],
)
def test_settings(before: str, after: str) -> None:
    """A table is added before the others, which it must outdo; one that is there gets what it lacks."""
    assert with_settings(before, "a", {"pin": "1"}) == after


def test_settings_that_differ() -> None:
    """Another value that is there already is not overwritten."""
    with pytest.raises(SettingsError, match="another pin for a"):
        with_settings("[host.a]\npin = 2\n", "a", {"pin": "1"})


def test_methods_are_told_apart() -> None:
    """What a block says is read again as the method that it was written for: so a second run asks alike."""
    for method, options in plan.METHODS.items():
        values = {name.lower(): (value,) for name, value in options.items()}
        if method == "certificate":
            values["certificatefile"] = ("x",)
        assert plan.method_of(destination.Resolved(values)) == method
