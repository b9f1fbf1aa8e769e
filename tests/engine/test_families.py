"""Answers that say nothing of one IP family: what is known of it stands."""

import asyncio
from dataclasses import replace

import pytest

from gatepass.core.errors import PartlyFoundError
from gatepass.core.rules import Target
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.finders import HERE, POD, SIX, THERE, ScriptedFinder, condition, open_to, says, seen
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


def partly(*ips: str) -> PartlyFoundError:
    """Of the other family nobody can tell."""
    return PartlyFoundError("EchoDisagrees", "no two agree on it", retry=True, addresses=tuple(map(seen, ips)))


async def opened_for_both(world: World, finder: ScriptedFinder, *, follows: bool) -> AccessSession:
    """A session that has an address of each family."""
    finder.answers["it-1"] = (HERE, SIX)
    world.resource(policy={"followAddressChanges": follows})
    session = world.session(source=POD)
    await asyncio.sleep(5)
    return session


@pytest.mark.parametrize("sure", [HERE, SIX])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("follows", [False, True])
async def test_what_is_on_record_of_it_stands_and_that_is_told(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, sure: str, restarted: bool, follows: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        session = await opened_for_both(world, finder, follows=follows)
        before = set(cloud.rules(group))
        finder.answers["it-1"] = partly(sure)
        if not restarted:
            engine.source_changed(session.key)
            await keeps(world, cloud, group, session)
    async with world.running():
        await keeps(world, cloud, group, session)
        finder.answers["it-1"] = (HERE, SIX)
        await asyncio.sleep(300)
        says(world.status(session), "SourceResolved", "True", "Found", HERE, SIX)
        assert set(cloud.rules(group)) == before


async def keeps(world: World, cloud: SlowFirewalls, group: Target, session: AccessSession) -> None:
    """Both rules stay, and who reads the status is told why."""
    before = set(cloud.rules(group))
    for _ in range(120):
        await asyncio.sleep(1)
        assert set(cloud.rules(group)) == before
    status = world.status(session)
    assert (status.phase, status.address) == (Phase.ACTIVE, f"{HERE}, {SIX}")
    says(status, "SourceResolved", "True", "FoundBefore", HERE, SIX, "looking again failed: no two agree on it")
    assert condition(status, "SourceChanged") is None


async def test_the_other_family_moves_alone(world: World, cloud: SlowFirewalls, finder: ScriptedFinder) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        session = await opened_for_both(world, finder, follows=True)
        finder.answers["it-1"] = partly(THERE)
        engine.source_changed(session.key)
        await throughout(lambda: SIX in open_to(cloud, group), "it stays open", 10)
        assert open_to(cloud, group) == [SIX, THERE]
        says(world.status(session), "SourceResolved", "True", "FoundBefore", THERE, SIX)


async def test_who_waits_for_room_waits_with_both(world: World, cloud: SlowFirewalls, finder: ScriptedFinder) -> None:
    group = cloud.create("sg-0aaa", limit=1)
    finder.answers["it-1"] = (HERE, SIX)
    async with world.running() as engine:
        world.resource()
        world.session("before", cidrs=(f"{THERE}/32",), duration="2m")
        await asyncio.sleep(5)
        session = world.session(source=POD)
        await asyncio.sleep(5)
        finder.answers["it-1"] = partly(HERE)
        engine.source_changed(session.key)
        await asyncio.sleep(180)
        assert open_to(cloud, group) == [SIX, HERE]
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_family_of_which_nothing_ever_was_holds_nobody_up(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = partly(HERE)
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == [HERE]
        says(world.status(session), "SourceResolved", "True", "Found", HERE)
        await asyncio.sleep(300)
        assert len(finder.asked) <= 3, "once, and at the looks that every start has"


async def test_a_family_that_somebody_has_answered_over_is_waited_for(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    """Open to half of its traffic, a job would hang, and which half nobody would tell."""
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = replace(partly(SIX), heard=True)
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(10)
        assert open_to(cloud, group) == []
        says(world.status(session), "SourceResolved", "False", "EchoDisagrees", "no two agree on it")
        finder.answers["it-1"] = (HERE, SIX)
        await asyncio.sleep(20)
        assert open_to(cloud, group) == [HERE, SIX] or open_to(cloud, group) == [SIX, HERE]
        says(world.status(session), "SourceResolved", "True", "Found", HERE, SIX)


async def test_a_part_is_bounded_as_a_whole_is(world: World, cloud: SlowFirewalls, finder: ScriptedFinder) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = partly(*(f"203.0.113.{n}" for n in range(65)))
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(10)
        status = world.status(session)
        assert (status.phase, status.resources[0].reason) == (Phase.FAILED, "TooManyAddresses")
        assert open_to(cloud, group) == []
