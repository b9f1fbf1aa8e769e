"""The engine's promises under a virtual clock: what no end-to-end test can time so exactly."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from gatepass.core.rules import Rule, Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Phase, ResourceState
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)


async def test_a_session_opens_with_one_write_and_closes_with_one(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        world.cluster.writes.clear()
        session = world.session(duration="1m")
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
        assert [rule.rule for rule in cloud.rules(group).values()] == [RULE]
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.EXPIRED
        assert cloud.rules(group) == {}
    assert [verb for verb, key in world.cluster.writes if key == session.key and verb == "status"] == ["status"] * 2
    assert (cloud.calls["grant"], cloud.calls["revoke"]) == (1, 1)


async def test_steady_state_is_silent(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        world.session(duration="24h")
        await asyncio.sleep(300)
        world.cluster.writes.clear()
        before = dict(cloud.calls)
        await asyncio.sleep(290)
        assert world.cluster.writes == []
        assert dict(cloud.calls) == before


async def test_a_restart_passes_over_a_group_once_and_not_for_each_session(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    world.resource()
    sessions = [world.session(f"it-{number}", cidrs=(f"203.0.113.{number}/32",)) for number in range(50)]
    async with world.running():
        await asyncio.sleep(5)
        assert {world.status(session).phase for session in sessions} == {Phase.ACTIVE}
    passes: list[Target] = []
    async with world.running() as engine:
        handle = engine._reconciler.queue._handle

        async def noted(target: Target) -> None:
            passes.append(target)
            await handle(target)

        engine._reconciler.queue._handle = noted
        await asyncio.sleep(20)
        assert len(passes) == 1
        world.session("it-50", cidrs=("203.0.113.50/32",))
        await asyncio.sleep(1)
        assert len(passes) > 1


async def test_a_restart_closes_nothing_while_a_second_group_is_still_unread(
    world: World, cloud: SlowFirewalls
) -> None:
    first, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        session = world.session()
        await asyncio.sleep(5)
    (before,) = cloud.rules(first)
    cloud.slow["sg-0bbb"] = 30.0
    async with world.running():
        for _ in range(60):
            await asyncio.sleep(1)
            assert set(cloud.rules(first)) == {before}
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_rule_that_was_never_recorded_is_adopted_after_a_restart(world: World, cloud: SlowFirewalls) -> None:
    first, _ = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        world.resource(groups=("sg-0aaa", "sg-0bbb"))
        session = world.session()
        await asyncio.sleep(5)
    (before,) = cloud.rules(first)
    world.cluster.refuse = lambda _verb: False
    cloud.slow["sg-0bbb"] = 30.0
    async with world.running():
        await asyncio.sleep(60)
        assert set(cloud.rules(first)) == {before}
        assert world.status(session).resources[0].rules[0].id == before


async def test_credentials_that_fail_for_a_while_close_nothing(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    aws = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}
    async with world.running():
        world.resource("theirs")
        mine = world.resource("mine", aws=aws)
        session = world.session(resources=({"name": "mine"},))
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
    cloud.refused.add("key")
    async with world.running(resync=10):
        for _ in range(60):
            await asyncio.sleep(1)
            assert len(cloud.rules(group)) == 1
        resource = world.cluster.get(ProtectedResource, mine.key)
        assert next(c for c in resource.status.conditions if c.type == "CredentialsValid").status == "Unknown"


async def test_nobody_writes_or_keeps_rules_in_a_group_that_they_have_not_proven(
    world: World, cloud: SlowFirewalls
) -> None:
    """A tenant names the group of another team, with credentials that do not find it."""
    victim = cloud.create("sg-0aaa")
    async with world.running(resync=10):
        world.resource("victim", namespace="victim")
        world.confinement = {}
        theirs = world.session("victims", namespace="victim", resources=({"name": "victim"},), duration="1m")
        aws = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"], "credentials": {"secretRef": {"name": "key"}}}
        cloud.refused.add("key")
        world.resource("attack", namespace="evil", aws=aws)
        evil = world.session("evil", namespace="evil", resources=({"name": "attack"},), duration="24h")
        await asyncio.sleep(5)
        assert world.status(theirs).phase is Phase.ACTIVE
        assert [rule.description.split()[-1] for rule in cloud.rules(victim).values()] == ["for=victim/victim"]
        await asyncio.sleep(100)
        assert cloud.rules(victim) == {}
        assert world.status(evil).phase is not Phase.ACTIVE


async def test_the_operators_identity_is_for_the_namespaces_that_the_installation_lists(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    world.confinement = {"platform": ("operator",)}
    async with world.running():
        world.resource("refused", namespace="ci")
        world.resource("allowed", namespace="platform")
        refused = world.session("a", namespace="ci", resources=({"name": "refused"},))
        allowed = world.session("b", namespace="platform", resources=({"name": "allowed"},), cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
        assert world.status(refused).phase is Phase.FAILED
        assert world.status(refused).resources[0].reason == "CredentialsNotAllowed"
        assert world.status(allowed).phase is Phase.ACTIVE
        assert [rule.rule.cidr for rule in cloud.rules(group).values() if rule.rule] == ["203.0.113.8/32"]


async def test_an_end_that_may_be_taken_back_is_written_before_its_rules_go(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        binding = world.binding()
        session = world.session_by(binding)
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ApiKeyBinding, binding.key, revoked=True)
        await asyncio.sleep(20)
        assert len(cloud.rules(group)) == 1
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        assert world.status(session).ended_reason is EndedReason.KEY_REVOKED


async def test_nothing_reopens_a_session_whose_rules_went(world: World, cloud: SlowFirewalls) -> None:
    """Extended after the deadline, while the API server does not take the status."""
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="1m")
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(60)
        assert cloud.rules(group) == {}
        world.edit(AccessSession, session.key, duration="5h")
        await asyncio.sleep(30)
        assert cloud.rules(group) == {}
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(120)
        assert cloud.rules(group) == {}
        assert world.status(session).phase is Phase.EXPIRED


async def test_a_rule_that_reads_do_not_show_yet_is_found_after_a_restart(world: World, cloud: SlowFirewalls) -> None:
    """Killed between the grant and the record, over when it comes back, and reads lag."""
    group = cloud.create("sg-0aaa")
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        world.resource()
        session = world.session(duration="1m")
        await asyncio.sleep(5)
    assert len(cloud.rules(group)) == 1
    world.cluster.refuse = lambda _verb: False
    cloud.blind = True
    await asyncio.sleep(100)
    async with world.running():
        await asyncio.sleep(60)
        assert world.status(session).phase is not Phase.EXPIRED
        cloud.blind = False
        await asyncio.sleep(90)
        assert cloud.rules(group) == {}
        assert world.status(session).phase is Phase.EXPIRED


async def test_sessions_that_end_together_are_not_over_while_their_rule_is_there(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        both = [world.session("a", duration="1m"), world.session("b", duration="1m")]
        await asyncio.sleep(5)
        cloud.revoke_refused = True
        await asyncio.sleep(70)
        assert len(cloud.rules(group)) == 1
        assert any(world.status(session).phase is Phase.EXPIRING for session in both)
        cloud.revoke_refused = False
        await asyncio.sleep(120)
        assert cloud.rules(group) == {}
        assert all(world.status(session).phase is Phase.EXPIRED for session in both)


async def test_a_stopped_session_is_not_over_while_its_rule_is_there(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        cloud.revoke_refused = True
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(30)
        assert len(cloud.rules(group)) == 1
        assert world.status(session).phase is Phase.EXPIRING
        assert "refused" in (world.status(session).resources[0].message or "")


async def test_an_extension_moves_until_later_and_a_shorter_time_does_not_move_it_back(
    world: World, cloud: SlowFirewalls
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="1h")
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, duration="3h")
        await asyncio.sleep(5)
        (rule,) = cloud.rules(group).values()
        assert f"until={world.at(3 * 3600)}" in rule.description
        world.edit(AccessSession, session.key, duration="2h")
        await asyncio.sleep(5)
        assert cloud.rules(group)[rule.id].description == rule.description
        assert world.status(session).expires_at.timestamp() == pytest.approx(session.started_at.timestamp() + 7200)


async def test_a_resource_that_was_replaced_is_another_one(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        session = world.session()
        await asyncio.sleep(5)
        world.cluster.put(resource, finalizers=())
        world.cluster.delete(ProtectedResource, resource.key)
        world.cluster.put(resource, uid="another")
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.CANCELLED
        assert world.status(session).ended_reason is EndedReason.POLICY_WITHDRAWN


async def test_no_grant_without_the_verb_use(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    world.cluster.allowed = lambda who, key: (who.username, key) != ("alice", Key("ci", "staging-db"))
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
        entry = world.status(session).resources[0]
        assert (entry.state, entry.reason) == (ResourceState.FAILED, "NotAuthorized")
        assert cloud.rules(group) == {}
        world.cluster.allowed = lambda _who, _key: True
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.ACTIVE


async def test_rules_of_others_stay_in_every_life(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    foreign = {
        cloud.put(group, RULE, "office"),
        cloud.put(group, Rule("203.0.113.9/32", "tcp", 22, 22), "gatepass static for=x/y", "other/install"),
        cloud.put(group, Rule("203.0.113.10/32", "tcp", 22, 22), "gatepass static for=x/y"),
        cloud.put(group, Rule("203.0.113.11/32", "tcp", 22, 22), "edited", OWNER),
    }
    async with world.running(resync=10):
        resource = world.resource()
        session = world.session(duration="1m")
        await asyncio.sleep(5)
        entry = world.status(session).resources[0]
        assert [rule.foreign for rule in entry.rules] == [True]
        await asyncio.sleep(100)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(30)
        assert set(cloud.rules(group)) == foreign
        with pytest.raises(Exception, match="staging-db"):
            world.cluster.get(ProtectedResource, resource.key)


async def test_nobody_is_believed_without_the_policies_or_before_them(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        world.cluster.verified_since = None
        forged = world.session("forged")
        await asyncio.sleep(5)
        assert world.status(forged).resources[0].reason == "RequesterUnverified"
        world.cluster.verified_since = BIG_BANG + timedelta(seconds=10)
        await asyncio.sleep(20)
        assert world.status(forged).resources[0].reason == "RequesterUnverified"
        assert cloud.rules(group) == {}
        honest = world.session("honest")
        await asyncio.sleep(5)
        assert world.status(honest).phase is Phase.ACTIVE


async def test_an_edited_rule_of_a_full_group_makes_room_for_itself(world: World, cloud: SlowFirewalls) -> None:
    """It is ours and nobody wants it as it is: it goes before the one is put that is wanted."""
    group = cloud.create("sg-0aaa", limit=2)
    async with world.running(resync=200):
        world.resource()
        for number in range(2):
            world.session(f"s{number}", cidrs=(f"203.0.113.{number}/32",))
        world.session("waits", cidrs=("203.0.113.9/32",))
        await asyncio.sleep(150)
        id_, held = next(iter(cloud.rules(group).items()))
        cloud.rules(group)[id_] = replace(held, rule=Rule("198.51.100.1/32", "tcp", 5432, 5432))
        grants = cloud.calls["grant"]
        await eventually(lambda: id_ not in cloud.rules(group) and len(cloud.rules(group)) == 2, "it is put right", 200)
        assert cloud.calls["grant"] == grants + 1
