"""The clock follows the API server's, whatever the machine's own time of day does."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.kube.clock import CorrectedClock

SERVER = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Machine:
    """The clocks of a machine, which tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead: float = 0.0) -> None:
        self.second = 1000.0
        self.ahead = ahead
        monkeypatch.setattr("time.monotonic", lambda: self.second)
        monkeypatch.setattr("time.time", lambda: SERVER.timestamp() + self.second - 1000.0 + self.ahead)

    def server(self) -> datetime:
        return SERVER + timedelta(seconds=self.second - 1000.0)

    def ask(self, clock: CorrectedClock, seconds: float = 0.0, *, answered_after: float | None = None) -> None:
        """One call that takes so long, with the header written after so long."""
        asked = self.second
        self.second += seconds if answered_after is None else answered_after
        header = format_datetime(self.server(), usegmt=True)
        self.second += 0.0 if answered_after is None else seconds - answered_after
        clock.heard(header, asked)


def off(clock: CorrectedClock, machine: Machine) -> float:
    return abs((clock.now() - machine.server()).total_seconds())


@pytest.mark.parametrize("ahead", [90.0, -90.0, 3.0, 0.0])
def test_a_wrong_clock_is_set_by_the_first_answer(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    machine = Machine(monkeypatch, ahead)
    clock = CorrectedClock()
    told: list[None] = []
    clock.corrected = lambda: told.append(None)
    machine.ask(clock, 0.01)
    assert off(clock, machine) <= 1.01
    assert len(told) == (abs(ahead) > 2)


def test_a_step_of_the_machines_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    clock = CorrectedClock()
    machine.ahead = 3600.0
    assert off(clock, machine) == 0.0


def test_a_slow_answer_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    clock = CorrectedClock()
    machine.ask(clock, 9.0, answered_after=0.0)
    assert off(clock, machine) == 0.0
    machine.ask(clock, 9.0, answered_after=9.0)
    assert off(clock, machine) == 0.0


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sun, 99 Nov 2026 12:00:00 GMT"])
def test_a_broken_header_says_nothing(monkeypatch: pytest.MonkeyPatch, header: str | None) -> None:
    machine = Machine(monkeypatch, 90.0)
    clock = CorrectedClock()
    clock.heard(header, machine.second)
    assert off(clock, machine) == 90.0


@given(st.floats(-1e4, 1e4), st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.001, 2.0)), min_size=1))
def test_answers_only_bring_it_nearer(ahead: float, calls: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        machine = Machine(monkeypatch, ahead)
        clock = CorrectedClock()
        errors = [off(clock, machine)]
        for pause, seconds in calls:
            machine.second += pause
            machine.ask(clock, seconds, answered_after=seconds / 2)
            errors.append(off(clock, machine))
        longest = 1.0 + max(seconds for _, seconds in calls)
        assert all(after <= max(before, longest) + 1e-3 for before, after in pairwise(errors))
        assert errors[-1] <= 1.0 + calls[-1][1]
