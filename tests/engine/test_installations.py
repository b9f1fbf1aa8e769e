"""Two installations on one firewall: each leaves the other's rules alone, and puts its own when the other's go."""

import asyncio

import pytest

from gatepass.core.rules import Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import OTHERS_LOOK_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

OTHER = "another-cluster/gatepass-system/gatepass"
RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)


def assert_ours(world: World, cloud: SlowFirewalls, group: Target, session: AccessSession) -> None:
    """The rule is there, and the session says that it is ours."""
    assert [rule.rule for rule in cloud.rules(group).values()] == [RULE]
    assert [rule.foreign for rule in world.status(session).resources[0].rules] == [False]


async def test_ours_is_put_soon_after_the_others_has_ended(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(300)} for=ci/db", OTHER)
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(200)
        assert world.status(session).phase is Phase.ACTIVE
        assert [rule.foreign for rule in world.status(session).resources[0].rules] == [True]
        reads = cloud.calls["observe"]
        await asyncio.sleep(101)
        del cloud.rules(group)[theirs]
        await asyncio.sleep(10)
        assert [rule.foreign for rule in world.status(session).resources[0].rules] == [False]
        assert cloud.calls["observe"] <= reads + 1 + 111 / OTHERS_LOOK_SECONDS
        assert list(cloud.rules(group)) != [theirs]


async def test_ours_is_put_soon_after_the_other_has_closed_its_own_early(world: World, cloud: SlowFirewalls) -> None:
    """Its session was stopped: nothing tells of it but a read, and a job waits at a door that is said to be open."""
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(7200)} for=ci/db", OTHER)
    async with world.running(resync=3600):
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(200)
        del cloud.rules(group)[theirs]
        for _ in range(4):  # a pass for another reason is no look
            await asyncio.sleep(OTHERS_LOOK_SECONDS / 4)
            world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": "198.51.100.1/32"}])
            world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(1)
        assert_ours(world, cloud, group, session)


async def test_what_was_read_long_ago_is_read_again_before_ours_rests_on_it(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(7200)} for=ci/db", OTHER)
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(400)
        del cloud.rules(group)[theirs]
        await asyncio.sleep(100)
        world.session()
        await eventually(lambda: [rule.rule for rule in cloud.rules(group).values()] == [RULE], "ours", 1)


async def test_what_somebody_has_made_by_hand_is_looked_at_at_a_resync(world: World, cloud: SlowFirewalls) -> None:
    cloud.put(cloud.create("sg-0aaa"), RULE, "the office")
    async with world.running(resync=3600):
        world.resource(staticCIDRs=[{"cidr": RULE.cidr}])
        session = world.session()
        await asyncio.sleep(200)
        assert [rule.foreign for rule in world.status(session).resources[0].rules] == [True]
        reads = cloud.calls["observe"]
        await asyncio.sleep(1200)
        assert cloud.calls["observe"] == reads


async def test_the_last_minute_of_the_others_is_no_reason_to_believe_in_it_longer(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(60)} for=ci/db", OTHER, "another/2026-11-22T12:00:00Z")
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(61)
        assert world.status(session).phase is Phase.ACTIVE
        del cloud.rules(group)[theirs]
        await asyncio.sleep(10)
        assert_ours(world, cloud, group, session)


async def test_a_read_that_shows_it_past_its_end_is_asked_again(world: World, cloud: SlowFirewalls) -> None:
    """Reads lag behind its revocation."""
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(300)} for=ci/db", OTHER)
    async with world.running(resync=3600):
        world.resource()
        world.session()
        await asyncio.sleep(301)
        cloud.ghosts = [cloud.rules(group).pop(theirs)]
        await asyncio.sleep(30)
        assert cloud.rules(group) == {}
        cloud.ghosts = []
        await asyncio.sleep(30)
        assert [rule.rule for rule in cloud.rules(group).values()] == [RULE]


async def test_a_later_end_of_theirs_is_waited_for(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(300)} for=ci/db", OTHER)
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(10)
        del cloud.rules(group)[theirs]
        theirs = cloud.put(group, RULE, f"gatepass until={world.at(900)} for=ci/db", OTHER)
        await asyncio.sleep(600)
        assert list(cloud.rules(group)) == [theirs]
        del cloud.rules(group)[theirs]
        await asyncio.sleep(310)
        assert [rule.owner != OTHER for rule in cloud.rules(group).values()] == [True]
        assert world.status(session).phase is Phase.ACTIVE


async def test_theirs_stays_when_our_session_ends(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, RULE, f"gatepass until={world.at(7200)} for=ci/db", OTHER)
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.CANCELLED
        assert list(cloud.rules(group)) == [theirs]
