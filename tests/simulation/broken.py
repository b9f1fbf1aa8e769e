"""The product broken on purpose, in each way that the laws have to see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gatepass.core.ports import Access, Granted, NewRule, Revoked, Still
from gatepass.core.rules import ObservedRule, Stamp, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import (
    AccessSession,
    AccessSessionStatus,
    EndedReason,
    Phase,
    ResourceState,
    SessionResourceStatus,
)
from gatepass.engine.engine import Engine
from gatepass.engine.state import Whereabouts
from tests.simulation.cloud import Cloud
from tests.simulation.process import OWNER, LoopClock


class _Around:
    """A cloud with one call gone wrong."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cloud, name)


class _RevokesNothing(_Around):
    async def revoke(
        self, _access: Access, _target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, Any]:
        return {id_: Revoked() for id_ in ids}


class _GrantsNothing(_Around):
    async def grant(
        self, _access: Access, _target: Target, rules: Sequence[NewRule], _stamp: Stamp, _still: Still
    ) -> Mapping[Any, Any]:
        return {new.rule: Granted(f"sgr-{abs(hash(new)):017x}"[:21]) for new in rules}


class _GrantsMore(_Around):
    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, _still: Still
    ) -> Mapping[Any, Any]:
        more = NewRule(replace(rules[0].rule, port=22, end_port=22), rules[0].description)
        return await self._cloud.grant(access, target, [*rules, more], stamp, lambda _rule: True)


class _TakesAllForOurs(_Around):
    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        mark = "gatepass until=2026-11-22T12:00:00Z for=ci/db"
        return [replace(rule, owner=OWNER, description=mark) for rule in await self._cloud.observe(access, target)]


class _Fast(LoopClock):
    def now(self) -> datetime:
        return super().now() + timedelta(seconds=90)


def _by(cloud: type[_Around]) -> Callable[[Engine, Cloud], None]:
    def sabotage(engine: Engine, real: Cloud) -> None:
        engine._reconciler._calls._providers = {"aws": cloud(real)}  # type: ignore[dict-item]

    return sabotage


def _fast_clock(engine: Engine, _cloud: Cloud) -> None:
    for part in (engine._sessions, engine._reconciler):
        part._clock = _Fast()


def _no_patience(engine: Engine, _cloud: Cloud) -> None:
    queue = engine._sessions.queue
    add = queue.add
    queue.add = lambda key, _delay=0.0, patient=False: add(key, 0.0, patient=patient)  # type: ignore[method-assign]


def _holds_for_ever(engine: Engine, _cloud: Cloud) -> None:
    async def release(_held: object) -> None:
        return

    engine._sessions._cluster.release = release  # type: ignore[method-assign]


def _loses_pods(engine: Engine, _cloud: Cloud) -> None:
    engine._sources.changed = lambda _key: None  # type: ignore[method-assign]


def _leaps(engine: Engine, _cloud: Cloud) -> None:
    """Takes the old rule away with the news of a move, not when the new one is there."""
    put = engine._sources._put

    def leap(session: AccessSession, after: Whereabouts) -> None:
        put(session, Whereabouts(after.moving_to) if after.moving_to else after)

    engine._sources._put = leap  # type: ignore[method-assign]


def _hears_no_beat(engine: Engine, _cloud: Cloud) -> None:
    async def renewed(_session: object) -> None:
        return

    engine._sessions._cluster.renewed = renewed  # type: ignore[method-assign]
    engine.ends.beat = lambda _lease, _renewed: None  # type: ignore[method-assign]


def _misses_the_end_of_jobs(engine: Engine, _cloud: Cloud) -> None:
    listed = engine.ends.listed
    engine.ends.seen = engine.ends.gone = lambda *_: None  # type: ignore[method-assign]
    engine.ends.listed = lambda kind, objects, _began: listed(kind, objects, float("-inf"))  # type: ignore[method-assign]


def _withdraws_at_will(engine: Engine, _cloud: Cloud) -> None:
    grants = engine._grants
    grants._withdrawn = lambda session, _now, _refusals: grants.has_been_granted(session)  # type: ignore[method-assign]


def _mistakes_why(engine: Engine, _cloud: Cloud) -> None:
    time_up = engine._grants.time_up
    engine._grants.time_up = lambda session, now: (time_up(session, now)[0], EndedReason.MANUAL)  # type: ignore[method-assign]


def _mistakes_the_phase(engine: Engine, _cloud: Cloud) -> None:
    cluster = engine._sessions._cluster
    write = cluster.write_session_status

    async def mistaken(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        other = {"phase": Phase.CANCELLED} if status.phase is Phase.EXPIRED else {}
        return await write(session, status.model_copy(update=other))

    cluster.write_session_status = mistaken  # type: ignore[method-assign]


def _forgets_what_was_granted(engine: Engine, _cloud: Cloud) -> None:
    cluster = engine._sessions._cluster
    write = cluster.write_session_status

    def forgotten(entry: SessionResourceStatus) -> SessionResourceStatus:
        gone = entry.state in (ResourceState.PENDING, ResourceState.WAITING) and all(
            rule.removed_at for rule in entry.rules
        )
        return entry.model_copy(update={"rules": ()}) if gone else entry

    async def forgetful(session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        return await write(session, status.model_copy(update={"resources": tuple(map(forgotten, status.resources))}))

    cluster.write_session_status = forgetful  # type: ignore[method-assign]


def _knows_no_ceiling(engine: Engine, _cloud: Cloud) -> None:
    put = engine.store.put_resource

    def unlimited(resource: ProtectedResource) -> bool:
        policy = resource.spec.policy.model_copy(update={"max_concurrent_sessions": None})
        spec = resource.spec.model_copy(update={"policy": policy})
        return put(resource.model_copy(update={"spec": spec}))

    engine.store.put_resource = unlimited  # type: ignore[method-assign]


SABOTAGE: Mapping[str, tuple[Callable[[Engine, Cloud], None], frozenset[str]]] = {
    "revokes nothing": (_by(_RevokesNothing), frozenset({"left open", "says that it is closed, and is open"})),
    "grants nothing": (_by(_GrantsNothing), frozenset({"says Active and is not open"})),
    "grants more": (_by(_GrantsMore), frozenset({"opened what nobody was granted"})),
    "takes all for ours": (_by(_TakesAllForOurs), frozenset({"touched a foreign rule"})),
    "a clock 90 s ahead": (_fast_clock, frozenset({"closed too early"})),
    "no patience": (_no_patience, frozenset({"hot loop"})),
    "loses pods": (_loses_pods, frozenset({"does not follow its pod", "never opened"})),
    "leaps": (_leaps, frozenset({"closed too early"})),
    "hears no beat": (_hears_no_beat, frozenset({"ended with a healthy heart"})),
    "misses the end of Jobs": (_misses_the_end_of_jobs, frozenset({"left open"})),
    "withdraws at will": (_withdraws_at_will, frozenset({"ended without cause"})),
    "mistakes why it ends": (_mistakes_why, frozenset({"ended without cause"})),
    "mistakes the phase": (_mistakes_the_phase, frozenset({"ended in another phase"})),
    "forgets what was granted": (_forgets_what_was_granted, frozenset({"asked again"})),
    "knows no ceiling": (_knows_no_ceiling, frozenset({"more than the ceiling"})),
    "holds for ever": (_holds_for_ever, frozenset({"does not go"})),
}
"""What breaks it, and the laws of which one has to see it first."""
