"""Tokens of a CI provider: a real issuer, and everything that can be wrong with a token."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.product import Product
from tests.e2e.tenant import in_seconds, wait_for
from tests.rest.issuer import KEYS, Issuer
from tests.rest.organisation import BINDING, ELSEWHERE, Organisation

CLAIMS = {"owner_id": "9", "repository_id": "123", "protected": "true"}
GOOD: dict[str, Any] = {"owner_id": "9", "repository_id": 123, "protected": True, "ref": "refs/heads/main"}


@pytest.fixture(scope="module")
def issuers(service: Product) -> Iterator[tuple[Issuer, Issuer]]:
    """One that works, and one that never has."""
    one, dead = Issuer(), Issuer()
    dead.down = True
    with service.with_settings(GATEPASS_OIDC_ISSUERS=f"{one.url},{dead.url}"):
        yield one, dead
    one.close()
    dead.close()


@pytest.fixture(scope="module")
def issuer(issuers: tuple[Issuer, Issuer]) -> Issuer:
    return issuers[0]


@pytest.fixture(scope="module")
def bound(org: Organisation, issuer: Issuer) -> str:
    """The audience of a binding."""
    org.door()
    org.bind("ci", oidc={"issuer": issuer.url, "claims": CLAIMS}, scopes=["sessions:write", "sessions:read"])
    audience = f"gatepass:{org.namespace}/ci"
    wait_for(lambda: shown(org, issuer.token(aud=audience, **GOOD)).status_code == 200, "the binding is known")
    return audience


def shown(org: Organisation, token: str, address: str = ELSEWHERE) -> httpx.Response:
    return org.caller(address, Authorization=f"Bearer {token}").get("/auth/me")


def test_a_pipeline_opens_and_closes(org: Organisation, issuer: Issuer, bound: str) -> None:
    for audience in (bound, [bound]):
        caller = org.caller(Authorization=f"Bearer {issuer.token(aud=audience, **GOOD)}")
        told = caller.post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
        assert (told["status"], told["ipv4Address"]) == ("ACTIVE", ELSEWHERE)
        assert told["userEmail"] == f"gatepass:key:{org.namespace}/ci"
        assert caller.post(f"/sessions/{told['id']}/stop").status_code == 200
        assert caller.get("/resources").status_code == 403  # a scope that the binding has not
        assert caller.post("/api-keys", json={"name": "k", "scopes": ["sessions:read"]}).status_code == 403


def _forged(issuer: Issuer, audience: str, sign: Callable[[dict[str, Any]], str]) -> str:
    payload = issuer.token(aud=audience, **GOOD).split(".")[1]
    return sign(json.loads(base64.urlsafe_b64decode(payload + "==")))


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _none(claims: dict[str, Any]) -> str:
    return f"{_encoded({'alg': 'none', 'kid': 'first'})}.{_encoded(claims)}."


def _by_another(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, RSAKey.generate_key(2048))


def _hmac(issuer: Issuer) -> Callable[[dict[str, Any]], str]:
    """Signed with the public key, which everybody has."""
    public = issuer.keys["first"].as_pem(private=False)

    def sign(claims: dict[str, Any]) -> str:
        signed = f"{_encoded({'alg': 'HS256', 'kid': 'first'})}.{_encoded(claims)}"
        digest = hmac.digest(public, signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    return sign


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "gatepass:elsewhere/ci"},
        {"aud": "sts.amazonaws.com"},
        {"aud": None},
        {"aud": []},
        {"aud": "BOTH"},
        {"aud": {"a": "b"}},
        {"iss": "http://127.0.0.1:1"},
        {"iss": "https://token.actions.githubusercontent.com"},
        {"iss": None},
        {"iss": 7},
        {"owner_id": "10"},
        {"owner_id": None},
        {"owner_id": ["9"]},
        {"owner_id": " 9"},
        {"repository_id": "1234"},
        {"repository_id": 123.0},
        {"protected": "yes"},
        {"protected": False},
        {"exp": timedelta(minutes=-2)},
        {"exp": None},
        {"exp": "never"},
        {"nbf": timedelta(hours=1)},
        {"iat": timedelta(hours=1)},
    ],
    ids="-".join,
)
def test_a_token_of_another(org: Organisation, issuer: Issuer, bound: str, claims: dict[str, Any]) -> None:
    now = int(time.time())
    said = {
        name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
        for name, value in claims.items()
    }
    given = {"aud": bound, **GOOD, **said}
    if given["aud"] == "BOTH":
        given["aud"] = [bound, "sts.amazonaws.com"]
    told = shown(org, issuer.token(**given))
    assert (told.status_code, told.json()["error"]) == (401, "Unauthorized")


def test_a_token_that_is_forged(org: Organisation, issuer: Issuer, bound: str) -> None:
    for sign in (_none, _by_another, _hmac(issuer)):
        assert shown(org, _forged(issuer, bound, sign)).status_code == 401
    good = issuer.token(aud=bound, **GOOD)
    header, payload, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = _encoded({**claims, "sub": "repo:other/other"})
    for wrong in (
        f"{header}.{changed}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature[:-4]}AAAA",
        *(
            f"{_encoded({'alg': 'RS256', **kid})}.{payload}.{signature}"
            for kid in ({}, {"kid": None}, {"kid": ["first"]})
        ),
    ):
        assert shown(org, wrong).status_code == 401
    assert shown(org, good).status_code == 200


def test_the_clock_may_be_half_a_minute_off(org: Organisation, issuer: Issuer, bound: str) -> None:
    now = int(time.time())
    assert shown(org, issuer.token(aud=bound, **GOOD, nbf=now + 20, iat=now + 20)).status_code == 200
    assert shown(org, issuer.token(aud=bound, **GOOD, exp=now - 10)).status_code == 200


def test_keys_roll_over_and_what_is_unknown_is_asked_for_once(org: Organisation, issuer: Issuer, bound: str) -> None:
    issuer.add("second")
    issuer.add("never")
    issuer.published = ["first", "second"]
    before = issuer.asked.count(KEYS)
    assert shown(org, issuer.token("second", aud=bound, **GOOD)).status_code == 200
    assert issuer.asked.count(KEYS) == before + 1
    for _ in range(5):
        assert shown(org, issuer.token("never", aud=bound, **GOOD)).status_code == 401
    assert issuer.asked.count(KEYS) == before + 1
    issuer.down = True
    assert shown(org, issuer.token(aud=bound, **GOOD)).status_code == 200  # the keys that are known serve
    issuer.down = False


def test_an_issuer_that_never_answered(org: Organisation, issuers: tuple[Issuer, Issuer]) -> None:
    dead = issuers[1]
    org.bind("dead", oidc={"issuer": dead.url, "claims": CLAIMS}, scopes=["sessions:write"])
    token = dead.token(aud=f"gatepass:{org.namespace}/dead", **GOOD)
    told = wait_for(lambda: _unless_unknown(shown(org, token)), "the binding is known")
    assert told.status_code == 503
    assert "cannot be read: try again" in told.json()["message"]
    assert told.headers["Retry-After"]
    # Whether there is such a binding is not told before the issuer has vouched for who asks.
    stranger = shown(org, dead.token(aud="gatepass:elsewhere/nothing", **GOOD))
    assert (stranger.status_code, stranger.json()["message"]) == (503, told.json()["message"])


def _unless_unknown(told: httpx.Response) -> httpx.Response | None:
    return None if told.status_code == 401 else told


def test_the_bounds_of_the_binding_hold(org: Organisation, issuer: Issuer, bound: str) -> None:
    oidc = {"issuer": issuer.url, "claims": CLAIMS}
    org.bind("near", oidc=oidc, scopes=["sessions:read"], allowedCIDRs=["192.0.2.0/24"])
    near = issuer.token(aud=f"gatepass:{org.namespace}/near", **GOOD)
    wait_for(lambda: shown(org, near, "192.0.2.1").status_code == 200, "the binding is known")
    assert shown(org, near, ELSEWHERE).status_code == 401
    org.patch(BINDING, "near", spec={"revoked": True})
    wait_for(lambda: shown(org, near, "192.0.2.1").status_code == 401, "the end of the binding")
    org.bind("over", oidc=oidc, scopes=["sessions:read"], expiresAt=in_seconds(-5))
    assert shown(org, issuer.token(aud=f"gatepass:{org.namespace}/over", **GOOD)).status_code == 401


def test_a_key_has_no_token_and_a_token_no_key(org: Organisation, issuer: Issuer, bound: str) -> None:
    _, name = org.key()
    assert shown(org, issuer.token(aud=f"gatepass:{org.namespace}/{name}", **GOOD)).status_code == 401


@pytest.mark.parametrize(
    ("issuer_", "claims", "words"),
    [
        ("https://token.actions.githubusercontent.com", {"repository": "shop/backend"}, "repository_owner_id"),
        ("https://gitlab.com", {"project_path": "shop/backend"}, "namespace_id"),
        ("https://gitlab.com", {}, "spec.oidc.claims"),
        ("https://gitlab.com/", {"namespace_id": "9"}, "spec.oidc.issuer"),
        ("gitlab.com", {"namespace_id": "9"}, "spec.oidc.issuer"),
        ("https://gitlab.com", {"namespace_id": ""}, "spec.oidc.claims"),
    ],
)
def test_admission_wants_an_owner(org: Organisation, issuer_: str, claims: dict[str, str], words: str) -> None:
    with pytest.raises(KubeApiError, match=words):
        org.bind("refused", oidc={"issuer": issuer_, "claims": claims}, scopes=["sessions:read"])
