"""Reads that lag make no stranger of what is ours."""

from dataclasses import replace

import pytest

from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.engine.state import State
from gatepass.engine.store import Store
from gatepass.engine.targets import READS_LAG_SECONDS, TargetState
from gatepass.engine.vouching import Vouching, place_of
from tests.core.builders import NOON, a_session
from tests.engine.world import OWNER

GROUP = Target("aws", "123456789012", "eu-central-1", "sg-0aaa")
RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)
OURS = ObservedRule("sgr-1", RULE, "gatepass until=2026-11-22T13:00:00Z for=ci/staging-db", OWNER, (1, 0))
RECORD = {"id": "sgr-1", "target": "sg-0aaa", "cidr": RULE.cidr, "protocol": "tcp", "port": 5432, "endPort": 5432}
ENTRY = {"name": "staging-db", "namespace": "ci", "uid": "u", "state": "Applied"}


def test_a_rule_on_record_that_a_read_has_missed_is_no_stranger_when_it_is_back() -> None:
    state = State(Store(), OWNER, started=0.0, started_at=NOON)
    record = {**RECORD, "appliedAt": "2026-11-22T12:00:01Z"}
    state.store.put_session(a_session(status={"resources": [{**ENTRY, "rules": [record]}]}))
    vouching, late = Vouching(state), state.reads_settle_at + 1
    known = TargetState(GROUP)
    known.read([OURS], late)
    vouching.read(known, [OURS], late)
    vouching.found(place_of(GROUP), [(GROUP, OURS)], late + 1)
    vouching.found(place_of(GROUP), [], late + 2)  # it lags, and the group was not seen either
    vouching.read(TargetState(GROUP), [OURS], late + 3)
    assert not vouching.stranger(GROUP, OURS, NOON)


def test_a_rule_on_record_that_was_a_stranger_stays_one() -> None:
    state = State(Store(), OWNER, started=0.0, started_at=NOON)
    vouching, late = Vouching(state), state.reads_settle_at + 1
    vouching.read(TargetState(GROUP), [], late)
    vouching.read(TargetState(GROUP), [OURS], late + 1)
    record = {**RECORD, "appliedAt": "2026-11-22T12:00:01Z"}
    state.store.put_session(a_session(status={"resources": [{**ENTRY, "rules": [record]}]}))
    vouching.found(place_of(GROUP), [], late + 2)
    assert vouching.stranger(GROUP, OURS, NOON)


@pytest.mark.parametrize(("seconds", "strange"), [(60.0, False), (READS_LAG_SECONDS + 30, False), (400.0, True)])
def test_a_grant_without_an_answer_is_ours_when_it_shows_although_a_read_has_shown_an_older_rule(
    seconds: float, strange: bool
) -> None:
    state = State(Store(), OWNER, started=0.0, started_at=NOON)
    vouching, late, known = Vouching(state), state.reads_settle_at + 1, TargetState(GROUP)

    def read(moment: float, *rules: ObservedRule) -> None:
        vouching.read(known, rules, moment)
        known.read(rules, moment)

    read(late)
    known.lost(RULE, late + 1)
    read(late + 10, replace(OURS, id="sgr-0"))  # it lags, and shows what has been taken away since
    if strange:
        read(late + 1 + READS_LAG_SECONDS)  # shows all that was put then
    read(late + seconds, OURS)
    assert vouching.stranger(GROUP, OURS, NOON) == strange
