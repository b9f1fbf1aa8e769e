"""Two installations share an install id by mistake: neither revokes where the other works."""

import asyncio
from datetime import timedelta

import pytest

from gatepass.core.leadership import Leadership
from gatepass.core.rules import Rule
from gatepass.core.sweep import MARGIN
from gatepass.core.types.common import Condition
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.refused import granted_unheard
from tests.engine.test_sweeper import force_delete
from tests.engine.world import BIG_BANG, OWNER, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

THEIRS = Rule("198.51.100.1/32", "tcp", 5432, 5432)
OURS = Rule("203.0.113.7/32", "tcp", 5432, 5432)


def marked(world: World, seconds: float) -> str:
    return f"gatepass until={world.at(seconds)} for=ci/staging-db"


def conflict(world: World, resource: ProtectedResource) -> Condition | None:
    conditions = world.cluster.get(ProtectedResource, resource.key).status.conditions
    return next((each for each in conditions if each.type == "OwnerConflict"), None)


async def test_nothing_is_revoked_where_somebody_else_uses_our_id(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=10):
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(15)
        theirs = cloud.put(group, THEIRS, marked(world, 3600), OWNER, f"another/{world.at(0)}")
        await asyncio.sleep(20)
        found = {c.type: c for c in world.cluster.get(ProtectedResource, resource.key).status.conditions}
        assert found["OwnerConflict"].reason == "SharedInstallId"
        assert theirs in found["OwnerConflict"].message
        assert (found["Ready"].status, found["Ready"].reason) == ("False", "OwnerConflict")

        world.edit(AccessSession, session.key, stop=True)
        other = world.session("opens", cidrs=("203.0.113.9/32",))
        await asyncio.sleep(30)
        assert len(cloud.rules(group)) == 3
        assert world.status(other).phase is Phase.ACTIVE, "opening goes on"
        assert world.status(session).phase is Phase.EXPIRING
        assert theirs in str(world.status(session).resources[0].message)

        del cloud.rules(group)[theirs]
        await asyncio.sleep(200)
        assert [rule.rule.cidr for rule in cloud.rules(group).values() if rule.rule] == ["203.0.113.9/32"]
        assert world.status(session).phase is Phase.CANCELLED
        found = {c.type: c for c in world.cluster.get(ProtectedResource, resource.key).status.conditions}
        assert "OwnerConflict" not in found
        assert found["Ready"].status == "True"


async def test_what_somebody_else_has_left_open_past_its_time_goes(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        cloud.put(group, THEIRS, marked(world, 1000), OWNER)
        await asyncio.sleep(1000 + MARGIN.total_seconds() - 10)
        assert len(cloud.rules(group)) == 1
        await asyncio.sleep(10)
        assert cloud.rules(group) == {}


async def test_a_group_that_only_a_stranger_uses_is_not_swept(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    other = cloud.create("sg-0bbb")
    async with world.running() as engine:
        world.resource()
        await asyncio.sleep(5)
        theirs = cloud.put(other, THEIRS, marked(world, 7200), OWNER)
        static = cloud.put(other, Rule("198.51.100.2/32", "tcp", 22, 22), "gatepass static for=ci/new", OWNER)
        await asyncio.sleep(3600)
        assert set(cloud.rules(other)) == {theirs, static}
        assert engine.insight.snapshot().strangers == {group: 0, other: 2}
        world.resource("new", groups=("sg-0bbb",))
        await asyncio.sleep(60)
        assert set(cloud.rules(other)) == {theirs, static}, "nor when it comes to be named"
        assert engine.insight.snapshot().strangers == {group: 0, other: 2}


async def test_strangers_in_a_group_that_nobody_names_are_told_until_they_are_gone(
    world: World, cloud: SlowFirewalls
) -> None:
    group, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running() as engine:
        resource = world.resource()
        await asyncio.sleep(5)
        theirs = cloud.put(other, THEIRS, marked(world, 7200), OWNER)
        await asyncio.sleep(700)
        assert engine.insight.snapshot().strangers == {group: 0, other: 1}
        cloud.rules(other).pop(theirs)
        await asyncio.sleep(700)
        assert engine.insight.snapshot().strangers == {group: 0}
        cloud.put(other, THEIRS, marked(world, 7200), OWNER)
        await asyncio.sleep(700)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(700)
        assert engine.insight.snapshot().strangers == {}, "nobody can look there any more"


async def test_a_clone_closes_nothing_that_the_original_has_opened(world: World, cloud: SlowFirewalls) -> None:
    """Neither what was there when it began, nor what comes later, whatever ends in the clone."""
    group = cloud.create("sg-0aaa")
    backup = world.at(0)
    old = cloud.put(group, THEIRS, marked(world, 7200), OWNER, f"original/{backup}")
    await asyncio.sleep(60)
    since = [
        cloud.put(group, Rule("198.51.100.2/32", "tcp", 22, 22), marked(world, 7200), OWNER, f"original/{world.at(60)}")
    ]
    known = Leadership("clone", earlier={"original": BIG_BANG + timedelta(seconds=15)})
    async with world.running(resync=10, leadership=known):
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        assert since[0] in str(conflict(world, resource))
        world.edit(AccessSession, session.key, stop=True)
        later = Rule("198.51.100.3/32", "tcp", 22, 22)
        since.append(cloud.put(group, later, marked(world, 7200), OWNER, f"original/{world.at(65)}"))
        await asyncio.sleep(200)
        assert {old, *since} <= set(cloud.rules(group))
        for id_ in since:
            del cloud.rules(group)[id_]
        await asyncio.sleep(200)
        assert conflict(world, resource) is None
        assert cloud.rules(group) == {}, "what was opened before the backup is ours to close"


async def test_ours_is_put_soon_after_a_strangers_has_ended(world: World, cloud: SlowFirewalls) -> None:
    """Both want the same rule: what the other has put serves until the other closes it."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(5)
        theirs = cloud.put(group, OURS, marked(world, 900), OWNER, f"another/{world.at(0)}")
        session = world.session()
        await asyncio.sleep(890)
        assert world.status(session).phase is Phase.ACTIVE
        assert list(cloud.rules(group)) == [theirs]
        await asyncio.sleep(6)
        del cloud.rules(group)[theirs]
        await asyncio.sleep(10)
        assert [rule.rule for rule in cloud.rules(group).values()] == [OURS]


@pytest.mark.parametrize("seconds", [900, -3600])
async def test_whose_maker_has_left_it_open_is_never_marked_as_ours(
    world: World, cloud: SlowFirewalls, seconds: float
) -> None:
    """With a later time it would be a stranger again, and nothing would be revoked once nobody wants it."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        await eventually(lambda: world.ready("staging-db") == "True", "it is ready")
        theirs = cloud.put(group, OURS, marked(world, seconds), OWNER, f"another/{world.at(0)}")
        before = cloud.rules(group)[theirs]
        shared, own = world.session("shared", duration="5h"), world.session("own", cidrs=("203.0.113.9/32",))
        await throughout(lambda: cloud.rules(group)[theirs] == before, "as it was", 2400)
        assert {world.status(each).phase for each in (shared, own)} == {Phase.ACTIVE}
        for each in (shared, own):
            world.edit(AccessSession, each.key, stop=True)
        await eventually(lambda: cloud.rules(group) == {}, "nothing is open", 5)
        await eventually(lambda: world.status(own).phase is Phase.CANCELLED, "the end is told", 5)
        assert conflict(world, resource) is None


async def test_nor_does_a_static_range_make_it_ours(world: World, cloud: SlowFirewalls) -> None:
    """As a static rule of somebody else it would have no time at all, and hold up the group for good."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        await eventually(lambda: world.ready("staging-db") == "True", "it is ready")
        theirs = cloud.put(group, OURS, marked(world, -3600), OWNER, f"another/{world.at(0)}")
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": OURS.cidr}])
        session = world.session(cidrs=("203.0.113.9/32",), duration="10m")
        await throughout(lambda: theirs in cloud.rules(group), "the door is open", 60)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await eventually(lambda: theirs not in cloud.rules(group), "it is gone", 5)
        await eventually(lambda: world.status(session).phase is Phase.EXPIRED, "the end of the other", 600)
        assert cloud.rules(group) == {}


@pytest.mark.parametrize("serves", [300, 30])
async def test_ours_is_put_soon_after_one_is_closed_that_was_left_open(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, serves: int
) -> None:
    """Its maker is back, or somebody sweeps up what has expired. No switch of ours closes what he keeps."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        await eventually(lambda: world.ready("staging-db") == "True", "it is ready")
        theirs = cloud.put(group, OURS, marked(world, -3600), OWNER, f"another/{world.at(0)}")
        world.session(duration="5h")
        await throughout(lambda: list(cloud.rules(group)) == [theirs], "it serves", serves)
        assert not switches.held
        del cloud.rules(group)[theirs]
        await eventually(lambda: [rule.rule for rule in cloud.rules(group).values()] == [OURS], "ours is there", 25)


async def test_sessions_from_before_a_lease_that_was_deleted_close_in_time(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(leadership=Leadership("forgotten")):
        world.resource()
        extended = world.session("extended", duration="10m")
        await eventually(lambda: world.status(extended).phase is Phase.ACTIVE, "it is open", 5)
    async with world.running(leadership=Leadership("next")):
        await throughout(lambda: len(cloud.rules(group)) == 1, "it is open", 60)
        world.edit(AccessSession, extended.key, duration="1h")
        later = world.session("later", duration="59m", cidrs=("203.0.113.9/32",))
        await eventually(lambda: len(cloud.rules(group)) == 2, "both are open", 5)
        await throughout(lambda: len(cloud.rules(group)) == 2, "both are open", 3530)
        await eventually(lambda: cloud.rules(group) == {}, "nothing is open", 20)
        await eventually(lambda: world.status(later).phase is Phase.EXPIRED, "the end is told", 5)


async def test_with_an_id_of_its_own_a_clone_closes_what_it_has_opened(world: World, cloud: SlowFirewalls) -> None:
    """It has recorded as its own what the other had put, and leaves that alone from then on."""
    group = cloud.create("sg-0aaa")
    async with world.running(leadership=Leadership("clone")):
        world.resource()
        await asyncio.sleep(5)
        theirs = cloud.put(group, OURS, marked(world, 7200), OWNER, f"original/{world.at(0)}")
        shared = world.session()
        own = world.session("own", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(READS_LAG_SECONDS)
        assert [rule.foreign for rule in world.status(shared).resources[0].rules] == [False]
    known = Leadership("clone-2", earlier={"clone": BIG_BANG + timedelta(hours=1)})
    async with world.running(owner="of-its-own/gatepass", leadership=known):
        await asyncio.sleep(READS_LAG_SECONDS + 10)
        assert [rule.foreign for rule in world.status(shared).resources[0].rules] == [True]
        for each in (shared, own):
            world.edit(AccessSession, each.key, stop=True)
        await asyncio.sleep(5)
        assert list(cloud.rules(group)) == [theirs]
        assert {world.status(each).phase for each in (shared, own)} == {Phase.CANCELLED}


async def test_a_time_that_we_never_write_is_no_mark_of_ours(world: World, cloud: SlowFirewalls) -> None:
    """Nothing can be counted from the last second of the calendar, and nobody is held up by it."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=10):
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        odd = cloud.put(group, THEIRS, "gatepass until=9999-12-31T23:59:59Z for=ci/staging-db", OWNER)
        await asyncio.sleep(20)
        assert odd in str(conflict(world, resource))
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert list(cloud.rules(group)) == [odd]
        assert world.status(session).phase is Phase.CANCELLED


async def test_what_was_there_before_us_is_ours(world: World, cloud: SlowFirewalls) -> None:
    """A session was torn out while nobody watched, so that no object tells what was granted."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
    force_delete(world, session)
    cloud.blind = True
    async with world.running():
        await asyncio.sleep(READS_LAG_SECONDS / 2)
        cloud.blind = False
        await asyncio.sleep(READS_LAG_SECONDS)
        assert cloud.rules(group) == {}


async def test_a_grant_that_is_under_way_makes_no_stranger(world: World, cloud: SlowFirewalls) -> None:
    """The read by the tag shows a rule before its grant is answered."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(READS_LAG_SECONDS + 1.0 + 590)
        cloud.slow_answer = 30.0
        session = world.session()
        await asyncio.sleep(25)
        assert cloud.calls["find"] == 3
        assert world.status(session).phase is None
        await asyncio.sleep(10)
        assert world.status(session).phase is Phase.ACTIVE
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}


async def test_a_lost_answer_makes_no_stranger(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        session = await granted_unheard(world, cloud, shown=False)
        assert len(cloud.rules(group)) == 1
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(30)
        cloud.blind = False
        await asyncio.sleep(READS_LAG_SECONDS)
        assert cloud.rules(group) == {}
        assert world.status(session).phase is Phase.CANCELLED


async def test_what_was_never_recorded_is_ours_also_when_it_ended_meanwhile(world: World, cloud: SlowFirewalls) -> None:
    """SIGKILL between the grant and the status, and stopped or gone over before the next life."""
    group = cloud.create("sg-0aaa")
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        stopped, deleted = world.session("stopped"), world.session("deleted", cidrs=("203.0.113.8/32",))
        overdue = world.session("overdue", cidrs=("203.0.113.9/32",), duration="1m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 4
    world.cluster.refuse = lambda _verb: False
    world.edit(AccessSession, stopped.key, stop=True)
    world.edit(ProtectedResource, world.cluster.get(AccessSession, stopped.key).resource_keys()[0], staticCIDRs=[])
    world.cluster.delete(AccessSession, deleted.key)
    await asyncio.sleep(60)
    async with world.running():
        await asyncio.sleep(30)
        assert cloud.rules(group) == {}
        await asyncio.sleep(200)
        assert world.status(overdue).phase is Phase.EXPIRED


async def test_what_this_process_has_opened_is_ours_although_its_session_went_by_force(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=10):
        world.resource()
        await asyncio.sleep(5)
        session = world.session()
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(1)
        assert len(cloud.rules(group)) == 1
        force_delete(world, session)
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}
