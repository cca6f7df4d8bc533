"""Errors of files in a copy of many: named, collected, and raised at the end."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opensshtransport.errors import OpenSshTransportError
from opensshtransport.transfer.outcome import TransferFailed


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Add to a local error where it happened: a full disk does not say that."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None and not isinstance(error, TransferFailed):
            error.filename = path
        raise


@contextmanager
def collected(failures: list[OSError]) -> Iterator[None]:
    """Collect the failure of a file, so that the others are still moved."""
    try:
        yield
    except OpenSshTransportError:
        raise
    except OSError as error:
        failures += getattr(error, "failures", ()) or (error,)


def raise_all(failures: Sequence[OSError]) -> None:
    """Raise what was collected; each name only once.

    Raises:
        OSError: the only one.
        TransferFailed: several.
    """
    told = {(one.errno, posixpath.normpath(str(one.filename))): one for one in reversed(failures)}
    found = list(reversed(told.values()))
    if len(found) == 1:
        raise found[0]
    if found:
        error = TransferFailed(found[0].errno, found[0].strerror, found[0].filename)
        error.failures = tuple(found)
        raise error
