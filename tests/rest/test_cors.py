"""Pages of the origins that the installation names may call, and no others: the application itself, in memory."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gatepass.engine.store import Store
from gatepass.rest.application import application
from gatepass.rest.context import Context, RestSettings
from tests.rest.test_alike import At

OURS = "https://portal.example.com"
CALL = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}


@pytest.fixture
async def page() -> AsyncIterator[httpx.AsyncClient]:
    settings = RestSettings(origins=[OURS], rate_limit=3)
    app = application(Context(settings, Store(), None, At(), lambda _seen: None))  # type: ignore[arg-type]  # no writes
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here/api/v1") as client:
        yield client


async def test_a_page_of_ours_may_call(page: httpx.AsyncClient) -> None:
    asked = await page.options("/sessions", headers={"Origin": OURS, **CALL})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == OURS
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in asked.headers
    for status in (200, 401, 404, 429):  # also of what is refused, or the page cannot tell why
        path = {200: "/health", 401: "/sessions", 404: "/nothing", 429: "/health"}[status]
        told = await page.get(path, headers={"Origin": OURS})
        assert (told.status_code, told.headers["Access-Control-Allow-Origin"]) == (status, OURS)
        assert {"X-RateLimit-Remaining", "Retry-After"} <= set(
            told.headers["Access-Control-Expose-Headers"].split(", ")
        )


async def test_another_page_may_not(page: httpx.AsyncClient) -> None:
    for origin in ("https://portal.example.com.evil.example", "http://portal.example.com", "null"):
        asked = await page.options("/sessions", headers={"Origin": origin, **CALL})
        assert asked.status_code == 400
        assert "Access-Control-Allow-Origin" not in asked.headers
