"""What a switch is known to be for: never later than it is, whatever happened before, so that none closes too early."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from gatepass.core.errors import Failure
from gatepass.core.ports import Access
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.world import BIG_BANG, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

STATIC = [{"cidr": "203.0.113.7/32"}]
RESYNC = 30.0


def after(**time: float) -> datetime:
    return BIG_BANG + timedelta(**time)


def ids(world: World, session: AccessSession) -> set[str]:
    return {record.id for entry in world.status(session).resources for record in entry.rules}


def kept(world: World, cloud: SlowFirewalls, switches: MemorySwitches, session: AccessSession) -> Callable[[], bool]:
    """Is each of its switches for what it was told, and for what the label says, or later?"""

    def early(id_: str, until: datetime) -> bool:
        rule = cloud.rules(Target("aws", "123456789012", "eu-central-1", "sg-0aaa")).get(id_)
        mark = parse_mark(rule.description) if rule is not None else None
        label = mark.until if mark is not None and mark.until is not None else until
        return id_ in switches.held and switches.held[id_] < max(label, until)

    def true() -> bool:
        told = world.status(session).expires_at
        return told is not None and not any(early(id_, told) for id_ in ids(world, session))

    return true


def descriptions(cloud: SlowFirewalls, group: Target) -> list[str]:
    return [rule.description for rule in cloud.rules(group).values()]


def see_nothing(world: World, cloud: SlowFirewalls, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """For so long from now on, reads show no rule."""
    observe, until = cloud.observe, world.clock.monotonic() + seconds

    async def lagging(access: Access, target: Target) -> list[ObservedRule]:
        found = list(await observe(access, target))
        return [] if world.clock.monotonic() < until else found

    monkeypatch.setattr(cloud, "observe", lagging)


async def put_unrecorded(world: World, cloud: SlowFirewalls, switches: MemorySwitches) -> tuple[Target, AccessSession]:
    """A process puts a rule and its switch, and is killed before it can record the rule."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await eventually(lambda: world.ready("staging-db") == "True", "it is ready")
        world.cluster.refuse = lambda verb: verb == "status"
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
    world.cluster.refuse = lambda _verb: False
    return group, session


async def is_moved(world: World, cloud: SlowFirewalls, switches: MemorySwitches, session: AccessSession) -> None:
    """After a restart, a longer time is told when the switch was moved there."""
    async with world.running():
        await eventually(lambda: "list" in switches.calls, "it has begun")
        world.edit(AccessSession, session.key, duration="4h")
        await throughout(kept(world, cloud, switches, session), "what was told", 120)
        assert world.status(session).expires_at == session.metadata.creation_timestamp + timedelta(hours=4)
        assert set(switches.held) == ids(world, session)


@pytest.mark.parametrize("made", ["again after a refusal", "again after a lost answer", "at a resync", "when enabled"])
@pytest.mark.parametrize("shortened", [True, False])
async def test_a_switch_is_made_for_its_label(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, made: str, shortened: bool
) -> None:
    """A label never moves earlier, and the next process takes the switch to be for it."""
    group = cloud.create("sg-0aaa")
    switches.refused = made in {"again after a refusal", "when enabled"}
    switches.lose_answers = made == "again after a lost answer"
    async with world.running(resync=RESYNC):
        world.resource()
        session = world.session(duration="5h" if shortened else "1h")
        other = session if shortened else world.session("other", duration="5h")
        await eventually(lambda: world.status(other).phase is Phase.ACTIVE, "it is open")
        await asyncio.sleep(1)
        if shortened:
            world.edit(AccessSession, session.key, duration="1h")
        else:
            world.edit(AccessSession, other.key, stop=True)
        await eventually(lambda: world.status(session).expires_at == after(hours=1), "that is told")
        if made != "when enabled":
            if made == "at a resync":
                switches.held.clear()
            switches.refused = switches.lose_answers = False
            await eventually(lambda: switches.held, "a switch", RESYNC + 10)
    switches.refused = False
    if made == "when enabled":
        switches.held.clear()
        async with world.running():
            await eventually(lambda: switches.held, "a switch")
    (label,) = (parse_mark(rule.description) for rule in cloud.rules(group).values())
    assert label is not None
    assert list(switches.held.values()) == [label.until]
    await is_moved(world, cloud, switches, session)


@pytest.mark.parametrize("killed_again", [True, False])
async def test_what_the_first_read_does_not_show(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch, killed_again: bool
) -> None:
    """Nobody knows then what is on its label."""
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
    world.edit(AccessSession, session.key, duration="5h")
    switches.calls.clear()
    switches.denied = {"move"} if killed_again else set()
    see_nothing(world, cloud, monkeypatch, READS_LAG_SECONDS / 2)
    if killed_again:
        async with world.running():
            await throughout(kept(world, cloud, switches, session), "what was told", 10)
        switches.denied = set()
    async with world.running():
        await throughout(kept(world, cloud, switches, session), "what was told", READS_LAG_SECONDS)
        assert switches.held == dict.fromkeys(ids(world, session), after(hours=5))
        assert world.status(session).expires_at == after(hours=5)


async def test_what_is_not_there_any_more_is_found_out_without_its_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """Opening waits for no switch, not even for one that cannot be moved."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
    cloud.rules(group).clear()
    world.edit(AccessSession, session.key, duration="5h")
    switches.refused = True
    async with world.running():
        await eventually(lambda: cloud.rules(group), "it is open again", 5)


async def test_one_whose_answer_was_lost_may_not_be_there(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    switches.lose_answers = True
    async with world.running():
        world.resource()
        world.session()
        await eventually(lambda: switches.held, "the call was made")
        switches.held.clear()
        switches.lose_answers = False
        await eventually(lambda: switches.held, "it is made again", 60)


async def test_one_that_cannot_be_made_holds_up_no_other(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        world.session()
        await eventually(lambda: switches.held, "a switch")
        (static,) = cloud.rules(group)
        switches.denied, switches.failure = {"arm"}, Failure.RETRY
        hopeless = world.session("hopeless", cidrs=("203.0.113.8/32",))
        await eventually(lambda: world.status(hopeless).phase is Phase.ACTIVE, "it is open")
        world.edit(ProtectedResource, resource.key, staticCIDRs=STATIC)
        await eventually(lambda: static not in switches.held, "nothing closes a static range", 10)
        switches.denied, switches.failure = ids(world, hopeless), Failure.FORBIDDEN
        another = world.session("another", cidrs=("203.0.113.9/32",))
        await eventually(lambda: switches.held.keys() == ids(world, another) != set(), "a switch", 120)


async def test_who_is_throttled_makes_no_further_call(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    switches.denied, switches.failure = {"arm"}, Failure.RETRY
    async with world.running():
        world.resource()
        sessions = [world.session(f"s-{n}", cidrs=(f"203.0.113.{n}/32",)) for n in range(10, 30)]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all are open")
        await throughout(lambda: len(switches.calls) < 15, "few calls", 60)


@pytest.mark.parametrize("denied", [{"list"}, {"move", "arm"}])
async def test_a_static_range_that_became_a_sessions_again(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, denied: set[str]
) -> None:
    """The switch that it had before may still be there, and a static label does not say for when."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
        switches.denied = {"disarm"}
        world.edit(ProtectedResource, resource.key, staticCIDRs=STATIC)
        await eventually(lambda: "disarm" in switches.calls, "it was tried")
    world.edit(ProtectedResource, resource.key, staticCIDRs=[])
    world.edit(AccessSession, session.key, duration="4h")
    switches.denied = denied
    async with world.running():
        await throughout(kept(world, cloud, switches, session), "what was told", 30)
        assert world.status(session).expires_at == after(hours=1)
        (rule,) = cloud.rules(group).values()
        assert rule.description.startswith("gatepass static ")
    switches.denied, switches.calls = set(), []
    await is_moved(world, cloud, switches, session)


async def test_a_static_range_that_becomes_a_sessions_gets_its_label_at_once(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """It has no switch, as soon as that is known."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource(staticCIDRs=STATIC)
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
    world.edit(ProtectedResource, resource.key, staticCIDRs=[])
    switches.denied = {"arm"}
    async with world.running():
        await eventually(lambda: world.at(3600) in descriptions(cloud, group)[0], "its label", 10)
        assert not switches.held
        switches.denied = set()
        await eventually(lambda: switches.held == dict.fromkeys(cloud.rules(group), after(hours=1)), "a switch", 60)


async def test_who_shares_a_static_range_is_promised_more_when_its_switch_is_gone(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
        switches.denied = {"disarm"}
        world.edit(ProtectedResource, resource.key, staticCIDRs=STATIC)
        world.edit(AccessSession, session.key, duration="4h")
        await throughout(lambda: world.status(session).expires_at == after(hours=1), "what was told", 10)
        switches.denied = set()
        await eventually(lambda: switches.held == {}, "it goes", 60)
        await eventually(lambda: world.status(session).expires_at == after(hours=4), "more is told", 10)


async def test_one_that_is_there_against_expectation_and_cannot_be_moved(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running(resync=RESYNC):
        world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
        switches.unlisted, switches.denied, switches.calls = ids(world, session), {"move"}, []
        await eventually(lambda: "move" in switches.calls, "it is found", RESYNC + 10)
        world.edit(AccessSession, session.key, duration="4h")
        await throughout(kept(world, cloud, switches, session), "what was told", 120)
        switches.denied = set()
        await eventually(lambda: world.status(session).expires_at == after(hours=4), "it is told", 300)
        assert kept(world, cloud, switches, session)()


async def test_a_group_that_is_gone_for_a_moment_loses_no_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it is not known before it was read again, though a missing switch is tried again before."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session(duration="24h")
        await eventually(lambda: switches.held, "a switch")
        switches.denied = {"arm"}
        world.session("hopeless", duration="24h", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(READS_LAG_SECONDS)
        with monkeypatch.context() as gone:
            gone.setattr(cloud, "_firewalls", {})
            world.edit(ProtectedResource, resource.key, policy={"maxConcurrentSessions": 10})
            await eventually(lambda: world.ready("staging-db") == "False", "it is gone")
        switches.denied, switches.calls = set(), []
        cloud.slow[group.id] = 200.0
        world.edit(ProtectedResource, resource.key, policy={"maxConcurrentSessions": 20})
        await throughout(lambda: ids(world, session) <= switches.held.keys(), "each has its switch", 250)
        assert "disarm" not in switches.calls
        assert "arm" in switches.calls, "it was read"


async def test_a_label_that_was_removed_comes_back_when_the_switch_was_moved(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """By a record it is ours, and so is its switch."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
    (rule,) = cloud.rules(group).values()
    cloud.rules(group)[rule.id] = replace(rule, description="")
    switches.denied = {"move"}
    world.edit(AccessSession, session.key, duration="4h")
    async with world.running():
        await throughout(kept(world, cloud, switches, session), "what was told", 30)
    switches.denied, switches.calls = set(), []
    await is_moved(world, cloud, switches, session)
    assert world.at(4 * 3600) in cloud.rules(group)[rule.id].description


@pytest.mark.parametrize("moves", [True, False])
async def test_one_of_a_rule_that_is_shown_late_and_on_nobodys_record(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """Its maker was killed before it could record the rule. What is on its label the next process believes."""
    group, session = await put_unrecorded(world, cloud, switches)
    world.edit(AccessSession, session.key, duration="5h")
    switches.denied = set() if moves else {"move"}
    see_nothing(world, cloud, monkeypatch, 5)
    async with world.running():
        await eventually(lambda: ids(world, session), "it is on record", 60)
        await throughout(lambda: moves or world.at(3600) in descriptions(cloud, group)[0], "its label", 30)
    switches.denied, switches.calls = set(), []
    await is_moved(world, cloud, switches, session)


@pytest.mark.parametrize("refused", [set(), {"move"}])
async def test_the_label_of_a_shared_rule_stays_where_it_is_while_no_read_shows_it(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch, refused: set[str]
) -> None:
    """It is for the longest that anybody was told."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        for number in range(5):
            world.session(f"it-{number}", duration=f"{1 + (number + 2) % 5}h")
        await eventually(lambda: list(switches.held.values()) == [after(hours=5)], "a switch")
        await eventually(lambda: world.at(5 * 3600) in descriptions(cloud, group)[0], "its label")
    switches.denied = refused
    see_nothing(world, cloud, monkeypatch, READS_LAG_SECONDS / 2)
    label = descriptions(cloud, group)
    async with world.running():
        await throughout(lambda: descriptions(cloud, group) == label, "its label", READS_LAG_SECONDS)


async def test_a_group_that_does_not_exist_holds_up_no_promise(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        session = world.session()
        await eventually(lambda: switches.held, "a switch", 60)
        await eventually(lambda: world.status(session).expires_at == after(hours=1), "it is told", 5)
        world.edit(AccessSession, session.key, duration="4h")
        await eventually(lambda: world.status(session).expires_at == after(hours=4), "more is told", 10)


async def test_one_that_can_be_neither_moved_nor_made_is_tried_again_soon(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: world.status(session).expires_at == after(hours=1), "it is told")
        await eventually(lambda: switches.held, "a switch")
        asked = asyncio.Event()

        async def undecided(*_: object, **__: object) -> bool:
            asked.set()
            return False

        with monkeypatch.context() as inconsistent:
            inconsistent.setattr(switches, "arm", undecided)
            world.edit(AccessSession, session.key, duration="4h")
            await asyncio.wait_for(asked.wait(), 5)
        await eventually(lambda: world.status(session).expires_at == after(hours=4), "it is told", 10)
        assert list(switches.held.values()) == [after(hours=4)]
