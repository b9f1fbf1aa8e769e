"""Rules fill groups in order, all of a claim or none, and nobody overtakes."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.placement import FAMILIES, Lasting, Room, Shortage, place
from gatepass.core.rules import Rule, Target

A, B = (Target("aws", "1", "eu-central-1", name) for name in ("sg-a", "sg-b"))

ONE, BOTH = {A: 60}, {A: 60, B: 60}


def rule(number: int, family: int = 4) -> Rule:
    return Rule(f"203.0.113.{number}/32" if family == 4 else f"2001:db8::{number}/128", "tcp", 5432, 5432)


def room(free4: int, free6: int = 60, holds: tuple[Rule, ...] = ()) -> Room:
    return Room(set(holds), {4: 60 - free4, 6: 60 - free6}, {}, lasting())


def lasting(*rules: Rule) -> Callable[[], Lasting]:
    """What nobody's end takes away."""
    weight = {family: sum(each.family == family for each in rules) for family in FAMILIES}
    return lambda: Lasting(set(rules), weight)


def test_the_first_group_fills_first() -> None:
    rooms = {A: room(2), B: room(60)}
    placed = place(frozenset(map(rule, range(3))), BOTH, rooms, set(), {})
    assert isinstance(placed, dict)
    assert sorted(target.id for target in placed.values()) == ["sg-a", "sg-a", "sg-b"]


def test_all_or_none() -> None:
    rooms = {A: room(1), B: room(1)}
    assert place(frozenset(map(rule, range(3))), BOTH, rooms, set(), {}) == Shortage(3, 2, 120, 4)
    assert rooms[A].free(4, 60) == 1


def test_a_rule_that_is_there_costs_nothing_and_stays_where_it_is() -> None:
    rooms = {A: room(0), B: room(0, holds=(rule(1),))}
    assert place(frozenset([rule(1)]), BOTH, rooms, set(), {}) == {rule(1): B}


def test_families_have_room_of_their_own() -> None:
    rooms = {A: room(0, 1)}
    assert place(frozenset([rule(1, 6)]), ONE, rooms, set(), {}) == {rule(1, 6): A}
    assert place(frozenset([rule(2, 6)]), ONE, rooms, set(), {}) == Shortage(1, 0, 60, 6)


def test_nobody_slips_into_room_that_an_older_claim_waits_for() -> None:
    rooms, closed = {A: room(1)}, set[tuple[Target, int]]()
    assert isinstance(place(frozenset([rule(1), rule(2)]), ONE, rooms, closed, {}), Shortage)
    assert isinstance(place(frozenset([rule(3)]), ONE, rooms, closed, {}), Shortage)


def test_what_never_fits_holds_up_nobody() -> None:
    rooms, closed = {A: Room(set(), {4: 0, 6: 0}, {}, lasting())}, set[tuple[Target, int]]()
    assert place(frozenset(map(rule, range(3))), {A: 2}, rooms, closed, {}) == (shortage := Shortage(3, 2, 2, 4))
    assert shortage.hopeless
    assert place(frozenset([rule(7)]), {A: 2}, rooms, closed, {}) == {rule(7): A}


def waits(wanted: list[Rule], rooms: dict[Target, Room], closed: set[tuple[Target, int]], quota: int) -> Shortage:
    found = place(frozenset(wanted), dict.fromkeys(rooms, quota), rooms, closed, {})
    assert isinstance(found, Shortage)
    return found


def test_what_does_not_fit_beside_what_lasts_holds_up_nobody_until_it_would() -> None:
    """It waits for somebody whom we do not rule, for as long as he likes."""
    theirs, closed = [rule(100 + number) for number in range(2)], set[tuple[Target, int]]()
    rooms = {A: Room(set(), {4: 3, 6: 0}, {}, lasting(*theirs))}
    assert not waits([rule(1), rule(2), rule(3)], rooms, closed, 4).hopeless
    assert place(frozenset([rule(4)]), {A: 4}, rooms, closed, {}) == {rule(4): A}
    rooms = {A: Room(set(), {4: 3, 6: 0}, {}, lasting(theirs[0]))}
    waits([rule(1), rule(2), rule(3)], rooms, closed, 4)
    waits([rule(4)], rooms, closed, 4)


def test_rules_of_a_claim_that_are_there_count_too_unless_they_last() -> None:
    held, theirs, closed = rule(1), [rule(100 + number) for number in range(2)], set[tuple[Target, int]]()
    rooms = {A: Room({held}, {4: 3, 6: 0}, {}, lasting(*theirs))}
    waits([held, rule(2), rule(3)], rooms, closed, 4)  # three, and two is all that there may be
    assert closed == set()
    rooms = {A: Room({held}, {4: 3, 6: 0}, {}, lasting(held, theirs[0]))}
    waits([held, rule(2), rule(3)], rooms, closed, 4)
    assert closed == {(A, 4)}


def test_what_cannot_fit_in_one_family_holds_up_nobody_in_the_other() -> None:
    theirs, closed = [rule(number, 6) for number in range(100, 104)], set[tuple[Target, int]]()
    wanted = [rule(1), rule(1, 6)]
    waits(wanted, {A: Room(set(), {4: 4, 6: 4}, {}, lasting(*theirs))}, closed, 4)
    assert closed == set()
    waits(wanted, {A: Room(set(), {4: 4, 6: 1}, {}, lasting(theirs[0]))}, closed, 4)
    assert closed == {(A, 4), (A, 6)}, "nor does anybody take its room in the other family meanwhile"


def test_the_message_tells_the_numbers() -> None:
    assert str(Shortage(3, 2, 60, 4)) == "needs 3 rules, 2 free (IPv4)"
    assert str(Shortage(1, 0, 60, 6)) == "needs 1 rule, 0 free (IPv6)"
    assert str(Shortage(70, 9, 60, 4)) == "needs 70 rules, and its firewalls take 60 at most (IPv4)"


@given(
    claims=st.lists(st.frozensets(st.integers(0, 30), min_size=1, max_size=6), max_size=12),
    free=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_no_group_is_overfilled_and_no_claim_is_split(claims: list[frozenset[int]], free: tuple[int, int]) -> None:
    rooms, closed = {A: room(free[0]), B: room(free[1])}, set[tuple[Target, int]]()
    taken: dict[Target, set[Rule]] = {A: set(), B: set()}
    for claim in claims:
        wish = frozenset(map(rule, claim))
        placed = place(wish, BOTH, rooms, closed, {})
        if isinstance(placed, dict):
            assert placed.keys() == wish
            for each, target in placed.items():
                taken[target].add(each)
    assert len(taken[A]) <= free[0]
    assert len(taken[B]) <= free[1]
    assert not taken[A] & taken[B]


def test_a_rule_that_several_have_stays_where_it_was() -> None:
    rooms = {target: Room({rule(1)}, {4: 1, 6: 0}, {}, lasting()) for target in (A, B)}
    for before, expected in (({rule(1): B}, B), ({rule(1): A}, A), ({}, A)):
        assert place(frozenset([rule(1)]), BOTH, rooms, set(), before) == {rule(1): expected}
    rooms[B].holds.clear()
    assert place(frozenset([rule(1)]), BOTH, rooms, set(), {rule(1): B}) == {rule(1): A}, "it is not there any more"
