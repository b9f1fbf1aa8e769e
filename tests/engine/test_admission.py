"""A yes of admission is asked for again while a session waits, and is never older than that."""

import asyncio

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, Phase, Requester
from gatepass.engine.admission import ASK_AGAIN_SECONDS
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def silent(_who: Requester, _key: Key) -> bool:
    raise ClusterError("no answer")


async def one_open_and_one_waiting(world: World) -> tuple[AccessSession, AccessSession]:
    """On a group that has room for one."""
    world.resource()
    first = world.session()
    await eventually(lambda: world.status(first).phase is Phase.ACTIVE, "the first is open")
    second = world.session("second", cidrs=("203.0.113.8/32",))
    await eventually(lambda: world.status(second).phase is Phase.PENDING, "the second waits")
    return first, second


async def test_a_right_that_is_taken_away_while_a_session_waits_opens_nothing(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa", limit=1)
    async with world.running():
        first, second = await one_open_and_one_waiting(world)
        world.cluster.allowed = lambda _who, _key: False
        await asyncio.sleep(ASK_AGAIN_SECONDS + 1)
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        assert world.status(second).resources[0].reason == "NotAuthorized"
        world.cluster.allowed = lambda _who, _key: True
        await eventually(lambda: world.status(second).phase is Phase.ACTIVE, "it is given back", 310)


async def test_what_nobody_can_ask_about_any_more_opens_nothing_by_an_old_answer(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa", limit=1)

    async with world.running():
        first, second = await one_open_and_one_waiting(world)
        answering, world.cluster.may_use = world.cluster.may_use, silent  # type: ignore[method-assign]
        await asyncio.sleep(2 * ASK_AGAIN_SECONDS)
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        world.cluster.may_use = answering  # type: ignore[method-assign]
        await eventually(lambda: world.status(second).phase is Phase.ACTIVE, "it opens", ASK_AGAIN_SECONDS + 1)


async def test_what_is_being_opened_is_told_though_nobody_can_ask_again(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    cloud.slow_answer = ASK_AGAIN_SECONDS + 5

    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(1)
        world.cluster.may_use = silent  # type: ignore[method-assign]
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is told", ASK_AGAIN_SECONDS + 10)


async def test_what_nobody_can_ask_about_any_more_keeps_nothing_open(world: World, cloud: SlowFirewalls) -> None:
    """Of two from one address one is open and one waits; a successor has asked once for the one that waits."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"maxConcurrentSessions": 1})
        first = world.session()
        await asyncio.sleep(2)
        world.session("second")
        await asyncio.sleep(2)
    async with world.running():
        await asyncio.sleep(READS_LAG_SECONDS + 80)
        world.cluster.may_use = silent  # type: ignore[method-assign]
        await asyncio.sleep(ASK_AGAIN_SECONDS + 10)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 2)
