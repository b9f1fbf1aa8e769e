"""What is refused and has to close is asked about in turn: soon enough when it is allowed again, and not too often."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import ClusterError
from gatepass.core.rules import Target, parse_mark
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.queue import Queue
from gatepass.engine.turns import Turns
from tests.engine.firewalls import SlowFirewalls
from tests.engine.refused import refuse, stopped
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

TEN_MINUTES = 600.0


def by_secret(target: Target, name: str) -> dict[str, Any]:
    """A target and the credentials for it."""
    credentials = {"secretRef": {"name": name}}
    return {"region": "eu-central-1", "securityGroups": [target.id], "credentials": credentials}


@pytest.mark.parametrize("what", ["revoke", "ec2", "identity"])
@pytest.mark.parametrize("seconds", [4.9, 40.0, TEN_MINUTES])
async def test_what_was_refused_closes_within_two_seconds(
    world: World, cloud: SlowFirewalls, what: str, seconds: float
) -> None:
    """Keys run out and are renewed, and a policy is put right."""
    async with world.running(resync=3600):
        group = cloud.create("sg-0aaa")
        world.resource()
        world.session(duration="1m")
        await asyncio.sleep(59)
        refuse(cloud, what)
        await asyncio.sleep(seconds)
        refuse(cloud, what, refused=False)
        await asyncio.sleep(2)
        assert cloud.rules(group) == {}


@pytest.mark.parametrize("static", [False, True])
async def test_a_resource_says_that_a_later_time_cannot_be_written_on_a_rule(
    world: World, cloud: SlowFirewalls, static: bool
) -> None:
    """The rule says that its time is over, to whoever sweeps up what has expired, and nothing ends there."""
    group = cloud.create("sg-0aaa")

    def told() -> tuple[str, str, bool]:
        conditions = world.cluster.get(ProtectedResource, resource.key).status.conditions
        ready = next(each for each in conditions if each.type == "Ready")
        return ready.status, ready.reason, engine.insight.snapshot().targets[0].failing

    async with world.running() as engine:
        resource, session = world.resource(), world.session(duration="1h")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        refuse(cloud, "relabel")
        if static:
            world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": "203.0.113.7/32"}])
        else:
            world.edit(AccessSession, session.key, duration="5h")
        refused = ("False", "UnauthorizedOperation", True)
        await eventually(lambda: told() == refused, "it is told")
        await throughout(
            lambda: told() == refused and world.status(session).phase is Phase.ACTIVE, "and nothing ends", 700
        )
        refuse(cloud, "relabel", refused=False)
        await eventually(lambda: told() == ("True", "Ready", False), "it is right again", 310)
        (rule,) = cloud.rules(group).values()
        mark = parse_mark(rule.description)
        assert mark is not None
        assert mark.until == (None if static else world.status(session).expires_at)


async def test_a_mark_that_is_late_for_a_moment_is_nobodys_trouble(
    world: World, cloud: SlowFirewalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.create("sg-0aaa")
    throttled = ProviderError(Failure.RETRY, "RequestLimitExceeded", "throttled")
    async with world.running():
        world.resource()
        session = world.session(duration="1h")
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it is open")
        asked = asyncio.Event()

        async def relabel(*_: object) -> None:
            asked.set()
            raise throttled

        monkeypatch.setattr(cloud, "relabel", relabel)
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.wait_for(asked.wait(), 5)
        await throughout(lambda: world.ready("staging-db") == "True", "it is ready", 60)


@pytest.mark.parametrize("what", ["revoke", "ec2"])
async def test_of_many_groups_one_is_asked_about_each_second(world: World, cloud: SlowFirewalls, what: str) -> None:
    async with world.running(resync=3600):
        refuse(cloud, what, refused=False)
        targets = await stopped(world, cloud, 20)
        refuse(cloud, what)
        await asyncio.sleep(130)  # past the look at everything of a start
        before, asked = cloud.refused_calls, dict(cloud.calls)
        await asyncio.sleep(100)
        assert cloud.refused_calls - before <= 101
        assert cloud.calls["identify"] - asked["identify"] <= (20 if what == "revoke" else 101)
        refuse(cloud, what, refused=False)
        await asyncio.sleep(2)
        assert not any(cloud.rules(each) for each in targets)


async def test_who_is_refused_for_long_is_asked_more_and_more_rarely() -> None:
    """The line itself, as nothing else has to pass for a day."""
    tries: list[float] = []

    async def refused(key: str) -> None:
        tries.append(asyncio.get_running_loop().time())
        turns.refused("permission", key)

    queue: Queue[str] = Queue("test", refused, workers=2)
    turns: Turns[str, str] = Turns(queue)
    for key in "abc":
        queue.add(key)
    with suppress(TimeoutError):
        async with asyncio.timeout(86_400):
            await queue.run()
    hour, ten_minutes, minute = (sum(at < end for at in tries) for end in (3600, 600, 60))
    assert 60 <= minute <= 63
    assert 600 <= ten_minutes <= 603
    assert hour < 2_300
    assert len(tries) < 4_500
    assert tries[-1] - tries[-2] < 150


@pytest.mark.parametrize("groups", [1, 100])
async def test_who_comes_out_of_turn_puts_nobody_off(world: World, cloud: SlowFirewalls, groups: int) -> None:
    """A resync asks about all of them while they are refused, or more ends there."""
    async with world.running(resync=600):
        targets = [cloud.create(f"sg-{number:04}") for number in range(groups)]
        for target in targets:
            world.resource(target.id, groups=(target.id,))
        sessions = [
            world.session(f"{each.id}-{number}", resources=({"name": each.id},), cidrs=(f"203.0.113.{number}/32",))
            for each in targets
            for number in range(50 // groups + 1)
        ]
        await asyncio.sleep(695)
        refuse(cloud, "revoke")
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
            await asyncio.sleep(0.25)
        await asyncio.sleep(5)
        refuse(cloud, "revoke", refused=False)
        await asyncio.sleep(2)
        assert not any(cloud.rules(each) for each in targets)


async def test_who_comes_to_an_old_line_does_not_wait_as_long_as_those(world: World, cloud: SlowFirewalls) -> None:
    cloud.bolted = {"sg-0000", "sg-0001", "sg-0002"}
    async with world.running(resync=1e9):
        await stopped(world, cloud, 3)
        target = cloud.create("sg-new")
        await asyncio.sleep(6 * 3600)
        world.resource("new", groups=("sg-new",))
        session = world.session("new", resources=({"name": "new"},))
        await asyncio.sleep(30)
        world.edit(AccessSession, session.key, stop=True)
        refuse(cloud, "revoke")
        await asyncio.sleep(10)
        assert cloud.rules(target)
        refuse(cloud, "revoke", refused=False)
        await asyncio.sleep(2)
        assert cloud.rules(target) == {}


@pytest.mark.parametrize("failure", [Failure.RETRY, Failure.FORBIDDEN])
async def test_of_two_identities_each_may_open_the_way(world: World, cloud: SlowFirewalls, failure: Failure) -> None:
    """One is refused for long, in many groups; in the last of them the other one fails for a while too."""
    cloud.barred["old"] = Failure.FORBIDDEN
    async with world.running(resync=1e9):
        targets = [cloud.create(f"sg-{number:04}") for number in range(21)]
        for target in targets:
            world.resource(target.id, aws=by_secret(target, "old"))
        world.resource("other", aws=by_secret(targets[-1], "other"))
        sessions = [world.session(each.id, resources=({"name": each.id},)) for each in targets[:-1]]
        await asyncio.sleep(5)
        for session in sessions:
            world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(3600)
        session = world.session("other", resources=({"name": "other"},))
        await asyncio.sleep(5)
        cloud.barred["other"] = failure
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert cloud.rules(targets[-1])
        del cloud.barred["other"]
        await asyncio.sleep(2)
        assert cloud.rules(targets[-1]) == {}
        assert all(cloud.rules(each) for each in targets[:-1])


async def test_who_wants_nothing_any_more_takes_no_turn(world: World, cloud: SlowFirewalls) -> None:
    """What ended is wanted again in all groups but one, while nothing may be revoked."""
    async with world.running(resync=1e9) as engine:
        targets = await stopped(world, cloud, 50)
        refuse(cloud, "revoke")
        await asyncio.sleep(130)
        for target in targets[:-1]:
            world.session(f"again-{target.id}", resources=({"name": target.id},))
        await asyncio.sleep(5)
        assert engine.insight.snapshot().queues["target"].failing == 1
        refuse(cloud, "revoke", refused=False)
        await asyncio.sleep(2)
        assert cloud.rules(targets[-1]) == {}
        assert all(cloud.rules(each) for each in targets[:-1])


async def test_turns_are_no_failures_that_a_backoff_counts(world: World, cloud: SlowFirewalls) -> None:
    """The API server fails once, when credentials have been refused for a minute."""

    async def down(_namespace: str, _name: str) -> None:
        raise ClusterError("503: unavailable")

    async with world.running(resync=1e9):
        group = cloud.create("sg-0aaa")
        world.resource(aws=by_secret(group, "key"))
        world.session(duration="1m")
        await asyncio.sleep(59)
        cloud.missing, cloud.barred["key"] = [("ci", "key")], Failure.FORBIDDEN
        await asyncio.sleep(60)
        hold_secret, world.cluster.hold_secret = world.cluster.hold_secret, down  # type: ignore[method-assign]
        await asyncio.sleep(1.5)
        world.cluster.hold_secret = hold_secret  # type: ignore[method-assign]
        cloud.missing = ()
        cloud.barred.clear()
        await asyncio.sleep(3)
        assert cloud.rules(group) == {}


async def test_credentials_that_stay_refused_are_looked_at_again(world: World, cloud: SlowFirewalls) -> None:
    """A role's session may have been revoked since, and another one be good."""
    async with world.running(resync=1e9):
        await stopped(world, cloud, 1)
        refuse(cloud, "revoke")
        await asyncio.sleep(30)
        before = cloud.calls["identify"]
        await asyncio.sleep(600)
        assert 8 <= cloud.calls["identify"] - before <= 12


async def test_a_group_that_alone_is_refused_gains_nothing_from_others(world: World, cloud: SlowFirewalls) -> None:
    """What one group allows says nothing about another, as a policy may name groups."""
    cloud.bolted = {"sg-0000"}
    async with world.running(resync=3600):
        await stopped(world, cloud, 2)
        await asyncio.sleep(10)
        before = cloud.refused_calls
        for number in range(100):
            session = world.session(f"next-{number}", resources=({"name": "sg-0001"},))
            await asyncio.sleep(0.5)
            world.edit(AccessSession, session.key, stop=True)
            await asyncio.sleep(0.5)
        assert cloud.refused_calls - before <= 101


async def test_a_group_that_is_gone_is_not_asked_about_in_turn(world: World, cloud: SlowFirewalls) -> None:
    """Nothing is left to close there."""
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(60)
        before = cloud.calls["inspect"]
        await asyncio.sleep(600)
        assert cloud.calls["inspect"] - before <= 5


async def test_who_has_never_been_let_in_is_not_asked_in_turn(world: World, cloud: SlowFirewalls) -> None:
    refuse(cloud, "identity")
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(60)
        before = cloud.calls["identify"]
        await asyncio.sleep(600)
        assert cloud.calls["identify"] - before <= 5


async def test_what_somebody_closes_by_hand_is_noticed_though_revocations_are_refused(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        session = world.session()
        await asyncio.sleep(300)
        cloud.revoke_refused = True
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(100)
        reads = cloud.calls["observe"]
        await asyncio.sleep(600)
        assert cloud.calls["observe"] <= reads + 10
        cloud.rules(group).clear()
        await asyncio.sleep(65)
        assert world.status(session).phase is Phase.CANCELLED
