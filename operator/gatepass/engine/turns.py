"""Who is refused something that has to close tries again in turn, and not each at a pace of its own."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from gatepass.engine.queue import CLOSING_RETRY, LAST_RETRY, K, Queue

P = TypeVar("P", bound=Hashable)

_TRIES: Final = 600
"""In the time that a refusal has lasted: one a second for ten minutes or twenty, and after a day one in 2.4 minutes."""


@dataclass(slots=True)
class _Line(Generic[K]):
    since: float
    next_turn: float
    refused: set[K] = field(default_factory=set)


class Turns(Generic[P, K]):
    """Keys of a queue that are refused, in one line for each permission that they lack.

    One of a line has its turn each second, however many there are, and more rarely the longer it takes. When one gets
    through, all others follow at once: what was refused to all is given back to all.
    """

    def __init__(self, queue: Queue[K]) -> None:
        self._queue = queue
        self._lines: dict[P, _Line[K]] = {}

    def refused(self, permission: P, key: K) -> None:
        """The key tries again when it is its turn."""
        now = asyncio.get_running_loop().time()
        line = self._lines.get(permission)
        if line is None or now > line.next_turn + LAST_RETRY:  # nobody of it has come when it was his turn
            line = self._lines[permission] = _Line(now, now)
        pause = min(max(CLOSING_RETRY, (now - line.since) // _TRIES), LAST_RETRY)
        line.next_turn = max(line.next_turn, now) + pause
        line.refused.add(key)
        self._queue.retry_in(key, line.next_turn - now)

    def let_in(self, permission: P, key: K) -> None:
        """The key has got through; of one that was not refused before, that tells nothing about those that were."""
        line = self._lines.get(permission)
        if line is None or key not in line.refused:
            return
        del self._lines[permission]
        for each in line.refused - {key}:
            self._queue.add(each)
