"""Whether rules that carry both of our marks can be of this installation's making, although nobody wants them now.

Two installations may share an install id by mistake: a cluster was cloned from a backup. The marks do not tell their
rules apart; what does is that an object which carries our finalizer stays until its rules are gone. So whatever this
installation made is explained by an object that is still here (docs/adr/012).
"""

from collections import defaultdict
from collections.abc import Collection, Container
from datetime import datetime

from gatepass.core.plan import Plan
from gatepass.core.rules import ObservedRule, Rule, Target, canonical_cidr, parse_mark
from gatepass.core.sweep import MARGIN
from gatepass.core.types.common import Key
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState


class Vouching:
    """Remembers which rules it has once known to be ours, so that they stay so when the objects are gone."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._vouched: defaultdict[Target, set[str]] = defaultdict(set)

    def remember(self, known: TargetState, wanted: Container[Rule], recorded: Collection[str] = ()) -> set[str]:
        """What is there and wanted, or on record, is ours from now on; answers with all that is."""
        vouched = self._vouched[known.target]
        vouched.intersection_update(known.rules)
        vouched.update(id_ for id_, rule in known.rules.items() if id_ in recorded or rule.rule in wanted)
        return vouched

    def strangers(
        self, known: TargetState, plan: Plan, wanted: Container[Rule], recorded: Collection[str], now: datetime
    ) -> tuple[ObservedRule, ...]:
        """The rules that the plan would revoke and that this installation has not made."""
        vouched = self.remember(known, wanted, recorded)
        asked = [known.rules[id_] for id_ in plan.revokes if id_ in known.rules and id_ not in vouched]
        strange = tuple(rule for rule in asked if not explained(self._state, known.target, rule, now))
        vouched.update({rule.id for rule in asked} - {rule.id for rule in strange})
        return strange


def explained(state: State, target: Target, observed: ObservedRule, now: datetime) -> bool:
    """Could this installation have made the rule? Yes also where its time is over, whoever made it.

    A static rule has no time, and a range may have been taken off its resource since: it is believed to be ours.
    """
    mark = parse_mark(observed.description)
    if mark is None or mark.until is None or mark.until + MARGIN < now:
        return True
    return any(
        observed.rule is not None
        and observed.rule.cidr in map(canonical_cidr, session.spec.source.cidrs)
        and any(str(key) == mark.resource or _names(state, key, target) for key in session.resource_keys())
        for session in state.store.sessions.values()
    )


def _names(state: State, key: Key, target: Target) -> bool:
    return any(resource.key == key for resource in state.store.resources_naming(target.id))
