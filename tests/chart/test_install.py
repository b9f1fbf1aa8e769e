"""The chart in a cluster of its own: installed by Helm, upgraded, a second time beside itself, and taken away again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from gatepass.manifests import ENFORCED_AFTER
from gatepass.sandbox import binaries
from gatepass.sandbox.cloud import REGION, Cloud
from gatepass.sandbox.controlplane import ControlPlane
from gatepass.sandbox.kubeapi import KubeApiError
from gatepass.sandbox.processes import Process, free_ports
from tests.chart.audit import granted, requests, used
from tests.chart.helm import Helm
from tests.chart.values_table import CHART
from tests.manifests.tenants import (
    MERGE,
    RBAC,
    WRITES_SESSIONS,
    Cluster,
    Person,
    may,
    refusal,
    resource,
    says,
    session,
    wait_until,
)

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
DEPLOYMENT = "/apis/apps/v1/namespaces/gatepass-system/deployments/gatepass"
JOB = "/apis/batch/v1/namespaces/gatepass-system/jobs/gatepass-drain"
OPEN_SECONDS = 60.0
NOW = "2026-11-22T18:00:00Z"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One where nothing of Gatepass has ever been."""
    control_plane = ControlPlane(binaries.kubernetes(), tmp_path_factory.mktemp("control-plane"))
    control_plane.start()
    cluster = Cluster(control_plane)
    yield cluster
    cluster.close()
    control_plane.stop()


@pytest.fixture(scope="module")
def helm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, with the chart installed as its README says."""
    helm = Helm(tmp_path_factory.mktemp("helm"), cluster.control_plane.admin_kubeconfig)
    health, metrics = free_ports(2)
    notes = helm(
        *("install", "gatepass", str(CHART), "--namespace", "gatepass-system", "--create-namespace"),
        *("--set", f"healthPort={health},metricsPort={metrics}"),
    )
    assert "serves all namespaces" in notes
    assert "MutatingAdmissionPolicy" not in notes
    cluster.wait_for_policies()
    return helm


def names(cluster: Cluster, path: str) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.api.request("GET", path)["items"]}


def uid(cluster: Cluster, path: str) -> str | None:
    try:
        return str(cluster.api.request("GET", path)["metadata"]["uid"])
    except KubeApiError as error:
        if error.status != 404:
            raise
        return None


@pytest.mark.usefixtures("helm")
def test_the_policies_are_in_force(cluster: Cluster) -> None:
    namespace = cluster.namespace()
    person = cluster.person(namespace, WRITES_SESSIONS, may("use", "db"))
    created = person.create(session("db"), dry_run=True)
    assert created["metadata"]["finalizers"] == ["gatepass.dev/revoke"]
    assert person.username in created["metadata"]["annotations"]["gatepass.dev/requested-by"]
    says(refusal(person.create, session("cache"), dry_run=True), 'needs the verb "use"')


@pytest.mark.usefixtures("helm")
def test_its_account_has_the_rights_that_it_is_given(cluster: Cluster) -> None:
    gatepass = cluster.gatepass(cluster.namespace())
    assert gatepass.allowed("patch", "accesssessions/status")
    assert gatepass.allowed("watch", "protectedresources")
    assert not gatepass.allowed("create", "protectedresources")
    assert not gatepass.allowed("use", "protectedresources", "db")


def test_served_namespaces_bound_it(cluster: Cluster, helm: Helm) -> None:
    served, other = cluster.namespace(), cluster.namespace()
    upgrade = ("upgrade", "gatepass", str(CHART), "--namespace", "gatepass-system")
    helm(*upgrade, "--reuse-values", "--set", f"watchNamespaces={{{served}}}")
    inside, outside = cluster.gatepass(served), cluster.gatepass(other)
    wait_until(lambda: not outside.allowed("patch", "accesssessions/status"))
    assert inside.allowed("patch", "accesssessions/status")
    admin = cluster.admin(other)
    wait_until(lambda: "finalizers" not in admin.create(resource(), dry_run=True)["metadata"])
    assert "finalizers" in cluster.admin(served).create(resource(), dry_run=True)["metadata"]
    helm(*upgrade, "--reuse-values", "--set-json", "watchNamespaces=[]")
    wait_until(lambda: outside.allowed("patch", "accesssessions/status"))
    wait_until(lambda: "finalizers" in admin.create(resource(), dry_run=True)["metadata"])


def test_a_second_release_stands_beside_the_first(cluster: Cluster, helm: Helm) -> None:
    served = cluster.namespace()
    helm(
        *("install", "second", str(CHART), "--namespace", "second", "--create-namespace"),
        *("--set", f"watchNamespaces={{{served}}}", "--set", "crds.enabled=false"),
    )
    policies = names(cluster, f"{ADMISSION}/validatingadmissionpolicies")
    assert {"gatepass-requester", "second-gatepass-requester"} <= policies
    helm("uninstall", "second", "--namespace", "second", "--no-hooks")
    policies = names(cluster, f"{ADMISSION}/validatingadmissionpolicies")
    assert "gatepass-requester" in policies
    assert "second-gatepass-requester" not in policies


@contextmanager
def uninstalling(cluster: Cluster, helm: Helm) -> Iterator[subprocess.Popen[str]]:
    """Helm, waiting for a new Job that drains."""
    before = uid(cluster, JOB)
    with helm.start("uninstall", "gatepass", "--namespace", "gatepass-system", "--timeout", "60s") as uninstall:
        try:
            wait_until(lambda: uid(cluster, JOB) not in {before, None})
            yield uninstall
            uninstall.wait(timeout=60)
        finally:
            uninstall.kill()


def finish(cluster: Cluster, *, succeeded: bool) -> None:
    """Set the status of the Job, as the Job controller would."""
    kinds = ("SuccessCriteriaMet", "Complete") if succeeded else ("FailureTarget", "Failed")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": NOW, "reason": "Test"} for kind in kinds]
    status: dict[str, Any] = {"startTime": NOW, "conditions": conditions}
    status |= {"succeeded": 1, "completionTime": NOW} if succeeded else {"failed": 1}
    cluster.api.request("PATCH", f"{JOB}/status", {"status": status}, MERGE)


def test_a_failed_drain_keeps_the_operator(cluster: Cluster, helm: Helm) -> None:
    with uninstalling(cluster, helm) as uninstall:
        finish(cluster, succeeded=False)
    assert uninstall.returncode != 0
    assert uid(cluster, DEPLOYMENT)
    assert "gatepass-requester" in names(cluster, f"{ADMISSION}/validatingadmissionpolicies")
    # For its logs, until the next attempt.
    assert uid(cluster, JOB)


def in_pod(cluster: Cluster, workload: str, folder: Path, cloud: Cloud) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of what a Deployment or a Job says, as its own account.

    There is no kubelet here: this is what stands for the pod.
    """
    pod = cluster.api.request("GET", workload)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = container["name"]
    token = cluster.control_plane.account_token("gatepass-system", pod["serviceAccountName"])
    kubeconfig = cluster.control_plane.write_kubeconfig(folder / f"{name}.kubeconfig", name, token)
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    command = [sys.executable, "-m", "gatepass", *container["args"]]
    return command, {**os.environ, **cloud.env, **env, "KUBECONFIG": str(kubeconfig)}


def wait_until_believed(cluster: Cluster) -> None:
    """Return when it is a second, or more, since the policies vouch for what is created."""
    bindings = cluster.api.request("GET", f"{ADMISSION}/validatingadmissionpolicybindings")["items"]
    changed = max(entry["time"] for each in bindings for entry in each["metadata"]["managedFields"])
    believed = datetime.fromisoformat(changed) + ENFORCED_AFTER + timedelta(seconds=1)
    wait_until(lambda: datetime.now(UTC) > believed)


def phase(person: Person) -> str | None:
    """That of the session."""
    told: str | None = person.get("AccessSession", "it-1").get("status", {}).get("phase")
    return told


@pytest.fixture
def door(cloud: Cloud) -> Iterator[tuple[Any, str]]:
    """A client of EC2 and a security group."""

    client = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=cloud.endpoint_url,
        aws_access_key_id=cloud.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=cloud.env["AWS_SECRET_ACCESS_KEY"],
    )
    yield client, client.create_security_group(GroupName="installed", Description="a door")["GroupId"]
    client.close()


def test_an_uninstall_closes_what_is_open_first(
    cluster: Cluster, helm: Helm, cloud: Cloud, door: tuple[Any, str], tmp_path: Path
) -> None:
    ec2, group = door

    def rules() -> list[Any]:
        filters = [{"Name": "group-id", "Values": [group]}]
        every = ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
        return [each for each in every if not each["IsEgress"]]

    wait_until_believed(cluster)
    admin = cluster.admin("gatepass-system")
    admin.create(resource(aws={"region": REGION, "securityGroups": [group]}))
    admin.create(session(ttlAfterEnded="Never"))
    command, env = in_pod(cluster, DEPLOYMENT, tmp_path, cloud)
    operator = Process("operator", command, tmp_path / "operator.log", env)
    operator.start()
    try:
        operator.wait_ready(lambda: phase(admin) == "Active", OPEN_SECONDS)
        assert len(rules()) == 1
        with uninstalling(cluster, helm) as uninstall:
            command, env = in_pod(cluster, JOB, tmp_path, cloud)
            drain = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
            assert drain.returncode == 0, drain.stdout + drain.stderr
            role = cluster.api.request("GET", f"{RBAC}/clusterroles/gatepass-drain")
            assert uninstall.poll() is None
            assert not rules()
            finish(cluster, succeeded=True)
    finally:
        operator.stop()
    assert uninstall.returncode == 0
    account = "system:serviceaccount:gatepass-system:gatepass-drain"
    assert used(requests(cluster.control_plane.audit_log, account)) == granted([role])
    assert uid(cluster, DEPLOYMENT) is None
    assert uid(cluster, JOB) is None
    left = names(cluster, f"{ADMISSION}/validatingadmissionpolicies") | names(cluster, f"{RBAC}/clusterroles")
    assert not [name for name in left if "gatepass" in name]
    # The definitions stay, and with them every record.
    assert admin.get("AccessSession", "it-1")["status"]["endedReason"] == "Manual"
    assert admin.get("ProtectedResource", "db")
