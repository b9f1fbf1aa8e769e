"""One world for each test."""

import pytest

from gatepass.core.types.common import SourceKind
from tests.engine.finders import HERE, ScriptedFinder
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.world import World


@pytest.fixture
def cloud() -> SlowFirewalls:
    return SlowFirewalls()


@pytest.fixture
def world(cloud: SlowFirewalls) -> World:
    return World(cloud)


@pytest.fixture
def finder(world: World) -> ScriptedFinder:
    """The only way in which this installation finds addresses."""
    made = ScriptedFinder()
    made.answers["it-1"] = (HERE,)
    world.finders = {SourceKind.POD: made}
    return made


@pytest.fixture
def switches(world: World) -> MemorySwitches:
    """Those of all groups."""
    made = MemorySwitches()
    world.switches = {"aws": made}
    return made
