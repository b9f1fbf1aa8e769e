"""Conditions as the Kubernetes API conventions define them, set in one place."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gatepass.core.types.common import Condition


@dataclass(frozen=True, slots=True)
class Claim:
    """What a condition should say now."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


_WORDS: Final = {True: "True", False: "False", None: "Unknown"}
_LONGEST_MESSAGE: Final = 2048


def assert_conditions(
    previous: Iterable[Condition], claims: Iterable[Claim], now: datetime, generation: int
) -> tuple[Condition, ...]:
    """The conditions that hold now; one that is not claimed goes, and its time moves only when its status does."""
    before = {condition.type: condition for condition in previous}
    return tuple(_condition(before.get(claim.type), claim, now, generation) for claim in claims)


def _condition(before: Condition | None, claim: Claim, now: datetime, generation: int) -> Condition:
    status = _WORDS[claim.status]
    since = before.last_transition_time if before is not None and before.status == status else now
    return Condition(
        type=claim.type,
        status=status,
        reason=claim.reason,
        message=claim.message[:_LONGEST_MESSAGE],
        last_transition_time=since,
        observed_generation=generation,
    )
