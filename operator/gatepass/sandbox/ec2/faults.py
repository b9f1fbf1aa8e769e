"""What goes wrong on request: each fault is data, drawn from a seed, so that the same calls meet the same faults."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Fault(BaseModel):
    """One thing that goes wrong with the calls that it matches.

    `latency` waits `seconds`; `error` answers `status`, `code` and `message`; `reset` cuts the connection; `deny`
    answers as IAM would, `expired` as AWS does to credentials that have run out; `lag` makes DescribeSecurityGroupRules
    show the state of `seconds` ago; `quota` allows `rules` rules per family; `vanish` deletes the group that the call
    names; `meddle` has another tool edit that group. `latency`, `error`, `reset`, `vanish` and `meddle` strike `before`
    the effect, `after` it, or at `either` time, as is drawn. Every field of the call that is given must match.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["latency", "error", "reset", "deny", "expired", "lag", "quota", "vanish", "meddle"]
    action: str = Field("*", description="glob over `Action` and `service:Action`")
    account: str | None = None
    region: str | None = None
    access_key: str | None = None
    group: str | None = Field(None, description="the security group id that the call names")
    role: str | None = Field(
        None, description="glob over the role ARN of an AssumeRole, or of the assumed role that calls"
    )
    when: Literal["before", "after", "either"] = "before"
    seconds: float = Field(0.0, ge=0)
    up_to: float | None = Field(None, description="draws the seconds from `seconds` to this, evenly by magnitude")
    status: int = 500
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    rules: int = Field(0, ge=0)
    every: int = Field(1, ge=1, description="strikes the last of each so many matching calls")
    chance: float = Field(1.0, gt=0, le=1, description="strikes so many of those")
    times: int | None = Field(None, ge=1, description="strikes so often at most")
    of_every: float | None = Field(None, gt=0, description="in force only at the end of each so many seconds")
    lasts: float = Field(0.0, ge=0, description="the seconds that it is in force at that end")

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.up_to is not None and not 0 < self.seconds <= self.up_to:
            raise ValueError(f"up_to {self.up_to} needs seconds above 0 and not above it, not {self.seconds}")
        return self


@dataclass(frozen=True)
class Facts:
    """What a fault can match on."""

    service: str
    action: str
    account: str
    region: str
    access_key: str
    groups: Sequence[str]
    role: str | None


@dataclass(frozen=True)
class Strike:
    """A fault that strikes one call, the seconds that were drawn for it, and the lot for whatever else is drawn."""

    fault: Fault
    seconds: float
    lot: random.Random

    def __str__(self) -> str:
        return f"{self.fault.kind}-{self.fault.when}"


class Faults:
    """The faults in force and how often each has matched and struck; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.replace(())

    def replace(self, faults: Sequence[Fault], seed: int = 0) -> None:
        """Put these in force instead of all others, their counts at 0; `seed` decides everything that is drawn."""
        self._faults = list(faults)
        self._seed = seed
        self._since = self._clock()
        self._matched = [0] * len(faults)
        self._struck = [0] * len(faults)

    def strike(self, facts: Facts) -> list[Strike]:
        """What strikes this call; counts it."""
        struck = []
        for index, fault in enumerate(self._faults):
            if not _matches(fault, facts) or not self._in_force(fault):
                continue
            self._matched[index] += 1
            # Each call draws for itself: how often others drew before it does not change what it meets.
            lot = random.Random(f"{self._seed}/{index}/{self._matched[index]}")  # noqa: S311
            due = self._matched[index] % fault.every == 0 and lot.random() < fault.chance
            if due and (fault.times is None or self._struck[index] < fault.times):
                self._struck[index] += 1
                struck.append(Strike(_timed(fault, lot), _seconds(fault, lot), lot))
        return struck

    def denied(self, facts: Facts) -> bool:
        """Whether IAM would deny this; counts nothing, for permissions that a call needs beside its own."""
        return any(fault.kind == "deny" and _matches(fault, facts) and self._in_force(fault) for fault in self._faults)

    def lagging(self) -> bool:
        """Whether any read may lag, so that history has to be kept."""
        return any(fault.kind == "lag" for fault in self._faults)

    def quota(self, account: str, region: str) -> int | None:
        """The rules per family that a fault allows now; None when no fault does."""
        return min(
            (
                fault.rules
                for fault in self._faults
                if fault.kind == "quota"
                and fault.account in (None, account)
                and fault.region in (None, region)
                and self._in_force(fault)
            ),
            default=None,
        )

    def _in_force(self, fault: Fault) -> bool:
        if fault.of_every is None:
            return True
        return (self._clock() - self._since) % fault.of_every >= fault.of_every - fault.lasts

    def report(self) -> list[dict[str, object]]:
        """Each fault with its counts, for people and tests."""
        return [
            {**fault.model_dump(exclude_defaults=True), "matched": matched, "struck": struck}
            for fault, matched, struck in zip(self._faults, self._matched, self._struck, strict=True)
        ]


def _matches(fault: Fault, facts: Facts) -> bool:
    named = fnmatchcase(facts.action, fault.action) or fnmatchcase(f"{facts.service}:{facts.action}", fault.action)
    exact = all(
        wanted is None or wanted == given
        for wanted, given in (
            (fault.account, facts.account),
            (fault.region, facts.region),
            (fault.access_key, facts.access_key),
        )
    )
    grouped = fault.group is None or fault.group in facts.groups
    return named and exact and grouped and (fault.role is None or fnmatchcase(facts.role or "", fault.role))


def _timed(fault: Fault, lot: random.Random) -> Fault:
    return fault.model_copy(update={"when": lot.choice(("before", "after"))}) if fault.when == "either" else fault


def _seconds(fault: Fault, lot: random.Random) -> float:
    if fault.up_to is None:
        return fault.seconds
    return fault.seconds * float((fault.up_to / fault.seconds) ** lot.random())
