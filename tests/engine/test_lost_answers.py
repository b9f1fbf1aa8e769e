"""Answers that are lost, and rules that are there and that EC2 does not show or know yet."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from gatepass.core.ports import Access, Gone, RelabelOutcome, RevokeOutcome, Unknown
from gatepass.core.rules import Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import NEW_IDS_SECONDS, READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.refused import granted_unheard
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)


async def test_a_lost_answer_is_settled_and_makes_no_second_rule(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        session = await granted_unheard(world, cloud)
        cloud.lose_answers = False
        await asyncio.sleep(10)
        (id_,) = cloud.rules(group)
        assert world.status(session).resources[0].rules[0].id == id_


async def test_a_rule_that_is_there_and_not_shown_is_asked_for_ever_more_rarely(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        session = await granted_unheard(world, cloud, shown=False)
        cloud.lose_answers = False
        await asyncio.sleep(60)
        assert 2 <= cloud.calls["grant"] <= 8
        cloud.blind = False
        (id_,) = cloud.rules(group)
        await eventually(
            lambda: [rule.id for rule in world.status(session).resources[0].rules] == [id_], "it is found", 2
        )


async def test_a_rule_of_somebody_else_that_went_while_reads_lagged_is_replaced(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(5)
        theirs = cloud.put(group, RULE, "the office")
        cloud.blind = True
        session = world.session()
        await asyncio.sleep(10)
        del cloud.rules(group)[theirs]
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "ours is put", 10)


async def test_an_ended_session_is_expiring_until_its_lost_write_is_settled(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        session = await granted_unheard(world, cloud, shown=False)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(READS_LAG_SECONDS / 2)
        assert world.status(session).phase is Phase.EXPIRING
        cloud.blind = False
        await asyncio.sleep(300)
        assert cloud.rules(group) == {}
        assert world.status(session).phase is Phase.CANCELLED


class Unheard(SlowFirewalls):
    """Revokes, and the answer is lost some seconds later; or does not know a rule that it has put a moment ago."""

    def __init__(self) -> None:
        super().__init__()
        self.loses = self.forgets = self.hears_nothing = False

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        if self.forgets or self.hears_nothing:
            self.calls["revoke"] += 1
            lost, self.hears_nothing = self.hears_nothing, False
            return {id_: Unknown() if lost else Gone() for id_ in ids}
        outcomes = await super().revoke(access, target, ids, doubtful=doubtful)
        if not self.loses:
            return outcomes
        self.loses = False
        await asyncio.sleep(7)
        return dict.fromkeys(ids, Unknown())

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        outcomes = await super().relabel(access, target, {} if self.forgets else descriptions)
        return {**dict.fromkeys(descriptions, Gone()), **outcomes}


@pytest.fixture
def unheard(world: World) -> Unheard:
    world.firewalls = Unheard()
    return world.firewalls


@pytest.mark.parametrize("open_for", [5, 300])
@pytest.mark.parametrize("wanted_by", ["session", "static"])
async def test_who_wants_what_may_have_been_revoked_gets_it_anew(
    world: World, unheard: Unheard, wanted_by: str, open_for: float
) -> None:
    group = unheard.create("sg-0aaa")
    async with world.running(resync=3600):
        resource = world.resource()
        first = world.session(duration="8h")
        await asyncio.sleep(open_for)
        unheard.loses = True
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(3)
        assert unheard.rules(group) == {}
        if wanted_by == "static":
            world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": RULE.cidr}])
        else:
            second = world.session("second", duration="30m")
        await eventually(lambda: [rule.rule for rule in unheard.rules(group).values()] == [RULE], "it is put anew", 8)
        await asyncio.sleep(1)
        if wanted_by == "session":
            assert [rule.id for rule in world.status(second).resources[0].rules] == list(unheard.rules(group))
        assert world.status(first).phase is Phase.CANCELLED


async def test_a_static_range_that_comes_back_while_its_end_is_in_doubt_is_put_anew(
    world: World, unheard: Unheard
) -> None:
    group = unheard.create("sg-0aaa")
    async with world.running(resync=174):
        resource = world.resource(staticCIDRs=[{"cidr": RULE.cidr}])
        await asyncio.sleep(300)  # the last read is some seconds old
        unheard.loses = True
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(3)
        assert unheard.rules(group) == {}
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": RULE.cidr}])
        await eventually(lambda: [rule.rule for rule in unheard.rules(group).values()] == [RULE], "it is put anew", 8)


@pytest.mark.parametrize("lost_first", [False, True])
async def test_what_ec2_does_not_know_yet_is_not_taken_for_closed(
    world: World, unheard: Unheard, lost_first: bool
) -> None:
    group = unheard.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(2)
        unheard.forgets, unheard.hears_nothing = True, lost_first
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(3)
        assert unheard.calls["revoke"] > 1
        assert world.status(session).phase is not Phase.CANCELLED
        unheard.forgets = False
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "the end", 2)
        assert unheard.rules(group) == {}


async def test_a_successor_does_not_take_it_for_closed_either(world: World, unheard: Unheard) -> None:
    group = unheard.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(1)
    unheard.forgets = True
    async with world.running(resync=3600):
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        unheard.forgets = False
        await eventually(lambda: not unheard.rules(group), "it closes", 2)


async def test_what_is_neither_known_nor_shown_is_closed(world: World, unheard: Unheard) -> None:
    """Somebody has removed it by hand."""
    group = unheard.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(2)
        unheard.rules(group).clear()
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "the end", NEW_IDS_SECONDS)


async def test_a_new_rule_that_is_neither_shown_nor_known_is_not_forgotten(world: World, unheard: Unheard) -> None:
    """A resync right after the grant does not see it, its label cannot be set, and the session is stopped then."""
    group = unheard.create("sg-0aaa")
    async with world.running(resync=200):
        world.resource()
        await asyncio.sleep(READS_LAG_SECONDS + 1 + 200 - 1)
        session = world.session()
        await eventually(lambda: unheard.rules(group), "it opens", 0.9)
        unheard.blind = unheard.forgets = True
        await eventually(lambda: unheard.calls["relabel"], "it has to be proven", 2)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(3)
        unheard.blind = unheard.forgets = False
        await eventually(lambda: not unheard.rules(group), "it closes", 2)
        assert world.status(session).phase is not Phase.ACTIVE
