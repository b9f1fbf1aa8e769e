"""What a session's status says, and the invariants of its conditions."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.lifecycle import End
from gatepass.core.policy import Refusal
from gatepass.core.rules import Rule
from gatepass.core.status import PresentRule, ResourceView, SourceView, session_status
from gatepass.core.types.common import Key
from gatepass.core.types.session import (
    AccessSession,
    AccessSessionStatus,
    EndedReason,
    Phase,
    ResourceState,
    SourceAddress,
)
from tests.core.builders import NOON, a_session
from tests.shape.conditions import assert_session_conditions

DB, CACHE = Key("ci", "staging-db"), Key("platform", "cache")
RULE = PresentRule(Rule("203.0.113.7/32", "tcp", 5432, 5432), "sg-0aaa", "sgr-1", foreign=False)
OPEN = ResourceView(DB, "uid-1", (RULE,), complete=True)
REFUSED = ResourceView(CACHE, "uid-2", refusal=Refusal("TargetNotFound", "sg-0bbb does not exist"))
WAITING = ResourceView(DB, "uid-1", waiting="place 1: needs 3 rules, 2 free (IPv4)")
OVER = End(NOON + timedelta(hours=1), EndedReason.EXPIRED, latched=False)


def report(
    views: list[ResourceView], end: End | None = None, session: AccessSession | None = None, minutes: int = 1
) -> AccessSessionStatus:
    now = NOON + timedelta(minutes=minutes)
    about = session or a_session()
    status = session_status(about, views, end, NOON + timedelta(hours=1), now, refresh_places=False)
    assert_session_conditions(status)
    return status


def test_an_open_session() -> None:
    status = report([OPEN])
    assert (status.phase, status.address, status.ready_resources) == (Phase.ACTIVE, "203.0.113.7", "1/1")
    (entry,) = status.resources
    assert entry.state is ResourceState.APPLIED
    assert [(rule.id, rule.cidr, rule.port) for rule in entry.rules] == [("sgr-1", "203.0.113.7/32", 5432)]


def test_a_report_of_the_same_state_is_the_same() -> None:
    status = report([OPEN, REFUSED])
    again = report([OPEN, REFUSED], session=a_session(status=status.to_json()), minutes=30)
    assert again == status
    assert AccessSessionStatus.model_validate(status.to_json()) == status


def test_what_is_too_long_for_people_is_cut() -> None:
    many = tuple(SourceAddress(ip=f"2001:db8:1111:2222:3333:4444:5555:{n:x}", version=6) for n in range(4096, 4160))
    told = ResourceView(CACHE, "uid-2", refusal=Refusal("NoWayOut", "no way " * 1000))
    now = NOON + timedelta(minutes=1)
    status = session_status(a_session(), [told], None, now, now, refresh_places=False, source=SourceView(many))
    assert AccessSessionStatus.model_validate(status.to_json()) == status
    assert status.source is not None
    assert len(status.source.addresses) == 64
    assert status.address is not None
    assert status.address.startswith("2001:db8:1111:2222:3333:4444:5555:1000, ")


def test_the_broken_resource_carries_its_reason() -> None:
    status = report([OPEN, REFUSED])
    assert (status.phase, status.ready_resources) == (Phase.PARTIAL, "1/2")
    assert status.resources[1].message == "sg-0bbb does not exist"


def test_a_waiting_session_tells_its_numbers_and_keeps_its_place() -> None:
    status = report([WAITING])
    assert status.phase is Phase.PENDING
    assert status.resources[0].message == "place 1: needs 3 rules, 2 free (IPv4)"
    moved = ResourceView(DB, "uid-1", waiting="place 9: needs 3 rules, 0 free (IPv4)")
    kept = report([moved], session=a_session(status=status.to_json()))
    assert kept.resources[0].message == status.resources[0].message


def test_rules_left_keep_it_expiring() -> None:
    open_ = a_session(status=report([OPEN]).to_json())
    going = report([ResourceView(DB, "uid-1", (RULE,), left=True)], OVER, open_)
    assert going.phase is Phase.EXPIRING
    assert going.resources[0].state is ResourceState.REMOVING
    assert going.resources[0].rules[0].removed_at is None
    gone = report([ResourceView(DB, "uid-1")], OVER, a_session(status=going.to_json()))
    assert gone.phase is Phase.EXPIRED
    assert gone.resources[0].state is ResourceState.REMOVED
    assert gone.resources[0].rules[0].removed_at is not None


def test_a_withdrawn_resource_keeps_the_record_of_its_rules() -> None:
    open_ = a_session(status=report([OPEN]).to_json())
    lost = ResourceView(DB, "uid-1", refusal=Refusal("PolicyWithdrawn", "too wide now"))
    status = report([lost], session=open_)
    assert status.resources[0].state is ResourceState.FAILED
    assert status.resources[0].rules[0].removed_at is not None


@pytest.mark.parametrize("reason", EndedReason)
def test_every_end_is_told_in_words(reason: EndedReason) -> None:
    status = report([ResourceView(DB, "uid-1")], End(NOON, reason, latched=True))
    settled = next(condition for condition in status.conditions if condition.type == "Settled")
    assert settled.message


views = st.sampled_from([OPEN, REFUSED, WAITING, ResourceView(DB, "uid-1"), ResourceView(DB, "uid-1", left=True)])
ends = st.one_of(st.none(), st.builds(End, st.just(NOON), st.sampled_from(EndedReason), st.booleans()))


@given(steps=st.lists(st.tuples(st.lists(views, min_size=1, max_size=3), ends), max_size=5))
def test_conditions_hold_their_invariants_on_any_path(steps: list[tuple[list[ResourceView], End | None]]) -> None:
    session = a_session()
    for minutes, (seen, end) in enumerate(steps):
        before = {c.type: c for c in session.status.conditions}
        status = report(seen, end, session, minutes)
        for condition in status.conditions:
            old = before.get(condition.type)
            if old is not None and old.status == condition.status:
                assert condition.last_transition_time == old.last_transition_time
        session = a_session(status=status.to_json())
