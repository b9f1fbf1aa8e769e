"""Writes that wait for company, so that one call carries more of them."""

import asyncio

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, Phase, Requester
from gatepass.engine.targets import TargetState
from gatepass.providers.aws_pacing import Pacing
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

GRANT = "AuthorizeSecurityGroupIngress"


def hold_back(cloud: SlowFirewalls, patience: float) -> None:
    """From now on writes wait for company, for four seconds at most."""
    cloud.delay = lambda _target: 4.0  # type: ignore[method-assign]
    cloud.patience = lambda _target: patience  # type: ignore[method-assign]


@pytest.fixture
def known() -> TargetState:
    return TargetState(Target("aws", "123456789012", "eu-central-1", "sg-1"))


def test_nobody_joins_where_nothing_waits(known: TargetState) -> None:
    assert not known.joined(0.0)
    assert not known.goes_on(0.0, 0.0)
    assert not known.holds_back


def test_a_wait_ends_when_nobody_has_come_for_a_while(known: TargetState) -> None:
    known.wait(10.0, longest=4.0, patience=0.5, closing=0.6, closes=False)
    assert known.joined(10.3)
    assert known.goes_on(10.3, came=10.3)
    assert known.goes_on(10.8, came=10.7)
    assert known.resumes_at == 11.2
    assert not known.joined(11.2)
    assert not known.goes_on(11.2, came=10.7)
    assert known.holds_back
    known.write()
    assert not known.holds_back


def test_a_wait_is_never_longer_than_it_may_be(known: TargetState) -> None:
    known.wait(10.0, longest=1.0, patience=0.5, closing=0.6, closes=False)
    for now in (10.2, 10.4, 10.6, 10.8, 10.99):
        assert known.goes_on(now, came=now)
    assert known.resumes_at == 11.0
    assert not known.goes_on(11.0, came=11.0)


def test_what_has_to_close_shortens_the_wait(known: TargetState) -> None:
    known.wait(10.0, longest=4.0, patience=0.5, closing=0.6, closes=False)
    assert not known.waits_to_close(10.1)
    known.hurry()
    assert known.waits_to_close(10.1)
    assert known.goes_on(10.4, came=10.4)
    assert known.goes_on(10.5, came=10.5)
    assert not known.goes_on(10.6, came=10.6)
    assert not known.waits_to_close(10.6), "its time has come, and it may be that nobody can write"
    assert known.holds_back


@pytest.mark.parametrize(("calls", "patience"), [(0, 0.4), (25, 0.4), (30, 1.4), (45, 4.4)])
def test_patience_grows_as_tokens_get_scarce(calls: int, patience: float) -> None:
    pacing = Pacing()
    for target in range(20):
        pacing.wrote(target, GRANT, 0.0)
    for _ in range(calls):
        pacing.bucket(GRANT).take(0.0)
    assert pacing.patience(0.0) == pytest.approx(patience)


@pytest.mark.looptime
@pytest.mark.asyncio
async def test_who_opens_waits_for_company_and_who_closes_only_for_a_call(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        first = world.session("first", cidrs=("203.0.113.1/32",))
        await asyncio.sleep(1)
        hold_back(cloud, patience=3.0)
        second = world.session("second", cidrs=("203.0.113.2/32",))
        await asyncio.sleep(2)
        assert (world.status(second).phase, len(cloud.rules(group))) == (None, 1)
        await asyncio.sleep(2)
        assert len(cloud.rules(group)) == 2
        cloud.closing_delay = lambda _target: 0.5  # type: ignore[method-assign]
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(0.4)
        assert len(cloud.rules(group)) == 2
        await asyncio.sleep(0.2)
        assert [world.status(session).phase for session in (first, second)] == [Phase.CANCELLED, Phase.ACTIVE]
        cloud.delay = lambda _target: 0.0  # type: ignore[method-assign]
        world.edit(AccessSession, second.key, stop=True)
        await asyncio.sleep(0.05)
        assert len(cloud.rules(group)) == 0, "alone, nobody waits"


@pytest.mark.looptime
@pytest.mark.asyncio
@pytest.mark.parametrize(("admission", "opened", "calls"), [(1.2, 2.0, 1), (9.0, 4.2, 2)])
async def test_who_has_come_and_was_not_looked_at_yet_is_company_on_its_way(
    world: World, cloud: SlowFirewalls, admission: float, opened: float, calls: int
) -> None:
    group = cloud.create("sg-0aaa")

    async def slow(_who: Requester, _key: Key) -> bool:
        await asyncio.sleep(admission)
        return True

    async with world.running():
        world.resource()
        world.session("first", cidrs=("203.0.113.1/32",))
        await asyncio.sleep(1)
        hold_back(cloud, patience=0.5)
        cloud.calls.clear()
        second = world.session("second", cidrs=("203.0.113.2/32",))
        await asyncio.sleep(0.1)
        world.cluster.may_use = slow  # type: ignore[method-assign]
        third = world.session("third", cidrs=("203.0.113.3/32",))
        await asyncio.sleep(0.6)
        assert len(cloud.rules(group)) == 1, "nobody has come for 0.5 s, but one is on the way"
        await asyncio.sleep(opened - 0.7)
        assert world.status(second).phase is Phase.ACTIVE, "the wait has an end, whoever else is on the way"
        await asyncio.sleep(12.0)
        assert world.status(third).phase is Phase.ACTIVE
        assert cloud.calls["grant"] == calls


@pytest.mark.looptime
@pytest.mark.asyncio
@pytest.mark.parametrize("named", ["elsewhere", "nothing"])
async def test_who_is_on_the_way_elsewhere_is_no_company(world: World, cloud: SlowFirewalls, named: str) -> None:
    group = cloud.create("sg-0aaa")
    cloud.create("sg-0bbb", region="eu-west-1")

    async def slow(_who: Requester, key: Key) -> bool:
        await asyncio.sleep(9.0 if key.name == "elsewhere" else 0.0)
        return True

    async with world.running():
        world.resource()
        world.resource("elsewhere", aws={"region": "eu-west-1", "securityGroups": ["sg-0bbb"]})
        await asyncio.sleep(1)
        world.cluster.may_use = slow  # type: ignore[method-assign]
        hold_back(cloud, patience=0.1)
        world.session("other", resources=({"name": "elsewhere"},) if named == "elsewhere" else ({"name": "nothing"},))
        world.session("second")
        await asyncio.sleep(0.2)
        assert len(cloud.rules(group)) == 1


@pytest.mark.looptime
@pytest.mark.asyncio
async def test_who_cannot_be_looked_at_is_no_company(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")

    async def down(_who: Requester, _key: Key) -> bool:
        raise ClusterError("500: the API server has a bad day")

    async with world.running():
        world.resource()
        world.session("first", cidrs=("203.0.113.1/32",))
        await asyncio.sleep(1)
        may_use = world.cluster.may_use
        world.cluster.may_use = down  # type: ignore[method-assign]
        world.session("undecided", cidrs=("203.0.113.3/32",))
        await asyncio.sleep(1)
        world.cluster.may_use = may_use  # type: ignore[method-assign]
        hold_back(cloud, patience=0.1)
        world.session("second", cidrs=("203.0.113.2/32",))
        await asyncio.sleep(0.2)
        assert len(cloud.rules(group)) == 2


@pytest.mark.looptime
@pytest.mark.asyncio
async def test_who_came_to_a_standby_is_no_company_for_it(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    cloud.create("sg-0bbb")
    async with world.running():
        world.resource()
        world.resource("slow", groups=("sg-0bbb",))
        successor = world.standby()
        world.session("first", resources=({"name": "slow"},))
        await asyncio.sleep(1)
    cloud.slow["sg-0bbb"] = 8.0  # so long, nobody asks about the first one
    task = asyncio.create_task(successor.run())
    await asyncio.sleep(1)
    hold_back(cloud, patience=0.1)
    world.session("second")
    await asyncio.sleep(0.2)
    assert len(cloud.rules(group)) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
