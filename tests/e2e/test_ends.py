"""Every way in which a session ends or changes its end."""

from typing import Any

import pytest

from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.firewall import Group
from tests.e2e.tenant import SESSION, Tenant, condition, in_seconds, wait_for

KEPT = {
    "argocd": {"annotations": {"argocd.argoproj.io/tracking-id": "ci:gatepass.dev/AccessSession:ci/it-1"}},
    "kustomize": {"labels": {"kustomize.toolkit.fluxcd.io/name": "ci"}},
    "helm": {"labels": {"helm.toolkit.fluxcd.io/name": "ci"}},
}


def test_not_after(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    end = in_seconds(10)
    tenant.until_phase(tenant.session(notAfter=end), "Active")
    assert f"until={end}" in group.rules()[0]["description"]
    session = tenant.until_phase("it-1", "Expired")
    assert session["status"]["endedReason"] == "NotAfter"
    assert session["status"]["endedAt"] == session["status"]["expiresAt"] == end
    assert tenant.part("it-1")["state"] == "Removed"
    assert tenant.part("it-1")["rules"][0]["removedAt"] >= end
    assert group.rules() == []


def test_longer_and_shorter(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(duration="10m"), "Active")
    (rule,) = group.rules()

    def expires(edited: dict[str, Any], expected: str) -> str:
        start = edited["metadata"]["creationTimestamp"]
        changed = tenant.until(
            SESSION,
            "it-1",
            lambda item: item["status"]["observedGeneration"] == edited["metadata"]["generation"],
            expected,
        )
        assert changed["status"]["phase"] == "Active"
        assert changed["status"]["startedAt"] == start
        return str(changed["status"]["expiresAt"])

    longer = expires(tenant.edit("it-1", duration="2h"), "longer")
    wait_for(lambda: f"until={longer}" in group.rules()[0]["description"], "the label moves later")
    shorter = expires(tenant.edit("it-1", duration="20m"), "shorter")
    assert shorter < longer
    assert group.rules()[0]["securityGroupRuleId"] == rule["securityGroupRuleId"]
    end = in_seconds(2)
    tenant.edit("it-1", notAfter=end)
    assert tenant.until_phase("it-1", "Expired")["status"]["endedAt"] == end
    assert group.rules() == []


def test_stop(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    stopped = tenant.until_stopped("it-1")
    assert stopped["status"]["endedReason"] == "Manual"
    assert condition(stopped, "Settled")["status"] == "True"
    assert group.rules() == []
    with pytest.raises(KubeApiError, match="may not be set back"):
        tenant.edit("it-1", stop=False)
    with pytest.raises(KubeApiError, match=r"spec is final once status\.endedAt is set"):
        tenant.edit("it-1", duration="2h")


def test_deletion(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    tenant.delete(SESSION, "it-1")
    tenant.until_gone(SESSION, "it-1")
    assert group.rules() == []


def test_a_name_used_again_is_another_session(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    first = tenant.until_phase(tenant.session(), "Active")
    tenant.delete(SESSION, "it-1")
    tenant.until_gone(SESSION, "it-1")
    second = tenant.until_phase(tenant.session(cidrs=("203.0.113.8/32",)), "Active")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert group.open_to() == {("203.0.113.8/32", 5432)}


def test_applied_again_after_its_end_never_opens(tenant: Tenant, group: Group, sandbox: Sandbox) -> None:
    tenant.resource(group.id)
    before = sandbox.ec2.last()
    session = tenant.until_phase(tenant.session(notAfter=in_seconds(-3600)), "Expired")
    assert session["status"]["endedReason"] == "NotAfter"
    # Whoever comes after it has been through the same queues: what it could have opened would be open by then.
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
    asked = [
        rule["source"]
        for call in sandbox.ec2.log(before)
        if call["action"] == "AuthorizeSecurityGroupIngress" and call.get("group") == group.id
        for rule in call["rules"]
    ]
    assert asked == ["203.0.113.8/32"]


def test_the_record_goes_when_its_time_to_live_has_passed(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(ttlAfterEnded="2s"), "Active")
    tenant.until_stopped("it-1")
    tenant.until_gone(SESSION, "it-1")


@pytest.mark.parametrize("metadata", [*KEPT.values(), {}], ids=[*KEPT, "Never"])
def test_what_git_ops_would_make_again_is_kept(tenant: Tenant, group: Group, metadata: dict[str, Any]) -> None:
    tenant.resource(group.id)
    tenant.session(name="kept", metadata=metadata, ttlAfterEnded="0s" if metadata else "Never")
    tenant.until_phase("kept", "Active")
    tenant.until_stopped("kept")
    # One that ended later and is not marked is gone, so the marked one's turn has passed.
    tenant.session(name="gone", ttlAfterEnded="1s", stop=True)
    tenant.until_gone(SESSION, "gone")
    assert tenant.get(SESSION, "kept")["status"]["phase"] == "Cancelled"
