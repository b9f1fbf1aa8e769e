"""Firewalls in memory: the `Provider` contract without a cloud, a thread or a clock, for simulations."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gatepass.core.errors import TARGET_NOT_FOUND, Failure, ProviderError
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import Write
from gatepass.core.ports import (
    Access,
    Duplicate,
    Full,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    RelabelOutcome,
    Revoked,
    RevokeOutcome,
    Still,
    TargetFacts,
)
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target


@dataclass(slots=True)
class _Firewall:
    limit: int
    rules: dict[str, ObservedRule] = field(default_factory=dict)

    def used(self, family: int) -> int:
        return sum(rule.weight[FAMILIES.index(family)] for rule in self.rules.values())


class MemoryFirewalls:
    """Firewall objects by account, Region and id; `accounts` tells whose credentials are whose."""

    def __init__(self, default_account: str = "123456789012") -> None:
        self._default_account = default_account
        self._firewalls: dict[tuple[str, str, str], _Firewall] = {}
        self._ids = itertools.count(1)
        self.accounts: dict[Access, str] = {}
        self.calls: defaultdict[str, int] = defaultdict(int)

    def create(self, id_: str, *, region: str = "eu-central-1", account: str | None = None, limit: int = 60) -> Target:
        """A new firewall object that takes `limit` rules per IP family."""
        target = Target("aws", account or self._default_account, region, id_)
        self._firewalls[target.account, region, id_] = _Firewall(limit)
        return target

    def delete(self, target: Target) -> None:
        """The object goes, and its rules with it."""
        del self._firewalls[target.account, target.region, target.id]

    def rules(self, target: Target) -> dict[str, ObservedRule]:
        """What the object really holds."""
        return self._firewall(target).rules

    def put(
        self,
        target: Target,
        rule: Rule,
        description: str = "",
        owner: str | None = None,
        maker: str | None = None,
    ) -> str:
        """Somebody puts a rule by hand; answers its id."""
        id_ = f"sgr-{next(self._ids):017x}"
        self._firewall(target).rules[id_] = ObservedRule(id_, rule, description, owner, rule.weight, maker)
        return id_

    def _firewall(self, target: Target) -> _Firewall:
        try:
            return self._firewalls[target.account, target.region, target.id]
        except KeyError:
            raise ProviderError(Failure.NOT_FOUND, TARGET_NOT_FOUND, f"{target.id} does not exist") from None

    def _reach(self, access: Access, target: Target) -> _Firewall:
        if self.accounts.get(access, self._default_account) != target.account:
            raise ProviderError(Failure.NOT_FOUND, TARGET_NOT_FOUND, f"{target.id} does not exist")
        return self._firewall(target)

    async def identify(self, access: Access) -> str:
        """The account behind the credentials."""
        self.calls["identify"] += 1
        return self.accounts.get(access, self._default_account)

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        """The facts of each object."""
        self.calls["inspect"] += 1
        account = self.accounts.get(access, self._default_account)
        found: dict[str, TargetFacts | ProviderError] = {}
        for id_ in ids:
            firewall = self._firewalls.get((account, access.region, id_))
            found[id_] = (
                TargetFacts(id_, None, firewall.limit)
                if firewall is not None
                else ProviderError(Failure.NOT_FOUND, TARGET_NOT_FOUND, f"{id_} does not exist")
            )
        return found

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        """Every rule."""
        self.calls["observe"] += 1
        return list(self._reach(access, target).rules.values())

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        """Every rule with the owner's tag."""
        self.calls["find"] += 1
        account = self.accounts.get(access, self._default_account)
        return [
            (Target("aws", account, access.region, id_), rule)
            for (whose, region, id_), firewall in self._firewalls.items()
            if (whose, region) == (account, access.region)
            for rule in firewall.rules.values()
            if rule.owner is not None and owner in (None, rule.owner)
        ]

    async def grant(
        self,
        access: Access,
        target: Target,
        rules: Sequence[NewRule],
        stamp: Stamp,
        still: Still = lambda _rule: True,
    ) -> Mapping[Rule, GrantOutcome]:
        """Put the rules."""
        self.calls["grant"] += 1
        firewall = self._reach(access, target)
        outcomes: dict[Rule, GrantOutcome] = {}
        for new in [new for new in rules if still(new.rule)]:
            if any(held.rule == new.rule for held in firewall.rules.values()):
                outcomes[new.rule] = Duplicate()
            elif firewall.used(new.rule.family) >= firewall.limit:
                outcomes[new.rule] = Full()
            else:
                outcomes[new.rule] = Granted(self.put(target, new.rule, new.description, *stamp))
        return outcomes

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        """Remove the rules: calls are always plenty."""
        del doubtful
        self.calls["revoke"] += 1
        firewall = self._reach(access, target)
        return {id_: Gone() if firewall.rules.pop(id_, None) is None else Revoked() for id_ in ids}

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        """Set the descriptions."""
        self.calls["relabel"] += 1
        firewall = self._reach(access, target)
        outcomes: dict[str, RelabelOutcome] = {}
        for id_, description in descriptions.items():
            held = firewall.rules.get(id_)
            if held is None:
                outcomes[id_] = Gone()
            else:
                firewall.rules[id_] = replace(held, description=description)
                outcomes[id_] = None
        return outcomes

    async def tag(self, access: Access, target: Target, ids: Sequence[str], owner: str) -> Collection[str]:
        """Put the owner's tag."""
        self.calls["tag"] += 1
        firewall = self._reach(access, target)
        for id_ in ids:
            if id_ in firewall.rules:
                firewall.rules[id_] = replace(firewall.rules[id_], owner=owner)
        return ids

    def delay(self, target: Target) -> float:
        """Calls are always plenty."""
        del target
        return 0.0

    def closing_delay(self, target: Target) -> float:
        """Calls are always plenty."""
        del target
        return 0.0

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        """Calls are always plenty."""
        del target, doubtful
        return dict.fromkeys(kinds, 0.0)

    def patience(self, target: Target) -> float:
        """Nobody waits."""
        del target
        return 0.0
