"""What a start and the looks at everything do not do: write, or ask twice."""

import asyncio

import pytest

from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.resource_pass import VERIFIED_EVERY_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

MANY = 40
"""More than any queue has workers."""


async def _opened(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        for number in range(MANY):
            cloud.create(f"sg-{number:04}")
            world.resource(f"db-{number}", groups=(f"sg-{number:04}",))
            world.session(f"it-{number}", resources=({"name": f"db-{number}"},), duration="24h")
        await asyncio.sleep(60)


async def test_a_start_writes_nothing_and_reads_each_thing_once(world: World, cloud: SlowFirewalls) -> None:
    await _opened(world, cloud)
    world.cluster.writes.clear()
    cloud.calls.clear()
    async with world.running(handover_seconds=25.0):
        await asyncio.sleep(20)
        assert (cloud.calls["identify"], cloud.calls["inspect"], cloud.calls["observe"]) == (MANY, MANY, MANY)
        await asyncio.sleep(VERIFIED_EVERY_SECONDS / 2)
    assert world.cluster.writes == []
    assert (cloud.calls["grant"], cloud.calls["revoke"]) == (0, 0)


async def test_when_a_resource_was_last_verified_is_told_once_an_hour(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    key = Key("ci", "staging-db")
    async with world.running():
        world.resource()
        await asyncio.sleep(60)
        first = world.cluster.get(ProtectedResource, key).status.last_verified_at
        world.cluster.writes.clear()
        await asyncio.sleep(2.5 * VERIFIED_EVERY_SECONDS)
        last = world.cluster.get(ProtectedResource, key).status.last_verified_at
    assert world.cluster.writes == [("status", key)] * 2
    assert (last - first).total_seconds() >= VERIFIED_EVERY_SECONDS
