"""Follows sessions, of which thousands may come at once, and whose first milliseconds jobs wait for.

For each object that comes kopf makes a task and a queue, which is a quarter of the operator's work in a burst.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, NoReturn

import structlog

from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine
from gatepass.kube.api import KubeApi, path_of
from gatepass.kube.handlers import Followed, followed_sessions
from gatepass.kube.listing import Listing
from gatepass.kube.watches import Watches

log = structlog.get_logger(__name__)

_PAUSE_SECONDS: Final = 1.0
_TOO_OLD, _BUSY = 410, 429


async def follow_sessions(
    api: KubeApi, engine: Engine, listing: Listing, namespaces: Sequence[str], watches: Watches
) -> None:
    """Tell the engine what happens to sessions, from where `listing` has read, until cancelled."""
    sessions = followed_sessions(engine)
    async with asyncio.TaskGroup() as tasks:
        for namespace in namespaces or [""]:
            tasks.create_task(follow(api, path_of(AccessSession, namespace), sessions, listing, watches))


async def follow(
    api: KubeApi, path: str, sessions: Followed[AccessSession], listing: Listing, watches: Watches
) -> NoReturn:
    """The same for one collection.

    A watch that ends or breaks goes on where it was. One that is refused may have missed something, unless the API
    server is just busy, and begins at a new listing, as client-go has it.
    """
    version, now = listing.version(path), asyncio.get_running_loop().time
    while True:
        fresh = version is None
        try:
            if version is None:
                watches.begun(path, watch=False)
                version = await listing.again(path)
            watches.begun(path, watch=True)
            began = now()
            async with aclosing(api.watch(path, version, silent_seconds=watches.silent_seconds)) as events:
                async for event in events:
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        sessions.happened(event)
            pause = now() < began + _PAUSE_SECONDS
            why = "it ended as soon as it had begun" if pause else ""
        except RefusedError as error:
            why, pause = f"{error.status}: {error.message}", fresh or error.status != _TOO_OLD
            if error.status != _BUSY:
                version = None
        except (ClusterError, GoneError) as error:
            why, pause = str(error), version is None or now() < began + _PAUSE_SECONDS
        if why:
            log.info("the watch of sessions was interrupted", path=path, error=why)
        if pause:
            await asyncio.sleep(_PAUSE_SECONDS)
