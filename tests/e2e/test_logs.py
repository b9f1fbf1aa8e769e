"""The log of the running operator: from a session to the calls that it took, and never a secret."""

import json
from typing import Any
from uuid import UUID

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.tenant import Tenant, wait_for


def lines(sandbox: Sandbox, **wanted: Any) -> list[dict[str, Any]]:
    """The lines that have these fields."""
    every = [json.loads(line) for line in sandbox.operator_log.read_text().splitlines()]
    return [line for line in every if wanted.items() <= line.items()]


def test_a_session_leads_to_the_calls_that_opened_and_closed_it(sandbox: Sandbox, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.session()
    tenant.until_phase("it-1", "Active")
    tenant.edit("it-1", stop=True)
    tenant.until_stopped("it-1")
    session = f"{tenant.namespace}/it-1"
    (opened,) = lines(sandbox, event="session", session=session, phase="Active")
    (closed,) = wait_for(lambda: lines(sandbox, event="session", session=session, phase="Cancelled"))
    (rule,) = opened["rules"]
    assert closed["rules"] == [rule]
    target, _, id_ = rule.partition("/")
    assert target == group.id
    for action in ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"):
        calls = lines(sandbox, event="AWS call", action=f"ec2:{action}", outcome="ok", rules=[id_])
        assert len(calls) == 1, action
        assert calls[0]["target"].endswith(group.id)
        assert UUID(calls[0]["request_id"])


def test_a_refused_call_says_why_and_which_it_was(sandbox: Sandbox, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    with group.fault(kind="deny", action="AuthorizeSecurityGroupIngress"):
        tenant.session()
        tenant.until_phase("it-1", "Failed")
    refused = [
        line
        for line in lines(sandbox, event="AWS call", outcome="forbidden", action="ec2:AuthorizeSecurityGroupIngress")
        if line["target"].endswith(group.id)
    ]
    assert refused
    assert all(line["request_id"] for line in refused)


def test_no_secret_is_in_the_log(sandbox: Sandbox) -> None:
    log = sandbox.operator_log.read_text()
    token = sandbox.operator_kubeconfig.read_text().split('"token": "')[1].split('"')[0]
    for secret in (token, sandbox.control_plane.admin_token, sandbox.env["AWS_SECRET_ACCESS_KEY"]):
        assert len(secret) > 10
        assert secret not in log
