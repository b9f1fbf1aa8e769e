"""The load: sessions one at a time, and a burst by many writers. The same for Gatepass and for the floors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bench.api import SESSIONS, Api, Watch
from bench.scene import Scene, session_name

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Opening:
    """One session from create to Ready, in seconds of the monotonic clock; `at` tells when, for logs of others."""

    number: int
    started: float
    at: datetime
    ready: float

    @property
    def seconds(self) -> float:
        """From the create to Ready, as a client sees it."""
        return self.ready - self.started

    @property
    def ready_at(self) -> datetime:
        """When it was Ready, for logs of others."""
        return self.at + timedelta(seconds=self.seconds)


async def open_and_close(api: Api, watch: Watch, scene: Scene, number: int) -> Opening:
    """Create a session, wait until it is Ready; then delete it, and wait until it is gone."""
    path, name = SESSIONS.format(scene.namespace), session_name(number)
    async with asyncio.timeout(PATIENCE_SECONDS):
        started, at = time.monotonic(), datetime.now(UTC)
        await api.call("POST", path, scene.session(number))
        opening = Opening(number, started, at, await watch.ready(name))
        await api.call("DELETE", f"{path}/{name}")
        await watch.gone(name)
    return opening


async def burst(
    api: Api,
    scene: Scene,
    total: int,
    writers: int,
    patience: float = PATIENCE_SECONDS,
    tell: Callable[[int], None] = lambda _number: None,
) -> list[Opening]:
    """Create `total` sessions by so many writers, each as fast as it is answered; returns when all are Ready.

    `tell` is called with the number of each that was created.
    """

    async def write(numbers: range) -> list[Opening]:
        waiting = []
        for number in numbers:
            started, at = time.monotonic(), datetime.now(UTC)
            body = scene.session(number)
            await api.call("POST", SESSIONS.format(scene.namespace), body)
            waiting.append((number, started, at, session_name(number)))
            tell(number)
        return [Opening(number, started, at, await watch.ready(name)) for number, started, at, name in waiting]

    async with Watch(api, scene.namespace) as watch, asyncio.timeout(patience):
        found = await asyncio.gather(*(write(range(first, total, writers)) for first in range(writers)))
    return [opening for each in found for opening in each]


def lasted(openings: list[Opening]) -> float:
    """From the first create to the last Ready."""
    return max(each.ready for each in openings) - min(each.started for each in openings)


async def spread(number: int, do: Callable[[int], Awaitable[object]], writers: int = 48) -> None:
    """Do it for 0 to `number` - 1, by so many writers, each as fast as it is answered."""
    numbers = iter(range(number))

    async def work() -> None:
        for each in numbers:
            await do(each)

    await asyncio.gather(*(work() for _ in range(writers)))
