"""Rules for well-known second factors, from `password`, `code` and `pin` of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from opensshtransport.prompts.answers import Answer, Join, Text, check_keys, wrong
from opensshtransport.prompts.rules import KNOWN, Rule


@dataclass(frozen=True, slots=True)
class Profile:
    """A prompt of a known system, and what it asks for.

    Attributes:
        role: `password`, `code`, `password_then_code`, `pin_then_code`, `pin_then_push` or `menu:TEXT`.
        second_factor: the row applies only if this was chosen: "push" or "code".
        echo: the system shows the answer while it is typed.
    """

    name: str
    pattern: str
    role: str
    _: KW_ONLY
    second_factor: str | None = None
    echo: bool = False


_DUO = r"(?i)^Passcode or option \(1-\d+\):\s*$"

_NCHC = r"(?i)^Login method\b.*Mobile APP OTP.*:\s*$"

_PLAIN = r"(?i)^(?:[^\s@]+@\S+'s )?password:\s*$"

# The first row that matches decides. Each pattern is a whole line, so that `Password + OTP:` never
# gets the password alone; prompts for two things at once come first all the same.
_PROFILES: tuple[Profile, ...] = (
    Profile("Google PAM", r"(?i)^Password & verification code:\s*$", "password_then_code"),
    Profile("NERSC", r"(?i)^Password \+ OTP:\s*$", "password_then_code"),
    Profile("NREL", r"(?i)^Password ?\+ ?OTP ?Token:\s*$", "password_then_code"),
    # In capitals: `Passcode:` elsewhere wants the code alone.
    Profile("OLCF", r"^(?:Enter )?PASSCODE:?\s*$", "pin_then_code"),
    # Duo numbers the methods in the order of the user's devices; 1 is the push of the first one.
    Profile("Duo", _DUO, "menu:1", second_factor="push"),
    Profile("Duo", _DUO, "code", second_factor="code", echo=True),
    Profile("NCHC", _NCHC, "menu:2", second_factor="push"),
    Profile("NCHC", _NCHC, "menu:1", second_factor="code"),
    Profile("OATH PAM", r"(?i)^One-time password \(OATH\) for \S+:\s*$", "code"),
    Profile("TACC", r"(?i)^TACC Token Code:\s*$", "code"),
    Profile("SDSC", r"(?i)^TOTP code for \S+:\s*$", "code"),
    Profile("Cambridge", r"(?i)^TOTP Verification Code:\s*$", "code"),
    Profile("Jülich", r"(?i)^JSC TOTP Verification code:\s*$", "code"),
    Profile("Google PAM", r"(?i)^Verification code:\s*$", "code"),
    Profile("SSSD", r"(?i)^First Factor:\s*$", "password"),
    Profile("SSSD", r"(?i)^Second Factor(?: \(optional\))?:\s*$", "code"),
    Profile("NCHC", r"^OTP:\s*$", "code"),
    Profile("password", _PLAIN, "password"),
    # If users have a PIN and no password, it goes to the password prompt together with the word.
    Profile("Purdue", _PLAIN, "pin_then_push", second_factor="push"),
)

# The secrets that a role joins, what separates them, and a fixed text that follows.
_ROLES: Mapping[str, tuple[tuple[str, ...], str, str | None]] = {
    "password": (("password",), "", None),
    "code": (("code",), "", None),
    "password_then_code": (("password", "code"), "", None),
    "pin_then_code": (("pin", "code"), "", None),
    "pin_then_push": (("pin",), ",", "push"),
}


def _role_answer(role: str, secrets: Mapping[str, Answer]) -> Answer | None:
    if role.startswith("menu:"):
        return Text(role.removeprefix("menu:"))
    wanted, separator, last = _ROLES[role]
    if not all(name in secrets for name in wanted):
        return None
    parts = (*(secrets[name] for name in wanted), *((Text(last),) if last else ()))
    return parts[0] if len(parts) == 1 else Join(parts, separator=separator)


def profile_rules(secrets: Mapping[str, Answer], *, second_factor: str | None = None) -> tuple[Rule, ...]:
    """Return the rules for the known systems' prompts that these secrets can answer.

    They go after the rules of the settings.

    Args:
        secrets: answers by name: `password`, `code`, `pin`; each may be absent.
        second_factor: "push" or "code", if a system offers both. None: "code" if there is a code.

    Raises:
        SettingsError: an unknown name.
    """
    check_keys(secrets, "secrets", allowed=("password", "code", "pin"))
    if second_factor not in (None, "push", "code"):
        raise wrong("second_factor", "unknown word", 'write "push" or "code"')
    factor = second_factor or ("code" if "code" in secrets else None)
    if factor == "code" and "code" not in secrets:
        raise wrong("second_factor", "there is no code to send", 'add a code, or write "push"')
    rules = []
    for row in _PROFILES:
        answer = _role_answer(row.role, secrets)
        if answer is not None and row.second_factor in (None, factor):
            push = row.second_factor == "push"
            expect, source = re.compile(row.pattern), f"{KNOWN}{row.name}"
            rules.append(Rule(expect, answer, echo=row.echo, source=source, push=push))
    return tuple(rules)
