"""Reads that many passes make at a time become few calls: a start with 200 groups asks some twenty times, not 200."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from weakref import WeakValueDictionary

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access

T = TypeVar("T")

_AT_A_TIME: Final = 4
"""Calls under way for one way in; whoever comes meanwhile goes with the next one."""
_GIVEN_UP: Final = ProviderError(Failure.RETRY, "NoAnswer", "the call was given up, and is made again")


def _future() -> "asyncio.Future[Mapping[str, T]]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Batch(Generic[T]):
    """What the one who made it asks for, and whoever has joined until the call goes out."""

    ids: set[str]
    answer: asyncio.Future[Mapping[str, T]] = field(default_factory=_future)


class Joint(Generic[T]):
    """Asks for up to `most` ids in one call. What is answered was asked after whoever hears it came.

    A no to several is asked again for each of them, so that nobody is refused for what another one named.
    """

    def __init__(self, ask: Callable[[Access, Collection[str]], Awaitable[Mapping[str, T]]], most: int) -> None:
        self._ask = ask
        self._most = most
        self._open: dict[Access, _Batch[T]] = {}
        self._turns: WeakValueDictionary[Access, asyncio.Semaphore] = WeakValueDictionary()  # of those under way

    async def of(self, access: Access, ids: Collection[str]) -> Mapping[str, T]:
        """The answers for these ids, and perhaps for others; raises ProviderError."""
        batch = self._open.get(access)
        leads = batch is None or len(batch.ids.union(ids)) > self._most
        if batch is None or leads:
            batch = self._open[access] = _Batch(set(ids))
        batch.ids.update(ids)
        try:
            return await (self._lead(access, batch) if leads else asyncio.shield(batch.answer))
        except ProviderError as error:
            if error.failure is Failure.RETRY or batch.ids == set(ids):
                raise
        return await self._ask(access, ids)

    async def _lead(self, access: Access, batch: _Batch[T]) -> Mapping[str, T]:
        """Ask for the batch when there is a turn; nobody joins it any more from then on."""
        try:
            async with self._turns.setdefault(access, asyncio.Semaphore(_AT_A_TIME)):
                self._close(access, batch)
                found = await self._ask(access, sorted(batch.ids))
        except BaseException as error:
            self._close(access, batch)
            batch.answer.set_exception(error if isinstance(error, ProviderError) else _GIVEN_UP)
            batch.answer.exception()  # which nobody may be there to hear
            raise
        batch.answer.set_result(found)
        return found

    def _close(self, access: Access, batch: _Batch[T]) -> None:
        if self._open.get(access) is batch:
            del self._open[access]
