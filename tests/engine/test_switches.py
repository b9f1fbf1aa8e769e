"""Dead man's switches follow the rules, and nothing but a longer promise waits for them."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from gatepass.core.rules import Rule
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.world import BIG_BANG, OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


def after(**time: float) -> datetime:
    return BIG_BANG + timedelta(**time)


def missing(world: World, resource: ProtectedResource) -> Any:
    conditions = world.cluster.get(ProtectedResource, resource.key).status.conditions
    return next((c for c in conditions if c.type == "SwitchMissing"), None)


async def test_one_call_when_it_opens_and_one_when_it_closes(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        await asyncio.sleep(5)
        assert switches.calls == ["list"], "a static range has no end"
        switches.calls.clear()
        session = world.session()
        await asyncio.sleep(5)
        (id_,) = {record.id for record in world.status(session).resources[0].rules}
        assert switches.held == {id_: world.status(session).expires_at}
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        assert switches.held == {}
        assert switches.calls == ["arm", "disarm"]


async def test_nothing_is_called_while_nothing_changes(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        world.session(duration="24h")
        await asyncio.sleep(READS_LAG_SECONDS + 10)
        switches.calls.clear()
        await asyncio.sleep(580)
        assert switches.calls == []
        await asyncio.sleep(20)
        assert switches.calls == ["list"]


async def test_opening_and_closing_wait_for_no_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    switches.slow = 1000.0
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(1)
        assert world.status(session).phase is Phase.ACTIVE
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(1)
        assert world.status(session).phase is Phase.CANCELLED
        assert cloud.rules(group) == {}


async def test_a_longer_time_is_promised_only_when_the_switch_has_moved(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        switches.slow, switches.calls = 20.0, []
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.sleep(19)
        assert world.status(session).expires_at == after(hours=1)
        assert cloud.rules(group) == {rule.id: rule}
        await asyncio.sleep(5)
        assert world.status(session).expires_at == after(hours=5)
        assert world.at(5 * 3600) in cloud.rules(group)[rule.id].description
        assert switches.calls == ["move"]
        assert set(switches.held.values()) == {after(hours=5)}


async def test_who_joins_a_rule_for_longer_is_promised_the_rest_when_its_switch_has_moved(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        world.session()
        await asyncio.sleep(5)
        switches.slow, switches.calls = 20.0, []
        longer = world.session("longer", duration="5h")
        await asyncio.sleep(5)
        assert world.status(longer).phase is Phase.ACTIVE, "it opens at once"
        assert world.status(longer).expires_at == after(hours=1)
        await asyncio.sleep(20)
        assert world.status(longer).expires_at == after(hours=5, seconds=5)
        assert switches.calls == ["move"]
        assert len(cloud.rules(group)) == 1


async def test_who_is_extended_while_a_switch_is_made(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """Killed then, the next process would take the switch to be for the time of the description."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        switches.slow = 20.0
        session = world.session()
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert world.at(3600 + 5) in rule.description
        await asyncio.sleep(60)
        assert set(switches.held.values()) == {after(hours=5, seconds=5)}
        assert world.at(5 * 3600 + 5) in cloud.rules(group)[rule.id].description


async def test_what_scheduler_refuses_is_told_and_tried_again(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    switches.refused = True
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(30)
        assert world.status(session).phase is Phase.ACTIVE
        assert "scheduler refuses" in missing(world, resource).message
        assert len(switches.calls) < 10
        world.edit(AccessSession, session.key, duration="2h")
        await asyncio.sleep(5)
        assert world.status(session).expires_at == after(hours=2), "no switch is there that could close too early"
        switches.refused = False
        await asyncio.sleep(120)
        assert missing(world, resource) is None
        assert set(switches.held.values()) == {after(hours=2)}


async def test_a_move_that_is_refused_keeps_the_old_promise(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        switches.refused = True
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.sleep(60)
        assert world.status(session).expires_at == after(hours=1)
        assert missing(world, resource) is not None
        switches.refused = False
        await asyncio.sleep(120)
        assert world.status(session).expires_at == after(hours=5)
        assert missing(world, resource) is None


async def test_a_lost_answer_may_have_armed_it(world: World, cloud: SlowFirewalls, switches: MemorySwitches) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        switches.lose_answers = True
        session = world.session()
        await asyncio.sleep(0.3)
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.sleep(0.1)
        assert world.status(session).expires_at == after(hours=1, seconds=5)
        switches.lose_answers = False
        await asyncio.sleep(10)
        assert world.status(session).expires_at == after(hours=5, seconds=5)
        assert set(switches.held.values()) == {after(hours=5, seconds=5)}


async def test_after_a_restart_only_missing_ones_are_added(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        kept, torn = world.session("kept"), world.session("torn", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
    del switches.held[world.status(torn).resources[0].rules[0].id]
    switches.calls.clear()
    async with world.running():
        await asyncio.sleep(60)
        assert switches.calls == ["list", "arm"]
        assert switches.held[world.status(kept).resources[0].rules[0].id] == world.status(kept).expires_at
        assert len(switches.held) == 2


async def test_missing_ones_are_added_at_a_resync(world: World, cloud: SlowFirewalls, switches: MemorySwitches) -> None:
    cloud.create("sg-0aaa")
    async with world.running(resync=50):
        world.resource()
        world.session()
        await asyncio.sleep(5)
        switches.held.clear()
        await asyncio.sleep(50)
        assert len(switches.held) == 1


async def test_a_switch_is_moved_for_who_was_extended_while_nobody_watched(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
    world.edit(AccessSession, session.key, duration="5h")
    switches.calls.clear()
    switches.slow = 10.0
    async with world.running():
        await asyncio.sleep(15)
        assert world.status(session).expires_at == after(hours=1), "it was not moved yet"
        await asyncio.sleep(60)
        assert switches.calls == ["list", "move"]
        assert set(switches.held.values()) == {after(hours=5)}
        assert world.status(session).expires_at == after(hours=5)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_rule_that_becomes_static_loses_its_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, killed: bool
) -> None:
    """Also where the operator was killed before it could take it away."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        world.session()
        await eventually(lambda: len(switches.held) == 1, "a switch", 5)
        switches.refused = killed
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": "203.0.113.7/32"}])
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert rule.description.startswith("gatepass static ")
        assert list(switches.held) == ([rule.id] if killed else [])
    switches.refused = False
    async with world.running():
        await eventually(lambda: switches.held == {}, "its end", 5)
        assert list(cloud.rules(group)) == [rule.id]


async def test_a_rule_that_cannot_be_revoked_keeps_its_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        cloud.revoke_refused = True
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(60)
        assert set(switches.held.values()) == {after(hours=1)}
        cloud.revoke_refused = False
        await asyncio.sleep(300)
        assert switches.held == {}


async def test_a_rule_that_somebody_else_has_made_gets_no_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """It stands for ours too, with an id that both use by mistake, and he may keep it for longer."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        rule = Rule("203.0.113.7/32", "tcp", 5432, 5432)
        theirs = cloud.put(
            group, rule, f"gatepass until={world.at(7200)} for=ci/staging-db", OWNER, f"another/{world.at(0)}"
        )
        session = world.session(cidrs=("203.0.113.7/32",))
        await asyncio.sleep(20)
        assert {record.id for record in world.status(session).resources[0].rules} == {theirs}
        assert switches.calls == ["list"]
        assert world.status(session).expires_at == after(seconds=5, hours=1)
