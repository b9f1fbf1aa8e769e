"""Two sessions behind one address share a rule: what becomes of the one does not hang on the other's place."""

import asyncio

import pytest

from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


ONE, OTHER = Key("ci", "one"), Key("ci", "other")


async def beside_one_without_a_place(
    world: World, cloud: SlowFirewalls, *, duration: str = "10h", port: int = 6379, also: tuple[str, ...] = ()
) -> tuple[Target, AccessSession, AccessSession]:
    """A session, and after the next start a neighbour at its address that has a rule, and room for no other one."""
    group = cloud.create("sg-0aaa")
    aws = {"region": group.region, "securityGroups": [group.id], "rulesPerSecurityGroup": 2}
    async with world.running(resync=36_000):
        world.resource("one", aws=aws)
        world.resource("other", aws=aws, ports=({"port": port},))
        for name in also:
            world.resource(name, groups=(cloud.create(f"sg-0{name}").id,))
        session = world.session("it-1", resources=({"name": "one"},), duration=duration)
        names = [{"name": name} for name in ("other", *also)]
        neighbour = world.session("it-2", resources=names, duration="10h")
        both = session, neighbour
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in both), "both open", 10)
        await asyncio.sleep(200)
        world.edit(ProtectedResource, OTHER, ports=[{"port": port}, {"port": 6380}, {"port": 6381}])
        await asyncio.sleep(5)
    return group, session, neighbour


@pytest.mark.parametrize("ends", ["stop", "time"])
async def test_an_end_is_told(world: World, cloud: SlowFirewalls, ends: str) -> None:
    duration = "10m" if ends == "time" else "10h"
    _, session, _ = await beside_one_without_a_place(world, cloud, duration=duration)
    async with world.running():
        await asyncio.sleep(130)
        if ends == "stop":
            world.edit(AccessSession, session.key, stop=True)
        over = {Phase.CANCELLED, Phase.EXPIRED}
        await eventually(lambda: world.status(session).phase in over, "it is over", 5 if ends == "stop" else 270)


async def test_a_deletion_is_done(world: World, cloud: SlowFirewalls) -> None:
    _, session, _ = await beside_one_without_a_place(world, cloud)
    async with world.running():
        await asyncio.sleep(130)
        world.cluster.delete(AccessSession, session.key)
        world.cluster.delete(ProtectedResource, ONE)
        gone = {(AccessSession, session.key), (ProtectedResource, ONE)}
        await eventually(lambda: not gone & world.cluster.objects.keys(), "both are gone", 20)


@pytest.mark.parametrize("how", ["deleted", "withdrawn", "moved"])
@pytest.mark.parametrize("goes", ["session", "resource"])
async def test_who_keeps_it_no_more_keeps_it_from_nobody_where_no_pass_runs(
    world: World, cloud: SlowFirewalls, how: str, goes: str
) -> None:
    """The credentials are refused, so that no pass finds out who wants what."""
    group, session, neighbour = await beside_one_without_a_place(world, cloud, port=5432, also=("third",))
    async with world.running(resync=36_000):
        await asyncio.sleep(130)
        cloud.all_refused = True
        for key in (ONE, OTHER):
            world.edit(ProtectedResource, key, policy={"maxDuration": "20h"})
        await asyncio.sleep(5)
        match how:
            case "deleted":
                world.cluster.delete(AccessSession, neighbour.key)
            case "withdrawn":
                world.edit(ProtectedResource, OTHER, policy={"sources": ["pod"]})
            case "moved":
                world.edit(ProtectedResource, OTHER, ports=[{"port": 6380}, {"port": 6381}])
        await asyncio.sleep(20)
        world.edit(AccessSession, session.key, stop=True)
        if goes == "resource":
            world.cluster.delete(ProtectedResource, ONE)

        def kept() -> bool:
            return world.status(session).phase is Phase.EXPIRING and (ProtectedResource, ONE) in world.cluster.objects

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
