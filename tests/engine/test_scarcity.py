"""By AWS's own buckets, drained by others: nobody starves, nothing waits for what does not concern it, all is told."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pytest

from gatepass.core.plan import Write
from gatepass.core.ports import Access, GrantOutcome, NewRule, Still
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.paced import PacedFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


def secret(world: World, name: str, group: Target, key: str | None = None, **spec: Any) -> ProtectedResource:
    """A resource with credentials of its own, or others'."""
    aws = {"region": group.region, "securityGroups": [group.id], "credentials": {"secretRef": {"name": key or name}}}
    return world.resource(name, aws=aws, **spec)


async def several(world: World, group: Target, names: Iterable[str]) -> None:
    """As many credentials on one group, each with a resource of that name; all are ready."""
    made = [secret(world, name, group).metadata.name for name in names]
    await eventually(lambda: all(world.ready(name) == "True" for name in made), "all are ready", 5)


def sources(cloud: SlowFirewalls, group: Target) -> set[str]:
    """Whom the group lets in."""
    return {held.rule.cidr for held in cloud.rules(group).values() if held.rule is not None}


async def test_who_ends_while_other_credentials_put_their_rules_is_never_opened(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        await several(world, group, ("one", "other"))
        cloud.slow_answer = 6.0
        world.session("one", cidrs=("198.51.100.1/32",), resources=({"name": "one"},))
        ends = world.session("other", cidrs=("203.0.113.8/32",), resources=({"name": "other"},))
        await eventually(lambda: cloud.rules(group), "the first call", 5)
        world.edit(AccessSession, ends.key, stop=True)
        await eventually(lambda: world.status(ends).phase is Phase.CANCELLED, "its end", 5)
        for _ in range(200):
            assert sources(cloud, group) == {"198.51.100.1/32"}
            await asyncio.sleep(0.1)


async def test_no_credentials_keep_others_of_the_same_group_waiting(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa", limit=1000)
    async with world.running():
        await several(world, group, ("many", "few"))
        with cloud.contended("grants", 2.0):
            few = world.session("few", cidrs=("203.0.113.8/32",), resources=({"name": "few"},))
            for number in range(30):
                world.session(f"many-{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "many"},))
                await asyncio.sleep(1)
            assert world.status(few).phase is Phase.ACTIVE
            assert len(sources(cloud, group)) > 10


async def test_each_of_many_credentials_of_a_group_has_its_turn_soon(world: World, cloud: PacedFirewalls) -> None:
    """That there was no call for it is no failure, after which a pause would be twice the last."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600) as engine:
        await several(world, group, [f"r{number}" for number in range(10)])
        with cloud.contended("grants", 2.0):
            await asyncio.sleep(1)
            for number in range(10):
                world.session(f"s{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": f"r{number}"},))
            await eventually(lambda: len(sources(cloud, group)) == 10, "all are open", 30)
    assert engine.insight.snapshot().queues["target"].retries == 0


async def test_what_is_refused_for_good_takes_no_calls_from_others(world: World, cloud: PacedFirewalls) -> None:
    """Each group has two credentials that may not close, which a missing call is no answer to."""
    async with world.running():
        stopped = []
        for number in range(40):
            group = cloud.create(f"sg-{number:04}")
            for key in "ab":
                secret(world, f"{key}{number}", group, key)
            stopped.append(world.session(f"s{number}", resources=({"name": f"a{number}"},)))
        healthy = cloud.create("sg-healthy")
        world.resource("healthy", groups=(healthy.id,))
        well = world.session("well", resources=({"name": "healthy"},))
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in (*stopped, well)), "all", 60)
        cloud.bolted = {f"sg-{number:04}" for number in range(40)}
        for each in stopped:
            world.edit(AccessSession, each.key, stop=True)
        await asyncio.sleep(30)
        now = asyncio.get_running_loop().time()
        world.edit(AccessSession, well.key, stop=True)
        await eventually(lambda: not cloud.rules(healthy), "it closes", 1)
        await asyncio.sleep(20)
        assert cloud.sent_since("revokes", now) <= 40 + 3, "one group a second, with two credentials"


async def test_an_id_that_is_not_known_yet_holds_up_no_other(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        old = [world.session(f"old-{number}", cidrs=(f"198.51.100.{number}/32",)) for number in range(3)]
        await asyncio.sleep(60)
        new = world.session("new", cidrs=("203.0.113.8/32",))
        await eventually(lambda: len(cloud.rules(group)) == 4, "all are open", 5)
        cloud.unknown = {id_ for id_, held in cloud.rules(group).items() if held.rule and held.rule.cidr[:3] == "203"}
        with cloud.contended("revokes", 1.2):
            for each in (*old, new):
                world.edit(AccessSession, each.key, stop=True)
            await eventually(lambda: sources(cloud, group) == {"203.0.113.8/32"}, "those that are known close", 5)
            await asyncio.sleep(4)
            cloud.unknown.clear()
            await eventually(lambda: not cloud.rules(group), "then it does", 20)


async def test_a_door_that_changes_comes_through_although_calls_of_both_kinds_are_scarce(
    world: World, cloud: PacedFirewalls
) -> None:
    """The new one has its room: what another resource may put into the group is another matter."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        resource = world.resource()
        world.resource("small", aws={"region": group.region, "securityGroups": [group.id], "rulesPerSecurityGroup": 1})
        session = world.session()
        await asyncio.sleep(130)
        with cloud.contended("grants", 60.0), cloud.contended("revokes", 20.0):
            await asyncio.sleep(1)
            world.edit(ProtectedResource, resource.key, ports=[{"port": 5432, "endPort": 5440}])
            await eventually(
                lambda: [held.rule.end_port for held in cloud.rules(group).values() if held.rule] == [5440], "it", 100
            )
        assert world.status(session).phase is Phase.ACTIVE


async def test_who_waits_for_a_call_is_told_so_and_what_he_has_is_on_record(
    world: World, cloud: PacedFirewalls
) -> None:
    group, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=60):
        resource = world.resource()
        world.resource("other", groups=(other.id,))
        first = world.session()
        await asyncio.sleep(150)
        with cloud.contended("grants", 100.0):
            await asyncio.sleep(1)
            cloud.rules(group).clear()
            await eventually(lambda: world.status(first).phase is Phase.PENDING, "its being shut is told", 40)
            assert world.status(first).resources[0].reason == "CallsAreScarce"
            world.session("second", cidrs=("203.0.113.8/32",), resources=({"name": "staging-db"},))
            status = world.cluster.get(ProtectedResource, resource.key).status
            assert [each.status for each in status.conditions if each.type == "Ready"] == ["True"]
        await eventually(lambda: world.status(first).phase is Phase.ACTIVE, "a call", 120)


async def test_a_new_rule_that_neither_a_read_nor_its_label_finds_is_not_told_as_open(
    world: World, cloud: PacedFirewalls
) -> None:
    """Somebody has removed it at once, and there is no call to put it again."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=200):
        world.resource()
        await asyncio.sleep(READS_LAG_SECONDS + 1 + 200 - 1)
        session = world.session()
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 0.9)
        with cloud.contended("grants", 100.0):
            cloud.rules(group).clear()
            await eventually(lambda: world.status(session).phase is Phase.PENDING, "its being shut is told", 10)
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "a call", 120)


def told_of(world: World, session: AccessSession) -> int:
    """How often its status was written."""
    return sum(written == ("status", session.key) for written in world.cluster.writes)


async def test_who_waits_for_room_is_not_told_of_calls(world: World, cloud: PacedFirewalls) -> None:
    """Nor does who never fits begin to hope."""
    group = cloud.create("sg-0aaa", limit=4)
    async with world.running(resync=45):
        world.resource(aws={"region": group.region, "securityGroups": [group.id], "rulesPerSecurityGroup": 4})
        stopped = [world.session(f"open-{number}", cidrs=(f"198.51.100.{number}/32",)) for number in range(4)]
        await eventually(lambda: len(cloud.rules(group)) == 4, "all are open")
        first, second = (world.session(f"w{number}", cidrs=(f"203.0.113.{number}/32",)) for number in range(2))
        never = world.session("never", cidrs=tuple(f"203.0.113.{number}/32" for number in range(100, 106)))
        await eventually(lambda: world.status(never).phase is Phase.FAILED, "it never fits", 5)
        before = told_of(world, never), told_of(world, second)
        with cloud.contended("grants", 60.0):
            await asyncio.sleep(1)
            world.edit(AccessSession, stopped[0].key, stop=True)
            await eventually(lambda: world.status(first).phase is Phase.ACTIVE, "a call", 90)
        assert told_of(world, never) == before[0]
        assert told_of(world, second) == before[1] + 1, "its place alone"


async def test_who_waits_for_a_moment_is_told_once(world: World, cloud: PacedFirewalls) -> None:
    group = cloud.create("sg-0aaa", limit=1000)
    async with world.running():
        await several(world, group, ("one", "other"))
        with cloud.contended("grants", 0.3):
            await asyncio.sleep(1)
            sessions = [
                world.session(f"{name}-{number}", cidrs=(f"{net}.{number}/32",), resources=({"name": name},))
                for name, net in (("one", "198.51.100"), ("other", "203.0.113"))
                for number in range(20)
            ]
            await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in sessions), "all", 20)
        assert {told_of(world, each) for each in sessions} == {1}


async def test_the_old_door_closes_although_the_call_for_the_new_one_comes_in_a_moment(
    world: World, cloud: PacedFirewalls
) -> None:
    group, reserve, asked = cloud.create("sg-0aaa"), cloud.reserve, []

    def in_a_moment(target: Target, kinds: Collection[Write], *, doubtful: bool) -> Mapping[Write, float]:
        waits = dict(reserve(target, kinds, doubtful=doubtful))
        if "grants" in kinds:
            asked.append(kinds)
            waits["grants"] = 1e-6 if len(asked) == 1 else 0.0
        return waits

    async with world.running(resync=3600):
        resource = world.resource()
        world.session()
        await asyncio.sleep(130)
        cloud.reserve = in_a_moment  # type: ignore[method-assign]
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5432, "endPort": 5440}])
        await eventually(
            lambda: [held.rule.end_port for held in cloud.rules(group).values() if held.rule] == [5440], "it", 10
        )


async def test_a_rule_is_put_by_nobody_who_does_not_want_it_any_more(world: World, cloud: PacedFirewalls) -> None:
    """Two want the same one. Who would have put it ends while other credentials' call takes its time."""
    group, grant = cloud.create("sg-0aaa"), cloud.grant
    put: dict[str, str] = {}

    async def noted(
        access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        assert access.credentials.secret is not None
        put.update((new.rule.cidr, access.credentials.secret[1]) for new in rules)
        return await grant(access, target, rules, stamp, still)

    cloud.grant = noted  # type: ignore[method-assign]
    async with world.running():
        await several(world, group, ("before", "ends", "stays"))
        cloud.slow_answer = 6.0
        world.session("before", cidrs=("198.51.100.1/32",), resources=({"name": "before"},))
        ends = world.session("ends", cidrs=("203.0.113.8/32",), resources=({"name": "ends"},))
        stays = world.session("stays", cidrs=("203.0.113.8/32",), resources=({"name": "stays"},))
        await eventually(lambda: "198.51.100.1/32" in put, "the first call", 5)
        world.edit(AccessSession, ends.key, stop=True)
        await eventually(lambda: world.status(stays).phase is Phase.ACTIVE, "it opens", 40)
        assert put["203.0.113.8/32"] == "stays"


async def test_what_somebody_else_had_put_first_is_kept_as_well_until_the_new_one_is_there(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        await several(world, group, ("first", "second"))
        put = world.session("first", resources=({"name": "first"},))
        await asyncio.sleep(5)
        world.session("second", duration="3h", resources=({"name": "second"},))
        await asyncio.sleep(5)
        world.edit(AccessSession, put.key, stop=True)
        await asyncio.sleep(150)
        with cloud.contended("grants", 30.0):
            await asyncio.sleep(1)
            world.edit(ProtectedResource, Key("ci", "second"), ports=[{"port": 5432, "endPort": 5440}])
            for _ in range(70):
                await asyncio.sleep(0.5)
                assert cloud.rules(group), "the door is never shut"
        ports = [held.rule.end_port for held in cloud.rules(group).values() if held.rule]
        assert ports == [5440]
