"""What a caller gives as stdin, stdout and stderr, and whether it is text. The names are those of subprocess.

The trap: a remote command cannot inherit descriptors, because its streams come through ssh. So we read and
write a file or a descriptor, and None, which for subprocess means our own stream, means here that output is
kept and input is empty.
"""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, Any

from opensshtransport.errors import SettingsError

# A sink: a function that takes the bytes of a stream as they come.
Sink = Callable[[bytes], object]

# Where output goes: PIPE, DEVNULL, a descriptor, a file, or a function of each piece; for stderr also STDOUT.
Output = Callable[[bytes], object] | IO[Any] | int | None

# What a command reads.
Input = bytes | bytearray | memoryview | str | IO[Any]

# A command's input that nobody limits must not fill the memory unseen.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class TextMode:
    """How bytes become text: undecodable ones as in os.fsdecode, line endings as newlines."""

    encoding: str = "utf-8"
    errors: str = "surrogateescape"

    def decoded(self, raw: bytes) -> str:
        """As in subprocess, which translates line endings too."""
        return raw.decode(self.encoding, self.errors).replace("\r\n", "\n").replace("\r", "\n")

    def encoded(self, text: str) -> bytes:
        """The bytes to send for a text."""
        return text.encode(self.encoding, self.errors)


def text_mode(
    *,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    universal_newlines: bool | None = None,
) -> TextMode | None:
    """Whether output is text: each of the four asks for it, as in subprocess. The default is UTF-8.

    Raises:
        SettingsError: two of them contradict each other.
        LookupError: there is no such encoding or error handler.
    """
    if text is not None and universal_newlines is not None and bool(text) != bool(universal_newlines):
        raise SettingsError("text and universal_newlines contradict each other", advice="give text alone")
    if not (text or encoding or errors or universal_newlines):
        return None
    named = TextMode(encoding or TextMode().encoding, errors or TextMode().errors)
    codecs.lookup(named.encoding)
    codecs.lookup_error(named.errors)
    return named


def check_shell(shell: object) -> None:
    """Raise if the caller says which program is to read the command, as subprocess allows.

    Raises:
        SettingsError: `shell=` was given.
    """
    if shell is not None:
        raise SettingsError(
            "shell= has no meaning on another machine: a string is always read by the login shell there,"
            " a sequence is always quoted",
            advice="leave out shell= and choose between the two",
        )


def check_outputs(stdout: Output, stderr: Output, *, capture_output: bool = False) -> None:
    """Raise if the outputs that are asked for are impossible.

    Raises:
        SettingsError: they contradict each other, or are not outputs.
    """
    if capture_output and not (stdout is stderr is None):
        raise SettingsError(
            "capture_output already says where the output goes", advice="leave out stdout and stderr"
        )
    if stdout == STDOUT:
        raise SettingsError("STDOUT is a target for stderr only", advice="give it as stderr")
    for name, target in (("stdout", stdout), ("stderr", stderr)):
        known = {PIPE, DEVNULL, STDOUT}
        number = isinstance(target, int) and not isinstance(target, bool) and (target >= 0 or target in known)
        if not (target is None or number or callable(target) or hasattr(target, "write")):
            raise SettingsError(
                f"{name}={target!r} is not an output", advice="give PIPE, DEVNULL, a file or a function"
            )


def given_input(given: object, stdin: object) -> Any:
    """What a command reads, from `input` and `stdin`; None if that is nothing.

    Raises:
        SettingsError: both are given, or one is neither.
    """
    if given is not None and stdin is not None:
        raise SettingsError("input and stdin are two inputs", advice="give one")
    source: object = given if given is not None else stdin
    if source is None or (given is not None and given in (b"", "")):
        return None
    if isinstance(stdin, int) and not isinstance(stdin, bool) and (stdin >= 0 or stdin in (PIPE, DEVNULL)):
        return stdin if stdin >= 0 else None
    data = isinstance(given, bytes | bytearray | memoryview | str)
    if not (data or hasattr(source, "read")):
        raise SettingsError(f"{source!r} is not an input", advice="give bytes, text, a file or a descriptor")
    return source


def pieces(source: Any, text: TextMode | None) -> Iterator[bytes]:
    """The bytes of an input, as they come."""
    text = text or TextMode()
    if isinstance(source, str):
        yield text.encoded(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield bytes(source)
    elif isinstance(source, int):
        while raw := os.read(source, _CHUNK):
            yield raw
    else:
        # send what has arrived, in case the file is written to meanwhile
        read = getattr(source, "read1", source.read)
        while piece := read(_CHUNK):
            yield text.encoded(piece) if isinstance(piece, str) else piece


def sink_of(target: Output, text: TextMode | None = None) -> Sink | None:
    """The sink for a target; None if the stream is to be kept."""
    if target is None or target == PIPE:
        return None
    if target == DEVNULL:
        return lambda _: None
    if isinstance(target, int):
        return to_descriptor(target)
    if callable(target):
        return target
    file: Any = target
    if isinstance(file, io.TextIOBase):
        file.flush()
        file = getattr(file, "buffer", file)
    if isinstance(file, io.TextIOBase):
        return _to_text(file, text or TextMode())
    if isinstance(file, io.RawIOBase):
        # it may accept less than it is given
        return to_descriptor(file.fileno())
    take: Sink = file.write
    return take


def to_descriptor(descriptor: int) -> Sink:
    """Writes all of each piece to a descriptor."""

    def write(raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def _to_text(file: io.TextIOBase, text: TextMode) -> Sink:
    """Decodes for a file that accepts only text, such as a notebook's sys.stdout."""
    decoder = codecs.getincrementaldecoder(text.encoding)("replace")
    return lambda raw: file.write(decoder.decode(raw))


def limited(buffer: io.BytesIO, limit: int) -> Sink:
    """Keeps up to a number of bytes.

    Raises:
        SettingsError: by the sink, if there are more.
    """

    def write(raw: bytes) -> None:
        if buffer.tell() + len(raw) > limit:
            buffer.write(raw[: limit - buffer.tell()])
            raise SettingsError(
                f"the command printed more than {limit} bytes",
                advice="raise max_output, or give a file as stdout",
            )
        buffer.write(raw)

    return write
