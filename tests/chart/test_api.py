"""The REST API in the chart."""

from typing import Any

import pytest

from gatepass.settings import Settings
from tests.chart.helm import Helm, one
from tests.chart.test_values import PUBLISHED, ROUTED, SEVERAL, env_of

KINDS = {"Service", "Ingress", "HTTPRoute", "Certificate"}


def of_the_api(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the Service that leads to the metrics."""
    return [each for each in objects if not each["metadata"]["name"].endswith("-metrics")]


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {each["kind"] for each in of_the_api(objects)} & KINDS


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_it_is_off_by_default(helm: Helm) -> None:
    rendered = helm.template()
    assert not kinds(rendered)
    assert container(rendered)["args"] == ["operator"]
    assert [port["name"] for port in container(rendered)["ports"]] == ["health", "metrics"]


def test_the_service_leads_to_it(helm: Helm) -> None:
    rendered = helm.template({"replicas": 1, "api": {"enabled": True, "servicePort": 8443}, "apiPort": 8001})
    assert kinds(rendered) == {"Service"}
    assert container(rendered)["args"] == ["serve"]
    ports = {port["name"]: port["containerPort"] for port in container(rendered)["ports"]}
    service = one(of_the_api(rendered), "Service")["spec"]
    assert ports[service["ports"][0]["targetPort"]] == 8001
    assert service["ports"][0]["port"] == 8443
    labels = one(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert "externalTrafficPolicy" not in service


def test_a_load_balancer_keeps_the_callers_address(helm: Helm) -> None:
    service = one(
        of_the_api(helm.template({"replicas": 1, "api": {"enabled": True, "serviceType": "LoadBalancer"}})), "Service"
    )["spec"]
    assert service["externalTrafficPolicy"] == "Local"


def test_the_network_policy_lets_callers_in(helm: Helm) -> None:
    spec = one(helm.template({"replicas": 1, "api": {"enabled": True}}), "NetworkPolicy")["spec"]
    assert spec["ingress"][1:] == [{"ports": [{"port": "api", "protocol": "TCP"}]}]
    ours = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]
    spec = one(helm.template({"replicas": 1, "api": {"enabled": True, "from": ours}}), "NetworkPolicy")["spec"]
    assert spec["ingress"][1]["from"] == ours


def test_an_ingress_with_a_certificate(helm: Helm) -> None:
    issuer = {"name": "letsencrypt", "kind": "ClusterIssuer"}
    rendered = helm.template({**PUBLISHED, "certificate": {"enabled": True, "issuerRef": issuer}})
    assert kinds(rendered) == {"Service", "Ingress", "Certificate"}
    ingress = one(rendered, "Ingress")["spec"]
    certificate = one(rendered, "Certificate")["spec"]
    assert ingress["tls"] == [{"hosts": certificate["dnsNames"], "secretName": certificate["secretName"]}]
    assert (certificate["dnsNames"], certificate["issuerRef"]) == (["gatepass.example.com"], issuer)
    (path,) = ingress["rules"][0]["http"]["paths"]
    service = one(of_the_api(rendered), "Service")
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}


def test_an_ingress_without_one_and_with_another(helm: Helm) -> None:
    assert "tls" not in one(helm.template(PUBLISHED), "Ingress")["spec"]
    other = {**PUBLISHED["ingress"], "tlsSecretName": "wildcard"}
    assert one(helm.template({**PUBLISHED, "ingress": other}), "Ingress")["spec"]["tls"][0]["secretName"] == "wildcard"


def test_a_route(helm: Helm) -> None:
    rendered = helm.template(ROUTED)
    assert kinds(rendered) == {"Service", "HTTPRoute"}
    spec = one(rendered, "HTTPRoute")["spec"]
    assert (spec["parentRefs"], spec["hostnames"]) == ([{"name": "public"}], ["gatepass.example.com"])
    assert spec["rules"][0]["backendRefs"] == [{"name": "gatepass", "port": 80}]


def test_several_replicas_share_a_limiter_and_a_database(helm: Helm) -> None:
    rendered = helm.template(SEVERAL)
    assert one(rendered, "Deployment")["spec"]["replicas"] == 3
    assert container(rendered)["args"] == ["serve"]
    env = {each["name"]: each for each in container(rendered)["env"]}
    assert env["GATEPASS_RATE_LIMIT_STORAGE"]["valueFrom"] == {"secretKeyRef": {"name": "cache", "key": "url"}}
    ports = [port["port"] for rule in one(rendered, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert 6379 in ports
    assert "RATE_LIMIT_STORAGE" not in str(helm.template())


def test_certificates_of_issuers(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = helm.template({"replicas": 1, "api": {"enabled": True}, "oidcCaConfigMap": "our-ca"})
    for name, value in env_of(one(rendered, "Deployment")).items():
        monkeypatch.setenv(name, value)
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each.get("configMap", {}).get("name") == "our-ca"]
    (mount,) = [each for each in container(rendered)["volumeMounts"] if each["name"] == volume["name"]]
    assert str(Settings().oidc_ca_file) == f"{mount['mountPath']}/ca.crt"
