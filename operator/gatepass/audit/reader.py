"""Reads the trail for the REST API: the `AuditReader` port."""

import asyncio
from datetime import datetime
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from gatepass.audit.trail import Page, Trail
from gatepass.core.ports import AuditError

_AT_A_TIME: Final = 2
"""The database's connections are for who writes."""
_READ_SECONDS: Final = 10.0


class Reader:
    """Pages of a trail; whether its seals are whole is for `gatepass audit verify` to say."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def page(
        self,
        namespace: str,
        *,
        number: int,
        size: int,
        event: str | None,
        actor: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> Page:
        """Entries of one namespace, the newest first; raises AuditError, after ten seconds at the latest."""
        try:
            async with asyncio.timeout(_READ_SECONDS), self._turns:
                return await self._trail.page(
                    namespace, number=number, size=size, event=event, actor=actor, since=since, until=until
                )
        except (SQLAlchemyError, OSError) as error:
            raise AuditError("the audit trail cannot be read now") from error
