"""What the watch brings of a session that somebody else has changed."""

import asyncio
from typing import Final

from gatepass.core.types.session import AccessSession
from gatepass.engine.store import Store

_SECONDS: Final = 2.0


async def newer_than(session: AccessSession, store: Store, changed: asyncio.Event) -> AccessSession | None:
    """The version that came in between, once it is known; the same if none comes soon, None when it is no more.

    `changed` is the session's, from before the write that met the other version.
    """
    known = store.session(session.uid)
    if known is session:
        try:
            async with asyncio.timeout(_SECONDS):
                await changed.wait()
        except TimeoutError:
            return session
        known = store.session(session.uid)
    return known
