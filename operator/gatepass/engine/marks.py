"""Marks that are out of date, or that somebody has removed: they are what tells our rules from others'."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from gatepass.core.errors import Failure, ProviderError, ScarceError, UnknownOutcomeError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Plan, Write
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
    in_doubt = known.doubtful | known.unheard.keys()
    return {
        held.id: held.description
        for held in questioned
        if held.rule is not None and held.rule in desired
        if held.id in in_doubt or desired[held.rule][0].until is not None
    }


async def repair(provider: Provider, owner: str, known: TargetState, plan: Plan, accesses: Sequence[Access]) -> bool:
    """Set the tags and descriptions of a plan, each by the first credentials that may. Answers whether to try again."""
    again = await _tag(provider, owner, known, plan.retags, known.in_turn(accesses, "retags"))
    return await _relabel(provider, known, plan.relabels, known.in_turn(accesses, "relabels")) or again


async def _tag(
    provider: Provider, owner: str, known: TargetState, ids: Sequence[str], accesses: Sequence[Access]
) -> bool:
    for access in accesses if ids else ():
        try:
            await provider.tag(access, known.target, ids, owner)
        except ProviderError as error:
            _refused(known, access, "retags", error)
        except UnknownOutcomeError:
            return True  # setting a mark twice does no harm
        else:
            at = asyncio.get_running_loop().time()
            known.was_called((access, "retags"), at, refused=False)
            for id_ in ids:
                known.retagged(id_, owner, at)
            return False
    return bool(ids)


async def _relabel(
    provider: Provider, known: TargetState, descriptions: Mapping[str, str], accesses: Sequence[Access]
) -> bool:
    left, again = dict(descriptions), False
    for access in accesses:
        if not left:
            break
        try:
            outcomes = await provider.relabel(access, known.target, left)
        except ProviderError as error:
            outcomes = dict.fromkeys(left, error)
        except UnknownOutcomeError:
            return True
        at = asyncio.get_running_loop().time()
        refusal: ProviderError | None = None
        for id_, outcome in outcomes.items():
            match outcome:
                case ProviderError():
                    refusal = outcome
                    continue
                case Gone():
                    known.vanished(id_, at)
                    known.stale = again = True
                case None:
                    known.relabelled(id_, left[id_], at)
            del left[id_]
        if refusal is not None:
            _refused(known, access, "relabels", refusal)
        else:
            known.was_called((access, "relabels"), at, refused=False)
    return again or bool(left)


def _refused(known: TargetState, access: Access, kind: Write, error: ProviderError) -> None:
    if isinstance(error, ScarceError):
        known.fell_short((access, kind), asyncio.get_running_loop().time())
        return
    known.failed = True
    known.was_called((access, kind), asyncio.get_running_loop().time(), refused=error.failure is not Failure.RETRY)
    known.stale = known.stale or error.failure is not Failure.RETRY
    log.warning("cannot repair marks", target=str(known.target), error=str(error))
