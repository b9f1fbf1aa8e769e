"""Calls for many members at once, of which AWS takes all or none."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, TypeVar

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.providers.aws_pacing import ScarceError

M = TypeVar("M", bound=Hashable)
O = TypeVar("O")  # noqa: E741  M for member, O for outcome

_PER_CALL: Final = 1000
_PATIENCE: Final = 20
"""Refused calls per batch; more of them cost others more than the members are worth, and the next pass goes on."""
_A_MEMBERS_FAULT: Final = (
    "InvalidParameter",
    "InvalidPermission.",
    "InvalidSecurityGroupRuleId.",
    "RulesPerSecurityGroupLimitExceeded",
)


async def each(
    members: Sequence[M],
    call: Callable[[list[M]], Awaitable[dict[M, O]]],
    *,
    names: Callable[[ProviderError, M], bool],
    refused: Callable[[ProviderError, M], O],
    lost: O,
) -> dict[M, O]:
    """What became of each member.

    A call that is refused for a member's sake is made again without the member that its error `names`, in halves
    when it names none. `refused` turns an error into the outcome of a member, `lost` stands for an answer that never
    came. Whom no call was left for is missing.
    """
    outcomes: dict[M, O] = {}
    batches = [list(members[start : start + _PER_CALL]) for start in range(0, len(members), _PER_CALL)]
    patience = _PATIENCE
    while batches:
        batch = batches.pop(0)
        try:
            outcomes |= await call(batch)
        except ScarceError:
            break
        except UnknownOutcomeError:
            outcomes |= dict.fromkeys(batch, lost)
        except ProviderError as error:
            patience -= 1
            if not error.reason.startswith(_A_MEMBERS_FAULT):
                return outcomes | _all_refused([batch, *batches], refused, error)
            wrong = batch if len(batch) == 1 else [member for member in batch if names(error, member)]
            outcomes |= {member: refused(error, member) for member in wrong}
            rest = [member for member in batch if member not in outcomes]
            middle = len(rest) if wrong else len(rest) // 2
            batches[:0] = [part for part in (rest[:middle], rest[middle:]) if part]
            if not patience:
                late = ProviderError(Failure.RETRY, "TooManyRefusals", f"put off after {_PATIENCE} refusals: {error}")
                return outcomes | _all_refused(batches, refused, late)
    return outcomes


def _all_refused(
    batches: Sequence[Sequence[M]], refused: Callable[[ProviderError, M], O], error: ProviderError
) -> dict[M, O]:
    return {member: refused(error, member) for batch in batches for member in batch}
