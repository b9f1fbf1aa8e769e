"""Beats by HTTP: they renew the session's Lease, as the runner itself would."""

from typing import Any

import httpx
import pytest

from tests.e2e.tenant import SESSION, wait_for
from tests.rest.organisation import ELSEWHERE, Organisation

NOW = {"Prefer": "wait=30"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


@pytest.fixture(scope="module")
def door(org: Organisation) -> tuple[str, str]:
    return org.door()


@pytest.fixture
def caller(org: Organisation, door: tuple[str, str]) -> httpx.Client:
    return org.by(org.key("sessions:write", resources=[{"name": "db"}])[0])


def lease(org: Organisation, uid: str) -> dict[str, Any]:
    """The Lease of a session."""
    return org.api.request("GET", f"{LEASES.format(org.namespace)}/gatepass-{uid}")


def test_beats_keep_it_open_and_silence_ends_it(org: Organisation, door: tuple[str, str], caller: httpx.Client) -> None:
    started = caller.post("/sessions", json={"heartbeatSeconds": 5}, headers=NOW).json()
    beat = f"/sessions/{started['id']}/heartbeat"
    (owner,) = lease(org, started["id"])["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("AccessSession", started["id"])
    seen = set()
    for _ in range(3):
        told = caller.post(beat)
        assert (told.status_code, told.json()["status"]) == (200, "ACTIVE")
        seen.add(lease(org, started["id"])["spec"]["renewTime"])
    assert len(seen) == 3, "each is another time"
    wait_for(lambda: not org.open_to(door[1]), "the runner is missed")
    (session,) = [each for each in org.listed("accesssessions") if each["metadata"]["uid"] == started["id"]]
    assert session["status"]["endedReason"] == "HeartbeatLost"
    assert session["status"]["heartbeat"]["lastSeenAt"] >= session["metadata"]["creationTimestamp"]
    late = caller.post(beat)
    assert (late.status_code, late.json()["error"]) == (409, "Conflict")
    assert "ended" in late.json()["message"]


def test_a_session_without_a_heart(org: Organisation, caller: httpx.Client) -> None:
    started = caller.post("/sessions", json={}, headers=NOW).json()
    told = caller.post(f"/sessions/{started['id']}/heartbeat")
    assert (told.status_code, told.json()["message"]) == (409, "the session has no heartbeat")
    caller.post(f"/sessions/{started['id']}/stop", headers=NOW)


@pytest.mark.parametrize("wrong", [4, 3601, "30", 5.5, {}])
def test_odd_hearts(caller: httpx.Client, wrong: Any) -> None:
    told = caller.post("/sessions", json={"heartbeatSeconds": wrong})
    assert told.status_code == 400
    assert set(told.json()["validationErrors"]) == {"heartbeatSeconds"}


def test_a_person_needs_a_right_of_his_own(org: Organisation, other: Organisation, caller: httpx.Client) -> None:
    started = caller.post("/sessions", json={"heartbeatSeconds": 30}, headers=NOW).json()
    beat = f"/sessions/{started['id']}/heartbeat"
    assert other.person.post(beat).status_code == 404
    assert other.by(other.key()[0]).post(beat).status_code == 404
    viewer = org.caller(Authorization=f"Bearer {org.member('view')}")
    wait_for(lambda: viewer.get("/sessions").status_code == 200, "the rights of a viewer")
    assert viewer.post(beat).status_code == 404
    caller.post(f"/sessions/{started['id']}/stop", headers=NOW)


# from another address than before

THERE = "198.51.100.61"


def opened(org: Organisation, name: str, **policy: Any) -> tuple[str, httpx.Client, str]:
    """A session that somebody's key has started: its group, its caller from elsewhere, and where to beat."""
    _, group = org.door(name, policy=policy)
    key, _ = org.key("sessions:write", resources=[{"name": name}])
    started = org.by(key).post("/sessions", json={"heartbeatSeconds": 60}, headers=NOW).json()
    assert org.open_to(group) == {f"{ELSEWHERE}/32"}
    return group, org.by(key, THERE), f"/sessions/{started['id']}/heartbeat"


def test_a_beat_from_another_address_moves_the_rule_where_policy_allows_it(org: Organisation) -> None:
    group, there, beat = opened(org, "follows", followAddressChanges=True)
    assert there.post(beat).status_code == 200
    wait_for(lambda: org.open_to(group) == {f"{THERE}/32"}, "the rule follows")
    there.post(beat.replace("heartbeat", "stop"), headers=NOW)


def test_a_beat_from_another_address_is_told_where_policy_does_not(org: Organisation) -> None:
    group, there, beat = opened(org, "stays")
    uid = beat.split("/")[2]
    (name,) = [each["metadata"]["name"] for each in org.listed(SESSION) if each["metadata"]["uid"] == uid]
    for _ in range(2):
        assert there.post(beat).status_code == 200
    told = org.until_condition(SESSION, name, "SourceChanged")
    assert THERE in told["message"]
    assert org.open_to(group) == {f"{ELSEWHERE}/32"}
    there.post(beat.replace("heartbeat", "stop"), headers=NOW)


def test_who_may_not_open_the_door_beats_and_moves_nothing(org: Organisation) -> None:
    group, there, beat = opened(org, "not-yours", followAddressChanges=True)
    rules = [
        {"apiGroups": ["gatepass.dev"], "resources": ["accesssessions"], "verbs": ["get", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["patch"]},
    ]
    role = {"metadata": {"name": f"beats-{org.namespace}"}, "rules": rules}
    org.api.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    editor = org.caller(THERE, Authorization=f"Bearer {org.member(role['metadata']['name'])}")
    wait_for(lambda: editor.post(beat).status_code == 200, "the rights of who may beat")
    uid = beat.split("/")[2]
    (session,) = [each for each in org.listed(SESSION) if each["metadata"]["uid"] == uid]
    assert "seenFrom" not in session["status"]["source"]
    assert org.open_to(group) == {f"{ELSEWHERE}/32"}
    there.post(beat.replace("heartbeat", "stop"), headers=NOW)
