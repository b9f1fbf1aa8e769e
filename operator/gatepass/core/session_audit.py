"""What the audit trail holds of a session and of a resource: a function of the object, so that no crash loses it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from gatepass.core.audit import OPERATOR, AuditEntry, EventType, Outcome, entry_id, subject_of
from gatepass.core.lifecycle import BY_TIME
from gatepass.core.stamps import changer_of
from gatepass.core.types.common import format_duration, format_time
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import (
    AccessSession,
    AccessSessionStatus,
    EndedReason,
    Phase,
    Requester,
    ResourceState,
    RuleStatus,
    SessionResourceStatus,
)


def started(session: AccessSession, requester: Requester | None) -> AuditEntry:
    """That it was asked for: by whom, for what, from which addresses, for how long."""
    spec = session.spec
    details = {
        "resources": " ".join(map(str, session.resource_keys())),
        **({"addresses": " ".join(spec.source.ranges)} if spec.source.kind.declared else {"source": spec.source.kind}),
        "duration": format_duration(spec.duration),
        **({"notAfter": format_time(spec.not_after)} if spec.not_after else {}),
        **({"reason": spec.reason} if spec.reason else {}),
    }
    return AuditEntry(
        id=entry_id(session.uid, EventType.SESSION_STARTED),
        event=EventType.SESSION_STARTED,
        at=session.metadata.creation_timestamp,
        namespace=session.metadata.namespace,
        actor=requester.username if requester else None,
        subject=subject_of(session),
        details=details,
    )


def session_entries(session: AccessSession, status: AccessSessionStatus) -> list[AuditEntry]:
    """Everything that a status tells, each with an id of its own: told again it is the same entry."""
    if status.phase is None:
        return []
    entries = [started(session, status.requester), *_standing(session, status), *_ended(session, status)]
    for resource in status.resources:
        for record in resource.rules:
            entries += _rule(session, status, resource, record)
    return entries


def news(session: AccessSession, status: AccessSessionStatus, now: datetime) -> list[AuditEntry]:
    """What `status` tells that the session's present status does not."""
    told = {entry.id for entry in session_entries(session, session.status)}
    fresh = [entry for entry in session_entries(session, status) if entry.id not in told]
    return [*fresh, *_moved(session, status, now)]


def moved(session: AccessSession, before: datetime, after: datetime, now: datetime) -> AuditEntry | None:
    """That who changed the session to what it is has moved its end, each of several times in a row."""
    if before == after or session.status.ended_at is not None:
        return None
    return _move(session, session.status, before, after, now, by_spec=True)


def _moved(session: AccessSession, status: AccessSessionStatus, now: datetime) -> Iterator[AuditEntry]:
    """The same as a status tells it, which it does after a crash too; and that the policy of a resource did it."""
    before, after = session.status.expires_at, status.expires_at
    if before is not None and after is not None and status.ended_at is None and before != after:
        by_spec = session.metadata.generation > (session.status.observed_generation or 0)
        yield _move(session, status, before, after, now, by_spec=by_spec)


def _move(
    session: AccessSession,
    status: AccessSessionStatus,
    before: datetime,
    after: datetime,
    now: datetime,
    *,
    by_spec: bool,
) -> AuditEntry:
    event = EventType.SESSION_EXTENDED if after > before else EventType.SESSION_SHORTENED
    told = {"from": format_time(before), "to": format_time(after)}
    generation = str(session.metadata.generation)
    # The policy of a resource may move it several times, and back, while nobody changes the session.
    which = (generation,) if by_spec else (generation, told["to"], format_time(now))
    actor = _changer(session) if by_spec else None
    entry = _entry(session, status, event, now, which, actor=actor, details=told)
    # A status may tell of several at once, and in the other direction than the last of them.
    return replace(entry, id=entry_id(session.uid, EventType.SESSION_EXTENDED, *which))


def _standing(session: AccessSession, status: AccessSessionStatus) -> Iterator[AuditEntry]:
    """That it is open, in part or not at all, once that is settled."""
    since = {condition.type: condition for condition in status.conditions}
    settled = since.get("Settled")
    if settled is None or settled.status != "True" or status.ended_at is not None:
        return
    failed = [entry for entry in status.resources if entry.state is ResourceState.FAILED]
    details = {f"{entry.key}": f"{entry.reason}: {entry.message}" for entry in failed}
    match status.phase:
        case Phase.ACTIVE:
            event, outcome, at = EventType.SESSION_ACTIVATED, Outcome.SUCCESS, since["Ready"].last_transition_time
            details = {"until": format_time(status.expires_at)} if status.expires_at else {}
            if not session.spec.source.kind.declared and status.address:
                details["addresses"] = status.address
        case Phase.PARTIAL:
            event, outcome, at = EventType.SESSION_PARTIAL, Outcome.FAILURE, settled.last_transition_time
        case Phase.FAILED:
            event, outcome, at = EventType.SESSION_FAILED, Outcome.FAILURE, settled.last_transition_time
        case _:
            return
    yield _entry(session, status, event, at, (format_time(at),), outcome=outcome, details=details)


def _ended(session: AccessSession, status: AccessSessionStatus) -> Iterator[AuditEntry]:
    if status.ended_at is None or status.ended_reason is None:
        return
    by_itself = status.ended_reason in BY_TIME
    event = EventType.SESSION_EXPIRED if by_itself else EventType.SESSION_STOPPED
    details = {"reason": status.ended_reason.value}
    if by_itself:
        yield _entry(session, status, event, status.ended_at, (), details=details)
    else:
        # Who deleted it or changed a policy is in the API server's audit log, and not in the object.
        actor = _changer(session) if status.ended_reason is EndedReason.MANUAL else None
        yield _entry(session, status, event, status.ended_at, (), actor=actor, details=details)


def _changer(session: AccessSession) -> str | None:
    changer = changer_of(session)
    return changer.username if changer is not None else None


def _rule(
    session: AccessSession, status: AccessSessionStatus, resource: SessionResourceStatus, record: RuleStatus
) -> Iterator[AuditEntry]:
    """That the session's access through a rule began, and that it ended; its resource's owner is told too."""
    ports = (
        ""
        if record.port is None
        else f" {record.port}" + ("" if record.end_port in (None, record.port) else f"-{record.end_port}")
    )
    details = {
        "resource": str(resource.key),
        "target": record.target,
        "ruleId": record.id,
        "rule": f"{record.cidr} {record.protocol}{ports}",
        **({"foreign": "true"} if record.foreign else {}),
    }
    applied = format_time(record.applied_at)
    for namespace in dict.fromkeys((session.metadata.namespace, resource.namespace)):
        which = (namespace, record.target, record.id, applied)
        event = EventType.RULE_APPLIED
        yield _entry(session, status, event, record.applied_at, which, namespace=namespace, details=details)
        if record.removed_at is not None:
            event, removed = EventType.RULE_REMOVED, record.removed_at
            which = (*which[:-1], format_time(removed))
            yield _entry(session, status, event, removed, which, namespace=namespace, details=details)


def _entry(
    session: AccessSession,
    status: AccessSessionStatus,
    event: EventType,
    at: datetime,
    which: tuple[str, ...],
    *,
    details: Mapping[str, str],
    namespace: str | None = None,
    actor: str | None = OPERATOR,
    outcome: Outcome = Outcome.SUCCESS,
) -> AuditEntry:
    return AuditEntry(
        id=entry_id(session.uid, event, *which),
        event=event,
        at=at,
        namespace=namespace or session.metadata.namespace,
        outcome=outcome,
        actor=actor,
        on_behalf_of=status.requester.username if status.requester else None,
        subject=subject_of(session),
        details=details,
    )


def resource_entry(resource: ProtectedResource, now: datetime) -> AuditEntry:
    """That a resource is there, or there in a new version; who wrote it is in the API server's audit log."""
    generation = resource.metadata.generation
    first = generation <= 1
    event = EventType.RESOURCE_CREATED if first else EventType.RESOURCE_CHANGED
    return AuditEntry(
        id=entry_id(resource.uid, event, str(generation)),
        event=event,
        at=resource.metadata.creation_timestamp if first else now,
        namespace=resource.metadata.namespace,
        actor=None,
        subject=subject_of(resource),
        details={"generation": str(generation), "spec": resource.spec.model_dump_json(exclude_defaults=True)},
    )


def resource_deleted(resource: ProtectedResource, now: datetime) -> AuditEntry:
    """That a resource is no more."""
    return AuditEntry(
        id=entry_id(resource.uid, EventType.RESOURCE_DELETED),
        event=EventType.RESOURCE_DELETED,
        at=resource.metadata.deletion_timestamp or now,
        namespace=resource.metadata.namespace,
        actor=None,
        subject=subject_of(resource),
    )
