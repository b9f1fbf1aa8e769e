"""The product is broken on purpose in several ways, and the observer reports each; unbroken, it reports nothing."""

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
from tests.e2e.pods import Pods, addresses, session
from tests.e2e.product import READY_SECONDS, RESYNC_SECONDS
from tests.e2e.tenant import MERGE, RESOURCE, SESSION, Tenant, in_seconds, wait_for
from tests.e2e.test_runners import JOBS, TO_JOB, Work
from tests.observer.broken import ASTRAY, WAYS
from tests.observer.judge import Breach
from tests.observer.observer import Observer, install_id
from tests.sandbox.aws import new_group, tcp

ROOT = Path(__file__).parents[2]
FOREIGN = "198.51.100.99/32"
NODE, FIRST, SECOND = "10.9.0.4", "203.0.113.4", "203.0.113.5"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"


@dataclass
class Stage:
    """A group with a foreign rule, and somebody with a session for it."""

    sandbox: Sandbox
    account: AwsAccount
    tenant: Tenant
    pods: Pods
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

    def open_to(self) -> set[str]:
        """The ranges that are let in."""
        return {rule["cidrIpv4"] for rule in self.rules()}

    def rules(self) -> list[dict[str, Any]]:
        """What is truly there."""
        return self.sandbox.ec2.rules(self.group)[self.group] or []


@pytest.fixture
def stage(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with sandbox.control_plane.api() as api:
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
        stage = Stage(sandbox, account, tenant, Pods(tenant), group, install_id(sandbox))
        yield stage
        token = sandbox.control_plane.account_token("gatepass-system", "gatepass")
        with sandbox.control_plane.api(token) as gatepass:
            for plural in (SESSION, RESOURCE):
                for item in tenant.listed(plural):
                    path = tenant.path(plural, item["metadata"]["name"])
                    gatepass.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        stage.pods.leave()
        tenant.leave()
        ec2.delete_security_group(GroupId=group)
        account.close()


def lives(stage: Stage, _: Observer) -> None:
    """A session opens, and lives."""
    stage.tenant.until_phase(stage.tenant.session(duration="1h"), "Active")


def is_stopped(stage: Stage, observer: Observer) -> None:
    """A session opens, and is stopped."""
    lives(stage, observer)
    stage.tenant.edit("it-1", stop=True)


def has_a_minute(stage: Stage, _: Observer) -> None:
    """A session is short."""
    stage.tenant.session(duration="1m10s")


def has_a_job(stage: Stage, observer: Observer) -> None:
    """A session is bound to a Job that goes on."""
    Work(stage.tenant, observer).job()
    stage.tenant.session(boundTo=TO_JOB)


def loses_its_job(stage: Stage, observer: Observer) -> None:
    """A session is open, and its Job goes."""
    work = Work(stage.tenant, observer)
    work.job()
    work.ends(work.open(boundTo=TO_JOB))
    work.delete("jobs", "it", JOBS)


def runs_in_a_pod(stage: Stage, _: Observer) -> str:
    """A session is for a pod, which leaves from the address of its node."""
    stage.tenant.patch(RESOURCE, "db", spec={"policy": {"followAddressChanges": True}})
    stage.tenant.until_condition(RESOURCE, "db", "Ready")
    node = stage.pods.node("kind://docker/kind/worker", NODE, FIRST)
    stage.pods.pending()
    stage.pods.schedule(node)
    stage.pods.start(NODE, "10.244.0.7")
    session(stage.tenant)
    return node


def runs_in_a_known_pod(stage: Stage, observer: Observer) -> None:
    """And the observer is told which address that is."""
    observer.comes_from({f"{stage.tenant.namespace}/it-1": [FIRST]})
    runs_in_a_pod(stage, observer)


def moves(stage: Stage, observer: Observer) -> None:
    """A session is for a pod, which leaves from another address later; the observer is told once that is let in."""
    node = runs_in_a_pod(stage, observer)
    stage.tenant.until_phase("it-1", "Active")
    stage.pods.locate(node, NODE, SECOND)
    wait_for(lambda: SECOND in addresses(stage.tenant), "the move is told", 60.0)
    observer.comes_from({f"{stage.tenant.namespace}/it-1": [SECOND]})


PLAYS: list[tuple[str, Callable[[Stage, Observer], object], str, str, set[str]]] = [
    ("revokes_foreign_rules", lives, "touched a foreign rule", FOREIGN, set()),
    ("never_revokes", is_stopped, "left open", "203.0.113.7/32", set()),
    ("revokes_early", has_a_minute, "ended without cause", "it-1: Expired", {"closed too early"}),
    ("ignores_stop", is_stopped, "left open", "203.0.113.7/32", set()),
    ("ignores_runners", loses_its_job, "left open", "203.0.113.7/32", set()),
    ("takes_all_for_finished", has_a_job, "ended without cause", "it-1: OwnerFinished", set()),
    ("keeps_old_addresses", moves, "left open", f"{FIRST}/32", set()),
    ("mistakes_pods", runs_in_a_known_pod, "opened for nobody", f"{ASTRAY}/32", {"closed too early"}),
]


@pytest.mark.parametrize(("way", "play", "kind", "told", "on_the_way"), PLAYS)
def test_each_way_is_reported(
    stage: Stage, way: str, play: Callable[[Stage, Observer], object], kind: str, told: str, on_the_way: set[str]
) -> None:
    breaches: list[Breach] = []

    def reported() -> bool:
        breaches.extend(observer.take_breaches())
        return any(breach.kind == kind and told in breach.what for breach in breaches)

    with stage.played_by("tests.observer.broken", way) as observer:
        play(stage, observer)
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


@pytest.mark.parametrize(
    ("play", "phase", "left"),
    [
        (has_a_job, "Active", {"203.0.113.7/32"}),
        (loses_its_job, "Cancelled", set()),
        (moves, "Active", {f"{SECOND}/32"}),
    ],
)
def test_unbroken_it_keeps_to_runners_and_pods(
    stage: Stage, play: Callable[[Stage, Observer], None], phase: str, left: set[str]
) -> None:
    with stage.played_by("gatepass") as observer:
        play(stage, observer)
        stage.tenant.until_phase("it-1", phase)
        wait_for(lambda: stage.open_to() == {FOREIGN, *left}, "it is open to nobody else")
        assert observer.take_breaches() == []


def test_every_way_is_played() -> None:
    assert set(WAYS) == {*(way for way, *_ in PLAYS), "opens_without_use"}
