"""The links about credentials: keys, certificates, tickets, secrets, the budget of failures.

Each link is a function that returns one `Finding` for `ossh doctor`. Nothing logs in, and no secret is shown.

The trap: `ssh -G` does not distinguish a chosen value from ssh's default. So a missing credential is an error
only if there is no other way to log in.
"""

from __future__ import annotations

import datetime
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from opensshtransport.doctor.finding import NOT_USED, Finding, broken, fine, warning
from opensshtransport.errors import OpenSshTransportError, Remedy, SettingsError
from opensshtransport.local import tools
from opensshtransport.local.settings import Settings, runtime_directory
from opensshtransport.login import login
from opensshtransport.login.budget import MOST_FAILURES, Budget
from opensshtransport.login.secrets import resolve_answer
from opensshtransport.openssh.destination import Destination
from opensshtransport.prompts.answers import Answer, Ask, Join, Secret, Text, Totp


def agent_environment(destination: Destination) -> dict[str, str]:
    """The environment in which ssh-add asks the same agent as a login."""
    return login.agent_of(destination, login.agent_environment(runtime_directory()))


_LOG_IN = Remedy("run: ", "ossh login")


def keys(destination: Destination) -> Finding:
    """Private keys and the agent: whether one of them can be used without a person."""
    resolved = destination.resolved
    if resolved.get("pubkeyauthentication") in {"no", "false"}:
        return fine("no keys are used (PubkeyAuthentication no)")
    shared = login.agent_environment(runtime_directory())
    env = login.agent_of(destination, shared)
    listing = tools.ask("ssh-add", "-l", env=env)
    held = {
        line.split()[1]
        for line in listing.stdout.splitlines()
        if len(line.split()) > 1 and listing.returncode == 0
    }
    names = [Path(os.path.expanduser(name)) for name in resolved.options.get("identityfile", ())]  # noqa: PTH111 - as ssh writes it
    there = [path for path in names if path.is_file()]
    for path in there:
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            return broken(
                f"ssh ignores {path}, as others can read it", f"run: chmod 600 {shlex.quote(str(path))}"
            )
    encrypted = tools.encrypted_keys([str(path) for path in there], env)
    usable = [path for path in there if str(path) not in encrypted]
    agent = _agent_in_words(listing, held, env)
    if usable:
        own = [path for path in usable if _fingerprint(path) in held]
        return fine(f"{usable[0]}{' (held by the agent)' if usable[0] in own else ''}; {agent}")
    if encrypted:
        add = login.how_to_add(destination, encrypted[0], shared)
        return warning(
            f"{encrypted[0]} has a passphrase, and the agent does not hold it; {agent}",
            f"run: {add}" if add else _LOG_IN,
        )
    if held and not resolved.flag("identitiesonly"):
        return fine(f"no key file; {agent}")
    if held and any(_fingerprint(path.with_name(f"{path.name}.pub")) in held for path in names):
        return fine(f"the key is in the agent alone; {agent}")
    if not login.offers_keys(resolved):
        return fine(f"none, but other ways are preferred; {agent}")
    return warning(f"there is no key {_in_words(names)}; {agent}", Remedy("run: ", "ossh setup"))


def _in_words(paths: Sequence[Path]) -> str:
    """The wanted files in words, each directory once."""
    names: dict[Path, list[str]] = {}
    for path in paths:
        names.setdefault(path.parent, []).append(path.name)
    return " or ".join(f"in {directory} ({', '.join(found)})" for directory, found in names.items())


def _agent_in_words(listing: tools.Finished, held: Iterable[str], env: dict[str, str]) -> str:
    if listing.returncode == 0:
        return f"the agent holds {len(list(held))}"
    if listing.returncode == 1:
        return "the agent holds none"
    place = env.get("SSH_AUTH_SOCK", os.environ.get("SSH_AUTH_SOCK", ""))
    return f"no agent answers at {place}" if place else "no agent"


def _fingerprint(path: Path) -> str:
    if not path.is_file():
        return ""
    words = tools.ask("ssh-keygen", "-l", "-f", str(path)).stdout.split()
    return words[1] if len(words) > 1 else ""


def certificate(destination: Destination) -> Finding:
    """The certificate that is valid longest, and its expiry."""
    ends: list[tuple[float, Path, datetime.datetime | None]] = []
    for path in destination.resolved.certificates():
        try:
            end = tools.certificate_end(path)
        except ValueError as reason:
            return broken(str(reason), "get a new certificate")
        ends.append((end.timestamp() if end else float("inf"), path, end))
    if not ends:
        return fine(NOT_USED)
    _, path, end = max(ends)
    if end is None:
        return fine(f"{path}, which never expires")
    gets_one = destination.settings.authentication_script is not None
    return _until(
        str(path),
        end,
        destination.settings.min_validity,
        _LOG_IN if gets_one else "get a new certificate",
    )


def ticket(destination: Destination) -> Finding:
    """The Kerberos ticket and its expiry, if GSSAPI is used."""
    resolved = destination.resolved
    if not resolved.flag("gssapiauthentication"):
        return fine(NOT_USED)
    preferred = resolved.get("preferredauthentications").split(",")
    # Debian's ssh_config turns it on for everybody; it is needed only if nothing else may be tried
    needed = all(method.startswith("gssapi") for method in preferred) or destination.settings.keytab
    end = tools.ticket_end()
    if end is None:
        return broken("there is no ticket", "run: kinit") if needed else fine(NOT_USED)
    if not needed and end < datetime.datetime.now().astimezone():
        return fine("an expired one, but other ways are left")
    return _until("it", end, min(destination.settings.min_validity, 600), "run: kinit")


def _until(what: str, end: datetime.datetime, margin: float, advice: Remedy | str) -> Finding:
    now = datetime.datetime.now().astimezone()
    moment = f"{end:%Y-%m-%d %H:%M:%S}"
    if end <= now:
        return broken(f"{what} expired at {moment}", advice)
    if end < now + datetime.timedelta(seconds=margin):
        return warning(f"{what} expires soon, at {moment}", advice)
    return fine(f"{what} is valid until {moment}")


def secrets(destination: Destination) -> Finding:
    """Whether each stored secret of the settings is available; it is never shown."""
    count = 0
    for answer in dict.fromkeys(_stored(destination.settings)):
        try:
            resolve_answer(answer, ask=_ask_nobody, tell=_ignore, deadline=time.monotonic())
        except OpenSshTransportError as error:
            return broken(error.message, error.remedy)
        count += 1
    return fine(f"{count} resolvable" if count else NOT_USED)


def _stored(settings: Settings) -> Iterator[Answer]:
    """The parts of the answers in the settings; for codes only the seed, because no code must be used up."""
    left: list[Answer | None] = [rule.answer for rule in settings.prompts]
    left += [settings.password, settings.code, settings.pin]
    while left:
        answer = left.pop(0)
        if isinstance(answer, Totp):
            left.append(answer.source)
        elif isinstance(answer, Join):
            left += answer.parts
        elif answer is not None and not isinstance(answer, Ask | Text):
            yield answer


def _ask_nobody(_: Ask) -> Secret:
    raise SettingsError("a person is asked for it")


def _ignore(_: str) -> None:
    pass


def failed_logins(destination: Destination) -> Finding:
    """How many logins have failed, and whether another may be tried without a person."""
    spent = Budget(destination).read()
    advice = _LOG_IN
    if spent.failures >= MOST_FAILURES:
        return broken(
            f"{spent.failures} in a row, the last: {spent.reason}; no unattended login is tried", advice
        )
    left = spent.until - time.time()
    if spent.failures:
        pause = f"no unattended login for {left:.0f} s" if left > 0 else "another may be tried"
        return warning(f"{spent.failures} in a row, the last: {spent.reason}; {pause}", advice)
    return fine("none")


# In the order in which a login needs them.
LINKS: tuple[tuple[str, Callable[[Destination], Finding]], ...] = (
    ("keys", keys),
    ("certificate", certificate),
    ("ticket", ticket),
    ("secrets", secrets),
    ("failed logins", failed_logins),
)
