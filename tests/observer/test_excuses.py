"""What excuses that a rule is closed late, and what does not."""

from typing import Any

import pytest

from tests.observer.finals import summary
from tests.observer.play import Play, at


def test_lateness_counts_from_when_the_operator_is_back(play: Play) -> None:
    play.opened(1)
    play.judge.able(at(9), able=False)
    play.stopped(10)
    assert play.breaches(20) == []
    play.judge.able(at(21), able=True)
    assert play.breaches(22.9) == []
    assert play.breaches(23.5) == [("left open", 2.5)]


def test_lateness_counts_from_when_ec2_answers(play: Play) -> None:
    play.opened(1)
    play.stopped(10)
    play.call(14, "RevokeSecurityGroupIngress", status=503, code="Unavailable", effect="", faults=["error-before"])
    play.closed(15.5)
    assert play.breaches(20) == []
    figures = summary(play.judge, at(20))
    assert (figures["lateness"]["max"], figures["lateness_by_clock"]["max"]) == pytest.approx((1.5, 5.5))


@pytest.mark.parametrize(
    ("call", "excused"),
    [
        ({}, False),
        ({"status": 400, "code": "InvalidGroup.NotFound", "effect": ""}, False),
        ({"ms": 400.0}, False),
        ({"ms": 600.0}, True),
        ({"ms": 100.0, "late_ms": 600.0}, True),
        ({"faults": ["lag-before"]}, False),
        ({"faults": ["reset-after"]}, True),
        ({"faults": ["deny-before"], "status": 403}, True),
        ({"faults": ["deny-before"], "status": 403, "group": "sg-2"}, True),
        ({"faults": ["error-before"], "status": 503, "group": "sg-2"}, False),
        ({"status": 503, "code": "RequestLimitExceeded", "effect": ""}, True),
        ({"ms": 600.0, "group": "sg-2"}, False),
        ({"ms": 600.0, "group": None, "groups": ["sg-2"]}, False),
        ({"ms": 600.0, "group": None, "groups": ["sg-2", "sg-1"]}, True),
        ({"ms": 400.0, "group": None}, False),
        ({"ms": 600.0, "group": None}, True),
    ],
)
def test_only_a_call_that_is_struck_or_slow_excuses_what_comes_late(
    play: Play, call: dict[str, Any], excused: bool
) -> None:
    play.opened(1)
    play.stopped(10)
    play.call(11.5, "DescribeSecurityGroupRules", **call)
    play.closed(12.5)
    assert play.breaches(20) == ([] if excused else [("left open", 2.5)])


@pytest.mark.parametrize(
    ("group", "answered", "excused"),
    [
        ("sg-1", [], True),
        (None, [], True),
        ("sg-2", [], False),
        ("sg-1", [11.3, 11.7], False),
        (None, [11.3, 11.7], False),
    ],
)
def test_only_a_call_that_has_no_answer_for_long_excuses_what_is_open(
    play: Play, group: str | None, answered: list[float], excused: bool
) -> None:
    """Calls about a group, or about all, are on their way whenever one looks; where they are answered, all is well."""
    play.opened(1)
    play.stopped(10)
    for tenth in range(110, 122):
        if tenth / 10 in answered:
            play.call(tenth / 10, "DescribeSecurityGroupRules", group=group)
        call = {"action": "DescribeSecurityGroupRules", "group": group}
        play.judge.ledger.under_way([call], at(tenth / 10))
    assert play.breaches(12.2) == ([] if excused else [("left open", 2.2)])


def test_a_call_that_was_held_up_is_judged_by_when_it_was_made(play: Play) -> None:
    play.stopped(10)
    play.opened(9.9, ms=5000.0, faults=["latency-before"])
    play.closed(15.5)
    assert play.breaches(16) == []
