"""One pass over one firewall object: observe, desired, plan, apply, report. The only caller of a provider's writes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from gatepass.core.desired import Claim, wanted
from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES, Room, place
from gatepass.core.plan import Plan, Wanted, make_plan
from gatepass.core.ports import (
    Access,
    Clock,
    Duplicate,
    Full,
    Granted,
    GrantOutcome,
    NewRule,
    Provider,
    Revoked,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.grants import Grants
from gatepass.engine.queue import Queue
from gatepass.engine.state import Standing, State
from gatepass.engine.targets import TargetState

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Tenant:
    """A resource that names the target, and what is wanted of it."""

    resource: ProtectedResource
    standing: Standing
    claims: list[Claim]


class Reconciler:
    """Makes each target hold what is granted, and nothing else of ours."""

    def __init__(
        self,
        state: State,
        grants: Grants,
        providers: Mapping[str, Provider],
        clock: Clock,
        report: Callable[[Target], None],
        reverify: Callable[[Key], None],
    ) -> None:
        self._state = state
        self._grants = grants
        self._providers = providers
        self._clock = clock
        self._report = report
        self._reverify = reverify
        self.queue: Queue[Target] = Queue("target", self.reconcile, workers=32)

    async def reconcile(self, target: Target) -> None:
        """One pass. A failure is kept in the target's state, reported, and tried again with backoff."""
        known = self._state.target(target)
        accesses = self._accesses(target)
        if not accesses:
            return  # verification has to succeed first, and comes back here when it does
        if known.stale and not await self._observe(known, accesses):
            return
        desired = self._desired(target, self._clock.now())
        plan = self._plan(known, desired)
        if plan.writes and not known.postponed:
            delay = self._providers[target.provider].delay(target)
            if delay > 0:
                known.postponed = True
                self.queue.add(target, delay)
                return
        known.postponed = False
        known.conflicts = plan.conflicts
        again = await self._apply(known, plan, desired, accesses)
        if again or known.any_unsettled:
            known.stale = known.stale or known.any_unsettled
            self.queue.retry(target)
        else:
            self.queue.succeeded(target)
        self._report(target)

    # observe

    def _accesses(self, target: Target) -> list[Access]:
        """The credentials that have been shown to find the target, each once, those without trouble first."""
        standings = (self._state.standings[key] for key in sorted(self._state.tenants[target]))
        proven = dict.fromkeys(standing.access for standing in standings if standing.proves(target))
        refusals = self._state.target(target).refusals
        return sorted(proven, key=lambda access: access in refusals)

    async def _observe(self, known: TargetState, accesses: list[Access]) -> bool:
        started = asyncio.get_running_loop().time()
        first = known.read_at is None
        for access in accesses:
            try:
                observed = await self._providers[known.target.provider].observe(access, known.target)
            except ProviderError as error:
                known.trouble = error
                known.refusals[access] = error
            else:
                known.refusals.pop(access, None)
                known.read(observed, started)
                if first:
                    self._wake_neighbours(known.target)
                return True
        self.queue.retry(known.target)
        self._doubt(known.target)
        self._report(known.target)
        return False

    def _wake_neighbours(self, target: Target) -> None:
        """Claims that could not be placed before this target was read can be now."""
        for key in self._state.tenants[target]:
            for other in self._state.standings[key].usable():
                if other != target:
                    self.queue.add(other)

    # desired

    def _desired(self, target: Target, now: datetime) -> dict[Rule, tuple[Wanted, list[Access]]]:
        """The rules that the target should hold, each with the credentials of those who want it."""
        tenants = [
            _Tenant(resource, self._state.standings[key], sorted(claims, key=lambda claim: claim.order))
            for key in sorted(self._state.tenants[target])
            if (resource := self._state.store.resources.get(key)) is not None
            for claims in [self._grants.claims(resource, now)]
        ]
        self._prune(target, tenants)
        self._place(target, tenants)
        users: dict[Rule, list[tuple[Claim, Access]]] = {}
        for tenant in tenants:
            draining = target in tenant.standing.draining
            for claim in tenant.claims:
                placed = self._state.placements.of(claim.key)
                for rule in claim.rules:
                    if placed.get(rule) == target or (draining and not self._moved(rule, placed)):
                        users.setdefault(rule, []).append((claim, tenant.standing.access))
        return {
            rule: (wanted(rule, [claim for claim, _ in who]), list(dict.fromkeys(access for _, access in who)))
            for rule, who in users.items()
            if any(self._state.placements.of(claim.key).get(rule) == target for claim, _ in who)
            or rule in self._state.target(target).holding()
        }

    def _prune(self, target: Target, tenants: list[_Tenant]) -> None:
        """Claims that are no more leave their places."""
        claimed = {claim.key for tenant in tenants for claim in tenant.claims}
        placed = {key for holders in self._state.placements.at(target).values() for key in holders}
        for key in placed - claimed:
            self._state.release(key)

    def _moved(self, rule: Rule, placed: Mapping[Rule, Target]) -> bool:
        """Is a rule of a draining target in its new place, so that it may go from the old one?"""
        new = placed.get(rule)
        return new is not None and rule in self._state.target(new).holding()

    def _place(self, target: Target, tenants: list[_Tenant]) -> None:
        """Place what is not placed yet, the oldest first. Nothing here awaits, so no other pass comes between."""
        unplaced = []
        for tenant in tenants:
            usable = [other for other in tenant.standing.usable() if self._state.target(other).trouble is None]
            if target not in usable or any(self._state.target(other).read_at is None for other in usable):
                continue
            for claim in tenant.claims:
                placed = self._state.placements.of(claim.key)
                if claim.rules != placed.keys() or not set(usable).issuperset(placed.values()):
                    unplaced.append((claim, tenant, usable))
        if not unplaced:
            return
        rooms = {other: self._room(other, tenant.standing) for _, tenant, usable in unplaced for other in usable}
        closed: set[tuple[Target, int]] = set()
        ahead: dict[str, int] = {}
        for claim, tenant, usable in sorted(unplaced, key=lambda entry: entry[0].order):
            self._place_one(claim, tenant, usable, rooms, closed, ahead)

    def _room(self, target: Target, standing: Standing) -> Room:
        return self._state.target(target).room(standing.quota(target), self._state.placements.at(target))

    def _place_one(
        self,
        claim: Claim,
        tenant: _Tenant,
        usable: list[Target],
        rooms: Mapping[Target, Room],
        closed: set[tuple[Target, int]],
        ahead: dict[str, int],
    ) -> None:
        key = claim.key
        shortage = self._over_ceiling(claim, tenant) or place(claim.rules, usable, rooms, closed)
        if isinstance(shortage, dict):
            self._state.placements.put(key, shortage)
            self._state.waiting.pop(key, None)
            for other in set(shortage.values()):
                self.queue.add(other)
            return
        before = self._state.placements.of(key)
        # What it has already it keeps: a claim that grows must not lose its place.
        self._state.placements.put(
            key, {rule: at for rule, at in before.items() if rule in claim.rules and at in usable}
        )
        place_in_line = ahead[key.resource] = ahead.get(key.resource, 0) + 1
        self._state.waiting[key] = f"place {place_in_line}: {shortage}"

    def _over_ceiling(self, claim: Claim, tenant: _Tenant) -> str | None:
        ceiling = tenant.resource.spec.policy.max_concurrent_sessions
        if ceiling is None or claim.until is None or self._state.placements.of(claim.key):
            return None
        live = sum(1 for other in tenant.claims if other.until is not None and self._state.placements.of(other.key))
        if live < ceiling:
            return None
        return f"{live} of {ceiling} concurrent sessions are live (policy.maxConcurrentSessions)"

    # plan

    def _plan(self, known: TargetState, desired: Mapping[Rule, tuple[Wanted, list[Access]]]) -> Plan:
        ours, gone = self._recorded(known, desired)
        return make_plan(
            (want for want, _ in desired.values()), known.shown(), self._state.owner, known=ours, gone=gone
        )

    def _recorded(self, known: TargetState, desired: Iterable[Rule]) -> tuple[set[str], set[str]]:
        """Ids that sessions record as made by us in this target, and those of them that nobody needs any more."""
        now = self._clock.now()
        wanted_now = set(desired)
        ours: set[str] = set()
        gone: set[str] = set()
        for key in self._state.tenants[known.target]:
            for session in self._state.store.sessions_of(key):
                entry = session.resource_status(key)
                for record in entry.rules if entry else ():
                    if record.foreign or record.target != known.target.id or record.removed_at is not None:
                        continue
                    ours.add(record.id)
                    rule = Rule(record.cidr, record.protocol, record.port, record.end_port)
                    if rule not in wanted_now and record.id not in known.revoked and self._grants.closed(session, now):
                        gone.add(record.id)
        return ours, gone

    # apply

    async def _apply(
        self,
        known: TargetState,
        plan: Plan,
        desired: Mapping[Rule, tuple[Wanted, list[Access]]],
        accesses: list[Access],
    ) -> bool:
        """Grant before revoke, but revoke first where there is no room. Answers whether to try again."""
        if self._crowded(known, plan):
            again = await self._revoke(known, plan.revokes, accesses)
            return await self._grant(known, plan.grants, desired) or again
        again = await self._grant(known, plan.grants, desired)
        again = await self._revoke(known, plan.revokes, accesses) or again
        return await self._repair(known, plan, accesses) or again

    def _crowded(self, known: TargetState, plan: Plan) -> bool:
        if not plan.revokes:
            return False
        quota = min(
            (self._state.standings[key].quota(known.target) for key in self._state.tenants[known.target]), default=0
        )
        return any(
            known.used(family) + sum(want.rule.family == family for want in plan.grants) > known.limit(family, quota)
            for family in FAMILIES
        )

    async def _grant(
        self,
        known: TargetState,
        grants: Iterable[Wanted],
        desired: Mapping[Rule, tuple[Wanted, list[Access]]],
    ) -> bool:
        """Put rules with the credentials of a resource that wants them: nobody's rights are lent to others."""
        batches: dict[Access, list[NewRule]] = {}
        for want in grants:
            access = min(desired[want.rule][1], key=lambda access: access in known.refusals)
            batches.setdefault(access, []).append(NewRule(want.rule, str(want.mark)))
        provider = self._providers[known.target.provider]
        again = False
        for access, rules in batches.items():
            try:
                outcomes = await provider.grant(access, known.target, rules, self._state.owner)
            except ProviderError as error:
                outcomes = {new.rule: error for new in rules}
            except UnknownOutcomeError:
                outcomes = {new.rule: Unknown() for new in rules}
            for new in rules:
                again = self._granted(known, access, new, outcomes[new.rule]) or again
        return again

    def _granted(self, known: TargetState, access: Access, new: NewRule, outcome: GrantOutcome) -> bool:
        at = asyncio.get_running_loop().time()
        match outcome:
            case Granted(id=id_):
                weight = (1, 0) if new.rule.family == FAMILIES[0] else (0, 1)
                known.granted(ObservedRule(id_, new.rule, new.description, self._state.owner, weight), at)
                known.refusals.pop(access, None)
                return False
            case Duplicate():
                if known.confirmed(new.rule):
                    return False
                known.stale = True
                known.refusals[access] = ProviderError(
                    Failure.RETRY, "DuplicateNotSeen", f"{new.rule} is there, and reads do not show it yet"
                )
            case Full():
                known.full(new.rule.family)
                self._state.placements.drop_at(known.target, [new.rule])
                self.queue.add(known.target)
                return False
            case Unknown():
                known.lost(new.rule, at)
                known.refusals[access] = ProviderError(Failure.RETRY, "NoAnswer", "the answer to a grant was lost")
            case ProviderError():
                self._failed(known, access, outcome)
        return True

    async def _revoke(self, known: TargetState, ids: tuple[str, ...], accesses: list[Access]) -> bool:
        if not ids:
            return False
        provider = self._providers[known.target.provider]
        left = list(ids)
        for access in accesses:
            try:
                outcomes = await provider.revoke(access, known.target, left)
            except ProviderError as error:
                self._failed(known, access, error)
                continue
            except UnknownOutcomeError:
                return True  # tried again by id, which settles it
            known.refusals.pop(access, None)
            at = asyncio.get_running_loop().time()
            for id_, outcome in outcomes.items():
                if isinstance(outcome, Revoked):
                    known.gone(id_, at)
                elif isinstance(outcome, ProviderError):
                    self._failed(known, access, outcome)
            left = [id_ for id_ in left if not isinstance(outcomes.get(id_), Revoked)]
            if not left:
                if self._someone_waits(known.target):
                    self.queue.add(known.target)
                return False
        return True

    def _someone_waits(self, target: Target) -> bool:
        resources = (self._state.store.resources.get(key) for key in self._state.tenants[target])
        uids = {resource.uid for resource in resources if resource is not None}
        return any(claim.resource in uids for claim in self._state.waiting)

    async def _repair(self, known: TargetState, plan: Plan, accesses: list[Access]) -> bool:
        """Marks that are out of date, or that somebody has removed."""
        provider = self._providers[known.target.provider]
        access = accesses[0]
        again = False
        try:
            if plan.retags:
                await provider.tag(access, known.target, plan.retags, self._state.owner)
                at = asyncio.get_running_loop().time()
                for id_ in plan.retags:
                    known.retagged(id_, self._state.owner, at)
            if plan.relabels:
                outcomes = await provider.relabel(access, known.target, plan.relabels)
                at = asyncio.get_running_loop().time()
                for id_, error in outcomes.items():
                    if error is None:
                        known.relabelled(id_, plan.relabels[id_], at)
                    else:
                        known.stale = again = True
        except ProviderError as error:
            known.stale = known.stale or error.failure is not Failure.RETRY
            log.warning("cannot repair marks", target=str(known.target), error=str(error))
            again = True
        except UnknownOutcomeError:
            again = True  # setting a mark twice does no harm
        return again

    def _failed(self, known: TargetState, access: Access, error: ProviderError) -> None:
        known.refusals[access] = error
        log.warning("call failed", target=str(known.target), reason=error.reason, error=error.message)
        if error.failure is Failure.NOT_FOUND:
            self._doubt(known.target)

    def _doubt(self, target: Target) -> None:
        """The target may be gone: verify again whoever names it."""
        known = self._state.target(target)
        if known.trouble is None or known.trouble.failure is not Failure.RETRY:
            for key in self._state.tenants[target]:
                self._reverify(key)
