"""A session ends with its runner: a real Job's pod, a custom resource, a process that beats. The observer times it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import MERGE, SESSION, Tenant, condition, wait_for
from tests.observer.observer import Observer

_BEATS_SECONDS = 120.0
JOBS, PODS, LEASES = "/apis/batch/v1", "/api/v1", "/apis/coordination.k8s.io/v1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POD = {"restartPolicy": "Never", "nodeName": "node-1", "containers": [{"name": "run", "image": "runner"}]}
BACKGROUND = "propagationPolicy=Background"
_numbers = count(1)


class Work:
    """Objects that runners live in, as controllers and kubelets would have them."""

    def __init__(self, tenant: Tenant, observer: Observer) -> None:
        self.tenant = tenant
        self.observer = observer

    def path(self, group: str, plural: str, name: str = "") -> str:
        """Where they are."""
        return f"{group}/namespaces/{self.tenant.namespace}/{plural}" + (f"/{name}" if name else "")

    def job(self, name: str = "it") -> dict[str, Any]:
        """A Job."""
        body = {"metadata": {"name": name}, "spec": {"template": {"spec": {k: POD[k] for k in POD if k != "nodeName"}}}}
        return self.tenant.api.request("POST", self.path(JOBS, "jobs"), body)

    def pod(self, name: str = "it-x7f", owner: dict[str, Any] | None = None) -> dict[str, Any]:
        """A pod, of a Job or alone, on a node whose kubelet is the test."""
        metadata: dict[str, Any] = {"name": name}
        if owner is not None:
            reference = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
            metadata["ownerReferences"] = [{**reference, **{k: owner["metadata"][k] for k in ("name", "uid")}}]
        self.tenant.default_account()
        made = self.tenant.api.request("POST", self.path(PODS, "pods"), {"metadata": metadata, "spec": POD})
        self.say("pods", name, PODS, phase="Running")
        return made

    def say(self, plural: str, name: str, group: str, **status: Any) -> None:
        """What the object says of itself."""
        path = f"{self.path(group, plural, name)}/status"
        self.tenant.api.request("PATCH", path, {"status": status}, MERGE)

    def delete(self, plural: str, name: str, group: str) -> None:
        """It goes at once, and what it owns later."""
        query = f"gracePeriodSeconds=0&{BACKGROUND}"
        self.tenant.api.request("DELETE", f"{self.path(group, plural, name)}?{query}")

    def open(self, **spec: Any) -> dict[str, Any]:
        """A session that is open, and has seen what it is bound to."""
        session = self.tenant.until_phase(self.tenant.session(**spec), "Active")
        if "boundTo" in spec:
            self.tenant.until_condition(SESSION, session["metadata"]["name"], "OwnerFollowed")
        return session

    def ends(self, session: dict[str, Any], seconds: float = 0.0) -> None:
        """The runner goes now: from then on the observer counts."""
        self.observer.runner_lost(session["metadata"]["uid"], seconds)

    def closed(self, group: Group, reason: str = "OwnerFinished") -> None:
        """It is closed, and says why."""
        session = self.tenant.until_phase("it-1", "Cancelled")
        assert session["status"]["endedReason"] == reason
        assert group.rules() == []


@pytest.fixture
def work(tenant: Tenant, group: Group, observer: Observer) -> Work:
    tenant.resource(group.id)
    return Work(tenant, observer)


TO_POD = {"apiVersion": "v1", "kind": "Pod", "name": "it-x7f"}
TO_JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "it"}
LOST = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
FAREWELLS = {
    "finished": {"phase": "Succeeded"},
    "failed": {"phase": "Failed"},
    "evicted": {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"},
    "node lost": {"conditions": [LOST]},
}


@pytest.mark.parametrize("how", [*FAREWELLS, "deleted"])
def test_the_pod_of_a_job(work: Work, group: Group, how: str) -> None:
    pod = work.pod(owner=work.job())
    session = work.open(boundTo=TO_POD)
    assert session["status"].get("boundTo", {"uid": pod["metadata"]["uid"]}) == {"uid": pod["metadata"]["uid"]}
    work.ends(session)
    if how in FAREWELLS:
        work.say("pods", "it-x7f", PODS, **FAREWELLS[how])
    else:
        work.delete("pods", "it-x7f", PODS)
    work.closed(group)


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_job(work: Work, group: Group, kind: str) -> None:
    work.job()
    session = work.open(boundTo=TO_JOB)
    started = session["metadata"]["creationTimestamp"]
    conditions = [{"type": "FailureTarget" if kind == "Failed" else "SuccessCriteriaMet", "status": "True"}]
    work.say("jobs", "it", JOBS, startTime=started, conditions=conditions)
    work.ends(session)
    done = {"completionTime": started} if kind == "Complete" else {}
    work.say("jobs", "it", JOBS, conditions=[*conditions, {"type": kind, "status": "True"}], **done)
    work.closed(group)


def test_another_pod_of_its_name_while_nobody_looks(work: Work, group: Group, product: Product) -> None:
    work.pod()
    session = work.open(boundTo=TO_POD)
    product.kill()
    work.ends(session)
    work.delete("pods", "it-x7f", PODS)
    work.pod()
    product.start()
    work.closed(group)


def test_a_restart_ends_nothing(work: Work, group: Group, product: Product) -> None:
    work.pod()
    work.open(boundTo=TO_POD)
    (rule,) = group.rules()
    product.kill()
    product.start()
    pod = work.tenant.get(SESSION, "it-1")["status"]["boundTo"]
    # Whoever comes after it has been through the same listing.
    work.pod("next")
    work.tenant.session(name="next", cidrs=("203.0.113.8/32",), boundTo={**TO_POD, "name": "next"})
    work.tenant.until_condition(SESSION, "next", "OwnerFollowed")
    assert rule in group.rules()
    assert work.tenant.get(SESSION, "it-1")["status"]["boundTo"] == pod


@pytest.fixture
def tekton(tenant: Tenant) -> Iterator[None]:
    """The definition is installed when the test asks for it, and removed with it."""
    yield
    for name in ("pipelineruns.tekton.dev",):
        try:
            tenant.api.request("DELETE", f"{DEFINITIONS}/{name}")
        except KubeApiError as error:
            if error.status != 404:
                raise


@pytest.mark.usefixtures("tekton")
def test_a_pipeline_run_whose_definition_comes_later(work: Work, group: Group) -> None:
    to = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": "it"}
    session = work.tenant.until_phase(work.tenant.session(boundTo=to), "Active")
    told = work.tenant.until_condition(SESSION, "it-1", "OwnerFollowed", status="False")
    assert told["reason"] == "OwnerKindNotFound"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    version["subresources"] = {"status": {}}
    names = {"plural": "pipelineruns", "singular": "pipelinerun", "kind": "PipelineRun"}
    spec = {"group": "tekton.dev", "scope": "Namespaced", "names": names, "versions": [version]}
    work.tenant.api.request("POST", DEFINITIONS, {"metadata": {"name": "pipelineruns.tekton.dev"}, "spec": spec})
    run = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": "it"}}
    path = work.path("/apis/tekton.dev/v1", "pipelineruns")

    def created() -> bool:
        try:
            work.tenant.api.request("POST", path, run)
        except KubeApiError as error:
            if error.status not in (404, 503):
                raise
            return False
        return True

    wait_for(created, "the definition is served")
    work.tenant.until_condition(SESSION, "it-1", "OwnerFollowed")
    running = [{"type": "Succeeded", "status": "Unknown"}]
    work.say("pipelineruns", "it", "/apis/tekton.dev/v1", conditions=running)
    work.ends(session)
    work.say("pipelineruns", "it", "/apis/tekton.dev/v1", conditions=[{"type": "Succeeded", "status": "False"}])
    work.closed(group)


def test_a_kind_that_gatepass_may_not_watch(work: Work, group: Group) -> None:
    work.tenant.secret("it", token="x")
    work.tenant.session(boundTo={"apiVersion": "v1", "kind": "Secret", "name": "it"})
    told = work.tenant.until_condition(SESSION, "it-1", "OwnerFollowed", status="False")
    assert told["reason"] == "OwnerForbidden"
    assert "boundTo" not in work.tenant.until_phase("it-1", "Active")["status"]
    assert len(group.rules()) == 1
    assert condition(work.tenant.until_stopped("it-1"), "OwnerFollowed") == {}


def test_owner_references(work: Work, group: Group) -> None:
    """As Kubernetes defines them: the garbage collector deletes the session, whose rules go first."""
    job = work.job()
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "it", "uid": job["metadata"]["uid"]}
    work.tenant.until_phase(work.tenant.session(metadata={"ownerReferences": [reference]}), "Active")
    work.delete("jobs", "it", JOBS)
    work.tenant.until_gone(SESSION, "it-1")
    assert group.rules() == []


class Runner:
    """A process with a service account that may patch leases, and nothing else."""

    def __init__(self, sandbox: Sandbox, tenant: Tenant, lease: str, seconds: int) -> None:
        home, rbac = f"namespaces/{tenant.namespace}", "/apis/rbac.authorization.k8s.io/v1"
        rules = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["patch"]}]
        tenant.api.request("POST", f"/api/v1/{home}/serviceaccounts", {"metadata": {"name": "runner"}})
        tenant.api.request("POST", f"{rbac}/{home}/roles", {"metadata": {"name": "runner"}, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "runner"}
        subject = {"kind": "ServiceAccount", "name": "runner", "namespace": tenant.namespace}
        binding = {"metadata": {"name": "runner"}, "roleRef": role, "subjects": [subject]}
        tenant.api.request("POST", f"{rbac}/{home}/rolebindings", binding)
        plane = sandbox.control_plane
        command = [sys.executable, "-m", "tests.e2e.runner", plane.server, str(plane.ca), tenant.namespace, lease]
        self._process = subprocess.Popen(
            [*command, str(seconds)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "RUNNER_TOKEN": plane.account_token(tenant.namespace, "runner")},
            stdout=subprocess.PIPE,
            text=True,
        )

    def beats(self, number: int) -> None:
        """Return when it has beaten so many times more."""
        assert self._process.stdout is not None
        said, latest = [], time.monotonic() + _BEATS_SECONDS
        while number:
            said.append(self._process.stdout.readline())
            assert said[-1], f"the runner has ended: {said}"
            assert time.monotonic() < latest, f"the runner cannot beat: {said}"
            number -= said[-1] == "beat\n"

    def signal(self, number: signal.Signals) -> None:
        """Stop and continue it: meanwhile its beats are lost."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: no clean-up step runs."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def beating(sandbox: Sandbox, work: Work, stack: ExitStack, **heart: Any) -> tuple[dict[str, Any], Runner]:
    session = work.open(heartbeat=heart)
    lease = session["status"]["heartbeat"]["leaseName"]
    runner = Runner(sandbox, work.tenant, lease, 5)
    stack.callback(runner.kill)
    runner.beats(1)
    return session, runner


def test_a_runner_that_is_killed(sandbox: Sandbox, work: Work, group: Group) -> None:
    with ExitStack() as stack:
        session, runner = beating(sandbox, work, stack, interval="5s", missed=3)
        runner.beats(1)
        work.ends(session, seconds=15)
        runner.kill()
        stack.pop_all()
        work.closed(group, "HeartbeatLost")
    lease = work.tenant.api.request("GET", work.path(LEASES, "leases", session["status"]["heartbeat"]["leaseName"]))
    (owner,) = lease["metadata"]["ownerReferences"]
    assert owner["uid"] == session["metadata"]["uid"]


@pytest.mark.parametrize("outage", ["gone", "hangs"])
def test_an_outage_of_the_api_server_ends_no_healthy_session(
    sandbox: Sandbox, work: Work, group: Group, observer: Observer, product: Product, outage: str
) -> None:
    """For as long as the whole window. The leader could not renew its lease, ends, and is started again."""
    with ExitStack() as stack:
        _, runner = beating(sandbox, work, stack, interval="5s", missed=2)
        (rule,) = group.rules()
        observer.reachable(reachable=False)
        if outage == "gone":
            sandbox.control_plane.stop_api(kill=True)
            time.sleep(10)  # the outage itself
            sandbox.restart_api()
        else:
            with sandbox.control_plane.frozen_api():
                time.sleep(10)
        observer.reachable(reachable=True)
        runner.beats(3)
        if not product.ready():  # as the kubelet would
            product.kill()
            product.start()
        runner.beats(3)
        assert group.rules() == [rule]
        assert work.tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
        work.tenant.until_stopped("it-1")


def test_an_api_server_that_hangs_ends_no_healthy_session(
    sandbox: Sandbox, work: Work, group: Group, observer: Observer, product: Product
) -> None:
    """For longer than the whole window, and the leader has a longer lease: it remembers when the last beat was."""
    with ExitStack() as stack:
        stack.enter_context(product.with_settings(GATEPASS_LEASE_SECONDS="60"))
        _, runner = beating(sandbox, work, stack, interval="5s", missed=2)
        (rule,) = group.rules()
        observer.reachable(reachable=False)
        with sandbox.control_plane.frozen_api():
            time.sleep(15)  # the outage itself
        observer.reachable(reachable=True)
        runner.beats(3)
        assert product.ready(), "it is still the same"
        assert group.rules() == [rule]
        assert work.tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
        work.tenant.until_stopped("it-1")


def test_beats_that_an_outage_has_swallowed_are_not_missed(
    sandbox: Sandbox, work: Work, group: Group, observer: Observer, product: Product
) -> None:
    """It is over before the window is, so that the read that confirms the silence is answered at once."""
    with ExitStack() as stack:
        stack.enter_context(product.with_settings(GATEPASS_LEASE_SECONDS="24"))  # the leader outlives it
        _, runner = beating(sandbox, work, stack, interval="5s", missed=3)
        (rule,) = group.rules()
        runner.signal(signal.SIGSTOP)
        observer.reachable(reachable=False)
        with sandbox.control_plane.frozen_api():
            time.sleep(7)  # the outage itself
        observer.reachable(reachable=True)
        time.sleep(8.5)  # until the next beat that gets through, after the window
        runner.signal(signal.SIGCONT)
        runner.beats(2)
        assert group.rules() == [rule]
        assert work.tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
        work.tenant.until_stopped("it-1")
