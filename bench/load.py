"""The load: sessions one at a time, and a burst by many writers. The same for Gatepass and for the floors."""

import asyncio
import time
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


async def one_at_a_time(api: Api, scene: Scene, numbers: range) -> list[Opening]:
    """Create a session, wait until it is Ready, delete it, wait until it is gone, and so on."""
    path = SESSIONS.format(scene.namespace)
    found = []
    async with Watch(api, scene.namespace) as watch, asyncio.timeout(PATIENCE_SECONDS):
        for number in numbers:
            found.append(await _open(api, watch, scene, number))
            name = session_name(number)
            await api.call("DELETE", f"{path}/{name}")
            await watch.gone(name)
    return found


async def burst(api: Api, scene: Scene, total: int, writers: int) -> list[Opening]:
    """Create `total` sessions by so many writers, each as fast as it is answered; returns when all are Ready."""

    async def write(numbers: range) -> list[Opening]:
        waiting = []
        for number in numbers:
            started, at = time.monotonic(), datetime.now(UTC)
            body = scene.session(number)
            await api.call("POST", SESSIONS.format(scene.namespace), body)
            waiting.append((number, started, at, session_name(number)))
        return [Opening(number, started, at, await watch.ready(name)) for number, started, at, name in waiting]

    async with Watch(api, scene.namespace) as watch, asyncio.timeout(PATIENCE_SECONDS):
        found = await asyncio.gather(*(write(range(first, total, writers)) for first in range(writers)))
    return [opening for each in found for opening in each]


def lasted(openings: list[Opening]) -> float:
    """From the first create to the last Ready."""
    return max(each.ready for each in openings) - min(each.started for each in openings)


async def _open(api: Api, watch: Watch, scene: Scene, number: int) -> Opening:
    body = scene.session(number)
    started, at = time.monotonic(), datetime.now(UTC)
    await api.call("POST", SESSIONS.format(scene.namespace), body)
    return Opening(number, started, at, await watch.ready(session_name(number)))
