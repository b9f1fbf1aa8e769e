"""EC2 does not know a new id everywhere at once: a rule is gone when it cannot be that, and not before."""

import asyncio
from collections.abc import Mapping

import pytest

from gatepass.core.ports import Access, Gone, RelabelOutcome
from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import secret, several
from tests.engine.world import OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


class Young(PacedFirewalls):
    """EC2 sets no label under an id that it does not know."""

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        known = {id_: text for id_, text in descriptions.items() if id_ not in self.unknown}
        gone = dict.fromkeys(descriptions.keys() & self.unknown, Gone())
        return {**await super().relabel(access, target, known), **gone}


@pytest.fixture
def cloud() -> Young:
    return Young()


async def stop_while_unknown(world: World, cloud: PacedFirewalls, session: AccessSession) -> None:
    """It ends, and for three seconds EC2 knows no id of what is there."""
    (group,) = (each for each in cloud._firewalls.values())
    cloud.unknown = set(group.rules)
    world.edit(AccessSession, session.key, stop=True)
    await asyncio.sleep(3)
    cloud.unknown.clear()
    await eventually(lambda: not group.rules, "it closes", 10)


@pytest.mark.parametrize("relabelled", [True, False])
@pytest.mark.parametrize("age", [4, 40])
async def test_a_rule_whose_grant_had_no_answer_is_as_new(
    world: World, cloud: PacedFirewalls, age: float, relabelled: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, ["staging-db"])
        await asyncio.sleep(150)
        cloud.lose_answers = True
        session = world.session()
        await eventually(lambda: cloud.rules(group), "it is put", 1)
        cloud.lose_answers = False
        await asyncio.sleep(3)
        if relabelled:
            world.edit(AccessSession, session.key, duration="3h")
        await asyncio.sleep(age - 3)
        await stop_while_unknown(world, cloud, session)


async def test_a_rule_that_was_labelled_a_moment_ago_is_there(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, ["staging-db"])
        await asyncio.sleep(150)
        session = world.session()
        await asyncio.sleep(130)
        world.edit(AccessSession, session.key, duration="3h")
        await asyncio.sleep(2)
        await stop_while_unknown(world, cloud, session)


@pytest.mark.parametrize("rules", [1, 2])
async def test_what_a_predecessor_put_a_moment_ago_is_there(world: World, cloud: PacedFirewalls, rules: int) -> None:
    """A successor proves it by its label."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        world.resource()
        await asyncio.sleep(150)
        world.cluster.refuse = lambda verb: verb == "status"
        session = world.session(cidrs=tuple(f"203.0.113.{number}/32" for number in range(rules)))
        await eventually(lambda: len(cloud.rules(group)) == rules, "it is put", 5)
        await asyncio.sleep(0.5)
    cloud.unknown = set(list(cloud.rules(group))[:1])
    world.cluster.refuse = lambda _verb: False
    async with world.running(resync=600):
        await asyncio.sleep(3)
        cloud.unknown.clear()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is told", 17)
        for _ in range(200):
            await asyncio.sleep(1)
            assert world.status(session).phase is Phase.ACTIVE


async def opened_by_a_predecessor(world: World) -> AccessSession:
    """A session that is open and on record, by a process that has just ended."""
    async with world.running(resync=36000):
        world.resource()
        await asyncio.sleep(150)
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 3)
    return session


def ghosts(world: World, number: int) -> list[ObservedRule]:
    """As many rules that are gone, in reads of any group."""
    mark = f"gatepass until={world.at(7200)} for=ci/staging-db"
    rules = [Rule(f"198.51.100.{index}/32", "tcp", 5432, 5432) for index in range(number)]
    return [ObservedRule(f"sgr-0000ghost{index:02}", rule, mark, OWNER) for index, rule in enumerate(rules)]


async def test_what_was_put_on_record_a_moment_ago_is_there_though_reads_lag_too(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    session = await opened_by_a_predecessor(world)
    cloud.unknown, cloud.blind = set(cloud.rules(group)), True
    async with world.running(resync=36000):
        await asyncio.sleep(2)
        world.edit(AccessSession, session.key, stop=True)
        for _ in range(60):
            await asyncio.sleep(0.1)
            assert world.status(session).phase is not Phase.CANCELLED
        cloud.unknown, cloud.blind = set(), False
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it closes", 10)
        assert not cloud.rules(group)


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


@pytest.mark.parametrize(("number", "gone"), [(12, 30), (100, 3)])
async def test_what_may_be_gone_already_leaves_calls_to_what_is_there(
    world: World, cloud: PacedFirewalls, number: int, gone: int
) -> None:
    """Reads show more that a predecessor has revoked than there are calls for."""
    groups = [cloud.create(f"sg-0{each:03}") for each in range(number)]
    async with world.running(resync=36000):
        for group in groups:
            secret(world, group.id, group)
        await asyncio.sleep(200)
        sessions = [world.session(group.id, resources=({"name": group.id},)) for group in groups[:12]]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all open", 30)
    cloud.ghosts = ghosts(world, gone)
    async with world.running(resync=36000):
        await asyncio.sleep(20)
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not any(map(cloud.rules, groups)), "all close", 2)


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
    for _ in range(100):
        await asyncio.sleep(0.1)
        assert not (
            world.status(session).phase is Phase.CANCELLED and any(each.rules for each in cloud._firewalls.values())
        )
    cloud.blind = False
    await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is over", 130)
    assert not any(each.rules for each in cloud._firewalls.values())


async def test_a_second_port_that_was_put_and_not_recorded_is_waited_for(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    session = await opened_by_a_predecessor(world)
    (resource,) = session.resource_keys()
    async with world.running(resync=36000):
        await asyncio.sleep(130)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ProtectedResource, resource, ports=[{"port": 5432}, {"port": 6432}])
        await eventually(lambda: len(cloud.rules(group)) == 2, "it is put", 5)
    world.cluster.refuse, cloud.blind = lambda _verb: False, True
    world.edit(AccessSession, session.key, stop=True)
    async with world.running(resync=36000):
        await never_over_while_open(world, cloud, session)


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
