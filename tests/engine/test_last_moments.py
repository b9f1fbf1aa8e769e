"""What a predecessor has done in its last moments, and reads do not show yet: rules that it has removed, or put."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, ResourceState
from tests.engine.paced import PacedFirewalls
from tests.engine.test_new_ids import opened_by_a_predecessor
from tests.engine.test_scarcity import secret
from tests.engine.world import OWNER, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


def ghosts(world: World, number: int) -> list[ObservedRule]:
    """As many rules that are gone, in reads of any group."""
    mark = f"gatepass until={world.at(7200)} for=ci/staging-db"
    rules = [Rule(f"198.51.100.{index}/32", "tcp", 5432, 5432) for index in range(number)]
    return [ObservedRule(f"sgr-0000ghost{index:02}", rule, mark, OWNER) for index, rule in enumerate(rules)]


async def test_what_a_predecessor_has_revoked_and_reads_still_show_holds_up_no_closing(
    world: World, cloud: PacedFirewalls
) -> None:
    """EC2 refuses each call for the sake of one that is gone, and each call costs a token."""
    group = cloud.create("sg-0aaa")
    session = await opened_by_a_predecessor(world)
    cloud.ghosts = ghosts(world, 20)
    async with world.running(resync=36000):
        with cloud.contended("revokes", 0.5):
            await asyncio.sleep(3)
            world.edit(AccessSession, session.key, stop=True)
            await eventually(lambda: not cloud.rules(group), "it closes", 2)


async def many_opened(world: World, cloud: PacedFirewalls, number: int) -> tuple[list[Target], list[AccessSession]]:
    """As many groups, and twelve sessions that a predecessor has opened, each in one of them."""
    groups = [cloud.create(f"sg-0{each:03}") for each in range(number)]
    async with world.running(resync=36000):
        for group in groups:
            secret(world, group.id, group)
        await asyncio.sleep(200)
        sessions = [world.session(group.id, resources=({"name": group.id},)) for group in groups[:12]]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all open", 30)
    return groups, sessions


async def close_within(
    world: World, cloud: PacedFirewalls, groups: list[Target], sessions: list[AccessSession], seconds: float
) -> None:
    """All are stopped at once."""
    for session in sessions:
        world.edit(AccessSession, session.key, stop=True)
    await eventually(lambda: not any(map(cloud.rules, groups)), "all close", seconds)


@pytest.mark.parametrize(("number", "gone"), [(12, 30), (100, 3)])
async def test_what_may_be_gone_already_leaves_calls_to_what_is_there(
    world: World, cloud: PacedFirewalls, number: int, gone: int
) -> None:
    """Reads show more that a predecessor has revoked than there are calls for."""
    groups, sessions = await many_opened(world, cloud, number)
    cloud.ghosts = ghosts(world, gone)
    async with world.running(resync=36000):
        await asyncio.sleep(20)
        await close_within(world, cloud, groups, sessions, 2)


async def test_what_may_be_gone_already_does_not_stand_in_line(world: World, cloud: PacedFirewalls) -> None:
    """The calls that others have used up come back first to what is there."""
    groups, sessions = await many_opened(world, cloud, 100)
    cloud.ghosts = ghosts(world, 3)
    async with world.running(resync=36000):
        await asyncio.sleep(22)
        for _ in range(10):
            cloud.bucket("revokes").drain(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
        await close_within(world, cloud, groups, sessions, 3)  # twelve calls, five a second


async def test_what_a_read_has_shown_that_lagged_is_doubted_until_the_next_one(
    world: World, cloud: PacedFirewalls
) -> None:
    groups, sessions = await many_opened(world, cloud, 100)
    cloud.ghosts = ghosts(world, 20)
    async with world.running(resync=36000):
        await asyncio.sleep(115)
        cloud.ghosts, cloud.unreadable = [], {each.id for each in groups}
        await asyncio.sleep(10)
        await close_within(world, cloud, groups, sessions, 2)


async def test_what_nobody_records_goes_at_once_where_reads_do_not_lag(world: World, cloud: PacedFirewalls) -> None:
    """Somebody has removed another rule by hand, which EC2 says as it does of what reads show too long."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=100):
        resource = world.resource(staticCIDRs=[{"cidr": "192.0.2.0/24"}])
        session = world.session()
        await eventually(lambda: len(cloud.rules(group)) == 2, "both are there", 20)
        await asyncio.sleep(320)
        by_hand = next(id_ for id_, held in cloud.rules(group).items() if held.rule.cidr != "192.0.2.0/24")
        del cloud.rules(group)[by_hand]
        with cloud.contended("revokes", -2.0):  # some tokens are left at any time
            await asyncio.sleep(0.3)
            world.edit(AccessSession, session.key, stop=True)
            await asyncio.sleep(0.5)
            world.edit(ProtectedResource, resource.key, staticCIDRs=[])
            await eventually(lambda: not cloud.rules(group), "it goes", 2)


async def never_over_while_open(world: World, cloud: PacedFirewalls, session: AccessSession) -> None:
    """A session that ends in the first moments of a successor, whose reads miss everything for ten seconds."""

    def is_open() -> bool:
        return any(each.rules for each in cloud._firewalls.values())

    def is_over() -> bool:
        return world.status(session).phase is Phase.CANCELLED

    await throughout(lambda: not (is_over() and is_open()), "over is closed", 10)
    cloud.blind = False
    await eventually(is_over, "it is over", 130)
    assert not is_open()


async def put_by_an_edit_and_not_recorded(
    world: World, cloud: PacedFirewalls, put: Callable[[], object], **spec: Any
) -> None:
    """What an edit of the resource has a predecessor put is the last that it does; the session is stopped then."""
    session = await opened_by_a_predecessor(world)
    (resource,) = session.resource_keys()
    async with world.running(resync=36000):
        await asyncio.sleep(130)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ProtectedResource, resource, **spec)
        await eventually(put, "it is put", 5)
    world.cluster.refuse, cloud.blind = lambda _verb: False, True
    world.edit(AccessSession, session.key, stop=True)
    async with world.running(resync=36000):
        await never_over_while_open(world, cloud, session)


async def test_a_second_port_that_was_put_and_not_recorded_is_waited_for(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    ports = [{"port": 5432}, {"port": 6432}]
    await put_by_an_edit_and_not_recorded(world, cloud, lambda: len(cloud.rules(group)) == 2, ports=ports)


async def test_a_rule_in_another_group_that_was_not_recorded_is_waited_for(world: World, cloud: PacedFirewalls) -> None:
    """What its successor puts and records in the second of its start is none of before."""
    one, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=36000):
        world.resource(aws={"region": one.region, "securityGroups": [one.id, other.id]})
        await asyncio.sleep(150)
        world.cluster.refuse = lambda verb: verb == "status"
        session = world.session()
        await eventually(lambda: cloud.rules(one), "it is put", 5)
    world.cluster.refuse, cloud.blind, cloud.sealed = lambda _verb: False, True, {one.id}
    await asyncio.sleep(1.05 - asyncio.get_running_loop().time() % 1)
    async with world.running(resync=36000):
        await eventually(lambda: cloud.rules(other), "it is put elsewhere", 0.8)
        await asyncio.sleep(1)
        cloud.sealed.clear()
        await asyncio.sleep(3)
        world.edit(AccessSession, session.key, stop=True)
        await never_over_while_open(world, cloud, session)


async def test_a_rule_that_has_moved_and_was_not_recorded_is_waited_for(world: World, cloud: PacedFirewalls) -> None:
    """The record names the same rule in a group that the resource has left."""
    _, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    aws = {"region": other.region, "securityGroups": [other.id]}
    await put_by_an_edit_and_not_recorded(world, cloud, lambda: cloud.rules(other), aws=aws)


async def test_what_was_told_to_be_removed_stays_so(world: World, cloud: PacedFirewalls) -> None:
    """Though its resource has got another port since, for which a predecessor may have put a rule."""
    one, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=36000):
        edited = world.resource("a", aws={"region": one.region, "securityGroups": [one.id]})
        world.resource("b", aws={"region": other.region, "securityGroups": [other.id]})
        await asyncio.sleep(150)
        session = world.session(resources=({"name": "a"}, {"name": "b"}))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 3)
        cloud.bolted = {other.id}
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: world.status(session).resources[0].state is ResourceState.REMOVED, "one is gone", 20)
        world.edit(ProtectedResource, edited.key, ports=[{"port": 5432}, {"port": 6432}])
        await asyncio.sleep(3)
    async with world.running(resync=36000):
        await throughout(lambda: world.status(session).resources[0].state is ResourceState.REMOVED, "it stays so", 5)
        cloud.bolted = set()
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is over", 10)
