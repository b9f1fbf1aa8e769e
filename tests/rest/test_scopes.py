"""Each scope against each route: what the documentation says it grants, and nothing else."""

from typing import Any, Final

import pytest

from gatepass.core.types.binding import Scope
from tests.rest.organisation import Organisation

# What a key that has the scope is answered: the ids are nobody's, so that nothing is made.
ROUTES: Final = [
    ("GET", "/sessions", Scope.SESSIONS_READ, 200),
    ("GET", "/sessions/{id}", Scope.SESSIONS_READ, 404),
    ("POST", "/sessions", Scope.SESSIONS_WRITE, 404),
    ("POST", "/sessions/{id}/stop", Scope.SESSIONS_WRITE, 404),
    ("POST", "/sessions/{id}/extend", Scope.SESSIONS_WRITE, 404),
    ("POST", "/sessions/{id}/heartbeat", Scope.SESSIONS_WRITE, 404),
    ("GET", "/resources", Scope.RESOURCES_READ, 200),
    ("GET", "/resources/{id}", Scope.RESOURCES_READ, 404),
    ("GET", "/audit-logs", Scope.AUDIT_READ, 200),
]
BODIES: Final[dict[str, Any]] = {
    "/sessions": {"resourceIds": ["660e8400-e29b-41d4-a716-446655440001"]},
    "/sessions/{id}/extend": {"additionalHours": 1},
}
NOT_FOR_KEYS: Final = [
    ("POST", "/resources"),
    ("DELETE", "/resources/{id}"),
    ("GET", "/api-keys"),
    ("POST", "/api-keys"),
    ("DELETE", "/api-keys/{id}"),
    *(
        (method, f"/{area}{rest}")
        for area in ("users", "roles", "credentials", "organization", "mfa", "static-ip-rules")
        for method, rest in (("GET", ""), ("POST", ""), ("DELETE", "/1"))
    ),
]
BODIES_OF_PEOPLE: Final[dict[str, Any]] = {
    "/resources": {"name": "db", "provider": "AWS", "config": {"securityGroupId": "sg-1", "region": "eu-central-1"}},
    "/api-keys": {"name": "mine", "scopes": ["sessions:read"]},
}
NOBODY: Final = "123e4567-e89b-42d3-a456-426614174000"


@pytest.fixture(scope="module")
def keys(org: Organisation) -> dict[Scope, str]:
    return {scope: org.key(scope.value)[0] for scope in Scope}


@pytest.fixture(scope="module")
def everything(org: Organisation) -> str:
    return org.key()[0]


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize(("method", "path", "needed", "answer"), ROUTES)
def test_a_scope_grants_its_routes_and_no_other(
    org: Organisation, keys: dict[Scope, str], method: str, path: str, needed: Scope, answer: int, scope: Scope
) -> None:
    told = org.by(keys[scope]).request(method, path.format(id=NOBODY), json=BODIES.get(path))
    if scope is needed:
        assert told.status_code == answer, told.text
        return
    assert told.status_code == 403
    body = told.json()
    assert body["error"] == "Insufficient permissions"
    assert body["message"] == f"API key does not have required scope: {needed.value}"


@pytest.mark.parametrize(("method", "path"), NOT_FOR_KEYS)
def test_some_routes_are_for_no_key(org: Organisation, everything: str, method: str, path: str) -> None:
    told = org.by(everything).request(method, path.format(id=NOBODY), json=BODIES_OF_PEOPLE.get(path))
    assert told.status_code == 403, told.text
    assert told.json()["error"] == "Insufficient permissions"


def test_writing_alone_shows_what_was_made_and_lists_nothing(org: Organisation, keys: dict[Scope, str]) -> None:
    org.door("shown")
    writer = org.by(keys[Scope.SESSIONS_WRITE])
    made = writer.post("/sessions", json={}).json()
    assert made["resourceIps"]
    assert writer.get(f"/sessions/{made['id']}").status_code == 403
    assert writer.get("/sessions").status_code == 403
    assert writer.post(f"/sessions/{made['id']}/stop").json()["id"] == made["id"]


def test_health_and_address_need_nothing(org: Organisation) -> None:
    nobody = org.caller()
    assert nobody.get("/health").json() == {"status": "UP"}
    assert nobody.get("/detect-ip").json() == {"ip": "198.51.100.7", "version": "IPv4"}
    assert nobody.get("/auth/me").status_code == 401


def test_who_a_key_is(org: Organisation) -> None:
    key, name = org.key("sessions:read", "resources:read")
    told = org.by(key).get("/auth/me").json()
    assert (told["name"], told["organization"]) == (name, org.namespace)
    assert told["email"] == f"gatepass:key:{org.namespace}/{name}"
    assert told["scopes"] == ["sessions:read", "resources:read"]


def test_who_a_person_is(org: Organisation) -> None:
    told = org.person.get("/auth/me").json()
    assert told["organization"] == org.namespace
    assert told["email"].startswith(f"system:serviceaccount:{org.namespace}:")


@pytest.mark.parametrize("step", ["register", "login", "refresh"])
def test_there_are_no_accounts(org: Organisation, step: str) -> None:
    told = org.caller().post(f"/auth/{step}", json={})
    assert told.status_code == 404
    assert "token" in told.json()["message"]
