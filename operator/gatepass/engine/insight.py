"""How it is going: a frozen look at the engine's state, taken when somebody asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from gatepass.core import lifecycle
from gatepass.core.placement import FAMILIES
from gatepass.core.plan import is_half_marked
from gatepass.core.ports import Clock
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.types.common import Key
from gatepass.core.types.resource import Capacity
from gatepass.core.types.session import FINAL, AccessSession, Phase
from gatepass.engine.grants import Grants
from gatepass.engine.queue import Load, Queue
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState
from gatepass.engine.views import NOT_SEEN_YET, Views

_ON_TIME: Final = timedelta(seconds=1)
"""A session that ended less than this ago is not looked at more closely: its rules are on their way out."""


@dataclass(frozen=True, slots=True)
class TargetInsight:
    """One firewall object. Rules are counted by IP family; `limit` is empty while nobody can use the target.

    `overdue` are rules of ours that nobody wants, and whose own description says that their time is up. `conflicts`
    have one of our two marks.
    """

    target: Target
    failing: bool
    conflicts: int
    used: Mapping[int, int]
    ours: Mapping[int, int]
    limit: Mapping[int, int]
    overdue: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one moment.

    `waiting` counts claims that wait for room; `overdue_seconds` is how long ago the time was up of what has been open
    too long, 0 for nothing; `unready` counts resources that are not Ready by why; `repaired` what drift was put right.
    `strangers` are rules with both of our marks that somebody else has made, in targets that anybody names or nobody.
    """

    sessions: Mapping[Phase, int]
    waiting: int
    overdue_seconds: float
    resources: int
    unready: Mapping[str, int]
    capacities: Mapping[Key, Capacity]
    targets: Sequence[TargetInsight]
    strangers: Mapping[Target, int]
    queues: Mapping[str, Load]
    repaired: Mapping[str, int]


class Insight:
    """Questions to the state of an engine. Nothing here changes it, and nothing costs anything until it is asked."""

    def __init__(self, state: State, grants: Grants, views: Views, clock: Clock, queues: Sequence[Queue[Any]]) -> None:
        self._state = state
        self._grants = grants
        self._views = views
        self._clock = clock
        self._queues = queues

    def snapshot(self) -> Snapshot:
        """Everything at this moment; from the event loop only, as the state changes there."""
        now = self._clock.now()
        resources = self._state.store.resources.values()
        named = {target for target, users in self._state.tenants.items() if users}
        targets = [self._target(target, now) for target in sorted(named | self._state.strays.keys())]
        lates = [late for _, late in targets]
        return Snapshot(
            sessions=Counter(s.status.phase or Phase.PENDING for s in self._state.store.sessions.values()),
            waiting=len(self._state.waiting),
            overdue_seconds=max([*lates, *map(timedelta.total_seconds, self._overdue(now))], default=0.0),
            resources=len(resources),
            unready=Counter(
                condition.reason
                for resource in resources
                for condition in resource.status.conditions
                if condition.type == "Ready" and condition.status != "True"
            ),
            capacities={r.key: r.status.capacity for r in resources if r.status.capacity is not None},
            targets=[found for found, _ in targets],
            strangers={**self._state.strangers, **{target: self._strangers(target) for target in named}},
            queues={queue.name: queue.load() for queue in self._queues},
            repaired=dict(self._state.repaired),
        )

    def lateness(self, session: AccessSession) -> float | None:
        """Seconds from the end of the session to the acknowledgement of its last revocation; None if none was needed.

        `session` is the last version that was not closed yet.
        """
        now = self._clock.now()
        end = self._end(session, now)
        acknowledged = [
            self._state.target(target).revoked[rule.id]
            for key in session.resource_keys()
            if (entry := session.resource_status(key)) and (standing := self._state.standings.get(key))
            for rule in entry.rules
            for target in standing.everywhere()
            if target.id == rule.target and rule.id in self._state.target(target).revoked
        ]
        if end is None or not acknowledged:
            return None
        ago = self._clock.monotonic() - max(acknowledged)
        return max((now - end.at).total_seconds() - ago, 0.0)

    def _end(self, session: AccessSession, now: datetime) -> lifecycle.End | None:
        """One that is not written down yet came when it was seen first."""
        seen = self._state.ending.get(session.uid)
        return seen or lifecycle.end(session, now, self._grants.time_up(session, now), withdrawn=False)

    def _overdue(self, now: datetime) -> list[timedelta]:
        """How long ago those sessions ended of which a rule of ours may still be there, for all that is known."""
        found = []
        for session in self._state.store.sessions.values():
            if session.uid not in self._state.ending and not _may_have_ended(session, now):
                continue
            end = self._end(session, now)
            if end is not None and now - end.at > _ON_TIME:
                views = self._views.of_session(session, end, now)
                left = any(view.left and view.trouble != NOT_SEEN_YET for view in views)
                found += [now - end.at] if left else []
        return found

    def _halves(self, known: TargetState) -> int:
        return sum(is_half_marked(rule, self._state.owner) for rule in known.conflicts)

    def _strangers(self, target: Target) -> int:
        known = self._state.targets.get(target)
        return 0 if known is None else len(known.conflicts) - self._halves(known)

    def _target(self, target: Target, now: datetime) -> tuple[TargetInsight, float]:
        """The target, and for how many seconds its oldest overdue rule has been that."""
        known = self._state.targets.get(target) or TargetState(target)
        placed = self._state.placements.at(target)
        used, ours, late = [0, 0], [0, 0], []
        for rule in known.rules.values():
            mine = self._state.is_ours(rule)
            for family, weight in enumerate(rule.weight):
                used[family] += weight
                ours[family] += mine and weight > 0
            if mine and rule.rule not in placed and (seconds := _late(rule, now)) > _ON_TIME.total_seconds():
                late.append(seconds)
        standings = [self._state.standings[key] for key in self._state.tenants.get(target, ())]
        quotas = [standing.quota(target) for standing in standings if target in standing.usable()]
        insight = TargetInsight(
            target=target,
            failing=known.fails or any(not each.proves(target) for each in standings),
            conflicts=self._halves(known),
            used=dict(zip(FAMILIES, used, strict=True)),
            ours=dict(zip(FAMILIES, ours, strict=True)),
            limit={family: known.limit(family, min(quotas)) for family in FAMILIES} if quotas else {},
            overdue=len(late),
        )
        return insight, max(late, default=0.0)


def _may_have_ended(session: AccessSession, now: datetime) -> bool:
    """A cheap question first: ten thousand sessions are asked at each scrape, and most say when they end."""
    status = session.status
    if status.phase in FINAL:
        return False
    told = status.expires_at if status.observed_generation == session.metadata.generation else None
    return status.ended_at is not None or told is None or told <= now


def _late(rule: ObservedRule, now: datetime) -> float:
    """Seconds since the time that the rule's description gives; 0 or less before that and for static rules."""
    mark = parse_mark(rule.description)
    return 0.0 if mark is None or mark.until is None else (now - mark.until).total_seconds()
