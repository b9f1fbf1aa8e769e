"""How many requests a caller has left this minute: as counted by this replica, or by all of them together."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog
from limits import RateLimitItemPerMinute, WindowStats
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

if TYPE_CHECKING:
    from valkey.asyncio import ConnectionPool

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.5
"""How long a request waits for the server that counts."""
AGAIN_SECONDS: Final = 5.0
"""How soon a server that did not answer is asked again."""


class Allowance:
    """So many requests `a_minute` for each caller, counted in `storage`, the URL of a Valkey or Redis, if there is one.

    While it does not answer, each replica goes by what it has counted itself: nobody is turned away for it, and nobody
    has more than one allowance at each replica.
    """

    def __init__(self, a_minute: int, storage: str | None = None) -> None:
        self._limit = RateLimitItemPerMinute(a_minute)
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._pool = _pool(storage) if storage is not None else None
        self._shared = _shared(self._pool) if self._pool is not None else None
        self._lost = False
        self._ask_at = float("-inf")

    async def take(self, who: str) -> tuple[bool, WindowStats]:
        """Count a request of a caller: may it be made, and what is left after it?"""
        own = await self._count(self._own, who)
        if self._shared is None or time.monotonic() < self._ask_at:
            return own
        if self._lost:
            self._ask_at = time.monotonic() + AGAIN_SECONDS  # this one request finds out, and the rest do not wait
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                shared = await self._count(self._shared, who)
        except (StorageError, OSError, TimeoutError) as error:
            self._ask_at = time.monotonic() + AGAIN_SECONDS
            if not self._lost:
                self._lost = True
                why = error.storage_error if isinstance(error, StorageError) else error
                log.warning("the shared limiter does not answer: each replica counts by itself", error=repr(why))
            return own
        if self._lost:
            self._lost, self._ask_at = False, float("-inf")
            log.info("the shared limiter answers again")
        return shared

    async def _count(self, limiter: MovingWindowRateLimiter, who: str) -> tuple[bool, WindowStats]:
        return await limiter.hit(self._limit, who), await limiter.get_window_stats(self._limit, who)

    @property
    def a_minute(self) -> int:
        """The whole of it."""
        return self._limit.amount

    async def aclose(self) -> None:
        """Close the connections to the server."""
        if self._pool is not None:
            await self._pool.aclose()


def _pool(url: str) -> "ConnectionPool":
    from valkey.asyncio import ConnectionPool  # which most installations need not load

    return ConnectionPool.from_url(url)


def _shared(pool: "ConnectionPool") -> MovingWindowRateLimiter:
    storage = RedisStorage(
        "async+valkey://",
        wrap_exceptions=True,
        key_prefix="gatepass",
        connection_pool=pool,  # type: ignore[arg-type]  # as it documents, if not as it declares
    )
    return MovingWindowRateLimiter(storage)
