"""Two installations, each with its own cluster and id, on one security group: each opens and closes its own rules."""

from typing import Any

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.replicas import other_cluster
from tests.e2e.tenant import SESSION, Tenant, wait_for
from tests.observer.observer import Observer
from tests.observer.promise import is_ours

OTHER = "another-cluster/gatepass-system/gatepass"


def rests_on_another(tenant: Tenant, name: str) -> bool:
    """Does the session say of its one rule that it is not ours?"""
    (rule,) = tenant.get(SESSION, name)["status"]["resources"][0]["rules"]
    return bool(rule["foreign"])


def test_both_may_hold_the_same_address(
    tenant: Tenant, other_tenant: Tenant, product: Product, sandbox: Sandbox, group: Group, observer: Observer
) -> None:
    """The observer takes all sessions for those of one installation, and is told not to look for open doors here."""

    def theirs() -> list[dict[str, Any]]:
        return [rule for rule in group.rules() if is_ours(rule, OTHER)]

    with product.with_settings(GATEPASS_WATCH_NAMESPACES=tenant.namespace), observer.blind_for(group.id):
        tenant.resource(group.id)
        with other_cluster(sandbox, OTHER, other_tenant):
            other_tenant.resource(group.id)
            tenant.until_phase(tenant.session(), "Active")
            (first,) = group.ours()
            other_tenant.until_phase(other_tenant.session(), "Active")
            assert (group.rules(), rests_on_another(other_tenant, "it-1")) == ([first], True)

            tenant.until_stopped("it-1")
            (second,) = wait_for(theirs, "the other puts its own")
            wait_for(lambda: not rests_on_another(other_tenant, "it-1"), "and says so")
            tenant.until_phase(tenant.session(name="it-2"), "Active")
            assert (group.rules(), rests_on_another(tenant, "it-2")) == ([second], True)

            observer.touching(second["securityGroupRuleId"])
            other_tenant.until_stopped("it-1")
            wait_for(group.ours, "now it is ours again")
            wait_for(lambda: not rests_on_another(tenant, "it-2"), "and says so")
            tenant.until_stopped("it-2")
            assert group.rules() == []
