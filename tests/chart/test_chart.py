"""What the chart renders."""

from typing import Any

import pytest

from gatepass.manifests import chart_files, crds, manifests
from tests.chart.helm import Helm, one
from tests.chart.values_table import CHART


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> list[dict[str, Any]]:
    return helm.template()


def test_helm_lints_it(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_it_holds_what_the_package_holds() -> None:
    held = {path.name: path.read_text() for path in (CHART / "files").iterdir()}
    assert held == dict(chart_files()), "run: make crds"


def test_it_installs_what_the_package_prints(rendered: list[dict[str, Any]]) -> None:
    for expected in manifests():
        if expected["kind"] not in {"Namespace", "ServiceAccount"}:
            assert one(rendered, expected["kind"], expected["metadata"]["name"]) == expected


def test_sessions_are_bound_to_the_kinds_that_an_installation_names(helm: Helm) -> None:
    kinds = [{"apiGroups": ["example.com"], "resources": ["builds", "deploys"]}]
    role = one(helm.template({"boundTo": kinds}), "ClusterRole", "gatepass-owners")
    assert role["rules"] == [{**kinds[0], "verbs": ["list", "watch"]}]
    assert one(helm.template({"boundTo": []}), "ClusterRole", "gatepass-owners")["rules"] == []


def test_the_definitions_survive_the_release(rendered: list[dict[str, Any]], helm: Helm) -> None:
    for expected in crds():
        found = one(rendered, "CustomResourceDefinition", expected["metadata"]["name"])
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == expected
    without = helm.template({"crds": {"enabled": False}})
    assert not [each for each in without if each["kind"] == "CustomResourceDefinition"]


def test_another_name_is_in_everything(helm: Helm) -> None:
    expected = manifests(namespace="tools", service_account="keeper", name="door-gatepass")
    objects = helm.template({"serviceAccount": {"name": "keeper"}}, release="door", namespace="tools")
    for item in expected:
        if item["kind"] not in {"Namespace", "ServiceAccount"}:
            assert one(objects, item["kind"], item["metadata"]["name"]) == item
    (operator,) = [each for each in objects if each["kind"] == "Deployment"]
    assert operator["spec"]["template"]["spec"]["serviceAccountName"] == "keeper"


@pytest.mark.parametrize(
    ("words", "version"),
    [
        (("--kube-version", "1.36"), "admissionregistration.k8s.io/v1"),
        (("--kube-version", "1.35"), None),
        (
            (
                "--kube-version",
                "1.35",
                "--api-versions",
                "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy",
            ),
            "admissionregistration.k8s.io/v1beta1",
        ),
    ],
    ids=str,
)
def test_what_stamps_is_there_where_the_cluster_has_it(helm: Helm, words: tuple[str, ...], version: str | None) -> None:
    objects = helm.template({}, *words)
    versions = {each["apiVersion"] for each in objects if each["kind"].startswith("MutatingAdmissionPolicy")}
    assert versions == ({version} if version else set())
    assert one(objects, "ValidatingAdmissionPolicy", "gatepass-requester")


def test_admission_can_be_left_out(helm: Helm) -> None:
    assert not [each for each in helm.template({"admission": {"enabled": False}}) if "Admission" in each["kind"]]


def test_reading_pods_and_nodes_can_be_left_out(helm: Helm) -> None:
    def about(objects: list[dict[str, Any]]) -> set[str]:
        read = {name for each in objects for rule in each.get("rules") or () for name in rule.get("resources", ())}
        return read & {"pods", "nodes"}

    assert about(helm.template()) == {"pods", "nodes"}
    without = helm.template({"podSource": {"enabled": False}, "boundTo": []})
    assert about(without) == set()
    assert not [each for each in without if each["metadata"]["name"] in ("gatepass-pods", "gatepass-nodes")]


def test_served_namespaces_bound_what_it_may_and_what_it_refuses(helm: Helm) -> None:
    objects = helm.template({"watchNamespaces": ["ci", "web"]})
    for name in ("gatepass-served", "gatepass-owners", "gatepass-drain", "gatepass-pods"):
        bindings = [each for each in objects if each["metadata"]["name"] == name and each["kind"] == "RoleBinding"]
        assert [each["metadata"]["namespace"] for each in bindings] == ["ci", "web"]
    everywhere = {each["metadata"]["name"] for each in objects if each["kind"] == "ClusterRoleBinding"}
    assert everywhere == {"gatepass-cluster", "gatepass-nodes"}
    expected = manifests(watch_namespaces=["ci", "web"])
    for binding in (each for each in expected if each["kind"].endswith("AdmissionPolicyBinding")):
        assert one(objects, binding["kind"], binding["metadata"]["name"]) == binding


@pytest.mark.parametrize(
    ("kind", "name", "args"),
    [("Deployment", "gatepass", ["operator"]), ("Job", "gatepass-drain", ["drain", "--timeout", "240"])],
)
def test_the_pods_have_no_more_rights_than_they_need(
    rendered: list[dict[str, Any]], kind: str, name: str, args: list[str]
) -> None:
    pod = one(rendered, kind, name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == args
    assert container["image"] == "ghcr.io/gatepass/gatepass:0.1.0"
    assert pod["serviceAccountName"] == name
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert one(rendered, "ServiceAccount", name)["automountServiceAccountToken"] is False


def test_the_operator_has_a_standby_and_both_are_probed(rendered: list[dict[str, Any]]) -> None:
    spec = one(rendered, "Deployment")["spec"]
    assert spec["replicas"] == 2
    # The next one is warm before the last one ends.
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == spec["selector"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway", "on a cluster of one node both run there"
    (container,) = spec["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == {"health": 8080, "metrics": 9090}


def test_the_pod_takes_what_is_set(helm: Helm) -> None:
    digest = f"sha256:{'0' * 64}"
    values: dict[str, Any] = {
        "image": {"repository": "registry.example/gatepass", "digest": digest},
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "platform", "app.kubernetes.io/name": "other"},
        "podAnnotations": {"note": "kept"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/gatepass"}},
    }
    objects = helm.template(values)
    template = one(objects, "Deployment")["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == f"registry.example/gatepass@{digest}"
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert template["spec"]["nodeSelector"] == {"pool": "system"}
    assert template["spec"]["tolerations"] == values["tolerations"]
    assert template["spec"]["priorityClassName"] == "system-cluster-critical"
    assert template["metadata"]["annotations"] == {"note": "kept"}
    assert template["metadata"]["labels"]["team"] == "platform"
    # A label of ours, which selectors rely on, is not to be replaced.
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "gatepass"
    assert one(objects, "ServiceAccount")["metadata"]["annotations"] == values["serviceAccount"]["annotations"]


def test_what_the_network_policy_allows(helm: Helm, rendered: list[dict[str, Any]]) -> None:
    def ports(rules: list[dict[str, Any]]) -> set[tuple[int, str]]:
        return {(port["port"], port["protocol"]) for rule in rules for port in rule["ports"]}

    spec = one(rendered, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (scrapes,) = spec["ingress"]
    assert ports([scrapes]) == {(9090, "TCP")}
    assert scrapes["from"] == [{"namespaceSelector": {}}]
    assert ports(spec["egress"]) == {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6443, "TCP")}
    selected = spec["podSelector"]["matchLabels"].items()
    for kind, name in (("Deployment", "gatepass"), ("Job", "gatepass-drain")):
        assert selected <= one(rendered, kind, name)["spec"]["template"]["metadata"]["labels"].items()

    changed = {"networkPolicy": {"apiServerPorts": [16443], "scrapers": []}}
    spec = one(helm.template(changed), "NetworkPolicy")["spec"]
    assert (16443, "TCP") in ports(spec["egress"])
    assert spec["ingress"] == []


def test_the_budget_is_for_the_operator_and_never_blocks(rendered: list[dict[str, Any]]) -> None:
    spec = one(rendered, "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    operator = one(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    drain = one(rendered, "Job", "gatepass-drain")["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= operator.items()
    assert not spec["selector"]["matchLabels"].items() <= drain.items()


def test_parts_can_be_left_out(helm: Helm) -> None:
    off = {name: {"enabled": False} for name in ("networkPolicy", "podDisruptionBudget", "drain")}
    kinds = {each["kind"] for each in helm.template(off)}
    assert not kinds & {"NetworkPolicy", "PodDisruptionBudget", "Job"}
