"""The table of the plan, row by row, and its laws."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.plan import Plan, Wanted, make_plan
from gatepass.core.rules import Mark, ObservedRule, Rule

OWNER = "cluster/ns/release"
UNTIL = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
LATER = UNTIL + timedelta(hours=1)
RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)
WANT = Wanted(RULE, "ci/db", UNTIL)
OURS = str(Mark("ci/db", UNTIL))


def there(
    id_: str = "sgr-1", description: str = OURS, owner: str | None = OWNER, rule: Rule | None = RULE
) -> ObservedRule:
    return ObservedRule(id_, rule, description, owner)


def plan(wanted: list[Wanted], observed: list[ObservedRule], known: frozenset[str] | set[str] = frozenset()) -> Plan:
    return make_plan(wanted, observed, OWNER, known)


CONFLICT = there(owner=None)
HALF = there(description="edited by hand")
TABLE = {
    "wanted, absent": ([WANT], [], set(), Plan(grants=(WANT,))),
    "wanted, ours, right": ([WANT], [there()], set(), Plan()),
    "wanted, ours, ends too early": (
        [Wanted(RULE, "ci/db", LATER)],
        [there()],
        set(),
        Plan(relabels={"sgr-1": str(Mark("ci/db", LATER))}),
    ),
    "wanted, ours, ends later already": ([WANT], [there(description=str(Mark("ci/db", LATER)))], set(), Plan()),
    "wanted, ours, labelled for another user": (
        [WANT],
        [there(description=str(Mark("ci/b", UNTIL)))],
        set(),
        Plan(),
    ),
    "wanted, ours, becomes static": (
        [Wanted(RULE, "ci/db", None, "office")],
        [there()],
        set(),
        Plan(relabels={"sgr-1": str(Mark("ci/db", None, "office"))}),
    ),
    "wanted, ours, static no more": (
        [WANT],
        [there(description=str(Mark("ci/db", None, "office")))],
        set(),
        Plan(relabels={"sgr-1": OURS}),
    ),
    "wanted, ours, another's static label": (
        [Wanted(RULE, "ci/db", None, "office")],
        [there(description=str(Mark("ci/b", None, "before")))],
        set(),
        Plan(relabels={"sgr-1": str(Mark("ci/db", None, "office"))}),
    ),
    "wanted, ours by id, tag missing": ([WANT], [CONFLICT], {"sgr-1"}, Plan(retags=("sgr-1",))),
    "wanted, ours by id, description edited": ([WANT], [HALF], {"sgr-1"}, Plan(relabels={"sgr-1": OURS})),
    "wanted, ours by id, both missing": (
        [WANT],
        [there(description="x", owner=None)],
        {"sgr-1"},
        Plan(retags=("sgr-1",), relabels={"sgr-1": OURS}),
    ),
    "wanted, foreign": ([WANT], [there(description="office", owner=None)], set(), Plan()),
    "wanted, another installation's": ([WANT], [there(owner="other")], set(), Plan()),
    "unwanted, ours": ([], [there()], set(), Plan(revokes=("sgr-1",))),
    "unwanted, ours by id": ([], [there(description="x", owner=None)], {"sgr-1"}, Plan(revokes=("sgr-1",))),
    "unwanted, foreign": ([], [there(description="office", owner=None)], set(), Plan()),
    "unwanted, another installation's": ([], [there(owner="other")], set(), Plan()),
    "unwanted, tag missing": ([], [CONFLICT], set(), Plan(conflicts=(CONFLICT,))),
    "unwanted, description edited": ([], [HALF], set(), Plan(conflicts=(HALF,))),
    "wanted, tag missing, not known": ([WANT], [CONFLICT], set(), Plan(conflicts=(CONFLICT,))),
    "a prefix list": ([WANT], [there("sgr-2", "x", None, None)], set(), Plan(grants=(WANT,))),
}


@pytest.mark.parametrize("row", TABLE)
def test_table(row: str) -> None:
    wanted, observed, known, expected = TABLE[row]
    assert plan(wanted, observed, known) == expected


rules = st.builds(
    Rule,
    cidr=st.sampled_from(["203.0.113.7/32", "203.0.113.8/32", "2001:db8::7/128"]),
    protocol=st.just("tcp"),
    port=st.sampled_from([1, 2]),
    end_port=st.sampled_from([1, 2]),
)
wishes = st.lists(
    st.builds(Wanted, rules, st.just("ci/db"), st.sampled_from([UNTIL, LATER, None])), unique_by=lambda w: w.rule
)
descriptions = st.sampled_from(["", "office", OURS, str(Mark("ci/db", None)), str(Mark("ci/db", LATER))])


@st.composite
def firewalls(draw: st.DrawFn) -> list[ObservedRule]:
    held = draw(st.lists(rules, unique=True))
    return [
        ObservedRule(f"sgr-{n}", rule, draw(descriptions), draw(st.sampled_from([None, OWNER, "other"])))
        for n, rule in enumerate(held)
    ]


@given(wishes, firewalls())
def test_carrying_a_plan_out_leaves_nothing_to_do(wanted: list[Wanted], observed: list[ObservedRule]) -> None:
    done = plan(wanted, observed)
    after = [
        ObservedRule(rule.id, rule.rule, done.relabels.get(rule.id, rule.description), rule.owner)
        for rule in observed
        if rule.id not in done.revokes
    ] + [ObservedRule(f"new-{n}", want.rule, str(want.mark), OWNER) for n, want in enumerate(done.grants)]
    assert not plan(wanted, after).writes


@given(wishes, firewalls())
def test_only_rules_with_both_marks_are_touched(wanted: list[Wanted], observed: list[ObservedRule]) -> None:
    done = plan(wanted, observed)
    touched = {*done.revokes, *done.relabels, *done.retags}
    wished = {want.rule for want in wanted}
    for rule in observed:
        if rule.id in touched:
            assert rule.owner == OWNER
            assert rule.description.startswith("gatepass ")
        if rule.id in done.revokes:
            assert rule.rule not in wished


@given(wishes, firewalls())
def test_what_is_wanted_is_there_afterwards(wanted: list[Wanted], observed: list[ObservedRule]) -> None:
    done = plan(wanted, observed)
    kept = {rule.rule for rule in observed if rule.id not in done.revokes}
    assert {want.rule for want in wanted} <= kept | {want.rule for want in done.grants}
