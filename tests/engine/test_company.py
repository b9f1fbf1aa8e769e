"""Writes that wait for company, so that one call carries more of them."""

import pytest

from gatepass.core.rules import Target
from gatepass.engine.targets import TargetState
from gatepass.providers.aws_pacing import Pacing

GRANT = "AuthorizeSecurityGroupIngress"


@pytest.fixture
def known() -> TargetState:
    return TargetState(Target("aws", "123456789012", "eu-central-1", "sg-1"))


def test_nobody_joins_where_nothing_waits(known: TargetState) -> None:
    assert not known.joins(0.0)
    assert not known.has_waited


def test_a_wait_ends_when_nobody_has_come_for_a_while(known: TargetState) -> None:
    known.wait(10.0, longest=4.0, patience=0.5)
    assert known.joins(10.3)
    assert known.joins(10.7)
    assert known.resumes_at == 11.2
    assert not known.joins(11.2)
    assert known.has_waited
    known.write()
    assert not known.has_waited


def test_a_wait_is_never_longer_than_it_may_be(known: TargetState) -> None:
    known.wait(10.0, longest=1.0, patience=0.5)
    for now in (10.2, 10.4, 10.6, 10.8, 10.99):
        assert known.joins(now)
    assert known.resumes_at == 11.0
    assert not known.joins(11.0)


@pytest.mark.parametrize(("calls", "patience"), [(0, 0.4), (25, 0.4), (30, 1.4), (45, 4.4)])
def test_patience_grows_as_tokens_get_scarce(calls: int, patience: float) -> None:
    pacing = Pacing()
    for target in range(20):
        pacing.wrote(target, 0.0)
    for _ in range(calls):
        pacing.bucket(GRANT).take(0.0)
    assert pacing.patience(0.0) == pytest.approx(patience)
