"""Wrong input: 400, and which field; never a 500."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rest.organisation import Organisation

ID = "660e8400-e29b-41d4-a716-446655440001"
CONFIG = {"securityGroupId": "sg-0123456789abcdef0", "region": "eu-central-1"}


def session(**fields: Any) -> tuple[str, Any]:
    return "/sessions", fields


def resource(**fields: Any) -> tuple[str, Any]:
    return "/resources", {"name": "db", "provider": "AWS", "config": CONFIG, **fields}


def config(**fields: Any) -> tuple[str, Any]:
    return resource(config={**CONFIG, **fields})


def key(**fields: Any) -> tuple[str, Any]:
    return "/api-keys", {"name": "ci", "scopes": ["sessions:read"], **fields}


WRONG: list[tuple[tuple[str, Any], str]] = [
    *((session(durationHours=hours), "durationHours") for hours in (0, -1, 25, 1.5, "1", True, None, [], {}, 10**30)),
    (session(resourceIds=[]), "resourceIds"),
    (session(resourceIds=ID), "resourceIds"),
    (session(resourceIds=["x"]), "resourceIds.0"),
    (session(resourceIds=[ID, "123"]), "resourceIds.1"),
    (session(resourceIds=[7]), "resourceIds.0"),
    (session(resourceIds=[f"{ID}\0"]), "resourceIds.0"),
    (session(resourceIds=[ID, ID]), "resourceIds"),
    (session(resourceIds=[ID, ID.upper()]), "resourceIds"),
    (session(resourceIds=[ID[:-2] + f"{n:02}" for n in range(33)]), "resourceIds"),
    *((session(ipv4Address=text), "ipv4Address") for text in ("", "x", "1.2.3", "1.2.3.4/24", "::1", 7, "1.2.3.4\0")),
    *((session(ipv4Address=text), "ipv4Address") for text in ("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1")),
    *((session(ipv6Address=text), "ipv6Address") for text in ("", "x", "1.2.3.4", "2001:db8::/64", 7)),
    *(
        (session(ipv6Address=text), "ipv6Address")
        for text in ("::", "::1", "fe80::1", "fe80::1%eth0", "2001:db8::1%0", "ff02::1", "::ffff:192.0.2.1")
    ),
    (session(reason="a\0b"), "reason"),
    (session(reason="a\nb"), "reason"),
    (session(reason="x" * 257), "reason"),
    (session(reason=7), "reason"),
    (session(surprise=1), "surprise"),
    (session(duration_hours=1), "duration_hours"),
    (session(**{"a\0b": 1}), "a\0b"),
    (resource(name=""), "name"),
    (resource(name="x" * 64), "name"),
    (resource(name="a\0"), "name"),
    (resource(name="-"), "name"),
    (resource(name=7), "name"),
    (resource(provider="GCP"), "provider"),
    (resource(credentialId="none"), "credentialId"),
    (resource(config=None), "config"),
    (resource(config=[]), "config"),
    (resource(more=1), "more"),
    *((config(port=port), "config.port") for port in (0, 65536, "22", 1.5, True)),
    (config(ports=[]), "config.ports"),
    (config(ports=[22, 0]), "config.ports"),
    (config(ports=[22, "x"]), "config.ports.1"),
    (config(port=1, ports=[2]), "config"),
    (config(protocol="ICMP", port=1), "config"),
    (config(protocol="tcp"), "config.protocol"),
    (config(securityGroupIds=["sg-0aaa"]), "config"),
    (config(securityGroupId="x"), "config.securityGroupIds"),
    (config(region="nowhere!"), "config.region"),
    (config(surprise=1), "config.surprise"),
    (key(name=""), "name"),
    (key(scopes=[]), "scopes"),
    (key(scopes="sessions:read"), "scopes"),
    (key(scopes=["sessions:*"]), "scopes.0"),
    (key(scopes=["sessions:read", "sessions:read"]), "scopes"),
    (key(resourceIds=[]), "resourceIds"),
    (key(resourceIds=[ID, ID]), "resourceIds"),
    (key(allowedCIDRs=["x"]), "allowedCIDRs.0"),
    (key(allowedCIDRs=[7]), "allowedCIDRs.0"),
    (key(allowedCIDRs=["2001:db8::%0/64"]), "allowedCIDRs.0"),
    *((key(maxDurationHours=hours), "maxDurationHours") for hours in (0, 25, 1.5, "1")),
    *(
        (key(expiresAt=when), "expiresAt")
        for when in (7, "tomorrow", "2036-01-01T00:00:00", [], "2026-01-01T00:00:00Z")
    ),
    # In no year of UTC, and in one that the API server does not take.
    (key(expiresAt="0001-01-01T00:00:00+01:00"), "expiresAt"),
    (key(expiresAt="9999-12-31T23:59:59-01:00"), "expiresAt"),
    (key(expiresAt="9999-12-31T23:59:59Z"), "expiresAt"),
    (key(more=1), "more"),
]


@pytest.mark.parametrize(("request_", "field"), WRONG)
def test_wrong_fields_are_named(org: Organisation, request_: tuple[str, Any], field: str) -> None:
    path, body = request_
    told = org.person.post(path, json=body)
    assert told.status_code == 400, told.text
    answer = told.json()
    assert list(answer) == ["timestamp", "status", "error", "message", "path", "validationErrors"]
    assert (answer["status"], answer["error"], answer["path"]) == (400, "Bad Request", f"/api/v1{path}")
    assert field in answer["validationErrors"]
    assert answer["message"]


ODD: list[tuple[bytes, str]] = [
    (b'{"durationHours": NaN}', "durationHours"),
    (b'{"durationHours": 1e999}', "durationHours"),
    (rb'{"reason": "\ud800"}', "reason"),
    (rb'{"\ud800": 1}', "body"),
    (rb'{"resourceIds": ["\udfff"]}', "resourceIds.0"),
    (b'{"query": 1}', "query"),
    *(
        (body, "body")
        for body in (b"", b"{", b'{"durationHours": 1,}', b"\0", b"nothing", b"[]", b"7", b'"text"', b"null", b"{}{}")
    ),
    *(
        (body, "body")
        for body in (
            b'{"durationHours": ' + b"9" * 5000 + b"}",
            b'{"reason": "\xff"}',
            b"\xff\xfe",
            b"[" * 30_000,
            b'{"a":' * 10_000,
        )
    ),
]


@pytest.mark.parametrize(("body", "field"), ODD, ids=lambda given: repr(given[:24]))
def test_what_is_no_json_or_no_object(org: Organisation, body: bytes, field: str) -> None:
    told = org.person.post("/sessions", content=body)
    assert told.status_code == 400, told.text
    told_of = told.json()["validationErrors"]
    assert field in told_of
    assert not any(each.isdigit() for each in told_of)


@pytest.mark.parametrize("path", ["/sessions", "/resources", "/api-keys"])
def test_any_content_type_is_json(org: Organisation, path: str) -> None:
    told = org.person.post(
        path, content=b'{"surprise": 1}', headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert "surprise" in told.json()["validationErrors"]


def test_bodies_have_a_limit(org: Organisation) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    whole = json.dumps({"reason": "x" * 65_536}).encode()
    for content in (whole, endless()):
        told = org.person.post("/sessions", content=content)
        assert (told.status_code, told.json()["status"]) == (413, 413)
        assert "X-RateLimit-Limit" in told.headers


@pytest.mark.parametrize("wrong", ["x", "1", "660e8400-e29b-41d4-a716-44665544000", "%00", "%ff"])
@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/sessions/{}", "session_id"),
        ("POST", "/sessions/{}/stop", "session_id"),
        ("GET", "/resources/{}", "resource_id"),
        ("DELETE", "/resources/{}", "resource_id"),
        ("DELETE", "/api-keys/{}", "key_id"),
    ],
)
def test_wrong_ids(org: Organisation, method: str, path: str, field: str, wrong: str) -> None:
    told = org.person.request(method, path.format(wrong))
    assert told.status_code == 400, told.text
    assert set(told.json()["validationErrors"]) == {field}


@pytest.mark.parametrize("path", ["/sessions", "/resources", "/api-keys"])
@pytest.mark.parametrize(
    ("query", "field"),
    [("page=-1", "page"), ("page=x", "page"), ("page=1.5", "page"), ("page=99999999999999999999", "page")]
    + [(f"size={size}", "size") for size in ("0", "-1", "101", "x", "", "%00")],
)
def test_wrong_pages(org: Organisation, path: str, query: str, field: str) -> None:
    told = org.person.get(f"{path}?{query}")
    assert told.status_code == 400, told.text
    assert set(told.json()["validationErrors"]) == {field}


def test_paths_and_methods_that_are_not_there(org: Organisation) -> None:
    for path in ("/nothing", "/sessions/", "/sessions/1/2/3"):
        told = org.person.get(path)
        assert (told.status_code, told.json()["path"]) == (404, f"/api/v1{path}")
    told = org.person.put("/sessions")
    assert (told.status_code, told.json()["error"]) == (405, "Method Not Allowed")
    assert set(told.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("path", ["/health", "/detect-ip", "/sessions", "/resources?size=1", "/openapi.json"])
def test_head_is_get_without_the_body(org: Organisation, path: str) -> None:
    asked, told = org.person.get(path), org.person.head(path)
    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["Content-Length"] == asked.headers["Content-Length"]
    assert org.caller().head("/sessions").status_code == 401


def test_what_the_api_server_refuses_names_the_field_too(org: Organisation) -> None:
    door, _ = org.door("short", policy={"maxDuration": "1h"})

    def told() -> dict[str, Any]:
        answer = org.person.post("/sessions", json={"resourceIds": [door], "durationHours": 2})
        assert answer.status_code == 400, answer.text
        return dict(answer.json())

    assert "durationHours" in told()["validationErrors"]
    assert told()["message"].startswith("spec.duration: 2h is above the 1h that ProtectedResource")
    both = {"ipv4Address": "203.0.113.9", "ipv6Address": "2001:db8::9", "resourceIds": [door]}
    for given in ({"ipv4Address": "10.0.0.1"}, {"ipv6Address": "fd00::1"}):
        refused = org.person.post("/sessions", json={**both, **given})
        assert refused.status_code == 400, refused.text
        assert set(refused.json()["validationErrors"]) == set(given)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"resourceIds": ID}, {"resourceIds": "must be a list"}),
        ({"resourceIds": []}, {"resourceIds": "must be no shorter than 1"}),
        ({"reason": "x" * 257}, {"reason": "must be no longer than 256"}),
        ([], {"body": "must be an object"}),
    ],
)
def test_what_is_wrong_is_said_in_words_of_json(org: Organisation, body: Any, errors: dict[str, str]) -> None:
    assert org.person.post("/sessions", json=body).json()["validationErrors"] == errors


def test_a_list_is_not_called_short_for_what_is_in_it(org: Organisation) -> None:
    told = org.person.post("/sessions", json={"resourceIds": ["x"]}).json()
    assert set(told["validationErrors"]) == {"resourceIds.0"}


def test_who_is_seen_as_nobody_is_told_at_once(org: Organisation) -> None:
    """As behind a proxy that is not configured; not by a session that fails."""
    org.door("nobody")
    key, _ = org.key("sessions:write")
    for address in ("127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "::1", "fe80::1", "::"):
        for caller in (org.by(key, address), org.caller(address, Authorization=f"Bearer {org.token}")):
            told = caller.post("/sessions", json={})
            assert told.status_code == 400, told.text
            assert set(told.json()["validationErrors"]) == {"ipv6Address" if ":" in address else "ipv4Address"}
    given = org.by(key, "127.0.0.1").post("/sessions", json={"ipv4Address": "203.0.113.9"})
    assert given.status_code == 200, given.text
    org.person.post(f"/sessions/{given.json()['id']}/stop")


def test_a_whole_number_is_one_however_it_is_written(org: Organisation) -> None:
    told = org.person.post("/sessions", content=b'{"durationHours": 2.0, "resourceIds": []}')
    assert set(told.json()["validationErrors"]) == {"resourceIds"}


def test_addresses_are_stored_canonical(org: Organisation) -> None:
    org.door("spelled")
    given = {"ipv4Address": "203.0.113.9", "ipv6Address": "2001:0db8:85a3:0000:0000:8a2e:0370:7334"}
    told = org.person.post("/sessions", json=given).json()
    assert (told["ipv4Address"], told["ipv6Address"]) == ("203.0.113.9", "2001:db8:85a3::8a2e:370:7334")
    org.person.post(f"/sessions/{told['id']}/stop")
