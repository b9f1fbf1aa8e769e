"""ApiKeyBindings at work: the key in its Secret, its rotation, its end."""

import base64
import threading
import time
from typing import Any

import httpx
import pytest

from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.tenant import MERGE, wait_for
from tests.rest.organisation import BINDING, ELSEWHERE, Organisation

NOW = {"Prefer": "wait=30"}
WRITER = {"scopes": ["sessions:write", "sessions:read"]}


@pytest.fixture(scope="module")
def door(org: Organisation) -> tuple[str, str]:
    return org.door()


def held(org: Organisation, name: str) -> str:
    """The key in a Secret."""
    return base64.b64decode(org.get_secret(name)["data"]["api-key"]).decode()


def issued(org: Organisation, name: str, before: str = "") -> str:
    """The key in a Secret once there is one, or another one than before, that works."""

    def found() -> str | None:
        try:
            key = held(org, name)
        except (KubeApiError, KeyError):
            return None
        return key if key != before and works(org, key) else None

    key = wait_for(found, f"another key in {name}")
    assert key is not None
    return key


def works(org: Organisation, key: str) -> bool:
    return org.by(key).get("/auth/me").status_code == 200


def test_a_key_is_made_and_goes_with_its_binding(org: Organisation) -> None:
    made = org.bind("ci", secretName="ci", **WRITER)
    key = issued(org, "ci")
    secret = org.get_secret("ci")
    assert [each["uid"] for each in secret["metadata"]["ownerReferences"]] == [made["metadata"]["uid"]]
    binding = org.until(BINDING, "ci", lambda item: item.get("status", {}).get("lastUsedIP"), "used")
    assert [each["id"] for each in binding["status"]["keys"]] == [key[8:16]]
    assert key not in str(binding)
    org.delete(BINDING, "ci")
    wait_for(lambda: not works(org, key), "the end of the key")
    # The cluster's own garbage collector, which learns of new kinds twice a minute.
    wait_for(lambda: not _exists(org, "ci"), "the end of the Secret", seconds=120)


def _exists(org: Organisation, name: str) -> bool:
    try:
        org.get_secret(name)
    except KubeApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def _edit(org: Organisation, name: str, change: dict[str, Any]) -> None:
    org.api.request("PATCH", f"/api/v1/namespaces/{org.namespace}/secrets/{name}", change, MERGE)


def test_a_secret_that_was_edited_or_deleted_gets_a_new_key(org: Organisation) -> None:
    org.bind("repaired", secretName="repaired", **WRITER)
    first = issued(org, "repaired")
    other = base64.b64encode(b"gp_live_somebody").decode()
    _edit(org, "repaired", {"data": {"api-key": other, "more": other}})
    second = issued(org, "repaired", first)
    assert set(org.get_secret("repaired")["data"]) == {"api-key"}
    assert not works(org, first)
    org.api.request("DELETE", f"/api/v1/namespaces/{org.namespace}/secrets/repaired")
    third = issued(org, "repaired", second)
    assert not works(org, second)
    # Neither does an old one come back by being written there again.
    _edit(org, "repaired", {"data": {"api-key": base64.b64encode(first.encode()).decode()}})
    fourth = issued(org, "repaired", first)
    assert fourth not in (first, second, third)
    assert not works(org, first)
    assert not works(org, third)


def test_a_secret_of_somebody_else_is_not_touched(org: Organisation) -> None:
    org.secret("theirs", password="hunter2")
    version = org.get_secret("theirs")["metadata"]["resourceVersion"]
    org.bind("conflict", secretName="theirs", **WRITER)
    org.until_condition(BINDING, "conflict", "SecretConflict")
    org.until_condition(BINDING, "conflict", "Ready", "False", "theirs")
    assert org.get_secret("theirs")["metadata"]["resourceVersion"] == version
    assert "hunter2" not in str(org.get(BINDING, "conflict"))
    org.api.request("DELETE", f"/api/v1/namespaces/{org.namespace}/secrets/theirs")
    # A change of the binding has the operator look at once, and not when it would have tried again.
    org.patch(BINDING, "conflict", metadata={"labels": {"touched": f"{time.monotonic_ns()}"}})
    issued(org, "theirs")
    org.until_condition(BINDING, "conflict", "Ready")


def test_who_reads_the_secret_at_each_run_never_fails_while_keys_change(org: Organisation) -> None:
    org.bind("rotated", secretName="rotated", **WRITER)
    first = issued(org, "rotated")
    done = threading.Event()
    seen: list[tuple[str, int]] = []

    def run() -> None:
        # A client of its own: those of the organisation are not for threads.
        with org.sibling() as api:
            while not done.is_set():
                data = api.request("GET", f"/api/v1/namespaces/{org.namespace}/secrets/rotated")["data"]
                key = base64.b64decode(data["api-key"]).decode()
                seen.append((key, org.by(key).get("/auth/me").status_code))

    worker = threading.Thread(target=run)
    worker.start()
    try:
        # Old enough for an interval of a minute: the rotation is due at once, and by status, not by the clock.
        _age(org, "rotated", seconds=120)
        org.patch(BINDING, "rotated", spec={"rotation": {"interval": "1m", "overlap": "10s"}})
        second = issued(org, "rotated", first)
        assert works(org, first)  # both work in the overlap
        wait_for(lambda: not works(org, first), "the end of the overlap")
        assert works(org, second)
    finally:
        done.set()
        worker.join()
    assert {status for _, status in seen} == {200}
    assert {key for key, _ in seen} == {first, second}
    assert any("RotationDue" in told or "KeyIssued" in told for told in org.events("rotated"))


def _age(org: Organisation, name: str, seconds: float) -> None:
    """As if its key had been made that long ago."""
    keys = org.get(BINDING, name)["status"]["keys"]
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
    with org.gatepass() as api:
        path = org.path(BINDING, name) + "/status"
        api.request("PATCH", path, {"status": {"keys": [{**keys[0], "createdAt": at}]}}, MERGE)


@pytest.mark.parametrize("end", ["revoked", "deleted"])
def test_the_end_of_a_key_ends_its_live_sessions(org: Organisation, door: tuple[str, str], end: str) -> None:
    key, name = org.key("sessions:write", resources=[{"name": "db"}])
    spared, _ = org.key("sessions:write", resources=[{"name": "db"}])
    other = org.by(spared, "192.0.2.2").post("/sessions", json={}, headers=NOW).json()
    session = org.by(key, "192.0.2.1").post("/sessions", json={}, headers=NOW).json()
    assert org.open_to(door[1]) == {"192.0.2.1/32", "192.0.2.2/32"}
    if end == "revoked":
        org.patch(BINDING, name, spec={"revoked": True})
    else:
        org.delete(BINDING, name)
    wait_for(lambda: org.open_to(door[1]) == {"192.0.2.2/32"}, "the end of the session")
    told = wait_for(lambda: _ended(org, session["id"]), "the status says so")
    assert told["endedReason"] == "KEY_REVOKED"
    org.by(spared, "192.0.2.2").post(f"/sessions/{other['id']}/stop", headers=NOW)


def _ended(org: Organisation, uid: str) -> dict[str, Any] | None:
    told: dict[str, Any] = org.person.get(f"/sessions/{uid}").json()
    return told if told["status"] == "CANCELLED" else None


def test_a_key_made_and_revoked_by_http(org: Organisation, door: tuple[str, str]) -> None:
    asked = {
        "name": "By HTTP",
        "scopes": ["sessions:write"],
        "resourceIds": [door[0]],
        "allowedCIDRs": ["192.0.2.9/24"],
    }
    made = org.person.post("/api-keys", json=asked).json()
    assert made["resourceIds"] == [door[0]]
    caller = org.by(made["key"], "192.0.2.1")
    session = caller.post("/sessions", json={}, headers=NOW).json()
    assert session["status"] == "ACTIVE"
    listed = next(each for each in org.person.get("/api-keys").json() if each["id"] == made["id"])
    assert "key" not in listed
    assert made["key"] not in str(org.listed(BINDING))
    assert org.person.delete(f"/api-keys/{made['id']}").status_code == 204
    assert caller.post("/sessions", json={}).status_code == 401  # at once where it was revoked
    wait_for(lambda: not org.open_to(door[1]), "the end of its session")
    assert next(each for each in org.person.get("/api-keys").json() if each["id"] == made["id"])["revoked"] is True


def test_a_key_opens_no_more_than_who_made_it_may_still_use(org: Organisation) -> None:
    door, group = org.door("lent")
    maker = org.binder("lent")
    told = wait_for(lambda: _made(maker, door), "the right to use it")
    caller = org.by(told["key"])
    name = _lose_rights(org, maker)
    wait_for(lambda: maker.get("/api-keys").status_code == 200 and _made(maker, door) is None, "the right is gone")
    started = caller.post("/sessions", json={}, headers=NOW).json()
    (shown,) = started["resourceIps"]
    assert (started["status"], shown["status"]) == ("FAILED", "FAILED")
    assert name in shown["errorMessage"]
    assert not org.open_to(group)
    caller.post(f"/sessions/{started['id']}/stop", headers=NOW)


def test_nor_does_it_lengthen_or_move_what_others_have_opened(org: Organisation) -> None:
    door, group = org.door("shared", policy={"followAddressChanges": True})
    theirs = org.by(org.key("sessions:write", resources=[{"name": "shared"}])[0])
    started = theirs.post("/sessions", json={"heartbeatSeconds": 60}, headers=NOW).json()
    maker = org.binder("shared")
    caller = org.by(wait_for(lambda: _made(maker, door), "the right to use it")["key"], "198.51.100.66")
    longer, beat = f"/sessions/{started['id']}/extend", f"/sessions/{started['id']}/heartbeat"
    wait_for(lambda: caller.post(longer, json={"additionalHours": 1}).status_code == 200, "it is vouched for")
    _lose_rights(org, maker)
    wait_for(lambda: caller.post(longer, json={"additionalHours": 1}).status_code == 403, "the right is gone")
    assert caller.post(beat).status_code == 200
    (session,) = [each for each in org.listed("accesssessions") if each["metadata"]["uid"] == started["id"]]
    assert "seenFrom" not in session["status"]["source"]
    assert org.open_to(group) == {f"{ELSEWHERE}/32"}
    theirs.post(f"/sessions/{started['id']}/stop", headers=NOW)


def _lose_rights(org: Organisation, maker: httpx.Client) -> str:
    """Who binds keys may use nothing from now on; answers with his name."""
    name = maker.get("/auth/me").json()["email"].rpartition(":")[2]
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{org.namespace}"
    binding = next(
        each["metadata"]["name"]
        for each in org.api.request("GET", f"{rbac}/rolebindings")["items"]
        if each["roleRef"]["kind"] == "Role" and each["subjects"][0]["name"] == name
    )
    org.api.request("DELETE", f"{rbac}/rolebindings/{binding}")
    return str(name)


def _made(maker: httpx.Client, door: str) -> dict[str, Any] | None:
    told = maker.post("/api-keys", json={"name": "k", "scopes": ["sessions:write"], "resourceIds": [door]})
    return dict(told.json()) if told.status_code == 200 else None


def test_a_key_is_not_for_resources_that_its_maker_may_not_use(org: Organisation, door: tuple[str, str]) -> None:
    maker: httpx.Client = org.binder("none-of-them")
    told = maker.post("/api-keys", json={"name": "k", "scopes": ["sessions:write"], "resourceIds": [door[0]]})
    assert told.status_code == 403, told.text
    assert maker.post("/api-keys", json={"name": "k", "scopes": ["sessions:write"]}).status_code == 403
