"""The difference between what a firewall object holds and what it should hold."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, get_args

from gatepass.core.rules import Mark, ObservedRule, Rule, parse_mark


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rule that somebody wants: `until` is the latest deadline of its users, None when a static range is one."""

    rule: Rule
    resource: str
    until: datetime | None
    note: str = ""

    @property
    def mark(self) -> Mark:
        """The description that it gets."""
        return Mark(self.resource, self.until, self.note)


Write = Literal["grants", "revokes", "relabels", "retags"]
"""What is written by one kind of call."""
WRITES: Final[tuple[Write, ...]] = get_args(Write)
"""All of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to one target."""

    grants: tuple[Wanted, ...] = ()
    revokes: tuple[str, ...] = ()
    relabels: Mapping[str, str] = field(default_factory=dict)
    retags: tuple[str, ...] = ()
    conflicts: tuple[ObservedRule, ...] = ()

    @property
    def writes(self) -> bool:
        """Is there anything to do?"""
        return bool(self.kinds)

    @property
    def kinds(self) -> list[Write]:
        """Of which kinds that is."""
        return [kind for kind in WRITES if getattr(self, kind)]

    def without(self, kinds: Collection[Write]) -> "Plan":
        """The others alone."""
        return replace(
            self,
            grants=() if "grants" in kinds else self.grants,
            revokes=() if "revokes" in kinds else self.revokes,
            relabels={} if "relabels" in kinds else self.relabels,
            retags=() if "retags" in kinds else self.retags,
        )

    @property
    def marks(self) -> bool:
        """Does it change what is written on a rule?"""
        return bool(self.relabels or self.retags)


def is_ours(observed: ObservedRule, owner: str, known: Collection[str]) -> bool:
    """Both marks, or an id that a session's status records as made by us."""
    return observed.id in known or (observed.owner == owner and parse_mark(observed.description) is not None)


def is_half_marked(observed: ObservedRule, owner: str) -> bool:
    """One mark without the other: somebody edited a rule of ours, or copied from one."""
    described = parse_mark(observed.description) is not None
    return (observed.owner == owner and not described) or (observed.owner is None and described)


def make_plan(
    wanted: Iterable[Wanted],
    observed: Iterable[ObservedRule],
    owner: str,
    known: Collection[str],
) -> Plan:
    """Compare by identity; the marks decide what may be touched.

    `known` are ids that status records as ours.

    | wanted | there | whose       | marks                  | do                    |
    |--------|-------|-------------|------------------------|-----------------------|
    | yes    | no    |             |                        | grant                 |
    | yes    | yes   | ours        | right                  | nothing               |
    | yes    | yes   | ours        | ends too early         | relabel               |
    | yes    | yes   | ours        | another's static label | relabel               |
    | yes    | yes   | ours by id  | one or both missing    | retag, relabel        |
    | yes    | yes   | not ours    |                        | nothing (foreign)     |
    | no     | yes   | ours        |                        | revoke                |
    | no     | yes   | not ours    | none, or another's     | nothing               |
    | any    | yes   | not ours    | one of the two is ours | nothing, and report   |
    """
    by_rule = {entry.rule: entry for entry in wanted}
    revokes, retags, relabels, conflicts = [], [], {}, []
    there: set[Rule] = set()
    for entry in observed:
        want = None if entry.rule is None else by_rule.get(entry.rule)
        if entry.rule is not None:
            there.add(entry.rule)
        if is_ours(entry, owner, known):
            if want is None:
                revokes.append(entry.id)
                continue
            if entry.owner != owner:
                retags.append(entry.id)
            if (text := _new_description(want, entry.description)) is not None:
                relabels[entry.id] = text
        elif is_half_marked(entry, owner):
            conflicts.append(entry)
    return Plan(
        grants=tuple(sorted((w for rule, w in by_rule.items() if rule not in there), key=lambda w: w.rule)),
        revokes=tuple(sorted(revokes)),
        relabels=relabels,
        retags=tuple(sorted(retags)),
        conflicts=tuple(conflicts),
    )


def _new_description(want: Wanted, description: str) -> str | None:
    """The label to set, or None: `until` moves later and never earlier, and what is right already is left alone."""
    mark = parse_mark(description)
    if want.until is None or mark is None or mark.until is None:
        return None if description == str(want.mark) else str(want.mark)
    if mark.until >= want.until.replace(microsecond=0):
        return None
    return str(Mark(mark.resource, want.until, mark.note))
