"""What is written to the API server rests on what was seen, and is not written by who may not lead any more."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from gatepass.core.ports import ClusterError, ConflictError
from gatepass.core.types.common import FINALIZER
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Phase
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.events import Events
from gatepass.sandbox.environment import Sandbox
from tests.e2e.tenant import SESSION, Tenant
from tests.kube.conftest import client_of

ACTIVE = AccessSessionStatus(phase=Phase.ACTIVE)


@pytest.fixture
def tenant(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """Somebody with a session in a namespace of their own; nobody serves it."""
    with sandbox.control_plane.api() as api:
        tenant = Tenant(api, request.node.name.replace("_", "-")[:63].strip("-"))
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": tenant.namespace}})
        tenant.session()
        yield tenant
        tenant.patch(SESSION, "it-1", metadata={"finalizers": None})
        tenant.delete(SESSION, "it-1")


class Writer:
    """Gatepass's own account; `leads` opens and closes the fence."""

    def __init__(self, sandbox: Sandbox) -> None:
        plane = sandbox.control_plane
        self.leads = True
        self.client = client_of(sandbox, plane.server, plane.account_token("gatepass-system", "gatepass"))
        api = KubeApi(self.client, CorrectedClock())
        self.cluster = KubeCluster(api, Events(api, "test"), CorrectedClock(), (), (), lambda _seconds: self.leads)


def seen(tenant: Tenant) -> AccessSession:
    return AccessSession.model_validate(tenant.get(SESSION, "it-1"))


def state(tenant: Tenant) -> tuple[Any, ...]:
    item = tenant.get(SESSION, "it-1")
    return item.get("status", {}).get("phase"), FINALIZER in item["metadata"]["finalizers"]


async def test_what_another_has_written_since_stands(sandbox: Sandbox, tenant: Tenant) -> None:
    writer = Writer(sandbox)
    async with writer.client:
        old = seen(tenant)
        current = await writer.cluster.write_session_status(old, ACTIVE)
        for write in (
            writer.cluster.write_session_status(old, AccessSessionStatus(phase=Phase.CANCELLED)),
            writer.cluster.release(old),
            writer.cluster.delete_session(old),
        ):
            with pytest.raises(ConflictError):
                await write
        assert state(tenant) == ("Active", True)
        await writer.cluster.write_session_status(current, AccessSessionStatus(phase=Phase.CANCELLED))
        assert state(tenant) == ("Cancelled", True)


async def test_who_may_not_lead_any_more_writes_nothing(sandbox: Sandbox, tenant: Tenant) -> None:
    writer = Writer(sandbox)
    async with writer.client:
        session = seen(tenant)
        writer.leads = False
        for write in (
            writer.cluster.write_session_status(session, ACTIVE),
            writer.cluster.release(session),
            writer.cluster.delete_session(session),
            writer.cluster.write_claim_secret(session, "it-1-claim", "token"),
        ):
            with pytest.raises(ClusterError, match="another replica may lead"):
                await write
        assert state(tenant) == (None, True)
        writer.leads = True
        await writer.cluster.write_session_status(session, ACTIVE)
        assert state(tenant) == ("Active", True)


async def test_a_token_is_not_replaced_by_who_led_before(sandbox: Sandbox, tenant: Tenant) -> None:
    """Its hash would not be the one in the status, and the right caller would be turned away."""
    writer = Writer(sandbox)
    async with writer.client:
        session = seen(tenant)
        await writer.cluster.write_claim_secret(session, "it-1-claim", "first")
        writer.leads = False
        with pytest.raises(ClusterError, match="another replica may lead"):
            await writer.cluster.write_claim_secret(session, "it-1-claim", "second")
        data = tenant.get_secret("it-1-claim")["data"]
        assert base64.b64decode(data["token"]) == b"first"
