"""Dead man's switches, kept in step with the rules: off the path to open, and before a longer time is promised.

A description is moved later only after its switch was. So where a switch is found after a restart, it is known to
be for the description's time or later, although a listing of switches tells no times.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.plan import Plan, is_ours
from gatepass.core.ports import Access, Clock, Switches
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.core.types.session import AccessSession
from gatepass.engine.demand import Wishes
from gatepass.engine.grants import Grants, was_granted
from gatepass.engine.queue import Queue
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState
from gatepass.engine.vouching import Place, Vouching, place_of

log = structlog.get_logger(__name__)

_WORKERS: Final = 16
_NO_ANSWER: Final = ProviderError(Failure.RETRY, "NoAnswer", "EventBridge Scheduler does not answer")


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
        self._mine: dict[Target, set[str]] = {}
        self._listed: dict[Place, Collection[str]] = {}
        self._turns: defaultdict[Place, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unlisted: set[Target] = set()
        self._doubtful: set[str] = set()
        self.queue: Queue[Target] = Queue("switch", self.run, workers=_WORKERS)

    def again(self) -> None:
        """A resync: look for switches that are missing."""
        self._listed.clear()
        for gone in self._wanted.keys() - self._state.targets.keys():
            for id_ in self._mine.pop(gone, ()):
                self._state.armed.pop(id_, None)
            self._wanted.pop(gone)
            self._accesses.pop(gone, None)
        self._unlisted = set(self._wanted)  # every target goes through a pass now

    def before(self, known: TargetState, plan: Plan, wishes: Wishes) -> Plan:
        """A pass begins: the labels that have to wait for their switches do."""
        if not self._covers(known.target):
            return plan
        self._wanted[known.target] = {rule: want.until for rule, (want, _) in wishes.items()}
        if known.target not in self._accesses:
            self._suppose(known)
        armed = plan.relabels.keys() & self._state.armed.keys()
        ahead = {id_ for id_ in armed if self._behind(known.target, known.rules[id_])}
        return replace(plan, relabels={id_: text for id_, text in plan.relabels.items() if id_ not in ahead})

    def after(self, known: TargetState, accesses: Sequence[Access]) -> None:
        """A pass has ended: switches follow what it did."""
        target = known.target
        if self._covers(target):
            if target not in self._accesses:
                self._unlisted.add(target)
            self._accesses[target] = accesses
            if target in self._unlisted or self._due(known):
                self.queue.add(target)

    async def run(self, target: Target) -> None:
        """Bring the switches of a target in line with its rules."""
        known = self._state.targets.get(target)
        if known is None or not self._accesses.get(target):
            self.queue.succeeded(target)
            return
        moved, trouble = False, None
        for access in self._accesses[target]:
            try:
                await self._take_stock(known, access)
                for id_ in self._due(known):
                    moved = await self._follow(known, id_, access) or moved
            except ProviderError as error:
                trouble = error
            except UnknownOutcomeError:
                trouble = _NO_ANSWER
            else:
                trouble = None
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
        if moved or told != trouble:
            self._moved(target)

    # what there is

    def _suppose(self, known: TargetState) -> None:
        """Before it is known which rules have a switch: each, for the time in its description."""
        for id_, rule in known.rules.items():
            mark = parse_mark(rule.description)
            if self._is_ours(known.target, rule) and mark is not None and mark.until is not None:
                self._state.armed.setdefault(id_, mark.until)
                self._mine.setdefault(known.target, set()).add(id_)

    async def _take_stock(self, known: TargetState, access: Access) -> None:
        """After a start or a resync: which of the rules have a switch?"""
        target = known.target
        if target not in self._unlisted:
            return
        place = place_of(target)
        async with self._turns[place]:
            if place not in self._listed:
                self._listed[place] = await self._switches[target.provider].armed(access)
            listed = self._listed[place]
        for id_ in known.rules.keys() - listed:
            self._state.armed.pop(id_, None)
        ours = (id_ for id_ in known.rules.keys() & listed if self._is_ours(target, known.rules[id_]))
        self._mine.setdefault(target, set()).update(ours)  # also of one that an earlier process has made static
        self._unlisted.discard(target)

    # what is to be done

    def _due(self, known: TargetState) -> list[str]:
        """Rules without a switch, with one that is too early, and switches without a rule."""
        behind = [id_ for id_, rule in known.rules.items() if self._behind(known.target, rule)]
        return [*behind, *(id_ for id_ in self._mine.get(known.target, ()) if self._obsolete(known, id_))]

    def _behind(self, target: Target, rule: ObservedRule) -> bool:
        until = self._until(target, rule)
        armed = self._state.armed.get(rule.id)
        if until is None or until <= self._clock.now():
            return False
        return armed is None or armed < until or rule.id in self._doubtful

    def _until(self, target: Target, rule: ObservedRule) -> datetime | None:
        if rule.rule is None or not self._is_ours(target, rule):
            return None
        until = self._wanted.get(target, {}).get(rule.rule)
        return None if until is None else until.replace(microsecond=0)

    def _is_ours(self, target: Target, rule: ObservedRule) -> bool:
        """And not a stranger's, who may keep it for longer than we want it."""
        ours = is_ours(rule, self._state.owner, known=())
        return ours and not self._vouching.stranger(target, rule, self._clock.now())

    def _obsolete(self, known: TargetState, id_: str) -> bool:
        """Is the rule gone, or is it now static? One that should be gone and is not keeps its switch."""
        rule = known.rules.get(id_)
        if rule is None or rule.rule is None:
            return True
        return self._wanted.get(known.target, {}).get(rule.rule, self._clock.now()) is None

    async def _follow(self, known: TargetState, id_: str, access: Access) -> bool:
        """Answers whether a switch was moved later, which something else waits for."""
        target = known.target
        switches = self._switches[target.provider]
        mine = self._mine.setdefault(target, set())
        if self._obsolete(known, id_):
            await switches.disarm(access, target, id_)
            self._state.armed.pop(id_, None)
            self._doubtful.discard(id_)
            mine.discard(id_)
            return False
        until = self._until(target, known.rules[id_])
        if until is None:
            return False
        again = id_ in self._state.armed
        mine.add(id_)
        self._state.armed.setdefault(id_, until)  # from now on it may be there, and nothing later is promised
        try:
            await switches.arm(access, target, id_, until, again=again)
        except ProviderError:
            if not again:
                self._state.armed.pop(id_, None)
            raise
        except UnknownOutcomeError:
            self._doubtful.add(id_)
            raise
        self._state.armed[id_] = until
        self._doubtful.discard(id_)
        return again

    def _covers(self, target: Target) -> bool:
        switches = self._switches.get(target.provider)
        return switches is not None and switches.covers(target)

    # what may be told

    def promised(self, session: AccessSession, deadline: datetime, now: datetime) -> datetime:
        """The end that may be told: the deadline, or what a switch is for that has still to move, if no more was."""
        if not self._switches:
            return deadline
        told = session.status.expires_at
        behind = [until for until in self._armed_for(session, told, now) if until < deadline]
        return min(deadline, max(min(behind), told or min(behind))) if behind else deadline

    def _armed_for(self, session: AccessSession, told: datetime | None, now: datetime) -> Iterator[datetime]:
        """The times of switches that are too early for the session; what it was told, where they are not known yet."""
        for key in session.resource_keys():
            standing = self._state.standings.get(key)
            targets = standing.everywhere() if standing is not None else []
            unknown = standing is None or any(self._covers(t) and t not in self._accesses for t in targets)
            if unknown and told is not None and was_granted(session.resource_status(key)):
                yield told
            resource = self._state.store.resources.get(key)
            claim = self._grants.claim(session, resource, now) if resource is not None else None
            if claim is None or claim.until is None:
                continue
            for rule, target in self._state.placements.of(claim.key).items():
                held = self._state.target(target).holding().get(rule)
                armed = None if held is None else self._state.armed.get(held.id)
                if armed is not None and armed < claim.until.replace(microsecond=0):
                    yield armed
