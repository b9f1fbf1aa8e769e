"""What is stopped or deleted closes at once, whatever the API server does meanwhile (ADR 025)."""

import asyncio

import pytest

from gatepass.core.types.session import AccessSession, EndedReason, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import HEART, beat, opened
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.mark.parametrize("how", [EndedReason.MANUAL, EndedReason.DELETED])
async def test_a_stop_and_a_deletion_wait_for_no_write(world: World, cloud: SlowFirewalls, how: EndedReason) -> None:
    """Neither can be taken back: an operator that is killed before it could write finds it again when it starts."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status"
        if how is EndedReason.MANUAL:
            world.edit(AccessSession, session.key, stop=True)
        else:
            world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(1)
        assert cloud.rules(group) == {}
        assert world.status(session).ended_at is None
    world.cluster.refuse = lambda _verb: False
    async with world.running():
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        if how is EndedReason.MANUAL:
            assert (world.status(session).phase, world.status(session).ended_reason) == (Phase.CANCELLED, how)
        else:
            assert (AccessSession, session.key) not in world.cluster.objects


async def test_a_stop_does_not_wait_for_those_who_open(world: World, cloud: SlowFirewalls) -> None:
    """Who hears of it has as many workers as there are, and all of them may be waiting for the API server."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group)
        world.cluster.delay = 30.0
        for number in range(100):
            world.session(f"new-{number}", cidrs=(f"198.51.100.{number}/32",))
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(2)
        assert rule not in cloud.rules(group)


async def test_what_is_told_when_it_has_closed_tells_of_its_runner(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        await asyncio.sleep(1)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(60)
        status = world.status(session)
        assert status.ended_reason is EndedReason.MANUAL
        assert status.heartbeat is not None
        assert status.heartbeat.last_seen_at is not None
        assert not engine.ends.beating
