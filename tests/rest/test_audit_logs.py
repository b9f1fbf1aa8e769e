"""/audit-logs: what was done in the namespace, and in no other."""

from typing import Any

import httpx

from tests.e2e.tenant import wait_for
from tests.rest.organisation import Organisation


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
