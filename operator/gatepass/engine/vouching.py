"""Which rules with both of our marks were not made by this installation.

Two installations may share an install id by mistake: a cluster was cloned from a backup. The marks do not tell their
rules apart, but who made a rule when does: the leaders of this cluster are on record (docs/adr/012).
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from gatepass.core.rules import ObservedRule, Target, parse_maker, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.engine.state import State


class Place(NamedTuple):
    """An account and Region of a cloud, where one read by the tag shows everything of ours."""

    provider: str
    account: str
    region: str


def place_of(target: Target) -> Place:
    """Where a target is."""
    return Place(target.provider, target.account, target.region)


class Vouching:
    """Knows the leaders of this installation, and the rules that name none and were there before this process."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._seen: set[Place | Target] = set()
        self._unsigned: set[str] = set()

    def see(self, seen: Place | Target, rules: Iterable[tuple[Target, ObservedRule]]) -> None:
        """Take note of a read of a target, or of a place by the tag, before it is believed."""
        for target, rule in rules:
            if rule.maker is None and self._seen.isdisjoint((target, place_of(target))):
                self._unsigned.add(rule.id)
        self._seen.add(seen)

    def stranger(self, rule: ObservedRule, now: datetime) -> bool:
        """Did somebody else make it, who still keeps it? Whose time is long over, it may go whoever made it."""
        mark = parse_mark(rule.description)
        if mark is not None and mark.until is not None and mark.until + MARGIN < now:
            return False
        if rule.maker is not None:
            return not self._led(rule.maker)
        return rule.id not in self._unsigned and rule.id not in self._state.store.recorded()

    def _led(self, maker: str) -> bool:
        """Did a leader of this installation make it? A cutoff says that what was there before is nobody else's."""
        made = parse_maker(maker)
        if made is None:
            return False
        leader, at = made
        if leader == self._state.leader or (self._state.cutoff is not None and at < self._state.started_at):
            return True
        return leader in self._state.led_before and at <= self._state.led_before[leader]
