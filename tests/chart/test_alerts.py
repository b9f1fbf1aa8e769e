"""The alerts: what they are made of, when they fire, and where they lead."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.alert_cases import CASES, Case
from tests.chart.helm import Helm, one
from tests.chart.promtool import PromtoolError, promtool
from tests.programs import PROMTOOL

_SCRAPED = 'job="gatepass-metrics",namespace="gatepass-system"'
_RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"


@pytest.fixture(scope="module")
def rules(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the chart hands to Prometheus, as a file of its own."""
    rule = one(helm.template({"prometheusRule": {"enabled": True}}), "PrometheusRule")
    file = tmp_path_factory.mktemp("alerts") / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    return file


@pytest.fixture(scope="module")
def alerts(rules: Path) -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_promtool_is_pinned() -> None:
    assert PROMTOOL.module is not None
    assert f"github.com/prometheus/prometheus {PROMTOOL.version}" in (PROMTOOL.module / "go.mod").read_text()
    (download,) = PROMTOOL.downloads("linux", "amd64")
    assert download.url.endswith("/v3.5.2/prometheus-3.5.2.linux-amd64.tar.gz")


def test_promtool_finds_nothing(rules: Path) -> None:
    assert "12 rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules))


def _series(name: str) -> str:
    """The metric with the labels that a scrape by the ServiceMonitor gives it."""
    metric, _, own = name.rstrip("}").partition("{")
    return f"{metric}{{{','.join(filter(None, (own, _SCRAPED)))}}}"


def _expected(case: Case, alert: dict[str, Any]) -> list[dict[str, Any]]:
    if case.says is None:
        return []
    told = {"summary": case.says} | ({"description": case.description} if case.description else {})
    return [{"exp_labels": alert["labels"] | case.labels, "exp_annotations": alert["annotations"] | told}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.says else 'is quiet'}")
def test_it_fires_when_it_should(case: Case, rules: Path, alerts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    expected = {
        "eval_time": case.at,
        "alertname": case.alert,
        "exp_alerts": _expected(case, alerts[case.alert]),
    }
    series = [{"series": _series(name), "values": values} for name, values in case.series.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [expected]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(file))


def test_a_test_that_expects_the_wrong_thing_fails(rules: Path, tmp_path: Path) -> None:
    wrong = {"eval_time": "1m", "alertname": "GatepassOpenPastEnd", "exp_alerts": []}
    series = [{"series": _series("gatepass_overdue_seconds"), "values": "45x3"}]
    file = tmp_path / "test.yaml"
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [wrong]}
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    with pytest.raises(PromtoolError, match="FAILED"):
        promtool("test", "rules", str(file))


def test_each_alert_is_seen_firing_and_not_firing(alerts: dict[str, dict[str, Any]]) -> None:
    assert {case.alert for case in CASES if case.says} == alerts.keys()
    assert {case.alert for case in CASES if not case.says} == alerts.keys()


def test_each_alert_leads_to_its_entry_of_the_runbook(alerts: dict[str, dict[str, Any]]) -> None:
    entries = re.findall(r"^## (Gatepass\w+)$", _RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(alerts)
    for name, alert in alerts.items():
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/docs/runbook.md")
        assert anchor == name.lower()
        assert alert["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("part", ["What it means", "Look", "Do"])
def test_each_entry_says_what_it_means_and_what_to_do(part: str) -> None:
    for entry in re.split(r"^## ", _RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        if entry.startswith("Gatepass"):
            assert f"**{part}.**" in entry, entry.splitlines()[0]
