"""The product is broken in five ways on purpose, and the observer reports each; unbroken, it reports nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApiError
from gatepass.sandbox.processes import Process
from tests.conftest import AwsAccount
from tests.e2e.product import READY_SECONDS, RESYNC_SECONDS
from tests.e2e.tenant import MERGE, RESOURCE, SESSION, Tenant, in_seconds, wait_for
from tests.observer.broken import WAYS
from tests.observer.judge import Breach
from tests.observer.observer import Observer
from tests.sandbox.aws import new_group, tcp

ROOT = Path(__file__).parents[2]
FOREIGN = "198.51.100.99/32"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"


@dataclass
class Stage:
    """A group with a foreign rule, and somebody with a session for it."""

    sandbox: Sandbox
    account: AwsAccount
    tenant: Tenant
    group: str
    owner: str

    @contextmanager
    def played_by(self, *how: str) -> Iterator[Observer]:
        """Run the operator, `how` being what comes after `python -m`, and an observer that watches it."""
        command = [sys.executable, "-m", *how, "operator", "--kubeconfig", str(self.sandbox.operator_kubeconfig)]
        env = {**self.sandbox.env, "GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS), "PYTHONPATH": str(ROOT)}
        process = Process("operator", command, self.sandbox.operator_log, env)
        with Observer(self.sandbox, self.owner, RESYNC_SECONDS) as observer:
            observer.catch_up()
            observer.take_breaches()  # of statuses that other tests have made up
            process.start()
            try:
                process.wait_ready(self.sandbox.operator_ready, READY_SECONDS)
                yield observer
            finally:
                process.stop()

    def restricted(self) -> None:
        """The session's creator loses the right to use the resource, before anybody has opened anything."""
        tenant = self.tenant
        rule = {"apiGroups": ["gatepass.dev"], "resources": ["protectedresources"], "verbs": ["use"]}
        make = {"apiGroups": ["gatepass.dev"], "resources": ["accesssessions"], "verbs": ["create"]}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ci"}
        subject = {"kind": "ServiceAccount", "name": "default", "namespace": tenant.namespace}
        tenant.api.request(
            "POST", f"{RBAC}/{tenant.namespace}/roles", {"metadata": {"name": "ci"}, "rules": [rule, make]}
        )
        binding = {"metadata": {"name": "ci"}, "roleRef": reference, "subjects": [subject]}
        tenant.api.request("POST", f"{RBAC}/{tenant.namespace}/rolebindings", binding)
        account = f"/api/v1/namespaces/{tenant.namespace}/serviceaccounts/default"
        wait_for(lambda: self._there(account), "the service account")
        token = self.sandbox.control_plane.account_token(tenant.namespace, "default")
        with self.sandbox.control_plane.api(token) as api:
            Tenant(api, tenant.namespace).session()
        tenant.api.request("DELETE", f"{RBAC}/{tenant.namespace}/rolebindings/ci")

    def _there(self, path: str) -> bool:
        try:
            return bool(self.tenant.api.request("GET", path))
        except KubeApiError:
            return False

    def rules(self) -> list[dict[str, Any]]:
        """What is truly there."""
        return self.sandbox.ec2.rules(self.group)[self.group] or []


@pytest.fixture
def stage(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with sandbox.control_plane.api() as api:
        uid = api.request("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
        name = f"broken-{abs(hash(request.node.name)) % 10**8}"
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        tenant = Tenant(api, name)
        account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account="123456789012")
        ec2 = account.client("ec2")
        group = new_group(ec2)
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(FOREIGN))
        aws = {"region": "eu-central-1", "securityGroups": [group]}
        spec = {"aws": aws, "ports": [{"port": 5432}]}
        body = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "ProtectedResource", "metadata": {"name": "db"}}
        tenant.create({**body, "spec": spec})
        stage = Stage(sandbox, account, tenant, group, f"{uid}/gatepass-system/gatepass")
        yield stage
        token = sandbox.control_plane.account_token("gatepass-system", "gatepass")
        with sandbox.control_plane.api(token) as gatepass:
            for plural in (SESSION, RESOURCE):
                for item in tenant.listed(plural):
                    path = tenant.path(plural, item["metadata"]["name"])
                    gatepass.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        tenant.leave()
        ec2.delete_security_group(GroupId=group)
        account.close()


def lives(stage: Stage) -> None:
    """A session opens, and lives."""
    stage.tenant.until_phase(stage.tenant.session(duration="1h"), "Active")


def is_stopped(stage: Stage) -> None:
    """A session opens, and is stopped."""
    lives(stage)
    stage.tenant.edit("it-1", stop=True)


def has_a_minute(stage: Stage) -> None:
    """A session is short."""
    stage.tenant.session(duration="1m10s")


@pytest.mark.parametrize(
    ("way", "play", "kind", "told", "on_the_way"),
    [
        ("revokes_foreign_rules", lives, "touched a foreign rule", FOREIGN, set()),
        ("never_revokes", is_stopped, "left open", "203.0.113.7/32", set()),
        ("revokes_early", has_a_minute, "ended without cause", "it-1: Expired", {"closed too early"}),
        ("ignores_stop", is_stopped, "left open", "203.0.113.7/32", set()),
    ],
)
def test_each_way_is_reported(
    stage: Stage, way: str, play: Callable[[Stage], None], kind: str, told: str, on_the_way: set[str]
) -> None:
    breaches: list[Breach] = []

    def reported() -> bool:
        breaches.extend(observer.take_breaches())
        return any(breach.kind == kind and told in breach.what for breach in breaches)

    with stage.played_by("tests.observer.broken", way) as observer:
        play(stage)
        wait_for(reported, f"{kind}: {told}")
    assert {breach.kind for breach in breaches} <= {kind, *on_the_way}


def test_opening_without_use_is_reported(stage: Stage) -> None:
    stage.restricted()
    with stage.played_by("tests.observer.broken", "opens_without_use") as observer:
        (breach,) = wait_for(observer.take_breaches, "a breach")
    assert breach.kind == "opened for nobody"
    assert f"{stage.tenant.namespace}/it-1 may not use {stage.tenant.namespace}/db" in breach.what


def test_unbroken_it_does_none_of_this(stage: Stage) -> None:
    stage.restricted()
    with stage.played_by("gatepass") as observer:
        stage.tenant.until_part("it-1", "db", "Failed", "may not use")
        stage.tenant.until_phase(stage.tenant.session(name="it-2", cidrs=("203.0.113.9/32",)), "Active")
        stage.tenant.until_stopped("it-2")
        stage.tenant.until_phase(stage.tenant.session(name="it-3", notAfter=in_seconds(8)), "Expired")
        assert observer.take_breaches() == []
        # The observer judges a closing only when it has had time to hear of the end.
        found = observer.summary()
    assert (found["rules_left"], found["wrong_phases"]) == ([], [])
    assert len(stage.rules()) == 1, "the foreign rule is there"


def test_every_way_is_played() -> None:
    assert set(WAYS) == {"revokes_foreign_rules", "never_revokes", "revokes_early", "opens_without_use", "ignores_stop"}
