"""The report of a run says what is wrong with it as a whole."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.report import table
from tests.chaos.run import Outcome, Round
from tests.observer.judge import Breach

ROUND = Round("7", sessions=20, blows={"kill": 3, "api-server": 1, "etcd": 0})
OUTCOME = Outcome(ROUND, 20, Counter(), {"kill": 4, "api-server": 1}, 60.0, 5.0, [], {"wrong_phases": []}, [])
SHARES = {"p50": 0.1, "p99": 0.5, "max": 1.0}
SUMMARY = {
    "breaches": 0,
    "foreign_rules_touched": 0,
    "rules_left": [],
    "wrong_phases": [],
    "closed": 20,
    "lateness": SHARES,
    "lateness_by_clock": SHARES,
    "watches_gone": 1,
}


def wrong(outcome: Outcome, begun_anew: int = 1, **summary: Any) -> list[str]:
    return table([OUTCOME, outcome], {**SUMMARY, **summary}, begun_anew).wrong


def test_a_run_in_which_all_has_happened_and_nothing_was_broken_has_passed() -> None:
    assert wrong(OUTCOME) == []


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"breaches": 1}, "1 breaches"),
        ({"foreign_rules_touched": 1}, "1 foreign rules touched"),
        ({"rules_left": ["sgr-1"]}, "1 rules left"),
        ({"wrong_phases": ["it-1"]}, "1 sessions in the wrong phase"),
        ({"watches_gone": 0}, "no watch got 410 Gone"),
        ({"begun_anew": 0}, "no watch of the operator was begun at a listing, as after 410 Gone"),
    ],
)
def test_what_logs_and_observer_say_in_the_end_counts(told: dict[str, Any], found: str) -> None:
    assert wrong(OUTCOME, **told) == [found]


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (replace(OUTCOME, breaches=[Breach("left open", "sgr-1", 0.0)]), "1 breaches"),
        (replace(OUTCOME, summary={"wrong_phases": ["it-1"]}), "1 sessions in the wrong phase"),
        (replace(OUTCOME, faults=["the script was not done in time"]), "1 faults"),
        (replace(OUTCOME, created=19), "39 of 40 sessions"),
        (replace(OUTCOME, struck={"kill": 1, "api-server": 1}), "5 of 6 kill"),
        (replace(OUTCOME, struck={"kill": 4}), "1 of 2 api-server"),
        (replace(OUTCOME, met=Counter({"deny": 0, "lag": 3})), "no call met deny of none"),
    ],
)
def test_what_came_of_a_round_counts(outcome: Outcome, found: str) -> None:
    assert wrong(outcome) == [found]


def test_a_round_that_does_not_wait_for_final_phases_is_not_judged_by_them() -> None:
    impatient = replace(OUTCOME, round=replace(ROUND, patient=False), summary={"wrong_phases": ["it-1"]})
    assert wrong(impatient) == []
