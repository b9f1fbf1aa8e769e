"""What fails must not hold up what has to close."""

import asyncio

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, Requester
from tests.core.builders import a_resource, a_session
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import LoopClock, World, show

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

SECRET = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}


async def test_a_session_closes_on_time_while_its_admission_backs_off(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")

    async def down(_who: Requester, _key: Key) -> bool:
        raise ClusterError("500: authorizer")

    async with world.running():
        world.resource("db")
        world.session(resources=({"name": "db"}, {"name": "late"}), duration="10m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        world.cluster.may_use = down  # type: ignore[method-assign]
        world.resource("late", ports=({"port": 1},))
        await asyncio.sleep(597)
        assert cloud.rules(group) == {}


async def test_credentials_that_cannot_be_held_hold_up_nobody_else(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")

    async def refused(_namespace: str, _name: str) -> None:
        raise ClusterError("403: secrets is forbidden")

    world.cluster.hold_secret = refused  # type: ignore[method-assign]
    async with world.running(resync=60):
        world.resource("victim", namespace="victim")
        session = world.session(namespace="victim", resources=({"name": "victim"},), duration="1m")
        world.resource("other", namespace="evil", aws=SECRET)
        await asyncio.sleep(600)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_resource_that_cannot_be_held_holds_up_nobody_else(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    world.cluster.refuse = lambda verb: verb == "hold"
    async with world.running(resync=60):
        world.resource("victim")
        session = world.session(resources=({"name": "victim"},), duration="1m")
        await asyncio.sleep(5)
        world.cluster.put(a_resource("other", namespace="evil"))
        await asyncio.sleep(600)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_listing_that_began_before_a_deletion_brings_nothing_back(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(5)
        listed = world.cluster.get(AccessSession, session.key)
        world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(2)
        show(engine, listed)
        await asyncio.sleep(500)
        assert cloud.rules(group) == {}


async def test_a_session_made_again_under_its_name_confuses_nobody(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource("db")
        world.resource("cache", ports=({"port": 6379},))
        other = world.session("other", resources=({"name": "db"},), duration="2m", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(1)
        now = LoopClock().now()
        for uid, version, name in (("uid-1", "900", "db"), ("uid-2", "901", "cache")):
            metadata = {"uid": uid, "resourceVersion": version}
            engine.session_seen(a_session("run", metadata=metadata, resources=({"name": name},), created=now))
        engine.session_gone(Key("ci", "run"), "uid-2")
        await asyncio.sleep(300)
        assert (world.status(other).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_rule_that_a_lagging_read_hides_still_goes_when_nobody_wants_it(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        await asyncio.sleep(100)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        await asyncio.sleep(20.9)
        cloud.blind = True
        cloud.slow["sg-0aaa"] = 1.0
        await asyncio.sleep(0.5)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(5)
        cloud.blind = False
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}
