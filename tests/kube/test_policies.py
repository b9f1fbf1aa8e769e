"""Are the policies in force that vouch for who asks? Asked anew where an older word will not do."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
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
from tests.engine.world import eventually
from tests.observer.promise import moment

NAME = "tests-requester"
BASE = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{BASE}/validatingadmissionpolicies", f"{BASE}/validatingadmissionpolicybindings"


RULE = {"apiGroups": ["gatepass.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["tests"]}


def policy(failure: str = "Fail", constraints: Mapping[str, Any] = {}, **more: Any) -> dict[str, Any]:
    spec = {
        "failurePolicy": failure,
        "matchConstraints": {"resourceRules": [RULE], **constraints},
        "validations": [{"expression": "true"}],
        **more,
    }
    return {"metadata": {"name": NAME}, "spec": spec}


def binding(action: str = "Deny", **match: Any) -> dict[str, Any]:
    spec = {"policyName": NAME, "validationActions": [action], "matchResources": match}
    return {"metadata": {"name": NAME}, "spec": spec}


def named(*namespaces: str, operator: str = "In") -> dict[str, Any]:
    expression = {"key": "kubernetes.io/metadata.name", "operator": operator, "values": list(namespaces)}
    return {"matchExpressions": [expression]}


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

    def select(self, selector: dict[str, Any]) -> None:
        """Have them bind in other namespaces."""
        with self._sandbox.control_plane.api() as api:
            change = {"spec": {"matchResources": {"namespaceSelector": selector}}}
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


class Later(CorrectedClock):
    """So much later than now."""

    by = timedelta(minutes=1)

    def now(self) -> datetime:
        return super().now() + self.by


@pytest.fixture
def clock() -> Later:
    return Later()


@pytest.fixture
def cluster(api: KubeApi, clock: Later) -> KubeCluster:
    return serving(api, clock)


def serving(api: KubeApi, clock: CorrectedClock, *namespaces: str) -> KubeCluster:
    return KubeCluster(api, Events(api, "test"), clock, (NAME,), namespaces, lambda _seconds: True)


@pytest.mark.parametrize("kind", [POLICIES, BINDINGS])
async def test_without_them_nobody_vouches_and_an_older_word_is_asked_about(
    policies: Policies, cluster: KubeCluster, kind: str
) -> None:
    made = policies.apply(policy(), binding())
    assert await cluster.requesters_verified_since() == made
    policies.remove(kind)
    assert await cluster.requesters_verified_since() == made
    assert await cluster.requesters_verified_since(anew=True) is None
    assert await cluster.requesters_verified_since() is None


async def test_they_may_not_be_enforced_yet(policies: Policies, cluster: KubeCluster, clock: Later) -> None:
    clock.by = -timedelta(minutes=1)
    made = policies.apply(policy(), binding())
    assert await cluster.requesters_verified_since() is None
    clock.by = made - datetime.now(UTC)
    assert await cluster.requesters_verified_since(anew=True) == made


async def test_what_is_selected_later_is_vouched_for_later(policies: Policies, api: KubeApi, clock: Later) -> None:
    """Whoever could write any stamp in a namespace before would be believed otherwise."""
    cluster = serving(api, clock, "ci")
    made = policies.apply(policy(), binding(namespaceSelector=named("ci")))
    await eventually(lambda: datetime.now(UTC) > made - ENFORCED_AFTER + timedelta(seconds=1), "the next second")
    policies.select(named("ci", "web"))
    since = await cluster.requesters_verified_since()
    assert since is not None
    assert since > made


@pytest.mark.parametrize(
    ("match", "served", "vouches"),
    [
        ({}, (), True),
        ({}, ("ci",), True),
        ({"namespaceSelector": named("web", "ci")}, ("ci", "web"), True),
        ({"namespaceSelector": named("ci")}, ("ci", "web"), False),
        ({"namespaceSelector": named("ci")}, (), False),
        ({"namespaceSelector": named("ci", operator="NotIn")}, ("ci",), False),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, ("ci",), False),
        ({"objectSelector": {"matchLabels": {"team": "a"}}}, ("ci",), False),
        ({"resourceRules": [{**RULE, "resourceNames": ["known"]}]}, ("ci",), False),
    ],
    ids=str,
)
async def test_who_looks_away_vouches_for_nobody(
    policies: Policies, api: KubeApi, clock: Later, match: dict[str, Any], served: tuple[str, ...], vouches: bool
) -> None:
    """While a namespace is taken off the list, the operator of before still serves it."""
    policies.apply(policy(), binding(**match))
    assert (await serving(api, clock, *served).requesters_verified_since() is not None) == vouches


@pytest.mark.parametrize(
    "changed",
    [
        policy(constraints={"namespaceSelector": named("ci", operator="NotIn")}),
        policy(constraints={"excludeResourceRules": [RULE]}),
        policy(matchConditions=[{"name": "some", "expression": "false"}]),
    ],
    ids=["selects", "excludes", "has conditions"],
)
async def test_a_policy_that_looks_away_vouches_for_nobody(
    policies: Policies, cluster: KubeCluster, changed: dict[str, Any]
) -> None:
    policies.apply(changed, binding())
    assert await cluster.requesters_verified_since() is None


async def test_the_binding_of_another_policy_vouches_for_nobody(policies: Policies, cluster: KubeCluster) -> None:
    another = binding()
    another["spec"]["policyName"] = "another"
    policies.apply(policy(), another)
    assert await cluster.requesters_verified_since() is None


@pytest.mark.parametrize(("failure", "action"), [("Ignore", "Deny"), ("Fail", "Warn")])
async def test_who_refuses_nothing_vouches_for_nobody(
    policies: Policies, cluster: KubeCluster, failure: str, action: str
) -> None:
    policies.apply(policy(failure), binding(action))
    assert await cluster.requesters_verified_since() is None
