"""What Prometheus and Grafana find of the chart."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import Helm, one
from tests.chart.promtool import promtool
from tests.chart.queries import metrics, of_dashboard

ALL = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}
OPTIONAL = {("ServiceMonitor", "gatepass"), ("PrometheusRule", "gatepass"), ("ConfigMap", "gatepass-dashboard")}


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> list[dict[str, Any]]:
    return helm.template(ALL)


def test_it_is_there_when_it_is_asked_for(helm: Helm, rendered: list[dict[str, Any]]) -> None:
    def kinds(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in objects}

    assert kinds(rendered) - kinds(helm.template()) == OPTIONAL


def test_the_service_leads_to_the_operator_and_to_nothing_else(rendered: list[dict[str, Any]]) -> None:
    service = one(rendered, "Service", "gatepass-metrics")["spec"]
    operator = one(rendered, "Deployment")["spec"]["template"]
    drain = one(rendered, "Job", "gatepass-drain")["spec"]["template"]
    assert service["selector"].items() <= operator["metadata"]["labels"].items()
    assert not service["selector"].items() <= drain["metadata"]["labels"].items()
    assert service["publishNotReadyAddresses"] is True
    (port,) = service["ports"]
    (container,) = operator["spec"]["containers"]
    assert port["port"] == {each["name"]: each["containerPort"] for each in container["ports"]}[port["targetPort"]]


def test_the_monitor_finds_the_service(rendered: list[dict[str, Any]]) -> None:
    monitor = one(rendered, "ServiceMonitor")["spec"]
    service = one(rendered, "Service", "gatepass-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["interval"] == "30s"


def test_the_alerts_look_at_this_release_only(helm: Helm) -> None:
    objects = helm.template(ALL, release="door", namespace="tools")
    service = one(objects, "Service", "door-gatepass-metrics")["metadata"]
    (group,) = one(objects, "PrometheusRule", "door-gatepass")["spec"]["groups"]
    for rule in group["rules"]:
        assert f'job="{service["name"]}",namespace="{service["namespace"]}"' in rule["expr"], rule["alert"]
        assert rule["expr"].count("gatepass_") == rule["expr"].count("job="), rule["alert"]


def test_labels_by_which_others_select(helm: Helm) -> None:
    chosen = {"labels": {"release": "kube-prometheus-stack", "app.kubernetes.io/name": "other"}}
    objects = helm.template({name: on | chosen for name, on in ALL.items()})
    for kind, name in OPTIONAL:
        labels = one(objects, kind, name)["metadata"]["labels"]
        assert labels["release"] == "kube-prometheus-stack"
        assert labels["app.kubernetes.io/name"] == "gatepass"
    assert one(objects, "ConfigMap", "gatepass-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_dashboard_is_one_that_grafana_can_load(rendered: list[dict[str, Any]]) -> None:
    (text,) = one(rendered, "ConfigMap", "gatepass-dashboard")["data"].values()
    dashboard = json.loads(text)
    assert dashboard["uid"] == "gatepass"
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "namespace", "job"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in (panel["gridPos"] for panel in dashboard["panels"]))


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    panels = of_dashboard()
    assert len(panels) > 30
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(panels.values())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(panels)} rules found" in promtool("check", "rules", str(file))
    assert all("$" not in query for query in panels.values()), "a variable that nobody fills in"
    assert all(metrics(query) for query in panels.values())
