"""A standby that has seen everything for hours begins to lead: what is counted from a start is counted from then."""

import asyncio

import pytest

from gatepass.core.rules import ObservedRule, Rule
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

HOUR = 3600.0
HANDOVER = 25.0


async def test_a_standby_does_nothing(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    world.standby()
    world.resource()
    world.session()
    await asyncio.sleep(HOUR)
    assert not cloud.calls
    assert not world.cluster.writes


async def test_a_new_leader_looks_again_when_nothing_of_its_predecessor_can_be_under_way(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    engine = world.standby(handover_seconds=HANDOVER)
    world.resource()
    await asyncio.sleep(HOUR)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(HANDOVER - 5)
    assert cloud.calls["observe"] == 1
    # The predecessor was paused within a call, for a session that has ended since.
    theirs = Rule("203.0.113.9/32", "tcp", 5432, 5432)
    cloud.put(group, theirs, "gatepass until=2026-11-22T13:00:00Z for=ci/db", OWNER, f"gatepass/{world.at(HOUR)}")
    await asyncio.sleep(10)
    assert cloud.calls["observe"] == 2
    assert cloud.rules(group) == {}
    await asyncio.sleep(120 - HANDOVER)
    assert cloud.calls["observe"] == 3, "and when reads show everything"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_predecessors_lost_grant_is_waited_for_from_the_takeover(world: World, cloud: SlowFirewalls) -> None:
    """It may have granted a moment before the takeover, and reads show that up to two minutes later."""
    group = cloud.create("sg-0aaa")
    engine = world.standby(handover_seconds=HANDOVER)
    world.resource()
    await asyncio.sleep(HOUR)
    session = world.session(duration="1m")
    await asyncio.sleep(50)
    cloud.blind = True
    granted = Rule("203.0.113.7/32", "tcp", 5432, 5432)
    until, maker = world.at(HOUR + 60), f"gatepass/{world.at(HOUR + 49)}"
    cloud.put(group, granted, f"gatepass until={until} for=ci/db", OWNER, maker)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(15)
    assert world.status(session).phase is Phase.EXPIRING
    await asyncio.sleep(60)
    cloud.blind = False
    await asyncio.sleep(60)
    assert world.status(session).phase is Phase.EXPIRED
    assert cloud.rules(group) == {}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_end_before_the_beginning_hides_no_grant_of_a_predecessor(world: World, cloud: SlowFirewalls) -> None:
    """It was edited so after the predecessor had granted, and before that was on record."""
    group = cloud.create("sg-0aaa")
    world.resource()
    await asyncio.sleep(10)
    session = world.session()
    granted, until = Rule("203.0.113.7/32", "tcp", 5432, 5432), world.at(3610)
    cloud.put(group, granted, f"gatepass until={until} for=ci/db", OWNER, f"gatepass/{world.at(10)}")
    cloud.blind = True
    world.edit(AccessSession, session.key, notAfter=world.at(2))
    await asyncio.sleep(5)
    async with world.running():
        await asyncio.sleep(15)
        assert world.status(session).phase is not Phase.EXPIRED
        await asyncio.sleep(60)
        cloud.blind = False
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.EXPIRED
        assert cloud.rules(group) == {}


async def test_what_a_predecessor_has_revoked_and_reads_still_show_holds_no_door_open(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    rule = Rule("203.0.113.7/32", "tcp", 5432, 5432)
    cloud.ghosts = [ObservedRule("sgr-ghost", rule, f"gatepass until={world.at(7200)} for=ci/db", OWNER)]
    async with world.running():
        world.resource()
        session = world.session()
        told = []
        for _ in range(100):
            await asyncio.sleep(0.1)
            if world.status(session).phase is Phase.ACTIVE:
                told.append(set(cloud.rules(group)))
        assert told
        assert all(told), "it says Active, and nothing is open"
        (record,) = world.status(session).resources[0].rules
        assert [record.id] == list(cloud.rules(group))


async def test_what_a_predecessor_has_granted_and_not_recorded_is_proven_at_little_cost(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    for number in range(20):
        rule = Rule(f"203.0.113.{number}/32", "tcp", 5432, 5432)
        cloud.put(group, rule, f"gatepass until={world.at(7200)} for=ci/db", OWNER)
    before = set(cloud.rules(group))
    world.resource()
    sessions = [world.session(f"it-{number}", cidrs=(f"203.0.113.{number}/32",)) for number in range(20)]
    async with world.running():
        await asyncio.sleep(5)
        assert {world.status(session).phase for session in sessions} == {Phase.ACTIVE}
        proven = cloud.calls["relabel"]
        assert 1 <= proven <= 2, "those that are admitted by then in one call"
        assert (cloud.calls["grant"], cloud.calls["revoke"]) == (0, 0)
        assert set(cloud.rules(group)) == before
    async with world.running():
        await asyncio.sleep(200)
        assert cloud.calls["relabel"] == proven, "what is on record for who lives needs no proof"


async def test_where_somebody_waits_a_new_leader_looks_first(world: World, cloud: SlowFirewalls) -> None:
    """Of hundreds of groups, all of which it has to look at: one opens and one closes at that moment."""
    groups = [cloud.create(f"sg-{number:08x}") for number in range(200)]
    for number, group in enumerate(groups):
        world.resource(f"db-{number}", groups=(group.id,))
    names = [f"it-{number}" for number in range(200)]
    held = {
        name: world.session(name, resources=({"name": name.replace("it", "db")},), cidrs=(f"203.0.113.{number}/32",))
        for number, name in enumerate(names)
    }
    async with world.running():
        await asyncio.sleep(READS_LAG_SECONDS + 10)
    assert {world.status(each).phase for each in held.values()} == {Phase.ACTIVE}
    cloud.slow_inspect = 1.0
    async with world.running():
        await asyncio.sleep(0.1)
        world.edit(AccessSession, held["it-198"].key, stop=True)
        new = world.session("new", resources=({"name": "db-199"},), cidrs=("198.51.100.1/32",))
        await asyncio.sleep(2.5)
        assert cloud.rules(groups[198]) == {}
        assert world.status(new).phase is Phase.ACTIVE
        assert world.status(held["it-198"]).phase is Phase.CANCELLED


async def test_what_may_stay_open_until_an_end_is_written_is_looked_at_first(
    world: World, cloud: SlowFirewalls
) -> None:
    """Many have ended while nobody looked, of which most were never open, and the API server is slow."""
    group = cloud.create("sg-0aaa", limit=1)
    key = world.binding()
    async with world.running():
        world.resource()
        open_ = world.session_by(key, "z")
        await eventually(lambda: world.status(open_).phase is Phase.ACTIVE, "it is open")
        never = [world.session(f"a-{number}", cidrs=(f"198.51.100.{number}/32",)) for number in range(200)]
        await eventually(lambda: all(world.status(each).phase is Phase.PENDING for each in never), "they wait")
        await asyncio.sleep(5)  # until a key that is not known is one that has gone
    world.cluster.delete(ApiKeyBinding, key.key)
    for each in never:
        world.edit(AccessSession, each.key, stop=True)
    world.cluster.delay = 1.0
    engine = world.standby()
    await asyncio.sleep(1)
    task = asyncio.create_task(engine.run())
    await eventually(lambda: not cloud.rules(group), "it is closed", 1.5)
    assert any(world.status(each).phase is Phase.PENDING for each in never), "others are looked at later"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
