"""What an error advises, as it must be called after this very command."""

from __future__ import annotations

import re
import shlex

_COMMAND = re.compile(r"\b(ossh (?:login|doctor --login|doctor|setup)|ossh-run(?: -t)?) (?=\w)")


def as_called(advice: str, command: str, host: str | None, config: str | None) -> str:
    """An advice with the commands of ours that it names as they are to be called.

    Args:
        advice: as an error or a finding has it.
        command: what has been called: `ossh setup` goes on where it was, so it is what is to be run again.
        host: the host that was given to it.
        config: the ssh_config that was given, which a command needs as well.
    """
    if command == "setup" and host:
        again = f"ossh setup {shlex.quote(host)}"
        advice = f"run: {again}" if advice in {"try again", "run it again"} else advice
        advice = re.sub(r"\bossh login \S+", lambda _: again, advice)
    if config:
        advice = _COMMAND.sub(lambda match: f"{match[1]} -F {shlex.quote(config)} ", advice)
    return advice
