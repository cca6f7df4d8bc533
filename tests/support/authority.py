"""A node that trusts a certificate authority, and a script that gets a certificate as centres' scripts do."""

from __future__ import annotations

import secrets
import shlex
import subprocess

from opensshtransport.sandbox import Sandbox

_SCRIPT = r"""#!/bin/sh
# Asks at the terminal, not on standard input, as getpass does.
cd {directory} || exit 2
trap 'stty echo </dev/tty' EXIT
ask() {{
    printf '%s' "$1" >/dev/tty
    IFS= read -r answer </dev/tty || exit 1
}}
echo run >>runs
ask 'Username: '; user=$answer
stty -echo </dev/tty
ask 'Password: '; password=$answer
printf '\n' >/dev/tty
ask 'Enter OTP (6-digit code): '; code=$answer
printf '\n' >/dev/tty
. ./expected
if [ "$user" != "$expected_user" ] || [ "$password" != "$expected_password" ] ||
    ! grep -qx -- "$code" codes; then
    echo 'Error: wrong credentials' >&2
    exit 1
fi
# Each code is good for one certificate.
grep -vx -- "$code" codes >codes.left
mv codes.left codes
ssh-keygen -q -s ca -I "$user" -n {principal} -V "+$(cat validity)s" id_ed25519.pub || exit 3
echo "A certificate for $(cat validity) seconds is in place."
"""


class AuthorityNode(Sandbox):
    """Lets in only who shows a certificate of its authority; ``script`` gets one.

    The script wants ``name`` (not the account's), ``password`` and a code from ``new_code``.
    """

    name = "jane.doe"
    password = "correct horse"

    def __init__(self, host: str = "authority") -> None:
        super().__init__(host)

    def _configure_server(self) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ca", "-f", self.directory / "ca"],
            check=True,
        )
        self.server_options = {
            "TrustedUserCAKeys": str(self.directory / "ca.pub"),
            "AuthorizedKeysFile": "none",
            **self.server_options,
        }
        super()._configure_server()
        expected = f"expected_user={shlex.quote(self.name)}\nexpected_password={shlex.quote(self.password)}\n"
        (self.directory / "expected").write_text(expected)
        (self.directory / "codes").write_text("")
        self.set_validity(3600)
        script = _SCRIPT.format(directory=shlex.quote(str(self.directory)), principal=shlex.quote(self.user))
        (self.directory / "authenticate").write_text(script)
        (self.directory / "authenticate").chmod(0o700)

    @property
    def script(self) -> str:
        """The program that asks three things at the terminal, and puts a certificate next to the key."""
        return str(self.directory / "authenticate")

    def new_code(self) -> str:
        """Give a code that the script takes once."""
        code = f"{secrets.randbelow(1_000_000):06d}"
        with (self.directory / "codes").open("a") as codes:
            codes.write(f"{code}\n")
        return code

    def set_validity(self, seconds: int) -> None:
        """Change how long the certificates to come are good for."""
        (self.directory / "validity").write_text(str(seconds))

    def runs(self) -> int:
        """Count how often the script was started."""
        runs = self.directory / "runs"
        return len(runs.read_text().splitlines()) if runs.exists() else 0
