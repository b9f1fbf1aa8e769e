"""AWS's buckets, and how targets share them: tables, laws, and the burst that they are made for."""

import heapq
import itertools
import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.providers.aws_pacing import Bucket, Pacing, ScarceError

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
            pacing.wrote("one", action, now)
            assert pacing.bucket(action).take(now) == 0
            now += 0.02


def test_a_first_write_never_waits_for_company() -> None:
    pacing = Pacing()
    for target in range(40):
        pacing.wrote(target, REVOKE, 0.0)
        pacing.bucket(GRANT).take(0.0)
    assert pacing.delay(0, 0.0) > 0
    assert pacing.delay("new", 0.0) == 0


@given(st.integers(2, 60), st.integers(0, 200), st.floats(0, 20))
def test_a_wait_is_bounded_and_over_once_it_is_waited(targets: int, calls: int, later: float) -> None:
    pacing = Pacing()
    for target in range(targets):
        pacing.wrote(target, REVOKE, 0.0)
    for _ in range(calls):
        pacing.bucket(GRANT).take(0.0)
    assert 0 <= pacing.delay(0, 0.0) <= 1.5 * targets / 5 * (1 + calls / targets / 20)
    assert pacing.delay(0, later) <= max(pacing.delay(0, 0.0) - later, 0) + 1e-9


@given(st.integers(2, 40), st.integers(0, 100))
def test_the_fewer_tokens_the_longer_the_wait(targets: int, calls: int) -> None:
    pacing = Pacing()
    for target in range(targets):
        pacing.wrote(target, REVOKE, 0.0)
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
        pacing.wrote(group, GRANT, now)
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


def ends(seconds: float, sessions: int, groups: int, seed: int) -> tuple[list[float], list[float]]:
    """Sessions end at random over the groups. Answers when calls went out, and how late the rules were, sorted."""
    chance, pacing, order = random.Random(seed), Pacing(), itertools.count()
    waiting: defaultdict[int, list[float]] = defaultdict(list)
    busy: set[int] = set()
    events = [(seconds * number / sessions, next(order), "end", chance.randrange(groups)) for number in range(sessions)]
    sent: list[float] = []
    late: list[float] = []
    while events:
        now, _, what, group = heapq.heappop(events)
        if what == "end":
            waiting[group].append(now)
        elif what == "answer":
            busy.discard(group)
        if not waiting[group] or group in busy:
            continue
        if (delay := pacing.closing_delay(group, now)) > 0:
            heapq.heappush(events, (now + delay, next(order), "look", group))
            continue
        busy.add(group)
        pacing.wrote(group, REVOKE, now)
        sent.append(now + pacing.bucket(REVOKE).take(now))
        answered = sent[-1] + chance.uniform(0.01, 0.05)
        late += [answered - ended for ended in waiting.pop(group)]
        heapq.heappush(events, (answered, next(order), "answer", group))
    return sent, sorted(late)


@pytest.mark.parametrize(
    ("groups", "seconds", "longest"),
    [(3, 1, 0.3), (3, 9, 1.0), (20, 1, 1.6), (20, 3, 2.0), (20, 9, 4.0), (30, 3, 3.6), (45, 3, 8.5)],
)
@pytest.mark.parametrize("seed", range(5))
def test_many_ends_are_closed_soon(groups: int, seconds: float, longest: float, seed: int) -> None:
    sent, late = ends(seconds, sessions=1000, groups=groups, seed=seed)
    assert late[int(0.99 * len(late))] <= longest
    aws: Any = Bucket(50, 5)
    assert all(aws.take(moment) == 0 for moment in sorted(sent)), "AWS would have throttled it"


def test_who_closes_waits_only_in_company() -> None:
    pacing = Pacing()
    for _ in range(30):
        assert pacing.closing_delay("one", 0.0) == 0
        pacing.wrote("one", REVOKE, 0.0)
    assert pacing.closing_delay("two", 0.0) == 0
    for number in range(20):
        pacing.wrote(number, REVOKE, 0.0)
    assert 0 < pacing.closing_delay(0, 0.0) < pacing.delay(0, 0.0)
    assert pacing.closing_delay(0, 1.7) == 0


@pytest.mark.parametrize("groups", [2, 20, 45, 95])
def test_who_closes_does_not_wait_for_those_that_open(groups: int) -> None:
    pacing = Pacing()
    for number in range(groups):
        pacing.wrote(number, GRANT, 0.0)
        pacing.bucket(GRANT).take(0.0)
    assert pacing.closing_delay(0, 0.0) == 0
    pacing.wrote(0, REVOKE, 0.0)
    pacing.bucket(REVOKE).take(0.0)
    assert pacing.closing_delay(1, 0.1) == 0


@pytest.mark.parametrize(("groups", "longest"), [(20, 1.0), (45, 2.5), (95, 5.0)])
def test_a_bucket_that_has_filled_again_is_used(groups: int, longest: float) -> None:
    pacing = Pacing()
    for number in range(groups):
        pacing.wrote(number, REVOKE, 0.0)
    assert pacing.closing_delay(0, 0.0) <= longest


def test_a_reserved_token_is_there_when_it_was_promised_and_is_taken_once() -> None:
    pacing = Pacing()
    for number in range(45):
        assert pacing.spend(f"sg-{number}", GRANT, 0.0) == 0
    assert pacing.reserve("sg-45", GRANT, 0.0) == pytest.approx(0.2)
    assert pacing.reserve("sg-46", GRANT, 0.0) == pytest.approx(0.4)
    assert pacing.reserve("sg-45", GRANT, 0.1) == pytest.approx(0.1), "asked again, it costs no other"
    assert pacing.reserve("sg-45", REVOKE, 0.1) == 0, "each action has a bucket of its own"
    assert pacing.spend("sg-46", GRANT, 0.4) == pytest.approx(0)
    with pytest.raises(ScarceError):  # the next call needs another one
        pacing.spend("sg-46", GRANT, 0.4)
    assert pacing.reserve("sg-46", GRANT, 0.4) == pytest.approx(0.2)


def test_what_others_give_back_brings_a_reserved_token_nearer() -> None:
    pacing = Pacing()
    for number in range(150):
        pacing.reserve(f"sg-{number}", GRANT, 0.0)
    assert pacing.reserve("sg-149", GRANT, 1.0) == pytest.approx(20.0)
    for number in range(50, 149):
        pacing.give_back(f"sg-{number}", GRANT, 1.0)
    assert pacing.reserve("sg-149", GRANT, 1.0) == pytest.approx(0.2)
    assert pacing.reserve("sg-150", GRANT, 1.0) > 0.2, "who comes later does not overtake it"


def test_who_has_a_token_reserved_waits_for_no_company() -> None:
    pacing = Pacing()
    for number in range(45):
        pacing.spend(f"sg-{number}", GRANT, 0.0)
    assert pacing.delay("sg-0", 0.0) > 5
    pacing.reserve("sg-0", GRANT, 0.0)
    assert pacing.delay("sg-0", 0.0) == 0


def test_a_token_that_nobody_came_for_is_given_back() -> None:
    pacing = Pacing()
    for second in range(0, 600, 6):  # for ten minutes no call goes out
        for number in range(45):
            assert pacing.reserve(f"sg-{number}", GRANT, float(second)) == 0
    assert pacing.bucket(GRANT).tokens(600.0) >= 0
    for _ in range(45):
        pacing.bucket(GRANT).take(700.0)
    assert pacing.reserve("sg-1", GRANT, 700.0) == pytest.approx(0.2), "its own has gone to whoever came meanwhile"
