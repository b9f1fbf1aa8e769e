"""Two clusters with one install id, as when one is a clone of the other: each has its own objects and its own Lease."""

from collections.abc import Iterator

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import RESYNC_SECONDS, Product
from tests.e2e.replicas import Replica
from tests.e2e.tenant import RESOURCE, Tenant


@pytest.fixture
def clone(sandbox: Sandbox, owner: str, other_tenant: Tenant) -> Iterator[Replica]:
    """The operator of the other cluster, with our id."""
    rules = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]}]
    account = {"kind": "ServiceAccount", "namespace": "gatepass-system", "name": "gatepass"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leads"}
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{other_tenant.namespace}"
    other_tenant.api.request("POST", f"{path}/roles", {"metadata": {"name": "leads"}, "rules": rules})
    other_tenant.api.request(
        "POST", f"{path}/rolebindings", {"metadata": {"name": "leads"}, "subjects": [account], "roleRef": role}
    )
    settings = {
        "GATEPASS_INSTALL_ID": owner,
        "GATEPASS_NAMESPACE": other_tenant.namespace,
        "GATEPASS_WATCH_NAMESPACES": other_tenant.namespace,
        "GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS),
        "GATEPASS_ADMISSION_UNVERIFIED": "true",
    }
    clone = Replica(sandbox, "clone", **settings)
    yield clone
    clone.kill()


def test_a_clone_closes_nothing_that_the_original_has_opened(
    tenant: Tenant, other_tenant: Tenant, product: Product, clone: Replica, group: Group
) -> None:
    with product.with_settings(GATEPASS_WATCH_NAMESPACES=tenant.namespace):
        tenant.resource(group.id)
        tenant.until_phase(tenant.session(), "Active")
        (before,) = group.rules()
        clone.start()
        other_tenant.resource(group.id)
        first = other_tenant.until_condition(RESOURCE, "db", "OwnerConflict", "True", before["securityGroupRuleId"])
        assert first["reason"] == "SharedInstallId"
        tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
        (since,) = (each for each in group.rules() if each != before)
        other_tenant.until_condition(RESOURCE, "db", "OwnerConflict", "True", since["securityGroupRuleId"])
        assert group.rules() == [before, since]
        for name in ("it-1", "it-2"):
            tenant.until_stopped(name)
        assert group.rules() == []
        clone.kill()
