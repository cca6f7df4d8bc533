"""Where secrets come from: the keyring, a command, the seed of one-time codes.

The trap: a one-time code that is sent twice is refused, and counts as a failed login. So each code's time
window is noted, for all processes and forever, before the code is used; a later login waits for the next one,
even if the clock was set back.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import os
import re
import resource
import shlex
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping

from opensshtransport.errors import LoginNeeded, SettingsError, ToolMissing
from opensshtransport.local import tools
from opensshtransport.local.locks import locked
from opensshtransport.local.settings import private_directory, state_directory
from opensshtransport.prompts.answers import (
    Answer,
    Ask,
    Command,
    Join,
    Keyring,
    Secret,
    Text,
    Totp,
    parse_answer,
)

# This happens on machines without a desktop, and in daemons that cannot reach it.
NO_KEYRING = "there is no keyring that the package keyring can use here"

ANOTHER_KEYRING = "start or install one (Secret Service, KWallet, keyrings.alt), or name a command instead"

# Seconds; a password store may have to ask the person for its own passphrase.
_COMMAND_TIMEOUT = 120.0


def dump_no_core() -> None:
    """Make sure that neither this process, which holds secrets, nor its children leave a core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resolve_answer(
    answer: Answer, *, ask: Callable[[Ask], Secret], tell: Callable[[str], None], deadline: float
) -> Secret:
    """Turn an answer into the secret to send now.

    Args:
        answer: what the settings say.
        ask: asks the person.
        tell: tells the person what we are waiting for.
        deadline: on the monotonic clock; waiting for a code's window ends there.

    Raises:
        SettingsError: the secret is not where the settings say.
        LoginNeeded: the next code's window comes after the deadline.
    """
    dump_no_core()
    if isinstance(answer, Text):
        return Secret(answer.text)
    if isinstance(answer, Ask):
        return ask(answer)
    if isinstance(answer, Keyring):
        return _from_keyring(answer)
    if isinstance(answer, Command):
        return _from_command(answer)
    if isinstance(answer, Join):
        parts = [resolve_answer(part, ask=ask, tell=tell, deadline=deadline) for part in answer.parts]
        return Secret.join(parts, answer.separator)
    seed = resolve_answer(answer.source, ask=ask, tell=tell, deadline=deadline)
    return _fresh_code(answer, seed, tell, deadline)


def _one_line(text: str, where: str) -> Secret:
    # programs end their output with a newline, which is not part of the secret
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(
            f"{where} gave an empty answer", topic="logging-in", advice="store the secret there"
        )
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise SettingsError(
            f"{where} gave more than one line", topic="logging-in", advice="store the secret alone"
        )
    return Secret(text)


def missing_package(name: str) -> ToolMissing:
    """The error for a missing Python package that only some users need."""
    return ToolMissing(
        f"the Python package {name} is missing",
        topic="logging-in",
        advice=f"run: {shlex.quote(sys.executable)} -m pip install {name}",
    )


def _from_keyring(answer: Keyring) -> Secret:
    try:
        import keyring
        import keyring.errors
    except ImportError as reason:
        raise missing_package("keyring") from reason
    where = f"the keyring's entry {answer.service!r} of {answer.username!r}"
    try:
        found = keyring.get_password(answer.service, answer.username)
    except keyring.errors.NoKeyringError as reason:
        raise ToolMissing(NO_KEYRING, topic="logging-in", advice=ANOTHER_KEYRING) from reason
    except keyring.errors.KeyringError as reason:
        raise SettingsError(
            f"{where} cannot be read ({reason})", topic="logging-in", advice="unlock the keyring"
        ) from reason
    if found is None:
        raise SettingsError(
            f"{where} is missing",
            topic="logging-in",
            advice=f"run: {shlex.join(['keyring', 'set', answer.service, answer.username])}",
        )
    return _one_line(found, where)


def _from_command(answer: Command) -> Secret:
    program = os.path.expanduser(answer.argv[0])  # noqa: PTH111 - a bare name must stay one
    where = f"the command {program!r}"
    reply = tools.ask(program, *answer.argv[1:], timeout=_COMMAND_TIMEOUT)
    if reply.returncode is None:
        raise SettingsError(
            f"{where} did not finish within {_COMMAND_TIMEOUT:.0f} s",
            topic="logging-in",
            advice="run it yourself to see why",
        )
    if reply.returncode != 0:
        raise SettingsError(
            f"{where} failed with status {reply.returncode}",
            topic="logging-in",
            advice="run it yourself to see why",
        )
    return _one_line(reply.stdout, where)


def _fresh_code(answer: Totp, seed: Secret, tell: Callable[[str], None], deadline: float) -> Secret:
    """A code of RFC 6238 that was not used before."""
    key, answer = _key(answer, seed)
    period = answer.period
    # the key's digest identifies it; the key cannot be computed from it
    digest = hashlib.sha256(b"one-time codes\0" + key.reveal().encode()).hexdigest()[:16]
    with locked(private_directory(state_directory() / "codes") / digest) as file:
        used = _windows(file)
        while (free := _first_free(used, window := int(time.time()) // period)) > window:
            begin = free * period
            wait = begin - time.time()
            if time.monotonic() + wait > deadline:
                raise LoginNeeded(f"the next one-time code is due only in {wait:.0f} s")
            tell(f"waiting {wait:.0f} s for the next one-time code")
            while time.time() < begin:
                # the wait is for the clock
                time.sleep(min(1.0, max(0.01, begin - time.time())))
        # noted before it is used: a crash may waste a code, but not send it twice
        os.lseek(file, 0, os.SEEK_END)
        os.write(file, f"\n{window:020d}".encode())
        os.fsync(file)
    return _code(key, window, answer)


def _first_free(used: set[int], window: int) -> int:
    """The first window from this one on whose code may be sent.

    If the clock was set back, the following window must be unused too: a server that has seen its code may
    accept no older one.
    """
    return next(free for free in itertools.count(window) if used.isdisjoint({free, free + 1}))


def _windows(file: int) -> set[int]:
    """The windows whose codes were used: one number per line, 21 bytes for each login with a code."""
    text = b"".join(iter(lambda: os.read(file, 1 << 16), b""))
    return {int(word) for word in text.split() if word.isdigit()}


def _key(answer: Totp, seed: Secret) -> tuple[Secret, Totp]:
    """The key of a seed, in a normal form of base32, and the options: an otpauth URI brings its own."""
    text = seed.reveal()
    if text.startswith("otpauth://"):
        # github.com/google/google-authenticator/wiki/Key-Uri-Format
        uri = urllib.parse.urlsplit(text)
        if uri.netloc.lower() != "totp":
            raise SettingsError(
                "the seed is for counter-based codes (HOTP), not for time-based ones (TOTP)",
                topic="logging-in",
                advice="ask for a new one",
            )
        options = {name: values[-1] for name, values in urllib.parse.parse_qs(uri.query).items()}
        text = options.pop("secret", "")
        answer = _with_options(answer, options)
    letters = re.sub(r"[\s-]", "", text).rstrip("=").upper()
    try:
        key = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError:
        key = b""
    if not key:
        # the reason would show the seed
        raise SettingsError(
            "the seed of the one-time codes is not base32",
            topic="logging-in",
            advice="store it as the centre shows it",
        )
    return Secret(base64.b32encode(key).decode()), answer


def _with_options(answer: Totp, options: Mapping[str, str]) -> Totp:
    """The options of a URI, by the same checks as those of the settings."""
    names = {"digits": "digits", "period": "period", "algorithm": "digest"}
    found = {names[name]: text for name, text in options.items() if name in names}
    values = {name: int(text) if text.isdecimal() else text for name, text in found.items()}
    read = parse_answer({"totp": {"command": ["-"]}, **values}, "the URI of the one-time codes")
    return dataclasses.replace(read, source=answer.source) if isinstance(read, Totp) else answer


def _code(key: Secret, window: int, answer: Totp) -> Secret:
    try:
        import pyotp
    except ImportError as reason:
        raise missing_package("pyotp") from reason
    # pyotp accepts no short keys, which many centres issue; HMAC itself pads a key with zeros (RFC 2104, 2)
    filled = Secret(base64.b32encode(base64.b32decode(key.reveal()).ljust(32, b"\0")).decode())
    # the base class of all its generators: the one for time-based codes allows no long periods
    generator = pyotp.OTP(filled.reveal(), digits=answer.digits, digest=getattr(hashlib, answer.digest))
    return Secret(generator.generate_otp(window))
