"""What the audit trail holds: entries that say who did what, from where, and what came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID, uuid4, uuid5

from gatepass.core.types.common import Custom

OPERATOR: Final = "gatepass"
"""The actor of what Gatepass does by itself."""
INSTALLATION: Final = ""
"""The namespace of entries that belong to no namespace, and that no tenant is shown."""
_LONGEST: Final = 2048
_MOST_DETAILS: Final = 32
_NAMES: Final = UUID("5b9a4d1e-6f0a-5d7e-9c55-0e4d8f1d7a10")


class EventType(StrEnum):
    """What happened; the names of sessions, rules, keys and resources are those of the REST contract."""

    SESSION_STARTED = "SESSION_STARTED"
    SESSION_ACTIVATED = "SESSION_ACTIVATED"
    SESSION_PARTIAL = "SESSION_PARTIAL"
    SESSION_FAILED = "SESSION_FAILED"
    SESSION_START_ASKED = "SESSION_START_ASKED"
    SESSION_EXTEND_ASKED = "SESSION_EXTEND_ASKED"
    SESSION_EXTENDED = "SESSION_EXTENDED"
    SESSION_SHORTENED = "SESSION_SHORTENED"
    SESSION_STOP_ASKED = "SESSION_STOP_ASKED"
    SESSION_STOPPED = "SESSION_STOPPED"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_CLAIMED = "SESSION_CLAIMED"
    SESSION_CLAIM_DENIED = "SESSION_CLAIM_DENIED"
    RULE_APPLIED = "RULE_APPLIED"
    RULE_REMOVED = "RULE_REMOVED"
    FIREWALL_RULE_WRITTEN = "FIREWALL_RULE_WRITTEN"
    FIREWALL_RULE_REVOKED = "FIREWALL_RULE_REVOKED"
    RESOURCE_CREATE_ASKED = "RESOURCE_CREATE_ASKED"
    RESOURCE_DELETE_ASKED = "RESOURCE_DELETE_ASKED"
    RESOURCE_CREATED = "RESOURCE_CREATED"
    RESOURCE_CHANGED = "RESOURCE_CHANGED"
    RESOURCE_DELETED = "RESOURCE_DELETED"
    API_KEY_CREATE_ASKED = "API_KEY_CREATE_ASKED"
    API_KEY_REVOKE_ASKED = "API_KEY_REVOKE_ASKED"
    API_KEY_CREATED = "API_KEY_CREATED"
    API_KEY_CHANGED = "API_KEY_CHANGED"
    API_KEY_ISSUED = "API_KEY_ISSUED"
    API_KEY_REVOKED = "API_KEY_REVOKED"
    API_KEY_DELETED = "API_KEY_DELETED"
    API_KEY_USED_DENIED = "API_KEY_USED_DENIED"
    REQUEST_DENIED = "REQUEST_DENIED"
    AUDIT_STARTED = "AUDIT_STARTED"
    AUDIT_STOPPED = "AUDIT_STOPPED"
    AUDIT_GAP = "AUDIT_GAP"
    AUDIT_PRUNED = "AUDIT_PRUNED"
    AUDIT_TRUNCATED = "AUDIT_TRUNCATED"


class Outcome(StrEnum):
    """How it went: `denied` is a decision of ours, `failure` is what we met."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an entry is about."""

    kind: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision or effect. An entry is known by its id: given twice, it is kept once.

    `namespace` is whose it is, and who may read it. `actor` is who did it, None where nobody can tell;
    `on_behalf_of` for whom Gatepass did it. `credential` names the key or the kind of token, and is never the key
    itself. Text is cleaned of what a database refuses, and cut at 2048 characters.
    """

    event: EventType
    at: datetime
    namespace: str
    outcome: Outcome = Outcome.SUCCESS
    actor: str | None = OPERATOR
    on_behalf_of: str | None = None
    credential: str | None = None
    address: str | None = None
    request_id: str | None = None
    subject: Subject | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid4()))

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError(f"at must have a time zone, got {self.at.isoformat()}")
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is str:
                object.__setattr__(self, each.name, clean(value))
        if self.subject is not None:
            kind, name, uid = self.subject.kind, self.subject.name, self.subject.uid
            cleaned = Subject(clean(kind), clean(name), None if uid is None else clean(uid))
            object.__setattr__(self, "subject", cleaned)
        kept = list(self.details.items())[:_MOST_DETAILS]
        object.__setattr__(self, "details", {clean(key): clean(value) for key, value in kept})


class RecordedEntry(Protocol):
    """An entry of the trail, as it is read back."""

    @property
    def id(self) -> str: ...
    @property
    def at(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def actor(self) -> str | None: ...
    @property
    def on_behalf_of(self) -> str | None: ...
    @property
    def credential(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def request_id(self) -> str | None: ...
    @property
    def subject_kind(self) -> str | None: ...
    @property
    def subject_name(self) -> str | None: ...
    @property
    def subject_uid(self) -> str | None: ...

    def told(self) -> Mapping[str, str]:
        """The details."""
        ...


class RecordedPage(Protocol):
    """Some entries, the newest first, and how many there are of that kind."""

    @property
    def entries(self) -> Sequence[RecordedEntry]: ...
    @property
    def total(self) -> int: ...


def clean(text: str) -> str:
    """The text as every database keeps it: no NUL, nothing that is not UTF-8, and not too long."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def entry_id(uid: str, event: EventType, *which: str) -> str:
    """The id of an entry that can be told again after a crash: the same for the same fact of the same object."""
    return str(uuid5(_NAMES, json.dumps([uid, event, *which])))


def subject_of(about: Custom) -> Subject:
    """A custom resource as the subject of an entry."""
    return Subject(type(about).__name__, about.metadata.name, about.uid)


def format_moment(at: datetime) -> str:
    """RFC 3339 in UTC with microseconds: of one width, so that its order is that of time."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
