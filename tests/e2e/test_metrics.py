"""Metrics of the running operator."""

from gatepass.sandbox.environment import Sandbox
from tests.chart.promtool import promtool
from tests.chart.queries import grouped_by, metrics, of_alerts, of_dashboard
from tests.e2e.firewall import Group
from tests.e2e.replicas import Replica, let_lead
from tests.e2e.scrape import Scrape
from tests.e2e.tenant import Tenant, wait_for


def test_what_a_session_leaves_in_the_metrics(sandbox: Sandbox, tenant: Tenant, group: Group) -> None:
    before = Scrape(sandbox.metrics_url)
    tenant.resource(group.id)
    tenant.session()
    tenant.until_phase("it-1", "Active")

    def scraped(name: str, **labels: str) -> float:
        return Scrape(sandbox.metrics_url).value(name, **labels)

    # A write is counted when it is answered, which may be after somebody has read it.
    ready = "gatepass_session_ready_seconds_count"
    wait_for(lambda: scraped(ready) == before.value(ready) + 1, "the opening is counted")
    opened = Scrape(sandbox.metrics_url)
    assert opened.value("gatepass_sessions", phase="Active") >= 1
    for name in ("used", "ours"):
        assert opened.values(f"gatepass_target_rules_{name}", target=group.id, family="ipv4") == [1]
    assert opened.values("gatepass_target_failing", target=group.id) == [0]
    assert opened.value("gatepass_leader") == 1
    resource = f"{tenant.namespace}/db"
    wait_for(lambda: scraped("gatepass_resource_rules_used", resource=resource, family="ipv4") == 1)
    assert scraped("gatepass_resource_rules_limit", resource=resource, family="ipv4") == 60

    tenant.edit("it-1", stop=True)
    tenant.until_stopped("it-1")
    late = "gatepass_session_closing_lateness_seconds"
    wait_for(lambda: scraped(f"{late}_count") == before.value(f"{late}_count") + 1, "the closing is counted")
    closed = Scrape(sandbox.metrics_url)
    assert closed.value(f"{late}_sum") - before.value(f"{late}_sum") < 60
    for action in ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"):
        labels = {"action": f"ec2:{action}", "outcome": "ok"}
        assert closed.value("gatepass_aws_calls_total", **labels) > before.value("gatepass_aws_calls_total", **labels)
    assert closed.value("gatepass_overdue_seconds") == 0


def test_who_has_the_lease_and_may_not_list_does_not_lead(sandbox: Sandbox, tenant: Tenant) -> None:
    wait_for(lambda: tenant.api.healthy(f"/api/v1/namespaces/{tenant.namespace}/serviceaccounts/default"), "an account")
    let_lead(tenant.api, tenant.namespace, f"{tenant.namespace}/default")
    account = str(sandbox.account_kubeconfig(tenant.namespace, "default"))
    settings = {"GATEPASS_INSTALL_ID": tenant.namespace, "GATEPASS_NAMESPACE": tenant.namespace}
    blind = Replica(sandbox, "blind", options=["--kubeconfig", account], **settings)
    blind.launch()
    try:
        for event in ("leading", "cannot list yet"):
            wait_for(lambda event=event: blind.has_logged(event), event)  # type: ignore[misc]  # mypy/15459
        assert Scrape(blind.metrics_url).values("gatepass_leader") == [0]
    finally:
        blind.kill()


def test_prometheus_has_nothing_against_them(sandbox: Sandbox, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.session(name="a-name-to-look-for")
    tenant.until_phase("a-name-to-look-for", "Active")
    scrape = Scrape(sandbox.metrics_url)
    assert promtool("check", "metrics", stdin=scrape.text) == ""
    assert all(family.documentation for family in scrape.families.values())
    assert "a-name-to-look-for" not in scrape.text, "a label that grows with every session"


def test_everything_that_is_asked_for_is_there(sandbox: Sandbox, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.resource("sg-0123456789abcdef0", name="gone")
    tenant.session()
    tenant.until_phase("it-1", "Active")
    tenant.edit("it-1", stop=True)
    tenant.until_stopped("it-1")
    scrape = Scrape(sandbox.metrics_url)
    by_prometheus = {"job", "namespace", "pod"}
    for title, query in {**of_alerts(), **of_dashboard()}.items():
        for name in metrics(query):
            found = [sample for sample in scrape.samples if sample.name == name]
            assert found, f"{title}: there is no {name}"
            labels = {label for sample in found for label in sample.labels}
            assert grouped_by(query) <= labels | by_prometheus, f"{title}: {name} has {labels} only"
    asked_for = {name for query in {**of_alerts(), **of_dashboard()}.values() for name in metrics(query)}
    ours = {sample.name for sample in scrape.samples if sample.name.startswith("gatepass_")}
    told_by_others = {name for name in ours if name.endswith(("_sum", "_count", "_bucket"))}
    assert ours - told_by_others <= asked_for, "a metric that nobody looks at"
