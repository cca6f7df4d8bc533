"""What is sent to the remote login shell around a command.

Two things get lost between a command and us. Start-up files may print before it: so the wrapped command first
prints a line of its own, `MARK PID`, and what comes before that is dropped. And OpenSSH's multiplexing does
not pass on the signal that killed a command: so a parent shell turns signal N into status 128+N. PID is the
session's and process group's leader.

The command itself is read by the user's login shell, as without a wrapper. The traps: bash reads `~/.bashrc`
when sshd starts it, but the shell below it must not read that again, which SHLVL prevents. And that shell
reads the file that BASH_ENV names, which may print: then that shell prints the line.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

# Quoted by ' these are still special in tcsh (! and newline) or fish (the backslash).
_SPECIAL_WHEN_QUOTED = re.compile(r"[!\\\n]")

# What is spelled out if any shell may be the reader: these, the quote itself, and what is not ASCII.
_SPELLED_OUT = re.compile(rb"[^ -~]|['!\\]")

# The shell above the command must outlive a signal to the whole group, to report the command's status; and
# its own messages on stderr ("Killed") do not belong to the command. The subshell is for dash, which would
# print them on the command's stderr.
_ABOVE = "exec 3>&2 2>/dev/null; trap : HUP INT QUIT TERM; "

_FIRST = '"$0"'

# What the remote side of a spare does: it says that it is ready, waits for a request (a number of lines, and
# the lines), and becomes it. What follows on stdin is the command's. At the end of its input, at an empty
# line, and where none comes for a while, it ends with a status and without the mark: nothing has begun. The
# timer ends the group, whose leader may have died before.
_WAIT = r"""
exec 3>&2 2>/dev/null
(sleep SECONDS&
ossh_sleep=$!
trap 'kill -s TERM $ossh_sleep;exit' TERM
wait $ossh_sleep;trap '' TERM;kill -s TERM 0
sleep 5;kill -s KILL 0) </dev/null >/dev/null 3>&- &
ossh_timer=$!
ossh_unused(){ trap '' TERM;kill -s TERM $ossh_timer;exit 0;}
trap ossh_unused TERM
echo;echo $ossh_mark ready;{ echo;echo $ossh_mark ready;} >&3
ossh_request= ossh_end=
IFS= read -r ossh_lines||ossh_unused
case $ossh_lines in ''|*[!0-9]*) ossh_unused;;esac
while [ "$ossh_lines" -gt 0 ];do
IFS= read -r ossh_line||ossh_unused
ossh_request=$ossh_request$ossh_end$ossh_line ossh_end='
' ossh_lines=$((ossh_lines-1))
done
trap : HUP INT QUIT TERM
kill -s TERM $ossh_timer
kill -s CONT $ossh_timer
wait $ossh_timer
"""

_BELOW = " 2>&3 3>&-); exit $?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """The text before and after a command, which itself goes between in single quotes.

    Attributes:
        mark: the first word of the line that begins the output; "" if nothing is wrapped.
        before, after: the text around the command.
        tty_before: `before` for a command with a terminal: without a mark.
        posix: whether the login shell reads text in single quotes literally.
    """

    mark: str
    before: str
    after: str
    tty_before: str
    posix: bool

    def wrap(self, command: str, *, tty: bool = False) -> str:
        """The text for ssh to send."""
        if not self.mark:
            return command
        before = self.tty_before if tty else self.before
        if self.posix or not _SPECIAL_WHEN_QUOTED.search(command):
            return before + _quote(command) + self.after
        # the script that the text above makes
        script = _ABOVE + _below_sh("" if tty else self.mark, shlex.quote(command)) + _BELOW
        return for_any_shell(script)


def for_any_shell(script: str) -> str:
    """A script of sh as one line that any login shell (bash, dash, zsh, tcsh, fish, busybox) can read."""
    return f"exec /bin/sh -c 'eval \"$(printf %b \"$0\")\"' '{spelled(script)}'"


def spelled(text: str) -> str:
    """A text in characters that no shell changes between single quotes; `printf %b` (POSIX) decodes it."""
    raw = text.encode("utf-8", "surrogateescape")
    return _SPELLED_OUT.sub(_spelled_byte, raw).decode("ascii")


def _spelled_byte(match: re.Match[bytes]) -> bytes:
    return b"\\n" if match[0] == b"\n" else b"\\0%03o" % ord(match[0])


def waiting(seconds: int, *, posix: bool) -> tuple[str, str]:
    """What the remote side of a spare runs: the text before and after its mark.

    Both its outputs begin with a line `MARK ready`; what follows is as that of a wrapped command.

    Args:
        seconds: how long it waits for a request.
        posix: as for `wrapper`.
    """
    wait = _WAIT.replace("SECONDS", str(seconds))
    if posix:
        # the login shell itself: another one may drop functions that start-up files have exported
        script = (
            f'{wait}ossh_line="echo;echo $ossh_mark $$;";[ "${{BASH_ENV-}}" ]||eval "$ossh_line";'
            f'(exec "${{SHELL:-/bin/sh}}" -c "${{BASH_ENV:+$ossh_line}}$ossh_request"{_BELOW}'
        )
        return "ossh_mark=", script
    script = wait + _below_sh("$ossh_mark", '"$ossh_request"') + _BELOW
    before, after = for_any_shell(f"ossh_mark=MARK{script}").split("=MARK", 1)
    return f"{before}=", after


def wrapper(mark: str, *, posix: bool) -> Wrapper:
    """How to wrap commands for a login shell.

    Args:
        mark: a word that no start-up file prints; "" to wrap nothing.
        posix: the login shell belongs to the POSIX family, and is the command's parent itself. Others start
            sh, which takes a millisecond.
    """
    if not mark:
        return Wrapper(mark="", before="", after="", tty_before="", posix=posix)
    if posix:
        return Wrapper(
            mark=mark,
            # on the first line of the command, so that the shell's line numbers are right
            before=f'{_ABOVE}ossh_line="echo;echo {mark} $$;";[ "${{BASH_ENV-}}" ]||eval "$ossh_line";'
            '(exec "${SHELL:-/bin/sh}" -c "${BASH_ENV:+$ossh_line}"',
            after=_BELOW,
            tty_before=f'{_ABOVE}(exec "${{SHELL:-/bin/sh}}" -c ',
            posix=True,
        )
    return Wrapper(
        mark=mark,
        before=f"exec /bin/sh -c '{_ABOVE}{_below_sh(mark, _FIRST)}{_BELOW}' ",
        after="",
        tty_before=f"exec /bin/sh -c '{_ABOVE}{_below_sh('', _FIRST)}{_BELOW}' ",
        posix=False,
    )


def _below_sh(mark: str, command: str) -> str:
    # other shells read a start-up file again, so the mark is printed by the command's own shell; on a line of
    # its own, as what follows a `;` is read differently by some
    newline = "n=$(echo;echo .); " if mark else ""
    begin = f'"echo;echo {mark} $$${{n%.}}"' if mark else ""
    return f'{newline}(SHLVL=1; export SHLVL; exec "${{SHELL:-/bin/sh}}" -c {begin}{command}'


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
