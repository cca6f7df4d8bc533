"""How a transfer ended: what was moved, or the error that lists the files that were not."""

from __future__ import annotations

from opensshtransport.transfer.job import Job
from opensshtransport.transfer.meter import Transferred


class TransferFailed(OSError):
    """Several files could not be moved; all others have arrived.

    Attributes:
        failures: what happened, one error for each.
        result: what was moved, as put and get return it.
    """

    failures: tuple[OSError, ...] = ()
    result: Transferred | None = None


def outcome(job: Job) -> Transferred:
    """What put and get return, or raise.

    Raises:
        OSError: the only failure.
        TransferFailed: several.
    """
    result, failures = job.meter.end(), job.failures
    if not failures:
        return result
    if len(failures) == 1:
        raise failures[0]
    first = failures[0]
    error = TransferFailed(
        first.errno, f"{len(failures)} files were not moved, the first: {first.strerror}", first.filename
    )
    error.failures, error.result = tuple(failures), result
    raise error
