"""The product is broken on purpose, and the observer that watches all these tests says so."""

from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import Tenant, in_seconds, wait_for
from tests.observer.observer import Observer


def test_an_operator_that_hangs(tenant: Tenant, product: Product, group: Group, observer: Observer) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(notAfter=in_seconds(12)), "Active")
    (rule,) = group.rules()
    product.freeze()
    (breach,) = wait_for(observer.take_breaches, "a breach")
    assert breach.kind == "left open"
    assert rule["securityGroupRuleId"] in breach.what
    product.kill()
    product.start()
    tenant.until_phase("it-1", "Expired")
    assert group.rules() == []


def test_an_operator_that_does_not_see_every_session(
    tenant: Tenant, other_tenant: Tenant, product: Product, group: Group, observer: Observer
) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    other_tenant.resource(group.id, ports=(22,))
    # Two installations of one name, each with half of the namespaces: the documentation forbids it for this reason.
    with product.with_settings(GATEPASS_WATCH_NAMESPACES=other_tenant.namespace):
        (breach,) = wait_for(observer.take_breaches, "a breach")
    assert breach.kind == "closed too early"
    assert f"promised to {tenant.namespace}/it-1" in breach.what
    wait_for(group.ours, "the rule is back when all is seen again")
