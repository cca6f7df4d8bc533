"""How many rounds are played, and by which seed."""

from __future__ import annotations

import os
import random
import zlib

import pytest

BATCHES = 20
ROUNDS = 500


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what repeats a failure, and what plays for longer."""
    group = parser.getgroup("faults")
    group.addoption("--rounds", type=int, default=ROUNDS, help=f"rounds of faults in all (default: {ROUNDS})")
    group.addoption("--seed", type=int, default=None, help="repeats what a failure has printed")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds there are in all."""
    # where this file is read late, the option is not known yet
    return int(request.config.getoption("--rounds", ROUNDS))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: another one each time, and the same for all of pytest's processes."""
    told = request.config.getoption("--seed", None)
    if told is not None:
        return int(told)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return zlib.crc32(run.encode()) if run else random.SystemRandom().randrange(1 << 32)
