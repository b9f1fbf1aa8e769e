"""Dead man's switches, kept in step with the rules: off the path to open, and before a longer time is promised.

Of each switch one thing is known: the earliest time that it may be for. No label says a later time than the switch of
its rule is for, and no session is told one. So where a switch is found after a restart, it is known to be for the
label's time or later, although a listing of switches tells no times.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.plan import Plan
from gatepass.core.ports import Access, Clock, Switches
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.core.types.session import AccessSession, SessionResourceStatus
from gatepass.engine.demand import Wishes
from gatepass.engine.grants import Grants, was_granted
from gatepass.engine.queue import Queue
from gatepass.engine.state import Standing, State
from gatepass.engine.targets import TargetState
from gatepass.engine.vouching import Place, Vouching, place_of

log = structlog.get_logger(__name__)

_WORKERS: Final = 16
_NO_ANSWER: Final = ProviderError(Failure.RETRY, "NoAnswer", "EventBridge Scheduler does not answer")
_UNSETTLED: Final = ProviderError(
    Failure.RETRY, "SwitchUnsettled", "EventBridge Scheduler knows of no switch to move, and makes none as there is one"
)
_UNKNOWN: Final = datetime.min.replace(tzinfo=UTC)
"""The time of a switch that may be there, for whatever time."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""That of one that is not there, and so closes nothing."""


class Switchboard:
    """One call for each rule that was opened, moved or closed, and one listing per account, Region and resync.

    Nothing waits for it but the promise of a longer time; what fails is tried again with backoff, and told.
    """

    def __init__(
        self,
        state: State,
        grants: Grants,
        switches: Mapping[str, Switches],
        clock: Clock,
        vouching: Vouching,
        moved: Callable[[Target], None],
    ) -> None:
        self._state = state
        self._grants = grants
        self._switches = switches
        self._clock = clock
        self._vouching = vouching
        self._moved = moved
        self._wanted: dict[Target, Mapping[Rule, datetime | None]] = {}
        self._accesses: dict[Target, Sequence[Access]] = {}
        self._armed: dict[Target, dict[str, datetime]] = {}  # a rule that is not in it has no switch
        self._seen: defaultdict[Target, set[str]] = defaultdict(set)  # until reads show all that was put before
        self._listed: dict[Place, Collection[str]] = {}
        self._made: defaultdict[Place, set[str]] = defaultdict(set)  # since that listing began
        self._turns: defaultdict[Place, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unlisted: set[Target] = set()
        self.queue: Queue[Target] = Queue("switch", self.run, workers=_WORKERS)

    def again(self) -> None:
        """A resync: look for switches that are missing."""
        self._listed.clear()
        for gone in self._armed.keys() - self._state.targets.keys():
            for of in (self._armed, self._wanted, self._accesses, self._seen):
                of.pop(gone, None)
        self._unlisted = set(self._armed)  # every target goes through a pass now

    def before(self, known: TargetState, plan: Plan, wishes: Wishes) -> Plan:
        """A pass begins: the labels that have to wait for their switches do."""
        target = known.target
        if not self._covers(target):
            return plan
        self._wanted[target] = {rule: want.until for rule, (want, _) in wishes.items()}
        if target not in self._armed or target in self._seen:
            self._suppose(known, {*plan.relabels, *plan.retags})
        armed = self._armed[target]
        on_time = {id_: text for id_, text in plan.relabels.items() if armed.get(id_, _NEVER) >= _label(text, _UNKNOWN)}
        return replace(plan, relabels=on_time)

    def after(self, known: TargetState, accesses: Sequence[Access]) -> None:
        """A pass has ended: switches follow what it did."""
        if self._covers(known.target):
            self._accesses[known.target] = accesses
            if known.target in self._unlisted or self._due(known):
                self.queue.add(known.target)

    async def run(self, target: Target) -> None:
        """Bring the switches of a target in line with its rules."""
        known = self._state.targets.get(target)
        if known is None or known.read_at is None or not self._accesses.get(target):
            self.queue.succeeded(target)
            return
        before, trouble = dict(self._of(target)), None
        for access in self._accesses[target]:
            trouble = await self._follow_all(known, access)
            if trouble is None:
                break
        if trouble is not None:
            log.warning("a dead man's switch is missing", target=str(target), error=str(trouble))
        told = self._state.unarmed.get(target)
        if trouble is None:
            self._state.unarmed.pop(target, None)
            self.queue.succeeded(target)
        else:
            self._state.unarmed[target] = trouble
            self.queue.retry(target)
        after = self._of(target)
        later = any(after.get(id_, _NEVER) > before[id_] for id_ in before.keys() & known.rules.keys())
        if later or told != trouble:  # a label or a promise may wait for it
            self._moved(target)

    # what there is

    def _of(self, target: Target) -> dict[str, datetime]:
        return self._armed.get(target, {})

    def _suppose(self, known: TargetState, relabels: Collection[str]) -> None:
        """Before it is known which rules have a switch: each, for the time on its label, if that was read.

        Those that were there before us, be it that a read shows them later.
        """
        target, seen = known.target, self._seen[known.target]
        first, armed = target not in self._armed, self._armed.setdefault(target, {})
        ours = {id_ for id_, rule in known.rules.items() if self._is_ours(target, rule, relabels)}
        found = ours - seen - (set() if first else known.put_by_us)
        seen |= ours | known.put_by_us
        for id_ in found - armed.keys():
            armed[id_] = _UNKNOWN if id_ in known.doubtful else _label(known.rules[id_].description, _UNKNOWN)
        if first or found:
            self._unlisted.add(target)
        if not self._state.may_lag(known):  # this read has shown all of them
            del self._seen[target]

    async def _take_stock(self, known: TargetState, access: Access) -> None:
        """After a start or a resync: which of the rules have a switch?"""
        target = known.target
        if target not in self._unlisted:
            return
        place = place_of(target)
        async with self._turns[place]:
            if place not in self._listed:
                self._made[place].clear()
                self._listed[place] = await self._switches[target.provider].armed(access)
            listed = self._listed[place]
        armed = self._of(target)
        for id_ in armed.keys() - listed - self._made[place]:
            del armed[id_]
        for id_ in (known.rules.keys() & listed) - armed.keys():
            if self._is_ours(target, known.rules[id_], ()):
                armed[id_] = _UNKNOWN
        self._unlisted.discard(target)

    # what is to be done

    def _due(self, known: TargetState) -> list[str]:
        """Switches without a rule first, or of a static one; then those that are too early, then rules without one."""
        armed = self._of(known.target)
        obsolete = [id_ for id_ in armed if self._obsolete(known, id_)]
        behind = [id_ for id_, rule in known.rules.items() if self._behind(known.target, rule)]
        return [*obsolete, *sorted(behind, key=lambda id_: id_ not in armed)]

    def _behind(self, target: Target, rule: ObservedRule) -> bool:
        until = self._until(target, rule)
        return until is not None and self._of(target).get(rule.id, _UNKNOWN) < until

    def _until(self, target: Target, rule: ObservedRule) -> datetime | None:
        """What its switch is to be for: not less than its label says, which the next process believes of it."""
        until = None if rule.rule is None else self._wanted.get(target, {}).get(rule.rule)
        if until is None or until <= self._clock.now() or not self._is_ours(target, rule, self._of(target)):
            return None
        return max(until.replace(microsecond=0), _label(rule.description, _UNKNOWN))

    def _is_ours(self, target: Target, rule: ObservedRule, known: Collection[str]) -> bool:
        """And not made by another, who may keep it longer than we want it. A `known` one may have lost its marks."""
        return self._state.is_ours(rule, known) and not self._vouching.made_elsewhere(target, rule)

    def _obsolete(self, known: TargetState, id_: str) -> bool:
        """Is the rule gone, or is it now static? One that should be gone and is not keeps its switch."""
        rule = known.rules.get(id_)
        if rule is None or rule.rule is None:
            return True
        return self._wanted.get(known.target, {}).get(rule.rule, self._clock.now()) is None

    async def _follow_all(self, known: TargetState, access: Access) -> ProviderError | None:
        """Answers what was the matter last. A refusal holds up no other switch; silence and throttling end it all."""
        trouble = None
        try:
            await self._take_stock(known, access)
            for id_ in self._due(known):
                try:
                    await self._follow(known, id_, access)
                except ProviderError as error:
                    trouble = error
                    if error.failure is Failure.RETRY:
                        break
        except ProviderError as error:
            trouble = error
        except UnknownOutcomeError:
            trouble = _NO_ANSWER
        return trouble

    async def _follow(self, known: TargetState, id_: str, access: Access) -> None:
        target, armed = known.target, self._of(known.target)
        switches = self._switches[target.provider]
        if self._obsolete(known, id_):
            await switches.disarm(access, target, id_)
            armed.pop(id_, None)
            return
        until = self._until(target, known.rules[id_])
        if until is None:
            return
        there = id_ in armed
        armed.setdefault(id_, until)  # from now on it may be there, and nothing later is promised
        try:
            if not await switches.arm(access, target, id_, until, again=there):
                there, armed[id_] = True, _UNKNOWN
                if not await switches.arm(access, target, id_, until, again=True):
                    raise _UNSETTLED
        except ProviderError:
            if not there:
                del armed[id_]
            raise
        except UnknownOutcomeError:
            armed[id_] = _UNKNOWN
            raise
        finally:
            self._made[place_of(target)].add(id_)  # a listing that began before its answer may not show it
        armed[id_] = until

    def _covers(self, target: Target) -> bool:
        switches = self._switches.get(target.provider)
        return switches is not None and switches.covers(target)

    # what may be told

    def promised(self, session: AccessSession, deadline: datetime, now: datetime) -> datetime:
        """The end that may be told: the deadline, or what a switch is for that has still to move, if no more was."""
        if not self._switches:
            return deadline
        return min([deadline, *self._bounds(session, session.status.expires_at, now)])

    def _bounds(self, session: AccessSession, told: datetime | None, now: datetime) -> Iterator[datetime]:
        """What may still be told where a switch is too early for the session, or nobody knows yet: no less than was."""
        for key in session.resource_keys():
            standing = self._state.standings.get(key)
            entry = session.resource_status(key)
            if told is not None and was_granted(entry) and self._is_unknown(standing, entry):
                yield told
            resource = self._state.store.resources.get(key)
            claim = self._grants.claim(session, resource, now) if resource is not None else None
            if claim is None or claim.until is None:
                continue
            for rule, target in self._state.placements.of(claim.key).items():
                held = self._state.target(target).holding().get(rule)
                armed = None if held is None else self._of(target).get(held.id)
                if held is None or armed is None or armed >= claim.until.replace(microsecond=0):
                    continue
                bound = max(armed, told or _label(held.description, armed))
                if bound > _UNKNOWN:  # else nothing is known of it, and nothing was told that could be kept
                    yield bound

    def _is_unknown(self, standing: Standing | None, entry: SessionResourceStatus | None) -> bool:
        """May a rule have a switch that nobody has heard of? Not in a group that refuses us, if none is on record."""
        if standing is None:
            return True
        recorded = {record.target for record in (entry.rules if entry else ()) if record.removed_at is None}
        unread = (t for t in standing.everywhere() if self._covers(t) and t not in self._armed)
        return any(not standing.lost(t) and (t.id in recorded or not standing.refuses(t)) for t in unread)


def _label(description: str, other: datetime) -> datetime:
    """The time on a label; the `other` where there is none."""
    mark = parse_mark(description)
    return other if mark is None or mark.until is None else mark.until
