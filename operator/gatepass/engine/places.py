"""Where what is wanted goes: the oldest first, and what has a place stays there."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gatepass.core.desired import Claim, ClaimKey
from gatepass.core.errors import Failure
from gatepass.core.placement import Room, Shortage, place
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.grants import Grants
from gatepass.engine.line import Line
from gatepass.engine.queue import TICK
from gatepass.engine.state import Standing, State, Wait
from gatepass.engine.views import rule_of

_NOWHERE: Final[Mapping[Rule, Target]] = {}


@dataclass(frozen=True, slots=True)
class Tenant:
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
    all_read: bool

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


def tenant_of(
    state: State,
    resource: ProtectedResource,
    claims: Sequence[Claim],
    recorded: frozenset[tuple[str, Rule]] = frozenset(),
) -> Tenant:
    """The resource as it stands now, with these of its claims."""
    standing = state.standings.get(resource.key)
    found = standing.usable() if standing is not None else []
    proven = [each for each in found if _is_named(each, resource)]
    usable = [each for each in proven if state.target(each).trouble is None]
    all_read = all(state.target(each).read_at is not None for each in usable)
    return Tenant(resource, standing, claims, recorded, frozenset(proven), usable, all_read)


class Places:
    """Nothing here awaits, so that no other pass comes between looking for room and taking it."""

    def __init__(self, state: State, grants: Grants, line: Line) -> None:
        self._state = state
        self._grants = grants
        self._line = line

    def place(
        self, target: Target, tenants: Sequence[Tenant], now: datetime, second: float
    ) -> Mapping[ClaimKey, set[Target]]:
        """Place what is not placed yet, the oldest first; answers where, for each claim that got a place."""
        unplaced = [
            (claim, tenant)
            for tenant in tenants
            if target in tenant.usable and tenant.all_read
            for claim in tenant.claims
            if not self._settled(claim, tenant) and not self._parked(claim, second)
            if not (self._may_be_there(claim) and self._unseen(tenant))
            if not (claim.ending and claim.until is None)  # a static range of what nothing holds gets nothing new
        ]
        if not unplaced:
            return {}
        ahead_of_them = [*self._rivals(target, unplaced, now)]
        for tenant in tenants:
            if target in tenant.usable and tenant.all_read:
                ahead_of_them += self._awaited(tenant, now)
        reserved = {claim.key for claim, _ in ahead_of_them}
        recorded = self._recorded([tenant for claim, tenant in unplaced if claim.granted])
        usable = dict.fromkeys(other for _, tenant in (*unplaced, *ahead_of_them) for other in tenant.usable)
        live = defaultdict(set, {tenant.resource.uid: self._live(tenant) for tenant in tenants if tenant.ceiling})
        look = _Look({other: self._room(other) for other in usable}, live)
        placed: dict[ClaimKey, set[Target]] = {}
        for claim, tenant in sorted((*unplaced, *ahead_of_them), key=lambda entry: entry[0].order):
            if claim.key in reserved:
                look.keep(claim, tenant)
            elif targets := self._place_one(claim, tenant, recorded, look):
                placed[claim.key] = targets
        return placed

    def _awaited(self, tenant: Tenant, now: datetime) -> Iterator[tuple[Claim, Tenant]]:
        """Who may be let in yet: his place in line is kept for him."""
        for claim in self._line.claims(tenant.resource, now):
            self._state.reserved.add(claim.key)
            yield claim, tenant

    def _rivals(
        self, target: Target, unplaced: Iterable[tuple[Claim, Tenant]], now: datetime
    ) -> Iterator[tuple[Claim, Tenant]]:
        """Who waits for room elsewhere, where these may be placed too: what comes before them in line is kept for him.

        He is placed by the passes of the targets that he names.
        """
        elsewhere = {other for _, tenant in unplaced for other in tenant.usable} - {target}
        named = {key for other in elsewhere for key in self._state.tenants[other]} - self._state.tenants[target]
        resources = [*filter(None, map(self._state.store.resources.get, sorted(named)))]
        waiting = {key for key, wait in self._state.waiting.items() if wait.for_room} if resources else set()
        waited_for = {key.resource for key in waiting}
        for resource in resources:
            claims = self._grants.claims(resource, now) if resource.uid in waited_for else ()
            tenant = tenant_of(self._state, resource, [claim for claim in claims if claim.key in waiting])
            if elsewhere.intersection(tenant.usable) and tenant.all_read:
                yield from ((claim, tenant) for claim in tenant.claims)
                yield from self._awaited(tenant, now)

    def _recorded(self, tenants: Sequence[Tenant]) -> Mapping[tuple[ClaimKey, Rule], Target]:
        """Where the rules of sessions are, by their statuses: after a start, they stay there."""
        return {
            (ClaimKey(session.uid, tenant.resource.uid), rule_of(record)): target
            for tenant in {tenant.resource.key: tenant for tenant in tenants}.values()
            for target in tenant.usable
            for session, record in self._state.store.records_of(tenant.resource.key, target.id)
        }

    def _unseen(self, tenant: Tenant) -> bool:
        """Is there a target of before the start that will be read in a moment? What was put there does not move."""
        before = (each for each in tenant.proven if (tenant.resource.uid, each.id) in self._state.named)
        known = [self._state.target(target) for target in before]
        return any(
            each.read_at is None and (each.trouble is None or each.trouble.failure is Failure.RETRY) for each in known
        )

    def _may_be_there(self, claim: Claim) -> bool:
        """Was it put before, or may have been by an earlier process, which leaves no record of a static range?"""
        return claim.granted or claim.key in self._state.statics

    def _settled(self, claim: Claim, tenant: Tenant) -> bool:
        placed = self._state.placements.of(claim.key)
        return claim.rules == placed.keys() and all(
            at in tenant.usable or self._stays(tenant, rule, at) for rule, at in placed.items()
        )

    def _stays(self, tenant: Tenant, rule: Rule, at: Target) -> bool:
        """Does it move nowhere, although its group cannot be read?"""
        known = self._state.target(at)
        return at in tenant.proven and (rule in known.staying() or rule in known.coming)

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
        self, claim: Claim, tenant: Tenant, recorded: Mapping[tuple[ClaimKey, Rule], Target], look: "_Look"
    ) -> set[Target]:
        key = claim.key
        before = self._state.placements.of(key)
        was = {rule: recorded[key, rule] for rule in claim.rules if (key, rule) in recorded} | dict(before)
        unread = [(rule, at) for rule, at in before.items() if rule in claim.rules and at not in tenant.usable]
        stay = {rule: at for rule, at in unread if self._stays(tenant, rule, at)}
        found = look.find(claim, tenant, was, stay)
        if isinstance(found, dict):
            self._state.placements.put(key, found)
            self._state.waiting.pop(key, None)
            return set(found.values())
        # What it has already it keeps: a claim that grows must not lose its place.
        kept = {rule: at for rule, at in before.items() if rule in claim.rules and at in tenant.everywhere}
        self._state.placements.put(key, kept)
        if not kept and not claim.granted:
            look.live[key.resource].discard(key)
        self._state.waiting[key] = found
        return set()

    def _live(self, tenant: Tenant) -> set[ClaimKey]:
        """The sessions that its ceiling counts."""
        return {
            claim.key
            for claim in tenant.claims
            if claim.until is not None and (claim.granted or self._state.placements.of(claim.key))
        }


@dataclass(slots=True)
class _Look:
    """One look for room: what each firewall has left, who is `live` by now for each ceiling, and who waits already.

    Kept by the uids of resources.
    """

    rooms: Mapping[Target, Room]
    live: defaultdict[str, set[ClaimKey]]
    closed: set[tuple[Target, int]] = field(default_factory=set)
    ahead: Counter[str] = field(default_factory=Counter)

    def find(
        self,
        claim: Claim,
        tenant: Tenant,
        was: Mapping[Rule, Target] = _NOWHERE,
        stay: Mapping[Rule, Target] = _NOWHERE,
    ) -> dict[Rule, Target] | Wait:
        """Take room for the claim, or a place in line; some of its rules `stay` where they are."""
        key = claim.key
        found = self._over_ceiling(claim, tenant) or place(
            claim.rules - stay.keys(), tenant.quotas, self.rooms, self.closed, was
        )
        if isinstance(found, dict):
            if claim.until is not None:
                self.live[key.resource].add(key)
            return {**found, **stay}
        if isinstance(found, Shortage) and found.hopeless:
            return Wait(str(found), hopeless=True)
        self.ahead[key.resource] += 1
        return Wait(f"place {self.ahead[key.resource]}: {found}", for_room=isinstance(found, Shortage))

    def keep(self, claim: Claim, tenant: Tenant) -> None:
        """Keep room for who may come yet: until then, his rules are not there for anybody else."""
        holds = [self.rooms[target].holds for target in tenant.usable]
        missing = [rule for rule in claim.rules if not any(rule in held for held in holds)]
        found = self.find(claim, tenant)
        if isinstance(found, dict):
            for rule in missing:
                self.rooms[found[rule]].holds.discard(rule)

    def _over_ceiling(self, claim: Claim, tenant: Tenant) -> str | None:
        ceiling, live = tenant.ceiling, self.live[claim.key.resource]
        if ceiling is None or claim.until is None or claim.key in live or len(live) < ceiling:
            return None
        return f"{len(live)} of {ceiling} concurrent sessions are live (policy.maxConcurrentSessions)"


def _is_named(target: Target, resource: ProtectedResource) -> bool:
    """By now: an edit comes before its verification."""
    return target.id in resource.spec.aws.security_groups
