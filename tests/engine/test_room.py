"""Room: groups fill in order, nobody is moved, who waits is told, and who comes first opens first."""

import asyncio
import itertools

import pytest

from gatepass.core.rules import Rule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Phase, ResourceState
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


def fill(cloud: SlowFirewalls, target: Target, rules: int) -> list[str]:
    return [cloud.put(target, Rule(f"198.51.100.{n}/32", "tcp", 22, 22), "office") for n in range(rules)]


def condition(world: World, key: Key, kind: str) -> tuple[str, str]:
    found = world.cluster.get(ProtectedResource, key)
    return next((c.status, c.message) for c in found.status.conditions if c.type == kind)


async def test_a_session_that_does_not_fit_is_told_waits_and_opens(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    others = fill(cloud, group, 58)
    async with world.running(resync=10):
        resource = world.resource(ports=({"port": 1}, {"port": 2}, {"port": 3}))
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.PENDING
        assert world.status(session).resources[0].message == "place 1: needs 3 rules, 2 free (IPv4)"
        status, message = condition(world, resource.key, "CapacityAvailable")
        assert status == "False"
        assert "58 of 60" in message
        assert "needs 3 rules, 2 free" in message
        assert len(cloud.rules(group)) == 58
        cloud.rules(group).pop(others[0])
        await asyncio.sleep(15)
        assert world.status(session).phase is Phase.ACTIVE
        assert condition(world, resource.key, "CapacityAvailable")[0] == "False"  # 60 of 60 now
        assert set(others[1:]) < set(cloud.rules(group))


async def test_rules_go_to_the_next_group_and_stay_there(world: World, cloud: SlowFirewalls) -> None:
    first, second = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb", limit=1)
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        one = world.session("one")
        await asyncio.sleep(1)
        two = world.session("two", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(1)
        assert (len(cloud.rules(first)), len(cloud.rules(second))) == (1, 1)
        (before,) = cloud.rules(second)
        world.edit(AccessSession, one.key, stop=True)
        await asyncio.sleep(5)
        assert (list(cloud.rules(first)), list(cloud.rules(second))) == ([], [before])
        assert world.status(two).phase is Phase.ACTIVE
    async with world.running():
        await asyncio.sleep(200)
        assert (list(cloud.rules(first)), list(cloud.rules(second))) == ([], [before])


@pytest.mark.parametrize(("limit", "policy"), [(2, {}), (60, {"maxConcurrentSessions": 2})])
async def test_who_waits_opens_in_order_of_creation(
    world: World, cloud: SlowFirewalls, limit: int, policy: dict[str, int]
) -> None:
    group = cloud.create("sg-0aaa", limit=limit)
    async with world.running():
        world.resource(policy=policy)
        sessions = []
        for number in range(5):
            sessions.append(world.session(f"s{5 - number}", cidrs=(f"203.0.113.{number}/32",)))
            await asyncio.sleep(1)
        told = [world.status(session).resources[0] for session in sessions]
        assert [each.state for each in told] == [ResourceState.APPLIED] * 2 + [ResourceState.WAITING] * 3
        assert [(each.message or "").partition(":")[0] for each in told[2:]] == ["place 1", "place 2", "place 3"]
        world.edit(AccessSession, sessions[0].key, stop=True)
        await asyncio.sleep(5)
        assert world.status(sessions[2]).phase is Phase.ACTIVE
        assert world.status(sessions[3]).phase is Phase.PENDING
        assert len(cloud.rules(group)) == 2


async def test_who_waits_since_the_same_second_opens_in_order_too(world: World, cloud: SlowFirewalls) -> None:
    """Creation is told in whole seconds."""
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        world.resource()
        sessions = [world.session(name, cidrs=(f"203.0.113.{number}/32",)) for number, name in enumerate("dcba")]
        await asyncio.sleep(5)
        texts = [world.status(session).resources[0].message or "" for session in sessions[1:]]
        assert [text[: len("place 1")] for text in texts] == ["place 1", "place 2", "place 3"]
        for ended, following in itertools.pairwise(sessions):
            world.edit(AccessSession, ended.key, stop=True)
            await asyncio.sleep(3)
            assert world.status(following).phase is Phase.ACTIVE


async def test_a_restart_keeps_the_order_of_those_of_one_second(world: World, cloud: SlowFirewalls) -> None:
    """An API server lists them by name."""
    group = cloud.create("sg-0aaa", limit=1)
    async with world.running():
        world.resource()
        sessions = [world.session(name, cidrs=(f"203.0.113.{number}/32",)) for number, name in enumerate("edcba")]
        await asyncio.sleep(5)
    since = sessions[0].metadata.creation_timestamp
    last = world.session("0", created=since, cidrs=("203.0.113.100/32",))  # of which no operator has heard yet
    for ended, following in itertools.pairwise([*sessions, last]):
        async with world.running():
            world.edit(AccessSession, ended.key, stop=True)
            await eventually(lambda: world.status(following).phase is Phase.ACTIVE, "its turn", 200)  # noqa: B023  awaited here
            assert len(cloud.rules(group)) == 1


async def test_a_thousand_sessions_and_room_for_sixty(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa", limit=60)
    async with world.running():
        world.resource()
        sessions = [world.session(f"s{n:03}", cidrs=(f"203.0.{n // 250}.{n % 250}/32",)) for n in range(1000)]
        await asyncio.sleep(60)
        told = [world.status(session).resources[0] for session in sessions]
        assert [each.state for each in told] == [ResourceState.APPLIED] * 60 + [ResourceState.WAITING] * 940
        places = [each.message for each in told[60:]]
        assert places == [f"place {place}: needs 1 rule, 0 free (IPv4)" for place in range(1, 941)]
        for ended in range(3):
            world.edit(AccessSession, sessions[ended].key, stop=True)
            await asyncio.sleep(1)
            phases = [world.status(session).phase for session in sessions[ended + 1 : ended + 63]]
            assert phases == [Phase.ACTIVE] * 60 + [Phase.PENDING] * 2
            assert len(cloud.rules(group)) == 60
        await asyncio.sleep(5)  # until the records of the three that have ended are let go of
        writes = len(world.cluster.writes)
        await asyncio.sleep(31)
        assert world.status(sessions[-1]).resources[0].message == "place 937: needs 1 rule, 0 free (IPv4)"
        assert len(world.cluster.writes) - writes <= 940, "places are told once in half a minute at most"


async def test_a_place_is_told_within_half_a_minute_whoever_ends_meanwhile(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa", limit=10)
    async with world.running():
        world.resource()
        sessions = [world.session(f"s{number:02}", cidrs=(f"203.0.113.{number}/32",)) for number in range(40)]
        await asyncio.sleep(1)
        for ended in range(5):
            world.edit(AccessSession, sessions[ended].key, stop=True)
            await asyncio.sleep(5)
        writes = len(world.cluster.writes)
        await asyncio.sleep(5.5)
        told = [world.status(session).resources[0].message for session in sessions[15:]]
        assert told == [f"place {place}: needs 1 rule, 0 free (IPv4)" for place in range(1, 26)]
        assert len(world.cluster.writes) - writes <= len(told) + 2, "one for each, and the resource's counts"
        writes = len(world.cluster.writes)
        await asyncio.sleep(100)
        assert len(world.cluster.writes) == writes, "nothing where no place has changed"


async def test_a_ceiling_of_concurrent_sessions(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"maxConcurrentSessions": 1})
        one = world.session("one")
        await asyncio.sleep(1)
        two = world.session("two", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(1)
        assert "1 of 1 concurrent sessions" in (world.status(two).resources[0].message or "")
        world.edit(AccessSession, one.key, stop=True)
        await asyncio.sleep(5)
        assert world.status(two).phase is Phase.ACTIVE


async def test_who_is_live_counts_where_nobody_can_look(world: World, cloud: SlowFirewalls) -> None:
    """An older session was refused, and the policy was loosened while nobody ran."""
    group, spare = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    both = ("sg-0aaa", "sg-0bbb")
    async with world.running():
        resource = world.resource(groups=both, policy={"maxConcurrentSessions": 1})
        older = world.session("older", cidrs=("10.0.0.1/32",))
        await asyncio.sleep(1)
        live = world.session("live")
        await asyncio.sleep(5)
        assert "private address" in (world.status(older).resources[0].message or "")
        assert world.status(live).phase is Phase.ACTIVE
        rules = list(cloud.rules(group))
    world.edit(ProtectedResource, resource.key, policy={"maxConcurrentSessions": 1, "allowPrivateAddresses": True})
    cloud.unreadable.add("sg-0aaa")
    async with world.running():
        await asyncio.sleep(200)
        assert (list(cloud.rules(group)), list(cloud.rules(spare))) == (rules, [])
        assert "1 of 1 concurrent sessions are live" in (world.status(older).resources[0].message or "")


async def test_the_firewalls_own_word_on_its_limit_wins(world: World, cloud: SlowFirewalls) -> None:
    first, second = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb")
    fill(cloud, first, 1)
    async with world.running():
        aws = {"region": "eu-central-1", "securityGroups": ["sg-0aaa", "sg-0bbb"], "rulesPerSecurityGroup": 100}
        world.resource(aws=aws)
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
        assert len(cloud.rules(second)) == 1


async def test_a_higher_quota_counts_at_once_where_the_firewall_has_said_that_it_is_full(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa", limit=1)
    fill(cloud, group, 1)
    async with world.running(resync=3600):
        aws = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]}
        resource = world.resource(aws={**aws, "rulesPerSecurityGroup": 50})
        session = world.session()
        await asyncio.sleep(200)
        assert world.status(session).resources[0].state is ResourceState.WAITING
        cloud.create("sg-0aaa", limit=60)
        fill(cloud, group, 1)
        world.edit(ProtectedResource, resource.key, aws={**aws, "rulesPerSecurityGroup": 60})
        await asyncio.sleep(3)
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_group_off_the_list_is_drained_without_a_gap(world: World, cloud: SlowFirewalls) -> None:
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=10):
        resource = world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28", "description": "office"}])
        session = world.session()
        await asyncio.sleep(5)
        assert len(cloud.rules(first)) == 2
        world.edit(ProtectedResource, resource.key, aws={"region": "eu-central-1", "securityGroups": ["sg-0bbb"]})
        for _ in range(100):
            await asyncio.sleep(0.05)
            held = {rule.rule for group in (first, second) for rule in cloud.rules(group).values()}
            assert len(held) == 2
        await asyncio.sleep(20)
        assert (len(cloud.rules(first)), len(cloud.rules(second))) == (0, 2)
        assert world.status(session).phase is Phase.ACTIVE
        assert [target.id for target in world.cluster.get(ProtectedResource, resource.key).status.targets] == [
            "sg-0bbb"
        ]


async def test_tightening_takes_one_resource_then_the_session(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    wide = {"minPrefixLength": {"ipv4": 24}}
    async with world.running():
        db = world.resource("db", policy=wide)
        cache = world.resource("cache", policy=wide, ports=({"port": 6379},))
        session = world.session(resources=({"name": "db"}, {"name": "cache"}), cidrs=("203.0.113.0/24",))
        await asyncio.sleep(5)
        world.edit(ProtectedResource, db.key, policy={})
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.PARTIAL
        assert world.status(session).resources[0].reason == "PolicyWithdrawn"
        assert [rule.rule.port for rule in cloud.rules(group).values() if rule.rule] == [6379]
        world.edit(ProtectedResource, cache.key, policy={})
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.CANCELLED
        assert world.status(session).ended_reason is EndedReason.POLICY_WITHDRAWN
        assert cloud.rules(group) == {}


async def test_a_lower_maximum_moves_the_deadline(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session(duration="24h")
        await asyncio.sleep(5)
        world.edit(ProtectedResource, resource.key, policy={"maxDuration": "10m"})
        await asyncio.sleep(5)
        assert world.status(session).expires_at is not None
        assert len(cloud.rules(group)) == 1
        await asyncio.sleep(600)
        assert cloud.rules(group) == {}
        assert world.status(session).ended_reason is EndedReason.EXPIRED


async def test_a_deleted_resource_waits_for_its_sessions(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        session = world.session()
        await asyncio.sleep(5)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(5)
        assert [rule.rule.cidr for rule in cloud.rules(group).values() if rule.rule] == ["203.0.113.7/32"]
        assert condition(world, resource.key, "Ready") == ("False", "waits for 1 session to end: ci/it-1")
        late = world.session("late", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
        assert world.status(late).resources[0].reason == "ResourceDeleting"
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(10)
        assert (ProtectedResource, resource.key) not in world.cluster.objects
        assert cloud.rules(group) == {}


async def test_a_rule_taken_away_by_hand_comes_back_at_the_resync(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=10):
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        cloud.rules(group).clear()
        await asyncio.sleep(11)
        (new,) = cloud.rules(group)
        assert world.status(session).resources[0].rules[0].id == new
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_foreign_rule_serves_until_its_owner_takes_it_away(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    theirs = cloud.put(group, Rule("203.0.113.7/32", "tcp", 5432, 5432), "office")
    async with world.running(resync=10):
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
        assert list(cloud.rules(group)) == [theirs]
        cloud.rules(group).clear()
        await asyncio.sleep(11)
        (ours,) = cloud.rules(group)
        (record,) = world.status(session).resources[0].rules
        assert (record.id, record.foreign) == (ours, False)


async def test_static_ranges_that_find_no_room_are_told(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    fill(cloud, group, 60)
    async with world.running():
        resource = world.resource(staticCIDRs=[{"cidr": "198.51.100.0/28"}])
        await asyncio.sleep(5)
        status, message = condition(world, resource.key, "CapacityAvailable")
        assert status == "False"
        assert "needs 1 rule, 0 free" in message


async def test_what_has_nowhere_to_go_says_so(world: World, cloud: SlowFirewalls) -> None:
    """Its group is drained, the next one does not exist, and for other ports it needs another rule."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        aws = {"region": "eu-central-1", "securityGroups": ["sg-0bbb"]}
        world.edit(ProtectedResource, resource.key, aws=aws, ports=[{"port": 5433}])
        await asyncio.sleep(5)
        (told,) = world.status(session).resources
        assert (cloud.rules(group), world.status(session).phase, told.reason) == ({}, Phase.FAILED, "TargetNotFound")
        cloud.create("sg-0bbb")
        await asyncio.sleep(300)
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_rule_stays_where_it_is_on_record_although_another_group_has_it_too(
    world: World, cloud: SlowFirewalls
) -> None:
    first, second = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb")
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        world.resource("other", groups=("sg-0aaa",))
        full = world.session("full", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(1)
        moved = world.session("moved")
        await asyncio.sleep(1)
        (before,) = cloud.rules(second)
        world.edit(AccessSession, full.key, stop=True)
        await asyncio.sleep(5)
        world.session("same", resources=({"name": "other"},))
        await asyncio.sleep(1)
        assert len(cloud.rules(first)) == 1
    async with world.running():
        await asyncio.sleep(300)
        assert list(cloud.rules(second)) == [before]
        assert [record.id for record in world.status(moved).resources[0].rules] == [before]


async def test_nobody_counts_on_a_rule_that_a_pass_is_about_to_take_away(world: World, cloud: SlowFirewalls) -> None:
    """It grants first, and that takes its time; meanwhile the pass of another group looks for a place."""
    first, second = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        old = world.session("old")
        await asyncio.sleep(5)
        cloud.make_scarce(first)
        cloud.slow_answer = 10.0
        world.edit(AccessSession, old.key, stop=True)
        world.session("new", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(8)
        again = world.session("again")
        for _ in range(60):
            await asyncio.sleep(1)
            if world.status(again).phase is Phase.ACTIVE:
                ((record,),) = (entry.rules for entry in world.status(again).resources)
                assert record.id in {*cloud.rules(first), *cloud.rules(second)}, "it says Active, and nothing is open"
        assert world.status(again).phase is Phase.ACTIVE
