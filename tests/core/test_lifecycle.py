"""When a session ends, and the phase table."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.lifecycle import End, closed, deadline, end, phase
from gatepass.core.types.common import format_time
from gatepass.core.types.session import EndedReason, Phase, ResourceState
from tests.core.builders import NOON, a_session

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("duration", "not_after", "longest", "at", "reason"),
    [
        ("1h", None, [], HOUR, EndedReason.EXPIRED),
        ("2h", None, [], 2 * HOUR, EndedReason.EXPIRED),
        ("2h", HOUR, [], HOUR, EndedReason.NOT_AFTER),
        ("1h", 2 * HOUR, [], HOUR, EndedReason.EXPIRED),
        ("1h", -HOUR, [], timedelta(), EndedReason.NOT_AFTER),
        ("3h", None, [HOUR], HOUR, EndedReason.EXPIRED),
        ("3h", None, [HOUR, 2 * HOUR], 2 * HOUR, EndedReason.EXPIRED),
        ("3h", None, [24 * HOUR], 3 * HOUR, EndedReason.EXPIRED),
    ],
)
def test_the_earliest_bound_is_the_deadline(
    duration: str, not_after: timedelta | None, longest: list[timedelta], at: timedelta, reason: EndedReason
) -> None:
    spec = {"notAfter": format_time(NOON + not_after)} if not_after is not None else {}
    session = a_session(duration=duration, **spec)
    assert deadline(session, longest) == (NOON + at, reason)


@pytest.mark.parametrize(
    ("session", "minutes", "withdrawn", "expected"),
    [
        (a_session(), 0, False, None),
        (a_session(), 59, False, None),
        (a_session(), 60, False, EndedReason.EXPIRED),
        (a_session(stop=True), 10, False, EndedReason.MANUAL),
        (a_session(), 10, True, EndedReason.POLICY_WITHDRAWN),
        (a_session(metadata={"deletionTimestamp": format_time(NOON)}, stop=True), 10, True, EndedReason.DELETED),
        (a_session(stop=True), 61, False, EndedReason.EXPIRED),
    ],
)
def test_ends(session: object, minutes: int, withdrawn: bool, expected: EndedReason | None) -> None:
    now = NOON + timedelta(minutes=minutes)
    found = end(session, now, deadline(session), withdrawn=withdrawn)  # type: ignore[arg-type]
    assert (found and found.reason) == expected
    assert found is None or not found.latched


def test_a_latched_end_is_final() -> None:
    session = a_session(duration="24h", status={"endedAt": format_time(NOON), "endedReason": "Manual"})
    found = end(session, NOON + timedelta(minutes=1), deadline(session), withdrawn=False)
    assert found == End(NOON, EndedReason.MANUAL, latched=True)


@pytest.mark.parametrize("reason", EndedReason)
@pytest.mark.parametrize("latched", [True, False])
def test_rules_may_go_once_the_end_is_written_or_will_be_found_again(reason: EndedReason, latched: bool) -> None:
    for_good = reason in (EndedReason.EXPIRED, EndedReason.NOT_AFTER, EndedReason.MANUAL, EndedReason.DELETED)
    assert closed(a_session(), End(NOON, reason, latched)) == (latched or for_good)
    found_again = for_good or reason is EndedReason.OWNER_FINISHED
    bound = a_session(status={"boundTo": {"uid": "uid-1"}})
    assert closed(bound, End(NOON, reason, latched)) == (latched or found_again)


def test_a_claim_has_its_own_time_until_it_is_made() -> None:
    source = {"claim": {"within": "2m"}}
    open_claim = a_session(source=source)
    assert deadline(open_claim) == (NOON + timedelta(minutes=2), EndedReason.UNCLAIMED)
    sooner = a_session(source=source, notAfter=format_time(NOON + timedelta(minutes=1)))
    assert deadline(sooner) == (NOON + timedelta(minutes=1), EndedReason.NOT_AFTER)
    claimed = a_session(source=source, status={"startedAt": format_time(NOON + timedelta(seconds=90))})
    assert deadline(claimed) == (NOON + timedelta(seconds=90) + HOUR, EndedReason.EXPIRED)


def test_what_has_not_ended_is_not_closed() -> None:
    assert not closed(a_session(), None)


P, W, A, F = ResourceState.PENDING, ResourceState.WAITING, ResourceState.APPLIED, ResourceState.FAILED
TABLE = [
    ([P], Phase.PENDING, False),
    ([P, F], Phase.PENDING, False),
    ([P, W], Phase.PENDING, False),
    ([W], Phase.PENDING, False),
    ([W, F], Phase.PENDING, False),
    ([A], Phase.ACTIVE, True),
    ([A, A], Phase.ACTIVE, True),
    ([A, F], Phase.PARTIAL, True),
    ([A, W], Phase.PARTIAL, False),
    ([A, P], Phase.PARTIAL, False),
    ([A, F, P], Phase.PARTIAL, False),
    ([F], Phase.FAILED, True),
    ([F, F], Phase.FAILED, True),
]


@pytest.mark.parametrize(("states", "step", "settled"), TABLE)
@pytest.mark.parametrize("left", [True, False])
def test_phase_of_a_live_session(states: list[ResourceState], step: Phase, settled: bool, left: bool) -> None:
    assert phase(None, states, left=left) == (step, settled)


@pytest.mark.parametrize("reason", EndedReason)
def test_phase_of_an_ended_session(reason: EndedReason) -> None:
    over = End(NOON, reason, latched=True)
    assert phase(over, [A], left=True) == (Phase.EXPIRING, False)
    by_time = reason in (EndedReason.EXPIRED, EndedReason.NOT_AFTER, EndedReason.UNCLAIMED)
    assert phase(over, [A], left=False) == (Phase.EXPIRED if by_time else Phase.CANCELLED, True)


@given(states=st.lists(st.sampled_from([P, W, A, F]), min_size=1, max_size=32), left=st.booleans())
def test_phase_is_total_and_ready_means_all_applied(states: list[ResourceState], left: bool) -> None:
    step, settled = phase(None, states, left=left)
    assert (step is Phase.ACTIVE) == all(state is A for state in states)
    assert settled == (P not in states and W not in states)


@given(
    minutes=st.integers(min_value=1, max_value=1440),
    bound=st.one_of(st.none(), st.integers(min_value=-600, max_value=2000)),
)
def test_a_deadline_is_never_after_any_bound(minutes: int, bound: int | None) -> None:
    spec = {} if bound is None else {"notAfter": format_time(NOON + timedelta(minutes=bound))}
    at, _ = deadline(a_session(duration=f"{minutes}m", **spec))
    bounds: list[datetime] = [NOON + timedelta(minutes=minutes)]
    if bound is not None:
        bounds.append(max(NOON + timedelta(minutes=bound), NOON))
    assert at == min(bounds)
