"""A group that credentials cannot read holds up nobody who can have the same without it, and is told of as it is."""

import asyncio
from typing import Any

import pytest

from gatepass.core.errors import ProviderError
from gatepass.core.ports import Access
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.test_in_turn import REFUSED, Selective
from tests.engine.test_remembered import THROTTLED
from tests.engine.test_scarcity import secret, several
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture
def cloud() -> Selective:
    return Selective()


async def test_nobody_is_told_that_others_may_not_read(world: World, cloud: Selective) -> None:
    """After a start, whose credentials may is known later than that the others may not."""
    group, observe, identify = cloud.create("sg-0aaa"), cloud.observe, cloud.identify

    async def of_b(access: Access, given: Target) -> Any:
        await asyncio.sleep(1.0)
        if access.credentials.secret == ("ci", "a"):
            raise REFUSED
        return await observe(access, given)

    async def late(access: Access) -> str:
        await asyncio.sleep(3.0 if access.credentials.secret == ("ci", "b") else 0.0)
        return await identify(access)

    cloud.observe, cloud.identify = of_b, late  # type: ignore[method-assign]
    for name in "ab":
        secret(world, name, group)
    session = world.session(resources=({"name": "b"},))
    async with world.running(resync=36000):
        await throughout(lambda: world.status(session).phase is not Phase.FAILED, "it does not fail", 10)
        assert world.status(session).phase is Phase.ACTIVE


@pytest.mark.parametrize("error", [REFUSED, THROTTLED])
async def test_who_comes_while_nobody_can_read_is_not_ready(
    world: World, cloud: Selective, error: ProviderError
) -> None:
    """A pass asks all credentials, one after the other, and each waits long for its answer."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, "a")
        await asyncio.sleep(150)

        async def late(*_: Any) -> Any:
            await asyncio.sleep(20)
            raise error

        cloud.observe = late  # type: ignore[method-assign]
        await asyncio.sleep(1400)
        secret(world, "b", group)
        session = world.session(resources=({"name": "b"},))
        await throughout(lambda: world.ready("b") != "True", "it is not ready", 100)
        assert world.status(session).phase is not None


async def test_who_was_refused_in_one_group_and_let_in_elsewhere_is_well(world: World, cloud: Selective) -> None:
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=36000) as engine:
        aws = {"region": first.region, "securityGroups": [first.id, second.id]}
        world.resource("a", aws={**aws, "credentials": {"secretRef": {"name": "a"}}})
        await asyncio.sleep(150)
        cloud.refuses["a", "grants"] = REFUSED
        session = world.session(resources=({"name": "a"},))
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "it is refused", 20)
        cloud.refuses.clear()
        cloud.sealed.add(first.id)
        engine._state.target(first).stale = True  # as after an answer that was lost
        await eventually(lambda: cloud.rules(second), "it is let in elsewhere", 1500)
        cloud.sealed.clear()
        await eventually(lambda: world.ready("a") == "True", "it is well", 60)
        assert not any(target.failing for target in engine.insight.snapshot().targets)


async def test_a_rule_moves_nowhere_while_its_group_cannot_be_read(world: World, cloud: Selective) -> None:
    """A port is added meanwhile, whose rule goes where somebody answers."""
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "securityGroups": [first.id, second.id]}
    resource = world.resource(aws={**aws, "credentials": {"secretRef": {"name": "a"}}})
    session = world.session()
    async with world.running(resync=20):
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        await asyncio.sleep(150)
        before = list(cloud.rules(first))
        cloud.sealed.add(first.id)
        await eventually(lambda: world.ready("staging-db") != "True", "it is known not to answer")
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5432}, {"port": 5433}])
        await eventually(lambda: cloud.rules(second), "the new port is open", 60)
        await throughout(lambda: len(cloud.rules(second)) == 1, "nothing moves there", 150)
        cloud.sealed.clear()
        await throughout(lambda: len(cloud.rules(second)) == 1, "nothing moves back", 100)
        assert list(cloud.rules(first)) == before
        assert world.status(session).phase is Phase.ACTIVE
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not cloud.rules(first) and not cloud.rules(second), "all close", 10)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_static_range_moves_nowhere_while_its_group_does_not_answer(
    world: World, cloud: Selective, restart: bool
) -> None:
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "securityGroups": [first.id, second.id]}
    world.resource(aws={**aws, "credentials": {"secretRef": {"name": "a"}}}, staticCIDRs=[{"cidr": "198.51.100.0/24"}])
    async with world.running(resync=20):
        await eventually(lambda: cloud.rules(first), "it is open")
        before = list(cloud.rules(first))
        await asyncio.sleep(150)
        if not restart:
            cloud.unreadable.add(first.id)
            await eventually(lambda: world.ready("staging-db") != "True", "it is known not to answer")
            await throughout(lambda: not cloud.rules(second), "nothing is put elsewhere", 60)
    cloud.unreadable.add(first.id)
    async with world.running(resync=20):
        await throughout(lambda: not cloud.rules(second), "nothing is put elsewhere", 60)
        cloud.unreadable.clear()
        await throughout(lambda: not cloud.rules(second), "nothing is put elsewhere", 60)
        assert list(cloud.rules(first)) == before


async def test_a_port_that_was_refused_in_one_group_opens_in_the_other(world: World, cloud: Selective) -> None:
    """As for who is new (test_who_was_refused_in_one_group_and_let_in_elsewhere_is_well)."""
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "securityGroups": [first.id, second.id]}
    resource = world.resource("a", aws={**aws, "credentials": {"secretRef": {"name": "a"}}})
    session = world.session(resources=({"name": "a"},))
    async with world.running(resync=20):
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        await asyncio.sleep(150)
        cloud.refuses["a", "grants"] = REFUSED
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5432}, {"port": 5433}])
        await asyncio.sleep(10)
        cloud.sealed.add(first.id)
        await asyncio.sleep(60)
        cloud.refuses.clear()
        await eventually(lambda: cloud.rules(second), "the new port is open", 900)


@pytest.mark.parametrize("restart", [True, False])
async def test_a_new_static_range_waits_for_no_group_that_does_not_answer(
    world: World, cloud: Selective, restart: bool
) -> None:
    """The range, and without a restart the group too, come after the start: no process before can have put it there."""
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "credentials": {"secretRef": {"name": "a"}}}
    both = {**aws, "securityGroups": [first.id, second.id]}
    world.resource(aws=both if restart else {**aws, "securityGroups": [first.id]})
    async with world.running(resync=20):
        await asyncio.sleep(150)
    cloud.unreadable.add(second.id)
    async with world.running(resync=20):
        await asyncio.sleep(150)
        world.edit(ProtectedResource, Key("ci", "staging-db"), aws=both, staticCIDRs=[{"cidr": "198.51.100.0/24"}])
        await eventually(lambda: cloud.rules(first), "it is open", 900)


async def test_a_new_static_range_waits_for_no_new_group_that_does_not_answer(world: World, cloud: Selective) -> None:
    """Only the resource is older than the operator's start."""
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "credentials": {"secretRef": {"name": "a"}}}
    world.resource(aws={**aws, "securityGroups": [first.id]})
    async with world.running(resync=20):
        await asyncio.sleep(150)
        cloud.unreadable.add(second.id)
        world.edit(ProtectedResource, Key("ci", "staging-db"), aws={**aws, "securityGroups": [first.id, second.id]})
        await asyncio.sleep(10)
        world.edit(ProtectedResource, Key("ci", "staging-db"), staticCIDRs=[{"cidr": "198.51.100.0/24"}])
        await eventually(lambda: cloud.rules(first), "it is open", 900)


async def test_a_new_port_waits_for_no_new_group_that_does_not_answer(world: World, cloud: Selective) -> None:
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": first.region, "credentials": {"secretRef": {"name": "a"}}}
    world.resource(aws={**aws, "securityGroups": [first.id]})
    session = world.session(duration="4h")
    async with world.running(resync=20):
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        await asyncio.sleep(150)
        cloud.unreadable.add(second.id)
        world.edit(ProtectedResource, Key("ci", "staging-db"), aws={**aws, "securityGroups": [first.id, second.id]})
        await asyncio.sleep(10)
        world.edit(ProtectedResource, Key("ci", "staging-db"), ports=[{"port": 5432}, {"port": 5433}])
        await eventually(lambda: len(cloud.rules(first)) == 2, "the new port is open", 900)
