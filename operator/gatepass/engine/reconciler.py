"""One pass over one firewall object: observe, desired, plan, apply, report. The only caller of a provider's writes."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import structlog

from gatepass.core.audit import EventType
from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
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
from gatepass.engine.demand import Demands, Wishes
from gatepass.engine.grants import Grants
from gatepass.engine.journal import Journal
from gatepass.engine.queue import Queue
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState
from gatepass.engine.views import rule_of

log = structlog.get_logger(__name__)


class Reconciler:
    """Makes each target hold what is granted, and nothing else of ours."""

    def __init__(
        self,
        state: State,
        grants: Grants,
        providers: Mapping[str, Provider],
        clock: Clock,
        journal: Journal,
        report: Callable[[Target, Collection[str] | None], None],
        reverify: Callable[[Key], None],
    ) -> None:
        self._state = state
        self._grants = grants
        self._demands = Demands(state, grants)
        self._providers = providers
        self._clock = clock
        self._journal = journal
        self._report = report
        self._reverify = reverify
        self.queue: Queue[Target] = Queue("target", self.reconcile, workers=32)

    async def reconcile(self, target: Target) -> None:
        """One pass. A failure is kept in the target's state, reported, and tried again with backoff."""
        known = self._state.target(target)
        now = asyncio.get_running_loop().time()
        if known.joins(now):
            self.queue.add(target, known.resumes_at - now)
            return
        accesses = self._accesses(target)
        if not accesses:
            return  # verification has to succeed first, and comes back here when it does
        read = known.stale
        if read and not await self._observe(known, accesses):
            return
        demand = self._demands.at(target, self._clock.now())
        for other in demand.displaced:
            self.queue.add(other)
        desired = demand.rules
        plan = self._plan(known, desired)
        if not demand.decided:
            plan = replace(plan, revokes=())  # somebody may still want them, and comes back here once that is known
        if plan.writes and not known.has_waited:
            provider = self._providers[target.provider]
            delay = provider.delay(target)
            if delay > 0:
                known.wait(now, delay, provider.patience(target))
                self.queue.add(target, known.resumes_at - now)
                return
        known.write()
        known.conflicts = plan.conflicts
        holders = self._holders(target, plan)
        if not plan.writes:
            known.refusals.clear()  # of calls that nobody needs any more
        again = await self._apply(known, plan, desired, accesses)
        if again or known.any_unsettled:
            known.stale = known.stale or known.any_unsettled
            self.queue.retry(target)
        else:
            self.queue.succeeded(target)
        self._report(target, None if read or again or not plan.only_grants else holders)

    def _holders(self, target: Target, plan: Plan) -> set[str]:
        """Whom the grants of a plan are for."""
        placed = self._state.placements.at(target)
        return {claim.holder for want in plan.grants for claim in placed.get(want.rule, ())}

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
        if first:
            self._wake_neighbours(known.target)
        self.queue.retry(known.target)
        self._doubt(known.target)
        self._report(known.target, None)
        return False

    def _wake_neighbours(self, target: Target) -> None:
        """Claims that could not be placed, and rules that could not go, before this target was read or refused."""
        for key in self._state.tenants[target]:
            for other in self._state.standings[key].usable():
                if other != target:
                    self.queue.add(other)

    # plan

    def _plan(self, known: TargetState, desired: Wishes) -> Plan:
        ours, gone = self._recorded(known, desired)
        return make_plan(
            (want for want, _ in desired.values()), known.shown(desired), self._state.owner, known=ours, gone=gone
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
                    if (
                        rule_of(record) not in wanted_now
                        and record.id not in known.revoked
                        and self._grants.closed(session, now)
                    ):
                        gone.add(record.id)
        return ours, gone

    # apply

    async def _apply(
        self,
        known: TargetState,
        plan: Plan,
        desired: Wishes,
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
        desired: Wishes,
    ) -> bool:
        """Put rules with the credentials of a resource that wants them: nobody's rights are lent to others."""
        batches: dict[Access, list[NewRule]] = {}
        for want in grants:
            _, writers = desired[want.rule]
            if writers:
                access = min(writers, key=lambda access: access in known.refusals)
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
                self._journal.firewall(EventType.FIREWALL_RULE_WRITTEN, known.target, id_, new.rule, new.description)
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
                    self._tell_revoked(known, id_)
                    known.gone(id_, at)
                elif isinstance(outcome, ProviderError):
                    self._failed(known, access, outcome)
            left = [id_ for id_ in left if not isinstance(outcomes.get(id_), Revoked)]
            if not left:
                if self._someone_waits(known.target):
                    self.queue.add(known.target)
                return False
        return True

    def _tell_revoked(self, known: TargetState, id_: str) -> None:
        held = known.rules.get(id_)
        rule, description = (held.rule, held.description) if held else ("", "")
        self._journal.firewall(EventType.FIREWALL_RULE_REVOKED, known.target, id_, rule, description)

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
        if error.failure in (Failure.NOT_FOUND, Failure.FORBIDDEN):
            self._doubt(known.target)

    def _doubt(self, target: Target) -> None:
        """The target may be gone, or the credentials may have changed: verify again whoever names it."""
        known = self._state.target(target)
        if known.trouble is None or known.trouble.failure is not Failure.RETRY:
            for key in self._state.tenants[target]:
                self._reverify(key)
