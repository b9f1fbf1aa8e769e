"""A cluster that was restored from a backup: sessions are live again that have ended since."""

import asyncio
from datetime import timedelta

import pytest

from gatepass.core.types.session import EndedReason, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_sessions_from_before_end_without_being_opened_again(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    world.resource()
    old = world.session(duration="24h")
    other = world.session("other", source={"cidrs": ["203.0.113.8/32"]}, duration="24h")
    async with world.running():
        await asyncio.sleep(5)
    assert world.status(old).phase is Phase.ACTIVE
    await asyncio.sleep(595)
    # Of the two rules one went when its session ended, before the backup brought the session back.
    cloud.rules(group).pop(world.status(old).resources[0].rules[0].id)
    young = world.session("young", source={"cidrs": ["203.0.113.9/32"]})
    grants = cloud.calls["grant"]
    cutoff = BIG_BANG + timedelta(seconds=300)
    async with world.running(cutoff=cutoff):
        await asyncio.sleep(10)
        assert cloud.calls["grant"] == grants + 1
        assert [str(rule.rule.cidr) for rule in cloud.rules(group).values() if rule.rule] == ["203.0.113.9/32"]
    for ended in (old, other):
        status = world.status(ended)
        assert (status.phase, status.ended_reason, status.ended_at) == (Phase.EXPIRED, EndedReason.NOT_AFTER, cutoff)
        assert [each.message for each in status.conditions if each.type == "Settled"] == [
            "the operator was told to end all sessions from before 2026-11-22T12:05:00Z"
        ]
    assert world.status(young).phase is Phase.ACTIVE
    world.cluster.writes.clear()
    async with world.running(cutoff=cutoff):
        await asyncio.sleep(10)
    assert not {old.key, other.key, young.key} & {key for _, key in world.cluster.writes}, "once is enough"


async def test_a_session_that_ends_earlier_anyway_ends_as_it_would(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    world.resource()
    brief = world.session(duration="1m")
    await asyncio.sleep(600)
    async with world.running(cutoff=BIG_BANG + timedelta(seconds=300)):
        await asyncio.sleep(130)
    status = world.status(brief)
    assert (status.ended_reason, status.ended_at) == (EndedReason.EXPIRED, BIG_BANG + timedelta(seconds=60))
