"""Which of a resource's firewall objects holds a rule: they fill in order, and a placed rule stays where it is."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final

from gatepass.core.rules import Rule, Target

FAMILIES: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class Lasting:
    """The rules of a firewall object that no end of a session takes away, and what they count for, per family."""

    rules: Set[Rule]
    weight: Mapping[int, int]


@dataclass(slots=True)
class Room:
    """One firewall object while rules are placed: what it holds, and per family how many rules count in it.

    `most` is what it has said itself that it takes; how much that is otherwise is for each resource to say. What lasts
    is only asked for where somebody has to wait.
    """

    holds: set[Rule]
    used: dict[int, int]
    most: Mapping[int, int]
    lasting: Callable[[], Lasting]

    def beside(self, family: int, quota: int) -> int:
        """How many it takes beside those that last."""
        return max(self._limit(family, quota) - self.lasting().weight[family], 0)

    def free(self, family: int, quota: int) -> int:
        """How many more it takes from somebody whose quota is this."""
        return max(self._limit(family, quota) - self.used[family], 0)

    def _limit(self, family: int, quota: int) -> int:
        return min(quota, self.most.get(family, quota))

    def take(self, rule: Rule) -> None:
        """Put a rule on its way into it."""
        self.holds.add(rule)
        self.used[rule.family] += 1


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a claim waits: rules of a family that it needs, how many there is room for, and how many there ever is."""

    needs: int
    free: int
    limit: int
    family: int

    @property
    def hopeless(self) -> bool:
        """Would it not fit if nobody else were there?"""
        return self.needs > self.limit

    def __str__(self) -> str:
        if self.hopeless:
            return f"needs {self.needs} rules, and its firewalls take {self.limit} at most (IPv{self.family})"
        return f"needs {self.needs} {'rule' if self.needs == 1 else 'rules'}, {self.free} free (IPv{self.family})"


def place(
    rules: frozenset[Rule],
    quotas: Mapping[Target, int],
    rooms: Mapping[Target, Room],
    closed: set[tuple[Target, int]],
    before: Mapping[Rule, Target],
) -> dict[Rule, Target] | Shortage:
    """Place all the rules of one claim, or none of them, in the targets of `quotas`, in their order.

    A rule that is there already, whoever made it, costs nothing; where several have it, it stays where it was `before`.
    What is placed is taken from `rooms`. A claim that has to wait puts its targets into `closed`, so that no later one
    slips into the room that it is waiting for. One that would not fit beside what lasts holds up nobody.
    """
    placed: dict[Rule, Target] = {}
    missing: list[Rule] = []
    for rule in rules:
        holders = [target for target in quotas if rule in rooms[target].holds]
        if holders:
            placed[rule] = before[rule] if before.get(rule) in holders else holders[0]
        else:
            missing.append(rule)
    for family in FAMILIES:
        needs = _count(missing, family)
        open_ = [target for target in quotas if (target, family) not in closed]
        free = sum(rooms[target].free(family, quotas[target]) for target in open_)
        if needs > free:
            waits_for = {(target, rule.family) for target in quotas for rule in missing}
            if not waits_for <= closed and _would_fit(rules, quotas, rooms):
                closed |= waits_for
            return Shortage(needs, free, sum(quotas.values()), family)
    for rule in sorted(missing):
        target = next(
            target
            for target in quotas
            if rooms[target].free(rule.family, quotas[target]) > 0 and (target, rule.family) not in closed
        )
        rooms[target].take(rule)
        placed[rule] = target
    return placed


def _would_fit(rules: frozenset[Rule], quotas: Mapping[Target, int], rooms: Mapping[Target, Room]) -> bool:
    """Would a claim fit, in every family, if no other session were there?"""
    lasting = {rule for target in quotas for rule in rooms[target].lasting().rules}
    return all(
        _count(rules - lasting, family) <= sum(rooms[target].beside(family, quota) for target, quota in quotas.items())
        for family in FAMILIES
    )


def _count(rules: Iterable[Rule], family: int) -> int:
    return sum(1 for rule in rules if rule.family == family)
