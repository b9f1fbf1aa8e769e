"""The limit of requests, as installed: sixty a minute from an address."""

import time
from collections.abc import Iterator

import httpx
import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.product import Product
from tests.rest.organisation import Organisation


@pytest.fixture(scope="module", autouse=True)
def _limited(service: Product, org: Organisation) -> Iterator[None]:
    """Once it is founded, which may take many requests."""
    with service.with_settings(GATEPASS_RATE_LIMIT="60"):
        yield


def spent(caller: httpx.Client) -> httpx.Response:
    """The answer after so many that the next is refused."""
    for left in range(59, -1, -1):
        told = caller.get("/health")
        assert told.status_code == 200
        assert (told.headers["X-RateLimit-Limit"], told.headers["X-RateLimit-Remaining"]) == ("60", str(left))
    return caller.get("/health")


def test_the_sixty_first(org: Organisation) -> None:
    told = spent(org.caller("192.0.2.61"))
    assert told.status_code == 429
    body = told.json()
    del body["timestamp"]
    assert body == {
        "status": 429,
        "error": "Too Many Requests",
        "message": "Rate limit exceeded. Please try again later.",
        "path": "/api/v1/health",
    }
    assert 1 <= int(told.headers["Retry-After"]) <= 61
    assert told.headers["X-RateLimit-Remaining"] == "0"
    assert 0 <= int(told.headers["X-RateLimit-Reset"]) - time.time() <= 62
    assert org.caller("192.0.2.62").get("/health").status_code == 200
    # Refused before anything else is asked: also who is nobody, and what is not there.
    assert org.caller("192.0.2.61").get("/sessions").status_code == 429
    assert org.caller("192.0.2.61").get("/nothing").status_code == 429
    # Whatever stands left of what the proxy adds is the client's own.
    for forged in ("192.0.2.63", "10.0.0.1", "unknown", "127.0.0.1"):
        assert org.caller(f"{forged}, 192.0.2.61").get("/health").status_code == 429


def test_a_network_of_ipv6_is_one_caller(org: Organisation) -> None:
    assert spent(org.caller("2001:db8:0:61::1")).status_code == 429
    assert org.caller("2001:db8:0:61:ffff::2").get("/health").status_code == 429
    assert org.caller("2001:db8:0:62::1").get("/health").status_code == 200


def test_failed_attempts_count(org: Organisation) -> None:
    caller = org.caller("192.0.2.64", **{"X-API-Key": "wrong"})
    assert [caller.get("/sessions").status_code for _ in range(61)] == [401] * 60 + [429]


def test_behind_the_load_balancer_a_forged_header_changes_nothing(sandbox: Sandbox) -> None:
    url = f"{sandbox.api_url}/api/v1/detect-ip"
    with httpx.Client(timeout=60, trust_env=False) as client:
        seen = [client.get(url, headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(100, 161)]
    assert {told.json()["ip"] for told in seen[:60]} == {"203.0.113.10"}
    assert [told.status_code for told in seen] == [200] * 60 + [429]
