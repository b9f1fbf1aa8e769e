"""What was granted once stays granted while none of its rules is there: it is not asked about as if it were new."""

from collections.abc import Callable

import pytest

from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, ResourceState
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import live
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

DB = Key("ci", "staging-db")
PORT = [{"protocol": "TCP", "port": 6000}]
RESYNC_SECONDS = 60.0
READS_SHOW_IT = 150.0
"""From then on a rule that reads do not show is taken for removed."""


@pytest.fixture
def group(cloud: SlowFirewalls) -> Target:
    return cloud.create("sg-0aaa", limit=3)


async def opened(world: World) -> AccessSession:
    world.resource()
    session: AccessSession = world.session(duration="4h")
    await eventually(lambda: live(world, session), "it is open", 5)
    return session


async def loses_its_rule(world: World, cloud: SlowFirewalls, session: AccessSession, lost: Callable[[], None]) -> None:
    """For something that gets a rule put anew, and EC2 refuses to for a while; then it is open again."""
    cloud.grant_refused.add("sg-0aaa")
    lost()

    def closed() -> bool:
        entry = world.status(session).resources[0]
        return entry.state is ResourceState.PENDING and all(rule.removed_at for rule in entry.rules)

    await eventually(closed, "its rule is gone", 2 * RESYNC_SECONDS)
    await throughout(closed, "it waits for EC2", 30)
    cloud.grant_refused.clear()
    await eventually(lambda: live(world, session), "it is open again", 60)


@pytest.mark.parametrize("policy", [{"requireReason": True}, {"maxDuration": "2h"}])
async def test_bounds_of_new_sessions_are_none_of_one_whose_rule_somebody_has_removed(
    world: World, cloud: SlowFirewalls, group: Target, policy: dict[str, object]
) -> None:
    async with world.running(resync=RESYNC_SECONDS):
        session = await opened(world)
        world.edit(ProtectedResource, DB, policy=policy)
        await throughout(lambda: live(world, session), "it is open", READS_SHOW_IT)
        await loses_its_rule(world, cloud, session, cloud.rules(group).clear)


async def test_nor_of_one_whose_ports_are_exchanged(world: World, cloud: SlowFirewalls, group: Target) -> None:
    async with world.running():
        session = await opened(world)
        world.edit(ProtectedResource, DB, policy={"requireReason": True})
        await loses_its_rule(world, cloud, session, lambda: world.edit(ProtectedResource, DB, ports=PORT))
        assert [rule.rule.port for rule in cloud.rules(group).values() if rule.rule] == [6000]


async def test_nor_of_those_who_give_each_other_room(world: World, cloud: SlowFirewalls, group: Target) -> None:
    """In a full group what is there has to go before the new ports can come."""
    async with world.running():
        world.resource()
        sessions = [world.session(f"it-{n}", cidrs=(f"203.0.113.{n}/32",), duration="4h") for n in range(3)]
        await eventually(lambda: all(live(world, each) for each in sessions), "they are open", 5)
        await throughout(lambda: all(live(world, each) for each in sessions), "they are open", READS_SHOW_IT)
        world.edit(ProtectedResource, DB, policy={"requireReason": True})
        cloud.slow_answer = 0.3
        calls = cloud.calls["grant"], cloud.calls["revoke"]
        world.edit(ProtectedResource, DB, ports=PORT)

        def exchanged() -> bool:
            there = [rule.rule.port for rule in cloud.rules(group).values() if rule.rule]
            return there == [6000] * 3 and all(live(world, each) for each in sessions)

        await eventually(exchanged, "they are open at the new port", 30)
        assert (cloud.calls["grant"], cloud.calls["revoke"]) == (calls[0] + 1, calls[1] + 1)


async def test_a_deleted_resource_waits_for_it(world: World, cloud: SlowFirewalls, group: Target) -> None:
    async with world.running(resync=RESYNC_SECONDS):
        session = await opened(world)
        world.cluster.delete(ProtectedResource, DB)
        await throughout(lambda: live(world, session), "it is open", READS_SHOW_IT)
        await loses_its_rule(world, cloud, session, cloud.rules(group).clear)
        assert (ProtectedResource, DB) in world.cluster.objects


async def test_nobody_asks_again_who_it_is_after_a_restart(world: World, cloud: SlowFirewalls, group: Target) -> None:
    async with world.running():
        session = await opened(world)
    world.cluster.verified_since = world.clock.now()  # the policies were installed anew
    world.cluster.allowed = lambda _who, _key: False
    async with world.running():
        await loses_its_rule(world, cloud, session, lambda: world.edit(ProtectedResource, DB, ports=PORT))
