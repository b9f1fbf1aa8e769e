"""What becomes otherwise while a session waits for room counts when there is room."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.core.errors import SourceError
from gatepass.core.rules import Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, Key, SourceKind
from gatepass.core.types.session import AccessSession, Phase, Requester
from gatepass.egress.pod import PodFinder
from tests.egress.test_pod import Cluster
from tests.egress.topology import NODE_IP, pod
from tests.engine.finders import HERE, POD, ScriptedFinder, open_to
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import live
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

BOB = '{"username":"bob","uid":"2","groups":["ci"]}'
NODE = NodeFacts("n-1", "kind://docker/kind/n-1", (NODE_IP,), ("203.0.113.4",))


@pytest.fixture
def group(cloud: SlowFirewalls) -> Target:
    return cloud.create("sg-0aaa", limit=1)


async def who_has_the_room(world: World) -> AccessSession:
    world.resource()
    first: AccessSession = world.session("first", cidrs=("203.0.113.50/32",))
    await eventually(lambda: live(world, first), "it is open", 5)
    return first


def waits(world: World, session: AccessSession) -> bool:
    status = world.status(session)
    return status.phase is Phase.PENDING and status.resources[0].reason == "NoRoom"


async def never_opens(world: World, cloud: SlowFirewalls, group: Target, first: AccessSession) -> None:
    """Though there is room now."""
    world.edit(AccessSession, first.key, stop=True)
    await eventually(lambda: open_to(cloud, group) == [], "there is room", 5)
    await throughout(lambda: open_to(cloud, group) == [], "nothing is open", 60)


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [({}, {"resources": [{"name": "cache"}]}), ({CHANGED_BY: BOB}, {"maxDuration": "5h"})],
    ids=["it opens less", "who has changed it may not use it"],
)
async def test_the_binding_of_its_key(
    world: World, cloud: SlowFirewalls, group: Target, annotations: Mapping[str, str], spec: Mapping[str, Any]
) -> None:
    world.cluster.allowed = lambda who, _key: who.username != "bob"
    async with world.running():
        first, binding = await who_has_the_room(world), world.binding()
        session = world.session_by(binding)
        await eventually(lambda: waits(world, session), "it waits", 10)
        world.edit(ApiKeyBinding, binding.key, annotations, **spec)
        await never_opens(world, cloud, group, first)


async def test_the_binding_of_its_key_while_somebody_is_asked(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def may_use(_who: Requester, _resource: Key) -> bool:
        asked.set()
        await answered.wait()
        return True

    async with world.running():
        world.resource()
        await eventually(lambda: world.ready("staging-db"), "it is verified")
        binding = world.binding()
        world.cluster.may_use = may_use  # type: ignore[method-assign]
        world.session_by(binding)
        await asked.wait()
        world.edit(ApiKeyBinding, binding.key, resources=[{"name": "cache"}])
        answered.set()
        await throughout(lambda: open_to(cloud, group) == [], "nothing is open", 60)


async def test_its_pod_is_gone(world: World, cloud: SlowFirewalls, group: Target, finder: ScriptedFinder) -> None:
    """Somebody else may come from its address by now."""
    async with world.running() as engine:
        first = await who_has_the_room(world)
        session = world.session(source=POD)
        await eventually(lambda: waits(world, session), "it waits", 10)
        finder.answers["it-1"] = SourceError("PodFinished", "pod runner is over")
        engine.source_changed(session.key)
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "it is told", 10)
        await never_opens(world, cloud, group, first)


async def test_nobody_can_tell_where_its_pod_is(
    world: World, cloud: SlowFirewalls, group: Target, finder: ScriptedFinder
) -> None:
    async with world.running() as engine:
        first = await who_has_the_room(world)
        session = world.session(source=POD)
        await eventually(lambda: waits(world, session), "it waits", 10)
        finder.answers["it-1"] = SourceError("PodsNotRead", "the API server does not answer", retry=True)
        engine.source_changed(session.key)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: open_to(cloud, group) == [HERE], "it is open to where it was found before", 10)


async def test_another_pod_gets_the_name_while_the_operator_restarts(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    pods = Cluster({Key("ci", "runner"): pod()}, {"n-1": NODE})

    def found_anew() -> None:
        world.finders = {SourceKind.POD: PodFinder(pods, [], world.clock.now, lambda _: True)}

    found_anew()
    async with world.running():
        first = await who_has_the_room(world)
        session = world.session(source=POD)
        await eventually(lambda: waits(world, session), "it waits", 10)
    pods.pods.clear()
    found_anew()
    async with world.running() as engine:
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "its pod is missed", 10)
        pods.pods[Key("ci", "runner")] = replace(pod(), uid="u-2")
        engine.source_changed(session.key)
        await never_opens(world, cloud, group, first)
