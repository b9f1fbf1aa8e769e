"""What is left of a session that has ended: a record, which is in nobody's way."""

import asyncio

import pytest

from gatepass.core.types.common import FINALIZER
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_a_record_that_is_over_can_be_deleted_without_us(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="1m")
        await asyncio.sleep(70)
        assert world.status(session).phase is Phase.EXPIRED
        assert world.cluster.get(AccessSession, session.key).metadata.finalizers == ()
        await asyncio.sleep(60)
        assert world.cluster.get(AccessSession, session.key).metadata.finalizers == ()
        await asyncio.sleep(24 * 3600)
        assert (AccessSession, session.key) not in world.cluster.objects


async def test_a_record_is_let_go_of_when_the_rush_is_over_or_somebody_deletes_it(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        kept, deleted = world.session("kept"), world.session("deleted")
        fleeting = world.session("fleeting", ttlAfterEnded="0s")
        await asyncio.sleep(3)
        for each in (kept, deleted, fleeting):
            world.edit(AccessSession, each.key, stop=True)
        await asyncio.sleep(2)
        assert world.status(kept).phase is Phase.CANCELLED
        assert world.cluster.get(AccessSession, kept.key).metadata.finalizers == (FINALIZER,)
        world.cluster.delete(AccessSession, deleted.key)
        await asyncio.sleep(1)
        assert {key for kind, key in world.cluster.objects if kind is AccessSession} == {kept.key}
        await asyncio.sleep(4)
        assert world.cluster.get(AccessSession, kept.key).metadata.finalizers == ()
