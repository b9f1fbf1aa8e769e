"""/audit-logs: what was decided and done in the namespace, newest first."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from gatepass.core.audit import OPERATOR, EventType, RecordedEntry
from gatepass.rest.context import Here, Who
from gatepass.rest.errors import ApiError
from gatepass.rest.models import AuditLog, Moment, Page
from gatepass.rest.paging import WantedPart, json_of, page_of
from gatepass.rest.principal import KeyHolder

router = APIRouter(prefix="/audit-logs", tags=["audit-logs"])

READ: Final = "audit:read"
PLURAL: Final = "auditlogs"
"""No kind of Kubernetes: a name for RBAC to say who may read."""


@router.get("", response_model=Page[AuditLog])
async def every(
    here: Here,
    who: Who,
    wanted: WantedPart,
    event_type: Annotated[EventType | None, Query(alias="eventType")] = None,
    actor: Annotated[str | None, Query(alias="actorEmail", max_length=512)] = None,
    since: Annotated[Moment | None, Query(alias="from", description="Inclusive.")] = None,
    until: Annotated[Moment | None, Query(alias="to", description="Not inclusive.")] = None,
) -> Response:
    """The entries of the namespace; always a page."""
    await here.require(who, READ, "list", PLURAL)
    if isinstance(who, KeyHolder):
        binder = here.answerable(who)
        if binder is None or not await here.gateway.may(binder, "list", PLURAL, who.namespace):
            told = f'who bound the key needs the verb "list" on {PLURAL} of {who.namespace}'
            raise ApiError(HTTPStatus.FORBIDDEN, told)
    if here.audit_reader is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "this installation keeps no audit trail")
    found = await here.audit_reader.page(
        who.namespace,
        number=wanted.number,
        size=wanted.size,
        event=event_type,
        actor=actor,
        since=since,
        until=until,
    )
    return page_of([json_of(_view(entry)) for entry in found.entries], found.total, wanted)


def _view(entry: RecordedEntry) -> AuditLog:
    return AuditLog(
        id=entry.id,
        event_type=entry.event,
        timestamp=entry.at,
        outcome=entry.outcome,
        actor_email=entry.on_behalf_of or entry.actor if entry.actor in (None, OPERATOR) else entry.actor,
        credential=entry.credential,
        ip_address=entry.address,
        request_id=entry.request_id,
        subject_kind=entry.subject_kind,
        subject_name=entry.subject_name,
        subject_id=entry.subject_uid,
        details=dict(entry.told()),
    )
