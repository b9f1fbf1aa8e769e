"""What a ProtectedResource's status says, made from what the engine knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gatepass.core.conditions import Fact, assert_conditions
from gatepass.core.errors import SECRET_DELETED, Failure, ProviderError
from gatepass.core.ports import TargetFacts
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.types.common import counted
from gatepass.core.types.resource import (
    Capacity,
    FamilyCapacity,
    ProtectedResource,
    ProtectedResourceStatus,
    TargetStatus,
)

_LISTED_IN_MESSAGES = 5


@dataclass(frozen=True, slots=True)
class Findings:
    """What the engine knows of one resource.

    `capacity` is None until its targets have been read; `users` are the sessions that hold it open or still have
    rules there; `shortages` what sessions wait for; `drained` are targets off the list that are empty of our rules;
    `unarmed` is why rules lack a dead man's switch.
    """

    account: str | None
    external_id: str | None
    refusal: ProviderError | None
    targets: Mapping[Target, TargetFacts | ProviderError]
    draining: Mapping[Target, TargetFacts | ProviderError]
    drained: frozenset[Target]
    capacity: Capacity | None
    active: int
    users: Sequence[str]
    shortages: Sequence[str]
    conflicts: Sequence[ObservedRule]
    trouble: ProviderError | None
    verified_at: datetime
    unarmed: ProviderError | None = None


def resource_status(resource: ProtectedResource, findings: Findings, now: datetime) -> ProtectedResourceStatus:
    """The whole status."""
    found = {**findings.targets, **findings.draining}
    listed = [_target(target, facts, draining=False) for target, facts in findings.targets.items()]
    draining = [
        _target(target, facts, draining=True)
        for target, facts in findings.draining.items()
        if target not in findings.drained
    ]
    before = {target.id: target for target in resource.status.targets}
    verified = findings.refusal is None and all(isinstance(facts, TargetFacts) for facts in found.values())
    return ProtectedResourceStatus(
        conditions=assert_conditions(
            resource.status.conditions, _facts(resource, findings), now, resource.metadata.generation
        ),
        account=findings.account,
        external_id=findings.external_id,
        capacity=findings.capacity,
        active_sessions=findings.active,
        last_verified_at=findings.verified_at if verified else resource.status.last_verified_at,
        targets=tuple(
            entry.model_copy(update={"name": old.name, "vpc": old.vpc})
            if entry.name is None and (old := before.get(entry.id)) is not None
            else entry
            for entry in (*listed, *draining)
        ),
        observed_generation=resource.metadata.generation,
    )


def _target(target: Target, facts: TargetFacts | ProviderError, *, draining: bool) -> TargetStatus:
    if isinstance(facts, TargetFacts):
        return TargetStatus(id=target.id, name=facts.name, vpc=facts.vpc, draining=draining)
    return TargetStatus(id=target.id, draining=draining)


def _facts(resource: ProtectedResource, findings: Findings) -> list[Fact]:
    credentials = _credentials(findings)
    target = _target_found(findings)
    capacity = _capacity(findings)
    return [
        _ready(resource, findings, [credentials, target]),
        credentials,
        target,
        capacity,
        *_conflict(findings.conflicts),
        *([Fact("SwitchMissing", True, findings.unarmed.reason, findings.unarmed.message)] if findings.unarmed else ()),
    ]


def _credentials(findings: Findings) -> Fact:
    if findings.refusal is None:
        return Fact("CredentialsValid", True, "Verified", f"account {findings.account}")
    status = None if findings.refusal.failure is Failure.RETRY else False
    message = findings.refusal.message
    if findings.refusal.reason == SECRET_DELETED:
        waits = f", and it {_waits_for_sessions(findings.users)}" if findings.users else ""
        message = f"{message}{waits}. Create it again once it is gone; to change a key, edit it instead"
    return Fact("CredentialsValid", status, findings.refusal.reason, message)


def _target_found(findings: Findings) -> Fact:
    missing = {target: facts for target, facts in findings.targets.items() if isinstance(facts, ProviderError)}
    if findings.refusal is not None and not findings.targets:
        return Fact("TargetFound", None, findings.refusal.reason, "the credentials come first")
    if missing:
        first = next(iter(missing.values()))
        return Fact(
            "TargetFound",
            None if first.failure is Failure.RETRY else False,
            first.reason,
            "; ".join(f"{target.id}: {error.message}" for target, error in missing.items()),
        )
    return Fact("TargetFound", True, "Found", ", ".join(target.id for target in findings.targets))


def _capacity(findings: Findings) -> Fact:
    if findings.capacity is None:
        wrong = findings.refusal or next((e for e in findings.targets.values() if isinstance(e, ProviderError)), None)
        if wrong is not None:
            return Fact("CapacityAvailable", None, wrong.reason, "no firewall can be read now")
        return Fact("CapacityAvailable", None, "NotRead", "no firewall has been read yet")
    numbers = "; ".join(
        f"{family}: {room.used} of {room.limit} rules used, {room.ours} ours"
        for family, room in (("IPv4", findings.capacity.ipv4), ("IPv6", findings.capacity.ipv6))
    )
    if findings.shortages:
        return Fact(
            "CapacityAvailable",
            False,
            "Full",
            f"{numbers}; {counted(len(findings.shortages), 'claim')} without room: {findings.shortages[0]}",
        )
    full = any(room.used >= room.limit for room in (findings.capacity.ipv4, findings.capacity.ipv6))
    # The numbers stand in status.capacity: a message with them would be a write for each rule.
    return Fact("CapacityAvailable", not full, "Full" if full else "Room", numbers if full else "")


def _conflict(conflicts: Sequence[ObservedRule]) -> list[Fact]:
    if not conflicts:
        return []
    strangers = [rule for rule in conflicts if rule.owner is not None and parse_mark(rule.description) is not None]
    halves = [rule for rule in conflicts if rule not in strangers]
    told = []
    if strangers:
        told.append(
            f"with this installation's id and not made by it: {counted(len(strangers), 'rule')}: {_listed(strangers)}. "
            "Another installation uses the same id, so nothing is revoked here before they are gone: give that "
            "installation an id of its own (installId)"
        )
    if halves:
        told.append(
            f"left alone, with one of our two marks and not the other: {counted(len(halves), 'rule')}: "
            f"{_listed(halves)}. Remove by hand, or restore the tag gatepass.dev/owner and the description"
        )
    return [Fact("OwnerConflict", True, "SharedInstallId" if strangers else "MarkMissing", "; ".join(told))]


def _listed(rules: Sequence[ObservedRule]) -> str:
    return ", ".join(rule.id for rule in rules[:_LISTED_IN_MESSAGES])


def _ready(resource: ProtectedResource, findings: Findings, needed: Sequence[Fact]) -> Fact:
    if resource.deleting:
        return Fact("Ready", False, "Deleting", _waits_for(findings))
    lacking = next((fact for fact in needed if fact.status is not True), None)
    if lacking is not None:
        return Fact("Ready", False, lacking.reason, lacking.message)
    if findings.trouble is not None:
        return Fact("Ready", False, findings.trouble.reason, findings.trouble.message)
    if findings.capacity is None:
        return Fact("Ready", False, "NotRead", "no firewall has been read yet")
    return Fact("Ready", True, "Ready", "the credentials are verified, and the firewalls are found")


def _waits_for(findings: Findings) -> str:
    if not findings.users:
        trouble = findings.refusal or findings.trouble
        return "removing its rules" + (f": {trouble.message}" if trouble else "")
    return _waits_for_sessions(findings.users)


def _waits_for_sessions(users: Sequence[str]) -> str:
    named = ", ".join(users[:_LISTED_IN_MESSAGES])
    more = len(users) - _LISTED_IN_MESSAGES
    return f"waits for {counted(len(users), 'session')} to end: {named}" + (f" and {more} more" if more > 0 else "")


def capacity_of(families: Mapping[int, tuple[int, int, int]]) -> Capacity:
    """Capacity from (used, limit, ours) per IP family."""
    (used4, limit4, ours4), (used6, limit6, ours6) = families[4], families[6]
    return Capacity(
        ipv4=FamilyCapacity(used=used4, limit=limit4, ours=ours4),
        ipv6=FamilyCapacity(used=used6, limit=limit6, ours=ours6),
    )
