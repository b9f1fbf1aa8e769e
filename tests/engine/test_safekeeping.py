"""The Secret that a resource signs in with: its owner may delete it, and what has to close still closes."""

import asyncio
from collections.abc import Iterator, Set
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, ClusterError
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.safekeeping import GRACE_SECONDS
from gatepass.engine.store import Namespace
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

AWS: dict[str, Any] = {
    "region": "eu-central-1",
    "securityGroups": ["sg-0aaa"],
    "credentials": {"secretRef": {"name": "key"}},
}
SECRET = Key("ci", "key")
OFFICE = {"cidr": "198.51.100.0/28"}
NOTICED = 2 * GRACE_SECONDS
"""Seconds in which a deletion is noticed, and the Secret let go."""


class Missing(Set[tuple[str, str]]):
    """The Secrets that are not there, as AWS's clients find out when they read them."""

    def __init__(self, world: World) -> None:
        self._credentials = world.cluster.credentials

    def __contains__(self, name: object) -> bool:
        return isinstance(name, tuple) and Key(*name) in self._credentials and self._credentials[Key(*name)] is None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (tuple(key) for key, seen in self._credentials.items() if seen is None)

    def __len__(self) -> int:
        return sum(seen is None for seen in self._credentials.values())


@pytest.fixture(autouse=True)
def group(world: World, cloud: SlowFirewalls) -> Any:
    cloud.missing = Missing(world)
    return cloud.create("sg-0aaa")


def valid(world: World, name: str = "staging-db") -> tuple[str, str, str]:
    resource = world.cluster.get(ProtectedResource, Key("ci", name))
    found = next(each for each in resource.status.conditions if each.type == "CredentialsValid")
    return found.status, found.reason, found.message


def gone(world: World) -> bool:
    return world.cluster.credentials[SECRET] is None


async def test_a_secret_that_nobody_has_a_rule_through_goes_and_one_made_again_heals(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    async with world.running(resync=3600):
        world.resource(aws=AWS, staticCIDRs=[OFFICE])
        await asyncio.sleep(5)
        assert SECRET in world.cluster.kept
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(NOTICED)
        assert gone(world)
        assert valid(world)[:2] == ("False", "SecretNotFound")
        assert len(cloud.rules(group)) == 1, "a static range is still granted"
        waiting = world.session()
        await asyncio.sleep(60)
        assert world.status(waiting).phase is Phase.FAILED
        world.cluster.make_secret(SECRET)
        await asyncio.sleep(5)
        assert SECRET in world.cluster.kept
        assert valid(world)[0] == "True"
        assert world.status(waiting).phase is Phase.ACTIVE


async def test_it_is_kept_until_the_sessions_have_ended_and_nothing_new_opens(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    async with world.running(resync=3600):
        world.resource(aws=AWS)
        session = world.session(duration="10m")
        await asyncio.sleep(5)
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(NOTICED)
        status, reason, message = valid(world)
        assert (status, reason) == ("False", "SecretDeleted")
        assert "waits for 1 session to end: ci/it-1. Create it again" in message
        late = world.session("late", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(500)
        assert world.status(late).phase is Phase.FAILED
        assert (world.status(session).phase, len(cloud.rules(group)), gone(world)) == (Phase.ACTIVE, 1, False)
        await asyncio.sleep(120)
        assert (world.status(session).phase, cloud.rules(group), gone(world)) == (Phase.EXPIRED, {}, True)


async def test_it_is_kept_over_a_restart(world: World, cloud: SlowFirewalls, group: Any) -> None:
    async with world.running():
        world.resource(aws=AWS)
        session = world.session(duration="10m")
        await asyncio.sleep(5)
        world.cluster.delete_secret(SECRET)
    await asyncio.sleep(700)
    async with world.running():
        await asyncio.sleep(1)
        assert (world.status(session).phase, cloud.rules(group), gone(world)) == (Phase.EXPIRED, {}, False)
        await asyncio.sleep(NOTICED)
        assert gone(world)


async def test_a_rule_that_was_never_recorded_keeps_it_too(world: World, cloud: SlowFirewalls, group: Any) -> None:
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        resource = world.resource(aws=AWS)
        await asyncio.sleep(5)
        world.session()
        await asyncio.sleep(1)
        assert len(cloud.rules(group)) == 1
    world.cluster.refuse = lambda _verb: False
    world.cluster.delete_secret(SECRET)
    cloud.revoke_refused = True
    async with world.running():
        await asyncio.sleep(130)  # from then on, reads show whatever an earlier process has put
        assert not gone(world)
        cloud.revoke_refused = False
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5433}])  # any change has it tried again
        await asyncio.sleep(NOTICED)
        assert (cloud.rules(group), gone(world)) == ({}, True)


async def test_it_is_kept_for_a_resource_that_is_deleted_with_it(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    """Tools that delete a whole release begin with the Secrets."""
    async with world.running(resync=3600):
        resource = world.resource(aws=AWS, staticCIDRs=[OFFICE])
        await asyncio.sleep(5)
        cloud.revoke_refused = True
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(GRACE_SECONDS / 2)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(60)
        assert not gone(world)
        cloud.revoke_refused = False
        await asyncio.sleep(300)
        assert (cloud.rules(group), gone(world)) == ({}, True)
        assert not [key for kind, key in world.cluster.objects if kind is ProtectedResource]


async def test_it_is_kept_while_its_namespace_goes_though_nobody_has_told_of_that_yet(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    async with world.running(resync=3600) as engine:
        resource = world.resource(aws=AWS, staticCIDRs=[OFFICE])
        await asyncio.sleep(5)
        world.cluster.going.add("ci")
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(60)
        assert not gone(world)
        engine.namespace_seen(Namespace("ci", "uid-ci", 1, {}, deleting=True))
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(5)
        assert (cloud.rules(group), gone(world)) == ({}, True)


async def test_a_secret_that_closes_nothing_is_kept_for_nobody(world: World, cloud: SlowFirewalls, group: Any) -> None:
    """AWS does not accept the key any more: only another one helps, and that may have to be a new Secret."""
    identify = cloud.identify

    async def refused(access: Access) -> str:
        raise ProviderError(Failure.FORBIDDEN, "AuthFailure", "AWS does not accept the credentials")

    async with world.running():
        world.resource(aws=AWS)
        session = world.session()
        await asyncio.sleep(5)
        cloud.identify = refused  # type: ignore[method-assign]
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(NOTICED)
        assert gone(world)
        cloud.identify = identify  # type: ignore[method-assign]
        world.cluster.make_secret(SECRET)
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.CANCELLED, {})


async def test_a_key_that_is_corrected_is_tried_at_once(world: World, cloud: SlowFirewalls) -> None:
    async with world.running(resync=3600):
        cloud.refused.add("key")
        world.resource(aws=AWS)
        await asyncio.sleep(1000)
        cloud.refused.clear()
        world.cluster.make_secret(SECRET)
        await asyncio.sleep(5)
        assert valid(world)[0] == "True"


async def test_a_secret_that_stays_costs_no_call_of_the_cloud(world: World, cloud: SlowFirewalls) -> None:
    async with world.running(resync=3600):
        world.resource(aws=AWS)
        await asyncio.sleep(150)
        before, writes = dict(cloud.calls), len(world.cluster.writes)
        await asyncio.sleep(600)
        assert (cloud.calls, len(world.cluster.writes)) == (before, writes)


async def test_a_resource_whose_secret_is_gone_goes_when_nothing_is_open(world: World, cloud: SlowFirewalls) -> None:
    async with world.running(resync=3600):
        resource = world.resource(aws=AWS)
        session = world.session()
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(NOTICED)
        assert gone(world)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(5)
        assert not [key for kind, key in world.cluster.objects if kind is ProtectedResource]


async def test_it_is_kept_for_a_rule_that_is_on_its_way(world: World, cloud: SlowFirewalls, group: Any) -> None:
    async with world.running(resync=3600):
        world.resource(aws=AWS)
        await asyncio.sleep(5)
        cloud.slow_answer = 60
        session = world.session()
        await asyncio.sleep(1)
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(40)
        assert not gone(world)
        await asyncio.sleep(25)
        assert world.status(session).phase is Phase.ACTIVE
        cloud.slow_answer = 0
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(NOTICED)
        assert (cloud.rules(group), gone(world)) == ({}, True)


async def test_it_does_not_go_before_its_resource_opens_nothing_new(world: World, cloud: SlowFirewalls) -> None:
    hold = world.cluster.hold_secret

    async def refused(_namespace: str, _name: str) -> Any:
        raise ClusterError("500: etcd has no leader")

    async with world.running(resync=3600):
        world.resource(aws=AWS)
        await asyncio.sleep(5)
        world.cluster.hold_secret = refused  # type: ignore[method-assign]
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(60)
        assert (gone(world), valid(world)[0]) == (False, "True")
        world.cluster.hold_secret = hold  # type: ignore[method-assign]
        await asyncio.sleep(NOTICED)
        assert (gone(world), valid(world)[0]) == (True, "False")


async def test_it_is_kept_for_a_rule_that_another_resource_shares(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    """The mark on the rule names the other one, whose credentials may be gone by the time."""
    async with world.running(resync=3600):
        world.resource("other")
        world.session("first", resources=({"name": "other"},))
        await asyncio.sleep(5)
        world.resource(aws=AWS)
        session = world.session()
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(60)
        assert not gone(world)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(NOTICED)
        assert (len(cloud.rules(group)), gone(world)) == (1, True)


async def test_who_is_killed_once_the_secret_is_gone_leaves_nothing_held(
    world: World, cloud: SlowFirewalls, group: Any
) -> None:
    release = world.cluster.release_secret

    async def unheard(namespace: str, name: str) -> None:
        await release(namespace, name)
        await asyncio.Event().wait()

    async with world.running() as engine:
        resource = world.resource(aws=AWS)
        session = world.session()
        await asyncio.sleep(5)
        world.cluster.release_secret = unheard  # type: ignore[method-assign]
        world.cluster.going.add("ci")
        engine.namespace_seen(Namespace("ci", "uid-ci", 2, {}, deleting=True))
        world.cluster.delete_secret(SECRET)
        world.cluster.delete(ProtectedResource, resource.key)
        world.cluster.delete(AccessSession, session.key)
        await eventually(lambda: gone(world), "the Secret goes")
        assert cloud.rules(group) == {}
    world.cluster.release_secret = release  # type: ignore[method-assign]
    async with world.running() as engine:
        engine.namespace_seen(Namespace("ci", "uid-ci", 3, {}, deleting=True))
        await eventually(lambda: not world.cluster.objects, "nothing holds the namespace")


@pytest.mark.parametrize("minutes", [1, 9])
async def test_what_has_ended_closes_as_soon_as_the_api_server_shows_secrets_again(
    world: World, cloud: SlowFirewalls, minutes: int
) -> None:
    """It may serve everything but these, and then nobody knows after a start where to look."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36_000):
        world.resource(aws=AWS)
        session = world.session(duration="2m")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)
    hold, look = world.cluster.hold_secret, world.cluster.secret

    async def refuse(*_: Any) -> Any:
        raise ClusterError("the key service does not answer")

    world.cluster.hold_secret = world.cluster.secret = refuse  # type: ignore[method-assign]
    async with world.running(resync=36_000):
        await asyncio.sleep(120 + 60 * minutes)
        assert cloud.rules(group)
        world.cluster.hold_secret, world.cluster.secret = hold, look  # type: ignore[method-assign]
        await eventually(lambda: not cloud.rules(group), "it closes", 2)


async def test_of_many_secrets_that_cannot_be_read_one_is_asked_for_each_second(
    world: World, cloud: SlowFirewalls
) -> None:
    """In each namespace, so that none waits for another's."""
    cloud.create("sg-0aaa")
    asked: list[str] = []

    async def refuse(namespace: str, _name: str) -> Any:
        asked.append(namespace)
        raise ClusterError("the key service does not answer")

    async def hidden(*_: Any) -> Any:
        raise ClusterError("the key service does not answer")

    world.cluster.hold_secret, world.cluster.secret = refuse, hidden  # type: ignore[method-assign]
    for number in range(30):
        world.resource(f"db-{number}", aws={**AWS, "credentials": {"secretRef": {"name": f"key-{number}"}}})
    async with world.running(resync=36_000):
        await asyncio.sleep(10)
        asked.clear()
        await asyncio.sleep(60)
        assert 55 <= len(asked) <= 65


async def test_it_is_kept_until_a_static_range_that_was_taken_off_is_closed(world: World, cloud: SlowFirewalls) -> None:
    cloud.missing = Missing(world)
    group = cloud.create("sg-0aaa")
    world.cluster.make_secret(SECRET)
    async with world.running(resync=36_000):
        resource = world.resource(aws=AWS, staticCIDRs=[OFFICE])
        await eventually(lambda: cloud.rules(group), "it is open", 10)
        cloud.barred["key"] = Failure.RETRY
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        world.cluster.delete_secret(SECRET)
        await throughout(lambda: SECRET in world.cluster.kept, "it is kept", 3 * NOTICED)
        cloud.barred.clear()
        await eventually(lambda: not cloud.rules(group), "it closes", 3)
        await eventually(lambda: world.cluster.credentials[SECRET] is None, "it goes", NOTICED)


async def test_it_goes_after_a_resource_whose_finalizer_somebody_has_taken_off(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa")
    world.cluster.make_secret(SECRET)
    async with world.running():
        resource = world.resource(aws=AWS)
        await eventually(lambda: SECRET in world.cluster.kept, "it is kept", 10)
        world.cluster.put(world.cluster.get(ProtectedResource, resource.key), finalizers=())
        world.cluster.delete(ProtectedResource, resource.key)
        await eventually(lambda: SECRET not in world.cluster.kept, "it is let go", NOTICED)
        world.cluster.delete_secret(SECRET)
        assert world.cluster.credentials[SECRET] is None
