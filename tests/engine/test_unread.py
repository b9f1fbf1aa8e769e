"""Groups that cannot be read: what is known to be over closes, nothing opens, and nothing is asked about too often."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Rule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, Requester
from tests.engine.firewalls import SlowFirewalls
from tests.engine.refused import opened, refuse
from tests.engine.world import OWNER, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_what_ends_closes_though_reads_are_refused(world: World, cloud: SlowFirewalls) -> None:
    """A resync asks for a read, and a policy lacks what that needs."""
    async with world.running(resync=200):
        group = cloud.create("sg-0aaa")
        world.resource()
        world.session(duration="10m")
        await asyncio.sleep(500)
        refuse(cloud, "read")
        await asyncio.sleep(102)
        assert cloud.rules(group) == {}


async def test_what_ends_closes_though_reads_get_no_answer(world: World, cloud: SlowFirewalls) -> None:
    async with world.running(resync=200) as engine:
        group = cloud.create("sg-0aaa")
        world.resource()
        session = world.session(duration="10m")
        await asyncio.sleep(500)
        cloud.unreadable = {group.id}
        await asyncio.sleep(102)
        assert cloud.rules(group) == {}
        assert world.status(session).phase is Phase.EXPIRED
        assert not any(engine.insight.snapshot().repaired.values()), "which is no drift"


async def test_who_may_have_made_his_time_longer_since_the_last_read_keeps_his_rule(
    world: World, cloud: SlowFirewalls
) -> None:
    """Two installations share an id by mistake; what the other one has put may go when its time is long over."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        world.resource()
        await asyncio.sleep(700)
        theirs = Rule("198.51.100.9/32", "tcp", 5432, 5432)
        mark = "gatepass until={} for=ci/db"
        maker = f"other/{world.at(690)}"
        id_ = cloud.put(group, theirs, mark.format(world.at(1800)), OWNER, maker)
        await asyncio.sleep(200)
        refuse(cloud, "read")
        await asyncio.sleep(60)
        cloud.rules(group)[id_] = replace(cloud.rules(group)[id_], description=mark.format(world.at(20_000)))
        await asyncio.sleep(3600)
        assert list(cloud.rules(group)) == [id_]


async def test_reads_and_revocations_that_fail_for_other_reasons_are_no_news_each_time(
    world: World, cloud: SlowFirewalls, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.running(resync=200):
        targets, sessions = await opened(world, cloud, 20)
        await asyncio.sleep(130)
        refuse(cloud, "revoke")
        cloud.unreadable = {target.id for target in targets}
        await asyncio.sleep(100)
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
        before = cloud.calls["identify"]
        capsys.readouterr()
        await asyncio.sleep(100)
        assert cloud.calls["identify"] - before <= 45
        assert capsys.readouterr().out.count("call failed") <= 40


async def test_what_nobody_has_decided_on_yet_is_not_asked_about_out_of_turn(
    world: World, cloud: SlowFirewalls
) -> None:
    """After a start the API server does not say who may use what, and EC2 refuses reads."""

    def down(_requester: Requester, _resource: Key) -> bool:
        raise ClusterError("503: unavailable")

    async with world.running(resync=3600):
        targets, sessions = await opened(world, cloud, 20)
    world.cluster.allowed = down
    for target in targets:
        world.session(f"new-{target.id}", resources=({"name": target.id},))
    async with world.running(resync=200):
        await asyncio.sleep(150)
        refuse(cloud, "read")
        await asyncio.sleep(100)
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(10)
        before = cloud.refused_calls
        await asyncio.sleep(100)
        assert cloud.refused_calls - before <= 101


async def test_nothing_opens_where_reads_are_refused(world: World, cloud: SlowFirewalls) -> None:
    """What is there by now nobody knows: it may be full."""
    async with world.running(resync=200):
        group = cloud.create("sg-0aaa")
        world.resource()
        await asyncio.sleep(500)
        refuse(cloud, "read")
        await asyncio.sleep(110)
        session = world.session()
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        refuse(cloud, "read", refused=False)
        await asyncio.sleep(2)
        assert world.status(session).phase is Phase.ACTIVE


async def test_of_many_groups_that_close_unread_one_is_asked_about_each_second(
    world: World, cloud: SlowFirewalls
) -> None:
    async with world.running(resync=200):
        targets, sessions = await opened(world, cloud, 20)
        await asyncio.sleep(130)
        refuse(cloud, "read")
        await asyncio.sleep(100)
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(2)
        assert not any(cloud.rules(each) for each in targets)
        before = cloud.refused_calls
        await asyncio.sleep(100)
        assert cloud.refused_calls - before <= 101


async def test_unreadable_groups_are_not_asked_again_for_what_may_be_there(world: World, cloud: SlowFirewalls) -> None:
    """The answer to a grant was lost: a read has to tell, and not a Duplicate each second."""
    async with world.running(resync=3600):
        resources = [
            world.resource(cloud.create(f"sg-{number:04}").id, groups=(f"sg-{number:04}",)) for number in range(20)
        ]
        await asyncio.sleep(130)
        cloud.lose_answers = cloud.read_refused = True
        sessions = [world.session(each.key.name, resources=({"name": each.key.name},)) for each in resources]
        await asyncio.sleep(60)
        assert cloud.calls["grant"] == 20
        cloud.lose_answers = cloud.read_refused = False
        await asyncio.sleep(2)
        assert {world.status(each).phase for each in sessions} == {Phase.ACTIVE}
        assert cloud.calls["grant"] == 20


async def test_groups_that_were_never_read_do_not_wake_each_other_for_ever(world: World, cloud: SlowFirewalls) -> None:
    groups = [cloud.create(f"sg-{number:04}") for number in range(3)]
    cloud.slow = {group.id: 0.02 for group in groups}
    refuse(cloud, "read")
    async with world.running(resync=3600):
        world.resource(groups=tuple(group.id for group in groups))
        await asyncio.sleep(60)
        assert cloud.refused_calls <= 70


async def test_a_group_that_is_refused_from_the_start_holds_up_no_other(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    there = cloud.create("sg-0bbb")
    cloud.sealed, cloud.slow = {"sg-0aaa"}, {"sg-0aaa": 0.5}
    async with world.running(resync=3600):
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        await asyncio.sleep(0.1)
        session = world.session()
        await asyncio.sleep(3)
        assert world.status(session).phase is Phase.ACTIVE
        assert len(cloud.rules(there)) == 1


async def test_a_rule_whose_grant_got_no_answer_goes_where_it_was_before(world: World, cloud: SlowFirewalls) -> None:
    """It is moved to another group, and a read tells that it stands there."""
    here, there = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=1e9):
        resource = world.resource(groups=(here.id,))
        session = world.session(duration="6h")
        await asyncio.sleep(200)
        cloud.lose_answers = True
        world.edit(ProtectedResource, resource.key, aws={"region": "eu-central-1", "securityGroups": [there.id]})
        await asyncio.sleep(10)
        cloud.lose_answers = False
        await asyncio.sleep(10)
        assert [len(cloud.rules(each)) for each in (here, there)] == [0, 1]
        assert world.status(session).phase is Phase.ACTIVE


@contextlib.asynccontextmanager
async def placed_elsewhere(world: World, cloud: SlowFirewalls, *names: str) -> AsyncIterator[list[AccessSession]]:
    """Sessions of one address, whose group was refused since a start: it can be read now, and still has the rule.

    They were placed in the other group meanwhile, and nothing comes there.
    """
    world.resource(groups=(cloud.create("sg-0aaa").id, cloud.create("sg-0bbb").id))
    async with world.running(resync=3600):
        sessions = [world.session(name) for name in names]
        await asyncio.sleep(5)
    cloud.sealed, cloud.grant_refused = {"sg-0aaa"}, {"sg-0bbb"}
    async with world.running(resync=3600):
        await asyncio.sleep(200)
        cloud.sealed = set()
        await asyncio.sleep(20)
        yield sessions


def rules_of_both(cloud: SlowFirewalls) -> list[int]:
    """How many rules each of the two groups has."""
    return [len(cloud.rules(Target("aws", "123456789012", "eu-central-1", id_))) for id_ in ("sg-0aaa", "sg-0bbb")]


async def test_who_ends_does_not_wait_for_a_rule_that_stays_for_somebody_else(
    world: World, cloud: SlowFirewalls
) -> None:
    async with placed_elsewhere(world, cloud, "ends", "stays") as (ends, stays):
        world.edit(AccessSession, ends.key, stop=True)
        await asyncio.sleep(10)
        assert world.status(ends).phase is Phase.CANCELLED
        assert world.status(stays).phase is Phase.ACTIVE
        assert rules_of_both(cloud) == [1, 0]


async def test_what_is_found_after_all_stays_until_it_stands_where_it_was_placed_meanwhile(
    world: World, cloud: SlowFirewalls
) -> None:
    async with placed_elsewhere(world, cloud, "it-1") as (session,):
        assert rules_of_both(cloud) == [1, 0]
        assert world.status(session).phase is Phase.ACTIVE
        cloud.grant_refused = set()
        await asyncio.sleep(320)  # what is refused for long is tried again after up to five minutes
        assert rules_of_both(cloud) == [0, 1]
        assert world.status(session).phase is Phase.ACTIVE
