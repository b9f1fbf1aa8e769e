"""Are the policies in force that vouch for who asks? Asked anew where an older word will not do."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.events import Events
from gatepass.manifests import ENFORCED_AFTER
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.tenant import MERGE
from tests.observer.promise import moment

NAME = "tests-requester"
BASE = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{BASE}/validatingadmissionpolicies", f"{BASE}/validatingadmissionpolicybindings"


def policy(failure: str = "Fail") -> dict[str, Any]:
    rule = {"apiGroups": ["gatepass.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["tests"]}
    spec = {
        "failurePolicy": failure,
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "true"}],
    }
    return {"metadata": {"name": NAME}, "spec": spec}


def binding(action: str = "Deny") -> dict[str, Any]:
    return {"metadata": {"name": NAME}, "spec": {"policyName": NAME, "validationActions": [action]}}


class Policies:
    """What the installation applies."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def apply(self, policy: dict[str, Any], binding: dict[str, Any]) -> Any:
        """Both anew; answers with when the later one was made."""
        self.remove()
        with self._sandbox.control_plane.api() as api:
            made = [api.request("POST", POLICIES, policy), api.request("POST", BINDINGS, binding)]
        return max(moment(each["metadata"]["creationTimestamp"]) for each in made) + ENFORCED_AFTER

    def widen(self) -> None:
        """They bind in more namespaces."""
        with self._sandbox.control_plane.api() as api:
            label = {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
            change = {"spec": {"matchResources": {"namespaceSelector": label}}}
            api.request("PATCH", f"{BINDINGS}/{NAME}", change, MERGE)

    def remove(self, *kinds: str) -> None:
        """Those that are there."""
        with self._sandbox.control_plane.api() as api:
            for kind in kinds or (POLICIES, BINDINGS):
                with suppress(KubeApiError):  # not there
                    api.request("DELETE", f"{kind}/{NAME}")


@pytest.fixture
def policies(sandbox: Sandbox) -> Iterator[Policies]:
    policies = Policies(sandbox)
    yield policies
    policies.remove()


@pytest.fixture
def cluster(api: KubeApi) -> KubeCluster:
    return KubeCluster(api, Events(api, "test"), CorrectedClock(), (NAME,), lambda _seconds: True)


@pytest.mark.parametrize("kind", [POLICIES, BINDINGS])
async def test_without_them_nobody_vouches_and_an_older_word_is_asked_about(
    policies: Policies, cluster: KubeCluster, kind: str
) -> None:
    made = policies.apply(policy(), binding())
    assert await cluster.requesters_verified_since(anew=True) is None, "it may not be enforced yet"
    await until_in_force(cluster)
    assert await cluster.requesters_verified_since() == made
    policies.remove(kind)
    assert await cluster.requesters_verified_since() == made
    assert await cluster.requesters_verified_since(anew=True) is None
    assert await cluster.requesters_verified_since() is None


async def until_in_force(cluster: KubeCluster) -> None:
    """Returns when they vouch for somebody."""
    for _ in range(300):
        if await cluster.requesters_verified_since(anew=True) is not None:
            return
        await asyncio.sleep(0.2)
    raise AssertionError("the policies never came into force")


async def test_what_is_selected_later_is_vouched_for_later(policies: Policies, cluster: KubeCluster) -> None:
    """Whoever could write any stamp in a namespace before would be believed otherwise."""
    made = policies.apply(policy(), binding())
    await until_in_force(cluster)
    policies.widen()
    await until_in_force(cluster)
    since = await cluster.requesters_verified_since()
    assert since is not None
    assert since > made


@pytest.mark.parametrize(("failure", "action"), [("Ignore", "Deny"), ("Fail", "Warn")])
async def test_who_refuses_nothing_vouches_for_nobody(
    policies: Policies, cluster: KubeCluster, failure: str, action: str
) -> None:
    policies.apply(policy(failure), binding(action))
    assert await cluster.requesters_verified_since() is None
