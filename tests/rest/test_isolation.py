"""Two organisations: nothing of the one is seen or moved by the other, on any route."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.tenant import wait_for
from tests.rest.organisation import Organisation


@pytest.fixture(scope="module")
def theirs(other: Organisation) -> dict[str, str]:
    """What the other organisation has."""
    door, group = other.door("secret-db")
    key, name = other.key()
    session = other.by(key).post("/sessions", json={}).json()["id"]
    binding = other.get("apikeybindings", name)["metadata"]["uid"]
    wait_for(lambda: other.open_to(group), "their door is open")
    return {"session": session, "resource": door, "key": binding, "group": group}


def _by_key(org: Organisation, other: Organisation) -> httpx.Client:
    return org.by(org.key()[0])


def _by_token(org: Organisation, other: Organisation) -> httpx.Client:
    return org.person


def _by_token_in_their_namespace(org: Organisation, other: Organisation) -> httpx.Client:
    headers = {"Authorization": f"Bearer {org.token}", "X-Gatepass-Namespace": other.namespace}
    return org.caller(**headers)


def _by_key_in_their_namespace(org: Organisation, other: Organisation) -> httpx.Client:
    return org.caller(**{"X-API-Key": org.key()[0], "X-Gatepass-Namespace": other.namespace})


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/sessions/{session}", None),
    ("POST", "/sessions/{session}/stop", None),
    ("POST", "/sessions/{session}/extend", {"additionalHours": 1}),
    ("POST", "/sessions", {"resourceIds": ["{resource}"]}),
    ("GET", "/resources/{resource}", None),
    ("DELETE", "/resources/{resource}", None),
    ("DELETE", "/api-keys/{key}", None),
    ("POST", "/api-keys", {"name": "mine", "scopes": ["sessions:write"], "resourceIds": ["{resource}"]}),
]


@pytest.mark.parametrize(
    "strangers",
    [_by_key, _by_token, _by_token_in_their_namespace, _by_key_in_their_namespace],
    ids=lambda by: by.__name__,
)
def test_a_stranger_meets_nothing(
    org: Organisation,
    other: Organisation,
    theirs: dict[str, str],
    strangers: Callable[[Organisation, Organisation], httpx.Client],
) -> None:
    stranger = strangers(org, other)
    for method, path, body in ROUTES:
        filled = None if body is None else _filled(body, theirs)
        told = stranger.request(method, path.format(**theirs), json=filled)
        assert told.status_code in (403, 404), f"{method} {path}: {told.text}"
        leaked = [name for name in ("secret-db", theirs["group"]) if name in told.text]
        # Who names a namespace knows its name, and learns no more than that he may do nothing there.
        assert not leaked, f"{method} {path}: {told.text}"
    for path in ("/sessions", "/resources", "/api-keys"):
        told = stranger.get(path, params={"page": 0})
        assert told.status_code == 403 or not any(each["id"] in theirs.values() for each in told.json()["content"])
        if told.status_code == 200:
            mine = org.person.get(path).json()
            assert told.json()["totalElements"] <= len(mine)
    assert other.open_to(theirs["group"])
    assert other.person.get(f"/sessions/{theirs['session']}").json()["endedAt"] is None


def _filled(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    lists = {name: [each.format(**ids) for each in value] for name, value in body.items() if name == "resourceIds"}
    return {**body, **lists}


def test_a_key_for_one_resource_moves_no_session_of_another(org: Organisation) -> None:
    narrow_door, _ = org.door("narrow")
    wide_door, group = org.door("wide")
    wide, _ = org.key(resources=[{"name": "wide"}, {"name": "narrow"}])
    narrow, name = org.key(resources=[{"name": "narrow"}])
    session = org.by(wide).post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
    assert session["status"] == "ACTIVE"
    stranger = org.by(narrow)
    assert [each["id"] for each in stranger.get("/resources").json()] == [narrow_door]
    assert stranger.get("/sessions", params={"page": 0}).json()["totalElements"] == 0
    assert stranger.get(f"/resources/{wide_door}").status_code == 404
    assert stranger.post("/sessions", json={"resourceIds": [wide_door]}).status_code == 404
    for step, body in (("stop", None), ("extend", {"additionalHours": 1})):
        assert stranger.post(f"/sessions/{session['id']}/{step}", json=body).status_code == 404
    own = stranger.post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
    assert [each["resourceName"] for each in own["resourceIps"]] == ["narrow"]
    # What it opens no more it may not lengthen, and may stop.
    org.patch("apikeybindings", name, spec={"resources": [{"name": "wide"}]})
    wait_for(lambda: stranger.get(f"/resources/{wide_door}").status_code == 200, "the change of the binding")
    assert stranger.post(f"/sessions/{own['id']}/extend", json={"additionalHours": 1}).status_code == 403
    assert stranger.post(f"/sessions/{own['id']}/stop").status_code == 200
    assert org.open_to(group)
