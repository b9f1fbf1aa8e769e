"""What the audit trail holds of an ApiKeyBinding: a function of the object, so that no crash loses it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from gatepass.core.audit import OPERATOR, AuditEntry, EventType, entry_id, subject_of
from gatepass.core.types.binding import ApiKeyBinding


def binding_entries(binding: ApiKeyBinding, now: datetime) -> Iterator[AuditEntry]:
    """That it is there, or there in a new version, revoked, and each key that was written into its Secret.

    Who wrote it is in the API server's audit log. What the REST API did is told beside it, by whom and from where.
    """
    generation = binding.metadata.generation
    spec = binding.spec.model_dump_json(exclude_defaults=True, exclude={"key_hash"})
    details = {"generation": str(generation), "spec": spec}
    if generation <= 1:
        yield _entry(
            binding, EventType.API_KEY_CREATED, binding.metadata.creation_timestamp, actor=None, details=details
        )
    elif binding.spec.revoked:  # nothing that is changed after that changes anything
        yield _entry(binding, EventType.API_KEY_REVOKED, now, actor=None, details=details)
    else:
        yield _entry(binding, EventType.API_KEY_CHANGED, now, str(generation), actor=None, details=details)
    for key in binding.status.keys:
        credential = f"key {key.id}"
        yield _entry(binding, EventType.API_KEY_ISSUED, key.created_at, key.id, actor=OPERATOR, credential=credential)


def binding_deleted(binding: ApiKeyBinding, now: datetime) -> AuditEntry:
    """That it is no more."""
    return _entry(binding, EventType.API_KEY_DELETED, binding.metadata.deletion_timestamp or now, actor=None)


def _entry(binding: ApiKeyBinding, event: EventType, at: datetime, *which: str, **more: Any) -> AuditEntry:
    return AuditEntry(
        id=entry_id(binding.uid, event, *which),
        event=event,
        at=at,
        namespace=binding.metadata.namespace,
        subject=subject_of(binding),
        **more,
    )
