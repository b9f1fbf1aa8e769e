"""The control plane is a real one: RBAC, tokens, policies, audit, controllers, and it comes back after an outage."""

import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from gatepass.sandbox import binaries
from gatepass.sandbox.controlplane import ControlPlane
from gatepass.sandbox.environment import NAMESPACE, SERVICE_ACCOUNT, Sandbox
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError

PATIENCE_SECONDS = 60.0


def eventually(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not question():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def exists(api: KubeApi, path: str) -> bool:
    try:
        api.request("GET", path)
    except KubeApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True


def config_map(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"a": "b"},
    }


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One of its own, to be broken."""
    plane = ControlPlane(binaries.kubernetes(), tmp_path_factory.mktemp("kubernetes"))
    plane.start()
    yield plane
    plane.stop()


def test_it_is_the_version_that_is_pinned_and_serves_both_kinds_of_policy(sandbox: Sandbox) -> None:
    with sandbox.control_plane.api() as api:
        assert api.request("GET", "/version")["gitVersion"] == binaries.KUBERNETES_VERSION
        served = {each["name"] for each in api.request("GET", "/apis/admissionregistration.k8s.io/v1")["resources"]}
    assert {"mutatingadmissionpolicies", "validatingadmissionpolicies"} <= served


def test_the_operators_account_is_no_admin_and_a_stranger_is_nobody(sandbox: Sandbox) -> None:
    token = sandbox.control_plane.account_token(NAMESPACE, SERVICE_ACCOUNT)
    with sandbox.control_plane.api(token) as api:
        api.request("GET", "/apis/gatepass.dev/v1alpha1/accesssessions")
        with pytest.raises(KubeApiError, match=f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}") as caught:
            api.request("GET", "/api/v1/configmaps")
        assert caught.value.status == 403
    with sandbox.control_plane.api("wrong") as api, pytest.raises(KubeApiError) as caught:
        api.request("GET", "/api/v1/namespaces")
    assert caught.value.status == 401


def test_the_audit_log_tells_who_used_which_verb(sandbox: Sandbox) -> None:
    with sandbox.control_plane.api() as api:
        api.request("GET", "/api/v1/namespaces/default/configmaps?limit=1")

    def logged() -> bool:
        complete, _, _ = sandbox.control_plane.audit_log.read_text().rpartition("\n")
        events = [json.loads(line) for line in complete.splitlines()]
        return any(
            event["user"].get("username") == "sandbox-admin"  # a refused token has no user
            and event["verb"] == "list"
            and event.get("objectRef", {}).get("resource") == "configmaps"
            for event in events
        )

    eventually(logged)


def test_controllers_make_service_accounts_collect_garbage_and_delete_namespaces(control_plane: ControlPlane) -> None:
    with control_plane.api() as api:
        api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short-lived"}}])
        eventually(lambda: exists(api, "/api/v1/namespaces/short-lived/serviceaccounts/default"))
        owner = api.request("POST", "/api/v1/namespaces/default/configmaps", config_map("owner"))
        owned = config_map("owned")
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        owned["metadata"] = {"name": "owned", "namespace": "default", "ownerReferences": [reference]}
        api.apply([owned])
        api.request("DELETE", "/api/v1/namespaces/default/configmaps/owner")
        api.request("DELETE", "/api/v1/namespaces/short-lived")
        eventually(lambda: not exists(api, "/api/v1/namespaces/default/configmaps/owned"))
        eventually(lambda: not exists(api, "/api/v1/namespaces/short-lived"))


@pytest.mark.parametrize("kill", [False, True])
def test_api_server_and_etcd_come_back_with_their_data_on_the_same_port(
    control_plane: ControlPlane, kill: bool
) -> None:
    name = f"survivor-{kill}".lower()
    path = f"/api/v1/namespaces/default/configmaps/{name}"
    with control_plane.api() as api:
        api.apply([config_map(name)])
    control_plane.restart_api(kill=kill)
    with control_plane.api() as api:
        assert exists(api, path)
        control_plane.restart_etcd(kill=kill)
        control_plane.restart_controllers(kill=kill)
        api.request("DELETE", path)
    control_plane.stop_api(kill=kill)
    with control_plane.api() as api:
        assert not api.healthy("/readyz")
        control_plane.restart_api()
        assert not exists(api, path)


def test_a_kubeconfig_is_for_its_owner_only(sandbox: Sandbox) -> None:
    path = sandbox.account_kubeconfig("default", "default")
    assert path.stat().st_mode & 0o077 == 0
    assert Path(sandbox.kubeconfig).stat().st_mode & 0o077 == 0
