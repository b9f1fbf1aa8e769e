"""What the simulation has found, each made small: the engine does this wrong until its mark is taken off."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatepass.core.ports import Access, ClusterError, GrantOutcome, NewRule, RevokeOutcome, Still
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Phase, ResourceState
from gatepass.engine.engine import Engine
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

ADDRESS = "203.0.113.7/32"


class Latent(SlowFirewalls):
    """Calls take as long as they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.takes: dict[str, float] = {}

    async def identify(self, access: Access) -> str:
        await asyncio.sleep(self.takes.get("identify with a secret" if access.credentials.secret else "identify", 0.0))
        return await super().identify(access)

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        asked = [new for new in rules if still(new.rule)]
        await asyncio.sleep(self.takes.get("grant", 0.0))
        return await super().grant(access, target, asked, stamp, lambda _rule: True)

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        await asyncio.sleep(self.takes.get("revoke", 0.0))
        return await super().revoke(access, target, ids, doubtful=doubtful)


@pytest.fixture
def cloud() -> Latent:
    return Latent()


@pytest.fixture
def world(cloud: Latent) -> World:
    return World(cloud)


def over(world: World, session: AccessSession) -> bool:
    """Does anybody who looks believe that the session's doors are closed?"""
    if (AccessSession, session.key) not in world.cluster.objects:
        return True
    return world.status(session).phase in (Phase.EXPIRED, Phase.CANCELLED)


async def test_a_session_is_not_over_while_a_grant_for_it_is_under_way(world: World, cloud: Latent) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        cloud.takes["grant"] = 3.0
        session = world.session()
        await asyncio.sleep(1)
        world.cluster.delete(AccessSession, session.key)
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert not (over(world, session) and cloud.rules(group))
            assert not (over(world, session) and cloud.calls["revoke"] == 0), "the grant is still to come"


def with_late_events(world: World, engine: Engine, edit: Any) -> None:
    """Somebody edits just before the next status write; the watch tells of it after the write has been refused."""
    write = world.cluster.write_session_status

    async def written(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        world.cluster.write_session_status = write  # type: ignore[method-assign]
        watchers, world.cluster.watchers = world.cluster.watchers, []
        edit()
        between = world.cluster.get(AccessSession, session.key)
        world.cluster.watchers = watchers
        asyncio.get_running_loop().call_later(0.2, engine.seen, between)
        return await write(session, status)

    world.cluster.write_session_status = written  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["stop", "delete", "shorten"])
async def test_an_edit_that_a_write_meets_is_noticed(world: World, cloud: Latent, how: str) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        await asyncio.sleep(5)
        session = world.session()

        def edit() -> None:
            match how:
                case "stop":
                    world.edit(AccessSession, session.key, stop=True)
                case "delete":
                    world.cluster.delete(AccessSession, session.key)
                case "shorten":
                    world.edit(AccessSession, session.key, duration="1m")

        with_late_events(world, engine, edit)
        await asyncio.sleep(65)
        assert cloud.rules(group) == {}


@pytest.mark.parametrize("how", ["stop", "delete"])
async def test_a_session_with_one_rule_for_two_resources_is_not_over_while_it_is_there(
    world: World, cloud: Latent, how: str
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource("db")
        world.resource("cache")
        session = world.session(resources=({"name": "db"}, {"name": "cache"}))
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        cloud.takes["revoke"] = 3.0
        if how == "stop":
            world.edit(AccessSession, session.key, stop=True)
        else:
            world.cluster.delete(AccessSession, session.key)
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert not (over(world, session) and cloud.rules(group))


def a_range_without_room(world: World, cloud: Latent) -> ProtectedResource:
    """A static range that is to leave sg-0bbb and finds no room in sg-0aaa, so that it keeps what it had."""
    full = cloud.create("sg-0aaa", limit=1)
    cloud.put(full, Rule("198.51.100.1/32", "tcp", 22, 22), "office")
    return world.resource("cache", groups=("sg-0bbb",), staticCIDRs=[{"cidr": ADDRESS}])


def take_off_the_list(world: World, cache: ProtectedResource) -> None:
    world.edit(ProtectedResource, cache.key, aws={"region": "eu-central-1", "securityGroups": ["sg-0aaa"]})


async def test_a_static_range_keeps_its_rule_until_it_has_room_although_a_session_shares_it(
    world: World, cloud: Latent
) -> None:
    leaving = cloud.create("sg-0bbb")
    async with world.running():
        cache = a_range_without_room(world, cloud)
        world.resource("db", groups=("sg-0bbb",))
        world.session(resources=({"name": "db"},), duration="2m")
        await asyncio.sleep(5)
        take_off_the_list(world, cache)
        await asyncio.sleep(300)
        assert len(cloud.rules(leaving)) == 1


async def test_an_end_stays_as_it_was_written_first(world: World, cloud: Latent) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        write = world.cluster.write_session_status
        told: list[object] = []

        async def lost(about: AccessSession, status: AccessSessionStatus) -> AccessSession:
            told.append(status.ended_at)
            if len(told) > 1:
                return await write(about, status)
            watchers, world.cluster.watchers = world.cluster.watchers, []
            updated = await write(about, status)
            world.cluster.watchers = watchers
            asyncio.get_running_loop().call_later(5, engine.seen, updated)
            raise ClusterError("timed out")

        world.cluster.write_session_status = lost  # type: ignore[method-assign]
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(20)
        assert world.status(session).phase is Phase.CANCELLED
        assert len(told) > 2
        assert len(set(told)) == 1


async def test_ids_on_record_outlive_a_restart_while_reads_lag(world: World, cloud: Latent) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
    cloud.blind = True
    async with world.running():
        await asyncio.sleep(20)
        (entry,) = world.status(session).resources
        assert [rule.id for rule in entry.rules] == list(cloud.rules(group))
        assert entry.state is ResourceState.APPLIED
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}


async def test_an_end_that_is_written_before_anything_is_verified_leaves_the_records(
    world: World, cloud: Latent
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
    world.edit(AccessSession, session.key, stop=True)
    cloud.takes["identify"] = 3.0
    cloud.slow["sg-0aaa"] = 3.0
    async with world.running():
        for _ in range(100):
            await asyncio.sleep(0.1)
            (record,) = world.status(session).resources[0].rules
            assert not (cloud.rules(group) and record.removed_at is not None)
            assert not (cloud.rules(group) and over(world, session))


async def test_ids_on_record_count_before_their_resource_has_been_verified(world: World, cloud: Latent) -> None:
    group = cloud.create("sg-0aaa")
    own = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}
    async with world.running():
        world.resource("quick")
        world.resource("slow", aws=own)
        session = world.session(resources=({"name": "slow"},))
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
    cloud.blind = True
    cloud.takes["identify with a secret"] = 3.0
    async with world.running():
        for _ in range(100):
            await asyncio.sleep(0.1)
            (entry,) = world.status(session).resources
            assert [rule.id for rule in entry.rules] == list(cloud.rules(group))
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}
