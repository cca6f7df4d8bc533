"""Secrets: where they come from, and that they are found nowhere else, during a login and afterwards.

Some programs run here with a module `sitecustomize` of the test's own, which Python loads as it starts: it
logs everything, shows local variables in tracebacks, or sets the clock.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.conftest import MakeConversationNode
from tests.support.nodes import config_through
from tests.support.pam_nodes import ConversationNode, questions, rule, stored
from tests.support.programs import OSSH, ossh, ossh_run, runtime, until, write_settings
from tests.support.relay import Relay

# A real plug-in for the keyring library: entries are files next to it.
KEYRING = """
from pathlib import Path
import keyring.backend, keyring.errors

class FileKeyring(keyring.backend.KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        if service == "locked":
            raise keyring.errors.KeyringLocked("the collection is locked")
        file = Path(__file__).with_name("entries") / f"{service}.{username}"
        return file.read_text() if file.exists() else None

    def set_password(self, service, username, password):
        raise keyring.errors.PasswordSetError
"""

LOG_EVERYTHING = """
import logging, os, sys, traceback
logging.basicConfig(level=logging.DEBUG, filename=os.environ["LOG_HERE"])
logging.getLogger("started").debug("%r", sys.argv)

def show(kind, error, trace):
    lines = traceback.TracebackException(kind, error, trace, capture_locals=True).format()
    sys.stderr.write("".join(lines))

sys.excepthook = show
"""


def hotp(key: bytes, counter: int, digits: int = 6, digest: str = "sha1") -> str:
    """Compute a code as RFC 4226, section 5.3, says."""
    mac = hmac.digest(key, counter.to_bytes(8, "big"), digest)
    offset = mac[-1] & 0xF
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def base32(key: bytes) -> str:
    """A key as centres show it."""
    return b32encode(key).decode().rstrip("=")


def settings(*parts: str) -> None:
    """Write the settings: lines first, then rules."""
    write_settings("\n".join(["[host.asks]", *parts]))


def entry(directory: Path, service: str, secret: str) -> str:
    """Put a secret into the keyring; the answer that names it."""
    entries = directory / "entries"
    entries.mkdir(exist_ok=True)
    (entries / f"{service}.me").write_text(secret)
    return f'{{ keyring = "{service}", username = "me" }}'


def with_modules(directory: Path, **modules: str) -> dict[str, str]:
    """The environment of a program that finds these Python modules first."""
    directory.mkdir(exist_ok=True)
    for name, text in modules.items():
        (directory / f"{name}.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture
def store(isolated: Path) -> Path:
    """Where this test keeps its secrets; the keyring's plug-in lies there too."""
    directory = isolated / "store"
    directory.mkdir()
    return directory


@pytest.fixture
def keyring(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keyring library works, on files below `store`."""
    for name, value in with_modules(store, file_keyring=KEYRING).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "file_keyring.FileKeyring")
    return store


@dataclass(slots=True)
class Watch:
    """Looks into the command line and the environment of every process, again and again, for some texts.

    Attributes:
        found: what was found, and where.
        looks: how often everything was looked at.
    """

    texts: Sequence[str]
    found: set[str] = field(default_factory=set)
    looks: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look once."""
        for place in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    content = (place / name).read_bytes()
                    self.found |= {
                        f"{text} in {name} of {content!r}" for text in self.texts if text.encode() in content
                    }
        self.looks += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look from a thread until the end of the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.01):
            self.look()


def files_with(top: Path, texts: Sequence[str], besides: Path) -> list[str]:
    """The files below a directory that hold one of the texts, in content or name."""
    files = (path for path in top.rglob("*") if path.is_file() and not path.is_relative_to(besides))
    return [
        f"{text} in {path}"
        for path in files
        for text in texts
        if text in str(path) or text.encode() in path.read_bytes()
    ]


def test_the_watch_sees(store: Path) -> None:
    """The searches of this module find a secret in an argument, in an environment and in a file."""
    secret = secrets.token_hex(8)
    watch = Watch([secret])
    with subprocess.Popen(["sh", "-c", "read x", secret], stdin=subprocess.PIPE, env={"X": secret}):
        with watch.watching():
            until(lambda: len(watch.found) == 2, "both to be found")
    (store.parent / "left").write_text(f"x{secret}x")
    assert len(files_with(store.parent, [secret], store)) == 1


# -- during a login ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Secrets:
    """One of each kind, made anew for each test; codes have 8 digits, so that none is found by chance."""

    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    pin: str = field(default_factory=lambda: secrets.token_hex(5))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(20))

    @property
    def texts(self) -> list[str]:
        """All that must not be found: the codes of these two minutes too."""
        window = int(time.time()) // 30
        codes = [hotp(self.key, window + step, 8) for step in range(-2, 3)]
        return [self.password, self.pin, base32(self.key), base32(self.key).lower(), self.key.hex(), *codes]


SLOW = "echo_off Password: \nwait 0.7\necho_off PIN: \nwait 0.7\necho_on Code: \nwait 0.7\n"


def rules_for(chosen: Secrets, store: Path) -> str:
    """Rules that answer `SLOW`: by the keyring, by a command and by a code."""
    seed = stored(store, "seed", base32(chosen.key))
    return (
        rule("Password", entry(store, "hpc", chosen.password))
        + rule("PIN", stored(store, "pin", chosen.pin))
        + rule("Code", f"{{ totp = {seed}, digits = 8 }}")
    )


def logging_everything(directory: Path) -> dict[str, str]:
    """The environment of a program that logs what there is to log, into a file below the directory."""
    return {
        **with_modules(directory / "modules", sitecustomize=LOG_EVERYTHING),
        "LOG_HERE": str(directory / "debug.log"),
        "TMPDIR": str(directory),
    }


@pytest.mark.parametrize("outcome", ["allow", "deny"])
def test_secrets_stay_where_they_are(
    make_conversation_node: MakeConversationNode, isolated: Path, keyring: Path, outcome: str
) -> None:
    """A slow login by three rules: no secret in any argument, environment, output, log or file."""
    node = make_conversation_node(f"{SLOW}{outcome}\n")
    chosen = Secrets()
    settings(rules_for(chosen, keyring))
    watch = Watch(chosen.texts)
    with watch.watching():
        done = ossh_run("-v", "-F", node.ssh_config, node.host, "echo x", env=logging_everything(isolated))
    assert (done.returncode, done.stdout) == ((0, b"x\n") if outcome == "allow" else (255, b""))
    assert node.answers()[:2] == [chosen.password, chosen.pin]
    assert node.answers()[2] in watch.texts
    assert node.outcomes() == [outcome]
    assert watch.looks > 10
    assert not watch.found
    said = done.stderr.decode()
    assert not [text for text in watch.texts if text in said]
    assert "DEBUG" in (isolated / "debug.log").read_text()
    assert not files_with(isolated, watch.texts, keyring)
    assert (outcome == "allow") == (list(runtime().glob("*.json")) != [])


def test_typed_secrets_stay_at_the_terminal(
    make_conversation_node: MakeConversationNode, isolated: Path, store: Path
) -> None:
    """What a person types is in no argument, environment, log or file, nor in the error of a denied login."""
    node = make_conversation_node(f"{SLOW}deny\n")
    chosen = Secrets()
    code = hotp(chosen.key, int(time.time()) // 30, 8)
    watch = Watch(chosen.texts)
    env = {**os.environ, **logging_everything(isolated)}
    with watch.watching():
        child: pexpect.spawn[str] = pexpect.spawn(
            str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=30, encoding="utf-8", env=env
        )
        for prompt, answer in (("Password: ", chosen.password), ("PIN: ", chosen.pin), ("Code: ", code)):
            child.expect(prompt)
            child.sendline(answer)
        # who is asked again gives up
        child.expect("Password: ")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
    assert child.signalstatus == signal.SIGINT
    assert node.answers() == [chosen.password, chosen.pin, code]
    assert watch.looks > 10
    assert not watch.found
    assert not [text for text in watch.texts if text in (child.before or "")]
    assert not files_with(isolated, watch.texts, store)


def test_passphrase_stays_where_it_is(isolated: Path, store: Path) -> None:
    """A key's passphrase goes to ssh's prompt alone."""
    with Sandbox("asks", second_factor="passphrase") as node:
        settings(rule("passphrase", stored(store, "passphrase", node.passphrase)))
        watch = Watch([node.passphrase])
        with watch.watching():
            done = ossh_run(
                "-v", "-F", node.ssh_config, node.host, "echo x", env=logging_everything(isolated)
            )
        assert (done.returncode, done.stdout) == (0, b"x\n")
        assert node.passphrase not in done.stderr.decode()
        assert watch.looks > 3
        assert not watch.found
        assert not files_with(isolated, watch.texts, store)


def test_killed_login_leaves_no_secret(
    make_conversation_node: MakeConversationNode, isolated: Path, keyring: Path
) -> None:
    """A login process that is killed between its answers leaves none of them behind."""
    node = make_conversation_node("echo_off Password: \necho_off PIN: \necho_on Code: \nwait 60\nallow\n")
    chosen = Secrets()
    settings(rules_for(chosen, keyring))
    process = subprocess.Popen(
        [OSSH, "login", "-F", node.ssh_config, node.host],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **logging_everything(isolated)},
    )
    until(lambda: len(node.answers()) == 3, "the answers to be sent")
    process.kill()
    process.wait()
    watch = Watch(chosen.texts)
    watch.look()
    assert not watch.found
    assert not files_with(isolated, watch.texts, keyring)


def test_no_core_dump(make_conversation_node: MakeConversationNode, store: Path) -> None:
    """The login process and its ssh have secrets in memory, so they dump no core."""
    node = make_conversation_node(questions("Password: ", "Code: "))
    settings(rule("Password", stored(store, "password", "x")))
    child: pexpect.spawn[str] = pexpect.spawn(
        str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=30, encoding="utf-8"
    )
    child.expect("Code: ")
    below = subprocess.run(["pgrep", "-P", str(child.pid), "ssh"], capture_output=True, text=True, check=True)
    limits = [Path(f"/proc/{pid}/limits").read_text() for pid in (child.pid, *below.stdout.split())]
    child.sendline("x")
    child.expect(pexpect.EOF)
    assert len(limits) == 2
    assert all(re.search(r"Max core file size +0 +0 ", text) for text in limits)


def test_no_core_dump_of_the_doctor(node: Sandbox, store: Path) -> None:
    """The doctor looks whether secrets is available, and so dumps no core either."""
    answer = f"""{{ command = ["sh", "-c", "cp /proc/$PPID/limits '{store}'; echo x"] }}"""
    write_settings(f"[host.{node.host}]\npassword = {answer}\n")
    ossh("doctor", "-F", node.ssh_config, node.host)
    assert re.search(r"Max core file size +0 +0 ", (store / "limits").read_text())


def test_report_of_a_login(
    make_conversation_node: MakeConversationNode, isolated: Path, keyring: Path
) -> None:
    """What a login process reports of a refusal, ssh's last words and command line, holds no secret."""
    node = make_conversation_node("attempts 2\n" + SLOW.replace("0.7", "0") + "deny\n")
    chosen = Secrets()
    settings(rules_for(chosen, keyring))
    texts = chosen.texts
    done = ossh("login", "--report", "-F", node.ssh_config, node.host)
    assert b"AuthenticationRefused" in done.stdout
    assert node.answers()[:2] == [chosen.password, chosen.pin]
    assert not [text for text in texts if text in (done.stdout + done.stderr).decode()]


def test_traceback(make_conversation_node: MakeConversationNode, isolated: Path, store: Path) -> None:
    """An unexpected error within a joined answer is reported in one line, without a PIN or a seed."""
    node = make_conversation_node(questions("PASSCODE: "))
    chosen = Secrets()
    seed = stored(store, "seed", base32(chosen.key))
    settings(rule("PASSCODE", f"{{ join = [{stored(store, 'pin', chosen.pin)}, {{ totp = {seed} }}] }}"))
    assert ossh("login", "-F", node.ssh_config, node.host).returncode == 0
    ossh("logout", "-F", node.ssh_config, node.host)
    (noted,) = (Path(os.environ["XDG_STATE_HOME"]) / "opensshtransport" / "codes").iterdir()
    noted.unlink()
    noted.mkdir()
    argv: list[str | Path] = [sys.executable, "-X", "dev", "-m", "opensshtransport", "login", "-F"]
    done = subprocess.run(
        [*argv, node.ssh_config, node.host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
        env={**os.environ, **logging_everything(isolated)},
    )
    assert done.returncode != 0
    assert "is not a regular file" in done.stderr
    assert not [text for text in chosen.texts if text in done.stderr + done.stdout]
    assert not files_with(isolated, chosen.texts, store)
    until(node.idle, "the server to see the end")
    assert len(node.answers()) == 1


def test_script_that_echoes(isolated: Path, store: Path, own_node: Sandbox) -> None:
    """An authentication script that asks without hiding the answer, and fails: its tail has no secret."""
    password = secrets.token_urlsafe(9)
    script = isolated / "script"
    script.write_text("#!/bin/sh\nprintf 'Password: '\nread -r given\necho 'certificate refused'\nexit 3\n")
    script.chmod(0o700)
    write_settings(
        f'[host.sandbox]\nauthentication_script = "{script}"\n'
        + rule("Password", stored(store, "password", password), host="sandbox")
        + "echo = true\n"
    )
    watch = Watch([password])
    with watch.watching():
        done = ossh("login", "--report", "-F", own_node.ssh_config, own_node.host)
    assert b"failed with status 3 (certificate refused)" in done.stdout
    assert password not in (done.stdout + done.stderr).decode()
    assert not watch.found
    assert not files_with(isolated, [password], store)
    assert own_node.connections() == 0


# -- commands and the keyring --------------------------------------------------------------------------


@pytest.fixture
def asking(make_conversation_node: MakeConversationNode) -> ConversationNode:
    """A node that asks `Q: ` and takes any answer."""
    return make_conversation_node(questions("Q: "))


def answered(node: ConversationNode, answer: str, env: Mapping[str, str] | None = None) -> str:
    """Log in by an answer, and out again; what was sent."""
    settings(rule("Q", answer))
    count = len(node.answers())
    done = ossh("login", "-F", node.ssh_config, node.host, env=env)
    assert done.returncode == 0, done.stderr
    assert ossh("logout", "-F", node.ssh_config, node.host).returncode == 0
    (sent,) = node.answers()[count:]
    return sent


def refused(node: ConversationNode, answer: str, env: Mapping[str, str] | None = None) -> str:
    """Fail to log in, as the answer is not available; the one line that says why."""
    settings(rule("Q", answer))
    done = ossh("login", "-F", node.ssh_config, node.host, env=env)
    assert (done.returncode, done.stdout) == (255, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ossh login: asks: ")
    return line


def command(text: str) -> str:
    """The answer that a shell command prints."""
    return f"{{ command = ['sh', '-c', '''{text}'''] }}"


def test_command(asking: ConversationNode, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's output without the end of its line is the secret: blanks and letters as they are."""
    for printed, secret in (
        ("plain\\n", "plain"),
        ("no end", "no end"),
        (" blanks \\r\\n", " blanks "),
        ("größe€\\n", "größe€"),
        ('$HOME `x` "q" %%s\\n', '$HOME `x` "q" %s'),
    ):
        script = store / "print"
        script.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
        script.chmod(0o700)
        assert answered(asking, f'{{ command = ["{script}"] }}') == secret
    monkeypatch.setenv("HOME", str(store))
    assert answered(asking, '{ command = ["~/print"] }') == '$HOME `x` "q" %s'


def test_command_that_fails(asking: ConversationNode) -> None:
    """Each way in which a command gives no secret is said, without what it printed; nothing is sent."""
    for text, reason in (
        ("echo s3cret; exit 3", "the command 'sh' failed with status 3"),
        ("echo s3cret; kill -9 $$", "the command 'sh' failed with status 137"),
        ("echo s3cret; echo other", "the command 'sh' gave more than one line"),
        ("printf 's3cret\\t7'", "the command 'sh' gave more than one line"),
        (":", "the command 'sh' gave an empty answer"),
        ("echo", "the command 'sh' gave an empty answer"),
    ):
        line = refused(asking, command(text))
        assert reason in line
        assert "s3cret" not in line
    assert "the program 'no-such-store' was not found" in refused(asking, '{ command = ["no-such-store"] }')
    until(asking.idle, "the server to see the end")
    assert asking.answers() == []


def test_keyring(asking: ConversationNode, keyring: Path) -> None:
    """An entry of the keyring; without it the command that makes it is named; a locked keyring says so."""
    secret = secrets.token_urlsafe(9)
    assert answered(asking, entry(keyring, "hpc", secret)) == secret
    missing = refused(asking, '{ keyring = "other", username = "me" }')
    assert missing.endswith(
        "the keyring's entry 'other' of 'me' is missing (ossh help logging-in); run: keyring set other me"
    )
    locked = refused(asking, '{ keyring = "locked", username = "me" }')
    assert locked.endswith("(the collection is locked) (ossh help logging-in); unlock the keyring")
    assert "gave an empty answer" in refused(asking, entry(keyring, "empty", ""))
    until(asking.idle, "the server to see the end")
    assert asking.answers() == [secret]


def test_no_keyring_here(asking: ConversationNode) -> None:
    """On a machine without any keyring, as many servers are, that is said, and what to do instead."""
    line = refused(
        asking,
        '{ keyring = "hpc", username = "me" }',
        {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"},
    )
    why = "there is no keyring that the package keyring can use here (ossh help logging-in)"
    assert f"{why}; start or install one" in line
    assert line.endswith("or name a command instead")


@pytest.mark.parametrize("missing", ["keyring", "pyotp"])
def test_missing_package(asking: ConversationNode, store: Path, isolated: Path, missing: str) -> None:
    """Without the packages of the extra `2fa` the error names the package and the extra."""
    place = isolated / "packages"
    place.mkdir()
    for name in ("opensshtransport", "pexpect", "platformdirs", "ptyprocess", "sh", "tomli"):
        # by the module itself: once imported, sh has no specification any more
        with contextlib.suppress(ModuleNotFoundError):
            origin = Path(str(importlib.import_module(name).__file__))
            origin = origin.parent if origin.stem == "__init__" else origin
            (place / origin.name).symlink_to(origin)
    answers = {
        "keyring": '{ keyring = "hpc", username = "me" }',
        "pyotp": f"{{ totp = {stored(store, 'seed', base32(b'x' * 20))} }}",
    }
    settings(rule("Q", answers[missing]))
    # -S: nothing that is installed is found but what the directory has
    argv: list[str | Path] = [sys.executable, "-S", "-m", "opensshtransport", "login", "-F"]
    done = subprocess.run(
        [*argv, asking.ssh_config, asking.host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.returncode == 255
    (line,) = done.stderr.splitlines()
    why = f"the Python package {missing} is missing (ossh help logging-in)"
    assert f"{why}; run: {sys.executable} -m pip install {missing}" in line
    until(asking.idle, "the server to see the end")
    assert asking.answers() == []


# -- one-time codes ------------------------------------------------------------------------------------

# RFC 6238, appendix B: the keys and codes of 8 digits.
KEYS = {
    digest: (b"1234567890" * 7)[:length] for digest, length in (("sha1", 20), ("sha256", 32), ("sha512", 64))
}
VECTORS = (
    ("sha1", 59, "94287082"),
    ("sha1", 20_000_000_000, "65353130"),
    ("sha256", 1_111_111_109, "68084774"),
    ("sha512", 2_000_000_000, "38618901"),
)


def at_the_window_of(directory: Path, moment: int, period: int = 30) -> dict[str, str]:
    """The environment of a program whose clock begins with the first second of a time's window."""
    begin = moment // period * period + 1
    text = f"import time\nreal = time.time\nbegin = real()\ntime.time = lambda: real() - begin + {begin}\n"
    return with_modules(directory / f"at{moment}", sitecustomize=text)


@pytest.mark.parametrize(("digest", "moment", "code"), VECTORS)
def test_codes_of_rfc_6238(
    asking: ConversationNode, store: Path, isolated: Path, digest: str, moment: int, code: str
) -> None:
    """The test vectors of RFC 6238, by seeds as they are, in small letters, in groups, and with padding."""
    assert hotp(KEYS[digest], moment // 30, 8, digest) == code
    seed = base32(KEYS[digest])
    shown = {
        "sha1": seed,
        "sha256": " ".join(re.findall(".{1,4}", seed.lower())),
        "sha512": seed + "=" * (-len(seed) % 8),
    }
    answer = f'{{ totp = {stored(store, "seed", shown[digest])}, digits = 8, digest = "{digest}" }}'
    assert answered(asking, answer, at_the_window_of(isolated, moment)) == code


def test_digits_and_period(asking: ConversationNode, store: Path, isolated: Path) -> None:
    """Digits and period of the settings or of an otpauth URI count, leading zeros stay."""
    key, moment = b"12345678901234567890", 1_700_000_000
    seed = stored(store, "seed", base32(key))
    for options, digits, period in (
        (", digits = 7", 7, 30),
        (", period = 60", 6, 60),
        (", period = 300", 6, 300),
    ):
        env = at_the_window_of(isolated, moment, period)
        assert answered(asking, f"{{ totp = {seed}{options} }}", env) == hotp(key, moment // period, digits)
    uri = f"otpauth://totp/Centre:me?secret={base32(key)}&issuer=Centre&algorithm=SHA256&digits=8&period=60"
    moment += 3600
    sent = answered(
        asking, f"{{ totp = {stored(store, 'uri', uri)} }}", at_the_window_of(isolated, moment, 60)
    )
    assert sent == hotp(key, moment // 60, 8, "sha256")


def test_short_seed(asking: ConversationNode, store: Path, isolated: Path) -> None:
    """A seed of 16 letters, as Google's and many centres' are, is a seed; by itself and in a URI."""
    expected = hotp(b"Hello!\xde\xad\xbe\xef", 1_700_000_000 // 30)
    answer = f"{{ totp = {stored(store, 'seed', 'JBSWY3DPEHPK3PXP')} }}"
    assert answered(asking, answer, at_the_window_of(isolated, 1_700_000_000)) == expected
    uri = "otpauth://totp/Centre:me?secret=jbswy3dpehpk3pxp&issuer=Centre"
    moment = 1_700_003_600
    sent = answered(asking, f"{{ totp = {stored(store, 'uri', uri)} }}", at_the_window_of(isolated, moment))
    assert sent == hotp(b"Hello!\xde\xad\xbe\xef", moment // 30)


def test_bad_seed(asking: ConversationNode, store: Path) -> None:
    """What is no seed is said so, and not shown."""
    counted = f"otpauth://hotp/Centre:me?secret={base32(b'x' * 20)}&counter=1"
    for seed, reason in (
        ("0189-not-base32", "the seed of the one-time codes is not base32"),
        ("GEZDGNBVGY3TQOJÄ", "the seed of the one-time codes is not base32"),
        ("otpauth://totp/Centre:me?digits=6&issuer=s3cret", "the seed of the one-time codes is not base32"),
        (counted, "the seed is for counter-based codes (HOTP), not for time-based ones (TOTP)"),
        ("otpauth://totp/x?secret=GEZDGNBV&digits=12", "the URI of the one-time codes.digits"),
        ("otpauth://totp/x?secret=GEZDGNBV&algorithm=MD5", "the URI of the one-time codes.digest"),
    ):
        line = refused(asking, f"{{ totp = {stored(store, 'seed', seed)} }}")
        assert reason in line
        assert seed not in line
        assert "s3cret" not in line
        assert base32(b"x" * 20) not in line
    until(asking.idle, "the server to see the end")
    assert asking.answers() == []


def test_no_code_is_sent_twice(asking: ConversationNode, store: Path) -> None:
    """Six logins at once by one seed, to one server by six ways: six codes, each of another window."""
    key = secrets.token_bytes(20)
    settings(rule("Q", f"{{ totp = {stored(store, 'seed', base32(key))}, digits = 8, period = 1 }}"))
    first = int(time.time())
    with contextlib.ExitStack() as relays:
        configs = [config_through(asking, relays.enter_context(Relay(asking.port))) for _ in range(6)]
        logins = [
            subprocess.Popen(
                [OSSH, "login", "-q", "-F", config, asking.host],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for config in configs
        ]
        assert [process.wait(60) for process in logins] == [0] * 6
    codes = [hotp(key, window, 8) for window in range(first, int(time.time()) + 1)]
    sent = asking.answers()
    assert len(set(sent)) == len(sent) == 6
    assert set(sent) <= set(codes)


def test_noted_window_survives(asking: ConversationNode, store: Path, isolated: Path) -> None:
    """After everything but the state directory was lost, a login in the same window waits for the next."""
    key, moment = secrets.token_bytes(20), 1_700_000_000
    seed = stored(store, "seed", base32(key))
    answer = f"{{ totp = {seed}, digits = 8, period = 5 }}"
    env = at_the_window_of(isolated, moment, 5)
    first = answered(asking, answer, env)
    for path in runtime().rglob("*"):
        if path.is_file():
            path.unlink()
    # the clock of this program begins in the first window again
    second = answered(asking, answer, env)
    assert [first, second] == [hotp(key, moment // 5 + step, 8) for step in range(2)]


def test_clock_set_back(asking: ConversationNode, store: Path, isolated: Path) -> None:
    """A clock that is put back by any number of windows gives no code that was given before."""
    key, moment = secrets.token_bytes(20), 1_700_000_000
    answer = f"{{ totp = {stored(store, 'seed', base32(key))}, digits = 8, period = 5 }}"
    later = [moment + 5 * steps for steps in (0, 40, 80, 0, 40)]
    codes = [answered(asking, answer, at_the_window_of(isolated, t, 5)) for t in later]
    # the first free one of each time
    assert codes == [hotp(key, moment // 5 + steps, 8) for steps in (0, 40, 80, 1, 41)]


def test_next_code_comes_too_late(asking: ConversationNode, store: Path, isolated: Path) -> None:
    """Where the next window begins after the login's deadline, that is said at once, and nothing is sent."""
    key, moment = secrets.token_bytes(20), 1_700_000_000
    env = at_the_window_of(isolated, moment, 120)
    seed = stored(store, "seed", base32(key))
    settings("login_timeout = 20", rule("Q", f"{{ totp = {seed}, digits = 8, period = 120 }}"))
    arguments: list[str | Path] = ["login", "-F", asking.ssh_config, asking.host]
    assert ossh(*arguments, env=env).returncode == 0
    ossh("logout", *arguments[1:])
    begin = time.monotonic()
    done = ossh(*arguments, env=env)
    assert time.monotonic() - begin < 15
    assert done.returncode == 255
    assert re.search(
        rb"the next one-time code is due only in 1\d\d s \(ossh help logging-in\); run it at a terminal\n",
        done.stderr,
    )
    until(asking.idle, "the server to see the end")
    assert asking.answers() == [hotp(key, moment // 120, 8)]


def test_person_is_told_of_the_wait(asking: ConversationNode, store: Path) -> None:
    """At a terminal the wait for the next code is announced."""
    key = secrets.token_bytes(20)
    seed = stored(store, "seed", base32(key))
    settings(rule("Q", f"{{ join = [{{ totp = {seed}, period = 5 }}, {{ totp = {seed}, period = 5 }}] }}"))
    child: pexpect.spawn[str] = pexpect.spawn(
        str(OSSH), ["login", "-F", str(asking.ssh_config), asking.host], timeout=30, encoding="utf-8"
    )
    child.expect(r"waiting \d s for the next one-time code")
    child.expect("logged in as")
    child.expect(pexpect.EOF)
    child.close()
    (sent,) = asking.answers()
    window = int(time.time()) // 5
    pairs = {hotp(key, begin) + hotp(key, begin + 1) for begin in range(window - 8, window + 1)}
    assert sent in pairs
