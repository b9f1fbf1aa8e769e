"""Two sessions behind one address share a rule: what becomes of the one does not hang on the other's place."""

import asyncio

import pytest

from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def beside_one_without_a_place(world: World, cloud: SlowFirewalls, **more: str) -> AccessSession:
    """A session, and after the next start a neighbour at its address that has a rule, and room for no other one."""
    group = cloud.create("sg-0aaa")
    aws = {"region": group.region, "securityGroups": [group.id], "rulesPerSecurityGroup": 2}
    async with world.running(resync=36_000):
        world.resource("one", aws=aws)
        world.resource("other", aws=aws, ports=({"port": 6379},))
        await asyncio.sleep(10)
        session = world.session("it-1", resources=({"name": "one"},), **more)
        world.session("it-2", resources=({"name": "other"},), duration="10h")
        await eventually(lambda: len(cloud.rules(group)) == 2, "both open", 10)
        await asyncio.sleep(200)
        world.edit(ProtectedResource, Key("ci", "other"), ports=[{"port": 6379}, {"port": 6380}, {"port": 6381}])
        await asyncio.sleep(5)
    return session


@pytest.mark.parametrize("ends", ["stop", "time"])
async def test_an_end_is_told(world: World, cloud: SlowFirewalls, ends: str) -> None:
    session = await beside_one_without_a_place(world, cloud, duration="10m" if ends == "time" else "10h")
    async with world.running():
        await asyncio.sleep(130)
        if ends == "stop":
            world.edit(AccessSession, session.key, stop=True)
        over = {Phase.CANCELLED, Phase.EXPIRED}
        await eventually(lambda: world.status(session).phase in over, "it is over", 5 if ends == "stop" else 270)


async def test_a_deletion_is_done(world: World, cloud: SlowFirewalls) -> None:
    session = await beside_one_without_a_place(world, cloud, duration="10h")
    async with world.running():
        await asyncio.sleep(130)
        world.cluster.delete(AccessSession, session.key)
        world.cluster.delete(ProtectedResource, Key("ci", "one"))
        gone = {(AccessSession, session.key), (ProtectedResource, Key("ci", "one"))}
        await eventually(lambda: not gone & world.cluster.objects.keys(), "both are gone", 20)


@pytest.mark.parametrize("how", ["deleted", "withdrawn", "moved"])
@pytest.mark.parametrize("goes", ["session", "resource"])
async def test_who_keeps_it_no_more_keeps_it_from_nobody_where_no_pass_runs(
    world: World, cloud: SlowFirewalls, how: str, goes: str
) -> None:
    """The credentials are refused, so that no pass finds out who wants what."""
    group, third = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    one, other = Key("ci", "one"), Key("ci", "other")
    aws = {"region": group.region, "securityGroups": [group.id], "rulesPerSecurityGroup": 2}
    async with world.running(resync=36_000):
        world.resource("one", aws=aws)
        world.resource("other", aws=aws)
        world.resource("third", groups=(third.id,))
        await asyncio.sleep(10)
        session = world.session("it-1", resources=({"name": "one"},), duration="10h")
        neighbour = world.session("it-2", resources=({"name": "other"}, {"name": "third"}), duration="10h")
        await asyncio.sleep(200)
        world.edit(ProtectedResource, other, ports=[{"port": 5432}, {"port": 6380}, {"port": 6381}])
        await asyncio.sleep(5)
    async with world.running(resync=36_000):
        await asyncio.sleep(130)
        cloud.all_refused = True
        for key in (one, other):
            world.edit(ProtectedResource, key, policy={"maxDuration": "20h"})
        await asyncio.sleep(5)
        match how:
            case "deleted":
                world.cluster.delete(AccessSession, neighbour.key)
            case "withdrawn":
                world.edit(ProtectedResource, other, policy={"sources": ["pod"]})
            case "moved":
                world.edit(ProtectedResource, other, ports=[{"port": 6380}, {"port": 6381}])
        await asyncio.sleep(20)
        world.edit(AccessSession, session.key, stop=True)
        if goes == "resource":
            world.cluster.delete(ProtectedResource, one)

        def kept() -> bool:
            return world.status(session).phase is Phase.EXPIRING and (ProtectedResource, one) in world.cluster.objects

        await asyncio.sleep(5)
        assert cloud.rules(group)
        await throughout(kept, "what stands is told, and can be closed", 300)


async def test_a_range_that_was_taken_out_keeps_a_rule_from_nobody_where_no_pass_runs(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36_000):
        resource = world.resource(staticCIDRs=[{"cidr": "203.0.113.9/32", "description": "the office"}])
        await asyncio.sleep(150)
        session = world.session(cidrs=("203.0.113.9/32",))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
        cloud.all_refused = True
        world.edit(ProtectedResource, resource.key, policy={"maxDuration": "20h"})
        await asyncio.sleep(20)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert cloud.rules(group)
        await throughout(lambda: world.status(session).phase is Phase.EXPIRING, "what stands is told", 300)
