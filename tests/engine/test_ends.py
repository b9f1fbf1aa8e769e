"""Sessions end with what they are bound to."""

import asyncio
from collections.abc import Mapping

import pytest

from gatepass.core.owners import Kind, Sighting
from gatepass.core.policy import Refusal
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, EndedReason
from gatepass.engine.engine import Engine
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import BOUND, IT, JOB, RUNNING, answer_doubts, ended, listed, live, opened, rules
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture(autouse=True)
def group(cloud: SlowFirewalls) -> Target:
    """The one that everything here is about."""
    return cloud.create("sg-0aaa")


@pytest.mark.parametrize("how", ["finished", "gone", "another of its name", "listed without it", "listed as another"])
async def test_it_ends_with_what_it_is_bound_to(world: World, how: str) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
        status = world.status(session)
        assert status.bound_to is not None
        assert status.bound_to.uid == "uid-1"
        match how:
            case "finished":
                engine.ends.seen(JOB, IT, RUNNING._replace(finished=True))
            case "gone":
                engine.ends.gone(JOB, IT, "uid-1")
            case "another of its name":
                engine.ends.seen(JOB, IT, Sighting("uid-2", finished=False))
            case "listed without it":
                listed(engine, {})
            case _:
                listed(engine, {IT: Sighting("uid-2", finished=False)})
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)
        assert engine.ends.kinds == frozenset()


async def test_news_of_others_change_nothing(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
        engine.ends.gone(JOB, IT, "uid-0")
        engine.ends.gone(JOB, Key("web", "it"), "uid-1")
        engine.ends.seen(JOB, Key("web", "it"), Sighting("uid-3", finished=True))
        engine.ends.gone(Kind("v1", "Pod"), IT, "uid-1")
        await asyncio.sleep(60)
        assert live(world, session)


async def test_it_may_come_half_a_minute_later(world: World) -> None:
    async with world.running() as engine:
        world.resource()
        session = world.session(boundTo=BOUND)
        await asyncio.sleep(1)
        listed(engine, {})
        await asyncio.sleep(29)
        engine.ends.seen(JOB, IT, RUNNING)
        await asyncio.sleep(60)
        assert live(world, session)
        engine.ends.gone(JOB, IT, "uid-1")
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


@pytest.mark.parametrize(("objects", "ends"), [({}, True), ({IT: RUNNING}, False)])
async def test_it_is_missed_by_a_listing_and_not_by_a_watch_that_is_late(
    world: World, objects: dict[Key, Sighting], ends: bool
) -> None:
    async with world.running() as engine:
        world.resource()
        session = world.session(boundTo=BOUND)
        await asyncio.sleep(1)
        listed(engine, {})
        await asyncio.sleep(40)
        assert live(world, session), "nobody has listed since"
        listed(engine, objects)
        await asyncio.sleep(1)
        assert live(world, session) is not ends


async def test_a_fresh_listing_is_asked_for_once_when_it_is_missing(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine)
        bound = world.session("bound", boundTo=BOUND)
        await asyncio.sleep(1)
        listed(engine, {})
        answering = asyncio.create_task(answer_doubts(engine, {}))
        await asyncio.sleep(31)
        answering.cancel()
        assert world.status(bound).ended_reason is EndedReason.OWNER_FINISHED
        assert live(world, session)


async def test_a_uid_on_record_that_is_gone_after_a_restart_ends_it_at_the_first_listing(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
    async with world.running() as engine:
        await asyncio.sleep(60)
        assert live(world, session), "nothing is known before the first listing"
        assert engine.ends.kinds == {JOB}
        listed(engine, {})
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


async def test_another_of_its_name_after_a_restart_is_not_it(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
    async with world.running() as engine:
        await asyncio.sleep(1)
        listed(engine, {IT: Sighting("uid-2", finished=False)})
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


async def test_a_kind_that_cannot_be_followed_is_told_and_ends_nothing(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND, duration="10m")
        engine.ends.unfollowed(JOB, Refusal("OwnerForbidden", "Gatepass may not list and watch Job (batch/v1)"))
        await asyncio.sleep(1)
        (told,) = [c for c in world.status(session).conditions if c.type == "OwnerFollowed"]
        assert (told.status, told.reason) == ("False", "OwnerForbidden")
        await asyncio.sleep(60)
        assert live(world, session)
        listed(engine, {IT: RUNNING})
        await asyncio.sleep(1)
        assert [c.status for c in world.status(session).conditions if c.type == "OwnerFollowed"] == ["True"]
        engine.ends.unfollowed(JOB, Refusal("OwnerForbidden", "again"))
        await asyncio.sleep(600)
        ended(world, session, EndedReason.EXPIRED)


async def test_it_costs_no_write_when_the_object_is_known_already(world: World) -> None:
    async with world.running() as engine:
        await opened(world, engine, boundTo=BOUND)
        await asyncio.sleep(3)
        before = len(world.cluster.writes)
        plain = world.session("plain", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(3)
        alone = len(world.cluster.writes) - before
        bound = world.session("bound", cidrs=("203.0.113.9/32",), boundTo=BOUND)
        await asyncio.sleep(3)
        assert live(world, plain)
        assert live(world, bound)
        assert len(world.cluster.writes) - before == 2 * alone


async def test_what_has_ended_is_followed_no_more(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
        other = world.session("other", cidrs=("203.0.113.8/32",), boundTo={**BOUND, "name": "other"})
        await asyncio.sleep(1)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(1)
        assert engine.ends.kinds == {JOB}
        world.cluster.delete(AccessSession, other.key)
        await asyncio.sleep(1)
        assert engine.ends.kinds == frozenset()
        engine.ends.dropped(JOB)
        assert live(world, await opened_again(world, engine))


async def opened_again(world: World, engine: Engine) -> AccessSession:
    session = world.session("again", boundTo=BOUND)
    await asyncio.sleep(40)
    listed(engine, {IT: RUNNING})
    await asyncio.sleep(1)
    return session


async def test_many_ends_do_not_wait_for_each_others_writes(world: World) -> None:
    async with world.running() as engine:
        world.resource()
        names = [f"it-{number}" for number in range(55)]  # more than passes may be under way
        jobs = {Key("ci", name): Sighting(f"uid-{name}", finished=False) for name in names}
        for number, name in enumerate(names):
            world.session(name, cidrs=(f"203.0.113.{number}/32",), boundTo={**BOUND, "name": name})
        await asyncio.sleep(1)
        listed(engine, jobs)
        await asyncio.sleep(5)
        assert len(world.firewalls.rules(Target("aws", "123456789012", "eu-central-1", "sg-0aaa"))) == len(names)
        world.cluster.delay = 10.0
        for some in (names[:50], names[50:]):
            for name in some:
                engine.ends.seen(JOB, Key("ci", name), Sighting(f"uid-{name}", finished=True))
            await asyncio.sleep(1)
        assert rules(world) == {}, "what is closed waits for its last write, and the others do not"


async def test_a_deadline_waits_for_no_writes_of_others_and_for_nobody_who_opens(world: World) -> None:
    target = world.firewalls.create("sg-0bbb")
    async with world.running():
        world.resource()
        world.resource("other", groups=("sg-0bbb",))
        for number in range(50):  # more than passes may be under way
            world.session(f"it-{number}", cidrs=(f"203.0.113.{number}/32",), notAfter=world.at(60))
        await asyncio.sleep(1)
        world.session("last", resources=({"name": "other"},), notAfter=world.at(60))
        await asyncio.sleep(1)
        assert (len(rules(world)), len(world.firewalls.rules(target))) == (50, 1)
        world.cluster.delay = 10.0
        await asyncio.sleep(48)
        world.firewalls.delay = lambda given: 20.0 * (given == target)  # type: ignore[method-assign]
        world.firewalls.patience = lambda _target: 20.0  # type: ignore[method-assign]
        for number in range(2):
            world.session(f"new-{number}", resources=({"name": "other"},), cidrs=(f"203.0.114.{number}/32",))
            await asyncio.sleep(1)
        assert len(world.firewalls.rules(target)) == 1
        await asyncio.sleep(8.1)
        assert (rules(world), len(world.firewalls.rules(target))) == ({}, 2), "and with it go those that wait"


async def test_an_object_on_record_that_is_over_closes_at_once_and_costs_one_write(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
        before = len(world.cluster.writes)
        engine.ends.seen(JOB, IT, Sighting("uid-1", finished=True))
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)
        assert world.cluster.writes[before:].count(("status", session.key)) == 1


@pytest.mark.parametrize("found", [{}, {IT: Sighting("uid-1", finished=True)}], ids=["gone", "finished"])
async def test_what_was_closed_and_not_written_stays_closed_over_a_restart(
    world: World, found: Mapping[Key, Sighting]
) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
        world.cluster.refuse = lambda verb: verb == "status"
        engine.ends.gone(JOB, IT, "uid-1")
        await asyncio.sleep(20)
        assert rules(world) == {}
        engine.ends.seen(JOB, IT, RUNNING)
        await asyncio.sleep(20)
        assert rules(world) == {}, "final in this life"
    world.cluster.refuse = lambda _verb: False
    async with world.running() as engine:
        await asyncio.sleep(200)
        assert rules(world) == {}, "nobody knows yet what has become of the Job"
        listed(engine, found)
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


async def test_what_was_taken_away_returns_once_the_runner_is_known_to_go_on(world: World, group: Target) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
    world.firewalls.rules(group).clear()
    async with world.running() as engine:
        await asyncio.sleep(1)
        assert rules(world) == {}
        listed(engine, {IT: RUNNING})
        await asyncio.sleep(1)
        assert rules(world)
        assert live(world, session)


async def test_nothing_is_opened_before_anybody_has_looked_at_what_it_is_bound_to(
    world: World, cloud: SlowFirewalls
) -> None:
    async with world.running() as engine:
        world.resource()
        session = world.session(boundTo=BOUND)
        await asyncio.sleep(60)
        assert cloud.calls["grant"] == 0
        listed(engine, {IT: Sighting("uid-1", finished=True)})
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)
        assert cloud.calls["grant"] == 0
        other = world.session("other", boundTo={**BOUND, "name": "other"})
        await asyncio.sleep(1)
        assert live(world, other), "it may come later"


async def test_nothing_is_put_again_before_anybody_has_looked_after_a_restart(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
    cloud.rules(group).clear()
    puts = cloud.calls["grant"]
    async with world.running() as engine:
        await asyncio.sleep(60)
        assert cloud.calls["grant"] == puts
        listed(engine, {IT: RUNNING})
        await asyncio.sleep(5)
        assert live(world, session)
        assert len(cloud.rules(group)) == 1
