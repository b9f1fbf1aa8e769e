"""What is found anew elsewhere: followed where every resource allows it, the new rule first."""

import asyncio

import pytest

from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, SourceAddress
from tests.engine.finders import HERE, POD, SIX, THERE, ScriptedFinder, condition, open_to, says
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_a_move_puts_the_new_rule_before_the_old_one_goes(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        session = world.session(source=POD)
        await asyncio.sleep(5)
        seen = [open_to(cloud, group)]
        finder.answers["it-1"] = (THERE,)
        cloud.slow_answer = 2.0
        engine.source_changed(session.key)
        for _ in range(400):
            await asyncio.sleep(0.05)
            if (now := open_to(cloud, group)) != seen[-1]:
                seen.append(now)
        assert seen == [[HERE], [HERE, THERE], [THERE]]
        status = world.status(session)
        assert (status.phase, status.address) == (Phase.ACTIVE, THERE)
        assert [rule.cidr for rule in status.resources[0].rules] == [f"{THERE}/32"]
        assert condition(status, "SourceChanged") is None


async def test_a_move_that_could_not_be_told_before_the_end_keeps_nobody_waiting(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    first, second = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb")
    async with world.running() as engine:
        world.resource(groups=("sg-0aaa", "sg-0bbb"), policy={"followAddressChanges": True})
        session = world.session(source=POD, duration="1m")
        await asyncio.sleep(50)
        world.cluster.refuse = lambda verb: verb == "status"
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        cloud.make_scarce(second)
        await asyncio.sleep(9)
        assert [open_to(cloud, group) for group in (first, second)] == [[HERE], [THERE]]
        await asyncio.sleep(2)
        assert [open_to(cloud, group) for group in (first, second)] == [[], [THERE]]
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(3)
        assert [open_to(cloud, group) for group in (first, second)] == [[], []]
        assert world.status(session).phase is Phase.EXPIRED


@pytest.mark.parametrize("busy", [False, True])
async def test_a_move_to_where_somebody_is_let_in_already_is_settled_too(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, busy: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        world.session("other", cidrs=(f"{THERE}/32",), duration="2h")
        session = world.session(source=POD)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [HERE, THERE]
        if busy:
            cloud.slow_answer = 1.0
            world.session("before", cidrs=("203.0.113.1/32",))
            await asyncio.sleep(0.5)
            cloud.delay = cloud.patience = lambda _target: 2.0  # type: ignore[method-assign]
            world.session("waiting", cidrs=("203.0.113.2/32",))
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        await asyncio.sleep(9)
        assert open_to(cloud, group) == [*(["203.0.113.1", "203.0.113.2"] * busy), THERE]
        assert (world.status(session).phase, world.status(session).address) == (Phase.ACTIVE, THERE)


async def test_the_old_rule_stays_while_the_new_one_is_refused(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        world.resource("cache", groups=("sg-0bbb",), policy={"followAddressChanges": True})
        session = world.session(source=POD, resources=({"name": "staging-db"}, {"name": "cache"}))
        await asyncio.sleep(5)
        cloud.grant_refused = {"sg-0bbb"}
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        for _ in range(30):
            await asyncio.sleep(1)
            assert HERE in open_to(cloud, first)
            assert open_to(cloud, second) == [HERE]
        cloud.grant_refused.clear()
        await asyncio.sleep(600)
        assert (open_to(cloud, first), open_to(cloud, second)) == ([THERE], [THERE])


async def test_a_move_that_one_resource_does_not_allow_is_told_and_not_made(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    cloud.create("sg-0bbb")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        world.resource("cache", groups=("sg-0bbb",))
        session = world.session(source=POD, resources=({"name": "staging-db"}, {"name": "cache"}))
        await asyncio.sleep(5)
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        await asyncio.sleep(5)
        status = world.status(session)
        assert (status.phase, open_to(cloud, group)) == (Phase.ACTIVE, [HERE])
        says(status, "SourceChanged", "True", "NotFollowed", THERE, "ci/cache", "policy.followAddressChanges")
        world.edit(ProtectedResource, Key("ci", "cache"), policy={"followAddressChanges": True})
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [THERE]
        assert condition(world.status(session), "SourceChanged") is None


async def test_who_comes_back_is_no_longer_elsewhere(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
        for answer, told in ((THERE, True), (HERE, False)):
            finder.answers["it-1"] = (answer,)
            engine.source_changed(session.key)
            await asyncio.sleep(5)
            assert (condition(world.status(session), "SourceChanged") is not None) is told


@pytest.mark.parametrize("found", ["10.1.2.3", "203.0.113.0/28"])
async def test_no_move_goes_where_the_policy_does_not_let_it(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, found: str
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        session = world.session(source=POD)
        await asyncio.sleep(5)
        finder.answers["it-1"] = (found,)
        engine.source_changed(session.key)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [HERE]
        says(world.status(session), "SourceChanged", "True", "NotFollowed", found)


async def test_a_move_survives_a_restart_in_its_middle(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        session = world.session(source=POD)
        await asyncio.sleep(5)
        finder.answers["it-1"] = (THERE,)
        cloud.slow_answer = 5.0
        engine.source_changed(session.key)
        await asyncio.sleep(3)
        assert open_to(cloud, group) == [HERE, THERE]
    cloud.slow_answer = 0.0
    async with world.running():
        await asyncio.sleep(200)
        assert open_to(cloud, group) == [THERE]
        assert world.status(session).address == THERE


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_group_without_room_for_both_lets_the_old_one_go_first(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, limit: int
) -> None:
    group = cloud.create("sg-0aaa", limit=limit)
    others = ["203.0.113.50"] if limit == 2 else []
    async with world.running() as engine:
        world.resource(policy={"followAddressChanges": True})
        session = world.session(source=POD)
        await asyncio.sleep(5)
        for other in others:
            world.session("it-2", cidrs=(f"{other}/32",))
        behind = world.session("it-3", cidrs=("203.0.113.51/32",))
        await asyncio.sleep(5)
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        await asyncio.sleep(5)
        assert sorted(open_to(cloud, group)) == sorted([THERE, *others])
        assert (world.status(session).phase, world.status(session).address) == (Phase.ACTIVE, THERE)
        assert world.status(behind).phase is Phase.PENDING, "nobody takes its place meanwhile"


# seen calling


def beat(world: World, session: AccessSession, *ips: str) -> None:
    """As the REST API of any replica records where beats come from."""
    stored = world.cluster.get(AccessSession, session.key)
    seen = [SourceAddress(ip=ip, version=6 if ":" in ip else 4, evidence="beat", observed_at=BIG_BANG) for ip in ips]
    told = stored.status.to_json()
    told["source"] = {**told["source"], "seenFrom": [each.to_json() for each in seen]}
    world.cluster.put(AccessSession.model_validate({**stored.to_json(), "status": told}))


async def test_a_heartbeat_from_elsewhere_moves_a_session_that_was_seen_calling(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"followAddressChanges": True})
        session = world.session_by(world.binding())
        await asyncio.sleep(5)
        assert open_to(cloud, group) == ["203.0.113.10"]
        beat(world, session, THERE)
        await asyncio.sleep(5)
        assert (open_to(cloud, group), world.status(session).address) == ([THERE], THERE)
        beat(world, session, THERE, SIX)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [SIX, THERE], "the other family is another address"
        beat(world, session, "127.0.0.1", SIX)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [SIX, THERE]
        beat(world, session, THERE, SIX)
    async with world.running():
        await asyncio.sleep(200)
        assert open_to(cloud, group) == [SIX, THERE], "also after a restart"


async def test_no_heartbeat_moves_what_was_declared_or_found(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"followAddressChanges": True})
        declared, found = world.session("it-2"), world.session(source=POD)
        await asyncio.sleep(5)
        for session in (declared, found):
            beat(world, session, THERE)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [HERE]


async def test_a_heartbeat_while_nobody_leads_moves_it_later(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"followAddressChanges": True})
        session = world.session_by(world.binding())
        await asyncio.sleep(5)
    beat(world, session, THERE)
    async with world.running():
        await asyncio.sleep(200)
        assert (open_to(cloud, group), world.status(session).address) == ([THERE], THERE)


async def test_a_heartbeat_that_is_not_followed_is_told_until_it_comes_back(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session_by(world.binding())
        await asyncio.sleep(5)
        beat(world, session, THERE)
        await asyncio.sleep(5)
        says(world.status(session), "SourceChanged", "True", "NotFollowed", THERE, "policy.followAddressChanges")
        written = len(world.cluster.writes)
        await asyncio.sleep(30)
        assert len(world.cluster.writes) == written, "once is enough"
        beat(world, session, "203.0.113.10")
        await asyncio.sleep(5)
        assert condition(world.status(session), "SourceChanged") is None
        assert open_to(cloud, group) == ["203.0.113.10"]


async def test_who_is_about_to_be_told_where_he_is_open_does_not_move_without_leave(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    """The status is on its way, and its reader will count on it."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36_000) as engine:
        world.resource(policy={"followAddressChanges": False})
        await eventually(lambda: world.ready("staging-db") == "True", "it is ready")
        world.cluster.delay = 2.0
        session = world.session(source=POD)
        await eventually(lambda: open_to(cloud, group) == [HERE], "it opens", 1.5)
        finder.answers["it-1"] = (THERE,)
        engine.source_changed(session.key)
        await throughout(lambda: open_to(cloud, group) == [HERE], "it stays", 10)
        assert world.status(session).address == HERE
