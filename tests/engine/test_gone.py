"""EC2 takes all revocations of a call or none: what is gone may not hold up what is there."""

import asyncio

import pytest

from gatepass.core.types.session import AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

NUMBER = 5


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


@pytest.mark.parametrize("recorded", [True, False])
async def test_what_another_tool_has_removed_before_a_start_holds_up_none_that_is_there(
    world: World, cloud: PacedFirewalls, recorded: bool
) -> None:
    """One call after the other it would take as many of them as are gone."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        sessions = [world.session(f"it-{number}", cidrs=(f"198.51.100.{number}/32",)) for number in range(NUMBER)]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all are open")
        gone = list(cloud.rules(group))
        if not recorded:
            world.cluster.refuse = lambda verb: verb == "status"
        sessions.append(world.session("there", cidrs=("203.0.113.8/32",)))
        await eventually(lambda: len(cloud.rules(group)) == NUMBER + 1, "and the last", 5)
        await asyncio.sleep(5)  # the sessions' statuses tell of it now, if they can be written
    world.cluster.refuse = lambda _verb: False
    for id_ in gone:
        del cloud.rules(group)[id_]
    for each in sessions:
        world.edit(AccessSession, each.key, stop=True)
    cloud.slow_revoke = 1.0
    began = asyncio.get_running_loop().time()
    async with world.running():
        await eventually(lambda: cloud.sent_since("revokes", began), "the first call", 5)
        await eventually(lambda: not cloud.rules(group), "it is closed", 1.5)
        await eventually(lambda: all(world.status(each).phase is Phase.CANCELLED for each in sessions), "all end", 200)
