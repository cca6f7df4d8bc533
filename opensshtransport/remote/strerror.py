"""The errno for an error message of a remote program.

`strerror(3)` in English, which the remote scripts request with LC_ALL=C.
"""

from __future__ import annotations

import errno
import os
import re

# The texts of strerror(3) in the C locale: glibc's, then those of musl, dash and busybox.
_STRERROR: tuple[tuple[str, int], ...] = (
    ("No such file or directory", errno.ENOENT),
    ("File exists", errno.EEXIST),
    ("Not a directory", errno.ENOTDIR),
    ("Is a directory", errno.EISDIR),
    ("Permission denied", errno.EACCES),
    ("Operation not permitted", errno.EPERM),
    ("Directory not empty", errno.ENOTEMPTY),
    ("No space left on device", errno.ENOSPC),
    ("Disk quota exceeded", errno.EDQUOT),
    ("Too many levels of symbolic links", errno.ELOOP),
    ("File name too long", errno.ENAMETOOLONG),
    ("Read-only file system", errno.EROFS),
    ("Invalid argument", errno.EINVAL),
    ("Invalid cross-device link", errno.EXDEV),
    ("Input/output error", errno.EIO),
    ("Text file busy", errno.ETXTBSY),
    ("Device or resource busy", errno.EBUSY),
    ("Too many links", errno.EMLINK),
    ("File too large", errno.EFBIG),
    ("Stale file handle", errno.ESTALE),
    ("Operation not supported", errno.EOPNOTSUPP),
    ("No such device or address", errno.ENXIO),
    ("Argument list too long", errno.E2BIG),
    ("Cannot allocate memory", errno.ENOMEM),
    ("Connection timed out", errno.ETIMEDOUT),
    ("Remote I/O error", errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO),
    ("Transport endpoint is not connected", errno.ENOTCONN),
    ("Quota exceeded", errno.EDQUOT),
    ("Symbolic link loop", errno.ELOOP),
    ("Filename too long", errno.ENAMETOOLONG),
    ("Cross-device link", errno.EXDEV),
    ("I/O error", errno.EIO),
    ("Not supported", errno.EOPNOTSUPP),
    ("Resource busy", errno.EBUSY),
    ("Out of memory", errno.ENOMEM),
    ("No such file", errno.ENOENT),
    ("Symbolic link not followed", errno.ENOTDIR),
    ("Directory nonexistent", errno.ENOENT),
    ("nonexistent directory", errno.ENOENT),
    ("invalid user", errno.EINVAL),
    ("unknown user", errno.EINVAL),
    ("command not found", errno.ENOSYS),
    (": not found", errno.ENOSYS),
)

_WITHIN = (
    (" to a subdirectory of itself, '", errno.EINVAL),
    (": cannot operate on dangling symlink '", errno.ENOENT),
)


# How our own scripts name an errno (`fail` in shell.sh).
_OURS = re.compile(r"ossh: (E[A-Z0-9]+)")


def in_words(number: int, said: str) -> str:
    """An errno with what the remote side said, unless that is only the name of the errno."""
    text = os.strerror(number)
    return text if _OURS.fullmatch(said) else f"{text} ({said})"


def errno_of(said: str) -> int | None:
    """The errno of a failed operation, or None if its message does not say."""
    lines = said.strip().splitlines()
    last = lines[-1] if lines else ""
    if own := _OURS.fullmatch(last):
        return getattr(errno, own.group(1), None)
    lowered = last.lower()
    if found := next((number for words, number in _STRERROR if lowered.endswith(words.lower())), None):
        return found
    # GNU's own messages, which end with a name in quotes
    return next((number for words, number in _WITHIN if words in last), None)
