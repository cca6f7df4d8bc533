"""How many rounds are played, and by which seed."""

from __future__ import annotations

import pytest

BATCHES = 20
ROUNDS = 500
# The same rounds each time, unless told otherwise. `scripts/soak` draws others.
SEED = 77


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what repeats a failure, and what plays for longer."""
    group = parser.getgroup("faults")
    group.addoption("--rounds", type=int, default=ROUNDS, help=f"rounds of faults in all (default: {ROUNDS})")
    group.addoption("--seed", type=int, default=SEED, help=f"draws other rounds (default: {SEED})")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds there are in all."""
    # where this file is read late, the option is not known yet
    return int(request.config.getoption("--rounds", ROUNDS))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run."""
    return int(request.config.getoption("--seed", SEED))
