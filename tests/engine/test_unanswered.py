"""Nobody says, after a start, of which account a resource is whose status was never written: nobody has looked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Rule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import live
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

DB = Key("ci", "staging-db")
AWS = {"region": "eu-central-1", "credentials": {"secretRef": {"name": "key"}}, "securityGroups": ["sg-0aaa"]}
STATIC = [{"cidr": "198.51.100.0/28"}]


@pytest.fixture
def group(cloud: SlowFirewalls) -> Target:
    return cloud.create("sg-0aaa")


@asynccontextmanager
async def untold(world: World, cloud: SlowFirewalls) -> AsyncIterator[None]:
    """An operator that never comes to write a resource's status; whoever follows it has no answer from STS."""
    write = world.cluster.write_resource_status

    async def refused(*_: object) -> ProtectedResource:
        raise ClusterError("timeout")

    world.cluster.write_resource_status = refused  # type: ignore[method-assign]
    async with world.running():
        yield
    world.cluster.write_resource_status = write  # type: ignore[method-assign]
    cloud.refused.add("key")


async def opened(world: World, cloud: SlowFirewalls, group: Target) -> AccessSession:
    async with untold(world, cloud):
        world.resource(aws=AWS)
        session: AccessSession = world.session(duration="1h")
        await eventually(lambda: cloud.rules(group) and live(world, session), "it is open", 5)
    return session


async def test_a_session_does_not_say_that_it_is_closed(world: World, cloud: SlowFirewalls, group: Target) -> None:
    session = await opened(world, cloud, group)
    async with world.running():
        await throughout(lambda: live(world, session), "it is open", 5)
        world.edit(AccessSession, session.key, stop=True)
        await throughout(lambda: world.status(session).phase is not Phase.CANCELLED, "it is not closed", 30)
        cloud.refused.clear()
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is closed", 30)
        assert not cloud.rules(group)


async def test_what_is_live_in_a_group_that_was_left_stays(world: World, cloud: SlowFirewalls, group: Target) -> None:
    cloud.put(cloud.create("sg-0ccc", limit=1), Rule("198.51.100.9/32", "tcp", 22, 22), "by hand")
    session = await opened(world, cloud, group)
    world.edit(ProtectedResource, DB, aws={**AWS, "securityGroups": ["sg-0ccc"]})
    async with world.running():
        await throughout(lambda: cloud.rules(group), "it is open while STS is silent", 2)
        cloud.refused.clear()
        await throughout(lambda: cloud.rules(group) and live(world, session), "it is open", 60)


@pytest.mark.parametrize("static", [False, True])
async def test_a_deleted_resource_waits(world: World, cloud: SlowFirewalls, group: Target, static: bool) -> None:
    async with untold(world, cloud):
        world.resource(aws=AWS, staticCIDRs=STATIC if static else [])
        if not static:
            world.session(duration="1h")
        await eventually(lambda: cloud.rules(group), "it is open", 5)
    async with world.running():
        if not static:
            world.edit(AccessSession, Key("ci", "it-1"), stop=True)
        world.cluster.delete(ProtectedResource, DB)
        await throughout(lambda: (ProtectedResource, DB) in world.cluster.objects, "it waits", 300)
        cloud.refused.clear()
        await eventually(lambda: (ProtectedResource, DB) not in world.cluster.objects, "it goes", 600)
        assert not cloud.rules(group)


async def test_one_that_has_told_that_nobody_answers_goes(world: World, cloud: SlowFirewalls) -> None:
    """As one whose Region was misspelt."""
    cloud.refused.add("key")
    async with world.running():
        world.resource(aws=AWS)
        await eventually(lambda: world.cluster.get(ProtectedResource, DB).status.conditions, "it says so")
    async with world.running():
        world.cluster.delete(ProtectedResource, DB)
        await eventually(lambda: (ProtectedResource, DB) not in world.cluster.objects, "it goes", 60)


async def test_one_that_has_told_nothing_is_not_held_for_ever(world: World, cloud: SlowFirewalls) -> None:
    """The same, made while nobody led."""
    cloud.refused.add("key")
    world.resource(aws=AWS)
    async with world.running():
        await eventually(lambda: world.cluster.get(ProtectedResource, DB).status.conditions, "it says so")
        world.cluster.delete(ProtectedResource, DB)
        await throughout(lambda: (ProtectedResource, DB) in world.cluster.objects, "it waits", 600)
        await eventually(lambda: (ProtectedResource, DB) not in world.cluster.objects, "it goes", 700)
