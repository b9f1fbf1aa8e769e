"""One pass over one firewall object: observe, desired, plan, apply, report."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Plan, Wanted, Write, is_half_marked, make_plan
from gatepass.core.ports import Access, Clock, Provider
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.core.types.common import Key
from gatepass.engine.calls import Calls
from gatepass.engine.demand import Demand, Demands, Wishes
from gatepass.engine.drift import repairs
from gatepass.engine.grants import Grants
from gatepass.engine.journal import Journal
from gatepass.engine.marks import proofs
from gatepass.engine.queue import CLOSING_RETRY, LAST_RETRY, TICK, Queue
from gatepass.engine.records import Records
from gatepass.engine.state import State
from gatepass.engine.switches import Switchboard
from gatepass.engine.targets import TargetState
from gatepass.engine.tries import Call, Kind, Left
from gatepass.engine.turns import Turns
from gatepass.engine.vouching import Vouching

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 60.0
"""How old a read may be on which a write is tried again."""
_TOKEN_SECONDS: Final = 2.0
"""How long at most until a token is asked about again, which may come earlier than it was said."""


class Reconciler:
    """Makes each target hold what is granted, and nothing else of ours.

    `report` hears of each pass: its target, the uids of the sessions that it concerns, and whether it may concern all.
    """

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
        self._demands = Demands(state, grants)
        self._records = Records(state, grants, clock, vouching)
        self._vouching = vouching
        self._switchboard = switchboard
        self._providers = providers
        self._clock = clock
        self._report = report
        self._came: defaultdict[tuple[str, str], float] = defaultdict(lambda: float("-inf"))
        self.queue: Queue[Target] = Queue("target", self.reconcile, workers=32)
        self._turns: Turns[Call, Target] = Turns(self.queue)
        self._calls = Calls(state, providers, journal, self._records, vouching, self.queue, self._turns, reverify)

    async def reconcile(self, target: Target) -> None:
        """One pass. A failure is kept in the target's state, reported, and tried again with backoff."""
        known = self._state.target(target)
        now = asyncio.get_running_loop().time()
        if self._goes_on_waiting(known, now):
            return
        accesses = self._accesses(target)
        if not accesses:
            self._turns.settled(target)
            return  # verification has to succeed first, and comes back here when it does
        read = known.stale = known.stale or now >= known.look_again_at - TICK
        first, before = known.read_at is None, known.rules
        blind = read and not await self._calls.observe(known, accesses)
        if blind and first:
            self._retry_closing(known, "reads", accesses)  # what has to close nobody knows without a read
            self._report(target, (), True)
            return
        demand = self._demands.at(target, self._clock.now(), now)
        for other in demand.displaced:
            self.queue.add(other)
        if known.ends_at < float("inf"):  # the passes of the sessions may have to wait for others
            self.queue.add(target, known.ends_at - now)
        seen_at = self._clock.now() - timedelta(seconds=now - (known.read_at or now) if blind else 0.0)
        plan = self._plan(known, demand.rules, seen_at, now)
        settled = [id_ for id_ in plan.revokes if known.rules[id_].rule not in demand.undecided]
        if blind:  # what is known to be over closes
            plan = plan.without({"grants", "relabels", "retags"})
        if len(settled) < len(plan.revokes):
            plan = replace(plan, revokes=tuple(settled))
            if not blind:  # which comes back by itself
                self.queue.add(target, CLOSING_RETRY)  # somebody may want them; a refusal alone makes no news here
        if plan.writes and self._begins_to_wait(known, plan, now):
            return
        whole, plan = plan, self._affordable(known, plan, demand, accesses, now)
        if plan.writes or not whole.writes:
            known.write()
        known.conflicts, known.conflict = plan.conflicts, self._conflict(known.target, plan)
        if not blind:
            self._await_foreign_ends(known, demand.rules, now)
        if demand.resumes_at is not None:
            self.queue.add(target, demand.resumes_at - now)
        unseen = known.doubtful | known.unproven
        known.revoking.update(plan.revokes)  # at once: whoever wants one of them meanwhile must not count on it
        try:
            left = await self._calls.apply(known, plan, demand, accesses)
        finally:
            known.revoking.clear()
        if read and not (first or blind):
            self._state.repaired += repairs(before, plan, known.rules, unseen)
        self._switchboard.after(known, accesses)
        if not blind:
            self._await_strangers(known, plan)
        if Left.PUT_OFF in left:
            self.queue.add(target)
        if Left.TO_OTHERS in left:
            self.queue.add(target, CLOSING_RETRY)
        if Left.FAILED in left or (known.any_unsettled and not blind):
            # Somebody may close by hand what we are refused to close.
            known.stale = known.stale or known.any_unsettled or now >= (known.read_at or now) + _LOOK_SECONDS
            if known.rules.keys() & plan.revokes:
                self._retry_closing(known, "revokes", accesses)
            else:
                self.queue.retry(target, CLOSING_RETRY if known.any_unsettled else LAST_RETRY)
        elif blind:
            self._retry_closing(known, "reads", accesses)
        elif not left and plan == whole:
            known.tries.begin(accesses, self._needed(known, Plan(), demand, accesses), (), now)
            self._turns.settled(target)
            if self._state.strays.pop(target, None) and not self._state.tenants[target]:
                self._state.forget_target(target)  # the next sweep finds it again if something is left
        concerned = self._concerned(known, whole)
        known.placed.clear()
        self._report(target, concerned, read or Left.FAILED in left or plan.marks)

    # company

    def _affordable(
        self, known: TargetState, plan: Plan, demand: Demand, accesses: Collection[Access], now: float
    ) -> Plan:
        """What there are calls for. The rest waits in the queue and not with a worker, and is planned anew then.

        What ends does not wait for what opens, but what gets another rule keeps the one that it has until then.
        """
        needed = self._needed(known, plan, demand, accesses)
        waits, kept = self._reserve(known, plan), set[str]()
        if "grants" in waits:
            coming = [want for want in plan.grants if want.rule in demand.moving]
            kept = {id_ for id_ in plan.revokes for want in coming if self._stands_in(known, id_, want, demand)}
            plan = replace(plan, revokes=tuple(id_ for id_ in plan.revokes if id_ not in kept))
            waits = self._reserve(known, plan) if kept else waits
        if waits or kept:
            self.queue.add(known.target, min([*waits.values(), _TOKEN_SECONDS]))
        known.tries.begin(accesses, needed, waits, now)
        return plan.without(waits.keys())

    def _needed(self, known: TargetState, plan: Plan, demand: Demand, accesses: Collection[Access]) -> set[Call]:
        """The calls that are needed: what anybody may do, of all who may, and of who is to have another try as well."""
        granting = {access for want in plan.grants for access in demand.rules[want.rule][1]} | demand.parked
        needed: set[Call] = {(access, "grants") for access in (accesses if known.any_unsettled else granting)}
        return needed | {(access, kind) for kind in plan.kinds if kind != "grants" for access in accesses}

    def _stands_in(self, known: TargetState, id_: str, want: Wanted, demand: Demand) -> bool:
        """Does the rule open the same door for somebody who wants the other one, if with other ports?"""
        held = known.rules[id_]
        mark, one, other = parse_mark(held.description), held.rule, want.rule
        theirs = bool(self._records.users(known.target, id_) & demand.moving[want.rule])
        if one is None or not (theirs or (mark is not None and mark.resource == want.resource)):
            return False
        if (one.cidr, one.protocol) != (other.cidr, other.protocol):
            return False
        if one.port is None or one.end_port is None or other.port is None or other.end_port is None:
            return True  # a protocol without ports
        return one.port <= other.end_port and other.port <= one.end_port

    def _reserve(self, known: TargetState, plan: Plan) -> dict[Write, float]:
        """For how long a call is not there yet, by what it is for."""
        doubtful = not self._records.likely(known, plan.revokes)
        reserved = self._providers[known.target.provider].reserve(known.target, plan.kinds, doubtful=doubtful)
        return {kind: wait for kind, wait in reserved.items() if wait > 0}

    def _begins_to_wait(self, known: TargetState, plan: Plan, now: float) -> bool:
        """Are the writes held back, so that one call carries more of them?"""
        if known.holds_back:
            return False
        provider = self._providers[known.target.provider]
        closing = provider.closing_delay(known.target)
        delay = provider.delay(known.target)
        if plan.revokes:
            delay = min(delay, closing)
        if delay <= 0:
            return False
        known.wait(now, delay, provider.patience(known.target), closing, closes=bool(plan.revokes))
        self._came[known.target.account, known.target.region] = now
        self.queue.add(known.target, known.resumes_at - now)
        return True

    def _goes_on_waiting(self, known: TargetState, now: float) -> bool:
        """Is it too early yet for the writes that are held back?"""
        neighbours = known.target.account, known.target.region
        if now >= known.ends_at:
            known.hurry()
        if known.joined(now) or (known.holds_back and self._is_on_the_way(known.target)):
            self._came[neighbours] = now
        if not known.goes_on(now, self._came[neighbours]):
            return False
        self.queue.add(known.target, known.comes_back_at(now) - now)
        return True

    def _is_on_the_way(self, target: Target) -> bool:
        """Has somebody come, and was not looked at yet, who names the target or a neighbour that shares its calls?"""
        sessions = filter(None, map(self._state.store.session, self._state.coming))
        named = (self._state.standings.get(key) for session in sessions for key in session.resource_keys())
        return any(
            standing is not None and (standing.account, standing.access.region) == (target.account, target.region)
            for standing in named
        )

    def _await_foreign_ends(self, known: TargetState, desired: Iterable[Rule], now: float) -> None:
        """Look again for whether another installation's rule that stands for one of ours is gone, to put our own.

        Also one whose time is over: its maker, or who sweeps up what has expired, may close it at any time.
        """
        ahead = known.next_look_at_others(desired, self._vouching.others(known.target), self._clock.now(), now)
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
        known = self._state.target(target)
        return sorted(proven, key=lambda access: known.tries.refuses((access, "reads")))

    def _retry_closing(self, known: TargetState, kind: Kind, accesses: Collection[Access]) -> None:
        """A no may be taken back soon, or lasts until somebody changes it; an answer may come at any moment."""
        calls: list[Call] = [(access, kind) for access in accesses]
        if not all(map(known.tries.refuses, calls)):
            self.queue.retry(known.target, CLOSING_RETRY)
            return
        for call in calls:
            self._turns.refused(call, known.target)

    # plan

    def _plan(self, known: TargetState, desired: Wishes, seen_at: datetime, now: float) -> Plan:
        """By what was seen then: whoever has put a rule may have made its time longer since."""
        plan = make_plan(
            (want for want, _ in desired.values()),
            [held for id_, held in known.rules.items() if id_ not in known.missed or held.rule not in desired],
            self._state.owner,
            known=self._records.ids(known),
        )
        plan = replace(plan, grants=tuple(want for want in plan.grants if not known.hidden(want.rule, now)))
        plan = self._switchboard.before(known, plan, desired)
        if known.unproven or known.doubtful:
            plan = replace(plan, relabels={**proofs(known, desired), **plan.relabels})
        return self._vouching.spare(known.target, known.rules, plan, seen_at)

    def _strangers(self, plan: Plan) -> list[ObservedRule]:
        return [rule for rule in plan.conflicts if not is_half_marked(rule, self._state.owner)]

    def _conflict(self, target: Target, plan: Plan) -> ProviderError | None:
        """Why nothing is revoked, told to whoever waits for it."""
        for stranger in self._strangers(plan):
            told = f"{stranger.id} carries our id and was not made by us, so nothing is revoked in {target.id}"
            return ProviderError(Failure.RETRY, "OwnerConflict", told)
        return None

    def _await_strangers(self, known: TargetState, plan: Plan) -> None:
        """Look again when a stranger's time is over."""
        marks = (parse_mark(rule.description) for rule in self._strangers(plan))
        for over in (mark.until + MARGIN for mark in marks if mark is not None and mark.until is not None):
            self.queue.add(known.target, (over - self._clock.now()).total_seconds() + 1.0)
