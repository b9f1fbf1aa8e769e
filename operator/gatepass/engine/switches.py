"""Dead man's switches, kept in step with the rules: off the path to open, and before a longer time is promised.

A description is moved later only after its switch was. So where a switch is found after a restart, it is known to
be for the description's time or later, although a listing of switches tells no times.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
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
from gatepass.engine.grants import Grants
from gatepass.engine.queue import Queue
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState

log = structlog.get_logger(__name__)

_WORKERS: Final = 16
_NO_ANSWER: Final = ProviderError(Failure.RETRY, "NoAnswer", "EventBridge Scheduler does not answer")


class Switchboard:
    """One call for each rule that was opened, moved or closed, and one listing per way in and resync.

    Nothing waits for it but the promise of a longer time; what fails is tried again with backoff, and told.
    """

    def __init__(
        self, state: State, switches: Mapping[str, Switches], clock: Clock, moved: Callable[[Target], None]
    ) -> None:
        self._state = state
        self._switches = switches
        self._clock = clock
        self._moved = moved
        self._wanted: dict[Target, Mapping[Rule, datetime | None]] = {}
        self._accesses: dict[Target, Sequence[Access]] = {}
        self._mine: dict[Target, set[str]] = {}
        self._listed: dict[tuple[str, Access], Collection[str]] = {}
        self._turns: defaultdict[tuple[str, Access], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unlisted: set[Target] = set()
        self.queue: Queue[Target] = Queue("switch", self.run, workers=_WORKERS)

    def again(self) -> None:
        """A resync: look for switches that are missing."""
        self._listed.clear()
        for gone in self._wanted.keys() - self._state.targets.keys():
            for kept in (self._wanted, self._accesses, self._mine):
                kept.pop(gone, None)
        self._unlisted = set(self._wanted)  # every target goes through a pass now

    def before(self, known: TargetState, plan: Plan, wishes: Wishes) -> Plan:
        """A pass begins: the labels that have to wait for their switches do."""
        if not self._covers(known.target):
            return plan
        self._wanted[known.target] = {rule: want.until for rule, (want, _) in wishes.items()}
        ahead = {id_ for id_ in plan.relabels if self._behind(known.target, known.rules[id_])}
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

    async def _take_stock(self, known: TargetState, access: Access) -> None:
        """After a start or a resync: which of the rules have a switch?"""
        target = known.target
        if target not in self._unlisted:
            return
        key = (target.provider, access)
        async with self._turns[key]:
            if key not in self._listed:
                self._listed[key] = await self._switches[target.provider].armed(access)
            listed = self._listed[key]
        for id_, rule in known.rules.items():
            mark = parse_mark(rule.description)
            if id_ not in listed:
                self._state.armed.pop(id_, None)
            elif mark is not None and mark.until is not None:
                self._state.armed.setdefault(id_, mark.until)
                self._mine.setdefault(target, set()).add(id_)
        self._unlisted.discard(target)

    # what is to be done

    def _due(self, known: TargetState) -> list[str]:
        """Rules without a switch, with one that is too early, and switches without a rule."""
        behind = [id_ for id_, rule in known.rules.items() if self._behind(known.target, rule)]
        return [*behind, *(id_ for id_ in self._mine.get(known.target, ()) if self._obsolete(known, id_))]

    def _behind(self, target: Target, rule: ObservedRule) -> bool:
        until = self._until(target, rule)
        armed = self._state.armed.get(rule.id)
        return until is not None and until > self._clock.now() and (armed is None or armed < until)

    def _until(self, target: Target, rule: ObservedRule) -> datetime | None:
        if rule.rule is None or not is_ours(rule, self._state.owner, known=()):
            return None
        until = self._wanted.get(target, {}).get(rule.rule)
        return None if until is None else until.replace(microsecond=0)

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
            mine.discard(id_)
            return False
        until = self._until(target, known.rules[id_])
        if until is None:
            return False
        again = id_ in self._state.armed
        mine.add(id_)
        try:
            await switches.arm(access, target, id_, until, again=again)
        except UnknownOutcomeError:
            # It may be there for this time, so that no later time may be promised before it is known to be moved.
            self._state.armed.setdefault(id_, datetime.min.replace(tzinfo=until.tzinfo))
            raise
        self._state.armed[id_] = until
        return again

    def _covers(self, target: Target) -> bool:
        switches = self._switches.get(target.provider)
        return switches is not None and switches.covers(target)


def lags(state: State, grants: Grants, session: AccessSession, now: datetime) -> bool:
    """Is a switch of one of the session's rules still for an earlier time than the session now has?"""
    if not state.armed:
        return False
    for entry in session.status.resources:
        resource = state.store.resources.get(entry.key)
        claim = grants.claim(session, resource, now) if resource is not None else None
        if claim is None or claim.until is None:
            continue
        until = claim.until.replace(microsecond=0)
        if any(not record.foreign and state.armed.get(record.id, until) < until for record in entry.rules):
            return True
    return False
