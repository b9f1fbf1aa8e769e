"""Rules of ours in firewalls that nobody names any more."""

import asyncio
from typing import Any

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Rule
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

OTHERS = Rule("198.51.100.1/32", "tcp", 22, 22)
SECRET = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}


def force_delete(world: World, gone: Any) -> None:
    """As somebody who takes off the finalizer."""
    world.cluster.delete(type(gone), gone.key)
    world.cluster.put(world.cluster.get(type(gone), gone.key), finalizers=())
    world.cluster._remove(world.cluster.get(type(gone), gone.key))


async def opened(world: World, **given: Any) -> tuple[ProtectedResource, AccessSession]:
    """A life of the operator that opens sg-0aaa for a session, beside a resource of the same account."""
    async with world.running():
        world.resource("elsewhere", groups=("sg-0bbb",))
        resource = world.resource(**given)
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
    return resource, session


async def test_a_resource_that_went_by_force_while_nobody_watched(world: World, cloud: SlowFirewalls) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    resource, session = await opened(world, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    left = {
        cloud.put(group, OTHERS, "made by others"),
        cloud.put(group, Rule("198.51.100.2/32", "tcp", 22, 22), "edited", OWNER),
        cloud.put(group, Rule("198.51.100.3/32", "tcp", 22, 22), "gatepass static for=x/y"),
        cloud.put(group, Rule("198.51.100.4/32", "tcp", 22, 22), "gatepass static for=x/y", "other/install"),
    }
    force_delete(world, resource)
    assert len(cloud.rules(group)) == 2 + len(left)
    async with world.running():
        await asyncio.sleep(30)
        assert set(cloud.rules(group)) == left
        assert world.status(session).ended_reason is EndedReason.POLICY_WITHDRAWN


async def test_a_resource_that_goes_by_force_before_our_eyes(world: World, cloud: SlowFirewalls) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=10):
        world.resource("elsewhere", groups=("sg-0bbb",))
        resource = world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        session = world.session()
        await asyncio.sleep(5)
        force_delete(world, resource)
        force_delete(world, session)
        await asyncio.sleep(15)
        assert cloud.rules(group) == {}


async def test_a_group_that_left_the_list_unseen(world: World, cloud: SlowFirewalls) -> None:
    """The status never came to name the group, so that nobody knows that it has to be drained."""
    group, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
    world.cluster.refuse = lambda _verb: False
    aws = {"region": "eu-central-1", "securityGroups": ["sg-0bbb"]}
    world.edit(ProtectedResource, resource.key, aws=aws)
    async with world.running():
        await asyncio.sleep(30)
        assert cloud.rules(group) == {}
        assert len(cloud.rules(other)) == 1
        assert world.status(session).phase is Phase.ACTIVE


async def test_one_read_for_each_account_and_region_and_resync(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa"), cloud.create("sg-0bbb"), cloud.create("sg-0ccc", region="eu-west-1")
    async with world.running(resync=600):
        world.resource("a")
        world.resource("b", groups=("sg-0bbb",))
        world.resource("c", aws={"region": "eu-west-1", "securityGroups": ["sg-0ccc"]})
        await asyncio.sleep(READS_LAG_SECONDS / 2)
        assert cloud.calls["find"] == 2
        await asyncio.sleep(READS_LAG_SECONDS)
        assert cloud.calls["find"] == 4, "once more when reads show everything"
        before = dict(cloud.calls)
        await asyncio.sleep(400)
        assert cloud.calls == before, "nothing between resyncs"
        world.resource("d", groups=("sg-0bbb",))
        await asyncio.sleep(5)
        assert cloud.calls["find"] == 4, "the place has been looked at"
        await asyncio.sleep(195)
        assert cloud.calls["find"] == 6


async def test_nobody_is_passed_over_whose_credentials_do_not_work_now(world: World, cloud: SlowFirewalls) -> None:
    """Nothing was recorded of what was granted, and nobody can ask whose account it is."""
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        world.resource("elsewhere", groups=("sg-0bbb",))
        world.resource(aws=SECRET)
        session = world.session()
        await asyncio.sleep(5)
    (before,) = cloud.rules(group)
    world.cluster.refuse = lambda _verb: False
    cloud.refused.add("key")
    async with world.running(resync=10):
        for _ in range(60):
            await asyncio.sleep(1)
            assert set(cloud.rules(group)) == {before}
        cloud.refused.clear()
        await asyncio.sleep(300)
        assert set(cloud.rules(group)) == {before}
        assert world.status(session).phase is Phase.ACTIVE


async def test_what_is_granted_while_the_read_is_under_way_stays(world: World, cloud: SlowFirewalls) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    resource, session = await opened(world)
    force_delete(world, resource)
    force_delete(world, session)
    cloud.slow_find = 20.0
    async with world.running():
        await asyncio.sleep(5)
        world.resource()
        session = world.session("again")
        for _ in range(60):
            await asyncio.sleep(1)
            assert len(cloud.rules(group)) == 1
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_revocation_that_is_refused_is_tried_again(world: World, cloud: SlowFirewalls) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    resource, _ = await opened(world)
    force_delete(world, resource)
    cloud.revoke_refused = True
    async with world.running():
        await asyncio.sleep(60)
        assert len(cloud.rules(group)) == 1
        assert 2 <= cloud.refused_calls <= 60
        cloud.revoke_refused = False
        await asyncio.sleep(2)
        assert cloud.rules(group) == {}


async def test_other_accounts_and_regions_are_left_to_those_who_know_them(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0bbb")
    away = cloud.create("sg-0ccc", region="eu-west-1")
    theirs = cloud.create("sg-0ddd", account="999999999999")
    for target in (away, theirs):
        cloud.put(target, OTHERS, "gatepass until=2020-01-01T00:00:00Z for=ci/db", OWNER)
    async with world.running():
        world.resource(groups=("sg-0bbb",))
        await asyncio.sleep(300)
        assert len(cloud.rules(away)) == len(cloud.rules(theirs)) == 1


async def test_one_that_goes_by_force_while_its_first_verification_fails(world: World, cloud: SlowFirewalls) -> None:
    """It names its group no more, which is swept by what signs in elsewhere."""
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    resource, _ = await opened(world, aws=SECRET)
    hold, asked, gone = world.cluster.hold_secret, asyncio.Event(), asyncio.Event()

    async def fail(_namespace: str, _name: str) -> None:
        asked.set()
        await gone.wait()
        raise ClusterError("the API server does not answer")

    world.cluster.hold_secret = fail  # type: ignore[assignment]
    async with world.running(resync=60):
        await asyncio.wait_for(asked.wait(), 5)
        force_delete(world, resource)
        gone.set()
        world.cluster.hold_secret = hold  # type: ignore[method-assign]
        await eventually(lambda: not cloud.rules(group), "it is closed", 300)
