"""What a rule says of itself when there is no cluster to ask."""

from datetime import timedelta

import pytest

from gatepass.core.rules import Mark, ObservedRule, Rule
from gatepass.core.sweep import MARGIN, Remnant, remnant
from tests.core.builders import NOON

OWNER = "cluster/gatepass-system/gatepass"
SECOND = timedelta(seconds=1)
GONE = str(Mark("ci/db", NOON - timedelta(days=1)))


@pytest.mark.parametrize(
    ("description", "owner", "expected"),
    [
        (str(Mark("ci/db", NOON - MARGIN - SECOND)), OWNER, Remnant.EXPIRED),
        (str(Mark("ci/db", NOON - MARGIN)), OWNER, Remnant.OPEN),
        (str(Mark("ci/db", NOON + timedelta(hours=1))), OWNER, Remnant.OPEN),
        (str(Mark("ci/db", None, "office")), OWNER, Remnant.STATIC),
        (GONE, None, Remnant.ONE_MARK),
        (GONE, "", Remnant.ONE_MARK),
        (GONE, "some team", Remnant.ONE_MARK),
        (GONE, f"{OWNER}\n", Remnant.ONE_MARK),
        (GONE, "*", Remnant.ONE_MARK),
        ("", OWNER, Remnant.ONE_MARK),
        ("made by others", OWNER, Remnant.ONE_MARK),
        (f"was: {GONE}", OWNER, Remnant.ONE_MARK),
        (GONE.replace("T", " "), OWNER, Remnant.ONE_MARK),
        (GONE.replace("ci/db", "CI/db"), OWNER, Remnant.ONE_MARK),
        (f"{GONE}, and mine", OWNER, Remnant.ONE_MARK),
    ],
)
def test_both_marks_count_and_only_in_full(description: str, owner: str | None, expected: Remnant) -> None:
    seen = ObservedRule("sgr-1", Rule("203.0.113.7/32", "tcp", 5432, 5432), description, owner)
    assert remnant(seen, NOON) is expected
