"""The clock turns out to have been wrong while the operator runs: what is due is due by the right one."""

import asyncio

import pytest

from gatepass.core.types.session import Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.mark.parametrize("slow_by", [90.0, -90.0])
async def test_a_session_closes_by_the_clock_as_it_was_corrected(
    world: World, cloud: SlowFirewalls, slow_by: float
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="5m")
        await asyncio.sleep(200)
        world.clock.correct(slow_by)
        await asyncio.sleep(99 - slow_by)
        assert cloud.rules(group)
        await eventually(lambda: not cloud.rules(group), "it closes", 2)
        await eventually(lambda: world.status(session).phase is Phase.EXPIRED, "its end", 2)
