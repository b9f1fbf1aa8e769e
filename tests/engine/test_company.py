"""Writes that wait for company, so that one call carries more of them."""

import asyncio

import pytest

from gatepass.core.rules import Target
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import TargetState
from gatepass.providers.aws_pacing import Pacing
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

GRANT = "AuthorizeSecurityGroupIngress"


@pytest.fixture
def known() -> TargetState:
    return TargetState(Target("aws", "123456789012", "eu-central-1", "sg-1"))


def test_nobody_joins_where_nothing_waits(known: TargetState) -> None:
    assert not known.joined(0.0)
    assert not known.goes_on(0.0, 0.0)
    assert not known.has_waited


def test_a_wait_ends_when_nobody_has_come_for_a_while(known: TargetState) -> None:
    known.wait(10.0, longest=4.0, patience=0.5, closing=0.6, closes=False)
    assert known.joined(10.3)
    assert known.goes_on(10.3, came=10.3)
    assert known.goes_on(10.8, came=10.7)
    assert known.resumes_at == 11.2
    assert not known.joined(11.2)
    assert not known.goes_on(11.2, came=10.7)
    assert known.has_waited
    known.write()
    assert not known.has_waited


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
    assert known.has_waited


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
        cloud.delay = lambda _target: 4.0  # type: ignore[method-assign]
        cloud.patience = lambda _target: 3.0  # type: ignore[method-assign]
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
