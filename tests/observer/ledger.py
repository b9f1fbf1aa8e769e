"""Which rules there are, who made them and when, from EC2's call log alone. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.observer.promise import Door, Place, door_of, is_ours, moment

OTHERS = frozenset({"AKIAANOTHERTOOL00001"})
"""The access keys of tools that are known not to be Gatepass: the one of the `meddling` profile."""


ANY = "*"
SLOW_SECONDS = 0.5
"""A call that takes longer holds up what waits for it."""
_REFUSALS = ("deny", "expired")
_TROUBLE = ("latency", "error", "reset", "deny", "expired")
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Rule:
    """One rule; `ours` says whose it was when it was first seen, whatever marks it gets or loses later."""

    id: str
    group: str
    door: Door | None
    ours: bool
    asked_at: float
    made_at: float

    @property
    def place(self) -> Place | None:
        """Where it is; None when its source is no address."""
        return None if self.door is None else Place(self.group, self.door)


@dataclass(frozen=True)
class Happening:
    """What one call did to one rule: `made`, `removed`, `changed` or `deleted` (with its group); times as in Rule."""

    what: str
    rule: Rule
    at: float
    by: str


@dataclass
class Ledger:
    """The rules that are there now. Entries that are taken twice, or that tell of rules never seen, change nothing."""

    owner: str
    rules: dict[str, Rule] = field(default_factory=dict)
    holding: dict[Place, set[str]] = field(default_factory=dict)
    _hindered: dict[str, float] = field(default_factory=dict)
    _under_way: dict[tuple[str, str], float] = field(default_factory=dict)

    def begin(self, group: str, views: list[dict[str, Any]], now: float) -> None:
        """Take the rules of a group as they truly are."""
        for view in views:
            self._add(Rule(view["securityGroupRuleId"], group, door_of(view), is_ours(view, self.owner), now, now))

    def take(self, entry: Mapping[str, Any]) -> Iterator[Happening]:
        """Take one call of the log."""
        asked, at = moment(entry["time"]).timestamp(), effect_of(entry)
        answered = at + entry.get("late_ms", 0.0) / 1000
        group, by = entry.get("group", ""), entry.get("access_key", "")
        self._under_way.pop(_of(entry), None)
        if _struck(entry) or answered - asked > SLOW_SECONDS:
            about = [group] if group else entry.get("groups") or [ANY]
            for each in [ANY] if _refused(entry) else about:
                self._hinder(each, answered)
        if entry.get("effect") != "ok":
            return
        action = entry["action"]
        for rule in self._made(entry, group, asked, at):
            self._add(rule)
            yield Happening("made", rule, at, by)
        gone = list(entry.get("removed", ()))
        if action == "DeleteSecurityGroup":
            gone = [id_ for id_, rule in self.rules.items() if rule.group == group]
        for id_ in gone:
            if (rule := self._drop(id_)) is not None:
                yield Happening("deleted" if action == "DeleteSecurityGroup" else "removed", rule, at, by)
        if action in {"CreateTags", "DeleteTags", "UpdateSecurityGroupRuleDescriptionsIngress"}:
            for id_ in [*entry.get("ids", ()), *entry.get("params", {}).get("ResourceId", ())]:
                if id_ in self.rules:
                    yield Happening("changed", self.rules[id_], at, by)

    def under_way(self, calls: Iterable[Mapping[str, Any]], now: float) -> None:
        """These have no answer yet. One hinders when no call of its name about its group has had one for too long."""
        self._under_way = {of: self._under_way.get(of, now) for of in map(_of, calls)}
        for (group, _), since in self._under_way.items():
            if now - since > SLOW_SECONDS:
                self._hinder(group, now)

    def answers_since(self, group: str) -> float:
        """When the last call about the group that a fault struck, or that took too long, came to its end."""
        return max(self._hindered.get(group, 0.0), self._hindered.get(ANY, 0.0))

    def _hinder(self, group: str, at: float) -> None:
        self._hindered[group] = max(at, self._hindered.get(group, 0.0))

    def _made(self, entry: Mapping[str, Any], group: str, asked: float, at: float) -> Iterator[Rule]:
        tags = [
            {"key": tag.get("Key"), "value": tag.get("Value", "")}
            for each in entry.get("params", {}).get("TagSpecification", ())
            for tag in each.get("Tag", ())
        ]
        for id_, told in zip(entry.get("made", ()), entry.get("rules", ()), strict=False):
            door = None
            if "sg-" not in told["source"] and "pl-" not in told["source"]:
                door = Door(told["source"], told["protocol"], int(told["from"]), int(told["to"]))
            ours = is_ours({"description": told.get("description"), "tagSet": tags}, self.owner)
            yield Rule(id_, group, door, ours, asked, at)

    def _add(self, rule: Rule) -> None:
        self.rules[rule.id] = rule
        if rule.place is not None:
            self.holding.setdefault(rule.place, set()).add(rule.id)

    def _drop(self, id_: str) -> Rule | None:
        rule = self.rules.pop(id_, None)
        if rule is not None and rule.place is not None:
            held = self.holding[rule.place]
            held.discard(id_)
            if not held:
                del self.holding[rule.place]
        return rule


def effect_of(entry: Mapping[str, Any]) -> float:
    """When a call of the log had its effect, in seconds since 1970."""
    return (moment(entry["time"]) + timedelta(milliseconds=entry["ms"])).timestamp()


def _of(call: Mapping[str, Any]) -> tuple[str, str]:
    """The group that a call is about, ANY for one that names none, and its name."""
    return call.get("group") or ANY, call.get("action") or ""


def _refused(entry: Mapping[str, Any]) -> bool:
    """Was it the caller who was refused, so that no group would have had an answer for him?"""
    return any(fault.startswith(_REFUSALS) for fault in entry.get("faults", ()))


def _struck(entry: Mapping[str, Any]) -> bool:
    """Was the call kept from its effect or its answer? A refusal that the caller has earned is an answer.

    But for a throttle: how many of those there may be is for a benchmark to say.
    """
    struck = any(fault.startswith(_TROUBLE) for fault in entry.get("faults", ()))
    return struck or entry.get("status", _SERVER_ERROR) >= _SERVER_ERROR
