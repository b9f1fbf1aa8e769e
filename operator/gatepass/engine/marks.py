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
        if held.id in known.doubtful | known.unheard.keys() or desired[held.rule][0].until is not None
    }


async def repair(provider: Provider, owner: str, known: TargetState, plan: Plan, accesses: Iterable[Access]) -> bool:
    """Set the tags and descriptions of a plan, each by the first credentials that may. Answers whether to try again."""
    retags, relabels, again = plan.retags, plan.relabels, False
    for access in accesses:
        if not (retags or relabels):
            break
        try:
            if retags:
                await provider.tag(access, known.target, retags, owner)
                at = asyncio.get_running_loop().time()
                for id_ in retags:
                    known.retagged(id_, owner, at)
                retags = ()
            outcomes = await provider.relabel(access, known.target, relabels) if relabels else {}
        except ProviderError as error:
            _refused(known, error)
            continue
        except UnknownOutcomeError:
            return True  # setting a mark twice does no harm
        refusals = {id_: outcome for id_, outcome in outcomes.items() if isinstance(outcome, ProviderError)}
        for refusal in list(refusals.values())[:1]:
            _refused(known, refusal)
        at = asyncio.get_running_loop().time()
        for id_, outcome in outcomes.items():
            if outcome is None:
                known.relabelled(id_, relabels[id_], at)
            elif isinstance(outcome, Gone):
                known.vanished(id_, at)
                known.stale = again = True
        relabels = {id_: relabels[id_] for id_ in refusals}
    return again or bool(retags or relabels)


def _refused(known: TargetState, error: ProviderError) -> None:
    known.stale = known.stale or error.failure is not Failure.RETRY
    log.warning("cannot repair marks", target=str(known.target), error=str(error))
