"""What is left of a session that has ended: a record, which is in nobody's way."""

import asyncio
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.owners import Sighting
from gatepass.core.ports import Access
from gatepass.core.rules import Target
from gatepass.core.types.common import FINALIZER, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.store import Namespace
from tests.core.builders import a_resource
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import BOUND, RUNNING, listed
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

FINISHED = Sighting("uid-1", finished=True)


def bound_session(world: World, resource: str, number: int) -> AccessSession:
    """It opens one resource, to an address of its own, for as long as a Job of its own name runs."""
    name, address = f"bound-{number}", f"203.0.113.{100 + number}/32"
    return world.session(name, resources=({"name": resource},), cidrs=(address,), boundTo={**BOUND, "name": name})


async def test_a_record_that_is_over_can_be_deleted_without_us(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="1m")
        await asyncio.sleep(70)
        assert world.status(session).phase is Phase.EXPIRED
        assert world.cluster.get(AccessSession, session.key).metadata.finalizers == ()
        await asyncio.sleep(60)
        assert world.cluster.get(AccessSession, session.key).metadata.finalizers == ()
        await asyncio.sleep(24 * 3600)
        assert (AccessSession, session.key) not in world.cluster.objects


async def test_a_record_is_let_go_of_when_the_rush_is_over_or_somebody_deletes_it(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        kept, deleted = world.session("kept"), world.session("deleted")
        fleeting = world.session("fleeting", ttlAfterEnded="0s")
        await asyncio.sleep(3)
        for each in (kept, deleted, fleeting):
            world.edit(AccessSession, each.key, stop=True)
        await asyncio.sleep(2)
        assert world.status(kept).phase is Phase.CANCELLED
        assert world.cluster.get(AccessSession, kept.key).metadata.finalizers == (FINALIZER,)
        world.cluster.delete(AccessSession, deleted.key)
        await asyncio.sleep(1)
        assert {key for kind, key in world.cluster.objects if kind is AccessSession} == {kept.key}
        await asyncio.sleep(4)
        assert world.cluster.get(AccessSession, kept.key).metadata.finalizers == ()


async def test_who_is_closed_is_told_later_while_rules_of_others_wait_to_go(world: World, cloud: SlowFirewalls) -> None:
    groups = [cloud.create("sg-0aaa"), cloud.create("sg-0bbb")]
    async with world.running() as engine:
        for name, group in (("first", "sg-0aaa"), ("second", "sg-0bbb")):
            world.resource(name, groups=(group,))
        bound = [bound_session(world, name, number) for number, name in enumerate(("first", "second", "first"))]
        stopped = [world.session(name, resources=({"name": "first"},)) for name in ("one", "other")]
        await asyncio.sleep(1)
        listed(engine, {Key("ci", each.metadata.name): RUNNING for each in bound})
        await asyncio.sleep(2)
        assert [len(cloud.rules(group)) for group in groups] == [3, 1]
        cloud.make_scarce(groups[1])
        listed(engine, {Key("ci", each.metadata.name): FINISHED for each in bound})
        world.cluster.delete(AccessSession, bound[2].key)
        world.cluster.delete(ProtectedResource, Key("ci", "first"))
        await asyncio.sleep(0.1)
        assert [len(cloud.rules(group)) for group in groups] == [1, 1]
        assert [world.status(each).phase for each in bound[:2]] == [Phase.ACTIVE] * 2
        assert (AccessSession, bound[2].key) not in world.cluster.objects, "who deletes it waits for that"
        for each in stopped:
            world.edit(AccessSession, each.key, stop=True)
        await asyncio.sleep(0.1)
        assert [len(cloud.rules(group)) for group in groups] == [0, 1], "an end that nothing else records is, at once"
        await asyncio.sleep(3)
        assert [len(cloud.rules(group)) for group in groups] == [0, 0]
        assert [world.status(each).phase for each in bound[:2]] == [Phase.ACTIVE, Phase.CANCELLED]
        await asyncio.sleep(2)
        assert world.status(bound[0]).phase is Phase.CANCELLED
        await asyncio.sleep(2)
        assert (ProtectedResource, Key("ci", "first")) not in world.cluster.objects


async def test_a_deadline_is_written_down_at_once_whoever_waits(world: World, cloud: SlowFirewalls) -> None:
    groups = [cloud.create("sg-0aaa"), cloud.create("sg-0bbb")]
    async with world.running():
        world.resource("first")
        world.resource("second", groups=("sg-0bbb",))
        both = [world.session(name, resources=({"name": name},), duration="1m") for name in ("first", "second")]
        await asyncio.sleep(2)
        cloud.make_scarce(groups[1])
        await asyncio.sleep(58.1)
        assert [len(cloud.rules(group)) for group in groups] == [0, 1]
        assert [world.status(each).phase for each in both] == [Phase.EXPIRED, Phase.ACTIVE]


async def test_what_closes_is_no_news_to_those_who_stay(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    looked_at: list[Key] = []
    async with world.running() as engine:
        world.resource()
        first, over, *others = [world.session(f"it-{n}", cidrs=(f"203.0.113.{n}/32",)) for n in range(20)]
        world.edit(AccessSession, over.key, stop=True)
        await asyncio.sleep(20)
        handle = engine._sessions.queue._handle

        async def noted(session: Key) -> None:
            looked_at.append(session)
            await handle(session)

        engine._sessions.queue._handle = noted
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(5)
        assert {world.status(each).phase for each in others} == {Phase.ACTIVE}
        assert world.status(first).phase is Phase.CANCELLED
        assert set(looked_at) == {first.key}


@pytest.mark.parametrize("how", ["its namespace goes", "its policy is tightened", "its group is deleted"])
async def test_a_resource_waits_for_no_session_that_lives_on_elsewhere(
    world: World, cloud: SlowFirewalls, how: str
) -> None:
    cloud.create("sg-0aaa")
    group = cloud.create("sg-0bbb")
    everybody = {"allowedNamespaces": {"from": "All"}}
    async with world.running() as engine:
        engine.namespace_seen(Namespace("platform", "uid-1", 1, {}, deleting=False))
        world.resource()
        shared = world.resource("shared", namespace="platform", groups=("sg-0bbb",), policy=everybody)
        named = ({"name": "staging-db"}, {"name": "shared", "namespace": "platform"})
        session = world.session(duration="24h", resources=named)
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        assert len(cloud.rules(group)) == 1
        if how == "its namespace goes":
            world.cluster.going.add("platform")
            engine.namespace_seen(Namespace("platform", "uid-1", 2, {}, deleting=True))
        elif how == "its policy is tightened":
            world.edit(ProtectedResource, shared.key, policy={})
            await eventually(lambda: not cloud.rules(group), "it is closed there")
        else:
            cloud.delete(group)
            await eventually(lambda: world.status(session).phase is Phase.PARTIAL, "that is told", 700)
        world.cluster.delete(ProtectedResource, shared.key)
        await eventually(lambda: (ProtectedResource, shared.key) not in world.cluster.objects, "it goes", 30)
        assert world.status(session).phase is Phase.PARTIAL
        assert how == "its group is deleted" or cloud.rules(group) == {}


async def test_a_resource_waits_for_a_session_that_a_fault_keeps_out(world: World, cloud: SlowFirewalls) -> None:
    """Faults pass: it opens again."""
    cloud.create("sg-0aaa")
    group, grant = cloud.create("sg-0bbb"), cloud.grant

    async def refused(access: Access, target: Target, *more: Any, **given: Any) -> Any:
        if target == group:
            raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "no")
        return await grant(access, target, *more, **given)

    def there() -> bool:
        return (ProtectedResource, shared.key) in world.cluster.objects

    async with world.running(resync=60):
        world.resource()
        shared = world.resource("shared", groups=("sg-0bbb",))
        session = world.session(duration="2h", resources=({"name": "staging-db"}, {"name": "shared"}))
        await eventually(lambda: cloud.rules(group), "it opens")
        cloud.grant = refused  # type: ignore[method-assign]
        cloud.rules(group).clear()
        await eventually(lambda: world.status(session).phase is Phase.PARTIAL, "that is told", 200)
        world.cluster.delete(ProtectedResource, shared.key)
        await throughout(there, "it is there", 60)
        cloud.grant = grant  # type: ignore[method-assign]
        await eventually(lambda: cloud.rules(group), "it is open again", 400)
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not there(), "it goes", 30)
        assert not cloud.rules(group)


async def test_what_has_closed_opens_no_more_while_its_resource_goes(world: World, cloud: SlowFirewalls) -> None:
    """Nothing waits for it: were it put while the resource is let go, nobody would take it away."""
    cloud.create("sg-0aaa")
    group = cloud.create("sg-0bbb")
    labelled = {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}
    async with world.running() as engine:
        engine.namespace_seen(Namespace("ci", "uid-ci", 1, {"team": "a"}, deleting=False))
        world.resource()
        shared = world.resource("shared", groups=("sg-0bbb",), policy=labelled)
        session = world.session(duration="2h", resources=({"name": "staging-db"}, {"name": "shared"}))
        await eventually(lambda: cloud.rules(group), "it opens")
        engine.namespace_seen(Namespace("ci", "uid-ci", 2, {"team": "b"}, deleting=False))
        await eventually(lambda: world.status(session).phase is Phase.PARTIAL, "it is withdrawn")
        world.cluster.refuse = lambda verb: verb == "release"
        world.cluster.delete(ProtectedResource, shared.key)
        await eventually(lambda: ("release", shared.key) in world.cluster.writes, "it is let go")
        engine.namespace_seen(Namespace("ci", "uid-ci", 3, {"team": "a"}, deleting=False))
        await throughout(lambda: not cloud.rules(group), "it is closed", 60)
        world.cluster.refuse = lambda _verb: False
        await eventually(lambda: (ProtectedResource, shared.key) not in world.cluster.objects, "it goes", 30)
        assert not cloud.rules(group)
        assert world.status(session).phase is Phase.PARTIAL


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_who_never_had_a_resource_gets_it_from_one_that_is_made_anew(
    world: World, cloud: SlowFirewalls, elsewhere: bool
) -> None:
    """A group that is not there is corrected so: its place is not to be changed."""
    cloud.create("sg-0aaa")
    group = cloud.create("sg-0bbb")
    async with world.running():
        world.resource()
        wrong = world.resource("shared", groups=("sg-0ccc",))
        named = ("staging-db", "shared") if elsewhere else ("shared",)
        session = world.session(duration="2h", resources=tuple({"name": each} for each in named))
        found = Phase.PARTIAL if elsewhere else Phase.FAILED
        await eventually(lambda: world.status(session).phase is found, "it is told", 60)
        world.cluster.refuse = lambda verb: verb == "release"
        world.cluster.delete(ProtectedResource, wrong.key)
        await eventually(lambda: ("release", wrong.key) in world.cluster.writes, "it is to be let go")
        await throughout(lambda: world.status(session).ended_at is None, "the session lives", 10)
        world.cluster.refuse = lambda _verb: False
        await eventually(lambda: (ProtectedResource, wrong.key) not in world.cluster.objects, "it goes", 60)
        world.cluster.put(a_resource("shared", groups=("sg-0bbb",), metadata={"finalizers": [FINALIZER]}), uid="uid-2")
        await eventually(lambda: cloud.rules(group), "it opens", 60)
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "and is told", 10)
