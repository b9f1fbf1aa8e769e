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


def needs(tries: Tries, *calls: Call, scarce: bool = False, at: float) -> None:
    """A pass begins in which these are needed."""
    tries.begin([ONE, OTHER], calls, ("grants",) if scarce else (), at)


CALL: Call = ONE, "grants"


@pytest.mark.parametrize("error", [THROTTLED, REFUSED])
def test_who_has_failed_comes_back_after_a_pause_when_there_is_no_call(error: ProviderError) -> None:
    tries = Tries()
    needs(tries, CALL, at=0.0)
    assert tries.not_made(CALL) is Left.PUT_OFF
    tries.made(CALL, 1.0, error)
    assert tries.not_made(CALL) is Left.FAILED


def test_an_error_is_forgotten_with_the_need() -> None:
    tries = Tries()
    needs(tries, CALL, at=1.0)
    tries.made(CALL, 1.0, REFUSED)
    needs(tries, CALL, at=2.0)
    assert tries.error(CALL) == REFUSED
    assert tries.refuses(CALL)
    needs(tries, (OTHER, "grants"), (ONE, "revokes"), at=3.0)
    assert tries.error(CALL) is None
    needs(tries, CALL, at=4.0)
    assert tries.error(CALL) is None
    assert not tries.fails()
    assert tries.in_turn([ONE, OTHER], "grants") == [OTHER, ONE], "who is asked first is another matter"


def test_another_reason_is_news() -> None:
    tries = Tries()
    needs(tries, CALL, at=0.0)
    news = [tries.made(CALL, 1.0, error) for error in (REFUSED, REFUSED, THROTTLED, None, THROTTLED)]
    assert news == [True, False, True, False, True]
    needs(tries, at=2.0)
    needs(tries, CALL, at=3.0)
    assert tries.made(CALL, 3.0, THROTTLED), "it was over"


def test_calls_are_scarce_for_somebody_since_he_needs_one_and_there_is_none() -> None:
    tries = Tries()

    def since(*calls: Call, scarce: bool, at: float) -> float | None:
        needs(tries, *calls, scarce=scarce, at=at)
        return tries.last(*CALL).scarce_since

    assert since(CALL, scarce=False, at=1.0) is None
    assert since(CALL, scarce=True, at=2.0) == 2.0
    assert since(CALL, scarce=True, at=3.0) == 2.0
    assert since(CALL, scarce=False, at=4.0) == 2.0, "there is one, which he may not get"
    assert since(scarce=True, at=5.0) is None
    assert since(CALL, scarce=True, at=6.0) == 6.0
    tries.made(CALL, 7.0)
    assert tries.last(*CALL).scarce_since is None


def test_credentials_that_are_no_more_are_forgotten() -> None:
    tries = Tries()
    tries.made(CALL, 1.0, REFUSED)
    tries.begin([OTHER], (), (), 2.0)
    assert tries.last(*CALL) == Tried()
