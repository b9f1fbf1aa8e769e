"""What the observer makes of two logs, told by hand."""

from math import inf
from typing import Any

import pytest

from tests.observer.finals import percentile, summary
from tests.observer.judge import Judge
from tests.observer.play import ADDRESS, OTHER, OWNER, Play, at
from tests.observer.promise import Door, Place


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


def test_what_was_found_may_go_before_a_status_tells_of_it(play: Play) -> None:
    play.session = {**play.session, "spec": {**play.session["spec"], "source": {"pod": {"name": "runner"}}}}
    play.judge.saw("sessions", play.session, at(0))
    play.opened(5)
    play.opened(5, "sgr-2")
    play.stopped(5.1)
    play.judge.book.lose("sessions", play.session, at(5.2))
    play.closed(5.3)
    play.closed(6.3, "sgr-2")
    assert play.breaches(7) == [("opened for nobody", 1.3)]


@pytest.mark.parametrize("missed", ["sessions", "resources"])
def test_what_came_and_went_between_two_looks_was_entitled(play: Play, missed: str) -> None:
    items = {"sessions": play.session, "resources": play.judge.book.resources["ci/db"]}
    play.judge = Judge(OWNER, resync_seconds=3.0)
    play.judge.able(at(-10), able=True)
    for kind in items.keys() - {missed}:
        play.judge.saw(kind, items[kind], at(0))
    play.opened(4)
    play.judge.missed(missed, items[missed], at(5))
    play.closed(6.5)
    assert play.breaches(8) == []
    play.judge.saw(missed, items[missed], at(9))
    play.judge.missed(missed, items[missed], at(10))
    assert play.judge.book.at(Place("sg-1", Door(ADDRESS, "tcp", 5432, 5432))), "what is there has not gone"


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


@pytest.mark.parametrize(("gone_at", "seen_by"), [(3, 10.9), (5.5, 15.5), (9.5, 15.5)])
def test_what_others_took_before_it_was_told_may_be_noticed_at_a_resync(
    play: Play, gone_at: float, seen_by: float
) -> None:
    """It is told open in a time in which nobody has to know of it yet, or later."""
    play.opened(1)
    play.closed(gone_at, by=OTHER)
    play.told(10)
    assert play.breaches(seen_by - 0.9) == []
    assert [kind for kind, _ in play.breaches(seen_by)] == ["closed too early"]


def test_a_rule_of_others_is_theirs(play: Play) -> None:
    rule = {"protocol": "tcp", "from": 22, "to": 22, "source": ADDRESS, "description": "office"}
    play.call(1, "AuthorizeSecurityGroupIngress", by=OTHER, rules=[rule], made=["sgr-9"])
    play.call(2, "CreateTags", by=OTHER, params={"ResourceId": ["sgr-9"]})
    assert play.breaches(5) == []
    play.closed(6, "sgr-9")
    assert play.breaches(7) == [("touched a foreign rule", 0.0)]


def test_what_a_session_may_not_use_is_opened_for_nobody(play: Play) -> None:
    (holder,) = play.judge.book.holders(play.session)[:1]
    play.judge.book.permit(holder, at(0.5), permitted=False)
    play.opened(1)
    assert play.breaches(2) == [("opened for nobody", 1.0)]
    (breach,) = play.judge.breaches.values()
    assert "ci/it-1 may not use ci/db" in breach.what


def test_what_a_session_may_not_use_any_more_is_left_open(play: Play) -> None:
    (holder,) = play.judge.book.holders(play.session)[:1]
    play.opened(1)
    play.judge.book.permit(holder, at(40), permitted=False, until=at(2))
    assert play.breaches(41) == [("left open", 39.0)]


def test_a_phase_that_is_not_right_in_the_end(play: Play) -> None:
    play.stopped(10)
    assert summary(play.judge, at(100))["wrong_phases"] == ["ci/it-1 is None (None), though its time was over"]
    ended = {"phase": "Expired", "endedAt": "2026-01-01T00:00:10Z", "endedReason": "Expired"}
    play.judge.saw("sessions", {**play.session, "status": ended}, at(11))
    assert summary(play.judge, at(100))["wrong_phases"] == ["ci/it-1 is Expired (Expired), though it was stopped"]
    right = {**ended, "phase": "Cancelled", "endedReason": "Manual"}
    play.judge.saw("sessions", {**play.session, "status": right}, at(12))
    assert summary(play.judge, at(100))["wrong_phases"] == []


def test_what_a_watch_shows_again_as_it_was_before_its_end_takes_nothing_back(play: Play) -> None:
    before = play.session
    ended = {"phase": "Expired", "endedAt": "2026-01-01T00:00:10Z", "endedReason": "Deleted"}
    gone = {**before, "metadata": {**before["metadata"], "deletionTimestamp": "x"}, "status": ended}
    play.judge.saw("sessions", gone, at(10))
    play.judge.book.lose("sessions", gone, at(11))
    play.judge.missed("sessions", before, at(12))
    assert play.breaches(20) == []


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile([float(each) for each in range(1, 101)], share) == value
    assert percentile([], share) == 0


def test_a_session_without_its_runner_is_to_be_closed(play: Play) -> None:
    play.opened(1)
    play.told(2)
    play.judge.book.lose_runner("s", at(10), at(9))
    assert play.breaches(11.9) == []
    assert play.breaches(15) == [("left open", 5.0)]


def test_a_cause_that_has_gone_since_was_one(play: Play) -> None:
    play.opened(1)
    play.told(2)
    resource = play.judge.book.resources["ci/db"]
    nobody = {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "none"}}}}
    play.judge.saw("resources", {**resource, "spec": {**resource["spec"], "policy": nobody}}, at(9))
    status = {**play.session["status"], "endedAt": "2026-01-01T00:00:10Z", "endedReason": "PolicyWithdrawn"}
    play.session = {**play.session, "status": status}
    play.judge.saw("sessions", play.session, at(10))
    play.closed(10.1)
    play.judge.saw("resources", resource, at(10.2))
    assert play.breaches(12) == []


@pytest.mark.parametrize("reason", ["OwnerFinished", "HeartbeatLost"])
def test_only_who_ends_a_runner_can_tell_that_it_has_ended(play: Play, reason: str) -> None:
    play.opened(1)
    play.told(2)
    status = {**play.session["status"], "endedAt": "2026-01-01T00:00:10Z", "endedReason": reason}
    play.session = {**play.session, "status": status}
    play.judge.saw("sessions", play.session, at(10))
    play.closed(10.1)
    assert [kind for kind, _ in play.breaches(11)] == ["ended without cause"]


def test_a_heart_has_a_whole_window_again_when_the_operator_is_back(play: Play) -> None:
    play.opened(1)
    play.told(2)
    play.judge.loses("s", 15, at(10))
    play.cut_off(20)
    play.cut_off(22, over=True)
    assert play.breaches(38.9) == []
    assert play.breaches(40) == [("left open", 3.0)]


@pytest.mark.parametrize(
    ("windows", "breaches"),
    [
        pytest.param([inf, 32], [], id="gone, and maybe awaited still"),
        pytest.param([32], [("closed too early", 1.5)], id="a heart that has been silent for two seconds"),
    ],
)
def test_a_runner_that_may_be_gone_may_be_missed_at_once(
    play: Play, windows: list[float], breaches: list[tuple[str, float]]
) -> None:
    """Who has seen it need not wait for it, though no status has come to say so yet."""
    play.opened(1)
    play.told(2)
    for seconds in windows:
        play.judge.loses("s", seconds, at(10))
    play.closed(12)
    assert play.breaches(13.5) == breaches


def test_a_runner_that_may_be_gone_is_no_reason_to_close_yet(play: Play) -> None:
    play.opened(1)
    play.told(2)
    play.judge.loses("s", inf, at(10))
    assert play.breaches(60) == []
    play.judge.loses("s", 0, at(60))
    assert play.breaches(63) == [("left open", 3.0)]
    assert summary(play.judge, at(63))["wrong_phases"] == ["ci/it-1 is Active (None), though its time was over"]


@pytest.mark.parametrize(
    ("source", "reason", "seconds", "told"),
    [
        ({"claim": {"within": "10s"}}, "Unclaimed", 10, []),
        ({"claim": {"within": "10s"}}, "Unclaimed", 9, ["ended without cause"]),
        ({"claim": {"within": "10s"}}, "Expired", 9, ["ended without cause"]),
        ({"cidrs": [ADDRESS]}, "Unclaimed", 10, ["ended without cause"]),
    ],
)
def test_a_claim_is_open_for_its_time(
    play: Play, source: dict[str, Any], reason: str, seconds: int, told: list[str]
) -> None:
    spec = {**play.session["spec"], "source": source}
    status = {"phase": "Expired", "endedAt": f"2026-01-01T00:00:{seconds:02}Z", "endedReason": reason}
    play.judge.saw("sessions", {**play.session, "spec": spec, "status": status}, at(seconds))
    assert [kind for kind, _ in play.breaches(20)] == told
    assert told or summary(play.judge, at(20))["wrong_phases"] == []


def test_a_source_that_a_policy_does_not_take_is_opened_for_nobody(play: Play) -> None:
    policy = {"sources": ["pod", "claim"]}
    resource = play.judge.book.resources["ci/db"]
    play.judge.saw("resources", {**resource, "spec": {**resource["spec"], "policy": policy}}, at(-5))
    play.opened(1)
    assert play.breaches(2) == [("opened for nobody", 1.0)]


@pytest.mark.parametrize(("heard", "told"), [(10.1, []), (15, [("closed too early", 4.5)])])
def test_the_old_address_of_who_moves_goes_when_the_status_says_so(
    play: Play, heard: float, told: list[tuple[str, float]]
) -> None:
    def says(seconds: float, ip: str) -> None:
        entry = {"name": "db", "namespace": "ci", "state": "Applied", "rules": [{"id": "sgr-1"}]}
        status = {"phase": "Active", "source": {"addresses": [{"ip": ip}]}, "resources": [entry]}
        play.judge.saw("sessions", {**play.session, "status": status}, at(seconds))

    play.session = {**play.session, "spec": {**play.session["spec"], "source": {"pod": {"name": "runner"}}}}
    play.opened(5)
    says(6, ADDRESS.removesuffix("/32"))
    play.opened(9, "sgr-2", source="203.0.113.8/32")
    play.closed(10)
    says(heard, "203.0.113.8")
    assert play.breaches(heard + 0.1) == told


def test_who_knows_where_a_session_comes_from_needs_no_status(play: Play) -> None:
    play.judge.book.origins["ci/it-1"] = [ADDRESS.removesuffix("/32")]
    play.session = {**play.session, "spec": {**play.session["spec"], "source": {"pod": {"name": "runner"}}}}
    play.judge.saw("sessions", play.session, at(0))
    play.opened(5)
    assert play.breaches(20) == []
    elsewhere = [{"ip": "203.0.113.8"}]
    play.judge.saw("sessions", {**play.session, "status": {"source": {"addresses": elsewhere}}}, at(20))
    assert play.breaches(30) == []
    play.judge.book.origins["ci/it-1"] = []
    play.judge.saw("sessions", play.session, at(30))
    assert play.breaches(33) == [("left open", 3.0)]
