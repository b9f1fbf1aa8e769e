"""Answers by key: asked for together, and kept for a short while."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOMENT_SECONDS: Final = 0.005
"""Without a new key after which those who have asked become one call."""
_MOMENTS: Final = 10
"""As many at most."""
NEVER: Final = float("-inf")


@dataclass(slots=True, eq=False)
class _Asked(Generic[V]):
    """What has been asked; `at` is when the call began, and the answer may be an error."""

    answer: "asyncio.Future[V | Exception | None]"
    at: float


class Lookup(Generic[K, V]):
    """Looks up by `load`, which is given many keys, and leaves out those that are not there.

    An answer is kept for `seconds` of `monotonic`, and an error for `refused_seconds` if it is `lasting`, else not.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        seconds: float,
        monotonic: Callable[[], float],
        refused_seconds: float = 0.0,
        lasting: Callable[[Exception], bool] = lambda _error: False,
    ) -> None:
        self._load = load
        self._seconds = seconds
        self._monotonic = monotonic
        self._refused_seconds = refused_seconds
        self._lasting = lasting
        self._known: dict[K, _Asked[V]] = {}
        self._next: dict[K, _Asked[V]] = {}
        self._loads: set[asyncio.Task[None]] = set()

    async def get(self, key: K, since: float = NEVER) -> V | None:
        """The answer, by a call that began not before `since`; None when there is no such thing. Raises its error."""
        known = self._current(key, since) or self._ask(key)
        found = await asyncio.shield(known.answer)
        if isinstance(found, Exception):
            raise found
        return found

    def has(self, key: K, since: float = NEVER) -> bool:
        """Is the answer known, or on its way?"""
        return self._current(key, since) is not None

    def _current(self, key: K, since: float) -> _Asked[V] | None:
        known = self._known.get(key)
        if known is not None and known.at >= max(since, self._monotonic() - self._kept(known)):
            return known
        return self._next.get(key)

    def _kept(self, asked: _Asked[V]) -> float:
        refused = asked.answer.done() and isinstance(asked.answer.result(), Exception)
        return self._refused_seconds if refused else self._seconds

    def _ask(self, key: K) -> _Asked[V]:
        asked: _Asked[V] = _Asked(asyncio.get_running_loop().create_future(), float("inf"))
        if not self._next:
            task = asyncio.create_task(self._load_next())
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
        self._next[key] = asked
        return asked

    async def _load_next(self) -> None:
        for _ in range(_MOMENTS):
            asked_before = len(self._next)
            await asyncio.sleep(_MOMENT_SECONDS)
            if len(self._next) == asked_before:
                break
        batch, self._next = self._next, {}
        now = self._monotonic()
        self._known = {key: kept for key, kept in self._known.items() if kept.at >= now - self._seconds}
        for asked in batch.values():
            asked.at = now
        self._known |= batch
        try:
            found = await self._load(list(batch))
        except Exception as error:  # whoever asked gets it
            for key, asked in batch.items():
                if self._known.get(key) is asked and not self._lasting(error):
                    del self._known[key]
                asked.answer.set_result(error)
        else:
            for key, asked in batch.items():
                asked.answer.set_result(found.get(key))

    async def gather(self, keys: Sequence[K], since: float = NEVER) -> Mapping[K, V]:
        """The answers of those keys that there are; raises the first error."""
        found = await asyncio.gather(*(self.get(key, since) for key in keys))
        return {key: each for key, each in zip(keys, found, strict=True) if each is not None}
