"""Nodes that ask through PAM: passwords, one-time codes, Duo's menu, any prompt, locked accounts (root only).

Texts that a PAM module shows (``info``, ``error``) reach the client only with the next prompt, or at the end.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from base64 import b32encode
from collections.abc import Mapping
from pathlib import Path

from tests.support.nodes import Node, missing_programs
from tests.support.users import missing_for_users

_SOURCE = Path(__file__).with_name("pam") / "pam_conversation.c"
_PAM_MODULES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


def missing_for_pam(*modules: str) -> str:
    """Why no node can ask through these PAM modules here; empty if one can."""
    if reason := missing_for_users():
        return reason
    found = {path.name for top in _PAM_MODULES for path in Path(top).glob("**/security/pam_*.so")}
    missing = [module for module in modules if f"{module}.so" not in found]
    return f"not installed: {', '.join(missing)}" if missing else missing_programs("sshd")


def missing_for_compiling() -> str:
    """Why ``pam_conversation.c`` cannot be compiled here; empty if it can."""
    if reason := missing_for_users() or missing_programs("gcc"):
        return reason
    present = Path("/usr/include/security/pam_modules.h").exists()
    return "" if present else "not installed: libpam0g-dev"


def compile_module(directory: Path) -> Path:
    """Compile the module that plays conversations; its source describes the scripts."""
    module = directory / "pam_conversation.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", module, _SOURCE], check=True)
    return module


def _methods(*, key: bool) -> dict[str, str]:
    return {"AuthenticationMethods": "publickey,keyboard-interactive" if key else "keyboard-interactive"}


class OathNode(Node):
    """Asks for a one-time code (libpam-oath), after a key or a password if wanted; `code` returns the code.

    A wrong password shows only after the code was asked for too, as on most real nodes.
    """

    def __init__(
        self,
        host: str,
        user: str,
        *,
        key: bool = False,
        password: bool = False,
        namespace: str = "",
        server_options: Mapping[str, str] | None = None,
        client_options: Mapping[str, str] | None = None,
    ) -> None:
        secret = secrets.token_bytes(20)

        def rules(directory: Path) -> str:
            users = directory / "oath"
            users.write_text(f"HOTP/T30/6 {user} - {secret.hex()}\n")
            users.chmod(0o600)
            first = "auth required pam_unix.so nodelay\n" if password else ""
            return f"{first}auth required pam_oath.so usersfile={users} window=2 digits=6\n"

        super().__init__(
            host,
            user,
            pam=rules,
            namespace=namespace,
            server_options={**_methods(key=key), **(server_options or {})},
            client_options=client_options,
        )
        self.totp_secret = b32encode(secret).decode()


class ConversationNode(Node):
    """Asks what a script says (see ``pam/pam_conversation.c``) and records every answer it gets.

    Args:
        host: the alias in `ssh_config`.
        user: who logs in.
        script: the conversation.
        module: what ``compile_module`` made.
        key: whether a key comes first.
    """

    def __init__(self, host: str, user: str, script: str, *, module: Path, key: bool = False) -> None:
        self._script = script

        def rules(directory: Path) -> str:
            self.set_script(self._script)
            return f"auth required {module} script={directory}/script record={directory}/record\n"

        super().__init__(host, user, pam=rules, server_options=_methods(key=key))

    def set_script(self, script: str) -> None:
        """Change the conversation of the logins to come."""
        (self.directory / "script").write_text(script)

    def _recorded(self, *events: str) -> list[list[str]]:
        record = self.directory / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        return [fields for fields in (line.split("\t") for line in lines) if fields[0] in events]

    def answers(self) -> list[str]:
        """Everything that was answered so far, over all logins."""
        return [fields[2] for fields in self._recorded("answer")]

    def outcomes(self) -> list[str]:
        """How each conversation ended: "allow" or "deny"."""
        return [fields[0] for fields in self._recorded("allow", "deny")]

    def idle(self) -> bool:
        """Whether every connection that did not become a login has ended, so that no answer is on its way."""
        closed = self._count(
            r"(?:Connection (?:closed|reset) by authenticating|Disconnecting|Timeout before) "
        )
        return closed + self.authentications() >= self.connections()


def duo(*, passcode: str = "123456", seconds: float = 0.0, push: bool = True, attempts: int = 1) -> str:
    """Write Duo's conversation: option 1 is a push, which is granted or not after some seconds.

    After a failure Duo itself asks up to three times (``attempts=3``).
    """
    menu = r"Enter a passcode or select one of the following options:\n\n 1. Duo Push to XXX-XXX-1234"
    outcome = (
        ["info Success. Logging you in...", "allow"] if push else ["error Login request denied.", "deny"]
    )
    lines = [
        f"attempts {attempts}",
        rf"echo_on Duo two-factor login for %u\n\n{menu}\n\nPasscode or option (1-1): ",
        "when 1",
        "info Pushed a login request to your device...",
        f"wait {seconds}",
        *outcome,
        "end",
        f"expect {passcode}",
        "allow",
    ]
    return "\n".join(lines) + "\n"


def asks(*prompts_and_answers: tuple[str, str], notice: str = "") -> str:
    """Write a conversation of hidden prompts, each with the answer it expects."""
    lines = [f"info {notice}"] if notice else []
    for prompt, answer in prompts_and_answers:
        lines += [f"echo_off {prompt}", f"expect {answer}"]
    return "\n".join([*lines, "allow"]) + "\n"


def questions(*prompts: str, notice: str = "") -> str:
    """Write a conversation of hidden prompts that takes any answer: what was answered is in the record."""
    lines = [f"info {notice}"] if notice else []
    return "\n".join([*lines, *(f"echo_off {prompt}" for prompt in prompts), "allow"]) + "\n"


def stored(directory: Path, name: str, secret: str) -> str:
    """Store a secret in a file, and write the answer of `config.toml` that reads it."""
    file = directory / name
    file.write_text(f"{secret}\n")
    file.chmod(0o600)
    return f'{{ command = ["cat", "{file}"] }}'


def rule(expect: str, answer: str, *, host: str = "asks", hop: str = "") -> str:
    """Write a rule of `config.toml`."""
    lines = [f'[[host."{host}".prompts]]', f"expect = '{expect}'", f"answer = {answer}"]
    return "\n".join([*lines, *([f'hop = "{hop}"'] if hop else [])]) + "\n"


class LockingNode(Node):
    """Asks for the password, and locks the account for 10 minutes after 3 failures (pam_faillock).

    As pam_faillock does, it still asks when locked, with a notice inside the prompt, and refuses any answer.
    """

    def __init__(self, host: str, user: str) -> None:
        def rules(directory: Path) -> str:
            lock = f"pam_faillock.so {{}} dir={directory}/faillock deny=3 unlock_time=600 nodelay"
            lines = [
                f"required {lock.format('preauth')}",
                "[success=1 default=ignore] pam_unix.so nodelay",
                f"[default=die] {lock.format('authfail')}",
                f"required {lock.format('authsucc')}",
            ]
            return "".join(f"auth {line}\n" for line in lines)

        super().__init__(host, user, pam=rules, server_options=_methods(key=False))

    def failures(self) -> int:
        """Count the failed logins since the last one that worked."""
        argv: list[str | Path] = ["faillock", "--dir", self.directory / "faillock", "--user", self.user]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return len(re.findall(r" V$", shown, re.MULTILINE))
