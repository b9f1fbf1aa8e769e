"""What is stopped or deleted closes at once, whatever the API server does meanwhile (ADR 025)."""

import pytest

from gatepass.core.types.session import AccessSession, EndedReason, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import HEART, beat, opened
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.mark.parametrize("how", [EndedReason.MANUAL, EndedReason.DELETED])
async def test_a_stop_and_a_deletion_wait_for_no_write(world: World, cloud: SlowFirewalls, how: EndedReason) -> None:
    """Neither can be taken back: an operator that is killed before it could write finds it again when it starts."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "the opening", 5)
        world.cluster.refuse = lambda verb: verb == "status"
        if how is EndedReason.MANUAL:
            world.edit(AccessSession, session.key, stop=True)
        else:
            world.cluster.delete(AccessSession, session.key)
        await eventually(lambda: cloud.rules(group) == {}, "the closing", 1)
        assert world.status(session).ended_at is None
    world.cluster.refuse = lambda _verb: False
    async with world.running():
        if how is EndedReason.MANUAL:
            await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "its end", 60)
            assert world.status(session).ended_reason is how
        else:
            await eventually(lambda: (AccessSession, session.key) not in world.cluster.objects, "its end", 60)
        assert cloud.rules(group) == {}


async def test_a_stop_does_not_wait_for_those_who_open(world: World, cloud: SlowFirewalls) -> None:
    """Who hears of it has as many workers as there are, and all of them may be waiting for the API server."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "the opening", 5)
        (rule,) = cloud.rules(group)
        world.cluster.delay = 30.0
        for number in range(100):
            world.session(f"new-{number}", cidrs=(f"198.51.100.{number}/32",))
        await eventually(lambda: len(cloud.rules(group)) > 40, "the rush", 5)  # and as many statuses are being written
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: rule not in cloud.rules(group), "the closing", 2)


async def test_what_is_told_when_it_has_closed_tells_of_its_runner(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: cloud.rules(group) == {}, "the closing", 60)
        world.cluster.refuse = lambda _verb: False
        await eventually(lambda: not engine.ends.beating, "its end", 60)
        status = world.status(session)
        assert status.ended_reason is EndedReason.MANUAL
        assert status.heartbeat is not None
        assert status.heartbeat.last_seen_at is not None
