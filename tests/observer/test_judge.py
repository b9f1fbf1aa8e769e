"""What the observer makes of two logs, told by hand: the times are seconds since 2026-01-01."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.observer.finals import percentile, summary
from tests.observer.judge import Judge
from tests.observer.ledger import OTHERS

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = "cluster/gatepass-system/gatepass"
GATEPASS, (OTHER,) = "AKIAGATEPASS", OTHERS
ADDRESS = "203.0.113.7/32"
MADE = {"namespace": "ci", "creationTimestamp": "2026-01-01T00:00:00Z"}


def at(seconds: float) -> float:
    return (BEGINNING + timedelta(seconds=seconds)).timestamp()


class Play:
    """One resource and one session of an hour, seen at 0; an operator that is able all the time."""

    def __init__(self) -> None:
        self.judge = Judge(OWNER, resync_seconds=3.0)
        self.judge.able(at(-10), able=True)
        aws = {"region": "eu-central-1", "securityGroups": ["sg-1"]}
        resource = {"metadata": {**MADE, "name": "db", "uid": "r"}, "spec": {"aws": aws, "ports": [{"port": 5432}]}}
        self.judge.saw("resources", resource, at(0))
        self.session: dict[str, Any] = {
            "metadata": {**MADE, "name": "it-1", "uid": "s"},
            "spec": {"resources": [{"name": "db"}], "source": {"cidrs": [ADDRESS]}},
        }
        self.judge.saw("sessions", self.session, at(0))

    def told(self, seconds: float) -> None:
        """The session's status says that it is open."""
        entry = {"name": "db", "namespace": "ci", "state": "Applied", "rules": [{"id": "sgr-1"}]}
        self.session = {**self.session, "status": {"phase": "Active", "resources": [entry]}}
        self.judge.saw("sessions", self.session, at(seconds))

    def stopped(self, seconds: float) -> None:
        """Its owner stops it."""
        self.session = {**self.session, "spec": {**self.session["spec"], "stop": True}}
        self.judge.saw("sessions", self.session, at(seconds))

    def call(self, seconds: float, action: str, by: str = GATEPASS, **more: Any) -> None:
        """A call to EC2 that has its effect at once."""
        time = (BEGINNING + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        entry = {"time": time, "ms": 0.0, "service": "ec2", "action": action, "group": "sg-1", "access_key": by}
        self.judge.happened({**entry, "status": 200, "effect": "ok", **more}, at(seconds))

    def opened(self, seconds: float, id_: str = "sgr-1", **more: Any) -> None:
        """Gatepass puts the rule."""
        rule = {"protocol": "tcp", "from": 5432, "to": 5432, "source": ADDRESS, "description": "gatepass until=x for=y"}
        tags = {"TagSpecification": [{"Tag": [{"Key": "gatepass.dev/owner", "Value": OWNER}]}]}
        self.call(seconds, "AuthorizeSecurityGroupIngress", rules=[rule], made=[id_], params=tags, **more)

    def closed(self, seconds: float, id_: str = "sgr-1", **more: Any) -> None:
        """The rule goes."""
        self.call(seconds, "RevokeSecurityGroupIngress", removed=[id_], **more)

    def cut_off(self, seconds: float, *, over: bool = False) -> None:
        """The operator reaches its servers no more, or again."""
        self.judge.reaches(at(seconds), reaches=over)
        self.judge.able(at(seconds), able=over)

    def breaches(self, seconds: float) -> list[tuple[str, float]]:
        """The kinds and durations, when everything has been listed at that time."""
        self.judge.look(at(seconds), at(seconds))
        self.judge.look(at(seconds), at(seconds + 0.001))
        return [(breach.kind, round(breach.seconds, 1)) for breach in self.judge.breaches.values()]


@pytest.fixture
def play() -> Play:
    return Play()


def test_a_life_without_a_breach(play: Play) -> None:
    play.opened(1)
    play.told(1.1)
    play.stopped(10)
    play.closed(11.5)
    assert play.breaches(20) == []
    assert summary(play.judge, at(20))["lateness"] == pytest.approx({"p50": 1.5, "p99": 1.5, "max": 1.5})
    assert summary(play.judge, at(20))["rules_left"] == []


def test_late_is_late_although_it_has_closed_since(play: Play) -> None:
    play.opened(1)
    play.told(1.1)
    play.stopped(10)
    play.closed(12.5)
    assert play.breaches(20) == [("left open", 2.5)]


def test_no_suspicion_is_a_breach_before_a_listing_confirms_it(play: Play) -> None:
    play.opened(1)
    play.stopped(10)
    play.judge.look(at(15), at(9))
    assert play.judge.breaches == {}
    assert play.judge.needs_listing
    assert play.breaches(16) == [("left open", 6.0)]


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


def test_opening_for_who_has_ended_is_reported_unless_it_could_not_be_known(play: Play) -> None:
    play.stopped(10)
    play.cut_off(12)
    play.opened(13)
    play.closed(13.5)
    play.cut_off(14, over=True)
    play.opened(15, "sgr-2")
    play.closed(15.5, "sgr-2")
    assert play.breaches(16) == []
    play.opened(17, "sgr-3")
    play.closed(17.4, "sgr-3")
    assert play.breaches(18) == [("opened for nobody", 0.4)]


def test_a_call_that_was_held_up_is_judged_by_when_it_was_made(play: Play) -> None:
    play.stopped(10)
    play.opened(9.9, ms=5000.0, faults=["latency-before"])
    play.closed(15.5)
    assert play.breaches(16) == []


def test_a_gap_is_reported_with_its_length(play: Play) -> None:
    play.opened(1)
    play.told(1.1)
    play.closed(5)
    play.opened(5.3, "sgr-2")
    assert play.breaches(6) == [("closed too early", 0.3)]


def test_what_others_take_may_be_away_for_one_resync(play: Play) -> None:
    play.opened(1)
    play.told(1.1)
    play.closed(5, by=OTHER)
    assert play.breaches(9.5) == []
    assert play.breaches(10.5) == [("closed too early", 5.5)]


def test_a_rule_of_others_is_theirs(play: Play) -> None:
    rule = {"protocol": "tcp", "from": 22, "to": 22, "source": ADDRESS, "description": "office"}
    play.call(1, "AuthorizeSecurityGroupIngress", by=OTHER, rules=[rule], made=["sgr-9"])
    play.call(2, "CreateTags", by=OTHER, params={"ResourceId": ["sgr-9"]})
    assert play.breaches(5) == []
    play.closed(6, "sgr-9")
    assert play.breaches(7) == [("touched a foreign rule", 0.0)]


def test_what_a_session_may_not_use_is_opened_for_nobody(play: Play) -> None:
    (holder,) = play.judge.book.holders(play.session)[:1]
    play.judge.book.permit(holder, at(-5), permitted=False)
    play.opened(1)
    assert play.breaches(2) == [("opened for nobody", 1.0)]
    (breach,) = play.judge.breaches.values()
    assert "ci/it-1 may not use ci/db" in breach.what


def test_a_phase_that_is_not_right_in_the_end(play: Play) -> None:
    play.stopped(10)
    assert summary(play.judge, at(100))["wrong_phases"] == ["ci/it-1 is None (None), though its time was over"]
    ended = {"phase": "Expired", "endedAt": "2026-01-01T00:00:10Z", "endedReason": "Expired"}
    play.judge.saw("sessions", {**play.session, "status": ended}, at(11))
    assert summary(play.judge, at(100))["wrong_phases"] == ["ci/it-1 is Expired (Expired), though it was stopped"]
    right = {**ended, "phase": "Cancelled", "endedReason": "Manual"}
    play.judge.saw("sessions", {**play.session, "status": right}, at(12))
    assert summary(play.judge, at(100))["wrong_phases"] == []


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile([float(each) for each in range(1, 101)], share) == value
    assert percentile([], share) == 0
