"""What a session's status says, made from what the engine knows."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from gatepass.core.conditions import Fact, assert_conditions
from gatepass.core.errors import SourceError
from gatepass.core.lifecycle import End, phase
from gatepass.core.policy import WITHDRAWN, Refusal, cidr_refusal
from gatepass.core.rules import Rule
from gatepass.core.stamps import requester_of
from gatepass.core.types.common import MAX_RULES_PER_SESSION, Key, format_time
from gatepass.core.types.ends import BoundToStatus, HeartbeatStatus
from gatepass.core.types.session import (
    LONGEST_ADDRESS,
    LONGEST_MESSAGE,
    AccessSession,
    AccessSessionStatus,
    ClaimStatus,
    EndedReason,
    Phase,
    ResourceState,
    RuleStatus,
    SessionResourceStatus,
    SourceAddress,
    SourceStatus,
)


@dataclass(frozen=True, slots=True)
class PresentRule:
    """A rule that the firewall holds for the session."""

    rule: Rule
    target: str
    id: str
    foreign: bool


@dataclass(frozen=True, slots=True)
class SourceView:
    """What the engine knows of where a session comes from.

    `trouble` is why nothing is known, or why nothing newer is. `elsewhere` tells of addresses that were found since,
    and that the rules do not follow to. `claim` is how to claim the session.
    """

    addresses: tuple[SourceAddress, ...]
    trouble: SourceError | None = None
    elsewhere: str | None = None
    claim: ClaimStatus | None = None


@dataclass(frozen=True, slots=True)
class ResourceView:
    """What the engine knows of one resource of one session.

    `refusal` is final until something changes; `trouble` is what the last attempt met and will be tried again;
    `waiting` tells the place and the shortage; `left` says that rules of ours, or a write of unknown outcome, may
    still be there although nobody wants them; `fresh` that the first attempt is still on its way; `unread` that nobody
    has been able to look whether the rules on record are still there, so that the record stands.
    """

    key: Key
    uid: str | None
    present: tuple[PresentRule, ...] = ()
    complete: bool = False
    refusal: Refusal | None = None
    trouble: Refusal | None = None
    waiting: str | None = None
    left: bool = False
    fresh: bool = False
    unread: bool = False


@dataclass(frozen=True, slots=True)
class RunnerView:
    """What the engine knows of the runner: which object the session is bound to, and its heartbeat.

    `unfollowed` is why nobody can tell whether that object finishes.
    """

    bound_to: BoundToStatus | None = None
    unfollowed: Refusal | None = None
    heartbeat: HeartbeatStatus | None = None


def session_status(
    session: AccessSession,
    views: Sequence[ResourceView],
    end: End | None,
    expires_at: datetime,
    now: datetime,
    *,
    refresh_places: bool,
    arrival: int | None = None,
    source: SourceView | None = None,
    runner: RunnerView = RunnerView(),
) -> AccessSessionStatus:
    """The whole status, from the views of the session's resources in the order of its spec.

    Without a `source` its addresses are those on record, or declared. `arrival` is told while it waits.
    """
    entries = tuple(_entry(session, view, end, now, refresh_places=refresh_places) for view in views)
    left = any(view.left for view in views)
    step, settled = phase(end, [entry.state for entry in entries], left=left)
    source = source or SourceView(addresses_of(session))
    applied = sum(entry.state is ResourceState.APPLIED for entry in entries)
    return AccessSessionStatus(
        phase=step,
        address=", ".join(address.ip for address in source.addresses)[:LONGEST_ADDRESS] or None,
        ready_resources=f"{applied}/{len(entries)}",
        started_at=None if session.claim_ends_at is not None else session.started_at,
        expires_at=session.status.expires_at if end is not None and end.latched else expires_at,
        ended_at=end and end.at,
        ended_reason=end and end.reason,
        requester=requester_of(session),
        claim=source.claim or session.status.claim,
        source=SourceStatus(addresses=source.addresses or _pod_of(session), seen_from=seen_from(session) or None),
        bound_to=runner.bound_to,
        heartbeat=runner.heartbeat,
        resources=entries,
        arrival=arrival if _WAITS & {entry.state for entry in entries} else None,
        conditions=assert_conditions(
            session.status.conditions,
            [*_source_facts(session, source, end), *_facts(session, entries, step, runner, settled=settled, end=end)],
            now,
            session.metadata.generation,
        ),
        observed_generation=session.metadata.generation,
    )


_WAITS: Final = {ResourceState.WAITING, ResourceState.PENDING}


def _pod_of(session: AccessSession) -> tuple[SourceAddress, ...]:
    """What tells which pod it was, also while nobody knows where that is: another of its name is not it."""
    return tuple(address for address in _on_record(session) if address.pod_uid is not None)


def _on_record(session: AccessSession) -> tuple[SourceAddress, ...]:
    return session.status.source.addresses if session.status.source is not None else ()


def seen_from(session: AccessSession) -> tuple[SourceAddress, ...]:
    """Where its heartbeats were seen to come from, as the REST API has recorded it."""
    told = session.status.source.seen_from if session.status.source is not None else None
    return tuple(address for address in told or () if _sound(address.cidr))


def addresses_of(session: AccessSession) -> tuple[SourceAddress, ...]:
    """The addresses on record, or as declared."""
    source = session.spec.source
    recorded = tuple(address for address in _on_record(session) if _sound(address.cidr))
    if recorded and source.cidrs is None:
        return recorded
    return tuple(_address(cidr, f"spec.source.{source.kind}") for cidr in source.ranges)


@lru_cache(maxsize=65536)
def _sound(cidr: str) -> bool:
    """What is read back is not trusted with what nobody may have."""
    return cidr_refusal(cidr, "") is None


@lru_cache(maxsize=65536)
def _address(cidr: str, evidence: str) -> SourceAddress:
    network = ipaddress.ip_network(cidr)
    alone = network.prefixlen == network.max_prefixlen
    return SourceAddress(ip=str(network.network_address) if alone else cidr, version=network.version, evidence=evidence)


def _entry(
    session: AccessSession, view: ResourceView, end: End | None, now: datetime, *, refresh_places: bool
) -> SessionResourceStatus:
    before = session.resource_status(view.key)
    if view.unread and before is not None:
        return before if end is None else before.model_copy(update={"state": ResourceState.REMOVING})
    state, reason, message = _state(view, before, end, refresh_places=refresh_places)
    return SessionResourceStatus(
        name=view.key.name,
        namespace=view.key.namespace,
        uid=view.uid,
        state=state,
        reason=reason,
        message=message and message[:LONGEST_MESSAGE],
        rules=_rules(view, before, now, over=end is not None or view.refusal is not None),
    )


def _state(
    view: ResourceView, before: SessionResourceStatus | None, end: End | None, *, refresh_places: bool
) -> tuple[ResourceState, str | None, str | None]:
    trouble = (view.trouble.reason, view.trouble.message) if view.trouble else (None, None)
    if end is not None:
        why: tuple[str | None, str | None] = (None, None)
        if view.refusal is not None:
            why = view.refusal.reason, view.refusal.message
        elif end.reason is EndedReason.POLICY_WITHDRAWN and end.latched and before is not None:
            why = (before.reason, before.message)
        if view.left:
            return ResourceState.REMOVING, *(why if why[0] else trouble)
        if before is not None and before.state is ResourceState.FAILED:
            return before.state, before.reason, before.message
        return ResourceState.REMOVED, *why
    if view.refusal is not None:
        return ResourceState.FAILED, view.refusal.reason, view.refusal.message
    if view.complete:
        return ResourceState.APPLIED, None, None
    if view.waiting is not None:
        known = before is not None and before.state is ResourceState.WAITING and not refresh_places
        return ResourceState.WAITING, "NoRoom", before.message if known and before else view.waiting
    return ResourceState.PENDING, *trouble


def _rules(
    view: ResourceView, before: SessionResourceStatus | None, now: datetime, *, over: bool
) -> tuple[RuleStatus, ...]:
    records = {(record.target, record.id): record for record in (before.rules if before else ())}
    present = {(found.target, found.id): found for found in view.present}
    if over or not present:  # what was granted stays so, though none of its rules is there at the moment
        return tuple(
            record if record.removed_at is not None or key in present else record.model_copy(update={"removed_at": now})
            for key, record in records.items()
        )
    if len(present) > MAX_RULES_PER_SESSION:  # while ports are exchanged: what is on record has still to go
        known = sorted(present, key=lambda key: key not in records)[:MAX_RULES_PER_SESSION]
        present = {key: present[key] for key in known}
    return tuple(
        records[key].model_copy(update={"foreign": found.foreign, "removed_at": None})
        if key in records
        else RuleStatus(
            id=found.id,
            target=found.target,
            cidr=found.rule.cidr,
            protocol=found.rule.protocol,
            port=found.rule.port,
            end_port=found.rule.end_port,
            foreign=found.foreign,
            applied_at=now,
        )
        for key, found in present.items()
    )


def _source_facts(session: AccessSession, source: SourceView, end: End | None) -> list[Fact]:
    trouble = source.trouble
    if not source.addresses:
        if trouble is None:
            return [Fact("SourceResolved", False, "NotLookedFor", f"spec.source.{session.spec.source.kind}")]
        return [Fact("SourceResolved", False, trouble.reason, trouble.message)]
    declared = all(address.observed_at is None for address in source.addresses)
    told = "; ".join(f"{address.ip}: {address.evidence}" for address in source.addresses if not declared)
    reason, message = ("Declared", f"the addresses are those of spec.source.{session.spec.source.kind}")
    if not declared:
        reason, message = "Found", told
    if trouble is not None and end is None:
        reason, message = "FoundBefore", f"{told}; looking again failed: {trouble.message}"
    facts = [Fact("SourceResolved", True, reason, message)]
    if source.elsewhere is not None and end is None:
        facts.append(Fact("SourceChanged", True, "NotFollowed", source.elsewhere))
    return facts


def _facts(
    session: AccessSession,
    entries: Sequence[SessionResourceStatus],
    step: Phase,
    runner: RunnerView,
    *,
    settled: bool,
    end: End | None,
) -> list[Fact]:
    opened = all(entry.state is ResourceState.APPLIED for entry in entries)
    troubled = [entry for entry in entries if entry.state is not ResourceState.APPLIED]
    told = "; ".join(_told(entry) for entry in troubled)
    facts = []
    if end is not None:
        gone = settled
        facts.append(Fact("RulesApplied", False, "Removed" if gone else "Removing", "" if gone else told))
        withdrawn = "; ".join(_told(entry) for entry in entries if entry.reason == WITHDRAWN)
        message = _ending(session, end)
        facts.append(Fact("Settled", settled, step.value, f"{message}: {withdrawn}" if withdrawn else message))
        return facts
    facts.append(Fact("RulesApplied", opened, "Applied" if opened else _main_reason(troubled), told))
    facts.append(Fact("Settled", settled, step.value, told))
    if runner.unfollowed is not None:
        facts.append(Fact("OwnerFollowed", False, runner.unfollowed.reason, runner.unfollowed.message))
    elif runner.bound_to is not None:
        facts.append(Fact("OwnerFollowed", True, "Seen"))
    facts.append(Fact("Ready", step is Phase.ACTIVE, step.value, told))
    if step is Phase.FAILED:
        facts.append(Fact("Stalled", True, _main_reason(troubled), told))
    elif not settled:
        facts.append(Fact("Reconciling", True, _main_reason(troubled), told))
    return facts


def _told(entry: SessionResourceStatus) -> str:
    return f"{entry.key}: {entry.message or entry.state.lower()}"


def _main_reason(troubled: Sequence[SessionResourceStatus]) -> str:
    return next(
        (entry.reason for entry in troubled if entry.reason), troubled[0].state.value if troubled else "Applied"
    )


def _ending(session: AccessSession, end: End) -> str:
    match end.reason:
        case EndedReason.EXPIRED:
            return "time was up"
        case EndedReason.UNCLAIMED:
            return "nobody claimed it in time (spec.source.claim.within)"
        case EndedReason.NOT_AFTER if session.spec.not_after is None or end.at < session.spec.not_after:
            return f"the operator was told to end all sessions from before {format_time(end.at)}"
        case EndedReason.NOT_AFTER:
            return "spec.notAfter has passed"
        case EndedReason.MANUAL:
            return "spec.stop was set"
        case EndedReason.DELETED:
            return "the session was deleted"
        case EndedReason.OWNER_FINISHED:
            return "what spec.boundTo names has finished or is gone"
        case EndedReason.HEARTBEAT_LOST:
            return "the runner no longer renewed the Lease of spec.heartbeat"
        case EndedReason.POLICY_WITHDRAWN:
            return "policy has withdrawn every resource of the session"
        case EndedReason.KEY_REVOKED:
            return "the API key that started the session was revoked"
