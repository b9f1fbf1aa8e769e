"""Whose a rule is that carries our id: told by who made it when, else by when it was seen."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gatepass.core.rules import ObservedRule, Rule, Target, maker
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
LED_BEFORE = {"earlier": NOON}
SECOND = timedelta(seconds=1)


def a_state(**given: object) -> State:
    """The state of the process `me`, which has followed `earlier`."""
    return State(Store(), OWNER, started=0.0, started_at=NOON, leader="me", led_before=LED_BEFORE, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made_by", "strange"),
    [
        (maker("me", NOON), False),
        (maker("earlier", NOON), False),
        (maker("earlier", NOON + SECOND), True),  # it did not lead here any more: it is the cluster we were cloned from
        (maker("another", NOON - timedelta(days=1)), True),
        ("something else", True),
    ],
)
def test_who_made_a_rule_when_tells_whose_it_is(made_by: str, strange: bool) -> None:
    rule, vouching = replace(UNSIGNED, maker=made_by), Vouching(a_state())
    vouching.see(GROUP, [(GROUP, rule)])
    assert vouching.stranger(rule, NOON) == strange


def test_a_record_makes_no_rule_ours_that_somebody_else_made() -> None:
    """We had what they had, while we both wanted it."""
    state = a_state()
    record = {**RECORD, "appliedAt": "2026-11-22T12:00:01Z"}
    state.store.put_session(a_session(status={"resources": [{**ENTRY, "rules": [record]}]}))
    assert Vouching(state).stranger(replace(UNSIGNED, maker=maker("another", NOON)), NOON)
    assert not Vouching(state).stranger(UNSIGNED, NOON), "and its tags were taken off"


def test_whose_time_is_long_over_may_go_whoever_made_it() -> None:
    rule, vouching = replace(UNSIGNED, maker=maker("another", NOON)), Vouching(a_state())
    assert vouching.stranger(rule, UNTIL + MARGIN)
    assert not vouching.stranger(rule, UNTIL + MARGIN + SECOND)
    static = replace(rule, description="gatepass static for=ci/staging-db")
    assert vouching.stranger(static, UNTIL + timedelta(days=365))


def test_a_cutoff_says_that_nobody_else_is_at_work() -> None:
    vouching = Vouching(a_state(cutoff=NOON))
    assert not vouching.stranger(replace(UNSIGNED, maker=maker("another", NOON - SECOND)), NOON)
    assert vouching.stranger(replace(UNSIGNED, maker=maker("another", NOON)), NOON), "and there is somebody"


@pytest.mark.parametrize("first", [GROUP, place_of(GROUP)])
@pytest.mark.parametrize("then", [GROUP, place_of(GROUP)])
def test_who_made_it_is_not_told_then_it_is_ours_if_it_was_there_first(first: Target, then: Target) -> None:
    later, vouching = replace(UNSIGNED, id="sgr-2"), Vouching(a_state())
    vouching.see(first, [(GROUP, UNSIGNED)])
    vouching.see(then, [(GROUP, UNSIGNED), (GROUP, later)])
    assert not vouching.stranger(UNSIGNED, NOON)
    assert vouching.stranger(later, NOON)
