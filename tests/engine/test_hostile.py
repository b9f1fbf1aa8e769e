"""What a tenant makes in his own namespace neither holds another's doors open nor fills our memory."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gatepass.core.ports import ConflictError, SecretSeen
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.core.builders import a_resource
from tests.engine.firewalls import MemorySwitches, SlowFirewalls
from tests.engine.test_sweeper import force_delete
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

UNANSWERED = {"boundTo": {"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "name": "x"}}
UNLEASED = {"heartbeat": {"interval": "30s", "missed": 3}}


async def opened(world: World) -> AccessSession:
    """The victim, who has ten minutes."""
    world.resource()
    session = world.session(duration="10m")
    await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
    return session


def grab(world: World, secret: str, name: str = "grab", groups: Sequence[str] = ("sg-0aaa",)) -> None:
    """Somebody else's group named in a namespace that has no credentials for it, and the address of his session."""
    aws = {"region": "eu-central-1", "securityGroups": groups, "credentials": {"secretRef": {"name": secret}}}
    statics = [{"cidr": "203.0.113.7/32"}]
    held = {"finalizers": [FINALIZER]}
    world.cluster.put(a_resource(name, namespace="evil", metadata=held, aws=aws, staticCIDRs=statics))


def changing(world: World) -> None:
    """He changes his Secrets all the time, so that they are never held."""
    hold_secret = world.cluster.hold_secret

    async def hold(namespace: str, name: str) -> SecretSeen | None:
        if namespace == "evil":
            raise ConflictError("the Secret has been modified")
        return await hold_secret(namespace, name)

    world.cluster.hold_secret = hold  # type: ignore[method-assign]


@pytest.mark.parametrize("hold", [UNANSWERED, UNLEASED], ids=["unanswered", "unleased"])
@pytest.mark.parametrize("at", [Key("evil", "grab"), Key("ci", "staging-db")], ids=str)
async def test_who_is_never_decided_on_holds_no_rule_open(
    world: World, cloud: SlowFirewalls, hold: dict[str, Any], at: Key
) -> None:
    """A session at the same address that began before the start: a predecessor may have put it, and told nobody.

    But not with a resource that has never shown that its credentials lead anywhere.
    """
    group = cloud.create("sg-0aaa")
    cloud.missing = {("evil", "none")}
    async with world.running():
        session = await opened(world)
        grab(world, "none")
        world.cluster.refuse = lambda verb: verb == "lease"
        world.session("hold", namespace=at.namespace, duration="24h", resources=[{"name": at.name}], **hold)
        await asyncio.sleep(540 if at.namespace == "evil" else 60)
    async with world.running():
        await eventually(lambda: asyncio.get_running_loop().time() > 603, "its time is up", 600)
        assert (cloud.rules(group), world.status(session).phase) == ({}, Phase.EXPIRED)


@pytest.mark.parametrize("how", ["once", "again and again"])
async def test_who_is_never_verified_holds_no_rule_open(world: World, cloud: SlowFirewalls, how: str) -> None:
    group = cloud.create("sg-0aaa")
    changing(world)
    async with world.running():
        world.resource()
        session = world.session(duration="10m")
        await asyncio.sleep(598)
        for number in range(1 if how == "once" else 80):
            grab(world, "none", f"grab-{number}")
            await asyncio.sleep(0.1)
        await eventually(lambda: asyncio.get_running_loop().time() > 604, "its time is up", 10)
        assert (cloud.rules(group), world.status(session).phase) == ({}, Phase.EXPIRED)


@pytest.mark.parametrize("how", ["refused", "changing"])
async def test_who_can_never_be_asked_keeps_no_rule_from_the_sweeper(
    world: World, cloud: SlowFirewalls, how: str
) -> None:
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    if how == "changing":
        changing(world)
    async with world.running(resync=600):
        world.resource("elsewhere", groups=("sg-0bbb",))
        resource, session = world.resource(), world.session()
        await eventually(lambda: cloud.rules(group), "it opens", 10)
        cloud.refused = {"none"}
        grab(world, "none")
        await asyncio.sleep(5)
        force_delete(world, resource)
        force_delete(world, session)
        await eventually(lambda: not cloud.rules(group), "it is found", 700)


async def test_a_stamp_that_cannot_be_read_stops_no_pass(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        session = await opened(world)
        deep = {"annotations": {REQUESTED_BY: "[" * 100_000}, "finalizers": [FINALIZER]}
        world.session("deep", namespace="evil", resources=[{"name": "staging-db", "namespace": "ci"}], metadata=deep)
        await asyncio.sleep(602)
        assert (cloud.rules(group), world.status(session).phase) == ({}, Phase.EXPIRED)


async def test_what_is_over_leaves_nothing_in_memory(world: World, cloud: SlowFirewalls) -> None:
    async with world.running(resync=60) as engine:
        for number in range(20):
            group = cloud.create(f"sg-0{number:04}")
            resource = world.resource(f"db-{number}", groups=(group.id,))
            session = world.session(f"it-{number}", resources=[{"name": resource.key.name}, {"name": f"no-{number}"}])
            await eventually(lambda group=group: cloud.rules(group), "it opens", 10)  # type: ignore[misc]
            world.cluster.delete(AccessSession, session.key)
            world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(200)
        state, store = engine._state, engine.store
        kept = [state.targets, state.tenants, state.placements._at, store._users, store._naming, store.sessions]
        assert [len(each) for each in kept] == [0] * len(kept)


async def test_switches_of_what_nobody_names_are_given_up(world: World, cloud: SlowFirewalls) -> None:
    """Each fires by itself, and then is gone."""
    cloud.create("sg-0aaa")
    switches = MemorySwitches()
    world.switches = {"aws": switches}
    async with world.running(resync=600) as engine:
        resource, session = world.resource(), world.session()
        await asyncio.sleep(5)
        switches.refused = True  # the credentials go with the resource
        world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(1)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(1200)
        switches.calls.clear()
        await asyncio.sleep(86_400)
        assert (switches.calls, engine.insight.snapshot().queues["switch"].failing) == ([], 0)


async def test_what_was_written_a_moment_ago_is_not_forgotten(world: World, cloud: SlowFirewalls) -> None:
    """A resource goes, everything is looked at, and it comes again while reads still show what was revoked."""
    group, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=300):
        world.resource("elsewhere", groups=("sg-0bbb",))
        resource, not_after = world.resource(), world.at(3000)
        await asyncio.sleep(400)
        session = world.session(notAfter=not_after, duration="10h")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
        ghosts = list(cloud.rules(group).values())
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 10)
        world.cluster.delete(ProtectedResource, resource.key)
        await eventually(lambda: asyncio.get_running_loop().time() > 430, "everything is looked at", 60)
        cloud.ghosts = ghosts
        again = world.session("again", notAfter=not_after, duration="10h")
        world.cluster.put(a_resource("staging-db", metadata={"finalizers": [FINALIZER], "uid": "another"}))
        await eventually(lambda: cloud.rules(group), "it opens again", 3)
        cloud.ghosts = []
        await eventually(lambda: world.status(again).phase is Phase.ACTIVE, "it is told", 5)


async def test_who_was_verified_for_another_group_holds_no_rule_open(world: World, cloud: SlowFirewalls) -> None:
    """One account, and a Secret for each namespace: everybody has the account on record."""
    group, his = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running():
        session = await opened(world)
        grab(world, "his", groups=[his.id])
        await asyncio.sleep(400)
    changing(world)
    aws = {"region": group.region, "securityGroups": [his.id, group.id], "credentials": {"secretRef": {"name": "his"}}}
    world.edit(ProtectedResource, Key("evil", "grab"), aws=aws)
    async with world.running():
        await eventually(lambda: asyncio.get_running_loop().time() > 604, "its time is up", 600)
        assert (cloud.rules(group), world.status(session).phase) == ({}, Phase.EXPIRED)
