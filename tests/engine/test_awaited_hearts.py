"""Hearts of runners that are not there yet: nobody misses the beats of a pod that waits for its node."""

import asyncio
from datetime import timedelta

import pytest

from gatepass.core.errors import SourceError
from gatepass.core.types.common import Key, SourceKind
from gatepass.core.types.ends import lease_name
from gatepass.core.types.session import EndedReason
from gatepass.engine.claims import ClaimFinder
from tests.engine.finders import HERE, POD, ScriptedFinder
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import beat
from tests.engine.test_claims import recorded
from tests.engine.test_ends import ended, live
from tests.engine.world import BIG_BANG, World, eventually

HEART = {"interval": "5s", "missed": 3}
LATER = SourceError("PodNotScheduled", "the pod has no node yet", awaited=True)

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture(autouse=True)
def finder(world: World, cloud: SlowFirewalls) -> ScriptedFinder:
    """Where the pod is."""
    cloud.create("sg-0aaa")
    found = ScriptedFinder()
    world.finders = {SourceKind.POD: found, SourceKind.CLAIM: ClaimFinder(world.cluster, "https://gatepass.example")}
    return found


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_pod_that_is_scheduled_late_has_a_full_window(
    world: World, finder: ScriptedFinder, restarted: bool
) -> None:
    finder.answers["it-1"] = LATER
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD, heartbeat=HEART)
        await asyncio.sleep(60)
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): None})
        await asyncio.sleep(60)
        assert world.status(session).ended_at is None
        if not restarted:
            finder.answers["it-1"] = (HERE,)
            engine.source_changed(session.key)
            await asyncio.sleep(14)
            assert live(world, session)
            await asyncio.sleep(2)
            ended(world, session, EndedReason.HEARTBEAT_LOST)
            return
    async with world.running() as engine:
        await asyncio.sleep(60)
        assert world.status(session).ended_at is None
        finder.answers["it-1"] = (HERE,)
        engine.source_changed(session.key)
        await asyncio.sleep(14)
        assert live(world, session)
        await asyncio.sleep(2)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_has_beaten_is_missed_also_while_its_pod_is_awaited(
    world: World, finder: ScriptedFinder, restarted: bool
) -> None:
    finder.answers["it-1"] = LATER
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD, heartbeat=HEART)
        lease = Key("ci", lease_name(session.uid))
        await asyncio.sleep(60)
        engine.ends.leases_listed({lease: None})
        await beat(world, session, engine)
        await asyncio.sleep(14)
        assert world.status(session).ended_at is None
        if not restarted:
            await eventually(lambda: world.status(session).ended_reason is EndedReason.HEARTBEAT_LOST, "its end", 2)
            return
    async with world.running() as engine:
        await asyncio.sleep(1)
        engine.ends.leases_listed({lease: world.cluster.leases[session.uid]})
        await eventually(lambda: world.status(session).ended_reason is EndedReason.HEARTBEAT_LOST, "its end", 16)


async def test_who_claims_late_has_a_full_window(world: World) -> None:
    async with world.running():
        world.resource()
        session = world.session(source={"claim": {"within": "5m"}}, heartbeat=HEART)
        await asyncio.sleep(120)
        recorded(world, session, HERE)
        await asyncio.sleep(14)
        assert live(world, session)
        await asyncio.sleep(2)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_a_claim_that_nobody_makes_ends_for_that(world: World) -> None:
    async with world.running():
        world.resource()
        session = world.session(source={"claim": {"within": "1m"}}, heartbeat=HEART)
        await asyncio.sleep(65)
        status = world.status(session)
        assert (status.ended_reason, status.ended_at) == (EndedReason.UNCLAIMED, BIG_BANG + timedelta(minutes=1))


async def test_a_source_that_is_lost_once_it_was_open_excuses_nobody(world: World, finder: ScriptedFinder) -> None:
    finder.answers["it-1"] = (HERE,)
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD, heartbeat=HEART)
        await asyncio.sleep(5)
        assert live(world, session)
        finder.answers["it-1"] = LATER
        engine.source_changed(session.key)
        await asyncio.sleep(12)
        ended(world, session, EndedReason.HEARTBEAT_LOST)
