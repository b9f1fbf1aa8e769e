"""Values: documented, checked by the schema, and handed to the operator as settings."""

import json
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from gatepass.settings import Settings
from tests.chart.helm import Helm, HelmError, one
from tests.chart.values_table import CHART, documented, readme

# What the chart knows by itself, and what no installation has a reason to change.
NOT_VALUES = {"namespace", "release", "health_host", "api_host"}
# What becomes of the value `audit`, which says more than the settings: tests/chart/test_audit_values.py.
AUDIT = {"audit_key_file", "database_url", "audit_required", "audit_retention"}
# What is in a Secret or a ConfigMap that a value names: tests/chart/test_api.py.
SECRET = {"rate_limit_storage", "oidc_ca_file"}

PUBLISHED = {
    "replicas": 1,
    "api": {"enabled": True},
    "trustedProxies": ["10.0.0.0/8"],
    "ingress": {"enabled": True, "host": "gatepass.example.com"},
}
SEVERAL: dict[str, Any] = {
    "replicas": 3,
    "api": {"enabled": True},
    "rateLimitStorageSecret": "cache",
    "audit": {"enabled": True, "keySecret": "keys", "databaseSecret": "db"},
}
ROUTED = {
    "replicas": 1,
    "api": {"enabled": True},
    "trustedProxies": ["10.0.0.0/8"],
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["gatepass.example.com"]},
}


def leaves(node: Any, path: str = "") -> set[str]:
    return (
        {leaf for key, value in node.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))}
        if isinstance(node, dict) and node
        else {path}
    )


def test_every_value_is_documented() -> None:
    values = leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
    undocumented = {
        path for path in values if not any(path == said or path.startswith(f"{said}.") for said in documented())
    }
    assert not undocumented


def test_the_readme_has_the_table_of_values() -> None:
    assert (CHART / "README.md").read_text() == readme(), "run: python -m tests.chart.values_table"


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() - {"global"} == yaml.safe_load((CHART / "values.yaml").read_text()).keys()


def test_every_setting_of_the_operator_is_a_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {to_camel(name) for name in Settings.model_fields.keys() - NOT_VALUES - AUDIT - SECRET} <= values.keys()


def env_of(workload: dict[str, Any]) -> dict[str, str]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_the_operator_reads_the_defaults_as_its_own(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Settings()
    for name, value in env_of(one(helm.template(), "Deployment")).items():
        monkeypatch.setenv(name, value)
    assert Settings() == expected


def test_the_operator_reads_what_is_set(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    confined = {"gatepass-system": ["operator", "*"], "team-*": ["arn:aws:iam::123456789012:role/gatepass-team-*"]}
    values = {
        "installId": "prod/eu",
        "watchNamespaces": ["ci", "web"],
        "resyncSeconds": 1200,
        "leaseSeconds": 30,
        "credentialsNamespaces": confined,
        "switchRoles": [f"arn:aws:iam::{account}:role/gatepass-switch" for account in ("111122223333", "444455556666")],
        "defaultTtlAfterEnded": "1h30m",
        "logFormat": "json",
        "logLevel": "debug",
        "healthPort": 8081,
        "metricsPort": 9091,
        "admissionUnverified": True,
        "apiPort": 8001,
        "trustedProxies": ["10.0.0.0/8", "2001:db8::/32"],
        "rateLimit": 600,
        "corsOrigins": ["https://portal.example.com"],
        "oidcIssuers": ["https://gitlab.example.com"],
        "oidcPrivateIssuers": ["https://gitlab.example.com"],
        "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    }
    env = env_of(one(helm.template(values, "--api-versions", "v1"), "Deployment"))
    assert env["AWS_REGION"] == "eu-central-1"
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.install_id == "prod/eu"
    assert settings.watch_namespaces == ("ci", "web")
    assert settings.resync_seconds == 1200
    assert settings.lease_seconds == 30
    assert settings.confinement == {name: tuple(patterns) for name, patterns in confined.items()}
    assert settings.switch_roles == tuple(values["switchRoles"])
    assert settings.default_ttl_after_ended.total_seconds() == 5400
    assert (settings.log_format, settings.log_level) == ("json", "debug")
    assert (settings.health_port, settings.metrics_port) == (8081, 9091)
    assert settings.admission_unverified
    assert (settings.api_port, settings.rate_limit) == (8001, 600)
    assert [str(each) for each in settings.trusted_proxies] == ["10.0.0.0/8", "2001:db8::/32"]
    assert settings.oidc_issuers == ("https://gitlab.example.com",)
    assert settings.oidc_private_issuers == ("https://gitlab.example.com",)
    assert settings.cors_origins == ("https://portal.example.com",)
    assert (settings.namespace, settings.release) == ("gatepass-system", "gatepass")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"leaseSeconds": 14}, "leaseSeconds"),
        ({"image": {"name": "gatepass"}}, "name"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"resyncSeconds": "10m"}, "resyncSeconds"),
        ({"resyncSeconds": 0}, "resyncSeconds"),
        ({"watchNamespaces": "ci"}, "watchNamespaces"),
        ({"watchNamespaces": ["team-*"]}, "watchNamespaces"),
        ({"credentialsNamespaces": ["ci"]}, "credentialsNamespaces"),
        ({"credentialsNamespaces": {"ci": "operator"}}, "credentialsNamespaces"),
        ({"credentialsNamespaces": {"ci": ["admin"]}}, "credentialsNamespaces"),
        ({"switchRoles": ["gatepass-switch"]}, "switchRoles"),
        ({"defaultTtlAfterEnded": "1d"}, "defaultTtlAfterEnded"),
        ({"defaultTtlAfterEnded": ""}, "defaultTtlAfterEnded"),
        ({"defaultTtlAfterEnded": "never"}, "defaultTtlAfterEnded"),
        ({"logLevel": "verbose"}, "logLevel"),
        ({"logFormat": "xml"}, "logFormat"),
        ({"healthPort": 65536}, "healthPort"),
        ({"metricsPort": 0}, "metricsPort"),
        ({"serviceMonitor": {"interval": "often"}}, "interval"),
        ({"prometheusRule": {"runbook": "docs/runbook.md"}}, "runbook"),
        ({"dashboard": {"labels": ["grafana"]}}, "labels"),
        ({"networkPolicy": {"scrapers": {}}}, "scrapers"),
        ({"admissionUnverified": "yes"}, "admissionUnverified"),
        ({"installId": "two words"}, "installId"),
        ({"crds": {"enabled": "no"}}, "crds"),
        ({"serviceAccount": {"name": "Gatepass"}}, "serviceAccount"),
        ({"drain": {"timeoutSeconds": 0}}, "drain"),
        ({"networkPolicy": {"egress": []}}, "networkPolicy"),
        ({"audit": {"enabled": True}}, "keySecret"),
        ({"audit": {"required": True, "keySecret": "keys"}}, "audit"),
        ({"audit": {"retention": "1y"}}, "retention"),
        ({"audit": {"url": "postgresql://u:p@h/d"}}, "url"),
        ({"apiPort": 0}, "apiPort"),
        ({"replicas": 2, "api": {"enabled": True}}, "replicas"),
        ({**SEVERAL, "rateLimitStorageSecret": ""}, "rateLimitStorageSecret"),
        ({**SEVERAL, "audit": {**SEVERAL["audit"], "databaseSecret": ""}}, "databaseSecret"),
        ({**SEVERAL, "audit": {**SEVERAL["audit"], "enabled": False}}, "enabled"),
        ({"rateLimitStorageSecret": "valkey://cache"}, "rateLimitStorageSecret"),
        ({"replicas": 2, "audit": {"enabled": True, "keySecret": "keys"}}, "replicas"),
        ({"rateLimit": 0}, "rateLimit"),
        ({"trustedProxies": ["any"]}, "trustedProxies"),
        ({"corsOrigins": ["*"]}, "corsOrigins"),
        ({"oidcIssuers": ["http://gitlab.example.com"]}, "oidcIssuers"),
        ({"api": {"serviceType": "ExternalName"}}, "serviceType"),
        # Behind a controller that is not trusted, every session would be opened to the controller.
        ({**PUBLISHED, "trustedProxies": []}, "trustedProxies"),
        ({**PUBLISHED, "api": {"enabled": False}}, "api"),
        ({**PUBLISHED, "ingress": {"enabled": True}}, "host"),
        ({**ROUTED, "trustedProxies": []}, "trustedProxies"),
        ({**ROUTED, "httpRoute": {"enabled": True}}, "parentRefs"),
        ({**PUBLISHED, "certificate": {"enabled": True}}, "name"),
    ],
    ids=str,
)
def test_the_schema_refuses(helm: Helm, values: dict[str, Any], named: str) -> None:
    with pytest.raises(HelmError, match=named):
        helm.template(values)
