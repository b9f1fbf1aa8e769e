"""The calls of a pass to the provider of its target, and what their answers tell. The only caller of its writes."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Final

import structlog

from gatepass.core.audit import EventType
from gatepass.core.desired import ClaimKey
from gatepass.core.errors import Failure, ProviderError, ScarceError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan, Wanted
from gatepass.core.ports import (
    Access,
    Clock,
    Duplicate,
    Full,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    Provider,
    Revoked,
    RevokeOutcome,
    Unknown,
)
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.common import Key
from gatepass.engine.demand import Demand
from gatepass.engine.journal import Journal
from gatepass.engine.marks import put, repair
from gatepass.engine.queue import Queue
from gatepass.engine.records import Records
from gatepass.engine.state import State
from gatepass.engine.targets import NEW_IDS_SECONDS, Call, TargetState
from gatepass.engine.turns import Turns
from gatepass.engine.vouching import Vouching

log = structlog.get_logger(__name__)

_DOUBTED_SECONDS: Final = 60.0
"""After which credentials that are still refused are looked at again: a role's session may be another by then."""

Permission = tuple[Access, str]
"""What credentials may do or not: `read` or `write`."""


class Calls:
    """Whom an answer concerns is added to the `queue` of targets, and verified again by `reverify`."""

    def __init__(
        self,
        state: State,
        providers: Mapping[str, Provider],
        clock: Clock,
        journal: Journal,
        records: Records,
        vouching: Vouching,
        queue: Queue[Target],
        turns: Turns[Permission, Target],
        reverify: Callable[[Key], None],
    ) -> None:
        self._state = state
        self._providers = providers
        self._clock = clock
        self._journal = journal
        self._records = records
        self._vouching = vouching
        self._queue = queue
        self._turns = turns
        self._reverify = reverify
        self._doubted: defaultdict[Access, float] = defaultdict(lambda: float("-inf"))

    async def observe(self, known: TargetState, accesses: list[Access]) -> bool:
        """Read, by the first credentials that may. Answers whether any may."""
        started = asyncio.get_running_loop().time()
        first, before, had = known.read_at is None, known.trouble, set(known.holding())
        for access in accesses:
            try:
                observed = await self._providers[known.target.provider].observe(access, known.target)
            except ProviderError as error:
                known.trouble = error
                self._failed(known, access, error, "read")
            else:
                if known.refusals.get(access) is known.trouble:  # and not of a write, of which a read tells nothing
                    known.refusals.pop(access, None)
                self._let_in(known, access, "read")
                self._vouching.see(known.target, observed)
                known.read(observed, started, self._vouching.others(known.target, self._clock.now()))
                if started < self._state.reads_settle_at:
                    self._records.correct(known)
                else:
                    known.settled.clear()  # from here on, reads tell
                if first:
                    self._wake_neighbours(known.target)
                self._let_go_elsewhere(known, known.holding().keys() - had)
                return True
        if first and (before is None or (_may_pass(before) and not _may_pass(known.trouble))):
            self._wake_neighbours(known.target)
        return False

    def _wake_neighbours(self, target: Target) -> None:
        """Claims that could not be placed, and rules that could not go, before this target was read or refused."""
        for other in self._neighbours(target):
            self._queue.add(other)

    def _neighbours(self, target: Target) -> set[Target]:
        """Other targets of those who name this one."""
        standings = (self._state.standings[key] for key in self._state.tenants[target])
        return {other for standing in standings for other in standing.everywhere()} - {target}

    async def apply(
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
        """Does what the plan puts need the room of what it takes away?"""
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
        for want in grants:
            writers = [each for each in demand.rules[want.rule][1] if self._may_write(known, want.rule, each)]
            if writers:
                access = min(writers, key=lambda each: (known.refuses(each), each in known.refusals))
                batches.setdefault(access, []).append(NewRule(want.rule, str(want.mark)))
        provider = self._providers[known.target.provider]
        again = False
        for access in sorted(batches, key=lambda each: known.called.get((each, "grants"), 0.0)):  # if there are too few
            rules = [new for new in batches[access] if self._may_write(known, new.rule, access)]
            again = again or len(rules) < len(batches[access])  # somebody else may want it still
            if not rules:
                continue
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
            note(known, (access, "grants"), outcomes.values())
            for new in rules:
                outcome = outcomes[new.rule]
                again = self._granted(known, access, new, outcome, stamp) or again
                if isinstance(outcome, ProviderError) and outcome.failure is not Failure.RETRY:
                    self._park(demand.newcomers.get(new.rule, ()), outcome)
        self._let_go_elsewhere(known, {want.rule for want in grants} & known.holding().keys())
        return again

    def _may_write(self, known: TargetState, rule: Rule, access: Access) -> bool:
        """Does a resource with these credentials want it here by now? A call before may have taken its time."""
        resources = self._state.store.resources
        return any(
            claim.resource == resources[key].uid and self._state.standings[key].access == access
            for claim in self._state.placements.at(known.target).get(rule, ())
            if claim.holder not in self._state.ending
            for key in self._state.tenants[known.target]
            if key in resources and key in self._state.standings
        )

    def _let_go_elsewhere(self, known: TargetState, rules: Set[Rule]) -> None:
        """A rule that comes here was kept where it was until now."""
        for other in self._neighbours(known.target) if rules else ():
            if rules & self._state.target(other).holding().keys():
                self._queue.add(other)

    def _park(self, claims: Iterable[ClaimKey], error: ProviderError) -> None:
        """Whoever has not had the rule before leaves the other rules that it has got for now, wherever they are."""
        for claim in claims:
            places = set(self._state.placements.of(claim).values())
            if places:
                self._state.park(claim, error, asyncio.get_running_loop().time())
            for target in places:
                self._queue.add(target)

    def _granted(self, known: TargetState, access: Access, new: NewRule, outcome: GrantOutcome, stamp: Stamp) -> bool:
        at = asyncio.get_running_loop().time()
        match outcome:
            case Granted(id=id_):
                known.granted(put(new.rule, id_, new.description, *stamp), at)
                known.refusals.pop(access, None)
                known.told.pop((access, "write"), None)
                self._journal.firewall(EventType.FIREWALL_RULE_WRITTEN, known.target, id_, new.rule, new.description)
                return False
            case Duplicate():
                known.stale = True
                known.duplicate(new.rule, at)  # ours, of an earlier process, or somebody else's: a read has to tell
                known.refusals[access] = ProviderError(
                    Failure.RETRY, "DuplicateNotSeen", f"{new.rule} is there, and reads do not show it yet"
                )
            case Full():
                known.full(new.rule.family)
                self._state.placements.drop_at(known.target, [new.rule])
                self._queue.add(known.target)
                return False
            case Unknown():
                known.lost(new.rule, at)
                known.refusals[access] = ProviderError(Failure.RETRY, "NoAnswer", "the answer to a grant was lost")
            case ScarceError():  # which is no answer to these credentials, and takes no refusal back
                known.fell_short((access, "grants"), at)
            case ProviderError():
                self._failed(known, access, outcome, "write")
        return True

    async def _revoke(self, known: TargetState, ids: tuple[str, ...], accesses: list[Access]) -> bool:
        if not ids:
            return False
        provider = self._providers[known.target.provider]
        left = known.take_known(ids)
        for access in known.in_turn(accesses, "revokes"):
            try:
                outcomes = await provider.revoke(access, known.target, left)
            except ProviderError as error:
                note(known, (access, "revokes"), [error])
                self._failed(known, access, error, "write")
                continue
            except UnknownOutcomeError:
                outcomes = dict.fromkeys(left, Unknown())
            at = asyncio.get_running_loop().time()
            note(known, (access, "revokes"), outcomes.values())
            for id_, outcome in outcomes.items():
                self._revoked(known, access, id_, outcome, at)
            if not any(isinstance(outcome, ProviderError) for outcome in outcomes.values()):
                known.refusals.pop(access, None)
                self._let_in(known, access, "write")
            left = [id_ for id_ in left if isinstance(outcomes[id_], ProviderError)]
            if not left:
                break
        if known.rules.keys() & ids:
            return True
        if self._someone_waits(known.target):
            self._queue.add(known.target)
        return False

    def _revoked(self, known: TargetState, access: Access, id_: str, outcome: RevokeOutcome, at: float) -> None:
        just_begun = at < self._state.started + NEW_IDS_SECONDS  # and a predecessor may have put it
        match outcome:
            case Gone() if known.too_new(id_, at) or (just_begun and id_ not in known.doubtful):
                known.stale = True  # EC2 may not know yet what it has just put: a read has to tell
                known.unknown.add(id_)
            case Gone():
                self._tell_revoked(known, id_)
                known.vanished(id_, at)
                if just_begun:
                    known.revoked.pop(id_, None)  # should a later read show it after all
            case Revoked():
                self._tell_revoked(known, id_)
                known.gone(id_, at)
            case Unknown():
                known.unheard_of(id_, at)  # tried again by id, or proven for whoever wants it by then
            case ScarceError():
                known.fell_short((access, "revokes"), at)
            case ProviderError():
                self._failed(known, access, outcome, "write")

    def _tell_revoked(self, known: TargetState, id_: str) -> None:
        held = known.rules.get(id_)
        rule, description = (held.rule, held.description) if held else ("", "")
        self._journal.firewall(EventType.FIREWALL_RULE_REVOKED, known.target, id_, rule, description)

    def _someone_waits(self, target: Target) -> bool:
        resources = (self._state.store.resources.get(key) for key in self._state.tenants[target])
        uids = {resource.uid for resource in resources if resource is not None}
        return any(claim.resource in uids for claim in self._state.waiting)

    def _let_in(self, known: TargetState, access: Access, call: str) -> None:
        known.told.pop((access, call), None)
        self._turns.let_in((access, call), known.target)

    def _failed(self, known: TargetState, access: Access, error: ProviderError, call: str) -> None:
        """The target may be gone, or the credentials may have changed: whoever names it is verified again."""
        known.refusals[access] = error
        known.failed = known.failed or call == "write"
        if news := known.told.get((access, call)) != error.reason:
            known.told[access, call] = error.reason
            log.warning("call failed", target=str(known.target), reason=error.reason, error=error.message)
        now = asyncio.get_running_loop().time()
        doubtful = news or error.failure is Failure.NOT_FOUND or now >= self._doubted[access] + _DOUBTED_SECONDS
        if error.failure is not Failure.RETRY and doubtful:
            self._doubted[access] = now
            for key in self._state.tenants[known.target]:
                self._reverify(key)


def note(known: TargetState, call: Call, outcomes: Collection[object]) -> None:
    """Was it made, and refused for longer than a moment, or never answered?"""
    made = [outcome for outcome in outcomes if not isinstance(outcome, ScarceError)]
    if made:
        errors = [outcome for outcome in made if isinstance(outcome, ProviderError)]
        lost = any(isinstance(outcome, Unknown) for outcome in made)
        refused = lost or any(error.failure is not Failure.RETRY for error in errors)
        known.was_called(call, asyncio.get_running_loop().time(), refused=refused)


def _may_pass(trouble: ProviderError | None) -> bool:
    """Is it over in a moment, so that everybody waits for it?"""
    return trouble is not None and trouble.failure is Failure.RETRY
