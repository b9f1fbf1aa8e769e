"""What the tests of the judge begin with."""

import pytest

from tests.observer.play import Play


@pytest.fixture
def play() -> Play:
    """One resource and one session of an hour."""
    return Play()
