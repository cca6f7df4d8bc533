"""Answers to prompts: where each comes from, and the secret that it becomes. Nothing here does I/O.

The trap: a secret that is an ordinary string ends up in a log, a traceback or a `repr`. So from the moment
it is known it is a `Secret`, and errors about settings name keys and types, never values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import NoReturn, SupportsIndex

from opensshtransport.errors import SettingsError


class Secret:
    """A password, code, PIN or passphrase. Only `reveal` returns its text.

    There is no other text form: repr, str and format return a placeholder that does not even show the length;
    pickle, copy and json fail. Two secrets are equal only if they are the same object.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def join(cls, parts: Iterable[Secret], separator: str = "") -> Secret:
        """Join secrets, such as a PIN followed by a code."""
        return cls(separator.join(part._text for part in parts))

    def reveal(self) -> str:
        """Return the text; for the one call that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret is not copied or written anywhere")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The password that the keyring library holds for `username` under `service`."""

    service: str
    username: str


@dataclass(frozen=True, slots=True)
class Command:
    """What a local command prints. A `~` at the beginning of `argv[0]` is the home directory."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Totp:
    """A time-based code (RFC 6238) from the base32 seed in `source`; `period` is in seconds."""

    source: Answer
    _: KW_ONLY
    digits: int = 6
    period: int = 30
    digest: str = "sha1"


@dataclass(frozen=True, slots=True)
class Text:
    """A fixed text: the choice in a menu, never a secret, because it is in the settings and in `repr`."""

    text: str


@dataclass(frozen=True, slots=True)
class Join:
    """Several answers joined, such as a PIN followed by a code."""

    parts: tuple[Answer, ...]
    _: KW_ONLY
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the person at the terminal types; `echo` shows it while it is typed."""

    _: KW_ONLY
    echo: bool = False


Answer = Keyring | Command | Totp | Text | Join | Ask


def wrong(where: str, what: str, advice: str) -> SettingsError:
    """The error about a place in the settings."""
    return SettingsError(f"{where}: {what}", advice=advice)


def text_value(value: object, where: str) -> str:
    """A string that is not empty.

    Raises:
        SettingsError: it is none.
    """
    if isinstance(value, str) and value:
        return value
    what = "an empty string" if value == "" else f"a string is needed, not {type(value).__name__}"
    raise wrong(where, what, "write a text in quotes")


def _separator(value: object, where: str) -> str:
    return "" if value == "" else text_value(value, where)


def _argv(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value) and any(value[:1]):
        return tuple(value)
    raise wrong(where, "a list of strings is needed", 'write the program and its arguments: ["pass", "hpc"]')


def flag_value(value: object, where: str) -> bool:
    """True or false.

    Raises:
        SettingsError: it is neither.
    """
    if isinstance(value, bool):
        return value
    raise wrong(where, f"true or false is needed, not {type(value).__name__}", "write true or false")


def _true(value: object, where: str) -> None:
    if not flag_value(value, where):
        raise wrong(where, "only true has a meaning", "write ask = true, or another answer")


def _number(allowed: range) -> _Reader:
    def read(value: object, where: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
            return value
        raise wrong(
            where, "not an allowed number", f"write a whole number from {allowed[0]} to {allowed[-1]}"
        )

    return read


def _digest(value: object, where: str) -> str:
    digest = text_value(value, where).lower()
    if digest in ("sha1", "sha256", "sha512"):  # RFC 6238, section 1.2
        return digest
    raise wrong(where, "unknown digest", "write sha1, sha256 or sha512")


def _can_hold_seed(answer: Answer) -> bool:
    if isinstance(answer, Join):
        return all(map(_can_hold_seed, answer.parts))
    return isinstance(answer, (Keyring, Command))


def _seed(value: object, where: str) -> Answer:
    source = parse_answer(value, where)
    if _can_hold_seed(source):
        return source
    raise wrong(where, "this cannot hold the seed of the codes", "store the seed, name keyring or command")


def _parts(value: object, where: str) -> tuple[Answer, ...]:
    if isinstance(value, (list, tuple)) and len(value) > 1:
        return tuple(parse_answer(part, f"{where}[{index}]") for index, part in enumerate(value))
    raise wrong(where, "a list of two or more answers is needed", "write [{ … }, { … }]")


_Reader = Callable[[object, str], object]

# The key that says what kind of answer it is: its function, the keys that it needs and those that it may
# have.
_FORMS: Mapping[str, tuple[Callable[..., Answer], Mapping[str, _Reader], Mapping[str, _Reader]]] = {
    "keyring": (Keyring, {"keyring": text_value, "username": text_value}, {}),
    "command": (Command, {"command": _argv}, {}),
    "totp": (
        Totp,
        {"totp": _seed},
        # RFC 4226, section 5.3, gives 6 to 8 digits.
        {"digits": _number(range(6, 9)), "period": _number(range(1, 3601)), "digest": _digest},
    ),
    "text": (Text, {"text": text_value}, {}),
    "join": (Join, {"join": _parts}, {"separator": _separator}),
    "ask": (lambda _, **options: Ask(**options), {"ask": _true}, {"echo": flag_value}),
}


def check_keys(
    table: Mapping[str, object], where: str, *, needed: Iterable[str] = (), allowed: Iterable[str] = ()
) -> None:
    """Refuse a table with unknown or missing keys.

    Raises:
        SettingsError: says which.
    """
    needed = tuple(needed)
    known = (*needed, *allowed)
    unknown = ", ".join(sorted(str(key) for key in table if key not in known))
    missing = " and ".join(key for key in needed if key not in table)
    if unknown:
        raise wrong(where, f"unknown key {unknown}", f"allowed here: {', '.join(known)}")
    if missing:
        raise wrong(where, f"{missing} is missing", f"add {missing}")


def parse_answer(value: object, where: str) -> Answer:
    """Read an answer as it is in the settings: a table, or the word "ask".

    Args:
        value: the table, for example `{"keyring": "hpc", "username": "me"}`.
        where: the place in the settings, for the error text.

    Raises:
        SettingsError: a key is unknown or missing, or a value has the wrong type.
    """
    if value == "ask":
        return Ask()
    advice = f"write {{ KIND = … }} with KIND one of {', '.join(_FORMS)}"
    if not isinstance(value, Mapping):
        what = f"an answer is a table, not {type(value).__name__}; no secret is written here"
        raise wrong(where, what, advice)
    kinds = [kind for kind in _FORMS if kind in value]
    if len(kinds) != 1:
        found = ", ".join(sorted(map(str, value))) or "nothing"
        raise wrong(where, f"it is not clear what the answer is (found: {found})", advice)
    become, needed, allowed = _FORMS[kinds[0]]
    check_keys(value, where, needed=needed, allowed=allowed)
    return become(
        *(read(value[key], f"{where}.{key}") for key, read in needed.items()),
        **{key: read(value[key], f"{where}.{key}") for key, read in allowed.items() if key in value},
    )
