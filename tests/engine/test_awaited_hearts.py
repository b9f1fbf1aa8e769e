"""Hearts of runners that are not there yet: nobody misses the beats of a pod that waits for its node."""

import asyncio
from datetime import timedelta

import pytest

from gatepass.core.errors import SourceError
from gatepass.core.types.common import Key, SourceKind
from gatepass.core.types.ends import lease_name
from gatepass.core.types.session import AccessSession, EndedReason
from gatepass.engine.claims import ClaimFinder
from gatepass.engine.engine import Engine
from tests.engine.finders import HERE, POD, ScriptedFinder
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import beat
from tests.engine.test_claims import recorded
from tests.engine.test_ends import ended, live
from tests.engine.world import BIG_BANG, World, eventually, throughout

HEART = {"interval": "5s", "missed": 3}
LATER = SourceError("PodNotScheduled", "the pod has no node yet", awaited=True)
UNREAD = SourceError("PodsNotRead", "the API server gives no list", retry=True)

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


async def test_who_has_beaten_is_missed_although_its_lease_is_made_anew(world: World, finder: ScriptedFinder) -> None:
    finder.answers["it-1"] = LATER
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD, heartbeat=HEART)
        lease = Key("ci", lease_name(session.uid))
        await eventually(lambda: world.status(session).heartbeat is not None, "its Lease", 5)
        engine.ends.leases_listed({lease: None})
        await beat(world, session, engine)
        del world.cluster.leases[session.uid]
        engine.ends.lease_gone(lease)
        await eventually(lambda: session.uid in world.cluster.leases, "a new one", 2)
        await eventually(lambda: world.status(session).ended_reason is EndedReason.HEARTBEAT_LOST, "its end", 16)


async def runner(world: World, session: AccessSession, engine: Engine) -> None:
    """It beats as soon as it is told where."""
    while True:
        if world.status(session).heartbeat is not None:
            await beat(world, session, engine)
        await asyncio.sleep(2)


@pytest.mark.parametrize("slow", ["inspect", "grant", "tokens", "find"])
async def test_nobody_is_missed_before_he_is_told_where_to_beat(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, slow: str
) -> None:
    loop, kinds = asyncio.get_running_loop(), {"source": POD} if slow == "find" else {}
    cloud.slow_inspect = 20.0 if slow == "inspect" else 0.0
    cloud.slow_answer = 20.0 if slow == "grant" else 0.0
    finder.slow, finder.answers["it-1"] = 20.0 if slow == "find" else 0.0, (HERE,)
    if slow == "tokens":
        cloud.reserve = lambda _target, kinds, **_: dict.fromkeys(kinds, max(20.0 - loop.time(), 0.0))  # type: ignore[method-assign]
    async with world.running() as engine:
        world.resource()
        session = world.session(heartbeat=HEART, **kinds)
        beating = asyncio.create_task(runner(world, session, engine))
        await eventually(lambda: live(world, session), "its opening", 60)
        opened = loop.time()
        await asyncio.sleep(30)
        assert live(world, session)
        beating.cancel()
        await eventually(lambda: world.status(session).ended_reason is EndedReason.HEARTBEAT_LOST, "its end", 18)
    assert opened >= 15  # it took longer than the window


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


@pytest.mark.parametrize("how", ["it takes its time", "it cannot tell", "nobody may ask"])
async def test_a_restart_does_not_take_a_pod_that_nobody_has_found_for_one_that_runs(
    world: World, finder: ScriptedFinder, how: str
) -> None:
    finder.answers["it-1"] = LATER
    async with world.running() as engine:
        engine.ends.leases_listed({})
        world.resource()
        session = world.session(source=POD, heartbeat=HEART, duration="1h")
        await eventually(lambda: world.status(session).heartbeat is not None, "its Lease is named")
    match how:
        case "it takes its time":
            finder.slow = 25.0
        case "it cannot tell":
            finder.answers["it-1"] = UNREAD
        case "nobody may ask":
            world.cluster.allowed = lambda _who, _key: False
    async with world.running() as engine:
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): None})
        await throughout(lambda: world.status(session).ended_at is None, "it goes on", 60)


async def test_a_pod_that_could_never_be_looked_for_misses_no_beat(world: World, finder: ScriptedFinder) -> None:
    finder.answers["it-1"] = UNREAD
    async with world.running() as engine:
        engine.ends.leases_listed({})
        world.resource()
        session = world.session(source=POD, heartbeat=HEART, duration="1h")
        await throughout(lambda: world.status(session).ended_at is None, "it goes on", 60)
