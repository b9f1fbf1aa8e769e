"""Which of a resource's firewall objects holds a rule: they fill in order, and a placed rule stays where it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gatepass.core.rules import Rule, Target

FAMILIES: Final = (4, 6)


@dataclass(slots=True)
class Room:
    """One firewall object while rules are placed: what it holds, and per family how many more it takes, and at most."""

    holds: set[Rule]
    free: dict[int, int]
    limit: int

    def take(self, rule: Rule) -> None:
        """Put a rule on its way into it."""
        self.holds.add(rule)
        self.free[rule.family] -= 1


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
    rules: frozenset[Rule], targets: Sequence[Target], rooms: Mapping[Target, Room], closed: set[tuple[Target, int]]
) -> dict[Rule, Target] | Shortage:
    """Place all the rules of one claim, or none of them.

    A rule that is there already, whoever made it, costs nothing. What is placed is taken from `rooms`. A claim that has
    to wait puts its targets into `closed`, so that no later one slips into the room that it is waiting for; one that
    would not fit if they were empty holds up nobody.
    """
    placed: dict[Rule, Target] = {}
    missing: list[Rule] = []
    for rule in rules:
        holder = next((target for target in targets if rule in rooms[target].holds), None)
        if holder is None:
            missing.append(rule)
        else:
            placed[rule] = holder
    for family in FAMILIES:
        needs = sum(1 for rule in missing if rule.family == family)
        free = sum(max(rooms[target].free[family], 0) for target in targets if (target, family) not in closed)
        if needs > free:
            shortage = Shortage(needs, free, sum(rooms[target].limit for target in targets), family)
            if not shortage.hopeless:
                closed.update((target, family) for target in targets)
            return shortage
    for rule in sorted(missing):
        target = next(
            target for target in targets if rooms[target].free[rule.family] > 0 and (target, rule.family) not in closed
        )
        rooms[target].take(rule)
        placed[rule] = target
    return placed
