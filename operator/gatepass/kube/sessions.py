"""Follows sessions, of which thousands may come at once, and whose first milliseconds jobs wait for.

For each object that comes kopf makes a task and a queue, which is a quarter of the operator's work in a burst.
"""

import asyncio
from contextlib import aclosing
from typing import Final, NoReturn

import structlog

from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.session import AccessSession
from gatepass.kube.api import KubeApi
from gatepass.kube.handlers import Followed
from gatepass.kube.listing import Listing
from gatepass.kube.watches import Watches

log = structlog.get_logger(__name__)

_PAUSE_SECONDS: Final = 1.0
_TOO_OLD: Final = 410


async def follow(
    api: KubeApi, path: str, sessions: Followed[AccessSession], listing: Listing, watches: Watches
) -> NoReturn:
    """Tell of what happens to the sessions of a collection, from where `listing` has read, until cancelled.

    It goes on where it was, whatever happens to a watch; who was told that this is too long ago lists again.
    """
    version, now = listing.version(path), asyncio.get_running_loop().time
    while True:
        began = now()
        try:
            if version is None:
                version = await listing.again(path)
            watches.begun(path, watch=True)
            async with aclosing(api.watch(path, version, silent_seconds=watches.silent_seconds)) as events:
                async for event in events:
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        sessions.happened(event)
            why = "the watch ended as soon as it had begun"
        except RefusedError as error:
            if error.status == _TOO_OLD:
                version = None
                continue
            why = error.message
        except (ClusterError, GoneError) as error:
            why = str(error)
        if now() < began + _PAUSE_SECONDS:
            log.info("cannot watch", path=path, error=why)
            await asyncio.sleep(_PAUSE_SECONDS)
