"""What a pass has begun with, and what has become of it while it has asked somebody."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from gatepass.core.errors import ProviderError
from gatepass.core.ports import Access, TargetFacts
from gatepass.core.rules import Rule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Phase, Requester
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.runners import HEART, beat, live, opened
from tests.engine.test_switch_times import kept
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture(autouse=True)
def group(cloud: SlowFirewalls) -> Target:
    return cloud.create("sg-0aaa")


def ask_slowly(world: World, seconds: float) -> asyncio.Event:
    """From now on the API server takes its time to say who may use what."""
    asked = asyncio.Event()

    async def may_use(_who: Requester, _resource: Key) -> bool:
        asked.set()
        await asyncio.sleep(seconds)
        return True

    world.cluster.may_use = may_use  # type: ignore[method-assign]
    return asked


def tell_late(world: World) -> None:
    """Of a status that was written, the answer comes before the event."""
    write = world.cluster.write_session_status

    async def written(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        told, world.cluster.watchers = world.cluster.watchers, []
        try:
            after = await write(session, status)
        finally:
            world.cluster.watchers = told
        for engine in told:
            asyncio.get_running_loop().call_later(0.05, engine.seen, after)
        return after

    world.cluster.write_session_status = written  # type: ignore[method-assign]


@pytest.mark.parametrize("late", [False, True])
async def test_more_time_that_is_given_while_a_lease_is_read_is_on_the_switch_when_it_is_told(
    world: World, cloud: SlowFirewalls, switches: MemorySwitches, late: bool
) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, duration="10m", heartbeat=HEART)
        switches.slow = 2.0
        if late:
            tell_late(world)
        asked = asyncio.Event()
        renewed = world.cluster.renewed

        async def slow(of: AccessSession) -> str | None:
            asked.set()
            await asyncio.sleep(5)
            return await renewed(of)

        world.cluster.renewed = slow  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), 60)
        await beat(world, session, engine)
        world.edit(AccessSession, session.key, duration="1h")
        await throughout(kept(world, cloud, switches, session), "what was told", 14)
        assert world.status(session).expires_at == session.metadata.creation_timestamp + timedelta(hours=1)


async def test_who_is_edited_to_fit_while_he_is_asked_about_gets_in(world: World) -> None:
    async with world.running():
        world.resource(policy={"maxDuration": "1h"})
        session = world.session(duration="2h")
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "it is refused")
        asked = ask_slowly(world, 5)
        world.edit(AccessSession, session.key, duration="3h")
        await asyncio.wait_for(asked.wait(), 60)
        world.edit(AccessSession, session.key, duration="1h")
        await eventually(lambda: live(world, session), "it is open", 300)


async def leave_at_once(world: World, cloud: SlowFirewalls) -> tuple[AccessSession, Target]:
    """A session gets its rule in a group that is taken off the list before the status has named it; there is no other.

    A status is written once a second: the one that is due after the edit, and then the next.
    """
    other, full = cloud.create("sg-0bbb"), cloud.create("sg-0ccc", limit=1)
    cloud.put(full, Rule("198.51.100.9/32", "tcp", 22, 22), "by hand")
    world.resource(groups=("sg-0ccc",))
    await eventually(lambda: world.ready("staging-db"), "it is verified")
    await throughout(lambda: world.ready("staging-db"), "nothing is due", 5)
    key = Key("ci", "staging-db")
    world.cluster.writes.clear()
    world.edit(ProtectedResource, key, policy={"maxDuration": "3h"})
    await eventually(lambda: ("status", key) in world.cluster.writes, "it is told", 1)
    aws = {"region": "eu-central-1", "securityGroups": ["sg-0bbb"]}
    world.edit(ProtectedResource, key, aws=aws)
    session: AccessSession = world.session(duration="1h")
    await eventually(lambda: cloud.rules(other) and live(world, session), "it is open there", 0.3)
    world.edit(ProtectedResource, key, aws={**aws, "securityGroups": ["sg-0ccc"]})
    return session, other


async def stays_until_it_is_stopped(
    world: World, cloud: SlowFirewalls, session: AccessSession, other: Target, seconds: float = 5
) -> None:
    await throughout(lambda: cloud.rules(other) and live(world, session), "it is open", seconds)
    world.edit(AccessSession, session.key, stop=True)
    await eventually(lambda: not cloud.rules(other), "it is closed", 5)


async def test_a_group_that_was_left_before_it_was_named_keeps_what_live_sessions_have(
    world: World, cloud: SlowFirewalls
) -> None:
    async with world.running():
        session, other = await leave_at_once(world, cloud)
        await stays_until_it_is_stopped(world, cloud, session, other)


async def test_a_group_that_was_left_before_it_was_named_is_not_forgotten_by_the_next_edit(
    world: World, cloud: SlowFirewalls
) -> None:
    async with world.running():
        session, other = await leave_at_once(world, cloud)
        await throughout(lambda: live(world, session), "it is open", 0.1)
        world.edit(ProtectedResource, Key("ci", "staging-db"), policy={"maxDuration": "2h"})
        await stays_until_it_is_stopped(world, cloud, session, other)


async def test_nor_by_a_restart_before_it_was_named(world: World, cloud: SlowFirewalls) -> None:
    """What live sessions have there is on their own records."""
    async with world.running():
        session, other = await leave_at_once(world, cloud)
    named = world.cluster.get(ProtectedResource, Key("ci", "staging-db")).status.targets
    assert other.id not in {target.id for target in named}
    async with world.running():
        await stays_until_it_is_stopped(world, cloud, session, other)


async def test_nor_where_another_resource_is_verified_first(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        session, other = await leave_at_once(world, cloud)
    world.resource("another", groups=("sg-0bbb",))
    inspect = cloud.inspect

    async def slowly(access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        if "sg-0ccc" in ids:
            await asyncio.sleep(3)
        return await inspect(access, ids)

    cloud.inspect = slowly  # type: ignore[method-assign]
    await throughout(lambda: cloud.rules(other), "it is open, until reads show what was put before the start", 200)
    async with world.running():
        await stays_until_it_is_stopped(world, cloud, session, other, seconds=30)
