"""What the steps of `ossh setup` have in common: the request, the person, and what ssh_config says now."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from opensshtransport.errors import SettingsError
from opensshtransport.local import edits
from opensshtransport.local.settings import load
from opensshtransport.login.person import Person
from opensshtransport.openssh import programs, ssh_config
from opensshtransport.openssh.destination import Resolved, ask_resolved
from opensshtransport.setup.plan import SetupRequest

_T = TypeVar("_T")


class Step:
    """Asks the person, if there is one, and shows what will change."""

    def __init__(self, request: SetupRequest, person: Person | None, say: Callable[[str], None]) -> None:
        self.request = request
        self.person = person
        self.say = say
        self.interactive = person is not None and not request.yes and sys.stdin.isatty()
        self.kept: set[Path] = set()
        self.file = request.ssh_config or ssh_config.person_file()
        self.ssh = programs.locate(load(request.host).ssh)

    def ask(self, question: str, given: str | None, default: str, read: Callable[[str], _T]) -> _T:
        """What was given, or what the person answers; the default if nobody can be asked.

        Args:
            question: what is asked.
            given: by an option; None to ask.
            default: what an empty answer means.
            read: understands the words, or raises SettingsError; then the person is asked again.

        Raises:
            SettingsError: what was given cannot be understood.
        """
        if given is not None or not self.interactive:
            return read(default if given is None else given)
        while True:
            answer = self.line(f"{question} [{default or 'none'}]: ").strip() or default
            try:
                return read(answer)
            except SettingsError as reason:
                self.say(str(reason))

    def confirm(self, question: str, *, default: bool) -> bool:
        """Whether the person says yes."""
        if not self.interactive:
            return default
        answer = self.line(f"{question} [{'Y/n' if default else 'y/N'}]: ").strip().lower()
        return answer.startswith("y") if answer else default

    def line(self, prompt: str) -> str:
        """What the person types.

        Raises:
            SettingsError: nothing more can be read.
        """
        try:
            return input(prompt)
        except EOFError:
            raise SettingsError("the question was not answered", advice="give it as an option") from None

    def resolved(self, name: str) -> Resolved:
        """What ssh_config says of a name now."""
        # none: no file at all (ssh(1), -F)
        file = self.request.ssh_config
        return ask_resolved(self.ssh, name, Path("none") if file and not file.is_file() else file)

    def show(self, before: str, after: str, file: Path) -> None:
        """Show what will change."""
        for line in edits.difference(before, after, file):
            self.say(line)
