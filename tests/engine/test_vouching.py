"""Whose a rule is that carries our id: told by who made it when, else by when it was seen."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gatepass.core.leadership import Leadership
from gatepass.core.plan import Plan
from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.core.sweep import MARGIN
from gatepass.engine.state import State
from gatepass.engine.store import Store
from gatepass.engine.vouching import Vouching, place_of
from tests.core.builders import NOON, a_session
from tests.engine.world import OWNER

GROUP = Target("aws", "123456789012", "eu-central-1", "sg-0aaa")
RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)
UNSIGNED = ObservedRule("sgr-1", RULE, "gatepass until=2026-11-22T13:00:00Z for=ci/staging-db", OWNER, (1, 0))
UNTIL = NOON + timedelta(hours=1)
RECORD = {"id": "sgr-1", "target": "sg-0aaa", "cidr": RULE.cidr, "protocol": "tcp", "port": 5432, "endPort": 5432}
ENTRY = {"name": "staging-db", "namespace": "ci", "uid": "u", "state": "Applied"}
ANOTHER = Leadership("another", NOON).maker


@pytest.fixture
def state() -> State:
    """Of the process `me`."""
    return State(Store(), OWNER, started=0.0, started_at=NOON, leadership=Leadership("me", NOON, {"earlier": NOON}))


def put_on_record(state: State) -> None:
    record = {**RECORD, "appliedAt": "2026-11-22T12:00:01Z"}
    state.store.put_session(a_session(status={"resources": [{**ENTRY, "rules": [record]}]}))


@pytest.mark.parametrize(("leader", "strange"), [("me", False), ("earlier", False), ("another", True)])
def test_the_maker_tells_whose_a_rule_is(state: State, leader: str, strange: bool) -> None:
    rule, vouching = replace(UNSIGNED, maker=Leadership(leader, NOON).maker), Vouching(state)
    vouching.see(GROUP, [rule])
    assert vouching.stranger(GROUP, rule, NOON) == strange


def test_a_record_makes_no_rule_ours_that_somebody_else_made(state: State) -> None:
    """We had what they had, while we both wanted it."""
    put_on_record(state)
    vouching, rule = Vouching(state), replace(UNSIGNED, maker=ANOTHER)
    vouching.see(GROUP, [rule])
    assert vouching.stranger(GROUP, rule, NOON)


def test_whose_time_is_long_over_may_go_whoever_made_it(state: State) -> None:
    rule, vouching = replace(UNSIGNED, maker=ANOTHER), Vouching(state)
    assert vouching.stranger(GROUP, rule, UNTIL + MARGIN)
    assert not vouching.stranger(GROUP, rule, UNTIL + MARGIN + timedelta(seconds=1))
    static = replace(rule, description="gatepass static for=ci/staging-db")
    assert vouching.stranger(GROUP, static, UNTIL + timedelta(days=365))


@pytest.mark.parametrize("by_tag", [False, True])
def test_one_that_names_nobody_is_ours_if_it_was_there_at_first(state: State, by_tag: bool) -> None:
    later, vouching = replace(UNSIGNED, id="sgr-2"), Vouching(state)
    if by_tag:
        vouching.see_all(place_of(GROUP), [(GROUP, UNSIGNED)])
    vouching.see(GROUP, [UNSIGNED])
    vouching.see_all(place_of(GROUP), [(GROUP, UNSIGNED), (GROUP, later)])
    vouching.see(GROUP, [UNSIGNED, later])
    assert not vouching.stranger(GROUP, UNSIGNED, NOON)
    assert vouching.stranger(GROUP, later, NOON)


def test_a_target_that_the_first_look_by_tag_has_not_shown_had_nothing_of_ours(state: State) -> None:
    vouching = Vouching(state)
    vouching.see_all(place_of(GROUP), [])
    vouching.see(GROUP, [UNSIGNED])
    assert vouching.stranger(GROUP, UNSIGNED, NOON)


def test_whose_maker_somebody_takes_off_stays_ours(state: State) -> None:
    signed, vouching = replace(UNSIGNED, maker=state.leadership.maker), Vouching(state)
    vouching.see(GROUP, [])
    vouching.see(GROUP, [signed])
    for _ in range(2):
        vouching.see(GROUP, [UNSIGNED])
        assert not vouching.stranger(GROUP, UNSIGNED, NOON)


def test_what_has_lost_all_of_its_tags_is_ours_by_its_record(state: State) -> None:
    """Also when its session has another one by now."""
    bare, vouching = replace(UNSIGNED, owner=None), Vouching(state)
    vouching.see(GROUP, [])
    put_on_record(state)
    vouching.see(GROUP, [bare])
    state.store.put_session(a_session())
    vouching.see(GROUP, [UNSIGNED])
    assert not vouching.stranger(GROUP, UNSIGNED, NOON)


def test_what_somebody_else_made_is_touched_in_no_way(state: State) -> None:
    rules = {id_: replace(UNSIGNED, id=id_, maker=ANOTHER) for id_ in ("theirs", "same")}
    rules |= {id_: replace(UNSIGNED, id=id_, maker=state.leadership.maker) for id_ in ("ours", "mine")}
    vouching = Vouching(state)
    plan = Plan(revokes=("ours",), relabels={"same": "later", "mine": "later"}, retags=("same", "mine"))
    spared = vouching.spare(GROUP, rules, plan, NOON)
    assert spared == Plan(revokes=("ours",), relabels={"mine": "later"}, retags=("mine",))
    spared = vouching.spare(GROUP, rules, replace(plan, revokes=("ours", "theirs")), NOON)
    assert spared == Plan(relabels={"mine": "later"}, retags=("mine",), conflicts=(rules["theirs"],))
    assert vouching.spare(GROUP, rules, Plan(revokes=("ours", "mine")), NOON).revokes == ("ours", "mine")


def test_what_somebody_else_made_may_go_when_its_time_is_over_and_is_marked_by_nobody(state: State) -> None:
    rules = {id_: replace(UNSIGNED, id=id_, maker=ANOTHER) for id_ in ("theirs", "same")}
    plan = Plan(revokes=("theirs",), relabels={"same": "later"}, retags=("same",))
    spared = Vouching(state).spare(GROUP, rules, plan, UNTIL + MARGIN + timedelta(seconds=1))
    assert spared == Plan(revokes=("theirs",))
