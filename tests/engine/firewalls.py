"""Firewalls in memory that misbehave on request."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import (
    Access,
    GrantOutcome,
    NewRule,
    RelabelOutcome,
    RevokeOutcome,
    Still,
    TargetFacts,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target
from gatepass.providers.memory import MemoryFirewalls


class SlowFirewalls(MemoryFirewalls):
    """Reads of some objects take their time, and some credentials are refused for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: dict[str, float] = {}
        self.refused: set[str] = set()
        self.unreadable: set[str] = set()
        self.missing: Collection[tuple[str, str] | None] = ()
        self.lose_answers = False
        self.blind = False
        self.ghosts: list[ObservedRule] = []
        self.read_refused = False
        self.sealed: set[str] = set()
        self.revoke_refused = False
        self.relabel_refused = False
        self.all_refused = False
        self.bolted: set[str] = set()
        self.barred: dict[str, Failure] = {}
        self.grant_refused: set[str] = set()
        self.refused_calls = 0
        self.slow_find = 0.0
        self.slow_inspect = 0.0
        self.slow_answer = 0.0

    def make_scarce(self, scarce: Target) -> None:
        """From now on calls are scarce: what ends in this firewall waits three seconds."""
        self.closing_delay = lambda target: 3.0 if target == scarce else 0.0  # type: ignore[method-assign]
        self.delay = self.closing_delay  # type: ignore[method-assign]
        self.patience = lambda _target: 3.0  # type: ignore[method-assign]

    async def identify(self, access: Access) -> str:
        if access.credentials.secret in self.missing:
            raise ProviderError(Failure.FORBIDDEN, "SecretNotFound", "there is no such Secret")
        if access.credentials.secret and access.credentials.secret[1] in self.refused:
            raise ProviderError(Failure.RETRY, "NoAnswer", "sts does not answer")
        return await super().identify(access)

    def _refuse(self, refused: bool) -> None:
        if refused:
            self.refused_calls += 1
            raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "the call was refused")

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        self._refuse(self.all_refused)
        await asyncio.sleep(self.slow_inspect)
        return await super().inspect(access, ids)

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        await asyncio.sleep(self.slow.get(target.id, 0.0))
        if target.id in self.unreadable:
            raise ProviderError(Failure.RETRY, "NoAnswer", "ec2 does not answer")
        self._refuse(self.all_refused or self.read_refused or target.id in self.sealed)
        return self.ghosts if self.blind else [*await super().observe(access, target), *self.ghosts]

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        found = [] if self.blind else await super().find(access, owner)
        await asyncio.sleep(self.slow_find)
        return found

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        if target.id in self.grant_refused:
            raise ProviderError(Failure.RETRY, "RequestLimitExceeded", "the call was refused")
        outcomes = await super().grant(access, target, rules, stamp, still)
        await asyncio.sleep(self.slow_answer)
        return dict.fromkeys(outcomes, Unknown()) if self.lose_answers else outcomes

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        self._refuse(self.revoke_refused or self.all_refused or target.id in self.bolted)
        secret = access.credentials.secret
        if secret and (failure := self.barred.get(secret[1])):
            raise ProviderError(failure, failure.name, "the call failed with this Secret")
        return await super().revoke(access, target, ids, doubtful=doubtful)

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        self._refuse(self.relabel_refused or self.all_refused)
        return await super().relabel(access, target, descriptions)


class MemorySwitches:
    """Dead man's switches in memory: what each is for, and how often each method was called.

    `denied` are the calls, or the rules, that are refused with `failure`; a listing does not show the `unlisted`.
    """

    def __init__(self) -> None:
        self.held: dict[str, datetime] = {}
        self.calls: list[str] = []
        self.slow = 0.0
        self.refused = False
        self.denied: set[str] = set()
        self.failure = Failure.FORBIDDEN
        self.unlisted: set[str] = set()
        self.lose_answers = False

    async def _called(self, what: str, id_: str = "") -> None:
        self.calls.append(what)
        await asyncio.sleep(self.slow)
        if self.refused or {what, id_} & self.denied:
            raise ProviderError(self.failure, "AccessDeniedException", f"scheduler refuses to {what}")

    def covers(self, target: Target) -> bool:
        return target.region == "eu-central-1"

    async def armed(self, access: Access) -> Collection[str]:
        await self._called("list")
        return self.held.keys() - self.unlisted

    async def arm(self, access: Access, target: Target, id_: str, until: datetime, *, again: bool) -> bool:
        await self._called("move" if again else "arm", id_)
        if id_ in self.held and not again:
            return False
        self.held[id_] = until
        if self.lose_answers:
            raise UnknownOutcomeError("scheduler: the answer was lost")
        return True

    async def disarm(self, access: Access, target: Target, id_: str) -> None:
        await self._called("disarm", id_)
        self.held.pop(id_, None)
