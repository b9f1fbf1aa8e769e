"""Answers that are kept are those that would be given anew, whatever has changed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gatepass.core.policy import Refusal
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, Key
from gatepass.core.types.session import EndedReason, SourceAddress
from gatepass.engine.grants import Grants
from gatepass.engine.state import State, Whereabouts
from gatepass.engine.store import Namespace, Store
from tests.core.builders import NOON, a_binding, a_resource, a_session
from tests.engine.world import OWNER

DB = Key("ci", "db")
KEY = '{"username":"gatepass:key:ci/key","uid":"uid-ci-key","groups":[]}'
RULE = {
    "appliedAt": "2026-11-22T12:00:01Z",
    "id": "sgr-1",
    "target": "sg-0aaa",
    "cidr": "203.0.113.7/32",
    "protocol": "tcp",
    "port": 5432,
    "endPort": 5432,
}
GRANTED = {"resources": [{"name": "db", "namespace": "ci", "state": "Applied", "uid": "uid-ci-db", "rules": [RULE]}]}
JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "it"}


def session(version: int = 2, status: Any = GRANTED, **spec: Any) -> Any:
    meta = {"resourceVersion": str(version), "generation": version, "finalizers": [FINALIZER]}
    return a_session(
        "it", resources=({"name": "db"},), metadata={**meta, "annotations": {REQUESTED_BY: KEY}}, status=status, **spec
    )


def resource(version: int = 2, **spec: Any) -> Any:
    meta = {"uid": "uid-ci-db", "resourceVersion": str(version), "generation": version, "finalizers": [FINALIZER]}
    return a_resource("db", metadata=meta, **spec)


def binding(version: int = 2, **spec: Any) -> Any:
    meta = {"uid": "uid-ci-key", "resourceVersion": str(version), "generation": version}
    return a_binding("key", metadata=meta, **spec)


@pytest.fixture(params=["granted", "new", "bound"])
def state(request: pytest.FixtureRequest) -> State:
    """One session that has been granted something, one that is new, or one that ends with a Job."""
    state = State(Store(), OWNER, started=0.0, started_at=NOON)
    given = {"new": {"status": {}}, "bound": {"boundTo": JOB, "status": {**GRANTED, "boundTo": {"uid": "u"}}}}
    state.store.put_session(session(**given.get(request.param, {})))
    state.store.put_resource(resource())
    state.store.put_binding(binding())
    state.store.namespaces["ci"] = Namespace("ci", "uid-ci", 1, {}, deleting=False)
    return state


CHANGES: dict[str, Callable[[State], object]] = {
    "stopped": lambda state: state.store.put_session(session(3, stop=True)),
    "longer": lambda state: state.store.put_session(session(3, duration="2h")),
    "written": lambda state: state.store.put_session(session(3)),
    "admitted": lambda state: state.admitted.update({("uid-ci-it", DB): None}),
    "refused": lambda state: state.admitted.update({("uid-ci-it", DB): Refusal("NotAuthorized", "no")}),
    "tightened": lambda state: state.store.put_resource(resource(3, policy={"maxDuration": "10m"})),
    "forbidden": lambda state: state.store.put_resource(
        resource(3, policy={"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}})
    ),
    "resource gone": lambda state: state.store.remove_resource(DB, "uid-ci-db"),
    "namespace goes": lambda state: state.store.namespaces.update(ci=Namespace("ci", "uid-ci", 2, {}, deleting=True)),
    "namespace gone": lambda state: state.store.namespaces.pop("ci"),
    "key revoked": lambda state: state.store.put_binding(binding(3, revoked=True)),
    "key gone": lambda state: state.store.remove_binding(Key("ci", "key"), "uid-ci-key"),
    "runner gone": lambda state: state.runners.update({"uid-ci-it": EndedReason.OWNER_FINISHED}),
    "found": lambda state: state.whereabouts.update(
        {"uid-ci-it": Whereabouts((SourceAddress(ip="203.0.113.9", version=4, evidence="seen"),))}
    ),
    "heard": lambda state: state.heard.add("uid-ci-it"),
}


def answers(grants: Grants, state: State, seconds: float) -> object:
    """Everything that is asked of a session."""
    now = NOON + timedelta(seconds=seconds)
    (it,) = state.store.sessions.values()
    found = state.store.resources.get(DB)
    end = grants.end(it, now)
    claim = None if found is None else grants.claim(it, found, now)
    return end and end.reason, grants.closed(it, now), grants.refusal(it, DB, now), claim


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_seen_at_once(state: State, change: str) -> None:
    kept = Grants(state)
    before = answers(kept, state, 10)
    assert answers(kept, state, 10) == before
    CHANGES[change](state)
    assert answers(kept, state, 10) == answers(Grants(state), state, 10)


@pytest.mark.parametrize("change", CHANGES)
def test_time_alone_is_seen_too(state: State, change: str) -> None:
    CHANGES[change](state)
    kept = Grants(state)
    for seconds in (0, 2.9, 3, 10, 599, 600, 3599, 3600, 7200):
        assert answers(kept, state, seconds) == answers(Grants(state), state, seconds), seconds


def test_an_end_that_was_undone_in_time_is_forgotten(state: State) -> None:
    kept = Grants(state)
    (it,) = state.store.sessions.values()
    state.runners["uid-ci-it"] = EndedReason.HEARTBEAT_LOST
    first = kept.end(it, NOON + timedelta(seconds=10))
    del state.runners["uid-ci-it"]
    assert kept.end(it, NOON + timedelta(seconds=20)) is None
    state.runners["uid-ci-it"] = EndedReason.HEARTBEAT_LOST
    again = kept.end(it, NOON + timedelta(seconds=30))
    assert first is not None
    assert again is not None
    assert (again.at - first.at).total_seconds() == 20
