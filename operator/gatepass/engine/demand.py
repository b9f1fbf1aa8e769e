"""What a target should hold: every live claim on it, placed where there is room."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from gatepass.core.desired import Claim, ClaimKey, wanted
from gatepass.core.errors import Failure
from gatepass.core.placement import Room, Shortage, place
from gatepass.core.plan import Wanted
from gatepass.core.ports import Access
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.grants import Grants
from gatepass.engine.queue import TICK
from gatepass.engine.state import Standing, State, Wait
from gatepass.engine.views import rule_of

Wishes = Mapping[Rule, tuple[Wanted, Sequence[Access]]]
User = tuple[str, str]
"""A session's uid, and the resource that it uses."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The rules wanted in a target, each with the credentials that may write it; none may where it is only kept.

    `undecided` may not be revoked yet: what anybody wants, here or elsewhere, while somebody who names the target
    has not been heard, and, for two minutes, what sessions may be granted whose admission has not been asked for since
    the start. `displaced` are other targets that have been given something to do. `newcomers` are the claims that have
    not had a missing rule before, and `moving` are missing rules of claims that may have had another one instead, with
    those of them that were granted something; `resumes_at` is when the first of those that were refused here tries
    again, and `parked` are the credentials of all of those.
    """

    rules: Wishes
    undecided: frozenset[Rule]
    displaced: frozenset[Target]
    newcomers: Mapping[Rule, Sequence[ClaimKey]]
    moving: Mapping[Rule, Set[User]]
    resumes_at: float | None
    parked: frozenset[Access]


@dataclass(frozen=True, slots=True)
class _Tenant:
    """A resource that names the target, what is known of it, and what is wanted of it.

    `proven` are its own targets that were found, and `usable` those of them that can be read: new rules may go there.
    `recorded` are the rules that statuses name there, with the uid of the session.
    """

    resource: ProtectedResource
    standing: Standing | None
    claims: Sequence[Claim]
    recorded: frozenset[tuple[str, Rule]]
    proven: frozenset[Target]
    usable: Sequence[Target]

    def proves(self, target: Target) -> bool:
        return self.standing is not None and self.standing.proves(target)

    def found(self, target: Target) -> bool:
        """Has it ever shown that its credentials find this target?"""
        status = self.resource.status
        return status.account == target.account and any(
            entry.id == target.id and entry.name is not None for entry in status.targets
        )

    @property
    def ceiling(self) -> int | None:
        return self.resource.spec.policy.max_concurrent_sessions

    @property
    def quotas(self) -> dict[Target, int]:
        return {target: self.standing.quota(target) for target in self.usable} if self.standing is not None else {}

    @property
    def everywhere(self) -> list[Target]:
        return self.standing.everywhere() if self.standing is not None else []


class Demands:
    """Nothing here awaits, so that no other pass comes between looking for room and taking it."""

    def __init__(self, state: State, grants: Grants) -> None:
        self._state = state
        self._grants = grants

    def at(self, target: Target, now: datetime, second: float) -> Demand:
        """What the target should hold now; `second` is the event loop's."""
        tenants = list(self._tenants(target, now))
        claims = [claim for tenant in tenants for claim in tenant.claims]
        for granted in (claim.key for claim in claims if claim.granted):
            self._state.parked.pop(granted, None)  # what it was refused once, it has got
        known = self._state.target(target)
        known.claims = {claim.key: claim for claim in claims}
        left = (
            (claim.until - now).total_seconds() for claim in claims if claim.until is not None and claim.until > now
        )
        known.ends_at = second + min(left, default=float("inf"))
        self._prune(target, tenants)
        self._adopt(target, tenants)
        waiting = set(self._state.waiting)
        placed = self._place(target, tenants, now, second)
        known.placed.update(claim.holder for claim in (*placed, *(self._state.waiting.keys() - waiting)))
        holding = known.staying()
        rules: dict[Rule, tuple[Wanted, Sequence[Access]]] = {}
        newcomers: dict[Rule, list[ClaimKey]] = {}
        moving: dict[Rule, Set[User]] = {}
        kept: dict[Rule, set[ClaimKey]] = {}
        for rule, users in self._users(target, tenants).items():
            lasting = [(claim, tenant) for claim, tenant in users if not claim.ending]
            writers = [tenant.standing.access for _, tenant in lasting if tenant.standing and target in tenant.proven]
            if rule in holding or (writers and any(self._placed(claim, rule) == target for claim, _ in lasting)):
                rules[rule] = wanted(rule, [claim for claim, _ in users]), list(dict.fromkeys(writers))
            if elsewhere := {claim.key for claim, _ in users if self._placed(claim, rule) != target}:
                kept[rule] = elsewhere
            if rule not in holding:
                newcomers[rule] = [claim.key for claim, _ in users if claim.until is not None and not claim.granted]
                if len(newcomers[rule]) < len(users):
                    moving[rule] = {(claim.key.holder, claim.resource) for claim, _ in users if claim.granted}
        known.kept = kept
        parked = {claim.key: self._state.parked[claim.key] for claim in claims if claim.key in self._state.parked}
        return Demand(
            rules,
            frozenset(self._undecided(target, tenants, now, second)),
            frozenset(other for targets in placed.values() for other in targets) - {target},
            newcomers,
            moving,
            min((entry.until for entry in parked.values() if entry.until - TICK > second), default=None),
            frozenset(
                tenant.standing.access
                for tenant in tenants
                if tenant.standing is not None and any(claim.key in parked for claim in tenant.claims)
            ),
        )

    def _tenants(self, target: Target, now: datetime) -> Iterator[_Tenant]:
        """Whoever may have a claim: also those whose credentials have not been verified, or cannot be now."""
        for resource in self._state.naming(target):
            standing = self._state.standings.get(resource.key)
            elsewhere = standing is not None and standing.account is not None and target not in standing.everywhere()
            if resource.spec.aws.region != target.region or elsewhere:
                continue
            records = self._state.store.records_of(resource.key, target.id)
            recorded = frozenset((session.uid, rule_of(record)) for session, record in records)
            yield self._tenant(resource, list(self._grants.claims(resource, now)), recorded)

    def _tenant(
        self, resource: ProtectedResource, claims: Sequence[Claim], recorded: frozenset[tuple[str, Rule]] = frozenset()
    ) -> _Tenant:
        standing = self._state.standings.get(resource.key)
        found = standing.usable() if standing is not None else []
        proven = [each for each in found if _is_named(each, resource)]
        usable = [each for each in proven if self._state.target(each).trouble is None]
        return _Tenant(resource, standing, claims, recorded, frozenset(proven), usable)

    def _undecided(self, target: Target, tenants: Sequence[_Tenant], now: datetime, second: float) -> Iterator[Rule]:
        for tenant in tenants if second < self._state.reads_settle_at else ():
            if tenant.standing is None or tenant.standing.account is not None:  # else it has led nowhere yet
                yield from self._grants.undecided(tenant.resource, now)
        all_heard = all(
            not (tenant.standing is None and tenant.resource.held and self._state.awaits(tenant.resource, target))
            and self._all_read(tenant)
            for tenant in tenants
        )
        if not all_heard:  # until then nobody knows where the rules that are wanted will be
            yield from (rule for tenant in tenants for claim in tenant.claims for rule in claim.rules)

    def _prune(self, target: Target, tenants: Sequence[_Tenant]) -> None:
        """Claims that are no more leave their places."""
        claimed = {claim.key for tenant in tenants for claim in tenant.claims}
        placed = {key for holders in self._state.placements.at(target).values() for key in holders}
        for key in placed - claimed:
            self._state.release(key)

    def _adopt(self, target: Target, tenants: Sequence[_Tenant]) -> None:
        """What was granted here before, and cannot be placed anew now, keeps the place that it has."""
        holding = self._state.target(target).staying()
        for tenant in tenants:
            if target in tenant.usable:
                continue
            for claim in tenant.claims:
                placed = self._state.placements.of(claim.key)
                here = [rule for rule in claim.rules - placed.keys() if rule in holding]
                kept = {rule: target for rule in here if self._had(target, tenant, claim, rule)}
                if kept:
                    self._state.placements.put(claim.key, {**placed, **kept})

    # who wants what

    def _users(self, target: Target, tenants: Sequence[_Tenant]) -> dict[Rule, list[tuple[Claim, _Tenant]]]:
        users: dict[Rule, list[tuple[Claim, _Tenant]]] = {}
        for tenant in tenants:
            for claim in tenant.claims:
                for rule in claim.rules:
                    if self._wants(target, tenant, claim, rule):
                        users.setdefault(rule, []).append((claim, tenant))
        return users

    def _placed(self, claim: Claim, rule: Rule) -> Target | None:
        return self._state.placements.of(claim.key).get(rule)

    def _wants(self, target: Target, tenant: _Tenant, claim: Claim, rule: Rule) -> bool:
        """A claim wants its rule where it is placed, and keeps what it had until it has the rule there."""
        placed = self._placed(claim, rule)
        if placed == target:
            return True
        if placed is not None and rule in self._state.target(placed).staying():
            return False
        return self._had(target, tenant, claim, rule)

    def _had(self, target: Target, tenant: _Tenant, claim: Claim, rule: Rule) -> bool:
        """Was it granted there? Who has not proven that the target is theirs keeps only what is on record."""
        if claim.until is None:
            held = self._state.target(target).staying().get(rule)
            mark = parse_mark(held.description) if held is not None else None
            return mark is not None and mark.static and (mark.resource == claim.resource or tenant.found(target))
        return claim.granted and (tenant.proves(target) or (claim.key.holder, rule) in tenant.recorded)

    # where

    def _place(
        self, target: Target, tenants: Sequence[_Tenant], now: datetime, second: float
    ) -> Mapping[ClaimKey, set[Target]]:
        """Place what is not placed yet, the oldest first; answers where, for each claim that got a place."""
        unplaced = [
            (claim, tenant)
            for tenant in tenants
            if target in tenant.usable and self._all_read(tenant)
            for claim in tenant.claims
            if not self._settled(claim, tenant) and not self._parked(claim, second)
            if not (claim.granted and self._unseen(tenant))
            if not (claim.ending and claim.until is None)  # a static range of what nothing holds gets nothing new
        ]
        rivals = list(self._rivals(target, unplaced, now))
        recorded = self._recorded([tenant for claim, tenant in unplaced if claim.granted])
        usable = dict.fromkeys(other for _, tenant in (*unplaced, *rivals) for other in tenant.usable)
        rooms = {other: self._room(other) for other in usable}
        closed: set[tuple[Target, int]] = set()
        ahead: dict[str, int] = {}
        live = {tenant.resource.uid: self._live(tenant) for tenant in tenants if tenant.ceiling is not None}
        placed: dict[ClaimKey, set[Target]] = {}
        for claim, tenant in sorted((*unplaced, *rivals), key=lambda entry: entry[0].order):
            if tenant.resource.key not in self._state.tenants[target]:
                place(claim.rules, tenant.quotas, rooms, closed, {})
                continue
            counted = live.get(tenant.resource.uid, set())
            if targets := self._place_one(claim, tenant, recorded, rooms, closed, ahead, counted):
                placed[claim.key] = targets
        return placed

    def _rivals(
        self, target: Target, unplaced: Iterable[tuple[Claim, _Tenant]], now: datetime
    ) -> Iterator[tuple[Claim, _Tenant]]:
        """Who waits for room elsewhere, where these may be placed too: what comes before them in line is kept for him.

        He is placed by the passes of the targets that he names.
        """
        elsewhere = {other for _, tenant in unplaced for other in tenant.usable} - {target}
        named = {key for other in elsewhere for key in self._state.tenants[other]} - self._state.tenants[target]
        found = filter(None, map(self._state.store.resources.get, sorted(named)))
        resources = {resource.uid: resource for resource in found}
        waiting = defaultdict[str, set[ClaimKey]](set)
        for key, wait in self._state.waiting.items() if resources else ():
            if wait.for_room and key.resource in resources:
                waiting[key.resource].add(key)
        for uid, keys in waiting.items():
            claims = [claim for claim in self._grants.claims(resources[uid], now) if claim.key in keys]
            tenant = self._tenant(resources[uid], claims)
            if elsewhere.intersection(tenant.usable) and self._all_read(tenant):
                yield from ((claim, tenant) for claim in claims)

    def _all_read(self, tenant: _Tenant) -> bool:
        return all(self._state.target(target).read_at is not None for target in tenant.usable)

    def _recorded(self, tenants: Sequence[_Tenant]) -> Mapping[tuple[ClaimKey, Rule], Target]:
        """Where the rules of sessions are, by their statuses: after a start, they stay there."""
        return {
            (ClaimKey(session.uid, tenant.resource.uid), rule_of(record)): target
            for tenant in {tenant.resource.key: tenant for tenant in tenants}.values()
            for target in tenant.usable
            for session, record in self._state.store.records_of(tenant.resource.key, target.id)
        }

    def _unseen(self, tenant: _Tenant) -> bool:
        """Is there a target that will be read in a moment? What was granted may be there, and does not move."""
        known = [self._state.target(target) for target in tenant.proven]
        return any(
            each.read_at is None and (each.trouble is None or each.trouble.failure is Failure.RETRY) for each in known
        )

    def _settled(self, claim: Claim, tenant: _Tenant) -> bool:
        placed = self._state.placements.of(claim.key)
        good = tenant.proven if claim.granted else tenant.usable
        return claim.rules == placed.keys() and all(at in good for at in placed.values())

    def _parked(self, claim: Claim, second: float) -> bool:
        parked = self._state.parked.get(claim.key)
        return parked is not None and second < parked.until - TICK

    def _room(self, target: Target) -> Room:
        return self._state.target(target).room(self._state.placements.at(target), self._lasts)

    def _lasts(self, rule: ObservedRule) -> bool:
        """Does it stay, whichever session ends? Another's does, and one of a static range."""
        mark = parse_mark(rule.description)
        return mark is None or mark.static or not self._state.is_ours(rule)

    def _place_one(
        self,
        claim: Claim,
        tenant: _Tenant,
        recorded: Mapping[tuple[ClaimKey, Rule], Target],
        rooms: Mapping[Target, Room],
        closed: set[tuple[Target, int]],
        ahead: dict[str, int],
        live: set[ClaimKey],
    ) -> set[Target]:
        key = claim.key
        before = self._state.placements.of(key)
        was = {rule: recorded[key, rule] for rule in claim.rules if (key, rule) in recorded} | dict(before)
        found = _over_ceiling(claim, tenant, live) or place(claim.rules, tenant.quotas, rooms, closed, was)
        if isinstance(found, dict):
            self._state.placements.put(key, found)
            self._state.waiting.pop(key, None)
            if claim.until is not None:
                live.add(key)
            return set(found.values())
        # What it has already it keeps: a claim that grows must not lose its place.
        kept = {rule: at for rule, at in before.items() if rule in claim.rules and at in tenant.everywhere}
        self._state.placements.put(key, kept)
        if not kept and not claim.granted:
            live.discard(key)
        if isinstance(found, Shortage) and found.hopeless:
            self._state.waiting[key] = Wait(str(found), hopeless=True)
            return set()
        place_in_line = ahead[key.resource] = ahead.get(key.resource, 0) + 1
        self._state.waiting[key] = Wait(f"place {place_in_line}: {found}", for_room=isinstance(found, Shortage))
        return set()

    def _live(self, tenant: _Tenant) -> set[ClaimKey]:
        """The sessions that its ceiling counts."""
        return {
            claim.key
            for claim in tenant.claims
            if claim.until is not None and (claim.granted or self._state.placements.of(claim.key))
        }


def _over_ceiling(claim: Claim, tenant: _Tenant, live: Set[ClaimKey]) -> str | None:
    ceiling = tenant.ceiling
    if ceiling is None or claim.until is None or claim.key in live or len(live) < ceiling:
        return None
    return f"{len(live)} of {ceiling} concurrent sessions are live (policy.maxConcurrentSessions)"


def _is_named(target: Target, resource: ProtectedResource) -> bool:
    """By now: an edit comes before its verification."""
    return target.id in resource.spec.aws.security_groups
