"""What a login process tells the one that started it: its steps while it runs, then how it ended, as JSON.

The trap: the master that it opens outlives it. A pipe for the steps must not be inherited by that, or its
reader would wait for as long.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from opensshtransport import errors

_PACKAGE = "opensshtransport"


@contextlib.contextmanager
def steps() -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    """Log here what a login process logs, each step at once, if anybody here would see it.

    Yields:
        Options for the login process, and descriptors for it to inherit.
    """
    level = logging.getLogger(_PACKAGE).getEffectiveLevel()
    if level > logging.INFO:
        yield (), ()
        return
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as lines:
        thread = threading.Thread(target=_log_each, args=(lines,), daemon=True)
        thread.start()
        try:
            yield ("--steps", f"{level}:{writing}"), (writing,)
        finally:
            os.close(writing)
            thread.join()


def _log_each(lines: Iterator[str]) -> None:
    for line in lines:
        name, level, message = json.loads(line)
        logging.getLogger(name).log(level, "%s", message)


class _AsJson(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps([record.name, record.levelno, record.getMessage()])


def pass_on_steps(how: str) -> None:
    """In a login process: pass on what is logged, as the option `--steps` says."""
    level, descriptor = map(int, how.split(":"))
    os.set_inheritable(descriptor, False)
    handler = logging.StreamHandler(os.fdopen(descriptor, "w", encoding="utf-8"))
    handler.setFormatter(_AsJson())
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(handler)
    logger.setLevel(level)


def dismantle(error: errors.OpenSshTransportError) -> dict[str, object]:
    """An error as plain values, for another process."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "host": error.host,
        "advice": dataclasses.asdict(error.remedy),
        "topic": error.topic,
        "argv": list(error.argv),
        "returncode": error.returncode,
        "stderr": error.stderr,
    }


def revive(values: dict[str, Any]) -> errors.OpenSshTransportError:
    """The error that `dismantle` took apart."""
    kind: type[errors.OpenSshTransportError] = getattr(errors, values.pop("error"))
    return kind(values.pop("message"), advice=errors.Remedy(**values.pop("advice")), **values)
