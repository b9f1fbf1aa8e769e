"""Who is refused something that has to close tries again in turn, and not each at a pace of its own."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from gatepass.engine.queue import CLOSING_RETRY, LAST_RETRY, K, Queue

P = TypeVar("P", bound=Hashable)

_TRIES: Final = 600
"""In the time that a refusal has lasted: one a second for ten minutes or twenty, and after a day one in 2.4 minutes."""
_ANSWERED_SECONDS: Final = 60.0
"""After which whoever had his turn, and was neither let in nor refused again, does not want it any more."""


@dataclass(slots=True)
class _Refused:
    since: float
    tried: float


@dataclass(slots=True)
class _Line(Generic[K]):
    waiting: dict[K, _Refused] = field(default_factory=dict)
    trying: dict[K, _Refused] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class Turns(Generic[P, K]):
    """Keys of a queue that are refused, in one line for each permission that they lack.

    One of a line has its turn each second, however many there are, and more rarely once the last who came has been
    refused for long: the one whose last try is longest ago, measured by how long it has been refused. When one gets
    through, all others follow at once: what was refused to all is given back to all.
    """

    def __init__(self, queue: Queue[K]) -> None:
        self._queue = queue
        self._lines: dict[P, _Line[K]] = {}

    def refused(self, permission: P, key: K) -> None:
        """The key tries again when it is its turn; one that comes in between loses nothing by it."""
        now = asyncio.get_running_loop().time()
        line = self._lines.setdefault(permission, _Line())
        before = line.waiting.get(key) or line.trying.pop(key, None)
        line.waiting[key] = _Refused(before.since if before else now, now)
        self._queue.refused(key)
        if before is None:
            self._next_turn(permission, line)

    def settled(self, key: K) -> None:
        """The key wants nothing any more: it has not failed, and takes no turn."""
        self._queue.succeeded(key)
        for line in self._lines.values():
            line.waiting.pop(key, None)
            line.trying.pop(key, None)

    def let_in(self, permission: P, key: K) -> None:
        """The key has got through; of one that was not refused before, that tells nothing about those that were."""
        line = self._lines.get(permission)
        if line is None or (key not in line.waiting and key not in line.trying):
            return
        del self._lines[permission]
        if line.timer is not None:
            line.timer.cancel()
        for each in (line.waiting.keys() | line.trying.keys()) - {key}:
            self._queue.add(each)

    def _next_turn(self, permission: P, line: _Line[K]) -> None:
        now = asyncio.get_running_loop().time()
        newest = max((each.since for each in (*line.waiting.values(), *line.trying.values())), default=now)
        pause = min(max(CLOSING_RETRY, (now - newest) // _TRIES), LAST_RETRY)
        if line.timer is not None:
            pause = min(pause, max(line.timer.when() - now, 0.0))
            line.timer.cancel()
        line.timer = asyncio.get_running_loop().call_later(pause, self._turn, permission, line)

    def _turn(self, permission: P, line: _Line[K]) -> None:
        now = asyncio.get_running_loop().time()
        line.timer = None
        line.trying = {key: each for key, each in line.trying.items() if now < each.tried + _ANSWERED_SECONDS}
        if line.waiting:
            due = max(line.waiting, key=lambda key: _overdue(line.waiting[key], now))
            line.trying[due] = _Refused(line.waiting.pop(due).since, now)
            self._queue.add(due)
        if line.waiting or line.trying:
            self._next_turn(permission, line)
        else:
            del self._lines[permission]


def _overdue(refused: _Refused, now: float) -> float:
    return (now - refused.tried) / max(now - refused.since, CLOSING_RETRY)
