"""What fails must not hold up what has to close."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import Access, ClusterError, NewRule, Still
from gatepass.core.rules import Stamp, Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import FINALIZER, Custom, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Phase, Requester
from tests.core.builders import a_resource, a_session
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import LoopClock, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

SECRET = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}


async def test_a_session_closes_on_time_while_its_admission_backs_off(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")

    async def down(_who: Requester, _key: Key) -> bool:
        raise ClusterError("500: authorizer")

    async with world.running():
        world.resource("db")
        world.session(resources=({"name": "db"}, {"name": "late"}), duration="10m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        world.cluster.may_use = down  # type: ignore[method-assign]
        world.resource("late", ports=({"port": 1},))
        await asyncio.sleep(597)
        assert cloud.rules(group) == {}


async def test_after_a_start_a_group_that_is_read_late_holds_up_no_other(world: World, cloud: SlowFirewalls) -> None:
    """What nobody wants, wherever it would be, goes before it is known where what is wanted will be."""
    group = cloud.create("sg-0aaa")
    cloud.create("sg-0bbb")
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        ended = world.session()
        world.session("stays", cidrs=("203.0.113.9/32",))
        await asyncio.sleep(5)
    world.edit(AccessSession, ended.key, stop=True)
    cloud.slow["sg-0bbb"] = 30.0
    async with world.running():
        await asyncio.sleep(2)
        assert [rule.rule.cidr for rule in cloud.rules(group).values() if rule.rule] == ["203.0.113.9/32"]


async def test_credentials_that_cannot_be_held_hold_up_nobody_else(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")

    async def refused(_namespace: str, _name: str) -> None:
        raise ClusterError("403: secrets is forbidden")

    world.cluster.hold_secret = refused  # type: ignore[method-assign]
    async with world.running(resync=60):
        world.resource("victim", namespace="victim")
        session = world.session(namespace="victim", resources=({"name": "victim"},), duration="1m")
        world.resource("other", namespace="evil", aws=SECRET)
        await asyncio.sleep(600)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_resource_that_cannot_be_held_holds_up_nobody_else(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    world.cluster.refuse = lambda verb: verb == "hold"
    async with world.running(resync=60):
        world.resource("victim")
        session = world.session(resources=({"name": "victim"},), duration="1m")
        await asyncio.sleep(5)
        world.cluster.put(a_resource("other", namespace="evil"))
        await asyncio.sleep(600)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_listing_that_began_before_a_deletion_brings_nothing_back(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(5)
        listed = world.cluster.get(AccessSession, session.key)
        world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(2)
        engine.seen(listed)
        await asyncio.sleep(500)
        assert cloud.rules(group) == {}


async def test_a_session_made_again_under_its_name_confuses_nobody(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource("db")
        world.resource("cache", ports=({"port": 6379},))
        other = world.session("other", resources=({"name": "db"},), duration="2m", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(1)
        now = LoopClock().now()
        for uid, version, name in (("uid-1", "900", "db"), ("uid-2", "901", "cache")):
            metadata = {"uid": uid, "resourceVersion": version}
            engine.session_seen(a_session("run", metadata=metadata, resources=({"name": name},), created=now))
        engine.session_gone(Key("ci", "run"), "uid-2")
        await asyncio.sleep(300)
        assert (world.status(other).phase, cloud.rules(group)) == (Phase.EXPIRED, {})


async def test_a_rule_that_a_lagging_read_hides_still_goes_when_nobody_wants_it(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        await asyncio.sleep(100)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        await asyncio.sleep(20.9)
        cloud.blind = True
        cloud.slow["sg-0aaa"] = 1.0
        await asyncio.sleep(0.5)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(5)
        cloud.blind = False
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}


def signed_in_by(name: str) -> dict[str, Any]:
    return {**SECRET, "credentials": {"secretRef": {"name": name}}}


async def test_a_resource_made_again_does_not_get_the_credentials_of_the_old_one(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa")
    identify, grant = cloud.identify, cloud.grant
    used: list[str] = []

    async def slowly(access: Access) -> str:
        await asyncio.sleep(4 if access.credentials.secret == ("ci", "old") else 1)
        return await identify(access)

    async def noting(access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still) -> Any:
        used.append((access.credentials.secret or ("", ""))[1])
        return await grant(access, target, rules, stamp, still)

    cloud.identify, cloud.grant = slowly, noting  # type: ignore[method-assign]
    async with world.running():
        old = world.resource(aws=signed_in_by("old"))
        await asyncio.sleep(0.5)
        world.cluster.put(world.cluster.get(ProtectedResource, old.key), finalizers=())
        world.cluster.delete(ProtectedResource, old.key)
        metadata = {"finalizers": [FINALIZER], "uid": "new"}
        world.cluster.put(a_resource(metadata=metadata, aws=signed_in_by("new")))
        world.session()
        await asyncio.sleep(20)
        assert used == ["new"]


async def test_each_lost_answer_has_to_be_settled_by_a_read_that_can_show_it(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    grant = cloud.grant
    async with world.running(resync=100_000):
        world.resource()
        await asyncio.sleep(5)
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def lost(access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still) -> Any:
            if loop.time() - began > 30:
                await grant(access, target, rules, stamp, still)
            raise UnknownOutcomeError("lost")

        cloud.grant = lost  # type: ignore[method-assign]
        cloud.blind = True
        session = world.session(duration="24h")
        await asyncio.sleep(40)
        assert len(cloud.rules(group)) == 1
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(90)
        world.session("other", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.EXPIRING


async def test_a_shared_secret_is_let_go_when_its_resources_go_together(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    release = world.cluster.release

    async def slowly(held: Custom) -> None:
        await asyncio.sleep(0.015625)
        await release(held)

    world.cluster.release = slowly  # type: ignore[method-assign]
    async with world.running():
        both = [world.resource("a", aws=signed_in_by("key")), world.resource("b", aws=signed_in_by("key"))]
        await asyncio.sleep(5)
        for each in both:
            world.cluster.delete(ProtectedResource, each.key)
        await asyncio.sleep(60)
        assert not [key for kind, key in world.cluster.objects if kind is ProtectedResource]
        assert ("release_secret", Key("ci", "key")) in world.cluster.writes


async def test_a_new_session_is_not_failed_by_the_refusal_of_an_old_one(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    grant = cloud.grant
    phases: list[object] = []

    async def refused(_access: Access, _target: Target, rules: Sequence[NewRule], _stamp: Stamp, _still: Still) -> Any:
        error = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not allowed")
        return {new.rule: error for new in rules}

    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        cloud.grant = refused  # type: ignore[method-assign]
        first = world.session("first")
        await asyncio.sleep(5)
        assert world.status(first).phase is Phase.FAILED
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(5)
        cloud.grant = grant  # type: ignore[method-assign]
        second = world.session("second", cidrs=("203.0.113.8/32",))
        for _ in range(50):
            await asyncio.sleep(0.1)
            phases.append(world.status(second).phase)
        assert Phase.FAILED not in phases
        assert phases[-1] is Phase.ACTIVE


def unreachable(cloud: SlowFirewalls, until: float, *calls: str) -> None:
    """No call of these gets an answer before that second."""

    def between(call: Any) -> Any:
        async def answered(*given: Any, **named: Any) -> Any:
            if LoopClock().monotonic() < until:
                raise ProviderError(Failure.RETRY, "NoConnection", "AWS cannot be reached")
            return await call(*given, **named)

        return answered

    for name in calls:
        setattr(cloud, name, between(getattr(cloud, name)))


async def test_what_ended_while_nothing_answered_closes_as_soon_as_something_does(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        world.session(duration="1m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        unreachable(cloud, 900, "revoke")
        await asyncio.sleep(900 - LoopClock().monotonic())
        assert len(cloud.rules(group)) == 1
        await asyncio.sleep(2)
        assert cloud.rules(group) == {}


@pytest.mark.parametrize("calls", [("identify",), ("inspect",), ("observe",), ("identify", "inspect", "observe")])
async def test_an_operator_that_starts_while_nothing_answers_closes_as_soon_as_something_does(
    world: World, cloud: SlowFirewalls, calls: tuple[str, ...]
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        world.session(duration="1m")
        await asyncio.sleep(5)
    unreachable(cloud, 900, *calls)
    async with world.running(resync=3600):
        await asyncio.sleep(900 - LoopClock().monotonic())
        assert len(cloud.rules(group)) == 1
        await asyncio.sleep(3)
        assert cloud.rules(group) == {}


async def test_an_end_that_could_not_be_written_is_written_as_soon_as_it_can(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        binding = world.binding()
        world.session_by(binding, duration="1h")
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status" and LoopClock().monotonic() < 300
        world.edit(ApiKeyBinding, binding.key, revoked=True)
        await asyncio.sleep(300 - LoopClock().monotonic())
        assert len(cloud.rules(group)) == 1, "an end that could be taken back is written before its rules go"
        await asyncio.sleep(2)
        assert cloud.rules(group) == {}


async def test_a_rule_for_ports_of_before_counts_until_it_is_gone(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        (before,) = cloud.rules(group)
        cloud.revoke_refused = True
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5433}])
        await asyncio.sleep(5)
        assert before in {record.id for record in world.status(session).resources[0].rules}
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(30)
        assert world.status(session).phase is Phase.EXPIRING
        cloud.revoke_refused = False
        await asyncio.sleep(300)
        assert (world.status(session).phase, cloud.rules(group)) == (Phase.CANCELLED, {})


async def test_a_rule_that_a_read_has_shown_is_not_gone_because_the_next_one_lags(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(150)
        cloud.lose_answers = True
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE, "a read has found what became of it"
        cloud.blind = True
        world.session("other", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(0.1)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(2)
        assert world.status(session).phase is Phase.CANCELLED
        assert "203.0.113.7/32" not in {rule.rule.cidr for rule in cloud.rules(group).values() if rule.rule}


@pytest.mark.parametrize("landed", [True, False])
async def test_what_a_session_may_have_been_told_that_it_has_is_kept(
    world: World, cloud: SlowFirewalls, *, landed: bool
) -> None:
    group = cloud.create("sg-0aaa")
    write = world.cluster.write_session_status

    async def unanswered(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        world.cluster.write_session_status = write  # type: ignore[method-assign]
        watchers, world.cluster.watchers = world.cluster.watchers, []
        if landed:
            await write(session, status)
        world.cluster.watchers = watchers  # whom nobody tells before the next change
        world.cluster.delete(ProtectedResource, resource.key)
        raise ClusterError("no answer")

    world.cluster.write_session_status = unanswered  # type: ignore[method-assign]
    async with world.running():
        resource = world.resource()
        await asyncio.sleep(5)
        session = world.session()
        await asyncio.sleep(10)
        assert len(cloud.rules(group)) == 1
        assert cloud.calls["revoke"] == 0
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(5)
        assert not [key for kind, key in world.cluster.objects if kind is ProtectedResource]


async def test_what_a_lagging_read_does_not_show_is_proven_in_one_call_for_all(
    world: World, cloud: SlowFirewalls
) -> None:
    """And what somebody has taken away meanwhile is put back."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=30):
        await asyncio.sleep(130)
        world.resource()
        for number in range(20):
            world.session(f"it-{number}", cidrs=(f"203.0.113.{number}/32",))
        await asyncio.sleep(5)
        rules, before = dict(cloud.rules(group)), dict(cloud.calls)
        taken = cloud.rules(group).pop(min(rules))
        cloud.blind = True
        await asyncio.sleep(30)
        assert cloud.calls["relabel"] == before.get("relabel", 0) + 2, (
            "after the next read too, which tells of the loss"
        )
        assert cloud.calls["grant"] == before["grant"] + 1
        assert {rule.rule for rule in cloud.rules(group).values()} == {rule.rule for rule in rules.values()}
        assert taken.id not in cloud.rules(group)
