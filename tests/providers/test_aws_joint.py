"""Reads that go together."""

import asyncio
from collections.abc import Collection, Mapping

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials
from gatepass.providers.aws_joint import Joint

HERE = Access("aws", "eu-central-1", Credentials())
THERE = Access("aws", "eu-central-1", Credentials(role="arn:aws:iam::123456789012:role/gatepass"))
pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


class Cloud:
    """Answers after a second with when it was asked; `denied` is refused, and so is every call that names it."""

    def __init__(self) -> None:
        self.calls: list[set[str]] = []
        self.denied = ""
        self.failure = Failure.FORBIDDEN

    async def ask(self, _access: Access, ids: Collection[str]) -> Mapping[str, float]:
        self.calls.append(set(ids))
        asked = asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        if self.denied in ids:
            raise ProviderError(self.failure, "Denied", self.denied)
        return dict.fromkeys(ids, asked)


async def test_one_alone_goes_at_once_and_many_go_together() -> None:
    cloud = Cloud()
    joint = Joint(cloud.ask, most=16)
    started = asyncio.get_running_loop().time()
    found = await asyncio.gather(*(joint.of(HERE, [str(number)]) for number in range(20)))
    assert [each[str(number)] for number, each in enumerate(found)] == [started] * 4 + [started + 1.0] * 16
    assert sorted(map(len, cloud.calls)) == [1, 1, 1, 1, 16]


async def test_no_call_carries_more_than_it_may() -> None:
    cloud = Cloud()
    joint = Joint(cloud.ask, most=16)
    await asyncio.gather(*(joint.of(HERE, [str(number), f"{number}b"]) for number in range(100)))
    assert max(map(len, cloud.calls)) == 16
    assert len(cloud.calls) == 4 + 12
    assert set().union(*cloud.calls) == {f"{number}{b}" for number in range(100) for b in ("", "b")}


async def test_nobody_hears_what_was_asked_before_he_came() -> None:
    cloud = Cloud()
    joint = Joint(cloud.ask, most=16)
    early = [asyncio.create_task(joint.of(HERE, ["a"])) for _ in range(4)]
    await asyncio.sleep(0.5)
    late = await joint.of(HERE, ["a"])
    assert late["a"] > asyncio.get_running_loop().time() - 1.5
    await asyncio.gather(*early)


async def test_ways_in_are_apart() -> None:
    cloud = Cloud()
    joint = Joint(cloud.ask, most=16)
    await asyncio.gather(*(joint.of(way, ["a"]) for way in (HERE, THERE) for _ in range(4)))
    assert cloud.calls == [{"a"}] * 8


async def test_a_no_for_one_is_no_answer_to_the_others() -> None:
    cloud = Cloud()
    cloud.denied = "7"
    joint = Joint(cloud.ask, most=16)
    found = await asyncio.gather(*(joint.of(HERE, [str(number)]) for number in range(20)), return_exceptions=True)
    assert [number for number, each in enumerate(found) if isinstance(each, ProviderError)] == [7]


async def test_what_may_be_tried_again_is_not_asked_again_at_once() -> None:
    cloud = Cloud()
    cloud.denied, cloud.failure = "7", Failure.RETRY
    joint = Joint(cloud.ask, most=16)
    found = await asyncio.gather(*(joint.of(HERE, [str(number)]) for number in range(20)), return_exceptions=True)
    assert sum(isinstance(each, ProviderError) for each in found) == 16
    assert len(cloud.calls) == 5


async def test_whoever_is_given_up_gives_up_nobody_else() -> None:
    cloud = Cloud()
    joint = Joint(cloud.ask, most=16)
    tasks = [asyncio.create_task(joint.of(HERE, [str(number)])) for number in range(8)]
    await asyncio.sleep(0.5)
    tasks[4].cancel()  # who leads the four that wait
    tasks[0].cancel()
    tasks[6].cancel()  # and one who has joined
    found = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {number: type(each) for number, each in enumerate(found)}
    assert [kinds[number] for number in (0, 4, 6)] == [asyncio.CancelledError] * 3
    assert [found[number].reason for number in (5, 7)] == ["NoAnswer"] * 2
    again = await asyncio.gather(*(joint.of(HERE, [str(number)]) for number in range(8)))
    assert all(str(number) in each for number, each in enumerate(again))


async def test_who_asks_no_more_is_forgotten() -> None:
    joint = Joint(Cloud().ask, most=16)
    await asyncio.gather(*(joint.of(each, ["a"]) for each in (HERE, THERE)))
    assert not [each for each in vars(joint).values() if isinstance(each, Mapping) and each]
