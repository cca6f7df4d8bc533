"""What `scripts/test` leaves out unless `--all` is given, as CI gives it.

Each of these takes long, and shows with more cases what another test shows with few. A test that is named on
the command line by its id always runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

# Whole tests, by their file and name: nothing of them is run.
LEFT_OUT: frozenset[str] = frozenset()

# Tests with many parameters: one of so many is run.
SAMPLED: Mapping[str, int] = {}


def left_out(ids: Sequence[str]) -> set[str]:
    """Those of these tests that are run with `--all` alone.

    Args:
        ids: as pytest has them, `tests/folder/test_file.py::test_name[parameters]`.
    """
    seen: Counter[str] = Counter()
    found = set()
    for whole in ids:
        name = whole.partition("[")[0].removeprefix("tests/")
        if name in LEFT_OUT or seen[name] % SAMPLED.get(name, 1):
            found.add(whole)
        seen[name] += 1
    return found
