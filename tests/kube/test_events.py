"""What kubectl makes of our Events."""

import asyncio
import subprocess
from functools import partial

from gatepass.core.types.session import AccessSession
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.events import Events
from gatepass.sandbox.environment import Sandbox
from tests.e2e.tenant import wait_for
from tests.kube.conftest import client_of

TOLD = ("Pending", "Active", "Partial", "Active", "Expiring", "Cancelled")


def described(sandbox: Sandbox, session: AccessSession) -> list[str]:
    """The reasons of the Events, as `kubectl describe` lists them."""
    command = ["kubectl", "describe", "accesssession", session.metadata.name, "--namespace", session.metadata.namespace]
    text = subprocess.run(command, env=sandbox.env, capture_output=True, text=True, check=True).stdout
    _, _, events = text.partition("Events:")
    return [line.split()[1] for line in events.splitlines() if " gatepass " in line]


def all_described(sandbox: Sandbox, session: AccessSession) -> list[str]:
    """The same once all of them are written."""
    found = described(sandbox, session)
    return found if len(found) == len(TOLD) else []


async def test_events_of_one_second_are_told_in_their_order(sandbox: Sandbox) -> None:
    plane = sandbox.control_plane
    name = "a-session-whose-long-name-has-a-dot-where-fifty-en.d"
    with plane.api() as admin:
        path = "/apis/gatepass.dev/v1alpha1/namespaces/default/accesssessions"
        spec = {"resources": [{"name": "db"}], "source": {"cidrs": ["203.0.113.7/32"]}}
        item = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "AccessSession", "metadata": {"name": name}}
        session = AccessSession.model_validate(admin.request("POST", path, {**item, "spec": spec}))
        client = client_of(sandbox, plane.server, plane.account_token("gatepass-system", "gatepass"))
        async with client:
            events = Events(KubeApi(client, CorrectedClock()), "gatepass")
            writing = asyncio.create_task(events.run())
            for number, reason in enumerate(TOLD):
                events.add(session, reason, f"{number}", warning=False)
            found = await asyncio.to_thread(wait_for, partial(all_described, sandbox, session), "six Events")
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        assert tuple(found) == TOLD
        admin.request("PATCH", f"{path}/{name}", {"metadata": {"finalizers": None}}, "application/merge-patch+json")
        admin.request("DELETE", f"{path}/{name}")
