"""What the engine may rely on, of every provider."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Duplicate, Full, Gone, Granted, NewRule, Revoked, TargetFacts
from gatepass.core.rules import Mark, Rule, Stamp
from tests.providers.worlds import OWNER, STAMP, World

V4 = Rule("203.0.113.7/32", "tcp", 5432, 5432)
V6 = Rule("2001:db8::7/128", "tcp", 5432, 5432)
EVERY_KIND = [
    V4,
    V6,
    Rule("203.0.113.7/32", "tcp", 8000, 8100),
    Rule("203.0.113.7/32", "tcp", 0, 65535),
    Rule("203.0.113.7/32", "udp", 53, 53),
    Rule("203.0.113.0/24", "icmp"),
    Rule("2001:db8::/64", "icmpv6"),
    Rule("198.51.100.0/28", "all"),
    Rule("2001:db8:1::/48", "all"),
]


def new(*rules: Rule, description: str = "gatepass static for=ci/db office") -> list[NewRule]:
    return [NewRule(rule, description) for rule in rules]


def hosts(count: int, port: int = 443) -> list[Rule]:
    return [Rule(f"203.0.113.{host}/32", "tcp", port, port) for host in range(count)]


async def outcomes_or_error(call: Awaitable[Mapping[Any, Any]], keys: Sequence[Any]) -> Mapping[Any, Any]:
    """A call may fail as a whole, or for each of its members alike."""
    try:
        return await call
    except ProviderError as error:
        return dict.fromkeys(keys, error)


async def test_the_account_is_told(world: World) -> None:
    target = world.firewall()
    assert await world.provider.identify(world.access) == target.account


async def test_a_missing_object_does_not_hide_the_others(world: World) -> None:
    there, gone = world.firewall(limit=70), world.gone()
    world.firewall(limit=70)
    await world.provider.identify(world.access)
    facts = await world.provider.inspect(world.access, [gone.id, there.id])
    found, missing = facts[there.id], facts[gone.id]
    assert isinstance(found, TargetFacts)
    assert found.limit == 70
    assert isinstance(missing, ProviderError)
    assert missing.failure is Failure.NOT_FOUND
    assert gone.id in missing.message


async def test_nothing_asked_nothing_done(world: World) -> None:
    target = world.firewall()
    assert await world.provider.inspect(world.access, []) == {}
    assert await world.provider.grant(world.access, target, [], STAMP) == {}
    assert await world.provider.revoke(world.access, target, []) == {}
    assert await world.provider.relabel(world.access, target, {}) == {}
    await world.provider.tag(world.access, target, [], OWNER)
    assert await world.provider.observe(world.access, target) == []


async def test_every_kind_of_rule_comes_back_as_it_was_put(world: World) -> None:
    target = world.firewall()
    outcomes = await world.provider.grant(world.access, target, new(*EVERY_KIND), STAMP)
    seen = {rule.id: rule for rule in await world.provider.observe(world.access, target)}
    assert outcomes == {rule: Granted(id_) for id_, found in seen.items() if (rule := found.rule) is not None}
    assert set(outcomes) == set(EVERY_KIND)
    for found in seen.values():
        assert found.rule is not None
        assert found.weight == ((1, 0) if found.rule.family == 4 else (0, 1))
        assert (found.owner, found.maker, found.description) == (*STAMP, "gatepass static for=ci/db office")


async def test_what_somebody_else_put_is_seen_without_an_owner(world: World) -> None:
    target = world.firewall()
    id_ = world.put(target, V4, "bastion")
    (seen,) = await world.provider.observe(world.access, target)
    assert (seen.id, seen.rule, seen.description, seen.owner, seen.maker) == (id_, V4, "bastion", None, None)


async def test_duplicates_hold_up_none_of_the_others(world: World) -> None:
    target = world.firewall()
    held = {world.put(target, rule, "theirs") for rule in (V4, EVERY_KIND[5], EVERY_KIND[7])}
    outcomes = await world.provider.grant(world.access, target, new(*EVERY_KIND), STAMP)
    doubles = {rule for rule, outcome in outcomes.items() if isinstance(outcome, Duplicate)}
    assert doubles == {V4, EVERY_KIND[5], EVERY_KIND[7]}
    assert all(isinstance(outcome, Granted) for rule, outcome in outcomes.items() if rule not in doubles)
    truth = world.held(target)
    assert {rule.rule for rule in truth.values()} == set(EVERY_KIND)
    assert {truth[id_].description for id_ in held} == {"theirs"}


@pytest.mark.parametrize("room", [0, 1, 7, 30])
async def test_what_fits_is_put_and_the_rest_is_full(world: World, room: int) -> None:
    target = world.firewall(limit=room + 3)
    for rule in hosts(3, port=22):
        world.put(target, rule)
    rules = hosts(30)
    outcomes = await world.provider.grant(world.access, target, new(*rules), STAMP)
    assert set(outcomes) == set(rules)
    assert sum(isinstance(outcome, Granted) for outcome in outcomes.values()) == room
    assert sum(isinstance(outcome, Full) for outcome in outcomes.values()) == 30 - room
    assert len(world.held(target)) == room + 3


async def test_each_family_has_room_of_its_own(world: World) -> None:
    target = world.firewall(limit=2)
    for rule in hosts(2, port=22):
        world.put(target, rule)
    outcomes = await world.provider.grant(world.access, target, new(V4, V6), STAMP)
    assert isinstance(outcomes[V4], Full)
    assert isinstance(outcomes[V6], Granted)


async def test_nothing_is_put_into_an_object_that_is_gone(world: World) -> None:
    target = world.gone()
    outcomes = await outcomes_or_error(world.provider.grant(world.access, target, new(V4, V6), STAMP), (V4, V6))
    assert [outcome.failure for outcome in outcomes.values()] == [Failure.NOT_FOUND] * 2


async def test_rules_go_by_id_and_what_is_gone_is_told(world: World) -> None:
    target = world.firewall()
    outcomes = await world.provider.grant(world.access, target, new(*EVERY_KIND), STAMP)
    ids = [outcome.id for outcome in outcomes.values() if isinstance(outcome, Granted)]
    foreign = world.put(target, Rule("192.0.2.1/32", "tcp", 22, 22), "theirs")
    gone = {ids[1], ids[4]}
    for id_ in gone:
        world.take(target, id_)
    kept = ids.pop()
    removed = await world.provider.revoke(world.access, target, ids)
    assert {id_: type(outcome) for id_, outcome in removed.items()} == {
        id_: Gone if id_ in gone else Revoked for id_ in ids
    }
    assert set(world.held(target)) == {kept, foreign}


async def test_descriptions_change_for_all_that_are_there(world: World) -> None:
    target = world.firewall()
    outcomes = await world.provider.grant(world.access, target, new(*EVERY_KIND[:4]), STAMP)
    ids = [outcome.id for outcome in outcomes.values() if isinstance(outcome, Granted)]
    world.take(target, ids[2])
    text = str(Mark("ci/db", None, "moved"))
    changed = await world.provider.relabel(world.access, target, dict.fromkeys(ids[:3], text))
    assert changed[ids[0]] is None
    assert changed[ids[1]] is None
    assert isinstance(changed[ids[2]], Gone)
    truth = world.held(target)
    assert [truth[id_].description == text for id_ in (ids[0], ids[1], ids[3])] == [True, True, False]
    assert {rule.owner for rule in truth.values()} == {OWNER}


async def test_a_lost_tag_is_put_back(world: World) -> None:
    target = world.firewall()
    ids = [world.put(target, rule) for rule in (V4, V6)]
    await world.provider.tag(world.access, target, ids[:1], OWNER)
    assert [world.held(target)[id_].owner for id_ in ids] == [OWNER, None]
    seen = {rule.id: rule.owner for rule in await world.provider.observe(world.access, target)}
    assert seen == {ids[0]: OWNER, ids[1]: None}


async def test_a_target_that_nobody_wrote_to_need_not_wait(world: World) -> None:
    assert world.provider.delay(world.firewall()) == 0


async def test_finds_by_tag_in_every_firewall_of_the_region(world: World) -> None:
    ours = {}
    for rule in (V4, V6):
        target = world.firewall()
        await world.provider.grant(world.access, target, new(rule), STAMP)
        world.put(target, Rule("198.51.100.1/32", "tcp", 22, 22), "gatepass static for=ci/db office")
        ours[target] = rule
    await world.provider.grant(world.access, world.firewall(), new(V4), Stamp("another/gatepass", STAMP.maker))
    found = await world.provider.find(world.access, OWNER)
    assert {target: seen.rule for target, seen in found} == ours
    assert {seen.owner for _, seen in found} == {OWNER}
    assert {seen.owner for _, seen in await world.provider.find(world.access, None)} == {OWNER, "another/gatepass"}
