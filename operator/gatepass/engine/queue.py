"""A queue with one entry per key: it coalesces, delays, backs off, and never works on one key twice at a time."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_RETRY = 0.5
LAST_RETRY = 300.0
CLOSING_RETRY = 1.0
"""The longest pause, in seconds, while something that has ended is still open, or may be, and nobody has said no."""
_SLACK = 1000
_AT_ONCE = 4
"""Works that are begun in one turn of the event loop: with thousands due, others must have their turn in time, the
renewal of the lease before all."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much a queue has to do.

    `due` keys wait for a worker, the oldest since `oldest_seconds`; `active` are worked on; `failing` are tried again
    with backoff; `retries` is how often that was since the start. Keys that are due later are none of these.
    """

    due: int
    oldest_seconds: float
    active: int
    failing: int
    retries: int


class Queue(Generic[K]):
    """Calls `handle` for each key that is due; a key added while it is worked on is worked on again.

    Times are seconds of the event loop's clock.
    """

    def __init__(self, name: str, handle: Callable[[K], Awaitable[None]], workers: int) -> None:
        self.name = name
        self._handle = handle
        self._free = workers
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = itertools.count()
        self._active: dict[K, asyncio.Task[None]] = {}
        self._failures: dict[K, int] = {}
        self._retries = 0
        self._wake = asyncio.Event()

    def add(self, key: K, delay: float = 0.0) -> None:
        """Work on the key in `delay` seconds, or earlier if it is due earlier."""
        due = asyncio.get_running_loop().time() + max(delay, 0.0)
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._sequence), key))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            # What was forgotten or has moved: on a standby, nobody would ever come to throw it out.
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        self._wake.set()

    def retry(self, key: K, longest: float = LAST_RETRY) -> None:
        """Work on the key again after a pause that doubles with each failure, from half a second to the `longest`."""
        self.retry_in(key, min(FIRST_RETRY * 2 ** min(self._failures.get(key, 0), 20), longest))

    def retry_in(self, key: K, pause: float) -> None:
        """It has failed: work on it again after this pause."""
        self._failures[key] = self._failures.get(key, 0) + 1
        self._retries += 1
        self.add(key, pause)

    def succeeded(self, key: K) -> None:
        """Forget the failures of the key."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """The key is no more."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def load(self) -> Load:
        """How much there is to do now."""
        now = asyncio.get_running_loop().time()
        since = [now - due for due in self._due.values() if due <= now]
        return Load(len(since), max(since, default=0.0), len(self._active), len(self._failures), self._retries)

    async def run(self) -> None:
        """Work until cancelled; what is under way is then cancelled too."""
        try:
            while True:
                pause = self._start_what_is_due()
                if pause == 0.0:
                    await asyncio.sleep(0)
                    continue
                alarm = None if pause is None else asyncio.get_running_loop().call_later(pause, self._wake.set)
                await self._wake.wait()
                if alarm is not None:
                    alarm.cancel()
                self._wake.clear()
        finally:
            tasks = list(self._active.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start_what_is_due(self) -> float | None:
        """Seconds until there is more to start: 0 when that is now, None when nobody knows."""
        now = asyncio.get_running_loop().time()
        blocked: list[tuple[float, int, K]] = []
        pause: float | None = None
        begun = 0
        while self._heap and self._free:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif due > now:
                pause = due - now
                break
            elif begun == _AT_ONCE:
                pause = 0.0
                break
            else:
                entry = heapq.heappop(self._heap)
                if key in self._active:
                    blocked.append(entry)
                else:
                    self._start(key)
                    begun += 1
        for entry in blocked:
            heapq.heappush(self._heap, entry)
        return pause

    def _start(self, key: K) -> None:
        del self._due[key]
        self._free -= 1
        task = asyncio.create_task(self._work(key), name=f"{self.name} {key}")
        self._active[key] = task

    async def _work(self, key: K) -> None:
        structlog.contextvars.bind_contextvars(**{self.name: str(key)})  # for what is logged meanwhile, in this task
        try:
            await self._handle(key)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A defect in one pass must not stop the others; the next pass starts from the whole state again.
            log.exception("pass failed", queue=self.name, key=str(key))
            self.retry(key)
        finally:
            del self._active[key]
            self._free += 1
            self._wake.set()
