"""The ports of a resource are edited while its rules are put, and while nobody may look."""

import asyncio
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import FINAL, AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import several
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


async def test_a_session_is_not_over_while_a_rule_for_ports_of_before_is_under_way(
    world: World, cloud: PacedFirewalls
) -> None:
    cloud.create("sg-0aaa")
    grant, told = cloud.grant, list[Phase | None]()

    async def late(*arguments: Any) -> Any:
        await asyncio.sleep(3)
        told.append(world.status(session).phase)
        return await grant(*arguments)

    async with world.running(resync=36000):
        resource = world.resource()
        await asyncio.sleep(150)
        cloud.grant = late  # type: ignore[method-assign]
        session = world.session()
        await asyncio.sleep(1)
        world.edit(ProtectedResource, resource.key, ports=[{"port": 7000}])
        await asyncio.sleep(1)
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is over", 20)
        assert told
        assert not FINAL & set(told)


async def test_a_session_is_not_over_while_the_answer_for_ports_of_before_is_lost(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        resource = world.resource()
        await asyncio.sleep(150)
        cloud.lose_answers = cloud.blind = True
        session = world.session()
        await asyncio.sleep(1)
        with cloud.contended("grants", 30.0):
            await asyncio.sleep(0.5)
            world.edit(ProtectedResource, resource.key, ports=[{"port": 7000}])
            await asyncio.sleep(1)
            world.edit(AccessSession, session.key, stop=True)
            await asyncio.sleep(5)
            assert cloud.rules(group)
            assert world.status(session).phase is Phase.EXPIRING


async def test_a_port_that_a_resource_has_lost_is_not_opened_by_a_later_call(
    world: World, cloud: PacedFirewalls
) -> None:
    group = cloud.create("sg-0aaa")

    def doors() -> set[tuple[str, int | None]]:
        return {(held.rule.cidr, held.rule.port) for held in cloud.rules(group).values() if held.rule is not None}

    async with world.running(resync=36000):
        await several(world, group, "ab")
        await asyncio.sleep(150)
        cloud.slow_answer = 6.0
        cidrs = {"a": "198.51.100.1/32", "b": "203.0.113.8/32"}
        for name, cidr in cidrs.items():
            world.session(name, cidrs=(cidr,), resources=({"name": name},))
        await eventually(doors, "the first call", 5)
        (other,) = (name for name, cidr in cidrs.items() if (cidr, 5432) not in doors())
        world.edit(ProtectedResource, Key("ci", other), ports=[{"port": 7000}])
        await throughout(lambda: (cidrs[other], 5432) not in doors(), "it is not opened", 12)


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_rule_that_is_there_is_on_record_while_the_resource_cannot_be_looked_at(
    world: World, cloud: PacedFirewalls, restarted: bool
) -> None:
    group, inspect = cloud.create("sg-0aaa"), cloud.inspect

    async def refuse(*_: Any) -> Any:
        raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not these")

    async with world.running(resync=36000):
        resource = world.resource()
        await asyncio.sleep(150)
        session = world.session()
        await asyncio.sleep(150)
        cloud.inspect = refuse  # type: ignore[method-assign]
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5432}, {"port": 6000}])
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "it is told", 20)
        await asyncio.sleep(10)
        assert [each.removed_at for each in world.status(session).resources[0].rules] == [None]
    if restarted:
        cloud.slow[group.id], cloud.inspect = 5.0, inspect  # type: ignore[method-assign]
        world.edit(AccessSession, session.key, stop=True)
        async with world.running(resync=36000):
            # A rule for the second port may have been put without a record.
            await throughout(
                lambda: not (world.status(session).phase in FINAL and cloud.rules(group)), "over is closed", 130
            )
            assert world.status(session).phase is Phase.CANCELLED


@pytest.mark.parametrize("refused", [True, False])
async def test_a_static_range_stays_open_while_its_resource_has_lost_our_finalizer(
    world: World, cloud: PacedFirewalls, refused: bool
) -> None:
    """As whoever replaces the object takes it off, who may."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36_000):
        resource = world.resource(staticCIDRs=[{"cidr": "203.0.113.9/32", "description": "the office"}])
        await eventually(lambda: cloud.rules(group), "it is open", 10)
        await asyncio.sleep(150)
        there, hold = set(cloud.rules(group)), world.cluster.hold

        async def late(about: Any) -> None:
            await asyncio.sleep(1.0)
            await hold(about)

        world.cluster.hold = late  # type: ignore[method-assign]
        world.cluster.refuse = lambda verb: refused and verb == "hold"
        world.cluster.put(world.cluster.get(ProtectedResource, resource.key), finalizers=())
        await throughout(lambda: there == set(cloud.rules(group)), "it stays", 20)
        assert world.cluster.get(ProtectedResource, resource.key).held is not refused


async def test_a_record_keeps_what_it_has_while_more_ports_are_exchanged_than_it_has_room_for(
    world: World, cloud: PacedFirewalls
) -> None:
    groups = [cloud.create(f"sg-0{number:03}") for number in range(10)]
    before, after = ([{"port": port + each} for each in range(16)] for port in (1000, 2000))
    aws = {"region": "eu-central-1", "securityGroups": [group.id for group in groups]}
    async with world.running(resync=36_000):
        resource = world.resource(aws=aws, ports=before)
        session = world.session(cidrs=tuple(f"203.0.113.{each}/32" for each in range(16)))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 20)
        recorded = {each.id for each in world.status(session).resources[0].rules}
        assert len(recorded) == 256
        cloud.revoke_refused = True
        world.edit(ProtectedResource, resource.key, ports=after)
        await eventually(lambda: sum(map(len, map(cloud.rules, groups))) == 512, "the new ones are there too", 20)
        until = world.status(session).expires_at
        world.edit(AccessSession, session.key, duration="2h")
        await eventually(lambda: world.status(session).expires_at != until, "it is told of its time still", 10)
        assert {each.id for each in world.status(session).resources[0].rules} == recorded
        cloud.revoke_refused = False
        await eventually(
            lambda: {each.port for each in world.status(session).resources[0].rules} == set(range(2000, 2016)),
            "the new ones are on record",
            20,
        )
        assert sum(map(len, map(cloud.rules, groups))) == 256


async def test_what_has_lost_our_finalizer_gets_no_static_range_that_it_has_not(
    world: World, cloud: PacedFirewalls
) -> None:
    """Neither a rule that another's session has, nor the room for one."""
    group = cloud.create("sg-0aaa")
    aws = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "rulesPerSecurityGroup": 3}
    hold = world.cluster.hold

    async def refuse(about: Any) -> None:
        if isinstance(about, ProtectedResource):
            raise ClusterError("refused")
        await hold(about)

    async with world.running(resync=36_000):
        unheld, _ = (world.resource(name, aws=aws) for name in "ab")
        await asyncio.sleep(150)
        world.cluster.hold = refuse  # type: ignore[method-assign]
        world.cluster.put(world.cluster.get(ProtectedResource, unheld.key), finalizers=())
        ranges = [{"cidr": f"203.0.113.{each}/32"} for each in range(4)]
        world.edit(ProtectedResource, unheld.key, staticCIDRs=ranges)
        await asyncio.sleep(5)
        session = world.session(resources=({"name": "b"},), cidrs=("203.0.113.1/32",))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "there is room for it", 5)
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 5)
