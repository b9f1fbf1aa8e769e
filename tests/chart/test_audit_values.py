"""The audit trail in the chart: off by default, on a volume, or in a database."""

from typing import Any

import pytest

from gatepass.settings import Settings
from tests.chart.helm import Helm, HelmError, one
from tests.chart.test_values import env_of

ON: dict[str, Any] = {"enabled": True, "keySecret": "audit-keys"}


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {each["kind"] for each in objects}


def test_there_is_none_by_default(helm: Helm) -> None:
    objects = helm.template()
    assert "PersistentVolumeClaim" not in kinds(objects)
    assert "audit" not in str(one(objects, "Deployment")["spec"]).lower()


def test_a_file_on_a_volume_that_outlives_the_release(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = helm.template(
        {"replicas": 1, "audit": {**ON, "volumeSize": "5Gi", "storageClassName": "fast", "retention": "720h"}}
    )
    claim = one(objects, "PersistentVolumeClaim", "gatepass-audit")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    assert claim["spec"]["storageClassName"] == "fast"
    deployment = one(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["audit"]["persistentVolumeClaim"] == {"claimName": "gatepass-audit"}
    assert volumes["audit-keys"]["secret"]["secretName"] == "audit-keys"
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    for name, value in env_of(deployment).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == f"sqlite:///{mounts['audit']}/audit.db"
    assert str(settings.audit_key_file) == f"{mounts['audit-keys']}/keys"
    assert settings.audit_retention.total_seconds() == 720 * 3600
    assert not settings.audit_required


@pytest.mark.parametrize("kept", ["1h", "60m", "90m30s", "3600s", "8760h", "10h0m1s", "Never"])
def test_how_long_entries_are_kept(helm: Helm, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    for name, value in env_of(
        one(helm.template({"replicas": 1, "audit": {**ON, "retention": kept}}), "Deployment")
    ).items():
        monkeypatch.setenv(name, value)
    assert Settings().audit_retention.total_seconds() >= 3600


@pytest.mark.parametrize("kept", ["59m", "3599s", "0h", "0s", "0h59m", ""])
def test_what_the_operator_would_not_start_with_is_refused_before_anything_is_replaced(helm: Helm, kept: str) -> None:
    with pytest.raises(HelmError, match="retention"):
        helm.template({"replicas": 1, "audit": {**ON, "retention": kept}})


def test_a_claim_that_is_there_already(helm: Helm) -> None:
    objects = helm.template({"replicas": 1, "audit": {**ON, "existingClaim": "mine"}})
    assert "PersistentVolumeClaim" not in kinds(objects)
    spec = one(objects, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    volumes = spec["template"]["spec"]["volumes"]
    assert {"name": "audit", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_a_database_takes_no_volume_and_is_let_through(helm: Helm) -> None:
    objects = helm.template({"audit": {**ON, "databaseSecret": "db", "required": True, "retention": "Never"}})
    assert "PersistentVolumeClaim" not in kinds(objects)
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each for each in container["env"]}
    assert env["GATEPASS_DATABASE_URL"]["valueFrom"] == {"secretKeyRef": {"name": "db", "key": "url"}}
    assert env["GATEPASS_AUDIT_REQUIRED"]["value"] == "true"
    assert [each["name"] for each in container["volumeMounts"]] == ["tmp", "audit-keys"]
    ports = [port["port"] for rule in one(objects, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert 5432 in ports
