"""What is unknown, withdrawn or refused in part is neither opened, nor left open, nor closed too soon."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, GrantOutcome, NewRule, Still
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, Requester
from gatepass.engine.store import Namespace
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import OWNER, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

OFFICE = [{"cidr": "198.51.100.0/28", "description": "office"}]
OTHER_KEY = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}


class Refusing(SlowFirewalls):
    """Refuses rules of one port, or every write to one object, for good."""

    def __init__(self) -> None:
        super().__init__()
        self.port: int | None = None
        self.closed: str | None = None
        self.grants = 0

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        self.grants += 1
        denied = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "the call was refused")
        if target.id == self.closed:
            raise denied
        good = [new for new in rules if new.rule.port != self.port]
        bad = {new.rule: denied for new in rules if new.rule.port == self.port}
        return {**await super().grant(access, target, good, stamp, still), **bad}


@pytest.fixture
def cloud() -> Refusing:
    return Refusing()


async def test_a_resource_takes_all_its_rules_or_none(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    cloud.port = 2
    async with world.running():
        world.resource(ports=({"port": 1}, {"port": 2}))
        session = world.session()
        other = world.session("other", cidrs=("203.0.113.8/32",), resources=({"name": "cache"},))
        world.resource("cache", ports=({"port": 1},))
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.FAILED
        assert "the call was refused" in (world.status(session).resources[0].message or "")
        assert [rule.rule and rule.rule.cidr for rule in cloud.rules(group).values()] == ["203.0.113.8/32"]
        assert world.status(other).phase is Phase.ACTIVE
        assert cloud.grants < 12
        cloud.port = None
        await asyncio.sleep(120)
        assert world.status(session).phase is Phase.ACTIVE
        assert len(cloud.rules(group)) == 3


async def test_what_is_refused_in_one_group_leaves_the_other(world: World, cloud: Refusing) -> None:
    first, second = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb")
    cloud.closed = "sg-0bbb"
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"), ports=({"port": 1}, {"port": 2}))
        session = world.session()
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.FAILED
        assert (cloud.rules(first), cloud.rules(second)) == ({}, {})
        cloud.closed = None
        world.edit(ProtectedResource, Key("ci", "staging-db"), policy={"requireReason": False})
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE


async def test_who_has_its_rules_keeps_them_when_one_cannot_be_put_back(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=60):
        world.resource(ports=({"port": 1}, {"port": 2}))
        world.session()
        await asyncio.sleep(5)
        cloud.port = 2
        for id_, rule in list(cloud.rules(group).items()):
            if rule.rule and rule.rule.port == 2:
                del cloud.rules(group)[id_]
        await asyncio.sleep(300)
        assert [rule.rule and rule.rule.port for rule in cloud.rules(group).values()] == [1]


async def test_what_never_fits_fails_with_the_numbers(world: World, cloud: Refusing) -> None:
    cloud.create("sg-0aaa", limit=2)
    async with world.running():
        world.resource(ports=({"port": 1}, {"port": 2}, {"port": 3}))
        session = world.session()
        await asyncio.sleep(5)
        status = world.status(session)
        assert (status.phase, status.resources[0].reason) == (Phase.FAILED, "NeverFits")
        assert "needs 3 rules, and its firewalls take 2 at most" in (status.resources[0].message or "")


async def test_a_namespace_taken_off_the_list_opens_nothing_new_and_closes_what_is_open(
    world: World, cloud: Refusing
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource(staticCIDRs=OFFICE)
        old = world.session(duration="10m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 2
    world.confinement = {}
    async with world.running():
        new = world.session("new", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(300)
        assert (world.status(old).phase, world.status(new).phase) == (Phase.ACTIVE, Phase.FAILED)
        assert world.status(new).resources[0].reason == "CredentialsNotAllowed"
        assert len(cloud.rules(group)) == 2
        world.cluster.delete(ProtectedResource, Key("ci", "staging-db"))
        await asyncio.sleep(600)
        assert world.status(old).phase is Phase.EXPIRED
        assert cloud.rules(group) == {}
        assert (ProtectedResource, Key("ci", "staging-db")) not in world.cluster.objects


async def test_a_namespace_that_was_never_on_the_list_has_nothing_asked_for_it(world: World, cloud: Refusing) -> None:
    cloud.create("sg-0aaa")
    world.confinement = {}
    async with world.running():
        world.resource()
        await asyncio.sleep(60)
        assert cloud.calls["identify"] == cloud.calls["inspect"] == 0


async def test_a_new_description_of_a_static_range_reaches_the_cloud(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource(staticCIDRs=OFFICE)
        await asyncio.sleep(5)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{**OFFICE[0], "description": "new office"}])
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert rule.description == "gatepass static for=ci/staging-db new office"


async def test_a_shared_static_range_stays_for_the_one_who_still_wants_it(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        first = world.resource("a-first", staticCIDRs=OFFICE)
        world.resource("b-second", staticCIDRs=OFFICE, aws=OTHER_KEY)
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert "for=ci/a-first" in rule.description
    world.edit(ProtectedResource, first.key, staticCIDRs=[])
    cloud.refused.add("key")
    async with world.running():
        await asyncio.sleep(900)
        assert len(cloud.rules(group)) == 1
        cloud.refused.clear()
        await asyncio.sleep(900)
        (rule,) = cloud.rules(group).values()
        assert "for=ci/b-second" in rule.description


async def test_a_stranger_keeps_no_static_range_of_others(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    cloud.refused.add("key")
    async with world.running():
        first = world.resource("a-first", staticCIDRs=OFFICE)
        world.resource("b-stranger", staticCIDRs=OFFICE, aws=OTHER_KEY)
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        world.edit(ProtectedResource, first.key, staticCIDRs=[])
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}


async def test_an_ended_session_is_done_although_somebody_unheard_keeps_its_rule(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        gone = world.resource("a-first")
        world.resource("b-second", aws=OTHER_KEY)
        ends = world.session("ends", resources=({"name": "a-first"},), duration="10m")
        stays = world.session("stays", resources=({"name": "b-second"},))
        await asyncio.sleep(5)
        assert world.status(stays).phase is Phase.ACTIVE
    cloud.refused.add("key")
    async with world.running():
        await asyncio.sleep(900)
        assert (world.status(ends).phase, world.status(stays).phase) == (Phase.EXPIRED, Phase.ACTIVE)
        world.cluster.delete(ProtectedResource, gone.key)
        await asyncio.sleep(60)
        assert (ProtectedResource, gone.key) not in world.cluster.objects
        assert len(cloud.rules(group)) == 1


async def test_news_of_several_kinds_may_come_in_any_order(world: World, cloud: Refusing) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        told: list[Any] = []
        world.cluster.watchers.append(engine)
        session = world.session()
        await asyncio.sleep(1)
        told.append(world.status(session).phase)
        world.resource()
        await asyncio.sleep(1)
        assert (told, world.status(session).phase) == ([None], Phase.ACTIVE)
        late = world.session("late", resources=({"name": "missing"},))
        await asyncio.sleep(5)
        assert world.status(late).phase is Phase.FAILED


async def test_a_namespace_not_seen_yet_opens_nothing_and_takes_nothing_back(world: World, cloud: Refusing) -> None:
    cloud.create("sg-0aaa")
    selecting = {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "payments"}}}}
    async with world.running() as engine:
        world.resource(policy=selecting)
        session = world.session()
        await asyncio.sleep(1)
        assert world.status(session).phase is None
        engine.namespace_seen(Namespace("ci", "uid-ci", 1, {"team": "payments"}, deleting=False))
        await asyncio.sleep(1)
        assert world.status(session).phase is Phase.ACTIVE
    async with world.running() as engine:
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.ACTIVE
        engine.namespace_seen(Namespace("ci", "uid-ci", 2, {"team": "web"}, deleting=False))
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.CANCELLED


async def test_marks_are_repaired_with_whatever_credentials_may(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")
    relabel = cloud.relabel

    async def partly(access: Access, target: Target, descriptions: Mapping[str, str]) -> Any:
        if access.credentials.secret is None:
            raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "the call was refused")
        return await relabel(access, target, descriptions)

    cloud.relabel = partly  # type: ignore[method-assign]
    async with world.running():
        world.resource("a")
        world.resource("b", aws=OTHER_KEY)
        session = world.session(resources=({"name": "a"},))
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, duration="2h")
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert f"until={world.at(7200)}" in rule.description


async def test_a_tag_that_nobody_may_set_holds_up_no_description(world: World, cloud: Refusing) -> None:
    group = cloud.create("sg-0aaa")

    async def refused(*_: Any) -> Any:
        raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "the call was refused")

    cloud.tag = refused  # type: ignore[method-assign]
    async with world.running(resync=130):
        world.resource()
        first, second = world.session(), world.session("second", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(125)
        for id_, held in list(cloud.rules(group).items()):
            if held.rule is not None and held.rule.cidr == "203.0.113.7/32":
                cloud.rules(group)[id_] = replace(held, owner=None)
        await asyncio.sleep(130)
        world.edit(AccessSession, second.key, duration="2h")
        await asyncio.sleep(2)
        until = {rule.rule.cidr: rule.description for rule in cloud.rules(group).values() if rule.rule}
        assert f"until={world.at(7200)}" in until["203.0.113.8/32"]
        assert world.status(first).phase is Phase.ACTIVE


@pytest.mark.parametrize("granted", [False, True])
async def test_nothing_is_opened_for_a_session_whose_end_cannot_be_written_yet(
    world: World, cloud: Refusing, granted: bool
) -> None:
    group = cloud.create("sg-0aaa")
    grant = cloud.grant

    async def down(*_: Any) -> Any:
        raise ProviderError(Failure.RETRY, "NoAnswer", "ec2 does not answer")

    async with world.running(resync=10):
        world.resource()
        await asyncio.sleep(1)
        if not granted:
            cloud.grant = down  # type: ignore[method-assign]
        session = world.session()
        await asyncio.sleep(1)
        cloud.rules(group).clear()
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(0.5)
        cloud.grant = grant  # type: ignore[method-assign]
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}


async def test_what_was_put_before_a_restart_stays_until_admission_has_been_asked(
    world: World, cloud: Refusing
) -> None:
    group = cloud.create("sg-0aaa")
    world.resource()
    session = world.session()
    mine = Rule("203.0.113.7/32", "tcp", 5432, 5432)
    id_ = cloud.put(group, mine, f"gatepass until={world.at(3600)} for=ci/staging-db", OWNER)
    nobodys = cloud.put(
        group, Rule("203.0.113.9/32", "tcp", 5432, 5432), f"gatepass until={world.at(9)} for=ci/db", OWNER
    )
    may_use = world.cluster.may_use

    async def slow(who: Requester, key: Key) -> bool:
        await asyncio.sleep(3)
        return await may_use(who, key)

    world.cluster.may_use = slow  # type: ignore[method-assign]
    async with world.running():
        await asyncio.sleep(2)
        assert (id_ in cloud.rules(group), nobodys in cloud.rules(group)) == (True, False)
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
        assert list(cloud.rules(group)) == [id_]


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_nobody_wants_goes_although_somebody_is_refused_who_would_have_wanted_it(
    world: World, cloud: Refusing, restarted: bool
) -> None:
    group = cloud.create("sg-0aaa")
    world.resource()

    async def refuses(_who: Requester, _key: Key) -> bool:
        await asyncio.sleep(3)
        return False

    async with world.running(resync=3600):
        over = world.session(duration="1m")
        await asyncio.sleep(59.5)
        world.cluster.may_use = refuses  # type: ignore[method-assign]
        world.session("refused", duration="1h")
        if not restarted:
            await asyncio.sleep(1)
            assert cloud.rules(group) == {}, "who has come since the start has been given nothing before it"
            assert world.status(over).phase is Phase.EXPIRED
    async with world.running(resync=3600):
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}
        assert world.status(over).phase is Phase.EXPIRED
