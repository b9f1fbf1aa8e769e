"""AWS's buckets, and how targets share them: tables, laws, and the burst that they are made for."""

import heapq
import itertools
import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.providers.aws_pacing import Bucket, Pacing

GRANT, REVOKE = "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"


@pytest.mark.parametrize(
    ("taken_at", "waits"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 0.5]),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0.5, 1.0]),
        ([0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 0.5]),
        ([0, 0, 0, 100, 100, 100, 100], [0, 0, 0, 0, 0, 0, 0.5]),
        ([5, 5, 5, 4], [0, 0, 0, 0.5]),  # a clock that goes back gives nothing
    ],
)
def test_a_bucket_of_three_refilled_at_two_a_second(taken_at: list[float], waits: list[float]) -> None:
    bucket = Bucket(3, 2)
    assert [bucket.take(now) for now in taken_at] == waits


def test_a_drained_bucket_has_nothing_until_the_refill() -> None:
    bucket = Bucket(10, 2)
    bucket.drain(1.0)
    assert bucket.tokens(1.0) == 0
    assert bucket.take(1.0) == 0.5
    bucket.drain(1.0)
    assert bucket.tokens(1.0) == -1, "calls that wait already keep their place"


@given(
    size=st.floats(1, 100),
    rate=st.floats(0.1, 50),
    pauses=st.lists(st.floats(0, 5), max_size=200),
)
def test_no_window_ever_sees_more_calls_than_aws_takes(size: float, rate: float, pauses: list[float]) -> None:
    bucket, now, sent = Bucket(size, rate), 0.0, []
    for pause in pauses:
        now += pause
        sent.append(now + bucket.take(now))
    for start, end in itertools.combinations_with_replacement(range(len(sent)), 2):
        assert end - start + 1 <= size + rate * (sent[end] - sent[start]) + 1 + 1e-6


@pytest.mark.parametrize(
    ("action", "at_once"),
    [
        (GRANT, 45),
        (REVOKE, 45),
        ("UpdateSecurityGroupRuleDescriptionsIngress", 45),
        ("CreateTags", 90),
        ("DescribeSecurityGroupRules", 90),
    ],
)
def test_each_action_has_its_own_bucket_a_little_smaller_than_awss(action: str, at_once: int) -> None:
    bucket = Pacing().bucket(action)
    assert [bucket.take(0.0) > 0 for _ in range(at_once + 1)] == [False] * at_once + [True]


def test_one_target_alone_never_waits_for_company() -> None:
    pacing, now = Pacing(), 0.0
    for _ in range(30):
        for action in (GRANT, REVOKE):
            assert pacing.delay("one", now) == 0
            pacing.wrote("one", now)
            assert pacing.bucket(action).take(now) == 0
            now += 0.02


def test_a_first_write_never_waits_for_company() -> None:
    pacing = Pacing()
    for target in range(40):
        pacing.wrote(target, 0.0)
        pacing.bucket(GRANT).take(0.0)
    assert pacing.delay(0, 0.0) > 0
    assert pacing.delay("new", 0.0) == 0


@given(st.integers(2, 60), st.integers(0, 200), st.floats(0, 20))
def test_a_wait_is_bounded_and_over_once_it_is_waited(targets: int, calls: int, later: float) -> None:
    pacing = Pacing()
    for target in range(targets):
        pacing.wrote(target, 0.0)
    for _ in range(calls):
        pacing.bucket(GRANT).take(0.0)
    assert 0 <= pacing.delay(0, 0.0) <= 1.5 * targets / 5 * (1 + calls / targets / 20)
    assert pacing.delay(0, later) <= max(pacing.delay(0, 0.0) - later, 0) + 1e-9


@given(st.integers(2, 40), st.integers(0, 100))
def test_the_fewer_tokens_the_longer_the_wait(targets: int, calls: int) -> None:
    pacing = Pacing()
    for target in range(targets):
        pacing.wrote(target, 0.0)
    waits = []
    for _ in range(calls):
        waits.append(pacing.delay(0, 0.0))
        pacing.bucket(REVOKE).take(0.0)
    assert waits == sorted(waits)


def burst(seconds: float, sessions: int, groups: int, seed: int) -> tuple[list[float], float]:
    """Sessions come at random over the groups; each group writes all it has as soon as it may.

    Answers the moments at which calls went out, and the moment of the last answer.
    """
    chance, pacing, order = random.Random(seed), Pacing(), itertools.count()
    waiting: defaultdict[int, int] = defaultdict(int)
    busy: set[int] = set()
    events: list[tuple[float, int, str, int]] = []
    sent, end = [], 0.0

    def at(moment: float, what: str, group: int) -> None:
        heapq.heappush(events, (moment, next(order), what, group))

    for number in range(sessions):
        at(seconds * number / sessions, "session", chance.randrange(groups))
    while events:
        now, _, what, group = heapq.heappop(events)
        if what == "session":
            waiting[group] += 1
        elif what == "answer":
            busy.discard(group)
            end = now
        if not waiting[group] or group in busy:
            continue
        if (delay := pacing.delay(group, now)) > 0:
            at(now + delay, "look", group)
            continue
        waiting[group] = 0
        busy.add(group)
        pacing.wrote(group, now)
        sent.append(now + pacing.bucket(GRANT).take(now))
        at(sent[-1] + chance.uniform(0.01, 0.05), "answer", group)
    return sent, end


@pytest.mark.parametrize("seconds", [4, 5, 6])
@pytest.mark.parametrize("seed", range(5))
def test_a_burst_of_a_thousand_over_twenty_groups_takes_few_calls(seconds: float, seed: int) -> None:
    sent, end = burst(seconds, sessions=1000, groups=20, seed=seed)
    assert len(sent) <= 60
    assert end <= 2 * seconds
    aws: Any = Bucket(50, 5)
    assert all(aws.take(moment) == 0 for moment in sorted(sent)), "AWS would have throttled it"
