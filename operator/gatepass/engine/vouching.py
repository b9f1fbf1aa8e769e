"""Which rules with both of our marks were not made by this installation.

Two installations may share an install id by mistake: a cluster was cloned from a backup. The marks do not tell their
rules apart, but who made a rule when does (docs/adr/012).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import structlog

from gatepass.core.plan import Plan
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.engine.state import State
from gatepass.engine.targets import Others

log = structlog.get_logger(__name__)


class Place(NamedTuple):
    """An account and Region of a cloud, where one read by the tag shows everything of ours."""

    provider: str
    account: str
    region: str


def place_of(target: Target) -> Place:
    """Where a target is."""
    return Place(target.provider, target.account, target.region)


class Vouching:
    """Remembers which rules are ours that name no maker, or no longer: the tag may be taken off at any time.

    They are those that were there when a target was seen first, that are on record, that have named one of ours, and
    that this process has put.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._places: set[Place] = set()
        self._ours: dict[Target, set[str]] = {}

    def see(self, target: Target, rules: Iterable[ObservedRule]) -> None:
        """Take note of a read of a target before it is believed."""
        first = target not in self._ours and place_of(target) not in self._places
        marked = [rule for rule in rules if rule.owner == self._state.owner or parse_mark(rule.description)]
        unsigned = {rule.id for rule in marked if rule.maker is None}
        if unsigned and not first:
            unsigned &= self._ours.get(target, set()).union(self._state.store.recorded())
        known = self._state.targets.get(target)
        held = self._ours.get(target, set()).intersection(known.rules if known is not None else ())  # a read may lag
        self._ours[target] = unsigned.union(
            held, (rule.id for rule in marked if rule.maker is not None and self._state.leadership.made(rule.maker))
        )

    def put(self, target: Target, id_: str) -> None:
        """This process has put a rule."""
        self._ours.setdefault(target, set()).add(id_)

    def see_all(self, place: Place, found: Iterable[tuple[Target, ObservedRule]]) -> None:
        """Take note of a read by the tag, which shows targets that nothing else may be known of."""
        by_target: defaultdict[Target, list[ObservedRule]] = defaultdict(list)
        for target, rule in found:
            by_target[target].append(rule)
        for target, rules in by_target.items():
            if target not in self._ours or not self._state.tenants.get(target):
                self.see(target, rules)
        self._places.add(place)

    def spare(self, target: Target, rules: Mapping[str, ObservedRule], plan: Plan, now: datetime) -> Plan:
        """The plan without what touches a stranger; where one would have to go, nothing is revoked at all.

        What others made is never marked, though its time is over: with a later one it would be a stranger again.
        """
        marked = (rules[id_] for id_ in {*plan.relabels, *plan.retags})
        if theirs := {rule.id for rule in marked if self.made_elsewhere(target, rule)}:
            relabels = {id_: text for id_, text in plan.relabels.items() if id_ not in theirs}
            plan = replace(plan, relabels=relabels, retags=tuple(id_ for id_ in plan.retags if id_ not in theirs))
        unwanted = [rules[id_] for id_ in plan.revokes if self.stranger(target, rules[id_], now)]
        if not unwanted:
            return plan
        ids = [rule.id for rule in unwanted]
        log.warning("rules with our id that we did not make", target=str(target), ids=ids)
        return replace(plan, revokes=(), conflicts=(*plan.conflicts, *unwanted))

    def others(self, target: Target) -> Others:
        """Which rules are another installation's, be it one with our id? They may close at any time."""
        return lambda rule: rule.owner != self._state.owner or self.made_elsewhere(target, rule)

    def stranger(self, target: Target, rule: ObservedRule, now: datetime) -> bool:
        """Did somebody else make it, who still keeps it? Whose time is long over, it may go whoever made it."""
        mark = parse_mark(rule.description)
        over = mark is not None and mark.until is not None and mark.until + MARGIN < now
        return not over and self.made_elsewhere(target, rule)

    def made_elsewhere(self, target: Target, rule: ObservedRule) -> bool:
        """Did somebody else make it, whether he keeps it or not?"""
        if rule.maker is not None:
            return not self._state.leadership.made(rule.maker)
        return rule.id not in self._ours.get(target, ()) and rule.id not in self._state.store.recorded()
