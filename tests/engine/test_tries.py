"""How calls fare is kept by their kind and their credentials."""

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials
from gatepass.engine.tries import Call, Left, Tried, Tries

ONE, OTHER = (Access("aws", "eu-central-1", Credentials(secret=("ci", name))) for name in "ab")
REFUSED = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not these")
THROTTLED = ProviderError(Failure.RETRY, "RequestLimitExceeded", "fewer")


def test_who_was_refused_goes_last_whatever_else_the_others_have_done() -> None:
    """Whoever opens all the time would otherwise be the one who was called later."""
    tries = Tries()
    tries.made((ONE, "relabels"), 1.0, REFUSED)
    tries.made((OTHER, "grants"), 2.0)
    assert tries.in_turn([ONE, OTHER], "relabels") == [OTHER, ONE]
    tries.made((OTHER, "relabels"), 3.0, THROTTLED)
    assert tries.in_turn([ONE, OTHER], "relabels") == [ONE, OTHER], "who was asked longest ago"


@pytest.mark.parametrize("error", [THROTTLED, REFUSED])
def test_who_has_failed_comes_back_after_a_pause_when_there_is_no_call(error: ProviderError) -> None:
    call: Call = ONE, "grants"
    tries = Tries()
    assert tries.not_made(call) is Left.PUT_OFF
    tries.made(call, 1.0, error)
    assert tries.not_made(call) is Left.FAILED


def test_another_reason_is_news() -> None:
    call: Call = ONE, "grants"
    tries = Tries()
    assert [tries.made(call, 1.0, error) for error in (REFUSED, REFUSED, THROTTLED, None, THROTTLED)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_calls_are_scarce_for_somebody_since_he_wants_one_and_there_is_none() -> None:
    tries = Tries()

    def since(*, wants: bool, scarce: bool, at: float) -> float | None:
        wanted = {"grants": [ONE] if wants else []}
        tries.begin([ONE, OTHER], wanted, {"grants"} if scarce else (), at)  # type: ignore[arg-type]
        return tries.last(ONE, "grants").scarce_since

    assert since(wants=True, scarce=False, at=1.0) is None
    assert since(wants=True, scarce=True, at=2.0) == 2.0
    assert since(wants=True, scarce=True, at=3.0) == 2.0
    assert since(wants=True, scarce=False, at=4.0) == 2.0, "there is one, which he may not get"
    assert since(wants=False, scarce=True, at=5.0) is None
    assert since(wants=True, scarce=True, at=6.0) == 6.0
    tries.made((ONE, "grants"), 7.0)
    assert tries.last(ONE, "grants") == Tried(7.0)


def test_credentials_that_are_no_more_are_forgotten() -> None:
    tries = Tries()
    tries.made((ONE, "grants"), 1.0, REFUSED)
    tries.begin([OTHER], {}, (), 2.0)
    assert tries.last(ONE, "grants") == Tried()
