"""Marks that are out of date, or that somebody has removed: they are what tells our rules from others'."""

import structlog

from gatepass.core.rules import ObservedRule, Rule
from gatepass.engine.demand import Wishes
from gatepass.engine.targets import TargetState

log = structlog.get_logger(__name__)


def put(rule: Rule, id_: str, description: str, owner: str, maker: str | None = None) -> ObservedRule:
    """A rule of ours as a read shows it."""
    return ObservedRule(id_, rule, description, owner, rule.weight, maker)


def proofs(known: TargetState, desired: Wishes) -> dict[str, str]:
    """What somebody rests on has to be there: its label is set again, which fails where there is no rule."""
    questioned = (known.rules[id_] for id_ in known.unproven | known.doubtful)
    in_doubt = known.doubtful | known.unheard.keys()
    return {
        held.id: held.description
        for held in questioned
        if held.rule is not None and held.rule in desired
        if held.id in in_doubt or desired[held.rule][0].until is not None
    }
