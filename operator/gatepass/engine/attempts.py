"""What the passes have in common: the API server may refuse what they write, and no watch tells of Secrets."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gatepass.core.ports import ClusterError, ConflictError, GoneError
from gatepass.engine.queue import LAST_RETRY, K, Queue

log = structlog.get_logger(__name__)

_LONGEST_LOOK_SECONDS: Final = 30.0
"""How soon it is noticed at the latest that somebody has edited or deleted a Secret, which no watch tells."""


def next_look(secrets: int, shortest: float) -> float:
    """Seconds until one of so many Secrets is looked at again: of many, one is read a second."""
    return max(shortest, min(float(secrets), _LONGEST_LOOK_SECONDS))


async def attempt(
    queue: Queue[K], key: K, work: Awaitable[bool], longest: Callable[[], float] = lambda: LAST_RETRY
) -> None:
    """One pass, which answers whether it is to be made again; that, or what the API server refuses, with backoff.

    `longest` is asked for the longest pause, in seconds, when a write was refused.
    """
    try:
        again = await work
    except GoneError:
        return  # its event, or that of the next one of its name, is on the way
    except ConflictError:
        queue.retry(key, longest())
    except ClusterError as error:
        log.warning("cannot write", error=str(error))
        queue.retry(key, longest())
    else:
        (queue.retry if again else queue.succeeded)(key)
