"""The clock that everybody agrees on."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gatepass.kube.clock import CorrectedClock


@pytest.mark.parametrize("ahead", [90, -90, 3])
def test_a_difference_is_told_and_corrected(ahead: int) -> None:
    clock, told = CorrectedClock(), []
    clock.corrected = lambda: told.append(clock.ahead_seconds)
    theirs = datetime.now(UTC) - timedelta(seconds=ahead)
    clock.heard(format_datetime(theirs, usegmt=True))
    assert clock.ahead_seconds == pytest.approx(ahead, abs=1.1)
    assert told == [clock.ahead_seconds]
    assert abs((clock.now() - theirs).total_seconds()) < 1.5
    clock.heard(format_datetime(datetime.now(UTC), usegmt=True))
    assert clock.ahead_seconds == pytest.approx(0, abs=2)


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_what_says_nothing_changes_nothing(date: str | None) -> None:
    clock = CorrectedClock()
    clock.heard(date)
    clock.heard(format_datetime(datetime.now(UTC), usegmt=True))
    assert clock.ahead_seconds == 0
