"""What becomes otherwise while a session waits for room counts when there is room."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.core.errors import SourceError
from gatepass.core.ports import ClusterError
from gatepass.core.rules import Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, Key, SourceKind
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, Requester, ResourceState
from gatepass.egress.pod import PodFinder
from gatepass.engine.admission import ASK_AGAIN_SECONDS
from tests.egress.test_pod import Cluster
from tests.egress.topology import NODE_IP, pod
from tests.engine.finders import HERE, POD, ScriptedFinder, open_to
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import live
from tests.engine.test_following import beat
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

BOB = '{"username":"bob","uid":"2","groups":["ci"]}'
DB = Key("ci", "staging-db")
NODE = NodeFacts("n-1", "kind://docker/kind/n-1", (NODE_IP,), ("203.0.113.4",))


@pytest.fixture
def group(cloud: SlowFirewalls) -> Target:
    return cloud.create("sg-0aaa", limit=1)


async def who_has_the_room(world: World) -> AccessSession:
    world.resource()
    first: AccessSession = world.session("first", cidrs=("203.0.113.50/32",))
    await eventually(lambda: live(world, first), "it is open", 5)
    return first


def condition(world: World, session: AccessSession, kind: str) -> bool:
    return any(each.type == kind for each in world.status(session).conditions)


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


async def test_who_is_not_followed_is_not_let_in_from_elsewhere_by_another_edit(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    async with world.running():
        first, binding = await who_has_the_room(world), world.binding()
        session = world.session_by(binding, duration="4h")
        await eventually(lambda: waits(world, session), "it waits", 10)
        called_from = world.status(session).address
        beat(world, session, "203.0.113.99")
        await eventually(lambda: condition(world, session, "SourceChanged"), "it is told", 10)
        world.edit(ProtectedResource, DB, policy={"maxDuration": "5h"})
        await throughout(lambda: waits(world, session), "it waits, also when the edit has come to it", 5)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: open_to(cloud, group) == [called_from], "it is open to where it has called from", 10)


async def test_what_could_not_be_asked_takes_nothing_away(world: World, cloud: SlowFirewalls, group: Target) -> None:
    """A resource that the session has is withdrawn while nobody says whether it may use the one that it waits for."""
    other, silent = cloud.create("sg-0bbb"), False

    async def may_use(_who: Requester, resource: Key) -> bool:
        if silent and resource == DB:
            raise ClusterError("etcdserver: request timed out")
        return True

    world.cluster.may_use = may_use  # type: ignore[method-assign]
    async with world.running():
        await who_has_the_room(world)
        wide = {"minPrefixLength": {"ipv4": 28}}
        world.edit(ProtectedResource, DB, policy=wide)
        world.resource("other", groups=("sg-0bbb",), policy=wide)
        both = ({"name": "staging-db"}, {"name": "other"})
        session = world.session(cidrs=("198.51.100.0/28",), duration="4h", resources=both)

        def states() -> list[ResourceState]:
            return [each.state for each in world.status(session).resources]

        await eventually(lambda: states() == [ResourceState.WAITING, ResourceState.APPLIED], "it waits for one", 10)
        silent = True
        await throughout(lambda: world.status(session).ended_at is None, "it goes on", 2 * ASK_AGAIN_SECONDS)
        world.edit(ProtectedResource, Key("ci", "other"), policy={})
        await eventually(lambda: not cloud.rules(other), "the other is withdrawn", 30)
        silent = False
        await throughout(lambda: world.status(session).ended_at is None, "it goes on", 60)
        assert states() == [ResourceState.WAITING, ResourceState.FAILED]
