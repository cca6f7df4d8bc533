"""The options of a transfer, and the local files that a source means."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from opensshtransport.errors import SettingsError
from opensshtransport.remote.paths import PathLike
from opensshtransport.transfer.items import Exclude
from opensshtransport.transfer.progress import Progress

Way = Literal["inline", "tar", "stream", "sftp", "scp"]

Sources = PathLike | Sequence[PathLike]

# Files, and whole trees, up to these sizes in bytes go within one request.
INLINE_FILE = 256 << 10

INLINE_TREE = 1 << 20

INLINE_ITEMS = 2000

# Files of a tree from this size on go in parts; `tree` of `transfer.sh` has the same.
LARGE = 64 << 20

WILD = frozenset("*?[")


class TransferOptions(TypedDict, total=False):
    """What `Transport.put` and `Transport.get` both take; `How` has the defaults."""

    recursive: bool | None
    dereference: bool
    preserve: bool
    overwrite: bool
    resume: bool
    verify: bool
    progress: Callable[[Progress], object] | bool | None
    exclude: Exclude
    limit_rate: float | None
    way: Way | None


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """The options of one transfer; see `Transport.put`."""

    recursive: bool | None = None
    dereference: bool = False
    preserve: bool = False
    overwrite: bool = True
    resume: bool = True
    verify: bool = False
    progress: Callable[[Progress], object] | bool | None = None
    exclude: Exclude = ()
    limit_rate: float | None = None
    way: Way | None = None

    def __post_init__(self) -> None:
        """Store the patterns: they are used for each name."""
        if not callable(self.exclude):
            object.__setattr__(self, "exclude", tuple(self.exclude))

    def check_tree(self, name: str) -> None:
        """Raise if a directory was not to be moved."""
        if self.recursive is False:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)


def listed(source: Sources) -> list[PathLike]:
    """One source, or several.

    Raises:
        SettingsError: there is none.
    """
    found = [source] if isinstance(source, str | bytes | os.PathLike) else list(source)
    if not found:
        raise SettingsError("no source", advice="name one")
    return found
