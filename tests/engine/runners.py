"""Sessions with runners: what they are bound to, and hearts."""

import asyncio
from collections.abc import Mapping
from typing import Any

from gatepass.core.owners import Kind, Sighting
from gatepass.core.rules import ObservedRule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.ends import lease_name
from gatepass.core.types.session import AccessSession, EndedReason, Phase
from gatepass.engine.engine import Engine
from tests.engine.world import World

JOB = Kind("batch/v1", "Job")
IT = Key("ci", "it")
BOUND = {"apiVersion": "batch/v1", "kind": "Job", "name": "it"}
RUNNING = Sighting("uid-1", finished=False)
HEART = {"interval": "5s", "missed": 3}


def listed(engine: Engine, objects: Mapping[Key, Sighting]) -> None:
    """A full listing that begins now."""
    engine.ends.listed(JOB, objects, asyncio.get_running_loop().time())


async def answer_doubts(engine: Engine, objects: Mapping[Key, Sighting]) -> None:
    """List whenever it is asked for, as whoever follows does."""
    while True:
        await engine.ends.changed.wait()
        engine.ends.changed.clear()
        if JOB in engine.ends.doubted():
            listed(engine, objects)


async def opened(world: World, engine: Engine, **given: Any) -> AccessSession:
    """A session that is Active, whose Job runs if it has one."""
    world.resource()
    session = world.session(**given)
    await asyncio.sleep(1)
    if "boundTo" in given:
        listed(engine, {IT: RUNNING})
        await asyncio.sleep(1)
    assert world.status(session).phase is Phase.ACTIVE
    return session


def ended(world: World, session: AccessSession, reason: EndedReason) -> None:
    """It is closed, for this reason, and nothing is left open."""
    status = world.status(session)
    assert status.ended_reason is reason
    assert status.phase in (Phase.CANCELLED, Phase.EXPIRED)
    assert rules(world) == {}


def rules(world: World) -> Mapping[str, ObservedRule]:
    """What the firewall holds."""
    return world.firewalls.rules(Target("aws", "123456789012", "eu-central-1", "sg-0aaa"))


def live(world: World, session: AccessSession) -> bool:
    """Is it open?"""
    return world.status(session).phase is Phase.ACTIVE


async def beat(world: World, session: AccessSession, engine: Engine | None) -> None:
    """The runner renews its Lease; `engine` hears of it, or nobody."""
    renewed = f"{asyncio.get_running_loop().time()}"
    world.cluster.leases[session.uid] = renewed
    if engine is not None:
        engine.ends.beat(Key("ci", lease_name(session.uid)), renewed)
