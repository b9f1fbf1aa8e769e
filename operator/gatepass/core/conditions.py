"""Conditions as the Kubernetes API conventions define them, set in one place."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gatepass.core.types.common import Condition


@dataclass(frozen=True, slots=True)
class Fact:
    """What a condition should say now."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


_WORDS: Final = {True: "True", False: "False", None: "Unknown"}
_LONGEST_MESSAGE: Final = 2048


def assert_conditions(
    previous: Iterable[Condition], facts: Iterable[Fact], now: datetime, generation: int
) -> tuple[Condition, ...]:
    """The conditions that hold now; one that is not stated goes, and its time moves only when its status does."""
    before = {condition.type: condition for condition in previous}
    return tuple(_condition(before.get(fact.type), fact, now, generation) for fact in facts)


def _condition(before: Condition | None, fact: Fact, now: datetime, generation: int) -> Condition:
    status, message = _WORDS[fact.status], fact.message[:_LONGEST_MESSAGE]
    since = now
    if before is not None and before.status == status:
        if (before.reason, before.message, before.observed_generation) == (fact.reason, message, generation):
            return before  # as nearly always: making one that is equal takes more time than all else here
        since = before.last_transition_time
    return Condition(
        type=fact.type,
        status=status,
        reason=fact.reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
