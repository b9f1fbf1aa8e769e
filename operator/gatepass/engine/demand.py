"""What a target should hold: every live claim on it, placed where there is room."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from gatepass.core.desired import Claim, ClaimKey, wanted
from gatepass.core.plan import Wanted
from gatepass.core.ports import Access
from gatepass.core.rules import Rule, Target, parse_mark
from gatepass.engine.grants import Grants
from gatepass.engine.line import Line
from gatepass.engine.places import Places, Tenant, tenant_of
from gatepass.engine.queue import TICK
from gatepass.engine.state import State
from gatepass.engine.views import rule_of

Wishes = Mapping[Rule, tuple[Wanted, Sequence[Access]]]
User = tuple[str, str]
"""A session's uid, and the resource that it uses."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The rules wanted in a target, each with the credentials that may write it; none may where it is only kept.

    `undecided` may not be revoked yet: what anybody wants, here or elsewhere, while somebody who names the target
    has not been heard, and, for two minutes, what sessions from before the start may be granted yet.
    `displaced` are other targets that have been given something to do. `newcomers` are the claims that have
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


class Demands:
    """Nothing here awaits, so that no other pass comes between looking for room and taking it."""

    def __init__(self, state: State, grants: Grants) -> None:
        self._state = state
        self._grants = grants
        self._line = Line(state, grants)
        self._places = Places(state, grants, self._line)

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
        placed = self._places.place(target, tenants, now, second)
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

    def _tenants(self, target: Target, now: datetime) -> Iterator[Tenant]:
        """Whoever may have a claim: also those whose credentials have not been verified, or cannot be now."""
        for resource in self._state.naming(target):
            standing = self._state.standings.get(resource.key)
            elsewhere = standing is not None and standing.account is not None and target not in standing.everywhere()
            if resource.spec.aws.region != target.region or elsewhere:
                continue
            records = self._state.store.records_of(resource.key, target.id)
            recorded = frozenset((session.uid, rule_of(record)) for session, record in records)
            yield tenant_of(self._state, resource, list(self._grants.claims(resource, now)), recorded)

    def _undecided(self, target: Target, tenants: Sequence[Tenant], now: datetime, second: float) -> Iterator[Rule]:
        for tenant in tenants if second < self._state.reads_settle_at else ():
            if tenant.standing is None or tenant.standing.account is not None:  # else it has led nowhere yet
                yield from self._line.rules(tenant.resource, now)
        all_heard = all(
            not (tenant.standing is None and tenant.resource.held and self._state.awaits(tenant.resource, target))
            and tenant.all_read
            for tenant in tenants
        )
        if not all_heard:  # until then nobody knows where the rules that are wanted will be
            yield from (rule for tenant in tenants for claim in tenant.claims for rule in claim.rules)

    def _prune(self, target: Target, tenants: Sequence[Tenant]) -> None:
        """Claims that are no more leave their places."""
        claimed = {claim.key for tenant in tenants for claim in tenant.claims}
        placed = {key for holders in self._state.placements.at(target).values() for key in holders}
        for key in placed - claimed:
            self._state.release(key)

    def _adopt(self, target: Target, tenants: Sequence[Tenant]) -> None:
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

    def _users(self, target: Target, tenants: Sequence[Tenant]) -> dict[Rule, list[tuple[Claim, Tenant]]]:
        users: dict[Rule, list[tuple[Claim, Tenant]]] = {}
        for tenant in tenants:
            for claim in tenant.claims:
                for rule in claim.rules:
                    if self._wants(target, tenant, claim, rule):
                        users.setdefault(rule, []).append((claim, tenant))
        return users

    def _placed(self, claim: Claim, rule: Rule) -> Target | None:
        return self._state.placements.of(claim.key).get(rule)

    def _wants(self, target: Target, tenant: Tenant, claim: Claim, rule: Rule) -> bool:
        """A claim wants its rule where it is placed, and keeps what it had until it has the rule there."""
        placed = self._placed(claim, rule)
        if placed == target:
            return True
        if placed is not None and rule in self._state.target(placed).staying():
            return False
        return self._had(target, tenant, claim, rule)

    def _had(self, target: Target, tenant: Tenant, claim: Claim, rule: Rule) -> bool:
        """Was it granted there? Who has not proven that the target is theirs keeps only what is on record."""
        if claim.until is None:
            held = self._state.target(target).staying().get(rule)
            mark = parse_mark(held.description) if held is not None else None
            return mark is not None and mark.static and (mark.resource == claim.resource or tenant.found(target))
        return claim.granted and (tenant.proves(target) or (claim.key.holder, rule) in tenant.recorded)
