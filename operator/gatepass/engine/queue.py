"""A queue with one entry per key: it coalesces, delays, backs off, and never works on one key twice at a time."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_RETRY = 0.5
TICK = 1e-6
"""What is due within a tick of the clock is due, as asyncio has it: no alarm is that fine."""
LAST_RETRY = 300.0
CLOSING_RETRY = 1.0
"""The longest pause, in seconds, while something that has ended is still open, or may be, and nobody has said no."""
_DEFECT_RETRY = 10.0
"""The same where a pass breaks off by a defect of ours: something may have to close there."""
_SLACK = 1000
_AT_ONCE = 4
"""Works that are begun in one turn of the event loop: with thousands due, others must have their turn in time, the
renewal of the lease before all."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much a queue has to do.

    `due` keys wait for a worker, the oldest since `oldest_seconds`; `active` are worked on; `failing` are tried again
    with backoff; `retries` is how often that was since the start. Keys that are due later are none of these, nor are
    those of a standby, where nobody works yet.
    """

    due: int
    oldest_seconds: float
    active: int
    failing: int
    retries: int


@dataclass(slots=True)
class _Line(Generic[K]):
    """Keys by when they are due."""

    due: dict[K, float] = field(default_factory=dict)
    heap: list[tuple[float, int, K]] = field(default_factory=list)
    sequence: Iterator[int] = field(default_factory=itertools.count)

    def add(self, key: K, due: float) -> bool:
        """Answers whether it was not due as early before."""
        if self.due.get(key, float("inf")) <= due:
            return False
        self.due[key] = due
        heapq.heappush(self.heap, (due, next(self.sequence), key))
        if len(self.heap) > 2 * len(self.due) + _SLACK:
            # What was forgotten or has moved: on a standby, nobody would ever come to throw it out.
            self.heap = [entry for entry in self.heap if self.due.get(entry[2]) == entry[0]]
            heapq.heapify(self.heap)
        return True

    def next_due(self) -> float | None:
        """Of the first key; None when there is none."""
        while self.heap and self.due.get(self.heap[0][2]) != self.heap[0][0]:
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None


class Queue(Generic[K]):
    """Calls `handle` for each key that is due; a key added while it is worked on is worked on again.

    Times are seconds of the event loop's clock.
    """

    def __init__(self, name: str, handle: Callable[[K], Awaitable[None]], workers: int) -> None:
        self.name = name
        self._handle = handle
        self._free = workers
        self._prompt, self._patient = self._lines = _Line[K](), _Line[K]()
        self._active: dict[K, asyncio.Task[None]] = {}
        self._failures: dict[K, tuple[int, float]] = {}
        self._retries = 0
        self._runs = False
        self._wake = asyncio.Event()

    def add(self, key: K, delay: float = 0.0, *, patient: bool = False) -> None:
        """Work on the key in `delay` seconds, or earlier if it is due earlier.

        A `patient` key lets all others go first that are due by then: a look at everything must not hold up an end.
        """
        due = asyncio.get_running_loop().time() + max(delay, 0.0)
        if (self._patient if patient else self._prompt).add(key, due):
            self._wake.set()

    def hurry(self, key: K) -> None:
        """Let a patient key that is due go first; what waits for a later moment waits on, a backoff above all."""
        now = asyncio.get_running_loop().time()
        if self._patient.due.get(key, float("inf")) <= now and self._prompt.add(key, now):
            self._wake.set()

    def retry(self, key: K, longest: float = LAST_RETRY) -> None:
        """Work on the key again after a pause that doubles with each failure, from half a second to the `longest`."""
        now = asyncio.get_running_loop().time()
        failures, due = self._failures.get(key, (0, now))
        if now < due - TICK:  # something else has brought it here before its time, which is no failure more
            self.add(key, min(due - now, longest))
            return
        pause = min(FIRST_RETRY * 2 ** min(failures, 20), longest)
        self._failures[key] = failures + 1, now + pause
        self._retries += 1
        self.add(key, pause)

    def refused(self, key: K) -> None:
        """It has failed, and somebody else knows when to try it again. It was answered: a backoff begins anew."""
        self._failures[key] = 0, 0.0
        self._retries += 1

    def succeeded(self, key: K) -> None:
        """Forget the failures of the key."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """The key is no more."""
        for line in self._lines:
            line.due.pop(key, None)
        self._failures.pop(key, None)

    def load(self) -> Load:
        """How much there is to do now."""
        now = asyncio.get_running_loop().time()
        lines = self._lines if self._runs else ()
        due = [(key, at) for line in lines for key, at in line.due.items() if at <= now]
        oldest = max((now - at for _, at in due), default=0.0)
        return Load(len({key for key, _ in due}), oldest, len(self._active), len(self._failures), self._retries)

    async def run(self) -> None:
        """Work until cancelled; what is under way is then cancelled too."""
        self._runs = True
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
        pauses = []
        begun = 0
        for line in self._lines:
            pause, begun = self._start(line, begun)
            if pause is not None:
                pauses.append(pause)
        return min(pauses, default=None)

    def _start(self, line: _Line[K], begun: int) -> tuple[float | None, int]:
        """The same for one line, and how many have begun in this turn."""
        now = asyncio.get_running_loop().time()
        blocked: list[tuple[float, int, K]] = []
        pause: float | None = None
        while self._free and (due := line.next_due()) is not None:
            if due > now + TICK:
                pause = due - now
                break
            if begun == _AT_ONCE:
                pause = 0.0
                break
            entry = heapq.heappop(line.heap)
            key = entry[2]
            if key in self._active:
                blocked.append(entry)
                continue
            for each in self._lines:
                each.due.pop(key, None)  # what is still to come then, this work finds out anew
            self._free -= 1
            self._active[key] = asyncio.create_task(self._work(key), name=f"{self.name} {key}")
            begun += 1
        for entry in blocked:
            heapq.heappush(line.heap, entry)
        return pause, begun

    async def _work(self, key: K) -> None:
        structlog.contextvars.bind_contextvars(**{self.name: str(key)})  # for what is logged meanwhile, in this task
        try:
            await self._handle(key)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A defect in one pass must not stop the others; the next pass starts from the whole state again.
            log.exception("pass failed", queue=self.name, key=str(key))
            self.retry(key, _DEFECT_RETRY)
        finally:
            del self._active[key]
            self._free += 1
            self._wake.set()
