"""What the passes have in common: the API server may refuse what they write, and no watch tells of Secrets."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gatepass.core.ports import ClusterError, ConflictError, GoneError
from gatepass.engine.queue import LAST_RETRY, K, Queue

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = (2.0, 30.0)
"""How soon it is noticed that somebody has edited or deleted a Secret, which no watch tells: the first where there are
few of them, the second where there are many. All of them together are read once a second."""


def next_look(secrets: int) -> float:
    """Seconds until one of so many Secrets is looked at again."""
    at_least, at_most = _LOOK_SECONDS
    return min(max(at_least, float(secrets)), at_most)


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
