"""Every PromQL expression that the chart hands to somebody."""

import json
import re

import yaml

from tests.chart.values_table import CHART

_NAME = re.compile(r"\b(?:gatepass|process)_[a-z_]+\b")
_BY = re.compile(r"\bby \(([^)]*)\)")
_SELECTOR = re.compile(r"\{[^}]*\}")


def of_alerts() -> dict[str, str]:
    """The alerts' expressions by name."""
    text = (CHART / "alerts" / "alerts.yaml").read_text().replace("${SELECTOR}", 'job="gatepass-metrics"')
    return {rule["alert"]: rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def of_dashboard() -> dict[str, str]:
    """The panels' expressions by title and letter, with Grafana's variables filled in."""
    dashboard = json.loads((CHART / "dashboards" / "gatepass.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "5m")
        .replace("$job", ".*")
        .replace("$namespace", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


def metrics(query: str) -> set[str]:
    """The metrics that a query names."""
    return set(_NAME.findall(_SELECTOR.sub("", query)))


def grouped_by(query: str) -> set[str]:
    """The labels by which it groups."""
    return {label.strip() for found in _BY.findall(query) for label in found.split(",")}
