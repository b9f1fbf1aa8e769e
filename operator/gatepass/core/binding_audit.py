"""What the audit trail holds of an ApiKeyBinding: a function of the object, so that no crash loses it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from gatepass.core.audit import OPERATOR, AuditEntry, EventType, entry_id, subject_of
from gatepass.core.stamps import changer_of, requester_of
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.session import Requester


def binding_entries(binding: ApiKeyBinding, now: datetime) -> Iterator[AuditEntry]:
    """That it is there, or there in a new version, revoked, and each key that was written into its Secret.

    By whom, as admission has stamped it; that of a deletion is in the API server's audit log. What the REST API did is
    told beside it, also from where.
    """
    generation = binding.metadata.generation
    spec = binding.spec.model_dump_json(exclude_defaults=True, exclude={"key_hash"})
    changer = _name(changer_of(binding))
    details = {"generation": str(generation), "spec": spec}
    if generation <= 1:
        made, at = _name(requester_of(binding)), binding.metadata.creation_timestamp
        yield _entry(binding, EventType.API_KEY_CREATED, at, actor=made, details=details)
    elif binding.spec.revoked:  # nothing that is changed after that changes anything
        yield _entry(binding, EventType.API_KEY_REVOKED, now, actor=changer, details=details)
    else:
        yield _entry(binding, EventType.API_KEY_CHANGED, now, str(generation), actor=changer, details=details)
    for key in binding.status.keys:
        credential = f"key {key.id}"
        yield _entry(binding, EventType.API_KEY_ISSUED, key.created_at, key.id, actor=OPERATOR, credential=credential)


def binding_deleted(binding: ApiKeyBinding, now: datetime) -> AuditEntry:
    """That it is no more."""
    return _entry(binding, EventType.API_KEY_DELETED, binding.metadata.deletion_timestamp or now, actor=None)


def _name(who: Requester | None) -> str | None:
    return None if who is None else who.username


def _entry(binding: ApiKeyBinding, event: EventType, at: datetime, *which: str, **more: Any) -> AuditEntry:
    return AuditEntry(
        id=entry_id(binding.uid, event, *which),
        event=event,
        at=at,
        namespace=binding.metadata.namespace,
        subject=subject_of(binding),
        **more,
    )
