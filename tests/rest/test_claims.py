"""Claiming a session: by the right caller once for each family, and by nobody else."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.product import Product
from tests.e2e.tenant import SESSION, condition, wait_for
from tests.rest.organisation import Organisation

HERE: Final = "198.51.100.21"
ELSEWHERE: Final = "198.51.100.22"
SIX: Final = "2001:db8::21"


@pytest.fixture(scope="module")
def group(org: Organisation) -> str:
    return org.door("claimed")[1]


class Claim:
    """A session that can be claimed, and its token."""

    def __init__(self, org: Organisation, name: str, within: str = "5m") -> None:
        self.org, self.name = org, name
        org.session("claimed", name=name, source={"claim": {"within": within}})
        self.offer = wait_for(lambda: self.status.get("claim"), "the claim is offered")
        data = org.get_secret(self.offer["secretName"])["data"]
        self.token = base64.b64decode(data["token"]).decode()

    @property
    def status(self) -> dict[str, Any]:
        return self.org.get(SESSION, self.name).get("status", {})

    def by(self, address: str, token: str | None = None, **headers: str) -> httpx.Response:
        """Call from there."""
        path = self.offer["url"].partition("/api/v1")[2]
        caller = self.org.caller(address, Authorization=f"Bearer {token or self.token}", **headers)
        return caller.post(path)

    def until_active(self) -> dict[str, Any]:
        self.org.until_condition(SESSION, self.name, "Ready")
        return self.status

    def end(self) -> None:
        self.org.until_stopped(self.name)


def events(org: Organisation, kind: str, uid: str) -> list[dict[str, Any]]:
    told = org.person.get("/audit-logs", params={"eventType": kind, "size": 100}).json()
    return [entry for entry in told["content"] if entry["subjectId"] == uid]


def test_the_right_caller_opens_the_door_and_starts_the_clock(org: Organisation, group: str) -> None:
    claim = Claim(org, "right")
    item = org.get(SESSION, "right")
    uid = item["metadata"]["uid"]
    assert claim.offer["url"].endswith(f"/api/v1/sessions/{uid}/claim")
    assert claim.token not in str(item)
    (owner,) = org.get_secret("right-claim")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("AccessSession", uid)
    assert condition(item, "SourceResolved")["reason"] == "Unclaimed"
    assert ("startedAt" in item["status"], org.open_to(group)) == (False, set())
    assert org.person.get(f"/sessions/{uid}").json()["expiresAt"] == claim.offer["expiresAt"]

    told = claim.by(HERE)
    assert [each["errorMessage"] for each in told.json()["resourceIps"]] == [None], "what is done is asked for no more"
    assert (told.status_code, told.json()["ipv4Address"]) == (200, HERE)
    status = claim.until_active()
    assert (told.json()["startedAt"], told.json()["expiresAt"]) == (status["startedAt"], status["expiresAt"])
    assert status["expiresAt"] > claim.offer["expiresAt"]
    assert org.open_to(group) == {f"{HERE}/32"}
    assert status["startedAt"] >= item["metadata"]["creationTimestamp"]
    (address,) = status["source"]["addresses"]
    assert (address["ip"], address["evidence"]) == (HERE, "claimed by the REST API's caller")
    assert address["observedAt"] == status["startedAt"]

    assert claim.by(HERE).status_code == 200, "asking again is no other claim"
    assert claim.status["startedAt"] == status["startedAt"]
    (entry,) = wait_for(lambda: events(org, "SESSION_CLAIMED", uid), "it is told")
    assert (entry["requestId"], entry["ipAddress"]) == (told.headers["X-Request-Id"], HERE)
    claim.end()
    wait_for(lambda: events(org, "SESSION_STOPPED", uid), "its end is told")
    assert events(org, "SESSION_EXTENDED", uid) == [], "a clock that begins is not extended"


def test_a_second_caller_is_refused_and_told_of(org: Organisation, group: str) -> None:
    claim = Claim(org, "second")
    uid = org.get(SESSION, "second")["metadata"]["uid"]
    assert claim.by(HERE).status_code == 200
    claim.until_active()
    told = claim.by(ELSEWHERE)
    assert told.status_code == 409
    assert "claimed from another address" in told.json()["message"]
    assert HERE not in told.text, "whoever has stolen a token learns nothing"
    assert org.open_to(group) == {f"{HERE}/32"}
    (entry,) = wait_for(lambda: events(org, "SESSION_CLAIM_DENIED", uid), "it is told")
    assert entry["ipAddress"] == ELSEWHERE
    claim.end()


def test_of_many_at_once_one_wins(org: Organisation, group: str) -> None:
    claim = Claim(org, "race")
    callers = [f"198.51.100.{number}" for number in range(50, 62)]
    with ThreadPoolExecutor(len(callers)) as pool:
        told = list(pool.map(lambda address: (claim.by(address).status_code, address), callers))
    winners = [address for status, address in told if status == 200]
    assert len(winners) == 1, told
    assert {status for status, _ in told} == {200, 409}
    claim.until_active()
    assert org.open_to(group) == {f"{winners[0]}/32"}
    claim.end()


@pytest.mark.parametrize("token", ["gp_claim_wrong", "x", "gp_claim_" + "0" * 49])
def test_another_token_is_none(org: Organisation, group: str, token: str) -> None:
    claim = Claim(org, f"wrong-{len(token)}")
    assert claim.by(HERE, token).status_code == 401
    assert "startedAt" not in claim.status
    claim.end()


def test_two_tokens_are_none(org: Organisation, group: str) -> None:
    """Which of them is meant, a proxy in between may have seen otherwise."""
    claim = Claim(org, "two")
    path = claim.offer["url"].partition("/api/v1")[2]
    both = [("Authorization", f"Bearer {token}") for token in (claim.token, "gp_claim_wrong")]
    assert org.caller(HERE).post(path, headers=both).status_code == 401
    assert "startedAt" not in claim.status
    claim.end()


def test_the_token_of_one_session_claims_no_other(org: Organisation, group: str) -> None:
    one, other = Claim(org, "one"), Claim(org, "other")
    refused, unknown = (
        one.by(HERE, other.token),
        org.caller(HERE, Authorization=f"Bearer {one.token}").post(
            "/sessions/00000000-0000-4000-8000-000000000000/claim"
        ),
    )
    assert refused.status_code == unknown.status_code == 401
    assert refused.json()["message"] == unknown.json()["message"], "nobody learns which sessions there are"
    for headers in ({}, {"X-API-Key": one.token}, {"Authorization": f"Basic {one.token}"}):
        path = one.offer["url"].partition("/api/v1")[2]
        assert org.caller(HERE, **headers).post(path).status_code == 401
    one.end()
    other.end()


def test_both_families_once_each(org: Organisation, group: str) -> None:
    claim = Claim(org, "both")
    assert claim.by(HERE).status_code == 200
    claim.until_active()
    told = claim.by(SIX)
    assert (told.status_code, told.json()["ipv6Address"]) == (200, SIX)
    wait_for(lambda: org.open_to(group) == {f"{HERE}/32", f"{SIX}/128"}, "both are open")
    assert claim.by("2001:db8::22").status_code == 409
    assert claim.by(ELSEWHERE).status_code == 409
    assert (claim.by(HERE).status_code, claim.by(SIX).status_code) == (200, 200)
    assert org.open_to(group) == {f"{HERE}/32", f"{SIX}/128"}
    claim.end()


def test_who_comes_too_late_gets_nothing(org: Organisation, group: str) -> None:
    claim = Claim(org, "late", within="10s")
    wait_for(lambda: claim.status.get("endedReason") == "Unclaimed", "it ends")
    assert claim.by(HERE).status_code == 409
    assert (claim.status["phase"], org.open_to(group)) == ("Expired", set())


def test_a_stopped_session_is_not_claimed(org: Organisation, group: str) -> None:
    claim = Claim(org, "stopped")
    uid = org.get(SESSION, "stopped")["metadata"]["uid"]
    claim.end()
    wait_for(lambda: claim.status.get("endedAt"), "it ends")
    assert claim.by(HERE).status_code == 409
    assert org.open_to(group) == set()
    (entry,) = wait_for(lambda: events(org, "SESSION_CLAIM_DENIED", uid), "it is told")
    assert (entry["ipAddress"], entry["outcome"]) == (HERE, "denied")


def test_a_forged_header_moves_nobody(org: Organisation, group: str, service: Product, sandbox: Sandbox) -> None:
    """Of what trusted proxies forward, only what they themselves have added is believed."""
    claim = Claim(org, "forged")
    told = claim.by(f"{ELSEWHERE}, {HERE}")
    assert (told.status_code, told.json()["ipv4Address"]) == (200, HERE)
    claim.end()

    direct = Claim(org, "direct")
    path = direct.offer["url"].partition("/api/v1")[2]
    transport = httpx.HTTPTransport(local_address="127.0.0.2")  # no trusted proxy
    port = sandbox.env["GATEPASS_API_PORT"]
    with httpx.Client(
        transport=transport, base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60, trust_env=False
    ) as caller:
        headers = {"Authorization": f"Bearer {direct.token}", "X-Forwarded-For": HERE}
        assert caller.post(path, headers=headers).status_code == 400, "nobody is let in from loopback"
    assert "startedAt" not in direct.status
    direct.end()


def test_through_the_load_balancer_with_the_url_as_it_is(org: Organisation, group: str, sandbox: Sandbox) -> None:
    claim = Claim(org, "balanced")
    headers = {"Authorization": f"Bearer {claim.token}", "X-Forwarded-For": ELSEWHERE}
    told = httpx.post(claim.offer["url"], headers=headers, timeout=60, trust_env=False)
    assert told.status_code == 200
    assert told.json()["ipv4Address"] not in (ELSEWHERE, None), "what the caller writes stands left of the balancer's"
    claim.end()


def test_a_claim_outlives_a_crash(org: Organisation, group: str, service: Product) -> None:
    before, after = Claim(org, "before"), Claim(org, "after")
    assert before.by(HERE).status_code == 200
    before.until_active()
    service.kill()
    service.start()
    assert after.by(ELSEWHERE).status_code == 200, "the token is the same"
    after.until_active()
    assert before.by(HERE).status_code == 200
    assert before.by(ELSEWHERE).status_code == 409
    assert org.open_to(group) == {f"{HERE}/32", f"{ELSEWHERE}/32"}
    assert before.status["phase"] == "Active"
    before.end()
    after.end()
