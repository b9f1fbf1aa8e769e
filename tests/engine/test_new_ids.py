"""EC2 does not know a new id everywhere at once: a rule is gone when it cannot be that, and not before."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Gone, RelabelOutcome
from gatepass.core.rules import Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import several
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


class Young(PacedFirewalls):
    """EC2 sets no label under an id that it does not know."""

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        known = {id_: text for id_, text in descriptions.items() if id_ not in self.unknown}
        gone = dict.fromkeys(descriptions.keys() & self.unknown, Gone())
        return {**await super().relabel(access, target, known), **gone}


@pytest.fixture
def cloud() -> Young:
    return Young()


async def stop_while_unknown(world: World, cloud: PacedFirewalls, session: AccessSession) -> None:
    """It ends, and for three seconds EC2 knows no id of what is there."""
    (group,) = (each for each in cloud._firewalls.values())
    cloud.unknown = set(group.rules)
    world.edit(AccessSession, session.key, stop=True)
    await asyncio.sleep(3)
    cloud.unknown.clear()
    await eventually(lambda: not group.rules, "it closes", 10)


@pytest.mark.parametrize("relabelled", [True, False])
@pytest.mark.parametrize("age", [4, 40])
async def test_a_rule_whose_grant_had_no_answer_is_as_new(
    world: World, cloud: PacedFirewalls, age: float, relabelled: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, ["staging-db"])
        await asyncio.sleep(150)
        cloud.lose_answers = True
        session = world.session()
        await eventually(lambda: cloud.rules(group), "it is put", 1)
        cloud.lose_answers = False
        await asyncio.sleep(3)
        if relabelled:
            world.edit(AccessSession, session.key, duration="3h")
        await asyncio.sleep(age - 3)
        await stop_while_unknown(world, cloud, session)


async def test_a_rule_that_was_labelled_a_moment_ago_is_there(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, ["staging-db"])
        await asyncio.sleep(150)
        session = world.session()
        await asyncio.sleep(130)
        world.edit(AccessSession, session.key, duration="3h")
        await asyncio.sleep(2)
        await stop_while_unknown(world, cloud, session)


@pytest.mark.parametrize("rules", [1, 2])
async def test_what_a_predecessor_put_a_moment_ago_is_there(world: World, cloud: PacedFirewalls, rules: int) -> None:
    """A successor proves it by its label."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        world.resource()
        await asyncio.sleep(150)
        world.cluster.refuse = lambda verb: verb == "status"
        session = world.session(cidrs=tuple(f"203.0.113.{number}/32" for number in range(rules)))
        await eventually(lambda: len(cloud.rules(group)) == rules, "it is put", 5)
        await asyncio.sleep(0.5)
    cloud.unknown = set(list(cloud.rules(group))[:1])
    world.cluster.refuse = lambda _verb: False
    async with world.running(resync=600):
        await asyncio.sleep(3)
        cloud.unknown.clear()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is told", 17)
        for _ in range(200):
            await asyncio.sleep(1)
            assert world.status(session).phase is Phase.ACTIVE


async def opened_by_a_predecessor(world: World) -> AccessSession:
    """A session that is open and on record, by a process that has just ended."""
    async with world.running(resync=36000):
        world.resource()
        await asyncio.sleep(150)
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 3)
    return session


async def test_what_was_put_on_record_a_moment_ago_is_there_though_reads_lag_too(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    session = await opened_by_a_predecessor(world)
    cloud.unknown, cloud.blind = set(cloud.rules(group)), True
    async with world.running(resync=36000):
        await asyncio.sleep(2)
        world.edit(AccessSession, session.key, stop=True)
        await throughout(lambda: world.status(session).phase is not Phase.CANCELLED, "it is not over", 6)
        cloud.unknown, cloud.blind = set(), False
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it closes", 10)
        assert not cloud.rules(group)


async def test_a_rule_in_a_new_group_that_one_answer_misses_is_closed(world: World, cloud: Young) -> None:
    """EC2 knows the group, and then for a moment it does not; reads lag besides."""
    group, inspect = cloud.create("sg-0aaa"), cloud.inspect

    async def miss(_access: Access, ids: Sequence[str]) -> Any:
        return {each: ProviderError(Failure.NOT_FOUND, "TargetNotFound", "not there yet") for each in ids}

    async with world.running(resync=36_000):
        resource = world.resource()
        await asyncio.sleep(150)
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
        cloud.inspect, cloud.blind = miss, True  # type: ignore[method-assign]
        world.edit(ProtectedResource, resource.key, policy={"maxDuration": "2h"})
        await asyncio.sleep(0.1)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(0.3)
        cloud.inspect = inspect  # type: ignore[method-assign]
        await asyncio.sleep(5)
        cloud.blind = False
        await eventually(lambda: not cloud.rules(group), "it closes", 130)
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is over", 5)
