"""All or nothing, made to work for each: the law holds for every mix of members."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.providers.aws_batches import each


class Taker:
    """Takes a batch as a whole, or refuses it for one bad member, whose name it may or may not tell."""

    def __init__(self, bad: set[int], *, tells: bool, at_most: int = 1000) -> None:
        self.bad, self.tells, self.at_most = bad, tells, at_most
        self.taken: list[int] = []
        self.calls = 0

    async def __call__(self, batch: list[int]) -> dict[int, str]:
        self.calls += 1
        assert 0 < len(batch) <= self.at_most
        for member in batch:
            if member in self.bad:
                raise ProviderError(
                    Failure.TERMINAL, "InvalidPermission.Duplicate", f"'{member}'" if self.tells else ""
                )
        self.taken += batch
        return dict.fromkeys(batch, "taken")


def run(members: list[int], taker: Taker) -> dict[int, str]:
    return asyncio.run(
        each(
            members,
            taker,
            names=lambda error, member: f"'{member}'" in error.message,
            refused=lambda error, _: error.reason,
            lost="lost",
        )
    )


@given(st.sets(st.integers(0, 400), max_size=300), st.data(), st.booleans())
def test_the_good_are_taken_once_and_the_bad_never(members: set[int], data: st.DataObject, tells: bool) -> None:
    bad = data.draw(st.sets(st.sampled_from(sorted(members)), max_size=3)) if members else set()
    taker = Taker(bad, tells=tells)
    outcomes = run(sorted(members), taker)
    assert sorted(taker.taken) == sorted(members - bad)
    assert {member for member, outcome in outcomes.items() if outcome == "taken"} == members - bad
    assert {member for member, outcome in outcomes.items() if outcome != "taken"} == bad
    if tells:
        assert taker.calls <= 1 + len(bad)


def test_it_gives_up_in_the_end_and_says_so() -> None:
    members = list(range(200))
    taker = Taker(set(members), tells=False)
    outcomes = run(members, taker)
    assert taker.calls == 20
    assert set(outcomes) == set(members)
    assert set(outcomes.values()) == {"InvalidPermission.Duplicate", "TooManyRefusals"}


def test_no_call_is_larger_than_ec2_takes() -> None:
    taker = Taker(set(), tells=True, at_most=1000)
    assert len(run(list(range(2500)), taker)) == 2500
    assert taker.calls == 3


@pytest.mark.parametrize("reason", ["UnauthorizedOperation", "InvalidGroup.NotFound", "RequestLimitExceeded"])
def test_what_is_no_members_fault_is_not_tried_again(reason: str) -> None:
    calls = []

    async def refuse(batch: list[int]) -> dict[int, str]:
        calls.append(batch)
        raise ProviderError(Failure.FORBIDDEN, reason, "no")

    outcomes = asyncio.run(
        each([1, 2, 3], refuse, names=lambda *_: False, refused=lambda error, _: error.reason, lost="lost")
    )
    assert outcomes == dict.fromkeys([1, 2, 3], reason)
    assert len(calls) == 1


def test_a_lost_answer_is_not_asked_for_again() -> None:
    calls = []

    async def lose(batch: list[int]) -> dict[int, str]:
        calls.append(batch)
        raise UnknownOutcomeError

    outcomes = asyncio.run(
        each([1, 2, 3], lose, names=lambda *_: False, refused=lambda error, _: error.reason, lost="lost")
    )
    assert outcomes == dict.fromkeys([1, 2, 3], "lost")
    assert calls == [[1, 2, 3]]
