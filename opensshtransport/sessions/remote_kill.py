"""Ending a command's processes on the remote side, or sending them a signal, over a separate session.

The trap: no process but ours may be hit, and numbers are reused; so the group is found by a word in the
command line of its leader.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from opensshtransport.errors import SessionRefused
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.master.slots import Slots
from opensshtransport.openssh import command_lines
from opensshtransport.openssh.diagnosis import classify
from opensshtransport.remote.wrapper import for_any_shell

# Said if a session has ended while its master is running.
NO_STATUS = "the command ended without a status: its shell or its session was killed"

# Seconds between TERM and KILL.
GRACE = 5.0

# Seconds to wait before asking again a server that has refused a session.
_AGAIN = 0.1

# The processes of the group whose leader's command line has the mark. `spared` are those that have it too,
# and their children but for the leader's: they report the status and read frames.
_SEARCH = r"""
exec 2>/dev/null
look() {
	table=$({ ps -A -ww -o pid= -o ppid= -o pgid= -o args= || ps -o pid,ppid,pgid,args; } |
		while read -r pid parent group words; do
			case $words in *"$mark"*) words=marked ;; *) words= ;; esac
			echo "$pid $parent $group $words"
		done)
}
# others can see the mark, and have it in a command line of theirs
ours() { kill -s 0 "$1" && { [ ! -e "/proc/$1" ] || [ -O "/proc/$1" ]; }; }
leader() {
	echo "$table" | while read -r pid parent group marked; do
		[ "$pid $marked" = "$group marked" ] && ours "$pid" && echo "$pid" && break
	done
}
members() {
	look
	ours=" "
	[ -z "$spared" ] || ours=" $(echo "$table" | while read -r pid parent group marked; do
		[ "$group $marked" = "$leader marked" ] && printf "%s " "$pid"
	done)"
	echo "$table" | while read -r pid parent group marked; do
		[ "$group" = "$leader" ] || continue
		case $ours in *" $pid "*) continue ;; esac
		[ -z "$spared" ] || [ "$parent" = "$leader" ] || case $ours in *" $parent "*) continue ;; esac
		echo "$pid"
	done
}
each() { for pid in $(members); do kill -s "$1" "$pid"; done; }
look
leader=$(leader)
[ -n "$leader" ] || exit 0
"""

_END = r"""
each TERM
end=$(($(date +%s) + grace))
while [ "$(date +%s)" -lt "$end" ] && [ -n "$(members)" ]; do sleep 0.1 || sleep 1; done
each KILL
"""


def signal_group(shared: Master, facts: Facts, mark: str, name: str) -> bool:
    """Send a signal to the processes of a channel's command by a session of its own.

    Args:
        shared: the master.
        facts: what is known of it.
        mark: a word in the command line of the group's leader from the first moment; so no process but ours
            gets a signal, even if its number was reused.
        name: of the signal, without SIG.

    Returns:
        Whether the session was had.
    """
    return _by_another_session(shared, facts, f"{_given(mark)} spared=yes\n{_SEARCH}each {name}\nexit 0\n")


def end_group(shared: Master, facts: Facts, mark: str, *, spared: bool = False, grace: float = GRACE) -> bool:
    """End a remote process group by a session of its own: TERM, then KILL after a grace.

    Args:
        shared: the master.
        facts: what is known of it.
        mark: as for `signal_group`; "" ends nothing.
        spared: leave the processes alone that report the status.
        grace: seconds between TERM and KILL.

    Returns:
        Whether the session was had.
    """
    if not mark:
        return False
    given = f"{_given(mark)} spared={'yes' if spared else ''} grace={round(grace)}\n"
    return _by_another_session(shared, facts, f"{given}{_SEARCH}{_END}exit 0\n")


def _given(mark: str) -> str:
    # the search must not find itself, by its own command line
    return f"mark={mark[:1]}''{mark[1:]}"


def _by_another_session(shared: Master, facts: Facts, script: str) -> bool:
    argv = command_lines.guarded_ssh(
        shared.destination,
        command_lines.literal(Path(facts.socket)),
        command=for_any_shell(script),
        no_stdin=True,
    )
    slots, deadline = Slots(shared), time.monotonic() + GRACE
    while True:
        slot = _slot(slots, deadline)
        try:
            status, said = _said(argv)
        finally:
            if slot is not None:
                slots.give(slot)
        if status != 255 or classify(said, status) is not SessionRefused or time.monotonic() > deadline:
            return status == 0
        with slots.waiting():
            time.sleep(_AGAIN)


def _slot(slots: Slots, deadline: float) -> int | None:
    """A slot of the budget. None if there seems to be none: the server may grant a session all the same."""
    if slots.limit == 1:
        # it is the command's own
        return slots.take()
    with contextlib.suppress(SessionRefused):
        return slots.wait(deadline)
    return None


def _said(argv: Sequence[str]) -> tuple[int | None, str]:
    """The status of a program, None if it takes too long, and what it prints on stderr."""
    # to a file: the master would keep a pipe open
    with tempfile.TemporaryFile() as said:
        try:
            status: int | None = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=4 * GRACE,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        said.seek(0)
        return status, said.read().decode(errors="replace")
