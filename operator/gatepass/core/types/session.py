"""AccessSession: a job's request for access, and what became of it."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from gatepass.core.types.common import (
    MAX_RULES_PER_SESSION,
    Cidr,
    Conditions,
    Custom,
    Ip,
    Key,
    Model,
    Name,
    SessionDuration,
    SourceKind,
    Timestamp,
    TimeToLive,
    cel,
    immutable,
    rules,
)


class ResourceReference(Model):
    """A ProtectedResource, in the session's own namespace unless said otherwise."""

    name: Annotated[Name, Field(description="Name of the ProtectedResource.")]
    namespace: Annotated[Name | None, Field(description="Its namespace; by default the session's own.")] = None


class RequestSource(Model):
    """The caller of the REST API, as Gatepass saw it."""

    addresses: Annotated[
        tuple[Ip, ...],
        Field(
            min_length=1,
            max_length=2,
            description="One address of each IP family at most.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]


class Source(Model):
    """Where the job's traffic leaves from: exactly one of these."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("has(self.cidrs) != has(self.request)", "must have exactly one of cidrs and request"),
            immutable("has(oldSelf.cidrs) ? oldSelf.cidrs : oldSelf.request.addresses", "AccessSession"),
        )
    )

    cidrs: Annotated[
        tuple[Cidr, ...] | None,
        Field(
            min_length=1,
            max_length=16,
            description="Addresses in canonical CIDR form, such as 203.0.113.7/32 or 2001:db8::7/128.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = None
    request: Annotated[
        RequestSource | None, Field(description="Set by Gatepass's REST API only: the caller that it saw.")
    ] = None

    @property
    def kind(self) -> SourceKind:
        """Which of them it is."""
        return SourceKind.CIDRS if self.cidrs is not None else SourceKind.REQUEST

    @property
    def ranges(self) -> tuple[str, ...]:
        """What to let in, in canonical CIDR form."""
        if self.request is not None:
            return tuple(f"{address}/{128 if ':' in address else 32}" for address in self.request.addresses)
        return self.cidrs or ()


_TWIN = (
    "!self.exists_one(o, o.name == r.name && "
    "(has(o.__namespace__) ? o.__namespace__ : '') == (has(r.__namespace__) ? r.__namespace__ : ''))"
)
_NO_TWINS = cel(
    f"!self.exists(r, {_TWIN})",
    f"'must not name a ProtectedResource twice, got %s'.format([self.filter(r, {_TWIN}).map(r, r.name)])",
)


class AccessSessionSpec(Model):
    """What is asked for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(oldSelf.notAfter) || (has(self.notAfter) && self.notAfter <= oldSelf.notAfter)",
                "'spec.notAfter may only move earlier: it was %s and is now %s'.format("
                "[string(oldSelf.notAfter), has(self.notAfter) ? string(self.notAfter) : 'absent'])",
            ),
            cel(
                "!(has(oldSelf.stop) && oldSelf.stop) || (has(self.stop) && self.stop)",
                "spec.stop may not be set back from true: create another AccessSession instead",
            ),
        )
    )

    resources: Annotated[
        tuple[ResourceReference, ...],
        Field(
            min_length=1,
            max_length=32,
            description="The ProtectedResources to open, 1 to 32, no two alike. Immutable.",
            json_schema_extra=rules(
                immutable("oldSelf.map(r, r.name)", "AccessSession"), _NO_TWINS, **{"x-kubernetes-list-type": "atomic"}
            ),
        ),
    ]
    duration: Annotated[
        SessionDuration,
        Field(description="How long access lasts, from 1m to 24h. A change extends or shortens the session."),
    ] = timedelta(hours=1)
    not_after: Annotated[
        Timestamp | None,
        Field(
            description="An absolute end, such as 2026-11-22T18:00:00Z; the earlier of it and the duration wins. "
            "It may only move earlier."
        ),
    ] = None
    source: Annotated[
        Source,
        Field(description="The addresses to let in. Immutable."),
    ]
    stop: Annotated[bool, Field(description="True ends the session now and keeps its record; it never comes back.")] = (
        False
    )
    reason: Annotated[str | None, Field(max_length=256, description="What the access is for.")] = None
    ttl_after_ended: Annotated[
        TimeToLive | None,
        Field(
            description="How long the record is kept after the end; or Never. Absent: as the installation says, 24h."
        ),
    ] = None


class Phase(StrEnum):
    """Where a session stands; derived, never read back."""

    PENDING = "Pending"
    ACTIVE = "Active"
    PARTIAL = "Partial"
    FAILED = "Failed"
    EXPIRING = "Expiring"
    EXPIRED = "Expired"
    CANCELLED = "Cancelled"


class EndedReason(StrEnum):
    """Why a session ended."""

    EXPIRED = "Expired"
    NOT_AFTER = "NotAfter"
    MANUAL = "Manual"
    DELETED = "Deleted"
    POLICY_WITHDRAWN = "PolicyWithdrawn"
    KEY_REVOKED = "KeyRevoked"


class ResourceState(StrEnum):
    """What became of one ProtectedResource of a session."""

    PENDING = "Pending"
    WAITING = "Waiting"
    APPLIED = "Applied"
    FAILED = "Failed"
    REMOVING = "Removing"
    REMOVED = "Removed"


class Requester(Model):
    """Who created the session, as admission saw it."""

    username: Annotated[str, Field(max_length=512)]
    uid: Annotated[str | None, Field(max_length=512)] = None
    groups: Annotated[tuple[str, ...], Field(max_length=4096)] = ()


class SourceAddress(Model):
    """An address that is let in, and how it was found."""

    ip: Annotated[str, Field(max_length=43)]
    version: Annotated[int, Field(ge=4, le=6)]
    evidence: Annotated[str, Field(max_length=512)] = ""
    observed_at: Timestamp | None = None


class SourceStatus(Model):
    """The addresses in use."""

    addresses: Annotated[tuple[SourceAddress, ...], Field(max_length=64)] = ()


class RuleStatus(Model):
    """One rule in a firewall that this session uses."""

    id: Annotated[str, Field(max_length=64)]
    target: Annotated[str, Field(max_length=64)]
    cidr: Annotated[str, Field(max_length=43)]
    protocol: Annotated[str, Field(max_length=16)]
    port: int | None = None
    end_port: int | None = None
    foreign: Annotated[bool, Field(description="Somebody else's rule of the same identity; it is never touched.")] = (
        False
    )
    applied_at: Timestamp
    removed_at: Timestamp | None = None


class SessionResourceStatus(Model):
    """What became of one ProtectedResource of the session."""

    name: Annotated[str, Field(max_length=63)]
    namespace: Annotated[str, Field(max_length=63)]
    uid: Annotated[str | None, Field(max_length=64)] = None
    state: ResourceState
    reason: Annotated[str | None, Field(max_length=128)] = None
    message: Annotated[str | None, Field(max_length=2048)] = None
    rules: Annotated[tuple[RuleStatus, ...], Field(max_length=MAX_RULES_PER_SESSION)] = ()

    @property
    def key(self) -> Key:
        """Where the ProtectedResource lives."""
        return Key(self.namespace, self.name)


class AccessSessionStatus(Model):
    """What became of the request; written by Gatepass only."""

    phase: Phase | None = None
    address: Annotated[str | None, Field(max_length=1024, description="The addresses, for people.")] = None
    ready_resources: Annotated[str | None, Field(max_length=16, description="Open of all, such as 2/2.")] = None
    started_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    ended_at: Annotated[Timestamp | None, Field(description="Final: nothing reopens a session that has ended.")] = None
    ended_reason: EndedReason | None = None
    requester: Requester | None = None
    source: SourceStatus | None = None
    resources: Annotated[tuple[SessionResourceStatus, ...], Field(max_length=32)] = ()
    conditions: Conditions = ()
    observed_generation: int | None = None


_UNCHANGED = " && ".join(
    f"has(self.spec.{f}) == has(oldSelf.spec.{f}) && (!has(self.spec.{f}) || self.spec.{f} == oldSelf.spec.{f})"
    for f in ("duration", "notAfter", "reason")
)


class AccessSession(Custom):
    """A job's request for access: open these resources to these addresses, for so long."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                f"!has(oldSelf.status) || !has(oldSelf.status.endedAt) || ({_UNCHANGED})",
                "spec is final once status.endedAt is set (spec.stop and spec.ttlAfterEnded excepted): "
                "create another AccessSession instead",
            )
        )
    )

    spec: AccessSessionSpec
    status: AccessSessionStatus = AccessSessionStatus()

    def resource_keys(self) -> tuple[Key, ...]:
        """The ProtectedResources it names, with namespaces filled in."""
        return tuple(Key(ref.namespace or self.metadata.namespace, ref.name) for ref in self.spec.resources)

    def resource_status(self, key: Key) -> SessionResourceStatus | None:
        """What was last reported of one of them."""
        return next((entry for entry in self.status.resources if entry.key == key), None)

    @property
    def started_at(self) -> datetime:
        """When its clock began."""
        return self.status.started_at or self.metadata.creation_timestamp


PLURAL = "accesssessions"


def printer_columns() -> list[dict[str, Any]]:
    """The columns of `kubectl get`."""
    return [
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "Address", "type": "string", "jsonPath": ".status.address"},
        {"name": "Resources", "type": "string", "jsonPath": ".status.readyResources"},
        {"name": "Expires", "type": "string", "jsonPath": ".status.expiresAt"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Requester", "type": "string", "jsonPath": ".status.requester.username", "priority": 1},
        {"name": "Reason", "type": "string", "jsonPath": ".spec.reason", "priority": 1},
    ]
