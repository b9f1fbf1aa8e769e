"""Reads the trail for the REST API: the `AuditReader` port."""

from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from gatepass.audit.trail import Page, Trail
from gatepass.core.ports import AuditError


class Reader:
    """Pages of a trail; whether its seals are whole is for `gatepass audit verify` to say."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

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
        """Entries of one namespace, the newest first."""
        try:
            return await self._trail.page(
                namespace, number=number, size=size, event=event, actor=actor, since=since, until=until
            )
        except (SQLAlchemyError, OSError) as error:
            raise AuditError("the audit trail cannot be read now") from error
