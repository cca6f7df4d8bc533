"""A command: what is to be run, and how it ended. Values; no I/O.

The trap: the command is read by the user's login shell, whatever that is, and its text may be too long for an
argument.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Generic

from opensshtransport.errors import CommandFailed, OnceError, SettingsError

if TYPE_CHECKING:
    # with a default: a plain `CompletedCommand` is one of bytes
    from typing_extensions import TypeVar

    T = TypeVar("T", str, bytes, default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T", str, bytes)

# One argument of a command line holds 131,071 bytes on Linux (execve(2), MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 120_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Shells that read start-up files whenever they start; the others read theirs when the channel was opened.
_REREADING = {"zsh", "csh", "tcsh", "fish"}

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@:-]{0,199}")


@dataclass(frozen=True, slots=True)
class CompletedCommand(Generic[T]):
    """How a command ended. The names are those of subprocess.CompletedProcess.

    Attributes:
        argv: the command as it was given: a sequence, or a string alone.
        returncode: 0 to 255, as the remote shell reports it: 128+N if signal N killed it.
        signal: that signal, or None.
        stdout, stderr: what it printed, as bytes or as text. None if it went elsewhere; a type checker does
            not know that.
        host: where it ran.
    """

    argv: tuple[str, ...]
    returncode: int
    signal: signal.Signals | None
    stdout: T
    stderr: T
    host: str | None = field(default=None, repr=False)

    @property
    def args(self) -> str | list[str]:
        """The command as it was given."""
        return self.argv[0] if len(self.argv) == 1 else list(self.argv)

    def check_returncode(self) -> None:
        """Raise if the command failed.

        Raises:
            CommandFailed: its return code is not 0. It shows the end of stderr, or of stdout if that has
                both.
        """
        if self.returncode == 0:
            return
        how = f"was killed by {self.signal.name}" if self.signal else f"returned {self.returncode}"
        texts: list[Any] = [self.stdout, self.stderr]
        said = texts[texts[1] is not None]
        error = CommandFailed(
            f"{shlex.join(self.argv) if len(self.argv) > 1 else self.argv[0]!r} {how}",
            host=self.host,
            argv=self.argv,
            returncode=self.returncode,
            stderr=said if isinstance(said, str) else (said or b"").decode(errors="replace"),
        )
        error.completed, error.cmd, error.output = self, self.args, self.stdout
        raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """A command and how to run it, checked before anything is touched.

    Attributes:
        command: a sequence, which is quoted, or a string for the remote login shell.
        cwd: the directory to run it in; relative to the home directory.
        env: further variables.
        login_shell: run it in a login shell, which reads its profile.
        once: the key under which it runs only once.
        frames: whether it reads input from us; otherwise it reads nothing.
        merged: whether its stderr goes to its stdout.
    """

    command: str | Sequence[str]
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    login_shell: bool = False
    once: str | None = None
    frames: bool = False
    merged: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        """The command as it was given."""
        return (self.command,) if isinstance(self.command, str) else tuple(self.command)

    def text(self, shell: str) -> str:
        """The command as the remote shell reads it.

        Raises:
            SettingsError: it contains a NUL, or is empty.
        """
        text = self.command if isinstance(self.command, str) else joined(self.command, shell)
        if "\0" in text:
            raise SettingsError("the command contains a NUL", advice="send such bytes on stdin")
        if not text.strip():
            raise SettingsError("the command is empty", advice="give a command")
        return text

    def script(self, shell: str) -> str:
        """The request as the bootstrap reads it.

        Raises:
            SettingsError: a part of it is wrong.
        """
        text = self.text(shell)
        lines = []
        if self.cwd is not None:
            lines.append(f"start_in {_directory(os.fspath(self.cwd))}")
        for name, value in (self.env or {}).items():
            if not _NAME.fullmatch(name) or "\0" in value:
                raise SettingsError(
                    f"{name!r} cannot be set as a variable", advice="use letters, digits and _"
                )
            lines.append(f"export {name}={shlex.quote(value)}")
        mode = "frames" if self.frames else "none"
        words = ['"$SHELL"', "-c"]
        if self.login_shell and PurePosixPath(shell).name in {"csh", "tcsh"}:
            # csh accepts -l only as the sole option
            text = f"if ( -r ~/.login ) source ~/.login\n{text}"
        elif self.login_shell:
            words.insert(1, "-l")
        if self.merged:
            # on the host and not at our end: only this keeps the order in which it was printed
            words[:0] = ["/bin/sh", "-c", "'exec \"$@\" 2>&1'", "sh"]
        # SHELL may be missing, or start-up files may have changed it
        lines.insert(0, f"SHELL={shlex.quote(shell)}")
        quoted = shlex.quote(text)
        if opening := self.opening(shell, "$0"):
            both = f"echo {opening}" if self.merged else f"echo {opening}; echo {opening} >&2"
            quoted = f"\"/bin/sh -c '{both}'$ossh_nl\"{quoted}"
        if len(os.fsencode(text)) > _LONGEST_ARGUMENT:
            lines.append(f"spill {quoted}")
            words[-1:], quoted = [], '"$ossh_file"'
        run = f"run {mode}"
        if self.once is not None:
            run = f"once {self.once} {self._digest} {mode}"
        return "\n".join([*lines, f"{run} {' '.join(words)} {quoted}"])

    def opening(self, shell: str, tag: str) -> str:
        """The line up to which start-up files may still print; "" if none are read again.

        Args:
            shell: the login shell.
            tag: the channel's. What is kept under a key outlives the channel, and has the key's digest
                instead.
        """
        if PurePosixPath(shell).name not in _REREADING and not self.login_shell:
            return ""
        return f"{tag if self.once is None else self._digest} begins"

    @property
    def _digest(self) -> str:
        """A digest that tells one command under a key from another.

        Raises:
            SettingsError: the key is not valid.
        """
        if self.once is None or not _KEY.fullmatch(self.once):
            raise SettingsError(
                f"{self.once!r} is not a valid key", advice="use up to 200 letters, digits and _.+=@:-"
            )
        env = [f"{name}={value}" for name, value in sorted((self.env or {}).items())]
        kind = "text" if isinstance(self.command, str) else "words"
        claim = [kind, str(len(self.argv)), *self.argv, os.fspath(self.cwd or ""), *env]
        claim += ["2>&1"] if self.merged else []
        return hashlib.sha256("\0".join(claim).encode("utf-8", "surrogateescape")).hexdigest()


def joined(words: Sequence[str], shell: str) -> str:
    """Words as one command line of a login shell.

    Args:
        words: any text.
        shell: its path or name. csh replaces `!` also between single quotes, and wants a backslash before a
            newline there (csh(1), Lexical structure); fish reads backslashes there (fish-language, Quotes).
    """
    name = PurePosixPath(shell).name
    if name in {"csh", "tcsh"}:
        return " ".join(re.sub(r"[!\n]", r"\\\g<0>", shlex.quote(word)) for word in words)
    if name == "fish":
        return " ".join(_quoted_for_fish(word) for word in words)
    return shlex.join(words)


def _quoted_for_fish(word: str) -> str:
    if shlex.quote(word) == word:
        return word
    escaped = re.sub(r"[\\']", r"\\\g<0>", word)
    return f"'{escaped}'"


def _directory(path: str) -> str:
    if not path or "\0" in path:
        raise SettingsError(f"cwd = {path!r} is not a directory's name", advice="correct it")
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:])
    # `cd -` would mean the previous directory
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def refusal(why: str, host: str, request: CommandRequest) -> BaseException:
    """The error that the bootstrap means by `refused WHY`."""
    if why.startswith("E"):
        number = getattr(errno, why)
        place = f"{host}:{os.fspath(request.cwd)}" if request.cwd is not None else host
        return OSError(number, os.strerror(number), place)
    if why == "other-command":
        return OnceError(
            f"the key {request.once!r} belongs to another command", host=host, advice="use another key"
        )
    return OnceError(
        f"the command under the key {request.once!r} was cut down (reboot, or killed)",
        host=host,
        advice="check whether it took effect, then use another key",
    )
