"""Who asks within a moment shares a call, also where answers of others bring the questions one by one."""

import asyncio
from collections.abc import Sequence

import pytest

from gatepass.egress.lookup import Lookup

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def asked(pauses: Sequence[float]) -> list[int]:
    """How many keys each call was for, when they were asked for with these pauses."""
    calls: list[int] = []

    async def load(keys: Sequence[int]) -> dict[int, int]:
        calls.append(len(keys))
        await asyncio.sleep(0.1)
        return {key: -key for key in keys}

    lookup = Lookup(load, 30.0, asyncio.get_running_loop().time)
    asking = []
    for number, pause in enumerate(pauses):
        await asyncio.sleep(pause)
        asking.append(asyncio.create_task(lookup.get(number)))
    assert await asyncio.gather(*asking) == [-number for number in range(len(pauses))]
    return calls


async def test_the_nodes_of_many_pods_become_known_one_after_the_other() -> None:
    assert await asked([0.002] * 20) == [20]


async def test_nobody_waits_for_ever_for_the_last_one() -> None:
    first, *_ = await asked([0.002] * 200)
    assert 15 <= first <= 40


async def test_who_asks_alone_does_not_wait() -> None:
    began = asyncio.get_running_loop().time()
    assert await asked([0.0]) == [1]
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.105, abs=0.001)
