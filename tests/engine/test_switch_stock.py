"""Which rules have a switch is asked rarely: what is known in between, and of what a read brings late."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, TargetFacts
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.test_switch_times import after, descriptions, ids, kept, put_unrecorded, see_nothing
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_a_listing_of_before_forgets_no_switch_that_was_made_since(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that brings another rule late has the listing looked at once more."""
    await put_unrecorded(world, cloud, switches)
    see_nothing(world, cloud, monkeypatch, 10)
    switches.calls.clear()
    async with world.running():
        await eventually(lambda: "list" in switches.calls, "it is listed", 5)
        mine = world.session("mine", cidrs=("203.0.113.9/32",))
        await eventually(lambda: ids(world, mine) and ids(world, mine) <= switches.held.keys(), "its switch", 5)
        switches.denied = {"move"}
        world.edit(AccessSession, mine.key, duration="5h")
        await throughout(kept(world, cloud, switches, mine), "what was told", 60)


async def test_after_a_lost_answer_no_switch_is_moved_that_is_on_time(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    """A read brings the rule, which has nothing to do with the switches that were made since the listing."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        for number in range(20):
            world.session(f"s-{number}", cidrs=(f"203.0.113.{number}/32",))
        await eventually(lambda: len(switches.held) == 20, "their switches", 10)
        cloud.lose_answers = True
        late = world.session("late", cidrs=("203.0.113.99/32",))
        await eventually(lambda: len(cloud.rules(group)) == 21, "its rule", 5)
        cloud.lose_answers = False
        switches.calls.clear()
        await eventually(lambda: world.status(late).phase is Phase.ACTIVE, "it is open", 10)
        await eventually(lambda: len(switches.held) == 21, "its switch", 10)
        await throughout(lambda: switches.calls.count("arm") + switches.calls.count("move") == 1, "one call", 5)


async def test_a_rule_that_has_lost_its_tag_alone_may_have_a_switch(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await eventually(lambda: switches.held, "a switch")
    (rule,) = cloud.rules(group).values()
    cloud.rules(group)[rule.id] = replace(rule, owner=None)
    switches.denied = {"list"}
    async with world.running():
        await eventually(lambda: cloud.rules(group)[rule.id].owner, "it is tagged")
        world.edit(AccessSession, session.key, duration="4h")
        await throughout(kept(world, cloud, switches, session), "what was told", 30)


async def test_the_first_read_after_minutes_brings_a_rule_of_before(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a read that lags and the next one EC2 is silent."""
    group, session = await put_unrecorded(world, cloud, switches)
    world.edit(AccessSession, session.key, duration="5h")
    switches.denied = {"move"}
    see_nothing(world, cloud, monkeypatch, 5)
    cloud.calls.clear()
    async with world.running():
        await eventually(lambda: cloud.calls["observe"], "a read", 5)
        cloud.unreadable = {"sg-0aaa"}
        await throughout(lambda: not ids(world, session), "nothing is known of its rule", 125)
        cloud.unreadable = set()
        await eventually(lambda: ids(world, session), "it is on record", 60)
        await throughout(lambda: world.at(3600) in descriptions(cloud, group)[0], "its label", 30)


async def test_a_group_that_may_not_be_read_holds_up_no_promise(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.create("sg-0aaa")
    inspect = cloud.inspect

    async def denied(access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        no = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not this one")
        return {**await inspect(access, ids), "sg-0bbb": no}

    monkeypatch.setattr(cloud, "inspect", denied)
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        session = world.session()
        await eventually(lambda: switches.held, "a switch", 60)
        world.edit(AccessSession, session.key, duration="4h")
        await eventually(lambda: world.status(session).expires_at == after(hours=4), "more is told", 10)
