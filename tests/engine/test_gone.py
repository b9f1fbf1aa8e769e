"""EC2 takes all revocations of a call or none: what is gone may not hold up what is there."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatepass.core.ports import Access, RevokeOutcome
from gatepass.core.rules import ObservedRule, Target
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import sources
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

NUMBER = 5


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


@pytest.mark.parametrize("recorded", [True, False])
async def test_what_another_tool_has_removed_before_a_start_holds_up_none_that_is_there(
    world: World, cloud: PacedFirewalls, recorded: bool
) -> None:
    """One call after the other it would take as many of them as are gone."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        sessions = [world.session(f"it-{number}", cidrs=(f"198.51.100.{number}/32",)) for number in range(NUMBER)]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all are open")
        gone = list(cloud.rules(group))
        if not recorded:
            world.cluster.refuse = lambda verb: verb == "status"
        sessions.append(world.session("there", cidrs=("203.0.113.8/32",)))
        await eventually(lambda: len(cloud.rules(group)) == NUMBER + 1, "and the last", 5)
        await eventually(lambda: not recorded or world.status(sessions[-1]).phase is Phase.ACTIVE, "it is told", 5)
    world.cluster.refuse = lambda _verb: False
    for id_ in gone:
        del cloud.rules(group)[id_]
    for each in sessions:
        world.edit(AccessSession, each.key, stop=True)
    cloud.slow_revoke = 1.0
    began = asyncio.get_running_loop().time()
    async with world.running():
        await eventually(lambda: cloud.sent_since("revokes", began), "the first call", 5)
        await eventually(lambda: not cloud.rules(group), "it is closed", 1.5)
        await eventually(lambda: all(world.status(each).phase is Phase.CANCELLED for each in sessions), "all end", 200)


class Lagging(PacedFirewalls):
    """Reads do not show the rule of one address, and EC2's client library has a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = self.defect = ""

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        return [rule for rule in await super().observe(access, target) if rule.id != self.hidden]

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], **given: Any
    ) -> Mapping[str, RevokeOutcome]:
        if self.defect in ids:
            self.defect = ""
            raise RuntimeError("can't start new thread")
        return await super().revoke(access, target, ids, **given)


async def hidden(world: World, cloud: Lagging, others: int) -> tuple[Target, AccessSession, list[AccessSession]]:
    """A group, a session whose rule the next process will not see, and others whose rules it will."""
    world.firewalls, group = cloud, cloud.create("sg-0aaa", limit=1000)
    async with world.running():
        world.resource()
        unseen = world.session("unseen", cidrs=("203.0.113.8/32",), duration="24h")
        await eventually(lambda: world.status(unseen).phase is Phase.ACTIVE, "it opens")
        (cloud.hidden,) = cloud.rules(group)
        seen = [world.session(f"s-{n}", cidrs=(f"198.51.100.{n}/32",), duration="24h") for n in range(others)]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in seen), "all open", 60)
    world.edit(AccessSession, unseen.key, stop=True)
    return group, unseen, seen


async def test_while_calls_are_scarce_what_no_read_shows_waits_for_none_that_come_after(world: World) -> None:
    cloud = Lagging()
    group, _, seen = await hidden(world, cloud, 50)
    with cloud.contended("revokes", 1.0):
        async with world.running():
            for each in seen[:20]:
                world.edit(AccessSession, each.key, stop=True)
                await asyncio.sleep(0.4)
            assert cloud.hidden not in cloud.rules(group)


async def test_no_call_outlives_its_pass_whatever_becomes_of_the_others(world: World) -> None:
    """Who came meanwhile would be told that he is open, and the call would close him."""
    cloud = Lagging()
    group, _, (ends,) = await hidden(world, cloud, 1)
    world.edit(AccessSession, ends.key, stop=True)
    cloud.defect, cloud.slow_revoke, began = cloud.hidden, 5.0, asyncio.get_running_loop().time()
    async with world.running():
        await eventually(lambda: cloud.sent_since("revokes", began), "a call", 5)
        cloud.slow_revoke = 0.0
        again = world.session("again", cidrs=("198.51.100.0/32",))
        await eventually(lambda: world.status(again).phase is Phase.ACTIVE, "it opens", 20)
        await throughout(lambda: len(sources(cloud, group)) == 1, "it is open", 30)
