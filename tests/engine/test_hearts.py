"""Sessions end when their hearts stop."""

import asyncio

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.ends import lease_name
from gatepass.core.types.session import AccessSession, EndedReason
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import HEART, beat, ended, live, opened, rules
from tests.engine.world import World, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture(autouse=True)
def group(cloud: SlowFirewalls) -> Target:
    """The one that everything here is about."""
    return cloud.create("sg-0aaa")


async def test_a_runner_that_stops_ends_it_after_its_window(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        status = world.status(session)
        assert status.heartbeat is not None
        assert status.heartbeat.lease_name == f"gatepass-{session.uid}"
        world.cluster.writes.clear()
        for _ in range(20):
            await beat(world, session, engine)
            await asyncio.sleep(5)
        assert live(world, session)
        assert session.key not in {key for _, key in world.cluster.writes}, "a beat is not worth a write"
        await asyncio.sleep(9)
        assert live(world, session)
        await asyncio.sleep(2)
        ended(world, session, EndedReason.HEARTBEAT_LOST)
        told = world.status(session).heartbeat
        assert told is not None
        assert told.last_seen_at is not None, "written along with the end"
        assert not engine.ends.beating


async def test_while_the_api_server_answers_nobody_no_window_runs(world: World) -> None:
    """Also when it is back in time for the read that confirms the silence: the runner has lost its beats."""
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        await asyncio.sleep(6)
        back = asyncio.get_running_loop().time() + 3.5
        engine.ends.steady_for = lambda: max(asyncio.get_running_loop().time() - back, 0.0)
        await asyncio.sleep(18)
        assert live(world, session)
        await asyncio.sleep(1)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_beats_that_are_not_heard_count_when_they_are_read(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        for _ in range(20):
            await beat(world, session, None)
            await asyncio.sleep(5)
        assert live(world, session), "the watch is late, the runner is not"
        await asyncio.sleep(32)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


@pytest.mark.parametrize("doubled", [1, 2])
async def test_what_a_lease_said_before_is_no_beat(world: World, doubled: int) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        for _ in range(8):
            await asyncio.sleep(2)
            for _ in range(doubled):
                engine.ends.beat(Key("ci", lease_name(session.uid)), world.cluster.leases[session.uid])
        ended(world, session, EndedReason.HEARTBEAT_LOST)


@pytest.mark.parametrize("lease", [Key("web", "gatepass-{uid}"), Key("ci", "mine"), Key("ci", "gatepass-")])
async def test_a_lease_of_somebody_else_beats_for_nobody(world: World, lease: Key) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        for turn in range(16):
            engine.ends.beat(Key(lease.namespace, lease.name.format(uid=session.uid)), str(turn))
            await asyncio.sleep(1)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_after_a_restart_everybody_has_a_full_window(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
    await asyncio.sleep(3600 / 2)
    async with world.running() as engine:
        await asyncio.sleep(1)
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): world.cluster.leases[session.uid]})
        await asyncio.sleep(14)
        assert live(world, session)
        await beat(world, session, engine)
        await asyncio.sleep(14)
        assert live(world, session)
        await asyncio.sleep(2)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_after_a_gap_everybody_has_a_full_window(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        await asyncio.sleep(14)
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): world.cluster.leases[session.uid]})
        await asyncio.sleep(14)
        assert live(world, session)
        await asyncio.sleep(2)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_an_outage_of_the_api_server_ends_nobody(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat={"interval": "5s", "missed": 2})
        await beat(world, session, engine)
        world.cluster.refuse = lambda _verb: True
        await asyncio.sleep(60)  # in which the runner cannot beat either
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(5)
        await beat(world, session, engine)
        await asyncio.sleep(9)
        assert live(world, session)
        await asyncio.sleep(20)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_a_lease_that_somebody_deletes_is_made_again(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): None})
        del world.cluster.leases[session.uid]
        engine.ends.lease_gone(Key("ci", lease_name(session.uid)))
        await asyncio.sleep(1)
        assert session.uid in world.cluster.leases


async def test_a_lease_that_is_made_again_and_again_is_no_beat(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
        lease = Key("ci", lease_name(session.uid))
        engine.ends.leases_listed({lease: world.cluster.leases[session.uid]})
        for _ in range(8):
            del world.cluster.leases[session.uid]
            engine.ends.lease_gone(lease)
            await asyncio.sleep(1)
            engine.ends.beat(lease, world.cluster.leases[session.uid])  # as the watch tells of a new one
            await asyncio.sleep(1)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_no_lease_no_door(world: World) -> None:
    async with world.running():
        world.resource()
        world.cluster.refuse = lambda verb: verb == "lease"
        session = world.session(heartbeat=HEART)
        await asyncio.sleep(10)
        assert world.status(session).phase is None
        assert rules(world) == {}


async def test_the_end_of_a_heart_is_written_before_anything_is_revoked(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(40)
        assert rules(world), "its end is not on record"
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(40)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_a_lease_that_is_listed_before_its_session_is_looked_at_is_no_news_later(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        await beat(world, session, engine)
    async with world.running() as engine:
        engine.ends.leases_listed({Key("ci", lease_name(session.uid)): world.cluster.leases[session.uid]})
        await asyncio.sleep(14)
        assert live(world, session)
        await asyncio.sleep(3)
        ended(world, session, EndedReason.HEARTBEAT_LOST)


async def test_a_listing_that_comes_while_a_silent_heart_is_read(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        read = world.cluster.renewed

        async def overtaken(of: AccessSession) -> str | None:
            await beat(world, session, None)
            told = await read(of)
            engine.ends.leases_listed({Key("ci", lease_name(session.uid)): told})
            return told

        world.cluster.renewed = overtaken  # type: ignore[method-assign]
        await asyncio.sleep(20)
        assert live(world, session)


async def test_a_session_that_is_taken_away_while_its_lease_is_read_leaves_no_heart(world: World) -> None:
    async with world.running() as engine:
        session = await opened(world, engine, heartbeat=HEART)
        renewed, asked = world.cluster.renewed, asyncio.Event()

        async def late(about: AccessSession) -> str | None:
            found = await renewed(about)
            asked.set()
            await asyncio.sleep(1)
            return found

        world.cluster.renewed = late  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), 60)
        world.cluster.put(world.cluster.get(AccessSession, session.key), finalizers=())
        world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(10)
        assert not engine.ends.beating


async def test_who_gets_more_time_while_his_lease_is_read_stays_open(world: World) -> None:
    """By the deadline that the pass began with his time is up when the read is given up."""
    async with world.running() as engine:
        session = await opened(world, engine, duration="1m", heartbeat=HEART)
        asked = asyncio.Event()

        async def silent(_: AccessSession) -> str | None:
            asked.set()
            await asyncio.sleep(10)
            raise ClusterError("timed out")

        while world.clock.monotonic() < 45:
            await beat(world, session, engine)
            await asyncio.sleep(5)
        world.cluster.renewed = silent  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), 60)
        await beat(world, session, None)
        world.edit(AccessSession, session.key, duration="1h")
        await throughout(lambda: live(world, session) and rules(world), "it is open", 15)
        assert world.clock.monotonic() > 60
