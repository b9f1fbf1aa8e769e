"""AccessSession: a job's request for access, and what became of it."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ConfigDict, Field

from gatepass.core.types.common import (
    MAX_RULES_PER_SESSION,
    Conditions,
    Custom,
    Key,
    Model,
    Name,
    Repeated,
    SessionDuration,
    Timestamp,
    TimeToLive,
    cel,
    immutable,
    one,
    rules,
)
from gatepass.core.types.ends import FINAL_FIELDS, BoundTo, BoundToStatus, Heartbeat, HeartbeatStatus
from gatepass.core.types.source import Source


class ResourceReference(Model):
    """A ProtectedResource, in the session's own namespace unless said otherwise."""

    name: Annotated[Name, Field(description="Name of the ProtectedResource.")]
    namespace: Annotated[Name | None, Field(description="Its namespace; by default the session's own.")] = None


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
            *FINAL_FIELDS,
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
        AfterValidator(one),
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
    bound_to: Annotated[
        BoundTo | None,
        Field(
            description="An object of the session's namespace: the session ends when it has finished or is gone, or "
            "when it is not there within 30s. Immutable."
        ),
    ] = None
    heartbeat: Annotated[
        Heartbeat | None,
        Field(
            description="The session ends when the runner no longer renews the Lease that status.heartbeat.leaseName "
            "names. Immutable."
        ),
    ] = None
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


FINAL: Final = frozenset({Phase.EXPIRED, Phase.CANCELLED})
"""Phases in which nothing of a session is open any more, and nothing will be."""


class EndedReason(StrEnum):
    """Why a session ended."""

    EXPIRED = "Expired"
    NOT_AFTER = "NotAfter"
    MANUAL = "Manual"
    DELETED = "Deleted"
    OWNER_FINISHED = "OwnerFinished"
    HEARTBEAT_LOST = "HeartbeatLost"
    POLICY_WITHDRAWN = "PolicyWithdrawn"
    KEY_REVOKED = "KeyRevoked"
    UNCLAIMED = "Unclaimed"


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


LONGEST_EVIDENCE: Final = 512
LONGEST_MESSAGE: Final = 2048
LONGEST_ADDRESS: Final = 1024


class SourceAddress(Model):
    """An address that is let in, and how it was found."""

    ip: Annotated[str, Field(max_length=43)]
    version: Annotated[int, Field(ge=4, le=6)]
    evidence: Annotated[Repeated, Field(max_length=LONGEST_EVIDENCE)] = ""
    observed_at: Timestamp | None = None
    pod_uid: Annotated[str | None, Field(alias="podUID", max_length=64, description="Another pod is not it.")] = None

    @property
    def cidr(self) -> str:
        """With its prefix length."""
        return self.ip if "/" in self.ip else f"{self.ip}/{128 if ':' in self.ip else 32}"


class SourceStatus(Model):
    """The addresses in use."""

    addresses: Annotated[tuple[SourceAddress, ...], Field(max_length=64)] = ()
    seen_from: Annotated[
        tuple[SourceAddress, ...] | None,
        Field(
            max_length=2,
            description="Where heartbeats by the REST API came from last, for each IP family; written once it is "
            "another address than the one in use.",
        ),
    ] = None


class ClaimStatus(Model):
    """Where to claim the session, and with what. There is no secret in it: the token is in the Secret."""

    url: Annotated[str, Field(max_length=1024, description="POST there with Authorization: Bearer and the token.")]
    secret_name: Annotated[
        str, Field(max_length=253, description="The Secret with the token; it goes with the session.")
    ]
    expires_at: Timestamp
    token_hash: Annotated[str, Field(max_length=64, description="SHA-256 of the token, by which Gatepass knows it.")]


class RuleStatus(Model):
    """One rule in a firewall that this session uses."""

    id: Annotated[str, Field(max_length=64)]
    target: Annotated[Repeated, Field(max_length=64)]
    cidr: Annotated[str, Field(max_length=43)]
    protocol: Annotated[Repeated, Field(max_length=16)]
    port: int | None = None
    end_port: int | None = None
    foreign: Annotated[bool, Field(description="Somebody else's rule of the same identity; it is never touched.")] = (
        False
    )
    applied_at: Timestamp
    removed_at: Timestamp | None = None


class SessionResourceStatus(Model):
    """What became of one ProtectedResource of the session."""

    name: Annotated[Repeated, Field(max_length=63)]
    namespace: Annotated[Repeated, Field(max_length=63)]
    uid: Annotated[Repeated | None, Field(max_length=64)] = None
    state: ResourceState
    reason: Annotated[str | None, Field(max_length=128)] = None
    message: Annotated[str | None, Field(max_length=LONGEST_MESSAGE)] = None
    rules: Annotated[tuple[RuleStatus, ...], Field(max_length=MAX_RULES_PER_SESSION)] = ()

    @property
    def key(self) -> Key:
        """Where the ProtectedResource lives."""
        return Key(self.namespace, self.name)


class AccessSessionStatus(Model):
    """What became of the request; written by Gatepass only."""

    phase: Phase | None = None
    address: Annotated[str | None, Field(max_length=LONGEST_ADDRESS, description="The addresses, for people.")] = None
    ready_resources: Annotated[str | None, Field(max_length=16, description="Open of all, such as 2/2.")] = None
    started_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    ended_at: Annotated[Timestamp | None, Field(description="Final: nothing reopens a session that has ended.")] = None
    ended_reason: EndedReason | None = None
    requester: Annotated[Requester | None, AfterValidator(one)] = None
    claim: Annotated[ClaimStatus | None, Field(description="Of a session with spec.source.claim.")] = None
    source: SourceStatus | None = None
    bound_to: BoundToStatus | None = None
    heartbeat: HeartbeatStatus | None = None
    resources: Annotated[tuple[SessionResourceStatus, ...], Field(max_length=32)] = ()
    arrival: Annotated[
        int | None,
        Field(ge=0, description="While it waits: of those created in the same second, the lowest goes first."),
    ] = None
    conditions: Conditions = ()
    observed_generation: int | None = None

    def says_the_same_as(self, other: "AccessSessionStatus") -> bool:
        """Is there no news, but for a beat of the heart, or an arrival? Neither is worth a write by itself."""
        if self == other:
            return True
        same: dict[str, object] = {"arrival": other.arrival}
        if self.heartbeat is not None and other.heartbeat is not None:
            same["heartbeat"] = self.heartbeat.model_copy(update={"last_seen_at": other.heartbeat.last_seen_at})
        return self.model_copy(update=same) == other


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
        here = self.metadata.namespace
        return tuple([Key(ref.namespace or here, ref.name) for ref in self.spec.resources])

    def resource_status(self, key: Key) -> SessionResourceStatus | None:
        """What was last reported of one of them."""
        for entry in self.status.resources:
            if entry.name == key.name and entry.namespace == key.namespace:
                return entry
        return None

    @property
    def started_at(self) -> datetime:
        """When its clock began, or begins at the earliest."""
        return self.status.started_at or self.metadata.creation_timestamp

    @property
    def called_off(self) -> bool:
        """Was it stopped or deleted? Neither can be taken back."""
        return self.spec.stop or self.deleting

    @property
    def claim_ends_at(self) -> datetime | None:
        """Until when it can be claimed; None when there is nothing to be claimed, or when it has been."""
        claim = self.spec.source.claim
        if claim is None or self.status.started_at is not None:
            return None
        return self.metadata.creation_timestamp + claim.within

    @property
    def ranges(self) -> tuple[str, ...]:
        """What is let in, as its status records it, or else as its spec declares it."""
        source = self.spec.source
        if source.cidrs is not None or self.status.source is None:
            return source.ranges
        return tuple(address.cidr for address in self.status.source.addresses) or source.ranges


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
