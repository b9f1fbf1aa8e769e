"""How calls fare on their way: latencies, refusals and lost answers, from the seed and the faults in force.

A request is under way by itself: it takes effect although whoever sent it has been killed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from random import Random
from typing import Final, TypeVar

T = TypeVar("T")

CALM_SECONDS: Final = 0.3
"""A way there or back takes no longer, unless a fault makes it."""
SLOW_SECONDS: Final = 6.0
"""The same while a fault makes calls slow."""
TIMEOUT_SECONDS: Final = 10.0
LAG_SECONDS: Final = 100.0
"""How long a read may miss a write while reads lag; the engine relies on 120 s."""
NEW_SECONDS: Final = 5.0
"""How long EC2 may not know a new rule's id everywhere meanwhile."""


class Fate(Enum):
    """What becomes of one call."""

    FINE = auto()
    REFUSED = auto()
    LOST_BEFORE = auto()
    LOST_AFTER = auto()


class Weather:
    """The faults in force, by name, and how many say so; each call draws its fate."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.modes: Counter[str] = Counter()

    def way(self, *, slow: bool = False) -> float:
        """Seconds one way."""
        if slow:
            return self.chance.uniform(0.05, SLOW_SECONDS)
        return (
            self.chance.uniform(0.002, 0.03) if self.chance.random() < 0.95 else self.chance.uniform(0.03, CALM_SECONDS)
        )

    def draw(self, weights: dict[Fate, float]) -> Fate:
        """FINE, but for these probabilities of something else."""
        drawn = self.chance.random()
        for fate, weight in weights.items():
            drawn -= weight
            if drawn < 0:
                return fate
        return Fate.FINE


async def exchange(
    effect: Callable[[], T], there: float, back: float, fate: Fate, *, refused: Exception, lost: Exception
) -> T:
    """Send, take effect, answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def arrive() -> None:
        if fate is Fate.REFUSED:
            loop.call_later(back, fail, refused)
            return
        try:
            result = effect()
        except Exception as error:
            loop.call_later(back, fail, error)
        else:
            loop.call_later(back, succeed, result)

    def succeed(result: T) -> None:
        if not answer.done():
            answer.set_result(result)

    def fail(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    if fate in (Fate.LOST_BEFORE, Fate.LOST_AFTER):
        loop.call_later(max(there, back), fail, lost)
    if fate is not Fate.LOST_BEFORE:
        loop.call_later(there, arrive)
    try:
        return await answer
    finally:
        answer.cancel()
