"""The calls of a pass to the provider of its target, and what their answers tell. The only caller of its writes."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Final, TypeVar

import structlog

from gatepass.core.audit import EventType
from gatepass.core.desired import ClaimKey
from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan, Wanted, Write
from gatepass.core.ports import (
    Access,
    Duplicate,
    Full,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    Provider,
    RelabelOutcome,
    Revoked,
    RevokeOutcome,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target, rules_for
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.demand import Demand
from gatepass.engine.journal import Journal
from gatepass.engine.marks import put
from gatepass.engine.queue import Queue
from gatepass.engine.records import Records
from gatepass.engine.state import State
from gatepass.engine.targets import NEW_IDS_SECONDS, TargetState
from gatepass.engine.tries import Call, Left, matter
from gatepass.engine.turns import Turns
from gatepass.engine.vouching import Vouching

log = structlog.get_logger(__name__)

O = TypeVar("O")  # noqa: E741  for outcome

_DOUBTED_SECONDS: Final = 60.0
"""After which credentials that are still refused are looked at again: a role's session may be another by then."""


class Calls:
    """Whom an answer concerns is added to the `queue` of targets, and verified again by `reverify`."""

    def __init__(
        self,
        state: State,
        providers: Mapping[str, Provider],
        journal: Journal,
        records: Records,
        vouching: Vouching,
        queue: Queue[Target],
        turns: Turns[Call, Target],
        reverify: Callable[[Key], None],
    ) -> None:
        self._state = state
        self._providers = providers
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
        trouble: ProviderError | None = None
        for access in accesses:
            try:
                observed = await self._look(known, access)
            except ProviderError as error:
                trouble = error
                self._made(known, (access, "reads"), error)
            else:
                self._made(known, (access, "reads"), None)
                self._vouching.see(known.target, observed)
                known.read(observed, started, self._vouching.others(known.target))
                if self._state.may_lag(known):
                    self._records.correct(known)
                else:
                    known.settled.clear()  # from here on, reads tell
                if first:
                    self._wake_neighbours(known.target)
                self._let_go_elsewhere(known, known.holding().keys() - had)
                return True
        known.trouble = trouble
        if before is None or (_may_pass(before) and not _may_pass(trouble)):
            self._wake_neighbours(known.target)
        return False

    async def _look(self, known: TargetState, access: Access) -> Sequence[ObservedRule]:
        """One read. Whoever asks for one while it is under way gets another: he may want it younger."""
        known.stale = False
        try:
            return await self._providers[known.target.provider].observe(access, known.target)
        except BaseException:  # cancelled too: nobody has its answer
            known.stale = True
            raise

    def _wake_neighbours(self, target: Target) -> None:
        """Their passes place claims, and let rules go, by whether this target can be read."""
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
    ) -> Left:
        """Grant before revoke, but revoke first where there is no room."""
        left = Left.NOTHING
        if crowded := self._crowded(known, plan):
            left |= await self._revoke(known, plan.revokes, accesses)
        left |= await self._grant(known, plan.grants, demand)
        if not crowded:
            left |= await self._revoke(known, plan.revokes, accesses)
        left |= await self._tag(known, plan.retags, accesses)
        return left | await self._relabel(known, plan.relabels, accesses)

    def _crowded(self, known: TargetState, plan: Plan) -> bool:
        """Does what the plan puts need the room of what it takes away? A rule of a full group may have been edited."""
        if not plan.revokes:
            return False
        quotas = (self._state.standings[key].quota(known.target) for key in self._state.tenants[known.target])
        quota = min((quota for quota in quotas if quota), default=0)
        return any(
            known.used(family) + sum(want.rule.family == family for want in plan.grants) > known.limit(family, quota)
            for family in FAMILIES
        )

    async def _grant(self, known: TargetState, grants: Iterable[Wanted], demand: Demand) -> Left:
        """Put rules with the credentials of a resource that wants them: nobody's rights are lent to others."""
        left, batches = Left.NOTHING, dict[Access, list[NewRule]]()
        for want in grants:
            writers = [each for each in demand.rules[want.rule][1] if self._may_write(known, each, want.rule)]
            if writers:
                may = [each for each in writers if not known.tries.refuses((each, "grants"))]
                access = known.tries.in_turn(may or writers, "grants")[0]
                batches.setdefault(access, []).append(NewRule(want.rule, str(want.mark)))
        longest_ago = sorted(batches, key=lambda each: known.tries.last(each, "grants").at)
        for access in longest_ago:  # calls may be too few for all of them
            left |= await self._put(known, access, batches[access], demand)
        self._let_go_elsewhere(known, {want.rule for want in grants} & known.holding().keys())
        return left

    async def _put(self, known: TargetState, access: Access, rules: Sequence[NewRule], demand: Demand) -> Left:
        call: Call = access, "grants"
        stamp = self._state.stamp
        known.granting.update(new.rule for new in rules)
        try:
            outcomes = await self._providers[known.target.provider].grant(
                access, known.target, rules, stamp, partial(self._may_write, known, access)
            )
        except ProviderError as error:
            outcomes = {new.rule: error for new in rules}
        except UnknownOutcomeError:
            outcomes = {new.rule: Unknown() for new in rules}
        finally:
            known.granting.difference_update(new.rule for new in rules)
        asked = [new for new in rules if new.rule in outcomes]
        left = Left.NOTHING if len(asked) == len(rules) else known.tries.not_made(call)
        for new in asked:
            outcome = outcomes[new.rule]
            left |= self._granted(known, new, outcome, stamp)
            if isinstance(outcome, ProviderError) and outcome.failure is not Failure.RETRY:
                refused = {resource.uid for resource in self._resources_of(known, access)}
                self._park([each for each in demand.newcomers.get(new.rule, ()) if each.resource in refused], outcome)
        if asked:
            self._made(known, call, matter(outcomes.values()))
        return left

    def _may_write(self, known: TargetState, access: Access, rule: Rule) -> bool:
        """Does a resource with these credentials want it here by now? A call before may have taken its time."""
        claims = self._state.placements.at(known.target).get(rule, ())
        wanting = {claim.resource for claim in claims if claim.holder not in self._state.ending}
        return any(
            resource.uid in wanting and rule in rules_for(resource.spec.ports, [rule.cidr])
            for resource in self._resources_of(known, access)
        )

    def _resources_of(self, known: TargetState, access: Access) -> Iterator[ProtectedResource]:
        """Those that name the target with these credentials."""
        for key in self._state.tenants[known.target]:
            resource = self._state.store.resources.get(key)
            if resource is not None and self._state.standings[key].access == access:
                yield resource

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

    def _granted(self, known: TargetState, new: NewRule, outcome: GrantOutcome, stamp: Stamp) -> Left:
        at = asyncio.get_running_loop().time()
        match outcome:
            case Granted(id=id_):
                known.granted(put(new.rule, id_, new.description, *stamp), at)
                self._vouching.put(known.target, id_)
                self._journal.firewall(EventType.FIREWALL_RULE_WRITTEN, known.target, id_, new.rule, new.description)
                return Left.NOTHING
            case Full():
                known.full(new.rule.family)
                self._state.placements.drop_at(known.target, [new.rule])
                self._queue.add(known.target)
                return Left.NOTHING
            case Duplicate():
                known.stale = True
                known.duplicate(new.rule, at)  # ours, of an earlier process, or somebody else's: a read has to tell
            case Unknown():
                known.lost(new.rule, at)
        return Left.FAILED

    async def _revoke(self, known: TargetState, ids: Sequence[str], accesses: list[Access]) -> Left:
        if not ids:
            return Left.NOTHING  # and what EC2 did not know waits for its turn still
        undone, known_ids = Left.NOTHING, known.take_known(ids)
        # While calls are scarce, what waits for one of its own has it spent by who comes after.
        parts = self._records.alike(known, known_ids, apart=all(known.tries.plenty(a, "revokes") for a in accesses))
        removing = (self._remove(known, part, accesses, doubtful=doubtful) for doubtful, part in parts)
        for left in await asyncio.gather(*removing, return_exceptions=True):  # no call outlives its pass
            if isinstance(left, BaseException):
                raise left
            undone |= left
        if known.rules.keys() & ids:
            return undone | (Left.FAILED if len(known_ids) < len(ids) else Left.NOTHING)
        if self._someone_waits(known.target):
            self._queue.add(known.target)
        return undone

    async def _remove(self, known: TargetState, ids: Sequence[str], accesses: list[Access], *, doubtful: bool) -> Left:
        revoke = partial(self._providers[known.target.provider].revoke, doubtful=doubtful)
        left = await self._by_any(
            known,
            "revokes",
            ids,
            accesses,
            lambda access, left: revoke(access, known.target, left),
            partial(self._revoked, known),
        )
        return left.to_others() if doubtful else left

    async def _relabel(self, known: TargetState, descriptions: Mapping[str, str], accesses: list[Access]) -> Left:
        async def relabel(access: Access, left: Sequence[str]) -> Mapping[str, RelabelOutcome]:
            chosen = {id_: descriptions[id_] for id_ in left}
            return await self._providers[known.target.provider].relabel(access, known.target, chosen)

        def relabelled(id_: str, outcome: RelabelOutcome | Unknown, at: float) -> Left:
            match outcome:
                case None:
                    known.relabelled(id_, descriptions[id_], at)
                    return Left.NOTHING
                case Gone() if self._may_be_a_predecessors(known, id_, at):
                    known.missed.add(id_)  # who wants it has it put again, which tells
                case Gone():
                    known.vanished(id_, at)
                    known.stale = True
            return Left.FAILED  # setting a mark twice does no harm

        return await self._by_any(known, "relabels", list(descriptions), accesses, relabel, relabelled)

    async def _tag(self, known: TargetState, ids: Sequence[str], accesses: list[Access]) -> Left:
        owner = self._state.owner

        async def tag(access: Access, left: Sequence[str]) -> Mapping[str, None]:
            return dict.fromkeys(await self._providers[known.target.provider].tag(access, known.target, left, owner))

        def tagged(id_: str, outcome: Unknown | None, at: float) -> Left:
            if outcome is not None:
                return Left.FAILED
            known.retagged(id_, owner, at)
            return Left.NOTHING

        return await self._by_any(known, "retags", ids, accesses, tag, tagged)

    async def _by_any(
        self,
        known: TargetState,
        kind: Write,
        ids: Sequence[str],
        accesses: Iterable[Access],
        call: Callable[[Access, Sequence[str]], Awaitable[Mapping[str, O | ProviderError]]],
        take: Callable[[str, O | Unknown, float], Left],
    ) -> Left:
        """Have it done by the first credentials that may; `take` hears what became of each id."""
        undone, failed, left = Left.NOTHING, Left.NOTHING, ids
        for access in known.tries.in_turn(accesses, kind) if ids else ():
            outcomes: Mapping[str, O | ProviderError | Unknown]
            try:
                outcomes = await call(access, left)
            except ProviderError as error:
                outcomes = dict.fromkeys(left, error)
            except UnknownOutcomeError:
                outcomes = dict.fromkeys(left, Unknown())
            if len(outcomes) < len(left):
                undone |= known.tries.not_made((access, kind))
            at = asyncio.get_running_loop().time()
            for id_, outcome in outcomes.items():
                if not isinstance(outcome, ProviderError):
                    undone |= take(id_, outcome, at)
            if outcomes:
                self._made(known, (access, kind), matter(outcomes.values()))
            left = [id_ for id_, outcome in outcomes.items() if isinstance(outcome, ProviderError)]
            if not left:
                break
            failed = Left.FAILED
        return undone | (failed if left or undone else Left.NOTHING)

    def _revoked(self, known: TargetState, id_: str, outcome: RevokeOutcome, at: float) -> Left:
        match outcome:
            case Gone() if known.too_new(id_, at) or self._may_be_a_predecessors(known, id_, at):
                known.stale = True  # EC2 may not know yet what it has just put: a read has to tell
                known.unknown.add(id_)
            case Gone():
                self._tell_revoked(known, id_)
                known.vanished(id_, at)
                if self._has_just_begun(at):
                    known.revoked.pop(id_, None)  # should a later read show it after all
            case Revoked():
                self._tell_revoked(known, id_)
                known.gone(id_, at)
            case Unknown():
                known.unheard_of(id_, at)  # tried again by id, or proven for whoever wants it by then
        return Left.FAILED if id_ in known.rules else Left.NOTHING

    def _has_just_begun(self, at: float) -> bool:
        return at < self._state.started + NEW_IDS_SECONDS

    def _may_be_a_predecessors(self, known: TargetState, id_: str, at: float) -> bool:
        """Is it shown by reads, and may have been put a moment ago, so that EC2 does not know its id everywhere?"""
        return self._has_just_begun(at) and id_ not in known.doubtful

    def _tell_revoked(self, known: TargetState, id_: str) -> None:
        held = known.rules.get(id_)
        rule, description = (held.rule, held.description) if held else ("", "")
        self._journal.firewall(EventType.FIREWALL_RULE_REVOKED, known.target, id_, rule, description)

    def _someone_waits(self, target: Target) -> bool:
        resources = (self._state.store.resources.get(key) for key in self._state.tenants[target])
        uids = {resource.uid for resource in resources if resource is not None}
        return any(claim.resource in uids for claim in self._state.waiting)

    def _made(self, known: TargetState, call: Call, error: ProviderError | None) -> None:
        """If it failed, the target may be gone, or the credentials have changed: who names it is verified again."""
        now = asyncio.get_running_loop().time()
        news = known.tries.made(call, now, error)
        if error is None:
            self._turns.let_in(call, known.target)
            return
        if news:
            log.warning("call failed", target=str(known.target), reason=error.reason, error=error.message)
        doubtful = news or error.failure is Failure.NOT_FOUND or now >= self._doubted[call[0]] + _DOUBTED_SECONDS
        if error.failure is not Failure.RETRY and doubtful:
            self._doubted[call[0]] = now
            for key in self._state.tenants[known.target]:
                self._reverify(key)


def _may_pass(trouble: ProviderError | None) -> bool:
    """Is it over in a moment, so that everybody waits for it?"""
    return trouble is not None and trouble.failure is Failure.RETRY
