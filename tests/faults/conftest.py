"""How many rounds are played, and by which seed."""

from __future__ import annotations

import pytest

BATCHES = 20
# With `--all`, as in CI, and without.
ROUNDS, FEW_ROUNDS = 160, 60
# The same rounds each time, unless told otherwise. `scripts/soak` draws others.
SEED = 77


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what repeats a failure, and what plays for longer."""
    group = parser.getgroup("faults")
    default = f"{FEW_ROUNDS}, or {ROUNDS} with --all"
    group.addoption("--rounds", type=int, help=f"rounds of faults in all (default: {default})")
    group.addoption("--seed", type=int, default=SEED, help=f"draws other rounds (default: {SEED})")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds there are in all."""
    # where this file is read late, the option is not known yet
    default = ROUNDS if request.config.getoption("--all") else FEW_ROUNDS
    return int(request.config.getoption("--rounds", None) or default)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run."""
    return int(request.config.getoption("--seed", SEED))
