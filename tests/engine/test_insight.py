"""What the engine tells of itself when it is asked."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from gatepass.core.rules import Rule
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Phase, ResourceState
from tests.engine.firewalls import SlowFirewalls
from tests.engine.test_sweeper import force_delete
from tests.engine.world import OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)
OTHERS = Rule("198.51.100.1/32", "tcp", 5432, 5432)


async def test_what_is_open_and_how_full_it_is(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa", limit=3)
    cloud.put(group, OTHERS)
    async with world.running() as engine:
        resource = world.resource()
        world.session(cidrs=("203.0.113.7/32", "2001:db8::7/128"))
        world.session("it-2", cidrs=("203.0.113.8/32", "203.0.113.9/32"))
        await asyncio.sleep(10)
        seen = engine.insight.snapshot()
    assert seen.sessions == {Phase.ACTIVE: 1, Phase.PENDING: 1}
    assert (seen.waiting, seen.resources, seen.overdue_seconds) == (1, 1, 0)
    (target,) = seen.targets
    assert target.target == group
    assert (target.used, target.ours, target.limit) == ({4: 2, 6: 1}, {4: 1, 6: 1}, {4: 3, 6: 3})
    assert (target.failing, target.conflicts, target.overdue) == (False, 0, 0)
    assert seen.capacities[resource.key].ipv4.used == 2
    queues = {"verify", "target", "source", "session", "resource", "binding", "secret", "sweep", "switch"}
    assert set(seen.queues) == queues
    assert all((load.due, load.active, load.failing) == (0, 0, 0) for load in seen.queues.values())


async def test_what_cannot_be_closed_is_told_also_where_nobody_names_the_group(
    world: World, cloud: SlowFirewalls
) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=10) as engine:
        world.resource("elsewhere", groups=("sg-0bbb",))
        resource, session = world.resource(), world.session(duration="1m")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "its opening", 5)
        cloud.revoke_refused = True
        force_delete(world, resource)
        force_delete(world, session)
        await eventually(lambda: engine.insight.snapshot().overdue_seconds > 60, "its being told of", 200)
        (found,) = (each for each in engine.insight.snapshot().targets if each.target == group)
        assert (found.failing, found.overdue, found.limit) == (True, 1, {})
        cloud.revoke_refused = False
        await eventually(lambda: not cloud.rules(group), "its closing", 200)
        await eventually(lambda: len(engine.insight.snapshot().targets) == 1, "the end of it", 200)
        assert engine.insight.snapshot().overdue_seconds == 0


async def test_what_cannot_be_closed_is_overdue_and_failing(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        world.session(duration="1m")
        await asyncio.sleep(30)
        assert engine.insight.snapshot().overdue_seconds == 0
        cloud.revoke_refused = True
        await asyncio.sleep(60)
        seen = engine.insight.snapshot()
        assert seen.overdue_seconds == pytest.approx(30, abs=1)
        assert (seen.targets[0].failing, seen.targets[0].overdue) == (True, 1)
        assert seen.queues["target"].failing == 1
        assert seen.queues["target"].retries > 3
        cloud.revoke_refused = False
        await asyncio.sleep(300)
        seen = engine.insight.snapshot()
        assert (seen.overdue_seconds, seen.targets[0].failing, seen.targets[0].overdue) == (0, False, 0)
        assert seen.queues["target"].failing == 0


async def test_an_end_that_cannot_be_written_down_is_overdue(world: World, cloud: SlowFirewalls) -> None:
    """Its rule waits for that write."""
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        binding = world.binding()
        world.session_by(binding)
        await asyncio.sleep(10)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ApiKeyBinding, binding.key, revoked=True)
        await asyncio.sleep(60)
        assert len(cloud.rules(group)) == 1
        assert engine.insight.snapshot().overdue_seconds == pytest.approx(60, abs=1)
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(2)
        assert cloud.rules(group) == {}
        assert engine.insight.snapshot().overdue_seconds == 0


async def test_an_end_that_was_asked_for_is_overdue_before_its_deadline(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(10)
        cloud.revoke_refused = True
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(40)
        seen = engine.insight.snapshot()
        assert seen.overdue_seconds == pytest.approx(40, abs=1)
        assert seen.targets[0].overdue == 0, "its own description gives it until tomorrow"


@pytest.mark.parametrize("told", [True, False])
async def test_a_shortened_session_is_overdue_although_nothing_can_be_written(
    world: World, cloud: SlowFirewalls, told: bool
) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(10)
        cloud.revoke_refused = True
        world.cluster.refuse = lambda verb: verb == "status" and not told
        world.edit(AccessSession, session.key, duration="1m")
        await asyncio.sleep(10)
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(70)
        assert world.status(session).ended_at is None
        assert engine.insight.snapshot().overdue_seconds == pytest.approx(30, abs=1)


async def test_a_rule_of_an_earlier_life_is_overdue_by_its_description(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    cloud.revoke_refused = True
    cloud.put(group, OTHERS, f"gatepass until={world.at(-60)} for=ci/staging-db", OWNER)
    async with world.running() as engine:
        world.resource()
        await asyncio.sleep(10)
        assert engine.insight.snapshot().overdue_seconds == pytest.approx(70, abs=1)


async def test_a_session_that_never_got_anything_is_never_overdue(world: World, cloud: SlowFirewalls) -> None:
    cloud.put(cloud.create("sg-0aaa", limit=1), OTHERS)
    async with world.running() as engine:
        world.resource()
        world.session(duration="1m")
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(200)
        seen = engine.insight.snapshot()
        assert (seen.sessions, seen.overdue_seconds) == ({Phase.PENDING: 1}, 0)


async def test_a_target_that_is_not_there_fails_until_nobody_names_it(world: World) -> None:
    async with world.running() as engine:
        resource = world.resource()
        await asyncio.sleep(5)
        (target,) = engine.insight.snapshot().targets
        assert (target.failing, target.limit) == (True, {})
        assert engine.insight.snapshot().unready == {"TargetNotFound": 1}
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(5)
        assert engine.insight.snapshot().targets == []


async def test_how_late_a_session_was_closed(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    found: list[float | None] = []

    async with world.running() as engine:
        written = world.cluster.write_session_status

        async def write(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
            updated = await written(session, status)
            if status.phase in (Phase.EXPIRED, Phase.CANCELLED):
                found.append(engine.insight.lateness(session))
            return updated

        world.cluster.write_session_status = write  # type: ignore[method-assign]
        world.resource()
        world.session("on-time", duration="1m")
        await asyncio.sleep(70)
        assert found == [pytest.approx(0, abs=0.1)]

        world.session("late", duration="1m")
        await asyncio.sleep(50)
        cloud.revoke_refused = True
        await asyncio.sleep(20)
        cloud.revoke_refused = False
        world.cluster.refuse = lambda verb: verb == "status"  # what the API server takes is not the firewall's delay
        await asyncio.sleep(60)
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(300)
        assert found[1:] == [pytest.approx(17, abs=8)]

        stopped = world.session("stopped", duration="1h")
        await asyncio.sleep(10)
        world.edit(AccessSession, stopped.key, stop=True)
        await asyncio.sleep(10)
        assert found[2:] == [pytest.approx(0, abs=1)]

        cloud.put(cloud.create("sg-0bbb"), RULE)
        world.resource("foreign", groups=("sg-0bbb",))
        world.session("foreign", resources=({"name": "foreign"},), duration="1m")
        await asyncio.sleep(70)
        assert found[3:] == [None], "nothing of its own had to go"


async def test_drift_that_was_put_right_is_counted(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=60) as engine:
        world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(200)
        assert engine.insight.snapshot().repaired == {}

        cloud.rules(group).clear()
        await asyncio.sleep(60)
        assert engine.insight.snapshot().repaired == {"put_back": 1}
        assert [rule.rule for rule in cloud.rules(group).values()] == [RULE]

        cloud.put(group, OTHERS, f"gatepass until={world.at(-3600)} for=ci/staging-db", OWNER)
        await asyncio.sleep(60)
        assert engine.insight.snapshot().repaired == {"put_back": 1, "removed": 1}
        assert [rule.rule for rule in cloud.rules(group).values()] == [RULE]

        ((id_, rule),) = cloud.rules(group).items()
        cloud.rules(group)[id_] = replace(rule, owner=None)
        await asyncio.sleep(60)
        assert engine.insight.snapshot().repaired == {"put_back": 1, "removed": 1, "marked": 1}

        cloud.revoke_refused = True
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(300)  # from here on the next attempt comes with a read
        cloud.revoke_refused = False
        await asyncio.sleep(65)
        assert cloud.rules(group) == {}
        assert engine.insight.snapshot().repaired == {"put_back": 1, "removed": 1, "marked": 1}, "an end is no drift"


async def test_what_nobody_knows_of_is_not_overdue_and_says_what_it_waits_for(
    world: World, cloud: SlowFirewalls
) -> None:
    """Nobody led when it was stopped; but whoever led before may have granted it something in his last moment."""
    cloud.create("sg-0aaa")
    world.resource()
    session = world.session()
    await asyncio.sleep(1)
    world.edit(AccessSession, session.key, stop=True)
    async with world.running() as engine:
        await asyncio.sleep(60)
        (entry,) = world.status(session).resources
        assert (world.status(session).phase, entry.state, entry.reason) == (
            Phase.EXPIRING,
            ResourceState.REMOVING,
            "NotSeenYet",
        )
        assert engine.insight.snapshot().overdue_seconds == 0
        cloud.all_refused = True
        await asyncio.sleep(70)
        assert engine.insight.snapshot().overdue_seconds > 120, "nobody can look, and it may be there"
        cloud.all_refused = False
        await asyncio.sleep(300)
        assert (world.status(session).phase, engine.insight.snapshot().overdue_seconds) == (Phase.CANCELLED, 0)


@pytest.mark.parametrize("by", ["session", "policy"])
async def test_who_gets_less_time_than_has_passed_is_not_closed_late(
    world: World, cloud: SlowFirewalls, by: str
) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        resource, session = world.resource(), world.session(duration="10h")
        await asyncio.sleep(7200)
        if by == "session":
            world.edit(AccessSession, session.key, duration="1m")
        else:
            world.edit(ProtectedResource, resource.key, policy={"maxDuration": "1h"})
        await eventually(lambda: world.status(session).phase is Phase.EXPIRED, "it ends", 5)
        late = engine.insight.lateness(world.cluster.get(AccessSession, session.key))
        assert late is not None
        assert late < 5
        ended_at = world.status(session).ended_at
        assert ended_at is not None
        assert ended_at - session.started_at >= timedelta(hours=2)
        assert engine.insight.snapshot().overdue_seconds == 0


async def test_who_gets_less_time_while_nobody_watches_is_closed_late(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="10h")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
    world.edit(AccessSession, session.key, duration="30m")
    await asyncio.sleep(7200)
    cloud.revoke_refused = True
    async with world.running() as engine:
        await eventually(lambda: engine.insight.snapshot().overdue_seconds > 5000, "it is told how late", 20)
        await eventually(lambda: world.status(session).ended_at is not None, "its end is told", 20)
        assert world.status(session).ended_at == session.started_at + timedelta(minutes=30)
