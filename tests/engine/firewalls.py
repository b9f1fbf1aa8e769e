"""Firewalls in memory that misbehave on request."""

import asyncio
from collections.abc import Mapping, Sequence

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, GrantOutcome, NewRule, RevokeOutcome, Unknown
from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.providers.memory import MemoryFirewalls


class SlowFirewalls(MemoryFirewalls):
    """Reads of some objects take their time, and some credentials are refused for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: dict[str, float] = {}
        self.refused: set[str] = set()
        self.lose_answers = False
        self.blind = False
        self.revoke_refused = False
        self.refused_calls = 0
        self.slow_find = 0.0

    async def identify(self, access: Access) -> str:
        if access.credentials.secret and access.credentials.secret[1] in self.refused:
            raise ProviderError(Failure.RETRY, "NoAnswer", "sts does not answer")
        return await super().identify(access)

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        await asyncio.sleep(self.slow.get(target.id, 0.0))
        return [] if self.blind else await super().observe(access, target)

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        found = await super().find(access, owner)
        await asyncio.sleep(self.slow_find)
        return found

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], owner: str
    ) -> Mapping[Rule, GrantOutcome]:
        outcomes = await super().grant(access, target, rules, owner)
        return dict.fromkeys(outcomes, Unknown()) if self.lose_answers else outcomes

    async def revoke(self, access: Access, target: Target, ids: Sequence[str]) -> Mapping[str, RevokeOutcome]:
        if self.revoke_refused:
            self.refused_calls += 1
            raise ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "the call was refused")
        return await super().revoke(access, target, ids)
