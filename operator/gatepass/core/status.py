"""What a session's status says, made from what the engine knows."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from gatepass.core.conditions import Fact, assert_conditions
from gatepass.core.lifecycle import End, phase
from gatepass.core.policy import WITHDRAWN, Refusal
from gatepass.core.rules import Rule
from gatepass.core.types.common import Key
from gatepass.core.types.session import (
    AccessSession,
    AccessSessionStatus,
    EndedReason,
    Phase,
    Requester,
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


def session_status(
    session: AccessSession,
    views: Sequence[ResourceView],
    end: End | None,
    expires_at: datetime,
    requester: Requester | None,
    now: datetime,
    *,
    refresh_places: bool,
) -> AccessSessionStatus:
    """The whole status, from the views of the session's resources in the order of its spec."""
    entries = tuple(_entry(session, view, end, now, refresh_places=refresh_places) for view in views)
    left = any(view.left for view in views)
    step, settled = phase(end, [entry.state for entry in entries], left=left)
    source = f"spec.source.{session.spec.source.kind}"
    addresses = tuple(_address(cidr, source) for cidr in session.spec.source.ranges)
    applied = sum(entry.state is ResourceState.APPLIED for entry in entries)
    return AccessSessionStatus(
        phase=step,
        address=", ".join(address.ip for address in addresses),
        ready_resources=f"{applied}/{len(entries)}",
        started_at=session.started_at,
        expires_at=session.status.expires_at if end is not None and end.latched else expires_at,
        ended_at=end and end.at,
        ended_reason=end and end.reason,
        requester=requester,
        source=SourceStatus(addresses=addresses),
        resources=entries,
        conditions=assert_conditions(
            session.status.conditions,
            _facts(source, entries, step, settled=settled, end=end),
            now,
            session.metadata.generation,
        ),
        observed_generation=session.metadata.generation,
    )


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
        message=message,
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
    if over:
        return tuple(
            record
            if record.removed_at is not None or (key in present and view.left)
            else record.model_copy(update={"removed_at": now})
            for key, record in records.items()
        )
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


def _facts(
    source: str, entries: Sequence[SessionResourceStatus], step: Phase, *, settled: bool, end: End | None
) -> list[Fact]:
    opened = all(entry.state is ResourceState.APPLIED for entry in entries)
    troubled = [entry for entry in entries if entry.state is not ResourceState.APPLIED]
    told = "; ".join(_told(entry) for entry in troubled)
    facts = [Fact("SourceResolved", True, "Declared", f"the addresses are those of {source}")]
    if end is not None:
        gone = settled
        facts.append(Fact("RulesApplied", False, "Removed" if gone else "Removing", "" if gone else told))
        withdrawn = "; ".join(_told(entry) for entry in entries if entry.reason == WITHDRAWN)
        message = _ending(end.reason)
        facts.append(Fact("Settled", settled, step.value, f"{message}: {withdrawn}" if withdrawn else message))
        return facts
    facts.append(Fact("RulesApplied", opened, "Applied" if opened else _main_reason(troubled), told))
    facts.append(Fact("Settled", settled, step.value, told))
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


def _ending(reason: EndedReason) -> str:
    match reason:
        case EndedReason.EXPIRED:
            return "time was up"
        case EndedReason.NOT_AFTER:
            return "spec.notAfter has passed"
        case EndedReason.MANUAL:
            return "spec.stop was set"
        case EndedReason.DELETED:
            return "the session was deleted"
        case EndedReason.POLICY_WITHDRAWN:
            return "policy has withdrawn every resource of the session"
        case EndedReason.KEY_REVOKED:
            return "the API key that started the session was revoked"
