"""What the API server's refusals become."""

import httpx
import pytest
from fastapi import FastAPI

from gatepass.core.gateway import RefusedError
from gatepass.rest import errors

POLICY = "accesssessions.gatepass.dev is forbidden: ValidatingAdmissionPolicy 'gatepass-bounds' denied request: "


async def answer(status: int, message: str) -> httpx.Response:
    """What a caller gets when the API server has refused so."""
    app = FastAPI()
    errors.register(app)

    @app.post("/")
    async def refused() -> None:
        raise RefusedError(status, message, {})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gatepass") as client:
        return await client.post("/")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            422,
            f"{POLICY}failed to configure policy: failed to find resource referenced by paramKind: "
            "'gatepass.dev/v1alpha1, Kind=ProtectedResource'",
        ),
        (
            422,
            f"{POLICY}failed to configure binding: paramKind kind `gatepass.dev/v1alpha1, Kind=ProtectedResource` "
            "not yet synced",
        ),
        (
            503,
            "Resource kind gatepass.dev/v1alpha1, Kind=AccessSession not found. There can be a delay between when "
            "CustomResourceDefinitions are created and when they are available.",
        ),
    ],
)
async def test_an_api_server_that_has_just_started_is_no_fault_of_the_caller(status: int, reason: str) -> None:
    told = await answer(status, reason)
    assert told.status_code == 503
    assert told.headers["Retry-After"] == "2"
    assert "try again" in told.json()["message"]


async def test_a_bound_is_the_callers_to_keep() -> None:
    told = await answer(422, POLICY + "spec.duration: 3h is longer than the 2h of resource db")
    assert told.status_code == 400
    assert told.json()["validationErrors"] == {
        "durationHours": "spec.duration: 3h is longer than the 2h of resource db"
    }
