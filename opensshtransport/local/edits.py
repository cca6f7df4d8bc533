"""The user's files, changed as shown: the old one is kept, and restored if the new one fails."""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Iterator
from pathlib import Path

from opensshtransport.local.locks import replace_file


def text_of(file: Path) -> str:
    """The content of a file, byte for byte; "" if it does not exist."""
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""


def difference(before: str, after: str, file: Path) -> Iterator[str]:
    """The lines of a unified diff."""
    return difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(file), f"{file} (after the change)", lineterm="", n=2
    )


@contextlib.contextmanager
def replaced(file: Path, text: str, kept: set[Path]) -> Iterator[None]:
    """Replace the text of a file; if the block raises an error, the old text is restored.

    Args:
        file: a link to a file elsewhere (dotfiles) stays one.
        text: the new text.
        kept: files whose old text was already kept in this run: once is enough.
    """
    file = file.resolve()
    if not file.parent.exists():
        file.parent.mkdir(parents=True, mode=0o700)
    old = text_of(file) if file.exists() else None
    backup = file.with_name(f"{file.name}.before-ossh-{time.strftime('%Y%m%d-%H%M%S')}")
    if old is not None and file not in kept:
        replace_file(backup, old)
    replace_file(file, text)
    try:
        yield
    except BaseException:
        if old is None:
            file.unlink()
        else:
            replace_file(file, old)
        raise
    kept.add(file)
