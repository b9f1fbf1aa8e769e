"""What goes wrong on request: each fault is data, and a profile is a list of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Fault(BaseModel):
    """One thing that goes wrong with the calls that it matches.

    `latency` waits `seconds` before the call; `error` answers `status`, `code` and `message`; `reset` cuts the
    connection; `deny` answers as IAM would; `lag` makes DescribeSecurityGroupRules show the state of `seconds` ago.
    `error` and `reset` strike `before` the effect or `after` it. Every field of the call that is given must match.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["latency", "error", "reset", "deny", "lag"]
    action: str = Field("*", description="glob over `Action` and `service:Action`")
    account: str | None = None
    region: str | None = None
    access_key: str | None = None
    group: str | None = Field(None, description="the security group id that the call names")
    role: str | None = Field(
        None, description="glob over the role ARN of an AssumeRole, or of the assumed role that calls"
    )
    when: Literal["before", "after"] = "before"
    seconds: float = Field(0.0, ge=0)
    status: int = 500
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    every: int = Field(1, ge=1, description="strikes the last of each so many matching calls")
    times: int | None = Field(None, ge=1, description="strikes so often at most")


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


class Faults:
    """The faults in force and how often each has matched and struck."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._matched: list[int] = []
        self._struck: list[int] = []

    def replace(self, faults: Sequence[Fault]) -> None:
        """Put these in force instead of all others; their counts start at 0."""
        self._faults = list(faults)
        self._matched = [0] * len(faults)
        self._struck = [0] * len(faults)

    def strike(self, facts: Facts) -> list[Fault]:
        """The faults that strike this call; counts it."""
        struck = []
        for index, fault in enumerate(self._faults):
            if not _matches(fault, facts):
                continue
            self._matched[index] += 1
            due = self._matched[index] % fault.every == 0
            if due and (fault.times is None or self._struck[index] < fault.times):
                self._struck[index] += 1
                struck.append(fault)
        return struck

    def denied(self, facts: Facts) -> bool:
        """Whether IAM would deny this; counts nothing, for permissions that a call needs beside its own."""
        return any(fault.kind == "deny" and _matches(fault, facts) for fault in self._faults)

    def lagging(self) -> bool:
        """Whether any read may lag, so that history has to be kept."""
        return any(fault.kind == "lag" for fault in self._faults)

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


# AWS's throttles are always on; these come on top. The numbers are coprime, so that the faults do not fall together.
PROFILES: Mapping[str, tuple[Fault, ...]] = {
    "none": (),
    "slow": (Fault(kind="latency", action="ec2:*", seconds=0.25),),
    "errors": (
        Fault(kind="error", action="ec2:*", every=5),
        Fault(kind="error", action="ec2:*", every=7, when="after", status=503, code="Unavailable"),
    ),
    "resets": (
        Fault(kind="reset", action="ec2:*", every=5),
        Fault(kind="reset", action="ec2:*", every=7, when="after"),
    ),
    "lag": (Fault(kind="lag", seconds=3.0),),
}
