"""Claims that cross each other, behind a gateway that lets them: whatever replica they reached, one wins."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from gatepass.core.gateway import Gateway, RefusedError
from gatepass.core.keys import key_hash
from gatepass.core.types.common import Custom, Key, format_time
from gatepass.core.types.session import AccessSession
from gatepass.engine.store import Store
from gatepass.rest.application import application
from gatepass.rest.context import Context, RestSettings
from tests.core.builders import NOON, a_resource, a_session

TOKEN = "gp_claim_" + "1" * 49
HERE, ELSEWHERE = "198.51.100.21", "198.51.100.22"


class HandClock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at.astimezone(UTC)

    def monotonic(self) -> float:
        return 0.0


class SlowApiServer:
    """Keeps one session. Writes arrive when `together` of them are under way; the watch brings each to the store.

    `meanwhile` is what the operator writes before the first of them arrives.
    """

    def __init__(self, store: Store, session: AccessSession, together: int) -> None:
        self.stored = session
        self._store = store
        self._barrier = asyncio.Barrier(together)
        self.writes = 0
        self.meanwhile: Mapping[str, Any] | None = None
        store.put_session(session)

    def write(self, status: Mapping[str, Any]) -> AccessSession:
        merged = {**self.stored.status.to_json(), **status}
        version = str(int(self.stored.metadata.resource_version) + 1)
        metadata = self.stored.metadata.model_copy(update={"resource_version": version})
        self.stored = AccessSession.model_validate(
            {**self.stored.to_json(), "metadata": metadata.to_json(), "status": merged}
        )
        asyncio.get_running_loop().call_later(0.01, self._store.put_session, self.stored)
        return self.stored

    async def patch_status(
        self, kind: type[Custom], key: Key, body: Mapping[str, Any], only: Custom | None = None
    ) -> dict[str, Any]:
        if self.writes < self._barrier.parties:
            self.writes += 1
            await self._barrier.wait()
        if self.meanwhile is not None:
            self.write(self.meanwhile)
            self.meanwhile = None
        if only is not None and only.metadata.resource_version != self.stored.metadata.resource_version:
            raise RefusedError(HTTPStatus.CONFLICT, "the object has been modified")
        return self.write(body).to_json()


class Scene:
    """The API with one session that can be claimed."""

    def __init__(self, together: int) -> None:
        offer = {
            "url": "https://gatepass.example.com/api/v1/sessions/x/claim",
            "secretName": "it-1-claim",
            "expiresAt": format_time(NOON + timedelta(minutes=5)),
            "tokenHash": key_hash(TOKEN),
        }
        status = {
            "phase": "Pending",
            "claim": offer,
            "expiresAt": offer["expiresAt"],
            "observedGeneration": 1,
        }
        uid = {"uid": "00000000-0000-4000-8000-000000000001", "resourceVersion": "1"}
        session = a_session(metadata=uid, source={"claim": {}}, status=status)
        self.store, self.clock = Store(), HandClock()
        self.server = SlowApiServer(self.store, session, together)
        gateway: Gateway = self.server  # type: ignore[assignment] # a claim needs nothing else of it
        self._context = Context(RestSettings(), self.store, gateway, self.clock, self._seen)

    def _seen(self, changed: Custom) -> None:
        assert isinstance(changed, AccessSession)
        self.store.put_session(changed)

    async def claim(self, address: str) -> int:
        """Call from there; answers the HTTP status."""
        return (await self.answer(address)).status_code

    async def answer(self, address: str) -> httpx.Response:
        """Call from there."""
        transport = httpx.ASGITransport(application(self._context), client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://gatepass") as caller:
            path = f"/api/v1/sessions/{self.server.stored.uid}/claim"
            return await caller.post(path, headers={"Authorization": f"Bearer {TOKEN}"})

    @property
    def claimed(self) -> list[str]:
        source = self.server.stored.status.source
        return [address.ip for address in source.addresses] if source is not None else []


async def test_of_two_that_cross_one_wins() -> None:
    scene = Scene(together=2)
    told = await asyncio.gather(scene.claim(HERE), scene.claim(ELSEWHERE))
    assert sorted(told) == [200, 409]
    assert scene.claimed == [HERE if told[0] == 200 else ELSEWHERE]


async def test_both_families_that_cross_are_both_taken() -> None:
    scene = Scene(together=2)
    assert await asyncio.gather(scene.claim(HERE), scene.claim("2001:db8::21")) == [200, 200]
    assert sorted(scene.claimed) == [HERE, "2001:db8::21"]


async def test_the_same_caller_twice_at_once_is_one_claim() -> None:
    scene = Scene(together=2)
    assert await asyncio.gather(scene.claim(HERE), scene.claim(HERE)) == [200, 200]
    assert scene.claimed == [HERE]


@pytest.mark.parametrize(
    ("meanwhile", "status"), [({"endedAt": format_time(NOON), "endedReason": "Unclaimed"}, 409), ({}, 200)]
)
async def test_what_the_operator_writes_meanwhile_is_not_written_over(meanwhile: dict[str, str], status: int) -> None:
    scene = Scene(together=1)
    scene.server.meanwhile = {**meanwhile, "readyResources": "0/1"}
    told = await scene.claim(HERE)
    assert told == status
    assert scene.server.stored.status.ready_resources == "0/1"
    assert scene.claimed == ([HERE] if status == 200 else [])


async def test_the_time_to_claim_is_that_of_the_claim() -> None:
    scene = Scene(together=1)
    scene.clock.at = NOON + timedelta(minutes=5)
    assert await scene.claim(HERE) == 409
    scene.clock.at = NOON + timedelta(minutes=4, seconds=59)
    assert await scene.claim(HERE) == 200
    scene.clock.at = NOON + timedelta(minutes=6)
    assert await scene.claim(HERE) == 200, "who has claimed it may ask for ever"
    assert await scene.claim("2001:db8::21") == 409


@pytest.mark.parametrize(("longest", "minutes"), [("24h", 60), ("30m", 30)])
async def test_the_answer_tells_the_end_of_the_clock_that_has_begun(longest: str, minutes: int) -> None:
    """The operator has not written since: its status still says until when the session could be claimed."""
    scene = Scene(together=1)
    scene.store.put_resource(a_resource(policy={"maxDuration": longest}))
    scene.clock.at = NOON + timedelta(minutes=2)
    told = (await scene.answer(HERE)).json()
    assert told["startedAt"] == format_time(scene.clock.at)
    assert told["expiresAt"] == format_time(scene.clock.at + timedelta(minutes=minutes))
    assert (await scene.answer("2001:db8::21")).json()["expiresAt"] == told["expiresAt"]
