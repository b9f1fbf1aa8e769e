"""Calls to a service that is silent."""

import asyncio
import contextlib

import pytest

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.providers.aws_lines import Lines
from gatepass.providers.aws_pacing import ScarceError

LOST = [UnknownOutcomeError("lost"), ProviderError(Failure.RETRY, "NoConnection", ""), UnknownOutcomeError("again")]
SAID_NO = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "")
NOT_MADE = [
    ProviderError(Failure.RETRY, "NotLeading", ""),
    ProviderError(Failure.FORBIDDEN, "NoCredentials", ""),
    ScarceError(),
]


class Silence:
    """Calls, as many at a time as one likes; each is answered when the test says so."""

    def __init__(self, spare: int = 0) -> None:
        self.lines, self.now = Lines(spare), 100.0

    async def call(self, answer: Exception | None, gate: asyncio.Event | None = None, place: str = "here") -> None:
        with self.lines.call(place, self.now):
            if gate is not None:
                await gate.wait()
            if answer is not None:
                raise answer

    async def begin(self, answer: Exception | None, gate: asyncio.Event, place: str = "here") -> asyncio.Task[None]:
        """One that is under way."""
        task = asyncio.create_task(self.call(answer, gate, place))
        await asyncio.sleep(0)
        assert not task.done(), task
        return task

    async def lose(self, place: str = "here") -> None:
        """As many as it takes."""
        for lost in LOST:
            with pytest.raises(type(lost)):
                await self.call(lost, place=place)

    async def refuses(self, place: str = "here") -> None:
        with pytest.raises(ProviderError, match="NoConnection"):
            await self.call(None, place=place)


async def test_a_region_that_does_not_answer_holds_one_call_at_a_time() -> None:
    silence, gate = Silence(), asyncio.Event()
    await silence.lose()
    asking = await silence.begin(SAID_NO, gate)
    await silence.refuses()
    silence.now += 60.0
    await silence.refuses()
    gate.set()
    with pytest.raises(ProviderError, match="UnauthorizedOperation"):
        await asking
    gate.clear()
    both = [await silence.begin(None, gate) for _ in range(2)]
    gate.set()
    await asyncio.gather(*both)  # a no is an answer too


async def test_one_that_hears_nothing_bars_the_others_for_a_second() -> None:
    silence, hangs, gate = Silence(spare=2), asyncio.Event(), asyncio.Event()
    await silence.lose()
    first = await silence.begin(LOST[0], hangs)
    await silence.refuses()
    silence.now += 1.0
    second = await silence.begin(None, gate)
    await silence.refuses()
    gate.set()
    await second
    gate.clear()
    both = [await silence.begin(None, gate) for _ in range(2)]
    gate.set()
    await asyncio.gather(*both)
    hangs.set()
    with pytest.raises(UnknownOutcomeError):
        await first
    await silence.call(None)


async def test_the_spare_calls_are_so_many_over_all_places() -> None:
    silence, hangs = Silence(spare=2), asyncio.Event()
    asking = []
    for place in ("here", "there"):
        await silence.lose(place)
        asking.append(await silence.begin(LOST[0], hangs, place))
    for place in ("here", "there"):
        silence.now += 1.0
        asking.append(await silence.begin(LOST[0], hangs, place))
    silence.now += 60.0
    for place in ("here", "there"):
        await silence.refuses(place)
    hangs.set()
    await asyncio.gather(*asking, return_exceptions=True)
    hangs.clear()
    asking = [await silence.begin(None, hangs, "here")]
    for _ in range(2):
        silence.now += 1.0
        asking.append(await silence.begin(None, hangs, "here"))  # they are spare again
    hangs.set()
    await asyncio.gather(*asking)


async def test_who_asked_in_an_outage_and_hears_so_late_says_nothing_of_now() -> None:
    silence, hangs, gate = Silence(spare=5), asyncio.Event(), asyncio.Event()
    late = [await silence.begin(lost, hangs) for lost in LOST]
    await silence.call(None)
    hangs.set()
    assert len(await asyncio.gather(*late, return_exceptions=True)) == len(LOST)
    both = [await silence.begin(None, gate) for _ in range(2)]
    gate.set()
    await asyncio.gather(*both)


@pytest.mark.parametrize("answer", [None, SAID_NO])
async def test_calls_that_are_lost_now_and_then_hold_up_nobody(answer: Exception | None) -> None:
    silence, gate = Silence(), asyncio.Event()
    for each in (*LOST[:2], answer, *LOST[:2]):
        with contextlib.suppress(ProviderError, UnknownOutcomeError):
            await silence.call(each)
    both = [await silence.begin(None, gate) for _ in range(2)]
    gate.set()
    await asyncio.gather(*both)


@pytest.mark.parametrize("reason", NOT_MADE)
async def test_a_call_that_was_not_made_is_no_answer(reason: Exception) -> None:
    silence, gate = Silence(), asyncio.Event()
    await silence.lose()
    with pytest.raises(type(reason)):
        await silence.call(reason)
    asking = await silence.begin(None, gate)
    await silence.refuses()
    gate.set()
    await asking


@pytest.mark.parametrize("reason", NOT_MADE)
async def test_nor_is_it_one_that_was_lost(reason: Exception) -> None:
    silence, gate = Silence(), asyncio.Event()
    for _ in LOST:
        with pytest.raises(type(reason)):
            await silence.call(reason)
    both = [await silence.begin(None, gate) for _ in range(2)]
    gate.set()
    await asyncio.gather(*both)


@pytest.mark.parametrize("reason", NOT_MADE)
async def test_a_call_that_was_not_made_bars_nobody(reason: Exception) -> None:
    silence, hangs = Silence(spare=2), asyncio.Event()
    await silence.lose()
    asking = [await silence.begin(LOST[0], hangs)]
    silence.now += 1.0
    with pytest.raises(type(reason)):
        await silence.call(reason)
    asking.append(await silence.begin(None, hangs))
    await silence.refuses()  # this one was made
    hangs.set()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_one_that_waits_in_vain_lets_nobody_in_behind_who_was_let_in_since() -> None:
    silence, hangs, waits = Silence(spare=3), asyncio.Event(), asyncio.Event()
    await silence.lose()
    asking = [await silence.begin(LOST[0], hangs)]
    silence.now += 1.0
    in_vain = await silence.begin(ScarceError(), waits)
    silence.now += 1.0
    asking.append(await silence.begin(None, hangs))
    waits.set()
    with pytest.raises(ScarceError):
        await in_vain
    await silence.refuses()
    hangs.set()
    await asyncio.gather(*asking, return_exceptions=True)
