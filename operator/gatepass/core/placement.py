"""Which of a resource's firewall objects holds a rule: they fill in order, and a placed rule stays where it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gatepass.core.rules import Rule, Target

FAMILIES: Final = (4, 6)


@dataclass(slots=True)
class Room:
    """One firewall object while rules are placed: what it holds, and per family how many rules count in it.

    `most` is what it has said itself that it takes; how much that is otherwise is for each resource to say. `foreign`
    answers how many of a family are not ours.
    """

    holds: set[Rule]
    used: dict[int, int]
    most: Mapping[int, int]
    foreign: Callable[[int], int] = lambda _family: 0

    def beside(self, family: int, quota: int) -> int:
        """How many it takes beside those that are not ours."""
        return max(min(quota, self.most.get(family, quota)) - self.foreign(family), 0)

    def free(self, family: int, quota: int) -> int:
        """How many more it takes from somebody whose quota is this."""
        return max(min(quota, self.most.get(family, quota)) - self.used[family], 0)

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
    slips into the room that it is waiting for; one that would not fit if none of ours were there holds up nobody.
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
        needs = sum(1 for rule in missing if rule.family == family)
        open_ = [target for target in quotas if (target, family) not in closed]
        free = sum(rooms[target].free(family, quotas[target]) for target in open_)
        if needs > free:
            if needs <= sum(rooms[target].beside(family, quota) for target, quota in quotas.items()):
                closed.update((target, family) for target in quotas)
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
