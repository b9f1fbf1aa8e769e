"""Two clusters with one install id, as when one is a clone of the other: each has its own objects and its own Lease."""

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.replicas import LEASE, other_cluster
from tests.e2e.tenant import RESOURCE, SESSION, Tenant, in_seconds, wait_for


def test_a_clone_closes_nothing_that_the_original_has_opened(
    tenant: Tenant, other_tenant: Tenant, product: Product, sandbox: Sandbox, owner: str, group: Group
) -> None:
    with product.with_settings(GATEPASS_WATCH_NAMESPACES=tenant.namespace):
        tenant.resource(group.id)
        backup = tenant.api.request("GET", LEASE)["spec"]
        wait_for(lambda: tenant.api.request("GET", LEASE)["spec"]["renewTime"] > backup["renewTime"], "a renewal")
        tenant.until_phase(tenant.session(), "Active")
        (before,) = group.rules()
        with other_cluster(sandbox, owner, other_tenant, backup=backup):
            other_tenant.resource(group.id)
            told = other_tenant.until_condition(RESOURCE, "db", "OwnerConflict", "True", before["securityGroupRuleId"])
            assert told["reason"] == "SharedInstallId"
            tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
            (since,) = (each for each in group.rules() if each != before)
            other_tenant.until_condition(RESOURCE, "db", "OwnerConflict", "True", since["securityGroupRuleId"])
            assert group.rules() == [before, since]
            for name in ("it-1", "it-2"):
                tenant.until_stopped(name)
            assert group.rules() == []


def test_who_is_told_that_the_original_is_gone_closes_what_it_has_opened(
    tenant: Tenant, other_tenant: Tenant, product: Product, sandbox: Sandbox, owner: str, group: Group
) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    product.kill()
    tenant.patch(SESSION, "it-1", metadata={"finalizers": None})
    tenant.delete(SESSION, "it-1")
    try:
        with other_cluster(sandbox, owner, other_tenant, "--end-sessions-created-before", in_seconds(0)):
            other_tenant.resource(group.id)
            wait_for(lambda: group.rules() == [], "the rules of the lost cluster go")
    finally:
        product.start()
