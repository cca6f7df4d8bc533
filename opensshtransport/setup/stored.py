"""Secrets in the keyring: what `ossh setup --store` asks for, and how config.toml names it."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
from collections.abc import Iterator, Mapping

from opensshtransport.errors import SettingsError, ToolMissing
from opensshtransport.login.secrets import ANOTHER_KEYRING, NO_KEYRING, missing_package

SERVICE = "opensshtransport"

# By kind: the answer in config.toml.
ANSWERS: Mapping[str, str] = {
    "password": "{{ keyring = {service}, username = {username} }}",
    "pin": "{{ keyring = {service}, username = {username} }}",
    "code": "{{ totp = {{ keyring = {service}, username = {username} }} }}",
}

WHAT: Mapping[str, str] = {
    "password": "password",
    "pin": "PIN",
    "code": "seed of the one-time codes (base32, or otpauth://)",
}


def has_keyring() -> bool:
    """Whether the package keyring is installed."""
    return importlib.util.find_spec("keyring") is not None


def is_there(username: str) -> bool:
    """Whether the keyring has a secret.

    Raises:
        ToolMissing, SettingsError: there is no keyring, or it cannot be used.
    """
    with _used():
        import keyring

        return keyring.get_password(SERVICE, username) is not None


def ask_for(kind: str, host: str, username: str) -> None:
    """Ask the person at the terminal for a secret, and store it in the keyring.

    Raises:
        ToolMissing, SettingsError: there is no keyring, it cannot be used, or nothing was typed.
    """
    secret = getpass.getpass(f"{WHAT[kind]} of {host}: ".capitalize())
    if not secret:
        raise SettingsError(f"no {kind} was typed", advice="run it again")
    with _used():
        import keyring

        keyring.set_password(SERVICE, username, secret)


@contextlib.contextmanager
def _used() -> Iterator[None]:
    if not has_keyring():
        raise missing_package("keyring")
    import keyring.errors

    try:
        yield
    except keyring.errors.NoKeyringError as reason:
        raise ToolMissing(NO_KEYRING, topic="logging-in", advice=ANOTHER_KEYRING) from reason
    except keyring.errors.KeyringError as reason:
        raise SettingsError(f"the keyring cannot be used ({reason})", advice="unlock it") from reason
