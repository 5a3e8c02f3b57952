"""What holds for all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no error: no test fails for the time that it takes.
settings.register_profile("ebbtide", deadline=None)
settings.load_profile("ebbtide")


@pytest.fixture(scope="session")
def movielens():
    """The folder of the shipped data."""
    return Path(__file__).parents[1] / "examples" / "movielens-small"
