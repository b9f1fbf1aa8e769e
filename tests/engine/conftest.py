"""One world for each test."""

import pytest

from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World


@pytest.fixture
def cloud() -> SlowFirewalls:
    return SlowFirewalls()


@pytest.fixture
def world(cloud: SlowFirewalls) -> World:
    return World(cloud)
