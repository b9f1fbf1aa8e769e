"""What `gatepass manifests` prints."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gatepass.cli import app
from gatepass.core.types.common import ABANDON, FINALIZER, PRIVATE, REQUESTED_BY
from gatepass.manifests import chart_files, crds, manifests, requester_policies
from tests.manifests.tenants import Cluster, wait_until

ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def of_kind(kind: str, objects: Iterable[dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects or manifests() if each["kind"] == kind}


@pytest.mark.parametrize("how", ["Validating", "Mutating"])
def test_every_policy_fails_closed_and_is_bound(how: str) -> None:
    policies, bindings = of_kind(f"{how}AdmissionPolicy"), of_kind(f"{how}AdmissionPolicyBinding")
    assert policies
    assert policies.keys() == bindings.keys()
    assert {policy["spec"]["failurePolicy"] for policy in policies.values()} == {"Fail"}
    for name, binding in bindings.items():
        assert binding["spec"]["policyName"] == name
        assert binding["spec"]["matchResources"] == {"namespaceSelector": {}}
        assert how == "Mutating" or binding["spec"]["validationActions"] == ["Deny"]


def test_every_validation_has_a_message_of_its_own() -> None:
    for policy in of_kind("ValidatingAdmissionPolicy").values():
        assert all(each["messageExpression"] for each in policy["spec"]["validations"])


def test_the_policies_speak_of_the_marks_that_the_operator_knows() -> None:
    text = json.dumps([*of_kind("ValidatingAdmissionPolicy").values(), *of_kind("MutatingAdmissionPolicy").values()])
    assert all(mark in text for mark in (FINALIZER, REQUESTED_BY, ABANDON, *PRIVATE))


def test_the_operator_can_ask_for_the_policies_that_vouch_for_a_requester() -> None:
    assert set(requester_policies()) <= of_kind("ValidatingAdmissionPolicy").keys()
    other = manifests(namespace="tools", service_account="door", name="door")
    assert set(requester_policies("door")) <= of_kind("ValidatingAdmissionPolicy", other).keys()


def test_an_installation_by_another_name() -> None:
    objects = manifests(namespace="tools", service_account="keeper", name="door", watch_namespaces=["ci", "web"])
    text = json.dumps(objects)
    assert "system:serviceaccount:tools:keeper" in text
    assert "${" not in text
    assert all(each["metadata"]["name"].startswith("door-") for each in objects if "Policy" in each["kind"])
    (selector,) = {json.dumps(b["spec"]["matchResources"]) for b in objects if b["kind"].endswith("PolicyBinding")}
    (served,) = json.loads(selector)["namespaceSelector"]["matchExpressions"]
    assert served == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["ci", "web"]}


def test_the_command_prints_it() -> None:
    printed = CliRunner().invoke(app, ["manifests", "--crds", "--namespace", "tools", "--service-account", "keeper"])
    assert printed.exit_code == 0
    expected = [*crds(), *manifests(namespace="tools", service_account="keeper")]
    assert list(yaml.safe_load_all(printed.stdout)) == expected


def test_the_command_writes_the_files_of_the_chart(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["manifests", "--chart-files", str(tmp_path)]).exit_code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == chart_files()


def test_the_api_server_finds_no_fault_with_the_types(cluster: Cluster) -> None:
    names = of_kind("ValidatingAdmissionPolicy")

    def checked() -> dict[str, Any]:
        policies = cluster.api.request("GET", f"{ADMISSION}/validatingadmissionpolicies")["items"]
        return {each["metadata"]["name"]: each.get("status", {}).get("typeChecking") for each in policies}

    wait_until(lambda: all(checked().get(name) is not None for name in names))
    assert not any(checked()[name] for name in names)
