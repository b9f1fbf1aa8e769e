"""Which rules with both of our marks were not made by this installation.

Two installations may share an install id by mistake: a cluster was cloned from a backup. The marks do not tell their
rules apart, but time does: what appears while this process is the one that writes, and was not put by it, was put by
somebody else (docs/adr/012).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from gatepass.core.plan import is_ours
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState


class Place(NamedTuple):
    """An account and Region of a cloud, where one read by the tag shows everything of ours."""

    provider: str
    account: str
    region: str


def place_of(target: Target) -> Place:
    """Where a target is."""
    return Place(target.provider, target.account, target.region)


@dataclass(slots=True)
class _Notes:
    """Of a place: ids that were there before or are ours, those that are neither, and where the memory has begun."""

    known: set[str] = field(default_factory=set)
    strange: set[str] = field(default_factory=set)
    begun: set[Place | Target] = field(default_factory=set)


class Vouching:
    """Remembers the rules that were there when reads began to show everything, and those that this process put.

    Only a read that began later than reads may lag behind an earlier process is a beginning. Ids are never used twice.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._notes: defaultdict[Place, _Notes] = defaultdict(_Notes)

    def put(self, known: TargetState) -> None:
        """What this process has put, or holds for there, is no stranger."""
        notes = self._notes[place_of(known.target)]
        notes.known.update(id_ for id_ in known.rules if id_ not in notes.strange)

    def read(self, known: TargetState, observed: Iterable[ObservedRule], started: float) -> None:
        """Take note of a read of a target before it is believed: a lost answer may have been about one of its rules."""
        place = place_of(known.target)
        late = not self._notes[place].begun.isdisjoint((known.target, place))
        for rule in observed:
            self._note(place, rule, late=late and not (rule.rule is not None and known.may_have_put(rule.rule)))
        self._begin(place, known.target, started)

    def found(self, place: Place, rules: Collection[tuple[Target, ObservedRule]], started: float) -> None:
        """Take note of a read by the tag. Where somebody writes just now, only a read of the target itself can tell."""
        notes = self._notes[place]
        late = place in notes.begun
        for target, rule in rules:
            if not (late and self._state.tenants.get(target)):
                self._note(place, rule, late=late)
        self._begin(place, place, started)
        here = [known for target, known in self._state.targets.items() if place_of(target) == place]
        kept = {rule.id for _, rule in rules}.union(
            *(known.rules for known in here),
            *(known.revoked for known in here),
            self._state.store.recorded(),  # a read may lag, and a target may have been forgotten in between
        )
        notes.known &= kept
        notes.strange &= kept

    def _note(self, place: Place, rule: ObservedRule, *, late: bool) -> None:
        notes = self._notes[place]
        if rule.id not in notes.known:
            strange = late and is_ours(rule, self._state.owner, known=())
            (notes.strange if strange else notes.known).add(rule.id)

    def _begin(self, place: Place, begins: Place | Target, started: float) -> None:
        if started >= self._state.reads_settle_at:
            self._notes[place].begun.add(begins)

    def stranger(self, target: Target, rule: ObservedRule, now: datetime) -> bool:
        """Did somebody else make it, who still keeps it? Whose time is long over, it may go whoever made it."""
        if rule.id not in self._notes[place_of(target)].strange:
            return False
        mark = parse_mark(rule.description)
        return mark is None or mark.until is None or mark.until + MARGIN >= now
