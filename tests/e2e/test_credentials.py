"""Whose credentials write the rules: Secrets, roles, and who may use the operator's own."""

import json

from gatepass.sandbox.cloud import ACCOUNT
from gatepass.sandbox.environment import Sandbox
from tests.e2e.credentials import Elsewhere
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import ADDRESS, RESOURCE, SESSION, Tenant, wait_for


def test_a_secret_of_another_account(tenant: Tenant, elsewhere: Elsewhere) -> None:
    group = elsewhere.group()
    tenant.resource(group.id, credentials=elsewhere.secret_of(tenant))
    assert elsewhere.account.account in tenant.until_condition(RESOURCE, "db", "CredentialsValid")["message"]
    assert "gatepass.dev/revoke" in tenant.get_secret("aws")["metadata"]["finalizers"]
    tenant.until_phase(tenant.session(), "Active")
    assert group.open_to() == {(ADDRESS, 5432)}
    tenant.until_stopped("it-1")
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    assert "finalizers" not in tenant.get_secret("aws")["metadata"]


def test_a_secret_that_comes_later(tenant: Tenant, elsewhere: Elsewhere) -> None:
    group = elsewhere.group()
    tenant.resource(group.id, credentials={"secretRef": {"name": "aws"}})
    told = tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False")
    assert told["reason"] == "SecretNotFound"
    assert f"{tenant.namespace}/aws" in told["message"]
    tenant.until_phase(tenant.session(), "Failed")
    elsewhere.secret_of(tenant)
    tenant.until_phase("it-1", "Active")
    assert len(group.ours()) == 1


def test_a_secret_that_its_owner_makes_again(tenant: Tenant, elsewhere: Elsewhere) -> None:
    group = elsewhere.group()
    tenant.resource(group.id, credentials=elsewhere.secret_of(tenant))
    tenant.until_condition(RESOURCE, "db", "Ready")
    tenant.delete_secret("aws")
    wait_for(lambda: not tenant.has_secret("aws"), "the end of the Secret")
    told = tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False", "there is no Secret")
    assert told["reason"] == "SecretNotFound"
    tenant.until_phase(tenant.session(), "Failed")
    elsewhere.secret_of(tenant)
    tenant.until_phase("it-1", "Active")
    assert "gatepass.dev/revoke" in tenant.get_secret("aws")["metadata"]["finalizers"]


def test_a_secret_that_is_deleted_while_a_session_is_open_through_it(tenant: Tenant, elsewhere: Elsewhere) -> None:
    group = elsewhere.group()
    tenant.resource(group.id, credentials=elsewhere.secret_of(tenant))
    tenant.until_phase(tenant.session(duration="1h"), "Active")
    tenant.delete_secret("aws")
    told = tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False")
    assert told["reason"] == "SecretDeleted"
    assert f"it waits for 1 session to end: {tenant.namespace}/it-1" in told["message"]
    wait_for(lambda: any(each.startswith("SecretDeleted: ") for each in tenant.events("db")), "an Event")
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Failed")
    assert group.open_to() == {(ADDRESS, 5432)}
    assert tenant.has_secret("aws")
    tenant.until_stopped("it-1")
    assert group.rules() == []
    wait_for(lambda: not tenant.has_secret("aws"), "the end of the Secret")


def test_a_secret_that_is_deleted_before_its_resource(tenant: Tenant, elsewhere: Elsewhere) -> None:
    """As `helm uninstall` does it, which does not know that one needs the other."""
    group = elsewhere.group()
    tenant.resource(group.id, credentials=elsewhere.secret_of(tenant), staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    wait_for(group.ours)
    tenant.delete_secret("aws")
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    assert group.rules() == []
    wait_for(lambda: not tenant.has_secret("aws"), "the end of the Secret")


def test_a_key_that_is_refused_for_a_while(tenant: Tenant, elsewhere: Elsewhere) -> None:
    group = elsewhere.group()
    tenant.resource(group.id, credentials=elsewhere.secret_of(tenant))
    tenant.until_phase(tenant.session(), "Active")
    before = group.rules()
    elsewhere.refuse()
    tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False")
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Failed")
    assert tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
    assert group.rules() == before
    elsewhere.accept()
    tenant.until_phase("it-2", "Active")
    assert len(group.ours()) == 2


def test_a_role_is_assumed_with_an_external_id_of_ours(
    tenant: Tenant, elsewhere: Elsewhere, sandbox: Sandbox, owner: str
) -> None:
    group = elsewhere.group()
    role = f"arn:aws:iam::{elsewhere.account.account}:role/gatepass"
    sandbox.ec2.set_role(role, external_id=f"{owner}/{tenant.namespace}")
    tenant.resource(group.id, credentials={"roleARN": role})
    tenant.until_condition(RESOURCE, "db", "Ready")
    assert tenant.get(RESOURCE, "db")["status"]["externalID"] == f"{owner}/{tenant.namespace}"
    tenant.until_phase(tenant.session(), "Active")
    assert group.open_to() == {(ADDRESS, 5432)}


def test_a_role_that_trusts_another_namespace_only(
    tenant: Tenant, elsewhere: Elsewhere, sandbox: Sandbox, owner: str
) -> None:
    role = f"arn:aws:iam::{elsewhere.account.account}:role/other"
    sandbox.ec2.set_role(role, external_id=f"{owner}/another-namespace")
    group = elsewhere.group()
    tenant.resource(group.id, credentials={"roleARN": role})
    assert role in tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False")["message"]
    assert tenant.get(RESOURCE, "db")["status"]["externalID"] == f"{owner}/{tenant.namespace}", "what to trust"
    tenant.until_phase(tenant.session(), "Failed")
    assert group.rules() == []
    sandbox.ec2.set_role(role, external_id=f"{owner}/{tenant.namespace}")
    tenant.until_phase("it-1", "Active")


def test_nobodys_rights_are_lent_to_another_tenant(
    tenant: Tenant, other_tenant: Tenant, group: Group, elsewhere: Elsewhere
) -> None:
    """A tenant names a group that another tenant's credentials can write and its own cannot."""
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    other_tenant.resource(group.id, credentials=elsewhere.secret_of(other_tenant), ports=(22,))
    other_tenant.until_condition(RESOURCE, "db", "TargetFound", "False")
    other_tenant.until_phase(other_tenant.session(cidrs=("203.0.113.8/32",)), "Failed")
    assert group.open_to() == {(ADDRESS, 5432)}


def test_a_namespace_that_may_not_use_the_operators_identity(
    tenant: Tenant, other_tenant: Tenant, group: Group, elsewhere: Elsewhere, product: Product
) -> None:
    role = f"arn:aws:iam::{elsewhere.account.account}:role/listed"
    listed = {other_tenant.namespace: ["operator", f"{role}*"]}
    their_group = elsewhere.group()
    with product.with_settings(GATEPASS_CREDENTIALS_NAMESPACES=json.dumps(listed)):
        tenant.resource(group.id)
        told = tenant.until_condition(RESOURCE, "db", "CredentialsValid", "False")
        assert told["reason"] == "CredentialsNotAllowed"
        assert f"namespace {tenant.namespace} may not use the operator's own identity" in told["message"]
        tenant.resource(their_group.id, name="by-role", credentials={"roleARN": role})
        told = tenant.until_condition(RESOURCE, "by-role", "CredentialsValid", "False")
        assert f"namespace {tenant.namespace} may not use the role {role}" in told["message"]
        tenant.until_phase(tenant.session("db", "by-role"), "Failed")
        assert group.rules() == their_group.rules() == []

        # A key of its own it may always use, and a namespace on the list may use what is listed.
        tenant.resource(their_group.id, name="by-secret", credentials=elsewhere.secret_of(tenant))
        tenant.until_phase(tenant.session("by-secret", name="it-2"), "Active")
        other_tenant.resource(group.id)
        assert ACCOUNT in other_tenant.until_condition(RESOURCE, "db", "CredentialsValid")["message"]
        other_tenant.resource(their_group.id, name="by-role", credentials={"roleARN": role})
        other_tenant.until_phase(other_tenant.session("db", "by-role"), "Active")
        tenant.until_stopped("it-2")
        wait_for(lambda: len(their_group.rules()) == 1)
