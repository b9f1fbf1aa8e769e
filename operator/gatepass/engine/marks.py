"""Marks that are out of date, or that somebody has removed: they are what tells our rules from others'."""

import asyncio
from collections.abc import Iterable

import structlog

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan
from gatepass.core.ports import Access, Gone, Provider
from gatepass.core.rules import ObservedRule, Rule
from gatepass.engine.demand import Wishes
from gatepass.engine.targets import TargetState

log = structlog.get_logger(__name__)


def put(rule: Rule, id_: str, description: str, owner: str, maker: str | None = None) -> ObservedRule:
    """A rule of ours as a read shows it."""
    weight = (1, 0) if rule.family == FAMILIES[0] else (0, 1)
    return ObservedRule(id_, rule, description, owner, weight, maker)


def proofs(known: TargetState, desired: Wishes) -> dict[str, str]:
    """What somebody rests on has to be there: its label is set again, which fails where there is no rule."""
    questioned = (known.rules[id_] for id_ in known.unproven | known.doubtful)
    return {
        held.id: held.description
        for held in questioned
        if held.rule is not None and held.rule in desired
        if held.id in known.doubtful or desired[held.rule][0].until is not None
    }


async def repair(provider: Provider, owner: str, known: TargetState, plan: Plan, accesses: Iterable[Access]) -> bool:
    """Set the tags and descriptions of a plan by the first credentials that may. Answers whether to try again."""
    if not (plan.retags or plan.relabels):
        return False
    for access in accesses:
        try:
            return await _repair_by(access, provider, owner, known, plan)
        except ProviderError as error:
            known.stale = known.stale or error.failure is not Failure.RETRY
            log.warning("cannot repair marks", target=str(known.target), error=str(error))
        except UnknownOutcomeError:
            return True  # setting a mark twice does no harm
    return True


async def _repair_by(access: Access, provider: Provider, owner: str, known: TargetState, plan: Plan) -> bool:
    again = False
    if plan.retags:
        await provider.tag(access, known.target, plan.retags, owner)
        at = asyncio.get_running_loop().time()
        for id_ in plan.retags:
            known.retagged(id_, owner, at)
    if plan.relabels:
        outcomes = await provider.relabel(access, known.target, plan.relabels)
        at = asyncio.get_running_loop().time()
        for id_, error in outcomes.items():
            if error is None:
                known.relabelled(id_, plan.relabels[id_], at)
                continue
            known.stale = again = True
            if isinstance(error, Gone):
                known.vanished(id_, at)
    return again
