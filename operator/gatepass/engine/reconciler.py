"""One pass over one firewall object: observe, desired, plan, apply, report. The only caller of a provider's writes."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from gatepass.core.audit import EventType
from gatepass.core.desired import ClaimKey
from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan, Wanted, is_half_marked, make_plan
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
from gatepass.core.rules import Rule, Stamp, Target, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.core.types.common import Key
from gatepass.engine.demand import Demand, Demands, Wishes
from gatepass.engine.drift import repairs
from gatepass.engine.grants import Grants
from gatepass.engine.journal import Journal
from gatepass.engine.marks import proofs, put, repair
from gatepass.engine.queue import CLOSING_RETRY, LAST_RETRY, Queue
from gatepass.engine.records import Records
from gatepass.engine.state import State
from gatepass.engine.switches import Switchboard
from gatepass.engine.targets import TargetState
from gatepass.engine.turns import Turns
from gatepass.engine.vouching import Vouching

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 60.0
"""How old a read may be on which a write is tried again."""
_DOUBTED_SECONDS: Final = 60.0
"""After which credentials that are still refused are looked at again: a role's session may be another by then."""


class Reconciler:
    """Makes each target hold what is granted, and nothing else of ours."""

    def __init__(
        self,
        state: State,
        grants: Grants,
        providers: Mapping[str, Provider],
        clock: Clock,
        journal: Journal,
        report: Callable[[Target, Collection[str], bool], None],
        reverify: Callable[[Key], None],
        vouching: Vouching,
        switchboard: Switchboard,
    ) -> None:
        self._state = state
        self._grants = grants
        self._demands = Demands(state, grants)
        self._records = Records(state, grants, clock, vouching)
        self._vouching = vouching
        self._switchboard = switchboard
        self._providers = providers
        self._clock = clock
        self._journal = journal
        self._report = report
        self._reverify = reverify
        self._came: defaultdict[tuple[str, str], float] = defaultdict(lambda: float("-inf"))
        self.queue: Queue[Target] = Queue("target", self.reconcile, workers=32)
        self._doubted: defaultdict[Access, float] = defaultdict(lambda: float("-inf"))
        self._turns: Turns[tuple[Access, str], Target] = Turns(self.queue)

    async def reconcile(self, target: Target) -> None:
        """One pass. A failure is kept in the target's state, reported, and tried again with backoff."""
        known = self._state.target(target)
        now = asyncio.get_running_loop().time()
        neighbours = target.account, target.region
        if now >= known.ends_at:
            known.hurry()
        if known.joined(now):
            self._came[neighbours] = now
        if known.goes_on(now, self._came[neighbours]):
            self.queue.add(target, known.comes_back_at(now) - now)
            return
        accesses = self._accesses(target)
        if not accesses:
            self._turns.settled(target)
            return  # verification has to succeed first, and comes back here when it does
        read = known.stale = known.stale or now >= known.look_again_at
        before = known.rules if read and known.read_at is not None else None
        if read and not await self._observe(known, accesses):
            return
        demand = self._demands.at(target, self._clock.now(), now)
        for other in demand.displaced:
            self.queue.add(other)
        if known.ends_at < float("inf"):  # the passes of the sessions may have to wait for others
            self.queue.add(target, known.ends_at - now)
        desired = demand.rules
        plan = self._plan(known, desired)
        plan = self._switchboard.before(known, plan, demand.rules)
        settled = [id_ for id_ in plan.revokes if known.rules[id_].rule not in demand.undecided]
        if len(settled) < len(plan.revokes):
            plan = replace(plan, revokes=tuple(settled))
            self.queue.add(target, CLOSING_RETRY)  # somebody may still want them; a refusal alone makes no news here
        if plan.writes and not known.has_waited:
            provider = self._providers[target.provider]
            closing = provider.closing_delay(target)
            delay = min(provider.delay(target), closing) if plan.revokes else provider.delay(target)
            if delay > 0:
                known.wait(now, delay, provider.patience(target), closing, closes=bool(plan.revokes))
                self._came[neighbours] = now
                self.queue.add(target, known.resumes_at - now)
                return
        known.write()
        known.conflicts = plan.conflicts
        self._await_foreign_ends(known, desired, now)
        if demand.resumes_at is not None:
            self.queue.add(target, demand.resumes_at - now)
        elif not plan.writes:
            known.refusals.clear()  # of calls that nobody needs any more
        unseen = known.doubtful | known.unproven
        known.revoking.update(plan.revokes)  # at once: whoever wants one of them meanwhile must not count on it
        try:
            again = await self._apply(known, plan, demand, accesses)
        finally:
            known.revoking.clear()
        if before is not None:
            self._state.repaired += repairs(before, plan, known.rules, unseen)
        self._switchboard.after(known, accesses)
        self._mind_strangers(known, plan, accesses)
        if again or known.any_unsettled:
            # Somebody may close by hand what we are refused to close.
            known.stale = known.stale or known.any_unsettled or now >= (known.read_at or now) + _LOOK_SECONDS
            left = bool(known.rules.keys() & plan.revokes) or known.any_unsettled
            self._retry(known, "write", accesses, closing=left)
        else:
            self._turns.settled(target)
            if self._state.strays.pop(target, None) and not self._state.tenants[target]:
                self._state.forget_target(target)  # the next sweep finds it again if something is left
        concerned = self._concerned(known, plan)
        known.placed.clear()
        self._report(target, concerned, read or again or bool(plan.marks))

    def _await_foreign_ends(self, known: TargetState, desired: Iterable[Rule], now: float) -> None:
        """Look again when another installation's rule that stands for one of ours should be gone, to put our own."""
        present = self._clock.now()
        ahead = known.next_end_of_others(desired, self._vouching.others(known.target, present), present)
        known.look_again_at = float("inf") if ahead is None else now + ahead
        if ahead is not None:
            self.queue.add(known.target, ahead)

    def _concerned(self, known: TargetState, plan: Plan) -> set[str]:
        """Who has got a place, whom the grants are for, and on whose record the rules are that were taken away.

        Or who may have had them, and no record of his is known to be the last.
        """
        placed = self._state.placements.at(known.target)
        granted = {claim.holder for want in plan.grants for claim in placed.get(want.rule, ())}
        return (
            granted | known.placed | self._state.telling.keys() | self._records.holders(known.target, set(plan.revokes))
        )

    # observe

    def _accesses(self, target: Target) -> list[Access]:
        """The credentials that have been shown to find the target, each once, those without trouble first."""
        standings = (self._state.standings[key] for key in sorted(self._state.tenants[target]))
        proven = dict.fromkeys(standing.access for standing in standings if standing.proves(target))
        if not self._state.tenants[target]:
            return list(self._state.strays.get(target, ()))
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
                self._failed(known, access, error)
            else:
                if known.refusals.get(access) is known.trouble:  # and not of a write, of which a read tells nothing
                    known.refusals.pop(access, None)
                self._turns.let_in((access, "read"), known.target)
                self._vouching.see(known.target, observed)
                known.read(observed, started, self._vouching.others(known.target, self._clock.now()))
                if started < self._state.reads_settle_at:
                    self._records.correct(known)
                if first:
                    self._wake_neighbours(known.target)
                return True
        if first:
            self._wake_neighbours(known.target)
        self._retry(known, "read", accesses, closing=True)  # which nobody knows without a read
        self._report(known.target, (), True)
        return False

    def _retry(self, known: TargetState, call: str, accesses: Collection[Access], *, closing: bool) -> None:
        """A no may be taken back soon, or lasts until somebody changes it; an answer may come at any moment."""
        errors = [known.refusals.get(access) for access in accesses]
        if closing and all(error is not None and error.failure is not Failure.RETRY for error in errors):
            for access in accesses:
                self._turns.refused((access, call), known.target)
        else:
            self.queue.retry(known.target, CLOSING_RETRY if closing else LAST_RETRY)

    def _wake_neighbours(self, target: Target) -> None:
        """Claims that could not be placed, and rules that could not go, before this target was read or refused."""
        for key in self._state.tenants[target]:
            for other in self._state.standings[key].everywhere():
                if other != target:
                    self.queue.add(other)

    # plan

    def _plan(self, known: TargetState, desired: Wishes) -> Plan:
        plan = make_plan(
            (want for want, _ in desired.values()),
            known.rules.values(),
            self._state.owner,
            known=self._records.ids(known),
        )
        if known.unproven or known.doubtful:
            plan = replace(plan, relabels={**proofs(known, desired), **plan.relabels})
        return self._vouching.spare(known.target, known.rules, plan, self._clock.now())

    def _mind_strangers(self, known: TargetState, plan: Plan, accesses: list[Access]) -> None:
        """Tell whoever waits for a revocation why none is made, and look again when a stranger's time is over."""
        strangers = [rule for rule in plan.conflicts if not is_half_marked(rule, self._state.owner)]
        if not strangers:
            return
        told = f"{strangers[0].id} carries our id and was not made by us, so nothing is revoked in {known.target.id}"
        for access in accesses:
            known.refusals.setdefault(access, ProviderError(Failure.RETRY, "OwnerConflict", told))
        marks = (parse_mark(rule.description) for rule in strangers)
        for over in (mark.until + MARGIN for mark in marks if mark is not None and mark.until is not None):
            self.queue.add(known.target, (over - self._clock.now()).total_seconds() + 1.0)

    # apply

    async def _apply(
        self,
        known: TargetState,
        plan: Plan,
        demand: Demand,
        accesses: list[Access],
    ) -> bool:
        """Grant before revoke, but revoke first where there is no room. Answers whether to try again."""
        if self._crowded(known, plan):
            again = await self._revoke(known, plan.revokes, accesses)
            again = await self._grant(known, plan.grants, demand) or again
        else:
            again = await self._grant(known, plan.grants, demand)
            again = await self._revoke(known, plan.revokes, accesses) or again
        return await repair(self._providers[known.target.provider], self._state.owner, known, plan, accesses) or again

    def _crowded(self, known: TargetState, plan: Plan) -> bool:
        if not plan.revokes:
            return False
        quotas = (self._state.standings[key].quota(known.target) for key in self._state.tenants[known.target])
        quota = min((quota for quota in quotas if quota), default=0)
        return any(
            known.used(family) + sum(want.rule.family == family for want in plan.grants) > known.limit(family, quota)
            for family in FAMILIES
        )

    async def _grant(
        self,
        known: TargetState,
        grants: Iterable[Wanted],
        demand: Demand,
    ) -> bool:
        """Put rules with the credentials of a resource that wants them: nobody's rights are lent to others."""
        batches: dict[Access, list[NewRule]] = {}
        placed = self._state.placements.at(known.target)
        for want in grants:
            _, writers = demand.rules[want.rule]
            if writers and placed.get(want.rule):  # a revocation before may have taken its time
                access = min(writers, key=lambda access: access in known.refusals)
                batches.setdefault(access, []).append(NewRule(want.rule, str(want.mark)))
        provider = self._providers[known.target.provider]
        again = False
        for access, rules in batches.items():
            known.granting.update(new.rule for new in rules)
            stamp = self._state.stamp
            try:
                outcomes = await provider.grant(access, known.target, rules, stamp)
            except ProviderError as error:
                outcomes = {new.rule: error for new in rules}
            except UnknownOutcomeError:
                outcomes = {new.rule: Unknown() for new in rules}
            finally:
                known.granting.difference_update(new.rule for new in rules)
            for new in rules:
                outcome = outcomes[new.rule]
                again = self._granted(known, access, new, outcome, stamp) or again
                if isinstance(outcome, ProviderError) and outcome.failure is not Failure.RETRY:
                    self._park(demand.newcomers.get(new.rule, ()), outcome)
        return again

    def _park(self, claims: Iterable[ClaimKey], error: ProviderError) -> None:
        """Whoever has not had the rule before leaves the other rules that it has got for now, wherever they are."""
        for claim in claims:
            places = set(self._state.placements.of(claim).values())
            if places:
                self._state.park(claim, error, asyncio.get_running_loop().time())
            for target in places:
                self.queue.add(target)

    def _granted(self, known: TargetState, access: Access, new: NewRule, outcome: GrantOutcome, stamp: Stamp) -> bool:
        at = asyncio.get_running_loop().time()
        match outcome:
            case Granted(id=id_):
                known.granted(put(new.rule, id_, new.description, *stamp), at)
                known.refusals.pop(access, None)
                self._journal.firewall(EventType.FIREWALL_RULE_WRITTEN, known.target, id_, new.rule, new.description)
                return False
            case Duplicate():
                known.stale = True
                known.lost(new.rule, at)  # ours, of an earlier process, or somebody else's: a read has to tell
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
            at = asyncio.get_running_loop().time()
            for id_, outcome in outcomes.items():
                if isinstance(outcome, Revoked):
                    self._tell_revoked(known, id_)
                    known.gone(id_, at)
                elif isinstance(outcome, ProviderError):
                    self._failed(known, access, outcome)
            if not any(isinstance(outcome, ProviderError) for outcome in outcomes.values()):
                known.refusals.pop(access, None)
                self._turns.let_in((access, "write"), known.target)
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

    def _failed(self, known: TargetState, access: Access, error: ProviderError) -> None:
        """The target may be gone, or the credentials may have changed: whoever names it is verified again."""
        before = known.refusals.get(access)
        known.refusals[access] = error
        if news := before is None or before.reason != error.reason:
            log.warning("call failed", target=str(known.target), reason=error.reason, error=error.message)
        now = asyncio.get_running_loop().time()
        doubtful = news or error.failure is Failure.NOT_FOUND or now >= self._doubted[access] + _DOUBTED_SECONDS
        if error.failure is not Failure.RETRY and doubtful:
            self._doubted[access] = now
            for key in self._state.tenants[known.target]:
                self._reverify(key)
