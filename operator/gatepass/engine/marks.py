"""Marks that are out of date, or that somebody has removed: they are what tells our rules from others'."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan
from gatepass.core.ports import Access, Gone, Provider
from gatepass.core.rules import ObservedRule, Rule
from gatepass.engine.demand import Wishes
from gatepass.engine.targets import TargetState
from gatepass.engine.tries import Call, Left

log = structlog.get_logger(__name__)


def put(rule: Rule, id_: str, description: str, owner: str, maker: str | None = None) -> ObservedRule:
    """A rule of ours as a read shows it."""
    weight = (1, 0) if rule.family == FAMILIES[0] else (0, 1)
    return ObservedRule(id_, rule, description, owner, weight, maker)


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


async def repair(provider: Provider, owner: str, known: TargetState, plan: Plan, accesses: Sequence[Access]) -> Left:
    """Set the tags and descriptions of a plan, each by the first credentials that may."""
    left = await _tag(provider, owner, known, plan.retags, known.tries.in_turn(accesses, "retags"))
    return left | await _relabel(provider, known, plan.relabels, known.tries.in_turn(accesses, "relabels"))


async def _tag(
    provider: Provider, owner: str, known: TargetState, ids: Sequence[str], accesses: Sequence[Access]
) -> Left:
    for access in accesses if ids else ():
        call: Call = access, "retags"
        try:
            tagged = await provider.tag(access, known.target, ids, owner)
        except (ProviderError, UnknownOutcomeError) as error:
            _failed(known, call, error)
            continue
        if not tagged:
            return known.tries.not_made(call)
        at = asyncio.get_running_loop().time()
        known.tries.made(call, at)
        for id_ in tagged:
            known.retagged(id_, owner, at)
        return Left.NOTHING
    return Left.FAILED if ids else Left.NOTHING


async def _relabel(
    provider: Provider, known: TargetState, descriptions: Mapping[str, str], accesses: Sequence[Access]
) -> Left:
    undone, left = Left.NOTHING, dict(descriptions)
    for access in accesses if left else ():
        call: Call = access, "relabels"
        try:
            outcomes = await provider.relabel(access, known.target, left)
        except (ProviderError, UnknownOutcomeError) as error:
            _failed(known, call, error)
            continue
        if outcomes.keys() < left.keys():
            undone |= known.tries.not_made(call)
        at = asyncio.get_running_loop().time()
        for id_, outcome in outcomes.items():
            match outcome:
                case Gone():
                    known.vanished(id_, at)
                    known.stale, undone = True, undone | Left.FAILED
                case None:
                    known.relabelled(id_, left[id_], at)
        refusals = {id_: outcome for id_, outcome in outcomes.items() if isinstance(outcome, ProviderError)}
        if refusals:
            _failed(known, call, next(iter(refusals.values())))
        elif outcomes:
            known.tries.made(call, at)
        left = {id_: left[id_] for id_ in refusals}
        if not left:
            return undone
    return undone | (Left.FAILED if left else Left.NOTHING)


def _failed(known: TargetState, call: Call, error: ProviderError | UnknownOutcomeError) -> None:
    if isinstance(error, UnknownOutcomeError):  # setting a mark twice does no harm
        error = ProviderError(Failure.RETRY, "NoAnswer", "the answer to a mark was lost")
    known.stale = known.stale or error.failure is not Failure.RETRY
    if known.tries.made(call, asyncio.get_running_loop().time(), error):
        log.warning("cannot repair marks", target=str(known.target), error=str(error))
