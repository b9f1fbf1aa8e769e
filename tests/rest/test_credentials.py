"""Bad credentials, and what their answers do not tell."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from gatepass.core.types.common import format_time
from gatepass.sandbox.environment import Sandbox
from tests.e2e.tenant import in_seconds, wait_for
from tests.rest.organisation import BINDING, ELSEWHERE, Organisation


def alike(answer: httpx.Response) -> tuple[int, dict[str, Any], list[str]]:
    """An answer without its time."""
    told = answer.json()
    del told["timestamp"]
    return answer.status_code, told, sorted(answer.headers)


@pytest.fixture(scope="module")
def refused(org: Organisation) -> tuple[int, dict[str, Any], list[str]]:
    """The answer to no key at all."""
    return alike(org.caller().get("/sessions"))


def test_no_credentials(refused: tuple[int, dict[str, Any], list[str]]) -> None:
    status, told, headers = refused
    assert (status, told["error"], told["path"]) == (401, "Unauthorized", "/api/v1/sessions")
    assert "www-authenticate" in headers


@pytest.mark.parametrize(
    "wrong",
    ["", "egk_1a2b3c4d5e6f7g8h9i0j", "gp_live_" + "0" * 57, "é" * 65, "x" * 8000, "' or 1=1 --"],
    ids=["empty", "theirs", "made up", "not ascii", "long", "sql"],
)
def test_what_is_no_key(org: Organisation, refused: tuple[int, dict[str, Any], list[str]], wrong: str) -> None:
    headers = {"X-API-Key": wrong.encode()}
    assert alike(org.caller().get("/sessions", headers=headers)) == refused


def test_two_of_one_kind_are_none(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    """Which of them is meant, what stands before us may see otherwise."""
    key, another, token = org.key()[0], org.key()[0], f"Bearer {org.token}"
    for name, pair in (
        ("X-API-Key", (key, "wrong")),
        ("X-API-Key", ("wrong", key)),
        ("X-API-Key", (key, another)),
        ("Authorization", (token, "Bearer wrong")),
        ("Authorization", ("Bearer wrong", token)),
    ):
        assert alike(org.caller().get("/sessions", headers=[(name, each) for each in pair])) == refused
    assert alike(org.by(key).get("/sessions", headers=[("Authorization", "Basic x")] * 2)) == refused


def test_a_key_with_one_character_changed(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    key, _ = org.key()
    for at in range(len(key)):
        changed = key[:at] + ("a" if key[at] != "a" else "b") + key[at + 1 :]
        assert alike(org.by(changed).get("/sessions")) == refused
    assert alike(org.by(key[:-1]).get("/sessions")) == refused
    assert alike(org.by(key + "a").get("/sessions")) == refused
    assert org.by(key).get("/sessions").status_code == 200


def test_a_key_from_elsewhere(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    key, _ = org.key(allowedCIDRs=["192.0.2.0/24", "2001:db8::/64"])
    for inside in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7"):
        assert org.by(key, inside).get("/sessions").status_code == 200
    for outside in (ELSEWHERE, "192.0.3.1", "2001:db8:1::7", "unknown"):
        assert alike(org.by(key, outside).get("/sessions")) == refused
    # What the client itself wrote into the header stands left of what the proxy adds.
    assert alike(org.by(key, f"192.0.2.7, {ELSEWHERE}").get("/sessions")) == refused


def test_a_key_that_has_expired(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    end = datetime.now(UTC) + timedelta(seconds=12)
    key, name = org.key(expiresAt=format_time(end))
    wait_for(lambda: org.by(key).get("/sessions").status_code == 401, "the key's end")
    assert datetime.now(UTC) >= end.replace(microsecond=0)
    assert alike(org.by(key).get("/sessions")) == refused
    org.until_condition(BINDING, name, "Expired")


def test_a_key_that_was_revoked(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    key, name = org.key()
    org.patch(BINDING, name, spec={"revoked": True})
    wait_for(lambda: org.by(key).get("/sessions").status_code == 401, "the key's end")
    assert alike(org.by(key).get("/sessions")) == refused


def test_a_key_whose_binding_was_deleted(org: Organisation, refused: tuple[int, dict[str, Any], list[str]]) -> None:
    key, name = org.key()
    org.delete(BINDING, name)
    wait_for(lambda: org.by(key).get("/sessions").status_code == 401, "the key's end")
    assert alike(org.by(key).get("/sessions")) == refused


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token(org: Organisation, refused: tuple[int, dict[str, Any], list[str]], token: str) -> None:
    assert alike(org.caller(Authorization=f"Bearer {token}").get("/sessions")) == refused
    assert alike(org.caller(Authorization=f"Basic {token}").get("/sessions")) == refused


def test_a_copied_hash_does_not_take_a_key_over(org: Organisation, other: Organisation) -> None:
    key, name = org.key()
    made = org.get(BINDING, name)
    digest = made["spec"]["keyHash"]
    wait_for(lambda: in_seconds(0) > made["metadata"]["creationTimestamp"], "another second")
    other.bind("copied", keyHash=digest, scopes=["sessions:write"])
    other.key()  # by then the copy is known too
    assert org.by(key).get("/auth/me").json()["organization"] == org.namespace
    org.patch(BINDING, name, spec={"revoked": True})
    wait_for(lambda: org.by(key).get("/auth/me").status_code == 401, "the key's end, also by its copy")


def test_a_token_says_which_namespace_it_means(org: Organisation, sandbox: Sandbox) -> None:
    admin = f"Bearer {sandbox.control_plane.admin_token}"
    told = org.caller(Authorization=admin).get("/sessions")
    assert told.status_code == 400
    assert set(told.json()["validationErrors"]) == {"X-Gatepass-Namespace"}
    named = org.caller(Authorization=admin, **{"X-Gatepass-Namespace": org.namespace})
    assert named.get("/auth/me").json()["organization"] == org.namespace
    for wrong in ("..", "a/b", "Upper", "a?b=c", "x" * 64, "é".encode()):
        told = org.caller(Authorization=admin).get("/sessions", headers={b"X-Gatepass-Namespace": wrong})
        assert (told.status_code, set(told.json()["validationErrors"])) == (400, {"X-Gatepass-Namespace"})


def test_a_person_has_its_own_rights_only(org: Organisation) -> None:
    door, _ = org.door("guarded")
    viewer = org.caller(Authorization=f"Bearer {org.member('view')}")
    editor = org.caller(Authorization=f"Bearer {org.member('edit')}")
    nobody = org.caller(Authorization=f"Bearer {org.member('nothing')}")
    wait_for(lambda: viewer.get("/sessions").status_code == 200, "the rights of the viewer")
    wait_for(lambda: editor.get("/sessions").status_code == 200, "the rights of the editor")
    start = {"resourceIds": [door]}
    # Gatepass's account may create sessions and is exempt from `use`: a person's token must never act with that.
    for who in (viewer, editor, nobody):
        told = who.post("/sessions", json=start)
        assert told.status_code == 403, told.text
        assert who.post("/api-keys", json={"name": "mine", "scopes": ["sessions:write"]}).status_code == 403
        assert who.delete(f"/resources/{door}").status_code == 404
        assert who.post("/resources", json=_resource()).status_code == 403
    assert nobody.get("/sessions").status_code == 403
    assert nobody.get(f"/resources/{door}").status_code == 404
    made = org.person.post("/sessions", json=start)
    assert made.status_code == 200, made.text
    session = org.listed("accesssessions")[-1]
    assert '"username":"system:serviceaccount:' in session["metadata"]["annotations"]["gatepass.dev/requested-by"]
    assert "request" not in session["spec"]["source"]
    for who in (viewer, nobody):
        assert who.post(f"/sessions/{made.json()['id']}/stop").status_code == 404
    assert editor.post(f"/sessions/{made.json()['id']}/stop").status_code == 200


def _resource() -> dict[str, Any]:
    return {"name": "new", "provider": "AWS", "config": {"securityGroupId": "sg-0aaa", "region": "eu-central-1"}}


def test_nothing_of_a_key_or_a_token_is_told(org: Organisation, sandbox: Sandbox) -> None:
    key, _ = org.key()
    org.by(key).post("/sessions", json={"durationHours": 99})
    org.by(key[:-1] + "!").get("/sessions")
    org.bind("written", secretName="written", scopes=["sessions:read"])
    org.until_condition(BINDING, "written", "Ready")
    wait_for(lambda: "KeyIssued" in "".join(org.events("written")), "the Event of the new key")
    log = sandbox.operator_log.read_text(errors="replace")
    secrets = re.findall(r"gp_live_[0-9A-Za-z]{20,}", log)
    assert not secrets
    assert org.token not in log
    assert org.token.rpartition(".")[2] not in log
    everywhere = str([org.listed(BINDING), org.api.request("GET", f"/api/v1/namespaces/{org.namespace}/events")])
    assert "gp_live_" not in everywhere
