"""/audit-logs: what was done in the namespace, and in no other."""

import json
import subprocess
import sys
from typing import Any

import httpx

from gatepass.core.keys import key_hash
from gatepass.sandbox.environment import Sandbox
from tests.e2e.tenant import MERGE, wait_for
from tests.rest.organisation import BINDING, ELSEWHERE, Organisation


def types(caller: httpx.Client, **asked: Any) -> list[str]:
    told = caller.get("/audit-logs", params={"size": 100, **asked})
    assert told.status_code == 200, told.text
    return [entry["eventType"] for entry in told.json()["content"]]


def test_what_a_key_has_done_is_told_to_its_namespace(org: Organisation) -> None:
    door, _ = org.door("audited")
    key, name = org.key(resources=[{"name": "audited"}])
    caller = org.by(key)
    started = caller.post("/sessions", json={"resourceIds": [door]}, headers={"Prefer": "wait=30"}).json()
    assert caller.post(f"/sessions/{started['id']}/stop", headers={"Prefer": "wait=30"}).status_code == 200
    wait_for(lambda: "SESSION_STOPPED" in types(caller) and "RULE_REMOVED" in types(caller), "its end is told")
    actor = f"gatepass:key:{org.namespace}/{name}"
    page = caller.get("/audit-logs", params={"actorEmail": actor, "eventType": "SESSION_STOP_ASKED"}).json()
    assert page["totalElements"] == 1
    (entry,) = page["content"]
    assert (entry["actorEmail"], entry["ipAddress"], entry["subjectId"]) == (actor, "198.51.100.7", started["id"])
    assert types(caller, **{"from": "2100-01-01T00:00:00Z"}) == types(caller, to="2000-01-01T00:00:00Z") == []


def entry_of(caller: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """What the trail tells of the request that was answered so."""

    def found() -> dict[str, Any] | None:
        page = caller.get("/audit-logs", params={"size": 100}).json()["content"]
        asked = answer.headers["X-Request-Id"]
        return next((entry for entry in page if entry["requestId"] == asked), None)

    return wait_for(found, "it is told") or {}


def test_who_from_where_with_what_and_in_which_request(org: Organisation) -> None:
    door, _ = org.door("told")
    key, name = org.key("sessions:write", "audit:read", resources=[{"name": "told"}])
    caller = org.by(key)
    started = caller.post("/sessions", json={"resourceIds": [door]})
    stopped = caller.post(f"/sessions/{started.json()['id']}/stop")
    refused = caller.get("/sessions")
    asked = {"name": "new", "provider": "AWS", "config": {"securityGroupId": "sg-0aaa", "region": "eu-central-1"}}
    made = org.person.post("/resources", json=asked)
    gone = org.person.delete(f"/resources/{made.json()['id']}")
    by_key = {
        "actorEmail": f"gatepass:key:{org.namespace}/{name}",
        "credential": f"key {key[8:16]}",
        "ipAddress": "198.51.100.7",
    }
    person = {"actorEmail": org.person.get("/auth/me").json()["email"], "credential": "token of Kubernetes"}
    for answer, status, event, outcome, who in (
        (started, 200, "SESSION_START_ASKED", "success", by_key),
        (stopped, 200, "SESSION_STOP_ASKED", "success", by_key),
        (refused, 403, "REQUEST_DENIED", "denied", by_key),
        (made, 200, "RESOURCE_CREATE_ASKED", "success", person),
        (gone, 204, "RESOURCE_DELETE_ASKED", "success", person),
    ):
        assert answer.status_code == status, answer.text
        entry = entry_of(caller, answer)
        assert (entry["eventType"], entry["outcome"]) == (event, outcome)
        assert entry.items() >= who.items()


def test_keys_are_told_of_by_whatever_way_they_are_made(org: Organisation) -> None:
    made = org.person.post("/api-keys", json={"name": "By HTTP", "scopes": ["sessions:read"]})
    asked = entry_of(org.person, made)
    who = org.person.get("/auth/me").json()["email"]
    assert (asked["eventType"], asked["actorEmail"]) == ("API_KEY_CREATE_ASKED", who)
    ended = org.person.delete(f"/api-keys/{made.json()['id']}")
    assert entry_of(org.person, ended)["eventType"] == "API_KEY_REVOKE_ASKED"
    bound = org.bind("by-kubectl", secretName="by-kubectl", scopes=["sessions:read"])["metadata"]["uid"]
    org.until_condition(BINDING, "by-kubectl", "Ready")
    org.patch(BINDING, "by-kubectl", spec={"revoked": True})
    for uid, facts in (
        (made.json()["id"], {"CREATED", "REVOKED"}),
        (bound, {"CREATED", "ISSUED", "REVOKED"}),
    ):
        wanted = {f"API_KEY_{fact}" for fact in facts}
        wait_for(lambda uid=uid, wanted=wanted: wanted <= _told_of(org, uid), "what became of it is told")
    page = org.person.get("/audit-logs", params={"size": 100}).text
    assert key_hash(made.json()["key"]) not in page
    assert made.json()["key"] not in page


def _told_of(org: Organisation, uid: str) -> set[str]:
    page = org.person.get("/audit-logs", params={"size": 100}).json()["content"]
    return {entry["eventType"] for entry in page if entry["subjectId"] == uid}


def test_bad_credentials_are_told_to_the_installation(org: Organisation, sandbox: Sandbox) -> None:
    key, name = org.key()
    org.patch(BINDING, name, spec={"revoked": True})
    caller = org.by(key)
    wait_for(lambda: caller.get("/sessions").status_code == 401, "the key's end")
    others = {"X-API-Key": "é".encode()}, {"Authorization": "Bearer x.y.z"}, {}
    answers = [caller.get("/sessions"), *(org.caller().get("/sessions", headers=each) for each in others)]
    assert {answer.status_code for answer in answers} == {401}
    wanted = [answer.headers["X-Request-Id"] for answer in answers]
    told = wait_for(lambda: _exported(sandbox, wanted), "all are told")
    whose = [told[each]["credential"] for each in wanted]
    assert whose == [f"key {key[8:16]}", "key of another make", None, None]
    for entry in told.values():
        assert (entry["eventType"], entry["outcome"], entry["actor"]) == ("API_KEY_USED_DENIED", "denied", None)
        assert (entry["namespace"], entry["address"]) == ("", ELSEWHERE)
        assert key not in str(entry)


def _exported(sandbox: Sandbox, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """The entries of these requests, which no tenant is shown; none while one is missing."""
    command = [sys.executable, "-m", "gatepass", "audit", "export"]
    done = subprocess.run(command, env=sandbox.env, capture_output=True, text=True, check=True, timeout=60)
    entries = (json.loads(line) for line in done.stdout.splitlines())
    told = {entry["requestId"]: entry for entry in entries if entry.get("requestId") in wanted}
    return told if len(told) == len(wanted) else {}


def test_who_stops_and_extends_by_kubectl_is_told(org: Organisation) -> None:
    org.door("moved")
    key, name = org.key(resources=[{"name": "moved"}])
    caller = org.by(key)
    started = caller.post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
    (session,) = [each for each in org.listed("accesssessions") if each["metadata"]["uid"] == started["id"]]
    kubectl = org.caller(Authorization=f"Bearer {org.token}").get("/auth/me").json()["email"]
    with org.as_member() as api:
        path = org.path("accesssessions", session["metadata"]["name"])
        api.request("PATCH", path, {"spec": {"duration": "2h"}}, MERGE)
        wait_for(lambda: "SESSION_EXTENDED" in types(caller), "that it was extended is told")
        api.request("PATCH", path, {"spec": {"stop": True}}, MERGE)
        wait_for(lambda: "SESSION_STOPPED" in types(caller, actorEmail=kubectl), "its end is told")
    told = caller.get("/audit-logs", params={"actorEmail": kubectl, "size": 100}).json()["content"]
    actors = {entry["eventType"]: entry["actorEmail"] for entry in told if entry["subjectId"] == started["id"]}
    assert actors == {"SESSION_STOPPED": kubectl, "SESSION_EXTENDED": kubectl}
    # By its own key the key is told, and what the operator does by itself is done for who started the session.
    again = caller.post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
    caller.post(f"/sessions/{again['id']}/stop", headers={"Prefer": "wait=30"})
    actor = f"gatepass:key:{org.namespace}/{name}"
    wait_for(lambda: "SESSION_STOPPED" in types(caller, actorEmail=actor), "its end is told")


def test_it_is_nobody_elses(org: Organisation, other: Organisation) -> None:
    org.by(org.key()[0]).get("/sessions")
    key, _ = other.key("audit:read")
    told = other.by(key).get("/audit-logs", params={"size": 100}).json()
    assert all(org.namespace not in str(entry) for entry in told["content"])
    assert told["totalElements"] == len(told["content"])


def test_people_need_the_verb(org: Organisation) -> None:
    assert org.person.get("/audit-logs").status_code == 200
    viewer = org.caller(Authorization=f"Bearer {org.member('view')}")
    wait_for(lambda: viewer.get("/sessions").status_code == 200, "the rights of the viewer")
    assert viewer.get("/audit-logs").status_code == 403


def test_bad_filters_are_named(org: Organisation) -> None:
    for field, value in (("eventType", "NOTHING"), ("from", "yesterday"), ("to", "1"), ("page", "-1"), ("size", "101")):
        told = org.person.get("/audit-logs", params={field: value})
        assert (told.status_code, list(told.json()["validationErrors"])) == (400, [field])


def test_times_are_those_of_utc(org: Organisation) -> None:
    for field, value in (("from", "0001-01-01T00:00:00+01:00"), ("to", "9999-12-31T23:59:59-01:00")):
        told = org.person.get("/audit-logs", params={field: value})
        assert (told.status_code, list(told.json()["validationErrors"])) == (400, [field])
    org.door("timed")
    everything = wait_for(lambda: types(org.person), "that it was created is told")
    assert types(org.person, **{"from": "0001-01-01T00:00:00Z"}, to="9999-12-31T23:59:59Z") == everything
    assert types(org.person, **{"from": "0001-01-01T23:00:00-01:00"}, to="9999-12-31T23:59:59+01:00") == everything
