"""A session that cannot be stopped holds up no other: what an uninstall does first."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gatepass.core.ports import ClusterError
from gatepass.kube.api import MERGE_PATCH, KubeApi
from gatepass.kube.drain import drain

NAMESPACE = "drained"
HOME = f"/apis/gatepass.dev/v1alpha1/namespaces/{NAMESPACE}/accesssessions"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
PATIENCE_SECONDS = 30.0
NAME = "somebody-elses-policy"
RULES = [{"apiGroups": ["gatepass.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["*"]}]


def session(name: str) -> dict[str, Any]:
    spec = {"resources": [{"name": "db"}], "source": {"cidrs": ["203.0.113.7/32"]}}
    return {
        "apiVersion": "gatepass.dev/v1alpha1",
        "kind": "AccessSession",
        "metadata": {"name": name, "labels": {"stubborn": str(name == "aa").lower()}},
        "spec": spec,
    }


async def refused(api: KubeApi) -> bool:
    """Is the policy in force?"""
    try:
        await api.call("PATCH", f"{HOME}/aa", {"spec": {"reason": "try"}}, content_type=MERGE_PATCH)
    except ClusterError:
        return True
    return False


@pytest.fixture
async def stubborn(api: KubeApi) -> AsyncIterator[None]:
    """Two sessions, the first of which a policy of somebody else lets nobody change."""
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for name in ("aa", "bb"):
        await api.call("POST", HOME, session(name))
    policy = {
        "matchConstraints": {"resourceRules": RULES},
        "validations": [{"expression": "object.metadata.?labels[?'stubborn'].orValue('') != 'true'", "message": "no"}],
    }
    await api.call("POST", POLICIES, {"metadata": {"name": NAME}, "spec": policy})
    binding = {"policyName": NAME, "validationActions": ["Deny"]}
    await api.call("POST", BINDINGS, {"metadata": {"name": NAME}, "spec": binding})

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await refused(api):  # noqa: ASYNC110 the API server tells nobody when a policy is in force
            await asyncio.sleep(0.05)
    yield
    await api.call("DELETE", f"{BINDINGS}/{NAME}")
    await api.call("DELETE", f"{POLICIES}/{NAME}")
    await api.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


@pytest.mark.usefixtures("stubborn")
async def test_one_that_cannot_be_stopped_holds_up_no_other(api: KubeApi) -> None:
    told: list[str] = []
    assert not await drain(api, [NAMESPACE], 1.0, told.append)
    assert (await api.call("GET", f"{HOME}/bb"))["spec"]["stop"] is True
    assert f"stopping {NAMESPACE}/bb" in told
    assert any(line.startswith(f"not closed: {NAMESPACE}/aa: 422") for line in told), told
